"""A recipe: what it holds, how it comes back out of files, and that it makes the same bytes again."""

import json
from dataclasses import replace
from pathlib import Path

import gradio as gr
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from marigold_demo import __version__
from marigold_demo.cli.main import main
from marigold_demo.errors import SettingsError
from marigold_demo.examples import load_examples
from marigold_demo.io.photo import load_photo
from marigold_demo.network.checkpoint import revision_of
from marigold_demo.recipe import LIBRARIES, Recipe, libraries, load_recipe, recipe_from_json
from marigold_demo.settings import DepthSettings, MeshSettings, ReliefSettings
from marigold_demo.ui.session_store import DepthResult, SessionStore
from marigold_demo.workflow import Workflow
from tests.pages import LENIENT, Ball, draw_photo, make_tabs

pytestmark = LENIENT
RELIEF = ReliefSettings(width_mm=60, resolution=128, detail=0.5, frame="round")
MESH = MeshSettings(resolution=128, fov_deg=33.5)
DEPTH = DepthSettings(seed=7, ensemble=2)


class Stamped(Ball):
    """A ball whose depth depends on the checkpoint that made it."""

    def __init__(self, revision: str = "a" * 40) -> None:
        super().__init__()
        self.revision = revision

    def __call__(self, photo, settings, run):
        return replace(super().__call__(photo, settings, run), revision=self.revision)


@pytest.fixture
def page_files(tmp_path, monkeypatch):
    """The files as the page writes them for download, by how their names end."""
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "cache"))
    store, photo = SessionStore(Workflow(Stamped())), load_photo(draw_photo(tmp_path, size=(160, 120)))
    key = store.add_result(DepthResult(photo, store.workflow.estimate(photo, DEPTH), DEPTH))
    tabs = make_tabs(store)
    filled = tabs.depth.write_depth(key)
    for settings in (RELIEF, MESH):
        filled |= tabs.objects.build_files(key, settings)
    buttons = [button for button in filled.values() if isinstance(button, gr.DownloadButton)]
    paths = [Path(button.value["path"]) for button in buttons]
    return {path.name.removeprefix("holiday"): path for path in paths}


def ending(files: dict[str, Path], end: str) -> Path:
    [path] = [path for name, path in files.items() if name.endswith(end)]
    return path


def run(*arguments: object, predict=None) -> int:
    return main([str(argument) for argument in arguments], predict=predict or Stamped())


def test_a_recipe_names_checkpoint_revision_seed_and_versions(page_files):
    recipe = load_recipe(ending(page_files, ".glb"))
    assert (recipe.revision, recipe.version) == ("a" * 40, __version__)
    assert recipe.depth == DEPTH and recipe.depth.seed == 7 and recipe.mesh == MESH
    assert dict(recipe.libraries) == dict(libraries())
    assert set(recipe.libraries) == set(LIBRARIES)


@pytest.mark.parametrize("carrier", [".3mf", "mm.png", "16bit.png", ".glb"])
def test_the_command_line_makes_the_same_bytes_as_the_page(page_files, tmp_path, carrier, capsys):
    photo, recipe = tmp_path / "holiday.jpg", ending(page_files, carrier)
    out = tmp_path / "out"
    assert run("depth", photo, "--recipe", recipe, "--out", out) == 0
    if carrier in (".3mf", "mm.png"):
        assert run("relief", photo, "--recipe", recipe, "--out", out, "--format", "stl,3mf,heightmap") == 0
    if carrier == ".glb":
        assert run("mesh", photo, "--recipe", recipe, "--out", out) == 0
    made = {path.name: path.read_bytes() for path in out.iterdir() if "colored" not in path.name}
    of_the_page = {path.name: path.read_bytes() for path in page_files.values()}
    assert len(made) == {".3mf": 5, "mm.png": 5, "16bit.png": 2, ".glb": 3}[carrier]
    assert {name: data == of_the_page[name] for name, data in made.items()} == dict.fromkeys(made, True)
    assert "recipe" not in capsys.readouterr().err  # nothing to doubt


def test_a_recipe_as_json_works_too_and_flags_override_it(tmp_path, capsys):
    photo = draw_photo(tmp_path, size=(160, 120))
    (tmp_path / "r.json").write_text(Recipe(depth=DEPTH, relief=RELIEF).to_json())
    out = tmp_path / "out"
    assert run("relief", photo, "--recipe", tmp_path / "r.json", "--width-mm", 33, "--out", out) == 0
    assert next(out.iterdir()).name.startswith("holiday_relief_33x")
    assert run("relief", photo, "--recipe", tmp_path / "r.json", "--preset", "coin", "--out", out) == 0
    assert any("relief_40x" in path.name for path in out.iterdir())


def test_another_photo_revision_or_version_is_told_and_the_work_is_done(page_files, tmp_path, capsys):
    other = draw_photo(tmp_path, "other.png", size=(200, 120))
    stl = ("relief", other, "--recipe", ending(page_files, ".3mf"), "--out", tmp_path / "out")
    assert run(*stl) == 0
    assert capsys.readouterr().err == "marigold-demo: The recipe was made for another photo.\n"
    assert run(*stl, predict=Stamped("b" * 40)) == 0
    assert "was at revision aaaaaaaaaaaa, the one here is at bbbbbbbbbbbb" in capsys.readouterr().err
    old = json.loads(load_recipe(ending(page_files, ".3mf")).to_json()) | {"version": "0.0.1"}
    old["libraries"]["torch"] = "1.0"
    (tmp_path / "old.json").write_text(json.dumps(old))
    assert run("relief", tmp_path / "holiday.jpg", "--recipe", tmp_path / "old.json", "--out", tmp_path) == 0
    told = capsys.readouterr().err
    assert "made with Marigold Demo 0.0.1, torch 1.0;" in told and len(told.splitlines()) == 1


