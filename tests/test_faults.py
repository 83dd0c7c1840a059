"""Faults that are provoked: each gives one error message, and the next request succeeds."""

import json
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import gradio as gr
import numpy as np
import pytest

from marigold_demo.cli.main import main
from marigold_demo.depth import DepthMap
from marigold_demo.errors import CheckpointError, DemoError
from marigold_demo.io import export
from marigold_demo.io.cache_folder import DiskFullError
from marigold_demo.network.checkpoint_folder import read_pipeline
from marigold_demo.settings import DepthSettings, MeshSettings, ReliefSettings
from marigold_demo.ui import api
from marigold_demo.ui.layers import DepthStyle
from marigold_demo.ui.messages import user_errors
from marigold_demo.ui.object_tab import build_zip
from marigold_demo.ui.session_store import DepthResult, SessionStore
from marigold_demo.workflow import Workflow
from tests import toys
from tests.conftest import make_photo
from tests.pages import LENIENT, Ball, ball, draw_photo, make_tabs

pytestmark = LENIENT

PHOTO = make_photo(48, 64)


@pytest.fixture
def store(tmp_path, monkeypatch) -> SessionStore:
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "cache"))
    return SessionStore(Workflow(Ball()))


@contextmanager
def no_room(*, after_bytes: int = 3000) -> Iterator[None]:
    """Let no file grow beyond so many bytes: the system itself refuses the write, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "dont_write_bytecode", True)  # or a module that is cut off would be kept
        patch.setenv("PYTHONDONTWRITEBYTECODE", "1")
        resource.setrlimit(resource.RLIMIT_FSIZE, (after_bytes, hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def files_below(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


# A full disk


def test_a_write_without_room_leaves_nothing(tmp_path):
    export.save(tmp_path, "depth.npy", b"old")
    with no_room(), pytest.raises(OSError, match="large"):
        export.save(tmp_path, "depth.npy", bytes(10_000))
    assert [path.read_bytes() for path in files_below(tmp_path)] == [b"old"]


def through_the_api(store, folder):
    photo = folder / "holiday.jpg"
    return list(api.predict_depth(store, DepthSettings(), photo=str(photo), colormap="Spectral"))[-1]


def through_the_page(store, folder):
    key = store.add_result(DepthResult(PHOTO, DepthMap(ball(480, 640), None), DepthSettings()))
    return make_tabs(store).depth.write_depth(key)


def in_one_zip(store, folder):
    result = DepthResult(PHOTO, DepthMap(ball(48, 64), None), DepthSettings())
    colored = np.zeros((48, 64, 3), dtype=np.uint8)
    relief, mesh = ReliefSettings(resolution=128), MeshSettings(resolution=128)
    return build_zip(store, result, relief=relief, mesh=mesh, colored=colored)


@pytest.mark.parametrize("ask", [through_the_api, through_the_page, in_one_zip])
def test_a_full_disk_is_one_sentence_and_the_next_one_is_done(ask, store, tmp_path):
    draw_photo(tmp_path)
    with no_room(), pytest.raises(DiskFullError, match="disk is full"):
        ask(store, tmp_path)
    assert not files_below(tmp_path / "cache")
    assert ask(store, tmp_path)
    assert all(path.stat().st_size for path in files_below(tmp_path / "cache"))


def test_the_command_line_says_that_the_disk_is_full(tmp_path, capsys):
    photo, out = draw_photo(tmp_path), tmp_path / "out"
    with no_room():
        assert main(["depth", str(photo), "--out", str(out)], predict=Ball()) == 2
    assert "cannot be written" in capsys.readouterr().err
    assert not files_below(out)
    assert main(["depth", str(photo), "--out", str(out)], predict=Ball()) == 0
    assert len(files_below(out)) == 3


# Memory that runs out, numbers that are none


def out_of_memory(*_, **__):
    raise RuntimeError(
        "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 GB"
    )


@pytest.mark.parametrize("part", ["unet", "vae"])
def test_a_network_without_memory_says_so_and_works_again_later(part, store, monkeypatch, toy_parts):
    pipeline = toys.make_pipeline()
    store = SessionStore(Workflow(pipeline))
    key = store.add_photo(PHOTO)

    def run():
        stream = user_errors(make_tabs(store).depth.stream)
        return list(stream(key, DepthSettings(), sides=("Photo", "Depth"), style=DepthStyle()))

    with monkeypatch.context() as patch:
        for name in ("forward", "encode", "decode"):
            if hasattr(getattr(pipeline, part), name):
                patch.setattr(getattr(pipeline, part), name, out_of_memory)
        with pytest.raises(gr.Error, match="memory"):
            run()
    assert run()


# Checkpoints


def garbage(path: Path) -> None:
    path.write_bytes(np.random.default_rng(0).bytes(max(64, min(path.stat().st_size, 4096))))


def empty(path: Path) -> None:
    path.write_bytes(b"")


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 9 // 10])


def of_other_types(path: Path) -> None:
    """Turn every number of a JSON file into a word; other files lose their first bytes."""
    if path.suffix != ".json":
        path.write_bytes(path.read_bytes()[8:])
        return
    content = json.loads(path.read_bytes())
    path.write_text(
        json.dumps(
            {name: "seven" if isinstance(value, int | list) else value for name, value in content.items()}
        )
    )


@pytest.mark.slow
@pytest.mark.parametrize("damage", [Path.unlink, garbage, empty, cut, of_other_types])
def test_a_checkpoint_of_which_any_file_is_damaged_works_or_is_explained(damage, toy_folder):
    files = sorted(path for path in toy_folder.rglob("*") if path.is_file())
    explained = 0
    for path in files:
        whole = path.read_bytes()
        damage(path)
        (toy_folder / "empty_prompt.safetensors").unlink(missing_ok=True)
        try:
            pipeline = read_pipeline(toy_folder, name="mine")
            assert np.isfinite(pipeline(PHOTO, DepthSettings(steps=1, resolution=64)).values).all()
        except DemoError as error:
            explained += 1
            assert isinstance(error, CheckpointError)
            assert "mine" in str(error)
            assert str(error).endswith(".")
        finally:
            path.write_bytes(whole)
    assert explained >= 5
