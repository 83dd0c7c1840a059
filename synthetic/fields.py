"""Height fields for uneven surfaces: mountains, hills, rough ground, folds, waves, cobbles.

A field is [SIZE + 1, SIZE]: heights in -1..1 on a unit square, and in its last row, first column, its
steepest slope.
"""

import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from synthetic.compiled import compiled, inlined

Vector = tuple[float, float, float]
Shape = tuple[float, float]  # the two numbers a, b that shape a solid; also a pair t_min, t_max

SIZE = 192
MOUNTAINS, HILLS, ROUGH, FOLDS, WAVES, COBBLES, CRUMPLED = (
    (0, 1, 2),
    (3, 4),
    (5, 6),
    (7, 8, 9),
    (10,),
    (11, 12),
    (13,),
)


@lru_cache(maxsize=1)
def load_fields() -> NDArray[np.float64]:
    """Return the fields [K, SIZE + 1, SIZE]."""
    rng = np.random.default_rng(11)
    heights = [ridges(rng) for _ in MOUNTAINS]
    heights += [spectrum(rng, power=p) for p in (2.4, 2.0)]
    heights += [spectrum(rng, power=p) for p in (1.5, 1.1)]
    heights += [folds(rng, stretch=s) for s in (1.0, 3.0, 8.0)]
    heights += [folds(rng, stretch=2.0) * 0.4 + 0.6 * np.sin(np.arange(SIZE) * 0.4)[:, None]]
    heights += [cobbles(rng, count=c) for c in (60, 300)]
    heights += [np.abs(spectrum(rng, power=1.9)) + 0.5 * np.abs(spectrum(rng, power=1.6))]
    return np.stack([with_slope(h) for h in heights])


