"""The server on loopback that `benchmarks/attacks.py` attacks, and what any visitor may ask of it."""

import contextlib
import html
import http.client
import io
import ipaddress
import os
import queue
import re
import socket
import subprocess
import sys
import threading
import time
from argparse import ArgumentTypeError
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import httpx
import numpy as np
import psutil
from PIL import Image

from benchmarks.rest_client import Page, RefusedError, Visit
from benchmarks.server import ROOT, app_running

T = TypeVar("T")
MB = 2**20

ANSWER_S = 12.0  # within which an attack must end in an answer: 10 s, and what a busy machine adds
HEALTH_S = 5.0  # within which /healthz must answer
ADDRESS_SPACE = 16 * 2**30  # bytes; the second limit of a server of the suite's own
BYSTANDER = 2  # 127.0.0.2
API = "/gradio_api"
HEAVY = {"steps": 50, "ensemble": 20}  # a run that takes minutes
OUR_SIDE = "our side"  # how the message for a bug is recognized

# Bounds that are low enough to be reached, or that keep the memory of ordinary visitors out of the figures.
CONFIGURED = {"MARIGOLD_VISITORS_MB": "64", "MARIGOLD_FINISHED_MB": "16", "MARIGOLD_METRICS": "on"}


class SilentError(Exception):
    """No answer within the time."""


@dataclass(frozen=True)
class Reply:
    """How a request for work ended: with a result, or with an error message."""

    words: str  # empty for a result
    seconds: float


