import io
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import trimesh
from PIL import Image

from marigold_demo import __version__
from marigold_demo.cli import main as cli
from marigold_demo.cli import terminal
from marigold_demo.cli.main import main, make_parser
from marigold_demo.depth import DepthMap, Progress, Run
from marigold_demo.errors import CheckpointError
from marigold_demo.evaluation.evaluate import BASELINES
from marigold_demo.geometry import relief as geometry_relief
from marigold_demo.geometry.mounting import Hole, drill
from marigold_demo.geometry.solid import Solid
from marigold_demo.io import export
from marigold_demo.io.photo import Photo
from marigold_demo.settings import DepthSettings, MeshSettings, ReliefSettings
from marigold_demo.training import PROTOCOLS, TrainSettings
from tests.predictors import stepwise

ROOT = Path(__file__).parents[1]


@stepwise
def ramp(photo: Photo, settings: DepthSettings) -> Iterator[Progress | DepthMap]:
    """Near on the left, far on the right; how near depends on the seed."""
    width, height = photo.size
    yield Progress("denoise", 0, 1)
    row = np.linspace(settings.seed / 10_000, 1, width, dtype=np.float32)
    yield DepthMap(np.tile(row, (height, 1)))


def write_photo(folder: Path, name: str = "photo.png", *, size: tuple[int, int] = (64, 48)) -> Path:
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    Image.new("RGB", size, "teal").save(path)
    return path


def files_of(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if path.name != "manifest.jsonl"}


def run(*arguments: object, predict=ramp) -> int:
    return main([str(argument) for argument in arguments], predict=predict)


def test_depth_writes_three_files_and_prints_their_paths(tmp_path, capsys):
    photo, out = write_photo(tmp_path), tmp_path / "new" / "out"
    assert run("depth", photo, "--out", out, "--seed", 5000) == 0
    names = ["photo_depth.npy", "photo_depth_16bit.png", "photo_depth_colored.png"]
    assert capsys.readouterr().out.splitlines() == [str(out / name) for name in names]
    depth = np.load(out / "photo_depth.npy")
    assert depth.dtype == np.float32 and depth.shape == (48, 64)
    assert depth[0, 0] == np.float32(0.5) and depth[0, -1] == 1
    with Image.open(out / "photo_depth_16bit.png") as png16:
        np.testing.assert_allclose(np.asarray(png16) / 65535, depth, atol=0.51 / 65535)
    with Image.open(out / "photo_depth_colored.png") as colored:
        assert colored.mode == "RGB" and colored.size == (64, 48)
    assert files_of(tmp_path) == {"photo.png", "new"}


def test_depth_has_the_size_of_the_upright_photo(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (64, 48)).save(tmp_path / "lying.jpg", exif=exif)
    assert run("depth", tmp_path / "lying.jpg", "--out", tmp_path) == 0
    assert np.load(tmp_path / "lying_depth.npy").shape == (64, 48)


def test_photos_of_one_name_do_not_overwrite_each_other(tmp_path):
    photos = [write_photo(tmp_path / name, size=(64, 48 + n)) for n, name in enumerate(("a", "b", "c"))]
    photos.append(write_photo(tmp_path / "d", "PHOTO.png"))
    assert run("depth", *photos, "--out", tmp_path / "out") == 0
    stems = ("photo", "photo_2", "photo_3", "PHOTO_4")
    assert files_of(tmp_path / "out") == {
        f"{stem}_depth{end}" for stem in stems for end in (".npy", "_16bit.png", "_colored.png")
    }
    assert [np.load(tmp_path / f"out/{stem}_depth.npy").shape[0] for stem in stems] == [48, 49, 50, 48]


def test_a_photo_that_cannot_be_used_is_named_and_the_others_are_done(tmp_path, capsys):
    good, bad = write_photo(tmp_path), tmp_path / "bad.jpg"
    bad.write_bytes(b"")
    assert run("depth", bad, good, tmp_path / "missing.png", "--out", tmp_path / "out") == 2
    assert "photo_depth.npy" in files_of(tmp_path / "out")
    complaints = capsys.readouterr().err.splitlines()
    assert complaints[2:] == ["marigold-demo: 2 of 3 photos could not be used; the reasons are above."]
    assert (
        "bad.jpg: The file is empty" in complaints[0]
        and "missing.png: There is no such file" in complaints[1]
    )


