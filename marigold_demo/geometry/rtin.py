"""Adaptive triangles over a grid, never farther from it than a tolerance.

The triangulation is the right-triangulated irregular network of Evans, Kirkpatrick and Townsend (2001): every
triangle is half a square and may be split in two at the middle of its hypotenuse. Vertices are chosen by
measuring the result: begin with the samples that stray from the middle of the edge they would split, build
the surface, add every sample that is still too far from it, and repeat until there is none. So the tolerance
is a strict bound; two or three passes are enough.
"""

from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

TILE = 32  # samples between the corners of the largest triangles; a larger tile saves no triangles that count
FIRST_TOLERANCE = 1e-4  # of the range of the samples: where doubling begins when the asked tolerance is 0

Grid = NDArray[np.float32]
Mask = NDArray[np.bool_]
Indices = NDArray[np.int32]
T = TypeVar("T", bound=np.generic)


@dataclass(frozen=True)
class FaceBudget:
    """How many faces there may be, and how many more a vertex on the border costs."""

    faces: int
    per_border_vertex: int = 0


@dataclass(frozen=True, eq=False)
class Triangulation:
    """Triangles over a grid of R x C samples.

    Attributes:
        faces: int32 [F, 3], row-major sample indices, counter-clockwise with columns to the right, rows down.
        active: bool [R, C], the samples that are vertices.
        tolerance: The largest distance between triangles and samples, in the unit of the samples.
    """

    faces: Indices  # [F, 3]
    active: Mask  # [R, C]
    tolerance: float


def grid_size(width: int, height: int, longest: int) -> tuple[int, int]:
    """Return the columns and rows of a grid that fits whole tiles and keeps the picture's aspect nearly."""
    scale = longest / max(width, height)
    columns, rows = (max(1, round(side * scale / TILE)) * TILE + 1 for side in (width, height))
    return columns, rows


def triangulate(
    samples: Grid, tolerance: float, *, forced: Mask | None = None, budget: FaceBudget | None = None
) -> Triangulation:
    """Cover a grid with as few triangles as the tolerance allows.

    Args:
        samples: float32 [R, C], finite; both sides a multiple of TILE plus one.
        tolerance: Largest distance from a sample; 0 keeps every sample.
        forced: bool [R, C], samples that must be vertices in any case.
        budget: Double the tolerance until the faces stay within it; forced samples always stay.
    """
    levels = _within(samples, tolerance, forced=forced)
    if budget is not None:
        most = max(float(np.ptp(samples)), float(np.finfo(np.float32).tiny))
        while tolerance < most and _count(levels, budget, samples.shape) > budget.faces:
            tolerance = 2 * tolerance or FIRST_TOLERANCE * most
            levels = _within(samples, tolerance, forced=forced)
    active = _joined(levels, samples.shape)
    return Triangulation(faces=_split(active), active=active, tolerance=tolerance)


def compact(faces: Indices, size: int) -> tuple[Indices, Indices]:
    """Number the vertices that faces use.

    Args:
        faces: int32 [F, 3], indices below size.
        size: How many samples there are.

    Returns:
        The used samples int32 [V] in ascending order, and the faces int32 [F, 3] in terms of them.
    """
    used = np.zeros(size, dtype=bool)
    used[faces.ravel()] = True
    number = np.cumsum(used, dtype=np.int32) - np.int32(1)
    return np.flatnonzero(used).astype(np.int32), number[faces]


@dataclass(frozen=True, eq=False)
class _Level(Generic[T]):
    """Something about the samples that come in with squares of one step: middles of edges, and of diagonals.

    The first level has squares of step 2, the next of 4, and so on up to a tile.
    """

    on_rows: NDArray[T]  # [R/step + 1, C/step]
    on_columns: NDArray[T]  # [R/step, C/step + 1]
    centers: NDArray[T]  # [R/step, C/step]

    def any(self) -> bool:
        """Whether anything is set."""
        return bool(self.on_rows.any() or self.on_columns.any() or self.centers.any())