def with_slope(heights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return heights [SIZE, SIZE] scaled to -1..1, with a row that tells the slope few places exceed."""
    low, high = np.quantile(heights, (0.001, 0.999))
    scaled = np.clip(2.0 * (heights - low) / (high - low) - 1.0, -1.0, 1.0) * 0.98
    gy, gx = np.gradient(scaled)
    steepest = float(np.quantile(np.hypot(gx, gy), 0.99)) * SIZE
    return np.concatenate((scaled, np.full((1, SIZE), steepest)))


def spectrum(rng: np.random.Generator, *, power: float) -> NDArray[np.float64]:
    """Return noise [SIZE, SIZE] whose amplitude falls with frequency to this power."""
    fy, fx = np.meshgrid(np.fft.fftfreq(SIZE), np.fft.fftfreq(SIZE), indexing="ij")
    f = np.hypot(fx, fy)
    f[0, 0] = np.inf
    noise = np.fft.fft2(rng.standard_normal((SIZE, SIZE))) / f**power
    noise[f > 0.25] = 0.0  # nothing finer than bilinear sampling can show
    field = np.fft.ifft2(noise).real
    return np.asarray(field / field.std())


def ridges(rng: np.random.Generator) -> NDArray[np.float64]:
    """Return mountains [SIZE, SIZE]: sharp crests, smooth valleys."""
    return (
        1.2 * spectrum(rng, power=2.2)
        - np.abs(spectrum(rng, power=2.0))
        - 0.3 * np.abs(spectrum(rng, power=1.6))
    )


def folds(rng: np.random.Generator, *, stretch: float) -> NDArray[np.float64]:
    """Return folds of cloth [SIZE, SIZE], long along the first axis."""
    warp = spectrum(rng, power=2.4)
    across = np.arange(SIZE)[None, :] / SIZE * 6.2832 * 5.0
    soft = np.sin(across + warp * 6.0 / stretch) + 0.5 * np.sin(2.3 * across + warp * 9.0 / stretch + 1.0)
    return np.asarray(soft + 0.4 * spectrum(rng, power=2.2))


def cobbles(rng: np.random.Generator, *, count: int) -> NDArray[np.float64]:
    """Return round tops packed side by side [SIZE, SIZE]: stones, tree tops, heaps."""
    y, x = np.mgrid[0:SIZE, 0:SIZE] / SIZE
    best = np.full((SIZE, SIZE), -1.0)
    radius = 1.1 / math.sqrt(count)
    for cy, cx, size, top in rng.random((count, 4)):
        r = radius * (0.6 + 0.8 * size)
        best = np.maximum(
            best, (0.5 + 0.5 * top) * np.sqrt(np.clip(1.0 - ((y - cy) ** 2 + (x - cx) ** 2) / r**2, 0, 1))
        )
    return np.asarray(best + 0.02 * spectrum(rng, power=1.8))


@compiled
def field_height(fields: NDArray[np.float64], shape: Shape, x: float, y: float) -> float:
    """Return the height -1..1 at local x, y of field int(a), shifted by a's fraction, over |b| of it.

    Where b < 0 the surface falls to -1 towards the edges.
    """
    a, b = shape
    k = int(a)
    span = abs(b)
    u = abs((0.5 * x + 0.5) * span + (a - k))
    v = abs((0.5 * y + 0.5) * span + 0.9 - 0.8 * (a - k))
    u = min(u if u <= 1.0 else 2.0 - u, 1.0) * (SIZE - 1.001)
    v = min(v if v <= 1.0 else 2.0 - v, 1.0) * (SIZE - 1.001)
    i, j = int(v), int(u)
    p, q = u - j, v - i
    low = fields[k, i, j] * (1.0 - p) + fields[k, i, j + 1] * p
    high = fields[k, i + 1, j] * (1.0 - p) + fields[k, i + 1, j + 1] * p
    h: float = low * (1.0 - q) + high * q
    if b < 0.0:
        h = (h + 1.0) * max(0.0, 1.0 - x * x) * max(0.0, 1.0 - y * y) - 1.0
    return h


@inlined
def meet_slabs(o: Vector, d: Vector) -> tuple[float, float]:
    """Return the t at which a ray enters and leaves the unit box; it misses unless enter <= leave."""
    ix, iy, iz = 1.0 / d[0], 1.0 / d[1], 1.0 / d[2]
    p, q = (-1.0 - o[0]) * ix, (1.0 - o[0]) * ix
    near, far = min(p, q), max(p, q)
    p, q = (-1.0 - o[1]) * iy, (1.0 - o[1]) * iy
    near, far = max(near, min(p, q)), min(far, max(p, q))
    p, q = (-1.0 - o[2]) * iz, (1.0 - o[2]) * iz
    return max(near, min(p, q)), min(far, max(p, q))


@compiled
def hit_relief(fields: NDArray[np.float64], o: Vector, d: Vector, shape: Shape, reach: Shape) -> float:
    """Return the first t in reach where the ray meets the field's surface inside the unit box, else -1.

    Steps are as long as the slope allows; an overshoot on the few steeper places is halved back.
    """
    near, far = meet_slabs(o, d)
    t_min, far = reach[0], min(far, reach[1])
    if not near <= far or far <= t_min:
        return -1.0
    slope = fields[int(shape[0]), SIZE, 0] * 0.5 * abs(shape[1]) + (3.0 if shape[1] < 0.0 else 0.0)
    rate = slope * math.sqrt(d[0] * d[0] + d[1] * d[1]) - d[2]
    if rate <= 0.0:
        return -1.0
    t = max(near, t_min)
    before = t
    for step in range(120):
        gap = o[2] + t * d[2] - field_height(fields, shape, o[0] + t * d[0], o[1] + t * d[1])
        if gap < 0.0:
            if step == 0:
                return t if near > t_min else -1.0
            return halve(fields, o, d, shape, (before, t))
        before = t
        t += max(gap, 5e-3) / rate
        if t > far:
            return -1.0
    return t


@compiled
def halve(fields: NDArray[np.float64], o: Vector, d: Vector, shape: Shape, between: Shape) -> float:
    """Return where the ray crosses the surface between two t, from above to below."""
    low, high = between
    for _ in range(24):
        t = 0.5 * (low + high)
        if o[2] + t * d[2] < field_height(fields, shape, o[0] + t * d[0], o[1] + t * d[1]):
            high = t
        else:
            low = t
    return high


@compiled
def relief_normal(fields: NDArray[np.float64], shape: Shape, x: float, y: float) -> Vector:
    """Return the upward direction (not unit) of the field's surface at local x, y."""
    e = 1.0 / SIZE / abs(shape[1])
    gx = (field_height(fields, shape, x + e, y) - field_height(fields, shape, x - e, y)) / (2.0 * e)
    gy = (field_height(fields, shape, x, y + e) - field_height(fields, shape, x, y - e)) / (2.0 * e)
    return -gx, -gy, 1.0
