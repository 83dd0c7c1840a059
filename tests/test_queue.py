"""Bounds of the queue on a real server: who does not listen, what nobody reads, and one visitor's share."""

import asyncio
import gc
import http.client
import io
import itertools
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import httpx
import numpy as np
import pytest
from gradio.data_classes import PredictBodyInternal
from gradio.server_messages import EstimationMessage, LogMessage

from benchmarks.rest_client import RefusedError, Visit
from marigold_demo.depth import CheckpointStatus, DepthMap, Progress
from marigold_demo.errors import DemoError
from marigold_demo.recipe import recipe_from_json
from marigold_demo.serving.lifecycle import Service
from marigold_demo.serving.listening import listen
from marigold_demo.settings import DepthSettings, MeshSettings, ReliefSettings
from marigold_demo.ui import api, build_page, launch, queue, widgets
from marigold_demo.ui.layers import DepthStyle, check_layers, use_length
from marigold_demo.ui.queue import Mailbox, Mailboxes
from marigold_demo.ui.session_store import SessionStore
from marigold_demo.workflow import Workflow
from tests.pages import LENIENT, draw_photo
from tests.predictors import stepwise
from tests.test_visitors import eventually, grey

pytestmark = LENIENT
on_server = pytest.mark.slow  # asks a real one
LISTEN_S = 1.5  # where it matters; a busy machine takes its time between asking and listening
WAITING, OWN = 8, 2  # places in Gradio's queue, and in the line for one visitor
LONG = "z" * 900_000
SEEDS = itertools.count()  # a run that nobody had before


class SlowPredictor:
    """Takes the mean of the colors for depth after many short steps, unless a test asks it to hurry."""

    def __init__(self) -> None:
        self.running, self.hurry = 0, threading.Event()

    @stepwise
    def __call__(self, photo, settings):
        self.running += 1
        try:
            for step in range(3000):
                yield Progress("denoise", step, 3000)
                if self.hurry.wait(0.02):
                    break
            yield DepthMap(grey(photo.rgb), None)
        finally:
            self.running -= 1


@pytest.fixture(scope="module")
def predict():
    return SlowPredictor()


@pytest.fixture(scope="module")
def page(predict, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(tmp_path_factory.mktemp("queue") / "cache"))
        service = Service()
        workflow = Workflow(predict, poll_s=0.05, waiting_per_visitor=OWN)
        store = SessionStore(workflow, files=service.cache)
        page = build_page(workflow, store=store, waiting_most=WAITING)
        launch(page, service, listen("127.0.0.1", 0))
        yield page
        page.close(verbose=False)


@pytest.fixture
def url(page, predict):
    predict.hurry.clear()
    yield page.local_url.rstrip("/")
    predict.hurry.set()
    assert eventually(lambda: is_idle(page), within_s=20)


def is_idle(page) -> bool:
    return not len(page.event_queue) and not any(page.event_queue.active_jobs)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    return [draw_photo(folder, f"{n}.png", size=(60, 40 + n)).read_bytes() for n in range(8)]


def post_depth(visit: Visit, photo: bytes) -> str:
    return visit.start("depth", photo=visit.upload("photo.png", photo), seed=next(SEEDS))


def depth(visit: Visit, photo: bytes) -> np.ndarray:
    npy, *_ = visit.request("depth", photo=visit.upload("photo.png", photo), seed=next(SEEDS))
    return np.load(io.BytesIO(visit.fetch(npy)))


# -- who does not listen ----------------------------------------------------------------------------


