"""The shapes of ASGI, and short answers in them. Knows nothing of what is asked."""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]


def header(scope: Message, name: bytes) -> bytes | None:
    """Return a header of a request by its name in lower case."""
    return next((value for key, value in scope["headers"] if key == name), None)


def route(scope: Message) -> str:
    """Return the path of a request below the path at which a proxy offers the page."""
    path: str = scope["path"]
    below = path.removeprefix(scope.get("root_path", "").rstrip("/")) or "/"
    return below if below.startswith("/") else path


async def drain(receive: Receive, *, most_bytes: int, most_s: float) -> bool:
    """Read the rest of a body and drop it, because a sender sees a refusal only when all was sent.

    Returns:
        Whether all was sent, rather than too much or too slowly.
    """
    end_s, read = time.monotonic() + most_s, 0
    while read <= most_bytes:
        try:
            message = await asyncio.wait_for(receive(), end_s - time.monotonic())
        except TimeoutError:
            return False
        read += len(message.get("body", b""))
        if message["type"] != "http.request" or not message.get("more_body", False):
            return True
    return False


async def answer(
    send: Send,
    status: int,
    body: bytes,
    *,
    kind: str = "application/json",
    headers: dict[str, str] | None = None,
) -> None:
    """Send a whole answer."""
    named = {"content-type": kind, "content-length": str(len(body)), "cache-control": "no-store"}
    pairs = [(name.encode(), value.encode()) for name, value in (named | (headers or {})).items()]
    await send({"type": "http.response.start", "status": status, "headers": pairs})
    await send({"type": "http.response.body", "body": body})


async def refuse(send: Send, status: int, sentence: str, *, headers: dict[str, str] | None = None) -> None:
    """Send a refusal the way FastAPI does, so that Gradio's page shows the sentence."""
    body = json.dumps({"detail": sentence}, ensure_ascii=False).encode()
    await answer(send, status, body, headers=headers)
