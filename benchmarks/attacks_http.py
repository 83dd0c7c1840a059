"""Attacks with headers and senseless input, and on the start and end of the server."""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil

from benchmarks import hostile_files
from benchmarks.attack_target import (
    ANSWER_S,
    API,
    HEALTH_S,
    HEAVY,
    MB,
    OUR_SIDE,
    SilentError,
    Target,
    picture,
    within,
    wrong_with,
)
from benchmarks.attack_watch import Outcome, SkippedError, Watch, attack, judged
from benchmarks.rest_client import RefusedError
from benchmarks.server import ROOT, free_port

EVIL = "evil.example"


def tried(target: Target, method: str, path: str, **sent: Any) -> str:
    """Send a senseless request and return what is wrong with its answer."""
    try:
        return wrong_with(target.ask(method, path, **sent))
    except httpx.HTTPError as error:
        return type(error).__name__


# -- 8. headers -----------------------------------------------------------------------------------------


@attack("cors", 8, "credentials for foreign origins")
def cors(target: Target) -> Outcome:
    faults = []
    for origin in (
        f"https://{EVIL}",
        "null",
        f"http://localhost.{EVIL}",
        "http://127.0.0.1:1",
        f"http://{EVIL}:7860",
    ):
        for method, path in (("GET", "/config"), ("OPTIONS", f"{API}/upload"), ("POST", f"{API}/call/depth")):
            asks = {"access-control-request-method": "POST"} if method == "OPTIONS" else {}
            answer = target.ask(method, path, headers={"origin": origin} | asks)
            if "access-control-allow-credentials" in answer.headers:
                faults.append(f"{method}: credentials for {origin}")
            if answer.headers.get("access-control-allow-origin") in (origin, "*"):
                faults.append(f"{method}: open for {origin}")
    return judged(faults, "no foreign origin is let in")


@attack("host", 8, "another name in Host, as after DNS rebinding")
def host(target: Target) -> Outcome:
    faults, port = [], target.where[1]
    for name in (
        EVIL,
        f"{EVIL}:{port}",
        f"127.0.0.1.{EVIL}",
        f"localhost.{EVIL}:{port}",
        "127.0.0.1@" + EVIL,
        "a b",
    ):
        for path in ("/", "/config", "/metrics", f"{API}/info"):
            answer = target.ask(
                "GET", path, headers={"host": name, "origin": f"http://{name}".replace(" ", "")}
            )
            if answer.is_success:
                faults.append(f"{path} for {name}")
            elif answer.status_code >= 500:
                faults.append(f"{answer.status_code} for {name}")
    return judged(faults, "refused")


@attack("metrics", 8, "/metrics for others than this machine or the holder of the token")
def metrics(target: Target) -> Outcome:
    faults = []
    ways: dict[str, dict[str, str]] = {
        "through a proxy": {"x-forwarded-for": "192.0.2.1"},
        "through a proxy that says Forwarded": {"forwarded": "for=192.0.2.1"},
        "from a page elsewhere": {"host": EVIL},
        "with a wrong token": {"authorization": "Bearer wrong", "via": "1.1 x"},
    }
    for words, headers in ways.items():
        for path in ("/metrics", "/metrics/", "//metrics", "/%6detrics"):
            if b"# HELP marigold" in target.ask("GET", path, headers=headers).content:
                faults.append(f"{path} {words}")
    return judged(faults, "refused")


RANGES = (
    "bytes=-", "bytes=abc", "bytes=", "bytes=9-1", "bytes=--5", "lines=0-1", "bytes=0-5,2-3", "bytes=-0", "=",
    "bytes=0-0," + "0-0," * 1000 + "1-1", "bytes=" + "9" * 30 + "-", "bytes=5-³", "bytes=²-", "bytes",
    "bytes=0x0-0x5", "bytes=1_0-2_0", "bytes= 0 - 5", "bytes=0-" + "9" * 5000, "bytes=-" + "9" * 5000,
    "bytes=<b>marked</b>-",
)  # fmt: skip


