"""Depth, reliefs and surfaces into bytes of files, and bytes into a folder.

Every function but `save` is pure. Names carry what a file holds, and size and unit where there are any.
"""

import io
import math
import os
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import trimesh
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from trimesh.exchange.ply import export_ply

from marigold_demo import __version__
from marigold_demo.depth import DepthMap
from marigold_demo.geometry import rendering
from marigold_demo.geometry.relief import Relief, reduced
from marigold_demo.geometry.rendering import from_the_eye, height_map
from marigold_demo.geometry.rtin import compact
from marigold_demo.geometry.textured_mesh import Camera, Surface
from marigold_demo.io.mesh_files import (
    GlbMesh,
    GlbScene,
    smooth_normals,
    to_glb,
    to_stl,
    to_threemf,
    to_zip,
    unit_normals,
)
from marigold_demo.recipe import HIGH_KEY, KEY, NEAR_KEY, Recipe

PART_PREFIX, PART_SUFFIX = ".marigold-demo-", ".part"  # of a file before it takes its name
JPEG_QUALITY = 92
PNG_LEVEL = 3  # higher levels take longer and save little
MTL = "newmtl {material}\nKa 1 1 1\nKd 1 1 1\nKs 0 0 0\nillum 1\nmap_Kd {picture}\n"
UNLIT = "KHR_materials_unlit"
PREVIEW_FACES = 200_000
THUMBNAIL_PX = 256
PICTURE_PX = 1600
PREVIEW_BYTES = 8_000_000
WHITE_ROWS = 16  # of the texture of a relief, where the colors of its walls are
WHITE_UV = (0.5, 1.0)
UPWARD = 0.5  # what faces up more than this is in the lit picture


def stl(relief: Relief) -> bytes:
    """Return a binary STL in millimeters, Z up, with face normals."""
    return to_stl(relief.solid.vertices, relief.solid.faces)


def threemf(relief: Relief, *, recipe: Recipe | None = None, stem: str = "Relief") -> bytes:
    """Return a 3MF with the unit millimeter, the recipe, a thumbnail, and the stem as the object's name."""
    metadata = {
        "Application": f"Marigold Demo {__version__}",
        "Title": "Relief",
        "Description": _size(relief),
    }
    metadata[f"demo:{KEY}"] = _filled(recipe, relief=relief).to_json()
    return to_threemf(
        relief.solid.vertices,
        relief.solid.faces,
        metadata=metadata,
        name="".join(letter for letter in stem if letter.isprintable()),
        thumbnail=_thumbnail(relief),
    )


def relief_png(relief: Relief, *, recipe: Recipe | None = None) -> bytes:
    """Return the whole piece in raking light, or a lithophane before a lamp, as PNG of 1600 pixels."""
    levels = rendering.scaled(rendering.light_piece(relief.field, relief.settings), PICTURE_PX)
    text = _text(_filled(recipe, relief=relief))
    return _png(levels, palette=rendering.ramp(relief.settings), text=text)


def _thumbnail(relief: Relief) -> bytes:
    levels = rendering.scaled(rendering.light_piece(relief.field, relief.settings), THUMBNAIL_PX)
    return _png(rendering.ramp(relief.settings)[levels])


def obj(relief: Relief) -> bytes:
    """Return an OBJ; its unit is the millimeter, which only its comment says."""
    return _obj(relief.mesh, comment=_size(relief), digits=4)


def ply(relief: Relief) -> bytes:
    """Return a binary PLY that stands upright; its unit is the millimeter, which only its comment says."""
    mesh = trimesh.Trimesh(_upright(relief.solid.vertices), relief.solid.faces, process=False)
    return _ply(mesh, comment=f"{_size(relief)}; Z up")


def preview_glb(relief: Relief, *, recipe: Recipe | None = None, longest: float | None = None) -> bytes:
    """Return a light GLB for the screen that faces the viewer, with its own light in its colors.

    Args:
        relief: The relief.
        recipe: What it was made with.
        longest: Length of its longest side, for a viewer whose camera stays; None: in meters as glTF wants.
    """
    scene = GlbScene(name="relief", extensions=(UNLIT,), extras=_extras(_filled(recipe, relief=relief)))
    light = reduced(relief, max_faces=PREVIEW_FACES)
    scale = 1e-3 if longest is None else longest / max(relief.size_mm)
    data = to_glb(_preview(light, scale, closed=True), scene)
    if len(data) > PREVIEW_BYTES:  # a border so ragged that its walls weigh more than the picture
        data = to_glb(_preview(light, scale, closed=False), scene)
    return data


