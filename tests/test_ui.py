"""What the page says, shows and keeps, without a server."""

import time
import zipfile
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import gradio as gr
import numpy as np
import pytest

from marigold_demo.catalog import CATALOG, EMBEDDED, SMALL, as_markdown
from marigold_demo.depth import CheckpointStatus, DepthMap, Progress
from marigold_demo.errors import DemoError, PhotoError, SettingsError
from marigold_demo.examples import load_examples
from marigold_demo.io.cache_folder import CacheFolder
from marigold_demo.io.photo import Photo
from marigold_demo.recipe import load_recipe
from marigold_demo.settings import DepthSettings, MeshSettings, ReliefSettings, options_of
from marigold_demo.ui import build_page, layers, model_picker, opening, widgets
from marigold_demo.ui.layers import DepthStyle
from marigold_demo.ui.messages import ProgressText, size_in_words, status, user_errors
from marigold_demo.ui.object_tab import build_zip
from marigold_demo.ui.page import Tabs
from marigold_demo.ui.session_store import DepthResult, OtherDepth, SessionStore
from marigold_demo.ui.widgets import MAX_NETWORK
from marigold_demo.workflow import PeriodicTask, Workflow
from tests.conftest import make_photo
from tests.pages import LENIENT, ROOT, Ball, ball, draw_photo, make_tabs

pytestmark = LENIENT
BEST = CATALOG[1].name
LCM = next(known.name for known in CATALOG if "LCM" in known.title)


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    return SessionStore(Workflow(Ball()))


def result(*, settings=None, uncertain: bool = False) -> DepthResult:
    values = ball(48, 64)
    spread = np.linspace(0, 0.1, values.size, dtype=np.float32).reshape(values.shape) if uncertain else None
    return DepthResult(make_photo(48, 64, stem="lake"), DepthMap(values, spread), settings)


# What the page says


def test_time_left_is_what_the_steps_so_far_foretell():
    clock = Clock()
    text = ProgressText(clock)
    assert text.show(Progress("denoise", 0, 4)) == "Step 1 of 4"
    clock.now_s = 30
    assert text.show(Progress("denoise", 1, 4)) == "Step 2 of 4 · about 2 min left"
    clock.now_s = 40
    assert text.show(Progress("denoise", 2, 4)) == "Step 3 of 4 · about 40 s left"


def test_waiting_does_not_count_as_work():
    clock = Clock()
    text = ProgressText(clock)
    text.show(Progress("wait", 0, 0))
    clock.now_s = 1000
    text.show(Progress("denoise", 0, 2))
    clock.now_s = 1005
    assert "about 5.0 s left" in text.show(Progress("denoise", 1, 2))


def test_a_download_is_told_in_megabytes_and_is_timed_for_itself():
    clock = Clock()
    text = ProgressText(clock)
    assert text.show(Progress("download", 0, 2600)) == "Downloading the model: 0 of 2,600 MB"
    clock.now_s = 10
    told = text.show(Progress("download", 650, 2600))
    assert told == "Downloading the model: 650 of 2,600 MB · about 30 s left"
    assert text.share == 0.25
    assert text.show(Progress("load", 0, 0)) == "Loading the model"
    clock.now_s = 100
    assert text.show(Progress("denoise", 0, 4)) == "Step 1 of 4"
    clock.now_s = 101
    assert text.show(Progress("denoise", 1, 4)) == "Step 2 of 4 · about 3.0 s left"


def test_what_there_is_to_know_of_the_depth_stands_behind_the_time():
    text = ProgressText(Clock())
    assert text.done() == "Done in 0.1 s"
    assert text.done(["It is small."]) == "Done in 0.1 s. It is small."


def test_who_waits_reads_how_many_are_before():
    assert ProgressText().show(Progress("wait", 0, 1)) == "Another photo is being worked on. Yours is next."
    assert ProgressText().show(Progress("wait", 0, 3)) == "3 photos are before yours."


