#!/usr/bin/env python3
"""Make marigold_demo/example_photos/ anew: free photos of packages, rendered scenes, all with depth.

When only the embedded checkpoint has changed:

    .venv/bin/python scripts/make_examples.py --depth-only

All needs ./synthetic (with scikit-image); scipy 1.9.3, the last release that held photos, is fetched by pip:

    .venv/bin/pip install ./synthetic
    .venv/bin/python scripts/make_examples.py
"""

import bz2
import io
import json
import pickle
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from marigold_demo.colormap import colorize
from marigold_demo.examples import load_examples
from marigold_demo.io.photo import load_photo
from marigold_demo.network.checkpoint import predict
from marigold_demo.settings import DepthSettings

OUT = Path(__file__).parents[1] / "marigold_demo" / "example_photos"
MANIFEST = OUT / "manifest.json"
SHEET = OUT.parents[1] / "docs" / "pictures" / "embedded_depths.jpg"  # for the model card
COLUMNS, CELL_PX = 7, (200, 150)
LONGEST_PX, QUALITY, MOST_BYTES = 1024, 86, 200_000
DEPTH_DB = 66  # peak signal to noise of stored depth: off by half a thousandth of the range


@dataclass(frozen=True)
class Entry:
    """One example: the name its file gets, its entry in the manifest, the settings of its relief."""

    stem: str
    title: str
    license: str
    source: str
    relief: dict[str, Any] = field(default_factory=dict)


PHOTOS = {
    "scipy/misc/face.dat": Entry(
        "raccoon",
        "Raccoon",
        "public domain",
        "public-domain-image.com, through SciPy 1.9.3 (scipy.misc.face)",
        {"relief_mm": 5, "frame": "round"},
    ),
    "astronaut.png": Entry(
        "astronaut",
        "Eileen Collins, astronaut",
        "public domain",
        "NASA, through scikit-image (data.astronaut)",
        {"relief_mm": 4, "frame": "round"},
    ),
    "coffee.png": Entry(
        "coffee",
        "A cup of coffee",
        "CC0-1.0",
        "Rachel Michetti, through scikit-image (data.coffee)",
        {"width_mm": 80},
    ),
    "chelsea.png": Entry(
        "chelsea",
        "Chelsea the cat",
        "CC0-1.0",
        "Stéfan van der Walt, through scikit-image (data.chelsea)",
        {"relief_mm": 4, "smooth_px": 2},
    ),
    "grace_hopper.jpg": Entry(
        "grace_hopper",
        "Grace Hopper, computer scientist",
        "public domain",
        "James S. Davis, US Navy, through Matplotlib (sample_data)",
        {"relief_mm": 4, "frame": "round"},
    ),
    "rocket.jpg": Entry(
        "rocket",
        "Rocket before its launch",
        "public domain",
        "SpaceX, through scikit-image (data.rocket)",
        {"width_mm": 150},
    ),
    "camera.png": Entry(
        "cameraman",
        "Cameraman",
        "CC0-1.0",
        "Lav Varshney, through scikit-image (data.camera)",
        {"relief_mm": 4},
    ),
    "scipy/misc/ascent.dat": Entry(
        "stairs",
        "Stairs",
        "public domain",
        "public-domain-image.com, through SciPy 1.9.3 (scipy.misc.ascent)",
    ),
}
SCENES = {
    ("street", 600): Entry("street", "A street", "CC0-1.0", "drawn by this project"),
    ("room", 600): Entry(
        "living_room", "A living room", "CC0-1.0", "drawn by this project", {"width_mm": 150}
    ),
    ("tabletop", 602): Entry(
        "bears", "Bears on a table", "CC0-1.0", "drawn by this project", {"relief_mm": 4}
    ),
    ("closeup", 600): Entry(
        "flowers", "Flowers from close by", "CC0-1.0", "drawn by this project", {"relief_mm": 5}
    ),
    ("tabletop", 502): Entry(
        "vases", "Vases and flowers", "CC0-1.0", "drawn by this project", {"relief_mm": 4}
    ),
    ("landscape", 602): Entry(
        "meadow",
        "A meadow behind a fence",
        "CC0-1.0",
        "drawn by this project",
        {"width_mm": 150, "frame": "bevel"},
    ),
}


