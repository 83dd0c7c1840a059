"""The command line among other programs: encodings, pipes, full devices, signals, names, large batches."""

import gc
import io
import os
import signal
import subprocess
import sys
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from marigold_demo.batch.engine import LEAST_PIXELS
from marigold_demo.cli import files, terminal
from marigold_demo.cli import main as cli
from marigold_demo.cli.main import main, make_parser
from marigold_demo.cli.terminal import from_flags
from marigold_demo.colormap import COLORMAPS, MOST_CONTOURS
from marigold_demo.depth import DepthMap, Progress
from marigold_demo.errors import SettingsError
from marigold_demo.io.photo import Photo
from marigold_demo.network.plan import MOST_VIEWS
from marigold_demo.settings import (
    KEYHOLE_BASE_MM,
    RELIEF_PRESETS,
    DepthSettings,
    MeshSettings,
    ReliefSettings,
)
from marigold_demo.training import TrainSettings
from tests.predictors import stepwise

ROOT = Path(__file__).parents[1]
KINDS = ("_depth.npy", "_depth_16bit.png", "_depth_colored.png")
# The program with a ramp in place of the networks, which are loaded in seconds.
RAMP = """
import sys, time
import numpy as np
from marigold_demo.cli.main import main
from marigold_demo.depth import DepthMap, Progress
def predict(photo, settings, run):
    if photo.stem == "slow":
        print("running", flush=True)
        time.sleep(60)
    return DepthMap(np.tile(np.linspace(0, 1, photo.size[0], dtype=np.float32), (photo.size[1], 1)))
if __name__ == "__main__":
    sys.exit(main(predict=predict))
"""


@stepwise
def ramp(photo: Photo, settings: DepthSettings) -> Iterator[Progress | DepthMap]:
    width, height = photo.size
    yield DepthMap(np.tile(np.linspace(0, 1, width, dtype=np.float32), (height, 1)))


def write_photo(path: Path, *, size: tuple[int, int] = (32, 24), color: str = "teal") -> Path:
    path.parent.mkdir(exist_ok=True)
    Image.new("RGB", size, color).save(path, "PNG")
    return path


def run(*arguments: object, predict=ramp) -> int:
    return main([str(argument) for argument in arguments], predict=predict)


def names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if path.name != "manifest.jsonl"}


@pytest.fixture(scope="module")
def program(tmp_path_factory) -> list[str]:
    script = tmp_path_factory.mktemp("program") / "ramp.py"
    script.write_text(RAMP)
    return [sys.executable, str(script)]


@contextmanager
def stdout(stream: io.TextIOBase | None) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdout", stream)
        yield


def wrapped(encoding: str) -> io.TextIOWrapper:
    return io.TextIOWrapper(io.BytesIO(), encoding=encoding)


# Standard output


@pytest.mark.parametrize(("encoding", "spelled"), [("cp1252", "\\u5199"), ("ascii", "\\u5199")])
def test_names_that_stdout_cannot_spell_are_escaped_and_all_is_done(tmp_path, capsys, encoding, spelled):
    photos = [write_photo(tmp_path / name) for name in ("写真.png", "naïve.png", "plain.png")]
    out, stream = tmp_path / "out", wrapped(encoding)
    with stdout(stream):
        assert run("depth", *photos, "--out", out) == 2
    lines = stream.buffer.getvalue().decode(encoding).splitlines()
    assert len(lines) == 9 and lines[0].endswith(f"{spelled}\\u771f_depth.npy")
    naive = "naïve" if encoding == "cp1252" else "na\\xefve"
    assert lines[3:7:3] == [str(out / f"{name}_depth.npy") for name in (naive, "plain")]
    assert names_in(out) == {f"{stem}{kind}" for stem in ("写真", "naïve", "plain") for kind in KINDS}
    [said] = capsys.readouterr().err.splitlines()
    assert encoding in said and "PYTHONIOENCODING=utf-8" in said
    with stdout(wrapped(encoding)):
        assert (
            run("depth", photos[2], "--out", out) == 0
        )  # the trouble of one command is not that of the next


