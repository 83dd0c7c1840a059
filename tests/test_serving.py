"""What stands between the page and the world: paths, sizes, rates, probes, checkpoints, log lines."""

import asyncio
import io
import json
import logging
import pickle
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from functools import partial
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import urljoin, urlsplit
from xml.etree import ElementTree

import brotli
import gradio
import httpx
import numpy as np
import pytest
from fastapi import FastAPI
from fastapi.responses import HTMLResponse
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from PIL import Image
from playwright.sync_api import sync_playwright
from starlette.testclient import TestClient

from marigold_demo.depth import CheckpointStatus, DepthMap, Progress
from marigold_demo.errors import CheckpointError, PhotoError
from marigold_demo.serving import http as serving_http
from marigold_demo.serving.config import Configuration
from marigold_demo.serving.http import AnswerCache, RateLimit
from marigold_demo.serving.lifecycle import Service, crash_answer
from marigold_demo.serving.middleware import HEADERS, State
from marigold_demo.serving.monitor import (
    JsonLine,
    Metrics,
    PlainLine,
    RepeatFilter,
    RunMonitor,
    RunTooLongError,
    ServerEndsError,
)
from marigold_demo.settings import DepthSettings
from marigold_demo.ui import model_picker
from marigold_demo.ui.opening import PageHead, head_tags
from tests.conftest import make_photo
from tests.pages import LENIENT, ROOT, Ball, draw_photo, served
from tests.predictors import steps_of, stepwise

pytestmark = LENIENT
MB = 10**6
JSON = {"content-type": "application/json"}


# -- what a visitor may reach -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("serving")


@pytest.fixture(scope="module")
def predict():
    return Ball()


@pytest.fixture(scope="module")
def url(folder, predict):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(folder / "cache"))
        patch.setattr(tempfile, "tempdir", str(folder))
        with served(predict, Service(Configuration(checkpoints="catalog", metrics=True))) as url:
            yield url


@pytest.fixture(scope="module")
def http(url):
    with httpx.Client(base_url=url, timeout=60) as client:
        yield client


on_server = pytest.mark.slow  # asks a real one


def stored_bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


@on_server
@pytest.mark.parametrize(
    "path",
    [
        "/monitoring",
        "/monitoring/summary",
        "/gradio_api/dev/reload",
        "/gradio_api/vibe-code",
        "/gradio_api/proxy=https://example.hf.space/",
        "/gradio_api/deep_link",
        "/gradio_api/profiling/traces",
        "/gradio_api/run-history/buckets",
        "/gradio_api/token",
        "/gradio_api/file=http://127.0.0.1/",
        "/gradio_api/file=HTTP://127.0.0.1/",
        "/openapi.json",
        "/docs",
        "/login_check",
        "/gradio_api/stream/a/b/1/playlist.m3u8",
    ],
)
def test_paths_the_page_does_not_use_are_not_found(http, path):
    answer = http.get(path)
    assert (answer.status_code, answer.json()) == (404, {"detail": "Not Found"})
    assert HEADERS.items() <= dict(answer.headers).items()


@on_server
@pytest.mark.parametrize(
    "path", ["/login", "/gradio_api/component_server", "/gradio_api/vibe-edit", "/config"]
)
def test_nothing_but_work_can_be_posted(http, path):
    assert http.post(path, json={}).status_code == 404


@on_server
@pytest.mark.parametrize(
    "path", ["/", "/config", "/gradio_api/info", "/theme.css", "/static/img/logo.svg", "/favicon.ico"]
)
def test_what_the_page_needs_is_there_with_security_headers(http, path):
    answer = http.get(path)
    assert answer.status_code == 200
    assert HEADERS.items() <= dict(answer.headers).items()


