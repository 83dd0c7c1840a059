"""The events of the third stage: settings become an object, its files, and a parcel of everything.

Knows nothing of photos or of how depth is made; the network is never asked.
"""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.events import Dependency

from marigold_demo.errors import SettingsError
from marigold_demo.presets import RELIEF_PRESETS
from marigold_demo.settings import MeshSettings, ReliefSettings
from marigold_demo.ui import object_stage, parcel
from marigold_demo.ui.depth_stage import DepthStage
from marigold_demo.ui.measure import Places, empty, read_point, use_length
from marigold_demo.ui.messages import size_in_words, user_errors
from marigold_demo.ui.object_stage import MESH, RELIEF, ObjectStage
from marigold_demo.ui.session_store import SessionStore
from marigold_demo.ui.views import Look
from marigold_demo.ui.widgets import QUIET, RAW, WORK

CAMERA = ("projection", "far_near_ratio", "fov_deg", "ortho_depth")  # a known length depends on these
_CLEAR_DOTS = """(...values) => {
  document.querySelectorAll("#compare .dot").forEach((dot) => dot.remove());
  return values;
}"""
# After the button has its file; the button itself is never seen.
_FETCH_PARCEL = """() => setTimeout(() => document.querySelector("#parcel").click(), 200)"""


class ObjectWiring:
    """The events of the third stage."""

    def __init__(self, store: SessionStore, depth: DepthStage, made: ObjectStage) -> None:
        self.store, self.depth, self.made = store, depth, made

    def connect(self) -> None:
        """Rebuild whenever the visitor has settled on something, and pack when asked to."""
        made = self.made
        for name, tab in made.tabs.items():
            tab.select(lambda name=name: name, None, [made.chosen], **WORK)
        self.rebuild(made.chosen.change)  # not the tab's event, which fires when the page unfolds, too
        relief = made.shapes[RELIEF]
        begun = made.preset.input(
            lambda name: relief.shown(RELIEF_PRESETS.get(str(name), ReliefSettings())),
            [made.preset],
            list(relief.knobs.values()),
            **WORK,
        )
        self.rebuild(begun.success)
        settled = [
            event
            for shape in made.shapes.values()
            for name, knob in shape.knobs.items()
            for event in _settled(knob)
            if not (shape is made.shapes[MESH] and name in CAMERA)
        ]
        self.rebuild(partial(gr.on, settled), trigger_mode="always_last")
        self._connect_points()
        self._connect_parcel()

    def unfold(self, depth_is_there: Dependency) -> Dependency:
        """Bring the stage into view and forget points on an earlier depth.

        It is there before its preview is made: a Model3D that is filled while it is hidden stays empty.
        """
        measure = self.depth.measure
        return depth_is_there.success(
            lambda before: (gr.Column(visible=True), *self._forgotten(before)),
            [measure.before],
            [self.made.stage, *measure.emptied, self.made.shapes[MESH].knobs["near_m"]],
            js=_CLEAR_DOTS,
            queue=False,
            **QUIET,
        )

    def rebuild(self, trigger: Callable[..., Dependency], **how: Any) -> None:
        """Build the preview of the chosen shape at the trigger, then its files."""
        made = self.made
        values = [knob for shape in made.shapes.values() for knob in shape.knobs.values()]
        outputs = [output for shape in made.shapes.values() for output in shape.outputs]
        inputs = [self.depth.key, made.chosen, *values]
        previewed = trigger(
            user_errors(self._preview), inputs, [made.preview, *outputs], **WORK, **RAW, **how
        )
        previewed.success(
            user_errors(self._build), inputs, outputs, trigger_mode="always_last", **WORK, **RAW
        )

    def _preview(self, key: str | None, name: str, *chosen: Any) -> list[Any]:
        settings = self._settings(name, chosen)
        path = object_stage.preview(self.store, key, settings)
        self.store.record_preview(key, settings)
        waiting = [gr.skip(), *self.made.shapes[name].waiting()]
        return [path, *self._outputs(name, waiting)]

    def _build(self, key: str | None, name: str, *chosen: Any) -> list[Any]:
        """Write the files; those that a newer wish has overtaken are not shown, for its own will follow."""
        settings = self._settings(name, chosen)
        files = object_stage.build(self.store, key, settings)
        if self.store.is_preview_outdated(key, settings):
            files = [gr.skip()] * len(files)
        return self._outputs(name, files)

    def _settings(self, name: str, chosen: Sequence[Any]) -> Any:
        """Make settings of those of the widgets' values that belong to one shape."""
        start = 0
        for other, shape in self.made.shapes.items():
            if other == name:
                return shape.settings(chosen[start : start + len(shape.knobs)])
            start += len(shape.knobs)
        raise SettingsError(f"This is no object; it must be one of {', '.join(self.made.shapes)}.")

    def _outputs(self, name: str, filled: Sequence[Any]) -> list[Any]:
        """Put the outputs of one shape between those of the others, which stay as they are."""
        parts = {other: [gr.skip()] * len(shape.outputs) for other, shape in self.made.shapes.items()}
        return [output for part in (parts | {name: filled}).values() for output in part]

    def _connect_points(self) -> None:
        """Read the depth at points; a known length between two of them gives the mesh its scale."""
        measure, mesh = self.depth.measure, self.made.shapes[MESH]
        near = mesh.knobs["near_m"]
        measure.point.change(
            user_errors(partial(read_point, self.store)),
            [self.depth.key, measure.point, measure.places],
            [measure.reading, measure.places, measure.row, measure.length],
            trigger_mode="multiple",
            **WORK,
            **RAW,
        )
        settled = [measure.length.submit, measure.length.blur]
        scaled = gr.on(
            settled + [event for name in CAMERA for event in _settled(mesh.knobs[name])],
            user_errors(self._scale),
            [self.depth.key, measure.places, measure.length, measure.before, *mesh.knobs.values()],
            [measure.reading, measure.before, near],
            trigger_mode="always_last",
            **WORK,
            **RAW,
        )
        self.rebuild(scaled.success)
        cleared = measure.clear.click(
            self._forgotten,
            [measure.before],
            [*measure.emptied, near],
            js=_CLEAR_DOTS,
            queue=False,
            **QUIET,
        )
        self.rebuild(cleared.success)

    def _scale(
        self, key: str | None, places: Places, length: str, before: str | None, *chosen: Any
    ) -> tuple[Any, ...]:
        """Return the sentence, the nearest distance as it was before, and as the known length has it."""
        if not length and before is None:
            return gr.skip(), gr.skip(), gr.skip()
        settings: MeshSettings = self.made.shapes[MESH].settings(chosen)
        told, near_m = use_length(self.store, key, places, length, settings)
        if near_m is None:
            return told, None, before
        typed = "" if settings.near_m is None else f"{settings.near_m:.9g}"  # never the text as it came
        return told, typed if before is None else before, f"{near_m:g}"

    @staticmethod
    def _forgotten(before: str | None) -> tuple[Any, ...]:
        """Forget all points, and put the nearest distance back to what it was before a length was known."""
        return *empty(), gr.skip() if before is None else before

    def _connect_parcel(self) -> None:
        """Pack everything when asked to, then let the browser fetch it."""
        made = self.made
        values = [knob for shape in made.shapes.values() for knob in shape.knobs.values()]
        packed = made.everything.click(
            user_errors(self._pack),
            [self.depth.key, *self.depth.look, *values],
            [made.parcel, made.everything],
            **WORK,
            **RAW,
        )
        packed.success(None, js=_FETCH_PARCEL)

    def _pack(self, key: str | None, *chosen: Any) -> tuple[str, gr.Button]:
        result, look = self.store.result(key), Look(*chosen[: len(self.depth.look)])
        values = chosen[len(self.depth.look) :]
        path = parcel.everything(
            self.store,
            result,
            relief=self._settings(RELIEF, values),
            mesh=self._settings(MESH, values),
            colored=look.colored(result.depth.values),
        )
        words = f"Everything in one zip · {size_in_words(Path(path).stat().st_size)}"
        return path, gr.Button(words)


def _settled(knob: gr.components.Component) -> list[Callable[..., Dependency]]:
    """Return the events that fire when the visitor has settled on a value, not at every pixel of a drag."""
    if isinstance(knob, gr.Slider):
        return [knob.release]
    if isinstance(knob, gr.Number | gr.Textbox):
        return [knob.submit, knob.blur]
    return [knob.input]
