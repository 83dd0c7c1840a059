"""Measure what `photo_detail` adds to a relief, on drawn scenes whose shading and paint are known.

Usage:
    python -m benchmarks.photo_detail [--before FOLDER]     FOLDER: a checkout of an earlier version

- shading: correlation of the added heights with the scene's true shading, without forms coarser than 1.5 % of
  the long side, which are left to depth.
- paint: energy of the added heights within 3 of 512 pixels of the edges of paint; that of the form alone, in
  one color, is in brackets.
- stripe: deepest groove of black stripes (0.4 to 20 % of the long side) on a white board, as a share of
  `relief_mm`, where the amount is the default and where it is 1.

Scenes are five forms (folds, pebbles, a face, carving, wrinkles) in four paints (patches in color, patches in
gray, stripes, spots) and in one color, 512 x 384 pixels, lit from the upper left, sRGB with noise.
"""

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import scipy.ndimage
from numpy.typing import NDArray

from marigold_demo.settings import ReliefSettings

ROWS, COLUMNS = 384, 512
LIGHT = np.array([-0.5, -0.6, 0.63]) / np.linalg.norm([-0.5, -0.6, 0.63])  # from the upper left; y runs down
AMBIENT = 0.25
COARSE = 0.015 * COLUMNS  # sigma of what is left to depth
BESIDE_PAINT = 3  # pixels on both sides of an edge of paint
NOISE = 1.5 / 255
STRIPES = (2, 4, 8, 16, 32, 64, 100)  # widths in pixels
WEIGHT = 0.4 + 0.6 * 0.5  # of detail on a board half as high as the relief; 1 at the top

Plane = NDArray[np.float64]
Grid = NDArray[np.float32]
Picture = NDArray[np.uint8]

# Runs in the folder of an earlier version: photos in, added heights out.
ADDED = """
import sys, numpy as np
try:
    from marigold_demo.geometry.heightfield import with_photo_detail
except ImportError:
    from marigold_demo.geometry.photo_detail import with_photo_detail
photos = np.load(sys.argv[1])
rows, columns = photos.shape[1:3]
board = np.full((rows, columns), 0.5, np.float32)
board[0], board[-1] = 0, 1  # so that the heights between keep their scale
amount = float(sys.argv[3])
made = [with_photo_detail(board, photo, amount=amount) - board for photo in photos]
np.save(sys.argv[2], np.array(made, dtype=np.float32))
"""


@dataclass(frozen=True, eq=False)
class Scene:
    """A drawn photo of known shading.

    Attributes:
        form, paint: What it shows.
        rgb: uint8 [H, W, 3].
        shading: True light on it without forms that are left to depth, float64 [H, W].
        beside_paint: bool [H, W], near edges of paint.
    """

    form: str
    paint: str
    rgb: Picture
    shading: Plane
    beside_paint: NDArray[np.bool_]