def test_hostile_names_give_plain_files_in_the_folder(tmp_path):
    photo = write_photo(tmp_path, "-..  <b>&'\"ü 日本.png")
    assert run("depth", "--out", tmp_path / "out", "--", photo) == 0
    assert files_of(tmp_path / "out") == {
        f"b_ü_日本_depth{end}" for end in (".npy", "_16bit.png", "_colored.png")
    }


def test_relief_writes_one_watertight_stl_in_millimetres(tmp_path, capsys):
    options = (
        "--width-mm",
        80,
        "--relief-mm",
        2,
        "--base-mm",
        1,
        "--frame-mm",
        0,
        "--relief-resolution",
        128,
    )
    assert run("relief", write_photo(tmp_path), "--out", tmp_path / "out", *options) == 0
    [path] = (tmp_path / "out").iterdir()
    assert path.suffix == ".stl" and capsys.readouterr().out == f"{path}\n"
    solid = trimesh.load_mesh(path)
    assert solid.is_volume
    np.testing.assert_allclose(sorted(solid.extents), [3, 60, 80], atol=0.01)


def test_depth_files_are_taken_in_place_of_photos_and_the_network_is_not_asked(tmp_path):
    def never(photo: Photo, settings: DepthSettings, run: Run) -> DepthMap:
        raise AssertionError("the network was asked")

    run("depth", write_photo(tmp_path), "--out", tmp_path)
    sizes = ("--relief-resolution", 128)
    for source in ("photo_depth.npy", "photo_depth_16bit.png"):
        out = tmp_path / source.replace(".", "_")
        assert run("relief", tmp_path / source, "--out", out, *sizes, predict=never) == 0
        assert run("mesh", tmp_path / source, "--out", out, "--mesh-resolution", 128, predict=never) == 0
        names = sorted(files_of(out))
        assert names[0] == "photo_mesh.glb" and names[1].startswith("photo_relief_100x")


def test_earlier_spellings_of_choices_are_taken(tmp_path):
    depth = tmp_path / "photo_depth.npy"
    run("depth", write_photo(tmp_path), "--out", tmp_path)
    for mode in ("mold", "Mould"):
        assert run("relief", depth, "--out", tmp_path / mode, "--mode", mode, "--relief-resolution", 128) == 0
    [now], [earlier] = ((tmp_path / mode).iterdir() for mode in ("mold", "Mould"))
    assert now.read_bytes() == earlier.read_bytes()


def test_mesh_writes_one_glb_with_the_photo_on_it(tmp_path, capsys):
    photo = write_photo(tmp_path)
    assert run("mesh", photo, "--out", tmp_path / "out", "--mesh-resolution", 128) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'out/photo_mesh.glb'}\n"
    scene = trimesh.load(tmp_path / "out/photo_mesh.glb")
    [mesh] = scene.geometry.values()
    texture = np.asarray(mesh.visual.material.baseColorTexture.convert("RGB"))
    np.testing.assert_allclose(texture[10, 10], (0, 128, 128), atol=3)


def test_every_format_of_a_mesh_is_written(tmp_path):
    options = ("--format", ",".join(cli.MESH_FORMATS), "--mesh-resolution", 128)
    assert run("mesh", write_photo(tmp_path), "--out", tmp_path / "out", *options) == 0
    assert files_of(tmp_path / "out") == {"photo_mesh.glb", "photo_mesh.zip", "photo_mesh.ply"}
    assert len(trimesh.load(tmp_path / "out/photo_mesh.ply").faces) > 0


def test_a_depth_file_takes_its_photo_along(tmp_path, capsys):
    photo = write_photo(tmp_path)
    run("depth", photo, "--out", tmp_path)
    depth, sizes = tmp_path / "photo_depth.npy", ("--mesh-resolution", 128)
    assert run("mesh", depth, "--photo", photo, "--out", tmp_path / "out", *sizes) == 0
    [mesh] = trimesh.load(tmp_path / "out/photo_mesh.glb").geometry.values()
    np.testing.assert_allclose(
        np.asarray(mesh.visual.material.baseColorTexture)[10, 10, :3], (0, 128, 128), atol=3
    )
    assert (
        run("mesh", depth, "--photo", write_photo(tmp_path, "tall.png", size=(40, 90)), "--out", tmp_path)
        == 2
    )
    assert "not the same shape" in capsys.readouterr().err
    assert run("mesh", photo, "--photo", photo, "--out", tmp_path) == 2


