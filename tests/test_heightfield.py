"""Depth and brightness become heights without holes, stairs or overshoot."""

import numpy as np
import pytest
import scipy.ndimage

from benchmarks.photo_detail import draw_scenes
from marigold_demo.errors import DepthFileError
from marigold_demo.geometry.depth_repair import (
    debanded,
    fill_invalid,
    with_even_outlines,
    without_spots,
    without_teeth,
)
from marigold_demo.geometry.heightfield import (
    filled_up,
    heights_from_brightness,
    luminance,
    resample,
    shading_detail,
    with_photo_detail,
)
from tests.depths import KINDS, hills, noise


def ball(height: int = 200, width: int = 240) -> np.ndarray:
    """A smooth ball before a wall: float32, 0 near."""
    y, x = np.mgrid[:height, :width]
    inside = 1 - ((x - width / 2) / 80) ** 2 - ((y - height / 2) / 80) ** 2
    return np.where(inside > 0, 0.6 - 0.5 * np.sqrt(np.clip(inside, 0, None)), 0.95).astype(np.float32)


def test_eight_bit_depth_loses_its_stairs_but_not_its_cliffs():
    true = ball()
    stairs = np.round(true * 255).astype(np.float32) / np.float32(255)
    smooth = debanded(stairs)
    assert np.abs(smooth - stairs).max() <= 0.5 / 255 + 1e-6
    front = (slice(60, 140), slice(80, 160))
    assert np.abs(np.diff(smooth[front], n=2)).sum() < 0.3 * np.abs(np.diff(stairs[front], n=2)).sum()
    cliff = np.abs(np.diff(true, axis=1)) > 0.2
    assert np.abs(np.diff(smooth, axis=1)[cliff] - np.diff(true, axis=1)[cliff]).max() < 2 / 255


@pytest.mark.parametrize(
    "values", [noise(50, 60), hills(60, 70), KINDS["stairs"], KINDS["two values"], KINDS["constant"]]
)
def test_other_depth_is_left_alone(values):
    assert debanded(values) is values


def test_holes_take_the_nearest_value_and_nothing_else_changes():
    values = np.arange(12, dtype=np.float32).reshape(3, 4)
    holed = values.copy()
    holed[0, 0], holed[2, 3] = np.nan, -np.inf
    filled = fill_invalid(holed)
    assert np.array_equal(filled[np.isfinite(holed)], values[np.isfinite(holed)])
    assert filled[0, 0] in (1, 4) and filled[2, 3] in (10, 7)
    assert fill_invalid(values) is values
    with pytest.raises(DepthFileError):
        fill_invalid(np.full((2, 2), np.nan, dtype=np.float32))


@pytest.mark.parametrize("size", [(129, 129), (33, 33), (1025, 65)])
def test_resampling_never_leaves_the_range(size):
    grid = resample(KINDS["two values"], *size)
    assert grid.shape == size[::-1] and grid.min() >= 0 and grid.max() <= 1


def test_the_photos_brightness_becomes_fine_relief_and_its_broad_light_does_not():
    heights = hills(129, 161)
    heights = (heights - heights.min()) / np.ptp(heights)
    x = np.arange(161)[None].repeat(129, 0)
    stripes = (128 + 60 * np.sin(x * 1.3)).astype(np.uint8)[..., None].repeat(3, 2)
    broad = (128 + 100 * np.sin(x / 60)).astype(np.uint8)[..., None].repeat(3, 2)
    striped, lit = (with_photo_detail(heights, rgb, amount=0.5) for rgb in (stripes, broad))
    change = striped - heights
    change -= change.mean(axis=1, keepdims=True)
    assert np.corrcoef(change[60], stripes[60, :, 0])[0, 1] > 0.6
    assert np.abs(lit - heights).max() < 0.1 * np.abs(striped - heights).max() + 0.02
    for made in (striped, lit):
        assert made.min() == 0 and made.max() == 1