class Head(HTMLParser):
    """What the head of a page says: its title, its `<meta>` by name, its links by kind."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.meta, self.links, self.language, self.title = [], {}, None, ""
        self._in_title = False
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        said = dict(attrs)
        self._in_title = tag == "title"
        if tag == "html":
            self.language = said["lang"]
        elif tag == "meta" and "content" in said:
            self.meta.append((said.get("property") or said.get("name"), said["content"], said.get("media")))
        elif tag == "link":
            self.links[said["rel"]] = said["href"]

    def handle_data(self, data):
        self.title += data if self._in_title else ""
        self._in_title = False

    def only(self, name: str) -> str:
        (content,) = (content for said, content, _ in self.meta if said == name)
        return content


@on_server
@pytest.mark.parametrize(
    ("headers", "root"),
    [
        ({}, None),
        ({"host": "depth.localhost", "x-forwarded-proto": "https"}, "https://depth.localhost"),
        (
            {"x-forwarded-host": "a.localhost:8443", "x-forwarded-proto": "https"},
            "https://a.localhost:8443",
        ),
    ],
    ids=["direct", "behind a proxy", "behind a proxy that changes the host"],
)
def test_a_link_to_the_page_shows_a_card_with_a_lit_relief(http, headers, root):
    head = Head(http.get("/", headers=headers).text)
    assert head.language == "en" and head.title == head.only("og:title") == head.only("twitter:title")
    assert 50 < len(head.only("description")) <= 200
    assert head.only("twitter:card") == "summary_large_image"
    picture = httpx.URL(head.only("og:image"))
    assert str(picture) == head.only("twitter:image")
    assert str(picture.copy_with(path="")) == (root or str(http.base_url)).rstrip("/")
    answer = http.get(picture.path)
    assert answer.headers["content-type"] == head.only("og:image:type")
    with Image.open(io.BytesIO(answer.content)) as card:
        assert card.size == (int(head.only("og:image:width")), int(head.only("og:image:height")))
    assert not any("gradio" in content.lower() for _, content, _ in head.meta)


@pytest.mark.parametrize("root_path", ["/depth", "https://example.org/depth"])
def test_below_a_path_of_a_proxy_the_card_is_there_too(root_path):
    page = FastAPI()
    page.get("/", response_class=HTMLResponse)(lambda: '<head><meta charset="utf-8" /></head>')
    page.add_middleware(PageHead, tags=partial(head_tags, light="#fff", dark="#000"))
    with TestClient(page, base_url="https://example.org", root_path=root_path) as client:
        head = Head(client.get("/").text)
        assert head.only("og:image") == "https://example.org/depth/share_card.jpg"
        assert head.only("og:url") == "https://example.org/depth/"
        assert client.get("/share_card.jpg").headers["content-type"] == "image/jpeg"


@on_server
def test_the_icon_is_the_marigold_the_colors_are_those_of_the_page_and_the_tiles_are_kept(http):
    tile = http.get("/example_tiles/astronaut_tile.webp")
    assert (tile.headers["content-type"], tile.headers["cache-control"]) == (
        "image/webp",
        "public, max-age=86400",
    )
    assert http.get("/example_tiles/manifest.json").status_code == 404
    head = Head(http.get("/").text)
    icon = http.get(urljoin("/", head.links["icon"]))
    assert icon.headers["content-type"] == "image/svg+xml"
    shapes = [element.tag.rpartition("}")[2] for element in ElementTree.fromstring(icon.content)]
    assert Counter(shapes) == {"ellipse": 12, "circle": 1}
    assert "manifest" not in head.links and http.get("/pwa_icon/192").status_code == 404
    themes = {media: content for name, content, media in head.meta if name == "theme-color"}
    css = http.get("/theme.css").text
    for scheme, color in themes.items():
        assert f"--body-background-fill: {color}" in css or "light" in scheme
    assert len(themes) == 2


@on_server
def test_parts_of_the_page_that_are_named_by_their_hash_are_kept_for_a_year_and_visits_are_not(http):
    page = http.get("/")
    assert page.headers["cache-control"] == http.get("/config").headers["cache-control"] == "no-cache"
    parts = re.findall(r'(?:src|href)="\./(assets/[^"]+)"', page.text)
    assert len(parts) >= 2
    for part in parts:
        answer = http.get(f"/{part}")
        assert answer.headers["cache-control"] == "public, max-age=31536000, immutable"
        assert answer.headers["content-encoding"] in ("br", "gzip")
    assert "immutable" not in http.get("/assets/no-such-0123abcd.js").headers.get("cache-control", "")
    assets = Path(gradio.__file__).parent / "templates" / "frontend" / "assets"
    assert [path.name for path in assets.iterdir() if not re.search(r"-[\w-]{8,10}\.", path.name)] == []
    assert http.get("/gradio_api/info").headers["cache-control"] == "no-store"


@on_server
def test_an_asset_that_is_sent_again_is_the_one_that_was_sent_in_each_encoding(http, url):
    part = "/" + re.search(r'src="\./(assets/[^"]+)"', http.get("/").text)[1]
    for accepted, encoding in (("br, gzip", "br"), ("gzip", "gzip"), ("identity", None)):
        first, second = (http.get(part, headers={"accept-encoding": accepted}) for _ in range(2))
        assert first.content == second.content and first.status_code == second.status_code == 200
        assert second.headers.get("content-encoding") == encoding
        changing = {"date", "content-length", "transfer-encoding"}
        assert {key: value for key, value in second.headers.items() if key not in changing} == {
            key: value for key, value in first.headers.items() if key not in changing
        }
        elsewhere = http.get(part, headers={"accept-encoding": accepted, "host": "evil.example"})
        assert elsewhere.status_code == 421
    piece = http.get(part, headers={"accept-encoding": "identity", "range": "bytes=0-9"})
    assert piece.status_code == 206 and piece.content == first.content[:10]


@on_server
def test_a_body_follows_its_head_at_once_on_a_connection_that_was_used_before(url):
    address = urlsplit(url)
    waits_s = []
    with socket.create_connection((address.hostname, address.port), timeout=60) as line:
        for _ in range(6):
            line.sendall(b"GET /favicon.ico HTTP/1.1\r\nHost: localhost\r\n\r\n")
            began_s, answer = time.monotonic(), b""
            while not answer.endswith(b"</svg>\n"):
                answer += line.recv(2**16)
            waits_s.append(time.monotonic() - began_s)
    assert min(waits_s[1:]) < 0.03  # Nagle's algorithm waits for 0.04 s


def test_kept_answers_have_a_bound_and_only_good_ones_are_kept():
    asked = []

    async def page(scope, receive, send):
        asked.append(scope["path"])
        status = 404 if "missing" in scope["path"] else 200
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": bytes(60_000), "more_body": True})
        await send({"type": "http.response.body", "body": bytes(40_000)})

    client = TestClient(AnswerCache(page, most_bytes=250_000))
    for path in ("/assets/a.js", "/assets/a.js", "/assets/missing.js", "/assets/missing.js", "/", "/"):
        assert len(client.get(path).content) == 100_000
    assert asked == ["/assets/a.js", "/assets/missing.js", "/assets/missing.js", "/", "/"]
    for number in range(3):
        client.get(f"/assets/{number}.js")
    asked.clear()
    client.get("/assets/2.js")
    client.get("/assets/a.js")
    assert asked == ["/assets/a.js"]


def test_what_gradio_compressed_quickly_is_kept_as_fewer_bytes():
    text = Path(gradio.__file__).with_name("blocks.py").read_bytes()
    quick = brotli.compress(text, quality=4)
    asked = []

    async def page(scope, receive, send):
        asked.append(scope["path"])
        headers = [(b"content-encoding", b"br"), (b"content-length", str(len(quick)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": quick})

    async def get(app):
        scope = {
            "type": "http",
            "method": "GET",
            "path": "/assets/a.js",
            "headers": [(b"accept-encoding", b"br")],
        }
        sent = []

        async def send(message):
            sent.append(message)

        await app(scope, None, send)
        return dict(sent[0]["headers"])[b"content-length"], sent[1]["body"]

    async def visits():
        app = AnswerCache(page)
        first = await get(app)
        for _ in range(600):
            length, body = await get(app)
            if body != first[1]:
                return first, length, body
            await asyncio.sleep(0.05)
        return first, length, body

    (_, first), length, body = asyncio.run(visits())
    assert first == quick and len(body) < 0.96 * len(quick) and int(length) == len(body)
    assert brotli.decompress(body) == text and asked == ["/assets/a.js"]


@on_server
@pytest.mark.parametrize(
    "path",
    [
        "/etc/passwd",
        "../../../etc/passwd",
        "..%2f..%2f..%2fetc%2fpasswd",
        "app.py",
        ".git/config",
        "/proc/self/environ",
    ],
)
def test_files_of_the_server_are_not_served(http, path):
    answer = http.get(f"/gradio_api/file={path}")
    assert answer.status_code in (403, 404)
    assert b"root:" not in answer.content
    assert HEADERS.items() <= dict(answer.headers).items()


@on_server
def test_the_page_is_sent_compressed_and_files_are_not(http, url, folder):
    page = http.get("/", headers={"accept-encoding": "gzip"})
    assert page.headers["content-encoding"] == "gzip"
    assert page.num_bytes_downloaded < len(page.content) / 4
    assert "content-encoding" not in http.get("/", headers={"accept-encoding": "identity"}).headers
    client = Client(url, verbose=False, download_files=False)
    npy, *_ = client.predict(handle_file(draw_photo(folder)), api_name="/depth")
    where = f"/gradio_api/file={npy}" if isinstance(npy, str) else npy["url"]
    assert "content-encoding" not in http.get(where, headers={"accept-encoding": "gzip"}).headers


@on_server
def test_results_are_served_with_security_headers(http, url, folder):
    client = Client(url, verbose=False, download_files=False)
    npy, *_ = client.predict(handle_file(draw_photo(folder)), api_name="/depth")
    answer = http.get(f"/gradio_api/file={npy}" if isinstance(npy, str) else npy["url"])
    assert answer.status_code == 200
    assert np.load(io.BytesIO(answer.content)).shape == (480, 640)
    assert HEADERS.items() <= dict(answer.headers).items()


def photo_event(http) -> dict:
    """Return the private event that takes what was dropped into the photo's box, unprocessed."""
    config = http.get("/config").json()
    kinds = {part["id"]: part["type"] for part in config["components"]}
    box = next(part["id"] for part in config["components"] if part["props"].get("elem_id") == "photo")
    event = next(e for e in config["dependencies"] if box in e["inputs"] and e["queue"])
    return {"fn_index": event["id"], "kinds": [kinds[part] for part in event["inputs"]]}


