import json
import runpy
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from marigold_demo.depth import DepthMap
from marigold_demo.errors import DataError
from marigold_demo.examples import FOLDER, load_examples
from marigold_demo.io.photo import load_photo
from marigold_demo.network.checkpoint import predict, revision_of
from marigold_demo.settings import DepthSettings, ReliefSettings
from marigold_demo.ui.layers import DepthStyle
from marigold_demo.ui.opening import CARD, CARD_PX, prepare
from marigold_demo.ui.preview import lit_picture
from marigold_demo.ui.session_store import DepthResult, SessionStore
from marigold_demo.workflow import Workflow
from tests import other_methods
from tests.pages import LENIENT, ROOT, Ball, make_tabs

pytestmark = LENIENT

FREE = {"CC0-1.0", "CC-BY-4.0", "public domain"}
EMBEDDED_FOLDER = Path(__file__).parents[1] / "marigold_demo" / "embedded"
REMAKE = "the embedded checkpoint has changed; run scripts/make_examples.py --depth-only"


def test_the_gallery_holds_free_photos_that_load_a_dozen_of_them_large():
    examples = load_examples()
    photos = [load_photo(example.path) for example in examples]
    sizes = [max(photo.size) for photo in photos]
    assert sizes.count(1280) >= 12 and min(sizes) >= 512 and max(sizes) == 1280
    assert (
        len({example.title for example in examples})
        == len({example.path for example in examples})
        == len(examples)
    )
    for example, photo in zip(examples, photos, strict=True):
        assert photo.notes == ()
        author, package_file = example.source.split("; ")
        assert example.license in FREE and author and "." in package_file
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 3_000_000


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
    assert {example.tile for example in load_examples()} == set(FOLDER.glob("*.webp"))


def test_a_tile_shows_the_photo_above_its_diagonal_and_plaster_below():
    for example in load_examples():
        with Image.open(example.tile) as opened:
            tile = opened.convert("RGB")
        photo = ImageOps.fit(Image.fromarray(load_photo(example.path).rgb), tile.size)
        shown, wanted = (np.asarray(picture).astype(np.int16) for picture in (tile, photo))
        rows, columns = np.indices(shown.shape[:2])
        place = rows / shown.shape[0] + columns / shown.shape[1]
        above, below = place < 0.95, place > 1.05
        assert np.abs(shown - wanted)[above].mean() < 12
        assert np.ptp(shown, axis=2)[below].mean() < 40 and shown[below].std() > 15


def test_the_share_card_shows_the_first_example_beside_its_lit_relief():
    example = load_examples()[0]
    photo, depth = load_photo(example.path), example.known_depth()
    lit = lit_picture(DepthResult(photo, depth, None), replace(example.relief, frame="none"), longest_px=320)
    assert CARD.stat().st_size < 150_000
    with Image.open(CARD) as opened:
        assert opened.format == "JPEG" and opened.size == CARD_PX
        card = opened.convert("L")
    for left, wanted in ((0, photo.rgb), (CARD_PX[0] // 2, lit)):
        half = card.crop((left, 0, left + CARD_PX[0] // 2, CARD_PX[1])).resize((100, 105))
        fits = (
            ImageOps.fit(Image.fromarray(wanted).convert("L"), (100, 105), centering=(x / 20, 0.5))
            for x in range(21)
        )
        shown = np.asarray(half).ravel()
        assert max(np.corrcoef(shown, np.asarray(fit).ravel())[0, 1] for fit in fits) > 0.85


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
        (json.dumps([entry(tile="b.webp")]), "not a file"),
        (json.dumps([entry(relief={"depth_mm": 3})]), "depth_mm"),
        (json.dumps([entry(relief={"width_mm": 3})]), "width_mm is 3"),
        (json.dumps([entry(relief=[1])]), "cannot be used"),
        (json.dumps([entry(others=[{"method": "a/b", "file": "b.jp2"}])]), "not a file"),
        (json.dumps([entry(others=[{"method": "a/b", "file": "../a.jpg"}])]), "not a file"),
        (json.dumps([entry(others=[{"method": " ", "file": "a.jpg"}])]), "cannot be used"),
        (json.dumps([entry(others=[{"method": "a/b", "file": "a.jpg", "meters": 3}])]), "cannot be used"),
        (
            json.dumps([entry(others=[{"method": "a/b", "file": "a.jpg", "prediction": "x"}])]),
            "cannot be used",
        ),
        (json.dumps([entry(others=["a.jpg"])]), "cannot be used"),
    ],
)
def test_a_wrong_manifest_is_named(tmp_path, manifest, reason):
    (tmp_path / "a.jpg").touch()
    (tmp_path / "manifest.json").write_text(manifest)
    with pytest.raises(DataError, match=reason):
        load_examples(tmp_path)


def test_an_example_brings_depth_of_other_methods_which_stand_beside_its_own(tmp_path, monkeypatch):
    """The script, with toy weights; no network is asked when the page takes the example."""
    for file in FOLDER.glob("coffee*"):
        shutil.copy(file, tmp_path)
    coffee = next(
        one for one in json.loads((FOLDER / "manifest.json").read_text()) if "coffee" in one["file"]
    )
    (tmp_path / "manifest.json").write_text(json.dumps([coffee]))
    script = runpy.run_path(str(ROOT / "scripts" / "make_examples.py"))
    toys = {
        kind: str(other_methods.save(kind, tmp_path / f"{kind}_toy")) for kind in ("glpn", "depth_anything")
    }
    for name in (*toys.values(), toys["glpn"]):  # one of them again
        script["add_method"](name, folder=tmp_path)
    [example] = load_examples(tmp_path)
    assert [other.method for other in example.others] == [toys["depth_anything"], toys["glpn"]]
    photo = load_photo(example.path)
    for other in example.others:
        made = predict(photo, other.settings)
        stored = other.read()
        assert ((stored.values - made.values) ** 2).mean() ** 0.5 < 1e-3
        assert stored.meters == made.meters and stored.revision == made.revision
        assert stored.prediction == made.prediction
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "cache"))
    store = SessionStore(Workflow(Ball()))
    tabs = make_tabs(store)
    key = tabs.photo.take_example(example, at_once=True)[tabs.photo.key]
    steps = tabs.depth.stream(key, DepthSettings(), sides=("Photo", "Difference 2"), style=DepthStyle())
    *_, last = steps
    result = store.result(last[tabs.depth.key])
    assert [other.name for other in result.others] == ["Depth of depth_anything_toy", "Depth of glpn_toy"]
    np.testing.assert_array_equal(result.depth.values, example.known_depth().values)
    assert last[tabs.depth.right].value == "Difference 2"
    opening = prepare(store, [example])
    assert [other.name for other in opening.result.others] == [other.name for other in result.others]
