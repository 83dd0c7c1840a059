"""Files of visitors: nobody gets another's, uploads are bounded from their first byte, links lead nowhere."""

import asyncio
import json
import os
import random
import socket
import threading
import time
from collections import namedtuple
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from urllib.parse import quote, urlsplit

import httpx
import pytest

from marigold_demo.io import cache_folder
from marigold_demo.io.cache_folder import CacheFolder, FileRoot, safe_name
from marigold_demo.serving import uploads
from marigold_demo.serving.config import Configuration
from marigold_demo.serving.lifecycle import Service
from marigold_demo.serving.monitor import Metrics
from marigold_demo.serving.uploads import Uploads
from tests.pages import LENIENT, Ball, draw_photo, served
from tests.test_faults import no_room
from tests.visits import CHROMIUM, Visit

pytestmark = LENIENT
on_server = pytest.mark.slow  # asks a real one
MB = 10**6
SECRET = b"\x89PNG of another visitor, " * 40_000


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("files")


@pytest.fixture(scope="module")
def service() -> Service:
    return Service(Configuration(metrics=True, disk_mb=256))


@pytest.fixture(scope="module")
def url(folder, service) -> Iterator[str]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(folder / "cache"))
        with served(Ball(), service) as url:
            yield url


@pytest.fixture(scope="module")
def http(url) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=url, timeout=60) as client:
        yield client


def upload(http: httpx.Client, data: bytes = b"mine", name: str = "mine.png") -> str:
    [path] = http.post("/gradio_api/upload", files={"files": (name, data)}).raise_for_status().json()
    return path


def form(name: str, data: bytes, *, field: str = "files") -> bytes:
    """Return a form without its end."""
    head = f'--x\r\nContent-Disposition: form-data; name="{field}"; filename="{name}"\r\n\r\n'
    return head.encode() + data


@contextmanager
def half_sent(
    url: str, body: bytes, *, length: int = 50 * MB, path: str = "upload"
) -> Iterator[socket.socket]:
    """Send the beginning of an upload and keep the connection open."""
    address = urlsplit(url)
    with socket.create_connection((address.hostname, address.port), timeout=60) as line:
        head = f"POST /gradio_api/{path} HTTP/1.1\r\nHost: {address.netloc}\r\nContent-Length: {length}\r\n"
        line.sendall(f"{head}Content-Type: multipart/form-data; boundary=x\r\n\r\n".encode() + body)
        yield line


def until(holds: Callable[[], object], *, within_s: float = 30) -> object:
    end_s = time.monotonic() + within_s
    while not (found := holds()):
        assert time.monotonic() < end_s, "it did not happen in time"
        time.sleep(0.05)
    return found


def open_upload(folder: Path) -> int | None:
    """Return the descriptor at which this process, the server, has a large file below a folder open."""
    for number in os.listdir("/proc/self/fd"):
        try:
            target = Path(os.readlink(f"/proc/self/fd/{number}"))
            if folder in target.parents and target.stat().st_size > 1000:
                return int(number)
        except OSError:
            pass
    return None


def stored(folder: Path) -> dict[Path, int]:
    """Return the size of each file below a folder that changes while it is looked at."""
    sizes = {}
    for above, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):
                sizes[Path(above, name)] = Path(above, name).stat().st_size
    return sizes


# -- other visitors' files --------------------------------------------------------------------------


def disguises(path: str, number: int, root: Path) -> list[str]:
    """Return ways to name what lies at a path below the folder, or is open at a descriptor of the server."""
    process, thread = os.getpid(), os.getpid()
    below = str(Path(path).relative_to(root))
    return [
        f"/proc/self/fd/{number}",
        f"/dev/fd/{number}",
        f"/proc/thread-self/fd/{number}",
        f"/proc/{process}/fd/{number}",
        f"/proc/{process}/task/{thread}/fd/{number}",
        f"/proc/self/cwd/../../proc/self/fd/{number}",
        f"{root}/../../../../../../../proc/self/fd/{number}",
        f"/proc/self/root{path}",
        f"/proc/self/cwd/{os.path.relpath(path)}",
        os.path.relpath(path),
        f"{root}/./{below}",
        f"{root}//{below}",
        f"//{path}",
        f"{root}/../{root.name}/{below}",
        f"{root}/link/{Path(path).name}",
        f"{root}/file_link",
        f"{root}\\{below}",
        f"{path}/",
        f"{path}/.",
        f"{path}\0.png",
        f"file://{path}",
        f"/gradio_api/file={path}",
        str(Path(path).parent),
        f"{root}",
        f"{root}/",
        "/dev/stdin",
        "/dev/zero",
        "/etc/passwd",
        "",
    ]


