"""Every depth and every choice gives one closed solid of the asked size that follows the heights."""

import io
import shutil
from dataclasses import dataclass, replace

import numpy as np
import pytest
import trimesh
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from benchmarks.solids import SLICER, example_stl, sliced_pieces, slicer_says
from marigold_demo.depth import DepthMap
from marigold_demo.errors import DepthFileError, SettingsError
from marigold_demo.geometry.footprint import opaque_distance
from marigold_demo.geometry.heightfield import frame_top_mm, make_profile
from marigold_demo.geometry.outline import border_distance
from marigold_demo.geometry.relief import Relief, build_relief, reduced, steepest
from marigold_demo.geometry.solid import check_mesh
from marigold_demo.io import export
from marigold_demo.io.mesh_files import from_stl, read_threemf
from marigold_demo.settings import RELIEF_PRESETS, ReliefSettings
from tests.depths import KINDS, REAL_NAMES, blob, depth_map, hills, kinds, noise, real

SMALL = ReliefSettings(resolution=128)
FLAT_KINDS = ("constant", "1 x 1")


@dataclass(frozen=True, eq=False)
class Picture:
    rgb: NDArray[np.uint8]
    alpha: NDArray[np.uint8] | None = None


def picture(height: int = 40, width: int = 30) -> Picture:
    alpha = np.zeros((height, width), dtype=np.uint8)
    alpha[4 : height - 6, 4:-6] = 255
    alpha[height - 8 : height - 3, -8:-2] = 255  # another part, which touches at a corner
    alpha[12:18, 10:16] = 0  # and a hole
    rgb = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Picture(rgb, alpha)


frames = st.fixed_dictionaries(
    {
        "frame": st.sampled_from(["none", "flat", "bevel", "round"]),
        "frame_mm": st.sampled_from([0.0, 0.1, 2.0, 30.0]),
        "frame_top_mm": st.sampled_from([None, 0.0, 0.05, 12.0]),
        "bevel_mm": st.sampled_from([0.05, 0.4, 20.0]),
    }
)
sizes = st.fixed_dictionaries(
    {
        "width_mm": st.floats(70, 1000),
        "relief_mm": st.floats(0.2, 100),
        "base_mm": st.floats(0.4, 50),
        "mode": st.sampled_from(["emboss", "engrave", "mold"]),
        "tolerance_mm": st.sampled_from([0.0, 0.01, 0.2]),
        "detail": st.sampled_from([0.0, 0.8, 1.0]),
        "smooth_px": st.sampled_from([0.0, 1.0]),
    }
)
settings_drawn = st.builds(lambda frame, size: ReliefSettings(resolution=128, **frame, **size), frames, sizes)


def reread(relief: Relief) -> trimesh.Trimesh:
    """Return the solid as another program reads it from the STL: welded by exact coordinates."""
    corners = from_stl(export.stl(relief))["corners"].reshape(-1, 3)
    assert np.isfinite(corners).all()
    vertices, number = np.unique(corners, axis=0, return_inverse=True)
    return trimesh.Trimesh(vertices=vertices.astype(np.float64), faces=number.reshape(-1, 3), process=False)


def assert_solid(mesh: trimesh.Trimesh, *, euler: int = 2) -> None:
    assert mesh.is_watertight and mesh.is_winding_consistent
    assert mesh.body_count == 1
    assert mesh.euler_number == euler
    assert mesh.volume > 0
    assert mesh.area_faces.min() > 1e-10


def upward(mesh: trimesh.Trimesh) -> NDArray[np.float64]:
    """Areas in the plane of the faces that look up, walls left out."""
    a, b, c = mesh.triangles[:, :, :2].transpose(1, 0, 2)
    areas = ((b - a)[:, 0] * (c - a)[:, 1] - (b - a)[:, 1] * (c - a)[:, 0]) / 2
    return areas[mesh.triangles[:, :, 2].max(axis=1) > 0]


@settings(max_examples=15)
@given(kinds, settings_drawn)
def test_every_depth_gives_one_closed_solid_of_the_asked_size(kind, picked):
    relief = build_relief(depth_map(kind), picked)
    mesh = reread(relief)
    assert_solid(mesh)
    assert np.abs(mesh.bounds[0]).max() < 1e-9
    assert np.abs(mesh.extents - relief.size_mm).max() <= 1e-3
    assert max(relief.size_mm[:2]) == pytest.approx(picked.width_mm, abs=1e-3)
    areas = upward(mesh)
    assert areas.min() >= 0  # walls are upright, nothing hangs over
    assert areas.sum() == pytest.approx(relief.size_mm[0] * relief.size_mm[1], rel=1e-5)
    assert len(relief.solid.faces) <= picked.max_faces


