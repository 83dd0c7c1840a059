"""Second tab of the page: a run of the network, photo beside depth, colors, and the files of depth.

A run is a chain: a new request -> begin (buttons; an earlier run ends) -> run (the network; a generator, so
that Cancel closes it) -> preview -> files. Only `run_network` uses the network; all else starts at the depth.
"""

from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, suppress
from typing import TYPE_CHECKING, Any

import gradio as gr
from gradio.events import Dependency

from marigold_demo import workflow
from marigold_demo.colormap import COLORMAPS, MOST_CONTOURS
from marigold_demo.depth import DepthMap
from marigold_demo.errors import DemoError, DepthFileError
from marigold_demo.io import export
from marigold_demo.io.depth_file import Near
from marigold_demo.io.formats import formats_of, page_formats
from marigold_demo.io.isolated import read_depth_file
from marigold_demo.io.photo import Photo, safe_stem
from marigold_demo.settings import DepthSettings, ReliefSettings
from marigold_demo.ui import layers, widgets
from marigold_demo.ui.layers import ALWAYS, DEPTH, PHOTO, RELIEF, Compare, DepthStyle, Points
from marigold_demo.ui.messages import Handler, ProgressText, status, user_errors
from marigold_demo.ui.model_picker import ModelPicker, refinement
from marigold_demo.ui.opening import Opening
from marigold_demo.ui.photo_tab import PHONE_DEPTH, Outputs, PhotoTab
from marigold_demo.ui.queue import is_current, unless_replaced, visitor
from marigold_demo.ui.session_store import DepthResult, SessionStore, is_refinement, new_request, write_file
from marigold_demo.ui.widgets import (
    EACH,
    MAX_NETWORK,
    NETWORK,
    ONCE,
    QUIET,
    RAW,
    READING,
    WORK,
    download_button,
)
from marigold_demo.workflow import same_shape

if TYPE_CHECKING:
    from marigold_demo.ui.object_tab import ObjectTab

HEIGHT_PX = 560
DIVIDER = 35  # percent of the width where the slider stands at first
FILES = {name: found.label for name, found in page_formats("depth", "picture").items()}

# Brings the pane with the result into view where the visitor has scrolled away from it.
_SHOW_DEPTH = """() => {
  const place = (name) => document.querySelector(name).getBoundingClientRect();
  const pane = place(document.body.dataset.view === "compare" ? "#compare-pane" : "#object-pane");
  const top = place("#bar").bottom;
  const seen = Math.min(pane.bottom, innerHeight) - Math.max(pane.top, top);
  const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
  if (seen < 0.9 * Math.min(pane.height, innerHeight - top))
    scrollBy({ top: pane.top - top - 8, behavior: calm ? "auto" : "smooth" });
}"""


