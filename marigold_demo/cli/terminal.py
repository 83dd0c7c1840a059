"""Standard output and standard error of a command, whatever becomes of them.

Answers (paths, tables) go to stdout, sentences and progress to stderr. A name that stdout's encoding cannot
spell, a reader that has closed the pipe and a full device do not end a command: its files are written all the
same, and `undelivered` says afterwards what happened.
"""

import os
import shutil
import sys
import time
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from marigold_demo.depth import Progress

PROGRAM = "marigold-demo"
_ERASE = "\r\x1b[K"
_STEERING = ("Cc", "Cs", "Zl", "Zp")  # controls, lone surrogates, line and paragraph separators
_problems: list[str] = []  # why answers of this command were not delivered


def print_err(sentence: str) -> None:
    """Print a sentence for a person, on one line."""
    _to_stderr(f"{PROGRAM}: {_on_one_line(sentence)}\n")


def print_err_text(text: str) -> None:
    """Print a text of several lines for a person."""
    _to_stderr(text if text.endswith("\n") else f"{text}\n")


def print_out(text: object) -> None:
    """Write what was asked for to stdout, at once: a path, a table."""
    if sys.stdout is None:
        _problems.append(_not_written("it is closed"))
        return
    try:
        if not _spell(sys.stdout, f"{text}\n"):
            _problems.append(
                f"The encoding of standard output ({sys.stdout.encoding}) cannot spell every name, so some"
                " stand there with \\ escapes; PYTHONIOENCODING=utf-8 writes all as they are."
            )
        sys.stdout.flush()
    except (OSError, ValueError) as error:  # ValueError: the stream was closed
        _problems.append(_not_written(getattr(error, "strerror", None) or "it is closed"))
        _silence(sys.stdout)


def undelivered() -> str | None:
    """Return in a sentence why answers since the last call did not reach stdout; None where all did."""
    found = _problems[0] if _problems else None
    _problems.clear()
    return found


class ProgressLine:
    """One line that is written over; nothing at all where stderr is not a terminal."""

    def __init__(self, label: str) -> None:
        self._label = _on_one_line(label)
        self._start = time.monotonic()
        self._shown = sys.stderr is not None and sys.stderr.isatty()

    def step(self, progress: "Progress") -> None:
        """Show one moment of a prediction."""
        self.show(progress.stage, progress.done, progress.total)

    def show(self, stage: str, done: int, total: int) -> None:
        """Show what happens next, how much is done, and the time left at the speed so far."""
        if not self._shown:
            return
        spent_s = time.monotonic() - self._start
        left = f", {duration(spent_s * (total - done) / done)} left" if 0 < done < total else ""
        counted = f" {done}/{total}" if total else ""
        state = f": {stage}{counted}, {duration(spent_s)}{left}"
        # A line that wraps could not be erased. Letters of some scripts take two columns.
        room = max((shutil.get_terminal_size().columns - 1 - len(state)) // 2, 8)
        _to_stderr(f"{_ERASE}{self._label[:room]}{state}")

    def erase(self) -> None:
        """Leave an empty line behind."""
        if self._shown:
            _to_stderr(_ERASE)


@contextmanager
def progress_line(label: str) -> Iterator[ProgressLine]:
    """Show a line while something runs, and erase it whatever happens."""
    shown = ProgressLine(label)
    try:
        yield shown
    finally:
        shown.erase()


def _to_stderr(text: str) -> None:
    """Write to stderr; where that fails nobody is left to read it."""
    if sys.stderr is None:
        return
    try:
        sys.stderr.write(text)
        sys.stderr.flush()
    except (OSError, ValueError):
        _silence(sys.stderr)


def _spell(stream: TextIO, text: str) -> bool:
    """Write a text; bytes of names that are not text come out as they went in.

    Returns:
        Whether all of it could be spelled; where not, the rest stands there as backslash escapes.
    """
    try:
        stream.write(text)
        return True
    except UnicodeEncodeError:
        pass
    try:
        data, exact = text.encode(stream.encoding, "surrogateescape"), True
    except UnicodeEncodeError:
        data, exact = text.encode(stream.encoding, "backslashreplace"), False
    stream.flush()
    stream.buffer.write(data)
    return exact


def _silence(stream: TextIO) -> None:
    """Send to nowhere what a stream still holds, or Python complains of it when it ends."""
    with suppress(OSError, ValueError):
        number = stream.fileno()
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, number)
        os.close(nowhere)


def _not_written(reason: str) -> str:
    return (
        f"Not everything could be written to standard output ({reason}); files that were made are complete."
    )


def _on_one_line(text: str) -> str:
    """Escape what would break a line or steer a terminal; names of files can hold anything."""
    return "".join(
        c.encode("unicode_escape").decode() if unicodedata.category(c) in _STEERING else c for c in text
    )


def duration(seconds: float) -> str:
    """Return a duration as people read it, such as "10 min"."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"
