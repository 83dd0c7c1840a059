"""Receives the page's uploads and tells how far they are, in place of Gradio's routes.

A form is parsed as it comes: files go to disk, what else is in it is counted and dropped. What does not fit
on the disk, stands still or breaks off leaves nothing behind. Knows nothing of what is in a file.
"""

import asyncio
import json
import logging
import re
import time
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs

from marigold_demo.io.cache_folder import CacheFolder, DiskFullError
from marigold_demo.serving.asgi import App, Message, Receive, Send, answer, drain, header, refuse, route
from marigold_demo.serving.form import NO_FORM, UploadError, UploadForm
from marigold_demo.serving.journal import event
from marigold_demo.serving.metrics import Metrics

UPLOAD, PROGRESS = "/gradio_api/upload", "/gradio_api/upload_progress"
IDLE_S = 30.0  # without a byte, after which an upload is given up
FIRST_S, LEAST_BYTES_PER_S = 60.0, 10_000  # an upload may take this long, and longer at this pace
MOST_AT_ONCE, MOST_OF_ONE = 64, 16  # uploads, and those of one address; each holds less than 1 MB of memory
WAIT_S = 10.0  # until there is room among them
TEXT = "text/plain; charset=utf-8"
BUFFER_BYTES = 2**18  # kept in memory before they are written
TURN_EVERY_S, TOLD_EVERY_S, FOUND_WITHIN_S, KNOWN_MOST = 0.02, 0.1, 3.0, 4 * MOST_AT_ONCE

_log = logging.getLogger(__name__)
_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")


class _SenderLeftError(Exception):
    """The connection was closed."""


@dataclass
class _Progress:
    """How many bytes of which file have come, by the name it was sent with."""

    received: dict[str, int] = field(default_factory=dict)
    is_over: bool = False


