import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from marigold_demo.evaluation.evaluate import Affine, fit_affine

DEPTH = np.random.default_rng(0).uniform(0, 1, (7, 9))  # [H, W]


@settings(max_examples=30)
@given(scale=st.floats(-100, 100), shift=st.floats(-100, 100))
def test_fit_recovers_any_scale_and_shift(scale, shift):
    found = fit_affine(DEPTH, scale * DEPTH + shift)
    assert found.scale == pytest.approx(scale, abs=1e-9)
    assert found.shift == pytest.approx(shift, abs=1e-9)


@settings(max_examples=30)
@given(scale=st.floats(0.01, 100), shift=st.floats(-100, 100))
def test_fitted_depth_does_not_care_how_the_prediction_was_scaled(scale, shift):
    target = np.sqrt(DEPTH)
    plain = fit_affine(DEPTH, target)(DEPTH)
    moved = scale * DEPTH + shift
    assert np.allclose(fit_affine(moved, target)(moved), plain, atol=1e-9)


def test_no_other_affine_map_fits_better():
    target = DEPTH**2
    best = fit_affine(DEPTH, target)
    error = np.mean((best(DEPTH) - target) ** 2)
    for d_scale, d_shift in ((1e-3, 0), (-1e-3, 0), (0, 1e-3), (0, -1e-3)):
        other = Affine(best.scale + d_scale, best.shift + d_shift)
        assert np.mean((other(DEPTH) - target) ** 2) > error


def test_only_masked_pixels_count():
    target = 2 * DEPTH + 1
    mask = DEPTH < 0.5
    target[~mask] = np.nan
    found = fit_affine(DEPTH, target, mask=mask)
    assert (found.scale, found.shift) == (pytest.approx(2), pytest.approx(1))


def test_float32_far_from_zero_is_fitted_in_float64():
    prediction = (DEPTH + 4096).astype(np.float32)
    found = fit_affine(prediction, prediction.astype(np.float64) * 3 - 5)
    assert found.scale == pytest.approx(3, abs=1e-9)


@pytest.mark.parametrize("value", [0.0, 0.1, 1e6 / 3])
def test_constant_prediction_becomes_the_mean_of_the_target(value):
    found = fit_affine(np.full_like(DEPTH, value), DEPTH)
    assert found.scale == 0
    assert found.shift == pytest.approx(DEPTH.mean())


def test_map_keeps_the_number_format():
    assert Affine(2, 1)(DEPTH.astype(np.float32)).dtype == np.float32


@pytest.mark.parametrize(
    ("prediction", "target", "mask"),
    [
        (DEPTH, DEPTH[:3], None),
        (DEPTH, DEPTH, np.zeros(DEPTH.shape, dtype=bool)),
        (DEPTH, np.where(DEPTH > 0.9, np.nan, DEPTH), None),
    ],
)
def test_what_cannot_be_fitted_is_refused(prediction, target, mask):
    with pytest.raises(ValueError, match=r"shape|left|finite"):
        fit_affine(prediction, target, mask=mask)