@on_server
@pytest.mark.parametrize(
    "extra",
    [
        {},
        {"meta": None},
        {"meta": {"_type": "other"}},
        {"meta": []},
        {"url": "/x", "orig_name": "x.jpg"},
    ],
)
def test_a_path_that_is_not_marked_as_an_upload_is_refused(http, folder, extra):
    """Gradio checks only what is marked, and the photo's event takes what comes."""
    secret = draw_photo(folder, "secret.png")
    event = photo_event(http)
    data = [{"path": str(secret)} | extra if kind == "image" else True for kind in event["kinds"]]
    for path in ("/gradio_api/queue/join", "/gradio_api/run/predict"):
        body = {"data": data, "fn_index": event["fn_index"], "session_hash": "thief"}
        answer = http.post(path, json=body)
        assert answer.status_code == 400
        assert "opens no files but uploaded ones" in answer.json()["detail"]


@on_server
def test_a_marked_path_that_was_never_uploaded_is_refused(http, folder):
    secret = draw_photo(folder, "secret.png")
    event = photo_event(http)
    file = {"path": str(secret), "meta": {"_type": "gradio.FileData"}}
    data = [file if kind == "image" else True for kind in event["kinds"]]
    body = {"data": data, "fn_index": event["fn_index"], "session_hash": "thief"}
    answer = http.post("/gradio_api/queue/join", json=body)
    assert answer.status_code == 400
    assert "opens no files but uploaded ones" in answer.json()["detail"]


