"""Pseudo-random numbers and smooth noise for compiled loops."""

import math

from synthetic.compiled import compiled


@compiled
def hash2(ix: int, iy: int, seed: int) -> float:
    """Return a number in 0..1 that depends on two integers and a seed."""
    n = (ix * 374761393 + iy * 668265263 + seed * 1274126177) & 0xFFFFFFFF
    n = ((n ^ (n >> 13)) * 1274126177) & 0xFFFFFFFF
    n = ((n ^ (n >> 15)) * 668265263) & 0xFFFFFFFF
    return ((n ^ (n >> 16)) & 0xFFFFFF) / 16777216.0


@compiled
def noise2(x: float, y: float, seed: int) -> float:
    """Return smooth value noise in 0..1 over the plane, one feature per unit."""
    fx, fy = math.floor(x), math.floor(y)
    ix, iy = int(fx), int(fy)
    u, v = x - fx, y - fy
    u, v = u * u * (3.0 - 2.0 * u), v * v * (3.0 - 2.0 * v)
    low = hash2(ix, iy, seed) * (1.0 - u) + hash2(ix + 1, iy, seed) * u
    high = hash2(ix, iy + 1, seed) * (1.0 - u) + hash2(ix + 1, iy + 1, seed) * u
    return low * (1.0 - v) + high * v


@compiled
def noise3(x: float, y: float, z: float, seed: int) -> float:
    """Return smooth value noise in 0..1 over space, one feature per unit."""
    fz = math.floor(z)
    iz = int(fz)
    w = z - fz
    w = w * w * (3.0 - 2.0 * w)
    a = noise2(x + iz * 1013.0, y + iz * 7919.0, seed)
    b = noise2(x + (iz + 1) * 1013.0, y + (iz + 1) * 7919.0, seed)
    return a * (1.0 - w) + b * w


@compiled
def fbm2(x: float, y: float, octaves: int, seed: int) -> float:
    """Return a sum of octaves of plane noise, in 0..1."""
    total, weight, norm = 0.0, 1.0, 0.0
    for i in range(octaves):
        total += weight * noise2(x, y, seed + i)
        norm += weight
        weight *= 0.5
        x, y = 2.03 * x + 17.3, 2.03 * y + 5.1
    return total / norm
