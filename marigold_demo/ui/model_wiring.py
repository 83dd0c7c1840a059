"""The events around the choice of a model: what it costs here, and whether a draft can be refined.

Knows nothing of how a run goes; the network is never asked.
"""

from typing import Any

import gradio as gr
from gradio.events import Dependency

from marigold_demo.advice import Advisor
from marigold_demo.errors import DemoError
from marigold_demo.settings import DepthSettings
from marigold_demo.ui import model_choice, widgets
from marigold_demo.ui.depth_stage import DepthStage
from marigold_demo.ui.messages import user_errors
from marigold_demo.ui.photo_stage import PhotoStage, new_wish
from marigold_demo.ui.session_store import SessionStore
from marigold_demo.ui.widgets import QUIET, WORK


class ModelWiring:
    """The events around the choice of a model."""

    def __init__(
        self, store: SessionStore, advise: Advisor | None, *, photo: PhotoStage, depth: DepthStage
    ) -> None:
        self.store, self.advise = store, advise
        self.photo, self.depth = photo, depth

    def connect(self, page: gr.Blocks, run: Dependency) -> None:
        """Tell the cost whenever it changes; offer the refinement of each draft."""
        photo, depth = self.photo, self.depth
        if self.advise is not None:
            for moment in (page.load, run.success):  # a run may have fetched a checkpoint
                moment(self._choices, None, [photo.model], queue=False, **QUIET)
        asked: dict[str, Any] = {
            "fn": self._told,
            "inputs": [photo.key, *photo.knobs.values()],
            "outputs": [photo.advice],
            "trigger_mode": "always_last",
            "queue": False,
        } | QUIET
        changed = [page.load, photo.key.change, *(knob.change for knob in photo.knobs.values())]
        self._ask(changed, asked)
        offered: dict[str, Any] = {
            "fn": user_errors(self._offer),
            "inputs": [photo.key, depth.key],
            "outputs": [photo.refine, photo.offer],
            "queue": False,
        } | QUIET
        self._ask([depth.key.change, photo.key.change], offered)
        photo.refine.click(lambda: new_wish(finer=True), None, [photo.wish], **WORK)

    def _ask(self, changed: list[Any], asked: dict[str, Any]) -> None:
        """Ask the advisor, and again after a while: its first answer about a model may not be all of it."""
        answered = gr.on(changed, **asked)
        if self.advise is not None:
            answered.success(None, js=_PAUSE, **QUIET).success(**asked)

    def _choices(self) -> gr.Dropdown:
        return gr.Dropdown(choices=model_choice.choices(self.advise))

    def _told(self, photo_key: str | None, *chosen: Any) -> str:
        try:
            settings = widgets.read(DepthSettings, dict(zip(self.photo.knobs, chosen, strict=True)))
            size = self.store.photo(photo_key).size if photo_key else None
            return model_choice.told(self.advise, size, settings)
        except DemoError as error:
            return model_choice.line(str(error), alert=True)

    def _offer(self, photo_key: str | None, depth_key: str | None) -> tuple[gr.Button, str]:
        result = self.store.result(depth_key) if photo_key and depth_key else None
        finer = model_choice.finer(self.advise, result) if result else None
        if result is None or finer is None:
            return gr.Button(visible=False), ""
        cost = model_choice.price(self.advise(result.photo.size, finer.settings)) if self.advise else ""
        button = gr.Button(f"Refine with {finer.known.short_title}", visible=True)
        return button, model_choice.line("This is a draft; a larger model sees finer detail.", cost)


_PAUSE = "() => new Promise((go_on) => setTimeout(go_on, 4000))"
