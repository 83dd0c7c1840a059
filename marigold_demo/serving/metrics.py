"""Counts and durations for Prometheus. Knows nothing of requests or log lines."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

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
            "Sentences told to visitors by kind of error",
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