@dataclass
class Target:
    """A server on loopback.

    Attributes:
        url: Its address.
        process: Its process, where it is known.
        log: What it wrote; None for a server that somebody else started.
    """

    url: str
    process: psutil.Process | None = None
    log: Path | None = None

    @property
    def is_own(self) -> bool:
        """Whether the suite started it, and may kill it."""
        return self.log is not None

    @property
    def where(self) -> tuple[str, int]:
        """Host and port."""
        parts = urlsplit(self.url)
        return parts.hostname or "", parts.port or 80

    @cached_property
    def page(self) -> Page:
        """Widgets and events."""
        with self.visit() as visit:
            return visit.open_page()

    @cached_property
    def photo_event(self) -> dict[str, Any]:
        """The event of the page that reads a photo."""
        return self.page.event(takes="photo", gives="photo-notes")

    def source(self, number: int = 1) -> str | None:
        """Return the loopback address of a visitor; None where the server is not on IPv4."""
        if ":" in self.where[0]:
            return None
        return f"127.0.{number // 250}.{1 + number % 250 if number >= 250 else number}"

    def visit(self, number: int = 1, *, timeout_s: float = 2 * ANSWER_S) -> Visit:
        """Come as the visitor with this number; each has an address of their own."""
        return Visit(self.url, address=self.source(number), timeout_s=timeout_s)

    def ask(self, method: str, path: str, *, number: int = 1, **sent: Any) -> httpx.Response:
        """Send one request over a connection of its own."""
        transport = httpx.HTTPTransport(local_address=self.source(number))
        with httpx.Client(
            base_url=self.url, transport=transport, timeout=ANSWER_S, trust_env=False
        ) as client:
            return client.request(method, path, **sent)

    def head(self, path: str, *, length: int | None = None, kind: str = "application/json") -> bytes:
        """Return the head of a POST for a bare connection."""
        lines = [f"POST {path} HTTP/1.1", f"Host: {urlsplit(self.url).netloc}", f"Content-Type: {kind}"]
        lines += [] if length is None else [f"Content-Length: {length}"]
        return "\r\n".join([*lines, "", ""]).encode()

    def get(self, path: str) -> bytes:
        """Return a GET for a bare connection."""
        return f"GET {path} HTTP/1.1\r\nHost: {urlsplit(self.url).netloc}\r\n\r\n".encode()

    def connect(self, number: int = 1, *, receive_bytes: int | None = None) -> socket.socket:
        """Open a bare connection."""
        family = socket.AF_INET6 if ":" in self.where[0] else socket.AF_INET
        connection = socket.socket(family, socket.SOCK_STREAM)
        connection.settimeout(ANSWER_S)
        if receive_bytes is not None:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        source = self.source(number)
        if source is not None:
            connection.bind((source, 0))
        connection.connect(self.where)
        return connection

    def healthz_s(self, number: int = BYSTANDER) -> float:
        """Return how long /healthz takes over a new connection.

        Raises:
            SilentError: No answer within twice the time allowed, or none at all.
        """
        began, source = time.monotonic(), self.source(number)
        connection = http.client.HTTPConnection(
            *self.where, timeout=2 * HEALTH_S, source_address=(source, 0) if source else None
        )
        try:
            connection.request("GET", "/healthz")
            connection.getresponse().read()
        except (OSError, http.client.HTTPException) as error:
            raise SilentError(type(error).__name__) from error
        finally:
            connection.close()
        return time.monotonic() - began

    @property
    def is_well(self) -> bool:
        """Whether it answers /healthz in time."""
        try:
            return self.healthz_s() < HEALTH_S
        except SilentError:
            return False

    def family(self) -> list[psutil.Process]:
        """Return the server's process and its children; empty where they are not known or gone."""
        if self.process is None:
            return []
        try:
            return [self.process, *self.process.children(recursive=True)]
        except psutil.Error:
            return []

    def memory(self) -> int:
        """Return the bytes that the server and its children hold."""
        held = 0
        for process in self.family():
            with contextlib.suppress(psutil.Error):
                held += process.memory_info().rss
        return held

    def kill(self) -> None:
        """Kill a server of the suite's own, with its children."""
        for process in reversed(self.family() if self.is_own else []):
            with contextlib.suppress(psutil.Error):
                process.kill()

    # -- what any visitor may ask for --

    def read_photo(self, data: bytes, *, name: str = "photo.jpg", number: int = 1) -> Reply:
        """Have a photo read by the page's own event.

        Raises:
            SilentError: No answer in time.
        """
        with self.visit(number) as visit:
            return self.open_photo(visit, visit.upload(name, data))

    def open_photo(self, visit: Visit, file: dict[str, Any], **more: Any) -> Reply:
        """Have the page's own event read what a file of Gradio names."""

        def work() -> str:
            outputs = visit.click(self.page, self.photo_event, photo=file | more)
            name = self.page.given(self.photo_event, outputs, "file-name")  # unchanged where it is refused
            return (
                "" if isinstance(name, str) else _plain(self.page.given(self.photo_event, outputs, "status"))
            )

        return replied(work)

    def read_depth(self, data: bytes, *, name: str = "depth.npz") -> Reply:
        """Have a depth file read by the endpoint for reliefs."""
        with self.visit() as visit:
            file = visit.upload(name, data)
            return replied(lambda: visit.request("relief", depth=file, resolution=128, width_mm=80) and "")

    def read_recipe(self, data: bytes, *, name: str = "recipe.json") -> Reply:
        """Have a recipe read by the page's own event."""
        event, widget = self.page.upload_event(".3mf")
        with self.visit() as visit:
            file = visit.upload(name, data)
            given = [file if each == widget else self.page.value(each, {}) for each in event["inputs"]]
            return replied(lambda: visit.trigger(event, given) and "")

    def depth(self, number: int = BYSTANDER, *, within_s: float) -> float:
        """Return how long a small depth takes, asked again while the queue is full.

        Raises:
            SilentError: There is none in time.
        """
        began = time.monotonic()
        with self.visit(number, timeout_s=within_s) as visit:
            photo = visit.upload("photo.png", picture(int(began * 1000)))
            small = {"steps": 1, "ensemble": 1, "resolution": 64}
            while time.monotonic() - began < within_s:
                left_s = within_s - (time.monotonic() - began)
                try:
                    within(left_s, lambda: visit.request("depth", photo=photo, **small))
                    return time.monotonic() - began
                except RefusedError:
                    time.sleep(1)
        raise SilentError("refused all the time")


def within(limit_s: float, work: Callable[[], T]) -> T:
    """Return what work returns, or give up on it.

    Raises:
        SilentError: It did not end in time, or the connection broke.
    """
    ended: queue.Queue[tuple[T | None, BaseException | None]] = queue.Queue()

    def run() -> None:
        try:
            ended.put((work(), None))
        except BaseException as error:
            ended.put((None, error))

    threading.Thread(target=run, daemon=True).start()
    try:
        value, error = ended.get(timeout=max(limit_s, 0.1))
    except queue.Empty:
        raise SilentError(f"no answer for {limit_s:.0f} s") from None
    if isinstance(error, httpx.HTTPError):
        raise SilentError(type(error).__name__) from error
    if error is not None:
        raise error
    return value  # type: ignore[return-value]


