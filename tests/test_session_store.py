"""What visitors compare and measure on the page, without a server."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from marigold_demo.colormap import MOST_CONTOURS
from marigold_demo.depth import DepthMap
from marigold_demo.errors import SettingsError
from marigold_demo.geometry.textured_mesh import build_surface
from marigold_demo.settings import DepthSettings, MeshSettings
from marigold_demo.ui import build_page, depth_stage, measure, views
from marigold_demo.ui import page as page_module
from marigold_demo.ui.object_stage import MESH, RELIEF
from marigold_demo.ui.session_store import DepthResult, SessionStore
from marigold_demo.ui.views import Look
from marigold_demo.ui.wiring import Wiring
from marigold_demo.workflow import Workflow
from tests.conftest import make_photo
from tests.pages import LENIENT, Ball, ball

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
    assert first.previous is None and views.OTHER not in views.sides(first)
    finer = result(settings=DepthSettings(checkpoint="prs-eth/marigold-depth-v1-1"), shift=0.1)
    second = store.result(store.add_result(finer, photo_key=photo_key))
    assert second.previous is first.depth
    assert second.previous_name == first.name != second.name
    assert views.title(second, views.OTHER) == first.name
    own = store.result(store.add_result(result(), photo_key=photo_key))
    assert own.previous is second.depth and own.name == "Your own depth"


def test_the_same_wish_again_keeps_what_it_was_compared_with(store):
    photo_key, draft = store.add_photo(result().photo), result(settings=DepthSettings())
    made = result(settings=DepthSettings(seed=1), shift=0.1)
    for one in (draft, made, replace(made)):
        key = store.add_result(one, photo_key=photo_key)
    assert store.result(key).previous is draft.depth


def test_another_photo_has_no_depth_before(store):
    store.add_result(result(settings=DepthSettings()), photo_key="a")
    assert store.result(store.add_result(result(settings=DepthSettings()), photo_key="b")).previous is None
    other = replace(result(settings=DepthSettings()), photo=make_photo(48, 64, seed=9))
    assert store.result(store.add_result(other, photo_key="a")).previous is None


def test_each_side_has_its_own_caption_and_scale():
    made = replace(result(settings=DepthSettings()), previous=ball_map(), previous_name="Depth of A <b>")
    look = Look(colormap="viridis")
    shown = views.legend(made, (views.OTHER, views.GREY), look)
    left, right = shown.split("</div><div><span data-side>", 1)
    assert "Depth of A &lt;b&gt;" in left and "rgb(68 1 84)" in left  # viridis begins so
    assert "Grey depth" in right and "rgb(255 255 255)" in right and "rgb(68 1 84)" not in right
    photo_only = views.legend(made, (views.PHOTO, views.SHADED), look)
    assert 'role="img"' not in photo_only


def ball_map() -> DepthMap:
    return DepthMap(ball(48, 64))


def test_a_side_that_is_not_there_says_what_would_give_it(store):
    key = store.add_result(result())
    with pytest.raises(SettingsError, match="no other depth of this photo yet"):
        depth_stage.picture_sides(store, key, views.PHOTO, views.OTHER)
    with pytest.raises(SettingsError, match="is no picture of depth"):
        depth_stage.picture_sides(store, key, views.PHOTO, ["x"])


def test_an_uploaded_depth_file_is_beside_the_predicted_one(store, tmp_path):
    photo_key = store.add_photo(result().photo)
    store.add_result(result(settings=DepthSettings()), photo_key=photo_key)
    np.save(tmp_path / "mine.npy", ball(48, 64)[::-1].copy())
    _, key, *_ = depth_stage.take_depth_file(
        store, str(tmp_path / "mine.npy"), photo_key, views.OTHER, views.DEPTH
    )
    made = store.result(key)
    np.testing.assert_array_equal(made.previous.values, ball(48, 64))
    assert views.sides(made).count(views.OTHER) == 1


# Looks


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
def test_a_look_out_of_its_limits_gets_a_sentence(wrong):
    with pytest.raises(SettingsError, match="must be"):
        Look(**wrong)


def test_contours_are_in_the_picture_and_in_the_download(store):
    made = result()
    plain, lined = Look(), Look(contours=12)
    assert (views.side(made, views.DEPTH, plain) != views.side(made, views.DEPTH, lined)).any()
    key, values = store.add_result(made), [plain.colormap, 0, 1, False]
    files = [depth_stage.colored_file(store, key, *values, count).value["path"] for count in (0, 12)]
    first, second = (open(path, "rb").read() for path in files)
    assert first != second


# Points


def test_two_points_tell_which_is_nearer(store):
    key = store.add_result(result())
    told, places, *_ = measure.read_point(store, key, "0.05 0.05 1", ())
    assert f"{result().depth.values[2, 3]:.3f}" in told and places == ((0.05, 0.05),)
    told, places, row, _ = measure.read_point(store, key, "0.5 0.5 2", places)
    assert "2 is nearer" in told and len(places) == 2 and row.visible
    told, places, row, _ = measure.read_point(store, key, "0.5 0.5 1", places)
    assert len(places) == 1 and not row.visible


@pytest.mark.parametrize("point", ["", "a b c", "0.5", "nan 0.5 1", "7 0.5 1", "-1 0 2", None])
def test_a_point_that_is_none_is_asked_for_again(store, point):
    assert measure.read_point(store, store.add_result(result()), point, ((0.1, 0.1),))[1] == ()


@pytest.mark.parametrize("choice", [{}, {"projection": "orthographic"}, {"fov_deg": 30, "far_near_ratio": 5}])
def test_a_known_length_is_the_length_in_the_mesh(store, choice):
    made = result()
    settings = MeshSettings(resolution=128, tolerance=0, edges="stretch", **choice)
    told, near_m = measure.use_length(store, store.add_result(made), ENDS, "2,5 m", settings)
    assert "2.5 m" in told and "metres" in told
    surface = build_surface(made.depth, made.photo, replace(settings, near_m=near_m))
    ends = [surface.vertices[np.abs(surface.uv - end).sum(axis=1).argmin()] for end in ENDS]
    assert np.linalg.norm(ends[1] - ends[0]) == pytest.approx(2.5, rel=0.02)


@given(length=st.text(max_size=8) | st.floats().map(str) | st.none() | st.integers())
def test_any_length_gives_a_distance_or_a_sentence(length):
    store = SessionStore(Workflow(Ball()))
    key = store.add_result(result())
    try:
        _, near_m = measure.use_length(store, key, ENDS, length, MeshSettings())
    except SettingsError as refusal:
        assert str(refusal).endswith(".")
        return
    assert near_m is None or 0.001 <= near_m <= 100_000


def test_one_point_twice_and_no_points_get_a_sentence(store):
    key = store.add_result(result())
    with pytest.raises(SettingsError, match="lie apart"):
        measure.use_length(store, key, (ENDS[0], ENDS[0]), "1", MeshSettings())
    with pytest.raises(SettingsError, match="click two places"):
        measure.use_length(store, key, (), "1", MeshSettings())


@pytest.fixture
def objects(store, monkeypatch):
    seen = []

    class Recorded(Wiring):
        def __init__(self, *values, **named):
            super().__init__(*values, **named)
            seen.append(self)

    monkeypatch.setattr(page_module, "Wiring", Recorded)
    build_page(store.workflow, store=store)
    return seen[0].objects


def test_a_known_length_is_undone_by_emptying_the_field_or_clearing_the_points(store, objects):
    key, mesh = store.add_result(result()), objects.made.shapes[MESH]
    typed = mesh.shown(MeshSettings(near_m=4.0))
    _, before, near = objects._scale(key, ENDS, "2.5", None, *typed)
    assert before == "4" and float(near) != 4
    scaled = [near if name == "near_m" else value for name, value in zip(mesh.knobs, typed, strict=True)]
    _, kept, again = objects._scale(key, ENDS, "5", before, *scaled)
    assert kept == "4" and float(again) == pytest.approx(2 * float(near), rel=1e-4)
    assert objects._scale(key, ENDS, "", before, *scaled)[1:] == (None, "4")
    assert objects._forgotten(before)[-1] == "4"


def test_the_photos_detail_is_among_the_main_settings():
    from marigold_demo.ui.object_stage import MAIN

    assert "photo_detail" in MAIN[RELIEF]
