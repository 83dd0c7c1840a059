"""Depth files at the command line and on the page: none is taken for a photo in silence."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trimesh
from PIL import Image

from marigold_demo.cli.main import main
from marigold_demo.depth import DepthMap
from marigold_demo.geometry.heightfield import resample
from marigold_demo.geometry.relief import build_relief
from marigold_demo.io import export
from marigold_demo.io.photo import Photo
from marigold_demo.recipe import Recipe, load_recipe
from marigold_demo.settings import DepthSettings, ReliefSettings
from marigold_demo.ui.session_store import SessionStore
from marigold_demo.workflow import Workflow
from tests.pages import LENIENT, Ball, ball, make_tabs
from tests.predictors import stepwise

DEPTH = ball(48, 64)  # a ball before ground; all of it far at the top
RELIEF = ("--frame", "none", "--detail", 0, "--smooth-px", 0)


class Network:
    """A predictor that counts what it is asked."""

    def __init__(self) -> None:
        self.asked = 0

    @stepwise
    def __call__(self, photo: Photo, settings: DepthSettings) -> Iterator[DepthMap]:
        self.asked += 1
        yield DepthMap(np.resize(DEPTH, photo.rgb.shape[:2]))


def run(command: str, source: Path, *options: object, out: Path) -> tuple[int, int]:
    """Run a command at a low resolution; return its exit status and how often the network was asked."""
    network, size = Network(), () if command == "depth" else (f"--{command}-resolution", "128")
    status = main([command, str(source), *size, "--out", str(out), *map(str, options)], predict=network)
    return status, network.asked


def gray(folder: Path, name: str, *, white_near: bool = True) -> Path:
    values = 1 - DEPTH if white_near else DEPTH
    Image.fromarray(np.round(255 * values).astype(np.uint8)).convert("RGB").save(folder / name)
    return folder / name


def middle_height(folder: Path) -> float:
    """Return how high the ball stands above the corners, as a share of the relief."""
    vertices = trimesh.load_mesh(next(folder.glob("*.stl"))).vertices
    center = np.abs(vertices[:, :2] - vertices[:, :2].max(axis=0) / 2).max(axis=1) < 3
    top = vertices[(vertices[:, 1] > vertices[:, 1].max() - 1) & (vertices[:, 2] > 0)]
    return float((vertices[center, 2].max() - top[:, 2].mean()) / 3)


# -- the command line --------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["relief", "mesh"])
@pytest.mark.parametrize("name", ["gray.png", "gray.jpg"])
def test_a_gray_picture_is_a_photo_with_a_note_and_depth_where_that_is_said(tmp_path, capsys, command, name):
    source = gray(tmp_path, name)
    assert run(command, source, out=tmp_path) == (0, 1)
    assert "it was taken as a photo. If it is depth, add --depth." in capsys.readouterr().err
    assert run(command, source, "--depth", out=tmp_path) == (0, 0)
    assert "taken as depth with white near" in capsys.readouterr().err


@pytest.mark.parametrize("near", ["white", "WHITE", "black", "auto"])
def test_one_flag_turns_near_and_far(tmp_path, near):
    source = gray(tmp_path, "gray.png")
    assert run("relief", source, "--depth", "--near", near, *RELIEF, out=tmp_path / "out") == (0, 0)
    assert (middle_height(tmp_path / "out") > 0.5) == (near != "black")
    assert run("mesh", source, "--depth", "--near", near, out=tmp_path / "out") == (0, 0)


def test_near_and_frame_of_a_relief_still_set_the_relief(tmp_path, capsys):
    source = gray(tmp_path, "gray.png")
    flags = ("--depth", "--near", "white", "--near", 0.3, "--frame", "round")
    assert run("relief", source, *flags, "--format", "3mf", "--frame-mm", 9, out=tmp_path) == (0, 0)
    [made] = tmp_path.glob("*.3mf")
    recipe = load_recipe(made).relief
    assert (recipe.near, recipe.frame, recipe.frame_mm) == (0.3, "round", 9)
    assert run("relief", source, "--near", "wide", out=tmp_path) == (2, 0)
    assert "'wide' is not a number and none of {auto,white,black}" in capsys.readouterr().err
    assert run("mesh", source, "--near", "wide", out=tmp_path) == (2, 0)


@pytest.mark.parametrize("command", ["relief", "mesh"])
def test_the_frame_of_a_video_is_chosen(tmp_path, capsys, command):
    np.savez(tmp_path / "video.npz", depths=np.stack([DEPTH, DEPTH / 2]))
    source = tmp_path / "video.npz"
    assert run(command, source, out=tmp_path) == (0, 0)
    assert "2 frames; the first, frame 0" in capsys.readouterr().err
    assert run(command, source, "--frame", 1, out=tmp_path) == (0, 0)
    assert "frame 1 was taken" in capsys.readouterr().err
    assert run(command, source, "--frame", 2, out=tmp_path) == (2, 0)


def test_disparity_is_turned_into_distance(tmp_path):
    np.save(tmp_path / "disparity.npy", 1 / (1 + DEPTH))
    assert run("relief", tmp_path / "disparity.npy", "--inverse", *RELIEF, out=tmp_path) == (0, 0)
    assert middle_height(tmp_path) > 0.5


@pytest.mark.parametrize("flag", [("--inverse",), ("--near", "white"), ("--frame", "1")])
def test_what_is_said_of_a_depth_file_needs_one(tmp_path, capsys, flag):
    assert run("relief", gray(tmp_path, "gray.png"), *flag, out=tmp_path) == (2, 0)
    assert f"{flag[0]} goes with a depth file" in capsys.readouterr().err


def test_no_form_of_depth_reaches_the_network_in_silence(tmp_path, capsys):
    f4, u16 = DEPTH.astype(np.float32), np.round(DEPTH * 65535).astype(np.uint16)
    for picture, name in ((f4, "f.tiff"), (u16, "u.tif"), (u16, "u.pgm"), (u16, "u.png"), (f4, "f.pfm")):
        Image.fromarray(picture).save(tmp_path / name)
        assert run("relief", tmp_path / name, *RELIEF, out=tmp_path) == (0, 0), name
        assert "taken as" in capsys.readouterr().err
        assert run("depth", tmp_path / name, out=tmp_path) == (0, 1), name
        assert "taken as a photo. If it is depth, give it to relief or mesh" in capsys.readouterr().err
    np.save(tmp_path / "f.npy", f4)
    assert run("depth", tmp_path / "f.npy", out=tmp_path) == (2, 0)
    assert "The file is depth, not a photo; give it to relief or mesh" in capsys.readouterr().err
    colored = export.png(np.stack([np.uint8(255 * DEPTH)] * 2 + [np.uint8(0 * DEPTH)], 2), recipe=Recipe())
    (tmp_path / "colored.png").write_bytes(colored)
    assert run("relief", tmp_path / "colored.png", out=tmp_path) == (0, 1)
    assert "This app made the picture from a depth" in capsys.readouterr().err


def test_a_height_map_becomes_the_relief_it_was(tmp_path, capsys):
    made = build_relief(DepthMap(DEPTH), ReliefSettings(resolution=128))
    (tmp_path / "map.png").write_bytes(export.heightmap_png(made, recipe=Recipe()))
    flags = ("--format", "heightmap")
    assert run("relief", tmp_path / "map.png", *flags, out=tmp_path / "out") == (0, 0)
    again = np.asarray(Image.open(next((tmp_path / "out").iterdir()))).astype(float)
    heights = resample(made.heights, *again.shape[::-1])
    assert np.corrcoef(again.ravel(), heights.ravel())[0, 1] > 0.99
    assert "detail and smooth_px are 0" in capsys.readouterr().err
    assert run("relief", tmp_path / "map.png", *flags, "--detail", 1, out=tmp_path / "more") == (0, 0)
    more = np.asarray(Image.open(next((tmp_path / "more").iterdir()))).astype(float)
    assert not np.array_equal(again, more)


# -- the page ----------------------------------------------------------------------------------------


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "cache"))
    return SessionStore(Workflow(Ball()))


def drop(store: SessionStore, path: Path) -> dict[Any, Any]:
    """Drop a file onto the page; return what it makes of it."""
    return make_tabs(store).photo.take_file({"path": str(path)}, "", False, None)


@LENIENT
def test_depth_that_is_dropped_is_taken_as_depth_and_what_may_be_depth_is_pointed_to_its_button(
    store, tmp_path
):
    np.save(tmp_path / "f.npy", DEPTH)
    np.savez(tmp_path / "f.npz", depth=DEPTH)
    (tmp_path / "f.exr").write_bytes(b"v/1\x01" + bytes(100))
    u16 = np.round(DEPTH * 65535).astype(np.uint16)
    for picture, name in ((u16, "u.png"), (u16, "u.tif"), (DEPTH.astype(np.float32), "f.pfm")):
        Image.fromarray(picture).save(tmp_path / name)
    for name in ("f.npy", "f.npz", "f.exr", "u.png", "u.tif", "f.pfm"):
        said = drop(store, tmp_path / name).values()
        assert str(tmp_path / name) in said, name  # for the event that reads depth
        assert len(said) == 2
    button = "“Use my own depth file”"
    assert button in str(drop(store, gray(tmp_path, "gray.jpg")))
    Image.new("RGB", (64, 48), "teal").save(tmp_path / "teal.png")
    assert button not in str(drop(store, tmp_path / "teal.png"))
    (tmp_path / "none.png").write_bytes(b"nothing")
    assert "alert" in str(drop(store, tmp_path / "none.png"))
