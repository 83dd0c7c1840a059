"""Many visitors on one server: each gets what is theirs and nothing else, and whoever leaves is let go."""

import io
import os
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import pytest
from PIL import Image

from benchmarks.rest_client import RefusedError, Visit
from benchmarks.server import app_running
from marigold_demo.depth import DepthMap, Progress
from marigold_demo.serving.listening import listen
from marigold_demo.ui import build_page, launch
from marigold_demo.ui.session_store import SessionStore
from marigold_demo.workflow import Workflow
from tests.pages import LENIENT, draw_photo
from tests.predictors import stepwise

pytestmark = [pytest.mark.slow, LENIENT]

COUNT = 6


class Grey:
    """Takes the mean of the colors for depth, step by step, and knows how many runs are under way."""

    def __init__(self) -> None:
        self.steps, self.running, self.calls, self.pace_s = 2, 0, 0, 0.0

    @stepwise
    def __call__(self, photo, settings):
        self.running += 1
        try:
            for step in range(self.steps):
                yield Progress("denoise", step, self.steps)
                self.calls += 1
                time.sleep(self.pace_s)
            yield DepthMap(grey(photo.rgb), None)
        finally:
            self.running -= 1


def grey(rgb: np.ndarray) -> np.ndarray:
    return rgb.mean(axis=2, dtype=np.float32) / 255


def picture(number: int) -> tuple[bytes, np.ndarray]:
    """Return a PNG that no other number has, and its depth."""
    rgb = np.random.default_rng(number).integers(0, 256, (40 + number, 60, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(rgb).save(buffer, "PNG")
    return buffer.getvalue(), grey(rgb)


def eventually(is_so: Callable[[], bool], *, within_s: float = 60) -> bool:
    """Wait for a state."""
    until = time.monotonic() + within_s
    while not is_so() and time.monotonic() < until:
        time.sleep(0.02)
    return is_so()


@pytest.fixture(scope="module")
def predict():
    return Grey()


@pytest.fixture(scope="module")
def page(predict, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(tmp_path_factory.mktemp("visitors") / "cache"))
        workflow = Workflow(predict)
        page = build_page(workflow, store=SessionStore(workflow), waiting_most=4 * COUNT)
        launch(page, place=listen("127.0.0.1", 0))
        yield page
        page.close(verbose=False)


@pytest.fixture
def url(page):
    return page.local_url


def depth_by_api(visit: Visit, photo: bytes) -> np.ndarray:
    npy, *_ = visit.request("depth", photo=visit.upload("photo.png", photo))
    return np.load(io.BytesIO(visit.fetch(npy)))


def depth_by_page(visit: Visit, photo: bytes) -> np.ndarray:
    page = visit.open_page()
    visit.click(page, page.event(takes="photo", gives="photo-notes"), photo=visit.upload("photo.png", photo))
    visit.click(page, page.event(takes="depth-checkpoint", gives="compare"))
    npy, *_ = visit.click(page, page.event(takes="", gives="download-npy"))
    return np.load(io.BytesIO(visit.fetch(npy["value"])))


def test_visitors_at_the_same_time_each_get_the_depth_of_their_own_photo(url):
    def visit_twice(number: int) -> list[float]:
        photo, depth = picture(number)
        address = f"127.0.1.{1 + number}"
        with Visit(url, address=address) as first, Visit(url, address=address) as second:
            return [
                float(np.abs(found - depth).max())
                for found in (depth_by_api(first, photo), depth_by_page(second, photo))
            ]

    with ThreadPoolExecutor(COUNT) as threads:
        assert list(threads.map(visit_twice, range(COUNT))) == [[0.0, 0.0]] * COUNT


def test_whoever_leaves_in_the_middle_is_let_go_and_the_next_visitor_is_served(url, predict, monkeypatch):
    monkeypatch.setattr(predict, "steps", 2000)
    monkeypatch.setattr(predict, "pace_s", 0.1)
    photo, _ = picture(100)
    with (
        Visit(url) as visit,
        visit.watching(visit.start("depth", photo=visit.upload("photo.png", photo))) as events,
    ):
        assert next(events)[0] == "generating"
        assert predict.running == 1
    assert eventually(lambda: predict.running == 0)
    assert predict.calls < 2000
    monkeypatch.setattr(predict, "steps", 2)
    photo, depth = picture(101)
    with Visit(url) as visit:
        np.testing.assert_array_equal(depth_by_api(visit, photo), depth)


def test_a_call_of_an_endpoint_leaves_no_session_behind(url, page):
    with Visit(url) as visit:
        photo, _ = picture(102)
        visit.request("depth", photo=visit.upload("photo.png", photo))
        with pytest.raises(RefusedError):
            visit.request("depth", photo=visit.upload("photo.png", b"no photo"))
        before = len(page.state_holder.session_data)
        visit.request("depth", photo=visit.upload("photo.png", photo))
        with pytest.raises(RefusedError):
            visit.request("depth", photo=visit.upload("photo.png", b"no photo"))
    assert len(page.state_holder.session_data) == before


def test_an_outsider_finds_nothing_of_another_visitor(url):
    photo, _ = picture(103)
    with Visit(url) as visit, Visit(url) as outsider:
        described = visit.open_page()
        taken = described.event(takes="photo", gives="photo-notes")
        visit.click(described, taken, photo=visit.upload("secret.png", photo))
        npy, *_ = visit.request("depth", photo=visit.upload("secret.png", photo))
        visit.fetch(npy)
        folder = npy["path"].rsplit("/", 2)[0]
        for place in (
            folder,
            f"{folder}/",
            f"{folder}/../{folder.rsplit('/', 1)[1]}",
            f"{folder}/secret_depth.npy",
        ):
            with pytest.raises(httpx.HTTPStatusError):
                outsider.fetch({"path": place})
        with pytest.raises(RefusedError, match="no photo yet"):
            outsider.click(described, described.event(takes="depth-checkpoint", gives="compare"))
        with pytest.raises(RefusedError, match="no depth yet"):
            outsider.click(described, described.event(takes="", gives="download-npy"))


def test_a_page_that_outlives_its_server_gets_a_sentence_and_goes_on_with_the_next_one(tmp_path):
    photo, session = draw_photo(tmp_path).read_bytes(), "page0of0a0visitor"
    with app_running(tmp_path) as (url, process), Visit(url, session=session) as visit:
        described = visit.open_page()
        take = described.event(takes="photo", gives="photo-notes")
        visit.click(described, take, photo=visit.upload("photo.jpg", photo))
        npy, *_ = visit.request("depth", photo=visit.upload("photo.jpg", photo), resolution=64)
        depth = visit.fetch(npy)
        os.kill(process, signal.SIGKILL)
        port = url.rsplit(":", 1)[1]
    left = list((tmp_path / "cache").rglob("*.npy"))
    assert len(left) == 1
    with app_running(tmp_path, port=port) as (again, _), Visit(again, session=session) as visit:
        assert again == url
        assert not left[0].exists()  # nobody can ask for it any more
        run = described.event(takes="depth-checkpoint", gives="compare")
        with pytest.raises(RefusedError, match="no photo yet"):
            visit.click(described, run)
        with pytest.raises(httpx.HTTPStatusError):
            visit.fetch(npy)
        visit.click(described, take, photo=visit.upload("photo.jpg", photo))
        npy, *_ = visit.request("depth", photo=visit.upload("photo.jpg", photo), resolution=64)
        assert visit.fetch(npy) == depth
