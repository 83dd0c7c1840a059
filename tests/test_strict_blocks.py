"""What a client sends to any event or endpoint: a result or an error message, and no other file is opened.

Gradio's own way from the client's values to a handler is run here for every event, private ones too.
"""

import asyncio
import sys
from pathlib import Path
from typing import Any

import gradio as gr
import pytest
from gradio.events import EventData
from gradio.state_holder import SessionState
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from marigold_demo.io.photo import load_photo
from marigold_demo.settings import DepthSettings
from marigold_demo.ui import build_page, messages
from marigold_demo.ui.session_store import DepthResult, SessionStore
from tests.pages import LENIENT, Ball, CoarseWorkflow, draw_photo

pytestmark = [pytest.mark.slow, LENIENT]
EXAMPLES = 250


def as_file(path: object) -> dict[str, Any]:
    return {"path": path, "orig_name": "a.png", "meta": {"_type": "gradio.FileData"}}


class Site:
    """A launched page with a photo, its depth and two points, and a note of every opened file."""

    def __init__(self, folder: Path) -> None:
        self.secret = draw_photo(folder, "secret.png", size=(64, 48))
        self.upload = draw_photo(folder / "cache", "mine.png", size=(64, 48))
        self.opened: list[str] | None = None
        sys.addaudithook(self._note)
        self.store = SessionStore(CoarseWorkflow(Ball(steps=1)))
        self.page = build_page(self.store.workflow, store=self.store)
        self.page.launch(prevent_thread_lock=True, quiet=True, server_name="127.0.0.1", show_error=False)
        self.events = [fn for fn in self.page.fns.values() if fn.fn is not None]
        store = self.store
        photo = load_photo(self.upload)
        made = DepthSettings()
        self.photo_key = store.add_photo(photo)
        self.key = store.add_result(DepthResult(photo, store.workflow.estimate(photo, made), made))

    def _note(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.opened is not None and event == "open":
            self.opened.append(str(arguments[0]))

    def state(self) -> SessionState:
        state, tabs = SessionState(self.page), self.page.tabs
        kept = {
            tabs.photo.key: self.photo_key,
            tabs.photo.request: "request",
            tabs.depth.key: self.key,
            tabs.depth.points.places: ((0.1, 0.2), (0.8, 0.9)),
        }
        for component, value in kept.items():
            state[component._id] = value
        return state

    def usual(self, component: gr.components.Component) -> Any:
        """Return what the page itself would send."""
        name = str(component.elem_id)
        if name.endswith("resolution"):
            return 128
        if isinstance(component, gr.File | gr.UploadButton | gr.Image):
            return as_file(str(self.upload))
        return {"known-length": "2.5", "point": "0.5 0.5 1"}.get(name, getattr(component, "value", None))

    async def call(self, event: Any, inputs: list[Any], data: Any) -> None:
        iterator, state, going = None, self.state(), True
        target = self.page.blocks.get(event.targets[0][0]) if event.targets else None
        while going:
            answer = await self.page.process_api(
                event,
                inputs,
                state=state,
                iterator=iterator,
                session_hash="visitor",
                event_id="event",
                event_data=EventData(target, data),
            )
            iterator, going = answer["iterator"], answer["is_generating"]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("intake")
    (folder / "cache").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(folder / "cache"))
        made = Site(folder)
        yield made
        made.opened = None
        made.page.close(verbose=False)


def hostile(site: Site) -> st.SearchStrategy[Any]:
    paths = st.sampled_from([str(site.secret), "/etc/passwd", "../secret.png", "", None, 7])
    plain = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12) | paths
    huge = st.sampled_from([10**400, -(10**400), 1e308, float("nan"), float("-inf"), "9" * 5000, "\0", "½"])
    return st.one_of(
        plain,
        huge,
        paths.map(as_file),
        st.lists(plain | paths.map(as_file), max_size=3),
        st.dictionaries(st.sampled_from(["path", "url", "meta", "index", "value"]), plain, max_size=3),
    )


def check(site: Site, event: Any, inputs: list[Any], data: Any) -> str | None:
    """Call an event; return the error message it ends in, None for a result."""
    site.opened, sentence = [], None
    try:
        asyncio.run(site.call(event, inputs, data))
    except gr.Error as error:
        sentence = str(error.message)
    opened, site.opened = site.opened, None
    assert sentence != messages.UNFORESEEN, (event.name, inputs)
    assert sentence is None or sentence.strip()
    assert not [path for path in opened if path in (str(site.secret), "/etc/passwd")]
    return sentence


def test_what_the_page_itself_sends_is_taken_by_every_event(site):
    told = {
        event.name: check(site, event, [site.usual(c) for c in event.inputs], {"index": 0})
        for event in site.events
    }
    refused = {name: sentence for name, sentence in told.items() if sentence}
    # The usual upload is a picture, which is neither a recipe nor a depth file, and has no depth inside.
    known = {"take_recipe", "take_depth_file", "take_phone_depth", "relief", "mesh"}
    assert set(refused) <= known, refused


@given(data=st.data())
@settings(max_examples=EXAMPLES, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
def test_whatever_is_sent_ends_in_a_result_or_a_sentence(site, data):
    event = data.draw(st.sampled_from(site.events), label="event")
    inputs = [site.usual(component) for component in event.inputs]
    if inputs:
        for place in data.draw(st.sets(st.integers(0, len(inputs) - 1), min_size=1, max_size=3)):
            inputs[place] = data.draw(hostile(site))
        if data.draw(st.integers(0, 9)) == 0:
            inputs.pop()
    index = data.draw(st.just(0) | hostile(site))
    check(site, event, inputs, {"index": index, "value": None})


@pytest.mark.parametrize("stolen", ["secret", "/etc/passwd"])
def test_a_file_that_was_not_uploaded_is_refused_by_every_event_that_takes_files(site, stolen):
    path = str(site.secret) if stolen == "secret" else stolen
    tried = 0
    for event in site.events:
        for place, component in enumerate(event.inputs):
            if isinstance(component, gr.File | gr.UploadButton | gr.Image):
                inputs = [site.usual(c) for c in event.inputs]
                inputs[place] = as_file(path)
                sentence = check(site, event, inputs, {"index": 0})
                assert sentence is not None and "not uploaded" in sentence, event.name
                tried += 1
    assert tried >= 8
