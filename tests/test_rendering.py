"""The light on a relief: where it comes from, what it shows, and the picture that is written."""

import io

import numpy as np
import pytest
from PIL import Image

from marigold_demo.depth import DepthMap
from marigold_demo.geometry import rendering
from marigold_demo.geometry.relief import build_relief
from marigold_demo.io.formats import format_of, formats_of
from marigold_demo.settings import ReliefSettings
from tests.conftest import make_photo
from tests.pages import ball


def picture_of(settings, *, photo=None):
    relief = build_relief(DepthMap(ball(180, 240)), settings, photo=photo)
    name, data = formats_of("relief")["picture"].write(relief, "lake")
    assert name == "lake_relief.png"
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("RGB")).astype(int), image.size, relief


def test_light_comes_from_the_upper_left():
    y, x = np.mgrid[-1:1:65j, -1:1:65j].astype(np.float32)
    dome = np.sqrt(np.clip(0.8 - x**2 - y**2, 0, None))
    bright = rendering.shade_heights(dome, pitch=1 / 32, full=1.0)
    assert bright[20, 20] > bright[44, 44] + 0.3
    assert bright[20, 20] > bright[32, 32] > bright[44, 44]


def test_a_hollow_is_darker_than_the_ground_and_a_ridge_brighter():
    heights = np.zeros((101, 101), dtype=np.float32)
    heights[48:53, 20:80], heights[20:25, 20:80] = -1, 1
    found = rendering.cavity(heights, full=1.0)
    assert found[50, 50] < -0.3 < 0.3 < found[22, 50]


def test_the_picture_of_a_relief_has_contrast_and_is_1600_pixels_long():
    rgb, size, relief = picture_of(ReliefSettings(resolution=256))
    assert size == (1600, pytest.approx(1600 * relief.size_mm[1] / relief.size_mm[0], abs=2))
    assert rgb[200:-200, 200:-200].std() > 35
    assert format_of("relief", "lake_relief.png").name == "picture"
    assert format_of("relief", "lake.png").name == "heightmap"


def test_around_a_disc_the_picture_is_its_ground():
    rgb, _, _ = picture_of(ReliefSettings(resolution=256, cutout="round"))
    assert np.abs(rgb[5, 5] - rendering.GROUND).max() <= 2
    assert rgb[800, 800].min() > 60


def test_a_lithophane_shows_the_photo_as_a_lamp_behind_it_does():
    photo = make_photo(180, 240)
    rgb, size, relief = picture_of(
        ReliefSettings(resolution=256, source="luminance", smooth_px=0, frame="none"), photo=photo
    )
    gray = np.asarray(Image.fromarray(photo.rgb).convert("L").resize(size))
    assert np.corrcoef(rgb.sum(axis=2).ravel(), gray.ravel())[0, 1] > 0.9
    assert relief.heights.max() > relief.heights.min()


@pytest.mark.parametrize("mode", ["mold", "engrave"])
def test_what_is_near_lies_deep_in_a_mold_and_is_darker(mode):
    middle = (slice(500, 700), slice(700, 900))
    raised, _, _ = picture_of(ReliefSettings(resolution=256))
    sunken, _, _ = picture_of(ReliefSettings(resolution=256, mode=mode))
    assert raised[middle].mean() > sunken[middle].mean() + 15
