"""Who a visitor is, and how often one may ask: a sliding window in memory. Knows nothing of requests.

Visitors are told apart by a hash of their address with a salt that this process made up and never tells;
an IPv6 visitor is the network of 64 bits, which is what one household gets.
"""

import hashlib
import hmac
import ipaddress
import math
import secrets
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from functools import cache

SEAL = "x-marigold-visitor"  # header of requests that the server makes to itself for a visitor
WINDOW_S = 60.0
MOST_VISITORS = 10_000  # the one who was silent longest is forgotten first


class Rate:
    """Counts requests for work."""

    def __init__(self, per_minute: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_minute, self._clock = per_minute, clock
        self._asked: OrderedDict[str, deque[float]] = OrderedDict()

    def wait_s(self, address: str) -> int:
        """Count a request and return 0, or return after how many seconds the visitor may ask again."""
        now_s, visitor = self._clock(), visitor_key(address)
        asked = self._asked.setdefault(visitor, deque())
        self._asked.move_to_end(visitor)
        while len(self._asked) > MOST_VISITORS:
            self._asked.popitem(last=False)
        while asked and asked[0] <= now_s - WINDOW_S:
            asked.popleft()
        if len(asked) >= self._per_minute:
            return max(1, math.ceil(asked[0] + WINDOW_S - now_s))
        asked.append(now_s)
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
    """Return what tells this visitor from others: 32 hexadecimal digits that do not tell the address."""
    return _hash(household(address))


def seal(key: str) -> str:
    """Return a visitor's key as this process sends it to itself; nobody else can make one."""
    return f"{key}-{_hash(f'seal {key}')}"


def visitor_of(address: str, sealed: str = "") -> str:
    """Return the key of the visitor that a request is made for.

    Args:
        address: Where the request came from.
        sealed: Its header `SEAL`; one that this process did not make counts for nothing.
    """
    key = sealed.partition("-")[0]
    made_here = key and hmac.compare_digest(sealed.encode(), seal(key).encode())
    return key if made_here else visitor_key(address)


def _hash(text: str) -> str:
    return hashlib.blake2b(text.encode(), key=_salt(), digest_size=16).hexdigest()


@cache
def _salt() -> bytes:
    return secrets.token_bytes(16)
