"""HTTP for the middleware: headers, refusals, visitor keys, the rate limit, caching, and files that are sent.

Visitors are identified by a keyed hash of their address; the key is random and never leaves this process. An
IPv6 visitor is a network of 64 bits, which is what one household gets.

Files below the folder of uploads and results are sent in place of Gradio's route. Gradio resolves links
before it holds a path against that folder, so /proc/self/fd/N led to whatever the process had open. Here a
path is taken as it is written, and the file is sent from the descriptor that was checked. What cannot be sent
is "not found", whatever the reason.
"""

import asyncio
import hashlib
import hmac
import ipaddress
import math
import mimetypes
import os
import re
import secrets
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from contextlib import suppress
from email.utils import formatdate
from functools import cache
from urllib.parse import quote

import brotli
from cachetools import LRUCache
from starlette.datastructures import MutableHeaders
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from marigold_demo.io.cache_folder import FileRoot

AUTHORITY = re.compile(r"(\[[0-9a-fA-F:.]{2,45}\]|[A-Za-z0-9_.-]{1,253})(?::(\d{1,5}))?")
NO_STORE = {"cache-control": "no-store"}
VISITOR_HEADER = "x-marigold-visitor"  # of requests that the server makes to itself for a visitor
WINDOW_S = 60.0
MAX_VISITORS = 10_000  # the one who was silent longest is forgotten first
PREFIXES = ("/gradio_api/file=", "/gradio_api/file/")
CHUNK_BYTES = 2**18
ANSWERS_BYTES, ANSWER_OVERHEAD_BYTES = 2**24, 2**10
BROTLI_QUALITY = 9  # 20 ms for 100 kB; Gradio's is 4
FOR_EVER = "public, max-age=31536000, immutable"
# How long parts of the page are kept, by the beginning of their path. Gradio names assets by their hash.
_KEPT = {
    "/assets/": FOR_EVER,
    "/static/": "public, max-age=86400",
    "/svelte/": "public, max-age=86400",
    "/favicon.ico": "public, max-age=86400",
    "/share_card.jpg": "public, max-age=86400",
    "/example_tiles/": "public, max-age=86400",
    "/robots.txt": "public, max-age=86400",
    "/gradio_api/": "no-store",  # visits; files say for themselves
}
# What a browser may show in the page's name; everything else is a download, so that no script in it runs.
SHOWN = {
    "image/jpeg", "image/png", "image/gif", "image/webp", "image/avif",
    "text/plain", "application/json",
}  # fmt: skip
# What Gradio would compress anew for each request, and ranges of it wrongly, unless an encoding is named.
_TEXTS = (".html", ".htm", ".js", ".css", ".json", ".md", ".txt", ".csv", ".tsv", ".xml", ".svg")
_RANGE = re.compile(rb"bytes=([0-9]{0,18})-([0-9]{0,18})")


def header(scope: Scope, name: bytes) -> bytes | None:
    """Return a header of a request by its name in lower case."""
    return next((value for key, value in scope["headers"] if key == name), None)


def route(scope: Scope) -> str:
    """Return the path of a request below the path at which a proxy offers the page."""
    path: str = scope["path"]
    below = path.removeprefix(scope.get("root_path", "").rstrip("/")) or "/"
    return below if below.startswith("/") else path


def client_address(scope: Scope) -> str:
    """Return the address that a request came from, empty where it is not known."""
    return str((scope.get("client") or ("", 0))[0])


def host_header(scope: Scope) -> str:
    """Return the Host header, empty without one."""
    return (header(scope, b"host") or b"").decode("latin-1").strip()


def host_name(scope: Scope) -> str:
    """Return the name or address in the Host header without its port; empty where there is none to read."""
    parsed = AUTHORITY.fullmatch(host_header(scope))
    return parsed[1] if parsed else ""


