"""The public API of the package, as the README shows it."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import trimesh
from PIL import Image

import marigold_demo
from marigold_demo import api
from tests.pages import ball, draw_photo, readme_examples

ROOT = Path(__file__).parents[1]


def test_importing_the_package_loads_no_library():
    words = """
import sys
import marigold_demo
marigold_demo.DepthSettings(steps=2)
print({"torch", "gradio", "scipy", "trimesh", "PIL", "diffusers"} & set(sys.modules))
"""
    done = subprocess.run([sys.executable, "-c", words], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "set()\n"), done.stderr


def test_every_public_name_is_there_and_has_a_docstring():
    for name in marigold_demo.__all__:
        assert name == "__version__" or getattr(marigold_demo, name).__doc__, name
    assert set(marigold_demo.__all__) <= set(dir(marigold_demo))
    with pytest.raises(AttributeError, match="no attribute 'missing'"):
        marigold_demo.missing  # noqa: B018


def test_a_relief_is_a_trimesh_and_is_saved_by_its_ending(tmp_path):
    relief = marigold_demo.make_relief(ball(48, 64), width_mm=80, resolution=128)
    assert type(relief.mesh) is trimesh.Trimesh and relief.mesh.is_volume
    np.testing.assert_array_equal(relief.mesh.faces, relief.solid.faces)  # not processed
    assert relief.mesh.extents[0] == pytest.approx(80, abs=1e-3)
    for ending in (".stl", ".3mf", ".OBJ", ".ply", ".glb", ".png"):
        path = relief.save(tmp_path / "new" / f"a{ending}")
        assert path.stat().st_size > 1000
        if ending != ".png":
            assert len(trimesh.load_mesh(path).faces) == pytest.approx(len(relief.mesh.faces), abs=0.1e6)
    with pytest.raises(ValueError, match=r"must end in one of .*\.stl"):
        relief.save(tmp_path / "a.doc")


def test_a_mesh_wears_its_photo(tmp_path):
    photo = draw_photo(tmp_path, size=(64, 48))
    mesh = marigold_demo.make_mesh(ball(48, 64), photo, marigold_demo.MeshSettings(resolution=128))
    assert type(mesh.mesh) is trimesh.Trimesh and mesh.mesh.visual.uv.shape == (len(mesh.vertices), 2)
    (loaded,) = trimesh.load(mesh.save(tmp_path / "a.glb")).geometry.values()
    assert len(loaded.faces) == len(mesh.faces)


def test_depth_is_saved_as_array_or_as_16_bits(tmp_path):
    depth = marigold_demo.DepthMap(ball(48, 64))
    np.testing.assert_array_equal(np.load(marigold_demo.save(depth, tmp_path / "a.npy")), depth.values)
    with Image.open(marigold_demo.save(depth, str(tmp_path / "a.png"))) as image:
        assert image.mode == "I;16"


def test_photos_come_as_files_arrays_and_pictures(tmp_path, monkeypatch):
    seen = []

    def predict(photo, settings, run):
        seen.append((photo.size, settings))
        return marigold_demo.DepthMap(ball(*photo.rgb.shape[:2]))

    monkeypatch.setattr("marigold_demo.network.checkpoint.predict", predict)
    path, model = draw_photo(tmp_path, size=(64, 48)), api.Model("mine")
    with Image.open(path) as image:
        for photo in (path, str(path), image, np.asarray(image), marigold_demo.load_photo(path)):
            depth = model.estimate(photo, marigold_demo.DepthSettings(seed=3), steps=2)
            assert depth.size == (64, 48)
    expected = marigold_demo.DepthSettings(seed=3, steps=2, checkpoint="mine")
    assert seen == [((64, 48), expected)] * 5


@pytest.mark.slow
def test_the_readme_example_makes_a_relief(tmp_path, monkeypatch):
    [example] = [text for text in readme_examples() if "marigold_demo.load()" in text]
    draw_photo(tmp_path, "photo.jpg")
    monkeypatch.chdir(tmp_path)
    exec(example, {})
    solid = trimesh.load_mesh(tmp_path / "relief.stl")
    assert solid.is_volume and solid.extents[0] == pytest.approx(120, abs=0.01)
