"""Holes to hang a solid by, cut with manifold3d. Knows nothing of depth or grids.

A keyhole is entered by a screw's head at its lower end; the piece then slides down onto the shank. It is cut
from the back: a narrow slot, and behind it room for the head.
"""

import importlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from marigold_demo.errors import SettingsError

WALL_MM = 2.0  # left between a hole and the edge
LIP_MM = 1.2  # thickness that holds the head
HEAD_MM = 2.2  # room for the head behind the lip
HEAD_WIDTHS = 2.1  # width of the head in shanks
SLIDE_SHANKS = 2.0  # how far it slides
SIDES = 64
KEYHOLE_DEPTH_MM = LIP_MM + HEAD_MM

Points = NDArray[np.float32]
Indices = NDArray[np.int32]


@dataclass(frozen=True)
class Place:
    """Where a hole goes: the middle of its upper part, the height of the back there, the highest point."""

    x: float
    y: float
    back: float
    top: float


def drill(
    points: Points, faces: Indices, *, kind: str, shank_mm: float, place: Place
) -> tuple[Points, Indices]:
    """Cut a hole into a closed solid.

    Args:
        points: float32 [V, 3].
        faces: int32 [F, 3].
        kind: "through" or "keyhole".
        shank_mm: Diameter of the hole or of the screw's shank.
        place: Where.

    Raises:
        SettingsError: manifold3d is not installed.
    """
    m3d = _manifold()
    solid = m3d.Manifold(m3d.Mesh(points, faces.astype(np.uint32)))
    cut = solid - (_through(m3d, shank_mm, place) if kind == "through" else _keyhole(m3d, shank_mm, place))
    mesh = cut.to_mesh()
    return np.asarray(mesh.vert_properties[:, :3], np.float32), np.asarray(mesh.tri_verts, np.int32)


def needed_mm(kind: str, shank_mm: float) -> tuple[float, float]:
    """Return the width and height that a hole takes with its walls."""
    if kind == "through":
        return shank_mm + 2 * WALL_MM, shank_mm + 2 * WALL_MM
    head = HEAD_WIDTHS * shank_mm
    return head + 2 * WALL_MM, head + SLIDE_SHANKS * shank_mm + 2 * WALL_MM


def _manifold() -> Any:
    try:
        return importlib.import_module("manifold3d")
    except ModuleNotFoundError as error:
        raise SettingsError(
            "A hole needs the package manifold3d, which is not installed; 'pip install manifold3d' adds it."
        ) from error


def _through(m3d: Any, shank_mm: float, place: Place) -> Any:
    return _cylinder(m3d, shank_mm, low=-1, high=place.top + 1).translate((place.x, place.y, 0))


def _keyhole(m3d: Any, shank_mm: float, place: Place) -> Any:
    head, slide = HEAD_WIDTHS * shank_mm, SLIDE_SHANKS * shank_mm
    low = -place.back - 1
    slot = _slot(m3d, shank_mm, slide, low=low, high=KEYHOLE_DEPTH_MM)
    room = _slot(m3d, head, slide, low=LIP_MM, high=KEYHOLE_DEPTH_MM)
    entrance = _cylinder(m3d, head, low=low, high=KEYHOLE_DEPTH_MM).translate((0, -slide, 0))
    return (slot + room + entrance).translate((place.x, place.y, place.back))


def _slot(m3d: Any, width: float, length: float, *, low: float, high: float) -> Any:
    """A slot that runs down from the origin with round ends."""
    middle = m3d.Manifold.cube((width, length, high - low)).translate((-width / 2, -length, low))
    end = _cylinder(m3d, width, low=low, high=high)
    return middle + end + end.translate((0, -length, 0))


def _cylinder(m3d: Any, diameter: float, *, low: float, high: float) -> Any:
    return m3d.Manifold.cylinder(high - low, diameter / 2, diameter / 2, SIDES).translate((0, 0, low))
