"""Depth into a watertight relief in millimeters, and the print report: size, volume, weight and faults.

The relief lies on z = 0 with its corner at the origin: x runs right, the top of the picture is at large y,
and the picture faces up. Before it is bent or drilled it is a height field with a flat back: it has no
undercut and cannot intersect itself. What the report can check on the bytes to be downloaded is checked
there, not on the arrays that they were made of.
"""

from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import trimesh
from numpy.typing import NDArray

from marigold_demo.depth import DepthMap
from marigold_demo.errors import SettingsError
from marigold_demo.geometry.bas_relief import unit_range
from marigold_demo.geometry.depth_repair import (
    debanded,
    fill_invalid,
    with_even_outlines,
    without_spots,
    without_teeth,
)
from marigold_demo.geometry.footprint import (
    DISCS,
    Footprint,
    ReliefPhoto,
    disc_footprint,
    framed_footprint,
    inner_cells,
    near_cells,
    need_photo,
    opaque_distance,
    subject_center,
    subject_footprint,
)
from marigold_demo.geometry.heightfield import (
    Heightfield,
    Leveling,
    Profile,
    filled_up,
    frame_top_mm,
    heights_from_brightness,
    heights_from_depth,
    luminance,
    make_profile,
    opaque_rgb,
    smoothed,
    spread,
    to_millimeters,
    with_photo_detail,
)
from marigold_demo.geometry.mounting import (
    KEYHOLE_DEPTH_MM,
    THINNEST_WALL_MM,
    bend,
    bend_step_mm,
    drill,
    mounting_hole,
)
from marigold_demo.geometry.rendering import MapSize, map_size
from marigold_demo.geometry.rtin import TILE, grid_size
from marigold_demo.geometry.solid import MeshCheck, Quality, Solid, build_solid, check_mesh, require_sound
from marigold_demo.io.formats import format_of
from marigold_demo.settings import STEEPEST_DEG, ReliefSettings

Grid = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Relief:
    """A relief to print.

    Attributes:
        solid: Its vertices and faces.
        field: The heights that the picture's faces follow, what is kept of them, and where they lie.
        settings: What was asked for.
        size_mm: Extent in x, y and z.
        thinnest_mm: The thinnest place between front and back.
        notes: What the visitor should know, in sentences.
    """

    solid: Solid
    field: Heightfield
    settings: ReliefSettings
    size_mm: tuple[float, float, float]
    thinnest_mm: float
    notes: tuple[str, ...]

    @property
    def heights(self) -> Grid:
        """Heights above the back: float32 [R, C] in millimeters."""
        return self.field.heights

    @property
    def footprint(self) -> Footprint:
        """Where the picture lies in x and y."""
        return self.field.footprint

    @property
    def map_size(self) -> MapSize:
        """What its height map covers."""
        return map_size(self.field, with_frame=self.settings.map_frame == "with")

    @cached_property
    def mesh(self) -> trimesh.Trimesh:
        """The solid as trimesh's type, in millimeters; not processed: vertices keep their order."""
        return trimesh.Trimesh(vertices=self.solid.vertices, faces=self.solid.faces, process=False)

    def assert_sound(self) -> None:
        """Check the solid at the precision of a 3MF file.

        Raises:
            SettingsError: It is no sound solid, so it must not be written.
        """
        require_sound(check_mesh(np.round(self.solid.vertices, 4)[self.solid.faces]))