def test_every_format_of_a_relief_is_written_and_reported_on(tmp_path, capsys):
    formats = ",".join(cli.RELIEF_FORMATS)
    assert set(cli.BASELINES) == set(BASELINES)
    options = ("--format", formats, "--report", "--preset", "coin", "--relief-resolution", 128)
    assert run("relief", write_photo(tmp_path), "--out", tmp_path / "out", *options) == 0
    endings = {"".join(Path(name).suffixes[-2:]) for name in files_of(tmp_path / "out")}
    assert {end.rsplit(".", 1)[-1] for end in endings} == {"stl", "3mf", "obj", "ply", "glb", "png", "json"}
    report = json.loads(next((tmp_path / "out").glob("*.stl.report.json")).read_text())
    assert report["soundness"]["closed"] and max(report["size_mm"]) == pytest.approx(
        40, abs=0.01
    )  # the coin's
    assert "watertight" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["relief", "PHOTO", "--near", "0.9", "--far", "0.1"], "far must be at least"),
        (["relief", "PHOTO", "--width-mm", "-3"], "width_mm is -3"),
        (["relief", "PHOTO", "--width-mm", "wide"], "'wide' is not a number"),
        (["relief", "PHOTO", "--steps", "1.5"], "'1.5' is not a whole number"),
        (["relief", "PHOTO", "--width-mm", "nan"], "width_mm is nan"),
        (["relief", "PHOTO", "--frame", "golden"], "frame must be one of none, flat"),
        (["relief", "PHOTO", "--format", "step"], "format is 'step'"),
        (["relief", "PHOTO", "--format", ""], "format is empty"),
        (["relief", "PHOTO", "--preset", "vase"], "preset is 'vase'"),
        (["mesh", "PHOTO", "--fov-deg", "500"], "fov_deg is 500"),
        (["depth", "PHOTO", "--resolution", "100"], "multiple of 8"),
        (["depth", "PHOTO", "--colormap", "jet"], "colormap is 'jet'"),
        (["depth", "PHOTO", "--colour", "jet"], "Unrecognized arguments: --colour jet"),
        (["depth"], "required: PHOTO"),
        (["paint"], "invalid choice: 'paint'"),
        ([], "required: COMMAND"),
    ],
)
def test_wrong_choices_get_one_sentence_and_status_2(tmp_path, capsys, arguments, reason):
    photo = write_photo(tmp_path)
    given = [str(photo) if argument == "PHOTO" else argument for argument in arguments]
    if len(given) > 1:
        given += ["--out", str(tmp_path / "out")]
    assert run(*given) == 2
    said = capsys.readouterr()
    assert said.out == "" and len(said.err.splitlines()) == 1
    assert said.err.startswith("marigold-demo: ") and reason in said.err


@pytest.mark.parametrize("place", ["file.txt", "file.txt/below"])
def test_a_folder_that_cannot_be_written_is_named(tmp_path, capsys, place):
    (tmp_path / "file.txt").write_text("in the way")
    assert run("depth", write_photo(tmp_path), "--out", tmp_path / place) == 2
    assert "file.txt" in capsys.readouterr().err


def test_a_full_disk_is_told_in_a_sentence(tmp_path, capsys, monkeypatch):
    def full(folder: Path, name: str, data: bytes) -> Path:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(export, "save", full)
    assert run("depth", write_photo(tmp_path), "--out", tmp_path) == 2
    assert "photo_depth.npy cannot be written (No space left on device)" in capsys.readouterr().err


def test_a_piece_that_is_no_solid_is_not_written(tmp_path, capsys, monkeypatch):
    def torn(solid: Solid, hole: Hole) -> Solid:
        drilled = drill(solid, hole)
        return replace(drilled, faces=drilled.faces[1:])

    monkeypatch.setattr(geometry_relief, "drill", torn)
    flags = "--hole", "through", "--relief-resolution", 128, "--format", "stl,3mf,heightmap"
    assert run("relief", write_photo(tmp_path), "--out", tmp_path / "out", *flags) == 2
    assert "no sound solid" in capsys.readouterr().err
    assert not (tmp_path / "out").exists() or files_of(tmp_path / "out") == set()


