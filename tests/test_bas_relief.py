"""The bas-relief operator keeps order and range, and brings out detail that linear heights lose."""

import numpy as np
import pytest
import scipy.sparse
import scipy.sparse.linalg
from hypothesis import given, settings
from hypothesis import strategies as st

from marigold_demo.geometry.bas_relief import compress, fit_tilt, gradient, integrate, unit_range
from tests.depths import hills, noise


def bumps_behind_a_cliff() -> np.ndarray:
    """A smooth ball, small bumps on a wall far behind it, and a strip of sky: float32 [96, 128], nearness."""
    y, x = np.mgrid[:96, :128].astype(np.float32)
    wall = 0.1 + 0.004 * np.sin(x / 3) * np.sin(y / 3)
    ball = 0.8 + 0.2 * np.sqrt(np.clip(1 - ((x - 40) / 25) ** 2 - ((y - 50) / 25) ** 2, 0, None))
    wall[y < 6] = 0
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


@settings(max_examples=10)
@given(st.integers(0, 10**6), st.floats(0.01, 1000), st.floats(-1000, 1000), st.sampled_from([0.0, 0.4]))
def test_scale_and_shift_of_depth_change_nothing(seed, scale, shift, level):
    nearness = noise(40, 33, seed=seed).astype(np.float64)
    moved = (nearness * scale + shift).astype(np.float32)
    back = ((moved - shift) / scale).astype(np.float32)  # rounded as `moved` is
    options = {"detail": 0.8, "feature_scale": 0.5, "level": level}
    assert np.abs(compress(moved, **options) - compress(back, **options)).max() < 2e-3


def test_the_integral_solves_its_equation():
    across, down = gradient(noise(14, 19))
    heights = integrate(across, down, sizes=(0.5, 0.1)).astype(np.float64)

    def difference(n):  # forward, without the one that would leave the picture
        return scipy.sparse.diags([-np.ones(n), np.ones(n - 1)], [0, 1]).tocsr()[:-1]

    x = scipy.sparse.kron(scipy.sparse.eye(14), difference(19))
    y = scipy.sparse.kron(difference(14), scipy.sparse.eye(19))
    right = x.T @ across[:, :-1].ravel() + y.T @ down[:-1].ravel()
    expected = np.zeros(14 * 19)
    for size in (0.5, 0.1):
        screen = (2 * np.pi / (size * 19)) ** 2
        matrix = x.T @ x + y.T @ y + screen * scipy.sparse.eye(14 * 19)
        expected += scipy.sparse.linalg.spsolve(matrix.tocsc(), right)
    assert np.abs(heights.ravel() - expected).max() <= 1e-4 * np.ptp(expected)


def test_detail_brings_out_small_forms_and_keeps_the_near_nearer():
    nearness = bumps_behind_a_cliff()
    wall = (slice(10, 80), slice(90, 120))
    linear = compress(nearness, detail=0, feature_scale=0.5)
    detailed = compress(nearness, detail=1, feature_scale=0.5)
    assert detailed[wall].std() > 3 * linear[wall].std()
    assert detailed[50, 40] > detailed[wall].max()
    assert np.corrcoef(detailed.ravel(), nearness.ravel())[0, 1] > 0.8


@pytest.mark.parametrize("detail", [0.4, 0.8, 1])
@pytest.mark.parametrize("kind", ["hills", "cliff"])
def test_what_is_clearly_nearer_stands_higher(kind, detail):
    nearness = unit_range(-hills(96, 128)) if kind == "hills" else bumps_behind_a_cliff()
    heights = compress(nearness, detail=detail, feature_scale=0.5)
    first, second = np.random.default_rng(0).integers(0, nearness.size, (2, 20_000))
    apart = nearness.ravel()[first] - nearness.ravel()[second]
    wrong = -np.sign(apart) * (heights.ravel()[first] - heights.ravel()[second]) > 0.02
    clear = np.abs(apart) > 0.1
    assert (wrong & clear).sum() <= 0.015 * clear.sum()


def test_a_sky_is_the_floor_and_never_above_the_ridge_before_it():
    y, x = np.mgrid[:120, :160].astype(np.float32)
    sky = 0.02 * y / 120 + 0.005 * np.sin(x / 5) * np.sin(y / 7)
    ridge = 60 + 15 * np.sin(x / 20)
    land = 0.1 + 0.9 * (y - ridge) / 75
    nearness = np.where(y < ridge, sky, land).astype(np.float32)
    heights = compress(nearness, detail=1, feature_scale=0.5)
    above, below = y < ridge, (y >= ridge + 2) & (y < ridge + 6)
    assert heights[above].max() <= 0.05
    assert heights[below].min() > heights[above].max()


def test_the_tilt_of_the_whole_is_taken_out_as_far_as_asked():
    y, x = np.mgrid[:90, :120].astype(np.float32)
    nearness = unit_range(y / 90 + 0.3 * x / 120 + 0.04 * np.sin(x / 6) * np.sin(y / 6))
    tilt = fit_tilt(nearness)
    assert tilt.share > 0.95 and tilt.down / tilt.across == pytest.approx(1 / 0.3, rel=0.05)
    assert 0.3 < tilt.automatic_level() <= 0.4
    shares = [
        fit_tilt(compress(nearness, detail=0.8, feature_scale=0.5, level=level)).share
        for level in (0, 0.5, 1)
    ]
    assert shares[0] > shares[1] > shares[2] and shares[2] < 0.05
    assert fit_tilt(noise(60, 60)).automatic_level() == 0
