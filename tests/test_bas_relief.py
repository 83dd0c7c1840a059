"""The bas-relief operator keeps order and range, and brings out detail that linear heights lose."""

import numpy as np
import pytest
import scipy.sparse
import scipy.sparse.linalg
from hypothesis import given, settings
from hypothesis import strategies as st

from marigold_demo.geometry import bas_relief
from marigold_demo.geometry.bas_relief import compress, screened, unit_range
from tests.depths import noise


def bumps_behind_a_cliff() -> np.ndarray:
    """A smooth ball and small bumps on a wall far behind it: float32 [96, 128], nearness."""
    y, x = np.mgrid[:96, :128].astype(np.float32)
    wall = 0.1 + 0.004 * np.sin(x / 3) * np.sin(y / 3)
    ball = 0.8 + 0.2 * np.sqrt(np.clip(1 - ((x - 40) / 25) ** 2 - ((y - 50) / 25) ** 2, 0, None))
    return unit_range(np.where((x - 40) ** 2 + (y - 50) ** 2 < 25**2, ball, wall).astype(np.float32))


@settings(max_examples=15)
@given(st.integers(0, 10**6), st.floats(0, 1), st.floats(0.1, 2))
def test_heights_span_zero_to_one_exactly(seed, detail, feature_scale):
    heights = compress(unit_range(noise(40, 33, seed=seed)), detail=detail, feature_scale=feature_scale)
    assert heights.min() == 0 and heights.max() == 1
    assert heights.dtype == np.float32


def test_detail_zero_is_linear():
    nearness = unit_range(noise(50, 70))
    assert np.abs(compress(nearness, detail=0, feature_scale=0.5) - nearness).max() <= 1e-5


@pytest.mark.parametrize("detail", [0, 0.5, 1])
def test_constant_nearness_stays_constant(detail):
    assert np.ptp(compress(np.full((33, 40), 0.3, dtype=np.float32), detail=detail, feature_scale=0.5)) == 0


def test_the_screened_equation_is_solved():
    form = unit_range(noise(14, 19))
    heights = screened(form, feature_scale=0.5).astype(np.float64)
    f = form.astype(np.float64) * 19 * bas_relief.ASSUMED_RANGE

    def difference(n):  # forward, without the one that would leave the picture
        return scipy.sparse.diags([-np.ones(n), np.ones(n - 1)], [0, 1]).tocsr()[:-1]

    across = scipy.sparse.kron(scipy.sparse.eye(14), difference(19))
    down = scipy.sparse.kron(difference(14), scipy.sparse.eye(19))
    gx, gy = np.zeros((14, 19)), np.zeros((14, 19))
    gx[:, :-1], gy[:-1] = np.diff(f, axis=1), np.diff(f, axis=0)
    slope = bas_relief.ATTENUATION * np.hypot(gx, gy)
    factor = np.where(slope > 0, np.log1p(slope) / np.where(slope > 0, slope, 1), 1)
    screen = (2 * np.pi / (0.5 * 19)) ** 2
    matrix = across.T @ across + down.T @ down + screen * scipy.sparse.eye(14 * 19)
    right = across.T @ (gx * factor)[:, :-1].ravel() + down.T @ (gy * factor)[:-1].ravel()
    expected = scipy.sparse.linalg.spsolve(matrix.tocsc(), right + screen * bas_relief.ORDER * f.ravel())
    assert np.abs(heights.ravel() - expected).max() <= 1e-4 * np.ptp(expected)


def test_detail_brings_out_small_forms_and_keeps_the_near_nearer():
    nearness = bumps_behind_a_cliff()
    wall = (slice(10, 80), slice(90, 120))
    linear = compress(nearness, detail=0, feature_scale=0.5)
    detailed = compress(nearness, detail=1, feature_scale=0.5)
    assert detailed[wall].std() > 3 * linear[wall].std()
    assert detailed[50, 40] > detailed[wall].max()
    assert np.corrcoef(detailed.ravel(), nearness.ravel())[0, 1] > 0.8
