"""Receives the page's uploads and reports their progress, in place of Gradio's routes.

A form is parsed as it comes, within bounds: files go to disk, what else is in it is counted and dropped. What
does not fit on the disk, stands still or breaks off leaves nothing behind.
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
from itertools import groupby
from typing import Any
from urllib.parse import parse_qs

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from marigold_demo.io.cache_folder import CacheFolder, DiskFullError, Upload, safe_name
from marigold_demo.serving.http import (
    NO_STORE,
    client_address,
    drain,
    header,
    household,
    refusal,
    route,
)
from marigold_demo.serving.monitor import Metrics

UPLOAD, PROGRESS = "/gradio_api/upload", "/gradio_api/upload_progress"
IDLE_S = 30.0  # without a byte, after which an upload is given up
FIRST_S, LEAST_BYTES_PER_S = 60.0, 10_000  # an upload may take this long, and longer at this speed
MOST_AT_ONCE, MOST_OF_ONE = 64, 16  # uploads, and those of one address; each holds less than 1 MB of memory
WAIT_S = 10.0  # until there is room among them
BUFFER_BYTES = 2**18  # kept in memory before they are written
TURN_EVERY_S, REPORT_EVERY_S, FOUND_WITHIN_S, KNOWN_MOST = 0.02, 0.1, 3.0, 4 * MOST_AT_ONCE
MOST_FILES, MOST_FIELD_BYTES, MOST_BOUNDARY_BYTES = 64, 2**16, 200
NO_FORM = "This is no form with files in its field “files”; choose the file again."

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

    def __init__(self, app: ASGIApp, *, cache: CacheFolder, metrics: Metrics) -> None:
        self._app, self._cache, self._metrics = app, cache, metrics
        self._at_once: Counter[str] = Counter()  # uploads that are under way, by address
        self.known: OrderedDict[str, _Progress] = OrderedDict()
        logging.getLogger("python_multipart").setLevel(logging.CRITICAL)  # it quotes what visitors send

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Take an upload, report one, or pass the request on."""
        asked = (scope["method"], route(scope).rstrip("/")) if scope["type"] == "http" else ("", "")
        if asked == ("POST", UPLOAD):
            await self._answer(scope, receive, send)
        elif asked == ("GET", PROGRESS):
            progress = await self._progress(_upload_id(scope))
            if progress is None:
                await refusal(404, "Not Found")(scope, receive, send)
            else:
                await _report(progress, receive, send)
        else:
            await self._app(scope, receive, send)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        progress, body = _Progress(), _Body(receive, int(header(scope, b"content-length") or 0))
        self._remember(_upload_id(scope), progress)
        try:
            form = UploadForm(header(scope, b"content-type") or b"", progress.received)
            async with self._turn(household(client_address(scope))):
                paths = await self._take(form, body)
            await JSONResponse(paths, headers=NO_STORE)(scope, receive, send)
        except _SenderLeftError:
            pass
        except (UploadError, DiskFullError) as error:
            refused = error if isinstance(error, UploadError) else UploadError(507, str(error), "disk")
            self._metrics.record_refusal(refused.reason)
            await body.drain()
            headers = {} if body.is_read else {"connection": "close"}
            await refusal(refused.status, str(refused), headers, as_text=True)(scope, receive, send)
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

    async def _take(self, form: "UploadForm", body: "_Body") -> list[str]:
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
            self.known[upload_id] = progress
            while len(self.known) > KNOWN_MOST:
                self.known.popitem(last=False)

    async def _progress(self, upload_id: str) -> _Progress | None:
        """Return how far an upload is; the page may ask a little before it sends."""
        for _ in range(round(FOUND_WITHIN_S / REPORT_EVERY_S) if upload_id else 0):
            if upload_id in self.known:
                return self.known[upload_id]
            await asyncio.sleep(REPORT_EVERY_S)
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
            self.is_read = await drain(self._receive, max_bytes=self.length, max_s=IDLE_S)


async def _report(progress: _Progress, receive: Receive, send: Send) -> None:
    """Send how far an upload is as server-sent events, in the words of Gradio's page."""
    headers = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-store")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    left = asyncio.ensure_future(_leaves(receive))
    reported: dict[str, int] = {}
    try:
        while not (progress.is_over and reported == progress.received):
            for name, size_bytes in list(progress.received.items()):
                news = {"msg": "update", "orig_name": name, "chunk_size": size_bytes - reported.get(name, 0)}
                if news["chunk_size"]:
                    await _send_event(send, news)
                reported[name] = size_bytes
            await asyncio.wait([left], timeout=REPORT_EVERY_S)
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


