"""Files hold what they were made from, in their unit, and other programs can read them."""

import io
import json
import shutil
import struct
import subprocess
import zipfile
from dataclasses import dataclass, replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import scipy.ndimage
import trimesh
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from marigold_demo.depth import DepthMap
from marigold_demo.errors import SettingsError
from marigold_demo.geometry.relief import Relief, build_relief
from marigold_demo.geometry.textured_mesh import Surface, build_surface
from marigold_demo.io import export
from marigold_demo.io.depth_file import decode_depth
from marigold_demo.io.formats import FORMATS, Format, format_of, formats_of
from marigold_demo.io.mesh_files import from_stl, read_threemf
from marigold_demo.recipe import KEY, Recipe, read_recipe
from marigold_demo.settings import DepthSettings, MeshSettings, ReliefSettings
from tests.depths import KINDS, blob, depth_map, hills, kinds, noise

MESHES = ("stl", "3mf", "obj", "ply")  # of a relief, to be read back whole


@dataclass(frozen=True, eq=False)
class Shot:
    rgb: NDArray[np.uint8]
    fov_deg: float | None = None


def relief_of(kind: str = "hills", **choices: object) -> Relief:
    return build_relief(depth_map(kind), ReliefSettings(resolution=128, **choices))


def surface_of(kind: str = "hills", **choices: object) -> Surface:
    rgb = np.random.default_rng(0).integers(0, 256, (60, 45, 3), dtype=np.uint8)
    return build_surface(depth_map(kind), Shot(rgb), MeshSettings(resolution=128, **choices))


def document(glb: bytes) -> dict[str, object]:
    (length,) = struct.unpack_from("<I", glb, 12)
    return json.loads(glb[20 : 20 + length])


@settings(max_examples=8)
@given(kinds, st.sampled_from(MESHES))
def test_every_print_format_is_read_back_with_the_same_faces_and_volume(kind, extension):
    relief = relief_of(kind)
    _, data = formats_of("relief")[extension].write(relief, "lake")
    mesh = trimesh.load_mesh(io.BytesIO(data), file_type=extension)
    assert len(mesh.faces) == len(relief.solid.faces)
    assert mesh.is_watertight and mesh.is_winding_consistent
    assert mesh.volume == pytest.approx(relief.mesh.volume, rel=1e-4)
    extents = mesh.extents[[0, 2, 1]] if extension == "ply" else mesh.extents
    assert np.abs(extents - relief.size_mm).max() <= 1e-3


def test_the_stl_is_binary_has_the_right_size_and_true_normals():
    relief = relief_of("noise")
    data = export.stl(relief)
    assert len(data) == 84 + 50 * len(relief.solid.faces)
    assert not data.startswith(b"solid")
    records = from_stl(data)
    corners = records["corners"].astype(np.float64)
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    assert np.abs(normals - records["normal"]).max() <= 1e-3
    assert not records["attribute"].any()
    with pytest.raises(ValueError, match="do not hold"):
        from_stl(data[:-1])


def test_3mf_says_millimetre_and_is_read_back_by_ourselves():
    relief = relief_of("noise")
    data = export.threemf(relief)
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert archive.testzip() is None
        head = archive.read("3D/3dmodel.model")[:2000].decode()
    assert 'unit="millimeter"' in head
    corners = read_threemf(io.BytesIO(data))
    assert np.abs(corners - relief.solid.vertices[relief.solid.faces]).max() <= 1e-4
    assert export.threemf(relief) == data


