"""Where the server listens, and which host names and origins its requests may have.

Sockets are bound first, so that a port in use is known at once. A web page of another site must not use the
server through its visitor's browser. Three things prevent it: the host name must be one of this server (a
foreign name that is made to point here is refused), requests that change something must come from a page of
this server, and other pages get no permission to read answers.
"""

import errno
import ipaddress
import socket
from contextlib import ExitStack
from dataclasses import dataclass
from urllib.parse import urlsplit

from starlette.datastructures import MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from marigold_demo.errors import DemoError
from marigold_demo.serving.config import Configuration, is_loopback
from marigold_demo.serving.http import AUTHORITY, NO_STORE, header, host_header, refusal
from marigold_demo.serving.middleware import HEADERS
from marigold_demo.serving.monitor import Metrics

FIRST_PORT, PORTS = 7860, 100  # tried when no port was chosen
BACKLOG = 1024  # connections that the system holds ready
READING = ("GET", "HEAD", "OPTIONS")
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


class AddressError(DemoError):
    """The server cannot listen where it should."""


@dataclass(frozen=True)
class Place:
    """Sockets that the server listens on, and where it is found."""

    sockets: tuple[socket.socket, ...]
    host: str  # as it stands in a URL
    port: int

    @property
    def url(self) -> str:
        """The address of the page on this machine, with a slash at its end."""
        return f"http://{self.host}:{self.port}/"

    @property
    def addresses(self) -> list[str]:
        """The addresses that are bound."""
        return [str(bound.getsockname()[0]) for bound in self.sockets]

    def close(self) -> None:
        """Listen no longer."""
        for bound in self.sockets:
            bound.close()


def listen(name: str, port: int | None) -> Place:
    """Listen on a host name or address, IPv6 with or without brackets.

    Args:
        name: All its addresses are taken; that of all IPv6 addresses stands for those of IPv4 too.
        port: None: the first one from 7860 on that is free; 0: any.

    Raises:
        AddressError: There is no such name, or its port is in use.
    """
    addresses = _addresses(name)
    if port is not None:
        return _place(name, port, addresses)
    for candidate in range(FIRST_PORT, FIRST_PORT + PORTS):
        try:
            return _place(name, candidate, addresses)
        except _InUseError:
            continue
    raise AddressError(
        f"All ports from {FIRST_PORT} to {FIRST_PORT + PORTS - 1} are in use; "
        "set GRADIO_SERVER_PORT to a free one."
    )


class _InUseError(AddressError):
    pass


def _addresses(name: str) -> list[tuple[socket.AddressFamily, str, int]]:
    """Return family, address and IPv6 zone of all addresses of a name."""
    plain = name.strip("[]")
    try:
        found = socket.getaddrinfo(plain, None, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        raise AddressError(
            f"GRADIO_SERVER_NAME is {name!r}, and this machine knows no address of that name; "
            "choose one of its addresses, such as 127.0.0.1 or ::1."
        ) from error
    addresses = [
        (family, str(place[0]), int(place[3]) if len(place) == 4 else 0) for family, _, _, _, place in found
    ]
    if any(address == "::" for _, address, _ in addresses):
        addresses.append((socket.AF_INET, "0.0.0.0", 0))
    return list(dict.fromkeys(addresses))


def _place(name: str, port: int, addresses: list[tuple[socket.AddressFamily, str, int]]) -> Place:
    sockets: list[socket.socket] = []
    with ExitStack() as on_error:
        for family, address, zone in addresses:
            try:
                bound = _bound(family, address, port, zone)
            except OSError as error:
                if error.errno in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT) and len(addresses) > 1:
                    continue  # of a name with several addresses one is enough
                raise _sentence(name, port, error) from error
            on_error.callback(bound.close)
            sockets.append(bound)
            port = port or bound.getsockname()[1]
        if not sockets:
            raise _sentence(name, port, OSError(errno.EADDRNOTAVAIL, ""))
        on_error.pop_all()
    return Place(tuple(sockets), _in_url(name, sockets), port)


def _bound(family: socket.AddressFamily, address: str, port: int, zone: int) -> socket.socket:
    # With the protocol named, asyncio turns off Nagle's algorithm, which holds each body back for 40 ms.
    bound = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        bound.bind((address, port, 0, zone) if family == socket.AF_INET6 else (address, port))
        bound.listen(BACKLOG)  # only who listens keeps others from the port
    except OSError:
        bound.close()
        raise
    return bound