class DepthTab:
    """Compare slider with its colors on the right, and downloads.

    Attributes:
        key: Of the depth result in the session store.
        style: The widgets of `DepthStyle`, in the order of its fields.
    """

    def __init__(self, store: SessionStore, models: ModelPicker, opening: Opening | None = None) -> None:
        self.store, self.models, self.opening = store, models, opening
        self.compare = Compare(store, models)
        self.key = gr.State(None)
        self.started = gr.Textbox(visible="hidden", elem_id="started")  # request whose run has begun

    def add_slider(self) -> None:
        """Add the compare slider with what is read from it."""
        opening = self.opening
        with gr.Column(visible=opening is not None, elem_id="depth-stage") as self.stage:
            self.slider = gr.ImageSlider(
                opening and opening.pictures,
                label="Photo and depth",
                show_label=False,
                type="filepath",
                format="png",
                height=HEIGHT_PX,
                max_height=HEIGHT_PX,
                interactive=False,
                buttons=["fullscreen"],
                slider_position=DIVIDER,
                elem_id="compare",
            )
            self.legend = gr.HTML(opening.legend if opening else "", elem_id="legend")
            self.points = Points(self.store)

    def add_controls(self) -> None:
        """Add what the slider shows, and its colors."""
        style = DepthStyle()
        with gr.Row():
            self.left = gr.Dropdown(list(ALWAYS), value=PHOTO, label="Left side", elem_id="left-side")
            self.right = gr.Dropdown(list(ALWAYS), value=DEPTH, label="Right side", elem_id="right-side")
        self.compare.add_controls(ready=self.opening is not None)
        maps = [(name.capitalize(), name) for name in COLORMAPS]
        self.colormap = gr.Dropdown(maps, value=style.colormap, label="Colors, near to far", elem_id="colors")
        with gr.Row():
            self.near = gr.Slider(0, 0.99, value=style.near, step=0.01, label="From")
            self.far = gr.Slider(0.01, 1, value=style.far, step=0.01, label="To")
        with gr.Row():
            self.contours = gr.Slider(
                0, MOST_CONTOURS, value=style.contours, step=1, label="Contour lines", elem_id="contours"
            )
            self.invert = gr.Checkbox(style.invert, label="Swap near and far colors")
        self.style = [self.colormap, self.near, self.far, self.invert, self.contours]

    def add_files(self) -> None:
        """Add a button for each file of the depth."""
        self.files = {
            kind: gr.DownloadButton(words, interactive=False, elem_id=f"download-{kind}")
            for kind, words in FILES.items()
        }

    @property
    def pictures(self) -> list[gr.components.Component]:
        """What a depth fills: the slider, its legend, and the title of each side."""
        return [self.slider, self.legend, self.left, self.right]

    @property
    def taken(self) -> list[gr.components.Component]:
        """What a new depth fills; the buttons of all files wait for theirs then."""
        return [self.key, *self.pictures, *self.files.values(), *self.objects.buttons]

    # Events

    def connect_run(self, photo: PhotoTab, objects: "ObjectTab") -> Dependency:
        """Start a run whenever the request changes; return the event that uses the network."""
        self.photo, self.objects = photo, objects
        compared = self.compare.connect(photo, self)
        emptied = [self.key, self.slider, self.points.reading, *self.files.values(), *objects.buttons]
        offer = [self.models.refine, self.models.offer]
        run = self.started.change(
            user_errors(self.run_network, also=lambda words: {photo.status: status(words, alert=True)}),
            [photo.request, photo.key, self.key, *photo.fields.values(), self.left, self.right, *self.style],
            [photo.status, *self.taken],
            concurrency_id=NETWORK,
            concurrency_limit=MAX_NETWORK,
            **QUIET | EACH,
            **RAW,
        )
        photo.request.change(
            self.begin_run,
            [photo.request, self.key],
            [self.started, *photo.run_outputs, *offer, self.stage, *emptied, objects.preview],
            cancels=[run, compared],  # that of another photo
            queue=False,
            **QUIET,
        )
        # Not `.then`: after an error it does not run.
        for ended in (run.success, run.failure):
            ended(
                self.end_run,
                [photo.request, photo.key, photo.status],
                photo.run_outputs,
                queue=False,
                **QUIET,
            )
        self.follow(run)
        photo.cancel.click(
            self.cancel_run,
            [photo.request, self.compare.request, photo.key, self.key],
            photo.run_outputs,
            cancels=[run, compared],
            queue=False,
            **QUIET,
        )
        self.runs = [run, compared]
        return run

    def connect(self) -> None:
        """Connect what takes the place of a run, the colors and the points."""
        self._connect_depth_file()
        self._connect_style()
        self.points.connect(self, self.objects)

    def follow(self, depth_is_there: Dependency) -> None:
        """Do all that needs a finished depth: bring it into view, build the object, write the files."""
        self.bring_into_view(depth_is_there)
        # Before its preview is made: a Model3D that is filled while it is not there stays empty.
        self.objects.rebuild(self.points.forget_after(depth_is_there, self.objects).success)
        exact, colored = [self.files["npy"], self.files["png16"]], [self.files["colored"]]
        for handler, style, outputs in (
            (self.objects.draw_chips, [], [self.objects.chips]),
            (self.write_colored, self.style, colored),
            (self.write_depth, [], exact),
        ):
            depth_is_there.success(self.of_this(handler), [self.key, *style], outputs, **WORK, **RAW)

    def bring_into_view(self, there: Dependency) -> None:
        """Scroll to the result where the visitor has scrolled away from it."""
        there.success(None, js=_SHOW_DEPTH)

    def of_this(self, handler: Handler) -> Handler:
        """Wrap a handler of the depth on screen, so that what it returns late never meets the next depth."""
        return unless_replaced(self.key, user_errors(handler))

    def _connect_depth_file(self) -> None:
        """Let a depth file, or the depth inside a photo, take the place of a run.

        When its options change later, the depth file is read again.
        """
        photo = self.photo
        gr.on(
            [photo.near.input, photo.inverse.input, photo.frame.submit],
            lambda key: new_request() if self.store.is_own_depth(key) else gr.skip(),
            [self.key],
            [photo.reread],
            **WORK,
        )
        sides = [self.left, self.right, *self.style]
        shown = [*self.taken, self.stage]
        from_file = gr.on(
            [photo.depth_file.upload, photo.reread.change],
            user_errors(self.take_depth_file),
            [*photo.depth_file_options, photo.depth_file, photo.key, *sides],
            [photo.status, *shown],
            cancels=self.runs,
            **READING,
        )
        self.follow(from_file)
        from_phone = photo.phone_depth.click(
            user_errors(self.take_phone_depth),
            [photo.key, *sides],
            [*photo.run_outputs, *shown],
            cancels=self.runs,
            **WORK | ONCE,
        )
        self.follow(from_phone)

    def _connect_style(self) -> None:
        changed = gr.on(
            [
                *(choice.input for choice in (self.left, self.right, self.colormap, self.invert)),
                *(plane.release for plane in (self.near, self.far, self.contours)),
            ],
            self.of_this(self.show_layers),
            [self.key, self.left, self.right, *self.style],
            self.pictures,
            **WORK,
            **RAW,
        )
        changed.success(
            self.of_this(self.write_colored),
            [self.key, *self.style],
            [self.files["colored"]],
            **WORK,
            **RAW,
        )

    # Handlers: what they return is component -> value; components that are not named stay as they are.

    def begin_run(self, request: str, depth_key: str | None) -> Outputs:
        """Note the run and set the buttons; an earlier depth of the photo stays until the new one comes."""
        self.store.begin_run(request)
        state = self.photo.run_state(ready=False, busy=True, words="Getting ready") | {self.started: request}
        if depth_key:
            return state
        emptied = {self.key: None, self.slider: None, self.objects.preview: None}
        offer = {self.models.refine: gr.Button(visible=False), self.models.offer: ""}
        unread = {self.points.reading: layers.text(())}
        stage = {self.stage: gr.Column(visible=True)}
        return state | offer | stage | emptied | unread | self.waiting()

    def waiting(self) -> Outputs:
        """Return the buttons of all files, which wait for the next depth."""
        own = {self.files[kind]: gr.DownloadButton(words, interactive=False) for kind, words in FILES.items()}
        return own | self.objects.waiting()

    def run_network(
        self, request: str, photo_key: str | None, depth_key: str | None, *chosen: Any
    ) -> Iterator[Outputs]:
        """Yield the status line before each network call, and at the end the depth and its pictures.

        Raises:
            DemoError: The photo is gone, or the prediction cannot be made with these settings.
        """
        count = len(self.photo.fields)
        left, right, *style = chosen[count:]
        stopped = False
        try:
            draft = self.store.result(depth_key) if is_refinement(request) else None
            settings = self._settings(draft, chosen[:count])
            steps = self.stream(photo_key, settings, sides=(left, right), style=DepthStyle(*style))
            with closing(steps):
                for shown in steps:
                    if not is_current(self.photo.key, photo_key):
                        return  # another photo has come, or this one was taken away
                    yield shown
        except GeneratorExit:
            stopped = True
            raise
        finally:
            self.store.end_run(request, stopped=stopped)

    def _settings(self, draft: DepthResult | None, chosen: Sequence[Any]) -> DepthSettings:
        """Return the settings of the fields, or those that refine a draft."""
        better = refinement(self.models.status_of, draft) if draft else None
        if better:
            return better.settings
        return widgets.read(DepthSettings, dict(zip(self.photo.fields, chosen, strict=True)))

    def stream(
        self, photo_key: str | None, settings: DepthSettings, *, sides: tuple[str, str], style: DepthStyle
    ) -> Generator[Outputs]:
        """Predict the depth of a photo; yield as `run_network` does."""
        photo = self.store.photo(photo_key)
        text, line = ProgressText(), self.photo.status
        with closing(self.store.workflow.stream(photo, settings, visitor=visitor())) as steps:
            for step in steps:
                if isinstance(step, DepthMap):
                    result = DepthResult(photo, step, settings)
                    yield {line: status(text.done(step.notes))} | self._take(result, photo_key, sides, style)
                else:
                    yield {line: status(text.show(step), share=text.share, stage=step.stage)}

    def end_run(self, request: str, photo_key: str | None, line: str) -> Outputs:
        """Put the buttons back, unless this is late news of a run whose successor is under way."""
        if self.store.is_running(request):
            return gr.skip()  # type: ignore[no-any-return]
        # Nothing said how it ended, and nothing will.
        under_way = "<progress" in str(line) and not self.store.has_ended(request)
        return self.photo.run_state(ready=bool(photo_key), words="Stopped" if under_way else None)

    def cancel_run(
        self, request: str, compared: str | None, photo_key: str | None, depth_key: str | None
    ) -> Outputs:
        """Forget the run or the comparison, which this event cancels, and put the buttons back."""
        for one in (request, compared):
            self.store.end_run(one, stopped=True)
        words = "Stopped"
        with suppress(DemoError):  # the depth is gone, or there is none
            shown = self.store.result(depth_key).photo
            if photo_key and shown is not self.store.photo(photo_key):
                words = f"Stopped. What is shown is still made from “{shown.stem}”."
        return self.photo.run_state(ready=True, words=words)

    def take_depth_file(
        self,
        near: Near,
        inverse: bool,
        frame: str,
        path: str | None,
        photo_key: str | None,
        left: str,
        right: str,
        *style: Any,
    ) -> Outputs:
        """Take a depth file in place of a prediction; without a photo of its shape its colors stand for one.

        Args:
            near: Which of its values are near.
            inverse: Its values are disparity.
            frame: Which of its frames, as typed; empty for the first.
            path: The file.
            photo_key: Of the photo on screen, if any.
            left: What the left side shows.
            right: What the right side shows.
            style: Fields of `DepthStyle`.

        Raises:
            DepthFileError: The file is no depth that can be used.
        """
        if not path:
            raise DepthFileError("There is no file; choose a .npy, .npz or 16-bit gray PNG.")
        number = (frame or "").strip()
        if number and not (number.isdecimal() and len(number) < 10):
            raise DepthFileError("The frame must be a whole number from 0, or empty for the first.")
        options = {"frame": int(number) if number else None, "near": near, "inverse": bool(inverse)}
        chosen, found = DepthStyle(*style), read_depth_file(path, visitor=visitor(), **options)
        colored = Photo(chosen.colored(found.depth.values), stem=safe_stem(path))
        photo = self.store.photo(photo_key) if photo_key else colored
        fits = same_shape(photo, found.depth)
        result = DepthResult(photo if fits else colored, found.depth, None)
        words = status(" ".join(["This is your own depth.", *found.notes]))
        taken = self._take(result, photo_key if fits else None, (left, right), chosen)
        return {self.photo.status: words, self.stage: gr.Column(visible=True)} | taken

    def take_phone_depth(self, photo_key: str | None, left: str, right: str, *style: Any) -> Outputs:
        """Take the depth that a phone put into its photo beside a prediction.

        Raises:
            DemoError: The photo is gone, or there is no depth inside it.
        """
        photo = self.store.photo(photo_key)
        result = DepthResult(photo, workflow.phone_depth(photo), None, own_name=PHONE_DEPTH)
        words = "This is the depth that the phone put into the photo."
        state = self.photo.run_state(ready=True, words=words) | {self.stage: gr.Column(visible=True)}
        return state | self._take(result, photo_key, (left, right), DepthStyle(*style))

    def _take(
        self, result: DepthResult, photo_key: str | None, sides: Sequence[str], style: DepthStyle
    ) -> Outputs:
        key = self.store.add_result(result, photo_key=photo_key)
        return {self.key: key} | self.waiting() | self.show(self.store.result(key), sides, style)

    def show_layers(self, key: str | None, left: str, right: str, *style: Any) -> Outputs:
        """Fill slider and legend; the network is not used.

        Raises:
            DemoError: The depth is gone, or one layer does not exist for it.
        """
        result, chosen = self.store.result(key), DepthStyle(*style)
        layers.check_layers(result, (left, right))
        shown = self.show(result, (left, right), chosen, relief=self.store.shown_relief(key))
        # Not the choice of sides, which the visitor may have changed meanwhile.
        return {self.slider: shown[self.slider], self.legend: shown[self.legend]}

    def show_relief(self, key: str | None, left: str, right: str, *style: Any) -> Outputs:
        """Fill the slider again where one side is the relief, whose settings have changed."""
        return self.show_layers(key, left, right, *style) if RELIEF in (left, right) else gr.skip()

    def show(
        self,
        result: DepthResult,
        wanted: Sequence[str],
        style: DepthStyle,
        *,
        relief: ReliefSettings | None = None,
    ) -> Outputs:
        """Fill slider and legend; a layer that is not there gives way to depth."""
        there = layers.available(result)
        shown = tuple(name if name in there else DEPTH for name in wanted)
        folder, paths = self.store.folder(), []
        for side, name in zip(("left", "right"), shown, strict=True):
            rgb = layers.render(result, name, style, relief=relief)
            extension, data = ("jpg", export.jpeg(rgb)) if name == PHOTO else ("png", export.png(rgb))
            paths.append(write_file(folder, f"{result.photo.stem}_{side}.{extension}", data))
        names = [(layers.title(result, name), name) for name in there]
        return {
            self.slider: tuple(paths),
            self.legend: layers.legend(result, shown, style),
            self.left: gr.Dropdown(names, value=shown[0]),
            self.right: gr.Dropdown(names, value=shown[1]),
        }

    def write_depth(self, key: str | None) -> Outputs:
        """Write the files that hold depth itself, and fill their buttons."""
        return self.write_exact(self.store.result(key))

    def write_exact(self, result: DepthResult) -> Outputs:
        """Write the files that hold the depth of a result, and fill their buttons."""
        folder = self.store.folder()
        filled = {}
        for kind, found in page_formats("depth").items():
            name, data = found.write(result.depth, result.photo.stem, recipe=result.recipe())
            path = write_file(folder, name, data)
            filled[self.files[kind]] = download_button(found.label, path, len(data))
        return filled

    def write_colored(self, key: str | None, *style: Any) -> Outputs:
        """Write the colored picture, and fill its button."""
        return self.write_picture(self.store.result(key), DepthStyle(*style))

    def write_picture(self, result: DepthResult, style: DepthStyle) -> Outputs:
        """Write the colored picture of a result, and fill its button."""
        colored = style.colored(result.depth.values)
        found = formats_of("picture")["colored"]
        name, data = found.write(colored, result.photo.stem, recipe=result.recipe())
        path = write_file(self.store.folder(), name, data)
        return {self.files["colored"]: download_button(found.label, path, len(data))}