def _preview(relief: Relief, scale: float, *, closed: bool) -> GlbMesh:
    """Dress what faces up in the lit picture, and color the rest face by face."""
    solid, settings = relief.solid, relief.settings
    count = len(solid.faces) if closed else solid.picture_faces
    corners = solid.vertices[solid.faces[:count]]
    normals = unit_normals(corners)  # [F, 3]
    dressed = normals[:, 2] > UPWARD
    dressed[: solid.picture_faces] = True
    used, faces = compact(solid.faces[:count][dressed], len(solid.vertices))
    walls = corners[~dressed].reshape(-1, 3)  # each face its own vertices, because they have sharp edges
    middle = np.array(relief.size_mm, dtype=np.float32) / 2
    points = np.concatenate([solid.vertices[used], walls])
    texture, uv = _dress(relief, solid.flat_xy[used])
    bright = np.round(255 * rendering.shade(normals[~dressed])).astype(np.uint8)
    if settings.source == "luminance":
        bright[:] = rendering.DIM
    linear = np.append(
        rendering.ramp(settings)[bright].astype(np.float64) / 255, np.ones((len(bright), 1)), 1
    )
    colors = np.repeat(np.round(255 * linear**rendering.GAMMA).astype(np.uint8), 3, axis=0)
    return GlbMesh(
        positions=((points - middle) * np.float32(scale)).astype(np.float32),
        faces=np.concatenate([faces, np.arange(len(used), len(points), dtype=np.int32).reshape(-1, 3)]),
        uv=np.concatenate([uv, np.full((len(walls), 2), WHITE_UV, dtype=np.float32)]),
        colors=np.concatenate([np.full((len(used), 4), 255, dtype=np.uint8), colors]),
        jpeg=jpeg(texture),
        material=_photo_material(name="relief", unlit=True),
    )


def _dress(relief: Relief, places: NDArray[np.float32]) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Return the lit picture over white rows, uint8 [H, W, 3], and where in it places [V, 2] in mm are."""
    lit = rendering.colored_piece(relief.field, relief.settings)
    rows = len(lit)
    below = 2 * WHITE_ROWS - rows % WHITE_ROWS  # a whole block of the JPEG is white, and none is mixed
    texture = np.pad(lit, ((0, below), (0, 0), (0, 0)), mode="edge")
    texture[-WHITE_ROWS:] = 255
    width, depth = relief.footprint.outer_mm
    uv = np.clip(places / np.array([width, depth], dtype=np.float32), 0, 1)
    return texture, np.column_stack([uv[:, 0], (1 - uv[:, 1]) * np.float32(rows / len(texture))])


def glb(surface: Surface, *, recipe: Recipe | None = None) -> bytes:
    """Return a GLB with the photo as texture; unlit, because the photo holds its own light, or lit."""
    scene = GlbScene(
        name="mesh",
        camera=_lens(surface.camera),
        extensions=_extensions(surface),
        extras=_extras(_filled(recipe, surface=surface)),
    )
    return to_glb(_dressed_in_photo(surface, surface.vertices, surface.uv), scene)


def eye_glb(surface: Surface, *, aspect: float) -> bytes:
    """Return a GLB for the screen that a viewer of this aspect shows as the photo saw it; see `rendering`."""
    placed = from_the_eye(surface, aspect=aspect)
    uv = np.append(surface.uv, np.zeros((2, 2), dtype=np.float32), axis=0)
    scene = GlbScene(name="mesh", extensions=_extensions(surface))
    return to_glb(_dressed_in_photo(surface, placed, uv), scene)


def _dressed_in_photo(surface: Surface, positions: NDArray[np.float32], uv: NDArray[np.float32]) -> GlbMesh:
    lit = surface.settings.shading == "lit"
    return GlbMesh(
        positions=positions,
        faces=surface.faces,
        uv=uv,
        jpeg=jpeg(surface.texture),
        normals=smooth_normals(positions, surface.faces) if lit else None,
        material=_photo_material(name="photo", unlit=not lit) | {"doubleSided": True},
    )


def _extensions(surface: Surface) -> tuple[str, ...]:
    return () if surface.settings.shading == "lit" else (UNLIT,)


def _photo_material(*, name: str, unlit: bool) -> dict[str, object]:
    surface = {"baseColorTexture": {"index": 0}, "metallicFactor": 0.0, "roughnessFactor": 1.0}
    material: dict[str, object] = {"name": name, "pbrMetallicRoughness": surface}
    return material | {"extensions": {UNLIT: {}}} if unlit else material


def obj_zip(surface: Surface, *, stem: str) -> bytes:
    """Return OBJ, MTL and JPEG of one stem in a ZIP."""
    digits = max(6, 5 - math.floor(math.log10(surface.camera.near)))  # six that count, however near it is
    text = _obj(surface.mesh, comment=surface.scale_note, digits=digits, mtl_name=f"{stem}.mtl")
    mtl = MTL.format(material=surface.mesh.visual.material.name, picture=f"{stem}.jpg").encode()
    return to_zip({f"{stem}.obj": text, f"{stem}.mtl": mtl, f"{stem}.jpg": jpeg(surface.texture)})


def colored_ply(surface: Surface, *, points: bool = False) -> bytes:
    """Return a binary PLY with the photo's colors, Z up, as triangles or as points alone."""
    height, width = surface.texture.shape[:2]
    x = np.minimum((surface.uv[:, 0] * width).astype(np.int32), width - 1)
    y = np.minimum((surface.uv[:, 1] * height).astype(np.int32), height - 1)
    colors = surface.texture[y, x]  # [V, 3]
    vertices = _upright(surface.vertices)
    colored = (
        trimesh.PointCloud(vertices, colors=colors)
        if points
        else trimesh.Trimesh(vertices, surface.faces, vertex_colors=colors, process=False)
    )
    return _ply(colored, comment=f"{surface.scale_note} Z up")


