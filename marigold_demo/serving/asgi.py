"""The shapes of ASGI, and short answers in them. Knows nothing of what is asked."""

import json
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
