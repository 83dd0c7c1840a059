"""The network covers the grid, keeps its tolerance, and has no cracks."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from marigold_demo.geometry.rtin import (
    FIRST_TOLERANCE,
    TILE,
    FaceBudget,
    Triangulation,
    compact,
    grid_size,
    triangulate,
)


def grid(rows: int, columns: int, *, seed: int, roughness: float) -> NDArray[np.float32]:
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:rows, :columns] / TILE
    waves = np.sin(x * rng.uniform(0, 6)) * np.cos(y * rng.uniform(0, 6)) + (x > rng.uniform(0, 2))
    return (waves + roughness * rng.random((rows, columns))).astype(np.float32)


grids = st.builds(
    grid,
    st.sampled_from([TILE + 1, 2 * TILE + 1]),
    st.sampled_from([TILE + 1, 2 * TILE + 1]),
    seed=st.integers(0, 10**6),
    roughness=st.sampled_from([0.0, 0.003, 0.1, 1.0]),
)


def corners(network: Triangulation) -> NDArray[np.float64]:
    """Corners in x right, y up: float64 [F, 3, 2]."""
    row, column = np.divmod(network.faces, network.active.shape[1])
    return np.stack([column, -row], axis=-1).astype(float)


def areas(network: Triangulation) -> NDArray[np.float64]:
    a, b, c = corners(network).transpose(1, 0, 2)
    return cross(b - a, c - a) / 2


def worst_distance(network: Triangulation, samples: NDArray[np.float32]) -> float:
    """Distance of every sample from every triangle that covers it, by barycentric coordinates."""
    covered = np.zeros(samples.shape, dtype=bool)
    position = corners(network)
    low, high = position.min(axis=1), position.max(axis=1)
    worst = 0.0
    for size in np.unique(high - low, axis=0):  # triangles of one bounding box at a time
        chosen = ((high - low) == size).all(axis=1)
        offset = np.stack(np.meshgrid(*(np.arange(side + 1) for side in size)), axis=-1).reshape(-1, 2)
        p = low[chosen][:, None, :] + offset  # [F, N, 2]
        a, b, c = position[chosen].transpose(1, 0, 2)[:, :, None, :]  # [F, 1, 2]
        shares = np.stack([cross(b - p, c - p), cross(c - p, a - p), cross(a - p, b - p)]) / cross(
            b - a, c - a
        )
        heights = (samples.ravel()[network.faces[chosen]].T[:, :, None] * shares).sum(axis=0)
        inside = (shares >= -1e-9).all(axis=0)
        row, column = -p[..., 1].astype(int), p[..., 0].astype(int)
        covered[row[inside], column[inside]] = True
        worst = max(worst, float(np.abs(heights - samples[row, column])[inside].max()))
    assert covered.all(), "a sample is covered by no triangle"
    return worst


def cross(u: NDArray[np.float64], v: NDArray[np.float64]) -> NDArray[np.float64]:
    return u[..., 0] * v[..., 1] - u[..., 1] * v[..., 0]


@settings(max_examples=12)
@given(grids, st.sampled_from([0.001, 0.01, 0.1, 1.0]))
def test_no_sample_is_farther_from_the_triangles_than_the_tolerance(samples, tolerance):
    network = triangulate(samples, tolerance)
    assert worst_distance(network, samples) <= tolerance + 1e-5


@settings(max_examples=25)
@given(grids, st.sampled_from([0.0, 0.01, 0.3]))
def test_triangles_face_up_and_tile_the_rectangle_without_cracks(samples, tolerance):
    network = triangulate(samples, tolerance)
    rows, columns = samples.shape
    assert areas(network).min() > 0
    assert areas(network).sum() == (rows - 1) * (columns - 1)
    edges = np.concatenate([network.faces[:, pair] for pair in ([0, 1], [1, 2], [2, 0])]).astype(int)
    ahead, back = edges[:, 0] * samples.size + edges[:, 1], edges[:, 1] * samples.size + edges[:, 0]
    assert len(np.unique(ahead)) == len(ahead)
    row, column = np.divmod(edges[~np.isin(ahead, back)], columns)  # edges that no neighbor runs back along
    on_border = (
        (row == 0).all(1) | (row == rows - 1).all(1) | (column == 0).all(1) | (column == columns - 1).all(1)
    )
    assert on_border.all()


@settings(max_examples=10)
@given(grids, st.sampled_from([0.0, 0.05]))
def test_the_active_samples_are_exactly_the_vertices(samples, tolerance):
    network = triangulate(samples, tolerance)
    assert np.array_equal(np.unique(network.faces), np.flatnonzero(network.active))


def test_tolerance_zero_keeps_every_sample():
    network = triangulate(np.zeros((TILE + 1, 2 * TILE + 1), dtype=np.float32), 0.0)
    assert network.active.all()
    assert len(network.faces) == 2 * TILE * 2 * TILE


def test_a_plane_needs_two_triangles_a_tile():
    y, x = np.mgrid[: 2 * TILE + 1, : TILE + 1]
    assert len(triangulate((0.25 * x - 0.5 * y).astype(np.float32), 1e-4).faces) == 4


@settings(max_examples=10)
@given(st.integers(0, 10**6))
def test_forced_samples_are_vertices_even_of_a_plane(seed):
    forced = np.random.default_rng(seed).random((TILE + 1, TILE + 1)) < 0.01
    network = triangulate(np.zeros(forced.shape, dtype=np.float32), 1.0, forced=forced)
    assert network.active[forced].all()


@settings(max_examples=10)
@given(grids, st.integers(40, 3000), st.sampled_from([0.0, 0.001]))
def test_a_budget_doubles_the_tolerance_until_it_is_kept(samples, most, tolerance):
    network = triangulate(samples, tolerance, budget=FaceBudget(most))
    assert len(network.faces) <= most
    if network.tolerance > max(tolerance, FIRST_TOLERANCE * float(np.ptp(samples))):
        assert len(triangulate(samples, network.tolerance / 2).faces) > most
    if tolerance and network.tolerance > tolerance:
        assert np.log2(network.tolerance / tolerance) == pytest.approx(
            round(np.log2(network.tolerance / tolerance))
        )


def test_a_budget_counts_what_the_border_costs_elsewhere():
    samples = grid(2 * TILE + 1, TILE + 1, seed=1, roughness=1)
    network = triangulate(samples, 0.0, budget=FaceBudget(2000, per_border_vertex=3))
    border = sum(map(np.count_nonzero, (network.active[0], network.active[-1])))
    border += sum(map(np.count_nonzero, (network.active[1:-1, 0], network.active[1:-1, -1])))
    assert 200 < len(network.faces) + 3 * border <= 2000


def test_compact_numbers_only_what_is_used():
    used, faces = compact(np.array([[9, 2, 5], [5, 2, 7]], dtype=np.int32), 12)
    assert used.tolist() == [2, 5, 7, 9]
    assert faces.tolist() == [[3, 0, 1], [1, 0, 2]]


@pytest.mark.parametrize("size", [(1024, 768), (1, 400), (400, 1), (17, 13), (3000, 2000)])
def test_grids_fit_tiles_and_keep_the_aspect(size):
    columns, rows = grid_size(*size, 1024)
    assert (columns - 1) % TILE == 0 and (rows - 1) % TILE == 0
    assert max(columns, rows) == 1025
    assert abs((columns - 1) / 1024 - size[0] / max(size)) <= TILE / 1024