def test_a_name_that_is_no_text_comes_out_as_the_bytes_it_is(tmp_path):
    out = tmp_path / os.fsdecode(b"caf\xe9")
    stream = wrapped("utf-8")
    with stdout(stream):
        assert run("depth", write_photo(tmp_path / os.fsdecode(b"th\xe9.png")), "--out", out) == 0
    [first, *_] = stream.buffer.getvalue().splitlines()
    assert first == os.fsencode(out) + b"/th_depth.npy" and os.path.exists(first)


def test_help_and_version_come_out_whatever_stdout_is(capsys):
    for command in cli.COMMANDS:
        stream = wrapped("ascii")
        with stdout(stream), pytest.raises(SystemExit) as left:
            main([command, "--help"])
        assert "--help" in stream.buffer.getvalue().decode("ascii")
        assert left.value.code == (2 if "\\" in stream.buffer.getvalue().decode() else 0)
    with stdout(None), pytest.raises(SystemExit) as left:
        main(["--version"])
    assert left.value.code == 2 and "it is closed" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["full", "closed", "none"])
def test_where_stdout_fails_the_batch_is_done_and_the_status_says_so(tmp_path, capsys, kind):
    if kind == "full":
        stream = open("/dev/full", "w")
    elif kind == "closed":
        reader, writer = os.pipe()
        os.close(reader)
        stream = open(writer, "w")
    else:
        stream = None
    photos = [write_photo(tmp_path / name) for name in ("a.png", "b.png")]
    with stdout(stream):
        assert run("depth", *photos, tmp_path / "missing.png", "--out", tmp_path / "out") == 2
        assert run("config") == 0 or stream is None  # what was lost is reported once
    if stream:
        stream.close()
    assert names_in(tmp_path / "out") == {f"{stem}{kind}" for stem in "ab" for kind in KINDS}
    refused, counted, lost, *_ = capsys.readouterr().err.splitlines()
    assert "missing.png: There is no such file" in refused and "1 of 3 photos" in counted
    reason = {"full": "No space left on device", "closed": "Broken pipe", "none": "it is closed"}[kind]
    assert f"standard output ({reason})" in lost


def test_stderr_that_fails_stops_nothing(tmp_path, monkeypatch):
    for stream in (open("/dev/full", "w"), None):
        monkeypatch.setattr(sys, "stderr", stream)
        photo = write_photo(tmp_path / "a.png")
        assert run("depth", photo, tmp_path / "no.png", "--out", tmp_path / "out") == 2
        assert names_in(tmp_path / "out") == {f"a{kind}" for kind in KINDS}
        if stream:
            stream.close()


def test_processes_end_with_a_status_and_no_traceback_and_read_pipes(tmp_path, program):
    """Three processes at once: stdout gone after a line, stdout full, all well; photos come through pipes."""
    photo = write_photo(tmp_path / "photo.png").read_bytes()
    out = [tmp_path / name for name in ("gone", "full", "well")]
    reader, writer = os.pipe()
    os.write(writer, photo)
    os.close(writer)
    fifo = tmp_path / "fifo.png"
    os.mkfifo(fifo)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    pipes = {"stdin": subprocess.PIPE, "stderr": subprocess.PIPE, "cwd": tmp_path, "env": environment}
    depth = [*program, "depth"]
    with (
        open("/dev/full", "wb") as full,
        subprocess.Popen(
            [*depth, "photo.png", "-", "--out", out[0]], stdout=subprocess.PIPE, **pipes
        ) as gone,
        subprocess.Popen([*depth, "photo.png", "/dev/stdin", "--out", out[1]], stdout=full, **pipes) as lost,
        subprocess.Popen(
            [*depth, f"/dev/fd/{reader}", "fifo.png", "--out", out[2]],
            stdout=subprocess.PIPE,
            pass_fds=(reader,),
            **pipes,
        ) as well,
    ):
        os.close(reader)
        feeder = threading.Thread(target=fifo.write_bytes, args=(photo,), daemon=True)
        feeder.start()
        gone.stdin.write(photo)
        gone.stdin.close()
        lost.stdin.write(photo)
        lost.stdin.close()
        assert gone.stdout.readline().decode() == f"{out[0]}/photo_depth.npy\n"
        gone.stdout.close()
        said = [process.stderr.read().decode() for process in (gone, lost, well)]
        listed = well.stdout.read().decode().splitlines()
        statuses = [process.wait(60) for process in (gone, lost, well)]
        feeder.join(60)
    assert statuses == [2, 2, 0]
    assert said[2] == "" and listed == [str(out[2] / f"{s}{k}") for s in ("photo", "fifo") for k in KINDS]
    for text, stem, reason in zip(said, ("photo", "photo"), ("Broken pipe", "No space left"), strict=False):
        assert "Traceback" not in text and "Exception ignored" not in text and reason in text
        assert f"Another photo of this run is called {stem}" in text
    for folder in out[:2]:
        assert names_in(folder) == {f"{stem}{kind}" for stem in ("photo", "photo_2") for kind in KINDS}
    assert names_in(out[2]) == {f"{stem}{kind}" for stem in ("photo", "fifo") for kind in KINDS}


