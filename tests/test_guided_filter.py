"""Depth made finer by the photo: edges move onto the photo's, all else stays as it was."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.ndimage import gaussian_filter

from marigold_demo.network.plan import guided_upsample


def at_size(photo: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    return np.asarray(Image.fromarray(photo).resize(size[::-1], Image.Resampling.BOX))


def plain(depth: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    return np.asarray(Image.fromarray(depth).resize(size[::-1], Image.Resampling.BILINEAR))


def scene(
    shift: float = 0.0, *, factor: int = 6, height: int = 60, width: int = 80
) -> tuple[np.ndarray, ...]:
    """Return true depth and photo of a box before a wall, and depth as a coarse network would draw it."""
    y, x = np.mgrid[0 : height * factor, 0 : width * factor] / factor
    inside = (np.abs(x - 40) < 18) & (np.abs(y - 30) < 14)
    truth = np.where(inside, 0.2, 0.8).astype(np.float32)
    photo = np.where(inside[..., None], (200, 90, 40), (60, 90, 120)).astype(np.uint8)
    coarse = truth.reshape(height, factor, width, factor).mean(axis=(1, 3))
    return truth, photo, gaussian_filter(np.roll(coarse, round(shift), axis=1), 2).astype(np.float32)


@pytest.mark.parametrize("shift", [0, 1, 2])
def test_the_outline_of_depth_moves_onto_the_photos(shift):
    truth, photo, coarse = scene(shift)

    def misplaced(depth: np.ndarray) -> float:
        return float(np.mean((depth < 0.5) != (truth < 0.5)))

    followed = guided_upsample(coarse, at_size(photo, coarse.shape), photo)
    assert misplaced(followed) < 0.1 * misplaced(plain(coarse, truth.shape))


def test_an_edge_becomes_as_narrow_as_the_photos():
    truth, photo, coarse = scene()
    row = truth.shape[0] // 2
    steepest = np.abs(np.diff(guided_upsample(coarse, at_size(photo, coarse.shape), photo)[row])).max()
    assert steepest > 5 * np.abs(np.diff(plain(coarse, truth.shape)[row])).max()


def test_a_photo_without_edges_leaves_no_trace_but_smoothing():
    _, photo, coarse = scene()
    grey = np.full_like(photo, 128)
    followed = guided_upsample(coarse, at_size(grey, coarse.shape), grey)
    smooth = gaussian_filter(coarse, 4)
    assert np.abs(followed - plain(coarse, photo.shape[:2])).max() < 1.2 * np.abs(smooth - coarse).max()


@settings(max_examples=15)
@given(
    seed=st.integers(0, 10**6),
    scale=st.floats(0.01, 10),
    shift=st.floats(-3, 3),
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    factor=st.floats(1, 7),
)
def test_depth_may_be_scaled_and_shifted_and_never_leaves_its_range(seed, scale, shift, size, factor):
    rng = np.random.default_rng(seed)
    depth = gaussian_filter(rng.random(size), 1).astype(np.float32)
    large = tuple(max(1, round(edge * factor)) for edge in size)
    photo = rng.integers(0, 256, (*large, 3), dtype=np.uint8)
    small = at_size(photo, size)
    followed = guided_upsample(depth, small, photo)
    assert followed.shape == large
    assert followed.dtype == np.float32
    assert depth.min() - 1e-6 <= followed.min()
    assert followed.max() <= depth.max() + 1e-6
    moved = guided_upsample((depth * scale + shift).astype(np.float32), small, photo)
    assert np.allclose((moved - shift) / scale, followed, atol=1e-4 * (1 + abs(shift) / scale))


def test_rows_at_a_time_make_no_seams(monkeypatch):
    _, photo, coarse = scene()
    whole = guided_upsample(coarse, at_size(photo, coarse.shape), photo)
    monkeypatch.setattr("marigold_demo.network.plan.ROWS", 7)
    assert np.array_equal(guided_upsample(coarse, at_size(photo, coarse.shape), photo), whole)
