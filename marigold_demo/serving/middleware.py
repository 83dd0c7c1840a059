"""ASGI middleware around the page: request filter, health and metrics, security headers, compression.

Gradio brings more paths than the page uses (proxies, development, monitoring, run history); a path that is
not listed here is not found. Bodies must declare their length, so one that is too large is never stored.
"""

import asyncio
import hmac
import json
import logging
import math
import re
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from typing import Any

from starlette.datastructures import MutableHeaders
from starlette.middleware.gzip import GZipMiddleware
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from marigold_demo.io.cache_folder import FileRoot
from marigold_demo.serving.config import Configuration, is_loopback
from marigold_demo.serving.http import (
    NO_STORE,
    VISITOR_HEADER,
    RateLimit,
    client_address,
    drain,
    header,
    host_name,
    household,
    refusal,
    replay,
    route,
    signed_visitor,
    visitor_key,
)
from marigold_demo.serving.monitor import CONTENT_TYPE, Metrics

_log = logging.getLogger(__name__)

MB = 10**6
EVENT_BYTES = 2**20  # what the page sends with a click: keys, numbers, names of uploads
FORM_BYTES = 2**16  # what a form adds to its files
DRAIN_S = 30.0  # how long the rest of a body is waited for that is not taken
EVENT_S = 40.0  # how long what comes with a click may take to arrive
BODIES_MB = 64  # bodies of events that are on their way at once, by the length they declare
MCP_BODIES_MB = 300  # those of MCP, which hold files; each counts until it is answered
BYTES_PER_S = 250_000  # a large body gets more time, at this speed
WORK = r"/gradio_api/(queue/join|call/.+|run/.+|api/.+)"
UPLOAD = r"/gradio_api/upload"
MCP = r"/gradio_api/mcp(/.*)?"
PATHS = {
    "GET": (
        r"/|/config|/theme\.css|/robots\.txt|/favicon\.ico|/share_card\.jpg"
        r"|/(assets|static|svelte|example_tiles)/.+"
        r"|/gradio_api/(info|openapi\.json|theme\.css|startup-events|app_id|upload_progress|heartbeat/.+)"
        rf"|/gradio_api/(queue/(data|status)|call/.+|file=.+|file/.+)|{MCP}"
    ),
    "POST": rf"{UPLOAD}|{WORK}|/gradio_api/(cancel|reset)|{MCP}",
    "DELETE": MCP,
}
PATHS["HEAD"] = PATHS["GET"]
PROXIED = (b"x-forwarded-", b"x-real-ip", b"x-client-ip", b"forwarded", b"via", b"cf-", b"true-client-ip")
# Gradio's page needs inline scripts and styles, eval, and blobs for workers and 3D; nothing from elsewhere.
CONTENT = {
    "default-src": "'self'",
    "script-src": "'self' 'unsafe-inline' 'unsafe-eval' blob:",
    "style-src": "'self' 'unsafe-inline'",
    "img-src": "'self' data: blob:",
    "media-src": "'self' data: blob:",
    "font-src": "'self' data:",
    "connect-src": "'self' blob: data:",
    "worker-src": "'self' blob:",
    "object-src": "'none'",
    "base-uri": "'self'",
    "form-action": "'self'",
    "frame-ancestors": "'self'",
}
HEADERS = {
    "content-security-policy": "; ".join(f"{name} {value}" for name, value in CONTENT.items()),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",  # an address may hold the key of a result
    "cross-origin-opener-policy": "same-origin",
    "permissions-policy": "camera=(self), microphone=(), geolocation=(), payment=(), usb=()",
}
COMPRESSED = ("/", "/config")  # large texts; Gradio compresses its assets itself, and files stay as they are
MIN_BYTES, LEVEL = 2000, 6