def depth_npy(depth: DepthMap, *, invert: bool = False) -> bytes:
    """Return depth as .npy: float32 [H, W], 0 near .. 1 far; inverted 1 near .. 0 far."""
    buffer = io.BytesIO()
    values = np.float32(1) - depth.values if invert else depth.values
    np.save(buffer, values, allow_pickle=False)
    return buffer.getvalue()


def depth_png16(depth: DepthMap, *, recipe: Recipe | None = None, invert: bool = False) -> bytes:
    """Return depth as 16-bit gray PNG, 0 near .. 65535 far; inverted the other way round, and it says so.

    By its recipe the file is known again.
    """
    levels, text = depth.to_uint16(), _text(recipe or Recipe())
    if invert:
        levels, text = np.uint16(65535) - levels, text | {NEAR_KEY: "white"}
    return _png(levels, text=text)


def heightmap_png(relief: Relief, *, recipe: Recipe | None = None) -> bytes:
    """Return the heights as 16-bit gray PNG with square pixels; its text and its pixels per inch give sizes.

    The lowest point is 0 and the highest 65535, or the other way round where dark is high.
    """
    size, settings = relief.map_size, relief.settings
    heights = height_map(relief.field, with_frame=settings.map_frame == "with").astype(np.float64)
    levels = np.round((heights - size.low) / max(size.span, 1e-12) * 65535).astype(np.uint16)
    if settings.map_high == "dark":
        levels = np.uint16(65535) - levels
    black, white = ("highest", "lowest") if settings.map_high == "dark" else ("lowest", "highest")
    about = {
        "Title": "Height map",
        "Description": f"{size.width:.5g} x {size.depth:.5g} mm, {size.span:.5g} mm from the lowest to the"
        f" highest level; black is {black}, white is {white}; {settings.map_frame} frame",
        "Width-mm": f"{size.width:.6g}",
        "Height-mm": f"{size.depth:.6g}",
        "Span-mm": f"{size.span:.6g}",
        HIGH_KEY: settings.map_high,
    }
    rows, columns = heights.shape
    per_inch = 25.4 * max(rows, columns) / max(size.width, size.depth)
    text = about | _text(_filled(recipe, relief=relief))
    return _png(levels, per_inch=(per_inch, per_inch), text=text)


def png(rgb: NDArray[np.uint8], *, recipe: Recipe | None = None) -> bytes:
    """Return a picture [H, W, 3] as PNG."""
    return _png(rgb, text=_text(recipe))