@pytest.fixture(scope="module")
def stolen(url, http, folder) -> Iterator[list[str]]:
    """Return disguises of a file that a visitor has uploaded and of one that is being uploaded."""
    root = folder / "cache"
    path = upload(http, SECRET, "secret.png")
    (root / "link").symlink_to(Path(path).parent)
    (root / "file_link").symlink_to(path)
    with half_sent(url, form("secret.png", SECRET)):
        yield disguises(path, until(lambda: open_upload(root)), root)


@on_server
def test_a_file_is_sent_by_its_own_path_only(http, url, stolen, folder):
    root = folder / "cache"
    assert http.get(f"/gradio_api/file={upload(http, SECRET)}").content == SECRET
    sent = []
    for path in stolen:
        written = quote(path, safe="/.")
        others = ("gradio_api/file/", "static/", "assets/", "svelte/") if path in stolen[:3] else ()
        for way in {written, written.replace(".", "%2e"), quote(written)}:
            for prefix in ("gradio_api/file=", *others):
                # Not by httpx, which tidies paths before it sends them.
                sent.append((path, prefix, raw_get(url, f"/{prefix}{way}")))
    assert [(path, prefix) for path, prefix, answer in sent if b"of another visitor" in answer] == []
    for _, prefix, answer in sent:
        assert answer.split()[1] in ((b"404",) if "gradio" in prefix else (b"400", b"403", b"404"))
    assert open_upload(root) is not None  # it was there to be stolen all the while


def raw_get(url: str, target: str, headers: str = "") -> bytes:
    address = urlsplit(url)
    with socket.create_connection((address.hostname, address.port), timeout=60) as line:
        line.sendall(
            f"GET {target} HTTP/1.1\r\nHost: {address.netloc}\r\nConnection: close\r\n{headers}\r\n".encode()
        )
        parts = []
        while part := line.recv(2**16):
            parts.append(part)
    return b"".join(parts)


def events_with_files(http: httpx.Client) -> list[dict]:
    """Return the bodies of all events that take files, private ones too, with "FILE" where a file goes."""
    config = http.get("/config").json()
    widgets = {widget["id"]: widget for widget in config["components"]}
    bodies = []
    for event in config["dependencies"]:
        inputs = [widgets[number] for number in event["inputs"]]
        if any(widget["type"] in ("image", "file", "uploadbutton") for widget in inputs):
            data = [
                "FILE"
                if widget["type"] in ("image", "file", "uploadbutton")
                else widget["props"].get("value")
                for widget in inputs
            ]
            bodies.append({"data": data, "fn_index": event["id"], "session_hash": "thief"})
    return bodies


@on_server
def test_no_event_takes_a_file_by_another_path(http, stolen):
    bodies = events_with_files(http)
    assert len(bodies) >= 6
    for body in bodies:
        for path in stolen if body is bodies[0] else stolen[:4]:
            file = {"path": path, "meta": {"_type": "gradio.FileData"}, "orig_name": "a.png"}
            asked = body | {"data": [file if value == "FILE" else value for value in body["data"]]}
            for way in ("queue/join", "run/predict", "api/predict")[: 3 if path == stolen[0] else 1]:
                answer = http.post(f"/gradio_api/{way}", json=asked)
                assert 400 <= answer.status_code < 500, (way, path)
                assert b"visitor" not in answer.content
                assert not path or path not in answer.text
    for path in stolen:
        file = {"path": path, "meta": {"_type": "gradio.FileData"}}
        for way, asked in (("call/depth", {"data": [file, "magma"]}), ("call/v2/depth", {"photo": file})):
            assert http.post(f"/gradio_api/{way}", json=asked).status_code == 400
        hidden = {"path": None, "url": path, "meta": {"_type": "gradio.FileData"}}
        inside = {"photo": [{"deeply": [file]}], "session_hash": "thief"}
        assert http.post("/gradio_api/call/v2/depth", json=inside).status_code == 400
        for value in (hidden, path, [path]) if path in stolen[:3] else ():
            answer = http.post("/gradio_api/call/v2/depth", json={"photo": value})
            told = http.get(f"/gradio_api/call/depth/{answer.json()['event_id']}").text
            assert "event: error" in told and "npy" not in told


