package kernels_test

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

func contains(text, part string) bool { return strings.Contains(text, part) }

func lines(all []string) string { return strings.Join(all, "\n") }

// modules writes files and returns their folder.
func modules(t *testing.T, files map[string]string) string {
	t.Helper()
	folder := t.TempDir()
	for name, text := range files {
		path := filepath.Join(folder, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return folder
}

// awaitText reads output and results until the text comes.
func (k *kernel) awaitText(text string) {
	k.t.Helper()
	for e := k.next(); !contains(e.Text, text); e = k.next() {
		if e.Type != "stdout" && e.Type != "result" {
			k.t.Fatalf("waiting for %q: %+v", text, e)
		}
	}
}

// One interrupt ends whatever a cell does, and nothing else.
func TestInterrupt(t *testing.T) {
	busy := map[string][2]string{
		"busy loop":     {"while True: pass", "while (true) {}"},
		"endless await": {"import asyncio\nawait asyncio.Event().wait()", "await new Promise(() => {})"},
		"sleep":         {"import time\ntime.sleep(1000)", "await new Promise(r => setTimeout(r, 1e6))"},
		"child process": {"import subprocess\nsubprocess.run(['sleep', '1000'])", "try { require('child_process').execSync('sleep 1000') } catch {} while (true) {}"},
		"endless print": {"while True: print('x' * 50)", "while (true) console.log('x'.repeat(50))"},
		"endless show":  {"while True: display(1)", "while (true) display(1)"},
		"endless repr":  {"class A:\n    def __repr__(self):\n        while True: pass\nA()", "({ [require('util').inspect.custom]() { while (true) {} } })"},
		"busy task":     {"import asyncio\nasync def f():\n    await asyncio.sleep(0)\n    while True: pass\nawait asyncio.gather(f())", "await 1; while (true) {}"},
		"busy callback": {"import asyncio\ndef f():\n    BEGUN\n    while True: pass\nasync def g():\n    asyncio.get_running_loop().call_later(0.01, f)\n    await asyncio.sleep(100)\nawait g()", "setTimeout(() => { BEGUN; while (true) {} }, 10); await new Promise(() => {})"},
		"busy regexp":   {"while True: pass", "/(a+)+b/.test('a'.repeat(40))"},
		"deaf code":     {"while True: pass", "await 1; for (;;) try { while (true) {} } catch {} finally { while (true) {} }"},
	}
	both(t, func(t *testing.T, language string) {
		k := start(t, language)
		k.run(pick(language, "import asyncio\nkept = 1", "const kept = 1"))
		for name, codes := range busy {
			t.Run(name, func(t *testing.T) {
				k.t = t
				begun, code := pick(language, "print('begun', flush=True)", "console.log('begun');"), pick(language, codes[0], codes[1])
				if strings.Contains(code, "BEGUN") {
					code = strings.ReplaceAll(code, "BEGUN", begun)
				} else {
					code = begun + "\n" + code
				}
				k.request("r", code, nil)
				k.awaitText("begun")
				k.interrupt("r")
				k.wantInterrupted("r")
				k.check(cell{code: "kept", result: "1"})
			})
		}
	})
}

// wantInterrupted reads the events of a request up to its end.
func (k *kernel) wantInterrupted(id string) {
	k.t.Helper()
	o := k.finish(id)
	if o.end.Status != "interrupted" || len(o.failures) != 1 || o.failures[0].Name != "KeyboardInterrupt" {
		k.t.Errorf("end %+v, failures %+v", o.end, o.failures)
	}
}

// An interrupt that is sent with its request is not lost, wherever the kernel is with that.
func TestInterruptBeforeTheCode(t *testing.T) {
	both(t, func(t *testing.T, language string) {
		k := start(t, language)
		for range 50 {
			k.request("r", pick(language, "while True: pass", "while (true) {}"), nil)
			k.interrupt("r")
			k.wantInterrupted("r")
		}
		k.check(cell{code: "1", result: "1"})
	})
}

// What waits is cancelled at once, while other code runs on, and never begins.
func TestInterruptOfWhatWaits(t *testing.T) {
	both(t, func(t *testing.T, language string) {
		k := start(t, language)
		k.request("first", pick(language, "print('begun', flush=True)\nwhile True: pass", "console.log('begun'); while (true) {}"), nil)
		k.awaitText("begun")
		for _, id := range []string{"a", "b", "c"} {
			k.request(id, pick(language, "x = '", "globalThis.x = '")+id+"'", nil)
		}
		for _, id := range []string{"a", "c"} {
			k.interrupt(id)
			k.wantInterrupted(id)
		}
		k.interrupt("first")
		k.wantInterrupted("first")
		if o := k.finish("b"); o.end.Status != "ok" {
			t.Errorf("%+v", o.all)
		}
		k.check(cell{code: "x", result: "'b'"})
	})
}

func TestInterruptWhenIdleDoesNothing(t *testing.T) {
	both(t, func(t *testing.T, language string) {
		k := start(t, language)
		for range 20 {
			k.interrupt("r")
			k.write(`{"op":"interrupt"}`)
			_ = syscall.Kill(-k.cmd.Process.Pid, syscall.SIGINT)
		}
		k.check(cell{code: "1", result: "1"})
	})
}

// Interrupts that come at any moment break no event, end no kernel and reach no other request.
func TestInterruptsAtAnyMoment(t *testing.T) {
	both(t, func(t *testing.T, language string) {
		k := start(t, language)
		for i := range 60 {
			id := strconv.Itoa(i)
			k.request(id, pick(language, "for i in range(300):\n    print(i)\n    display(i)", "for (let i = 0; i < 300; i++) { console.log(i); display(i); if (i % 50 == 0) await 1 }"), nil)
			k.request("next", "40 + 2", nil)
			time.Sleep(time.Duration(i) * 500 * time.Microsecond) // nothing is waited for: the moment varies
			k.interrupt(id)
			if o := k.finish(id); o.end.Status != "ok" && o.end.Status != "interrupted" {
				t.Fatalf("%+v", o.failures)
			}
			if o := k.finish("next"); o.main() != "42" {
				t.Fatalf("%+v", o.all)
			}
		}
	})
}

// Wherever in the kernel's own functions an interrupt falls, what the cell wrote and the next cells come whole.
func TestInterruptsWithinEvents(t *testing.T) {
	both(t, func(t *testing.T, language string) {
		k := start(t, language)
		for range 30 {
			k.request("r", pick(language, "i = 0\nwhile True:\n    print(i)\n    display(i)\n    i += 1", "for (let i = 0; ; i++) { console.log(i); display(i) }"), nil)
			k.awaitText("10")
			k.interrupt("r")
			k.wantInterrupted("r")
			k.check(cell{code: "42", result: "42"})
		}
	})
}

func TestOrder(t *testing.T) {
	both(t, func(t *testing.T, language string) {
		k := start(t, language)
		o := k.run(pick(language,
			"import sys, subprocess\nprint('1')\ndisplay(2)\nn = sys.stderr.write('3')\nprint('4')\nn = subprocess.call('echo 5', shell=True)\ndisplay(6)\n7",
			"console.log('1'); display(2); console.error('3'); display(3); console.log('4'); require('child_process').execSync('echo 5', { stdio: 'inherit' }); display(6); 7"))
		var order []string
		for _, e := range o.all {
			order = append(order, strings.TrimSpace(e.Text+e.value("text/plain")+e.Status))
		}
		got, want := strings.ReplaceAll(strings.Join(order, " "), "\n", " "), pick(language, "1 2 3 4 5 6 7 ok", "1 2 3 3 4 5 6 7 ok")
		if got != want {
			t.Errorf("%s, want %s", got, want)
		}
	})
}

func TestBigOutput(t *testing.T) {
	both(t, func(t *testing.T, language string) {
		const size = 20 << 20
		k := start(t, language)
		o := k.run(pick(language, "n = print('äb' * (10 << 20))", "console.log('äb'.repeat(10 << 20))"))
		if got := len([]rune(o.stdout)); got != size+1 || strings.Trim(o.stdout, "äb\n") != "" {
			t.Errorf("%d characters of %d", got, size+1)
		}
		for _, e := range o.all {
			if len([]rune(e.Text)) > 64<<10 {
				t.Errorf("an event of %d characters", len([]rune(e.Text)))
			}
		}
		k.check(cell{code: "1", result: "1"})
	})
}

func TestBigResults(t *testing.T) {
	both(t, func(t *testing.T, language string) {
		k := start(t, language)
		plain := k.run(pick(language, "'x' * (3 << 20)", "'x'.repeat(3 << 20)")).main()
		if len(plain) > 2<<20 || !contains(plain[len(plain)-100:], "cut: ") {
			t.Errorf("text of %d characters ends with %q", len(plain), plain[len(plain)-100:])
		}
		o := k.run(pick(language, "display({'text/html': 'x' * (9 << 20), 'text/plain': 'p'}, raw=True)", "display({'text/html': 'x'.repeat(9 << 20), 'text/plain': 'p'})"))
		if e := o.results[0]; e.Omitted["text/html"] < 9<<20 || e.Data["text/html"] != nil || e.value("text/plain") != "p" || !contains(o.stderr, "text/html was left out") {
			t.Errorf("omitted %v, stderr %q", e.Omitted, o.stderr)
		}
		if e := k.run(pick(language, "raise ValueError('x' * (1 << 20))", "throw new Error('x'.repeat(1 << 20))")).failures[0]; len(e.Value) > 70<<10 {
			t.Errorf("an error of %d characters", len(e.Value))
		}
	})
}

func TestRichResults(t *testing.T) {
	both(t, func(t *testing.T, language string) {
		k := start(t, language)
		k.run(pick(language, `class Rich:
    def _repr_html_(self): return "<b>"
    def _repr_png_(self): return b"\x89PNG"
    def _repr_json_(self): return {"a": 1}
    def _repr_latex_(self): return ("$x$", {"meta": 1})
    def _repr_svg_(self): return None
    def _repr_markdown_(self): raise ValueError("no")
    def __repr__(self): return "plain"`,
			`class Rich { [Symbol.for('Jupyter.display')]() { return { 'text/html': '<b>', 'image/png': Buffer.from([0x89, 80, 78, 71]), 'application/json': { a: 1 }, 'text/latex': '$x$', 'text/plain': 'plain' } } }`))
		for _, code := range []string{pick(language, "Rich()", "new Rich()"), pick(language, "display(Rich())", "display(new Rich())")} {
			o := k.run(code)
			e := o.results[0]
			for mime, want := range map[string]string{"text/html": "<b>", "image/png": "iVBORw==", "application/json": `{"a":1}`, "text/latex": "$x$", "text/plain": "plain", "image/svg+xml": ""} {
				if got := e.value(mime); got != want {
					t.Errorf("%s: %s is %q, want %q", code, mime, got, want)
				}
			}
			if e.Main == contains(code, "display") {
				t.Errorf("%s: main is %v", code, e.Main)
			}
			if language == "python" && !contains(o.stderr, "text/markdown of Rich failed: ValueError: no") {
				t.Errorf("stderr %q", o.stderr)
			}
		}
		if got := k.run(pick(language, "[1, {'a': None}]", "[1, { a: null }]")).results[0].value("application/json"); got != `[1,{"a":null}]` {
			t.Errorf("plain data as JSON: %s", got)
		}
	})
}

func TestEnv(t *testing.T) {
	both(t, func(t *testing.T, language string) {
		k := start(t, language, "WRENN_OLD=old")
		show := pick(language, "import os\nprint(os.environ.get('WRENN_OLD'), os.environ.get('WRENN_NEW'))", "console.log(process.env.WRENN_OLD, process.env.WRENN_NEW)")
		k.request("r", show, map[string]string{"WRENN_OLD": "other", "WRENN_NEW": "new"})
		if got := k.finish("r").stdout; got != "other new\n" {
			t.Errorf("in the cell: %q", got)
		}
		if got := k.run(show).stdout; got != pick(language, "old None\n", "old undefined\n") {
			t.Errorf("after the cell: %q", got)
		}
	})
}

func TestRequestsQueue(t *testing.T) {
	both(t, func(t *testing.T, language string) {
		k := start(t, language)
		for _, id := range []string{"a", "b", "c"} {
			k.request(id, pick(language, "import time; time.sleep(0.05); print('", "await new Promise(r => setTimeout(r, 50)); console.log('")+id+"')", nil)
		}
		for i, id := range []string{"a", "b", "c"} {
			if o := k.finish(id); o.stdout != id+"\n" || o.end.ExecutionCount != i+1 {
				t.Errorf("%s: %+v", id, o.all)
			}
		}
	})
}

func TestLateOutputHasTheLatestRequest(t *testing.T) {
	both(t, func(t *testing.T, language string) {
		k := start(t, language)
		k.run(pick(language, "import threading\nt = threading.Timer(0.1, lambda: print('late'))\nt.start()", "setTimeout(() => console.log('late'), 100); undefined"))
		if e := k.next(); e.ID != "r" || e.Type != "stdout" || e.Text != "late\n" {
			t.Errorf("%+v", e)
		}
	})
}

func TestHostileRequests(t *testing.T) {
	both(t, func(t *testing.T, language string) {
		k := start(t, language)
		for line, id := range map[string]string{
			"garbage":                    "",
			"[]":                         "",
			"null":                       "",
			"{}":                         "",
			`{"id":5,"op":"execute"}`:    "",
			`{"id":"x"}`:                 "x",
			`{"id":"x","op":"fly"}`:      "x",
			`{"id":"x","op":"execute"}`:  "x",
			strings.Repeat("[", 100_000): "",
			`{"id":"` + strings.Repeat("i", 300) + `","op":"execute","code":"1"}`:    "",
			`{"id":"x","op":"execute","code":5}`:                                     "x",
			`{"id":"x","op":"execute","code":"1","env":["a"]}`:                       "x",
			`{"id":"x","op":"execute","code":"1","env":{"a":5}}`:                     "x",
			`{"id":"x","op":"execute","code":"1","env":{"a=b":"c"}}`:                 "x",
			`{"id":"x","op":"execute","code":"` + strings.Repeat("x", 17<<20) + `"}`: "",
			"\xff\xfe": "",
		} {
			k.write(line)
			o := k.finish(id)
			if len(o.failures) != 1 || o.failures[0].Name != "BadRequest" || o.end.Status != "error" {
				t.Errorf("%.80s: %+v", line, o.all)
			}
		}
		k.write("\n  \n")
		k.check(cell{code: "1", result: "1"})
	})
}

func TestEndOfRequestsEndsTheKernel(t *testing.T) {
	both(t, func(t *testing.T, language string) {
		k := start(t, language)
		k.request("r", pick(language, "import time, threading, atexit\nn = atexit.register(print, 'bye')\nthreading.Thread(target=time.sleep, args=[1000]).start()\ntime.sleep(0.1)\n1",
			"process.on('exit', () => console.log('bye')); setInterval(() => {}, 1000); await new Promise(r => setTimeout(r, 100)); 1"), nil)
		if err := k.stdin.Close(); err != nil {
			t.Fatal(err)
		}
		if o := k.finish("r"); o.main() != "1" {
			t.Errorf("%+v", o.all)
		}
		var rest []string
		for e := range k.events {
			rest = append(rest, strings.TrimSpace(e.Type+" "+e.Text))
		}
		if got := strings.Join(rest, ", "); got != "stdout bye, exit" {
			t.Errorf("after the end of the requests: %s", got)
		}
		if err := k.cmd.Wait(); err != nil {
			t.Errorf("the kernel ended with %v", err)
		}
	})
}

// What ends the process is told by its status, and leaves no half event.
func TestCrash(t *testing.T) {
	both(t, func(t *testing.T, language string) {
		k := start(t, language)
		k.request("r", pick(language, "import os\nos.kill(os.getpid(), 9)", "process.kill(process.pid, 'SIGKILL')"), nil)
		for e := range k.events {
			if e.Type != "begin" {
				t.Errorf("%+v", e)
			}
		}
		_ = k.cmd.Wait()
		if status, ok := k.cmd.ProcessState.Sys().(syscall.WaitStatus); !ok || status.Signal() != syscall.SIGKILL {
			t.Errorf("the kernel ended with %v", k.cmd.ProcessState)
		}
	})
}