def jpeg(rgb: NDArray[np.uint8]) -> bytes:
    """Return a picture uint8 [H, W, 3] as JPEG."""
    buffer = io.BytesIO()
    Image.fromarray(rgb).save(buffer, "JPEG", quality=JPEG_QUALITY)
    return buffer.getvalue()


def save(folder: Path | str, name: str, data: bytes) -> Path:
    """Write a file into a folder, which is made where it is missing; never leaves half a file.

    Raises:
        ValueError: The name is not a plain file name.
    """
    if name != Path(name).name or name in ("", ".", ".."):
        raise ValueError(f"{name!r} is not a plain file name")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    handle, beside = tempfile.mkstemp(dir=folder, prefix=PART_PREFIX, suffix=PART_SUFFIX)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        os.chmod(beside, 0o644)  # mkstemp makes a private file
        os.replace(beside, folder / name)
    except BaseException:
        Path(beside).unlink(missing_ok=True)
        raise
    return folder / name


def _png(
    pixels: NDArray[np.uint8] | NDArray[np.uint16],
    *,
    per_inch: tuple[float, float] | None = None,
    text: Mapping[str, str] | None = None,
    palette: NDArray[np.uint8] | None = None,
) -> bytes:
    """Return a PNG.

    Args:
        pixels: uint8 [H, W, 3], uint8 [H, W] or uint16 [H, W].
        per_inch: Pixels per inch across and down.
        text: Latin-1 text by keyword.
        palette: Colors uint8 [256, 3] of the pixels uint8 [H, W].
    """
    about = PngInfo()
    for name, value in (text or {}).items():
        about.add_text(name, value)
    buffer = io.BytesIO()
    density = {} if per_inch is None else {"dpi": per_inch}
    picture = Image.fromarray(pixels)
    if palette is not None:
        picture.putpalette(palette.tobytes())
    picture.save(buffer, "PNG", compress_level=PNG_LEVEL, pnginfo=about, **density)
    return buffer.getvalue()


def _obj(mesh: trimesh.Trimesh, *, comment: str, digits: int, mtl_name: str | None = None) -> bytes:
    text: str = mesh.export(
        file_type="obj", header=comment, digits=digits, mtl_name=mtl_name, include_normals=False
    )
    return text.encode()


def _upright(vertices: NDArray[np.float32]) -> NDArray[np.float32]:
    """Turn y up into z up: programs turn glTF and OBJ so when they read them, but take PLY as it is."""
    return np.column_stack([vertices[:, 0], -vertices[:, 2], vertices[:, 1]])


def _ply(mesh: trimesh.Trimesh | trimesh.PointCloud, *, comment: str) -> bytes:
    """Return a binary PLY; trimesh writes a comment of its own, so ours is put behind it."""
    data: bytes = export_ply(mesh, vertex_normal=False, include_attributes=False)
    head, end, body = data.partition(b"end_header\n")
    return b"".join([head, f"comment {comment}\n".encode("ascii", "replace"), end, body])


def _filled(recipe: Recipe | None, *, relief: Relief | None = None, surface: Surface | None = None) -> Recipe:
    """Complete a recipe by what the thing itself knows."""
    recipe = recipe or Recipe()
    if relief is not None:
        recipe = replace(recipe, relief=relief.settings)
    if surface is not None:
        recipe = replace(recipe, mesh=surface.settings)
    return recipe


def _extras(recipe: Recipe) -> dict[str, object]:
    return {KEY: recipe.to_dict()}


def _text(recipe: Recipe | None) -> dict[str, str]:
    return {} if recipe is None else {KEY: recipe.to_json()}


def _size(relief: Relief) -> str:
    x, y, z = relief.size_mm
    return f"Relief of {x:.4g} x {y:.4g} x {z:.4g} mm; unit mm"


def _lens(camera: Camera) -> dict[str, object]:
    reach = {"znear": camera.near / 100, "zfar": camera.far * 100}
    if camera.projection == "orthographic":
        size = {"xmag": camera.half_width * camera.near, "ymag": camera.half_height * camera.near}
        return {"type": "orthographic", "orthographic": size | reach}
    angle = {
        "aspectRatio": camera.half_width / camera.half_height,
        "yfov": 2 * float(np.arctan(camera.half_height)),
    }
    return {"type": "perspective", "perspective": angle | reach}