@on_server
def test_runs_that_nobody_listens_to_leave_the_line_and_the_late_listener_reads_why(
    url, page, predict, photos, caplog, monkeypatch
):
    caplog.set_level("INFO", logger="marigold_demo")
    with Visit(url, address="127.0.2.1") as one, Visit(url, address="127.0.2.2") as other:
        started = [post_depth(visit, photo) for visit in (one, other) for photo in photos[:OWN]]
        assert eventually(lambda: predict.running == 1, within_s=30)
        monkeypatch.setattr(page.event_queue, "listen_s", LISTEN_S)
        assert eventually(lambda: is_idle(page) and predict.running == 0, within_s=15 * LISTEN_S + 15)
        monkeypatch.undo()
        assert {r.facts["end"] for r in caplog.records if r.msg == "request ended"} == {"not_listening"}
        for address in started:
            with one.watching(address) as events:
                kind, content = list(events)[-1]
            assert kind == "error"
            assert content["error"].startswith("Nobody listened")
        predict.hurry.set()
        assert depth(one, photos[3]).shape == (43, 60)


@on_server
def test_a_run_with_a_listener_goes_on_for_longer_than_that(url, page, predict, photos, monkeypatch):
    with Visit(url) as visit, visit.watching(post_depth(visit, photos[0])) as events:
        next(events)
        monkeypatch.setattr(page.event_queue, "listen_s", LISTEN_S)
        until = time.monotonic() + 4 * LISTEN_S
        assert all(kind == "generating" for kind, _ in take_until(events, until))
        predict.hurry.set()
        assert [kind for kind, _ in events if kind != "generating"] == ["complete"]


def take_until(events, until):
    while time.monotonic() < until:
        yield next(events)


# -- what nobody reads ------------------------------------------------------------------------------


