"""Second stage of the page: photo beside depth, colors, and the files of depth. Knows nothing of solids."""

from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import Any

import gradio as gr

from marigold_demo import workflow
from marigold_demo.colormap import COLORMAPS, MOST_CONTOURS
from marigold_demo.depth import DepthMap
from marigold_demo.errors import DepthFileError
from marigold_demo.io import export
from marigold_demo.io.depth_file import Near
from marigold_demo.io.formats import formats_of, page_formats
from marigold_demo.io.isolated import read_depth_file
from marigold_demo.io.photo import Photo, safe_stem
from marigold_demo.settings import DepthSettings
from marigold_demo.ui import views
from marigold_demo.ui.measure import Measure
from marigold_demo.ui.messages import ProgressText, size_in_words, status
from marigold_demo.ui.photo_stage import PHONE_DEPTH, buttons, heading
from marigold_demo.ui.session_store import DepthResult, SessionStore, write_file
from marigold_demo.ui.sessions import visitor
from marigold_demo.ui.views import DEPTH, PHOTO, SIDES, Look
from marigold_demo.workflow import same_shape

HEIGHT_PX = 560
FILES = {name: found.label for name, found in page_formats("depth", "picture").items()}


class DepthStage:
    """Compare slider with its colors on the right, and downloads."""

    def __init__(self) -> None:
        look = Look()
        self.key = gr.State(None)  # of the result on the store
        with gr.Column(visible=False, elem_id="depth-stage") as self.stage:
            gr.HTML(
                heading(
                    2,
                    "Depth",
                    "Drag the handle. Depth is relative: it tells nearer from farther, not metres.",
                )
            )
            with gr.Row(equal_height=False, elem_classes="stage-row"):
                with gr.Column(scale=7, min_width=300):
                    self.slider = gr.ImageSlider(
                        label="Photo and depth",
                        show_label=False,
                        type="filepath",
                        format="png",
                        height=HEIGHT_PX,
                        max_height=HEIGHT_PX,
                        interactive=False,
                        buttons=["fullscreen"],
                        elem_id="compare",
                    )
                    self.legend = gr.HTML("", elem_id="legend")
                    self.measure = Measure()
                with gr.Column(scale=5, min_width=300):
                    self._controls(look)

    def _controls(self, look: Look) -> None:
        with gr.Row():
            self.left = gr.Dropdown(list(SIDES), value=PHOTO, label="Left side")
            self.right = gr.Dropdown(list(SIDES), value=DEPTH, label="Right side")
        self.colormap = gr.Dropdown(
            list(COLORMAPS), value=look.colormap, label="Colors, near to far", elem_id="colors"
        )
        with gr.Row():
            self.near = gr.Slider(0, 0.99, value=look.near, step=0.01, label="From")
            self.far = gr.Slider(0.01, 1, value=look.far, step=0.01, label="To")
        with gr.Row():
            self.contours = gr.Slider(
                0, MOST_CONTOURS, value=look.contours, step=1, label="Contour lines", elem_id="contours"
            )
            self.invert = gr.Checkbox(look.invert, label="Swap near and far colors")
        self.files = {
            kind: gr.DownloadButton(words, interactive=False, size="md", elem_id=f"download-{kind}")
            for kind, words in FILES.items()
        }

    @property
    def look(self) -> list[gr.components.Component]:
        """The widgets that hold the look, in the order of `Look`."""
        return [self.colormap, self.near, self.far, self.invert, self.contours]

    @property
    def pictures(self) -> list[gr.components.Component]:
        """What the sides fill: the slider, its legend, and what each side is called."""
        return [self.slider, self.legend, self.left, self.right]

    @property
    def pictured(self) -> list[gr.components.Component]:
        """All inputs of `picture_sides`."""
        return [self.key, self.left, self.right, *self.look]


def stream_depth(
    store: SessionStore,
    photo_key: str | None,
    settings: DepthSettings,
    *,
    sides: tuple[str, str],
    look: Look,
) -> Iterator[tuple[Any, ...]]:
    """Yield the status line and, at the end, also the key of the result and what `pictures` shows.

    Raises:
        DemoError: The photo is gone, or the prediction cannot be made with these settings.
    """
    photo = store.photo(photo_key)
    progress = ProgressText()
    with closing(store.workflow.stream(photo, settings, visitor=visitor())) as steps:
        for step in steps:
            if isinstance(step, DepthMap):
                key = store.add_result(DepthResult(photo, step, settings), photo_key=photo_key)
                yield (
                    status(progress.done(step.notes)),
                    key,
                    *_pictures(store, store.result(key), sides, look),
                )
            else:
                yield status(progress.show(step), share=progress.share), *[gr.skip()] * 5


