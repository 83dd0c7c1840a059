"""The examination finds what is wrong with triangles, and agrees with trimesh where nothing is."""

import numpy as np
import pytest
import trimesh
from hypothesis import given, settings
from hypothesis import strategies as st

from marigold_demo.geometry.relief import build_relief
from marigold_demo.geometry.solid import check_mesh, weld
from marigold_demo.settings import ReliefSettings
from tests.depths import depth_map, kinds

BALL = trimesh.creation.icosphere(subdivisions=2)
RING = trimesh.creation.torus(2, 0.5, major_sections=12, minor_sections=8)


def corners(mesh: trimesh.Trimesh) -> np.ndarray:
    return mesh.vertices[mesh.faces].astype(np.float32)


def test_a_ball_is_sound():
    found = check_mesh(corners(BALL))
    assert found.solid and found.handles == 0
    assert found.volume == pytest.approx(BALL.volume, rel=1e-5)
    assert found.size == pytest.approx(BALL.extents, rel=1e-5)
    assert found.faces == len(BALL.faces)


def test_a_ring_has_one_handle():
    found = check_mesh(corners(RING))
    assert found.solid and found.handles == 1


def test_a_missing_face_is_found():
    assert not check_mesh(corners(BALL)[1:]).closed
    assert not check_mesh(corners(BALL)[2:]).closed


def test_a_turned_face_is_found():
    turned = corners(BALL)
    turned[5] = turned[5, ::-1]
    found = check_mesh(turned)
    assert found.closed and not found.consistent and not found.solid


def test_an_inside_out_solid_is_found():
    found = check_mesh(corners(BALL)[:, ::-1])
    assert found.consistent and not found.outward and not found.solid


def test_two_pieces_are_counted():
    found = check_mesh(np.concatenate([corners(BALL), corners(BALL) + 5]))
    assert found.bodies == 2 and found.closed and not found.solid


def test_a_face_without_area_is_found():
    flat = np.concatenate([corners(BALL), corners(BALL)[:1][:, [0, 0, 1]]])
    assert check_mesh(flat).degenerate == 1


def test_an_edge_of_four_faces_is_found():
    boxes = [trimesh.creation.box().apply_translation(move) for move in ([0, 0, 0], [1, 1, 0])]
    found = check_mesh(np.concatenate([corners(box) for box in boxes]))
    assert not found.closed


def test_a_coordinate_that_is_no_number_is_found():
    broken = corners(BALL)
    broken[3, 1, 2] = np.nan
    found = check_mesh(broken)
    assert not found.finite and not found.solid


def test_nothing_at_all_is_no_solid():
    assert not check_mesh(np.zeros((0, 3, 3), dtype=np.float32)).solid


@settings(max_examples=30)
@given(st.integers(1, 400), st.integers(1, 60), st.integers(0, 10**6))
def test_welding_finds_the_same_vertices_as_sorting(faces, distinct, seed):
    random = np.random.default_rng(seed)
    points = random.integers(-3, 3, (distinct, 3)).astype(np.float32) * np.float32(0.1)
    heap = points[random.integers(0, distinct, (faces, 3))]
    number, count = weld(heap)
    _, wanted = np.unique(heap.reshape(-1, 3) + 0.0, axis=0, return_inverse=True)
    assert count == wanted.max() + 1 == len(np.unique(number))
    pairs = np.unique(np.column_stack([number.ravel(), wanted.ravel()]), axis=0)
    assert len(pairs) == count  # one number for each, and each for one


@settings(max_examples=8)
@given(kinds, st.sampled_from([{}, {"hole": "through"}, {"bend_radius_mm": 90.0}]))
def test_it_agrees_with_trimesh(kind, choices):
    if kind in ("row", "column", "200 : 1"):
        choices = {}
    relief = build_relief(depth_map(kind), ReliefSettings(resolution=128, **choices))
    mesh = relief.mesh
    found = check_mesh(corners(mesh))
    assert found.solid == (mesh.is_watertight and mesh.is_winding_consistent)
    assert found.volume == pytest.approx(mesh.volume, rel=1e-4)
    assert 2 - 2 * found.handles == mesh.euler_number
