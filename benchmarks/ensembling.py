#!/usr/bin/env python3
"""Ensembling by ours and by diffusers' `ensemble_depth`: the same members, one process.

Usage:
    python benchmarks/ensembling.py [MEMBERS ...]

The distance is the sum of the members' RMS differences after alignment, divided by the sum of their
deviations: what the alignment is there to make small. (The objective also falls with a flatter whole.)
"""

import statistics
import sys
import time
from contextlib import contextmanager

import numpy as np
import scipy.optimize
import torch
from diffusers import MarigoldDepthPipeline
from PIL import Image

from marigold_demo.evaluation.evaluate import fit_affine
from marigold_demo.network import ensemble

MEMBER_SIZE = (576, 768)


def time_ensembling(counts: list[int], *, repeats: int, limit_s: float = float("inf")) -> None:
    """Print a table of alignment alone and of alignment, reduction and uncertainty together.

    Args:
        counts: Numbers of members, rising.
        repeats: Runs of diffusers; ours runs thrice as often.
        limit_s: Leave out what diffusers would take longer for, going by the cube of the members.
    """
    print(f"\nensembling, {MEMBER_SIZE[1]} x {MEMBER_SIZE[0]}")
    print("| members | align ours s | diffusers s | ratio | all ours s | diffusers s | ratio "
          "| distance ours | diffusers | difference |\n" + "|---" * 10 + "|")  # fmt: skip
    expected_s = 0.0
    for number, count in enumerate(counts):
        if expected_s > limit_s:
            print(f"{count} members left out: diffusers would take about {expected_s:.0f} s.")
            continue
        members = make_members(count)
        ensemble.reduce_members(members)
        ours_align, ours_all, their_align, their_all = [], [], [], []
        for _ in range(repeats):
            for _ in range(3):  # ours is too short to be timed once
                start = time.perf_counter()
                alignment = ensemble.align(members)
                middle = time.perf_counter()
                depth = ensemble.reduce_members(members)
                ours_align.append(middle - start)
                ours_all.append(time.perf_counter() - middle)
            with timed_minimize() as spans:
                start = time.perf_counter()
                reference = MarigoldDepthPipeline.ensemble_depth(
                    torch.from_numpy(members)[:, None], output_uncertainty=True
                )
                their_all.append(time.perf_counter() - start)
            their_align.append(spans[0][0])
        a, b, c, d = (statistics.median(part) for part in (ours_align, their_align, ours_all, their_all))
        costs = [closeness(members, point) for point in ((alignment.scales, alignment.shifts), spans[0][1])]
        apart = difference(depth.values, reference[0][0, 0].numpy())
        print(
            f"| {count} | {a:.3f} | {b:.2f} | {b / a:.0f} | {c:.3f} | {d:.2f} | {d / c:.0f} "
            f"| {costs[0]:.4f} | {costs[1]:.4f} | {apart:.1e} |"
        )
        if number + 1 < len(counts):
            expected_s = repeats * d * (counts[number + 1] / count) ** 3
        print(f"ratio align_{count}_members {b / a:.1f}")
        print(f"ratio ensemble_{count}_members {d / c:.1f}", flush=True)


def make_members(count: int) -> np.ndarray:
    """Make members [E, H, W] that differ as those of a network do: smoothly, by scale and by shift."""
    rng = np.random.default_rng(count)
    rows, columns = np.mgrid[0 : MEMBER_SIZE[0], 0 : MEMBER_SIZE[1]] / MEMBER_SIZE[1]
    scene = 0.3 * np.sin(9 * columns) + 0.3 * np.cos(11 * rows) + rows + 0.3 * (columns > 0.5)
    scene = (scene - scene.min()) / np.ptp(scene)
    members = []
    for _ in range(count):
        coarse = Image.fromarray(rng.normal(size=(12, 16)).astype(np.float32))
        error = np.asarray(coarse.resize(MEMBER_SIZE[::-1], Image.Resampling.BICUBIC))
        member = (scene + 0.02 * error) * rng.uniform(0.9, 1) + rng.uniform(0, 0.05)
        members.append(member.clip(0, 1))
    return np.stack(members).astype(np.float32)


def closeness(members: np.ndarray, point: tuple[np.ndarray, np.ndarray]) -> float:
    """Return how far aligned members [E, H, W] are apart, whatever their common scale."""
    scales, shifts = (np.reshape(part, (-1, 1, 1)) for part in point)
    aligned = members * scales + shifts  # [E, H, W] float64
    count = len(members)
    pairs = [(i, j) for i in range(count) for j in range(i + 1, count)]
    total = sum(np.sqrt(np.mean((aligned[i] - aligned[j]) ** 2)) for i, j in pairs)
    return float(total / aligned.std(axis=(1, 2)).sum())


def difference(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Return the largest difference of two depth maps after the best scale and shift."""
    return float(np.abs(fit_affine(ours, theirs)(ours) - theirs).max())


@contextmanager
def timed_minimize():
    """Note how long scipy's solver takes inside of diffusers and which scales and shifts it finds."""
    spans: list[tuple[float, list[np.ndarray]]] = []
    minimize = scipy.optimize.minimize

    def timed(*args, **kwargs):
        start = time.perf_counter()
        found = minimize(*args, **kwargs)
        spans.append((time.perf_counter() - start, np.split(found.x, 2)))
        return found

    scipy.optimize.minimize = timed
    try:
        yield spans
    finally:
        scipy.optimize.minimize = minimize


if __name__ == "__main__":
    time_ensembling([int(count) for count in sys.argv[1:]] or [3, 5, 10, 20], repeats=2)