@settings(max_examples=20)
@given(kinds, settings_drawn)
def test_heights_are_the_asked_ones(kind, picked):
    relief = build_relief(depth_map(kind), picked)
    picture_heights = relief.solid.vertices[np.unique(relief.solid.faces[: relief.solid.picture_faces]), 2]
    if kind in FLAT_KINDS:
        assert np.ptp(picture_heights) == 0
        assert picture_heights[0] == pytest.approx(picked.base_mm + picked.relief_mm / 2, abs=1e-3)
        assert any("flat" in note for note in relief.notes)
    else:
        assert np.ptp(picture_heights) == pytest.approx(picked.relief_mm, abs=1e-3)
        assert picture_heights.min() == pytest.approx(picked.base_mm, abs=1e-4)
    corners = relief.solid.vertices[relief.solid.faces]
    looks_up = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])[:, 2] > 0
    assert corners[looks_up, :, 2].min() >= picked.base_mm - 1e-4
    rings = [ring.height_mm for ring in make_profile(picked).rings]
    top = max(rings, default=0.0)
    assert relief.size_mm[2] == pytest.approx(max(top, picture_heights.max()), abs=1e-3)
    if rings:
        assert top == pytest.approx(picked.base_mm + frame_top_mm(picked), rel=1e-6)
    if rings and picked.mode == "mold":
        assert top >= picture_heights.max() - 1e-3


@settings(max_examples=6)
@given(kinds, settings_drawn)
def test_the_volume_is_that_of_the_prisms_under_the_surface(kind, picked):
    mesh = reread(build_relief(depth_map(kind), picked))
    a, b, c = mesh.triangles.transpose(1, 0, 2)
    areas = ((b - a)[:, 0] * (c - a)[:, 1] - (b - a)[:, 1] * (c - a)[:, 0]) / 2
    assert mesh.volume == pytest.approx((areas * mesh.triangles[:, :, 2].mean(axis=1)).sum(), rel=1e-3)


@settings(max_examples=12)
@given(kinds, st.sampled_from([0.005, 0.05, 0.2]))
def test_no_grid_point_is_farther_from_the_mesh_than_the_tolerance(kind, tolerance):
    relief = build_relief(depth_map(kind), replace(SMALL, tolerance_mm=tolerance))
    mesh_heights = heights_over_grid(relief)
    assert np.abs(mesh_heights - relief.heights).max() <= tolerance + 1e-5


def heights_over_grid(relief: Relief) -> NDArray[np.float64]:
    """Evaluate the picture's triangles over every grid point, by barycentric coordinates: float64 [R, C]."""
    rows, columns = relief.heights.shape
    corners = relief.solid.vertices[relief.solid.faces[: relief.solid.picture_faces]].astype(np.float64)
    corners[..., 0] = np.round(
        (corners[..., 0] - relief.footprint.left_mm) / relief.footprint.width_mm * (columns - 1)
    )
    corners[..., 1] = np.round(
        (1 - (corners[..., 1] - relief.footprint.front_mm) / relief.footprint.depth_mm) * (rows - 1)
    )
    found = np.full((rows, columns), np.nan)
    low, high = corners[..., :2].min(axis=1), corners[..., :2].max(axis=1)
    for size in np.unique(high - low, axis=0):  # triangles of one bounding box at a time
        chosen = ((high - low) == size).all(axis=1)
        across, down = np.meshgrid(*(np.arange(side + 1) for side in size))
        x, y = low[chosen, 0, None] + across.ravel(), low[chosen, 1, None] + down.ravel()  # [F, N]
        a, b, c = corners[chosen].transpose(1, 2, 0)[..., None]  # [3, F, 1]
        total = (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])
        v = ((x - a[0]) * (c[1] - a[1]) - (y - a[1]) * (c[0] - a[0])) / total
        w = ((b[0] - a[0]) * (y - a[1]) - (b[1] - a[1]) * (x - a[0])) / total
        inside = (v >= 0) & (w >= 0) & (v + w <= 1)
        heights = a[2] + v * (b[2] - a[2]) + w * (c[2] - a[2])
        found[y[inside].astype(int), x[inside].astype(int)] = heights[inside]
    assert np.isfinite(found).all()
    return found


def test_a_near_spot_at_the_top_left_is_at_small_x_large_y_and_high():
    relief = build_relief(DepthMap(blob()), replace(SMALL, frame="none"))
    highest = relief.solid.vertices[relief.solid.vertices[:, 2].argmax()]
    assert highest[0] < relief.size_mm[0] / 3
    assert highest[1] > relief.size_mm[1] * 2 / 3


def test_a_mold_has_it_deep_and_mirrored_and_its_rim_holds_the_cast():
    relief = build_relief(DepthMap(blob()), replace(SMALL, mode="mold", frame_top_mm=1.0))
    inside = relief.solid.vertices[np.unique(relief.solid.faces[: relief.solid.picture_faces])]
    deepest = inside[inside[:, 2].argmin()]
    assert deepest[0] > relief.size_mm[0] * 2 / 3
    assert deepest[1] > relief.size_mm[1] * 2 / 3
    assert relief.size_mm[2] == pytest.approx(1.6 + 5.0, abs=1e-3)
    assert any("rim" in note for note in relief.notes)


