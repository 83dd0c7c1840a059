"""Soundness and outlines of reliefs, measured on the bytes of their files.

Usage:
    python -m benchmarks.solids holes [--count 1000]    drilled pieces that are no sound solid, in STL and 3MF
    python -m benchmarks.solids outlines                radial spread of discs and their rims, in mm
    python -m benchmarks.solids transparent             the same of discs that hard transparency cuts out
    python -m benchmarks.solids teeth                   largest height of teeth outside a contour, in mm
    python -m benchmarks.solids turned                  share of holes in meshes turned by 20 degrees
    python -m benchmarks.solids cutter                  CNC preset: ripple of outlines in mm, steepest slope
    python -m benchmarks.solids sliced [--px 512]       presets that PrusaSlicer repairs or warns of

Each line is a name and a figure. Depth is made up here.
"""

import argparse
import io
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import scipy.ndimage
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from marigold_demo.depth import DepthMap
from marigold_demo.errors import SettingsError
from marigold_demo.examples import FOLDER as EXAMPLES
from marigold_demo.geometry.relief import Relief, build_relief
from marigold_demo.geometry.solid import check_mesh
from marigold_demo.geometry.textured_mesh import Surface, build_surface
from marigold_demo.io import export
from marigold_demo.io.mesh_files import from_stl, read_threemf
from marigold_demo.io.photo import Photo
from marigold_demo.settings import RELIEF_PRESETS, MeshSettings, ReliefSettings

SLICER = "prusa-slicer"
QUICK_SLICES = (
    *("--layer-height", "0.4", "--first-layer-height", "0.4", "--perimeters", "1"),
    *("--fill-density", "0", "--top-solid-layers", "1", "--bottom-solid-layers", "1"),
)
# What `--info` says only of files that it repairs, and what slicing warns of.
COMPLAINTS = ("edges", "facets_removed", "facets_reversed", "degenerate", "warning", "error", "empty layer")


def main() -> None:
    """Read the arguments and print the figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=[*sorted(FIGURES), "sliced"])
    parser.add_argument("--px", type=int, default=512, help="samples of a piece to slice")
    parser.add_argument("--count", type=int, default=1000, help="how many pieces")
    chosen = parser.parse_args()
    if chosen.what == "sliced":
        for name, settings in sliced_pieces().items():
            print(name, slicer_says(example_stl(replace(settings, resolution=chosen.px))) or "no complaint")
        return
    for name, value in FIGURES[chosen.what](chosen.count).items():
        print(f"{name}  {value:g}")


def holes(count: int) -> dict[str, float]:
    """Drill pieces of random depth, size, outline and diameter; count those that are not sound."""
    random = np.random.default_rng(0)
    drilled = refused = unsound_stl = unsound_threemf = 0
    while drilled < count:
        shape = tuple(random.integers(40, 160, size=2))
        settings = ReliefSettings(
            resolution=int(random.choice([128, 160, 192])),
            width_mm=float(random.choice([40, 60, 100, random.uniform(40, 200)])),
            relief_mm=float(random.uniform(1, 6)),
            frame=str(random.choice(["none", "flat", "bevel", "round"])),  # type: ignore[arg-type]
            frame_mm=float(random.uniform(1, 8)),
            cutout=str(random.choice(["none", "none", "round", "oval", "depth"])),  # type: ignore[arg-type]
            source=str(random.choice(["depth", "depth", "luminance"])),  # type: ignore[arg-type]
            base_mm=5.0,
            hole=str(random.choice(["through", "through", "keyhole"])),  # type: ignore[arg-type]
            hole_mm=float(random.choice([1, 2, 3, 4, 5, random.uniform(1, 8)])),
        )
        gray = (bumps(shape, random)[..., None].repeat(3, 2) * 255).astype(np.uint8)
        try:
            relief = build_relief(DepthMap(bumps(shape, random)), settings, photo=Photo(gray))
        except SettingsError:
            refused += 1  # no room for the hole
            continue
        drilled += 1
        unsound_stl += not check_mesh(from_stl(export.stl(relief))["corners"]).solid
        unsound_threemf += not check_mesh(read_threemf(io.BytesIO(export.threemf(relief)))).solid
    return {
        "drilled": drilled,
        "refused": refused,
        "unsound stl": unsound_stl,
        "unsound 3mf": unsound_threemf,
    }


def outlines(count: int) -> dict[str, float]:
    """Measure how far the outer walls of round discs lie from a circle, at corners and middles of edges."""
    depth = DepthMap(bumps((120, 90), np.random.default_rng(0)))
    figures = {}
    for width, resolution in ((20, 128), (40, 256), (40, 768), (100, 1024), (300, 256), (1000, 256)):
        for frame in ("none", "bevel"):
            settings = ReliefSettings(
                width_mm=width, resolution=resolution, cutout="round", frame=frame, frame_mm=width / 30
            )
            relief = build_relief(depth, settings)
            reach = np.hypot(*(_wall_points(relief) - width / 2).T)
            figures[f"{width} mm, {resolution} px, frame {frame}"] = float(np.ptp(reach))
    return figures


def _wall_points(relief: Relief) -> NDArray[np.float64]:
    """Return x and y [N, 2] of the corners and the middles of the edges of a piece's outer walls."""
    corners = from_stl(export.stl(relief))["corners"].astype(np.float64)
    height = corners[:, :, 2]
    walls = corners[(height.min(axis=1) == 0) & (height.max(axis=1) > 0)]
    middles = (walls + np.roll(walls, 1, axis=1)) / 2
    points: NDArray[np.float64] = np.concatenate([walls, middles])[:, :, :2].reshape(-1, 2)
    return points