def refusal(
    status: int, sentence: str, headers: dict[str, str] | None = None, *, as_text: bool = False
) -> Response:
    """Return a refusal in FastAPI's form, so that Gradio's page shows the sentence.

    Args:
        status: HTTP status.
        sentence: What the visitor reads.
        headers: Beside those that keep it out of caches.
        as_text: As plain text, for uploads, whose answer the page shows as it comes.
    """
    headers = NO_STORE | (headers or {})
    if as_text:
        return PlainTextResponse(sentence, status, headers=headers)
    return JSONResponse({"detail": sentence}, status, headers=headers)


async def drain(receive: Receive, *, max_bytes: int, max_s: float) -> bool:
    """Read the rest of a body and drop it, because a sender sees a refusal only when all was sent.

    Returns:
        Whether all was sent, rather than too much or too slowly.
    """
    end_s, read = time.monotonic() + max_s, 0
    while read <= max_bytes:
        try:
            message = await asyncio.wait_for(receive(), end_s - time.monotonic())
        except TimeoutError:
            return False
        read += len(message.get("body", b""))
        if message["type"] != "http.request" or not message.get("more_body", False):
            return True
    return False


def replay(body: bytes, receive: Receive) -> Receive:
    """Return a `receive` that gives a body that was read already."""
    given = False

    async def again() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again


