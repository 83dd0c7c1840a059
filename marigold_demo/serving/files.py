"""Sends files below the folder of uploads and results, in place of Gradio's route.

Gradio resolves links before it holds a path against that folder, so /proc/self/fd/N led to whatever the
process had open. Here a path is taken as it is written, and the file is sent from the descriptor that was
checked. What cannot be sent is "not found", whatever the reason.
"""

import asyncio
import mimetypes
import os
import re
from email.utils import formatdate
from urllib.parse import quote

from starlette.types import ASGIApp, Receive, Scope, Send

from marigold_demo.io.private_folder import FileRoot
from marigold_demo.serving.requests import header, refusal, route

PREFIXES = ("/gradio_api/file=", "/gradio_api/file/")
CHUNK_BYTES = 2**18
# What a browser may show in the page's name; everything else is a download, so that no script in it runs.
SHOWN = {
    "image/jpeg", "image/png", "image/gif", "image/webp", "image/avif",
    "text/plain", "application/json",
}  # fmt: skip
# What Gradio would compress anew for each request, and ranges of it wrongly, unless an encoding is named.
_TEXTS = (".html", ".htm", ".js", ".css", ".json", ".md", ".txt", ".csv", ".tsv", ".xml", ".svg")
_RANGE = re.compile(rb"bytes=([0-9]{0,18})-([0-9]{0,18})")


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
