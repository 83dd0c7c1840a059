#!/usr/bin/env python3
"""Draw the pictures at the top of the README: python scripts/readme_pictures.py [FOLDER]; needs numba.

`strip.jpg` shows photo, depth and relief side by side. `photo_to_relief.gif` shows them one after the other,
and the relief as it turns. The depth is the example's own, made by the embedded checkpoint. The relief is
drawn from its triangles, in the light of the 3D preview.
"""
# ruff: noqa: E402

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter
from scipy.ndimage import map_coordinates

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.relief_pictures import rasterize, rotated
from marigold_demo import load_photo, make_relief
from marigold_demo.colormap import colorize
from marigold_demo.examples import load_examples
from marigold_demo.geometry import rendering
from marigold_demo.geometry.relief import Relief
from marigold_demo.io.mesh_files import unit_normals
from marigold_demo.settings import ReliefSettings

EXAMPLE = "astronaut"
PANEL_PX, GIF_PX = 480, 264
OVERSAMPLING = 3
FRAME_MS = 80
TURN_DEG, TILT_DEG, TURN_FRAMES = 22.0, -10.0, 16
RELIEF_COLORS = 20
UPWARD = 0.5  # what faces up more than this is in the lit picture

Picture = NDArray[np.uint8]


def main() -> None:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "docs" / "pictures"
    folder.mkdir(parents=True, exist_ok=True)
    (example,) = (found for found in load_examples() if found.path.stem == EXAMPLE)
    photo, depth = load_photo(example.path), example.known_depth()
    assert depth is not None
    framed = ReliefSettings(photo_detail=0.8, smooth_px=2.5, frame="round", frame_mm=6.0, tolerance_mm=0.005)
    plain = replace(framed, frame="none")
    rgb, colors = Image.fromarray(photo.rgb), Image.fromarray(colorize(depth.values))
    reliefs = [make_relief(depth, settings, photo=photo) for settings in (framed, plain)]

    strip = [square(rgb, PANEL_PX), square(colors, PANEL_PX), render(reliefs[0], PANEL_PX, turn=20, tilt=-16)]
    joined = Image.new("RGB", (3 * PANEL_PX, PANEL_PX))
    for number, panel in enumerate(strip):
        joined.paste(panel, (number * PANEL_PX, 0))
    for number in (1, 2):
        draw_arrow(joined, number * PANEL_PX, PANEL_PX // 2)
    joined.save(folder / "strip.jpg", quality=86, optimize=True, progressive=True)
    save_gif(folder / "photo_to_relief.gif", square(rgb, GIF_PX), square(colors, GIF_PX), reliefs[1])
    for name in ("strip.jpg", "photo_to_relief.gif"):
        print(folder / name, (folder / name).stat().st_size // 1000, "kB")


def square(picture: Image.Image, side: int) -> Image.Image:
    """Scale a picture to a square of `side` pixels; the middle is kept."""
    short = min(picture.size)
    left, top = ((length - short) // 2 for length in picture.size)
    box = (left, top, left + short, top + short)
    return picture.convert("RGB").resize((side, side), Image.Resampling.LANCZOS, box=box)


def render(
    relief: Relief, side: int, *, turn: float = 0.0, tilt: float = 0.0, fill: float = 0.88
) -> Image.Image:
    """Draw a relief on a dark ground, in the light of the 3D preview.

    Args:
        relief: The relief.
        side: Pixels of the square that is returned.
        turn: Degrees around the vertical axis.
        tilt: Degrees around the horizontal axis.
        fill: Share of the side that the longest edge takes.
    """
    vertices, faces = (np.asarray(part) for part in (relief.mesh.vertices, relief.mesh.faces))
    points = vertices @ rotated(tilt, turn).T
    large = OVERSAMPLING * side
    scale = large * fill / np.ptp(vertices[:, :2], axis=0).max()  # pixels per mm
    longest = round(np.ptp(points[:, :2], axis=0).max() * scale) + 8
    face, shares = rasterize(points, faces, longest=longest)
    colors = rendering.ramp(relief.settings)[brightness(relief, face, shares)]
    drawn, mask = Image.fromarray(colors), Image.fromarray((face >= 0).astype(np.uint8) * 255)
    canvas = Image.new("RGB", (large, large), rendering.GROUND)
    left, top = ((large - length) // 2 for length in drawn.size)
    shadow = Image.new("L", canvas.size)
    shadow.paste(mask, (left + large // 80, top + large // 60))
    canvas.paste((10, 9, 8), mask=shadow.filter(ImageFilter.GaussianBlur(large / 80)))
    canvas.paste(drawn, (left, top), mask)
    return canvas.resize((side, side), Image.Resampling.BOX)


def brightness(relief: Relief, face: NDArray[np.int64], shares: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Return how bright each pixel [H, W] is, from the face and the place on it that it shows."""
    corners = np.asarray(relief.mesh.vertices)[np.asarray(relief.mesh.faces)]  # [F, 3, 3]
    normals = unit_normals(corners.astype(np.float32))
    lit = rendering.light_piece(relief.field, relief.settings)
    place = (corners[face, :, :2] * shares[..., None]).sum(axis=2) / relief.footprint.outer_mm  # [H, W, 2]
    at = [(1 - place[..., 1]) * lit.shape[0] - 0.5, place[..., 0] * lit.shape[1] - 0.5]
    from_above = map_coordinates(lit.astype(np.float32), at, order=1, mode="nearest")
    is_wall = (face >= relief.solid.picture_faces) & (normals[face, 2] < UPWARD)
    levels = np.where(is_wall, 255 * rendering.shade(normals)[face], from_above)
    return np.round(levels).astype(np.uint8)


def draw_arrow(picture: Image.Image, x: int, y: int) -> None:
    """Draw a white disc with an arrow to the right."""
    radius, factor = 20, 4
    disc = Image.new("RGBA", (2 * radius * factor, 2 * radius * factor))
    draw = ImageDraw.Draw(disc)
    r = radius * factor
    draw.ellipse((0, 0, 2 * r - 1, 2 * r - 1), fill=(255, 255, 255, 235))
    dark, line = (*rendering.GROUND, 255), r // 6
    draw.line((0.5 * r, r, 1.42 * r, r), fill=dark, width=line)
    draw.line((1.05 * r, 0.62 * r, 1.45 * r, r, 1.05 * r, 1.38 * r), fill=dark, width=line, joint="curve")
    disc = disc.resize((2 * radius, 2 * radius), Image.Resampling.LANCZOS)
    picture.paste(disc, (x - radius, y - radius), disc)


def save_gif(path: Path, photo: Image.Image, depth: Image.Image, relief: Relief) -> None:
    """Save the animation: a slider uncovers depth, then the relief, which turns to both sides."""
    phases = np.linspace(0, 2 * np.pi, TURN_FRAMES + 1)[:-1]
    turning = [
        render(relief, GIF_PX, turn=TURN_DEG * np.sin(a), tilt=TILT_DEG * (1 - np.cos(a)) / 2, fill=1.0)
        for a in phases
    ]
    palette = common_palette([photo, depth], turning[::4])
    still = [
        picture.quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG) for picture in (photo, depth)
    ]
    moving = [picture.quantize(palette=palette, dither=Image.Dither.NONE) for picture in turning]
    frames = [still[0]] * 8
    for before, after in ((still[0], still[1]), (still[1], moving[0])):
        frames += [uncovered(before, after, share) for share in eased(14)] + [after] * 8
    frames += [*moving[1:], *[moving[0]] * 6]
    frames += [uncovered(moving[0], still[0], share) for share in eased(10)]
    frames[0].save(
        path, save_all=True, append_images=frames[1:], duration=FRAME_MS, loop=0, optimize=False, disposal=1
    )


def common_palette(pictures: list[Image.Image], reliefs: list[Image.Image]) -> Image.Image:
    """Return one palette of 256 colors for photo, depth and relief."""
    colors: list[int] = []
    for group, count in ((pictures, 254 - RELIEF_COLORS), (reliefs, RELIEF_COLORS)):
        both = np.concatenate([np.asarray(picture) for picture in group], axis=1)
        found = Image.fromarray(both).quantize(count, method=Image.Quantize.MEDIANCUT, kmeans=3).getpalette()
        assert found is not None
        colors += found[: 3 * count]
    palette = Image.new("P", (1, 1))
    palette.putpalette([*colors, 255, 255, 255, *rendering.GROUND])
    return palette


def eased(count: int) -> list[float]:
    """Return shares from 0 to 1 that begin and end slowly."""
    return [float((1 - np.cos(np.pi * (step + 0.5) / count)) / 2) for step in range(count)]


def uncovered(before: Image.Image, after: Image.Image, share: float) -> Image.Image:
    """Return `after` to the left of a slider and `before` to its right."""
    x = round(share * before.width)
    mixed = before.copy()
    mixed.paste(after.crop((0, 0, x, after.height)), (0, 0))
    draw = ImageDraw.Draw(mixed)
    draw.rectangle((x - 1, 0, x + 1, before.height), fill=254)
    middle = before.height // 2
    draw.ellipse((x - 11, middle - 11, x + 11, middle + 11), fill=254)
    for side in (-1, 1):
        draw.polygon(
            [(x + 7 * side, middle), (x + 3 * side, middle - 4), (x + 3 * side, middle + 4)], fill=255
        )
    return mixed


if __name__ == "__main__":
    main()
