"""What the head of a request must be before anything else sees it: its length, host and origin.

A web page of another site must not use a server through its visitor's browser. Three things prevent it: the
host name must be one of this server (a foreign name that is made to point here is refused), requests that
change something must come from a page of this server, and other pages get no permission to read answers.
"""

import ipaddress
import logging
import re
import socket
from urllib.parse import urlsplit

from marigold_demo.serving.asgi import App, Message, Receive, Send, answer, header, refuse
from marigold_demo.serving.configuration import Configuration, is_loopback
from marigold_demo.serving.headers import HEADERS
from marigold_demo.serving.journal import event
from marigold_demo.serving.metrics import Metrics

READING = ("GET", "HEAD", "OPTIONS")
_AUTHORITY = re.compile(r"(\[[0-9a-fA-F:.]{2,45}\]|[A-Za-z0-9_.-]{1,253})(?::(\d{1,5}))?")
_PORTS = {"http": 80, "https": 443}
PERMITTED = {
    "access-control-allow-methods": "GET, POST, DELETE",
    "access-control-allow-headers": "*, authorization",
    "access-control-max-age": "600",
}

_LENGTH = "A request must say its length in one way only."
_MALFORMED = "The host name of this request cannot be read."
_NOT_OURS = (
    "This server does not answer to that host name. Whoever runs it can add the name to MARIGOLD_HOSTS."
)
_FOREIGN = (
    "This request comes from a page of another site. Whoever runs this server can add the site to"
    " MARIGOLD_HOSTS."
)

_log = logging.getLogger(__name__)


class Hosts:
    """The host names of one server."""

    def __init__(self, configuration: Configuration) -> None:
        self._any = "*" in configuration.host_names
        self._named = {_plain(name) for name in configuration.host_names}
        bound = configuration.server_name
        self._own = {_plain(bound)}
        self._is_everywhere = False
        if not is_loopback(bound):
            machine = socket.gethostname().lower()
            self._own |= {machine, machine.partition(".")[0], f"{machine.partition('.')[0]}.local"}
            self._is_everywhere = _is_unspecified(bound)
        if configuration.root_path.startswith("http"):
            self.add(configuration.root_path)

    def add(self, url: str) -> None:
        """Take the host of an address under which the page is offered as one of this server."""
        self._named.add(_plain(urlsplit(url).hostname or ""))

    def add_bound(self, address: str) -> None:
        """Take an address that the server listens on as one of its own."""
        self._own.add(_plain(address))

    def has(self, name: str) -> bool:
        """Tell whether a name of a Host header is one of this server."""
        name = _plain(name)
        if self._any or name in self._own or is_loopback(name) or name.endswith(".localhost"):
            return True
        return self.is_named(name) or (self._is_everywhere and _is_address(name))

    def is_named(self, name: str) -> bool:
        """Tell whether a name was configured, itself or by its domain (*.example.org)."""
        name = _plain(name)
        _, _, domain = name.partition(".")
        return name in self._named or f"*.{domain}" in self._named


class HeadCheck:
    """ASGI middleware, the outermost: it refuses requests that no page or program of this server sends."""

    def __init__(self, app: App, *, hosts: Hosts, metrics: Metrics) -> None:
        self._app, self._hosts, self._metrics = app, hosts, metrics

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it with a sentence."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if problem := self._problem(scope):
            status, sentence, reason = problem
            self._metrics.refused.labels(reason).inc()
            event(_log, "refused", level=logging.DEBUG, reason=reason)
            closing = {"connection": "close"} if reason == "length" else {}
            await refuse(send, status, sentence, headers=HEADERS | closing)
            return
        origin = (header(scope, b"origin") or b"").decode("latin-1")
        # Gradio would answer other pages as if they were its own; and it believes this header of anybody.
        hidden = (b"origin", b"x-gradio-server")
        scope["headers"] = [pair for pair in scope["headers"] if pair[0] not in hidden]
        if not origin or not self._may_read(origin):
            await self._app(scope, receive, send)
        elif scope["method"] == "OPTIONS":
            await answer(send, 204, b"", headers=_for(origin) | PERMITTED | HEADERS)
        else:
            await self._app(scope, receive, _with_headers(send, _for(origin)))

    def _problem(self, scope: Message) -> tuple[int, str, str] | None:
        """Return status, sentence and reason of a refusal."""
        if header(scope, b"transfer-encoding") is not None:
            # Two lengths, or one that HTTP/1.0 does not know: a proxy in front may have read another request.
            if header(scope, b"content-length") is not None or scope.get("http_version") == "1.0":
                return 400, _LENGTH, "length"
        forwarded = (header(scope, b"x-forwarded-host") or b"").decode("latin-1").partition(",")[0].strip()
        hosts = [name for name in (_host(scope), forwarded) if name]
        for host in hosts:
            parsed = _AUTHORITY.fullmatch(host)
            if parsed is None:
                return 400, _MALFORMED, "host"
            if not self._hosts.has(parsed[1]):
                return 421, _NOT_OURS, "host"
        origin = (header(scope, b"origin") or b"").decode("latin-1")
        if origin and scope["method"] not in READING:
            same = any(_is_same(origin, host) for host in hosts)
            if not same and not self._may_read(origin):
                return 403, _FOREIGN, "origin"
        return None

    def _may_read(self, origin: str) -> bool:
        """Tell whether the pages of an origin were permitted by name."""
        scheme, _, authority = origin.partition("://")
        parsed = _AUTHORITY.fullmatch(authority)
        return parsed is not None and scheme in _PORTS and self._hosts.is_named(parsed[1])


def host_name(scope: Message) -> str:
    """Return the name or address in the Host header without its port; empty where there is none to read."""
    parsed = _AUTHORITY.fullmatch(_host(scope))
    return parsed[1] if parsed else ""


def _host(scope: Message) -> str:
    return (header(scope, b"host") or b"").decode("latin-1").strip()


def _is_same(origin: str, host: str) -> bool:
    """Tell whether an origin is that of a page on a host: the same name and port."""
    scheme, _, authority = origin.partition("://")
    ours, theirs, port = _AUTHORITY.fullmatch(host), _AUTHORITY.fullmatch(authority), _PORTS.get(scheme)
    if ours is None or theirs is None or port is None:
        return False
    return (_plain(ours[1]), int(ours[2] or port)) == (_plain(theirs[1]), int(theirs[2] or port))


def _for(origin: str) -> dict[str, str]:
    """Return the headers that let pages of an origin read an answer, without credentials."""
    allowed = {"access-control-allow-origin": origin, "access-control-expose-headers": "*"}
    return allowed | {"vary": "Origin"}


def _with_headers(send: Send, added: dict[str, str]) -> Send:
    async def complete(message: Message) -> None:
        if message["type"] == "http.response.start":
            pairs = [(name.encode(), value.encode("latin-1")) for name, value in added.items()]
            message["headers"] = [*message["headers"], *pairs]
        await send(message)

    return complete


def _plain(name: str) -> str:
    return name.strip("[]").lower().removesuffix(".")


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _is_unspecified(name: str) -> bool:
    return _is_address(_plain(name)) and ipaddress.ip_address(_plain(name)).is_unspecified