def slope_with(color: tuple[int, int, int], beside: tuple[int, int, int]) -> float:
    """Return how deep a painted stripe becomes on an even slope, as a share of the relief."""
    heights = np.linspace(0.2, 1, 200, dtype=np.float32)[:, None].repeat(200, 1)
    rgb = np.full((200, 200, 3), beside, dtype=np.uint8)
    rgb[:, 90:110] = color
    change = with_photo_detail(heights, rgb, amount=1.0) - with_photo_detail(heights, rgb, amount=1e-6)
    return float(np.ptp(change, axis=1).max())


def test_paint_is_no_shape():
    assert slope_with((0, 0, 0), (255, 255, 255)) <= 0.1  # of the relief, where this counts in full
    gray_steps = slope_with((140, 140, 140), (100, 100, 100))
    assert slope_with((150, 130, 60), (100, 100, 100)) < gray_steps / 2


def test_shading_is_told_from_paint_on_scenes_where_both_are_known():
    scenes = draw_scenes(["folds", "face"])
    made = [shading_detail(scene.rgb, scene.shading.shape) for scene in scenes]
    plain = {scene.form: grid for scene, grid in zip(scenes, made, strict=True) if scene.paint == "none"}
    fits, traces = [], []
    for scene, grid in zip(scenes, made, strict=True):
        if scene.paint != "none":
            near = scene.beside_paint
            fits.append(np.corrcoef(grid.ravel(), scene.shading.ravel())[0, 1])
            traces.append((grid[near] ** 2).mean() / (plain[scene.form][near] ** 2).mean())
    assert np.mean(fits) > 0.8 and min(fits) > 0.7
    assert np.mean(traces) < 1  # paint leaves less than the form does that lies under it


def test_without_photo_detail_heights_are_left_alone():
    heights, rgb = hills(65, 65), np.random.default_rng(0).integers(0, 256, (65, 65, 3), dtype=np.uint8)
    assert with_photo_detail(heights, rgb, amount=0.0) is heights
    flat = np.full((65, 65), 0.5, dtype=np.float32)
    assert with_photo_detail(flat, rgb, amount=1.0) is flat
    grey = np.full((65, 65, 3), 90, dtype=np.uint8)
    spread = (heights - heights.min()) / np.ptp(heights)
    assert np.abs(with_photo_detail(spread, grey, amount=1.0) - spread).max() < 1e-5


def test_luminance_is_linear_and_weighted():
    rgb = np.array([[[255, 255, 255], [0, 0, 0], [188, 188, 188], [0, 255, 0]]], dtype=np.uint8)
    assert luminance(rgb)[0] == pytest.approx([1, 0, 0.5029, 0.7152], abs=1e-3)


def test_equal_thickness_divides_light_equally_and_the_contrast_is_that_of_black_and_white():
    contrast = 16.0
    passed = np.array([[1.0, 0.5, 0.25, 0.125]], dtype=np.float32)
    light = (passed - 1 / contrast) / (1 - 1 / contrast)
    heights = heights_from_brightness(np.append(light, [[0]], axis=1), contrast=contrast)
    assert np.diff(heights[0]) == pytest.approx([1 / 4] * 4, abs=1e-5)


@pytest.mark.parametrize("size", [1, 3, 4])
@pytest.mark.parametrize("value", [0.0, 0.5])
def test_hot_pixels_before_a_wall_are_leveled_and_all_else_stays(size, value):
    clean = ball()
    spotted = clean.copy()
    spotted[10 : 10 + size, 12 : 12 + size] = value
    spotted[100, 120] = 1  # amid the ball
    leveled, count = without_spots(spotted)
    assert count == size**2 + 1
    np.testing.assert_allclose(leveled, clean, atol=0.02)
    assert without_spots(clean)[0] is clean


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_what_is_no_spot_is_left_alone(kind):
    values = fill_invalid(KINDS[kind])
    assert without_spots(values)[0] is values