@attack("ranges", 8, "strange ranges: an error, or the header in the answer")
def ranges(target: Target) -> Outcome:
    with target.visit() as visit:
        path = visit.upload("photo.png", picture(28))["path"]
    faults = []
    for text in RANGES:
        for method in ("GET", "HEAD"):
            headers = {"range": text.encode("latin-1")}
            try:
                answer = target.ask(method, f"{API}/file={path}", headers=headers)
            except httpx.HTTPError as error:
                faults.append(f"{text[:16]}: {type(error).__name__}")
                continue
            faults += [f"{text[:16]}: {wrong}" for wrong in [wrong_with(answer)] if wrong]
            if "marked" in answer.text or "marked" in str(answer.headers):
                faults.append("the header is repeated")
    return judged(faults, f"{len(RANGES)} ranges give their part or are refused")


# -- 9. senseless input ---------------------------------------------------------------------------------


@attack("names", 9, "names of endpoints, events and parameters that do not exist")
def names(target: Target) -> Outcome:
    faults, asked = [], 0
    for name in (
        "nope",
        "n" * 10_000,
        "%00",
        "..%2f..%2fetc",
        "depth%0a",
        "v2",
        "v2/v2/depth",
        "0",
        "-1",
        "%ff%fe",
    ):
        for path in ("call", "call/v2", "run", "api"):
            for body in ({"data": []}, {}, {"data": None}, {"data": {}}):
                asked += 1
                faults += _named(f"/{path}/{name}", tried(target, "POST", f"{API}/{path}/{name}", json=body))
    for number in (9999, -1, -9999, 10**30, "12", None, 1.5, True):
        body = {"data": [None], "fn_index": number, "session_hash": "attack"}
        for path in ("queue/join", "run/predict", "api/predict"):
            asked += 1
            faults += _named(f"/{path} fn_index {number}", tried(target, "POST", f"{API}/{path}", json=body))
    for body in (
        {"nope": 1},
        {"photo": 5},
        {"photo": None, "steps": []},
        {"precision": "x" * 10_000},
        [],
        "x",
        5,
    ):
        asked += 1
        faults += _named("/call/v2/depth", tried(target, "POST", f"{API}/call/v2/depth", json=body))
    for path in (
        "cancel",
        "reset",
        "queue/data",
        "queue/data?session_hash=%00",
        "call/depth/nope",
        "call/nope/nope",
    ):
        for method in ("GET", "POST"):
            asked += 1
            faults += _named(f"{method} /{path}", _unlistened(target, method, path))
    return judged(faults, f"{asked} requests refused")


def _named(what: str, wrong: str) -> list[str]:
    return [f"{what[:24]}: {wrong}"] if wrong else []


def _unlistened(target: Target, method: str, path: str) -> str:
    """Send a request whose answer may be a stream, and return what is wrong with its head."""
    try:
        with (
            httpx.Client(base_url=target.url, timeout=3, trust_env=False) as client,
            client.stream(method, f"{API}/{path}") as answer,
        ):
            return f"{answer.status_code}" if answer.status_code >= 500 else ""
    except httpx.TimeoutException:
        return ""
    except httpx.HTTPError as error:
        return type(error).__name__