def test_a_mailbox_that_overflows_is_emptied():
    async def fill() -> tuple[Mailbox, Mailbox]:
        many, large = Mailbox(), Mailbox()
        for _ in range(queue.SESSION_MESSAGES):
            many.put_nowait(EstimationMessage(queue_size=1))
        assert many.qsize() == queue.SESSION_MESSAGES and not many.overflowed
        many.put_nowait(EstimationMessage(queue_size=1))
        for _ in range(3):
            large.put_nowait(LogMessage(log="x" * (queue.SESSION_BYTES // 2), level="info", title=""))
        return many, large

    for box in asyncio.run(fill()):
        assert (box.overflowed, box.qsize(), box.size_bytes) == (True, 0, 0)


def test_the_heartbeat_of_a_session_that_is_gone_ends():
    """Gradio's task would go on for ever where the connection broke while a message was sent."""

    async def beat() -> bool:
        boxes = Mailboxes()
        boxes["here"] = None
        boxes.get("here").put_nowait(EstimationMessage(queue_size=1))
        task = asyncio.create_task(forever(boxes))
        await asyncio.sleep(0.05)
        assert not task.done()
        del boxes["here"], boxes["here"]
        await asyncio.wait([task], timeout=5)
        return task.cancelled()

    async def forever(boxes: Mailboxes) -> None:
        while True:
            await asyncio.sleep(0.01)
            boxes.get("here")

    assert asyncio.run(beat())


def test_what_is_read_is_counted_no_more_and_reading_is_noticed():
    async def read() -> None:
        box = Mailbox()
        box.put_nowait(EstimationMessage(queue_size=1))
        assert box.size_bytes > 20
        await box.get()
        assert box.size_bytes == 0
        waiting = asyncio.create_task(box.get())
        await asyncio.sleep(0.05)
        assert time.monotonic() - box.read_s < 0.01
        box.put_nowait(EstimationMessage(queue_size=2))  # taken at once
        assert (await waiting).queue_size == 2
        assert box.size_bytes == 0
        await asyncio.sleep(0.05)
        assert time.monotonic() - box.read_s > 0.04

    asyncio.run(read())


@on_server
def test_a_session_whose_messages_overflow_ends(url, page, predict, photos, monkeypatch):
    monkeypatch.setattr(queue, "SESSION_MESSAGES", 10)
    with Visit(url) as visit:
        address = post_depth(visit, photos[0])
        assert eventually(lambda: predict.running == 1, within_s=10)
        assert eventually(lambda: is_idle(page), within_s=10)
        with visit.watching(address) as events:
            assert [kind for kind, _ in events][-1] == "error"


@on_server
def test_all_unread_messages_together_are_bounded(url, page, monkeypatch):
    monkeypatch.setattr(queue, "ALL_SESSIONS", 5)
    monkeypatch.setattr(queue, "ALL_BYTES", 3000)
    boxes = page.event_queue.pending_messages_per_session
    with httpx.Client(base_url=url, timeout=60) as web:
        for _ in range(20):
            assert web.post("/gradio_api/call/v2/depth", json={"photo": None}).status_code == 200
            time.sleep(0.05)
    assert eventually(lambda: len(boxes) <= 5 and boxes.size_bytes() <= 3000, within_s=10)
    assert eventually(lambda: page.event_queue.pending_event_ids_session.keys() <= boxes.keys(), within_s=10)
    with httpx.Client(base_url=url, timeout=60) as web:
        known = [session for session, box in boxes.items() if box.qsize()]
        assert known
        answer = web.get(f"/gradio_api/call/depth/{known[-1]}").text
        assert "event: error" in answer and "There is no photo; send a picture file." in answer


@on_server
def test_refusals_of_what_is_large_leave_nothing_behind(url, page):
    """Gradio kept the messages, the last value of each field, and each request in a circle of frames."""
    event = next(fn for fn in page.fns.values() if fn.queue and len(fn.inputs) > 8)

    def ask(count: int) -> None:
        for number in range(count):
            call = {"photo": None, ("steps", "colormap", "checkpoint")[number % 3]: LONG}
            post(url, "call/v2/depth", call)
            data = [LONG] + [None] * 80
            post(url, "queue/join", {"data": data, "fn_index": event._id, "session_hash": f"s{number}"})
            assert eventually(lambda: is_idle(page), within_s=10)

    gc.collect()
    gc.disable()  # it would find the circles in the end
    try:
        ask(6)
        bodies = [thing for thing in gc.get_objects() if isinstance(thing, PredictBodyInternal)]
        assert len(bodies) <= 4  # of 12
    finally:
        gc.enable()
    assert page.event_queue.pending_messages_per_session.size_bytes() < 50_000
    states = page.state_holder.session_data.values()
    assert not any(list(state.config_values) for state in states)


def post(url: str, path: str, body: dict) -> None:
    """Post without httpx, which leaves circles itself."""
    connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=60)
    kind = {"content-type": "application/json"}
    connection.request("POST", f"/gradio_api/{path}", json.dumps(body), kind)
    with closing(connection), connection.getresponse() as answer:
        assert answer.status == 200, answer.read()


def refusals():
    """Yield refusals of long texts and of numbers of many digits."""
    for kind in (DepthSettings, ReliefSettings, MeshSettings, DepthStyle):
        for name in kind.__dataclass_fields__:
            for value in (LONG, [LONG], 10**5000, -(10**4000), 1e300, [[[]]], {LONG: LONG}):
                if name != "invert" and (name != "checkpoint" or value != LONG):
                    yield lambda kind=kind, name=name, value=value: kind(**{name: value})
    for name in ("steps", "ensemble", "resolution"):
        yield lambda name=name: widgets.read(DepthSettings, {name: LONG})
        yield lambda name=name: widgets.read(DepthSettings, {name: "9" * 900_000})
    yield lambda: use_length(KnowsAll(), "key", ((0, 0), (1, 1)), LONG, MeshSettings())
    yield lambda: check_layers(KnowsAll().result(""), (LONG,))
    for text in (
        '{"%s": 1}',
        '{"depth": {"%s": 1}}',
        '{"libraries": {"%s": 1}}',
        '{"relief": {"frame": "%s"}}',
    ):
        yield lambda text=text: recipe_from_json(text % LONG)


class KnowsAll:
    """In place of a store: whatever is asked for is there."""

    def result(self, key):
        class DepthResult:
            depth, others = DepthMap(np.zeros((4, 4), np.float32), None), ()

        return DepthResult()


def test_no_refusal_repeats_what_was_sent():
    for refuse in refusals():
        with pytest.raises((DemoError, TypeError)) as caught:
            refuse()
        if isinstance(caught.value, DemoError):
            said = str(caught.value)
            assert len(said) < 300 and "zzz" not in said and "000000" not in said and "999999" not in said
        else:  # an unhashable name; Gradio's fields let none through
            assert "unhashable" in str(caught.value)


@on_server
@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("depth", {"photo": None, "colormap": LONG}),
        ("depth", {"photo": None, "steps": LONG}),
        ("depth", {"photo": None, "quality": LONG}),
        ("depth", {"photo": LONG}),
        ("relief", {"depth": None, "width_mm": LONG}),
        ("relief", {"depth": None, "frame": LONG}),
        ("mesh", {"depth": None, "photo": {"path": LONG}}),
    ],
)
def test_no_answer_repeats_what_was_sent(url, name, call):
    with Visit(url) as visit, pytest.raises(RefusedError) as caught:
        visit.request(name, **call)
    assert 10 < len(str(caught.value)) < 300 and "zzz" not in str(caught.value)