class Uploads:
    """ASGI middleware that answers for uploads and passes all other requests on."""

    def __init__(self, app: App, *, cache: CacheFolder, metrics: Metrics) -> None:
        self._app, self._cache, self._metrics = app, cache, metrics
        self._at_once: Counter[str] = Counter()  # uploads that are under way, by address
        self._known: OrderedDict[str, _Progress] = OrderedDict()
        logging.getLogger("python_multipart").setLevel(logging.CRITICAL)  # it quotes what visitors send

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Take an upload, tell of one, or pass the request on."""
        asked = (scope["method"], route(scope).rstrip("/")) if scope["type"] == "http" else ("", "")
        if asked == ("POST", UPLOAD):
            await self._answer(scope, receive, send)
        elif asked == ("GET", PROGRESS):
            progress = await self._progress(_upload_id(scope))
            if progress is None:
                await refuse(send, 404, "Not Found")
            else:
                await _tell(progress, receive, send)
        else:
            await self._app(scope, receive, send)

    async def _answer(self, scope: Message, receive: Receive, send: Send) -> None:
        progress, body = _Progress(), _Body(receive, int(header(scope, b"content-length") or 0))
        self._remember(_upload_id(scope), progress)
        address = str((scope.get("client") or ("", 0))[0])
        try:
            form = UploadForm(header(scope, b"content-type") or b"", progress.received)
            async with self._turn(address):
                paths = await self._take(form, body)
            await answer(send, 200, json.dumps(paths).encode())
        except _SenderLeftError:
            pass
        except (UploadError, DiskFullError) as error:
            refused = error if isinstance(error, UploadError) else UploadError(507, str(error), "disk")
            self._metrics.refused.labels(refused.reason).inc()
            event(_log, "refused", level=logging.DEBUG, reason=refused.reason)
            await body.drain()
            # As text: the page shows an upload's answer as it comes.
            headers = {} if body.is_read else {"connection": "close"}
            await answer(send, refused.status, str(refused).encode(), kind=TEXT, headers=headers)
        finally:
            progress.is_over = True

    @asynccontextmanager
    async def _turn(self, address: str) -> AsyncIterator[None]:
        """Wait until another upload may begin.

        Raises:
            UploadError: None ended for a while.
        """
        until_s = time.monotonic() + WAIT_S
        while self._at_once.total() >= MOST_AT_ONCE or self._at_once[address] >= MOST_OF_ONE:
            if time.monotonic() > until_s:
                raise UploadError(503, "Many uploads are under way; try again in a moment.", "uploads")
            await asyncio.sleep(TURN_EVERY_S)
        self._at_once[address] += 1
        try:
            yield
        finally:
            self._at_once[address] -= 1
            self._at_once += Counter()  # drops what is 0

    async def _take(self, form: UploadForm, body: "_Body") -> list[str]:
        """Receive the files of a form and return their paths; what fails leaves none."""
        with await asyncio.to_thread(self._cache.receive, body.length) as upload:
            async for data in body:
                form.feed(data)
                if form.waiting_bytes >= BUFFER_BYTES:
                    await asyncio.to_thread(form.write_to, upload)
            if not form.is_whole:
                raise UploadError(400, NO_FORM, "form")
            await asyncio.to_thread(form.write_to, upload)
            return [str(path) for path in await asyncio.to_thread(upload.keep)]

    def _remember(self, upload_id: str, progress: _Progress) -> None:
        if upload_id:
            self._known[upload_id] = progress
            while len(self._known) > KNOWN_MOST:
                self._known.popitem(last=False)

    async def _progress(self, upload_id: str) -> _Progress | None:
        """Return how far an upload is; the page may ask a little before it sends."""
        for _ in range(round(FOUND_WITHIN_S / TOLD_EVERY_S) if upload_id else 0):
            if upload_id in self._known:
                return self._known[upload_id]
            await asyncio.sleep(TOLD_EVERY_S)
        return None


class _Body:
    """The bytes of an upload as they come, for as long as they come."""

    def __init__(self, receive: Receive, length: int) -> None:
        self.length, self.is_read = length, False
        self._receive, self._is_late = receive, False
        self._late_s = time.monotonic() + FIRST_S  # later with every byte

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        if self.is_read:
            raise StopAsyncIteration
        try:
            message = await asyncio.wait_for(self._receive(), min(IDLE_S, self._late_s - time.monotonic()))
        except TimeoutError as error:
            self._is_late = True
            raise UploadError(408, "The upload stood still for too long; send it again.", "slow") from error
        if message["type"] != "http.request":
            raise _SenderLeftError
        data = bytes(message.get("body", b""))
        self.is_read = not message.get("more_body", False)
        self._late_s += len(data) / LEAST_BYTES_PER_S
        return data

    async def drain(self) -> None:
        """Read and drop what is still to come, unless it is late already: then a sender sees the refusal."""
        if not self.is_read and not self._is_late:
            self.is_read = await drain(self._receive, most_bytes=self.length, most_s=IDLE_S)


async def _tell(progress: _Progress, receive: Receive, send: Send) -> None:
    """Send how far an upload is as server-sent events, in the words of Gradio's page."""
    headers = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-store")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    left = asyncio.ensure_future(_leaves(receive))
    told: dict[str, int] = {}
    try:
        while not (progress.is_over and told == progress.received):
            for name, size_bytes in list(progress.received.items()):
                news = {"msg": "update", "orig_name": name, "chunk_size": size_bytes - told.get(name, 0)}
                if news["chunk_size"]:
                    await _send_event(send, news)
                told[name] = size_bytes
            await asyncio.wait([left], timeout=TOLD_EVERY_S)
            if left.done():
                return
        await _send_event(send, {"msg": "done"})
        await send({"type": "http.response.body", "body": b"", "more_body": False})
    finally:
        left.cancel()


async def _leaves(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _send_event(send: Send, content: dict[str, Any]) -> None:
    line = f"data: {json.dumps(content)}\n\n".encode()
    await send({"type": "http.response.body", "body": line, "more_body": True})


def _upload_id(scope: Message) -> str:
    """Return the number that the page gave an upload, empty without one that can be used."""
    values = parse_qs(scope.get("query_string", b"").decode("latin-1")).get("upload_id", [])
    return values[0] if len(values) == 1 and _ID.fullmatch(values[0]) else ""