def test_a_generator_that_fails_says_so_before_it_ends():
    def refuse():
        yield 1
        raise PhotoError("There is <no> photo.")

    steps = user_errors(refuse, also=lambda words: ("said", words))()
    assert [next(steps), next(steps)] == [1, ("said", "There is <no> photo.")]
    with pytest.raises(gr.Error, match="&lt;no&gt;"):
        next(steps)


def test_an_error_of_the_visitor_is_said_as_it_is():
    def refuse():
        raise PhotoError("The file is empty; choose another.")

    with pytest.raises(gr.Error) as raised:
        user_errors(refuse)()
    assert raised.value.message == "The file is empty; choose another."
    assert raised.value.print_exception is False


def test_an_error_nobody_foresaw_says_nothing_of_the_inside(caplog):
    def break_down():
        raise KeyError("/secret/path")
        yield

    with pytest.raises(gr.Error) as raised:
        list(user_errors(break_down)())
    assert "secret" not in raised.value.message
    assert caplog.records[0].exc_info[0] is KeyError


def test_closing_a_spoken_generator_closes_the_handler():
    closed = []

    def handler():
        try:
            yield 1
            yield 2
        finally:
            closed.append(True)

    steps = user_errors(handler)()
    next(steps)
    steps.close()
    assert closed == [True]


def test_the_status_line_shows_names_as_text():
    assert "<b>" not in status("a <b> photo")


@pytest.mark.parametrize(("count", "words"), [(12, "12 B"), (1500, "1.5 kB"), (20_400_000, "20 MB")])
def test_sizes_are_said_in_units_people_know(count, words):
    assert size_in_words(count) == words


# Which model


def status_of(settings):
    """Return a status by which settings can be distinguished; only LCM and the draft are here."""
    here = settings.checkpoint in (EMBEDDED, LCM)
    return CheckpointStatus(0 if here else 2_600_000_000, 6.0 * (settings.ensemble or 1))


def test_the_choice_tells_what_is_ready_and_what_has_to_be_fetched():
    titles = {name: title for title, name in model_picker.model_choices(status_of)}
    assert titles[EMBEDDED] == "Draft (embedded, instant) · ready"
    assert titles[BEST] == "Marigold v1-1 (best) · 2.6 GB to download"


def test_without_a_source_the_choice_says_nothing_of_downloads():
    titles = " ".join(title for title, _ in model_picker.model_choices(None))
    assert "ready" not in titles and "download" not in titles
    assert "Ready" not in model_picker.about_model(None, DepthSettings())


def test_download_and_last_time_are_those_of_the_settings():
    told = model_picker.about_model(status_of, DepthSettings(checkpoint=BEST, ensemble=5))
    assert "Downloads 2.6 GB once · took 30 s last time" in told
    assert "Ready on this machine · took 6.0 s last time" in model_picker.about_model(
        status_of, DepthSettings()
    )


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (CheckpointStatus(), "Ready on this machine"),
        (CheckpointStatus(download_bytes=5 * 10**9), "Downloads 5.0 GB once"),
        (CheckpointStatus(download_bytes=None), "Downloads its weights once"),
        (CheckpointStatus(last_s=90.0), "Ready on this machine · took 2 min last time"),
    ],
)
def test_of_what_is_unknown_the_status_says_nothing(status, words):
    assert model_picker.status_text(status) == words


def offered(has_gpu=False, made_by=EMBEDDED, **missing):
    """Return what refines a depth where models are out of reach (None), here (0) or to be fetched."""
    missing = {SMALL.name: missing.get("small"), BEST: missing.get("best"), LCM: missing.get("lcm")}

    def status_of(settings):
        bytes_ = missing.get(settings.checkpoint)
        return CheckpointStatus(bytes_, reachable=bytes_ is not None, has_gpu=has_gpu)

    return model_picker.refinement(status_of, result(settings=DepthSettings(checkpoint=made_by)))


