"""The color of visible surfaces and sky as linear radiance."""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from synthetic.compiled import compiled, inlined
from synthetic.fields import Vector
from synthetic.lighting import AWAY, L_COLOR, L_KIND, OCCLUSION, gather, sunlit
from synthetic.materials import (
    M_BUMP,
    M_EMISSION,
    M_GLOSS,
    M_MIRROR,
    M_SCALE,
    M_SEED,
    M_SPECULAR,
    surface_color,
)
from synthetic.noise import noise3
from synthetic.placing import SOLID_MATERIAL
from synthetic.sky import E_DOWN, E_FOG, E_FOG_COLOR, E_UP, blend, color_at, sky_color
from synthetic.surfaces import Spot, pattern_place, surface_spot
from synthetic.trace import DEEPEST, World
from synthetic.visibility import look_through


class ShadingInputs(NamedTuple):
    """What gives color: materials [M, 22], pictures [T, 256, 256, 3], lights [L, 8], environment [27]."""

    materials: NDArray[np.float64]
    pictures: NDArray[np.float32]
    lights: NDArray[np.float64]
    env: NDArray[np.float64]


@compiled
def shade(
    world: World,
    inputs: ShadingInputs,
    view: NDArray[np.float64],
    depth: NDArray[np.float64],
    seen: NDArray[np.int32],
    samples: NDArray[np.float32],
    pattern: NDArray[np.int64],
) -> NDArray[np.float32]:
    """Return linear radiance [H, W, 3], from light samples [H, W] taken by a pattern [4, 4]."""
    height, width = depth.shape
    image = np.empty((height, width, 3), np.float32)
    lit = np.empty((2, 10))
    solids, _, fields, tree = world
    materials, pictures, lights, env = inputs
    stack = np.empty(DEEPEST, np.int64)
    eye = (view[0], view[1], view[2])
    for y in range(height):
        for x in range(width):
            d = look_through(view, x + 0.5, y + 0.5, (height, width))
            inv = 1.0 / math.sqrt(d[0] * d[0] + d[1] * d[1] + d[2] * d[2])
            ray = (d[0] * inv, d[1] * inv, d[2] * inv)
            p, z = seen[y, x], depth[y, x]
            if p < 0:
                image[y, x, 0], image[y, x, 1], image[y, x, 2] = sky_color(env, ray)
                continue
            spot = surface_spot(solids, fields, p, eye, d, z)
            gather(samples, seen, depth, pattern, (y, x), lit)
            for k in range(min(2, lights.shape[0])):
                if 0.0 < lit[1, k] < 1.5:  # too thin for the tile to say: ask again, exactly here
                    open_to = sunlit(solids, fields, tree, stack, spot, z, lights, k, (0.5, 0.5, 0.5))
                    lit[0, k] = open_to if open_to != AWAY else lit[0, k]
            pixel = z * 2.0 * view[12] / width
            color = radiance(solids, materials, pictures, lights, env, p, spot, ray, pixel, lit)
            if env[E_FOG] > 0.0:
                color = blend(color_at(env, E_FOG_COLOR), color, math.exp(-z / inv * env[E_FOG]))
            image[y, x, 0], image[y, x, 1], image[y, x, 2] = color
    return image