def test_mold_and_relief_fill_a_block():
    picked = replace(SMALL, frame="none", tolerance_mm=0.0)
    relief, mold = (
        build_relief(depth_map("hills"), replace(picked, mode=mode)) for mode in ("emboss", "mold")
    )
    together = relief.heights + mold.heights[:, ::-1]
    assert np.abs(together - (2 * picked.base_mm + picked.relief_mm)).max() < 1e-4


@pytest.mark.parametrize("cutout", ["none", "depth", "round"])
def test_a_stamp_is_the_mirrored_emboss(cutout):
    picked = replace(SMALL, cutout=cutout, frame="none", cutout_depth=0.6)
    relief, stamp = (build_relief(depth_map("hills"), replace(picked, mode=m)) for m in ("emboss", "stamp"))
    assert_solid(reread(stamp), euler=reread(relief).euler_number)
    assert stamp.size_mm == pytest.approx(relief.size_mm, abs=1e-3)
    assert stamp.mesh.volume == pytest.approx(relief.mesh.volume, rel=1e-3)
    turned = relief.size_mm[0] - relief.mesh.center_mass[0]
    assert stamp.mesh.center_mass[0] == pytest.approx(turned, abs=0.02)
    assert abs(relief.mesh.center_mass[0] - turned) > 0.2


@pytest.mark.parametrize("mode", ["emboss", "mold"])
@pytest.mark.parametrize("degrees", [45.0, 70.0])
def test_no_slope_is_steeper_than_the_limit(mode, degrees):
    y, x = np.mgrid[:90, :120]
    depth = DepthMap(np.where(np.hypot(x - 60, y - 45) < 20, 0.2, 0.9).astype(np.float32))
    picked = replace(SMALL, mode=mode, frame="none", width_mm=50.0, detail=0.0)
    limited, free = (build_relief(depth, replace(picked, slope_deg=limit)) for limit in (degrees, 90.0))
    corners = from_stl(export.stl(limited))["corners"][: limited.solid.picture_faces].astype(np.float64)
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    slopes = np.degrees(np.arctan2(np.hypot(normals[:, 0], normals[:, 1]), normals[:, 2]))
    assert steepest(limited) <= degrees + 0.1 and steepest(free) > degrees + 3
    areas = np.linalg.norm(normals, axis=1)
    assert (
        areas[slopes > degrees + 2].sum() < 0.1 * areas[slopes > degrees - 5].sum()
    )  # at corners of the grid
    assert_solid(reread(limited))
    assert limited.size_mm[2] == pytest.approx(free.size_mm[2], abs=1e-3)


def test_engraving_turns_heights_over():
    relief, engraved = (
        build_relief(depth_map("hills"), replace(SMALL, mode=m)) for m in ("emboss", "engrave")
    )
    assert np.abs(relief.heights + engraved.heights - (2 * 1.6 + 5.0)).max() < 1e-4


@settings(max_examples=15)
@given(st.integers(0, 10**6))
def test_a_nearer_sample_is_never_lower_without_detail(seed):
    depth = noise(129, 97, seed=seed)
    relief = build_relief(DepthMap(depth), replace(SMALL, detail=0, smooth_px=0, tolerance_mm=0))
    order = np.argsort(depth, axis=None)
    assert np.diff(relief.heights.ravel()[order]).max() <= 1e-6
    linear = (depth.max() - depth) / np.ptp(depth) * 5.0 + 1.6
    assert np.abs(relief.heights - linear).max() <= 1e-5


@settings(max_examples=15)
@given(st.sampled_from(["noise", "hills", "stairs", "one pixel up"]), st.floats(0.2, 0.9), st.floats(0, 0.1))
def test_scale_and_shift_of_depth_change_nothing(kind, scale, shift):
    depth = KINDS[kind]
    one, other = build_relief(DepthMap(depth), SMALL), build_relief(DepthMap(scale * depth + shift), SMALL)
    assert np.abs(one.heights - other.heights).max() <= 1e-3
    assert other.mesh.volume == pytest.approx(one.mesh.volume, rel=1e-3)


def test_the_frame_is_symmetric():
    relief = build_relief(depth_map("constant"), replace(SMALL, frame="round", frame_mm=8.0))
    points = relief.solid.vertices[relief.solid.vertices[:, 2] > 0].astype(np.float64)
    x, y, _ = relief.size_mm
    for turned in (points * [-1, 1, 1] + [x, 0, 0], points * [1, -1, 1] + [0, y, 0]):
        distance = np.linalg.norm(points[:, None] - turned[None], axis=2).min(axis=1)
        assert distance.max() <= 1e-4


def test_near_and_far_planes_flatten_what_lies_beyond():
    ramp = np.linspace(0, 1, 129, dtype=np.float32)[None].repeat(129, 0)
    relief = build_relief(DepthMap(ramp), replace(SMALL, near=0.25, far=0.75, detail=0, smooth_px=0))
    row = relief.heights[64]
    assert (row[:32] == row[0]).all() and (row[97:] == row[-1]).all()
    assert row[0] == pytest.approx(6.6, abs=1e-4) and row[-1] == pytest.approx(1.6, abs=1e-4)