def test_the_preview_faces_the_viewer_in_metres_with_unit_normals():
    relief = build_relief(DepthMap(blob()), ReliefSettings(resolution=128, frame="none"))
    mesh = trimesh.load_mesh(io.BytesIO(export.preview_glb(relief)), file_type="glb", process=False)
    assert np.abs(mesh.extents * 1000 - relief.size_mm).max() <= 1e-3
    assert np.abs(mesh.bounds.sum(axis=0)).max() <= 1e-6  # in the middle
    nearest = mesh.vertices[mesh.vertices[:, 2].argmax()]
    assert nearest[0] < 0 < nearest[1]  # the near spot is at the top left
    normals = np.asarray(mesh.vertex_normals)
    assert np.abs(np.linalg.norm(normals, axis=1) - 1).max() < 1e-3
    assert (np.einsum("fk,fk->f", normals[mesh.faces].mean(axis=1), mesh.face_normals) > 0).all()
    assert mesh.volume * 1e9 == pytest.approx(relief.mesh.volume, rel=1e-3)


def test_the_preview_of_a_large_relief_is_light():
    relief = build_relief(DepthMap(noise(600, 800)), ReliefSettings(resolution=800, tolerance_mm=0.005))
    data = export.preview_glb(relief)
    assert len(relief.solid.faces) > 400_000
    assert document(data)["accessors"][-1]["count"] // 3 <= 200_000  # type: ignore[index]
    assert len(data) <= 8e6


def test_the_preview_of_a_ragged_cut_out_is_light():
    ragged = DepthMap(np.where(noise(120, 160) < 0.75, hills(120, 160), 1).astype(np.float32))
    chosen = ReliefSettings(width_mm=1000.0, cutout="depth", smooth_px=0)
    relief = build_relief(ragged, chosen.preview())
    assert len(relief.solid.faces) > 150_000
    assert len(export.preview_glb(relief)) <= 8e6


def test_preview_settings_are_light_and_keep_what_was_chosen():
    chosen = ReliefSettings(width_mm=77.0, resolution=2048, smooth_px=2.0)
    light = chosen.preview()
    assert light.resolution == 512 and light.smooth_px == 0.5 and light.width_mm == 77.0
    assert light.max_faces == 200_000
    assert MeshSettings(fov_deg=33.0).preview().fov_deg == 33.0


@settings(max_examples=10)
@given(kinds, st.sampled_from(["perspective", "orthographic"]), st.sampled_from(["unlit", "lit"]))
def test_the_glb_is_the_surface_with_its_photo(kind, projection, shading):
    surface = surface_of(kind, projection=projection, shading=shading, edges="stretch")
    data = export.glb(surface)
    mesh = trimesh.load_mesh(io.BytesIO(data), file_type="glb", process=False)
    assert np.array_equal(mesh.vertices.astype(np.float32), surface.vertices)
    assert np.array_equal(mesh.faces, surface.faces)
    uv = np.asarray(mesh.visual.uv) * [1, -1] + [0, 1]  # trimesh turns v over
    assert np.abs(uv - surface.uv).max() < 1e-6
    assert mesh.visual.material.baseColorTexture.size == (45, 60)
    about = document(data)
    assert about["cameras"][0]["type"] == projection  # type: ignore[index]
    assert ("KHR_materials_unlit" in about.get("extensionsUsed", [])) == (shading == "unlit")
    assert ("NORMAL" in about["meshes"][0]["primitives"][0]["attributes"]) == (shading == "lit")  # type: ignore[index]


def test_the_obj_archive_names_its_own_parts():
    surface = surface_of()
    with zipfile.ZipFile(io.BytesIO(export.obj_zip(surface, stem="lake"))) as archive:
        assert sorted(archive.namelist()) == ["lake.jpg", "lake.mtl", "lake.obj"]
        text = archive.read("lake.obj").decode()
        assert "mtllib lake.mtl" in text and "map_Kd lake.jpg" in archive.read("lake.mtl").decode()
        assert Image.open(io.BytesIO(archive.read("lake.jpg"))).size == (45, 60)
    mesh = trimesh.load_mesh(io.StringIO(text), file_type="obj", process=False)
    assert len(mesh.faces) == len(surface.faces)
    assert np.abs(mesh.bounds - [surface.vertices.min(axis=0), surface.vertices.max(axis=0)]).max() < 1e-4
    assert text.count("\nvt ") == len(surface.uv)


