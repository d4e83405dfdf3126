package kernels_test

import "testing"

func TestPython(t *testing.T) {
	checkAll(t, "python", map[string][]cell{
		"variables stay": {{code: "x = 41"}, {code: "x + 1", result: "42"}, {code: "_ * 2", result: "84"}},
		"a name _ of the user's": {{code: "5", result: "5"}, {code: "_ = 'mine'"}, {code: "6", result: "6"},
			{code: "print(_)", stdout: "mine\n"}},
		"no value":    {{code: "None"}, {code: "1;"}, {code: ""}, {code: "# nothing"}},
		"value of if": {{code: "if True:\n    5"}},
		"output and value": {{code: "print('a', end='')\nimport sys\nsys.stderr.write('b')\n3",
			stdout: "a", stderr: "b", result: "3"}},
		"await": {{code: "import asyncio\nx = await asyncio.sleep(0.01, 7)\nx", result: "7"},
			{code: "async for i in (lambda: None)(): pass", failure: "TypeError: "},
			{code: "t = asyncio.create_task(asyncio.sleep(0, 'kept')) if await asyncio.sleep(0) is None else 0"},
			{code: "await t", result: "'kept'"}, {code: "asyncio.run(asyncio.sleep(0, 8))", result: "8"},
			{code: "await asyncio.sleep(0, 9)", result: "9"}},
		"exception":       {{code: "def f():\n    return 1 / 0"}, {code: "f()", failure: "ZeroDivisionError: division by zero"}, {code: "1", result: "1"}},
		"syntax error":    {{code: "x = (", failure: "SyntaxError: "}, {code: "x =\n1", failure: "SyntaxError: invalid syntax"}},
		"repr fails":      {{code: "class A:\n    def __repr__(self): raise ValueError('no')\nA()", failure: "ValueError: no"}},
		"str fails":       {{code: "class E(Exception):\n    def __str__(self): 1/0\nraise E", failure: "E: <str() of the exception failed>"}},
		"own exception":   {{code: "raise BaseException('base')", failure: "BaseException: base"}},
		"exception group": {{code: "try:\n    1/0\nexcept Exception as e:\n    raise KeyError('k') from e", failure: "KeyError: 'k'"}},
		"sys.exit": {{code: "import sys\nsys.exit()"}, {code: "sys.exit(0)"}, {code: "sys.exit(3)", failure: "SystemExit: 3"},
			{code: "sys.exit('why')", failure: "SystemExit: why"}, {code: "exit()"}, {code: "2", result: "2"}},
		"main": {{code: "def f(): return 1\nclass C: pass"},
			{code: "import pickle\n__name__, pickle.loads(pickle.dumps(f)) is f, type(pickle.loads(pickle.dumps(C()))) is C", result: "('__main__', True, True)"},
			{code: "import inspect\nprint(inspect.getsource(f), end='')", stdout: "def f(): return 1\n"},
			{code: "import sys\nsys.argv, sys.modules['__main__'].f is f", result: "([''], True)"}},
		"future":          {{code: "from __future__ import annotations"}, {code: "def f(x: Nothing): pass\nf.__annotations__", result: "{'x': 'Nothing'}"}},
		"input":           {{code: "input('name? ')", failure: "EOFError: input() is not available"}, {code: "import sys\nsys.stdin.read()", result: "''"}},
		"descriptors":     {{code: "import os, subprocess\nprint('a')\nn = os.write(1, b'b\\n')\nsubprocess.run('echo c; echo d >&2', shell=True).returncode", stdout: "a\nb\nc\n", stderr: "d\n", result: "0"}},
		"split character": {{code: "import os, time\nos.write(1, b'\\xc3'); time.sleep(0.1); os.write(1, b'\\xa4')", stdout: "ä", result: "1"}},
		"half character":  {{code: "import os\nn = os.write(1, b'x\\xc3')", stdout: "x\ufffd"}, {code: "print('ä')", stdout: "ä\n"}},
		"lone surrogate":  {{code: "print('\\udc80')", stdout: "\\udc80\n"}},
		"C's stdout":      {{code: "import ctypes\nn = ctypes.CDLL(None).printf(b'from C')", stdout: "from C"}},
		"descriptor 1 replaced": {{code: "import os\nos.dup2(os.open('/dev/null', os.O_WRONLY), 1)\nprint('lost')"},
			{code: "print('back')", stdout: "back\n"}},
		"stdout closed":      {{code: "import sys\nsys.stdout.close()"}, {code: "print('back')", stdout: "back\n"}},
		"closed descriptors": {{code: "import os\nos.closerange(3, 100)"}, {code: "print('still')", stdout: "still\n"}},
		"fork":               {{code: "import os\nif os.fork() == 0:\n    print('child')\nelse:\n    os.wait()\n    print('parent')", stdout: "child\nparent\n"}},
		"fork shows":         {{code: "import os\npid = os.fork()\nif pid == 0:\n    display(1)\n    os._exit(0)\nos.waitpid(pid, 0)[1]", result: "0"}},
		"fork fails":         {{code: "import os\nif os.fork() == 0:\n    1/0\nos.wait()[1] >> 8", stderr: "ZeroDivisionError: division by zero", result: "1"}},
		"multiprocessing": {{code: "import multiprocessing\ndef square(x):\n    print(x, flush=True)\n    return x * x"},
			{code: "with multiprocessing.get_context('fork').Pool(1) as p: r = p.map(square, [1, 2, 3])\nr", stdout: "1\n2\n3\n", result: "[1, 4, 9]"}},
		"thread":        {{code: "import threading\nt = threading.Thread(target=lambda: print('t'))\nt.start()\nt.join()", stdout: "t\n"}},
		"thread fails":  {{code: "import threading\nt = threading.Thread(target=lambda: 1/0)\nt.start()\nt.join()", stderr: "ZeroDivisionError"}},
		"shell":         {{code: "!echo hello; echo no >&2; exit 3", stdout: "hello\n", stderr: "no\n"}, {code: "_exit_code", result: "3"}, {code: "if True:\n    !echo 'it'\"'\"'s'", stdout: "it's\n"}},
		"no magic":      {{code: "x = '''\n!echo no\n%cd /\n'''\n!echo yes", stdout: "yes\n"}, {code: "x", result: `'\n!echo no\n%cd /\n'`}, {code: "7\n%3", failure: "SyntaxError"}, {code: "%nope", failure: "NameError: there is no magic %nope"}},
		"magics":        {{code: "%cd /", stdout: "/\n"}, {code: "import os\nos.getcwd()", result: "'/'"}, {code: "%env WRENN_A=1 2"}, {code: "%env WRENN_A", stdout: "1 2\n"}, {code: "%matplotlib inline"}},
		"pip":           {{code: "%pip --version > /dev/null"}, {code: "%pip nonsense 2> /dev/null", failure: "RuntimeError: pip ended with status 1"}},
		"user packages": {{code: "import site, os\nd = site.getusersitepackages()\nos.makedirs(d, exist_ok=True)\nn = open(d + '/fresh_module.py', 'w').write('value = 5')"}, {code: "import fresh_module\nfresh_module.value", result: "5"}},
		"signals":       {{code: "import signal\nold = signal.signal(signal.SIGINT, signal.SIG_IGN)"}, {code: "signal.getsignal(signal.SIGINT) is old", result: "True"}},
		"warning":       {{code: "import warnings\nwarnings.warn('careful')", stderr: "UserWarning: careful"}},
		"recursion":     {{code: "def f(): f()\nf()", failure: "RecursionError: "}},
	})
}