def test_ctrl_c_comes_after_what_was_refused_and_what_is_done_stays(tmp_path, program):
    photos = [
        tmp_path / "missing.png",
        write_photo(tmp_path / "done.png"),
        write_photo(tmp_path / "slow.png", color="red"),
    ]
    start = "import signal, runpy; signal.signal(signal.SIGINT, signal.default_int_handler); "
    code = start + f"runpy.run_path({program[1]!r}, run_name='__main__')"  # a shell may have it ignored
    with subprocess.Popen(
        [program[0], "-c", code, "depth", *photos, "--out", tmp_path / "out"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    ) as process:
        listed = [process.stdout.readline() for _ in range(4)]
        assert "running\n" in listed  # while the files before it are written
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to all processes of the program
        _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    refused, stopped = said.splitlines()
    assert "missing.png: There is no such file" in refused
    assert stopped == "marigold-demo: Stopped. Files named so far are complete."
    assert names_in(tmp_path / "out") == {f"done{kind}" for kind in KINDS}


# Pipes and standard input


@contextmanager
def standard_input(data: bytes) -> Iterator[None]:
    """Let descriptor 0 give some bytes for a while."""
    reader, writer = os.pipe()
    feeder = threading.Thread(target=lambda: (os.write(writer, data), os.close(writer)))
    kept = os.dup(0)
    os.dup2(reader, 0)
    os.close(reader)
    feeder.start()
    try:
        yield
    finally:
        os.dup2(kept, 0)
        os.close(kept)
        feeder.join(60)


def test_photos_depth_and_recipes_come_through_standard_input(tmp_path, capsys):
    photo, out = write_photo(tmp_path / "photo.png"), tmp_path / "out"
    assert run("depth", photo, "--out", tmp_path, "--seed", 5) == 0
    sizes = ("--relief-resolution", 128, "--max-faces", 10_000)
    for name in ("photo_depth.npy", "photo_depth_16bit.png", "photo.png"):
        with standard_input((tmp_path / name).read_bytes()):
            assert run("relief", "-", "--out", out, *sizes) == 0
    assert {name.split("_relief_")[0] for name in names_in(out)} == {"photo"}
    seen: list[DepthSettings] = []

    @stepwise
    def noting(photo: Photo, settings: DepthSettings) -> Iterator[Progress | DepthMap]:
        seen.append(settings)
        yield ramp(photo, settings)

    with standard_input((tmp_path / "photo_depth_16bit.png").read_bytes()):
        assert run("depth", photo, "--recipe", "-", "--out", out, predict=noting) == 0
    assert seen[0].seed == 5
    capsys.readouterr()
    with standard_input(b"no picture"):
        assert run("depth", "-", "--out", out) == 2
    assert capsys.readouterr().err.startswith("marigold-demo: standard input: The file is not a picture")


def test_a_pipe_without_end_is_refused_and_nothing_stays_behind(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(files.photo, "MAX_BYTES", 3_000_000)
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", None)
    assert run("depth", "/dev/zero", write_photo(tmp_path / "a.png"), "--out", tmp_path / "out") == 2
    assert "/dev/zero: It gives more than 3 MB" in capsys.readouterr().err
    assert "a_depth.npy" in names_in(tmp_path / "out") and names_in(tmp_path / "temporary") == set()
    monkeypatch.setattr("tempfile.tempdir", None)


def test_a_terminal_is_not_waited_for(tmp_path, capsys):
    _, terminal_end = os.openpty()
    assert run("depth", os.ttyname(terminal_end), "--out", tmp_path) == 2
    assert "This is a terminal" in capsys.readouterr().err


# Names


def test_photos_of_one_stem_are_told_apart_in_a_sentence_in_any_case(tmp_path, capsys):
    one, two = write_photo(tmp_path / "a" / "IMG.png"), write_photo(tmp_path / "b" / "img.PNG", size=(40, 24))
    assert run("depth", one, two, "--out", tmp_path / "out", "--files", "npy") == 0
    assert names_in(tmp_path / "out") == {"IMG_depth.npy", "img_2_depth.npy"}
    assert np.load(tmp_path / "out/img_2_depth.npy").shape == (24, 40)
    [said] = capsys.readouterr().err.splitlines()
    assert (
        said
        == f"marigold-demo: {two}: Another photo of this run is called img; this one is written as img_2."
    )


def test_files_of_an_earlier_run_are_not_replaced_in_silence(tmp_path, capsys):
    one, two = write_photo(tmp_path / "a" / "x.png"), write_photo(tmp_path / "b" / "x.png", size=(40, 24))
    out = tmp_path / "out"
    assert run("depth", one, "--out", out) == 0 == run("depth", one, "--out", out)
    assert capsys.readouterr().err == ""  # the same bytes again need no message
    assert run("depth", two, "--out", out) == 0
    [said] = capsys.readouterr().err.splitlines()
    assert f"{out / 'x_depth.npy'} was there with other content and is replaced" in said


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("two\nlines.png", "two_lines"),
        ("x" * 240 + ".png", "x" * 80),
        (os.fsdecode(b"caf\xe9.png"), "caf"),
        ("\x1b[31mred.png", "31mred"),
        ("CAPITALS.PNG", "CAPITALS"),
        ("trailing dot..png", "trailing_dot"),
        ("100% done.png", "100_done"),
        ("a.b.c.png", "a.b.c"),
    ],
)
def test_every_name_is_read_and_told_on_one_plain_line(tmp_path, capsys, name, stem):
    photo = write_photo(tmp_path / name)
    assert run("depth", photo, "--out", tmp_path / "out", "--files", "npy") == 0
    assert names_in(tmp_path / "out") == {f"{stem}_depth.npy"}
    photo.write_bytes(b"")
    assert run("depth", photo, "--out", tmp_path / "out") == 2
    said = capsys.readouterr().err
    assert said.endswith(": The file is empty; get it again from where it came.\n")
    assert said.count("\n") == 1 and "\x1b" not in said


