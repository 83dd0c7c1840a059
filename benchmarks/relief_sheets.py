"""Draw reliefs of an earlier version beside those of this one in raking light: photo, before, now.

Usage:
    python -m benchmarks.relief_sheets OUT --before FOLDER     FOLDER: a checkout of the earlier version

Both versions work at their own defaults from the same depth: that of the examples, by the embedded
checkpoint, and the exact depth of rendered scenes, which needs numba.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from marigold_demo.examples import load_examples
from marigold_demo.geometry.rendering import ramp, shade_heights
from marigold_demo.io.photo import load_photo
from marigold_demo.settings import ReliefSettings
from synthetic import render_scene

EXAMPLES = ("astronaut", "cat", "coffee", "dandelion", "raccoon", "fig")
SCENES = (("closeup", 4), ("room", 3), ("tabletop", 3), ("tabletop", 6), ("street", 3), ("closeup", 6))
PANEL = 300, 225  # width and height of a picture in pixels
GAP, PER_ROW, QUALITY = 6, 2, 76

Picture = NDArray[np.uint8]
Case = tuple[Picture, NDArray[np.float32]]  # photo [H, W, 3] and depth [H, W], 0 near .. 1 far

# Runs in the folder of a version: photo and depth in; heights, width and span in mm out.
HEIGHTS = """
import sys, numpy as np
from marigold_demo.depth import DepthMap
from marigold_demo.geometry.relief import build_relief
from marigold_demo.settings import ReliefSettings
class Photo: alpha = None
given = np.load(sys.argv[1])
Photo.rgb = given["photo"]
settings = ReliefSettings(frame="none", tolerance_mm=0.1)
relief = build_relief(DepthMap(given["depth"]), settings, photo=Photo)
np.savez(sys.argv[2], heights=relief.heights, size=[relief.size_mm[0], settings.relief_mm])
"""


def main() -> None:
    """Draw both sheets into a folder."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("--before", type=Path, required=True)
    chosen = parser.parse_args()
    chosen.out.mkdir(parents=True, exist_ok=True)
    for name, cases in (("examples", example_cases()), ("scenes", scene_cases())):
        rows = [compared(case, chosen.before) for case in cases]
        path = chosen.out / f"before_after_{name}.jpg"
        Image.fromarray(sheet(rows)).save(path, "JPEG", quality=QUALITY, optimize=True)
        print(path, path.stat().st_size // 1000, "kB")


def example_cases() -> list[Case]:
    """Return the examples that are shown."""
    cases = []
    for example in load_examples():
        depth = example.known_depth()
        if example.path.stem in EXAMPLES and depth is not None:
            cases.append((load_photo(example.path).rgb, depth.values))
    return cases


def scene_cases() -> list[Case]:
    """Render the scenes that are shown; their sky is a little behind all else."""
    cases = []
    for kind, seed in SCENES:
        scene = render_scene(seed, width=640, height=480, kind=kind)
        near, far = np.percentile(scene.depth[~scene.sky], [0.1, 99])
        cases.append((scene.photo, np.clip((scene.depth - near) / (far - near) / 1.05, 0, 1)))
    return cases


def compared(case: Case, before: Path) -> list[Picture]:
    """Return photo, relief before and relief now, all of one size."""
    photo = np.asarray(fitted(Image.fromarray(case[0])))
    return [photo, *(lit(case, folder) for folder in (before, Path.cwd()))]


def lit(case: Case, folder: Path) -> Picture:
    """Return the relief that the version in a folder makes, in raking light."""
    with tempfile.TemporaryDirectory() as place:
        given, made = Path(place) / "given.npz", Path(place) / "made.npz"
        np.savez(given, photo=case[0], depth=case[1])
        subprocess.run([sys.executable, "-c", HEIGHTS, str(given), str(made)], cwd=folder, check=True)
        with np.load(made) as found:
            heights, (width, full) = found["heights"], found["size"]
    light = shade_heights(heights, pitch=float(width) / heights.shape[1], full=float(full))
    colors = ramp(ReliefSettings())[np.round(light * 255).astype(np.uint8)]
    return np.asarray(fitted(Image.fromarray(colors)))


def fitted(picture: Image.Image) -> Image.Image:
    """Scale a picture so that it fills a panel, and keep its middle."""
    scale = max(side / own for side, own in zip(PANEL, picture.size, strict=True))
    across, down = (side / scale for side in PANEL)
    left, top = (picture.width - across) / 2, (picture.height - down) / 2
    box = left, top, left + across, top + down
    return picture.resize(PANEL, Image.Resampling.LANCZOS, box=box)


def sheet(rows: list[list[Picture]]) -> Picture:
    """Put the comparisons beside and under each other on white."""
    gap = ((0, GAP), (0, GAP), (0, 0))
    strips = [
        np.concatenate([np.pad(part, gap, constant_values=255) for part in row], axis=1) for row in rows
    ]
    lines = [np.concatenate(strips[at : at + PER_ROW], axis=1) for at in range(0, len(strips), PER_ROW)]
    return np.concatenate(lines)


if __name__ == "__main__":
    main()