@on_server
@pytest.mark.parametrize(
    "address", ["http://127.0.0.1:1/x.jpg", "https://example.org/x.jpg", " HTTPS://example.org/"]
)
def test_nothing_is_fetched_from_an_address(http, address):
    file = {"path": address, "meta": {"_type": "gradio.FileData"}}
    answer = http.post("/gradio_api/call/depth", json={"data": [file, "magma"]})
    assert answer.status_code == 400


# -- how much a visitor may send --------------------------------------------------------------------


@on_server
def test_an_upload_over_the_limit_is_refused_and_not_stored(http, folder):
    before = stored_bytes(folder)
    answer = http.post("/gradio_api/upload", files={"files": ("big.jpg", bytes(101 * MB))})
    # As text, which the page shows as it comes.
    assert (answer.status_code, answer.text) == (413, "This is too large; at most 100 MB are taken.")
    assert stored_bytes(folder) == before
    assert HEADERS.items() <= dict(answer.headers).items()


@on_server
def test_many_files_together_keep_the_same_limit(http, folder):
    before = stored_bytes(folder)
    many = [("files", (f"{number}.jpg", bytes(26 * MB))) for number in range(4)]
    assert http.post("/gradio_api/upload", files=many).status_code == 413
    assert stored_bytes(folder) == before


@on_server
def test_an_upload_within_the_limit_is_taken(http):
    assert http.post("/gradio_api/upload", files={"files": ("big.jpg", bytes(99 * MB))}).status_code == 200


@on_server
def test_an_upload_that_hides_its_length_is_refused(http, folder):
    before = stored_bytes(folder)
    parts = (bytes(MB) for _ in range(3))
    kind = {"content-type": "multipart/form-data; boundary=x"}
    assert http.post("/gradio_api/upload", content=parts, headers=kind).status_code == 411
    assert stored_bytes(folder) == before


@on_server
@pytest.mark.parametrize("path", ["queue/join", "call/depth", "run/predict", "cancel", "reset"])
def test_what_comes_with_a_click_is_bounded(http, path):
    answer = http.post(f"/gradio_api/{path}", content=b"[" + b" " * 2**20 + b"]", headers=JSON)
    assert answer.status_code == 413


@on_server
@pytest.mark.parametrize("path", ["cancel", "reset"])
def test_an_event_without_a_number_yet_ends_quietly(http, path):
    body = {"session_hash": "abc", "fn_index": 1, "event_id": None}  # as Gradio's page sends it
    assert http.post(f"/gradio_api/{path}", json=body).json() == {"success": True}
    assert http.post(f"/gradio_api/{path}", json=body | {"event_id": 1}).status_code == 422


@on_server
@pytest.mark.parametrize(
    "body", [b"[" * 10**6, b'{"data":' * 10**5, b"\xff\xfe", b"", b"null", b"[1]", b'{"data": 1e999}']
)
def test_a_body_that_makes_no_sense_is_an_error_of_the_sender(http, body):
    answer = http.post("/gradio_api/queue/join", content=body, headers=JSON)
    assert 400 <= answer.status_code < 500


@on_server
def test_a_visitor_who_asks_too_often_is_told_when_to_come_back(predict, folder, monkeypatch):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(folder / "cache"))
    service = Service(Configuration(requests_per_minute=3))
    with served(predict, service) as url, httpx.Client(base_url=url) as http:
        answers = [http.post("/gradio_api/cancel", json={}) for _ in range(5)]
        assert 429 not in [answer.status_code for answer in answers]  # cancelling is no work
        answers = [
            http.post(
                "/gradio_api/call/depth", json={"data": []}, headers={"x-forwarded-for": f"10.0.0.{number}"}
            )
            for number in range(5)
        ]
        assert [answer.status_code == 429 for answer in answers] == [False] * 3 + [True] * 2
        assert "wait" in answers[-1].json()["detail"]
        assert 1 <= int(answers[-1].headers["retry-after"]) <= 60
        assert http.get("/").status_code == 200
    assert b'marigold_refused_requests_total{reason="rate"} 2.0' in service.metrics.text()


