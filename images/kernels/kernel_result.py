"""How values are shown: their representations by MIME type, bounded and fit for JSON. See kernel.py."""
import io
import json
import sys

from kernel_wire import WIRE, exception_text, flush, note

MAX_RESULT = 8 << 20        # bytes of a result: all its representations but text/plain, which has a limit of its own
MAX_PLAIN = 1 << 20         # characters of text/plain, which is cut instead of left out
MAX_ROWS = 1000             # of a table

TABLE = "application/vnd.wrenn.table+json"
# IPython's names of the methods by which objects show themselves, and what they return.
METHODS = {
    "_repr_html_": "text/html", "_repr_markdown_": "text/markdown", "_repr_svg_": "image/svg+xml",
    "_repr_png_": "image/png", "_repr_jpeg_": "image/jpeg", "_repr_pdf_": "application/pdf",
    "_repr_latex_": "text/latex", "_repr_json_": "application/json", "_repr_javascript_": "application/javascript",
}


def is_a(value, module, name):
    """Says whether a value is of a class of a package, without importing it."""
    return any(c.__name__ == name and c.__module__.split(".")[0] == module for c in type(value).__mro__)


def table(frame):
    """A pandas DataFrame as JSON. pandas knows best how its values are written."""
    split = json.loads(frame.head(MAX_ROWS).to_json(
        orient="split", date_format="iso", double_precision=15, default_handler=str))
    columns = [name if isinstance(name, str) else json.dumps(name) for name in split["columns"]]
    return {"columns": columns, "index": split["index"], "rows": split["data"], "truncated": len(frame) > MAX_ROWS}


def png(figure):
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", bbox_inches="tight")
    return buffer.getvalue()


def represent(value, mime, function, data):
    """Adds what function makes of a value to data. Only text/plain may fail the cell; this is an extra."""
    try:
        made = function(value)
    except Exception as error:
        note(f"{mime} of {type(value).__name__} failed: {type(error).__name__}: {exception_text(error)}")
        return
    made = made[0] if isinstance(made, tuple) and made else made  # (data, metadata)
    if made is not None:
        data[mime] = made


def bundle(value):
    """All representations of a value, by MIME type."""
    kind, data = type(value), {}
    if hasattr(kind, "_repr_mimebundle_"):
        represent(value, "*", lambda v: v._repr_mimebundle_(), data)
        data = dict(data.get("*", {}))
    for method, mime in METHODS.items():
        if mime not in data and hasattr(kind, method):
            represent(value, mime, getattr(kind, method), data)
    if is_a(value, "pandas", "DataFrame"):
        represent(value, TABLE, table, data)
    if is_a(value, "matplotlib", "Figure"):
        represent(value, "image/png", png, data)
        if "matplotlib.pyplot" in sys.modules:
            sys.modules["matplotlib.pyplot"].close(value)  # Shown now, so not again at the cell's end.
    if kind in (dict, list):
        try:
            data["application/json"] = json.loads(json.dumps(value, allow_nan=False))
        except (TypeError, ValueError, RecursionError):
            pass  # Not plain data: its text says it all.
    if "text/plain" not in data:
        data["text/plain"] = repr(value)
    return data


def bound(data):
    """Makes data fit to be sent: bytes as base64, long text cut, what is too big left out and named."""
    sent, omitted, total = {}, {}, 0
    for mime, value in data.items():
        if isinstance(value, (bytes, bytearray)):
            import base64
            value = base64.b64encode(value).decode()
        if mime == "text/plain":
            value = str(value)
            if len(value) > MAX_PLAIN:
                value = f"{value[:MAX_PLAIN]}… (cut: {len(value)} characters)"
        try:
            size = len(json.dumps(value, allow_nan=False))
        except (TypeError, ValueError, RecursionError) as error:
            note(f"{mime} cannot be sent as JSON: {error}")
            continue
        if mime == "text/plain":
            size = 0
        if total + size <= MAX_RESULT:
            total += size
            sent[str(mime)] = value
        else:
            omitted[str(mime)] = size
            note(f"{mime} was left out: {size} bytes, of at most {MAX_RESULT} for a result")
    return sent, omitted


def show(data, main=False):
    sent, omitted = bound(data)
    extra = {"omitted": omitted} if omitted else {}
    flush()
    WIRE.send("result", main=main, data=sent, **extra)


def display(*values, raw=False):
    """Shows values as results; with raw=True they are dictionaries of representations by MIME type."""
    for value in values:
        show(dict(value) if raw else bundle(value))


def show_figures(*_, **__):
    """Shows the open figures and closes them: plt.show(), and what every cell ends with."""
    pyplot = sys.modules.get("matplotlib.pyplot")
    if pyplot is None or not hasattr(pyplot, "get_fignums"):
        return
    try:
        for number in pyplot.get_fignums():
            show({"image/png": png(pyplot.figure(number)), "text/plain": f"<Figure {number}>"})
    finally:
        pyplot.close("all")


class PyplotHook:
    """A finder that puts show_figures into matplotlib.pyplot when that is imported."""

    @staticmethod
    def find_spec(name, path=None, target=None):
        if name != "matplotlib.pyplot":
            return None
        import importlib.machinery
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec is None or spec.loader is None:
            return spec
        execute = spec.loader.exec_module

        def exec_module(module):
            execute(module)
            module.show = show_figures
        spec.loader.exec_module = exec_module
        return spec