@inlined
def radiance(
    solids: NDArray[np.float64],
    materials: NDArray[np.float64],
    pictures: NDArray[np.float32],
    lights: NDArray[np.float64],
    env: NDArray[np.float64],
    p: int,
    spot: Spot,
    ray: Vector,
    pixel: float,
    lit: NDArray[np.float64],
) -> Vector:
    """Return the color that a spot of solid p sends back along a unit ray; pixel is its width in meters."""
    q = int(solids[p, SOLID_MATERIAL])
    foot = pixel / math.sqrt(max(-dot(ray, spot.normal), 0.02))
    albedo = surface_color(materials, q, pictures, pattern_place(solids, p, spot), spot.metric, foot)
    normal = bumpy(materials, q, spot)
    free, shine = lit[0, OCCLUSION], (0.0, 0.0, 0.0)
    diffuse = scale(blend(color_at(env, E_DOWN), color_at(env, E_UP), 0.5 + 0.5 * normal[2]), free)
    for k in range(lights.shape[0]):
        toward, power = incoming(lights, k, spot.place)
        power *= (lit[0, k] if k < 2 else 1.0) * dot(toward, normal)
        if power <= 0.0:
            continue
        light = (lights[k, L_COLOR], lights[k, L_COLOR + 1], lights[k, L_COLOR + 2])
        diffuse = plus(diffuse, scale(light, power))
        if materials[q, M_SPECULAR] > 0.0:
            shown = highlight(toward, ray, normal, materials[q, M_GLOSS])
            shine = plus(shine, scale(light, power * materials[q, M_SPECULAR] * shown))
    glow = materials[q, M_EMISSION]
    diffuse = (
        albedo[0] * (diffuse[0] + glow),
        albedo[1] * (diffuse[1] + glow),
        albedo[2] * (diffuse[2] + glow),
    )
    color = plus(diffuse, shine)
    if materials[q, M_MIRROR] <= 0.0:
        return color
    mirrored, weight = reflection(env, ray, normal, materials[q, M_MIRROR] * (0.3 + 0.7 * free))
    return blend(color, mirrored, weight)


@inlined
def dot(a: Vector, b: Vector) -> float:
    """Return the inner product."""
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


@inlined
def plus(a: Vector, b: Vector) -> Vector:
    """Return the sum."""
    return a[0] + b[0], a[1] + b[1], a[2] + b[2]


@inlined
def scale(a: Vector, factor: float) -> Vector:
    """Return the multiple."""
    return a[0] * factor, a[1] * factor, a[2] * factor


@inlined
def incoming(lights: NDArray[np.float64], k: int, place: Vector) -> tuple[Vector, float]:
    """Return the unit direction from a place to light k, and its strength there."""
    d = (lights[k, 1], lights[k, 2], lights[k, 3])
    if lights[k, L_KIND] < 0.5:
        return d, 1.0
    x, y, z = d[0] - place[0], d[1] - place[1], d[2] - place[2]
    square = x * x + y * y + z * z
    norm = 1.0 / math.sqrt(square + 1e-12)
    return (x * norm, y * norm, z * norm), 1.0 / (square + 0.3)


@inlined
def highlight(toward: Vector, ray: Vector, normal: Vector, gloss: float) -> float:
    """Return Blinn's highlight, 0..1, for a unit direction to the light and a unit ray from the eye."""
    x, y, z = toward[0] - ray[0], toward[1] - ray[1], toward[2] - ray[2]
    c = dot((x, y, z), normal) / math.sqrt(x * x + y * y + z * z + 1e-12)
    return float(c**gloss) if c > 0.5 else 0.0


@inlined
def reflection(
    env: NDArray[np.float64], ray: Vector, normal: Vector, strength: float
) -> tuple[Vector, float]:
    """Return the sky's color that a surface mirrors, and with which weight (more at grazing angles)."""
    c = -dot(ray, normal)
    mirrored = (ray[0] + 2.0 * c * normal[0], ray[1] + 2.0 * c * normal[1], ray[2] + 2.0 * c * normal[2])
    return sky_color(env, mirrored), strength * (0.25 + 0.75 * (1.0 - max(c, 0.0)) ** 4)


@inlined
def bumpy(materials: NDArray[np.float64], q: int, spot: Spot) -> Vector:
    """Return the spot's unit normal, disturbed by noise where the material is bumpy."""
    x, y, z = spot.normal
    if materials[q, M_BUMP] <= 0.0:
        return x, y, z
    s, k, seed = materials[q, M_SCALE] * 5.0, materials[q, M_BUMP] * 2.0, int(materials[q, M_SEED])
    u, v, w = spot.metric[0] * s, spot.metric[1] * s, spot.metric[2] * s
    x += k * (noise3(u, v, w, seed + 11) - 0.5)
    y += k * (noise3(u, v, w, seed + 12) - 0.5)
    z += k * (noise3(u, v, w, seed + 13) - 0.5)
    norm = 1.0 / math.sqrt(x * x + y * y + z * z + 1e-12)
    return x * norm, y * norm, z * norm
