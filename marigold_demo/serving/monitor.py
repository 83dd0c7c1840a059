"""What the server tells of itself: log lines, metrics for Prometheus, and the monitor of runs.

A log line is one event, as key=value or JSON. No line names a visitor or quotes what was sent: an exception
appears by its kind and the places it went through, because its message may hold a file name or an address.

The monitor stands before the real predictor, so page, API and MCP all go through it: permitted checkpoints, a
time limit, one log line for each run.
"""

import json
import logging
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from marigold_demo.catalog import find
from marigold_demo.depth import CancelledError, CheckpointStatus, DepthMap, Progress, Run, StatusSource
from marigold_demo.errors import CheckpointError, DemoError
from marigold_demo.io.photo import Photo
from marigold_demo.serving.config import Configuration
from marigold_demo.settings import DepthSettings
from marigold_demo.workflow import Predictor

SELDOM_S = 60.0  # between two equal lines of a library
LIBRARIES = ("asyncio", "uvicorn.error")  # they log what anybody can provoke, such as a malformed request

_log = logging.getLogger(__name__)
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
OTHER = "other"  # a checkpoint out of the catalog: its name may be a folder, or a visitor's invention
NOT_IN_NETWORK = ("start", "download", "load")  # stages that do not count against the time limit
# A run is refused beforehand where the last one with its settings took this many times the limit.
CLEARLY = 2.0
_SHORTER = "fewer steps, fewer predictions to combine (ensemble) or a lower resolution take less"


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


class Metrics:
    """What is measured; labels are of few values, none of them from a visitor's hand."""

    def __init__(self) -> None:
        registry = self._registry = CollectorRegistry()
        counter, gauge = partial(Counter, registry=registry), partial(Gauge, registry=registry)
        histogram = partial(Histogram, buckets=SECONDS, registry=registry)
        self.runs = counter("marigold_runs", "Runs of the network by end", ("checkpoint", "end"))
        self.run_seconds = histogram("marigold_run_seconds", "Duration of whole runs", ("checkpoint",))
        self.stage_seconds = histogram(
            "marigold_stage_seconds", "Time of a run in one stage", ("checkpoint", "stage")
        )
        self.running = gauge("marigold_running", "Runs under way")
        self.errors = counter("marigold_errors", "Messages to visitors by kind of error", ("kind",))
        self.refused = counter("marigold_refused_requests", "Requests refused by reason", ("reason",))
        self._queue = gauge("marigold_queue_length", "Events that wait")
        self._connections = gauge("marigold_connections", "Open connections")
        self._kept = gauge("marigold_kept_bytes", "Bytes kept, by what they are", ("what",))

    def record_refusal(self, reason: str) -> None:
        """Count a refused request; its reason is one of few words."""
        self.refused.labels(reason).inc()
        log_event(_log, "refused", level=logging.DEBUG, reason=reason)

    def watch_queue(self, length: Callable[[], int]) -> None:
        """Ask for the length of the queue whenever metrics are read."""
        self._queue.set_function(length)

    def watch_connections(self, count: Callable[[], int]) -> None:
        """Ask for the number of open connections whenever metrics are read."""
        self._connections.set_function(count)

    def watch_bytes(self, what: str, size_bytes: Callable[[], int]) -> None:
        """Ask for the size of something kept whenever metrics are read."""
        self._kept.labels(what).set_function(size_bytes)

    def text(self) -> bytes:
        """Return everything in Prometheus' text format."""
        return generate_latest(self._registry)


class ServerEndsError(DemoError):
    """The server is being stopped."""


class RunTooLongError(DemoError):
    """A run takes, or would take, more time in the network than the server gives it."""


@dataclass
class _Record:
    """What is known of one run so far."""

    began_s: float
    since_s: float  # when its stage began, or when it was last waited for
    stage: str = "start"
    stages: dict[str, float] = field(default_factory=dict)  # seconds by stage
    end: str = "cancelled"

    def end_stage(self, now_s: float) -> None:
        """Add the time since the stage began."""
        self.stages[self.stage] = self.stages.get(self.stage, 0.0) + now_s - self.since_s

    @property
    def network_s(self) -> float:
        """Seconds in the network."""
        return sum(seconds for stage, seconds in self.stages.items() if stage not in NOT_IN_NETWORK)