func TestPythonTracebackShowsTheCellAlone(t *testing.T) {
	k := start(t, "python")
	k.run("def f():\n    return 1 / 0")
	for _, code := range []string{"f()", "import asyncio\nawait asyncio.sleep(0)\nf()", "class A:\n    def __repr__(self): f()\nA()"} {
		o := k.run(code)
		if len(o.failures) != 1 {
			t.Fatalf("%s: %+v", code, o.all)
		}
		text := lines(o.failures[0].Traceback)
		if !contains(text, "return 1 / 0") || !contains(text, `File "<cell 1>", line 2, in f`) || contains(text, "kernel") || contains(text, "asyncio/") {
			t.Errorf("%s\n%s", code, text)
		}
	}
}

// The modules that the guests of a test find instead of the real, large ones.
const fakePandas = `
class DataFrame:
    def __init__(self, columns, rows): self.columns, self.rows = columns, rows
    def __len__(self): return len(self.rows)
    def __repr__(self): return f"frame of {len(self)}"
    def _repr_html_(self): return "<table>"
    def head(self, n): return DataFrame(self.columns, self.rows[:n])
    def to_json(self, orient, date_format, double_precision, default_handler):
        import json
        return json.dumps({"columns": self.columns, "index": list(range(len(self))), "data": self.rows})
`

