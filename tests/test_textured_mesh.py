"""A surface shows the photo from its camera, is cut where depth jumps, and nowhere else."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
import scipy.ndimage
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from marigold_demo.depth import DepthMap
from marigold_demo.errors import DepthFileError
from marigold_demo.geometry.textured_mesh import Surface, build_surface, sharpened, span
from marigold_demo.settings import MeshSettings
from tests.depths import REAL_NAMES, depth_map, hills, kinds, real

SMALL = MeshSettings(resolution=128)


@dataclass(frozen=True, eq=False)
class Shot:
    rgb: NDArray[np.uint8]
    fov_deg: float | None = None


def shot(depth: DepthMap, *, fov_deg: float | None = None, grow: int = 2) -> Shot:
    width, height = depth.size
    rgb = np.random.default_rng(0).integers(0, 256, (height * grow, width * grow, 3), dtype=np.uint8)
    return Shot(rgb, fov_deg)


def project(surface: Surface) -> NDArray[np.float64]:
    """Where the stated camera sees the vertices: float64 [V, 2], 0 to 1 right and down."""
    camera = surface.camera
    x, y, z = surface.vertices.astype(np.float64).T
    distance = camera.near if camera.projection == "orthographic" else -z
    return np.column_stack(
        [(x / distance / camera.half_width + 1) / 2, (1 - y / distance / camera.half_height) / 2]
    )


choices = st.builds(
    MeshSettings,
    resolution=st.just(128),
    projection=st.sampled_from(["perspective", "orthographic"]),
    fov_deg=st.sampled_from([None, 20.0, 110.0]),
    far_near_ratio=st.sampled_from([1.05, 3.0, 50.0]),
    ortho_depth=st.sampled_from([0.0, 0.4, 2.0]),
    edges=st.sampled_from(["cut", "stretch"]),
    tolerance=st.sampled_from([0.0, 5e-4, 1e-2]),
    near_m=st.sampled_from([None, 0.3, 250.0]),
)


@settings(max_examples=40)
@given(kinds, choices)
def test_the_camera_sees_every_vertex_at_its_pixel(kind, choice):
    depth = depth_map(kind)
    surface = build_surface(depth, shot(depth), choice)
    assert len(surface.faces)
    assert np.isfinite(surface.vertices).all()
    assert surface.uv.min() >= 0 and surface.uv.max() <= 1
    front = np.unique(surface.faces[: surface.front_faces])
    assert np.abs(project(surface) - surface.uv)[front].max() * max(surface.texture.shape) <= 0.01
    assert np.array_equal(np.unique(surface.faces), np.arange(len(surface.vertices)))
    distance = -surface.vertices[:, 2]
    near = choice.near_m or 1.0
    assert distance.min() >= near * (1 - 1e-5) and distance.max() <= surface.camera.far * (1 + 1e-5)


@settings(max_examples=20)
@given(kinds, choices)
def test_every_face_looks_at_the_camera(kind, choice):
    depth = depth_map(kind)
    surface = build_surface(depth, shot(depth), choice)
    seen = project(surface)[surface.faces] * [1, -1]
    a, b, c = seen.transpose(1, 0, 2)
    assert (((b - a)[:, 0] * (c - a)[:, 1] - (b - a)[:, 1] * (c - a)[:, 0]) > 0).all()


@pytest.mark.parametrize("kind", ["hills", "constant", "1 x 1", "row"])
def test_smooth_depth_is_covered_whole(kind):
    depth = depth_map(kind)
    surface = build_surface(depth, shot(depth), replace(SMALL, edges="stretch"))
    assert uv_area(surface) == pytest.approx(1, abs=1e-5)


def uv_area(surface: Surface) -> float:
    a, b, c = surface.uv[surface.faces[: surface.front_faces]].astype(np.float64).transpose(1, 0, 2)
    return float(np.abs((b - a)[:, 0] * (c - a)[:, 1] - (b - a)[:, 1] * (c - a)[:, 0]).sum() / 2)


@pytest.mark.parametrize("ratio", [1.5, 3.0, 20.0])
@pytest.mark.parametrize("slope", [(1.0, 0.0), (0.0, 1.0), (0.6, -0.3)])
def test_a_tilted_plane_takes_few_faces_and_none_is_cut(ratio, slope):
    y, x = np.mgrid[:129, :129] / 128
    inverse = x * slope[0] + y * slope[1]
    inverse = (inverse - inverse.min()) / np.ptp(inverse) * (1 - 1 / ratio) + 1 / ratio  # 1/z is linear
    far_share = ((1 / inverse - 1) / (ratio - 1)).astype(np.float32)
    depth = DepthMap(far_share)
    surface = build_surface(depth, shot(depth), replace(SMALL, far_near_ratio=ratio))
    assert uv_area(surface) == pytest.approx(1, abs=1e-5)
    assert len(surface.faces) <= 64
    normals = np.cross(
        surface.vertices[surface.faces[:, 1]] - surface.vertices[surface.faces[:, 0]],
        surface.vertices[surface.faces[:, 2]] - surface.vertices[surface.faces[:, 0]],
    )
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    assert (normals @ normals.T).min() > 0.999  # it is flat in space


def two_walls(*, blur: int = 0) -> NDArray[np.float32]:
    """A near wall before a far one: float32 [96, 128], blurred over so many samples."""
    depth = np.full((96, 128), 1.0, dtype=np.float32)
    depth[20:80, 40:90] = 0.1
    return blurred(depth, blur)


def blurred(grid: NDArray[np.float32], blur: int) -> NDArray[np.float32]:
    return scipy.ndimage.uniform_filter(grid, blur, mode="nearest") if blur else grid


@pytest.mark.parametrize("blur", [0, 2, 3, 4])
def test_no_face_crosses_a_jump_even_a_blurred_one(blur):
    depth = DepthMap(two_walls(blur=blur))
    surface = build_surface(depth, shot(depth), replace(SMALL, behind="open"))
    distance = -surface.vertices[surface.faces, 2]
    assert (distance.max(axis=1) / distance.min(axis=1)).max() < 1.05
    assert len(surface.faces) == surface.front_faces
    assert 0.9 < uv_area(surface) < 1
    stretched = build_surface(depth, shot(depth), replace(SMALL, edges="stretch"))
    distance = -stretched.vertices[stretched.faces, 2]
    assert (distance.max(axis=1) / distance.min(axis=1)).max() > 1.2


@pytest.mark.parametrize("projection", ["perspective", "orthographic"])
def test_behind_a_cut_the_far_side_goes_on_in_its_depth_and_color(projection):
    depth = DepthMap(two_walls())
    height, width = depth.values.shape
    is_near = depth.values < 0.5
    rgb = np.where(is_near[..., None], [200, 30, 30], [30, 30, 200]).astype(np.uint8)
    surface = build_surface(depth, Shot(rgb), replace(SMALL, projection=projection))
    assert len(surface.faces) > surface.front_faces > 0
    back = np.unique(surface.faces[surface.front_faces :])
    distance = -surface.vertices[:, 2].astype(np.float64)
    assert np.ptp(distance[back]) < 0.05 and distance[back].min() > distance.max() - 0.05
    row, column = (surface.uv[back][:, ::-1] * [height, width]).astype(int).clip(0, [height - 1, width - 1]).T
    assert (rgb[row, column, 2] == 200).mean() > 0.99
    place = project(surface)
    seen = (place[back][:, ::-1] * [height, width]).astype(int).clip(0, [height - 1, width - 1])
    covered = np.zeros((height // 8 + 1, width // 8 + 1), dtype=bool)
    covered[tuple((seen // 8).T)] = True
    assert covered[tuple((np.argwhere(is_near) // 8).T)].mean() > 0.9  # all of what is hidden
    opened = build_surface(depth, Shot(rgb), replace(SMALL, projection=projection, behind="open"))
    assert np.array_equal(opened.faces, surface.faces[: surface.front_faces])


def test_a_jump_becomes_one_cell_wide_where_it_was():
    wanted = 1 / (1 + 2 * two_walls())
    sharp, cells = sharpened(blurred(wanted, 3), 0.04)
    assert np.mean(np.abs(sharp - wanted) > 0.02) < 0.002  # the corners of the wall
    assert abs(cells.sum() - 2 * (60 + 50)) <= 12
    assert not cells[:, :35].any() and not cells[:, 95:].any()


def test_faces_at_missing_depth_are_left_out():
    depth = depth_map("holes")
    surface = build_surface(depth, shot(depth), replace(SMALL, edges="stretch"))
    right_of_the_middle = (surface.uv[surface.faces] > [0.52, 0]).all(axis=(1, 2))
    in_the_hole = right_of_the_middle & (surface.uv[surface.faces][..., 1] < 0.28).all(axis=1)
    assert not in_the_hole.any()
    assert 0.75 < uv_area(surface) < 0.86
    with pytest.raises(DepthFileError):
        build_surface(DepthMap(np.full((9, 9), np.nan, dtype=np.float32)), shot(depth), SMALL)


def test_far_is_as_many_times_farther_than_near_as_asked():
    depth = depth_map("stairs")
    for ratio in (1.5, 4.0):
        distance = -build_surface(depth, shot(depth), replace(SMALL, far_near_ratio=ratio)).vertices[:, 2]
        assert distance.min() == pytest.approx(1) and distance.max() == pytest.approx(ratio, rel=1e-5)


def test_the_field_of_view_is_the_choice_then_the_photos_then_50():
    depth = DepthMap(hills(30, 40))
    assert build_surface(depth, shot(depth), SMALL).camera.fov_deg == 50
    assert build_surface(depth, shot(depth, fov_deg=71.0), SMALL).camera.fov_deg == 71
    surface = build_surface(depth, shot(depth, fov_deg=71.0), replace(SMALL, fov_deg=90.0))
    assert surface.camera.half_width == pytest.approx(1)
    assert surface.camera.half_height == pytest.approx(0.75)


def test_a_known_distance_scales_everything():
    depth = depth_map("hills")
    one, other = (build_surface(depth, shot(depth), replace(SMALL, near_m=near)) for near in (None, 2.5))
    assert np.allclose(other.vertices, one.vertices * 2.5, rtol=1e-6)
    assert "arbitrary" in one.scale_note and "meter" in other.scale_note
    assert one.notes and not other.notes


def test_two_clicks_on_a_known_length_give_the_scale():
    depth = DepthMap(np.full((60, 80), 0.5, dtype=np.float32))  # a wall one unit away
    photo = shot(depth)
    half = np.tan(np.radians(25))
    units = span(depth, photo, SMALL, first=(0.25, 0.5), second=(0.75, 0.5))
    assert units == pytest.approx(half, rel=1e-3)
    surface = build_surface(depth, photo, replace(SMALL, near_m=3.0 / units))
    width = np.ptp(surface.vertices[:, 0])
    assert width / 2 == pytest.approx(3.0, rel=1e-3)


def test_the_texture_is_the_photo_and_never_larger_than_asked():
    depth = DepthMap(hills(30, 40))
    photo = shot(depth, grow=20)
    assert np.array_equal(build_surface(depth, photo, SMALL).texture, photo.rgb)
    assert build_surface(depth, photo, replace(SMALL, texture_px=256)).texture.shape == (192, 256, 3)


def test_a_budget_is_kept():
    depth = DepthMap(np.random.default_rng(0).random((300, 400), dtype=np.float32))
    surface = build_surface(
        depth, shot(depth), MeshSettings(resolution=512, edges="stretch", max_faces=10_000)
    )
    assert len(surface.faces) <= 10_000
    assert any("raised" in note for note in surface.notes)


@pytest.mark.slow
@pytest.mark.parametrize("name", REAL_NAMES)
def test_real_depth_keeps_most_of_the_picture_and_stays_small(name):
    depth = real(name)
    surface = build_surface(depth, shot(depth, grow=1), MeshSettings())
    valid = float(np.isfinite(depth.values).mean())
    front = np.unique(surface.faces[: surface.front_faces])
    assert np.abs(project(surface) - surface.uv)[front].max() * max(surface.texture.shape) <= 0.01
    assert len(surface.faces) <= 1_000_000
    if valid > 0.5:
        assert uv_area(surface) > 0.75 * valid