def test_a_draft_is_refined_by_the_small_model_and_on_a_gpu_by_the_best_that_is_here():
    draft = result(settings=DepthSettings(seed=7, ensemble=3, steps=1, resolution=256))
    found = model_picker.refinement(None, draft)
    assert found.settings == DepthSettings(checkpoint=SMALL.name, seed=7, ensemble=3)
    assert offered(small=99_000_000, best=0).words == "Refine · 99 MB · about 1 s"
    assert offered(small=0, best=0).words == "Refine with Depth Anything V2 Small"
    assert "about 1 s" in model_picker.status_text(offered(small=0).status, SMALL)
    for known, found in (
        (BEST, offered(best=5_200_000_000, lcm=None)),
        (LCM, offered(best=5_200_000_000, lcm=0)),
        (BEST, offered(True, best=2_600_000_000, small=0)),
        (LCM, offered(True, best=2_600_000_000, lcm=0, small=0)),
        (SMALL.name, offered(True, small=0)),
        (BEST, offered(made_by=SMALL.name, small=0, best=5_200_000_000, lcm=0)),  # the finest one follows
    ):
        assert found.known.name == found.settings.checkpoint == known
    assert offered() is None is offered(made_by=SMALL.name, small=0, lcm=0)
    never = model_picker.refinement(lambda settings: CheckpointStatus(permitted=False), draft)
    assert never is None


@pytest.mark.parametrize("settings", [None, DepthSettings(checkpoint=LCM), DepthSettings(checkpoint=BEST)])
def test_what_is_no_draft_is_not_refined(settings):
    assert model_picker.refinement(status_of, result(settings=settings)) is None


# Photos


def test_a_file_that_cannot_be_used_changes_the_status_line_only(store, tmp_path):
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "words.json").write_text('{"color": "red"}')
    photo = make_tabs(store).photo
    for name, words in (("empty.png", "empty"), ("words.json", "no recipe"), ("gone", "no such file")):
        said = photo.take_file({"path": str(tmp_path / name)}, "", True, None)
        assert list(said) == [photo.status]
        assert words in said[photo.status] and "alert" in said[photo.status]


@pytest.mark.parametrize("how", ["", "null", "[1]", "{", '{"others": 2}'])
def test_of_several_files_the_first_is_taken_and_the_page_says_so(store, tmp_path, how):
    photo, path = make_tabs(store).photo, draw_photo(tmp_path)
    said = photo.take_file({"path": str(path)}, how, True, None)
    assert store.photo(said[photo.key]).size == (640, 480)
    assert ("Several files" in said[photo.notes]) == ("others" in how)


def test_an_example_at_the_default_settings_never_asks_the_network(tmp_path, monkeypatch):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    ball = Ball()
    store = SessionStore(Workflow(ball))
    example, photo = load_examples()[0], make_tabs(store).photo
    key = photo.take_example(example, True)[photo.key]
    depth = store.workflow.estimate(store.photo(key), DepthSettings())
    np.testing.assert_array_equal(depth.values, example.known_depth().values)
    assert ball.runs == 0
    store.workflow.estimate(store.photo(key), DepthSettings(ensemble=2))
    assert ball.runs == 1


def test_each_tile_of_the_strip_brings_its_example_and_its_settings(store):
    with gr.Blocks() as page:
        tabs = Tabs(store, None, examples=load_examples(), defaults=DepthSettings())
        tabs.connect(page)
    photo, objects = tabs.photo, tabs.objects
    before = (False, (), "standard", *(field.value for field in objects.all_fields))
    for index, example in enumerate(load_examples()):
        taken = photo.take_chosen_example(gr.EventData(None, {"index": index}), *before)
        assert store.photo(taken[photo.key]).stem == example.path.stem
        assert taken[objects.relief.fields["width_mm"]] == example.relief.width_mm
    for wrong in (-1, len(load_examples()), None):
        with pytest.raises(PhotoError, match="no such example"):
            photo.take_chosen_example(gr.EventData(None, {"index": wrong}), *before)