def test_a_ply_carries_the_photos_colors_as_triangles_or_points():
    surface = surface_of()
    mesh = trimesh.load_mesh(io.BytesIO(export.colored_ply(surface)), file_type="ply", process=False)
    assert len(mesh.faces) == len(surface.faces)
    row, column = (surface.uv[:, ::-1] * [60, 45]).astype(int).clip(0, [59, 44]).T
    assert np.array_equal(mesh.visual.vertex_colors[:, :3], surface.texture[row, column])
    cloud = trimesh.load(io.BytesIO(export.colored_ply(surface, points=True)), file_type="ply")
    assert len(cloud.vertices) == len(surface.vertices)


def lying(vertices: NDArray[np.float64]) -> NDArray[np.float64]:
    """Turn the vertices of a PLY, which has Z up, back to Y up."""
    return np.column_stack([vertices[:, 0], vertices[:, 2], -vertices[:, 1]])


def test_a_3mf_names_its_object_and_has_a_thumbnail():
    name, data = formats_of("relief")["3mf"].write(relief_of(), 'a "lake" & <sea>')
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        model = ElementTree.fromstring(archive.read("3D/3dmodel.model"))
        picture = Image.open(io.BytesIO(archive.read("Metadata/thumbnail.png")))
        assert "Metadata/thumbnail.png" in archive.read("_rels/.rels").decode()
    (found,) = model.iter("{http://schemas.microsoft.com/3dmanufacturing/core/2015/02}object")
    assert found.get("name") == name.removesuffix(".3mf")
    assert max(picture.size) == 256 and np.ptp(np.asarray(picture)) > 30


@pytest.mark.parametrize("extension", ["obj", "ply"])
def test_obj_and_ply_of_a_relief_keep_every_vertex_and_face_in_its_place(extension):
    relief = relief_of("noise")
    _, data = formats_of("relief")[extension].write(relief, "lake")
    mesh = trimesh.load_mesh(io.BytesIO(data), file_type=extension, process=False, maintain_order=True)
    vertices = mesh.vertices if extension == "obj" else lying(mesh.vertices)
    assert np.abs(vertices - relief.solid.vertices).max() <= (5.1e-5 if extension == "obj" else 0)
    assert np.array_equal(mesh.faces, relief.solid.faces)
    assert b"unit mm" in data[:400]


@pytest.mark.parametrize("near_m", [None, 0.002, 300.0])
def test_obj_and_ply_of_a_surface_keep_every_vertex_color_and_texture_place(near_m):
    surface = surface_of("noise", near_m=near_m)
    near = surface.camera.near
    mesh = trimesh.load_mesh(
        io.BytesIO(export.colored_ply(surface)), file_type="ply", process=False, maintain_order=True
    )
    assert np.array_equal(lying(mesh.vertices).astype(np.float32), surface.vertices)
    assert np.array_equal(mesh.faces, surface.faces)
    with zipfile.ZipFile(io.BytesIO(export.obj_zip(surface, stem="lake"))) as archive:
        lines = archive.read("lake.obj").decode().splitlines()
    assert lines[0] == f"# {surface.scale_note}"
    rows = {
        kind: [line.split()[1:] for line in lines if line.startswith(f"{kind} ")] for kind in ("v", "vt", "f")
    }
    assert np.abs(np.array(rows["v"], dtype=float) - surface.vertices).max() <= 1e-5 * near
    assert np.abs(np.array(rows["vt"], dtype=float) * [1, -1] + [0, 1] - surface.uv).max() <= 1e-6
    corners = np.array([[corner.split("/") for corner in face] for face in rows["f"]], dtype=int)  # [F, 3, 2]
    assert np.array_equal(corners, np.repeat(surface.faces[..., None] + 1, 2, axis=2))


