"""The events of the page, from one stage to the next. Knows nothing of layout, pixels or solids.

A run is a chain: a new wish -> begin (buttons) -> run (the network; a generator, so that Cancel closes it) ->
preview -> files. Only `run` asks the network; colors, relief and mesh start at the kept depth.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import gradio as gr
from gradio.events import Dependency

from marigold_demo.advice import Advisor
from marigold_demo.examples import Example
from marigold_demo.io.depth_file import Near
from marigold_demo.io.isolated import load_recipe
from marigold_demo.settings import DepthSettings
from marigold_demo.ui import depth_stage, model_choice, photo_stage, widgets
from marigold_demo.ui.depth_stage import DepthStage
from marigold_demo.ui.measure import reading
from marigold_demo.ui.messages import status, user_errors
from marigold_demo.ui.model_wiring import ModelWiring
from marigold_demo.ui.object_stage import MESH, RELIEF, ObjectStage
from marigold_demo.ui.object_wiring import ObjectWiring
from marigold_demo.ui.photo_stage import PhotoStage
from marigold_demo.ui.session_store import DepthResult, SessionStore
from marigold_demo.ui.sessions import visitor
from marigold_demo.ui.views import Look
from marigold_demo.ui.widgets import NETWORK, NETWORK_MOST, QUIET, RAW, READING, WORK


class Wiring:
    """The events of the page."""

    def __init__(
        self,
        store: SessionStore,
        examples: tuple[Example, ...],
        *,
        photo: PhotoStage,
        depth: DepthStage,
        made: ObjectStage,
        advise: Advisor | None = None,
    ) -> None:
        self.store, self.examples, self.advise = store, examples, advise
        self.photo, self.depth, self.made = photo, depth, made
        self.objects = ObjectWiring(store, depth, made)
        self.models = ModelWiring(store, advise, photo=photo, depth=depth)

    def connect(self, page: gr.Blocks) -> None:
        """Connect all stages, each after the ones it needs."""
        photo = self.photo
        run = self._connect_run()
        self._connect_photo(run)
        # Through the queue, or the change of the wish is not noticed.
        photo.run.click(photo_stage.new_wish, None, [photo.wish], **WORK)
        photo.cancel.click(self._cancelled, [photo.wish], photo.buttons, cancels=[run], queue=False, **QUIET)
        self.models.connect(page, run)
        self._connect_depth_file(run)
        self._connect_recipe()
        self._connect_looks()
        self.objects.connect()

    def _connect_photo(self, run: Dependency) -> None:
        photo, depth, made = self.photo, self.depth, self.made
        taken = [photo.key, photo.wish, photo.notes, *photo.buttons, depth.stage, depth.key, made.stage]
        photo.key.change(
            self._bound(photo_stage.phone_button), [photo.key], [photo.phone_depth], queue=False, **QUIET
        )
        photo.gallery.select(
            user_errors(self._take_example),
            [photo.at_once],
            [photo.drop, *taken, *made.shapes[RELIEF].knobs.values()],
            cancels=[run],
            **WORK,
        )
        photo.drop.input(
            self._bound(photo_stage.take_photo),
            [photo.drop, photo.at_once],
            [photo.asked, photo.shown, *taken],
            preprocess=False,
            trigger_mode="always_last",  # the clipboard empties the box just before it fills it
            cancels=[run],
            **READING,
        ).success(
            None, [photo.drop, photo.asked, photo.shown], [photo.drop], js=photo_stage.ANSWERED, **QUIET
        )

    def _connect_depth_file(self, run: Dependency) -> None:
        """Let a depth file, or the depth inside a photo, take the place of a run.

        What is said of a depth file later has it read again.
        """
        photo, depth = self.photo, self.depth
        gr.on(
            [photo.near.input, photo.inverse.input, photo.frame.submit],
            self._reread,
            [depth.key],
            [photo.reread],
            **WORK,
        )
        brought = gr.on(
            [photo.depth_file.upload, photo.reread.change],
            user_errors(self._take_depth_file),
            [*photo.depth_choices, photo.depth_file, photo.key, depth.left, depth.right, *depth.look],
            [photo.status, depth.key, *depth.pictures, depth.stage],
            cancels=[run],
            **READING,
        )
        self._follow(brought)
        from_phone = photo.phone_depth.click(
            self._bound(depth_stage.take_phone_depth),
            [photo.key, depth.left, depth.right, *depth.look],
            [*photo.buttons, depth.key, *depth.pictures, depth.stage],
            cancels=[run],
            **WORK,
        )
        self._follow(from_phone)

    def _reread(self, depth_key: str | None) -> Any:
        """Have the depth file on screen read again; there may be none."""
        return photo_stage.new_wish() if self.store.is_own_depth(depth_key) else gr.skip()

    def _take_depth_file(self, near: Near, inverse: bool, frame: str, *taken: Any) -> tuple[Any, ...]:
        return depth_stage.take_depth_file(
            self.store, *taken, near=near, inverse=bool(inverse), frame=frame or ""
        )

    def _connect_recipe(self) -> None:
        """Set all knobs as a recipe says; with a photo in its box, a run follows."""
        photo, shapes = self.photo, self.made.shapes
        all_knobs = [photo.knobs, *(shape.knobs for shape in shapes.values())]
        photo.recipe_file.upload(
            user_errors(self._take_recipe),
            [photo.recipe_file, photo.key],
            [photo.status, photo.wish, *(knob for group in all_knobs for knob in group.values())],
            **READING,
        )

    def _take_recipe(self, path: str | None, photo_key: str | None) -> list[Any]:
        recipe, shapes = load_recipe(path or "", visitor=visitor()), self.made.shapes
        wish = photo_stage.new_wish() if photo_key else gr.skip()
        told = photo_stage.recipe_told(recipe, self.store.photo(photo_key) if photo_key else None)
        parts = [
            (recipe.depth, self.photo.knobs),
            (recipe.relief, shapes[RELIEF].knobs),
            (recipe.mesh, shapes[MESH].knobs),
        ]
        values = [
            value
            for settings, group in parts
            for value in (
                [gr.skip()] * len(group) if settings is None else widgets.shown(settings, list(group))
            )
        ]
        return [told, wish, *values]

    def _connect_run(self) -> Dependency:
        """Start a run whenever the wish changes; return the event that uses the network."""
        photo, depth, made = self.photo, self.depth, self.made
        emptied = [depth.key, depth.slider, depth.measure.reading, *depth.files.values(), made.preview]
        began = photo.wish.change(
            self._begin,
            [photo.wish, depth.key],
            [*photo.buttons, photo.refine, photo.offer, depth.stage, *emptied],
            queue=False,
            **QUIET,
        )
        run = began.success(
            user_errors(self._run, also=_run_failed),
            [photo.wish, photo.key, depth.key, *photo.knobs.values(), depth.left, depth.right, *depth.look],
            [photo.status, depth.key, *depth.pictures],
            concurrency_id=NETWORK,
            concurrency_limit=NETWORK_MOST,
            **QUIET,
            **RAW,
        )
        # Not `.then`: after an error it does not run.
        for ended in (run.success, run.failure):
            ended(self._ended, [photo.wish, photo.key, photo.status], photo.buttons, queue=False, **QUIET)
        self._follow(run)
        return run

    def _follow(self, depth_is_there: Dependency) -> None:
        """Do all that needs a finished depth: bring it into view, build the object, write the files."""
        depth = self.depth
        depth_is_there.success(None, js=_SHOW_DEPTH)
        # Before its preview is made: a Model3D that is filled while it is not there stays empty.
        self.objects.rebuild(self.objects.unfold(depth_is_there).success)
        exact, colored = [depth.files["npy"], depth.files["png16"]], [depth.files["colored"]]
        depth_is_there.success(
            self._bound(depth_stage.colored_file), [depth.key, *depth.look], colored, **WORK, **RAW
        )
        depth_is_there.success(self._bound(depth_stage.depth_files), [depth.key], exact, **WORK)

    def _take_example(self, choice: gr.EventData, at_once: bool) -> tuple[Any, ...]:
        example = photo_stage.chosen_example(self.examples, choice._data)
        relief = self.made.shapes[RELIEF].shown(example.relief)
        return *photo_stage.take_example(self.store, example, at_once), *relief

    def _begin(self, wish: str, depth_key: str | None) -> tuple[Any, ...]:
        self.store.begin_run(wish)
        buttons = photo_stage.buttons(ready=False, busy=True, told="Getting ready")
        files = [gr.DownloadButton(words, interactive=False) for words in depth_stage.FILES.values()]
        if depth_key:  # another depth of the same photo: the one before stays until it is there
            return *buttons, *[gr.skip()] * (7 + len(files))
        unread, no_offer = reading(()), (gr.Button(visible=False), "")
        return *buttons, *no_offer, gr.Column(visible=True), None, None, unread, *files, None

    def _run(
        self, wish: str, photo_key: str | None, depth_key: str | None, *chosen: Any
    ) -> Iterator[tuple[Any, ...]]:
        count = len(self.photo.knobs)
        left, right, *look = chosen[count:]
        try:
            draft = self.store.result(depth_key) if photo_stage.is_for_finer(wish) else None
            yield from depth_stage.stream_depth(
                self.store,
                photo_key,
                self._wished(draft, chosen[:count]),
                sides=(left, right),
                look=Look(*look),
            )
        finally:
            self.store.end_run(wish)

    def _wished(self, draft: DepthResult | None, chosen: Sequence[Any]) -> DepthSettings:
        """Return the settings of the knobs, or those that refine a draft."""
        finer = model_choice.finer(self.advise, draft) if draft else None
        if finer:
            return finer.settings
        return widgets.read(DepthSettings, dict(zip(self.photo.knobs, chosen, strict=True)))

    def _cancelled(self, wish: str) -> tuple[Any, ...]:
        self.store.end_run(wish)
        return photo_stage.buttons(ready=True, told="Stopped")

    def _ended(self, wish: str, photo_key: str | None, line: str) -> tuple[Any, ...]:
        """Put the buttons back, unless this tells late of a run whose successor is under way."""
        if self.store.is_running(wish):
            return gr.skip(), gr.skip(), gr.skip()
        under_way = "<progress" in str(line)  # nothing else told how it ended
        return photo_stage.buttons(ready=bool(photo_key), told="Stopped" if under_way else None)

    def _connect_looks(self) -> None:
        depth = self.depth
        changed = gr.on(
            [
                *(choice.input for choice in (depth.left, depth.right, depth.colormap, depth.invert)),
                *(plane.release for plane in (depth.near, depth.far, depth.contours)),
            ],
            self._bound(depth_stage.picture_sides),
            depth.pictured,
            depth.pictures,
            trigger_mode="always_last",
            **WORK,
            **RAW,
        )
        changed.success(
            self._bound(depth_stage.colored_file),
            [depth.key, *depth.look],
            [depth.files["colored"]],
            **WORK,
            **RAW,
        )

    def _bound(self, handler: Callable[..., Any]) -> Callable[..., Any]:
        return user_errors(partial(handler, self.store))


def _run_failed(sentence: str) -> tuple[Any, ...]:
    return status(sentence, alert=True), *[gr.skip()] * 5


# Brings the visitor to the result when it lies below the screen.
_SHOW_DEPTH = """() => {
  const stage = document.querySelector("#run-bar");
  const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
  if (stage && stage.getBoundingClientRect().top > innerHeight * 0.35)
    stage.scrollIntoView({ behavior: calm ? "auto" : "smooth" });
}"""