def main() -> None:
    """Read the arguments and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--before", type=Path, help="a checkout of an earlier version")
    before = parser.parse_args().before
    for name, folder in (("before", before), ("now", Path.cwd())):
        if folder is not None:
            print(f"{name}:")
            report(folder)


def report(folder: Path) -> None:
    """Print the figures of the version in a folder."""
    scenes = draw_scenes()
    made = added([scene.rgb for scene in scenes], folder, amount=1.0)
    of_form = {scene.form: grid for scene, grid in zip(scenes, made, strict=True) if scene.paint == "none"}
    figures: dict[str, list[tuple[float, float, float]]] = {}
    for scene, grid in zip(scenes, made, strict=True):
        fit = float(np.corrcoef(grid.ravel(), scene.shading.ravel())[0, 1])
        near = scene.beside_paint
        energy, alone = (
            float((g[near] ** 2).mean()) if near.any() else 0.0 for g in (grid, of_form[scene.form])
        )
        for group in (scene.paint, *(["all paints"] if near.any() else [])):
            figures.setdefault(group, []).append((fit, energy, alone))
    for group, values in figures.items():
        fit, energy, alone = np.mean(values, axis=0)
        print(f"  {group:17} shading {fit:.2f}  paint {1e4 * energy:6.2f} ({1e4 * alone:.2f})")
    for amount in (ReliefSettings().photo_detail, 1.0):
        grooves = [float(np.ptp(grid[4:-4], axis=1).max()) for grid in added(boards(), folder, amount=amount)]
        print(f"  stripe at {amount:g}: {max(grooves):.3f}")


def added(photos: list[Picture], folder: Path, *, amount: float) -> Grid:
    """Return what a version adds to the highest places: float32 [N, H, W], shares of the relief."""
    with tempfile.TemporaryDirectory() as place:
        given, made = Path(place) / "photos.npy", Path(place) / "added.npy"
        np.save(given, np.array(photos))
        subprocess.run(
            [sys.executable, "-c", ADDED, str(given), str(made), str(amount)], cwd=folder, check=True
        )
        grids: Grid = np.load(made)
    return (grids - np.median(grids, axis=(1, 2), keepdims=True)) / np.float32(WEIGHT)


def draw_scenes(forms: Iterable[str] | None = None) -> list[Scene]:
    """Draw every form, or those that are named, in every paint."""
    scenes = []
    for number, form in enumerate(forms or FORMS):
        shading = lit(FORMS[form](np.random.default_rng(number)))
        target = shading - scipy.ndimage.gaussian_filter(shading, COARSE)
        for paint, albedo in PAINTS.items():
            random = np.random.default_rng([number, len(paint)])
            colors = albedo(random)
            steps = sum(np.abs(np.diff(colors, axis=axis, append=colors.take([-1], axis))) for axis in (0, 1))
            edge = np.max(steps, axis=2) > 0.02
            near = scipy.ndimage.binary_dilation(edge, iterations=BESIDE_PAINT)
            light = colors * shading[..., None]
            coded = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light.clip(1e-9) ** (1 / 2.4) - 0.055)
            noisy = coded + random.normal(0, NOISE, coded.shape)
            rgb = (np.clip(noisy, 0, 1) * 255).round().astype(np.uint8)
            scenes.append(Scene(form, paint, rgb, target, near))
    return scenes


def boards() -> list[Picture]:
    """Draw white boards with a black stripe each."""
    made = []
    for width in STRIPES:
        board = np.full((ROWS, COLUMNS, 3), 255, dtype=np.uint8)
        board[:, COLUMNS // 2 - width // 2 : COLUMNS // 2 - width // 2 + width] = 0
        made.append(board)
    return made


def lit(height: Plane) -> Plane:
    """Return ambient and Lambert shading [H, W] of heights in pixels."""
    down, across = np.gradient(height)
    lambert = (LIGHT[2] - across * LIGHT[0] - down * LIGHT[1]) / np.sqrt(across**2 + down**2 + 1)
    return AMBIENT + (1 - AMBIENT) * np.clip(lambert, 0, 1)


def plane() -> tuple[Plane, Plane]:
    """Return rows and columns, float64 [H, W]."""
    y, x = np.mgrid[:ROWS, :COLUMNS].astype(np.float64)
    return y, x


def waves(random: np.random.Generator, size: float) -> Plane:
    """Return smooth noise [H, W] of unit variance with features of so many pixels."""
    made = scipy.ndimage.gaussian_filter(random.standard_normal((ROWS, COLUMNS)), size, mode="wrap")
    return np.asarray(made / made.std())


def folds(random: np.random.Generator) -> Plane:
    """Cloth that hangs in folds."""
    y, x = plane()
    bent = x + 14 * waves(random, 40) + 0.15 * y
    return 5 * np.sin(bent / 7) + 9 * np.sin(bent / 15 + 2 * waves(random, 60))


def pebbles(random: np.random.Generator) -> Plane:
    """Half-sunk balls of several sizes."""
    y, x = plane()
    height = np.zeros((ROWS, COLUMNS))
    for _ in range(160):
        radius = random.uniform(8, 28)
        away = ((x - random.uniform(0, COLUMNS)) ** 2 + (y - random.uniform(0, ROWS)) ** 2) / radius**2
        np.maximum(height, 0.7 * radius * np.sqrt(np.clip(1 - away, 0, None)), out=height)
    return scipy.ndimage.gaussian_filter(height, 1)


def face(random: np.random.Generator) -> Plane:
    """A head with nose, eyes and mouth."""
    y, x = plane()
    u, v = (x - COLUMNS / 2) / 130, (y - ROWS / 2) / 170
    height = 110 * np.sqrt(np.clip(1 - u**2 - v**2, 0, None))
    for across, down, wide, tall, size in (
        (0, 0.05, 0.09, 0.22, 26),
        (0, 0.22, 0.14, 0.07, 14),
        (-0.36, -0.14, 0.15, 0.08, -12),
        (0.36, -0.14, 0.15, 0.08, -12),
        (-0.36, -0.14, 0.09, 0.06, 9),
        (0.36, -0.14, 0.09, 0.06, 9),
        (0, 0.43, 0.26, 0.025, -6),
        (0, 0.4, 0.24, 0.04, 6),
        (0, 0.48, 0.2, 0.04, 7),
    ):
        height += size * np.exp(-(((u - across) / wide) ** 2) - ((v - down) / tall) ** 2)
    return scipy.ndimage.gaussian_filter(height, 1.5) + 0.25 * waves(random, 3)


def carving(random: np.random.Generator) -> Plane:
    """Stone that is worked at every size."""
    return 1.2 * waves(random, 3) + 3 * waves(random, 7) + 8 * waves(random, 18)


def wrinkles(random: np.random.Generator) -> Plane:
    """Shallow creases over broad forms."""
    crease = np.abs(waves(random, 14))
    return 14 * waves(random, 40) - 3 * np.exp(-((crease / 0.12) ** 2))


def patches(random: np.random.Generator, *, is_gray: bool = False) -> Plane:
    """Return colors [H, W, 3] in some 40 patches, each of one color."""
    y, x = plane()
    middles = random.uniform(0, 1, (40, 2)) * (ROWS, COLUMNS)
    nearest = ((y[..., None] - middles[:, 0]) ** 2 + (x[..., None] - middles[:, 1]) ** 2).argmin(axis=-1)
    colors = random.uniform(0.12, 0.9, (40, 1 if is_gray else 3)).repeat(3 if is_gray else 1, axis=1)
    return np.asarray(colors[nearest])


def striped(random: np.random.Generator) -> Plane:
    """Return dark stripes on a light ground."""
    y, x = plane()
    turn = random.uniform(0, np.pi)
    is_dark = np.sin((x * np.cos(turn) + y * np.sin(turn)) / random.uniform(5, 8)) > 0.2
    dark, light = random.uniform(0.05, 0.15, 3), random.uniform(0.75, 0.9, 3)
    return np.where(is_dark[..., None], dark, light)


def spotted(random: np.random.Generator) -> Plane:
    """Return colored spots on a colored ground."""
    y, x = plane()
    colors = np.broadcast_to(random.uniform(0.3, 0.9, 3), (ROWS, COLUMNS, 3)).copy()
    for _ in range(120):
        away = (x - random.uniform(0, COLUMNS)) ** 2 + (y - random.uniform(0, ROWS)) ** 2
        colors[away < random.uniform(3, 14) ** 2] = random.uniform(0.1, 0.9, 3)
    return colors


FORMS: dict[str, Callable[[np.random.Generator], Plane]] = {
    "folds": folds,
    "pebbles": pebbles,
    "face": face,
    "carving": carving,
    "wrinkles": wrinkles,
}
PAINTS: dict[str, Callable[[np.random.Generator], Plane]] = {
    "none": lambda random: np.full((ROWS, COLUMNS, 3), 0.7),
    "patches in color": patches,
    "patches in gray": lambda random: patches(random, is_gray=True),
    "stripes": striped,
    "spots": spotted,
}

if __name__ == "__main__":
    main()