def test_a_path_is_taken_as_it_is_written(tmp_path):
    root, name = tmp_path / "root", "of a visitor"
    (root / "a").mkdir(parents=True)
    (root / "a" / name).write_bytes(b"mine")
    (root / "outside").symlink_to("/etc")
    (root / "to_file").symlink_to(root / "a" / name)
    os.mkfifo(root / "pipe")
    files = FileRoot(root)
    with os.fdopen(files.open(f"{root}/a/{name}"), "rb") as file:
        assert file.read() == b"mine"
    assert files.has(f"{root}/a/{name}")
    wrong = [
        "a",
        "a/",
        f"a//{name}",
        f"./a/{name}",
        f"a/../a/{name}",
        "outside/passwd",
        "to_file",
        "pipe",
        "",
    ]
    for path in [
        *(f"{root}/{part}" for part in wrong),
        f"{root}/a/{name}\0",
        f"{root}/\ud800",
        f"{root}/{'x' * 5000}",
    ]:
        assert not files.has(path), path
        with pytest.raises(OSError):
            files.open(path)


def test_a_folder_behind_a_link_on_the_way_is_known_by_both_names(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "mine").write_bytes(b"mine")
    (tmp_path / "short").symlink_to(tmp_path / "real")
    files = FileRoot(tmp_path / "short")
    assert files.has(f"{tmp_path}/short/mine") and files.has(f"{tmp_path}/real/mine")


def test_a_link_that_is_put_in_place_of_a_folder_is_never_followed(tmp_path):
    """Another user of the machine may change names at any moment: between a look and an opening, too."""
    (tmp_path / "root" / "folder").mkdir(parents=True)
    (tmp_path / "root" / "folder" / "name").write_bytes(b"mine")
    (tmp_path / "else").mkdir()
    (tmp_path / "else" / "name").write_bytes(b"of another")
    files, folder = FileRoot(tmp_path / "root"), tmp_path / "root" / "folder"
    (tmp_path / "link").symlink_to(tmp_path / "else")
    is_over = threading.Event()

    def swap() -> None:
        while not is_over.is_set():
            folder.rename(tmp_path / "aside")
            (tmp_path / "link").rename(folder)
            folder.rename(tmp_path / "link")
            (tmp_path / "aside").rename(folder)

    seen = set()
    with ThreadPoolExecutor(1) as threads:
        swapping = threads.submit(swap)
        try:
            for _ in range(5000):
                try:
                    file = files.open(f"{folder}/name")
                except OSError:
                    continue
                seen.add(os.read(file, 20))
                os.close(file)
        finally:
            is_over.set()
        swapping.result()
    assert seen == {b"mine"}


# -- files as they are sent -------------------------------------------------------------------------


@on_server
@pytest.mark.parametrize(
    ("name", "kind", "way"),
    [
        ("a.png", "image/png", "inline"),
        ("a.JPG", "image/jpeg", "inline"),
        ("a.txt", "text/plain; charset=utf-8", "inline"),
        ("a.svg", "application/octet-stream", "attachment"),
        ("a.html", "application/octet-stream", "attachment"),
        ("a.html.png", "image/png", "inline"),
        ("a.png.html", "application/octet-stream", "attachment"),
        ("a.glb", "application/octet-stream", "attachment"),
        ("noext", "application/octet-stream", "attachment"),
        ("Müller 50%.png", "image/png", "inline"),
    ],
)
def test_a_file_has_its_kind_and_what_could_run_is_a_download(http, name, kind, way):
    path = upload(http, b"<script>alert(1)</script>", name)
    answer = http.get(f"/gradio_api/file={quote(path)}")
    assert (answer.status_code, answer.content) == (200, b"<script>alert(1)</script>")
    assert answer.headers["content-type"] == kind
    disposition = answer.headers["content-disposition"]
    assert disposition.startswith(f"{way}; filename")
    assert quote(Path(path).name) in disposition or Path(path).name in disposition
    assert answer.headers["x-content-type-options"] == "nosniff"