# -- past the queue ---------------------------------------------------------------------------------


@on_server
def test_events_of_the_queue_cannot_be_run_past_it(url, page):
    queued = next(fn for fn in page.fns.values() if fn.queue and fn.api_visibility == "private")
    public = next(fn for fn in page.fns.values() if fn.api_name == "depth")
    with httpx.Client(base_url=url, timeout=60) as web:
        for kind in ("run", "api"):
            answers = [
                web.post(f"/gradio_api/{kind}/depth", json={"data": []}),
                *(
                    web.post(f"/gradio_api/{kind}/predict", json={"data": [], "fn_index": event._id})
                    for event in (queued, public)
                ),
            ]
            for answer in answers:
                assert answer.status_code == 404
                assert "/gradio_api/call/NAME" in answer.json()["detail"]
        for event in page.fns.values():
            if event.api_visibility == "private" and event.fn:
                for path in ("call", "run", "api"):
                    answer = web.post(f"/gradio_api/{path}/{event.api_name}", json={"data": []})
                    assert answer.status_code == 404


@on_server
def test_a_body_of_very_many_values_is_refused(url):
    body = json.dumps({"data": [[]] * 200_000, "fn_index": 1, "session_hash": "many"})
    answer = httpx.post(f"{url}/gradio_api/queue/join", content=body, timeout=60)
    assert (answer.status_code, answer.json()["detail"][:24]) == (400, "There are too many value")


@on_server
def test_requests_that_begin_a_run_and_never_run_are_forgotten(url, page, monkeypatch):
    begin = next(fn for fn in page.fns.values() if fn.api_name.startswith("_begin") or "begin" in fn.api_name)
    with httpx.Client(base_url=url, timeout=60) as web:
        for number in range(5):
            body = {"data": [LONG, None], "fn_index": begin._id, "session_hash": f"b{number}"}
            answer = web.post("/gradio_api/run/predict", json=body)
            assert answer.status_code == 200 and len(answer.content) < 20_000


# -- one visitor's share ----------------------------------------------------------------------------