def test_thin_forms_are_no_spots():
    values = ball()
    values[5:60, 100:102] = 0.2  # a pole
    values[10:30, 20:40] = 0.2  # a box
    assert without_spots(values)[0] is values


def teeth_around_an_oval() -> tuple[np.ndarray, np.ndarray]:
    """Return depth float32 [300, 400] of an oval before a wall, and the same with teeth around it."""
    y, x = np.mgrid[:300, :400].astype(np.float32)
    across, down = (x - 200) / 98, (y - 150) / 125
    reach, turn = np.hypot(across, down), np.arctan2(down, across)
    inside = (0.4 + 0.1 * reach**2).astype(np.float32)
    is_tooth = (reach < 1.06) & (np.sin(turn * 90) > 0.2)
    clean = np.where(reach < 1, inside, np.float32(0.9))
    return clean, np.where((reach < 1) | is_tooth, inside, np.float32(0.9))


def test_teeth_along_a_contour_go_and_all_else_stays():
    clean, toothed = teeth_around_an_oval()
    leveled, count = without_teeth(toothed)
    assert count > 60
    away = scipy.ndimage.distance_transform_edt(clean > 0.8) > 1.5
    assert np.abs(toothed - clean)[away].max() > 0.3
    assert np.abs(leveled - clean)[away].max() < 0.02
    assert without_teeth(clean)[0] is clean
    pole = clean.copy()
    pole[:100, 20:300:20] = 0.5  # poles and letters are no teeth
    pole[290:, :] = np.where(np.arange(400) % 40 < 20, 0.5, 0.9)
    assert without_teeth(pole)[1] == 0


def test_outlines_in_steps_of_pixels_become_even_and_hardly_move():
    y, x = np.mgrid[:150, :200].astype(np.float32)
    reach = np.hypot(x - 99.5, y - 74.5) - 55
    stepped = np.where(reach < 0, np.float32(0.3), np.float32(0.9))
    true = 0.3 + 0.6 * np.clip(reach + 0.5, 0, 1)  # a pixel's share of both sides
    made = with_even_outlines(stepped)
    assert np.abs(made - true).sum() < 0.6 * np.abs(stepped - true).sum()
    assert np.array_equal(made[np.abs(reach) > 1.5], stepped[np.abs(reach) > 1.5])
    assert with_even_outlines(np.full((40, 40), 0.5, dtype=np.float32)).std() == 0


def test_the_tips_of_leaves_are_no_teeth():
    random, leaves = np.random.default_rng(0), np.full((300, 400), 0.9, dtype=np.float32)
    for row, column in random.integers(5, 285, size=(150, 2)):
        leaves[row : row + random.integers(4, 12), column : column + random.integers(2, 5)] = 0.4
    assert without_teeth(leaves)[0] is leaves


@pytest.mark.parametrize("slope", [0.5, 2.0])
def test_a_slope_limit_fills_the_far_side_only(slope):
    y, x = np.mgrid[:120, :160]
    heights = (np.hypot((x - 80) * 0.25, (y - 60) * 0.28) < 7.5).astype(np.float32) * 4
    heights[10:14, 10:14] = 1
    made = filled_up(heights, slope, pitch=(0.28, 0.25))
    plateau = scipy.ndimage.binary_erosion(heights == 4, iterations=4)
    assert np.abs(made[plateau] - 4).max() < 1e-3 and made.max() <= 4 and (made >= 0).all()
    down, across = np.diff(made, axis=0) / 0.28, np.diff(made, axis=1) / 0.25
    sides = slice(1, None), slice(-1)
    corners = [(down[:, one], across[other]) for one in sides for other in sides]
    assert max(np.hypot(*corner).max() for corner in corners) <= slope  # every triangle of every cell
    exact = np.maximum(0, 4 - slope * np.maximum(0, np.hypot((x - 80) * 0.25, (y - 60) * 0.28) - 7.5))
    assert np.abs(made - exact)[20:].max() < 0.5 * slope + 0.4  # a cell, and an octagon in place of a circle
