#!/usr/bin/env python3
"""Make marigold_demo/example_photos/ anew: free photos of Debian and Python packages, with their depth.

When only the embedded checkpoint, or only the light on reliefs has changed:

    .venv/bin/python scripts/make_examples.py --depth-only
    .venv/bin/python scripts/make_examples.py --card-only

Depth of another method for each photo, which the page offers as a side beside the embedded one's:

    .venv/bin/python scripts/make_examples.py --method depth-anything/Depth-Anything-V2-Small-hf

The rest runs on Debian 12, fetches the packages itself and needs scikit-image (`pip install ./synthetic`):

    .venv/bin/python scripts/make_examples.py
"""

import argparse
import bz2
import io
import json
import re
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageOps

from marigold_demo.catalog import find
from marigold_demo.colormap import colorize
from marigold_demo.depth import DepthMap
from marigold_demo.examples import load_examples
from marigold_demo.geometry.rendering import GROUND
from marigold_demo.io.photo import Photo, load_photo
from marigold_demo.network.checkpoint import predict
from marigold_demo.settings import DepthSettings, ReliefSettings
from marigold_demo.ui.opening import CARD, CARD_PX
from marigold_demo.ui.preview import lit_picture
from marigold_demo.ui.session_store import DepthResult

OUT = Path(__file__).parents[1] / "marigold_demo" / "example_photos"
MANIFEST = OUT / "manifest.json"
SHEET = OUT.parents[1] / "docs" / "pictures" / "embedded_depths.jpg"  # for the model card
CARD_CENTER, CARD_QUALITY = (0.15, 0.5), 82  # where the first example has its subject: x, y in 0 to 1
COLUMNS, CELL_PX = 8, (200, 150)
LONGEST_PX, QUALITY, MOST_BYTES = 1280, 82, 134_000
TILE_PX, TILE_QUALITY = (192, 144), 72
DEPTH_DB = 62  # peak signal to noise of stored depth: off by less than a thousandth of the range


@dataclass(frozen=True)
class Entry:
    """One example: a file of a package, the name it gets, its entry in the manifest, its relief.

    The license is in the package's copyright file; for palapeli-data, in the photo's `.desktop` file.
    """

    package: str
    file: str
    stem: str
    title: str
    license: str
    author: str
    crop: tuple[int, int, int, int] | None = None  # left, top, right, bottom in pixels
    relief: dict[str, Any] = field(default_factory=dict)


SKIMAGE, SCIPY = "scikit-image", "scipy==1.9.3"  # the last release of SciPy that held photos
CATS, JIGSAW, PUZZLES = "gnome-taquin", "puzzle-jigsaw", "palapeli-data"
LOMIRI = "lomiri-wallpapers-16.04"
FOLDERS = {
    LOMIRI: "usr/share/backgrounds",
    CATS: "usr/share/gnome-taquin/themes/cats",
    JIGSAW: "usr/share/puzzle-jigsaw/samples",
    PUZZLES: "usr/share/palapeli/collection",
}
CC_BY, CC0, PUBLIC = "CC-BY-4.0", "CC0-1.0", "public domain"

