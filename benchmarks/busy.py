#!/usr/bin/env python3
"""Time of one depth on an idle machine, and beside other processes that use the processor all the time.

Usage:
    python benchmarks/busy.py                          four busy processes, the embedded checkpoint
    python benchmarks/busy.py --processes 2 --repeats 9
    OMP_WAIT_POLICY=active python benchmarks/busy.py   threads that spin while they wait

Torch divides each operation among OpenMP threads, and all wait for the slowest. A thread that spins while it
waits uses up the time slice that the slowest needs; `marigold_demo` therefore lets them sleep.
"""

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

import marigold_demo  # before torch  # noqa: F401
from marigold_demo.io.photo import Photo
from marigold_demo.network.checkpoint import load_pipeline
from marigold_demo.settings import DepthSettings

PHOTO_SIZE = (768, 1024)  # H, W
MOST_RATIO = 5.0  # what four busy processes on two cores may cost


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--processes", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=5)
    choices = parser.parse_args()
    rgb = np.random.default_rng(0).integers(0, 255, (*PHOTO_SIZE, 3), dtype=np.uint8)
    photo = Photo(rgb=rgb, stem="noise", alpha=None, fov_deg=None, notes=())
    pipeline = load_pipeline("embedded")
    pipeline(photo, DepthSettings())
    idle = [measure(pipeline, photo) for _ in range(choices.repeats)]
    with busy(choices.processes):
        crowded = [measure(pipeline, photo) for _ in range(choices.repeats)]
    print(f"idle {told(idle)}; beside {choices.processes} busy processes {told(crowded)}")
    print(f"ratio busy {statistics.median(crowded) / statistics.median(idle):.2f} (at most {MOST_RATIO:g})")


def measure(pipeline, photo: Photo) -> float:
    """Return the seconds of one depth."""
    start = time.perf_counter()
    pipeline(photo, DepthSettings())
    return time.perf_counter() - start


def told(seconds: list[float]) -> str:
    """Return the median and the range."""
    return f"{statistics.median(seconds):.2f} s ({min(seconds):.2f} to {max(seconds):.2f})"


@contextmanager
def busy(count: int) -> Iterator[None]:
    """Keep processes that do nothing but count."""
    children = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for child in children:
            child.kill()
            child.wait()


if __name__ == "__main__":
    main()