def test_missing_depth_takes_the_nearest_value_and_is_told():
    relief = build_relief(depth_map("holes"), SMALL)
    assert any("no value" in note for note in relief.notes)
    nothing = DepthMap(np.full((20, 20), np.nan, dtype=np.float32))
    with pytest.raises(DepthFileError, match="no finite value"):
        build_relief(nothing, SMALL)


def test_a_budget_raises_the_tolerance_and_says_so():
    relief = build_relief(DepthMap(noise(300, 400)), ReliefSettings(resolution=512, max_faces=10_000))
    assert len(relief.solid.faces) <= 10_000
    assert relief.solid.tolerance_mm > 0.01
    assert any("10,000 triangles" in note for note in relief.notes)
    assert_solid(reread(relief))


def test_a_lighter_relief_is_the_same_piece():
    relief = build_relief(DepthMap(noise(100, 120)), SMALL)
    light = reduced(relief, max_faces=10_000)
    assert len(light.solid.faces) <= 10_000 < len(relief.solid.faces)
    assert light.size_mm == relief.size_mm
    assert reduced(light, max_faces=10_000) is light


@pytest.mark.parametrize("radius", [30.0, -60.0, 300.0])
@pytest.mark.parametrize("frame", ["none", "round"])
@pytest.mark.parametrize("cutout", ["round", "oval", "depth"])
def test_bent_discs_and_cut_outs_are_closed(radius, frame, cutout):
    picked = replace(
        SMALL, width_mm=60.0, cutout=cutout, frame=frame, bend_radius_mm=radius, cutout_depth=0.6
    )
    relief = build_relief(depth_map("hills"), picked)
    relief.assert_sound()
    assert np.abs(reread(relief).bounds[0]).max() <= 1e-4


@settings(max_examples=6)
@given(
    st.sampled_from(["noise", "hills", "constant", "stairs"]),
    st.sampled_from([40.0, -40.0, 300.0, -1500.0]),
    st.sampled_from(["flat", "round"]),
)
def test_a_bent_piece_is_closed_and_its_back_lies_on_the_cylinder(kind, radius, frame):
    picked = replace(SMALL, bend_radius_mm=radius, frame=frame, tolerance_mm=0.01)
    relief = build_relief(depth_map(kind), picked)
    mesh = reread(relief)
    assert_solid(mesh)
    assert np.abs(mesh.bounds[0]).max() == 0
    flat = build_relief(depth_map(kind), replace(SMALL, frame=frame))
    assert mesh.extents[1] == pytest.approx(flat.size_mm[1], abs=1e-3)
    assert mesh.volume == pytest.approx(flat.mesh.volume * (1 + 2.3 / radius), rel=0.02)
    # Every triangle of the back stays within the tolerance of a cylinder of the asked radius.
    x, z = mesh.vertices[:, 0] - mesh.extents[0] / 2, mesh.vertices[:, 2]
    half = flat.size_mm[0] / 2 / abs(radius)
    axis = -abs(radius) * np.cos(half) if radius > 0 else abs(radius)
    reach = np.hypot(x, z - axis)
    back = np.abs(reach - abs(radius)) < 1e-3
    on_back = back[mesh.faces].all(axis=1)
    middle = mesh.triangles[on_back].mean(axis=1)
    assert on_back.sum() >= 4
    assert (
        np.abs(np.hypot(middle[:, 0] - mesh.extents[0] / 2, middle[:, 2] - axis) - abs(radius)).max() <= 0.011
    )
    assert mesh.area_faces[on_back].sum() == pytest.approx(flat.size_mm[0] * flat.size_mm[1], rel=1e-2)


@pytest.mark.parametrize(
    ("radius", "words"), [(10.0, "too tight"), (-16.5, "hollow side"), (-24.0, "hollow side")]
)
def test_a_bend_that_cannot_be_says_what_could(radius, words):
    picked = ReliefSettings(resolution=128, relief_mm=20.0, bend_radius_mm=radius)
    with pytest.raises(SettingsError, match=words):
        build_relief(DepthMap(hills(30, 30)), picked)


@settings(max_examples=8)
@given(st.sampled_from(["noise", "two values", "hills", "stairs"]), st.floats(0.2, 0.9), st.floats(30, 300))
def test_a_cut_out_by_depth_is_one_closed_piece_of_the_asked_size(kind, depth, width):
    picked = replace(SMALL, cutout="depth", cutout_depth=depth, width_mm=width)
    try:
        relief = build_relief(depth_map(kind), picked)
    except SettingsError as error:
        assert "cut-out" in str(error)
        return
    mesh = reread(relief)
    assert mesh.is_watertight and mesh.is_winding_consistent and mesh.body_count == 1
    assert mesh.euler_number % 2 == 0 and mesh.euler_number <= 2
    assert mesh.area_faces.min() > 1e-10
    assert np.abs(mesh.bounds[0]).max() <= 1e-4
    assert max(mesh.extents[:2]) == pytest.approx(width, abs=1e-3)
    top = relief.solid.vertices[np.unique(relief.solid.faces[: relief.solid.picture_faces]), 2]
    assert top.min() == pytest.approx(1.6, abs=1e-4) and np.ptp(top) == pytest.approx(5.0, abs=1e-3)