def _forms() -> Iterator[tuple[str, str, bytes]]:
    """Yield senseless forms: in words, their content type, their bytes."""
    kind = "multipart/form-data; boundary=x"
    part = b"--x\r\nContent-Disposition: form-data; %s\r\n\r\ndata\r\n--x--\r\n"
    disposed = {
        "no name": b'filename="a.png"',
        "no file": b'name="files"',
        "another field": b'name="other"; filename="a.png"',
        "empty file name": b'name="files"; filename=""',
        "name with NUL": b'name="files"; filename="a\0.png"',
        "name with slashes": b'name="files"; filename="../../a/b.png"',
        "name of dots": b'name="files"; filename=".."',
        "name of 10,000 letters": b'name="files"; filename="' + b"n" * 7_000 + b'"',
        "name that is no UTF-8": b'name="files"; filename="\xff\xfe\xfa.png"',
        "name of surrogates": b'name="files"; filename="\xed\xa0\x80.png"',
        "encoded name": b"name=\"files\"; filename*=utf-8''%ff%00",
    }
    yield from ((words, kind, part % text) for words, text in disposed.items())
    yield "no boundary", "multipart/form-data", part % b'name="files"; filename="a.png"'
    yield "another boundary", "multipart/form-data; boundary=y", part % b'name="files"; filename="a.png"'
    yield "empty boundary", "multipart/form-data; boundary=", b"--\r\n\r\n--"
    yield "unknown charset", f"{kind}; charset=nonsense", part % b'name="files"; filename="a.png"'
    yield "no parts", kind, b"--x--\r\n"
    yield "nothing", kind, b""
    yield "json", "application/json", b"{}"
    yield "no end", kind, (part % b'name="files"; filename="a.png"')[:-9]
    yield "a header without end", kind, b"--x\r\nContent-Disposition" + b"x" * 9_000
    yield (
        "2,000 parts",
        kind,
        (b'--x\r\nContent-Disposition: form-data; name="a"\r\n\r\n\r\n' * 2000) + b"--x--\r\n",
    )


@attack("forms", 9, "odd form fields at the upload")
def forms(target: Target) -> Outcome:
    faults, sent = [], 0
    for words, kind, body in _forms():
        sent += 1
        wrong = tried(target, "POST", f"{API}/upload", content=body, headers={"content-type": kind})
        faults += [f"{words}: {wrong}"] if wrong else []
    body, kind = next((body, kind) for words, kind, body in _forms() if words == "name with slashes")
    for query in ("upload_id=" + "u" * 5_000, "upload_id=%00", "upload_id=../..", "upload_id=", "%ff=%fe"):
        sent += 1
        wrong = tried(target, "POST", f"{API}/upload?{query}", content=body, headers={"content-type": kind})
        faults += [f"{query[:14]}: {wrong}"] if wrong else []
    return judged(faults, f"{sent} forms taken or refused")


@attack("long-names", 9, "checkpoints and files with names of 10,000 letters")
def long_names(target: Target) -> Outcome:
    faults, words = [], ""
    with target.visit() as visit:
        photo = visit.upload("photo.png", picture(29))
        for name in (
            "c" * 10_000,
            "c/" * 5_000,
            "/" + "c" * 10_000,
            "../" * 3_000,
            "\0",
            "ü" * 10_000,
            "a b\n" * 9,
        ):
            try:
                within(ANSWER_S, lambda name=name: visit.request("depth", photo=photo, checkpoint=name))
                faults.append("a senseless checkpoint is taken")
            except RefusedError as error:
                words = str(error)
                faults += [f"{name[:3]!r}: a bug, not a sentence"] if OUR_SIDE in words else []
                faults += (
                    [f"{name[:3]!r}: the refusal repeats it"]
                    if name[:999] in words and len(name) > 999
                    else []
                )
            except SilentError as error:
                faults.append(f"checkpoint {name[:3]!r}: {error}")
    return judged(faults, words[:90])


@attack("deep-json", 9, "deeply nested JSON as a request")
def deep_json(target: Target) -> Outcome:
    bodies = {
        "closed": hostile_files.deep_json(),
        "closed, of 900 levels": hostile_files.deep_json(depth=900),
        "closed, of 5,000 levels": hostile_files.deep_json(depth=5_000),
        "open": b'{"data":' + b"[" * 900_000,
        "objects": b'{"data":' * 100_000,
        "wide": hostile_files.wide_json(),
        "a number": b'{"data":[' + b"9" * 900_000 + b"]}",
        "not finite": b'{"data":[1e999,NaN,-Infinity]}',
        "surrogates": b'{"data":["\\ud800"],"session_hash":"\\ud800"}',
    }
    faults = []
    with Watch(target) as watch:
        for path in ("queue/join", "call/depth", "call/v2/depth", "run/depth", "cancel", "reset"):
            for words, body in bodies.items():
                headers = {"content-type": "application/json"}
                wrong = tried(target, "POST", f"{API}/{path}", content=body, headers=headers)
                faults += [f"{words} at /{path}: {wrong}"] if wrong else []
    return judged([*faults, *watch.faults()], f"{len(bodies)} bodies refused", watch)


