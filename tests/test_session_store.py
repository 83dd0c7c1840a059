"""What visitors compare and measure on the page, without a server."""

import time
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from marigold_demo.catalog import OTHER_METHODS
from marigold_demo.colormap import MOST_CONTOURS
from marigold_demo.depth import DepthMap, align, invert
from marigold_demo.errors import DemoError, SettingsError
from marigold_demo.geometry.textured_mesh import build_surface
from marigold_demo.settings import DepthSettings, MeshSettings, ReliefSettings
from marigold_demo.ui import layers
from marigold_demo.ui.layers import DepthStyle, use_length
from marigold_demo.ui.session_store import DepthResult, OtherDepth, SessionStore
from marigold_demo.workflow import Workflow
from tests.conftest import make_photo
from tests.pages import LENIENT, Ball, ball, make_tabs

pytestmark = LENIENT
ENDS = ((0.35, 0.5), (0.65, 0.5))


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    return SessionStore(Workflow(Ball()))


def result(*, settings: DepthSettings | None = None, shift: float = 0) -> DepthResult:
    values = np.clip(ball(48, 64) + np.float32(shift), 0, 1)
    return DepthResult(make_photo(48, 64, stem="lake"), DepthMap(values), settings)


def test_a_result_counts_all_that_it_holds_the_copies_for_the_screen_too():
    for height, width in ((48, 64), (700, 2000)):
        made = DepthResult(
            make_photo(height, width), DepthMap(np.full((height, width), 0.5, np.float32)), None
        )
        held = {id(array): array.nbytes for array in (
            made.photo.rgb, made.depth.values, made.screen_photo, made.screen_depth.values
        )}  # fmt: skip
        assert made.size_bytes == pytest.approx(sum(held.values()), rel=0.01)


# Two depths of one photo


def test_the_depth_before_stays_beside_the_new_one(store):
    photo_key = store.add_photo(result().photo)
    first = store.result(store.add_result(result(settings=DepthSettings()), photo_key=photo_key))
    assert not first.others and layers.OTHER not in layers.available(first)
    finer = result(settings=DepthSettings(checkpoint="prs-eth/marigold-depth-v1-1"), shift=0.1)
    second = store.result(store.add_result(finer, photo_key=photo_key))
    assert second.others[0].depth is first.depth
    assert second.others[0].name == first.name != second.name
    assert layers.title(second, layers.OTHER) == first.name
    own = store.result(store.add_result(result(), photo_key=photo_key))
    assert [other.depth for other in own.others] == [
        second.depth,
        first.depth,
    ] and own.name == "Your own depth"


def test_the_same_request_again_keeps_what_it_was_compared_with(store):
    photo_key, draft = store.add_photo(result().photo), result(settings=DepthSettings())
    made = result(settings=DepthSettings(seed=1), shift=0.1)
    for one in (draft, made, replace(made)):
        key = store.add_result(one, photo_key=photo_key)
    assert [other.depth for other in store.result(key).others] == [draft.depth]


def test_another_photo_has_no_depth_before(store):
    store.add_result(result(settings=DepthSettings()), photo_key="a")
    assert store.result(store.add_result(result(settings=DepthSettings()), photo_key="b")).others == ()
    other = replace(result(settings=DepthSettings()), photo=make_photo(48, 64, seed=9))
    assert store.result(store.add_result(other, photo_key="a")).others == ()


def test_each_side_has_its_own_caption_and_scale():
    made = replace(result(settings=DepthSettings()), others=(OtherDepth("Depth of A <b>", ball_map()),))
    style = DepthStyle(colormap="viridis")
    shown = layers.legend(made, (layers.OTHER, layers.GRAY), style)
    left, right = shown.split("</div><div><span data-side>", 1)
    assert "Depth of A &lt;b&gt;" in left and "rgb(68 1 84)" in left  # viridis begins so
    assert "Gray depth" in right and "rgb(255 255 255)" in right and "rgb(68 1 84)" not in right
    photo_only = layers.legend(made, (layers.PHOTO, layers.SHADED), style)
    assert 'role="img"' not in photo_only


def ball_map() -> DepthMap:
    return DepthMap(ball(48, 64))


def test_a_side_that_is_not_there_says_what_would_give_it(store):
    key, depth = store.add_result(result()), make_tabs(store).depth
    with pytest.raises(SettingsError, match="no other depth of this photo yet"):
        depth.show_layers(key, layers.PHOTO, layers.OTHER)
    with pytest.raises(SettingsError, match="is no picture of depth"):
        depth.show_layers(key, layers.PHOTO, ["x"])