@pytest.mark.parametrize("kind", ["noise", "holes", "1 x 1"])
def test_depth_files_hold_depth_exactly_or_to_half_a_step(kind):
    depth = DepthMap(np.nan_to_num(KINDS[kind], nan=0.5, posinf=1.0))
    assert np.array_equal(np.load(io.BytesIO(export.depth_npy(depth))), depth.values)
    picture = Image.open(io.BytesIO(export.depth_png16(depth)))
    assert picture.mode == "I;16" and picture.size == depth.size
    assert np.abs(np.asarray(picture) / 65535 - depth.values).max() <= 0.5 / 65535 + 1e-7


@pytest.mark.parametrize("shape", [(40, 30), (30, 45), (20, 64)])
def test_the_heightmap_spans_16_bits_has_square_pixels_and_knows_its_size(shape):
    relief = build_relief(DepthMap(hills(*shape)), ReliefSettings(resolution=128))
    name, data = formats_of("relief")["heightmap"].write(relief, "lake")
    picture = Image.open(io.BytesIO(data))
    levels = np.asarray(picture)
    assert picture.mode == "I;16" and levels.min() < 300 and levels.max() > 65200
    width, depth = relief.footprint.width_mm, relief.footprint.depth_mm
    assert (picture.width / width) / (picture.height / depth) == pytest.approx(1, abs=2e-3)
    assert picture.info["dpi"][0] == picture.info["dpi"][1]
    assert picture.width / picture.info["dpi"][0] * 25.4 == pytest.approx(width, rel=2e-3)
    assert float(picture.text["Width-mm"]) == pytest.approx(width, rel=1e-4)
    assert float(picture.text["Height-mm"]) == pytest.approx(depth, rel=1e-4)
    assert float(picture.text["Span-mm"]) == pytest.approx(5.0, rel=1e-4)
    assert name == f"lake_heightmap_{width:.4g}x{depth:.4g}mm_span5mm.png"
    column, row = ((np.arange(n) + 0.5) / n for n in picture.size)
    places = np.meshgrid(row * (relief.heights.shape[0] - 1), column * (relief.heights.shape[1] - 1))
    wanted = scipy.ndimage.map_coordinates(relief.heights, places, order=1).T
    assert np.abs(levels / 65535 * 5.0 + 1.6 - wanted).max() < 1e-3


def test_a_flat_heightmap_is_black():
    assert np.asarray(Image.open(io.BytesIO(export.heightmap_png(relief_of("constant"))))).max() == 0


