"""Time the page and the work behind it: start, depth, relief, mesh. Prints one line for each.

    .venv/bin/python benchmarks/app.py [PHOTO]

The start is measured on a process of its own, until the page answers; the rest in this one, after a warm-up,
as the median of five. Depth is that of the embedded checkpoint at its default settings. A large photo is
decoded alternately in this process and in one of its own, as the page does it: the least of fifteen each.
"""

import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).parents[1]
SIZE = (1024, 768)
PATIENCE_S = 60


def start_s() -> float:
    """Return the seconds from `python app.py` until the page answers."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory() as cache:
        environment = os.environ | {"GRADIO_SERVER_PORT": str(port), "GRADIO_TEMP_DIR": cache}
        began = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, "app.py"], cwd=ROOT, env=environment, stdout=subprocess.DEVNULL
        )
        try:
            while time.perf_counter() - began < PATIENCE_S:
                try:
                    urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5).read()
                except OSError:
                    time.sleep(0.05)
                else:
                    return time.perf_counter() - began
        finally:
            process.terminate()
            process.wait()
    raise SystemExit(f"The page did not answer within {PATIENCE_S} s.")


def median_s(work: Callable[[], object], *, rounds: int = 5) -> float:
    """Return the median time of a piece of work, after one run that is not counted."""
    work()
    times = []
    for _ in range(rounds):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def decoding_s(rounds: int = 15) -> tuple[float, float]:
    """Return the least time to decode a 12-megapixel JPEG in this process and in a process of its own."""
    from marigold_demo.io import isolated, photo

    colors = np.random.default_rng(0).integers(0, 256, (300, 400, 3), dtype=np.uint8)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "photo.jpg"
        Image.fromarray(colors).resize((4000, 3000), Image.Resampling.BICUBIC).save(path, quality=90)
        isolated.load_photo(path)  # starts the server of these processes
        times = []
        for _ in range(rounds):
            for load in (photo.load_photo, isolated.load_photo):
                began = time.perf_counter()
                load(path).rgb.sum(dtype=np.uint64)  # every pixel has arrived
                times.append(time.perf_counter() - began)
    return min(times[::2]), min(times[1::2])


def main() -> None:
    """Measure and print."""
    from marigold_demo.examples import load_examples
    from marigold_demo.io import export
    from marigold_demo.io.photo import Photo, load_photo
    from marigold_demo.network.checkpoint import load_pipeline
    from marigold_demo.settings import DepthSettings, MeshSettings, ReliefSettings
    from marigold_demo.workflow import Workflow

    path = Path(sys.argv[1]) if len(sys.argv) > 1 else load_examples()[0].path
    photo = Photo(np.asarray(Image.fromarray(load_photo(path).rgb).resize(SIZE)))
    print(f"page answers after python app.py   {start_s():6.2f} s")
    here, isolated = decoding_s()
    print(f"12-megapixel JPEG, in this process {here:6.3f} s   in its own {isolated:.3f} s")
    began = time.perf_counter()
    pipeline = load_pipeline(DepthSettings().checkpoint)
    print(f"imports and embedded checkpoint    {time.perf_counter() - began:6.2f} s")
    depth = pipeline(photo, DepthSettings())
    rows: dict[str, Callable[[], object]] = {
        "depth, default settings": lambda: pipeline(photo, DepthSettings()),
        "relief STL": lambda: export.stl(Workflow.relief(depth, ReliefSettings())),
        "relief preview GLB": lambda: export.preview_glb(Workflow.relief(depth, ReliefSettings().preview())),
        "textured mesh GLB": lambda: export.glb(Workflow.surface(depth, photo, MeshSettings())),
    }
    for name, work in rows.items():
        print(f"{name:<34} {median_s(work):6.2f} s   ({SIZE[0]} × {SIZE[1]}, {os.cpu_count()} cores)")


if __name__ == "__main__":
    main()