def transparent(count: int) -> dict[str, float]:
    """Measure how far the walls of discs that hard transparency cuts out lie from a circle, at 100 mm."""
    figures = {}
    for size in (128, 400, 1000, 2000):
        y, x = np.mgrid[:size, :size]
        reach = np.hypot(x - size / 2 + 0.3, y - size / 2 - 0.2)
        photo = Photo(
            np.full((size, size, 3), 128, dtype=np.uint8),
            "disc",
            alpha=np.where(reach < 0.4 * size, 255, 0).astype(np.uint8),
        )
        depth = DepthMap((reach / size).astype(np.float32))
        for resolution in (256, 1024):
            settings = ReliefSettings(resolution=resolution, cutout="alpha", frame="none")
            points = _wall_points(build_relief(depth, settings, photo=photo))
            away = points - (points.min(axis=0) + points.max(axis=0)) / 2
            figures[f"photo of {size} px, {resolution} px"] = float(np.ptp(np.hypot(*away.T)))
    return figures


def teeth(count: int) -> dict[str, float]:
    """Compare reliefs of an oval with and without teeth, 1.5 pixels or more outside its contour."""
    y, x = np.mgrid[:300, :400].astype(np.float32)
    across, down = (x - 200) / 98, (y - 150) / 125
    reach, turn = np.hypot(across, down), np.arctan2(down, across)
    inside = 0.4 + 0.1 * reach**2
    clean = np.where(reach < 1, inside, 0.9).astype(np.float32)
    toothed = np.where((reach < 1) | ((reach < 1.06) & (np.sin(turn * 90) > 0.2)), inside, 0.9)
    away = scipy.ndimage.distance_transform_edt(clean > 0.8) > 1.5
    settings = ReliefSettings(frame="none")
    one, other = (build_relief(DepthMap(d.astype(np.float32)), settings).heights for d in (clean, toothed))
    rows, columns = (
        np.linspace(0, n - 1, m).round().astype(int) for n, m in zip((300, 400), one.shape, strict=True)
    )
    difference = np.abs(one - other)[away[rows][:, columns]]
    return {"largest difference": float(difference.max())}


def turned(count: int) -> dict[str, float]:
    """Turn the surfaces of the examples about their middle; a hole is what edges "stretch" would fill."""
    figures = {}
    for path in sorted(EXAMPLES.glob("*_depth.jp2"))[:count]:
        depth = DepthMap((np.asarray(Image.open(path)) / 65535).astype(np.float32))
        photo = Photo(np.zeros((*depth.values.shape, 3), dtype=np.uint8))
        for degrees in (-20, 20):
            whole, filled, opened = (
                covered(build_surface(depth, photo, MeshSettings(resolution=512, **choice)), degrees)
                for choice in ({"edges": "stretch"}, {}, {"behind": "open"})
            )
            name = f"{path.stem.removesuffix('_depth')}, {degrees} degrees"
            figures[f"{name}, open"] = float((whole & ~opened).sum() / whole.sum())
            figures[f"{name}, filled"] = float((whole & ~filled).sum() / whole.sum())
    return figures


def cutter(count: int) -> dict[str, float]:
    """Measure the CNC preset: heights along the outline of a disc in steps of pixels, and the steepest face.

    Ripple is what is left of the heights on a circle without their first 8 harmonics, from lowest to highest,
    on the circle where that is most. `soft` is the sigma of the disc's outline in pixels of 400.
    """
    figures = {}
    settings = replace(RELIEF_PRESETS["CNC"], tolerance_mm=0.1)
    for soft in (0.0, 1.0, 2.0):
        heights = build_relief(DepthMap(stepped_disc(soft)), settings).heights.astype(np.float64)
        figures[f"ripple in mm, soft {soft:g}"] = max(
            ripple(heights, radius) for radius in np.arange(100, 120, 0.5)
        )
    random = np.random.default_rng(0)
    rough = np.where(bumps((150, 200), random) > 0.5, 0.2, 0.9) + 0.3 * random.random((150, 200))
    for mode in ("emboss", "mold"):
        settings = replace(RELIEF_PRESETS["CNC"], resolution=512, smooth_px=0.0, mode=mode)
        corners = from_stl(
            export.stl(build_relief(DepthMap(rough.astype(np.float32)), replace(settings, frame="none")))
        )["corners"].astype(np.float64)
        normal = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
        upright = normal[:, 2] / np.linalg.norm(normal, axis=1)
        figures[f"steepest face in degrees, {mode}"] = float(
            np.degrees(np.arccos(upright[upright > 1e-4].min()))
        )
    return figures


