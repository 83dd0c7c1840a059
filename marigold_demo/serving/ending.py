"""How the server ends: SIGTERM, SIGHUP or Ctrl-C, a few seconds for what is under way, exit status 0.

Knows nothing of what is under way; it tells it to stop and closes the doors.
"""

import logging
import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import NoReturn, Protocol

GRACE_S = 3  # for open connections; a run stops before its next network call


class Ended(BaseException):
    """Someone asked the process to end; like KeyboardInterrupt, no error."""


class Page(Protocol):
    """What is needed of `gradio.Blocks`."""

    def close(self, verbose: bool = True) -> None:
        """Close the server."""
        ...


def end_on_signals() -> None:
    """Let SIGTERM, SIGHUP and SIGINT raise `Ended` in the main thread.

    SIGHUP stays ignored where whoever started the process wanted that, as nohup does.
    """
    numbers = [signal.SIGTERM, signal.SIGINT]
    hangup = getattr(signal, "SIGHUP", None)  # not on Windows
    if hangup is not None and signal.getsignal(hangup) != signal.SIG_IGN:
        numbers.append(hangup)

    def end(number: int, frame: FrameType | None) -> None:
        for again in numbers:
            signal.signal(again, signal.SIG_IGN)
        raise Ended

    for number in numbers:
        signal.signal(number, end)


def wait_for_end() -> None:
    """Wait until a signal raises `Ended`."""
    while True:
        time.sleep(3600)


def close(page: Page, *, before: Callable[[], None]) -> None:
    """Tell runs to stop, and close the server with a few seconds for open connections.

    Args:
        page: The launched page.
        before: Tells what is under way to stop.
    """
    before()
    logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)  # it would tell of each connection it cuts
    server = getattr(page, "server", None)
    if server is not None:
        server.config.timeout_graceful_shutdown = GRACE_S
    page.close(verbose=False)


def leave(status: int = 0) -> NoReturn:
    """End the process at once; threads inside the networks are not waited for."""
    with suppress(OSError, ValueError):  # the terminal they go to may be gone
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(status)
