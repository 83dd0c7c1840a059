"""Trees, bushes, hedges, grass and flowers, each at the origin of the current frame, on z = 0."""

import math

from synthetic import materials as mat
from synthetic import outdoor_materials as outdoor
from synthetic.builder import Builder, hsv
from synthetic.primitives import BALL


def crown(b: Builder, *, x: float, y: float, z: float, size: float, leaf: int, blobs: int) -> None:
    """Heap leafy balls around a point."""
    r = b.rng
    for _ in range(blobs):
        a, q, s = r.uniform(0, 6.283), size * math.sqrt(r.random()) * 0.85, size * r.uniform(0.18, 0.42)
        up = r.uniform(-0.6, 0.7) * math.sqrt(max(0.0, size * size - q * q))
        b.solid(
            BALL,
            (x + q * math.cos(a), y + q * math.sin(a), z + up),
            (s, s, s * 0.85),
            m=leaf,
            holes=r.uniform(0.4, 0.75),
            hole=size * r.uniform(0.012, 0.04),
        )


def tree(b: Builder, *, blobs: int = 22) -> None:
    """Build a broad-leaved tree, a conifer, a palm or a bare one, 3 to 14 m high."""
    r = b.rng
    trunk, leaf = outdoor.bark(b), outdoor.leaves(b)
    h, pick = r.uniform(3.5, 12), r.random()
    thick = h * r.uniform(0.012, 0.03)
    if pick < 0.6:
        fork = h * r.uniform(0.25, 0.5)
        lean = (r.gauss(0, 0.03) * h, r.gauss(0, 0.03) * h)
        b.rod((0, 0, -0.2), (*lean, fork), thick, trunk, tip=thick * 0.8)
        size = h * r.uniform(0.22, 0.38)
        for _ in range(4):
            end = (lean[0] + r.uniform(-1, 1) * size * 0.7, lean[1] + r.uniform(-1, 1) * size * 0.7, h * 0.75)
            b.rod((*lean, fork * 0.98), end, thick * 0.6, trunk, tip=thick * 0.2)
        crown(b, x=lean[0], y=lean[1], z=h - size * 0.9, size=size, leaf=leaf, blobs=blobs)
    elif pick < 0.78:
        b.rod((0, 0, -0.2), (0, 0, h), thick, trunk, tip=thick * 0.2)
        for k in range(7):
            z, w = h * (0.15 + 0.12 * k), h * 0.2 * (1 - k / 8)
            b.solid(2, (0, 0, z + h * 0.08), (w, w, h * 0.09), m=leaf, a=0.25, b=2, holes=0.4, hole=h * 0.02)
    elif pick < 0.88:
        b.rod((0, 0, -0.2), (h * 0.05, 0, h * 0.8), thick, trunk, tip=thick * 0.7)
        for k in range(11):
            a, droop = k * 0.571, r.uniform(-0.1, 0.3)
            reach = h * 0.25
            end = (h * 0.05 + reach * math.cos(a), reach * math.sin(a), h * (0.8 + droop * 0.4 - 0.05))
            b.limb((h * 0.05, 0, h * 0.8), end, h * 0.012, leaf, tip=h * 0.025, flat=0.3)
    else:
        b.rod((0, 0, -0.2), (0, 0, h * 0.5), thick, trunk, tip=thick * 0.6)
        for _ in range(12):
            end = (r.gauss(0, 0.15) * h, r.gauss(0, 0.15) * h, h * r.uniform(0.7, 1.0))
            b.rod((0, 0, h * r.uniform(0.3, 0.5)), end, thick * 0.4, trunk, tip=thick * 0.1)


def bush(b: Builder) -> None:
    """Build a bush of about a meter."""
    r = b.rng
    crown(b, x=0, y=0, z=r.uniform(0.25, 0.6), size=r.uniform(0.4, 1.0), leaf=outdoor.leaves(b), blobs=8)


def hedge(b: Builder, *, length: float, height: float) -> None:
    """Build a clipped hedge along x."""
    r = b.rng
    b.solid(
        4,
        (0, 0, height / 2),
        (length / 2, r.uniform(0.25, 0.5), height / 2),
        m=outdoor.leaves(b),
        holes=r.uniform(0.2, 0.45),
        hole=0.06,
    )


def flower(b: Builder, *, petals: int | None = None, size: float = 0.05) -> None:
    """Build one blossom whose heart is at the origin, open towards -y; size is a petal's length."""
    r = b.rng
    petals = petals or r.choice((5, 6, 8, 12, 18))
    hue = r.choice((0.0, 0.04, 0.1, 0.14, 0.8, 0.9, 0.62))
    c, c2 = (
        hsv(hue, r.uniform(0.3, 0.95), r.uniform(0.6, 1)),
        hsv(hue + r.uniform(-0.06, 0.06), 0.8, r.uniform(0.3, 0.9)),
    )
    petal = b.material(mat.FABRIC, c, c2, scale=0.8 / size, mottle=0.2)
    heart = b.material(
        mat.DOTS, hsv(0.12, 0.8, r.uniform(0.2, 0.8)), hsv(0.08, 0.8, 0.2), scale=6 / size, bump=0.3
    )
    cup = r.uniform(-0.2, 0.7)
    for ring in range(r.choice((1, 1, 2))):
        for k in range(petals):
            a = (k + 0.5 * ring) / petals * 6.283 + r.gauss(0, 0.04)
            s = size * (1 - 0.25 * ring)
            with b.at((0, -0.15 * size * ring, 0), roll=a):
                b.ball(
                    (0, -s * math.sin(cup) * 0.7, s * 0.75),
                    (s * min(0.5, 2.6 / petals), s * 0.05, s * 0.62),
                    petal,
                    turn=(0, cup + r.gauss(0, 0.1), 0),
                )
    b.ball((0, -size * 0.1, 0), (size * 0.3, size * 0.22, size * 0.3), heart)


def tuft(b: Builder, *, blades: int, height: float, leaf: int) -> None:
    """Build blades of grass or leaves rising from the ground."""
    r = b.rng
    for _ in range(blades):
        x, y, a = r.gauss(0, height * 0.3), r.gauss(0, height * 0.3), r.uniform(0, 6.283)
        h, bend = height * r.uniform(0.6, 1.2), height * r.uniform(0.0, 0.5)
        b.limb(
            (x, y, 0),
            (x + bend * math.cos(a), y + bend * math.sin(a), h),
            height * 0.02,
            leaf,
            tip=height * 0.006,
        )
