#!/usr/bin/env python3
"""Attack a server on loopback in the ways that were found, and print which of them still work.

    .venv/bin/python -m benchmarks.attacks                          # starts servers of its own
    .venv/bin/python -m benchmarks.attacks http://127.0.0.1:7860    # one that runs
    .venv/bin/python -m benchmarks.attacks --only markup --only exif-png
    .venv/bin/python -m benchmarks.attacks --list

One row for each finding: whether the server holds; the highest memory of the server and its child processes,
less that before; how long a bystander (another visitor, from 127.0.0.2) waits for a photo to be read: usually
and, during the attack, in the median and at worst. Ends with 1 where something is broken. Only loopback is
attacked, every loop is bounded, and a server of the suite's own is killed when it grows by more than 4 GB.
"""

import argparse
import contextlib
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import httpx
import psutil

from benchmarks import attacks_files, attacks_http, attacks_limits
from benchmarks.attack_target import SilentError, Target, checked, found, started
from benchmarks.attack_watch import ATTACKS, SECTIONS, Attack, Outcome, SkippedError
from benchmarks.rest_client import RefusedError

MODULES = (attacks_files, attacks_limits, attacks_http)  # they fill the list of attacks
MINUTES = 10.0
ROW = "{name:<19} {verdict:<8} {peak:>7} {usual:>7} {median:>7} {worst:>7} {took:>6}  {words}"


class Servers:
    """The server under attack: the one that was given, or one after the other of the suite's own."""

    def __init__(self, given: Target | None) -> None:
        self._given, self._own = given, contextlib.ExitStack()
        self._target: Target | None = None
        self._configured: Mapping[str, str] | None = None

    def __enter__(self) -> "Servers":
        return self

    def __exit__(self, *_: object) -> None:
        self.drop()

    def target(self, made: Attack) -> Target:
        """Return a server for an attack.

        Raises:
            SkippedError: The attack needs a server of the suite's own.
        """
        if self._given is not None:
            if made.own:
                raise SkippedError("needs a server that the suite starts itself")
            return self._given
        alone = made.configured is not None or self._configured is not None
        if self._target is None or alone or not self._target.is_well:
            self.drop()
            folder = Path(self._own.enter_context(tempfile.TemporaryDirectory(prefix="attacks")))
            self._target = self._own.enter_context(started(folder, made.configured))
            self._configured = made.configured
        return self._target

    def drop(self) -> None:
        """End a server of the suite's own; the next attack gets a new one."""
        self._own.close()
        self._target = None


def made(attack: Attack, servers: Servers) -> Outcome:
    """Make one attack; what it does not foresee is a server that did not hold."""
    try:
        outcome = attack.make(servers.target(attack))
    except SkippedError as reason:
        return Outcome(None, str(reason))
    except (SilentError, RefusedError, httpx.HTTPError, OSError, LookupError, psutil.Error) as error:
        outcome = Outcome(False, f"the attack broke off: {type(error).__name__} {str(error)[:80]}")
    if not outcome.holds and outcome.worst_s:
        servers.drop()
    return outcome


def rows(names: list[str], servers: Servers, *, until: float) -> Iterator[tuple[str, Outcome]]:
    """Make the attacks in turn until time is over; those left count as not made."""
    for name in names:
        if time.monotonic() > until:
            yield name, Outcome(False, "not made: the time is over")
        else:
            yield name, made(ATTACKS[name], servers)


def shown(name: str, outcome: Outcome, *, took_s: float) -> str:
    """Return an outcome as a row of the table."""
    verdict = {True: "holds", False: "BROKEN", None: "skipped"}[outcome.holds]

    def seconds(value: float) -> str:
        return f"{value:.2f} s" if value else ""

    return ROW.format(
        name=name,
        verdict=verdict,
        peak=f"{outcome.peak_mb:.0f} MB" if outcome.worst_s else "",
        usual=seconds(outcome.usual_s),
        median=seconds(outcome.median_s),
        worst=seconds(outcome.worst_s),
        took=f"{took_s:.0f} s",
        words=outcome.words,
    )


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "url", nargs="?", type=checked, help="address of a server on this machine; without it one is started"
    )
    parser.add_argument(
        "--only", action="append", choices=sorted(ATTACKS), metavar="NAME", help="may be repeated"
    )
    parser.add_argument("--list", action="store_true", help="name the attacks")
    parser.add_argument("--minutes", type=float, default=MINUTES, help="most that all take together")
    said = parser.parse_args()
    if said.list:
        for attack in sorted(ATTACKS.values(), key=lambda attack: attack.section):
            print(f"{attack.name:<19} {SECTIONS[attack.section]}: {attack.finding}")
        return 0
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # servers and folders go with us
    began, broken = time.monotonic(), 0
    names = [name for name in ATTACKS if not said.only or name in said.only]
    # Those that need a server of their own come last.
    names.sort(key=lambda name: (ATTACKS[name].configured is not None, ATTACKS[name].section))
    header = dict(
        name="attack", verdict="", peak="memory", usual="usual", median="median", worst="worst", took="took"
    )
    print(ROW.format(**header, words="seen"), flush=True)
    with Servers(found(said.url) if said.url else None) as servers:
        last = time.monotonic()
        for name, outcome in rows(names, servers, until=began + 60 * said.minutes):
            now = time.monotonic()
            print(shown(name, outcome, took_s=now - last), flush=True)
            last = now
            broken += outcome.holds is False
    print(f"{len(names) - broken} of {len(names)} not broken, {time.monotonic() - began:.0f} s")
    return int(broken > 0)


if __name__ == "__main__":
    sys.exit(main())