def test_a_cut_out_by_transparency_follows_the_photo_and_keeps_its_hole():
    relief = build_relief(DepthMap(hills(40, 30)), replace(SMALL, cutout="alpha"), photo=picture())
    mesh = reread(relief)
    assert_solid(mesh, euler=0)
    assert any("frame" in note for note in relief.notes)
    share = upward(mesh).sum() / (relief.footprint.width_mm * relief.footprint.depth_mm)
    assert share == pytest.approx((30 * 20 - 36 + 5 * 6 - 2 * 2) / (40 * 30), abs=0.05)


@settings(max_examples=10)
@given(
    st.sampled_from(["hills", "noise", "constant", "stairs"]),
    st.sampled_from(["round", "oval"]),
    st.sampled_from(["none", "flat", "bevel", "round"]),
    st.sampled_from(["emboss", "mold"]),
)
def test_a_disc_is_closed_has_its_rim_and_its_area(kind, cutout, frame, mode):
    picked = replace(SMALL, cutout=cutout, frame=frame, mode=mode, width_mm=60.0, frame_mm=3.0)
    relief = build_relief(depth_map(kind), picked)
    mesh = reread(relief)
    assert_solid(mesh)
    x, y, z = relief.size_mm
    assert max(x, y) == pytest.approx(60, abs=1e-3)
    assert upward(mesh).sum() == pytest.approx(np.pi / 4 * x * y, rel=0.03)
    if cutout == "round":
        assert x == pytest.approx(y, rel=0.03)
    picture = relief.heights[relief.footprint.picture]
    assert np.ptp(picture) == pytest.approx(0 if kind == "constant" else 5, abs=1e-3)
    rim = make_profile(picked).rings
    assert z == pytest.approx(
        max([picture.max(), *(ring.height_mm for ring in rim)]), abs=0.05
    )  # on the grid


def outer_walls(relief: Relief) -> NDArray[np.float64]:
    """Return corners and middles of edges of the walls that stand on z = 0: float64 [N, 2]."""
    corners = from_stl(export.stl(relief))["corners"].astype(np.float64)
    height = corners[:, :, 2]
    walls = corners[(height.min(axis=1) == 0) & (height.max(axis=1) > 0)]
    return np.concatenate([walls, (walls + np.roll(walls, 1, axis=1)) / 2])[:, :, :2].reshape(-1, 2)


@pytest.mark.parametrize("frame", ["none", "bevel"])
@pytest.mark.parametrize("cutout", ["round", "oval"])
@pytest.mark.parametrize(("width", "resolution"), [(20.0, 128), (40.0, 768), (300.0, 256)])
def test_a_disc_follows_its_circle_at_every_size_and_is_as_wide_as_asked(frame, cutout, width, resolution):
    picked = ReliefSettings(resolution=resolution, width_mm=width, cutout=cutout, frame=frame, frame_mm=1.5)
    relief = build_relief(depth_map("hills"), picked)
    half = np.array(relief.size_mm[:2]) / 2
    reach = np.hypot(*((outer_walls(relief) - half) / half).T) * half.max()
    assert np.ptp(reach) <= 0.02
    extents = reread(relief).extents
    assert max(extents[:2]) == pytest.approx(width, abs=1e-4)
    assert extents == pytest.approx(relief.size_mm, abs=1e-4)


def test_a_rim_is_round_too():
    picked = ReliefSettings(resolution=256, width_mm=300.0, cutout="round", frame="flat", frame_mm=8.0)
    relief = build_relief(depth_map("hills"), picked)
    points = relief.solid.vertices
    rings = make_profile(picked).rings
    on_rim = points[np.abs(points[:, 2] - rings[0].height_mm) < 1e-5][:, :2].astype(np.float64)
    reach = np.hypot(*(on_rim - 150).T)
    for ring in rings:
        near = np.abs(reach - (142 + ring.outward_mm)) < 0.2
        assert near.sum() > 100 and np.ptp(reach[near]) <= 0.02


@pytest.mark.parametrize("resolution", [128, 256])
def test_a_cut_out_follows_the_contour_of_depth_and_of_soft_transparency(resolution):
    y, x = np.mgrid[:600, :600]
    reach = np.hypot(x - 299.5, y - 299.5) / 600
    alpha = (np.clip((0.35 - reach) * 600 + 0.5, 0, 1) * 255).astype(np.uint8)
    shot = Picture(np.full((600, 600, 3), 128, dtype=np.uint8), alpha)
    picked = ReliefSettings(resolution=resolution, width_mm=100.0)
    cone = DepthMap((reach / 0.71).astype(np.float32))
    for choice, most in ((replace(picked, cutout="depth"), 0.01), (replace(picked, cutout="alpha"), 0.03)):
        walls = outer_walls(build_relief(cone, choice, photo=shot))
        assert np.ptp(np.hypot(*(walls - 50).T)) <= most


