"""Where on a solid a ray ended: world point, normal, and coordinates for its pattern."""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from synthetic.compiled import inlined
from synthetic.fields import Vector
from synthetic.placing import SOLID_A, SOLID_B, SOLID_KIND, SOLID_SCALE
from synthetic.primitives import BALL, FRUSTUM, ROUND_CONE, local_normal
from synthetic.trace import to_local


class Spot(NamedTuple):
    """A surface point: world place, unit normal towards the eye, local normal, local place in meters."""

    place: Vector
    normal: Vector
    local_normal: Vector
    metric: Vector


@inlined
def surface_spot(
    solids: NDArray[np.float64], fields: NDArray[np.float64], p: int, o: Vector, d: Vector, t: float
) -> Spot:
    """Return the spot that the ray o + t d meets on solid p."""
    place = (o[0] + t * d[0], o[1] + t * d[1], o[2] + t * d[2])
    at = to_local(solids, p, (place[0] - solids[p, 0], place[1] - solids[p, 1], place[2] - solids[p, 2]))
    n = local_normal(fields, int(solids[p, SOLID_KIND]), at, (solids[p, SOLID_A], solids[p, SOLID_B]))
    x = solids[p, 3] * n[0] + solids[p, 6] * n[1] + solids[p, 9] * n[2]
    y = solids[p, 4] * n[0] + solids[p, 7] * n[1] + solids[p, 10] * n[2]
    z = solids[p, 5] * n[0] + solids[p, 8] * n[1] + solids[p, 11] * n[2]
    norm = 1.0 / (math.sqrt(x * x + y * y + z * z) + 1e-30)
    if x * d[0] + y * d[1] + z * d[2] > 0.0:
        norm = -norm
    metric = (
        at[0] * solids[p, SOLID_SCALE],
        at[1] * solids[p, SOLID_SCALE + 1],
        at[2] * solids[p, SOLID_SCALE + 2],
    )
    return Spot(place, (x * norm, y * norm, z * norm), n, metric)


@inlined
def pattern_place(solids: NDArray[np.float64], p: int, spot: Spot) -> tuple[float, float]:
    """Return metric coordinates along the surface: around round solids, flat on sides."""
    kind = int(solids[p, SOLID_KIND])
    x, y, z = spot.metric
    ax, ay, az = abs(spot.local_normal[0]), abs(spot.local_normal[1]), abs(spot.local_normal[2])
    sx, sy, sz = (
        solids[p, SOLID_SCALE],
        solids[p, SOLID_SCALE + 1],
        solids[p, SOLID_SCALE + 2],
    )
    if kind in (FRUSTUM, ROUND_CONE):
        if ax + ay == 0.0:
            return x, y
        return math.atan2(y / sy, x / sx) * 0.5 * (sx + sy), z
    if kind == BALL:
        ax, ay, az = ax / sx, ay / sy, az / sz
    if az >= ax and az >= ay:
        return x, y
    return (y, z) if ax >= ay else (x, z)
