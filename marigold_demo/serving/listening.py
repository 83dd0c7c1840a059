"""Where the server listens, and the server itself: sockets first, so that a port in use is known at once."""

import asyncio
import errno
import ipaddress
import socket
import threading
import time
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import uvicorn

from marigold_demo.errors import DemoError
from marigold_demo.serving.asgi import App
from marigold_demo.serving.connections import Connection, Connections
from marigold_demo.serving.ending import GRACE_S

FIRST_PORT, PORTS = 7860, 100  # where to look when no port was chosen
BACKLOG, ACCEPTED_AT_ONCE = 1024, 128  # connections that the system holds ready, and that are taken in one go
START_S = 60.0


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
    bound = socket.socket(family, socket.SOCK_STREAM)
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


class Server(uvicorn.Server):
    """uvicorn in a thread, on sockets that listen already, with bounded connections."""

    def __init__(self, app: App, place: Place, *, bounds: Connections, trusted_proxies: str) -> None:
        protocol: Any = partial(Connection, bounds=bounds)
        config = uvicorn.Config(
            app,
            http=protocol,
            ws="none",  # no page of ours uses them
            log_level="warning",
            backlog=ACCEPTED_AT_ONCE,
            forwarded_allow_ips=trusted_proxies,
            server_header=False,
        )
        super().__init__(config)
        self._place, self._bounds = place, bounds
        self._thread = threading.Thread(target=self.run, args=(list(place.sockets),), daemon=True)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to take connections."""
        asyncio.get_running_loop().set_exception_handler(self._without_descriptors)
        await super().startup(sockets)
        for bound in self._place.sockets:
            bound.listen(BACKLOG)  # asyncio takes one number for both

    def _without_descriptors(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Let idle connections go where the process has no descriptor left for a new one."""
        error = context.get("exception")
        if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
            self._bounds.make_room()
        loop.default_exception_handler(context)

    def begin(self) -> None:
        """Return when the server answers.

        Raises:
            AddressError: It does not begin.
        """
        self._thread.start()
        end_s = time.monotonic() + START_S
        while not self.started:
            if not self._thread.is_alive() or time.monotonic() > end_s:
                raise AddressError("The server did not begin to answer.")
            time.sleep(0.002)

    def close(self) -> None:
        """End the server, with a few seconds for what is under way."""
        self.should_exit = True
        self._thread.join(timeout=GRACE_S + 2)