@pytest.mark.parametrize(
    ("size", "resolution", "most"), [(400, 512, 0.03), (1000, 1024, 0.02), (128, 512, 0.2)]
)
def test_a_cut_out_of_hard_transparency_has_no_staircase(size, resolution, most):
    y, x = np.mgrid[:size, :size]
    reach = np.hypot(x - size / 2 + 0.3, y - size / 2 - 0.2)
    shot = Picture(
        np.full((size, size, 3), 128, dtype=np.uint8), np.where(reach < 0.4 * size, 255, 0).astype(np.uint8)
    )
    picked = ReliefSettings(resolution=resolution, width_mm=100.0, cutout="alpha")
    walls = outer_walls(build_relief(DepthMap((reach / size).astype(np.float32)), picked, photo=shot))
    middle = (walls.min(axis=0) + walls.max(axis=0)) / 2
    assert np.ptp(np.hypot(*(walls - middle).T)) <= most  # a pixel is 0.31, 0.13 and 0.98 mm


def test_large_masks_are_seen_whole():
    thin = np.full((2, 9000), 255, dtype=np.uint8)
    thin[:, :500] = 0
    distance = opaque_distance(thin, (3, 1025))
    assert (distance > 0)[:, 60:].all() and (distance < 0)[:, :50].all()
    y, x = np.mgrid[:3000, :4000]
    disc = np.where(np.hypot(x - 1999.5, y - 1499.5) < 1000, 255, 0).astype(np.uint8)
    rows, columns = np.nonzero(opaque_distance(disc, (751, 1001)) > 0)
    assert abs(columns.mean() - 500) < 0.05 and abs(rows.mean() - 375) < 0.05


def test_a_border_leaves_every_pixel_on_its_side_and_stays_at_corners():
    y, x = np.mgrid[:120, :160]
    masks = {
        "square": (abs(x - 80) < 40) & (abs(y - 60) < 40),
        "ring": abs(np.hypot(x - 80, y - 60) - 30) < 5,
        "line": abs(x - y) < 1,
        "to the edge": x > 100,
        "nothing": x < 0,
        "all": x >= 0,
        "dot": (x == 5) & (y == 5),
        "grains": np.random.default_rng(0).random(x.shape) < 0.1,
    }
    for name, mask in masks.items():
        distance = border_distance(mask)
        assert distance is not None and np.isfinite(distance).all(), name
        assert ((distance > 0) == mask).all(), name
    square = border_distance(masks["square"])
    assert square is not None
    away = np.maximum(abs(x - 80), abs(y - 60)) - 39.5  # outside is positive, and right beside the sides
    assert np.abs(square + away)[(abs(away) < 2) & (np.minimum(abs(x - 80), abs(y - 60)) < 38)].max() < 0.7
    assert border_distance(np.random.default_rng(0).random((300, 300)) < 0.5) is None  # too long


def test_a_coin_is_centered_on_the_subject_or_where_asked():
    y, x = np.mgrid[:60, :100]
    head = DepthMap(np.where(np.hypot(x - 75, y - 30) < 14, 0.2, 0.9).astype(np.float32))
    picked = replace(SMALL, cutout="round", frame="none", width_mm=60.0, smooth_px=0.0)

    def middle(relief: Relief) -> float:
        points = relief.solid.vertices[relief.solid.vertices[:, 2] > relief.size_mm[2] - 0.5]
        return float(points[:, 0].min() + points[:, 0].max()) / 2

    assert middle(build_relief(head, picked)) == pytest.approx(35, abs=1)  # as far as the picture goes
    assert middle(build_relief(head, replace(picked, center_x=0.75))) == pytest.approx(30, abs=1)
    assert middle(build_relief(head, replace(picked, center_x=0.6, center_y=0.5))) > 40
    mold = build_relief(head, replace(picked, mode="mold", center_x=0.6))
    assert_solid(reread(mold))
    ramp = DepthMap(np.linspace(0, 1, 100, dtype=np.float32)[None].repeat(60, 0))
    asked = replace(picked, center_x=0.5)
    assert (build_relief(ramp, picked).heights == build_relief(ramp, asked).heights).all()


@pytest.mark.parametrize("cutout", ["round", "oval", "depth"])
@pytest.mark.parametrize("kind", sorted(KINDS))
def test_every_depth_gives_a_disc_or_cut_out_or_a_sentence(kind, cutout):
    try:
        relief = build_relief(depth_map(kind), replace(SMALL, cutout=cutout, frame_mm=1.0))
    except SettingsError as error:
        assert str(error).endswith(".")
        return
    found = check_mesh(from_stl(export.stl(relief))["corners"])
    assert found.closed and found.consistent and found.outward and found.bodies == 1 and not found.degenerate


def test_a_cut_out_needs_transparency_and_a_photo():
    with pytest.raises(SettingsError, match="no transparent part"):
        build_relief(depth_map("hills"), replace(SMALL, cutout="alpha"), photo=Picture(picture().rgb))
    with pytest.raises(SettingsError, match="need a photo"):
        build_relief(depth_map("hills"), replace(SMALL, cutout="alpha"))
    with pytest.raises(SettingsError, match="rim"):
        build_relief(depth_map("hills"), replace(SMALL, cutout="depth", mode="mold"))