def test_what_cannot_be_a_photo_is_named_among_those_that_can(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_photo(Path("-dash.png"))
    (tmp_path / "folder").mkdir()
    assert run("depth", "-dash.png", "--out", "out") == 2
    assert "is given as ./-dash.png" in capsys.readouterr().err
    names = ["no.png", "./-dash.png", "y" * 300 + ".png", "folder"]
    assert run("depth", *names, "--out", "out") == 2
    said = capsys.readouterr().err.splitlines()
    assert "no such file" in said[0] and "folder: The folder holds no picture" in said[2] and len(said) == 4
    assert said[3] == "marigold-demo: 3 of 4 photos could not be used; the reasons are above."
    assert names_in(tmp_path / "out") == {f"dash{kind}" for kind in KINDS}


# Batches


def test_one_photo_too_large_for_the_memory_costs_the_others_nothing(tmp_path, capsys):
    @stepwise
    def short(photo: Photo, settings: DepthSettings) -> Iterator[DepthMap]:
        if photo.stem == "large":
            raise SettingsError("There is not enough memory for this resolution; choose a lower one.")
        yield ramp(photo, settings)

    photos = [write_photo(tmp_path / f"{name}.png") for name in ("large", "small")]
    assert run("depth", *photos, "--out", tmp_path / "out", predict=short) == 2
    assert f"{photos[0]}: There is not enough memory" in capsys.readouterr().err
    assert names_in(tmp_path / "out") == {f"small{kind}" for kind in KINDS}


def test_a_batch_holds_no_more_photos_than_it_may(tmp_path, monkeypatch):
    monkeypatch.setattr("marigold_demo.batch.engine.HELD_PIXELS", 3 * LEAST_PIXELS)
    photos = [write_photo(tmp_path / f"{n}.png", color=f"#0000{n:02x}") for n in range(30)]
    alive: list[weakref.ref] = []
    most = 0

    @stepwise
    def counting(photo: Photo, settings: DepthSettings) -> Iterator[DepthMap]:
        nonlocal most
        gc.collect()
        most = max(most, sum(thing() is not None for thing in alive))
        depth = ramp(photo, settings)
        alive.extend([weakref.ref(photo.rgb), weakref.ref(depth)])
        yield depth

    assert run("depth", *photos, "--out", tmp_path / "out", predict=counting) == 0
    assert len(alive) == 60 and most <= 2 * 3


def test_what_a_recipe_leaves_in_doubt_is_told_once_for_a_batch(tmp_path, capsys):
    photos = [write_photo(tmp_path / f"{n}.png", color=f"#4000{n:02x}") for n in range(3)]
    assert run("depth", write_photo(tmp_path / "other.png", color="red"), "--out", tmp_path) == 0
    recipe = tmp_path / "other_depth_16bit.png"
    assert run("depth", *photos, "--recipe", recipe, "--out", tmp_path / "out") == 0
    assert capsys.readouterr().err == "marigold-demo: The recipe was made for another photo.\n"


def test_what_the_network_did_otherwise_is_told(tmp_path, capsys):
    @stepwise
    def lower(photo: Photo, settings: DepthSettings) -> Iterator[DepthMap]:
        depth = ramp(photo, settings)
        yield DepthMap(depth.values, notes=("This depth was computed at 512 px.",))

    assert run("depth", write_photo(tmp_path / "a.png"), "--out", tmp_path, predict=lower) == 0
    assert capsys.readouterr().err == "marigold-demo: a: This depth was computed at 512 px.\n"


# Flags


def test_depth_is_written_in_the_files_asked_for_and_inverted(tmp_path):
    photo, plain, turned = write_photo(tmp_path / "a.png"), tmp_path / "plain", tmp_path / "turned"
    assert run("depth", photo, "--out", plain, "--files", "npy,PNG16,colored,npy") == 0
    assert run("depth", photo, "--out", turned, "--invert") == 0
    assert names_in(plain) == {f"a{kind}" for kind in KINDS}
    assert names_in(turned) == {f"a_depth_inverted{kind.removeprefix('_depth')}" for kind in KINDS}
    values, inverted = np.load(plain / "a_depth.npy"), np.load(turned / "a_depth_inverted.npy")
    assert inverted.dtype == np.float32 and inverted[0, 0] == 1 and inverted[0, -1] == 0  # the left is near
    np.testing.assert_allclose(inverted, 1 - values)
    with (
        Image.open(plain / "a_depth_16bit.png") as levels,
        Image.open(turned / "a_depth_inverted_16bit.png") as other,
    ):
        assert (np.asarray(levels).astype(int) + np.asarray(other) == 65535).all()
        assert other.info["marigold-demo-near"] == "white" and "marigold-demo-near" not in levels.info
    with (
        Image.open(plain / "a_depth_colored.png") as picture,
        Image.open(turned / "a_depth_inverted_colored.png") as other,
    ):
        assert (np.asarray(picture) == np.asarray(other)[:, ::-1]).all() and picture.getpixel((0, 0)) != (
            0,
        ) * 3
    assert run("depth", photo, "--out", plain, "--files", "png8") == 2


def test_inverted_depth_comes_back_the_right_way_round(tmp_path, capsys):
    photo, sizes = write_photo(tmp_path / "a.png"), ("--relief-resolution", 128, "--format", "heightmap")
    assert run("depth", photo, "--out", tmp_path) == 0 == run("depth", photo, "--out", tmp_path, "--invert")
    names = ("a_depth_16bit.png", "a_depth_inverted_16bit.png", "a_depth_inverted.npy")
    heights = []
    for name in names:
        near = ("--near", "White") if name.endswith(".npy") else ()
        assert run("relief", tmp_path / name, "--out", tmp_path / name[:-4], *sizes, *near) == 0
        [made] = (tmp_path / name[:-4]).iterdir()
        assert made.name.startswith("a_heightmap_")
        with Image.open(made) as picture:
            heights.append(np.asarray(picture).astype(int))
    assert heights[0][64, 2] > heights[0][64, 100]  # the left is near and high
    assert all(abs(other - heights[0]).max() <= 6 for other in heights[1:])  # of 65,535
    assert "written inverted, so white was taken as near" in capsys.readouterr().err


def test_choices_are_taken_in_any_case(tmp_path):
    said = make_parser().parse_args(
        ["relief", "x", "--out", "y", "--material", "pla", "--Frame".lower(), "Bevel", "--quality", "DRAFT"]
    )
    settings = from_flags(said, ReliefSettings())
    assert (settings.material, settings.frame) == ("PLA", "bevel")
    assert from_flags(said, DepthSettings()).quality == "draft"
    photo, sizes = write_photo(tmp_path / "a.png"), ("--relief-resolution", 128, "--preset", "cnc")
    assert run("relief", photo, "--out", tmp_path / "out", "--format", "STL,HeightMap", *sizes) == 0
    assert {Path(name).suffix for name in names_in(tmp_path / "out")} == {".stl", ".png"}
    assert any("relief_200x" in name for name in names_in(tmp_path / "out"))
    assert run("mesh", photo, "--out", tmp_path / "out", "--format", "PLY", "--mesh-resolution", 128) == 0
    assert run("depth", photo, "--out", tmp_path / "out", "--colormap", "VIRIDIS") == 0


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("relief", "PHOTO", "--format", "obj", "--report"), "add stl or 3mf"),
        (("evaluate", ".", "--resume"), "name the output"),
        (("evaluate", ".", "--every", "0"), "at least 1"),
    ],
)
def test_a_flag_that_would_do_nothing_is_refused(tmp_path, capsys, arguments, reason):
    photo = write_photo(tmp_path / "a.png")
    given = [str(photo) if argument == "PHOTO" else argument for argument in arguments]
    assert run(*given, *(("--out", tmp_path) if given[0] == "relief" else ())) == 2
    assert reason in capsys.readouterr().err


