"""Whether triangles form one closed solid.

Vertices count as one where their coordinates are equal to the last bit, which is how slicers join them too.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import scipy.sparse
import scipy.sparse.csgraph
from numpy.typing import NDArray

from marigold_demo.errors import SettingsError

SMALLEST_AREA = 1e-10  # in the square of the unit

Corners = NDArray[np.float32]


@dataclass(frozen=True)
class MeshCheck:
    """What a check found.

    Attributes:
        finite: Every coordinate is a number.
        closed: Every edge belongs to exactly two faces.
        consistent: Neighboring faces agree on what is outside.
        outward: And they agree on the right side: the volume is positive.
        degenerate: How many faces have no area.
        bodies: How many separate parts there are.
        handles: How many holes go through it.
        volume: Volume in the cube of the unit; meaningless where it is not closed.
        size: Extent in x, y and z.
        faces: How many faces there are.
    """

    finite: bool
    closed: bool
    consistent: bool
    outward: bool
    degenerate: int
    bodies: int
    handles: int
    volume: float
    size: tuple[float, float, float]
    faces: int

    @property
    def solid(self) -> bool:
        """Whether it is one closed solid without faults."""
        return (
            self.finite
            and self.closed
            and self.consistent
            and self.outward
            and not self.degenerate
            and self.bodies == 1
        )


def require_sound(found: MeshCheck) -> None:
    """Refuse a mesh that is not solid.

    Raises:
        SettingsError: It is not; what was chosen cannot be printed.
    """
    if not found.solid:
        raise SettingsError(
            "These settings give no sound solid, so nothing is written; another width_mm, resolution or"
            " hole_mm does."
        )


def check_mesh(corners: Corners) -> MeshCheck:
    """Check triangles float32 [F, 3, 3]."""
    if not len(corners) or not np.isfinite(corners).all():
        return MeshCheck(
            finite=bool(len(corners) == 0),
            closed=False,
            consistent=False,
            outward=False,
            degenerate=0,
            bodies=0,
            handles=0,
            volume=float("nan"),
            size=(float("nan"),) * 3,
            faces=len(corners),
        )
    faces, vertices = weld(corners)
    closed, consistent = _edges(faces, vertices)
    bodies = _bodies(faces, vertices)
    volume = _volume(corners)
    x, y, z = (float(side) for side in np.ptp(corners.reshape(-1, 3), axis=0))
    return MeshCheck(
        finite=True,
        closed=closed,
        consistent=consistent,
        outward=volume > 0,
        degenerate=_degenerate(corners, faces),
        bodies=bodies,
        handles=bodies - (vertices - len(faces) // 2) // 2 if closed else 0,
        volume=volume,
        size=(x, y, z),
        faces=len(corners),
    )


def weld(corners: Corners) -> tuple[NDArray[np.int32], int]:
    """Number the distinct corners: faces int32 [F, 3], and how many vertices there are.

    Every corner leaves its number in a slot chosen by its bits; all corners that find an equal one in their
    slot are done, the others go on to another slot. It takes a fifth of the time of sorting.
    """
    points = np.ascontiguousarray(corners, dtype=np.float32).reshape(-1, 3) + np.float32(
        0
    )  # no negative zero
    columns = [np.ascontiguousarray(column) for column in points.view(np.uint32).T]
    same = np.full(len(points), -1, dtype=np.int32)  # of each corner, an equal corner that stands for all
    left = np.arange(len(points), dtype=np.int32)
    for multipliers in _multipliers():
        slot_bits = max(len(left), 2).bit_length() + 2
        slot = _slots(columns, multipliers, slot_bits)
        slots = np.zeros(1 << slot_bits, dtype=np.int32)
        slots[slot] = np.arange(len(left), dtype=np.int32)
        found = slots[slot]
        equal = np.logical_and.reduce([column[found] == column for column in columns])
        same[left[equal]] = left[found[equal]]
        left, columns = left[~equal], [column[~equal] for column in columns]
        if not len(left):
            break
    first = same == np.arange(len(points), dtype=np.int32)
    number = np.cumsum(first, dtype=np.int32) - np.int32(1)
    return number[same].reshape(-1, 3), int(np.count_nonzero(first))


def _multipliers() -> Iterator[NDArray[np.uint64]]:
    """Yield odd numbers without end, the same ones every time."""
    random = np.random.default_rng(0)
    while True:
        yield random.integers(1, 2**63, size=3, dtype=np.uint64) * np.uint64(2) + np.uint64(1)


def _slots(
    columns: list[NDArray[np.uint32]], multipliers: NDArray[np.uint64], slot_bits: int
) -> NDArray[np.uint64]:
    mixed = np.zeros(len(columns[0]), dtype=np.uint64)
    for column, multiplier in zip(columns, multipliers, strict=True):
        mixed += column * multiplier
    return mixed >> np.uint64(64 - slot_bits)


def _edges(faces: NDArray[np.int32], vertices: int) -> tuple[bool, bool]:
    start, end = faces.ravel().astype(np.int64), np.roll(faces, -1, axis=1).ravel().astype(np.int64)
    undirected = np.minimum(start, end) * vertices + np.maximum(start, end)
    keys = np.sort(undirected * 2 + (start > end))  # the two directions of an edge become neighbors
    if len(keys) % 2 or not len(keys):
        return False, False
    edge = keys >> 1
    paired = edge[::2] == edge[1::2]
    alone = edge[1:-1:2] != edge[2::2]
    closed = bool(paired.all() and alone.all())
    return closed, closed and bool((keys[::2] != keys[1::2]).all())


def _bodies(faces: NDArray[np.int32], vertices: int) -> int:
    a, b = faces[:, [0, 1]].ravel(), faces[:, [1, 2]].ravel()
    graph = scipy.sparse.coo_array((np.ones(len(a), dtype=bool), (a, b)), shape=(vertices, vertices))
    count, _ = scipy.sparse.csgraph.connected_components(graph, directed=False)
    return int(count)


def _volume(corners: Corners) -> float:
    a, b, c = (corners[:, k].astype(np.float64) for k in range(3))
    return float(np.einsum("fk,fk->", a, np.cross(b, c)) / 6)


def _degenerate(corners: Corners, faces: NDArray[np.int32]) -> int:
    sides = (corners[:, 1:] - corners[:, :1]).astype(np.float64)  # [F, 2, 3]
    area = np.linalg.norm(np.cross(sides[:, 0], sides[:, 1]), axis=1) / 2
    repeated = (faces[:, 0] == faces[:, 1]) | (faces[:, 1] == faces[:, 2]) | (faces[:, 2] == faces[:, 0])
    return int(np.count_nonzero(repeated | (area < SMALLEST_AREA)))