@pytest.mark.parametrize(("kind", "bend"), [("hills", 0.0), ("noise", 80.0), ("hills", -80.0)])
def test_a_hole_goes_through_and_a_keyhole_does_not(kind, bend):
    picked = replace(SMALL, base_mm=5.0, bend_radius_mm=bend)
    plain, through, keyhole = (
        build_relief(depth_map(kind), replace(picked, hole=hole)) for hole in ("none", "through", "keyhole")
    )
    assert_solid(reread(through), euler=0)
    assert_solid(reread(keyhole))
    assert np.abs(reread(keyhole).extents - plain.size_mm).max() <= 1e-3
    assert through.mesh.volume < plain.mesh.volume
    assert keyhole.thinnest_mm == pytest.approx(1.6)
    assert 0 < keyhole.solid.picture_faces <= plain.solid.picture_faces


drilled = st.fixed_dictionaries(
    {
        "width_mm": st.sampled_from([40.0, 60.0, 100.0, 123.4]),
        "cutout": st.sampled_from(["none", "round", "oval"]),
        "source": st.sampled_from(["depth", "luminance"]),
        "hole": st.sampled_from(["through", "keyhole"]),
        "hole_mm": st.one_of(st.sampled_from([1.0, 2.0, 3.0, 4.0]), st.floats(1, 6)),
        "frame_mm": st.floats(1, 9),
    }
)


@settings(max_examples=25)
@given(st.sampled_from(["hills", "noise", "stairs", "constant"]), drilled)
def test_a_drilled_piece_is_a_sound_solid_in_every_file(kind, picked):
    relief = build_relief(depth_map(kind), replace(SMALL, base_mm=5.0, **picked), photo=picture())
    relief.assert_sound()
    assert check_mesh(from_stl(export.stl(relief))["corners"]).solid
    assert check_mesh(read_threemf(io.BytesIO(export.threemf(relief)))).solid


@pytest.mark.parametrize("cutout", ["none", "round"])
def test_a_hole_stays_inside_a_frame_that_is_wide_enough_and_else_says_so(cutout):
    picked = replace(SMALL, cutout=cutout, hole="through", hole_mm=3.0, width_mm=60.0)
    outside = build_relief(depth_map("hills"), replace(picked, frame_mm=6.0))
    inside = build_relief(depth_map("hills"), replace(picked, frame_mm=2.0))
    plain = build_relief(depth_map("hills"), replace(picked, frame_mm=6.0, hole="none"))
    assert outside.solid.picture_faces == plain.solid.picture_faces or cutout == "round"
    assert not any("hole" in note for note in outside.notes)
    assert any("cuts into the picture" in note and "5 or more" in note for note in inside.notes)


def test_what_is_no_solid_is_refused():
    relief = build_relief(depth_map("hills"), SMALL)
    torn = replace(relief, solid=replace(relief.solid, faces=relief.solid.faces[1:]))
    with pytest.raises(SettingsError, match="no sound solid"):
        torn.assert_sound()


def test_a_hole_that_does_not_fit_says_so():
    with pytest.raises(SettingsError, match="more than the piece has"):
        build_relief(depth_map("200 : 1"), replace(SMALL, hole="through", frame="none"))
    with pytest.raises(SettingsError, match="no place"):
        build_relief(
            DepthMap(blob()), replace(SMALL, hole="through", hole_mm=20.0, cutout="depth", width_mm=20.0)
        )


def test_without_manifold3d_a_hole_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "manifold3d", None)
    with pytest.raises(SettingsError, match="pip install manifold3d"):
        build_relief(depth_map("hills"), replace(SMALL, hole="through"))


@settings(max_examples=8)
@given(kinds, st.floats(0, 1), st.sampled_from(["none", "depth"]))
def test_a_photos_detail_keeps_the_solid_and_its_height(kind, amount, cutout):
    picked = replace(SMALL, photo_detail=amount, cutout=cutout, cutout_depth=0.8)
    try:
        relief = build_relief(depth_map(kind), picked, photo=picture())
    except SettingsError:
        assert cutout == "depth"
        return
    assert check_mesh(from_stl(export.stl(relief))["corners"]).solid
    heights = relief.solid.vertices[np.unique(relief.solid.faces[: relief.solid.picture_faces]), 2]
    assert np.ptp(heights) == pytest.approx(0 if kind in FLAT_KINDS else 5.0, abs=1e-3)


