"""The table of odd files, where it is at hand, and damaged files of every kind, which are made here."""

import csv
import resource
import warnings
from pathlib import Path

import numpy as np
import pytest

from benchmarks.fuzz import damaged, make_seeds, read_as_visitor
from marigold_demo.errors import PhotoError
from marigold_demo.io.photo import load_photo

ODD = Path(__file__).parents[1] / ".." / "shared" / "data" / "odd_images"
COLORS = {"r": (220, 30, 30), "g": (30, 170, 60), "b": (40, 70, 220), "y": (240, 210, 40)}
GREYS = (87, 116, 78, 200)
LINES = (ODD / "expected.csv").read_text(encoding="utf-8").splitlines() if ODD.is_dir() else []
TABLE = list(csv.DictReader(LINES))
needs_table = pytest.mark.skipif(not TABLE, reason="../shared/data/odd_images is not here")


def corners_of(row: dict[str, str]) -> list[tuple[int, ...]]:
    if row["corners"] == "grey":
        return [(level,) * 3 for level in GREYS]
    return [COLORS[letter] for letter in row["corners"].split()]


@needs_table
@pytest.mark.parametrize("row", TABLE, ids=[row["what"] for row in TABLE])
def test_every_odd_file_behaves_as_its_table_says(row):
    try:
        photo = load_photo(ODD / row["file"])
    except PhotoError as refusal:
        assert row["expect"] in ("refuse", "either")
        assert len(str(refusal)) > 20
        return
    assert row["expect"] in ("accept", "either")
    assert photo.size == (int(row["width"]), int(row["height"]))
    height, width = photo.rgb.shape[:2]
    squares = [(24, 24), (24, width - 24), (height - 24, 24), (height - 24, width - 24)]
    for (y, x), color in zip(squares, corners_of(row), strict=False):
        allowed = 50 if "wide-gamut" in row["what"] else 30
        found = photo.rgb[y - 10 : y + 10, x - 10 : x + 10].reshape(-1, 3).mean(axis=0)
        assert np.abs(found - color).max() <= allowed


@needs_table
@pytest.mark.parametrize("name", ["palette_hole.png", "rgba_cutout.png"])
def test_hidden_magenta_is_nowhere(name):
    rgb = load_photo(ODD / name).rgb.astype(int)
    magenta = (rgb[..., 0] > 200) & (rgb[..., 1] < 80) & (rgb[..., 2] > 200)
    assert not magenta.any()


@needs_table
def test_a_picture_bomb_costs_no_memory():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(PhotoError, match="900 million"):
        load_photo(ODD / "bomb_30000.png")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # KB


def test_hundreds_of_damaged_files_end_in_a_result_or_a_known_error(tmp_path):
    seeds, outcomes, path = make_seeds(), set(), tmp_path / "visitor.bin"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for number in range(400):
            path.write_bytes(damaged(seeds, number)[1])
            outcomes.add(read_as_visitor(path))
    assert outcomes == {"photo", "depth", "refused"}


def test_undamaged_they_are_all_read(tmp_path):
    for name, data in make_seeds().items():
        path = tmp_path / name
        path.write_bytes(data)
        assert read_as_visitor(path, recipe=name.startswith("recipe")) in ("photo", "depth", "recipe"), name
