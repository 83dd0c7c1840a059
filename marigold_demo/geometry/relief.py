"""DepthMap into a watertight solid in millimetres. Knows nothing of files, models or widgets.

The solid lies on z = 0 with its corner at the origin: x runs right, the top of the picture is at large y, and
the picture looks up. Before it is bent or drilled it is a height field with a flat back: it has no undercut
and cannot meet itself.
"""

from dataclasses import dataclass, replace

import numpy as np
import trimesh
from numpy.typing import NDArray

from marigold_demo.depth import DepthMap
from marigold_demo.errors import SettingsError
from marigold_demo.geometry.assembly import Ground, assemble
from marigold_demo.geometry.cutout import corners_of
from marigold_demo.geometry.frame import frame_top, frame_width, profile
from marigold_demo.geometry.hanging import KEYHOLE_DEPTH_MM
from marigold_demo.geometry.heightfield import (
    debanded,
    fill_invalid,
    heights_from_brightness,
    heights_from_depth,
    luminance,
    smoothed,
    spread,
    with_photo_detail,
    without_spots,
)
from marigold_demo.geometry.piece import DISCS, Pixels, need_photo, plan_piece, with_rim
from marigold_demo.geometry.rtin import grid_size
from marigold_demo.geometry.solid import Outline
from marigold_demo.settings import ReliefSettings

Points = NDArray[np.float32]
Indices = NDArray[np.int32]
Grid = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Relief:
    """A closed solid.

    Attributes:
        vertices: float32 [V, 3] in millimetres.
        faces: int32 [F, 3], counter-clockwise from outside; those of the picture come first.
        picture_faces: How many faces belong to the picture.
        ground: The heights that the picture's faces follow, what is kept of them, and where they lie.
        settings: What was asked for.
        tolerance_mm: The largest vertical distance between the picture's faces and the heights.
        size_mm: Extent in x, y and z.
        thinnest_mm: The thinnest place between front and back.
        notes: What the visitor should know, in sentences.
    """

    vertices: Points
    faces: Indices
    picture_faces: int
    ground: Ground
    settings: ReliefSettings
    tolerance_mm: float
    size_mm: tuple[float, float, float]
    thinnest_mm: float
    notes: tuple[str, ...]

    @property
    def heights(self) -> Grid:
        """Heights above the back: float32 [R, C] in millimetres."""
        return self.ground.heights

    @property
    def outline(self) -> Outline:
        """Where the picture lies in x and y."""
        return self.ground.piece.outline

    def to_trimesh(self) -> trimesh.Trimesh:
        """Return the solid as trimesh's type, untouched."""
        return trimesh.Trimesh(vertices=self.vertices, faces=self.faces, process=False)


def build_relief(depth: DepthMap, settings: ReliefSettings, *, photo: Pixels | None = None) -> Relief:
    """Build the solid.

    Args:
        depth: Depth; values that are not finite take their nearest neighbour's.
        settings: Sizes, frame, mode and mesh quality.
        photo: Needed where brightness becomes height, and where transparency is cut away.

    Raises:
        SettingsError: The settings contradict each other or the picture.
        DepthFileError: The depth holds no finite value.
    """
    settings, notes = _settled(settings)
    width, height = depth.size if settings.source == "depth" else need_photo(photo).rgb.shape[1::-1]
    # 1. Depth on the grid, and what is kept of the picture
    size = grid_size(width, height, settings.resolution)
    values, spots = without_spots(fill_invalid(depth.values))
    grid = smoothed(debanded(values), settings, size=size)
    piece = plan_piece(grid, settings, size=(width, height), photo=photo)
    # 2. Heights between 0 and 1, then in millimetres
    if settings.source == "luminance":
        light = smoothed(luminance(need_photo(photo).rgb), settings, size=size)
        shares = heights_from_brightness(light, kept=piece.picture)
    else:
        shares = heights_from_depth(grid, settings, kept=piece.picture)
        if photo is not None:
            shares = with_photo_detail(shares, photo.rgb, amount=settings.photo_detail)
            shares = shares if piece.picture is None else spread(shares, piece.picture)
    ground = Ground(with_rim(_to_mm(shares, settings), piece, settings), piece)
    # 3. The solid
    return _relief(ground, settings, notes=(*notes, *_notes(depth, shares, settings, spots=spots)))