def _upload_id(scope: Scope) -> str:
    """Return the number that the page gave an upload, empty without one that can be used."""
    values = parse_qs(scope.get("query_string", b"").decode("latin-1")).get("upload_id", [])
    return values[0] if len(values) == 1 and _ID.fullmatch(values[0]) else ""


class UploadError(Exception):
    """An upload is not taken; the message is for its sender.

    Attributes:
        status: Of the answer, as HTTP has them.
        reason: For metrics.
    """

    def __init__(self, status: int, sentence: str, reason: str) -> None:
        super().__init__(sentence)
        self.status, self.reason = status, reason


class UploadForm:
    """Parses a multipart form: files wait to be written, other fields are counted and dropped."""

    def __init__(self, content_type: bytes, received: dict[str, int]) -> None:
        """Begin to parse.

        Args:
            content_type: The header of the request.
            received: Takes the bytes of each file by the name it was sent with.

        Raises:
            UploadError: It is no form.
        """
        self.is_whole, self.waiting_bytes = False, 0
        self._received = received
        self._waiting: list[str | bytes] = []  # the name of a file, then its bytes
        self._file: str | None = None  # its name as it was sent; None: another field
        self._files, self._field_bytes = 0, 0
        self._header, self._value, self._disposition = b"", b"", b""
        self._parser = MultipartParser(
            _boundary(content_type),
            {
                "on_part_begin": self._on_part,
                "on_header_field": self._on_header,
                "on_header_value": self._on_value,
                "on_header_end": self._on_header_end,
                "on_headers_finished": self._on_headers,
                "on_part_data": self._on_data,
                "on_end": self._on_end,
            },
        )

    def feed(self, data: bytes) -> None:
        """Parse the next bytes.

        Raises:
            UploadError: They are no form, or it holds too much.
        """
        try:
            self._parser.write(data)
        except FormParserError as error:
            raise UploadError(400, NO_FORM, "form") from error

    def write_to(self, upload: Upload) -> None:
        """Write what waits.

        Raises:
            DiskFullError: There is no room for it.
        """
        waiting, self._waiting, self.waiting_bytes = self._waiting, [], 0
        for is_name, group in groupby(waiting, key=lambda item: isinstance(item, str)):
            if is_name:
                for name in group:
                    upload.begin(str(name))
            else:
                upload.write(b"".join(data for data in group if isinstance(data, bytes)))

    def _on_part(self) -> None:
        self._header, self._value, self._disposition = b"", b"", b""

    def _on_header(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def _on_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _on_header_end(self) -> None:
        if self._header.lower() == b"content-disposition":
            self._disposition = self._value
        self._header = self._value = b""

    def _on_headers(self) -> None:
        _, options = parse_options_header(self._disposition)
        is_files, sent = options.get(b"name") == b"files", options.get(b"filename")
        if (sent is not None) != is_files or b"name" not in options:
            raise UploadError(400, NO_FORM, "form")
        self._file = None if sent is None else _decoded(sent)
        if self._file is not None:
            self._files += 1
            if self._files > MOST_FILES:
                raise UploadError(413, f"At most {MOST_FILES} files are taken at once.", "size")
            self._waiting.append(safe_name(self._file))

    def _on_data(self, data: bytes, start: int, end: int) -> None:
        if self._file is None:
            self._field_bytes += end - start
            if self._field_bytes > MOST_FIELD_BYTES:
                raise UploadError(413, "A field of this form is too long; send files only.", "size")
        else:
            self._waiting.append(data[start:end])
            self.waiting_bytes += end - start
            self._received[self._file] = self._received.get(self._file, 0) + end - start

    def _on_end(self) -> None:
        self.is_whole = True


def _boundary(content_type: bytes) -> bytes:
    """Return what separates the parts of the form that a request is.

    Raises:
        UploadError: It is no form.
    """
    kind, options = parse_options_header(content_type)
    boundary = options.get(b"boundary", b"")
    if kind != b"multipart/form-data" or not 0 < len(boundary) <= MOST_BOUNDARY_BYTES:
        raise UploadError(400, NO_FORM, "form")
    return boundary


def _decoded(name: bytes) -> str:
    try:
        return name.decode()
    except UnicodeDecodeError:
        return name.decode("latin-1")
