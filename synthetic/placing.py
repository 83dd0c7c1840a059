"""From placement rows, as a builder writes them, to solids ready to be traced."""

import numpy as np
from numpy.typing import NDArray

from synthetic.primitives import FRUSTUM, ROUND_CONE

# A placement row: kind, frame, material, whether a segment, nine numbers that place it, a, b, holes, hole
# size, flags. Placed by center 3, half sizes 3 and yaw, pitch, roll; or as a segment by start 3, end 3,
# radius, end radius, flatness.
ROW_KIND, ROW_FRAME, ROW_MATERIAL, ROW_SEGMENT, ROW_PLACE = 0, 1, 2, 3, 4
ROW_A, ROW_B, ROW_HOLES, ROW_HOLE_SIZE, ROW_FLAGS, ROW_WIDTH = 13, 14, 15, 16, 17, 18
FLAG_NO_SHADOW = 1

# A frame row: origin 3, rotation 9 by rows, scale. A solid row: origin 3, to_local 9 by rows, a, b, share
# of holes, hole size in meters, half sizes in meters 3, kind, material, flags.
SOLID_A, SOLID_B, SOLID_HOLES, SOLID_HOLE_SIZE, SOLID_SCALE = 12, 13, 14, 15, 16
SOLID_KIND, SOLID_MATERIAL, SOLID_FLAGS, SOLID_WIDTH = 19, 20, 21, 22


def place_solids(
    rows: NDArray[np.float64], frames: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Turn placement rows [P, 18] and frames [F, 13] into solids.

    Returns solids [P, 22] and bounds [P, 6] (world box, low then high).
    """
    frame = frames[rows[:, ROW_FRAME].astype(np.int64)]  # [P, 13]
    solids = np.zeros((len(rows), SOLID_WIDTH))
    solids[:, SOLID_A : SOLID_HOLE_SIZE + 1] = rows[:, ROW_A : ROW_HOLE_SIZE + 1]
    solids[:, SOLID_HOLE_SIZE] *= frame[:, 12]
    solids[:, SOLID_KIND], solids[:, SOLID_MATERIAL] = rows[:, ROW_KIND], rows[:, ROW_MATERIAL]
    solids[:, SOLID_FLAGS] = rows[:, ROW_FLAGS]
    axes, size, center = turned(rows[:, 10:13]), rows[:, 7:10].copy(), rows[:, 4:7].copy()
    segment = rows[:, ROW_SEGMENT] > 0.5
    axes[segment], size[segment], center[segment] = lay_segments(rows[segment], solids, segment)
    turn = frame[:, 3:12].reshape(-1, 3, 3)
    axes = turn @ axes  # [P, 3, 3], columns are the solid's axes in the world
    size = np.maximum(size * frame[:, 12:], 1e-6)
    solids[:, :3] = frame[:, :3] + frame[:, 12:] * (turn @ center[:, :, None])[:, :, 0]
    solids[:, 3:12] = (axes.transpose(0, 2, 1) / size[:, :, None]).reshape(-1, 9)
    solids[:, SOLID_SCALE : SOLID_SCALE + 3] = size
    return solids, enclose(solids, axes * size[:, None, :])


def turned(angles: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the rotations Rz(yaw) Rx(pitch) Ry(roll) [P, 3, 3] of angles [P, 3]."""
    cy, cp, cr = np.cos(angles).T
    sy, sp, sr = np.sin(angles).T
    rotation = (
        (cy * cr - sy * sp * sr, -sy * cp, cy * sr + sy * sp * cr),
        (sy * cr + cy * sp * sr, cy * cp, sy * sr - cy * sp * cr),
        (-cp * sr, sp, cp * cr),
    )
    return np.array(rotation).transpose(2, 0, 1)


def lay_segments(
    rows: NDArray[np.float64], solids: NDArray[np.float64], segment: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Return axes [S, 3, 3], sizes [S, 3] and centers [S, 3] of segments; writes their shape into solids."""
    start, end = rows[:, 4:7], rows[:, 7:10]
    length = np.linalg.norm(end - start, axis=1, keepdims=True) + 1e-9
    z = (end - start) / length
    side = np.where(np.abs(z[:, 2:]) > 0.98, (1.0, 0.0, 0.0), (0.0, 0.0, 1.0))
    x = np.cross(side, z)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    axes = np.stack((x, np.cross(z, x), z), axis=2)
    radius, tip, flat = rows[:, 10], rows[:, 11], rows[:, 12]
    hull = rows[:, ROW_KIND] == ROUND_CONE
    ratio, reach = tip / radius, length[:, 0]
    shape = solids[segment, SOLID_A : SOLID_B + 1]
    shape[:, 0] = np.where(hull, np.maximum(reach / radius, np.abs(1.0 - ratio) * 1.02 + 1e-3), ratio)
    shape[:, 1] = np.where(hull, ratio, shape[:, 1])
    solids[segment, SOLID_A : SOLID_B + 1] = shape
    size = np.stack((radius, radius * flat, np.where(hull, radius, reach / 2)), axis=1)
    return axes, size, np.where(hull[:, None], start, (start + end) / 2)


def enclose(solids: NDArray[np.float64], axes: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the world boxes [P, 6] of solids, given their half axes as columns [P, 3, 3]."""
    a, b = solids[:, SOLID_A], solids[:, SOLID_B]
    hull, cone = solids[:, SOLID_KIND] == ROUND_CONE, solids[:, SOLID_KIND] == FRUSTUM
    wide = np.where(hull, np.maximum(1.0, b), np.where(cone, np.maximum(1.0, a), 1.0))
    low, high = np.where(hull, np.minimum(-1.0, a - b), -1.0), np.where(hull, np.maximum(1.0, a + b), 1.0)
    middle = solids[:, :3] + axes[:, :, 2] * (0.5 * (low + high))[:, None]
    reach = np.stack((wide, wide, 0.5 * (high - low)), axis=1)
    half = (np.abs(axes) * reach[:, None, :]).sum(axis=2)
    return np.concatenate((middle - half, middle + half), axis=1)