def test_errors_of_the_checkpoint_are_told_and_bugs_rise(tmp_path, capsys):
    @stepwise
    def damaged(photo: Photo, settings: DepthSettings) -> Iterator[DepthMap]:
        raise CheckpointError("The weights are damaged; fetch them again.")
        yield

    @stepwise
    def broken(photo: Photo, settings: DepthSettings) -> Iterator[DepthMap]:
        raise ZeroDivisionError
        yield

    photo = write_photo(tmp_path)
    assert run("depth", photo, "--out", tmp_path, predict=damaged) == 2
    assert capsys.readouterr().err == "marigold-demo: The weights are damaged; fetch them again.\n"
    with pytest.raises(ZeroDivisionError):
        run("depth", photo, "--out", tmp_path, predict=broken)


def test_ctrl_c_ends_with_130_and_a_sentence(tmp_path, capsys):
    @stepwise
    def interrupted(photo: Photo, settings: DepthSettings) -> Iterator[Progress | DepthMap]:
        yield Progress("denoise", 0, 1)
        raise KeyboardInterrupt

    assert run("depth", write_photo(tmp_path), "--out", tmp_path, predict=interrupted) == 130
    assert capsys.readouterr().err == "marigold-demo: Stopped. Files named so far are complete.\n"


def test_every_setting_has_a_flag_that_tells_unit_limits_and_default(capsys):
    classes = {
        "relief": (DepthSettings, ReliefSettings),
        "mesh": (DepthSettings, MeshSettings),
        "train": (TrainSettings,),
    }
    for command, kinds in classes.items():
        with pytest.raises(SystemExit) as left:
            main([command, "--help"])
        assert left.value.code == 0
        shown = " ".join(capsys.readouterr().out.split())
        for kind in kinds:
            for field in fields(kind):
                option, default = field.metadata["option"], getattr(kind(), field.name)
                assert f"--{field.name.replace('_', '-')}" in shown or f"-{field.name}" in shown
                if option.limits:
                    unit = f" {option.unit}" if option.unit else ""
                    assert f"{option.limits[0]:.12g} to {option.limits[1]:.12g}{unit}" in shown
                if isinstance(default, int | float):
                    assert f"default {default:g}" in shown or f"default {default}" in shown


def test_flags_said_override_a_preset_and_the_rest_of_it_stays():
    from marigold_demo.cli.terminal import from_flags
    from marigold_demo.settings import RELIEF_PRESETS

    said = make_parser().parse_args(["relief", "x", "--out", "y", "--width-mm", "33", "--resolution", "512"])
    settings = from_flags(said, RELIEF_PRESETS["coin"])
    assert settings.width_mm == 33 and settings.relief_mm == RELIEF_PRESETS["coin"].relief_mm
    assert settings.resolution == RELIEF_PRESETS["coin"].resolution
    assert from_flags(said, DepthSettings()).resolution == 512


