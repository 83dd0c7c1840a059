import json
from pathlib import Path

import numpy as np
import pytest

from marigold_demo.depth import DepthMap
from marigold_demo.errors import DataError
from marigold_demo.examples import FOLDER, load_examples
from marigold_demo.io.photo import load_photo
from marigold_demo.network.checkpoint import revision_of
from marigold_demo.settings import DepthSettings, ReliefSettings

FREE = {"CC0-1.0", "public domain"}
EMBEDDED_FOLDER = Path(__file__).parents[1] / "marigold_demo" / "embedded"
REMAKE = "the embedded checkpoint has changed; run scripts/make_examples.py --depth-only"


def test_the_gallery_holds_a_dozen_free_photos_that_load():
    examples = load_examples()
    assert len(examples) >= 12
    assert (
        len({example.title for example in examples})
        == len({example.path for example in examples})
        == len(examples)
    )
    for example in examples:
        photo = load_photo(example.path)
        assert 300 <= max(photo.size) <= 1024 and photo.notes == ()
        assert example.path.stat().st_size < 200_000
        assert example.license in FREE and len(example.source) > 10


def test_each_example_brings_depth_at_the_size_of_its_photo():
    for example in load_examples():
        depth = example.known_depth()
        assert depth.size == load_photo(example.path).size
        assert 0 <= depth.values.min() < 0.1 and 0.9 < depth.values.max() <= 1
        assert len(np.unique(depth.values)) > 1000  # more than eight bits
    assert sum(example.depth.stat().st_size for example in load_examples()) < 1_200_000


def test_the_depth_of_the_examples_is_that_of_the_embedded_checkpoint():
    assert {example.revision for example in load_examples()} == {revision_of(EMBEDDED_FOLDER)}, REMAKE


@pytest.mark.slow
def test_the_depth_that_is_stored_is_the_depth_that_the_network_gives():
    from marigold_demo.network.checkpoint import predict

    example = load_examples()[2]
    depth = predict(load_photo(example.path), DepthSettings())
    assert isinstance(depth, DepthMap)
    assert depth.revision == example.revision
    assert np.abs(depth.values - example.known_depth().values).mean() < 2e-3


def test_every_picture_of_the_folder_is_in_the_manifest():
    assert {example.path for example in load_examples()} == set(FOLDER.glob("*.jpg"))
    assert {example.depth for example in load_examples()} == set(FOLDER.glob("*.jp2"))


def test_without_a_manifest_there_are_no_examples(tmp_path):
    assert load_examples(tmp_path) == ()


def entry(**changes: object) -> dict[str, object]:
    return {"file": "a.jpg", "title": "A", "license": "CC0-1.0", "source": "somebody", **changes}


def test_settings_are_given_by_name(tmp_path):
    (tmp_path / "a.jpg").touch()
    (tmp_path / "manifest.json").write_text(
        json.dumps([entry(relief={"width_mm": 60, "frame": "none"}), entry()])
    )
    first, second = load_examples(tmp_path)
    assert first.relief == ReliefSettings(width_mm=60, frame="none") and second.relief == ReliefSettings()


@pytest.mark.parametrize(
    ("manifest", "reason"),
    [
        ("{", "not JSON"),
        ("{}", "a list"),
        ("[1]", "a list"),
        (json.dumps([entry(title="")]), "lacks"),
        (json.dumps([entry(file="b.jpg")]), "not a file"),
        (json.dumps([entry(file="../a.jpg")]), "not a file"),
        (json.dumps([entry(depth="b.jp2")]), "not a file"),
        (json.dumps([entry(relief={"depth_mm": 3})]), "depth_mm"),
        (json.dumps([entry(relief={"width_mm": 3})]), "width_mm is 3"),
        (json.dumps([entry(relief=[1])]), "cannot be used"),
    ],
)
def test_a_wrong_manifest_is_named(tmp_path, manifest, reason):
    (tmp_path / "a.jpg").touch()
    (tmp_path / "manifest.json").write_text(manifest)
    with pytest.raises(DataError, match=reason):
        load_examples(tmp_path)
