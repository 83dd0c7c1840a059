"""A folder of photos against one call for each photo in one process, and memory over thousands.

    python benchmarks/folders.py                 # throughput, 64 photos, alternating
    python benchmarks/folders.py --memory 2000   # memory while so many small photos are done

Throughput: `marigold-demo depth FOLDER` and, in one process that has warmed up, `main(["depth", PHOTO, ...])`
for each photo, in turns. Reported are photos per second of the whole command, of its part after the first
photo is done, and processor time for each photo, which tells more on a machine that others use too.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from contextlib import redirect_stdout, suppress
from io import StringIO
from pathlib import Path

import numpy as np
import psutil
from PIL import Image

ROOT = Path(__file__).parents[1]
PHOTOS = ROOT / "marigold_demo" / "example_photos"
QUICK = ("--resolution", "64", "--ensemble", "1")  # for the memory of thousands


def main() -> None:
    """Measure what is asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--photos", type=int, default=64, help="in the folder")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--workers", type=int, help="as of the command")
    parser.add_argument("--memory", type=int, metavar="N", help="measure memory over N small photos instead")
    choices = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if choices.memory:
            measure_memory(Path(folder), choices.memory)
        else:
            measure_throughput(Path(folder), choices)


def measure_throughput(folder: Path, choices: argparse.Namespace) -> None:
    """Print a row for each round of both ways."""
    photos = folder / "in"
    photos.mkdir()
    examples = sorted(PHOTOS.glob("*.jpg"))
    for n in range(choices.photos):
        os.symlink(examples[n % len(examples)], photos / f"{n:05d}.jpg")
    best: dict[str, float] = {}
    for turn in range(choices.rounds):
        for way, measure in (("one call a photo", one_by_one), ("folder", whole_folder)):
            rate, steady, cpu_s = measure(photos, folder / f"{way} {turn}", choices)
            best[way] = max(best.get(way, 0.0), steady)
            print(
                f"{way}: {rate:.2f} photos/s, {steady:.2f} after the first, {cpu_s:.2f} s of processors a"
                f" photo; load {os.getloadavg()[0]:.1f}",
                flush=True,
            )
    print(f"ratio of the best: {best['folder'] / best['one call a photo']:.2f}")


def one_by_one(photos: Path, out: Path, choices: argparse.Namespace) -> tuple[float, float, float]:
    """Return photos per second, the same once warm, and processor time of one call for each photo."""
    code = f"import sys; sys.path[:0] = [{str(ROOT)!r}, {str(ROOT / 'benchmarks')!r}]; import folders;"
    code += f"folders.call_each({str(photos)!r}, {str(out)!r})"
    start, before = time.perf_counter(), os.times()
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    seconds, after = time.perf_counter() - start, os.times()
    cpu_s = after.children_user + after.children_system - before.children_user - before.children_system
    return choices.photos / seconds, float(said.split()[-1]), cpu_s / choices.photos


def call_each(photos: str, out: str) -> None:
    """Do each photo with a call of its own, and print the rate after the first."""
    from marigold_demo.cli.main import main as command

    start, paths = 0.0, sorted(Path(photos).iterdir())
    with redirect_stdout(StringIO()):
        for number, path in enumerate(paths):
            if number == 1:
                start = time.perf_counter()
            command(["depth", str(path), "--out", out])
    print((len(paths) - 1) / (time.perf_counter() - start))


def whole_folder(photos: Path, out: Path, choices: argparse.Namespace) -> tuple[float, float, float]:
    """Return photos per second, the same after the first is done, and processor time of the command."""
    workers = ("--workers", str(choices.workers)) if choices.workers else ()
    command = [sys.executable, "-m", "marigold_demo", "depth", str(photos), "--out", str(out), *workers]
    start, before = time.perf_counter(), os.times()
    first, done = 0.0, 0
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while process.poll() is None:
            time.sleep(0.05)
            if not first and (found := lines(out)):
                first, done = time.perf_counter(), found
    end, after = time.perf_counter(), os.times()
    assert lines(out) == choices.photos
    cpu_s = after.children_user + after.children_system - before.children_user - before.children_system
    return choices.photos / (end - start), (choices.photos - done) / (end - first), cpu_s / choices.photos


def lines(out: Path) -> int:
    """Return how many files the manifest has."""
    manifest = out / "manifest.jsonl"
    return manifest.read_bytes().count(b"\n") if manifest.exists() else 0


def measure_memory(folder: Path, count: int) -> None:
    """Print the memory of all processes of a run while it goes on."""
    photos, out = folder / "in", folder / "out"
    photos.mkdir()
    rng = np.random.default_rng(0)
    for n in range(count):
        colors = rng.integers(0, 255, (6, 8, 3), dtype=np.uint8)
        size = (320, 240) if n % 3 else (240, 320)
        Image.fromarray(colors).resize(size, Image.Resampling.BICUBIC).save(photos / f"{n:05d}.jpg")
    command = [sys.executable, "-m", "marigold_demo", "depth", str(photos), "--out", str(out), *QUICK]
    start, shown = time.perf_counter(), 0
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while process.poll() is None:
            time.sleep(0.2)
            done = lines(out)
            if done >= shown + count // 10:
                shown = done
                print(
                    f"{done} photos, {time.perf_counter() - start:.0f} s: {memory(process.pid)}", flush=True
                )
    print(f"{lines(out)} photos in {time.perf_counter() - start:.0f} s, status {process.returncode}")


def memory(pid: int) -> str:
    """Return the memory of a process and of all that it started, in megabytes without what they share."""
    sizes = []
    with suppress(psutil.NoSuchProcess):
        for process in [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]:
            with suppress(psutil.NoSuchProcess):
                sizes.append(process.memory_full_info().uss // 2**20)
    if not sizes:
        return "it has ended"
    return f"{sum(sizes)} MB in all, processes {' + '.join(str(size) for size in sizes if size > 20)}"


if __name__ == "__main__":
    main()