@on_server
def test_one_visitor_has_so_many_photos_waiting_and_another_one_gets_in(url, page, predict, photos):
    with ThreadPoolExecutor() as threads, Visit(url, address="127.0.2.3") as greedy:
        running = threads.submit(depth, greedy, photos[0])
        assert eventually(lambda: predict.running == 1, within_s=10)
        waiting = [threads.submit(depth, greedy, photo) for photo in photos[1 : 1 + OWN]]
        assert eventually(lambda: page.event_queue.get_active_worker_count() == 1 + OWN, within_s=10)
        time.sleep(1)  # a worker has begun before its photo stands in the line
        with Visit(url, address="127.0.2.3") as again, pytest.raises(RefusedError) as caught:
            depth(again, photos[4])
        assert "You have 2 photos waiting already" in str(caught.value)
        with Visit(url, address="127.0.2.4") as other:
            after = threads.submit(depth, other, photos[5])
            assert eventually(lambda: page.event_queue.get_active_worker_count() == 2 + OWN, within_s=10)
            predict.hurry.set()
            assert [done.result().shape for done in (running, *waiting, after)] == [
                (40, 60),
                (41, 60),
                (42, 60),
                (45, 60),
            ]


@on_server
def test_one_visitor_never_takes_all_places_in_the_queue(tmp_path, predict, photos, monkeypatch):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(api, "MAX_NETWORK", 1)
    predict.hurry.clear()
    service, workflow = Service(), Workflow(predict, waiting_per_visitor=OWN)
    page = build_page(workflow, store=SessionStore(workflow, files=service.cache), waiting_most=WAITING)
    url = launch(page, service, listen("127.0.0.1", 0))
    try:
        line = page.event_queue.event_queue_per_concurrency_id
        with Visit(url, address="127.0.2.5") as greedy, Visit(url, address="127.0.2.6") as other:
            photo, its_photo = greedy.upload("a.png", photos[0]), other.upload("b.png", photos[1])
            refused = []
            for number in range(WAITING + 2):
                try:
                    greedy.start("depth", photo=photo, seed=number)
                except RefusedError as error:
                    refused.append(str(error))
                assert eventually(lambda: page.event_queue.get_active_worker_count() == 1, within_s=10)
            assert len(page.event_queue) == WAITING // 2
            assert len(refused) == WAITING // 2 + 1 and "Many of your requests" in refused[0]
            other.start("depth", photo=its_photo)
            hosts = [event.request.client.host for event in line["network"].queue]
            assert hosts == ["127.0.2.5"] * (WAITING // 2) + ["127.0.2.6"]
            predict.hurry.set()
            assert eventually(lambda: is_idle(page), within_s=30)
    finally:
        predict.hurry.set()
        page.close(verbose=False)


@on_server
def test_a_proxy_that_is_not_believed_is_told_to_the_log_once(url, page, monkeypatch, caplog):
    monkeypatch.setattr(page.event_queue, "has_logged_proxy", False)
    for told in ("127.0.0.1", "192.0.2.1", "192.0.2.2"):
        body, headers = {"photo": None}, {"x-forwarded-for": told}
        httpx.post(
            f"{url}/gradio_api/call/v2/depth", json=body, headers=headers, timeout=60
        ).raise_for_status()
    told = [record.msg for record in caplog.records if "proxy" in record.msg]
    assert len(told) == 1 and "FORWARDED_ALLOW_IPS" in told[0] and "192.0.2" not in told[0]


@on_server
def test_a_run_that_took_far_too_long_last_time_is_refused_at_once(tmp_path, photos, monkeypatch):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "cache"))
    service = Service()
    status_of = lambda settings: CheckpointStatus(last_s=60.0 * (settings.ensemble or 1))  # noqa: E731
    predict = SlowPredictor()
    predict.hurry.set()
    workflow = Workflow(service.runs.watched(predict), admit=service.runs.admission(status_of))
    page = build_page(workflow, store=SessionStore(workflow, files=service.cache))
    url = launch(page, service, listen("127.0.0.1", 0))
    try:
        with Visit(url) as visit:
            photo = visit.upload("photo.png", photos[0])
            with pytest.raises(RefusedError) as caught:
                visit.request("depth", photo=photo, ensemble=20)
            said = "This took 20 minutes last time, and one run may take 5 minutes here; fewer steps, "
            assert said in str(caught.value)
            assert visit.request("depth", photo=photo, ensemble=8)
    finally:
        page.close(verbose=False)
