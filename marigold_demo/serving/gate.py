"""What of a request reaches the page: known paths, bounded bodies, a bounded rate. Knows nothing of events.

Gradio brings more paths than the page uses (proxies, development, monitoring, run history); what is not
listed here is not found. Bodies must declare their length, so one that is too large is never stored.
"""

import asyncio
import json
import logging
import math
import re
from typing import Any

from marigold_demo.io.private_folder import FileRoot
from marigold_demo.serving.asgi import App, Message, Receive, Send, drain, header, refuse, route
from marigold_demo.serving.configuration import Configuration
from marigold_demo.serving.journal import event
from marigold_demo.serving.metrics import Metrics
from marigold_demo.serving.rate import SEAL, Rate, seal, visitor_key

_log = logging.getLogger(__name__)
MB = 10**6
EVENT_BYTES = 2**20  # what the page sends with a click: keys, numbers, names of uploads
FRAME_BYTES = 2**16  # what a form adds to its files
DRAIN_S = 30.0  # how long the rest of a body is waited for that is not taken
EVENT_S = 40.0  # how long what comes with a click may take to arrive
WORK = r"/gradio_api/(queue/join|call/.+|run/.+|api/.+)"
UPLOAD = r"/gradio_api/upload"
MCP = r"/gradio_api/mcp(/.*)?"
PATHS = {
    "GET": (
        r"/|/config|/theme\.css|/robots\.txt|/favicon\.ico|/manifest\.json|/pwa_icon(/\d+)?"
        r"|/(assets|static|svelte)/.+"
        r"|/gradio_api/(info|openapi\.json|theme\.css|startup-events|app_id|upload_progress|heartbeat/.+)"
        rf"|/gradio_api/(queue/(data|status)|call/.+|file=.+|file/.+)|{MCP}"
    ),
    "POST": rf"{UPLOAD}|{WORK}|/gradio_api/(cancel|reset)|{MCP}",
    "DELETE": MCP,
}
PATHS["HEAD"] = PATHS["GET"]


class Gate:
    """ASGI middleware that lets through what the page and its endpoints need."""

    def __init__(self, app: App, *, configuration: Configuration, metrics: Metrics, root: FileRoot) -> None:
        self._app, self._metrics, self._root = app, metrics, root
        self._upload_mb = configuration.upload_mb
        self._rate = Rate(configuration.requests_per_minute) if configuration.requests_per_minute else None

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it with a sentence."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path = route(scope).rstrip("/") or "/"
        if not _is_known(scope["method"], path):
            await self._refuse(send, 404, "Not Found", reason="path")
        elif self._rate and (wait_s := self._wait_s(scope, path)):
            sentence = f"That was a lot at once; wait {wait_s} s and try again."
            await self._refuse(send, 429, sentence, reason="rate", headers={"retry-after": str(wait_s)})
        elif scope["method"] != "POST":
            await self._app(scope, receive, send)
        else:
            await self._post(path, scope, receive, send)

    async def _post(self, path: str, scope: Message, receive: Receive, send: Send) -> None:
        length = header(scope, b"content-length") or b""
        most, told = self._most(path)
        if not length.isdigit():
            await self._refuse(send, 411, "A request must say how long it is.", reason="length")
        elif int(length) > most:
            await drain(receive, most_bytes=2 * most, most_s=DRAIN_S)
            await self._refuse(send, 413, f"This is too large; at most {told} are taken.", reason="size")
        elif re.fullmatch(UPLOAD, path):
            await self._app(scope, receive, send)
        elif re.fullmatch(MCP, path):
            await self._app(_sealed(scope), receive, send)
        else:
            try:
                async with asyncio.timeout(EVENT_S):
                    body = await _read(receive)
            except TimeoutError:
                late = "The request did not arrive in time; try again."
                await self._refuse(send, 408, late, reason="late", headers={"connection": "close"})
                return
            if sentence := _wrong_with(body, self._root):
                await self._refuse(send, 400, sentence, reason="body")
            else:
                await self._app(scope, _again(body, receive), send)

    def _most(self, path: str) -> tuple[int, str]:
        """Return how many bytes a path takes, and that in words."""
        if re.fullmatch(UPLOAD, path):
            return self._upload_mb * MB + FRAME_BYTES, f"{self._upload_mb} MB"
        if re.fullmatch(MCP, path):  # files travel inside, as base64
            return self._upload_mb * MB * 4 // 3 + FRAME_BYTES, f"{self._upload_mb} MB"
        return EVENT_BYTES, "1 MB"

    def _wait_s(self, scope: Message, path: str) -> int:
        if self._rate is None or scope["method"] != "POST":
            return 0
        if not re.fullmatch(f"{UPLOAD}|{WORK}|{MCP}", path):
            return 0
        return self._rate.wait_s((scope.get("client") or ("", 0))[0])

    async def _refuse(
        self, send: Send, status: int, sentence: str, *, reason: str, headers: dict[str, str] | None = None
    ) -> None:
        self._metrics.refused.labels(reason).inc()
        event(_log, "refused", level=logging.DEBUG, reason=reason)
        await refuse(send, status, sentence, headers=headers)


def _is_known(method: str, path: str) -> bool:
    fetches = re.match(r"/gradio_api/file[=/]\s*https?:", path, re.IGNORECASE)
    return not fetches and re.fullmatch(PATHS.get(method, "(?!)"), path) is not None


def _sealed(scope: Message) -> Message:
    """Return a request with the visitor it is made for: Gradio repeats its headers in a call to itself."""
    others = [(name, value) for name, value in scope["headers"] if name != SEAL.encode()]
    visitor = visitor_key((scope.get("client") or ("", 0))[0])
    return {**scope, "headers": [*others, (SEAL.encode(), seal(visitor).encode())]}


async def _read(receive: Receive) -> bytes:
    parts, more = [], True
    while more:
        message = await receive()
        parts.append(message.get("body", b""))
        more = message["type"] == "http.request" and message.get("more_body", False)
    return b"".join(parts)


def _again(body: bytes, receive: Receive) -> Receive:
    """Return a `receive` that gives a body that was read already."""
    given = False

    async def again() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again


def _wrong_with(body: bytes, root: FileRoot) -> str:
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