def help_of(command: str, capsys: pytest.CaptureFixture[str]) -> str:
    """Return the help of a command in one line."""
    with pytest.raises(SystemExit):
        main([command, "--help"])
    return " ".join(capsys.readouterr().out.split())


def test_what_help_says_is_what_the_program_has(capsys):
    assert cli.COLORMAPS == COLORMAPS
    texts = {name: help_of(name, capsys) for name in cli.COMMANDS}
    assert f"0 to {MOST_CONTOURS}" in texts["depth"] and all(name in texts["depth"] for name in COLORMAPS)
    assert all(name in texts["relief"] for name in RELIEF_PRESETS)
    assert f"at most {MOST_VIEWS} where" in texts["depth"]
    assert f"base of {KEYHOLE_BASE_MM:g} mm or more" in texts["relief"]
    for edge in (8, 56, 68):
        with pytest.raises(SettingsError):
            DepthSettings(resolution=edge)
    assert DepthSettings(resolution=64) and "a multiple of 8 from 64 on" in texts["mesh"]
    with pytest.raises(SettingsError):
        ReliefSettings(bend_radius_mm=4.9)
    assert ReliefSettings(bend_radius_mm=-5) and "from 5 on" in texts["relief"]
    for kind, command in ((ReliefSettings, "relief"), (MeshSettings, "mesh"), (TrainSettings, "train")):
        for field in fields(kind):  # the ends of each range are taken, what is beyond is not
            option = field.metadata["option"]
            for value in option.choices:
                assert value in texts[command]
            for end, beyond in zip(option.limits or (), (-1, 1), strict=False):
                with pytest.raises(SettingsError, match=field.name):
                    kind(**{field.name: end + beyond})


def test_the_progress_line_never_wraps(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setenv("COLUMNS", "60")
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    with terminal.progress_line("写" * 80) as line:
        line.step(Progress("denoise", 1, 4))
    [shown] = [part for part in stream.getvalue().split("\r\x1b[K") if part]
    assert sum(2 if ord(c) > 0x3000 else 1 for c in shown) < 60 and "denoise 1/4" in shown