DATA = random.Random(0).randbytes(10240)


@on_server
@pytest.mark.parametrize(
    ("asked", "status", "found"),
    [
        ("bytes=0-3", 206, DATA[:4]),
        ("bytes=0-", 200, DATA),
        ("bytes=100-199", 206, DATA[100:200]),
        ("Bytes=100 - 199", 206, DATA[100:200]),
        ("bytes=10000-99999", 206, DATA[10000:]),
        ("bytes=-5", 206, DATA[-5:]),
        ("bytes=-99999", 200, DATA),
        ("bytes=0-1,5-6", 200, DATA),
        ("lines=1-2", 200, DATA),
        ("bytes=10240-", 416, None),
        ("bytes=5-2", 416, None),
        ("bytes=-0", 416, None),
        ("bytes=-", 416, None),
        ("bytes=--", 416, None),
        ("bytes=a-b", 416, None),
        ("bytes=1-2-3", 416, None),
        ("bytes=\xb2-\xb3", 416, None),
        ("bytes=" + "9" * 5000 + "-", 416, None),
    ],
)
def test_ranges_are_sent_or_refused_and_nothing_of_the_request_comes_back(url, http, asked, status, found):
    path = upload(http, DATA)
    secrets = {
        "Authorization": "Bearer of-the-visitor",
        "Cookie": "of=the-visitor",
        "X-Mine": "of-the-visitor",
    }
    headers = "".join(f"{name}: {value}\r\n" for name, value in {"Range": asked, **secrets}.items())
    head, body = raw_get(url, f"/gradio_api/file={path}", headers).split(b"\r\n\r\n", 1)
    assert int(head.split()[1]) == status
    assert b"of-the-visitor" not in head + body
    if found is not None:
        assert body == found
        length = head.lower().split(b"content-length: ")[1].split(b"\r\n")[0]
        assert int(length) == len(found)
    if status == 206:
        first = DATA.index(found)
        assert f"content-range: bytes {first}-{first + len(found) - 1}/{len(DATA)}".encode() in head.lower()
    if status == 416:
        assert f"content-range: bytes */{len(DATA)}".encode() in head.lower()
        assert json.loads(body)["detail"].endswith(".")


@on_server
@pytest.mark.parametrize("name", ["a.json", "a.svg", "a.txt", "a.png"])
def test_files_are_sent_as_they_are_in_ranges_too(http, name):
    path, accepted = upload(http, b"text " * 1000, name), {"accept-encoding": "br, gzip"}
    for headers, length in ((accepted, 5000), (accepted | {"range": "bytes=100-4099"}, 4000)):
        with http.stream("GET", f"/gradio_api/file={path}", headers=headers) as answer:
            assert b"".join(answer.iter_raw()) == b"text " * (length // 5)
            assert answer.headers["content-length"] == str(length)


@on_server
def test_a_range_is_sent_only_of_the_file_that_was_meant(http):
    path = upload(http, DATA)
    whole = http.head(f"/gradio_api/file={path}")
    assert (whole.status_code, whole.content, whole.headers["content-length"]) == (200, b"", str(len(DATA)))
    for current in (whole.headers["etag"], whole.headers["last-modified"]):
        asked = {"range": "bytes=0-9", "if-range": current}
        assert http.get(f"/gradio_api/file={path}", headers=asked).status_code == 206
    asked = {"range": "bytes=0-9", "if-range": '"another"'}
    assert http.get(f"/gradio_api/file={path}", headers=asked).content == DATA


# -- uploads ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "stored"),
    [
        ("holiday.jpg", "holiday.jpg"),
        ("../../etc/passwd", "passwd"),
        ("C:\\photos\\holiday.jpg", "holiday.jpg"),
        ("..", "file"),
        (".", "file"),
        ("", "file"),
        (".lock", ".lock"),
        ("a\0b\r\n.png", "ab.png"),
        ("x" * 400 + ".png", "x" * 160 + ".png"),
        ("ü" * 400 + ".png", "ü" * 80 + ".png"),
        ("a." + "p" * 400, "a." + "p" * 19),
    ],
)
def test_a_name_is_one_part_of_a_path(name, stored):
    assert safe_name(name) == stored