@pytest.mark.parametrize("content", [b"", b"{", b"not a recipe", b'{"depth": {"seed": -1}}', b"[" * 10**5])
def test_a_file_that_is_no_recipe_gets_one_sentence_and_status_2(tmp_path, capsys, content):
    photo = draw_photo(tmp_path, size=(64, 48))
    (tmp_path / "bad.json").write_bytes(content)
    assert run("mesh", photo, "--recipe", tmp_path / "bad.json", "--out", tmp_path / "out") == 2
    [said] = capsys.readouterr().err.splitlines()
    assert said.startswith("marigold-demo: ") and "bad.json" in said
    assert run("mesh", photo, "--recipe", tmp_path / "nowhere.json", "--out", tmp_path / "out") == 2
    assert "no such file" in capsys.readouterr().err


@given(
    seed=st.integers(0, 2**31 - 1),
    width=st.floats(10, 1000),
    revision=st.none() | st.text(max_size=40),
    device=st.none() | st.text(max_size=40),
    fov=st.none() | st.floats(10, 120),
)
def test_a_recipe_survives_its_json(seed, width, revision, device, fov):
    recipe = Recipe(
        photo="p",
        revision=revision,
        device=device,
        depth=DepthSettings(seed=seed),
        relief=ReliefSettings(width_mm=width),
        mesh=MeshSettings(fov_deg=fov),
    )
    assert recipe_from_json(recipe.to_json()) == recipe
    assert recipe.compatibility_warnings(photo="p", revision=revision, device=device) == []


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["version", "libraries", "depth", "seed", "checkpoint", "relief", "photo"])
            | st.text(max_size=3),
            inner,
            max_size=4,
        )
    ),
    max_leaves=8,
)


@given(JSON)
def test_any_json_is_a_recipe_or_gets_a_sentence(found):
    try:
        recipe = recipe_from_json(json.dumps(found))
    except SettingsError as refusal:
        assert str(refusal).endswith(".")
        return
    assert isinstance(recipe.compatibility_warnings(photo="p", revision="r"), list)
    assert recipe.depth is None or isinstance(recipe.depth.checkpoint, str)


def test_a_revision_is_the_hubs_commit_or_tells_every_change_of_a_folder(tmp_path):
    folder = tmp_path / "mine"
    (folder / "unet").mkdir(parents=True)
    (folder / "unet/weights.safetensors").write_bytes(b"one")
    first = revision_of(folder)
    assert first.startswith("sha256:") and revision_of(folder) == first
    (folder / "unet/weights.safetensors").write_bytes(b"other")
    assert revision_of(folder) != first
    assert revision_of(tmp_path / "models--a--b/snapshots/0123abcd") == "0123abcd"


def test_the_network_stamps_its_depth_with_revision_device_and_threads(toy_folder, tmp_path, capsys):
    import torch

    from marigold_demo.network import checkpoint

    photo = draw_photo(tmp_path, size=(64, 48))
    settings = DepthSettings(checkpoint=str(toy_folder), steps=1, resolution=64)
    depth = checkpoint.predict(load_photo(photo), settings)
    assert depth.revision == revision_of(toy_folder)
    assert np.isfinite(depth.values).all()
    assert depth.device.startswith("CPU (") and depth.device.endswith(", 1 thread, float32)")

    flags = ("--checkpoint", toy_folder, "--steps", 1, "--resolution", 64)
    assert run("depth", photo, *flags, "--out", tmp_path / "one", predict=checkpoint.predict) == 0
    recipe = tmp_path / "one" / f"{photo.stem}_depth_16bit.png"
    assert load_recipe(recipe).device == depth.device
    replay = ("depth", photo, "--recipe", recipe, "--out")
    assert run(*replay, tmp_path / "again", predict=checkpoint.predict) == 0
    assert capsys.readouterr().err == ""
    for path in (tmp_path / "one").iterdir():
        assert (tmp_path / "again" / path.name).read_bytes() == path.read_bytes()
    torch.set_num_threads(2)
    try:
        assert run(*replay, tmp_path / "two", predict=checkpoint.predict) == 0
    finally:
        torch.set_num_threads(1)
    [said] = capsys.readouterr().err.splitlines()
    assert f"is from {depth.device}, the one here from CPU (" in said and "2 threads" in said


def test_the_stored_depth_of_an_example_is_told_from_a_computed_one(tmp_path):
    stored = next(filter(None, (example.known_depth() for example in load_examples())))
    assert stored.device == "a file that came with the example"
    recipe = Recipe(revision=stored.revision, device=stored.device)
    [warning] = recipe.compatibility_warnings(
        revision=stored.revision, device="CPU (AVX2, 4 threads, float32)"
    )
    assert "is from a file that came with the example" in warning and "bytes may differ" in warning
