"""Where depth jumps from one object to the next. Knows nothing of cameras, photos or triangles."""

import numpy as np
import scipy.ndimage
from numpy.typing import NDArray

REACHES = (
    2,
    4,
    8,
)  # a jump is measured from so many samples before to so many behind: sharp ones and soft ones

Grid = NDArray[np.float32]
Mask = NDArray[np.bool_]


def sharpened(linear: Grid, edge_tol: float) -> tuple[Grid, Mask]:
    """Make every jump one cell wide, and mark the cells bool [R-1, C-1] that hold it.

    A depth map climbs a silhouette over several samples, which belong to neither side. Each takes the value
    of the nearer end of its climb, so that the surface ends where the object does.
    """
    climbs = _climbs(linear, edge_tol)
    turned = np.ascontiguousarray(_ends_of_climbs(linear, climbs).T)
    climbs_down = _climbs(turned, edge_tol)
    sharp = np.ascontiguousarray(_ends_of_climbs(turned, climbs_down).T)
    touched = scipy.ndimage.maximum_filter(climbs | climbs_down.T, size=3)
    high, low = np.maximum(sharp[:-1], sharp[1:]), np.minimum(sharp[:-1], sharp[1:])
    span = np.maximum(high[:, :-1], high[:, 1:]) - np.minimum(low[:, :-1], low[:, 1:])
    cells: Mask = span > np.float32(edge_tol) * sharp[:-1, :-1]
    cells &= touched[:-1, :-1] | touched[1:, :-1] | touched[:-1, 1:] | touched[1:, 1:]
    return sharp, cells


def _climbs(linear: Grid, edge_tol: float) -> Mask:
    """Mark samples bool [R, C] that lie on a jump along the rows; the softer, the larger it must be."""
    sharpest = REACHES[0]
    climbs: Mask = np.logical_or.reduce(
        [_climbs_within(linear, edge_tol * reach / sharpest, reach=reach) for reach in REACHES]
    )
    return climbs


def _climbs_within(linear: Grid, edge_tol: float, *, reach: int) -> Mask:
    """Mark the samples of jumps that are over within the reach, however steep the ground; a plane has none.

    A jump is a change from so many samples before to so many behind that neither the stretch before nor
    the one after shares.
    """
    padded = np.pad(linear, ((0, 0), (reach, reach)), mode="reflect", reflect_type="odd")
    change = np.abs(padded[:, 2 * reach :] - padded[:, : -2 * reach])  # [R, C]
    around = np.pad(change, ((0, 0), (2 * reach, 2 * reach)), mode="edge")
    slope = np.maximum(around[:, : -4 * reach], around[:, 4 * reach :])
    jumps = change - slope > np.float32(edge_tol) * linear
    climbs: Mask = scipy.ndimage.maximum_filter1d(jumps, size=2 * reach - 1, axis=1)
    return climbs


def _ends_of_climbs(linear: Grid, climbs: Mask) -> Grid:
    """Give each sample on a climb the value of the end it is nearer to, row by row."""
    columns = linear.shape[1]
    column = np.arange(columns, dtype=np.int32)
    before = np.maximum.accumulate(np.where(climbs, np.int32(-1), column), axis=1)
    behind = np.minimum.accumulate(np.where(climbs, np.int32(columns), column)[:, ::-1], axis=1)[:, ::-1]
    row, at = np.nonzero(climbs)
    before, behind = before[row, at], behind[row, at]
    before, behind = np.where(before < 0, behind, before), np.where(behind == columns, before, behind)
    first, second = linear[row, np.minimum(before, columns - 1)], linear[row, np.maximum(behind, 0)]
    value = linear[row, at]
    sharp = linear.copy()
    sharp[row, at] = np.where(np.abs(value - first) <= np.abs(value - second), first, second)
    return sharp
