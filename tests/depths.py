"""Depth maps that reliefs and surfaces must survive, and real ones where they are at hand."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import strategies as st
from numpy.typing import NDArray

from marigold_demo.depth import DepthMap

REAL = Path(__file__).parents[2] / "shared" / "data" / "depth_dev" / "depth"
REAL_NAMES = ("arkit_01", "lensblur_02", "middlebury_02", "nyuv2_04", "nuscenes_02")

Depth = NDArray[np.float32]


def noise(height: int, width: int, *, seed: int = 0) -> Depth:
    return np.random.default_rng(seed).random((height, width), dtype=np.float32)


def hills(height: int, width: int) -> Depth:
    y, x = np.mgrid[:height, :width] / max(height, width)
    return (0.5 + 0.25 * np.sin(7 * x) + 0.25 * np.cos(9 * y * x)).astype(np.float32)


def stairs(height: int, width: int) -> Depth:
    return np.repeat(np.linspace(0, 1, 5), -(-width // 5))[None, :width].repeat(height, 0).astype(np.float32)


def blob(height: int = 48, width: int = 64) -> Depth:
    """All far but a near spot at the top left."""
    depth = np.ones((height, width), dtype=np.float32)
    depth[4 : height // 4, 6 : width // 4] = 0
    return depth


def with_holes(height: int, width: int) -> Depth:
    depth = hills(height, width)
    depth[: height // 3, width // 2 :] = np.nan
    depth[-1, 0] = np.inf
    return depth


KINDS = {
    "noise": noise(24, 31),
    "hills": hills(40, 30),
    "stairs": stairs(20, 30),
    "constant": np.full((18, 24), 0.25, dtype=np.float32),
    "two values": (noise(16, 16) > 0.5).astype(np.float32),
    "one pixel up": np.pad(np.zeros((1, 1), dtype=np.float32), 12, constant_values=1),
    "one pixel down": np.pad(np.ones((1, 1), dtype=np.float32), 12, constant_values=0),
    "holes": with_holes(20, 24),
    "row": noise(1, 40),
    "column": noise(40, 1),
    "2 x 2": noise(2, 2),
    "1 x 1": noise(1, 1),
    "200 : 1": noise(2, 400),
}
kinds = st.sampled_from(sorted(KINDS))


def depth_map(kind: str) -> DepthMap:
    return DepthMap(KINDS[kind])


def real(name: str) -> DepthMap:
    """Return a real depth map, spread over [0, 1] like a prediction, its unknown pixels NaN."""
    path = REAL / f"{name}.npz"
    if not path.exists():
        pytest.skip("the real depth maps are not here")
    with np.load(path) as file:
        values, valid = file["depth"], file["valid"]
    near, far = np.percentile(values[valid], [1, 99])
    spread = np.clip((values - near) / (far - near), 0, 1).astype(np.float32)
    return DepthMap(np.where(valid, spread, np.float32(np.nan)))
