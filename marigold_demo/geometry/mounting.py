"""How a relief is mounted: bent onto a cylinder, hung by a hole.

The cylinder's axis runs along y under (or, for a negative radius, over) the middle of the relief; distances
along the back stay the same. A keyhole is entered by a screw's head at its lower end; the relief then slides
down onto the shank. It is cut from the back with manifold3d: a narrow slot, and behind it room for the head.
"""

import importlib
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from marigold_demo.errors import SettingsError
from marigold_demo.geometry.footprint import Footprint, widest_place
from marigold_demo.geometry.mesh_check import weld
from marigold_demo.geometry.solid import Solid

LARGEST_TURN = 350  # degrees; more would let the ends meet
FINEST_SAG_MM = 0.01  # a curve never needs finer triangles
WALL_MM = 2.0  # left between a hole and the edge
LIP_MM = 1.2  # thickness that holds the head
HEAD_MM = 2.2  # room for the head behind the lip
HEAD_WIDTHS = 2.1  # width of the head in shanks
SLIDE_SHANKS = 2.0  # how far it slides
SIDES = 64
KEYHOLE_DEPTH_MM = LIP_MM + HEAD_MM

Points = NDArray[np.float32]


@dataclass(frozen=True)
class Hole:
    """A hole to hang a relief by.

    Attributes:
        kind: "through" or "keyhole".
        shank_mm: Diameter of the hole, or of the screw's shank.
        x: Middle of its upper part.
        y: Middle of its upper part.
        back: Height of the back there.
    """

    kind: str
    shank_mm: float
    x: float
    y: float
    back: float = 0.0


def bend_step_mm(radius: float, *, tolerance: float, width: float, thickness: float) -> float:
    """Return how wide along the back a flat triangle may be to stay within the tolerance of the curve.

    Raises:
        SettingsError: The relief goes round more than once, or does not fit inside the curve.
    """
    smallest = width / np.radians(LARGEST_TURN)
    if abs(radius) < smallest:
        raise SettingsError(
            f"bend_radius_mm is {radius:g}, too tight for {width:g} mm;"
            f" it must be at least {np.ceil(smallest):g} mm."
        )
    if radius < 0 and -radius < 1.2 * thickness:
        raise SettingsError(
            f"bend_radius_mm is {radius:g}, but the piece is {thickness:g} mm thick;"
            f" the hollow side needs {-np.ceil(1.2 * thickness):g} mm or more."
        )

    outermost = abs(radius) + (thickness if radius > 0 else 0)
    return float(np.sqrt(8 * max(tolerance, FINEST_SAG_MM) / outermost) * abs(radius))


def bend(solid: Solid, radius: float, *, anchor_x: float) -> tuple[Solid, Points]:
    """Bend a solid and move it back to the corner at the origin.

    Returns:
        The bent solid, and where the point at `anchor_x` on the front edge of the back went: float32 [3]. The
        anchor counts among the points of which the lowest comes to lie on z = 0, also without a hole.
    """
    anchor = np.array([[anchor_x, 0, 0]], dtype=np.float32)
    points = _bent(np.concatenate([solid.vertices, anchor]), radius)
    return replace(solid, vertices=points[:-1]), points[-1]


def _bent(points: Points, radius: float) -> Points:
    x, y, z = points.astype(np.float64).T
    size = abs(radius)
    angle = (x - (x.min() + x.max()) / 2) / size
    reach = size + np.sign(radius) * z  # distance from the axis
    bent = np.column_stack([reach * np.sin(angle), y, np.sign(radius) * reach * np.cos(angle)])
    moved: Points = (bent - bent.min(axis=0)).astype(np.float32)
    return moved


def mounting_hole(footprint: Footprint, kind: str, shank_mm: float) -> Hole:
    """Plan a hole at the middle of the top edge, or as high in a cut-out as that is wide enough.

    Args:
        footprint: Of the flat relief.
        kind: "through" or "keyhole".
        shank_mm: Diameter of the hole or of the screw's shank.

    Raises:
        SettingsError: There is no room for it.
    """
    width, height = _needed_mm(kind, shank_mm)
    if footprint.kept is not None:
        found = widest_place(footprint, height)
        if found is None:
            raise SettingsError(
                f"hole_mm is {shank_mm:g}; the cut-out has no place {height:g} mm wide for the hole."
            )
        return Hole(kind, shank_mm, *found)
    across, down = footprint.outer_mm
    if width > across or height > down:
        raise SettingsError(
            f"hole_mm is {shank_mm:g}; with its walls the hole needs {width:g} x {height:g} mm,"
            f" more than the piece has ({across:.4g} x {down:.4g} mm)."
        )
    middle = down - max(footprint.front_mm, height) / 2 if kind == "through" else down - height / 2
    return Hole(kind, shank_mm, across / 2, middle)


def drill(solid: Solid, hole: Hole) -> Solid:
    """Cut a hole into a closed solid, and find the picture's faces again: those with only corners of it.

    Raises:
        SettingsError: manifold3d is not installed.
    """
    m3d = _manifold()
    whole = m3d.Manifold(m3d.Mesh(solid.vertices, solid.faces.astype(np.uint32)))
    top = float(solid.vertices[:, 2].max())
    cut = _through(m3d, hole, top=top) if hole.kind == "through" else _keyhole(m3d, hole)
    mesh = (whole - cut).to_mesh()
    vertices = np.asarray(mesh.vert_properties[:, :3], np.float32)
    faces = np.asarray(mesh.tri_verts, np.int32)
    picture = solid.vertices[solid.faces[: solid.picture_faces]]
    numbers, count = weld(np.concatenate([picture, vertices[faces]]))
    known = np.zeros(count, dtype=bool)
    known[numbers[: len(picture)]] = True
    is_picture = known[numbers[len(picture) :]].all(axis=1)
    order = np.argsort(~is_picture, kind="stable")
    return Solid(vertices, faces[order], int(np.count_nonzero(is_picture)), solid.tolerance_mm)


def _needed_mm(kind: str, shank_mm: float) -> tuple[float, float]:
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


def _through(m3d: Any, hole: Hole, *, top: float) -> Any:
    return _cylinder(m3d, hole.shank_mm, low=-1, high=top + 1).translate((hole.x, hole.y, 0))


def _keyhole(m3d: Any, hole: Hole) -> Any:
    head, slide = HEAD_WIDTHS * hole.shank_mm, SLIDE_SHANKS * hole.shank_mm
    low = -hole.back - 1
    slot = _slot(m3d, hole.shank_mm, slide, low=low, high=KEYHOLE_DEPTH_MM)
    room = _slot(m3d, head, slide, low=LIP_MM, high=KEYHOLE_DEPTH_MM)
    entrance = _cylinder(m3d, head, low=low, high=KEYHOLE_DEPTH_MM).translate((0, -slide, 0))
    return (slot + room + entrance).translate((hole.x, hole.y, hole.back))


def _slot(m3d: Any, width: float, length: float, *, low: float, high: float) -> Any:
    """A slot that runs down from the origin with round ends."""
    middle = m3d.Manifold.cube((width, length, high - low)).translate((-width / 2, -length, low))
    end = _cylinder(m3d, width, low=low, high=high)
    return middle + end + end.translate((0, -length, 0))


def _cylinder(m3d: Any, diameter: float, *, low: float, high: float) -> Any:
    return m3d.Manifold.cylinder(high - low, diameter / 2, diameter / 2, SIDES).translate((0, 0, low))
