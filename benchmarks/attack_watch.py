"""What is measured during an attack: memory, and how long another visitor (the bystander) waits.

Also the list of attacks, which the modules that define them fill with `attack`.
"""

import statistics
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import httpx

from benchmarks.attack_target import (
    ANSWER_S,
    BYSTANDER,
    HEALTH_S,
    MB,
    SilentError,
    Target,
    picture,
)
from benchmarks.rest_client import RefusedError

EXTRA_MB = 1500.0  # memory that an attack may cost
STOP_AT_MB = 4000.0  # memory at which the suite kills a server of its own
SLOWER = 2.0  # times its usual time that the bystander's photo may take
JITTER_S = 0.25  # added to that, because a photo takes 0.2 s on an idle machine


class SkippedError(Exception):
    """This server, or this machine, does not allow the attack; says why."""


@dataclass(frozen=True)
class Outcome:
    """What came of one attack.

    Attributes:
        holds: Whether the server withstood; None where the attack could not be made.
        words: What was seen.
        peak_mb: Memory of the server and its children at its highest, less that before; MB.
        usual_s: Median time in which the bystander's photo is read without an attack; 0: not measured.
        median_s: The same during the attack.
        worst_s: The longest wait of the bystander during the attack, for a photo or for /healthz.
    """

    holds: bool | None
    words: str
    peak_mb: float = 0.0
    usual_s: float = 0.0
    median_s: float = 0.0
    worst_s: float = 0.0


@dataclass(frozen=True)
class Attack:
    """One entry of the list.

    Attributes:
        name: As `--only` takes it.
        section: What it is about, see `SECTIONS`.
        finding: What was found, in a few words.
        make: Makes the attack.
        configured: Variables of a server of its own; None: the one that most share.
        own: Whether only a server of the suite's own can be attacked so.
    """

    name: str
    section: int
    finding: str
    make: Callable[[Target], Outcome]
    configured: Mapping[str, str] | None
    own: bool


SECTIONS = {
    1: "files of others",
    2: "markup",
    3: "decoder bombs",
    4: "network and queue",
    5: "messages",
    6: "disk",
    7: "connections",
    8: "headers",
    9: "senseless input, start and end",
}
ATTACKS: dict[str, Attack] = {}


def attack(
    name: str, section: int, finding: str, *, own: bool = False, configured: Mapping[str, str] | None = None
) -> Callable[[Callable[[Target], Outcome]], Callable[[Target], Outcome]]:
    """Put a function on the list of attacks."""

    def listed(make: Callable[[Target], Outcome]) -> Callable[[Target], Outcome]:
        ATTACKS[name] = Attack(name, section, finding, make, configured, own or configured is not None)
        return make

    return listed


def judged(faults: Iterable[str], words: str, watch: "Watch | None" = None) -> Outcome:
    """Return the outcome of an attack: it holds where there are no faults."""
    found = [*dict.fromkeys(faults)]
    told = "; ".join(found[:4]) + (f"; {len(found) - 4} more" if len(found) > 4 else "")
    if watch is None:
        return Outcome(not found, told or words)
    photos, health = watch.photos.final, watch.health.final
    return Outcome(
        not found,
        told or words,
        peak_mb=watch.peak_mb,
        usual_s=watch.usual_s,
        median_s=statistics.median(photos) if photos else 0.0,
        worst_s=max([*photos, *health], default=0.0),
    )


@dataclass
class Waits:
    """How long each request of one kind took, with the one that is still under way."""

    seconds: list[float] = field(default_factory=list)
    began: float | None = None
    failed: str = ""
    final: list[float] = field(default_factory=list)  # all of them, once the attack is over

    def close(self) -> None:
        """Count the one that has not ended."""
        began = self.began
        self.final = [*self.seconds, *([] if began is None else [time.monotonic() - began])]


class Watch:
    """Measures memory, and lets a bystander have photos read and ask /healthz, while its block runs."""

    def __init__(self, target: Target, *, photos: bool = True) -> None:
        """Prepare to watch.

        Args:
            target: The server.
            photos: Whether the bystander has photos read.
        """
        self.target, self.usual_s, self.peak_mb, self.stopped_at_mb = target, 0.0, 0.0, 0.0
        self.photos, self.health = Waits(), Waits()
        self._reads, self._over = photos, threading.Event()
        self._photo = picture(7, size=(3000, 2000), kind="JPEG")
        self._threads: list[threading.Thread] = []
        self._before = 0

    def __enter__(self) -> "Watch":
        if self._reads:
            try:
                self.usual_s = statistics.median(_timed(self._read) for _ in range(5))
            except (RefusedError, SilentError) as error:
                self.photos.failed = str(error)
        self._before = self.target.memory()
        work = [self._ask_health, self._measure, *([self._read_photos] if self._reads else [])]
        self._threads = [threading.Thread(target=each, daemon=True) for each in work]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        if not self.stopped_at_mb:  # a read that has begun belongs to what was measured
            until = time.monotonic() + ANSWER_S
            while self.photos.began and self.target.is_well and time.monotonic() < until:
                time.sleep(0.05)
        self._over.set()
        self.photos.close()
        self.health.close()
        for thread in self._threads:
            thread.join(0.5)

    def faults(self, *, extra_mb: float = EXTRA_MB) -> Iterator[str]:
        """Yield what went beyond its limit."""
        if self.stopped_at_mb:
            yield f"killed by the suite at {self.stopped_at_mb:.0f} MB more"
        elif self.peak_mb > extra_mb:
            yield f"{self.peak_mb:.0f} MB more memory"
        if self.health.failed or max(self.health.final, default=0) > HEALTH_S:
            yield f"/healthz silent for {max(self.health.final, default=0):.1f} s"
        if self.photos.failed:
            yield f"bystander: {self.photos.failed}"
        if self.photos.final and statistics.median(self.photos.final) > SLOWER * self.usual_s + JITTER_S:
            usual = f"instead of {self.usual_s:.2f} s"
            yield f"bystander's photo {statistics.median(self.photos.final):.1f} s {usual}"

    def _read(self) -> None:
        reply = self.target.read_photo(self._photo, number=BYSTANDER)
        if reply.words:
            raise RefusedError(reply.words[:80])

    def _read_photos(self) -> None:
        self._repeat(self.photos, self._read, pause_s=0.2)

    def _ask_health(self) -> None:
        self._repeat(self.health, self.target.healthz_s, pause_s=0.25)

    def _repeat(self, waits: Waits, once: Callable[[], object], *, pause_s: float) -> None:
        while not self._over.wait(pause_s):
            waits.began = time.monotonic()
            try:
                once()
            except (RefusedError, SilentError, httpx.HTTPError, OSError) as error:
                if not self._over.is_set():
                    waits.failed = waits.failed or str(error) or type(error).__name__
            if not self._over.is_set():
                waits.seconds.append(time.monotonic() - waits.began)
            waits.began = None

    def _measure(self) -> None:
        while not self._over.wait(0.05):
            extra_mb = (self.target.memory() - self._before) / MB
            self.peak_mb = max(self.peak_mb, extra_mb)
            if extra_mb > STOP_AT_MB and self.target.is_own:
                self.stopped_at_mb = extra_mb
                self.target.kill()
                return


def _timed(once: Callable[[], object]) -> float:
    began = time.monotonic()
    once()
    return time.monotonic() - began