@pytest.mark.parametrize("cutout", ["none", "round", "oval", "depth"])
def test_a_heightmap_shows_the_frame_and_turns_its_polarity_where_asked(cutout):
    choices = {"cutout": cutout, "cutout_depth": 0.6, "frame_mm": 8.0, "frame_top_mm": 6.0}
    relief = relief_of(map_frame="with", **choices)
    dark = relief_of(map_frame="with", map_high="dark", **choices)
    picture = Image.open(io.BytesIO(export.heightmap_png(relief)))
    turned = Image.open(io.BytesIO(export.heightmap_png(dark)))
    levels = np.asarray(picture).astype(int)
    assert (levels + np.asarray(turned) == 65535).all()
    assert float(picture.text["Width-mm"]) == pytest.approx(relief.size_mm[0], abs=1e-3)
    assert float(picture.text["Height-mm"]) == pytest.approx(relief.size_mm[1], abs=1e-3)
    found = [decode_depth(io.BytesIO(export.heightmap_png(r))) for r in (relief, dark)]
    assert np.array_equal(found[0].depth.values, found[1].depth.values)
    if cutout != "depth":  # the frame is the highest part and lies outside
        middle = levels[levels.shape[0] // 2]
        assert middle[levels.shape[1] * 4 // 100] == 65535 and middle[levels.shape[1] // 2] < 65535
    if cutout in ("round", "oval"):
        assert levels[0, 0] == 0
        share = (levels == 65535).mean()
        x, y = np.array(relief.size_mm[:2]) / 2
        assert share == pytest.approx((x * y - (x - 8) * (y - 8)) * np.pi / (4 * x * y), rel=0.08)


def test_a_recipe_is_read_back_from_every_file_that_carries_it():
    recipe = Recipe(photo="ab12", depth=DepthSettings(steps=3))
    relief, surface = relief_of(width_mm=88.0, frame_top_mm=None), surface_of(fov_deg=61.0)
    for data in (
        export.threemf(relief, recipe=recipe),
        export.preview_glb(relief, recipe=recipe),
        export.heightmap_png(relief, recipe=recipe),
    ):
        assert read_recipe(data) == replace(recipe, relief=relief.settings)
    assert read_recipe(export.glb(surface, recipe=recipe)) == replace(recipe, mesh=surface.settings)
    assert read_recipe(export.depth_png16(depth_map("hills"), recipe=recipe)) == recipe
    assert read_recipe(export.png(surface.texture, recipe=recipe)) == recipe


def test_a_file_made_again_from_its_own_recipe_is_the_same_file():
    depth = depth_map("noise")
    data = export.threemf(relief_of("noise", detail=0.3, frame="round"))
    again = read_recipe(data).relief
    assert again is not None
    assert export.threemf(build_relief(depth, again)) == data


@pytest.mark.parametrize("data", [b"", b"glTF", b"PK\x03\x04", b"\x89PNG\r\n\x1a\n", b"hello" * 30])
def test_a_file_without_a_recipe_says_so(data):
    with pytest.raises(SettingsError, match="recipe"):
        read_recipe(data)


def test_a_recipe_with_impossible_settings_is_refused():
    relief = relief_of()
    data = export.threemf(relief).replace(b"", b"")
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        model = archive.read("3D/3dmodel.model").replace(b'"width_mm":100.0', b'"width_mm":-100')
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("3D/3dmodel.model", model)
    with pytest.raises(SettingsError, match="width_mm"):
        read_recipe(packed.getvalue())


def thing_of(held: str) -> object:
    things = {"depth": depth_map("hills"), "relief": relief_of(), "mesh": surface_of()}
    return things.get(held, np.zeros((20, 30, 3), dtype=np.uint8))


@pytest.mark.parametrize("known", FORMATS, ids=lambda known: f"{known.holds}-{known.name}")
def test_every_format_is_written_and_found_again_by_its_name(known: Format):
    name, data = known.write(thing_of(known.holds), "lake", recipe=Recipe())
    assert name.startswith("lake_") and data
    assert format_of(known.holds, name).ending == known.ending
    assert (KEY.encode() in data or known.ending == ".3mf") == ("recipe" in known.takes)


@pytest.mark.parametrize(
    "known", [known for known in FORMATS if known.reader], ids=lambda known: f"{known.holds}-{known.name}"
)
def test_what_is_read_back_is_what_was_written(known: Format):
    thing = thing_of(known.holds)
    read = known.read(known.write(thing, "lake")[1])
    if isinstance(thing, DepthMap):
        assert np.abs(read.depth.values - thing.values).max() <= 1 / 65535
    elif isinstance(thing, Relief):
        assert known.is_printable
        assert np.abs(read - thing.solid.vertices[thing.solid.faces]).max() <= 1e-4


def test_a_format_that_nothing_reads_or_a_strange_name_is_refused():
    with pytest.raises(ValueError, match="not read back"):
        formats_of("mesh")["glb"].read(b"glTF")
    with pytest.raises(ValueError, match="stl"):
        format_of("relief", "lake.doc")


def test_names_tell_size_and_unit():
    relief = relief_of()
    assert formats_of("relief")["stl"].file_name(relief, "lake") == "lake_relief_77.5x100mm_z6.6mm.stl"
    assert formats_of("mesh")["glb"].file_name(surface_of(), "lake") == "lake_mesh.glb"


def test_saving_writes_whole_files_into_the_folder_only(tmp_path):
    path = export.save(tmp_path / "new" / "folder", "a.stl", b"one")
    assert path.read_bytes() == b"one"
    export.save(path.parent, "a.stl", b"two")
    assert path.read_bytes() == b"two"
    assert [child.name for child in path.parent.iterdir()] == ["a.stl"]
    for name in ("", ".", "..", "../a.stl", "b/a.stl", "/etc/a.stl"):
        with pytest.raises(ValueError, match="plain file name"):
            export.save(tmp_path, name, b"")


VALIDATE = """
const validator = require("gltf-validator"), fs = require("fs");
Promise.all(process.argv.slice(2).map(async path => {
  const report = await validator.validateBytes(new Uint8Array(fs.readFileSync(path)));
  return {path, ...report.issues};
})).then(reports => console.log(JSON.stringify(reports)));
"""


@pytest.fixture(scope="session")
def validator(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the Khronos validator and return its folder."""
    if shutil.which("npm") is None:
        pytest.skip("npm is not installed, so the Khronos glTF validator cannot be had")
    folder = tmp_path_factory.mktemp("validator")
    (folder / "validate.js").write_text(VALIDATE)
    got = subprocess.run(
        ["npm", "install", "--no-audit", "--no-fund", "gltf-validator"],
        cwd=folder,
        capture_output=True,
        text=True,
    )
    if got.returncode:
        pytest.skip(f"the Khronos glTF validator could not be installed: {got.stderr.strip()[-200:]}")
    return folder


@pytest.mark.slow
def test_the_khronos_validator_finds_no_error_and_no_warning(validator):
    files = {
        "relief": export.preview_glb(relief_of("noise")),
        "plate": export.preview_glb(relief_of("constant", frame="round")),
        "drilled": export.preview_glb(relief_of("hills", hole="through", bend_radius_mm=70.0)),
        "surface": export.glb(surface_of("stairs")),
        "lit": export.glb(surface_of("noise", shading="lit", edges="stretch")),
        "parallel": export.glb(surface_of("hills", projection="orthographic", near_m=3.0)),
    }
    paths = [export.save(validator, f"{name}.glb", data) for name, data in files.items()]
    done = subprocess.run(
        ["node", "validate.js", *map(str, paths)], cwd=validator, capture_output=True, text=True, check=True
    )
    for report in json.loads(done.stdout):
        assert (report["numErrors"], report["numWarnings"]) == (0, 0), report


@pytest.mark.slow
@pytest.mark.parametrize("extension", ["stl", "3mf"])
@pytest.mark.parametrize("choices", [{}, {"hole": "keyhole", "base_mm": 5.0}, {"cutout": "depth"}])
def test_a_slicer_slices_it_without_repairs(tmp_path, extension, choices):
    slicer = shutil.which("prusa-slicer") or shutil.which("PrusaSlicer")
    if slicer is None:
        pytest.skip("prusa-slicer is not installed")
    relief = build_relief(DepthMap(hills(80, 100)), ReliefSettings(resolution=256, **choices))
    path = export.save(tmp_path, *formats_of("relief")[extension].write(relief, "relief"))
    info = subprocess.run([slicer, "--info", str(path)], capture_output=True, text=True, check=True).stdout
    facts = dict(line.split(" = ") for line in info.splitlines() if " = " in line)
    assert facts["manifold"] == "yes"
    assert int(facts["number_of_facets"]) == len(relief.solid.faces)
    assert float(facts["volume"]) == pytest.approx(relief.mesh.volume, rel=1e-4)
    assert [float(facts[f"size_{axis}"]) for axis in "xyz"] == pytest.approx(relief.size_mm, abs=1e-3)
    assert not any(
        name in facts
        for name in (
            "edges_fixed",
            "degenerate_facets",
            "facets_removed",
            "facets_reversed",
            "backwards_edges",
        )
    )
    if extension == "3mf":  # the same numbers as the STL's, so the same layers
        return
    gcode = tmp_path / "piece.gcode"
    subprocess.run(
        [slicer, "--export-gcode", "--output", str(gcode), str(path)],
        capture_output=True,
        text=True,
        check=True,
    )
    layers = gcode.read_text().count(";LAYER_CHANGE")
    assert layers == pytest.approx(relief.size_mm[2] / 0.3, abs=3)