# Settings and widgets


@pytest.mark.parametrize("settings", [DepthSettings(), ReliefSettings(), MeshSettings()])
@pytest.mark.parametrize("sliders", [True, False])
def test_what_the_widgets_show_at_first_are_the_defaults(settings, sliders):
    names = list(options_of(settings))
    with gr.Blocks():
        made = widgets.create(settings, names, group="test", sliders=sliders)
    shown = {name: widget.value for name, widget in made.items()}
    assert widgets.read(type(settings), shown) == settings


@pytest.mark.parametrize("settings", [DepthSettings(steps=3, resolution=512), MeshSettings(fov_deg=33.5)])
def test_settings_survive_the_way_through_the_widgets(settings):
    names = list(options_of(settings))
    values = dict(zip(names, widgets.shown(settings, names), strict=True))
    assert widgets.read(type(settings), values) == settings


def test_every_label_tells_its_unit():
    for settings in (DepthSettings, ReliefSettings, MeshSettings):
        for name, option in options_of(settings).items():
            label = widgets.label(name, option)
            assert option.unit in label
            assert "_" not in label


def test_a_word_where_a_number_belongs_gets_a_sentence():
    with pytest.raises(SettingsError, match="steps must be a number, or empty for automatic"):
        widgets.read(DepthSettings, {"steps": "many"})


# The end of the page


def test_the_page_and_the_readme_say_the_same_of_marigold():
    readme, page = " ".join((ROOT / "README.md").read_text().split()), opening.about()
    for words in (
        opening.MARIGOLD,
        opening.TUNING,
        opening.FIGURES,
        opening.OTHER_ROWS,
        opening.BIBTEX,
        as_markdown(),
    ):
        assert " ".join(words.split()) in readme
    assert len(page.encode()) < 30_000
    assert "<b>5.5</b> / <b>96.4</b>" in page and page.count('<tr><th scope="row">') == 14
    for name in ("inference", "fine_tuning"):
        drawing = ElementTree.parse(ROOT / "marigold_demo" / "ui" / f"{name}.svg").getroot()
        assert drawing.get("aria-label") and f"ui/{name}.svg" in readme


# Pictures


@pytest.mark.parametrize("name", layers.LAYERS)
def test_every_side_has_the_shape_of_the_photo(name):
    others = tuple(OtherDepth(f"{number}", DepthMap(ball(96, 128))) for number in range(3))
    made = replace(result(uncertain=True), others=others)
    assert layers.render(made, name, DepthStyle()).shape == (48, 64, 3)


def test_the_relief_lies_on_the_photo_and_follows_its_settings():
    made = result()
    plain, engraved = (
        layers.render(made, layers.RELIEF, DepthStyle(), relief=ReliefSettings(resolution=128, mode=mode))
        for mode in ("emboss", "engrave")
    )
    near = made.depth.values < np.quantile(made.depth.values, 0.2)
    assert plain[near].mean() > engraved[near].mean() + 20


def test_uncertainty_of_a_single_prediction_gets_a_sentence():
    assert layers.UNCERTAINTY not in layers.available(result())
    with pytest.raises(SettingsError, match="set “Predictions to combine” to 3 or more"):
        layers.render(result(), layers.UNCERTAINTY, DepthStyle())


def test_near_is_bright_in_the_gray_picture():
    made = result()
    gray = layers.render(made, layers.GRAY, DepthStyle())[..., 0].astype(float)
    assert np.corrcoef(gray.ravel(), made.depth.values.ravel())[0, 1] < -0.99


def test_flat_depth_is_shaded_evenly():
    assert np.ptp(layers.shade(np.full((20, 30), 0.5, dtype=np.float32)), axis=(0, 1)).max() == 0


def test_a_look_whose_planes_cross_gets_a_sentence():
    with pytest.raises(SettingsError, match=r"far must be at least 0.01 more than near"):
        DepthStyle(near=0.5, far=0.5)