def build_relief(depth: DepthMap, settings: ReliefSettings, *, photo: ReliefPhoto | None = None) -> Relief:
    """Build the relief of a depth map.

    Args:
        depth: Depth; values that are not finite take the value of their nearest neighbor.
        settings: Sizes, frame, mode and mesh quality.
        photo: Needed where brightness becomes height, and where transparency is cut away.

    Raises:
        SettingsError: The settings contradict each other or the picture.
        DepthFileError: The depth holds no finite value.
    """
    settings, notes = _without_needless_frame(settings)
    profile = make_profile(settings)
    width, height = depth.size if settings.source == "depth" else need_photo(photo).rgb.shape[1::-1]
    # 1. Depth on the grid, and what is kept of the picture
    size = grid_size(width, height, settings.resolution)
    values, spots = without_spots(fill_invalid(depth.values))
    values, teeth = without_teeth(values)
    if settings.slope_deg < STEEPEST_DEG:
        values = with_even_outlines(values)
    grid = smoothed(debanded(values), settings.smooth_px, size=size)
    footprint = _footprint(grid, settings, profile, picture_size=(width, height), photo=photo)
    # 2. Heights between 0 and 1, then in millimeters
    heights, leveling = _unit_heights(grid, settings, footprint.picture, size=size, photo=photo)
    notes += _notes(depth, heights, settings, spots=spots, leveling=leveling)
    if footprint.left_out:
        parts = "1 other part" if footprint.left_out == 1 else f"{footprint.left_out} other parts"
        notes += (f"{parts} of the subject left out, because a cut-out is one piece.",)
    if settings.slope_deg < STEEPEST_DEG:
        slope = np.tan(np.radians(settings.slope_deg)) / settings.relief_mm
        heights = filled_up(heights, float(slope), pitch=footprint.pitch_mm(heights[1:, 1:]))
        heights = unit_range(heights) if footprint.picture is None else spread(heights, footprint.picture)
    if teeth:
        notes += (f"{teeth} narrow teeth along contours of the depth were leveled.",)
    if settings.mode in ("engrave", "mold"):
        heights = 1 - heights
    if settings.mode in ("mold", "stamp"):  # so that the cast or print reads the right way round
        heights, footprint = heights[:, ::-1], footprint.mirrored()
    field = to_millimeters(
        heights, footprint, profile, relief_mm=settings.relief_mm, base_mm=settings.base_mm
    )
    # 3. The solid
    return _relief(field, settings, notes=notes)


def reduced(relief: Relief, *, max_faces: int) -> Relief:
    """Return the same relief with at most so many faces; the tolerance is raised as far as it takes."""
    if len(relief.solid.faces) <= max_faces:
        return relief
    return _relief(relief.field, replace(relief.settings, max_faces=max_faces), notes=relief.notes)


def _without_needless_frame(settings: ReliefSettings) -> tuple[ReliefSettings, tuple[str, ...]]:
    """Drop the frame of a cut-out, with a note."""
    if settings.cutout == "none" or settings.cutout in DISCS:
        return settings, ()
    if settings.mode == "mold":
        raise SettingsError(
            "A mold needs its rim, which a cut-out has not; choose cutout 'none' or mode 'emboss'."
        )
    if not make_profile(settings).rings:
        return settings, ()
    return replace(settings, frame="none"), ("A cut-out has no frame, so the frame was left out.",)


def _footprint(
    grid: Grid,
    settings: ReliefSettings,
    profile: Profile,
    *,
    picture_size: tuple[int, int],
    photo: ReliefPhoto | None,
) -> Footprint:
    width_mm, frame_mm = settings.width_mm, profile.width_mm
    if settings.cutout == "none":
        return framed_footprint(picture_size, width_mm=width_mm, frame_mm=frame_mm)
    if settings.cutout in DISCS:
        is_round = settings.cutout == "round"
        x, y = subject_center(grid)
        return disc_footprint(
            grid.shape,
            picture_size,
            is_round=is_round,
            width_mm=width_mm,
            frame_mm=frame_mm,
            center=(
                x if settings.center_x is None else settings.center_x,
                y if settings.center_y is None else settings.center_y,
            ),
            is_exact=settings.center_x is not None or settings.center_y is not None,
        )
    if settings.cutout == "depth":
        subject, distance = near_cells(grid, settings.cutout_depth), settings.cutout_depth - grid
    else:
        distance = opaque_distance(need_photo(photo).alpha, grid.shape)
        subject = inner_cells(distance)
    return subject_footprint(subject, picture_size, width_mm=width_mm, distance=distance)