def _level(grid: NDArray[T], step: int) -> _Level[T]:
    """Return the samples of one level as views."""
    half = step // 2
    return _Level(grid[::step, half::step], grid[half::step, ::step], grid[half::step, half::step])


def _steps() -> list[int]:
    return [2 << k for k in range(TILE.bit_length() - 1)]


def _within(samples: Grid, tolerance: float, *, forced: Mask | None) -> list[_Level[np.bool_]]:
    """Choose the vertices whose surface no sample is farther from than the tolerance, level by level."""
    grid = np.zeros(samples.shape, dtype=bool) if forced is None else forced.copy()
    if tolerance <= 0:
        grid[:] = True
    active = [_level(grid, step) for step in _steps()]
    if tolerance > 0:
        for level, step in zip(active, _steps(), strict=True):
            corner = np.ascontiguousarray(samples[::step, ::step])
            _add(level, _strays(_level(samples, step), _middles(corner), tolerance))
    _close(active)
    while tolerance > 0:
        missing = _missing(samples, active, tolerance)
        if not any(level.any() for level in missing):
            break
        for level, more in zip(active, missing, strict=True):
            _add(level, more)
        _close(active)
    return active


def _missing(samples: Grid, active: list[_Level[np.bool_]], tolerance: float) -> list[_Level[np.bool_]]:
    """Build the surface of the active vertices from the tiles down; mark what is too far from it."""
    corner = np.ascontiguousarray(samples[::TILE, ::TILE])
    missing = []
    for level, step in zip(reversed(active), reversed(_steps()), strict=True):
        found, middles = _level(samples, step), _middles(corner)
        missing.append(_strays(found, middles, tolerance, but=level))
        rows, columns = corner.shape
        finer = np.empty((2 * rows - 1, 2 * columns - 1), dtype=np.float32)
        finer[::2, ::2] = corner
        finer[::2, 1::2] = np.where(level.on_rows, found.on_rows, middles.on_rows)
        finer[1::2, ::2] = np.where(level.on_columns, found.on_columns, middles.on_columns)
        finer[1::2, 1::2] = np.where(level.centers, found.centers, middles.centers)
        corner = finer
    return missing[::-1]


def _middles(corner: Grid) -> _Level[np.float32]:
    """Interpolate between the corners of squares; diagonals join corners of two even or two odd indices."""
    half = np.float32(0.5)
    falling = corner[:-1, :-1] + corner[1:, 1:]
    rising = corner[1:, :-1] + corner[:-1, 1:]
    falling[::2, 1::2] = rising[::2, 1::2]
    falling[1::2, ::2] = rising[1::2, ::2]
    return _Level(half * (corner[:, :-1] + corner[:, 1:]), half * (corner[:-1] + corner[1:]), half * falling)


def _strays(
    found: _Level[np.float32],
    middles: _Level[np.float32],
    tolerance: float,
    *,
    but: _Level[np.bool_] | None = None,
) -> _Level[np.bool_]:
    """Mark the samples farther from the middles than the tolerance, but those that are vertices already."""
    most = np.float32(tolerance)
    strays = _Level(
        np.abs(found.on_rows - middles.on_rows) > most,
        np.abs(found.on_columns - middles.on_columns) > most,
        np.abs(found.centers - middles.centers) > most,
    )
    if but is not None:
        np.logical_and(strays.on_rows, ~but.on_rows, out=strays.on_rows)
        np.logical_and(strays.on_columns, ~but.on_columns, out=strays.on_columns)
        np.logical_and(strays.centers, ~but.centers, out=strays.centers)
    return strays


def _add(level: _Level[np.bool_], more: _Level[np.bool_]) -> None:
    for part, added in (
        (level.on_rows, more.on_rows),
        (level.on_columns, more.on_columns),
        (level.centers, more.centers),
    ):
        np.logical_or(part, added, out=part)