# -- start and end --------------------------------------------------------------------------------------


@attack("start", 9, "a port in use, or a folder that cannot be its own", own=True)
def start(target: Target) -> Outcome:
    faults = []
    with tempfile.TemporaryDirectory() as scratch:
        file, linked = Path(scratch, "file"), Path(scratch, "link")
        file.write_text("no folder")
        linked.symlink_to(scratch)
        cases: dict[str, dict[str, str]] = {
            "port in use": {"GRADIO_SERVER_PORT": str(target.where[1])},
            "folder is a file": {"GRADIO_TEMP_DIR": str(file)},
            "folder is a link": {"GRADIO_TEMP_DIR": str(linked)},
        }
        for words, chosen in cases.items():
            faults += _started(words, {"GRADIO_TEMP_DIR": str(Path(scratch, "cache"))} | chosen)
    return judged(faults, f"{len(cases)} starts end with a sentence and status 2")


def _started(words: str, chosen: dict[str, str]) -> Iterator[str]:
    """Start `app.py` as it must not start; yield what is wrong with how it ends."""
    free = free_port()
    environment = os.environ | {"GRADIO_SERVER_PORT": free} | chosen
    process = subprocess.Popen(
        [sys.executable, "app.py"], cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    here = Target(f"http://127.0.0.1:{free}")
    began = time.monotonic()
    while process.poll() is None and time.monotonic() - began < 40 and not here.is_well:
        time.sleep(0.2)
    has_ended = process.poll() is not None
    process.kill()
    _, written = process.communicate()
    said = "a traceback" if b"Traceback" in written else f"{len(written)} bytes of words"
    if not has_ended:
        yield f"{words}: it starts" if time.monotonic() - began < 40 else f"{words}: it does not end"
    elif process.returncode != 2 or b"Traceback" in written or not written.strip():
        yield f"{words}: status {process.returncode}, {said}"


@attack("end", 9, "SIGTERM while it is attacked", own=True, configured={})
def end(target: Target) -> Outcome:
    if target.process is None:
        raise SkippedError("the process is not known")
    faults, family = [], target.family()
    with contextlib.ExitStack() as stack:
        _busy(target, stack)
        time.sleep(2)
        if not target.is_well:
            faults.append(f"/healthz silent for more than {HEALTH_S:.0f} s")
        family = target.family()
        began = time.monotonic()
        target.process.send_signal(signal.SIGTERM)
        try:
            status = target.process.wait(10)
            faults += [f"status {status}"] if status else []
        except psutil.TimeoutExpired:
            faults.append("SIGTERM ignored for 10 s")
            target.kill()
        took_s = time.monotonic() - began
    _, left = psutil.wait_procs(family, timeout=2)
    faults += [f"{len(left)} child processes left"] if left and not faults else []
    for process in left:
        process.kill()
    uploads = [path for path in ((target.log or Path()).parent / "cache").rglob("*") if path.is_file()]
    faults += [f"{len(uploads)} files left"] if uploads and not faults else []
    return judged(faults, f"status 0 after {took_s:.1f} s, nothing left")


def _busy(target: Target, stack: contextlib.ExitStack) -> None:
    """Make a server busy: a heavy run, a decoder bomb, markup, half-sent requests."""
    photos = (hostile_files.jpeg_scans(), hostile_files.comments())

    def quiet(work: Callable[[], object]) -> None:
        with contextlib.suppress(Exception):
            work()

    with target.visit() as visit:
        photo = visit.upload("photo.png", picture(30, size=(1024, 768)))
        visit.start("depth", photo=photo, **HEAVY)
    for data in photos:
        threading.Thread(target=quiet, args=(lambda data=data: target.read_photo(data),), daemon=True).start()
    for number in range(50):
        connection = stack.enter_context(target.connect(150 + number))
        connection.sendall(target.head(f"{API}/upload", length=MB) if number % 2 else b"GET / HTTP/1.1\r\n")
