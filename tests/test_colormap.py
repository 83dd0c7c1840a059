import matplotlib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from marigold_demo.colormap import COLORMAPS, DEFAULT_COLORMAP, colorize

RAMP = np.linspace(0, 1, 256, dtype=np.float32)[None]


@pytest.mark.parametrize("colormap", COLORMAPS)
def test_colors_are_those_of_matplotlib(colormap):
    expected = matplotlib.colormaps[colormap](RAMP, bytes=True)[..., :3]
    assert np.abs(colorize(RAMP, colormap=colormap).astype(int) - expected).max() <= 3


def test_near_is_red_and_far_is_blue_as_marigold_shows_it():
    near, far = colorize(np.array([[0.1, 1.0]]))[0].astype(int)
    assert near[0] > near[2] + 80 and far[2] > far[0] + 40
    assert DEFAULT_COLORMAP == "Spectral"


@pytest.mark.parametrize("colormap", ["viridis", "magma", "inferno", "plasma", "cividis", "gray"])
def test_perceptual_maps_never_grow_darker(colormap):
    luminance = colorize(RAMP, colormap=colormap)[0] @ np.array([0.2126, 0.7152, 0.0722])
    assert (np.diff(luminance) > -1).all() and luminance[-1] - luminance[0] > 100


@given(near=st.floats(-10, 10), span=st.floats(0.01, 100))
@settings(max_examples=30)
def test_the_planes_are_the_ends_of_the_map(near, span):
    values = near + span * RAMP.astype(np.float64)
    plain = colorize(RAMP).astype(int)
    assert np.abs(colorize(values, near=near, far=near + span).astype(int) - plain).max() <= 4
    beyond = colorize(np.array([[near - 1, near + span + 1]]), near=near, far=near + span)
    np.testing.assert_array_equal(beyond, plain[:, [0, -1]])


def test_inverted_runs_backwards():
    np.testing.assert_array_equal(colorize(RAMP, invert=True), colorize(RAMP[:, ::-1]))


def test_odd_numbers_take_end_colors_and_nothing_is_written_into_the_values():
    values = np.array([[np.nan, np.inf, -np.inf, 0.5]], dtype=np.float32)
    colors = colorize(values)
    ends = colorize(np.array([[0.0, 1.0]]))
    np.testing.assert_array_equal(colors[0, :3], ends[0, [0, 1, 0]])
    assert np.isnan(values[0, 0])


@pytest.mark.parametrize("choice", [{"colormap": "jet"}, {"near": 1.0, "far": 1.0}, {"near": np.nan}])
def test_impossible_choices_are_errors(choice):
    with pytest.raises(ValueError, match="must be"):
        colorize(RAMP, **choice)


def test_contours_lie_where_depth_crosses_their_levels_and_nowhere_else():
    values = np.tile(np.linspace(0, 1, 401, dtype=np.float32), (9, 1))
    changed = (colorize(values, contours=3) != colorize(values)).any(axis=2)
    expected = np.abs(values[:, None] - 0).any()  # something is there to be drawn on
    assert expected and (changed == changed[0]).all()
    columns = np.flatnonzero(changed[0])
    assert {100, 200, 300} <= set(columns)
    assert all(min(abs(column - level) for level in (100, 200, 300)) <= 1 for column in columns)


@pytest.mark.parametrize("slope", [0.3, 1.0, 3.0])
def test_contours_are_equally_wide_and_smooth_on_any_slope(slope):
    y, x = np.mgrid[0:200, 0:200].astype(np.float32)
    values = (x + slope * y) / (200 + slope * 200)  # one straight line through the middle
    white = colorize(np.ones_like(values), colormap="gray")
    drawn = colorize(values, contours=1, colormap="gray").astype(int)
    plain = colorize(values, colormap="gray").astype(int)
    ink = np.abs(drawn - plain)[..., 0]
    share = ink / max(ink.max(), 1)
    length = 200 * np.hypot(1, slope) / max(1, slope) if slope >= 1 else 200 * np.hypot(1, slope)
    assert white.min() == 255
    assert share.sum() / length == pytest.approx(1.3, abs=0.25)  # covered pixels over the line's length
    assert len(np.unique(ink[ink > 0])) > 3 or slope == 1  # steps between ink and none


def test_flat_depth_has_no_contours_even_at_a_level():
    flat = np.full((30, 40), 0.5, dtype=np.float32)
    np.testing.assert_array_equal(colorize(flat, contours=1), colorize(flat))


@pytest.mark.parametrize("colormap", COLORMAPS)
def test_contours_can_be_told_from_every_ground(colormap):
    values = np.tile(np.linspace(0, 1, 600, dtype=np.float32), (5, 1))
    drawn, plain = (colorize(values, colormap=colormap, contours=count).astype(int) for count in (9, 0))
    for level in range(60, 600, 60):
        near = slice(level - 2, level + 2)
        assert np.abs(drawn[2, near] - plain[2, near]).max() > 40