# The first is the one that the page begins with.
PHOTOS = (
    Entry(
        LOMIRI,
        "seeding_by_Clements_Engelhardt.jpg",
        "dandelion",
        "Dandelions at sunset",
        CC0,
        "Clemens Engelhardt",
        crop=(0, 0, 3984, 2988),
    ),
    Entry(
        CATS,
        "1-Tortoiseshell.jpg",
        "cat",
        "A young cat",
        PUBLIC,
        "Toyah, Wikimedia Commons",
        crop=(200, 0, 2848, 2848),
        relief={"smooth_px": 2},
    ),
    Entry(
        LOMIRI,
        "friends_by_Aitzol_Berasategi.jpg",
        "dogs",
        "Two dogs at a window",
        CC_BY,
        "Aitzol Berasategi",
        crop=(300, 560, 1700, 2260),
    ),
    Entry(
        SKIMAGE,
        "astronaut.png",
        "astronaut",
        "Eileen Collins, astronaut",
        PUBLIC,
        "NASA",
        relief={"relief_mm": 4, "frame": "round"},
    ),
    Entry(LOMIRI, "Picture_0B_by_freespace.jpg", "fig", "A fig in a bowl", CC_BY, 'Trevor "Freespace"'),
    Entry(
        PUZZLES,
        "european-honey-bee.jpg",
        "bee",
        "A honey bee on an aster",
        PUBLIC,
        "John Severns",
        relief={"smooth_px": 2, "relief_mm": 5},
    ),
    Entry(JIGSAW, "pexels-photo-302304.jpeg", "tiger", "A tiger in the snow", CC0, "Pexels"),
    Entry(
        LOMIRI,
        "Wine_by_Jakkub_Mede.jpg",
        "drum",
        "A drum on a beanbag",
        CC_BY,
        "Jakub Mede",
        crop=(0, 1300, 2560, 3837),
    ),
    Entry(
        SKIMAGE, "coffee.png", "coffee", "A cup of coffee", CC0, "Rachel Michetti", relief={"width_mm": 80}
    ),
    Entry(
        PUZZLES,
        "citrus-fruits.jpg",
        "citrus",
        "Slices of citrus fruits",
        PUBLIC,
        "US Department of Agriculture",
    ),
    Entry(
        SCIPY,
        "scipy/misc/face.dat",
        "raccoon",
        "Raccoon",
        PUBLIC,
        "public-domain-image.com",
        relief={"relief_mm": 5, "frame": "round"},
    ),
    Entry(
        PUZZLES,
        "cincinnati-bridge.jpg",
        "bridge",
        "Roebling Suspension Bridge at night",
        PUBLIC,
        "Derek Jensen",
        relief={"width_mm": 150},
    ),
    Entry(LOMIRI, "Picture_1A_by_freespace.jpg", "brushes", "Paint brushes", CC_BY, 'Trevor "Freespace"'),
    Entry(
        LOMIRI,
        "sunset_by_Aitzol_Berasategi.jpg",
        "summit",
        "Sunset on a summit",
        CC_BY,
        "Aitzol Berasategi",
        crop=(1500, 1000, 4272, 2848),
    ),
    Entry(
        LOMIRI,
        "picosdeeuropa_by_Aitzol_Berasategi.jpg",
        "mountains",
        "Picos de Europa, mountains",
        CC_BY,
        "Aitzol Berasategi",
        crop=(1300, 450, 3264, 1850),
        relief={"width_mm": 150},
    ),
    Entry(
        LOMIRI,
        "aitzgorri_by_Aitzol_Berasategi.jpg",
        "trees",
        "Trees in fall",
        CC_BY,
        "Aitzol Berasategi",
        crop=(1200, 600, 3088, 2056),
        relief={"width_mm": 150},
    ),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--depth-only", action="store_true", help="the photos stay as they are")
    parser.add_argument("--card-only", action="store_true", help="draw the picture for links only")
    parser.add_argument(
        "--method", metavar="NAME", help="add depth of another checkpoint: folder or hub name"
    )
    args = parser.parse_args()
    if args.card_only:
        draw_card()
        return
    if args.method:
        add_method(args.method)
        return
    if not args.depth_only:
        make_photos()
    manifest = [with_depth(about) for about in json.loads(MANIFEST.read_text(encoding="utf-8"))]
    write_manifest(manifest)
    draw_sheet()
    draw_card()


def make_photos() -> None:
    OUT.mkdir(exist_ok=True)
    for old in OUT.iterdir():
        old.unlink()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for package in FOLDERS:
            unpack_debian(package, folder)
        write_manifest([write(entry, read_photo(entry, folder)) for entry in PHOTOS])


def write_manifest(manifest: list[dict[str, Any]], *, folder: Path = OUT) -> None:
    text = json.dumps(manifest, indent=2, ensure_ascii=False) + "\n"
    (folder / MANIFEST.name).write_text(text, encoding="utf-8")


def add_method(name: str, *, folder: Path = OUT) -> None:
    """Write depth of another method for each photo of a folder, and note it in the manifest.

    Depth of the same method that is there already is replaced.

    Raises:
        DemoError: The checkpoint cannot be had, or cannot predict.
    """
    settings = DepthSettings(checkpoint=name)
    known = find(settings.checkpoint)
    slug = re.sub(r"[^a-z0-9]+", "_", (known.short_title if known else Path(name).name).lower()).strip("_")
    manifest = json.loads((folder / MANIFEST.name).read_text(encoding="utf-8"))
    for about in manifest:
        photo = load_photo(folder / about["file"])
        depth = predict(photo, settings)
        file = write_depth(depth, folder / f"{photo.stem}_depth_{slug}.jp2")
        made = {"method": settings.checkpoint, "file": file, "prediction": depth.prediction}
        made |= {"revision": depth.revision, "meters": depth.meters, "fov_deg": depth.fov_deg}
        others = [other for other in about.get("others", []) if other["method"] != settings.checkpoint]
        about["others"] = [*others, {key: value for key, value in made.items() if value is not None}]
    write_manifest(manifest, folder=folder)


def write_depth(depth: DepthMap, path: Path) -> str:
    """Write depth in 16 bits; return the file's name."""
    image = Image.fromarray(depth.to_uint16())
    image.save(path, quality_mode="dB", quality_layers=[DEPTH_DB], irreversible=True)
    return path.name


def with_depth(about: dict[str, Any]) -> dict[str, Any]:
    """Write depth by the embedded checkpoint and the tile of an example; return its entry in the manifest."""
    photo = load_photo(OUT / about["file"])
    depth = predict(photo, DepthSettings())
    name = write_depth(depth, OUT / f"{photo.stem}_depth.jp2")
    tile = f"{photo.stem}_tile.webp"
    relief = ReliefSettings(**about.get("relief", {}))
    split(
        photo,
        lit_picture(
            DepthResult(photo, depth, DepthSettings()), replace(relief, frame="none"), longest_px=400
        ),
    ).save(OUT / tile, quality=TILE_QUALITY, method=6)
    return {**about, "depth": name, "tile": tile, "revision": depth.revision}


def split(photo: Photo, lit: np.ndarray[Any, Any]) -> Image.Image:
    """Return the photo above a diagonal and its lit relief below."""
    width, height = TILE_PX
    tile, relief = (ImageOps.fit(Image.fromarray(picture), TILE_PX) for picture in (photo.rgb, lit))
    below = Image.new("L", (2 * width, 2 * height))
    ImageDraw.Draw(below).polygon([(2 * width, 0), (2 * width, 2 * height), (0, 2 * height)], fill=255)
    tile.paste(relief, mask=below.resize(TILE_PX))
    return tile


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


def draw_card() -> None:
    """Draw the picture that stands for links to the page: the first example beside its lit relief."""
    example, (width, height) = load_examples()[0], CARD_PX
    photo, depth = load_photo(example.path), example.known_depth()
    assert depth is not None
    relief = replace(example.relief, frame="none")
    lit = lit_picture(DepthResult(photo, depth, DepthSettings()), relief, longest_px=max(photo.size))
    card = Image.new("RGB", CARD_PX, GROUND)
    half = (width // 2 - 2, height)
    for left, picture in ((0, photo.rgb), (width // 2 + 2, lit)):
        card.paste(ImageOps.fit(Image.fromarray(picture), half, centering=CARD_CENTER), (left, 0))
    card.save(CARD, quality=CARD_QUALITY, optimize=True, progressive=True)


def unpack_debian(package: str, folder: Path) -> None:
    place = folder / package
    place.mkdir()
    subprocess.run(["apt-get", "download", "--quiet", package], cwd=place, check=True)
    subprocess.run(["dpkg-deb", "--extract", next(place.glob("*.deb")), place], check=True)


def read_photo(entry: Entry, folder: Path) -> Image.Image:
    if entry.package == SCIPY:
        return read_raccoon(entry.file, folder)
    place = skimage_data() if entry.package == SKIMAGE else folder / entry.package / FOLDERS[entry.package]
    photo = Image.open(place / entry.file).convert("RGB")
    return photo.crop(entry.crop) if entry.crop else photo


def read_raccoon(name: str, folder: Path) -> Image.Image:
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
    subprocess.run([*pip, "--python-version", "3.11", "--dest", folder, SCIPY], check=True)
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
        values = np.frombuffer(bz2.decompress(wheel.read(name)), dtype=np.uint8)
    return Image.fromarray(values.reshape(768, 1024, 3))


def skimage_data() -> Path:
    import skimage

    return Path(skimage.__file__).parent / "data"


def write(entry: Entry, photo: Image.Image) -> dict[str, Any]:
    photo.thumbnail((LONGEST_PX, LONGEST_PX), Image.Resampling.LANCZOS)
    data = next(
        jpeg for quality in range(QUALITY, 40, -4) if len(jpeg := encode(photo, quality)) < MOST_BYTES
    )
    (OUT / f"{entry.stem}.jpg").write_bytes(data)
    name = entry.package.partition("==")[0]
    debian = "Debian package " if entry.package in FOLDERS else ""
    source = f"{entry.author}; {debian}{name}, {Path(entry.file).name}"
    about = {
        "file": f"{entry.stem}.jpg",
        "title": entry.title,
        "license": entry.license,
        "source": source + (", cropped" if entry.crop else ""),
    }
    return {**about, "relief": entry.relief} if entry.relief else about


def encode(photo: Image.Image, quality: int) -> bytes:
    buffer = io.BytesIO()
    photo.save(buffer, "JPEG", quality=quality, optimize=True, progressive=True)
    return buffer.getvalue()


if __name__ == "__main__":
    main()
