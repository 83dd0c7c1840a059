"""The sky's color in every direction, and the light that comes from all around."""

import math

import numpy as np
from numpy.typing import NDArray

from synthetic.compiled import compiled, inlined
from synthetic.fields import Vector
from synthetic.noise import fbm2

# The environment row: colors of zenith and horizon, cloud share and scale, light from above and from below,
# fog per meter and its color, reach of ambient occlusion in meters, direction to the sun, its glow, seed,
# ground color.
E_ZENITH, E_HORIZON, E_CLOUD, E_CLOUD_SCALE, E_UP, E_DOWN = 0, 3, 6, 7, 8, 11
E_FOG, E_FOG_COLOR, E_REACH, E_SUN, E_SUN_GLOW, E_SEED, E_GROUND = 14, 15, 18, 19, 22, 23, 24
E_WIDTH = 27


@inlined
def blend(a: Vector, b: Vector, w: float) -> Vector:
    """Return a, going to b as w goes from 0 to 1."""
    return a[0] + (b[0] - a[0]) * w, a[1] + (b[1] - a[1]) * w, a[2] + (b[2] - a[2]) * w


@inlined
def color_at(env: NDArray[np.float64], first: int) -> Vector:
    """Return three neighboring numbers of the environment row."""
    return env[first], env[first + 1], env[first + 2]


@compiled
def sky_color(env: NDArray[np.float64], d: Vector) -> Vector:
    """Return the linear color of the sky in a unit direction."""
    h = max(d[2], 0.0)
    color = blend(color_at(env, E_ZENITH), color_at(env, E_HORIZON), math.exp(-4.0 * h))
    if env[E_CLOUD] > 0.0 and d[2] > -0.02:
        f = env[E_CLOUD_SCALE] / (h + 0.12)
        n = fbm2(d[0] * f + 50.0, d[1] * f + 50.0, 5, int(env[E_SEED]))
        cover = min(1.0, max(0.0, (n - 1.0 + env[E_CLOUD]) * 4.0)) * min(1.0, 0.3 + 4.0 * h)
        white = (0.25 * (env[E_HORIZON] + env[E_HORIZON + 1] + env[E_HORIZON + 2]) + 0.25) * (
            1.15 - 1.2 * max(0.0, n - 0.5)
        )
        color = blend(color, (white, white, white), cover)
    s = d[0] * env[E_SUN] + d[1] * env[E_SUN + 1] + d[2] * env[E_SUN + 2]
    if s > 0.0 and env[E_SUN_GLOW] > 0.0:
        glow = env[E_SUN_GLOW] * (s**40 * 0.6 + s**600 * 4.0)
        color = color[0] + glow, color[1] + 0.9 * glow, color[2] + 0.7 * glow
    if d[2] < 0.0:
        color = blend(color, color_at(env, E_GROUND), min(1.0, -d[2] * 6.0))
    return color