@on_server
def test_behind_a_trusted_proxy_each_visitor_has_a_rate_of_their_own(predict, folder, monkeypatch):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(folder / "cache"))
    with (
        served(predict, Service(Configuration(requests_per_minute=1, trusted_proxies="127.0.0.1"))) as url,
        httpx.Client(base_url=url) as http,
    ):

        def ask(visitor: str) -> int:
            headers = {"x-forwarded-for": visitor}
            return http.post("/gradio_api/call/depth", json={"data": []}, headers=headers).status_code

        assert [ask("10.0.0.1"), ask("10.0.0.2")].count(429) == 0
        assert [ask("10.0.0.1"), ask("10.0.0.2")].count(429) == 2
        assert (
            ask("10.0.0.3, 10.0.0.2") == 429
        )  # what a visitor wrote before the proxy did counts for nothing


def test_a_window_slides_and_never_lets_more_through():
    now = [0.0]
    limited, times = RateLimit(3, clock=lambda: now[0]), []
    rng = np.random.default_rng(1)
    for _ in range(500):
        now[0] += float(rng.exponential(10))
        if limited.wait_s("10.0.0.1") == 0:
            times.append(now[0])
    assert all(
        later - earlier >= serving_http.WINDOW_S for earlier, later in zip(times, times[3:], strict=False)
    )
    assert len(times) > 50


def test_who_waits_as_long_as_told_is_let_through():
    now = [0.0]
    limited = RateLimit(1, clock=lambda: now[0])
    assert limited.wait_s("10.0.0.1") == 0
    now[0] = 12.3
    now[0] += limited.wait_s("10.0.0.1")
    assert limited.wait_s("10.0.0.1") == 0


def test_one_household_is_one_visitor_and_its_address_is_not_kept():
    limited = RateLimit(1)
    assert limited.wait_s("2001:db8:1:2::1") == 0
    assert limited.wait_s("2001:db8:1:2:ffff::7") > 0
    assert limited.wait_s("2001:db8:1:3::1") == 0
    assert limited.wait_s("192.0.2.77") == 0
    assert b"192.0.2.77" not in pickle.dumps(limited.times)


def test_a_visitor_of_a_request_of_the_server_to_itself_is_told_by_a_seal_that_nobody_else_can_make():
    visitor = serving_http.visitor_key("192.0.2.1")
    assert serving_http.visitor_of("127.0.0.1", serving_http.signed_visitor(visitor)) == visitor
    here = serving_http.visitor_key("127.0.0.1")
    for forged in (
        "",
        visitor,
        f"{visitor}-",
        f"{visitor}-{visitor}",
        f"{here}-{serving_http.signed_visitor(visitor)}",
        "é-é",
    ):
        assert serving_http.visitor_of("127.0.0.1", forged) == here
    assert serving_http.visitor_key("::ffff:192.0.2.1") == visitor


def test_the_gate_seals_calls_of_mcp_clients_which_gradio_repeats_to_itself():
    sent = []

    async def page(scope, receive, send):
        sent.append(dict(scope["headers"]))

    kind, positional, named = Service().app_options(on_spaces=True)["middleware"][0]
    forged = (
        serving_http.VISITOR_HEADER.encode(),
        serving_http.signed_visitor(serving_http.visitor_key("192.0.2.9")).encode(),
    )
    for path in ("/gradio_api/mcp/", "/gradio_api/upload"):
        headers = [(b"content-length", b"0"), forged]
        scope = {"type": "http", "method": "POST", "path": path, "headers": headers}
        asyncio.run(kind(page, *positional, **named)(scope | {"client": ("192.0.2.1", 5)}, None, None))
    assert sent[0][serving_http.VISITOR_HEADER.encode()].decode() == serving_http.signed_visitor(
        serving_http.visitor_key("192.0.2.1")
    )


def test_the_memory_of_the_rate_is_bounded(monkeypatch):
    monkeypatch.setattr(serving_http, "MAX_VISITORS", 100)
    limited = RateLimit(5)
    for number in range(1000):
        limited.wait_s(f"10.0.{number // 256}.{number % 256}")
    assert len(limited.times) == 100


# -- probes -----------------------------------------------------------------------------------------


