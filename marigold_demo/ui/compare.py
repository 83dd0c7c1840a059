"""A second method on the photo: its depth is one more side of the slider; the first one stays as it is.

A comparison is a run beside those of `depth_tab`: a click -> start (buttons) -> run (the network) -> show.
"""

from collections.abc import Iterator
from contextlib import closing
from typing import TYPE_CHECKING, Any

import gradio as gr
from gradio.events import Dependency

from marigold_demo.catalog import OTHER_METHODS
from marigold_demo.depth import DepthMap
from marigold_demo.errors import DemoError
from marigold_demo.settings import DepthSettings
from marigold_demo.ui.layers import DEPTH, OTHER, DepthStyle
from marigold_demo.ui.messages import ProgressText, status, user_errors
from marigold_demo.ui.model_picker import ModelPicker, method_hint
from marigold_demo.ui.queue import is_current, visitor
from marigold_demo.ui.session_store import DepthResult, OtherDepth, SessionStore, new_request
from marigold_demo.ui.widgets import EACH, MAX_NETWORK, NETWORK, ONCE, QUIET, RAW, WORK

if TYPE_CHECKING:
    from marigold_demo.ui.depth_tab import DepthTab
    from marigold_demo.ui.photo_tab import Outputs, PhotoTab

# A narrow screen shows the slider instead of the object.
_SHOW_SLIDER = """() => document.querySelector('#views button[data-view="compare"]')?.click()"""


class Compare:
    """Choice of a second method, and the button that runs it.

    Attributes:
        request: Id of the comparison that was asked for last.
        found: Changes when a second depth is there.
    """

    def __init__(self, store: SessionStore, models: ModelPicker) -> None:
        self.store, self.models = store, models
        self.request, self.found = gr.State(None), gr.State(None)

    def add_controls(self, *, ready: bool) -> None:
        """Add the choice of a method, with a line on it, and the button."""
        method = OTHER_METHODS[0]
        with gr.Column(elem_id="compare-row", min_width=0):
            self.method = gr.Dropdown(
                self.models.choices,
                value=method.name,
                label="Compare with",
                info=method_hint(method.name),
                allow_custom_value=True,
                elem_id="compare-method",
            )
            self.button = gr.Button("Compare", size="sm", interactive=ready, elem_id="compare-run")

    def connect(self, photo: "PhotoTab", depth: "DepthTab") -> Dependency:
        """Run a comparison at each click; return the event that uses the network."""
        self.photo, self.depth = photo, depth
        photo.run_buttons.append(self.button)
        self.method.change(
            lambda name: gr.Dropdown(info=method_hint(name)),
            [self.method],
            [self.method],
            queue=False,
            **QUIET,
        )
        begun = self.button.click(
            user_errors(self.start),
            [self.method, photo.request, photo.key, depth.key],
            [self.request, *photo.run_outputs],
            **WORK | ONCE,
        )
        run = begun.success(
            user_errors(self.run, also=lambda words: {photo.status: status(words, alert=True)}),
            [self.request, self.method, photo.key, depth.key],
            [photo.status, self.found],
            concurrency_id=NETWORK,
            concurrency_limit=MAX_NETWORK,
            **QUIET | EACH,
            **RAW,
        )
        for ended in (run.success, run.failure):
            ended(
                self.end,
                [self.request, photo.request, photo.key, photo.status],
                photo.run_outputs,
                queue=False,
                **QUIET,
            )
        shown = self.found.change(
            depth.of_this(self.show), [depth.key, *depth.style], depth.pictures, **WORK, **RAW
        )
        depth.bring_into_view(shown.success(None, js=_SHOW_SLIDER))
        return run

    # Handlers: what they return is component -> value; components that are not named stay as they are.

    def start(
        self, name: str, photo_request: str | None, photo_key: str | None, depth_key: str | None
    ) -> "Outputs":
        """Note the run and set the buttons.

        Raises:
            DemoError: There is nothing to compare with, or the method is the one on screen.
        """
        if self.store.is_running(photo_request):
            raise DemoError("The depth is still being made; compare it when it is there.")
        self._check(name, photo_key, depth_key)
        request = new_request()
        self.store.begin_run(request)
        state = self.photo.run_state(ready=False, busy=True, words="Getting ready")
        return {self.request: request} | state

    def _check(self, name: str, photo_key: str | None, depth_key: str | None) -> DepthSettings:
        """Return the settings of the second method: all but its name as they are at first."""
        first = self.store.result(depth_key)
        if not photo_key or self.store.photo(photo_key).digest != first.photo.digest:
            raise DemoError(
                "The depth on screen was not made from the chosen photo; press “Estimate depth” first."
            )
        settings = DepthSettings(checkpoint=str(name or ""))
        if first.settings and first.settings.checkpoint == settings.checkpoint:
            raise DemoError("This method made the depth on screen; choose another one to compare it with.")
        return settings

    def run(
        self, request: str, name: str, photo_key: str | None, depth_key: str | None
    ) -> Iterator["Outputs"]:
        """Yield the status line before each network call, and at the end that the second depth is there.

        Raises:
            DemoError: The first depth is gone, or the second one cannot be made.
        """
        stopped = False
        try:
            settings = self._check(name, photo_key, depth_key)
            photo = self.store.result(depth_key).photo
            text, line = ProgressText(), self.photo.status
            with closing(self.store.workflow.stream(photo, settings, visitor=visitor())) as steps:
                for step in steps:
                    if not (is_current(self.photo.key, photo_key) and is_current(self.depth.key, depth_key)):
                        return
                    if isinstance(step, DepthMap):
                        second = OtherDepth(DepthResult(photo, step, settings).name, step)
                        self.store.compare(depth_key, second)
                        words = f"{text.done()}. The second depth is on the scale of the first."
                        yield {line: status(words), self.found: request}
                    else:
                        yield {line: status(text.show(step), share=text.share, stage=step.stage)}
        except GeneratorExit:
            stopped = True
            raise
        finally:
            self.store.end_run(request, stopped=stopped)

    def end(
        self, request: str | None, photo_request: str | None, photo_key: str | None, line: str
    ) -> "Outputs":
        """Put the buttons back, unless a run has taken the place of the comparison."""
        if self.store.is_running(photo_request):
            return gr.skip()  # type: ignore[no-any-return]
        return self.depth.end_run(str(request), photo_key, line)

    def show(self, key: str | None, *style: Any) -> "Outputs":
        """Show the first depth beside the second."""
        return self.depth.show(self.store.result(key), (DEPTH, OTHER), DepthStyle(*style))
