#!/usr/bin/env python3
"""What a run is said to cost beforehand, against what it costs: the embedded checkpoint at several sizes.

Usage: python benchmarks/estimates.py

The first run corrects what follows, as in the app. Memory is all that the process has more than before it
loaded the networks, at its peak.
"""

import statistics
import time
from pathlib import Path

import numpy as np
import torch

from marigold_demo.io.photo import Photo
from marigold_demo.network import estimate, pace
from marigold_demo.network.checkpoint import best_device, load_pipeline, predict
from marigold_demo.settings import DepthSettings

SIZE = (1024, 768)  # width and height of the photo
CASES = [
    DepthSettings(resolution=resolution, ensemble=members)
    for resolution, members in [(None, 1), (192, 1), (512, 1), (768, 1), (1024, 1), (None, 5), (512, 5)]
]


def compare_estimates(*, repeats: int = 3) -> None:
    """Print estimate and measurement of time and memory, and the worst ratios."""
    rgb = np.random.default_rng(0).integers(0, 255, (*SIZE[::-1], 3), dtype=np.uint8)
    photo = Photo(rgb=rgb, stem="noise", alpha=None, fov_deg=None, notes=())
    settings = DepthSettings()
    start = time.perf_counter()
    estimate.prepare(settings)
    print(f"\nestimates: counted and measured the machine in {time.perf_counter() - start:.1f} s")
    speed = pace.known(best_device(), torch.float32)
    if speed is not None:
        print(
            f"{speed.flop / 1e9:.0f} GFLOP/s, {speed.bytes / 1e9:.1f} GB/s, {1e6 / speed.calls:.0f} us a call"
        )
    before = status_bytes("VmRSS")
    list(predict(photo, settings))
    list(predict(photo, settings))
    print("| resolution | members | estimate s | measured s | ratio | estimate MB | measured MB | ratio |")
    print("|---|---|---|---|---|---|---|---|")
    ratios = []
    for case in CASES:
        advice = estimate.advise(SIZE, case)
        seconds = []
        Path("/proc/self/clear_refs").write_text("5")
        for _ in range(repeats):
            start = time.perf_counter()
            list(load_pipeline(case.checkpoint).stream(photo, case))
            seconds.append(time.perf_counter() - start)
        peak = status_bytes("VmHWM") - before
        measured = statistics.median(seconds)
        assert advice.seconds is not None and advice.memory_bytes is not None
        time_ratio, memory_ratio = advice.seconds / measured, advice.memory_bytes / peak
        ratios.append((time_ratio, memory_ratio))
        print(
            f"| {case.resolution} | {case.ensemble} "
            f"| {advice.seconds:.2f} | {measured:.2f} | {time_ratio:.2f} "
            f"| {advice.memory_bytes / 1e6:.0f} | {peak / 1e6:.0f} | {memory_ratio:.2f} |",
            flush=True,
        )
    for name, values in zip(("time", "memory"), zip(*ratios, strict=True), strict=True):
        print(f"ratio estimate_{name}_least {min(values):.2f}\nratio estimate_{name}_most {max(values):.2f}")


def status_bytes(field: str) -> float:
    """Return a size that Linux tells of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(float(line.split()[1]) * 1e3 for line in lines if line.startswith(field))


if __name__ == "__main__":
    compare_estimates()
