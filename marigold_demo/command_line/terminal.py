"""What a person at a terminal sees on stderr: sentences, and a line that tells how far things are."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from marigold_demo.progress import Progress

PROGRAM = "marigold-demo"
_ERASE = "\r\x1b[K"


def say(sentence: str) -> None:
    """Tell a person something."""
    sys.stderr.write(f"{PROGRAM}: {sentence}\n")


def tell(text: str) -> None:
    """Show a person a text of several lines."""
    sys.stderr.write(text if text.endswith("\n") else f"{text}\n")


def answer(text: object) -> None:
    """Write what was asked for to stdout: a path, a table."""
    sys.stdout.write(f"{text}\n")


class Line:
    """One line that is written over; nothing at all where stderr is not a terminal."""

    def __init__(self, label: str) -> None:
        self._label = label
        self._start = time.monotonic()
        self._shown = sys.stderr.isatty()

    def step(self, progress: Progress) -> None:
        """Show one moment of a prediction."""
        self.show(progress.stage, progress.done, progress.total)

    def show(self, stage: str, done: int, total: int) -> None:
        """Show what happens next, how much is done, and the time left at the pace so far."""
        if not self._shown:
            return
        spent_s = time.monotonic() - self._start
        left = f", {_duration(spent_s * (total - done) / done)} left" if 0 < done < total else ""
        counted = f" {done}/{total}" if total else ""
        sys.stderr.write(f"{_ERASE}{self._label}: {stage}{counted}, {_duration(spent_s)}{left}")
        sys.stderr.flush()

    def erase(self) -> None:
        """Leave an empty line behind."""
        if self._shown:
            sys.stderr.write(_ERASE)
            sys.stderr.flush()


@contextmanager
def line(label: str) -> Iterator[Line]:
    """Show a line while something runs, and erase it whatever happens."""
    shown = Line(label)
    try:
        yield shown
    finally:
        shown.erase()


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"