def lighter(relief: Relief, *, max_faces: int) -> Relief:
    """Return the same relief with at most so many faces; the tolerance is raised as far as it takes."""
    if len(relief.faces) <= max_faces:
        return relief
    return _relief(relief.ground, replace(relief.settings, max_faces=max_faces), notes=relief.notes)


def _settled(settings: ReliefSettings) -> tuple[ReliefSettings, tuple[str, ...]]:
    """Drop the frame of a cut-out, and say so."""
    if settings.cutout == "none" or settings.cutout in DISCS:
        return settings, ()
    if settings.mode == "mould":
        raise SettingsError(
            "A mould needs its rim, which a cut-out has not; choose cutout 'none' or mode 'emboss'."
        )
    if frame_width(settings) == 0:
        return settings, ()
    return replace(settings, frame="none"), ("A cut-out has no frame, so the frame was left out.",)


def _to_mm(shares: Grid, settings: ReliefSettings) -> Grid:
    if settings.mode != "emboss":
        shares = 1 - shares
    if settings.mode == "mould":
        shares = shares[:, ::-1]  # so that the cast reads the right way round
    return np.ascontiguousarray(shares * np.float32(settings.relief_mm) + np.float32(settings.base_mm))


def _relief(ground: Ground, settings: ReliefSettings, *, notes: tuple[str, ...]) -> Relief:
    made = assemble(ground, settings)
    x, y, z = (float(side) for side in np.ptp(made.vertices, axis=0))
    outline = ground.piece.outline
    if settings.bend_radius_mm == 0 and ground.piece.kept is None:  # as asked, not as rounded to float32
        x, y = outline.width + 2 * outline.left, outline.depth + 2 * outline.front
    return Relief(
        vertices=made.vertices,
        faces=made.faces,
        picture_faces=made.picture_faces,
        ground=ground,
        settings=settings,
        tolerance_mm=made.tolerance_mm,
        size_mm=(x, y, z),
        thinnest_mm=_thinnest(ground, settings),
        notes=(*notes, *_faces_notes(made.tolerance_mm, len(made.faces), settings)),
    )


def _thinnest(ground: Ground, settings: ReliefSettings) -> float:
    kept = ground.piece.kept
    counted = ground.heights if kept is None else ground.heights[corners_of(kept)]
    thinnest = min([float(counted.min()), *(ring.height_mm for ring in profile(settings))])
    return thinnest - KEYHOLE_DEPTH_MM if settings.hole == "keyhole" else thinnest


def _notes(depth: DepthMap, shares: Grid, settings: ReliefSettings, *, spots: int) -> tuple[str, ...]:
    notes = []
    if settings.source == "depth":
        invalid = float(1 - np.isfinite(depth.values).mean())
        if invalid > 0:
            notes.append(f"{invalid:.1%} of the depth had no value and took that of the nearest pixel.")
        if spots:
            notes.append(
                f"{spots} pixels in small spots stood far out of their surroundings and were leveled."
            )
    if not np.ptp(shares) > 0:
        notes.append(
            "The picture is flat between the near and the far plane, so the relief is a plain plate."
        )
    if (
        settings.mode == "mould"
        and settings.frame_top_mm is not None
        and frame_top(settings) > settings.frame_top_mm
    ):
        notes.append("The rim was raised to the height of the relief, so that the mould holds the cast.")
    return tuple(notes)


def _faces_notes(tolerance: float, faces: int, settings: ReliefSettings) -> tuple[str, ...]:
    notes = []
    if tolerance > settings.tolerance_mm:
        notes.append(
            f"The tolerance was raised from {settings.tolerance_mm:g} to {tolerance:.3g} mm"
            f" to stay under {settings.max_faces:,} triangles."
        )
    if faces > settings.max_faces:
        notes.append(
            f"The border of the cut-out alone takes more than {settings.max_faces:,} triangles;"
            " a lower resolution or more smoothing gives fewer."
        )
    return tuple(notes)