@on_server
def test_files_of_one_name_lie_apart_under_names_nobody_can_guess(http):
    sent = [("files", ("a.png", b"one")), ("files", ("a.png", b"two"))]
    paths = http.post("/gradio_api/upload", files=sent).json()
    paths += http.post("/gradio_api/upload", files=sent).json()
    assert [Path(path).read_bytes() for path in paths] == [b"one", b"two"] * 2
    folders = {Path(path).parent for path in paths}
    assert len(folders) == 4 and min(len(folder.name) for folder in folders) >= 22
    assert {folder.stat().st_mode & 0o077 for folder in folders} == {0}


END = b"\r\n--x--\r\n"
PLAIN = b'--x\r\nContent-Disposition: form-data; name="note"\r\n\r\n'


@on_server
@pytest.mark.parametrize(
    ("body", "status"),
    [
        (form("a.png", b"whole") + END, 200),
        (PLAIN + b"short" + b"\r\n" + form("a.png", b"whole") + END, 200),
        (PLAIN + b"y" * 70_000 + b"\r\n" + form("a.png", b"") + END, 413),
        (b"\r\n".join([PLAIN + b"y" * 9000] * 9) + END, 413),
        (b"\r\n".join([form("a.png", b"y")] * 65) + END, 413),
        (form("a.png", b"no end"), 400),
        (form("a.png", b"of another field", field="photo") + END, 400),
        (b'--x\r\nContent-Disposition: form-data; name="files"\r\n\r\nno file' + END, 400),
        (b"--x\r\nContent-Disposition: form-data\r\n\r\nno name" + END, 400),
        (b"--x\r\n\r\nno header" + END, 400),
        (b"--x\r\n" + b"X: y\r\n" * 50 + b"\r\n" + END, 400),
        (b"--x\r\nX: " + b"y" * 9000 + b"\r\n\r\n" + END, 400),
        (b"--y\r\nanother boundary", 400),
        (b"no form at all", 400),
        (b"\0" * 2000, 400),
        (b"", 400),
    ],
)
def test_an_odd_form_gets_a_sentence_and_leaves_nothing(http, service, body, status):
    headers = {"content-type": "multipart/form-data; boundary=x"}
    for query in ("", "?upload_id=abc123", "?upload_id=" + "x" * 900, "?upload_id=a&upload_id=%00"):
        before = set(stored(service.cache.root))
        answer = http.post(f"/gradio_api/upload{query}", content=body, headers=headers)
        assert answer.status_code == status
        added = set(stored(service.cache.root)) - before
        if status == 200:
            assert [str(path) for path in added] == answer.json()
            assert [path.read_bytes() for path in added] == [b"whole"]
        else:
            assert answer.text.endswith(".")
            assert not added


@on_server
@pytest.mark.parametrize(
    "kind",
    [
        "",
        "application/json",
        "multipart/form-data",
        "multipart/form-data; boundary=",
        "multipart/form-data; boundary=" + "x" * 5000,
        "\xff",
    ],
)
def test_a_body_that_is_no_form_gets_a_sentence(http, kind):
    headers = {"content-type": kind.encode("latin-1")}
    answer = http.post("/gradio_api/upload", content=form("a.png", b"x") + END, headers=headers)
    assert (answer.status_code, answer.text[-1]) == (400, ".")


@on_server
def test_half_sent_forms_hold_little_memory_and_vanish_with_their_connections(url, service, folder):
    before, room = set(stored(service.cache.root)), service.cache.used_bytes
    with ExitStack() as lines:
        for number in range(8):
            body = PLAIN + b"y" * 3 * MB if number % 2 else form(".lock", bytes(3 * MB))
            with suppress(OSError):  # the fields are refused while they are sent
                lines.enter_context(half_sent(url, body))
        until(lambda: service.cache.used_bytes >= room + 4 * 2 * MB)
        assert len(set(stored(service.cache.root)) - before) == 4
        assert service.cache.used_bytes <= room + 4 * 4 * MB
    until(lambda: set(stored(service.cache.root)) == before)
    until(lambda: service.cache.used_bytes == room)