def stepped_disc(soft: float) -> NDArray[np.float32]:
    """Return depth of a domed disc of 110 pixels, its outline in steps of pixels: float32 [300, 400]."""
    y, x = np.mgrid[:300, :400].astype(np.float64)
    reach = np.hypot(x - 199.5, y - 149.5) / 110
    inside = scipy.ndimage.gaussian_filter((reach < 1).astype(np.float64), soft)
    disc: NDArray[np.float32] = (inside * (0.3 + 0.2 * reach**2) + (1 - inside) * 0.9).astype(np.float32)
    return disc


def ripple(heights: NDArray[np.float64], radius: float) -> float:
    """Return what a circle of so many of 400 pixels has beyond its first 8 harmonics, lowest to highest."""
    rows, columns = heights.shape
    turn = np.linspace(0, 2 * np.pi, 4000, endpoint=False)
    reach = radius * (columns - 1) / 399
    place = (rows - 1) / 2 + reach * np.sin(turn), (columns - 1) / 2 + reach * np.cos(turn)
    spectrum = np.fft.rfft(scipy.ndimage.map_coordinates(heights, place, order=1))
    spectrum[:9] = 0
    return float(np.ptp(np.fft.irfft(spectrum, len(turn))))


def sliced_pieces() -> dict[str, ReliefSettings]:
    """Return the settings of one piece of each kind that is printed: all presets, and other outlines."""
    coin = RELIEF_PRESETS["coin"]
    return {
        "standard": ReliefSettings(),
        **RELIEF_PRESETS,
        "stamp": ReliefSettings(mode="stamp"),
        "mold": ReliefSettings(mode="mold", slope_deg=75.0),
        "drilled coin": replace(coin, hole="through", hole_mm=2.0, frame_mm=4.0),
        "cut-out": ReliefSettings(cutout="depth", cutout_depth=0.6),
        "bent": ReliefSettings(bend_radius_mm=60.0),
    }


def example_stl(settings: ReliefSettings) -> bytes:
    """Return the STL of a relief of bumps in those settings."""
    values = bumps((120, 160), np.random.default_rng(0))
    photo = Photo((values[..., None].repeat(3, 2) * 255).astype(np.uint8))
    return export.stl(build_relief(DepthMap(values), settings, photo=photo))


def slicer_says(stl: bytes) -> list[str]:
    """Slice an STL with PrusaSlicer and return the lines that say it was repaired, or warn.

    Raises:
        FileNotFoundError: The program is not installed.
    """
    with tempfile.TemporaryDirectory() as folder:
        path, made = Path(folder) / "piece.stl", Path(folder) / "piece.gcode"
        path.write_bytes(stl)
        lines = _slicer(path, "--info")
        if "manifold = yes" not in lines or "number_of_parts =  1" not in lines:
            return lines
        lines += _slicer(path, "--export-gcode", *QUICK_SLICES, "--output", str(made))
        if not made.exists() or "G1" not in made.read_text():
            return lines
        return [line for line in lines if any(word in line.lower() for word in COMPLAINTS)]


def _slicer(path: Path, *flags: str) -> list[str]:
    """Return the lines that PrusaSlicer prints of a file."""
    run = subprocess.run(
        [SLICER, *flags, str(path)], capture_output=True, text=True, timeout=600, check=False
    )
    return [line.strip() for line in (run.stdout + run.stderr).splitlines()]


def covered(surface: Surface, degrees: float, *, size: int = 400) -> NDArray[np.bool_]:
    """Draw the triangles of a surface that is turned about a vertical axis: bool [size, size]."""
    middle = (surface.camera.near + surface.camera.far) / 2
    x, y, z = surface.vertices.astype(np.float64).T
    turn = np.radians(degrees)
    across, away = (
        x * np.cos(turn) + (z + middle) * np.sin(turn),
        (z + middle) * np.cos(turn) - x * np.sin(turn),
    )
    distance = middle - away
    half = max(surface.camera.half_width, surface.camera.half_height) * 1.4
    pixels = np.column_stack([across, -y]) / distance[:, None] / half * (size / 2) + size / 2
    picture = Image.new("1", (size, size))
    pen = ImageDraw.Draw(picture)
    for corners in pixels[surface.faces]:
        pen.polygon(corners.ravel().tolist(), fill=1)
    return np.asarray(picture)


def bumps(shape: tuple[int, ...], random: np.random.Generator) -> NDArray[np.float32]:
    """Return smooth random forms: float32 [H, W] in [0, 1]."""
    values = scipy.ndimage.gaussian_filter(random.random(shape), min(shape) / 20)
    spread: NDArray[np.float32] = ((values - values.min()) / np.ptp(values)).astype(np.float32)
    return spread


FIGURES: dict[str, Callable[[int], dict[str, float]]] = {
    "holes": holes,
    "outlines": outlines,
    "transparent": transparent,
    "teeth": teeth,
    "cutter": cutter,
    "turned": turned,
}

if __name__ == "__main__":
    main()