def test_an_uploaded_depth_file_is_beside_the_predicted_one(store, tmp_path):
    photo_key = store.add_photo(result().photo)
    store.add_result(result(settings=DepthSettings()), photo_key=photo_key)
    np.save(tmp_path / "mine.npy", ball(48, 64)[::-1].copy())
    depth = make_tabs(store).depth
    shown = depth.take_depth_file(
        "auto", False, "", str(tmp_path / "mine.npy"), photo_key, layers.OTHER, layers.DEPTH
    )
    made = store.result(shown[depth.key])
    np.testing.assert_array_equal(made.others[0].depth.values, ball(48, 64))
    assert layers.available(made).count(layers.OTHER) == 1


# A second method


def slanted(height: int, width: int, far_near: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the depth of a bumpy slope and its disparity, both [H, W] in [0, 1]."""
    rows, columns = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    values = 1 - rows + 0.1 * np.sin(9 * columns)
    values = (values - values.min()) / np.ptp(values)
    inverse = 1 / (1 + (far_near - 1) * values)
    inverse = (inverse - inverse.min()) / np.ptp(inverse)
    return values.astype(np.float32), inverse.astype(np.float32)


@pytest.mark.parametrize("far_near", [1.5, 4.0, 25.0])
@pytest.mark.parametrize("known", [False, True])
def test_disparity_is_aligned_as_disparity_and_all_else_as_depth(far_near, known):
    values, inverse = slanted(120, 90, far_near)
    first = DepthMap(values)
    if known:
        first = DepthMap(values, prediction="metric_depth", meters=(2.0, 2.0 * far_near))
    second = DepthMap(invert(inverse), prediction="affine_disparity")
    assert np.abs(second.values - values).max() > 0.04  # as it comes it is another depth
    assert np.abs(align(second, first) - values).max() < 0.01
    assert (
        np.abs(align(second, DepthMap(second.values, prediction="affine_disparity")) - second.values).max()
        < 1e-4
    )
    other = DepthMap(0.2 + 0.5 * values, prediction="metric_depth", meters=(1.0, 3.0))
    assert np.abs(align(other, first) - values).max() < 1e-5


def test_near_and_far_are_never_turned_and_flat_depth_stays_flat():
    values, _ = slanted(60, 80, 3)
    turned = align(DepthMap(1 - values), DepthMap(values))
    assert np.corrcoef(turned.ravel(), values.ravel())[0, 1] < -0.99
    assert turned.std() == pytest.approx(values.std(), rel=1e-3)
    for kind in ("affine_depth", "affine_disparity"):
        flat = align(DepthMap(np.full_like(values, 0.5), prediction=kind), DepthMap(values))
        assert np.ptp(flat) == 0 and np.isfinite(flat).all()
        assert np.isfinite(align(DepthMap(values, prediction=kind), DepthMap(np.zeros_like(values)))).all()


def test_the_second_is_seen_in_the_colors_of_the_first_and_the_difference_is_what_is_left():
    values, _ = slanted(96, 128, 10)
    moved = values.copy()
    moved[20:40, 20:40] += 0.2  # what the second method sees otherwise
    second = DepthMap(0.5 * moved[::2, ::2] + 0.1)  # half as large, on another scale
    made = DepthResult(make_photo(96, 128), DepthMap(values), DepthSettings())
    made = made.beside(OtherDepth("Depth of B", second))
    style = DepthStyle(colormap="gray")
    shown, first = (layers.render(made, name, style).astype(int) for name in (layers.OTHER, layers.DEPTH))
    away = np.ones((96, 128), bool)
    away[12:48, 12:48] = False
    assert np.abs(shown - first)[away].max() < 12 and (shown - first)[24:36, 24:36].mean() > 30
    difference = layers.render(made, layers.DIFFERENCE, style).astype(int)
    assert np.abs(difference[away] - 245).max() < 40  # white where both agree
    assert (
        np.ptp(difference[30, 30]) > 100 and difference[30, 30, 0] > difference[30, 30, 2]
    )  # farther is orange
    told = layers.legend(made, (layers.OTHER, layers.DIFFERENCE), style)
    assert "Depth of B" in told and "Difference to B" in told and "farther" in told


def test_a_second_method_stands_beside_the_first_for_its_own_visitor_only(store):
    photo_key = store.add_photo(result().photo)
    first = result(settings=DepthSettings())
    key = store.add_result(first, photo_key=photo_key)
    link, own = store.remember(photo_key, key), store.remember(photo_key, store.branch_result(key))
    names = [f"Depth of {letter}" for letter in "ABCDB"]
    for name in names:
        store.compare(key, OtherDepth(name, ball_map()))
    others = [other.name for other in store.result(key).others]
    assert others == ["Depth of B", "Depth of D", "Depth of C"]  # each once, the oldest gone
    assert store.result(key).depth is first.depth and store.result(key).settings == DepthSettings()
    recalled = store.recall(link).depth_key  # a reload
    assert [other.name for other in store.result(recalled).others] == others
    assert store.result(store.recall(own, shared=True).depth_key).others == ()  # a link made before
    again = store.result(store.add_result(result(shift=0.1), photo_key=photo_key))  # another run
    assert [other.name for other in again.others] == [first.name, "Depth of B", "Depth of D"]
    assert layers.available(again)[-3:] == layers.DIFFERENCES


def test_a_comparison_runs_the_second_method_and_leaves_the_first_alone(store):
    compare, photo = (tabs := make_tabs(store)).depth.compare, result().photo
    photo_key = store.add_photo(photo)
    key = store.add_result(result(settings=DepthSettings()), photo_key=photo_key)
    name = OTHER_METHODS[0].name
    request = compare.start(f" {name} ", None, photo_key, key)[compare.request]
    assert store.is_running(request)
    *steps, last = compare.run(request, name, photo_key, key)
    assert len(steps) == 3 and not store.is_running(request)
    assert all(tabs.depth.key not in one for one in (*steps, last)) and last[compare.found] == request
    assert store.result(key).others[0].name == f"Depth of {OTHER_METHODS[0].short_title}"
    shown = compare.show(key, *DepthStyle().__dict__.values())
    assert (shown[tabs.depth.left].value, shown[tabs.depth.right].value) == (layers.DEPTH, layers.OTHER)


def test_what_cannot_be_compared_says_what_would_help(store):
    compare, photo_key = make_tabs(store).depth.compare, store.add_photo(result().photo)
    key = store.add_result(result(settings=DepthSettings()), photo_key=photo_key)
    another = store.add_photo(make_photo(48, 64, seed=3))
    for name, chosen, depth_key, words in (
        ("embedded", photo_key, key, "choose another one"),
        ("", photo_key, key, "checkpoint is empty"),
        (OTHER_METHODS[0].name, None, key, "press “Estimate depth” first"),
        (
            OTHER_METHODS[0].name,
            another,
            key,
            "press “Estimate depth” first",
        ),
        (OTHER_METHODS[0].name, photo_key, None, "choose a photo first"),
    ):
        with pytest.raises(DemoError, match=words):
            compare.start(name, None, chosen, depth_key)
    store.begin_run("run")
    with pytest.raises(DemoError, match="compare it when it is there"):
        compare.start(OTHER_METHODS[0].name, "run", photo_key, key)


# Styles


@pytest.mark.parametrize(
    "wrong",
    [
        {"contours": MOST_CONTOURS + 1},
        {"contours": -1},
        {"contours": 2.5},
        {"contours": "many"},
        {"near": float("nan")},
        {"far": 10**400},
        {"near": None},
        {"colormap": None},
        {"colormap": ["viridis"]},
    ],
)
def test_a_style_out_of_its_limits_gets_a_sentence(wrong):
    with pytest.raises(SettingsError, match="must be"):
        DepthStyle(**wrong)


def test_contours_are_in_the_picture_and_in_the_download(store):
    made = result()
    plain, lined = DepthStyle(), DepthStyle(contours=12)
    assert (layers.render(made, layers.DEPTH, plain) != layers.render(made, layers.DEPTH, lined)).any()
    key, values = store.add_result(made), [plain.colormap, 0, 1, False]
    depth = make_tabs(store).depth
    buttons = [depth.write_colored(key, *values, count)[depth.files["colored"]] for count in (0, 12)]
    files = [button.value["path"] for button in buttons]
    first, second = (open(path, "rb").read() for path in files)
    assert first != second


# Points


def test_two_points_tell_which_is_nearer(store):
    key, points = store.add_result(result()), make_tabs(store).depth.points

    def read(point, places):
        shown = points.read(key, point, places)
        return shown[points.reading], shown[points.places], shown[points.row]

    words, places, _ = read("0.05 0.05 1", ())
    assert f"{result().depth.values[2, 3]:.3f}" in words and places == ((0.05, 0.05),)
    words, places, row = read("0.5 0.5 2", places)
    assert "2 is nearer" in words and len(places) == 2 and row.visible
    words, places, row = read("0.5 0.5 1", places)
    assert len(places) == 1 and not row.visible


@pytest.mark.parametrize("point", ["", "a b c", "0.5", "nan 0.5 1", "7 0.5 1", "-1 0 2", None])
def test_a_point_that_is_none_is_asked_for_again(store, point):
    points = make_tabs(store).depth.points
    assert points.read(store.add_result(result()), point, ((0.1, 0.1),))[points.places] == ()


@pytest.mark.parametrize("choice", [{}, {"projection": "orthographic"}, {"fov_deg": 30, "far_near_ratio": 5}])
def test_a_known_length_is_the_length_in_the_mesh(store, choice):
    made = result()
    settings = MeshSettings(resolution=128, tolerance=0, edges="stretch", **choice)
    told, near_m = use_length(store, store.add_result(made), ENDS, "2,5 m", settings)
    assert "2.5 m" in told and "meters" in told
    surface = build_surface(made.depth, made.photo, replace(settings, near_m=near_m))
    ends = [surface.vertices[np.abs(surface.uv - end).sum(axis=1).argmin()] for end in ENDS]
    assert np.linalg.norm(ends[1] - ends[0]) == pytest.approx(2.5, rel=0.02)


@given(length=st.text(max_size=8) | st.floats().map(str) | st.none() | st.integers())
def test_any_length_gives_a_distance_or_a_sentence(length):
    store = SessionStore(Workflow(Ball()))
    key = store.add_result(result())
    try:
        _, near_m = use_length(store, key, ENDS, length, MeshSettings())
    except SettingsError as refusal:
        assert str(refusal).endswith(".")
        return
    assert near_m is None or 0.001 <= near_m <= 100_000


def test_one_point_twice_and_no_points_get_a_sentence(store):
    key = store.add_result(result())
    with pytest.raises(SettingsError, match="lie apart"):
        use_length(store, key, (ENDS[0], ENDS[0]), "1", MeshSettings())
    with pytest.raises(SettingsError, match="click two places"):
        use_length(store, key, (), "1", MeshSettings())


def test_a_known_length_is_undone_by_emptying_the_field_or_clearing_the_points(store):
    tabs = make_tabs(store)
    key, points, mesh = store.add_result(result()), tabs.depth.points, tabs.objects.mesh
    near_field = mesh.fields["near_m"]
    typed = mesh.shown(MeshSettings(near_m=4.0))
    shown = points.scale(key, ENDS, "2.5", None, *typed.values())
    before, near = shown[points.before], shown[near_field]
    assert before == "4" and float(near) != 4
    scaled = list((typed | {near_field: near}).values())
    again = points.scale(key, ENDS, "5", before, *scaled)
    assert again[points.before] == "4"
    assert float(again[near_field]) == pytest.approx(2 * float(near), rel=1e-4)
    emptied = points.scale(key, ENDS, "", before, *scaled)
    assert (emptied[points.before], emptied[near_field]) == (None, "4")
    assert points.forget(before)[near_field] == "4"


def test_the_photos_detail_comes_first_under_fine_tuning():
    from marigold_demo.settings import ReliefSettings
    from marigold_demo.ui.object_tab import RELIEF, arranged

    _, others = arranged(RELIEF, ReliefSettings())
    assert others[0] == "photo_detail"


# Keys that leave the server


def test_a_remembered_result_is_found_again_under_keys_that_meet_no_others(tmp_path, monkeypatch):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    store = SessionStore(Workflow(Ball()))
    photo = make_photo(20, 20)
    photo_key = store.add_photo(photo)
    made = DepthResult(photo, DepthMap(ball(20, 20)), None)
    depth_key = store.add_result(made, photo_key=photo_key)
    key = store.remember(photo_key, depth_key, settings={"kind": "mesh"})
    mine, linked = store.recall(key), store.recall(key, shared=True)
    assert store.photo(linked.photo_key) is photo and store.result(linked.depth_key) is made
    assert linked.settings == {"kind": "mesh"}
    found = [depth_key, mine.depth_key, linked.depth_key]
    assert len(set(found)) == 3
    assert [store.is_shared(one) for one in found] == [False, False, True]
    # What another does with the same result is not noted for the first.
    store.record_preview(linked.depth_key, ReliefSettings(width_mm=50))
    assert not store.is_preview_outdated(depth_key, ReliefSettings())
    store.add_result(DepthResult(photo, DepthMap(ball(20, 20) / 2), None), photo_key=linked.photo_key)
    again = DepthResult(photo, DepthMap(ball(20, 20) / 3), None)
    assert store.result(store.add_result(again, photo_key=photo_key)).others[0].depth is made.depth


@pytest.mark.parametrize("key", ["", "x", "a" * 22, "../../etc/passwd", None, 7])
def test_a_key_that_was_never_given_leads_nowhere(tmp_path, monkeypatch, key):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    store = SessionStore(Workflow(Ball()))
    photo_key = store.add_photo(make_photo(20, 20))
    given = store.remember(photo_key, None)
    tabs = make_tabs(store)
    for one in (
        key,
        photo_key,
        given[:-2] + "xx",
        given.swapcase(),
    ):  # a key of the store is none for outside
        assert store.recall(one) is None
        told = tabs.restore.restore({"from": "link", "key": one})
        assert "This link leads nowhere" in told[tabs.photo.status] and tabs.photo.key not in told


def test_what_is_gone_is_not_recalled(tmp_path, monkeypatch):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    store = SessionStore(Workflow(Ball()), ttl_s=0.2)
    key = store.remember(store.add_photo(make_photo(20, 20)), None)
    assert store.recall(key) is not None
    time.sleep(0.5)
    assert store.recall(key) is None