def _sentence(name: str, port: int, error: OSError) -> AddressError:
    if error.errno == errno.EADDRINUSE:
        return _InUseError(
            f"Port {port} is in use; end the program that has it, or set GRADIO_SERVER_PORT to another port."
        )
    if error.errno in (errno.EACCES, errno.EPERM):
        return AddressError(
            f"This user may not listen on port {port}; set GRADIO_SERVER_PORT to a port from 1024 on."
        )
    if error.errno in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
        return AddressError(
            f"GRADIO_SERVER_NAME is {name!r}, which is no address of this machine; "
            "choose one of its addresses, such as 127.0.0.1 or ::1."
        )
    return AddressError(f"The server cannot listen on {name!r}: {error.strerror}.")


def _in_url(name: str, sockets: list[socket.socket]) -> str:
    """Return how the page is reached from this machine."""
    plain = name.strip("[]")
    try:
        address = ipaddress.ip_address(plain)
    except ValueError:
        return plain
    if address.is_unspecified:
        has_v4 = any(bound.family == socket.AF_INET for bound in sockets)
        return "127.0.0.1" if has_v4 else "[::1]"
    return f"[{plain.replace('%', '%25')}]" if address.version == 6 else plain


# Host names and origins of requests ----------------------------------------------------------------------


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
        """Return whether a name of a Host header is one of this server."""
        name = _plain(name)
        if self._any or name in self._own or is_loopback(name) or name.endswith(".localhost"):
            return True
        return self.is_named(name) or (self._is_everywhere and _is_address(name))

    def is_named(self, name: str) -> bool:
        """Return whether a name was configured, itself or by its domain (*.example.org)."""
        name = _plain(name)
        _, _, domain = name.partition(".")
        return name in self._named or f"*.{domain}" in self._named


class HeadCheck:
    """ASGI middleware, the outermost: it refuses requests that no page or program of this server sends."""

    def __init__(self, app: ASGIApp, *, hosts: Hosts, metrics: Metrics) -> None:
        self._app, self._hosts, self._metrics = app, hosts, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it with a sentence."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if problem := self._problem(scope):
            status, sentence, reason = problem
            self._metrics.record_refusal(reason)
            closing = {"connection": "close"} if reason == "length" else {}
            await refusal(status, sentence, HEADERS | closing)(scope, receive, send)
            return
        origin = (header(scope, b"origin") or b"").decode("latin-1")
        # Gradio would answer other pages as if they were its own; and it believes this header of anybody.
        hidden = (b"origin", b"x-gradio-server")
        scope["headers"] = [pair for pair in scope["headers"] if pair[0] not in hidden]
        if not origin or not self._may_read(origin):
            await self._app(scope, receive, send)
        elif scope["method"] == "OPTIONS":
            permission = _for(origin) | PERMITTED | HEADERS | NO_STORE
            await Response(status_code=204, headers=permission)(scope, receive, send)
        else:
            await self._app(scope, receive, _with_headers(send, _for(origin)))

    def _problem(self, scope: Scope) -> tuple[int, str, str] | None:
        """Return status, sentence and reason of a refusal."""
        if header(scope, b"transfer-encoding") is not None:
            # Two lengths, or one that HTTP/1.0 does not know: a proxy in front may have read another request.
            if header(scope, b"content-length") is not None or scope.get("http_version") == "1.0":
                return 400, _LENGTH, "length"
        forwarded = (header(scope, b"x-forwarded-host") or b"").decode("latin-1").partition(",")[0].strip()
        hosts = [name for name in (host_header(scope), forwarded) if name]
        for host in hosts:
            parsed = AUTHORITY.fullmatch(host)
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
        """Return whether the pages of an origin were permitted by name."""
        scheme, _, authority = origin.partition("://")
        parsed = AUTHORITY.fullmatch(authority)
        return parsed is not None and scheme in _PORTS and self._hosts.is_named(parsed[1])


def _is_same(origin: str, host: str) -> bool:
    """Return whether an origin is that of a page on a host: the same name and port."""
    scheme, _, authority = origin.partition("://")
    ours, theirs, port = AUTHORITY.fullmatch(host), AUTHORITY.fullmatch(authority), _PORTS.get(scheme)
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
            MutableHeaders(scope=message).update(added)
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