def main() -> None:
    if "--depth-only" not in sys.argv[1:]:
        make_photos()
    manifest = [with_depth(about) for about in json.loads(MANIFEST.read_text(encoding="utf-8"))]
    write_manifest(manifest)
    draw_sheet()


def make_photos() -> None:
    from synthetic import render_scene

    OUT.mkdir(exist_ok=True)
    for old in OUT.glob("*.jpg"):
        old.unlink()
    old_scipy = fetch_scipy()
    manifest = [write(entry, read_photo(name, old_scipy)) for name, entry in PHOTOS.items()]
    for (kind, seed), entry in SCENES.items():
        manifest.append(
            write(entry, Image.fromarray(render_scene(seed, width=1024, height=768, kind=kind).photo))
        )
    write_manifest(manifest)


def write_manifest(manifest: list[dict[str, Any]]) -> None:
    MANIFEST.write_text(json.dumps(manifest, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def with_depth(about: dict[str, Any]) -> dict[str, Any]:
    """Write the depth of an example as the embedded checkpoint sees it; return its entry in the manifest."""
    photo = load_photo(OUT / about["file"])
    depth = predict(photo, DepthSettings())
    name = f"{photo.stem}_depth.jp2"
    Image.fromarray(depth.to_uint16()).save(
        OUT / name, quality_mode="dB", quality_layers=[DEPTH_DB], irreversible=True
    )
    return {**about, "depth": name, "revision": depth.revision}


def draw_sheet() -> None:
    """Draw every example over its colored depth."""
    examples = load_examples()
    width, height = CELL_PX
    rows = -(-len(examples) // COLUMNS)
    sheet = Image.new("RGB", (COLUMNS * width, rows * 2 * height), "white")
    for number, example in enumerate(examples):
        left, top = number % COLUMNS * width, number // COLUMNS * 2 * height
        depth = example.known_depth()
        assert depth is not None
        colored = Image.fromarray(colorize(depth.values))
        for place, picture in enumerate((Image.open(example.path).convert("RGB"), colored)):
            picture.thumbnail((width - 4, height - 4), Image.Resampling.LANCZOS)
            sheet.paste(picture, (left + (width - picture.width) // 2, top + place * height + 2))
    sheet.save(SHEET, quality=85, optimize=True, progressive=True)


def fetch_scipy() -> zipfile.ZipFile:
    with tempfile.TemporaryDirectory() as folder:
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
        subprocess.run([*pip, "--python-version", "3.11", "--dest", folder, "scipy==1.9.3"], check=True)
        wheel = next(Path(folder).glob("*.whl"))
        return zipfile.ZipFile(io.BytesIO(wheel.read_bytes()))


def read_photo(name: str, old_scipy: zipfile.ZipFile) -> Image.Image:
    if name.endswith("face.dat"):
        values = np.frombuffer(bz2.decompress(old_scipy.read(name)), dtype=np.uint8)
        return Image.fromarray(values.reshape(768, 1024, 3))
    if name.endswith("ascent.dat"):
        return Image.fromarray(np.array(pickle.loads(old_scipy.read(name)), dtype=np.uint8)).convert("RGB")
    return Image.open(sample_folder(name) / name).convert("RGB")


def sample_folder(name: str) -> Path:
    if name == "grace_hopper.jpg":
        import matplotlib

        return Path(matplotlib.get_data_path()) / "sample_data"
    import skimage

    return Path(skimage.__file__).parent / "data"


def write(entry: Entry, photo: Image.Image) -> dict[str, Any]:
    photo.thumbnail((LONGEST_PX, LONGEST_PX), Image.Resampling.LANCZOS)
    data = next(
        jpeg for quality in range(QUALITY, 40, -4) if len(jpeg := encode(photo, quality)) < MOST_BYTES
    )
    (OUT / f"{entry.stem}.jpg").write_bytes(data)
    about = {
        "file": f"{entry.stem}.jpg",
        "title": entry.title,
        "license": entry.license,
        "source": entry.source,
    }
    return {**about, "relief": entry.relief} if entry.relief else about


def encode(photo: Image.Image, quality: int) -> bytes:
    buffer = io.BytesIO()
    photo.save(buffer, "JPEG", quality=quality, optimize=True, progressive=True)
    return buffer.getvalue()


if __name__ == "__main__":
    main()