def replied(work: Callable[[], str], *, limit_s: float = ANSWER_S) -> Reply:
    """Run a request for work; its words are those of the refusal, or what it returns.

    Raises:
        SilentError: No answer in time.
    """
    began = time.monotonic()
    try:
        words = within(limit_s, work)
    except RefusedError as error:
        words = str(error) or "refused without a word"
    return Reply(words, time.monotonic() - began)


def wrong_with(answer: httpx.Response) -> str:
    """Return what is wrong with an answer to senseless input; empty for a refusal or a result."""
    if answer.status_code >= 500 and answer.status_code not in (503, 507):
        return f"{answer.status_code} {answer.text[:60]}"
    return "a bug, not a sentence" if OUR_SIDE in answer.text else ""


def picture(number: int, *, size: tuple[int, int] = (64, 48), kind: str = "PNG") -> bytes:
    """Return an ordinary picture that no other number has."""
    rng = np.random.default_rng(number)
    coarse = Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8))
    buffer = io.BytesIO()
    coarse.resize(size, Image.Resampling.BICUBIC).save(buffer, kind)
    return buffer.getvalue()


def _plain(status: object) -> str:
    """Return the words of the page's status line."""
    return " ".join(re.sub(r"<[^<>]*>", " ", html.unescape(str(status))).split()) or "no picture"


# -- servers --------------------------------------------------------------------------------------------


def checked(url: str) -> str:
    """Return an address that may be attacked: http, on loopback.

    Raises:
        ArgumentTypeError: It is another.
    """
    refusal = "only servers on loopback are attacked; give an address such as http://127.0.0.1:7860"
    try:
        parts = urlsplit(url if "//" in url else f"http://{url}")
        host, port = parts.hostname or "", parts.port
        is_here = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError as error:
        raise ArgumentTypeError(refusal) from error
    if parts.scheme != "http" or not is_here:
        raise ArgumentTypeError(refusal)
    host = "127.0.0.1" if host == "localhost" else f"[{host}]" if ":" in host else host
    return f"http://{host}:{port or 80}"


def found(url: str) -> Target:
    """Return a server that runs already, with its process where this user may see it."""
    port = urlsplit(url).port
    process = None
    with contextlib.suppress(psutil.Error):
        for connection in psutil.net_connections("tcp"):
            if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port and connection.pid:
                process = psutil.Process(connection.pid)
    return Target(url, process)


@contextlib.contextmanager
def started(folder: Path, configured: Mapping[str, str] | None = None) -> Iterator[Target]:
    """Run `app.py` with bounds that are low, until the block ends; then nothing of it is left."""
    known = _variables()
    chosen = {name: text for name, text in (CONFIGURED | dict(configured or {})).items() if name in known}
    with app_running(folder, configured=chosen) as (url, number):
        target = Target(url, psutil.Process(number), folder / "app.log")
        if hasattr(psutil, "RLIMIT_AS"):
            target.process.rlimit(psutil.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
        try:
            _warm(target)
            yield target
        finally:
            _end(target)


def _warm(target: Target) -> None:
    """Wait for the first checkpoint, and use what is loaded at its first use."""
    until = time.monotonic() + 120
    while target.ask("GET", "/healthz").status_code == 503 and time.monotonic() < until:
        time.sleep(0.2)
    for number in range(2):
        with contextlib.suppress(SilentError, RefusedError):  # a busy machine takes its time
            target.read_photo(picture(number, size=(3000, 2000), kind="JPEG"))
    with contextlib.suppress(SilentError):
        target.depth(within_s=60)


def _end(target: Target) -> None:
    """End a server: politely, or after some seconds at once."""
    family = target.family()
    with contextlib.suppress(psutil.Error):
        if family:
            family[0].terminate()
    _, left = psutil.wait_procs(family, timeout=6)
    for process in left:
        with contextlib.suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(left, timeout=5)


@cache
def _variables() -> set[str]:
    """Return the names of the variables that this version knows; one it does not would end its start."""
    listed = subprocess.run(
        [sys.executable, "-m", "marigold_demo", "config"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        env=os.environ | {"NO_COLOR": "1"},
    )
    return {word.strip("*") for word in listed.stdout.split() if word.strip("*").startswith("MARIGOLD_")}
