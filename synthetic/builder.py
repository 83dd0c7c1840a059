"""A scene under construction: frames, placed solids, materials and lights, gathered as plain rows.

World axes: x right, y away, z up; meters.
"""

import colorsys
import math
import random
from collections.abc import Iterator
from contextlib import contextmanager

from synthetic import materials as mat
from synthetic.placing import FLAG_NO_SHADOW
from synthetic.primitives import (
    BALL,
    BOX,
    FRUSTUM,
    PUFF4,
    PUFF8,
    RELIEF,
    ROUND_CONE,
)
from synthetic.sky import E_WIDTH

Vector = tuple[float, float, float]
Color = tuple[float, float, float]


def linear(r: float, g: float, b: float) -> Color:
    """Return the linear color of sRGB 0..1."""
    return r**2.2, g**2.2, b**2.2


def hsv(h: float, s: float, v: float) -> Color:
    """Return the linear color of hue, saturation, value 0..1."""
    return linear(*colorsys.hsv_to_rgb(h % 1.0, min(max(s, 0.0), 1.0), min(max(v, 0.0), 1.0)))


def times(color: Color, factor: float) -> Color:
    """Return a color made darker or brighter."""
    return color[0] * factor, color[1] * factor, color[2] * factor


class Builder:
    """Collects one scene. Placements are relative to the current frame (see `at`)."""

    def __init__(self, rng: random.Random) -> None:
        """Start an empty scene that draws its chances from rng."""
        self.rng = rng
        self.rows: list[tuple[float, ...]] = []
        self.frames: list[tuple[float, ...]] = [(0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1, 1)]
        self.materials: list[tuple[float, ...]] = []
        self.lights: list[tuple[float, ...]] = []
        self.env = [0.0] * E_WIDTH
        self._frame = 0

    @contextmanager
    def at(
        self, place: Vector, yaw: float = 0.0, *, pitch: float = 0.0, roll: float = 0.0, scale: float = 1.0
    ) -> Iterator[None]:
        """Place what follows in a frame at `place`, turned, relative to the current frame."""
        ox, oy, oz, a, b, c, d, e, f, g, h, i, s = self.frames[self._frame]
        cy, sy = math.cos(yaw), math.sin(yaw)
        cp, sp = math.cos(pitch), math.sin(pitch)
        cr, sr = math.cos(roll), math.sin(roll)
        r = (
            cy * cr - sy * sp * sr,
            -sy * cp,
            cy * sr + sy * sp * cr,
            sy * cr + cy * sp * sr,
            cy * cp,
            sy * sr - cy * sp * cr,
            -cp * sr,
            sp,
            cp * cr,
        )
        x, y, z = place
        origin = (
            ox + s * (a * x + b * y + c * z),
            oy + s * (d * x + e * y + f * z),
            oz + s * (g * x + h * y + i * z),
        )
        turn = tuple(
            p * r[k] + q * r[3 + k] + t * r[6 + k]
            for p, q, t in ((a, b, c), (d, e, f), (g, h, i))
            for k in range(3)
        )
        before = self._frame
        self.frames.append((*origin, *turn, s * scale))
        self._frame = len(self.frames) - 1
        try:
            yield
        finally:
            self._frame = before

    def world(self, place: Vector) -> Vector:
        """Return the world position of a place in the current frame."""
        ox, oy, oz, a, b, c, d, e, f, g, h, i, s = self.frames[self._frame]
        x, y, z = place
        return (
            ox + s * (a * x + b * y + c * z),
            oy + s * (d * x + e * y + f * z),
            oz + s * (g * x + h * y + i * z),
        )

    def solid(
        self,
        kind: int,
        center: Vector,
        half: Vector,
        *,
        m: int,
        turn: Vector = (0.0, 0.0, 0.0),
        a: float = 1.0,
        b: float = 0.0,
        holes: float = 0.0,
        hole: float = 0.05,
        shadow: bool = True,
    ) -> None:
        """Place a canonical solid: its center, half sizes and turn (yaw, pitch, roll)."""
        self.rows.append(
            (
                kind,
                self._frame,
                m,
                0.0,
                *center,
                *half,
                *turn,
                a,
                b,
                holes,
                hole,
                0 if shadow else FLAG_NO_SHADOW,
            )
        )

    def box(
        self, center: Vector, half: Vector, m: int, *, turn: Vector = (0.0, 0.0, 0.0), shadow: bool = True
    ) -> None:
        """Place a box."""
        self.solid(BOX, center, half, m=m, turn=turn, shadow=shadow)

    def ball(self, center: Vector, half: Vector, m: int, *, turn: Vector = (0.0, 0.0, 0.0)) -> None:
        """Place an ellipsoid."""
        self.solid(BALL, center, half, m=m, turn=turn)

    def puff(
        self, center: Vector, half: Vector, m: int, *, turn: Vector = (0.0, 0.0, 0.0), hard: bool = False
    ) -> None:
        """Place a box with soft edges; hard: with nearly sharp ones."""
        self.solid(PUFF8 if hard else PUFF4, center, half, m=m, turn=turn)

    def rod(
        self,
        start: Vector,
        end: Vector,
        radius: float,
        m: int,
        *,
        tip: float | None = None,
        flat: float = 1.0,
        open_ends: int = 0,
    ) -> None:
        """Place a cylinder or cone from start to end; open_ends 1: no lid, 2: no floor either."""
        tip = radius if tip is None else tip
        self.rows.append(
            (FRUSTUM, self._frame, m, 1.0, *start, *end, radius, tip, flat, 1.0, open_ends, 0.0, 0.05, 0)
        )

    def limb(
        self,
        start: Vector,
        end: Vector,
        radius: float,
        m: int,
        *,
        tip: float | None = None,
        flat: float = 1.0,
    ) -> None:
        """Place a rounded cone from start to end."""
        tip = radius if tip is None else tip
        self.rows.append(
            (ROUND_CONE, self._frame, m, 1.0, *start, *end, radius, tip, flat, 1.0, 0.0, 0.0, 0.05, 0)
        )

    def relief(
        self,
        center: Vector,
        half: Vector,
        m: int,
        *,
        fields: tuple[int, ...],
        span: float = 1.0,
        turn: Vector = (0.0, 0.0, 0.0),
        shadow: bool = True,
    ) -> float:
        """Place an uneven sheet in a box; span is the share of the field it shows.

        A negative span lets it fall off at the edges.

        Returns `a`, which tells field and shift.
        """
        a = self.rng.choice(fields) + self.rng.random() * 0.99
        self.solid(RELIEF, center, half, m=m, turn=turn, a=a, b=span, shadow=shadow)
        return a

    def lamp(self, place: Vector, color: Color, radius: float) -> None:
        """Place a lamp in the current frame; color is its intensity at one meter."""
        self.lights.append((1.0, *self.world(place), *color, radius))

    def sun(self, direction: Vector, color: Color, *, radius: float = 0.02) -> None:
        """Add a sun; direction points to it."""
        n = math.sqrt(sum(d * d for d in direction))
        self.lights.append((0.0, *(d / n for d in direction), *color, radius))

    def material(
        self,
        kind: int,
        color: Color,
        color2: Color | None = None,
        color3: Color | None = None,
        *,
        scale: float = 4.0,
        contrast: float = 1.0,
        specular: float = 0.0,
        gloss: float = 30.0,
        bump: float = 0.0,
        picture: int = 0,
        emission: float = 0.0,
        mirror: float = 0.0,
        angle: float = 0.0,
        mottle: float = 0.15,
        aspect: float = 1.0,
    ) -> int:
        """Add a material and return its number."""
        colors = (*color, *(color2 or color), *(color3 or color2 or color))
        surface = (scale, contrast, specular, gloss, bump, picture, emission, mirror, angle, mottle, aspect)
        self.materials.append((kind, *colors, *surface, self.rng.getrandbits(20)))
        return len(self.materials) - 1

    def plain(self, color: Color, *, specular: float = 0.0, gloss: float = 30.0, mottle: float = 0.15) -> int:
        """Add a plain material."""
        return self.material(mat.PLAIN, color, specular=specular, gloss=gloss, mottle=mottle)
