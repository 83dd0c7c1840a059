"""Requests and visitors as the middleware reads them: headers, short answers, visitor keys, the rate limit.

Visitors are identified by a keyed hash of their address; the key is random and never leaves this process. An
IPv6 visitor is a network of 64 bits, which is what one household gets.
"""

import asyncio
import hashlib
import hmac
import ipaddress
import math
import re
import secrets
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from functools import cache

from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.types import Message, Receive, Scope

AUTHORITY = re.compile(r"(\[[0-9a-fA-F:.]{2,45}\]|[A-Za-z0-9_.-]{1,253})(?::(\d{1,5}))?")
NO_STORE = {"cache-control": "no-store"}
VISITOR_HEADER = "x-marigold-visitor"  # of requests that the server makes to itself for a visitor
WINDOW_S = 60.0
MAX_VISITORS = 10_000  # the one who was silent longest is forgotten first


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
