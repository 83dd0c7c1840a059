"""Draw the pictures of docs/relief.md: every one from the triangles of a file as it is downloaded.

Usage:
    python -m benchmarks.relief_pictures OUT     needs the embedded checkpoint and numba
"""

import argparse
import io
from dataclasses import replace
from pathlib import Path

import numba
import numpy as np
import trimesh
from numpy.typing import NDArray
from PIL import Image

from marigold_demo.depth import DepthMap
from marigold_demo.examples import FOLDER as EXAMPLES
from marigold_demo.geometry.relief import build_relief
from marigold_demo.geometry.rendering import FORM_STEEPER, STEEPER, cavity, ramp, shade
from marigold_demo.geometry.textured_mesh import build_surface
from marigold_demo.io import export
from marigold_demo.io.mesh_files import from_stl
from marigold_demo.io.photo import Photo, load_photo
from marigold_demo.network.checkpoint import load_pipeline
from marigold_demo.settings import RELIEF_PRESETS, DepthSettings, MeshSettings, ReliefSettings

COMPARED = ("astronaut", "cat", "coffee")
QUALITY = 82

Picture = NDArray[np.uint8]


def main() -> None:
    """Draw everything into a folder."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path)
    out = parser.parse_args().out
    photos = {name: load_photo(EXAMPLES / f"{name}.jpg") for name in COMPARED}
    depths = {name: load_pipeline("embedded")(photo, DepthSettings()) for name, photo in photos.items()}
    for name, photo in photos.items():
        draw(out / f"relief_{name}.jpg", linear_and_ours(photo, depths[name]))
    draw(out / "relief_pieces.jpg", pieces(photos["astronaut"], depths["astronaut"]))
    draw(out / "mesh_astronaut.jpg", mesh(photos["astronaut"], depths["astronaut"]))


def draw(path: Path, picture: Picture) -> None:
    """Save a JPEG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(path, "JPEG", quality=QUALITY, optimize=True)
    print(path, path.stat().st_size // 1000, "kB")


def linear_and_ours(photo: Photo, depth: DepthMap) -> Picture:
    """Photo; linear heights; ours without the photo's detail; ours."""
    longest = 330
    plain = ReliefSettings(frame="none", tolerance_mm=0.005)
    choices = [replace(plain, detail=0.0, photo_detail=0.0), replace(plain, photo_detail=0.0), plain]
    parts = [
        np.asarray(Image.fromarray(photo.rgb).resize(fitted(photo.rgb, longest), Image.Resampling.LANCZOS))
    ]
    parts += [
        clay(export.stl(build_relief(depth, chosen, photo=photo)), longest=longest) for chosen in choices
    ]
    return beside(parts)


def pieces(photo: Photo, depth: DepthMap) -> Picture:
    """A frame, a coin, a mold, a bent piece, a cut-out, a hole."""
    plain = replace(RELIEF_PRESETS["portrait"], tolerance_mm=0.02)
    choices = [
        (plain, -38.0, -24.0),
        (replace(RELIEF_PRESETS["coin"], tolerance_mm=0.01), -38.0, -24.0),
        (replace(plain, mode="mold", frame="flat"), -38.0, -24.0),
        (replace(plain, bend_radius_mm=60.0), -50.0, -24.0),
        (replace(plain, cutout="depth", cutout_depth=0.5), -38.0, -24.0),
        (replace(plain, hole="through", frame="flat", frame_mm=9.0), -38.0, -24.0),
    ]
    drawn = [
        clay(
            export.stl(build_relief(depth, chosen, photo=photo)),
            longest=380,
            tilt=tilt,
            turn=turn,
            steeper=1.0 if chosen.bend_radius_mm else STEEPER + FORM_STEEPER,  # a bend is steep enough
        )
        for chosen, tilt, turn in choices
    ]
    square = [
        beside([part, np.zeros((1, 390, 3), dtype=np.uint8) + 255], height=390)[:, :390] for part in drawn
    ]
    return np.concatenate([np.concatenate(square[:3], axis=1), np.concatenate(square[3:], axis=1)])


def mesh(photo: Photo, depth: DepthMap) -> Picture:
    """The textured mesh as a viewer shows it, turned around its middle."""
    surface = build_surface(depth, photo, MeshSettings())
    found = trimesh.load_mesh(io.BytesIO(export.glb(surface)), file_type="glb", process=False)
    texture = np.asarray(found.visual.material.baseColorTexture.convert("RGB"))
    uv = np.asarray(found.visual.uv) * [1, -1] + [0, 1]
    vertices, faces = np.asarray(found.vertices), np.asarray(found.faces)
    return beside([paint(vertices, faces, uv=uv, texture=texture, turn=turn) for turn in (-14.0, 0.0, 14.0)])


def clay(
    stl: bytes, *, longest: int, tilt: float = 0.0, turn: float = 0.0, steeper: float = STEEPER + FORM_STEEPER
) -> Picture:
    """Shade the triangles of an STL as the page does; hollows are darker where it is seen from above."""
    corners = from_stl(stl)["corners"].astype(np.float64)
    rotation = rotated(tilt, turn)
    points = corners.reshape(-1, 3) @ rotation.T
    faces = np.arange(len(points)).reshape(-1, 3)
    face, shares = rasterize(points, faces, longest=longest * 2)
    edges = corners[:, 1:] - corners[:, :1]
    normals = np.cross(edges[:, 0], edges[:, 1])  # the light comes along when the piece is turned
    normals[:, :2] *= steeper
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    hollows: NDArray[np.float32] | float = 0.0
    if tilt == turn == 0:
        heights = (points[faces[face], 2] * shares).sum(axis=2).astype(np.float32)  # [H, W] in mm
        heights[face < 0] = heights[face >= 0].min()
        hollows = cavity(heights, full=float(np.ptp(heights)))
    colors = ramp(ReliefSettings())[
        np.round(shade(normals[face].astype(np.float32), hollows) * 255).astype(np.uint8)
    ]
    return halved(np.where((face >= 0)[..., None], colors, 255).astype(np.uint8))


def paint(
    vertices: NDArray[np.float64],
    faces: NDArray[np.int64],
    *,
    uv: NDArray[np.float64],
    texture: Picture,
    turn: float,
) -> Picture:
    """Show a textured surface."""
    middle = np.array([0, 0, (vertices[:, 2].min() + vertices[:, 2].max()) / 2])
    points = (vertices - middle) @ rotated(4.0, turn).T + middle
    points[:, :2] /= -points[:, 2:]
    face, shares = rasterize(points, faces, longest=740)
    place = (uv[faces[face]] * shares[..., None]).sum(axis=2)
    height, width = texture.shape[:2]
    x, y = (np.clip(place[..., k] * side, 0, side - 1).astype(int) for k, side in ((0, width), (1, height)))
    return halved(np.where((face >= 0)[..., None], texture[y, x], 255).astype(np.uint8))


def rotated(tilt: float, turn: float) -> NDArray[np.float64]:
    """Return the rotation by tilt around x after turn around y, in degrees."""
    a, b = np.radians(tilt), np.radians(turn)
    around_x = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    around_y = np.array([[np.cos(b), 0, np.sin(b)], [0, 1, 0], [-np.sin(b), 0, np.cos(b)]])
    return around_x @ around_y


def rasterize(
    points: NDArray[np.float64], faces: NDArray[np.int64], *, longest: int
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Find the nearest face at every pixel: faces [H, W] and shares of its corners [H, W, 3]."""
    low, high = points.min(axis=0), points.max(axis=0)
    scale = (longest - 8) / max(high[0] - low[0], high[1] - low[1])
    width, height = (int(np.ceil((high[k] - low[k]) * scale)) + 8 for k in (0, 1))
    screen = np.column_stack(
        [(points[:, 0] - low[0]) * scale + 4, (high[1] - points[:, 1]) * scale + 4, points[:, 2]]
    )
    face = np.full((height, width), -1, dtype=np.int64)
    shares = np.zeros((height, width, 3))
    _fill(screen, faces.astype(np.int64), face, shares)
    return face, shares


@numba.njit
def _fill(
    screen: NDArray[np.float64],
    faces: NDArray[np.int64],
    found: NDArray[np.int64],
    shares: NDArray[np.float64],
) -> None:
    height, width = found.shape
    depth = np.full((height, width), -np.inf)
    for f in range(len(faces)):
        a, b, c = screen[faces[f, 0]], screen[faces[f, 1]], screen[faces[f, 2]]
        total = (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])
        if total == 0:
            continue
        for y in range(max(0, int(min(a[1], b[1], c[1]))), min(height, int(max(a[1], b[1], c[1])) + 2)):
            for x in range(max(0, int(min(a[0], b[0], c[0]))), min(width, int(max(a[0], b[0], c[0])) + 2)):
                v = ((x - a[0]) * (c[1] - a[1]) - (y - a[1]) * (c[0] - a[0])) / total
                w = ((b[0] - a[0]) * (y - a[1]) - (b[1] - a[1]) * (x - a[0])) / total
                if v < -1e-9 or w < -1e-9 or v + w > 1 + 1e-9:
                    continue
                z = a[2] + v * (b[2] - a[2]) + w * (c[2] - a[2])
                if z > depth[y, x]:
                    depth[y, x] = z
                    found[y, x] = f
                    shares[y, x, 0], shares[y, x, 1], shares[y, x, 2] = 1 - v - w, v, w


def fitted(rgb: Picture, longest: int) -> tuple[int, int]:
    """Return width and height with the long side so many pixels."""
    height, width = rgb.shape[:2]
    return round(width * longest / max(width, height)), round(height * longest / max(width, height))


def halved(picture: Picture) -> Picture:
    """Average 2 x 2 pixels."""
    height, width = picture.shape[0] // 2 * 2, picture.shape[1] // 2 * 2
    blocks = picture[:height, :width].reshape(height // 2, 2, width // 2, 2, 3)
    return blocks.mean(axis=(1, 3)).astype(np.uint8)


def beside(parts: list[Picture], *, height: int | None = None, gap: int = 8) -> Picture:
    """Put pictures side by side on white."""
    height = height or max(part.shape[0] for part in parts)
    width = max(part.shape[1] for part in parts)
    placed = []
    for part in parts:
        above, left = (height - part.shape[0]) // 2, (width - part.shape[1]) // 2
        room = (above, height - part.shape[0] - above), (left, width - part.shape[1] - left + gap), (0, 0)
        placed.append(np.pad(part, room, constant_values=255))
    return np.concatenate(placed, axis=1)


if __name__ == "__main__":
    main()