@on_server
def test_the_page_can_follow_an_upload(url, http):
    name, told = "große datei.png", []

    def follow() -> None:
        with httpx.stream("GET", f"{url}/gradio_api/upload_progress?upload_id=k3x9", timeout=60) as answer:
            assert answer.headers["content-type"].startswith("text/event-stream")
            told.extend(json.loads(line[6:]) for line in answer.iter_lines() if line.startswith("data: "))

    with ThreadPoolExecutor(1) as threads:
        following = threads.submit(follow)
        body = form(name, bytes(3 * MB))
        with half_sent(url, body, length=len(body) + len(END), path="upload?upload_id=k3x9") as line:
            time.sleep(1)
            line.sendall(END)
            assert line.recv(2**16).startswith(b"HTTP/1.1 200")
        following.result(30)
    assert told[-1] == {"msg": "done"} and len(told) > 1
    assert {one["orig_name"] for one in told[:-1]} == {name}
    assert sum(one["chunk_size"] for one in told[:-1]) == 3 * MB


@on_server
@pytest.mark.parametrize("query", ["", "?upload_id=", "?upload_id=never", "?upload_id=" + "x" * 900])
def test_what_is_not_under_way_cannot_be_followed(http, query, monkeypatch):
    monkeypatch.setattr(uploads, "FOUND_WITHIN_S", 0.3)
    assert http.get(f"/gradio_api/upload_progress{query}").status_code == 404


# Without a server: what takes long there, or needs a clock.


class Line:
    """One request to the middleware for uploads, whose body comes as a test says."""

    def __init__(self, tmp_path: Path, **limits: object) -> None:
        self.cache = CacheFolder(tmp_path / "cache", **{"keep_s": 7200, "least_free_bytes": 0} | limits)
        self.uploads = Uploads(self._page, cache=self.cache, metrics=Metrics())

    async def _page(self, scope, receive, send) -> None:
        raise AssertionError("an upload went on to the page")

    async def post(self, *parts: bytes | float | None, length: int = 10 * MB) -> tuple[int, object, dict]:
        """Send parts, wait so many seconds, or leave at None; return status, content and headers."""
        sent, todo = [], list(parts)

        async def receive():
            while todo and isinstance(todo[0], float):
                await asyncio.sleep(todo.pop(0))
            if not todo:
                await asyncio.sleep(60)
            part = todo.pop(0)
            if part is None:
                return {"type": "http.disconnect"}
            return {"type": "http.request", "body": part, "more_body": bool(todo)}

        async def send(message):
            sent.append(message)

        headers = [(b"content-type", b"multipart/form-data; boundary=x"), (b"content-length", b"%d" % length)]
        scope = {"type": "http", "method": "POST", "path": uploads.UPLOAD, "headers": headers}
        await self.uploads(scope, receive, send)
        if not sent:
            return 0, None, {}
        content, status = sent[1]["body"], sent[0]["status"]
        return status, json.loads(content) if status == 200 else content.decode(), dict(sent[0]["headers"])


def test_an_upload_that_stands_still_is_given_up_with_all_that_it_held(tmp_path, monkeypatch):
    monkeypatch.setattr(uploads, "IDLE_S", 0.3)
    line = Line(tmp_path)
    began_s = time.monotonic()
    status, content, headers = asyncio.run(line.post(form("a.png", bytes(MB)), 30.0, b"late"))
    assert time.monotonic() - began_s < 10
    assert (status, headers[b"connection"]) == (408, b"close")
    assert "send it again" in content
    assert (stored(tmp_path), line.cache.used_bytes) == ({}, 0)


def test_an_upload_that_drips_is_given_up_too(tmp_path, monkeypatch):
    monkeypatch.setattr(uploads, "FIRST_S", 0.5)
    drops = [part for _ in range(200) for part in (b"y", 0.05)]
    status, *_ = asyncio.run(Line(tmp_path).post(form("a.png", b""), *drops, length=50 * MB))
    assert status == 408
    assert stored(tmp_path) == {}


def test_a_sender_who_leaves_leaves_nothing(tmp_path):
    line = Line(tmp_path)
    assert asyncio.run(line.post(form("a.png", bytes(2 * MB)), None))[0] == 0
    assert (stored(tmp_path), line.cache.used_bytes) == ({}, 0)