def _unit_heights(
    grid: Grid,
    settings: ReliefSettings,
    picture: NDArray[np.bool_] | None,
    *,
    size: tuple[int, int],
    photo: ReliefPhoto | None,
) -> tuple[Grid, Leveling]:
    """Return heights float32 [R, C] in [0, 1], where 1 stands out in emboss mode, and the leveling."""
    if settings.source == "luminance":
        light = smoothed(luminance(opaque_rgb(need_photo(photo))), settings.smooth_px, size=size)
        heights = heights_from_brightness(light, contrast=settings.contrast, kept=picture)
        return heights, Leveling(0, 0)
    shares, leveling = heights_from_depth(
        grid,
        near=settings.near,
        far=settings.far,
        detail=settings.detail,
        feature_scale=settings.form_size,
        level=settings.level,
        kept=picture,
    )
    if photo is not None:
        shares = with_photo_detail(shares, photo.rgb, amount=settings.photo_detail)
        shares = shares if picture is None else spread(shares, picture)
    return shares, leveling


def _relief(field: Heightfield, settings: ReliefSettings, *, notes: tuple[str, ...]) -> Relief:
    solid = _mounted(field, settings)
    x, y, z = (float(side) for side in np.ptp(solid.vertices, axis=0))
    if settings.bend_radius_mm == 0:  # as asked, not as rounded to float32
        x, y = field.footprint.outer_mm
    return Relief(
        solid=solid,
        field=field,
        settings=settings,
        size_mm=(x, y, z),
        thinnest_mm=field.lowest_mm - (KEYHOLE_DEPTH_MM if settings.hole == "keyhole" else 0),
        notes=(*notes, *_hole_notes(field, settings), *_faces_notes(solid, settings)),
    )


def _mounted(field: Heightfield, settings: ReliefSettings) -> Solid:
    """Build the solid, bend it and drill it."""
    footprint, radius, step_mm = field.footprint, settings.bend_radius_mm, None
    across_mm = footprint.outer_mm[0]
    if radius:
        step_mm = bend_step_mm(
            radius,
            tolerance=settings.tolerance_mm,
            width=across_mm,
            thickness=field.highest_mm,
        )
    hole = None
    if settings.hole != "none":
        hole = mounting_hole(footprint, settings.hole, settings.hole_mm, frame_mm=field.profile.width_mm)
    solid = build_solid(field, Quality(settings.tolerance_mm, settings.max_faces, step_mm))
    if radius:
        solid, (x, _, back) = bend(solid, radius, anchor_x=hole.x if hole else across_mm / 2)
        hole = replace(hole, x=float(x), back=float(back)) if hole else None
    return drill(solid, hole) if hole else solid


def _notes(
    depth: DepthMap, heights: Grid, settings: ReliefSettings, *, spots: int, leveling: Leveling
) -> tuple[str, ...]:
    notes = []
    if settings.source == "depth":
        invalid = float(1 - np.isfinite(depth.values).mean())
        if invalid > 0:
            notes.append(f"{invalid:.1%} of the depth had no value and took that of the nearest pixel.")
        if spots:
            notes.append(
                f"{spots} pixels in small spots stood far out of their surroundings and were leveled."
            )
        if settings.level is None and leveling.level > 0:
            notes.append(
                f"{leveling.share:.0%} of the depth is one tilted plane, so {leveling.level:.0%} of its tilt"
                " was taken out; level 0 keeps it."
            )
    if not np.ptp(heights) > 0:
        notes.append(
            "The picture is flat between the front and the back limit, so the relief is a plain plate."
        )
    if (
        settings.mode == "mold"
        and settings.frame_top_mm is not None
        and frame_top_mm(settings) > settings.frame_top_mm
    ):
        notes.append("The rim was raised to the height of the relief, so that the mold holds the cast.")
    return tuple(notes)


def _hole_notes(field: Heightfield, settings: ReliefSettings) -> tuple[str, ...]:
    wanted = settings.hole_mm + 2 * THINNEST_WALL_MM
    if settings.hole != "through" or field.profile.width_mm >= wanted:
        return ()
    if settings.cutout not in ("none", *DISCS):
        return ("The hole goes through the picture, at the highest place that is wide enough for it.",)
    return (f"The hole cuts into the picture; a frame_mm of {wanted:g} or more keeps it outside.",)