def test_progress_is_shown_on_a_terminal_and_nowhere_else(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    for stream, shown in ((Terminal(), True), (io.StringIO(), False)):
        monkeypatch.setattr(sys, "stderr", stream)
        with terminal.progress_line("cat") as line:
            line.step(Progress("denoise", 1, 4))
        assert ("cat: denoise 1/4" in stream.getvalue()) == shown
        assert stream.getvalue() == "" or stream.getvalue().endswith("\r\x1b[K")


def test_long_times_are_told_in_minutes_and_hours():
    assert [terminal.duration(s) for s in (0.4, 99, 600, 7500)] == ["0 s", "99 s", "10 min", "2 h 5 min"]


def write_pairs(root: Path, count: int = 3) -> None:
    rows = ["name,rgb,depth,source"]
    for n in range(count):
        write_photo(root, f"{n}.png")
        np.savez(root / f"{n}.npz", depth=np.tile(np.linspace(1, 5 + n, 64, dtype=np.float32), (48, 1)))
        rows.append(f"pair{n},{n}.png,{n}.npz,{'even' if n % 2 == 0 else 'odd'}")
    (root / "manifest.csv").write_text("\n".join(rows) + "\n")


def test_evaluate_prints_a_table_and_writes_json_and_csv(tmp_path, capsys):
    write_pairs(tmp_path)
    assert run("evaluate", tmp_path, "--output", tmp_path / "out/table.json") == 0
    shown = capsys.readouterr().out
    assert "even" in shown and "odd" in shown and "mean of sources" in shown
    assert shown.splitlines()[-1] == str(tmp_path / "out/table.json")
    table = json.loads((tmp_path / "out/table.json").read_text())
    assert table["means"][-1]["abs_rel"] < 1e-4 and table["means"][-1]["delta1"] == 1
    assert len((tmp_path / "out/table.csv").read_text().splitlines()) == 4


def test_evaluate_goes_on_where_it_was_interrupted(tmp_path, capsys):
    write_pairs(tmp_path, 4)
    asked: list[int] = []

    @stepwise
    def tired(photo: Photo, settings: DepthSettings) -> Iterator[DepthMap]:
        asked.append(1)
        if len(asked) == 3:
            raise KeyboardInterrupt
        yield ramp(photo, settings)

    table = ("--output", tmp_path / "table.json", "--resume")
    assert run("evaluate", tmp_path, *table, predict=tired) == 130
    assert not (tmp_path / "table.json").exists()
    assert run("evaluate", tmp_path, *table, predict=tired) == 0
    assert len(asked) == 3 + 2
    assert json.loads((tmp_path / "table.json").read_text())["means"][-1]["images"] == 4
    capsys.readouterr()
    assert run("evaluate", tmp_path, *table, predict=tired) == 0
    assert len(asked) == 5


def test_evaluate_takes_sources_and_every_nth_image(tmp_path, capsys):
    write_pairs(tmp_path, 6)
    assert (
        run("evaluate", tmp_path, "--only", "even", "--every", 2, "--baseline", "rows-only", predict=None)
        == 0
    )
    shown = capsys.readouterr().out
    assert "odd" not in shown and "rows-only" in shown and "2   " in shown
    assert run("evaluate", tmp_path, "--only", "strange") == 2
    assert "one of even, odd" in capsys.readouterr().err
    assert run("evaluate", tmp_path, "--output", tmp_path / "table.txt") == 2
    assert run("evaluate", tmp_path / "nowhere") == 2
    assert "manifest.csv" in capsys.readouterr().err


def test_train_passes_its_flags_on_and_prints_the_checkpoint(tmp_path, capsys, monkeypatch):
    seen: list[TrainSettings] = []

    def quick(settings: TrainSettings, on_progress, on_note) -> Path:
        seen.append(settings)
        on_note("diffusion: 13.7 GiB")
        on_progress(SimpleNamespace(stage="diffusion", step=1, steps=2, loss=0.5))
        return Path(settings.out) / "checkpoint"

    monkeypatch.setitem(sys.modules, "marigold_demo.training.train", SimpleNamespace(train=quick))  # no torch
    assert run("train", "--out", tmp_path, "--batch", 3, "--shapes", "64x48") == 0
    assert seen == [TrainSettings(out=str(tmp_path), batch=3, shapes="64x48")]
    assert capsys.readouterr().out == f"{tmp_path / 'checkpoint'}\n"
    assert run("train", "--shapes", "63x48") == 2
    assert run("train", "--protocol", "PAPER", "--data", "vkitti:x", "--out", tmp_path) == 0
    assert seen[1:] == [replace(PROTOCOLS["paper"], data="vkitti:x", out=str(tmp_path))]
    assert run("train", "--protocol", "poor") == 2
    assert "protocol must be one of small, paper, e2e" in capsys.readouterr().err


def test_help_and_version_import_nothing_heavy():
    code = (
        "import sys; from marigold_demo.cli.main import main\n"
        "try: main(['relief', '--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'numpy', 'PIL', 'scipy', 'trimesh', 'gradio', 'diffusers'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_python_m_is_the_same_program():
    command = [sys.executable, "-m", "marigold_demo"]
    version = subprocess.run([*command, "--version"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert version.stdout == f"marigold-demo {__version__}\n"
