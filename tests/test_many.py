"""Folders, patterns and lists of photos: results keep the tree, and what is done is not done again."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import trimesh
from PIL import Image

from marigold_demo.batch.manifest import Manifest, Names, find_items, only_run
from marigold_demo.cli.main import main
from marigold_demo.depth import DepthMap, Run
from marigold_demo.errors import CheckpointError, PhotoError, SettingsError
from marigold_demo.io.photo import Photo, load_photo
from marigold_demo.network.checkpoint import batch_key, predict, predict_batch
from marigold_demo.settings import DepthSettings

ROOT = Path(__file__).parents[1]


class Ramp:
    """Predicts a ramp and counts its photos."""

    def __init__(self) -> None:
        self.stems: list[str] = []

    def __call__(self, photo: Photo, settings: DepthSettings, run: Run) -> DepthMap:
        self.stems.append(photo.stem)
        width, height = photo.size
        return DepthMap(np.tile(np.linspace(0, 1, width, dtype=np.float32), (height, 1)))


def write_photo(path: Path, *, color: str = "teal", size: tuple[int, int] = (32, 24)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, color).save(path)
    return path


def run(*arguments: object, predict: object) -> int:
    return main([str(argument) for argument in arguments], predict=predict)


def rows(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "manifest.jsonl").read_text().splitlines()]


def files_below(out: Path) -> set[str]:
    found = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    return found - {"manifest.jsonl"}


def test_a_folder_keeps_its_tree_and_only_what_changed_is_done_again(tmp_path, capsys):
    photos, out, ramp = tmp_path / "in", tmp_path / "in" / "out", Ramp()
    for name in ("a.png", "sub/b.png", "sub/a.png", "sub/a.jpg", ".hidden/c.png"):
        write_photo(photos / name)
    (photos / "notes.xmp").write_text("no picture")
    arguments = ("depth", photos, "--out", out, "--files", "npy")
    assert run(*arguments, predict=ramp) == 0
    assert files_below(out) == {f"{n}_depth.npy" for n in ("a", "sub/a", "sub/a_2", "sub/b")}
    said = capsys.readouterr()
    assert sorted(said.out.splitlines()) == sorted(str(out / name) for name in files_below(out))
    assert "4 of 4 photos done" in said.err and "sub/a.png: Another photo of this run is called a" in said.err
    row = rows(out)[0]
    assert (
        row["source"] == str(photos / "a.png") and row["status"] == "done" and row["files"] == ["a_depth.npy"]
    )
    assert row["bytes"] == (photos / "a.png").stat().st_size and len(row["sha256"]) == 64

    before = {name: (out / name).stat().st_mtime_ns for name in files_below(out)}
    assert run(*arguments, predict=ramp) == 0 and len(ramp.stems) == 4  # the results are no photos either
    said = capsys.readouterr()
    assert said.out == "" and "0 of 4 photos done; 4 were done before." in said.err
    os.utime(photos / "a.png", (1, 1))  # the same bytes
    assert run(*arguments, predict=ramp) == 0 and len(ramp.stems) == 4
    assert before == {name: (out / name).stat().st_mtime_ns for name in files_below(out)}

    write_photo(photos / "a.png", color="red")
    write_photo(photos / "0.png")
    (out / "sub/b_depth.npy").unlink()
    assert run(*arguments, predict=ramp) == 0 and sorted(ramp.stems[4:]) == ["0", "a", "b"]
    assert run(*arguments, "--seed", 7, predict=ramp) == 0 and len(ramp.stems) == 12
    assert run(*arguments, "--seed", 7, "--overwrite", predict=ramp) == 0 and len(ramp.stems) == 17
    assert files_below(out) == {f"{n}_depth.npy" for n in ("0", "a", "sub/a", "sub/a_2", "sub/b")}


def test_patterns_and_lists_stand_for_files_and_what_stands_for_nothing_is_named(tmp_path):
    for name in ("x/a.png", "x/y/b.png", "x/y/c.jpg", "d.png"):
        write_photo(tmp_path / name)
    (tmp_path / "list.txt").write_text("# mine\n\nd.png\nx/y\nx/*.png\n")
    cases = {
        "x/*.png": {"a"},
        "x/**/*.png": {"a", "y/b"},
        "*/y/*": {"x/y/b", "x/y/c"},
        "list.txt": {"d", "b", "c", "a"},
    }
    for source, outputs in cases.items():
        found, problems = find_items([tmp_path / source], out=tmp_path / "out", depth_files=False)
        assert {Names().named(item).output for item in found} == outputs and not problems, source
    twice, _ = find_items([tmp_path / "x", tmp_path / "x/a.png"], out=tmp_path / "out", depth_files=False)
    assert len(twice) == 3
    (tmp_path / "empty.txt").write_text("\n")
    for source in ("no*.png", "empty.txt", "missing.txt"):
        found, problems = find_items([tmp_path / source], out=tmp_path, depth_files=False)
        assert not found and source in str(problems[0])


def test_bad_files_are_named_at_the_end_or_end_the_run(tmp_path, capsys):
    photos, ramp = tmp_path / "in", Ramp()
    for n in range(5):
        write_photo(photos / f"{n}.png")
    (photos / "1.png").write_bytes(b"nothing")
    out = tmp_path / "out"
    assert run("depth", photos, "--out", out, "--files", "npy", predict=ramp) == 2
    said = capsys.readouterr()
    assert len(said.out.splitlines()) == 4 and len(said.err.splitlines()) == 2
    assert "1.png: The file is not a picture" in said.err and "1 of 5 photos" in said.err
    assert [row["status"] for row in rows(out)].count("failed") == 1
    write_photo(photos / "1.png")
    assert run("depth", photos, "--out", out, "--files", "npy", predict=ramp) == 0  # it is tried again
    assert len(ramp.stems) == 5

    (photos / "0.png").write_bytes(b"nothing")
    other, slow = tmp_path / "other", Ramp()
    assert run("depth", photos, "--out", other, "--fail-fast", predict=slow) == 2
    assert "0.png: The file is not a picture" in capsys.readouterr().err and len(slow.stems) < 4

    def broken(photo: Photo, settings: DepthSettings, run: Run) -> DepthMap:
        raise CheckpointError("The checkpoint is damaged.")

    assert run("depth", photos, "--out", tmp_path / "third", predict=broken) == 2
    assert capsys.readouterr().err.splitlines()[-1] == "marigold-demo: The checkpoint is damaged."


def test_a_fault_of_the_program_costs_one_photo_only(tmp_path, capsys, caplog):
    for n in range(3):
        write_photo(tmp_path / "in" / f"{n}.png")

    def faulty(photo: Photo, settings: DepthSettings, run: Run) -> DepthMap:
        if photo.stem == "1":
            raise ZeroDivisionError("by zero")
        return Ramp()(photo, settings, run)

    assert run("depth", tmp_path / "in", "--out", tmp_path / "out", "--files", "npy", predict=faulty) == 2
    assert "1.png: This program failed on it (ZeroDivisionError: by zero)" in capsys.readouterr().err
    assert files_below(tmp_path / "out") == {"0_depth.npy", "2_depth.npy"}


def test_reliefs_and_meshes_are_made_of_folders_too(tmp_path, capsys):
    photos, ramp = tmp_path / "in", Ramp()
    write_photo(photos / "a.png"), write_photo(photos / "sub/b.png")
    assert run("depth", photos, "--out", tmp_path / "depth", "--files", "npy", predict=ramp) == 0
    sizes = ("--relief-resolution", 128, "--format", "stl", "--report")
    assert run("relief", photos, "--out", tmp_path / "relief", *sizes, predict=ramp) == 0
    solids = list((tmp_path / "relief").rglob("*.stl"))
    assert {path.parent.name for path in solids} == {"relief", "sub"}
    assert all(trimesh.load_mesh(path).is_volume for path in solids)
    assert len(list((tmp_path / "relief").rglob("*.report.json"))) == 2
    mesh = ("mesh", tmp_path / "depth", "--out", tmp_path / "mesh", "--mesh-resolution", 128)
    assert run(*mesh, predict=ramp) == 0 and len(ramp.stems) == 4
    assert files_below(tmp_path / "mesh") == {"a_mesh.glb", "sub/b_mesh.glb"}
    capsys.readouterr()
    assert run(*mesh, "--photo", photos / "a.png", predict=ramp) == 2
    assert "--photo goes with one depth file" in capsys.readouterr().err


def test_two_runs_do_not_work_in_one_folder_and_a_line_cut_off_is_passed_over(tmp_path, capsys):
    ramp, out = Ramp(), tmp_path / "out"
    photos = [write_photo(tmp_path / name) for name in ("a.png", "b.png")]
    with only_run(out):
        assert run("depth", *photos, "--out", out, predict=ramp) == 2
    assert f"Another run works in {out}" in capsys.readouterr().err and not ramp.stems
    assert run("depth", *photos, "--out", out, predict=ramp) == 0
    manifest = out / "manifest.jsonl"
    manifest.write_bytes(manifest.read_bytes()[:-40])  # as after a power cut
    (out / ".marigold-demo-x.part").write_bytes(b"half")
    assert run("depth", *photos, "--out", out, predict=ramp) == 0 and ramp.stems == ["a", "b", "b"]
    assert set(Manifest(out).outputs().values()) == {"a", "b"} and not list(out.glob(".*"))
    with pytest.raises(SettingsError, match="cannot be made or used"), only_run(photos[0] / "no"):
        pass


@pytest.fixture(scope="module")
def scenes() -> list[Photo]:
    """Photos of two shapes, three of one of them."""
    names = ("bee", "cat", "dogs", "tiger")
    sizes = ((96, 72), (96, 72), (72, 96), (96, 72))
    opened = [Image.open(ROOT / f"marigold_demo/example_photos/{name}.jpg") for name in names]
    return [
        Photo(np.asarray(image.resize(size)), stem=name)
        for image, size, name in zip(opened, sizes, names, strict=True)
    ]


def test_photos_that_go_through_the_network_together_give_the_bytes_of_each_alone(scenes):
    settings = DepthSettings(resolution=96)
    keys = [batch_key(photo.size, settings) for photo in scenes]
    assert keys[0] == keys[1] == keys[3] != keys[2]
    assert batch_key(scenes[0].size, DepthSettings(resolution=96, start="noise")) is None
    group = [scenes[n] for n in (0, 1, 3)]
    together = predict_batch(group, settings)
    for photo, depth in zip(group, together, strict=True):
        alone = predict(photo, settings)
        assert (depth.values == alone.values).all() and (depth.uncertainty == alone.uncertainty).all()
        assert (depth.revision, depth.device) == (alone.revision, alone.device)
    assert np.abs(together[0].values - together[1].values).max() > 0.1


def children(pid: int) -> list[int]:
    """Return the processes of the pool of a run."""
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(n) for n in found if b"spawn_main" in Path(f"/proc/{n}/cmdline").read_bytes()]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="finds processes in /proc")
def test_a_killed_run_is_resumed_without_doing_a_photo_twice_or_leaving_half_a_file(tmp_path):
    """First a process of the pool is killed, which loses nothing, then the whole run."""
    photos, out = tmp_path / "in", tmp_path / "out"
    photos.mkdir()
    bee = Image.open(ROOT / "marigold_demo/example_photos/bee.jpg").resize((320, 240))
    for n in range(40):
        bee.rotate(9 * n).save(photos / f"{n}.png")
    quick = ("--resolution", "96", "--ensemble", "1", "--workers", "2")
    command = [sys.executable, "-m", "marigold_demo", "depth", photos, "--out", out, *quick]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, env=environment) as process:

        def wait_for(count: int) -> None:
            while process.poll() is None and (not list(out.glob("*.jsonl")) or len(rows(out)) < count):
                time.sleep(0.02)

        wait_for(2)
        workers = children(process.pid)
        os.kill(workers[0], signal.SIGKILL)
        wait_for(10)
        process.kill()
    done = rows(out)
    assert 10 <= len(done) < 40 and {row["status"] for row in done} == {"done"}
    states = [Path(f"/proc/{worker}/stat") for worker in workers]
    deadline = time.monotonic() + 20
    while any(state.exists() for state in states) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(state.exists() for state in states)  # nobody goes on behind the back of the next run
    for row in done:  # what is said to be done is there whole
        assert len(np.load(out / row["files"][0])) == 240
        for name in row["files"][1:]:
            Image.open(out / name).load()
    kept = {row["source"]: (out / row["files"][0]).stat().st_mtime_ns for row in done}

    finished = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    assert f"{40 - len(done)} of 40 photos done" in finished.stderr
    assert f"{len(done)} were done before" in finished.stderr
    assert len(rows(out)) == 40 and len({row["source"] for row in rows(out)}) == 40
    assert len(files_below(out)) == 3 * 40 and not list(out.glob(".*"))
    for row in rows(out):
        written = out / row["files"][0]
        assert written.stat().st_mtime_ns == kept.get(row["source"], written.stat().st_mtime_ns)
        assert row["device"].startswith("CPU") and "1 thread," in row["device"]
    one = predict(
        load_photo(photos / "0.png"), DepthSettings(resolution=96, ensemble=1)
    )  # one thread here as there
    assert (np.load(out / "0_depth.npy") == one.values).all()


def test_a_list_that_names_a_list_is_refused(tmp_path):
    (tmp_path / "a.txt").write_text("b.txt\n")
    _, problems = find_items([tmp_path / "a.txt"], out=tmp_path, depth_files=False)
    assert isinstance(problems[0], PhotoError) and "cannot name another one" in str(problems[0])
