package kernels_test

import "testing"

func TestJavaScript(t *testing.T) {
	checkAll(t, "javascript", map[string][]cell{
		"bindings stay": {{code: "const a = 1; let b = 2; var c = 3; function d() { return 4 } class E { e = 5 }"},
			{code: "[a, b, c, d(), new E().e]", result: "[ 1, 2, 3, 4, 5 ]"}},
		"declared again": {{code: "const a = 1; let b = 1; class C { n = 1 }; function f() { return 1 }"},
			{code: "const a = 2; let b = 2; class C { n = 2 }; function f() { return 2 }"},
			{code: "[a, b, new C().n, f()]", result: "[ 2, 2, 2, 2 ]"}, {code: "let a = await 3; a", result: "3"}},
		"values":        {{code: "undefined"}, {code: "null", result: "null"}, {code: "-0", result: "-0"}, {code: "10n", result: "10n"}, {code: "Symbol('s')", result: "Symbol(s)"}, {code: "'text'", result: "'text'"}, {code: "NaN", result: "NaN"}, {code: "x => x", result: "[Function (anonymous)]"}},
		"_":             {{code: "20", result: "20"}, {code: "_ + 1", result: "21"}, {code: "const _ = 'mine'"}, {code: "3", result: "3"}, {code: "_", result: "'mine'"}},
		"await":         {{code: "const x = await new Promise(r => setTimeout(r, 5, 7))"}, {code: "x", result: "7"}, {code: "for await (const n of [1, 2]) console.log(n)", stdout: "1\n2\n"}},
		"promise":       {{code: "(async () => { await 1; console.log('ran'); return 12 })()", stdout: "ran\n", result: "12"}, {code: "Promise.reject(new RangeError('no'))", failure: "RangeError: no"}},
		"exception":     {{code: "function f() { throw new TypeError('bad') }"}, {code: "f()", failure: "TypeError: bad"}, {code: "1", result: "1"}},
		"thrown value":  {{code: "throw 5", failure: "Thrown: 5"}, {code: "throw undefined", failure: "Thrown: undefined"}, {code: "throw null", failure: "Thrown: null"}},
		"hostile error": {{code: "throw Object.defineProperty(new Error(), 'message', { get() { throw 1 } })", failure: "Error: what was thrown cannot be shown"}},
		"syntax error":  {{code: "let = (", failure: "SyntaxError: "}, {code: "JSON.parse('{')", failure: "SyntaxError: "}},
		"rejection":     {{code: "Promise.reject(new Error('nobody')); 3", failure: "Error: nobody"}, {code: "setTimeout(() => Promise.reject(new Error('later')), 1); await new Promise(() => {})", failure: "Error: later"}},
		"process.exit":  {{code: "process.exit()"}, {code: "process.exit(3)", failure: "Exit: process.exit(3)"}, {code: "await 1; process.exit(4)", failure: "Exit: process.exit(4)"}, {code: "1", result: "1"}},
		"require":       {{code: "require('path').join('a', 'b')", result: "'a/b'"}, {code: "require.main === module", result: "true"}, {code: "require('./nothere')", failure: "Error: Cannot find module"}},
		"import()":      {{code: "const os = await import('node:os'); typeof os.EOL", result: "'string'"}, {code: "require('fs').writeFileSync('m.mjs', 'export default 5; export const six = 6')"}, {code: "(await import('./m.mjs')).six", result: "6"}},
		"import": {{code: "require('fs').writeFileSync('m.mjs', 'export default 5; export const six = 6, seven = 7')"},
			{code: "import five, { six, seven as s } from './m.mjs'\nimport * as all from \"./m.mjs\"\nimport fs from 'fs'\nimport 'os'\n[five, six, s, all.seven, typeof fs.readFileSync]", result: "[ 5, 6, 7, 7, 'function' ]"},
			{code: "'import(1)' + `import x from 'y'` // import()", result: "\"import(1)import x from 'y'\""}},
		"child processes":  {{code: "require('child_process').execSync('echo out; echo err >&2', { stdio: 'inherit' }); console.log('after')", stdout: "out\nafter\n", stderr: "err\n"}},
		"split character":  {{code: "const w = b => require('fs').writeSync(1, Buffer.from([b])); w(0xc3); await new Promise(r => setTimeout(r, 100)); w(0xa4)", stdout: "ä", result: "1"}},
		"half character":   {{code: "require('fs').writeSync(1, Buffer.from([120, 0xc3])); undefined", stdout: "x\ufffd"}, {code: "console.log('ä')", stdout: "ä\n"}},
		"null bytes":       {{code: "process.stdout.write('a\\0b\\0'); undefined", stdout: "a\x00b\x00"}},
		"stdin":            {{code: "require('fs').readFileSync(0, 'utf8')", result: "''"}},
		"write callback":   {{code: "await new Promise(r => process.stdout.write('x', r))", stdout: "x"}},
		"console":          {{code: "console.log('%d%s', 1, 'a', {b: 2}); console.error('e')", stdout: "1a { b: 2 }\n", stderr: "e\n"}},
		"pipe to stdout":   {{code: "require('stream').Readable.from(['a', 'b']).pipe(process.stdout); await new Promise(r => setTimeout(r, 50)); console.log('c')", stdout: "abc\n"}},
		"descriptors 3, 4": {{code: "require('child_process').execSync('for f in 3 4; do test -e /proc/self/fd/$f && readlink /proc/self/fd/$f; done; true', { stdio: ['ignore', 'pipe', 'inherit'] }).toString().includes('pipe')", result: "false"}},
	})
}

func TestJavaScriptUncaughtException(t *testing.T) {
	k := start(t, "javascript")
	o := k.run("setTimeout(() => { throw new Error('in a timer') }, 1); await new Promise(r => setTimeout(r, 100)); 'went on'")
	if o.main() != "'went on'" || o.failure() != "Error: in a timer" || o.end.Status != "ok" || !contains(o.stderr, "Uncaught Error: in a timer") {
		t.Errorf("%+v", o.all)
	}
	k.run("setTimeout(() => { throw new Error('when idle') }, 50); 0")
	for e := k.next(); e.Type != "error"; e = k.next() {
		if e.Type != "stderr" {
			t.Fatalf("%+v", e)
		}
	}
	k.check(cell{code: "1", result: "1"})
}

func TestJavaScriptTraceback(t *testing.T) {
	k := start(t, "javascript")
	k.run("function f() {\n  throw new Error('x')\n}")
	for _, code := range []string{"f()", "await 1; f()", "await (async () => { await 1; f() })()"} {
		text := lines(k.run(code).failures[0].Traceback)
		if !contains(text, "at f (cell-1:2:9)") || contains(text, "kernel") || contains(text, "node:") {
			t.Errorf("%s\n%s", code, text)
		}
	}
}

func TestJavaScriptPlainData(t *testing.T) {
	k := start(t, "javascript")
	for code, want := range map[string]string{
		"({ a: [1, 'x', null, true], b: {} })": `{"a":[1,"x",null,true],"b":{}}`,
		"[1, undefined]":                       "",
		"[NaN]":                                "",
		"new Map()":                            "",
		"({ f() {} })":                         "",
		"({ get a() { throw 1 } })":            "",
		"const o = {}; o.o = o; o":             "",
		"[new Date()]":                         "",
	} {
		if got := k.run(code).results[0].value("application/json"); got != want {
			t.Errorf("%s: %q, want %q", code, got, want)
		}
	}
}
