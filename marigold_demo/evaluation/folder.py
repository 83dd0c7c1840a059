"""Samples of a folder of photo and depth pairs that a manifest.csv names. Knows nothing of the paper's sets.

Layout, where ROOT is what the user names:

    ROOT/manifest.csv     columns name, rgb, depth, source; optionally space: "depth" or "ordinal"
    ROOT/rgb/...          photos
    ROOT/depth/...        .npz with `depth` (float [H, W], larger is farther) and optionally `valid` (bool)
"""

import csv
import io
import zipfile
from functools import partial
from pathlib import Path

import numpy as np

from marigold_demo.errors import DataError
from marigold_demo.evaluation.data_files import DataFiles
from marigold_demo.evaluation.samples import Pair, Protocol, Sample, checked_pair, read_rgb
from marigold_demo.io.photo import Photo

MANIFEST = "manifest.csv"
_NEEDED = ("name", "rgb", "depth", "source")


def folder_samples(root: Path) -> tuple[Sample, ...]:
    """Return the samples of a folder with a manifest, in its order.

    Raises:
        DataError: The manifest cannot be read, lacks a column, or names a file that is not there.
    """
    files = DataFiles(root)
    try:
        text = files.read(MANIFEST).decode("utf-8-sig")
        rows = list(csv.DictReader(io.StringIO(text, newline=""), strict=True))
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{root / MANIFEST} is not a CSV table in UTF-8; save it again.") from error
    if not rows:
        raise DataError(f"{root / MANIFEST} names no image; a row for each is needed.")
    missing = [column for column in _NEEDED if not all(row.get(column) for row in rows)]
    if missing:
        raise DataError(
            f"{root / MANIFEST} lacks {', '.join(missing)}; every row needs {', '.join(_NEEDED)}."
        )
    names = [row["name"] for row in rows]
    if len(set(names)) < len(names):
        raise DataError(f"{root / MANIFEST} gives two images the same name; names must differ.")
    absent = [row[key] for row in rows for key in ("rgb", "depth") if not (root / row[key]).is_file()]
    if absent:
        raise DataError(f"{root / absent[0]} is missing ({len(absent)} files in all that {MANIFEST} names).")
    return tuple(_sample(files, row) for row in rows)


def _sample(files: DataFiles, row: dict[str, str]) -> Sample:
    space = row.get("space") or "depth"
    if space not in ("depth", "ordinal"):
        raise DataError(f"{row['name']} has space {space!r} in {MANIFEST}; it must be depth or ordinal.")
    return Sample(
        name=row["name"],
        source=row["source"],
        protocol=Protocol(title=row["source"]),
        read=partial(_read_pair, files, rgb_name=row["rgb"], depth_name=row["depth"]),
        ordinal=space == "ordinal",
    )


def _read_pair(files: DataFiles, *, rgb_name: str, depth_name: str) -> Pair:
    photo = Photo(rgb=read_rgb(files.read(rgb_name), name=rgb_name), stem=Path(rgb_name).stem)
    try:
        with np.load(io.BytesIO(files.read(depth_name)), allow_pickle=False) as arrays:
            depth = arrays["depth"]  # [H, W]
            valid = arrays["valid"].astype(bool) if "valid" in arrays else np.isfinite(depth) & (depth > 0)
    except (OSError, KeyError, ValueError, TypeError, AttributeError, zipfile.BadZipFile) as error:
        raise DataError(f"{depth_name} is not an .npz with an array named 'depth'; save it again.") from error
    return checked_pair(photo, depth, valid, name=depth_name)