def ask(service: Service, path: str, *, client=("127.0.0.1", 1), **headers: str) -> httpx.Response:
    """Ask a service without a page behind it, which answers all else with 418."""

    async def page(scope, receive, send):
        await send({"type": "http.response.start", "status": 418, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    app = page
    for kind, positional, named in reversed(service.app_options(on_spaces=False)["middleware"]):
        app = kind(app, *positional, **named)

    async def fetch() -> httpx.Response:
        transport = httpx.ASGITransport(app, client=client)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as http:
            return await http.get(path, headers=headers)

    return asyncio.run(fetch())


@pytest.mark.parametrize(
    ("state", "status"), [(State.READY, 200), (State.LOADING, 503), (State.STOPPING, 503)]
)
def test_health_tells_whether_work_can_be_sent_here(state, status):
    service = Service()
    service.health.state = state
    answer = ask(service, "/healthz")
    assert (answer.status_code, answer.json()) == (status, {"status": state.value})
    assert HEADERS.items() <= dict(answer.headers).items()


def test_probes_are_closed_where_they_are_switched_off():
    service = Service(Configuration(health=False, metrics=False))
    assert [ask(service, path).status_code for path in ("/healthz", "/metrics")] == [404, 404]


def test_metrics_are_for_this_machine_only():
    service = Service(Configuration(metrics=True))
    assert ask(service, "/metrics").status_code == 200
    assert ask(service, "/metrics", client=("192.0.2.1", 1)).status_code == 404
    assert ask(service, "/metrics", **{"x-forwarded-for": "192.0.2.1"}).status_code == 404


def test_with_a_token_metrics_are_for_whoever_has_it():
    token = "0123456789abcdef"
    service = Service(Configuration(metrics=True, metrics_token=token))
    away = ("192.0.2.1", 1)
    assert ask(service, "/metrics", client=away, authorization=f"Bearer {token}").status_code == 200
    for wrong in ("", f"Bearer {token}x", token, "Bearer \x7f"):
        assert ask(service, "/metrics", authorization=wrong).status_code == 404


def test_on_spaces_there_are_limits_but_no_probes_and_no_headers_of_ours():
    kinds = [kind.__name__ for kind, *_ in Service().app_options(on_spaces=True)["middleware"]]
    assert kinds == ["RequestFilter", "CacheHeaders", "Uploads", "Files", "Compression"]


def test_below_a_path_of_a_proxy_the_same_paths_are_known():
    async def statuses() -> list[int]:
        seen = []

        async def page(scope, receive, send):
            seen.append(200)

        async def send(message):
            if message["type"] == "http.response.start":
                seen.append(message["status"])

        kind, positional, named = Service().app_options(on_spaces=True)["middleware"][0]
        gate = kind(page, *positional, **named)
        for path in ("/depth/config", "/config", "/depth/monitoring", "/depth"):
            scope = {"type": "http", "method": "GET", "path": path, "root_path": "/depth", "headers": []}
            await gate(scope, None, send)
        return seen

    assert asyncio.run(statuses()) == [200, 200, 404, 200]


def test_an_answer_to_a_crash_has_security_headers_and_no_details():
    answer = crash_answer(None, ValueError("secret"))
    assert answer.status_code == 500
    assert HEADERS.items() <= dict(answer.headers).items()
    assert b"secret" not in answer.body


# -- runs -------------------------------------------------------------------------------------------


@stepwise
def flat(photo, settings):
    yield Progress("encode", 0, 2)
    yield Progress("decode", 1, 2)
    yield DepthMap(np.zeros((4, 4), np.float32))


def value(metrics: Metrics, line: str) -> float:
    return next(
        float(text.split()[-1]) for text in metrics.text().decode().splitlines() if text.startswith(line)
    )


def test_a_run_is_counted_and_timed_by_stage():
    now, metrics = iter(range(100)), Metrics()
    runs = RunMonitor(metrics, permitted=None, clock=lambda: next(now))
    *_, depth = steps_of(runs.watched(flat))(make_photo(4, 4), DepthSettings())
    assert isinstance(depth, DepthMap)
    assert value(metrics, 'marigold_runs_total{checkpoint="embedded",end="done"}') == 1
    for stage in ("start", "encode", "decode"):
        assert value(metrics, f'marigold_stage_seconds_count{{checkpoint="embedded",stage="{stage}"}}') == 1
    assert value(metrics, "marigold_running") == 0


def test_a_run_that_is_left_is_closed_and_counted_as_cancelled():
    metrics, ball = Metrics(), Ball()
    steps = steps_of(RunMonitor(metrics, permitted=None).watched(ball))(make_photo(4, 4), DepthSettings())
    next(steps)
    assert (ball.running, value(metrics, "marigold_running")) == (1, 1)
    steps.close()
    assert (ball.running, value(metrics, "marigold_running")) == (0, 0)
    assert value(metrics, 'marigold_runs_total{checkpoint="embedded",end="cancelled"}') == 1


def test_a_run_that_fails_is_counted_by_the_kind_of_its_error():
    @stepwise
    def breaks(photo, settings):
        raise PhotoError("secret.jpg is not for us")
        yield

    metrics = Metrics()
    with pytest.raises(PhotoError):
        list(steps_of(RunMonitor(metrics, permitted=None).watched(breaks))(make_photo(4, 4), DepthSettings()))
    assert value(metrics, 'marigold_runs_total{checkpoint="embedded",end="PhotoError"}') == 1


def test_a_run_stops_before_its_next_network_call_when_the_server_ends():
    ball = Ball(steps=50)
    runs = RunMonitor(Metrics(), permitted=None)
    steps = steps_of(runs.watched(ball))(make_photo(4, 4), DepthSettings())
    next(steps)
    runs.stopping.set()
    with pytest.raises(ServerEndsError, match="try again in a minute"):
        next(steps)
    assert (ball.calls, ball.running) == (0, 0)


def paced(stage_s: dict[str, float], clock: list[float]):
    """Return a predictor of which each stage takes so many seconds, and what was reached."""
    reached = []

    @stepwise
    def predict(photo, settings):
        for number, (stage, seconds) in enumerate(stage_s.items()):
            reached.append(stage)
            yield Progress(stage, number, len(stage_s) - 1)  # nothing comes after the last one
            clock[0] += seconds
        reached.append("end")
        yield DepthMap(np.zeros((4, 4), np.float32))

    return predict, reached


@pytest.mark.parametrize(
    ("stages", "reached"),
    [
        ({"load": 900, "encode": 1, "denoise": 298, "decode": 1, "align": 1}, "end"),
        ({"encode": 1, "denoise": 298, "decode": 600, "align": 1}, "end"),  # no call comes after
        ({"encode": 1, "denoise": 299, "decode": 1, "align": 1}, "decode"),
        ({"encode": 600, "denoise": 1, "align": 1}, "denoise"),
    ],
)
def test_a_run_ends_before_the_network_call_that_its_time_has_no_room_for(stages, reached):
    clock, metrics = [0.0], Metrics()
    predict, passed = paced(stages, clock)
    runs = RunMonitor(metrics, permitted=None, limit_s=300, clock=lambda: clock[0])
    steps = steps_of(runs.watched(predict))(make_photo(4, 4), DepthSettings())
    if reached == "end":
        assert isinstance([*steps][-1], DepthMap)
    else:
        with pytest.raises(RunTooLongError, match="in the network, more than one run may take here; fewer"):
            list(steps)
        assert value(metrics, 'marigold_runs_total{checkpoint="embedded",end="RunTooLongError"}') == 1
    assert passed[-1] == reached
    unlimited = RunMonitor(metrics, permitted=None, clock=lambda: clock[0])
    assert isinstance(
        [*steps_of(unlimited.watched(predict))(make_photo(4, 4), DepthSettings())][-1], DepthMap
    )


@pytest.mark.parametrize(("minutes", "seconds"), [(5, 300.0), (0, None), (1440, 86400.0)])
def test_the_limit_is_configured_in_minutes_and_told_with_the_status(minutes, seconds):
    runs = Service(Configuration(run_minutes=minutes)).runs
    told = runs.with_limit(lambda settings: CheckpointStatus(last_s=700.0))(DepthSettings())
    assert told == CheckpointStatus(last_s=700.0, limit_s=seconds)
    line = "more than the 5 min that one run may take here"
    assert (line in model_picker.status_text(told)) is (minutes == 5)


def test_what_took_far_longer_than_the_limit_last_time_is_not_admitted():
    last_s = iter([None, 100.0, 599.0, 601.0])
    runs = RunMonitor(Metrics(), permitted=None, limit_s=300)
    admit = runs.admission(lambda settings: CheckpointStatus(last_s=next(last_s)))
    for _ in range(3):
        admit(DepthSettings())
    with pytest.raises(RunTooLongError, match="took 10 minutes last time, and one run may take 5 minutes"):
        admit(DepthSettings())
    with pytest.raises(CheckpointError):
        RunMonitor(Metrics(), permitted=frozenset()).admission(lambda _: CheckpointStatus())(DepthSettings())


def test_a_checkpoint_that_is_not_permitted_never_reaches_the_network_or_the_status():
    asked = []

    @stepwise
    def predict(photo, settings):
        asked.append(settings.checkpoint)
        yield flat(photo, settings)

    def status_of(settings):
        asked.append(settings.checkpoint)
        return CheckpointStatus(last_s=1.0)

    runs = RunMonitor(Metrics(), permitted=frozenset({"embedded"}))
    refused = ("/etc", "evil/pickles", "../embedded", "Embedded", "embedded@main", "https://hf.co/a/embedded")
    for name in (*refused, "'/etc/'", "hf://embedded", "embedded/unet", "./embedded"):
        with pytest.raises(CheckpointError, match="choose one of embedded"):
            list(steps_of(runs.watched(predict))(make_photo(4, 4), DepthSettings(checkpoint=name)))
        assert runs.with_limit(status_of)(DepthSettings(checkpoint=name)) == CheckpointStatus(permitted=False)
    assert asked == []
    list(steps_of(runs.watched(predict))(make_photo(4, 4), DepthSettings()))
    assert runs.with_limit(status_of)(DepthSettings()).last_s == 1
    assert asked == ["embedded", "embedded"]


def test_a_permitted_checkpoint_may_be_spelled_as_it_is_pasted_but_reaches_the_network_by_its_name():
    asked = []

    @stepwise
    def predict(photo, settings):
        asked.append(settings.checkpoint)
        yield flat(photo, settings)

    runs = RunMonitor(Metrics(), permitted=Configuration(checkpoints="catalog").permitted_checkpoints)
    name = "prs-eth/marigold-depth-v1-1"
    for typed in (f"https://huggingface.co/{name}/tree/main", f'"{name}"', f" {name}/ "):
        list(steps_of(runs.watched(predict))(make_photo(4, 4), DepthSettings(checkpoint=typed)))
    assert asked == [name] * 3
    for typed in (f"{name}@other", f"https://huggingface.co/{name}/tree/other", f"{name}/../../etc"):
        with pytest.raises(CheckpointError, match="This server does not load that checkpoint"):
            list(steps_of(runs.watched(predict))(make_photo(4, 4), DepthSettings(checkpoint=typed)))


@on_server
def test_a_program_cannot_name_a_folder_of_the_server(url, folder, predict):
    client, runs = Client(url, verbose=False, download_files=str(folder)), predict.runs
    for name in ("/etc", str(folder), "someone/else"):
        with pytest.raises(AppError, match="This server does not load that checkpoint"):
            client.predict(handle_file(draw_photo(folder)), checkpoint=name, api_name="/depth")
    assert predict.runs == runs


# -- log lines --------------------------------------------------------------------------------------


def record(**facts) -> logging.LogRecord:
    made = logging.LogRecord("marigold_demo.x", logging.INFO, __file__, 1, "run", (), None)
    made.facts = facts
    return made


def test_lines_are_one_json_object_or_one_row_of_pairs():
    made = record(seconds=1.5, end="it is done\nreally")
    line = json.loads(JsonLine().format(made))
    assert (line["event"], line["seconds"], line["end"]) == ("run", 1.5, "it is done\nreally")
    plain = PlainLine().format(made)
    assert "\n" not in plain
    assert 'event=run seconds=1.500 end="it is done\\nreally"' in plain


@pytest.mark.parametrize("form", [JsonLine(), PlainLine()])
def test_an_exception_is_told_by_kind_and_places_never_by_its_words(form):
    try:
        try:
            raise OSError("cannot read /home/anna/holiday.jpg")
        except OSError as error:
            raise ValueError("from 192.0.2.7") from error
    except ValueError:
        made = logging.LogRecord("x", logging.ERROR, __file__, 1, "failed", (), sys.exc_info())
    line = form.format(made)
    assert "OSError" in line and "ValueError" in line and "test_serving.py" in line
    assert "holiday" not in line and "192.0.2.7" not in line and "\n" not in line


def test_what_anybody_can_provoke_is_one_line_a_minute_that_says_how_many_it_stands_for():
    now = [0.0]
    repeats = RepeatFilter(clock=lambda: now[0])

    def told(name="uvicorn.error", words="Invalid HTTP request received.\nfrom <socket 7>"):
        made = logging.LogRecord(name, logging.WARNING, __file__, 1, words, (), None)
        return PlainLine().format(made) if repeats.filter(made) else ""

    assert told().endswith('event="Invalid HTTP request received."')
    assert [told() for _ in range(50)] == [""] * 50
    assert told(words="something else") and told("marigold_demo.x") and told("marigold_demo.x")
    now[0] = 61
    assert told().endswith("left_out=50")
    assert told() == ""


def test_what_gradio_prints_becomes_a_line_without_its_words_and_is_counted():
    words = """
import traceback
from marigold_demo.serving.lifecycle import Service
service = Service()
service.set_up_logging()
try:
    open("/nowhere/holiday.jpg")
except OSError:
    traceback.print_exc()
print(service.metrics.text().decode())
"""
    done = subprocess.run([sys.executable, "-c", words], cwd=ROOT, capture_output=True, text=True)
    assert 'event="request failed" error=FileNotFoundError' in done.stderr
    assert "holiday" not in done.stderr and done.stderr.count("\n") == 1
    assert 'marigold_errors_total{kind="unforeseen"} 1.0' in done.stdout


def test_checkpoints_out_of_the_catalog_are_not_told_in_metrics_or_lines(caplog):
    metrics = Metrics()
    with caplog.at_level(logging.INFO, logger="marigold_demo"):
        list(
            steps_of(RunMonitor(metrics, permitted=None).watched(flat))(
                make_photo(4, 4), DepthSettings(checkpoint="/home/anna")
            )
        )
    assert value(metrics, 'marigold_runs_total{checkpoint="other",end="done"}') == 1
    assert [made.facts["checkpoint"] for made in caplog.records] == ["other"]


def test_the_gate_refuses_without_reading_or_asking_the_page():
    service, asked, sent = Service(Configuration(upload_mb=1)), [], []

    async def page(scope, receive, send):
        asked.append(scope)

    async def receive():
        asked.append("read")
        return {"type": "http.disconnect"}

    async def send(message):
        sent.append(message)

    kind, positional, named = service.app_options(on_spaces=True)["middleware"][0]
    scope = {"type": "http", "method": "POST", "path": "/gradio_api/call/depth", "headers": []}
    asyncio.run(kind(page, *positional, **named)(scope, receive, send))
    assert (asked, sent[0]["status"]) == ([], 411)


@on_server
def test_the_page_says_that_a_visitor_asked_too_often(predict, folder, monkeypatch):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(folder / "cache"))
    with served(predict, Service(Configuration(requests_per_minute=2))) as url, sync_playwright() as played:
        chromium = (
            shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
        )
        with played.chromium.launch(executable_path=chromium, args=["--no-sandbox"]) as browser:
            page = browser.new_page()
            page.goto(url)
            page.set_input_files("#photo input[type=file]", draw_photo(folder))
            page.get_by_text("That was a lot at once; wait").first.wait_for(timeout=60_000)
            page.screenshot(path=folder / "asked_too_often.png")
