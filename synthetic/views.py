"""Where the camera stands and looks, as the row of numbers that the tracer takes."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class View:
    """A pinhole camera: position in meters, angles in degrees (yaw 0 looks along +y, pitch > 0 looks up)."""

    place: tuple[float, float, float]
    yaw: float = 0.0
    pitch: float = 0.0
    roll: float = 0.0
    fov: float = 60.0  # of the long side
    focus: float | None = None  # meters; None is all sharp
    clearance: float = 0.0  # meters that nothing but a small part of the picture may be nearer than
    variety: int = 3  # solids that must be seen
    aperture: float = 0.0  # blur disc for 1/m of defocus, in per mille of the width

    def row(self, width: int, height: int) -> NDArray[np.float64]:
        """Return the view row [14], as `sight` explains it."""
        y, p, r = (math.radians(a) for a in (self.yaw, self.pitch, self.roll))
        ahead = np.array((-math.sin(y) * math.cos(p), math.cos(y) * math.cos(p), math.sin(p)))
        level = np.array((math.cos(y), math.sin(y), 0.0))
        lift = np.cross(level, ahead)
        right = math.cos(r) * level + math.sin(r) * lift
        up = math.cos(r) * lift - math.sin(r) * level
        half = math.tan(math.radians(self.fov) / 2) / max(width, height)
        return np.concatenate((self.place, right, up, ahead, (half * width, half * height)))


def look(place: tuple[float, float, float], target: tuple[float, float, float]) -> tuple[float, float]:
    """Return yaw and pitch in degrees that look from place to target."""
    dx, dy, dz = (b - a for a, b in zip(place, target, strict=True))
    return math.degrees(math.atan2(-dx, dy)), math.degrees(math.atan2(dz, math.hypot(dx, dy)))
