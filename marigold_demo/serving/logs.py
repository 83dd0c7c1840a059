"""Log lines of the server: one event each, as key=value or JSON.

No line names a visitor or quotes what was sent: an exception appears by its kind and the places it went
through, because its message may hold a file name or an address.
"""

import json
import logging
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from typing import Any

from marigold_demo.serving.config import Configuration

SELDOM_S = 60.0  # between two equal lines of a library
LIBRARIES = ("asyncio", "uvicorn.error")  # they log what anybody can provoke, such as a malformed request

_log = logging.getLogger(__name__)


def set_up_logging(configuration: Configuration, *, count: Callable[[str], None]) -> None:
    """Send the log lines of all loggers to stderr in the configured form.

    Called again after Gradio has launched, it takes over the loggers that uvicorn has set up meanwhile.

    Args:
        configuration: Form and level of the lines.
        count: Takes the kind of each error, whatever the level.
    """
    lines = logging.StreamHandler(sys.stderr)
    lines.setFormatter(JsonLine() if configuration.log_format == "json" else PlainLine())
    lines.setLevel(configuration.log_level.upper())
    lines.addFilter(RepeatFilter())
    logging.basicConfig(handlers=[lines, _Counting(count)], level=logging.WARNING, force=True)
    logging.getLogger("marigold_demo").setLevel(min(lines.level, logging.INFO))
    for name in ("uvicorn", "uvicorn.error"):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [], True
    logging.getLogger("uvicorn.access").disabled = True  # it logs addresses
    traceback.print_exc = _print_exc  # Gradio prints errors with it, messages and visitors' paths included


class RepeatFilter(logging.Filter):
    """Keeps repeated lines of libraries to one a minute, which says how many it stands for."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._last: dict[tuple[Any, ...], tuple[float, int]] = {}  # when it was logged, and left out since

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether a record becomes a line."""
        if record.name not in LIBRARIES:
            return True
        error = record.exc_info[1] if record.exc_info else None
        place = _places(error).rpartition(" > ")[2] if error is not None else ""
        key, now_s = (record.name, _first_line(record), place), self._clock()
        logged_s, left_out = self._last.get(key, (-SELDOM_S, 0))
        if now_s - logged_s < SELDOM_S:
            self._last[key] = logged_s, left_out + 1
            return False
        if len(self._last) > 1000:
            self._last.clear()
        self._last[key] = now_s, 0
        if left_out:
            record.facts = {"left_out": left_out}
        return True


class _Counting(logging.Handler):
    """Counts what goes wrong."""

    def __init__(self, count: Callable[[str], None]) -> None:
        super().__init__(logging.INFO)
        self._count = count

    def emit(self, record: logging.LogRecord) -> None:
        """Count a record that has an exception, or the kind of a visitor's error."""
        facts = getattr(record, "facts", {})
        if record.exc_info and record.exc_info[1] is not None:
            self._count("unforeseen")
        elif "kind" in facts:
            self._count(facts["kind"])


def log_event(logger: logging.Logger, name: str, *, level: int = logging.INFO, **facts: Any) -> None:
    """Log one event with its facts."""
    logger.log(level, name, extra={"facts": facts})


class PlainLine(logging.Formatter):
    """time=… level=… event=… key=value: for people, and for tools that read logfmt."""

    def format(self, record: logging.LogRecord) -> str:
        """Return a record as one line."""
        return " ".join(f"{name}={_quoted(value)}" for name, value in line_of(record).items())


class JsonLine(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        """Return a record as one line."""
        return json.dumps(line_of(record), ensure_ascii=False, default=str)


def line_of(record: logging.LogRecord) -> dict[str, Any]:
    """Return the fields of a line."""
    facts: Mapping[str, Any] = getattr(record, "facts", {})
    line: dict[str, Any] = {
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(record.created)),
        "level": record.levelname.lower(),
        "logger": record.name,
        "event": _first_line(record),
        **facts,
    }
    if record.exc_info and record.exc_info[1] is not None:
        line |= {"error": type(record.exc_info[1]).__name__, "trace": _places(record.exc_info[1])}
    return line


def _first_line(record: logging.LogRecord) -> str:
    """Return what happened; further lines name sockets and tasks."""
    return record.getMessage().strip().partition("\n")[0]


def _places(error: BaseException) -> str:
    """Return where an exception went through, the innermost place last, causes first; no messages."""
    cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    before = f"{_places(cause)} => " if cause is not None else ""
    frames = traceback.extract_tb(error.__traceback__)
    places = (f"{_short(frame.filename)}:{frame.lineno}:{frame.name}" for frame in frames)
    return f"{before}{type(error).__name__} at {' > '.join(places)}"


def _short(filename: str) -> str:
    """Return a source file by package and module, which is the same on every machine."""
    return "/".join(filename.replace("\\", "/").split("/")[-2:])


def _quoted(value: Any) -> str:
    text = f"{value:.3f}" if isinstance(value, float) else str(value)
    return json.dumps(text, ensure_ascii=False) if set(text) & set(' "=\n\r\t') or not text else text


def _print_exc(*_: Any, **__: Any) -> None:
    _log.error("request failed", exc_info=sys.exc_info())