def _faces_notes(solid: Solid, settings: ReliefSettings) -> tuple[str, ...]:
    notes = []
    if solid.tolerance_mm > settings.tolerance_mm:
        notes.append(
            f"The tolerance was raised from {settings.tolerance_mm:g} to {solid.tolerance_mm:.3g} mm"
            f" to stay under {settings.max_faces:,} triangles."
        )
    if len(solid.faces) > settings.max_faces:
        notes.append(
            f"The border of the cut-out alone takes more than {settings.max_faces:,} triangles;"
            " a lower resolution or more smoothing gives fewer."
        )
    return tuple(notes)


DENSITY = {  # g/cm3, solid
    "PLA": 1.24,
    "PETG": 1.27,
    "ABS": 1.04,
    "resin": 1.15,
    "plaster": 1.2,
    "beech": 0.72,
    "aluminum": 2.7,
}
CARVED = ("beech", "aluminum")
LARGE_BED_MM = 256.0
COMMON_BED_MM = 220.0
MANY_FACES = 1_000_000  # where PrusaSlicer and its kin suggest simplifying
SAMPLES_PER_NOZZLE = 8
WALLS = 2  # a base needs so many nozzle widths
THINNEST_RELIEF_MM = 0.4
STEEP_DEG = 80.0


@dataclass(frozen=True)
class PrintReport:
    """What there is to know before printing.

    Attributes:
        name: File name.
        file_bytes: Size of the file.
        size_mm: Extent in x, y and z.
        volume_cm3: Volume of the solid.
        weight_g: Weight in the chosen material, solid throughout.
        material: The chosen material.
        thinnest_mm: The thinnest place between front and back.
        steepest_deg: The steepest slope of the picture; 90 is a wall.
        faces: Triangles.
        tolerance_mm: Largest distance between triangles and heights.
        check: What the check of the bytes found; "soundness" in the report's JSON.
        warnings: Plain sentences.
    """

    name: str
    file_bytes: int
    size_mm: tuple[float, float, float]
    volume_cm3: float
    weight_g: float
    material: str
    thinnest_mm: float
    steepest_deg: float
    faces: int
    tolerance_mm: float
    check: MeshCheck
    warnings: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        fields = asdict(self)
        return {"soundness" if name == "check" else name: value for name, value in fields.items()}

    def lines(self) -> list[tuple[str, str]]:
        """Return what it says as pairs of label and value, in reading order."""
        x, y, z = self.size_mm
        return [
            ("File", f"{self.name}, {self.file_bytes / 1e6:.1f} MB"),
            ("Size", f"{x:.4g} × {y:.4g} × {z:.4g} mm"),
            ("Volume", f"{self.volume_cm3:.1f} cm³"),
            ("Weight", f"{self.weight_g:.0f} g in {self.material}, solid"),
            ("Thinnest place", f"{self.thinnest_mm:.2f} mm"),
            ("Steepest slope", f"{self.steepest_deg:.0f}°"),
            ("Triangles", f"{self.faces:,}"),
            ("Tolerance", f"{self.tolerance_mm * 1000:.3g} µm"),
            ("Checked on the file", _verdict(self.check)),
        ]

    def to_text(self) -> str:
        """Return the report as text for people."""
        rows = [f"{label + ':':21}{value}" for label, value in self.lines()]
        return "\n".join([*rows, *(f"Note: {warning}" for warning in self.warnings)]) + "\n"


def print_facts(relief: Relief) -> str:
    """Return size, weight and whether a common print bed holds it, in one line."""
    (x, y, z), settings = relief.mesh.extents, relief.settings
    weight_g = relief.mesh.volume / 1000 * DENSITY[settings.material]
    fits = max(x, y) <= COMMON_BED_MM and z <= COMMON_BED_MM
    bed = f"{'fits' if fits else 'larger than'} {COMMON_BED_MM:.0f} × {COMMON_BED_MM:.0f}"
    return f"{x:.3g} × {y:.3g} × {z:.2g} mm · {weight_g:.0f} g {settings.material} · {bed}"


