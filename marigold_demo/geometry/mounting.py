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
from marigold_demo.geometry.solid import Bend, Solid, check_mesh, weld

LARGEST_TURN = 350  # degrees; more would let the ends meet
FINEST_SAG_MM = 0.01  # a curve never needs finer triangles
WALL_MM = 2.0  # left between a hole and the edge
THINNEST_WALL_MM = 1.0  # left where that keeps the hole inside the frame
LIP_MM = 1.2  # thickness that holds the head
HEAD_MM = 2.2  # room for the head behind the lip
HEAD_WIDTHS = 2.1  # width of the head in shanks
SLIDE_SHANKS = 2.0  # how far it slides
SIDES = 64
TURNS_DEG = (0.37, 1.13, 2.21, 0.71, 1.87, 3.05, 2.63, 4.19)  # of the hole; the next one where one fails
FINEST_MM = 1e-4  # vertices closer than this are one in a 3MF file
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
        The bent solid, and where the point at `anchor_x` on the front edge of the back went: float32 [3].
    """
    points = np.append(solid.vertices.astype(np.float64), [[anchor_x, 0, 0]], axis=0)
    middle = float(points[:, 0].min() + points[:, 0].max()) / 2
    points = _bent(points, radius, middle=middle)
    corner = points[:-1].min(axis=0)
    points -= corner
    moved = points.astype(np.float32)
    return replace(solid, vertices=moved[:-1], bend=Bend(radius, middle, corner)), moved[-1]


def _bent(points: NDArray[np.float64], radius: float, *, middle: float) -> NDArray[np.float64]:
    x, y, z = points.T
    size = abs(radius)
    angle = (x - middle) / size
    reach = size + np.sign(radius) * z  # distance from the axis
    return np.column_stack([reach * np.sin(angle), y, np.sign(radius) * reach * np.cos(angle)])


def mounting_hole(footprint: Footprint, kind: str, shank_mm: float, *, frame_mm: float) -> Hole:
    """Plan a hole at the middle of the top edge, or as high in a cut-out as that is wide enough.

    A frame that is wide enough for it has it in its middle, so that the picture stays whole.

    Args:
        footprint: Of the flat relief.
        kind: "through" or "keyhole".
        shank_mm: Diameter of the hole or of the screw's shank.
        frame_mm: Width of the frame; 0 without one.

    Raises:
        SettingsError: There is no room for it.
    """
    width, height = _needed_mm(kind, shank_mm)
    if footprint.kept is not None:
        fits_frame = kind == "through" and frame_mm >= shank_mm + 2 * THINNEST_WALL_MM
        found = widest_place(footprint, frame_mm if fits_frame else height)
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
    if kind == "keyhole":
        return Hole(kind, shank_mm, across / 2, down - height / 2)
    fits_frame = footprint.front_mm >= shank_mm + 2 * THINNEST_WALL_MM
    middle = footprint.front_mm / 2 if fits_frame else height / 2
    return Hole(kind, shank_mm, across / 2, down - middle)


def drill(solid: Solid, hole: Hole) -> Solid:
    """Cut a hole into a closed solid, and find the picture's faces again: those with only corners of it.

    Where a side of the hole runs along edges of the grid, rounding to float32 makes vertices coincide. So
    the hole is turned, by the next of `TURNS_DEG` until the result is sound.

    Raises:
        SettingsError: manifold3d is not installed, or no turn gives a sound solid.
    """
    m3d = _manifold()
    whole = m3d.Manifold(m3d.Mesh(solid.vertices, solid.faces.astype(np.uint32)))
    top = float(solid.vertices[:, 2].max())
    for turn in TURNS_DEG:
        cut = _through(m3d, hole, top=top, turn=turn) if hole.kind == "through" else _keyhole(m3d, hole, turn)
        mesh = (whole - cut).to_mesh()
        vertices, faces, is_picture = _collapsed(
            np.asarray(mesh.vert_properties[:, :3], np.float32), np.asarray(mesh.tri_verts, np.int32), solid
        )
        if check_mesh(np.round(vertices, 4)[faces]).solid:
            order = np.argsort(~is_picture, kind="stable")
            return replace(
                solid,
                vertices=vertices,
                faces=faces[order],
                picture_faces=int(np.count_nonzero(is_picture)),
            )
    raise SettingsError(
        f"A hole of {hole.shank_mm:g} mm leaves no sound solid here; another hole_mm or a wider frame does."
    )


def _collapsed(
    vertices: Points, faces: NDArray[np.int32], solid: Solid
) -> tuple[Points, NDArray[np.int32], NDArray[np.bool_]]:
    """Join new vertices that lie closer than a 3MF file can distinguish; those of the solid stay in place.

    Returns:
        float32 [V, 3], int32 [F, 3] without what has become an edge, and which faces are the picture's.
    """
    old = solid.vertices[np.unique(solid.faces)]
    numbers, _ = weld(_as_corners(np.concatenate([old, vertices])))
    of_old, of_new = numbers.ravel()[: len(old)], numbers.ravel()[len(old) : len(old) + len(vertices)]
    known = np.zeros(numbers.max() + 1, dtype=bool)
    known[of_old] = True
    rounded = np.round(vertices.astype(np.float64) / FINEST_MM) * FINEST_MM
    placed = np.where(known[of_new][:, None], vertices, rounded.astype(np.float32))
    cells = np.round(placed.astype(np.float64) / FINEST_MM).astype(np.int64)
    _, first, number = np.unique(cells, axis=0, return_index=True, return_inverse=True)
    joined = number.ravel()[faces].astype(np.int32)
    whole = (joined != np.roll(joined, 1, axis=1)).all(axis=1)
    picture = np.zeros(numbers.max() + 1, dtype=bool)
    picture_points = np.zeros(len(solid.vertices), dtype=bool)
    picture_points[solid.faces[: solid.picture_faces]] = True
    picture[of_old[picture_points[np.unique(solid.faces)]]] = True
    return placed[first], joined[whole], picture[of_new][faces[whole]].all(axis=1)


def _as_corners(points: Points) -> Points:
    """Return points [N, 3] as triangles [N / 3, 3, 3], the last ones filled up with the last point."""
    padded = np.concatenate([points, np.repeat(points[-1:], -len(points) % 3, axis=0)])
    return padded.reshape(-1, 3, 3)


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


def _through(m3d: Any, hole: Hole, *, top: float, turn: float) -> Any:
    cylinder = _cylinder(m3d, hole.shank_mm, low=-1, high=top + 1).rotate((0, 0, turn))
    return cylinder.translate((hole.x, hole.y, 0))


def _keyhole(m3d: Any, hole: Hole, turn: float) -> Any:
    head, slide = HEAD_WIDTHS * hole.shank_mm, SLIDE_SHANKS * hole.shank_mm
    low = -hole.back - 1
    slot = _slot(m3d, hole.shank_mm, slide, low=low, high=KEYHOLE_DEPTH_MM)
    room = _slot(m3d, head, slide, low=LIP_MM, high=KEYHOLE_DEPTH_MM)
    entrance = _cylinder(m3d, head, low=low, high=KEYHOLE_DEPTH_MM).translate((0, -slide, 0))
    return (slot + room + entrance).rotate((0, 0, turn)).translate((hole.x, hole.y, hole.back))


def _slot(m3d: Any, width: float, length: float, *, low: float, high: float) -> Any:
    """A slot that runs down from the origin with round ends."""
    middle = m3d.Manifold.cube((width, length, high - low)).translate((-width / 2, -length, low))
    end = _cylinder(m3d, width, low=low, high=high)
    return middle + end + end.translate((0, -length, 0))


def _cylinder(m3d: Any, diameter: float, *, low: float, high: float) -> Any:
    return m3d.Manifold.cylinder(high - low, diameter / 2, diameter / 2, SIDES).translate((0, 0, low))