def test_a_lithophane_is_thick_where_the_photo_is_dark():
    rgb = np.linspace(0, 255, 64).astype(np.uint8)[None, :, None].repeat(48, 0).repeat(3, 2)
    relief = build_relief(
        depth_map("1 x 1"), replace(RELIEF_PRESETS["lithophane"], resolution=128), photo=Picture(rgb)
    )
    assert_solid(reread(relief))
    row = relief.heights[relief.heights.shape[0] // 2]
    assert (np.diff(row) <= 0).all()
    assert row.min() == pytest.approx(0.8, abs=1e-4) and row.max() == pytest.approx(3.2, abs=1e-3)
    with pytest.raises(SettingsError, match="photo"):
        build_relief(depth_map("hills"), RELIEF_PRESETS["lithophane"])


def test_a_lithophane_keeps_16_grays_apart():
    wedge = np.arange(16, dtype=np.uint8).repeat(40)[None, :, None].repeat(64, 0).repeat(3, 2) * 17
    picked = replace(RELIEF_PRESETS["lithophane"], frame="none")
    relief = build_relief(depth_map("1 x 1"), picked, photo=Picture(wedge))
    corners = from_stl(export.stl(relief))["corners"].reshape(-1, 3)
    x, z = corners[:, 0] / relief.size_mm[0] * 16, corners[:, 2]
    steps = [z[(np.abs(x - k - 0.5) < 0.3) & (z > 0.5)] for k in range(16)]
    levels = np.array([step.mean() for step in steps if len(step)])
    assert len(levels) == 16 and np.diff(levels).max() < -0.04
    assert max(np.ptp(step) for step in steps) < 0.02
    flatter = build_relief(depth_map("1 x 1"), replace(picked, contrast=4), photo=Picture(wedge))
    assert flatter.heights[0, 20] - flatter.heights[0, 200] < relief.heights[0, 20] - relief.heights[0, 200]


def test_the_rim_of_a_soft_edge_is_as_thick_as_the_inside_and_a_left_out_part_is_noted():
    y, x = np.mgrid[:200, :300]
    inside = np.clip((70 - np.hypot(x - 100, y - 100)) / 6, 0, 1)  # soft over six pixels
    island = np.hypot(x - 250, y - 100) < 30
    alpha = (np.maximum(inside, island) * 255).astype(np.uint8)
    gray = 60 * (alpha / 255) + 255 * (1 - alpha / 255)  # dark, composited on white
    gray[95:105, 95:105] = 200  # a light spot in the middle
    shot = Picture(gray[..., None].repeat(3, 2).astype(np.uint8), alpha)
    picked = replace(RELIEF_PRESETS["lithophane"], cutout="alpha", resolution=256)
    relief = build_relief(depth_map("1 x 1"), picked, photo=shot)
    relief.assert_sound()
    top = relief.solid.vertices[np.unique(relief.solid.faces[: relief.solid.picture_faces])].astype(float)
    away = np.hypot(*(top[:, :2] - np.array(relief.size_mm[:2]) / 2).T) > relief.size_mm[0] / 4
    assert np.ptp(top[away, 2]) < 0.02 and top[away, 2].min() == pytest.approx(relief.size_mm[2], abs=0.02)
    assert any("1 other part" in note for note in relief.notes)


@pytest.mark.parametrize("name", sorted(RELIEF_PRESETS))
def test_every_preset_gives_a_solid(name):
    picked = replace(RELIEF_PRESETS[name], resolution=128)
    assert_solid(reread(build_relief(depth_map("hills"), picked, photo=picture())))


@pytest.mark.parametrize(
    ("choice", "words"),
    [({"frame_mm": 0.05}, "0 or at least"), ({"frame_mm": 49.0}, "leaves no picture")],
)
def test_a_frame_that_cannot_be_says_what_could(choice, words):
    with pytest.raises(SettingsError, match=words):
        build_relief(depth_map("hills"), replace(SMALL, **choice))


@pytest.mark.slow
@pytest.mark.parametrize("name", REAL_NAMES)
def test_real_depth_gives_a_solid_at_full_resolution(name):
    relief = build_relief(real(name), ReliefSettings())
    assert check_mesh(from_stl(export.stl(relief))["corners"]).solid
    assert len(relief.solid.faces) <= relief.settings.max_faces
    assert np.abs(heights_over_grid(relief) - relief.heights).max() <= relief.solid.tolerance_mm + 1e-5


@pytest.mark.slow
@settings(max_examples=50)
@given(kinds, settings_drawn)
def test_many_more_settings_give_closed_solids(kind, picked):
    assert_solid(reread(build_relief(depth_map(kind), picked)))


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which(SLICER), reason="PrusaSlicer is not installed")
@pytest.mark.parametrize("name", sliced_pieces())
def test_a_slicer_neither_repairs_a_piece_nor_warns_of_it(name):
    picked = sliced_pieces()[name]
    coarse = replace(picked, width_mm=20.0, resolution=128, tolerance_mm=0.2)
    if name == "bent":
        coarse = replace(coarse, bend_radius_mm=15.0)
    frame_mm = 4.0 if name == "drilled coin" else min(2.0, picked.frame_mm)
    assert slicer_says(example_stl(replace(coarse, frame_mm=frame_mm))) == []


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which(SLICER), reason="PrusaSlicer is not installed")
def test_the_slicer_would_say_so_of_a_piece_with_a_hole():
    stl = example_stl(ReliefSettings(width_mm=30.0, resolution=128, tolerance_mm=0.1))
    count = int.from_bytes(stl[80:84], "little") - 5
    said = slicer_says(stl[:80] + count.to_bytes(4, "little") + stl[84:-250])
    assert any("open_edges" in line for line in said)
