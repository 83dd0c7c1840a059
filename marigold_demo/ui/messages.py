"""What the page says: errors and progress as plain sentences.

`user_errors` is the one place where a visitor's error becomes a message on the page, and the one place that
catches unforeseen errors: they are logged, and the visitor reads one calm sentence.
"""

import functools
import html
import inspect
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import gradio as gr

from marigold_demo.depth import Progress
from marigold_demo.errors import DemoError

Handler = TypeVar("Handler", bound=Callable[..., Any])

_log = logging.getLogger(__name__)
TITLE, _TOAST_S = "That did not work", 12
UNFORESEEN = "Something went wrong on our side and has been noted. Try again, or try another photo."


def user_errors(handler: Handler, *, also: Callable[[str], Any] | None = None) -> Handler:
    """Wrap an event handler, plain or generator, so that its errors reach the page as sentences.

    Args:
        handler: May raise.
        also: Sentence -> outputs that a generator yields before it fails, for what stays when the toast goes.
    """

    @functools.wraps(handler)
    def call(*values: Any, **named: Any) -> Any:
        try:
            return handler(*values, **named)
        except Exception as error:
            raise message(error) from error

    @functools.wraps(handler)
    def iterate(*values: Any, **named: Any) -> Iterator[Any]:
        try:
            yield from handler(*values, **named)
        except Exception as error:
            shown = message(error)
            if also is not None:
                yield also(html.unescape(shown.message))
            raise shown from error

    return iterate if inspect.isgeneratorfunction(handler) else call  # type: ignore[return-value]


def message(error: Exception) -> gr.Error:
    """Return an error as the page says it; what nobody foresaw is logged."""
    if isinstance(error, gr.Error):
        return error
    if isinstance(error, DemoError):
        # Never the words: they may name a file.
        _log.info("user error", extra={"facts": {"kind": type(error).__name__}})
        return gr.Error(_text(error), title=TITLE, print_exception=False, duration=_TOAST_S)
    _log.error("unforeseen error in an event handler", exc_info=error)
    return gr.Error(UNFORESEEN, title=TITLE, print_exception=False)


def _text(error: DemoError) -> str:
    return html.escape(str(error), quote=False)


class ProgressText:
    """Tells the progress of one run, with the time that is left as soon as a part of it was timed."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._began_s = clock()
        self.share = 0.0  # of the download or of the network calls, 0 to 1
        self._first: tuple[str, float, int] | None = None  # what is counted, since when, and from where

    def show(self, progress: Progress) -> str:
        """Return one moment in words."""
        counted = progress.stage if progress.stage in _BEFORE else "calls"
        if self._first is None or self._first[0] != counted:
            self._first = (counted, self._clock(), progress.done)
        self.share = progress.done / max(progress.total, 1)
        return f"{_stage(progress)}{self._left(progress)}"

    def done(self, notes: Sequence[str] = ()) -> str:
        """Return in words how long the whole run took, and what there is to know of its depth."""
        took = f"Done in {duration(self._clock() - self._began_s)}"
        return " ".join([f"{took}.", *notes]) if notes else took

    def _left(self, progress: Progress) -> str:
        _, began_s, began_at = self._first or ("", 0.0, 0)
        done = progress.done - began_at
        if done <= 0 or progress.done >= progress.total:
            return ""
        left_s = (self._clock() - began_s) / done * (progress.total - progress.done)
        return f" · about {duration(left_s)} left"


_BEFORE = ("wait", "download", "load")  # the network calls


def _stage(progress: Progress) -> str:
    if progress.stage == "wait":
        if progress.total > 1:
            return f"{progress.total} photos are before yours."
        return "Another photo is being worked on. Yours is next."
    if progress.stage == "denoise":
        return f"Step {min(progress.done + 1, progress.total)} of {progress.total}"
    if progress.stage == "download" and progress.total:
        return f"Downloading the model: {progress.done:,} of {progress.total:,} MB"
    known = {
        "download": "Downloading the model",
        "load": "Loading the model",
        "encode": "Looking at the photo",
        "decode": "Writing the depth",
        "predict": "Predicting the depth",
        "align": "Comparing predictions",
    }
    return known.get(progress.stage, progress.stage.capitalize())


def duration(seconds: float) -> str:
    """Return a duration as a person says it."""
    if seconds < 10:
        return f"{max(seconds, 0.1):.1f} s"
    if seconds < 90:
        return f"{round(seconds)} s"
    return f"{round(seconds / 60)} min"


def status(
    words: str,
    *,
    share: float | None = None,
    alert: bool = False,
    action: tuple[str, str] | None = None,
    stage: str = "",
) -> str:
    """Return the status line as HTML.

    Args:
        words: What it says.
        share: From 0 to 1; draws a bar.
        alert: Marks a failed run or a refused file.
        action: What a button behind the words does (`data-way` in ways_in.js), and its label.
        stage: Of the run (`Progress.stage`); its box in the drawing of `about` is lit.
    """
    bar = "" if share is None else f'<progress max="1" value="{share:.3f}" aria-label="Progress"></progress>'
    kind = "status alert" if alert else "status"
    button = "" if action is None else '<button type="button" data-way="{}">{}</button>'.format(*action)
    at_work = f' data-stage="{html.escape(stage)}"' if stage else ""
    return (
        f'<div class="{kind}"{at_work} role="status" aria-live="polite">'
        f"<span>{html.escape(words)}</span>{button}{bar}</div>"
    )


def size_in_words(size_bytes: int) -> str:
    """Return a file size as a person reads it."""
    for unit, factor in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if size_bytes >= factor:
            return f"{size_bytes / factor:.{0 if size_bytes >= 10 * factor else 1}f} {unit}"
    return f"{size_bytes} B"