class RequestFilter:
    """ASGI middleware that lets through what the page and its endpoints need, within limits."""

    def __init__(
        self, app: ASGIApp, *, configuration: Configuration, metrics: Metrics, root: FileRoot
    ) -> None:
        self._app, self._metrics, self._root = app, metrics, root
        self._upload_mb = configuration.upload_mb
        per_minute = configuration.requests_per_minute
        self._rate = RateLimit(per_minute) if per_minute else None
        self._bodies, self._mcp_bodies = _Share(BODIES_MB * MB), _Share(MCP_BODIES_MB * MB)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it with a sentence."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path = route(scope).rstrip("/") or "/"
        refused = self._refused_head(scope, path)
        if refused is None and scope["method"] == "POST" and re.fullmatch(MCP, path):
            await self._mcp(path, scope, receive, send)
            return
        if refused is None and scope["method"] == "POST":
            refused, scope, receive = await self._with_body(path, scope, receive)
        await (refused or self._app)(scope, receive, send)

    async def _mcp(self, path: str, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a call of MCP on, whose body Gradio holds as a whole until it has answered."""
        length = header(scope, b"content-length") or b""
        refused = await self._refused_length(path, length, receive)
        if refused is None:
            with self._mcp_bodies.taken(int(length), household(client_address(scope))) as is_room:
                if is_room:
                    in_time = _in_time(receive, EVENT_S + int(length) / BYTES_PER_S)
                    await self._app(_signed(scope), in_time, send)
                    return
                refused = await self._busy(path, int(length), receive)
        await refused(scope, receive, send)

    def _refused_head(self, scope: Scope, path: str) -> Response | None:
        if not _is_known(scope["method"], path):
            return self._refusal(path, "path", 404, "Not Found")
        if wait_s := self._wait_s(scope, path):
            sentence = f"That was a lot at once; wait {wait_s} s and try again."
            return self._refusal(path, "rate", 429, sentence, {"retry-after": str(wait_s)})
        return None

    async def _with_body(
        self, path: str, scope: Scope, receive: Receive
    ) -> tuple[Response | None, Scope, Receive]:
        """Return the refusal of a request with a body, if any, and the request as it is passed on."""
        length = header(scope, b"content-length") or b""
        refused, body = await self._refused_length(path, length, receive), b""
        if refused is None and re.fullmatch(UPLOAD, path):
            return None, scope, receive
        if refused is None:
            with self._bodies.taken(int(length), household(client_address(scope))) as is_room:
                if is_room:
                    try:
                        async with asyncio.timeout(EVENT_S):
                            body = await _read(receive)
                    except TimeoutError:
                        late = "The request did not arrive in time; try again."
                        refused = self._refusal(path, "late", 408, late, {"connection": "close"})
                else:
                    refused = await self._busy(path, int(length), receive)
            if refused is None and (sentence := _problem_in(body, self._root)):
                refused = self._refusal(path, "body", 400, sentence)
        return refused, scope, replay(body, receive)

    async def _refused_length(self, path: str, length: bytes, receive: Receive) -> Response | None:
        most_bytes, in_words = self._max_bytes(path)
        if not length.isdigit():
            return self._refusal(path, "length", 411, "A request must say how long it is.")
        if int(length) > most_bytes:
            await drain(receive, max_bytes=2 * most_bytes, max_s=DRAIN_S)
            return self._refusal(path, "size", 413, f"This is too large; at most {in_words} are taken.")
        return None

    async def _busy(self, path: str, length: int, receive: Receive) -> Response:
        is_read = await drain(receive, max_bytes=length, max_s=DRAIN_S)
        headers = {"retry-after": "10"} | ({} if is_read else {"connection": "close"})
        return self._refusal(
            path, "bodies", 503, "Much is on its way to this server; try again in a moment.", headers
        )

    def _max_bytes(self, path: str) -> tuple[int, str]:
        """Return how many bytes a path takes, and that in words."""
        if re.fullmatch(UPLOAD, path):
            return self._upload_mb * MB + FORM_BYTES, f"{self._upload_mb} MB"
        if re.fullmatch(MCP, path):  # files travel inside, as base64
            return self._upload_mb * MB * 4 // 3 + FORM_BYTES, f"{self._upload_mb} MB"
        return EVENT_BYTES, "1 MB"

    def _wait_s(self, scope: Scope, path: str) -> int:
        if self._rate is None or scope["method"] != "POST":
            return 0
        if not re.fullmatch(f"{UPLOAD}|{WORK}|{MCP}", path):
            return 0
        return self._rate.wait_s(client_address(scope))

    def _refusal(
        self, path: str, reason: str, status: int, sentence: str, headers: dict[str, str] | None = None
    ) -> Response:
        self._metrics.record_refusal(reason)
        return refusal(status, sentence, headers, as_text=re.fullmatch(UPLOAD, path) is not None)


def _is_known(method: str, path: str) -> bool:
    fetches = re.match(r"/gradio_api/file[=/]\s*https?:", path, re.IGNORECASE)
    return not fetches and re.fullmatch(PATHS.get(method, "(?!)"), path) is not None


def _signed(scope: Scope) -> Scope:
    """Return a request with the visitor it is made for: Gradio repeats its headers in a call to itself."""
    name = VISITOR_HEADER.encode()
    visitor = signed_visitor(visitor_key(client_address(scope))).encode()
    return {**scope, "headers": [*(pair for pair in scope["headers"] if pair[0] != name), (name, visitor)]}


class _Share:
    """Bytes of bodies that may be on their way at once: of all together, an eighth of them of one visitor."""

    def __init__(self, most_bytes: int) -> None:
        self._most, self._taken = most_bytes, Counter[str]()

    @contextmanager
    def taken(self, length: int, visitor: str) -> Iterator[bool]:
        """Hold room for one body during the block; False where there is none."""
        is_room = self._taken.total() + length <= self._most
        own = self._taken[visitor]
        is_room = is_room and (own == 0 or own + length <= self._most // 8)
        if is_room:
            self._taken[visitor] += length
        try:
            yield is_room
        finally:
            if is_room:
                self._taken[visitor] -= length
                self._taken += Counter()  # drops what is 0


def _in_time(receive: Receive, seconds: float) -> Receive:
    """Return `receive` for a body that must arrive within so many seconds; then its sender counts as gone."""
    ends_s, is_read = time.monotonic() + seconds, False

    async def within() -> Message:
        nonlocal is_read
        if is_read:  # what comes now is the end of the connection, for which nobody need hurry
            return await receive()
        try:
            async with asyncio.timeout(ends_s - time.monotonic()):
                message = await receive()
        except TimeoutError:
            return {"type": "http.disconnect"}
        is_read = not message.get("more_body", False)
        return message

    return within


async def _read(receive: Receive) -> bytes:
    parts, more = [], True
    while more:
        message = await receive()
        parts.append(message.get("body", b""))
        more = message["type"] == "http.request" and message.get("more_body", False)
    return b"".join(parts)


def _problem_in(body: bytes, root: FileRoot) -> str:
    """Return what is wrong with a body that Gradio would accept, or nothing.

    It may name a file that Gradio would fetch from an address, or would open unchecked: Gradio holds a path
    against the uploads only where it is marked as a file of Gradio, resolves links before it does, and gives
    any other path as it came to an event without preprocessing, such as that of the photo's box.
    """
    try:
        todo: list[Any] = [json.loads(body)]
    except (ValueError, RecursionError):
        return ""  # FastAPI has its own words for that
    while todo:
        value = todo.pop()
        if isinstance(value, dict):
            if isinstance(value.get("path"), str) and not _is_upload(value, root):
                return "This server opens no files but uploaded ones; upload the file first."
            todo += value.values()
        elif isinstance(value, list):
            todo += value
        elif isinstance(value, float) and not math.isfinite(value):
            return "Numbers must be finite."  # FastAPI could not even repeat them in its refusal
    return ""


def _is_upload(file: dict[str, Any], root: FileRoot) -> bool:
    meta = file.get("meta")
    return isinstance(meta, dict) and meta.get("_type") == "gradio.FileData" and root.has(file["path"])


# Health and metrics --------------------------------------------------------------------------------------


class State(Enum):
    """How far the server is."""

    LOADING = "loading"
    READY = "ready"
    FAILED = "without its checkpoint"
    STOPPING = "stopping"


class Health:
    """Holds the state of the server."""

    def __init__(self) -> None:
        self.state = State.LOADING


class HealthEndpoints:
    """ASGI middleware that answers /healthz and /metrics, each where it is switched on."""

    def __init__(
        self, app: ASGIApp, *, configuration: Configuration, health: Health, metrics: Metrics
    ) -> None:
        self._app, self._health, self._metrics = app, health, metrics
        self._configuration = configuration

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or pass on."""
        path = route(scope) if scope["type"] == "http" and scope["method"] in ("GET", "HEAD") else ""
        app = self._app
        if path == "/healthz" and self._configuration.health:
            state = self._health.state
            status = 200 if state is State.READY else 503
            app = JSONResponse({"status": state.value}, status, headers=NO_STORE)
        elif path == "/metrics" and self._configuration.metrics:
            app = refusal(404, "Not Found")
            if self._may_read(scope):
                app = Response(self._metrics.text(), media_type=CONTENT_TYPE, headers=NO_STORE)
        await app(scope, receive, send)

    def _may_read(self, scope: Scope) -> bool:
        """Return whether a request may read the metrics: with the token; without one set, from this machine.

        What a proxy on this machine passes on comes from here too, but by another name or with its headers.
        """
        token = self._configuration.metrics_token
        if token:
            given = header(scope, b"authorization") or b""
            return hmac.compare_digest(given, f"Bearer {token}".encode())
        proxied = any(name.startswith(PROXIED) for name, _ in scope["headers"])
        host = host_name(scope)
        return not proxied and is_loopback(client_address(scope)) and (not host or is_loopback(host))


# Security headers and compression ------------------------------------------------------------------------


class SecurityHeaders:
    """ASGI middleware that adds `HEADERS` to every answer, for a page that is served outside Spaces."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on and complete the head of its answer."""

        async def complete(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        await self._app(scope, receive, complete)


class Compression:
    """ASGI middleware that compresses the page itself, which Gradio sends as it is."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._compressed = GZipMiddleware(app, minimum_size=MIN_BYTES, compresslevel=LEVEL)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, by way of the compressor where it is one for the page."""
        is_page = scope["type"] == "http" and route(scope) in COMPRESSED
        await (self._compressed if is_page else self._app)(scope, receive, send)