def build_report(relief: Relief, name: str, data: bytes) -> PrintReport:
    """Check the bytes of an STL or 3MF and report on them.

    Args:
        relief: What the bytes were made from: settings, heights and notes.
        name: File name, which says by its ending what they are.
        data: The bytes to be downloaded.
    """
    check = check_mesh(format_of("relief", name).read(data))
    return PrintReport(
        name=name,
        file_bytes=len(data),
        size_mm=check.size,
        volume_cm3=check.volume / 1000,
        weight_g=check.volume / 1000 * DENSITY[relief.settings.material],
        material=relief.settings.material,
        thinnest_mm=relief.thinnest_mm,
        steepest_deg=steepest(relief),
        faces=check.faces,
        tolerance_mm=relief.solid.tolerance_mm,
        check=check,
        warnings=(*_unsound(check), *relief.notes, *_warnings(relief, check)),
    )


def steepest(relief: Relief) -> float:
    """Return the steepest slope of the picture's heights in degrees."""
    heights, picture = relief.heights, relief.footprint.picture
    if picture is not None:
        heights = np.where(picture, heights, np.float32(np.nan))  # a step to what is cut away is no slope
    rows, columns = heights.shape
    across = np.abs(np.diff(heights, axis=1)) / (relief.footprint.width_mm / (columns - 1))
    down = np.abs(np.diff(heights, axis=0)) / (relief.footprint.depth_mm / (rows - 1))
    return float(np.degrees(np.arctan(max(across[across >= 0].max(), down[down >= 0].max()))))


def _verdict(check: MeshCheck) -> str:
    if not check.solid:
        return "NOT a sound solid"
    return "watertight, consistently wound, one piece, no degenerate triangle"


def _unsound(check: MeshCheck) -> tuple[str, ...]:
    faults = {
        "a coordinate is not a number": not check.finite,
        "it is not watertight": not check.closed,
        "its faces do not agree on what is outside": not check.consistent,
        "it is inside out": not check.outward,
        f"{check.degenerate} triangles have no area": check.degenerate > 0,
        f"it is {check.bodies} pieces": check.bodies > 1,
    }
    found = [fault for fault, there in faults.items() if there]
    return (f"The file is not a sound solid: {', '.join(found)}.",) if found else ()


def _warnings(relief: Relief, check: MeshCheck) -> tuple[str, ...]:
    settings = relief.settings
    pitch = max(relief.footprint.width_mm, relief.footprint.depth_mm) / (max(relief.heights.shape) - 1)
    finest = settings.nozzle_mm / SAMPLES_PER_NOZZLE
    walls = WALLS * settings.nozzle_mm
    slope = steepest(relief)
    carved = settings.mode == "mold" or settings.material in CARVED
    sentences = {
        f"Samples lie {pitch:.2g} mm apart, far finer than a {settings.nozzle_mm:g} mm nozzle;"
        f" a resolution of {_coarser(relief, finest)} would print the same.": pitch < finest * 0.99,
        f"The thinnest place is {relief.thinnest_mm:.2f} mm, less than two walls of a"
        f" {settings.nozzle_mm:g} mm nozzle ({walls:g} mm).": relief.thinnest_mm < walls - 1e-6,
        f"A relief of {settings.relief_mm:g} mm is only a few layers high.": settings.relief_mm
        < THINNEST_RELIEF_MM,
        f"Slopes reach {slope:.0f}°: a cast or a cutter needs gentler ones, which detail 1 gives.": carved
        and slope > STEEP_DEG
        and settings.detail < 1,
        f"It is {max(check.size):.0f} mm long; many printers end at {LARGE_BED_MM:.0f} mm.": max(check.size)
        > LARGE_BED_MM,
        f"{check.faces:,} triangles make slicers slow; a larger tolerance gives fewer.": check.faces
        > MANY_FACES,
    }
    return tuple(sentence for sentence, holds in sentences.items() if holds)


def _coarser(relief: Relief, finest_mm: float) -> int:
    """Return the highest resolution that is no finer than asked."""
    longest = max(relief.footprint.width_mm, relief.footprint.depth_mm)
    return max(128, int(longest / finest_mm / TILE) * TILE)