# What the server keeps


def test_large_depth_is_shown_small_and_kept_whole():
    photo = Photo(np.zeros((1500, 2600, 3), dtype=np.uint8))
    made = DepthResult(photo, DepthMap(np.zeros((1500, 2600), dtype=np.float32)), None)
    assert made.screen_depth.size == (1280, 738)
    assert made.screen_photo.shape == (738, 1280, 3)
    assert made.depth.size == (2600, 1500)


def test_keys_cannot_be_guessed_and_lead_back(store):
    photo, made = make_photo(20, 20), result()
    keys = {store.add_photo(photo) for _ in range(50)}
    assert len(keys) == 50
    assert all(len(key) >= 20 for key in keys)
    assert store.result(store.add_result(made)) is made


def test_what_is_gone_gets_a_sentence(store):
    for find in (store.photo, store.result):
        with pytest.raises(DemoError):
            find(None)
        with pytest.raises(DemoError, match="left the server's memory"):
            find("no such key")


def test_what_the_page_is_made_of_and_what_is_new_outlives_a_tidying(store):
    made = store.folder() / "photo.jpg"
    made.write_bytes(b"of the page")
    store.files.keep_what_is_there()
    new = store.folder()
    store.sweep()
    assert made.exists()
    assert new.exists()


def test_old_files_go_from_the_start_of_the_server_before_anybody_came(tmp_path, monkeypatch):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    store = SessionStore(Workflow(Ball()), files=CacheFolder(tmp_path / "cache", keep_s=0.1))
    store.sweeper = PeriodicTask(store.sweep, every_s=0.02)
    page = build_page(store.workflow, store=store)
    left = tmp_path / "cache" / "folder" / "left.png"
    left.parent.mkdir(parents=True)
    left.write_bytes(b"of an upload that broke off")
    page.temp_file_sets[-1] |= {str(left), str(Path(__file__))}
    for _ in range(500):
        if not left.exists() and str(left) not in page.temp_file_sets[-1]:
            break
        time.sleep(0.02)
    assert not left.exists()
    assert page.temp_file_sets[-1] == {str(Path(__file__))}


# Files


def test_a_recipe_comes_back_from_every_file_that_carries_it(store):
    relief, mesh = ReliefSettings(width_mm=70, resolution=128), MeshSettings(resolution=128)
    made = result(settings=DepthSettings(seed=7))
    path = build_zip(store, made, relief=relief, mesh=mesh, colored=DepthStyle().colored(made.depth.values))
    with zipfile.ZipFile(path) as archive:
        archive.extractall(Path(path).parent)
    for file in Path(path).parent.iterdir():
        if file.suffix in (".json", ".glb", ".3mf"):
            recipe = load_recipe(file)
            assert recipe.depth == DepthSettings(seed=7)
            assert recipe.photo == made.photo.digest
    assert load_recipe(Path(path).parent / "lake_recipe.json").relief == relief


def test_a_file_without_a_recipe_gets_a_sentence(tmp_path):
    (tmp_path / "empty.json").write_bytes(b"")
    with pytest.raises(SettingsError, match="empty"):
        load_recipe(tmp_path / "empty.json")
    (tmp_path / "other.json").write_text('{"color": "red"}')
    with pytest.raises(SettingsError):
        load_recipe(tmp_path / "other.json")


# The page as a whole


def test_only_the_three_endpoints_are_public(store):
    page = build_page(Workflow(Ball()))
    public = {fn.api_name for fn in page.fns.values() if fn.api_visibility == "public"}
    assert public == {"depth", "relief", "mesh"}


def test_all_that_uses_the_network_shares_one_place(store):
    page = build_page(Workflow(Ball()))
    network = [fn for fn in page.fns.values() if fn.concurrency_id == "network"]
    assert len(network) == 3  # the page's run, its comparison and the endpoint
    assert {fn.concurrency_limit for fn in network} == {MAX_NETWORK}  # the workflow lets one run at a time