def _close(active: list[_Level[np.bool_]]) -> None:
    """Activate what active vertices need: the center for its square's edges, an edge for finer centers."""
    finer: Mask | None = None
    for level in active:
        if finer is not None:
            np.logical_or(level.on_rows, _beside_rows(finer), out=level.on_rows)
            np.logical_or(level.on_columns, _beside_rows(finer.T).T, out=level.on_columns)
        around = level.on_rows[:-1] | level.on_rows[1:] | level.on_columns[:, :-1] | level.on_columns[:, 1:]
        np.logical_or(level.centers, around, out=level.centers)
        finer = level.centers


def _beside_rows(finer: Mask) -> Mask:
    """For each horizontal edge, whether any of the up to four half-size squares at its middle is split."""
    pairs = finer[:, ::2] | finer[:, 1::2]  # [2 R/step, C/step]
    return np.concatenate([pairs[:1], pairs[1:-1:2] | pairs[2:-1:2], pairs[-1:]])


def _count(levels: list[_Level[np.bool_]], budget: FaceBudget, shape: tuple[int, ...]) -> int:
    """Triangles over the grid and beside it: a vertex inside splits two, one on the border splits one."""
    rows, columns = shape[0] // TILE, shape[1] // TILE
    faces = 2 * rows * columns + budget.per_border_vertex * 2 * (rows + columns)
    for level in levels:
        on_rows, on_columns = level.on_rows, level.on_columns
        inside = sum(map(np.count_nonzero, (on_rows, on_columns, level.centers)))
        border = sum(map(np.count_nonzero, (on_rows[0], on_rows[-1], on_columns[:, 0], on_columns[:, -1])))
        faces += 2 * inside + (budget.per_border_vertex - 1) * border
    return int(faces)


def _joined(levels: list[_Level[np.bool_]], shape: tuple[int, ...]) -> Mask:
    active = np.zeros(shape, dtype=bool)
    active[::TILE, ::TILE] = True
    for level, step in zip(levels, _steps(), strict=True):
        part = _level(active, step)
        part.on_rows[:], part.on_columns[:], part.centers[:] = level.on_rows, level.on_columns, level.centers
    return active


def _split(active: Mask) -> Indices:
    """Split the triangles of the tiles wherever the middle of the hypotenuse is active."""
    flat = active.ravel()
    first, second, apex = _tiles(active.shape)  # hypotenuse from first to second
    done = []
    for _ in range(2 * (TILE.bit_length() - 1)):
        middle = (first + second) >> 1
        split = flat[middle]
        whole = ~split
        done.append(np.stack([first[whole], second[whole], apex[whole]], axis=1))
        first, second, apex, middle = first[split], second[split], apex[split], middle[split]
        first, second, apex = (
            np.concatenate([apex, second]),
            np.concatenate([first, apex]),
            np.concatenate([middle, middle]),
        )
    done.append(np.stack([first, second, apex], axis=1))
    return np.concatenate(done)


def _tiles(shape: tuple[int, ...]) -> tuple[Indices, Indices, Indices]:
    rows, columns = shape
    index = np.arange(rows * columns, dtype=np.int32).reshape(shape)[::TILE, ::TILE]
    odd = np.add.outer(np.arange(index.shape[0] - 1), np.arange(index.shape[1] - 1)) % 2 == 1
    top_left, top_right, low_left, low_right = index[:-1, :-1], index[:-1, 1:], index[1:, :-1], index[1:, 1:]
    first = np.concatenate(
        [np.where(odd, low_left, low_right).ravel(), np.where(odd, top_right, top_left).ravel()]
    )
    second = np.concatenate(
        [np.where(odd, top_right, top_left).ravel(), np.where(odd, low_left, low_right).ravel()]
    )
    apex = np.concatenate(
        [np.where(odd, top_left, low_left).ravel(), np.where(odd, low_right, top_right).ravel()]
    )
    return first, second, apex