class RunMonitor:
    """Watches the runs of one server."""

    def __init__(
        self,
        metrics: Metrics,
        *,
        permitted: frozenset[str] | None,
        limit_s: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Take what is measured into.

        Args:
            metrics: Counts and durations.
            permitted: Checkpoints that visitors may name; None: any.
            limit_s: Most seconds that one run may take in the network, not counting what it waits, downloads
                and loads; None: no limit. It is looked at between network calls, none is broken off.
            clock: Seconds, for tests.
        """
        self.stopping = threading.Event()
        self._metrics, self._permitted, self._limit_s, self._clock = metrics, permitted, limit_s, clock

    def watched(self, predict: Predictor) -> Predictor:
        """Return a predictor that is permitted, measured and ended with the server."""

        def watched(photo: Photo, settings: DepthSettings, run: Run, /) -> DepthMap:
            self._permit(settings)
            now_s = self._clock()
            record = _Record(now_s, now_s)
            self._metrics.running.inc()
            try:
                depth = predict(photo, settings, Run(lambda progress: self._pass_on(progress, record, run)))
                record.end_stage(self._clock())
                record.end = "done"
                return depth
            except CancelledError:
                raise
            except Exception as error:
                record.end = type(error).__name__
                raise
            finally:
                self._metrics.running.dec()
                self._log(record, photo, settings)

        return watched

    def with_limit(self, status_of: StatusSource) -> StatusSource:
        """Return the source with this server's limit; of what it does not run it says only that."""

        def status(settings: DepthSettings) -> CheckpointStatus:
            if not self._may(settings.checkpoint):
                return CheckpointStatus(permitted=False)
            return replace(status_of(settings), limit_s=self._limit_s)

        return status

    def admission(self, status_of: StatusSource) -> Callable[[DepthSettings], None]:
        """Return what refuses a run before it waits for its turn.

        The returned function raises CheckpointError where the checkpoint is not permitted, RunTooLongError
        where the last run with the same settings clearly took longer than the limit.
        """

        def admit(settings: DepthSettings) -> None:
            self._permit(settings)
            if self._limit_s is None:
                return
            seconds = status_of(settings).last_s
            if seconds is not None and seconds > CLEARLY * self._limit_s:
                raise RunTooLongError(
                    f"This took {_minutes(seconds)} last time, and one run may take "
                    f"{_minutes(self._limit_s)} here; {_SHORTER}."
                )

        return admit

    def _may(self, checkpoint: str) -> bool:
        return self._permitted is None or checkpoint in self._permitted

    def _permit(self, settings: DepthSettings) -> None:
        if not self._may(settings.checkpoint):
            raise CheckpointError(
                "This server does not load that checkpoint; "
                f"choose one of {', '.join(sorted(self._permitted or ()))}."
            )

    def _pass_on(self, progress: Progress, record: _Record, run: Run) -> None:
        """Time the stage that ends here, report to whoever waits, which is not timed, and begin the next."""
        record.end_stage(self._clock())
        record.stage = "end"
        run.report(progress)
        self._end_early(record, progress)
        record.stage, record.since_s = progress.stage, self._clock()

    def _end_early(self, record: _Record, step: Progress) -> None:
        """End a run before its next network call where the server ends, or the run's time is over."""
        if self.stopping.is_set():
            raise ServerEndsError("The server is being restarted; try again in a minute.")
        is_last = 0 < step.total <= step.done  # no network call comes after this one
        if self._limit_s is not None and record.network_s >= self._limit_s and not is_last:
            raise RunTooLongError(
                f"This run was ended after {_minutes(record.network_s)} in the network, more than "
                f"one run may take here; {_SHORTER}."
            )

    def _log(self, record: _Record, photo: Photo, settings: DepthSettings) -> None:
        seconds = self._clock() - record.began_s
        name = _label(settings.checkpoint)
        self._metrics.runs.labels(name, record.end).inc()
        self._metrics.run_seconds.labels(name).observe(seconds)
        for stage, stage_s in record.stages.items():
            self._metrics.stage_seconds.labels(name, stage).observe(stage_s)
        width, height = photo.size
        log_event(
            _log,
            "run",
            end=record.end,
            seconds=round(seconds, 3),
            checkpoint=name,
            photo_px=width * height,
            steps=settings.steps or "own",
            ensemble=settings.ensemble or "own",
            resolution="own" if settings.resolution is None else settings.resolution,
        )


def _label(checkpoint: str) -> str:
    return checkpoint if find(checkpoint) else OTHER


def _minutes(seconds: float) -> str:
    """Return a time in words; whole seconds below two minutes."""
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} minutes"
