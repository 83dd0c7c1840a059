"""Metrics for Prometheus, and the monitor of runs: permitted checkpoints, a time limit, one log line each.

The monitor stands before the real predictor, so page, API and MCP all go through it.
"""

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from marigold_demo.catalog import CATALOG
from marigold_demo.depth import CancelledError, CheckpointStatus, DepthMap, Progress, Run, StatusSource
from marigold_demo.errors import CheckpointError, DemoError
from marigold_demo.io.photo import Photo
from marigold_demo.serving.logs import log_event
from marigold_demo.settings import DepthSettings
from marigold_demo.workflow import Predictor

_log = logging.getLogger(__name__)

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)


class Metrics:
    """What is measured; labels are of few values, none of them from a visitor's hand."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self.runs = Counter(
            "marigold_runs", "Runs of the network by end", ("checkpoint", "end"), registry=self._registry
        )
        self.run_seconds = Histogram(
            "marigold_run_seconds",
            "Duration of whole runs",
            ("checkpoint",),
            buckets=SECONDS,
            registry=self._registry,
        )
        self.stage_seconds = Histogram(
            "marigold_stage_seconds",
            "Time of a run in one stage",
            ("checkpoint", "stage"),
            buckets=SECONDS,
            registry=self._registry,
        )
        self.running = Gauge("marigold_running", "Runs under way", registry=self._registry)
        self.errors = Counter(
            "marigold_errors",
            "Messages to visitors by kind of error",
            ("kind",),
            registry=self._registry,
        )
        self.refused = Counter(
            "marigold_refused_requests", "Requests refused by reason", ("reason",), registry=self._registry
        )
        self._queue = Gauge("marigold_queue_length", "Events that wait", registry=self._registry)
        self._connections = Gauge("marigold_connections", "Open connections", registry=self._registry)
        self._kept = Gauge(
            "marigold_kept_bytes", "Bytes kept, by what they are", ("what",), registry=self._registry
        )

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


OTHER = "other"  # a checkpoint out of the catalog: its name may be a folder, or a visitor's invention
NOT_IN_NETWORK = ("start", "download", "load")  # stages that do not count against the time limit
# A run is refused beforehand where the last one with its settings took this many times the limit.
CLEARLY = 2.0
_SHORTER = "fewer steps, fewer predictions to combine (ensemble) or a lower resolution take less"


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
        """Return the source with this server's limit, silent on checkpoints that it does not load."""

        def status(settings: DepthSettings) -> CheckpointStatus:
            known = status_of(settings) if self._may(settings.checkpoint) else CheckpointStatus()
            return replace(known, limit_s=self._limit_s)

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
    return checkpoint if any(known.name == checkpoint for known in CATALOG) else OTHER


def _minutes(seconds: float) -> str:
    """Return a time in words; whole seconds below two minutes."""
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} minutes"