class RateLimit:
    """Counts each visitor's requests for work in a sliding window of a minute."""

    def __init__(self, per_minute: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_minute, self._clock = per_minute, clock
        self.times: OrderedDict[str, deque[float]] = OrderedDict()  # of requests, by visitor

    def wait_s(self, address: str) -> int:
        """Count a request and return 0, or return after how many seconds the visitor may ask again."""
        now_s, visitor = self._clock(), visitor_key(address)
        times = self.times.setdefault(visitor, deque())
        self.times.move_to_end(visitor)
        while len(self.times) > MAX_VISITORS:
            self.times.popitem(last=False)
        while times and times[0] <= now_s - WINDOW_S:
            times.popleft()
        if len(times) >= self._per_minute:
            return max(1, math.ceil(times[0] + WINDOW_S - now_s))
        times.append(now_s)
        return 0


def household(address: str) -> str:
    """Return what stands for the visitors of one line: an address, in IPv6 its network of 64 bits."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv6Address):
        return str(parsed.ipv4_mapped or ipaddress.ip_network((parsed, 64), strict=False))
    return address


def visitor_key(address: str) -> str:
    """Return 32 hexadecimal digits that identify a visitor without revealing the address."""
    return _hash(household(address))


def signed_visitor(key: str) -> str:
    """Return a visitor's key as this process sends it to itself; nobody else can make one."""
    return f"{key}-{_hash(f'signed {key}')}"


def visitor_of(address: str, signed: str = "") -> str:
    """Return the key of the visitor that a request is made for.

    Args:
        address: Where the request came from.
        signed: Its header `VISITOR_HEADER`; one that this process did not sign is ignored.
    """
    key = signed.partition("-")[0]
    is_ours = key and hmac.compare_digest(signed.encode(), signed_visitor(key).encode())
    return key if is_ours else visitor_key(address)


def _hash(text: str) -> str:
    return hashlib.blake2b(text.encode(), key=_key(), digest_size=16).hexdigest()


@cache
def _key() -> bytes:
    return secrets.token_bytes(16)


class CacheHeaders:
    """ASGI middleware that says how long browsers and proxies may keep what an answer does not say itself."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on and complete the head of its answer."""

        async def complete(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] < 400:
                MutableHeaders(scope=message).setdefault("cache-control", kept(route(scope)))
            await send(message)

        reads = scope["type"] == "http" and scope["method"] in ("GET", "HEAD")
        await self._app(scope, receive, complete if reads else send)


def kept(path: str) -> str:
    """Return the Cache-Control header of what is at a path; what is not listed is asked for each time."""
    return next((value for prefix, value in _KEPT.items() if path.startswith(prefix)), "no-cache")


class AnswerCache:
    """ASGI middleware that sends again, as it was compressed, what may be kept for ever.

    Gradio reads and compresses each of the 250 assets of a page for each visitor, 6 ms of a core every time,
    and quickly. Here a thread of its own compresses what is kept again, by 7 % more, once.
    """

    def __init__(self, app: ASGIApp, *, most_bytes: int = ANSWERS_BYTES) -> None:
        self._app = app
        self._kept: LRUCache[tuple[str, bytes], tuple[Message, bytes]] = LRUCache(
            most_bytes, getsizeof=lambda answer: len(answer[1]) + ANSWER_OVERHEAD_BYTES
        )
        self._to_compress: deque[tuple[tuple[str, bytes], Message, bytes]] = deque()
        self._compressing = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send a kept answer, or pass the request on and keep its answer."""
        is_plain = scope["type"] == "http" and scope["method"] == "GET" and header(scope, b"range") is None
        if not is_plain or kept(route(scope)) != FOR_EVER or header(scope, b"if-none-match") is not None:
            await self._app(scope, receive, send)
            return
        key = scope["path"], _encoding(scope)
        answer = self._kept.get(key)
        if answer is None:
            await self._app(scope, receive, self._keeping(key, send))
            return
        start, body = answer
        await send({**start, "headers": list(start["headers"])})  # others add theirs to it
        await send({"type": "http.response.body", "body": body})

    def _keeping(self, key: tuple[str, bytes], send: Send) -> Send:
        start: Message = {}
        parts: list[bytes] = []

        async def note(message: Message) -> None:
            nonlocal start
            if message["type"] == "http.response.start":
                start = {**message, "headers": list(message["headers"])}
            else:
                parts.append(message.get("body", b""))
                if not message.get("more_body", False) and start["status"] == 200:
                    body = b"".join(parts)
                    headers = MutableHeaders(scope=start)
                    headers["content-length"] = str(len(body))
                    with suppress(ValueError):  # larger than all that is kept
                        self._kept[key] = start, body
                    if headers.get("content-encoding") == "br":
                        self._compress_later(key, start, body)
            await send(message)

        return note

    def _compress_later(self, key: tuple[str, bytes], start: Message, body: bytes) -> None:
        self._to_compress.append((key, start, body))
        if not self._compressing:
            self._compressing = True
            threading.Thread(target=self._compress, args=(asyncio.get_running_loop(),), daemon=True).start()

    def _compress(self, loop: asyncio.AbstractEventLoop) -> None:
        """Compress what is kept again, one after the other, until there is none left."""
        while self._to_compress:
            key, start, body = self._to_compress.popleft()
            smaller = brotli.compress(brotli.decompress(body), quality=BROTLI_QUALITY)
            if len(smaller) < len(body):
                with suppress(RuntimeError):  # the server has ended
                    loop.call_soon_threadsafe(self._replace, key, start, smaller)
        self._compressing = False

    def _replace(self, key: tuple[str, bytes], start: Message, body: bytes) -> None:
        start = {**start, "headers": list(start["headers"])}
        MutableHeaders(scope=start)["content-length"] = str(len(body))
        if key in self._kept:
            self._kept[key] = start, body


def _encoding(scope: Scope) -> bytes:
    """Return the encoding that Gradio chooses for a request."""
    accepted = header(scope, b"accept-encoding") or b""
    return next((name for name in (b"br", b"gzip") if name in accepted), b"")


class Files:
    """ASGI middleware that sends files and passes all other requests on."""

    def __init__(self, app: ASGIApp, *, root: FileRoot) -> None:
        self._app, self._root = app, root

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send a file, or pass the request on."""
        path = _asked_path(scope)
        if path is None:
            await self._app(scope, receive, send)
            return
        try:
            file = await asyncio.to_thread(self._root.open, path)
        except OSError:
            await refusal(404, "Not Found")(scope, receive, send)
            return
        try:
            await _send_file(scope, receive, send, file, path.rsplit("/", 1)[1])
        finally:
            os.close(file)


def _asked_path(scope: Scope) -> str | None:
    """Return the path of the file that a request asks for; None: it asks for something else."""
    if scope["type"] != "http" or scope["method"] not in ("GET", "HEAD"):
        return None
    asked = route(scope)
    prefix = next((prefix for prefix in PREFIXES if asked.startswith(prefix)), None)
    return None if prefix is None else asked.removeprefix(prefix)


async def _send_file(scope: Scope, receive: Receive, send: Send, file: int, name: str) -> None:
    facts = os.fstat(file)
    headers = _headers(name, facts)
    start, end, status = 0, facts.st_size, 200
    asked = header(scope, b"range")
    if asked is not None and _is_current(header(scope, b"if-range"), headers):
        found = _range(asked, facts.st_size)
        if found is None:
            sentence = "This range is not in the file; ask for a range of bytes within it, or for all of it."
            refused = refusal(416, sentence, {"content-range": f"bytes */{facts.st_size}"})
            await refused(scope, receive, send)
            return
        if found != (start, end):
            (start, end), status = found, 206
            headers["content-range"] = f"bytes {start}-{end - 1}/{facts.st_size}"
    headers["content-length"] = str(end - start)
    pairs = [(key.encode(), value.encode()) for key, value in headers.items()]
    await send({"type": "http.response.start", "status": status, "headers": pairs})
    while scope["method"] == "GET" and start < end:
        data = await asyncio.to_thread(os.pread, file, min(CHUNK_BYTES, end - start), start)
        if not data:  # the file has become shorter: the connection ends before what was announced
            return
        start += len(data)
        await send({"type": "http.response.body", "body": data, "more_body": True})
    await send({"type": "http.response.body", "body": b"", "more_body": False})


def _headers(name: str, facts: os.stat_result) -> dict[str, str]:
    kind, encoding = mimetypes.guess_type(name)
    is_shown = kind in SHOWN and encoding is None
    quoted = quote(name)
    named = f'filename="{name}"' if quoted == name else f"filename*=utf-8''{quoted}"
    charset = "; charset=utf-8" if is_shown and str(kind).startswith("text/") else ""
    return {
        "content-type": f"{kind}{charset}" if is_shown else "application/octet-stream",
        "content-disposition": f"{'inline' if is_shown else 'attachment'}; {named}",
        "x-content-type-options": "nosniff",
        "accept-ranges": "bytes",
        "cache-control": "private",
        "etag": f'"{facts.st_mtime_ns:x}-{facts.st_size:x}"',
        "last-modified": formatdate(facts.st_mtime, usegmt=True),
    } | ({"content-encoding": "identity"} if name.lower().endswith(_TEXTS) else {})


def _is_current(condition: bytes | None, headers: dict[str, str]) -> bool:
    """Return whether a range may be sent under the condition that If-Range sets (RFC 9110, 13.1.5)."""
    return condition is None or condition.decode("latin-1") in (headers["etag"], headers["last-modified"])


def _range(asked: bytes, size_bytes: int) -> tuple[int, int] | None:
    """Return where a range begins and ends; None where it cannot be sent.

    What may be answered with the whole file is: another unit than bytes, or several ranges (RFC 9110, 14.2).
    """
    written = asked.lower().replace(b" ", b"")
    if not written.startswith(b"bytes=") or b"," in written:
        return 0, size_bytes
    found = _RANGE.fullmatch(written)
    first, last = (found[1], found[2]) if found else (b"", b"")
    if first:
        start, end = int(first), min(int(last) + 1, size_bytes) if last else size_bytes
    elif last:  # so many bytes from the end
        start, end = max(0, size_bytes - int(last)), size_bytes
    else:
        return None
    return (start, end) if start < end else None