const fakePyplot = `
from matplotlib.figure import Figure
open_figures = {}
def figure(number=None):
    number = number or len(open_figures) + 1
    return open_figures.setdefault(number, Figure())
def plot(): figure(max(open_figures, default=1)).plotted = True
def get_fignums(): return sorted(open_figures)
def close(which):
    for n in [n for n, f in open_figures.items() if which in ("all", f)]: del open_figures[n]
def show(): raise RuntimeError("the backend's own show")
`

const fakeFigure = `
class Figure:
    def savefig(self, file, format, bbox_inches): file.write(b"PNG of " + __import__("os").environ["MPLBACKEND"].encode())
    def __repr__(self): return "Figure"
`

func TestDataFrame(t *testing.T) {
	k := start(t, "python", "PYTHONPATH="+modules(t, map[string]string{"pandas/__init__.py": fakePandas}))
	o := k.run("import pandas\npandas.DataFrame(['a', 'b'], [[1, None], [2, 'x']])")
	want := map[string]string{
		"text/plain":                       "frame of 2",
		"text/html":                        "<table>",
		"application/vnd.wrenn.table+json": `{"columns":["a","b"],"index":[0,1],"rows":[[1,null],[2,"x"]],"truncated":false}`,
	}
	for mime, value := range want {
		if got := o.results[0].value(mime); got != value {
			t.Errorf("%s: %s, want %s", mime, got, value)
		}
	}
	long := k.run("pandas.DataFrame(['a'], [[i] for i in range(1001)])").results[0].value("application/vnd.wrenn.table+json")
	if !contains(long, `[999]],"truncated":true`) {
		t.Errorf("a long table is not cut: …%s", long[len(long)-50:])
	}
}

func TestFigures(t *testing.T) {
	const png = "UE5HIG9mIEFnZw==" // "PNG of Agg"
	k := start(t, "python", "PYTHONPATH="+modules(t, map[string]string{
		"matplotlib/__init__.py": "", "matplotlib/figure.py": fakeFigure, "matplotlib/pyplot.py": fakePyplot}))
	for _, c := range []struct {
		code  string
		shown []bool // for each result with a figure: whether it is the main one
	}{
		{"import sys\nassert 'matplotlib' not in sys.modules", nil},
		{"import matplotlib.pyplot as plt\nplt.plot()", []bool{false}},
		{"plt.figure(); plt.show(); plt.figure(); plt.figure();", []bool{false, false, false}},
		{"plt.figure()", []bool{true}},
		{"plt.figure()\n1/0", []bool{false}},
		{"1;", nil},
	} {
		o := k.run(c.code)
		if len(o.results) != len(c.shown) {
			t.Errorf("%s\n%+v, want %d results", c.code, o.results, len(c.shown))
			continue
		}
		for i, main := range c.shown {
			if e := o.results[i]; e.value("image/png") != png || e.Main != main {
				t.Errorf("%s\n%+v", c.code, e)
			}
		}
	}
}
