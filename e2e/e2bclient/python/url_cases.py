"""What goes over plain HTTP: health, metrics, and the URLs that a browser could use."""

import json
import urllib.error
import urllib.parse
import urllib.request

from suite import case, equal, true


def fetch(url, body=None, headers=None):
    """Returns status and body; an error status is not an exception here."""
    request = urllib.request.Request(url, data=body, headers=headers or {})
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def form(data):
    boundary = "boundary-of-a-form"
    head = f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="x"\r\n\r\n'
    body = head.encode() + data + f"\r\n--{boundary}--\r\n".encode()
    return body, {"Content-Type": f"multipart/form-data; boundary={boundary}"}


@case
def is_running(run):
    equal(run.sandbox.is_running(), True)


@case
def metrics(run):
    headers = {}
    if not run.debug:
        headers["X-Access-Token"] = run.sandbox._envd_access_token
    status, body = fetch(f"{run.sandbox.envd_api_url}/metrics", headers=headers)
    equal(status, 200)
    values = json.loads(body)
    for name in ("ts", "cpu_count", "cpu_used_pct", "mem_total", "mem_used", "disk_total", "disk_used"):
        true(isinstance(values.get(name), (int, float)), f"{name} is missing: {values}")
    true(values["cpu_count"] >= 1 and values["mem_total"] > values["mem_used"] > 0, f"{values}")
    # The client asks the control plane, not envd, and in debug mode nobody.
    equal(run.sandbox.get_metrics() == [], run.debug)


@case
def download_url(run):
    path = run.path("for a browser ü+&.txt")
    run.files.write(path, "by url")
    equal(fetch(run.sandbox.download_url(path)), (200, b"by url"))
    equal(fetch(run.sandbox.download_url(path, user="root")), (200, b"by url"))


@case
def upload_url(run):
    path = run.path("from a browser")
    status, _ = fetch(run.sandbox.upload_url(path), *form(b"by form"))
    equal((status, run.files.read(path)), (200, "by form"))
    status, _ = fetch(run.sandbox.upload_url(path, user="root"), *form(b"as root"))
    equal((status, run.files.read(path)), (200, "as root"))


@case
def signed_urls(run):
    if run.debug:
        true("signature" not in run.sandbox.download_url("/x"), "debug mode has no token to sign with, and signed")
        return
    path = run.path("signed")
    run.files.write(path, "secret")
    url = run.sandbox.download_url(path, use_signature_expiration=60)
    true("signature=v1_" in url and "signature_expiration=" in url, url)
    equal(fetch(url), (200, b"secret"))
    status, _ = fetch(run.sandbox.upload_url(path, use_signature_expiration=60), *form(b"changed"))
    equal((status, run.files.read(path)), (200, "changed"))


@case
def refused_urls(run):
    if run.debug:
        return
    path = run.path("refused")
    run.files.write(path, "secret")
    run.files.write(path + "2", "other")
    good = run.sandbox.download_url(path)
    expired = run.sandbox.download_url(path, use_signature_expiration=-10)
    bare = good.split("&signature")[0]
    quoted = urllib.parse.quote(path, safe="")
    cases = {
        bare: "missing signature query parameter",
        good + "x": "invalid signature",
        good.replace(quoted, quoted + "2").replace(path, path + "2"): "invalid signature",
        run.sandbox.upload_url(path): "invalid signature",
        expired: "signature is already expired",
    }
    for url, why in cases.items():
        status, body = fetch(url)
        equal((url, status), (url, 401))
        answer = json.loads(body)
        equal((url, answer["code"], answer["message"]), (url, 401, why))
    equal(len(cases), 5)
