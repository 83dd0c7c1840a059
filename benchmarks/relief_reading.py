"""Measure how reliefs of given depth read: order, plane share, contrast, and the operator's time.

Usage:
    python -m benchmarks.relief_reading DEPTH...     .npy, .npz and all that the command line reads

- order: share of random pairs of samples whose depths differ by more than a tenth of their range and whose
  heights stand the wrong way round by more than 2 % of the relief.
- plane: share of the heights' variance that one plane explains.
- contrast: standard deviation of Lambert shading, 3 mm on 100 mm, light from the upper left at 45 degrees,
  where depth has no jump (the lower 90 % of its gradients); also as a ratio to linear heights (`detail` 0).
"""

import argparse
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from marigold_demo.depth import DepthMap
from marigold_demo.geometry.bas_relief import compress
from marigold_demo.geometry.depth_repair import fill_invalid
from marigold_demo.geometry.heightfield import resample
from marigold_demo.geometry.relief import build_relief
from marigold_demo.geometry.rtin import grid_size
from marigold_demo.io.depth_file import read_depth_file
from marigold_demo.settings import RELIEF_PRESETS, ReliefSettings

RESOLUTION, PAIRS = 512, 40_000
SETTINGS = {
    "linear": ReliefSettings(detail=0.0),
    "default": ReliefSettings(),
    "portrait": RELIEF_PRESETS["portrait"],
    "landscape": RELIEF_PRESETS["landscape"],
    "default, level 1": ReliefSettings(level=1.0),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("depth", type=Path, nargs="+")
    files = parser.parse_args().depth
    maps = [fill_invalid(read_depth_file(path, inverse=False).depth.values) for path in files]
    print(f"mean of {len(maps)} depth maps, {RESOLUTION} px\n{'':18} order  plane  contrast")
    linear = 0.0
    for name, settings in SETTINGS.items():
        order, plane, contrast = np.mean([measure(depth, settings) for depth in maps], axis=0)
        linear = linear or contrast
        print(f"{name:18} {order:.3f}  {plane:.2f}   {contrast:.3f} x{contrast / linear:.2f}")
    columns, rows = grid_size(1024, 768, 1024)
    nearness = 1 - resample(maps[0], columns, rows)
    spent = []
    for _ in range(20):
        began = time.perf_counter()
        compress(nearness, detail=0.8, feature_scale=0.5)
        spent.append(time.perf_counter() - began)
    print(f"operator at {columns} x {rows}: {1000 * min(spent):.0f} ms (least of {len(spent)})")


def measure(depth: NDArray[np.float32], settings: ReliefSettings) -> tuple[float, float, float]:
    """Return order, plane share and contrast."""
    chosen = replace(settings, resolution=RESOLUTION, frame="none", max_faces=10_000, tolerance_mm=0.2)
    heights = build_relief(DepthMap(depth), chosen).heights.astype(np.float64)
    heights = (heights - heights.min()) / np.ptp(heights)
    rows, columns = heights.shape
    grid = resample(depth, columns, rows).astype(np.float64)
    low, high = np.percentile(grid, [2, 98])
    grid = np.clip((grid - low) / (high - low), 0, 1)
    first, second = np.random.default_rng(0).integers(0, grid.size, (2, PAIRS))
    apart = grid.ravel()[first] - grid.ravel()[second]
    clear = np.abs(apart) > 0.1
    wrong = np.sign(apart) * (heights.ravel()[first] - heights.ravel()[second]) > 0.02
    y, x = np.mgrid[:rows, :columns]
    plane = np.stack([x.ravel(), y.ravel(), np.ones(heights.size)], axis=1)
    left = heights.ravel() - plane @ np.linalg.lstsq(plane, heights.ravel(), rcond=None)[0]
    down, across = np.gradient(heights * 3 / (100 / max(rows, columns)))
    shading = (across + down + 2**0.5) / np.sqrt(across**2 + down**2 + 1) / 2
    jump = np.hypot(*np.gradient(grid))
    return (
        float((wrong & clear).sum() / max(clear.sum(), 1)),
        float(1 - left.var() / heights.var()),
        float(shading[jump <= np.percentile(jump, 90)].std()),
    )


if __name__ == "__main__":
    main()