def test_uploads_count_from_their_first_byte_whatever_their_names_and_stay_within_the_bound(tmp_path):
    line, most = Line(tmp_path, most_bytes=12 * MB), []

    async def look() -> None:
        while True:
            most.append(sum(stored(tmp_path).values()))
            await asyncio.sleep(0.001)

    async def send_all() -> list[tuple]:
        looking = asyncio.create_task(look())
        parts = [part for _ in range(20) for part in (bytes(MB // 4), 0.01)]
        body = (form(".lock", b""), *parts, END)
        answers = await asyncio.gather(*(line.post(*body, length=5 * MB + 200) for _ in range(8)))
        looking.cancel()
        return answers

    answers = asyncio.run(send_all())
    statuses = sorted(status for status, *_ in answers)
    assert set(statuses) == {200, 507}  # whoever came first goes on
    assert all("disk is full" in content for status, content, _ in answers if status == 507)
    assert max(most) <= 12 * MB
    assert len(stored(tmp_path)) == statuses.count(200)


def test_the_oldest_files_make_room_for_an_upload(tmp_path):
    class Clock:
        ahead_s = 0.0

        def __call__(self) -> float:
            return time.time() + self.ahead_s

    clock = Clock()
    line = Line(tmp_path, most_bytes=12 * MB, clock=clock)
    body = form("a.png", bytes(5 * MB)) + END
    first, second = (asyncio.run(line.post(body, length=len(body)))[1] for _ in range(2))
    assert asyncio.run(line.post(body, length=len(body)))[0] == 507  # both are younger than a minute
    clock.ahead_s = 100
    status, third, _ = asyncio.run(line.post(body, length=len(body)))
    assert status == 200
    assert [Path(path).exists() for path in (*first, *second, *third)] == [False, True, True]


def test_a_full_disk_is_the_promised_sentence_and_the_next_upload_is_taken(tmp_path):
    line, body = Line(tmp_path), form("a.png", bytes(MB)) + END
    with no_room():
        status, content, _ = asyncio.run(line.post(body, length=len(body)))
    assert (status, "disk is full" in content) == (507, True)
    assert (stored(tmp_path), line.cache.used_bytes) == ({}, 0)
    assert asyncio.run(line.post(body, length=len(body)))[0] == 200


def test_too_many_uploads_at_once_are_asked_to_come_back(tmp_path, monkeypatch):
    monkeypatch.setattr(uploads, "MOST_OF_ONE", 2)
    monkeypatch.setattr(uploads, "WAIT_S", 0.1)
    line, body = Line(tmp_path), form("a.png", bytes(MB))

    async def send_all() -> list[int]:
        answers = await asyncio.gather(*(line.post(body, 0.3, END, length=2 * MB) for _ in range(4)))
        return sorted(status for status, *_ in answers)

    assert asyncio.run(send_all()) == [200, 200, 503, 503]
    monkeypatch.setattr(uploads, "WAIT_S", 10.0)
    assert asyncio.run(send_all()) == [200] * 4  # they wait for each other


def test_memory_of_uploads_and_of_their_progress_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(uploads, "KNOWN_MOST", 10)
    line = Line(tmp_path)

    async def post(number: int) -> None:
        async def receive():
            return {"type": "http.disconnect"}

        headers = [(b"content-type", b"multipart/form-data; boundary=x"), (b"content-length", b"100")]
        scope = {"type": "http", "method": "POST", "path": uploads.UPLOAD, "headers": headers}
        scope["query_string"] = b"upload_id=%d" % number
        await line.uploads(scope, receive, None)

    for number in range(50):
        asyncio.run(post(number))
    assert len(line.uploads.known) == 10


@on_server
@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
def test_the_page_says_that_the_disk_is_full_and_goes_on_later(browser, url, service, folder, monkeypatch):
    free = []
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(cache_folder.shutil, "disk_usage", lambda _: usage(10**12, 10**12, free[-1]))
    free.append(10**12)
    visit, photo = Visit(browser, url), draw_photo(folder, "holiday.jpg")
    free.append(0)
    visit.upload(photo)
    visit.page.get_by_text("The server's disk is full").first.wait_for()
    visit.page.screenshot(path=folder / "disk_full.png")
    free.append(10**12)
    visit.page.reload()
    visit.upload(photo)
    visit.wait_for_depth()
    expected = ("507", "was aborted", "Connection errored out")  # the last two: the reload may end a stream
    assert [fault for fault in visit.faults if not any(words in fault for words in expected)] == []
    visit.context.close()
