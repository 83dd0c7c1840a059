"""The print report: size, volume, weight and faults of a relief's file.

What can be checked on the bytes to be downloaded is checked there, not on the arrays that they were made of.
"""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from marigold_demo.geometry.mesh_check import MeshCheck, check_mesh
from marigold_demo.geometry.relief import Relief
from marigold_demo.geometry.rtin import TILE
from marigold_demo.io.formats import format_of

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