def take_depth_file(
    store: SessionStore,
    path: str | None,
    photo_key: str | None,
    left: str,
    right: str,
    *look: Any,
    near: Near = "auto",
    inverse: bool = False,
    frame: str = "",
) -> tuple[Any, ...]:
    """Take a depth file in place of a prediction; without a photo of its shape it wears its own colors.

    Args:
        store: Keeps it.
        path: The file.
        photo_key: Of the photo on screen, if any.
        left: What the left side shows.
        right: What the right side shows.
        look: Fields of `Look`.
        near: Which of its values are near.
        inverse: Its values are disparity.
        frame: Which of its frames, as typed; empty for the first.

    Returns:
        The status line, the key of the result, what `pictures` shows, and the stage.

    Raises:
        DepthFileError: The file is no depth that can be used.
    """
    if not path:
        raise DepthFileError("There is no file; choose a .npy, .npz or 16-bit gray PNG.")
    number = frame.strip()
    if number and not (number.isdecimal() and len(number) < 10):
        raise DepthFileError("The frame must be a whole number from 0, or empty for the first.")
    options = {"frame": int(number) if number else None, "near": near, "inverse": inverse}
    chosen, found = Look(*look), read_depth_file(path, visitor=visitor(), **options)
    colored = Photo(chosen.colored(found.depth.values), stem=safe_stem(path))
    photo = store.photo(photo_key) if photo_key else colored
    fits = same_shape(photo, found.depth)
    result = DepthResult(photo if fits else colored, found.depth, None)
    key = store.add_result(result, photo_key=photo_key if fits else None)
    said = status(" ".join(["This is your own depth.", *found.notes]))
    pictures = _pictures(store, store.result(key), (left, right), chosen)
    return said, key, *pictures, gr.Column(visible=True)


def take_phone_depth(
    store: SessionStore, photo_key: str | None, left: str, right: str, *look: Any
) -> tuple[Any, ...]:
    """Take the depth that a phone put into its photo beside a prediction.

    Returns:
        Run and cancel button, the status line, the key of the result, what `pictures` shows, and the stage.

    Raises:
        DemoError: The photo is gone, or there is no depth inside it.
    """
    photo = store.photo(photo_key)
    result = DepthResult(photo, workflow.phone_depth(photo), None, own_name=PHONE_DEPTH)
    key = store.add_result(result, photo_key=photo_key)
    said = buttons(ready=True, told="This is the depth that the phone put into the photo.")
    pictures = _pictures(store, store.result(key), (left, right), Look(*look))
    return *said, key, *pictures, gr.Column(visible=True)


def picture_sides(store: SessionStore, key: str | None, left: str, right: str, *look: Any) -> tuple[Any, ...]:
    """Return what `pictures` shows; the network is not asked.

    Raises:
        DemoError: The depth is gone, or one side does not exist for it.
    """
    result, chosen = store.result(key), Look(*look)
    views.check_sides(result, (left, right))
    return _pictures(store, result, (left, right), chosen)


def depth_files(store: SessionStore, key: str | None) -> tuple[Any, ...]:
    """Write the files that hold depth itself; return their download buttons."""
    result, folder = store.result(key), store.folder()
    buttons = []
    for found in page_formats("depth").values():
        name, data = found.write(result.depth, result.photo.stem, recipe=result.recipe())
        buttons.append(download(found.label, write_file(folder, name, data), len(data)))
    return tuple(buttons)


def colored_file(store: SessionStore, key: str | None, *look: Any) -> gr.DownloadButton:
    """Write the colored picture; return its download button."""
    result = store.result(key)
    colored = Look(*look).colored(result.depth.values)
    found = formats_of("picture")["colored"]
    name, data = found.write(colored, result.photo.stem, recipe=result.recipe())
    return download(found.label, write_file(store.folder(), name, data), len(data))


def download(words: str, path: str, size_bytes: int) -> gr.DownloadButton:
    """Return a button that is ready to be pressed and tells the size."""
    return gr.DownloadButton(f"{words} · {size_in_words(size_bytes)}", value=path, interactive=True)


def _pictures(store: SessionStore, result: DepthResult, wanted: Sequence[str], look: Look) -> tuple[Any, ...]:
    """Return what `pictures` shows; a side that is not there gives way to depth."""
    there = views.sides(result)
    shown = tuple(name if name in there else DEPTH for name in wanted)
    names = [(views.title(result, name), name) for name in SIDES]
    called = [gr.Dropdown(names, value=name) for name in shown]
    return _slider(store, result, shown, look), views.legend(result, shown, look), *called


def _slider(store: SessionStore, result: DepthResult, shown: Sequence[str], look: Look) -> tuple[str, ...]:
    folder = store.folder()
    paths = []
    for where, name in zip(("left", "right"), shown, strict=True):
        rgb = views.side(result, name, look)
        extension, data = ("jpg", export.jpeg(rgb)) if name == views.PHOTO else ("png", export.png(rgb))
        paths.append(write_file(folder, f"{result.photo.stem}_{where}.{extension}", data))
    return tuple(paths)
