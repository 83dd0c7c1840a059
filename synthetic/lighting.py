"""Shadows and ambient occlusion: one ray per pixel, spread over 4x4 tiles, then averaged."""

import math

import numpy as np
from numpy.typing import NDArray

from synthetic.compiled import compiled, inlined
from synthetic.fields import Vector
from synthetic.surfaces import Spot, surface_spot
from synthetic.trace import DEEPEST, World, blocked
from synthetic.visibility import look_through

# A light row: 0 sun or 1 lamp, direction to the sun or position, color, radius (of a lamp in meters, of the
# sun in rad).
L_KIND, L_PLACE, L_COLOR, L_RADIUS, L_WIDTH = 0, 1, 4, 7, 8
OCCLUSION, NO_RAY = 9, 8  # instead of the number of a light
AWAY = -1.0  # no sample: the surface faces away, or no ray was traced


@compiled
def light_samples(
    world: World,
    view: NDArray[np.float64],
    depth: NDArray[np.float64],
    seen: NDArray[np.int32],
    lights: NDArray[np.float64],
    pattern: NDArray[np.int64],
    strata: NDArray[np.float64],
    reach: float,
) -> NDArray[np.float32]:
    """Return how far 0..1 its light or, for occlusion, its surroundings are open to each pixel [H, W].

    Args:
        world: the solids.
        view: the camera's row.
        depth: z-depth [H, W].
        seen: solid seen [H, W].
        lights: light rows [L, 8].
        pattern: which light each pixel of a 4x4 tile asks for, or OCCLUSION, or NO_RAY [4, 4].
        strata: where in the light or hemisphere it aims, three numbers in 0..1 [4, 4, 3].
        reach: meters beyond which nothing occludes.
    """
    height, width = depth.shape
    result = np.full((height, width), AWAY, np.float32)
    solids, _, fields, tree = world
    stack = np.empty(DEEPEST, np.int64)
    eye = (view[0], view[1], view[2])
    for y in range(height):
        for x in range(width):
            which = pattern[y & 3, x & 3]
            if seen[y, x] < 0 or which == NO_RAY:
                continue
            aim = (strata[y & 3, x & 3, 0], strata[y & 3, x & 3, 1], strata[y & 3, x & 3, 2])
            d = look_through(view, x + 0.5, y + 0.5, (height, width))
            spot = surface_spot(solids, fields, seen[y, x], eye, d, depth[y, x])
            if which == OCCLUSION:
                result[y, x] = openness(solids, fields, tree, stack, spot, depth[y, x], aim, reach)
            else:
                result[y, x] = sunlit(solids, fields, tree, stack, spot, depth[y, x], lights, which, aim)
    return result


@inlined
def lift_off(spot: Spot, depth: float) -> Vector:
    """Return a point just above the surface, so that a ray does not meet it again."""
    e = 1e-3 + 2e-4 * depth
    return (
        spot.place[0] + e * spot.normal[0],
        spot.place[1] + e * spot.normal[1],
        spot.place[2] + e * spot.normal[2],
    )


@inlined
def openness(
    solids: NDArray[np.float64],
    fields: NDArray[np.float64],
    tree: NDArray[np.float64],
    stack: NDArray[np.int64],
    spot: Spot,
    depth: float,
    aim: Vector,
    reach: float,
) -> float:
    """Return 1 where a ray of the hemisphere (cosine-weighted) goes free for `reach` meters, else less."""
    c = 2.0 * aim[0] - 1.0
    s = math.sqrt(max(0.0, 1.0 - c * c))
    x = spot.normal[0] + s * math.cos(6.2832 * aim[1])
    y = spot.normal[1] + s * math.sin(6.2832 * aim[1])
    z = spot.normal[2] + c
    norm = 1.0 / math.sqrt(x * x + y * y + z * z + 1e-12)
    far = blocked(solids, fields, tree, stack, lift_off(spot, depth), (x * norm, y * norm, z * norm), reach)
    return far / reach if far > 0.0 else 1.0


@inlined
def sunlit(
    solids: NDArray[np.float64],
    fields: NDArray[np.float64],
    tree: NDArray[np.float64],
    stack: NDArray[np.int64],
    spot: Spot,
    depth: float,
    lights: NDArray[np.float64],
    k: int,
    aim: Vector,
) -> float:
    """Return 1 where a point of the light is in sight, 0 where it is hidden, AWAY where behind."""
    o = lift_off(spot, depth)
    soft = lights[k, L_RADIUS]
    if lights[k, L_KIND] < 0.5:
        limit, soft = 300.0, 0.5 * soft
        d = (lights[k, 1], lights[k, 2], lights[k, 3])
    else:
        limit = 0.97
        d = (lights[k, 1] - o[0], lights[k, 2] - o[1], lights[k, 3] - o[2])
    d = (
        d[0] + soft * (2.0 * aim[0] - 1.0),
        d[1] + soft * (2.0 * aim[1] - 1.0),
        d[2] + soft * (2.0 * aim[2] - 1.0),
    )
    if d[0] * spot.normal[0] + d[1] * spot.normal[1] + d[2] * spot.normal[2] <= 0.0:
        return AWAY
    return 0.0 if blocked(solids, fields, tree, stack, o, d, limit) > 0.0 else 1.0


@inlined
def gather(
    samples: NDArray[np.float32],
    seen: NDArray[np.int32],
    depth: NDArray[np.float64],
    pattern: NDArray[np.int64],
    at: tuple[int, int],
    result: NDArray[np.float64],
) -> None:
    """Average the samples of each light and of occlusion in the 4x4 pixels around `at` (row, column).

    Samples from the same solid count most. Writes to result [2, 10]: values, and how much they rest on.
    """
    height, width = samples.shape
    y, x = at
    for i in range(10):
        result[0, i], result[1, i] = 0.0, 0.0
    p, z = seen[y, x], depth[y, x]
    for j in range(max(0, y - 2), min(height, y + 2)):
        for i in range(max(0, x - 2), min(width, x + 2)):
            if samples[j, i] < 0.0:
                continue
            weight = 1.0 if seen[j, i] == p else 0.2 if abs(depth[j, i] - z) < 0.03 * z else 1e-3
            which = pattern[j & 3, i & 3]
            result[0, which] += weight * samples[j, i]
            result[1, which] += weight
    for i in range(10):
        result[0, i] = result[0, i] / result[1, i] if result[1, i] > 0.0 else 0.6
