"""First stage of the page: a photo comes in, with the settings of its depth. Knows nothing of solids."""

import html
import secrets
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, get_args

import gradio as gr

from marigold_demo.errors import PhotoError
from marigold_demo.examples import Example
from marigold_demo.io import export, isolated
from marigold_demo.io.depth_file import Near, depth_form, may_be_depth
from marigold_demo.io.photo import Photo, load_photo
from marigold_demo.recipe import Recipe
from marigold_demo.settings import DepthSettings
from marigold_demo.ui import model_choice, widgets
from marigold_demo.ui.gallery import show_examples
from marigold_demo.ui.messages import status, warn
from marigold_demo.ui.session_store import SessionStore, shrink_photo, write_file
from marigold_demo.ui.sessions import visitor

HEIGHT_PX = 380
PHONE_DEPTH = "Depth from the phone"
MOST_BYTES = "100mb"
NEAR = get_args(Near)
DEPTH_ENDINGS = (
    ".npy", ".npz", ".png", ".tif", ".tiff", ".pfm", ".pgm", ".exr", ".jpg", ".jpeg", ".webp", ".bmp",
)  # fmt: skip
_IF_DEPTH = "bring it by “Use my own depth file” under “Settings”"
_FINER = "finer-"  # how the wish for a refinement begins


class PhotoStage:
    """Drop zone, examples, model and settings, and the bar that tells of a run."""

    def __init__(self, defaults: DepthSettings, examples: tuple[Example, ...]) -> None:
        self.key = gr.State(None)  # of the photo on the store
        self.wish = gr.State(None)  # a run starts when it changes
        self.reread = gr.State(None)  # the depth file is read again when it changes
        gr.HTML(
            heading(1, "Photo", "Drop one, paste one, take one with the camera, or begin with an example.")
        )
        with gr.Row(equal_height=False, elem_classes="stage-row"):
            with gr.Column(scale=7, min_width=300):
                self.drop = gr.Image(
                    label="Photo",
                    show_label=False,
                    type="filepath",
                    image_mode=None,
                    sources=["upload", "webcam", "clipboard"],
                    height=HEIGHT_PX,
                    buttons=[],
                    elem_id="photo",
                    alt_text="The chosen photo",
                )
                self.notes = gr.HTML("", elem_id="photo-notes")
                self.gallery = show_examples(examples)
                # What the server made of the upload it was asked about; see `ANSWERED`.
                self.asked = gr.Textbox(visible="hidden", elem_id="photo-asked")
                self.shown = gr.Image(
                    type="filepath", interactive=False, visible="hidden", buttons=[], elem_id="photo-shown"
                )
            with gr.Column(scale=5, min_width=300):
                self.model = self._model(defaults)
                self.advice = gr.HTML(model_choice.told(None, None, defaults), elem_id="advice")
                self.run = gr.Button("Estimate depth", variant="primary", elem_id="run", interactive=False)
                self.phone_depth = gr.Button(PHONE_DEPTH, visible=False, elem_id="phone-depth")
                self._settings(defaults)
        self._bar()

    def _settings(self, defaults: DepthSettings) -> None:
        names = [field.name for field in fields(defaults) if field.name != "checkpoint"]
        with gr.Accordion("Settings", open=False, elem_id="depth-settings"):
            self.at_once = gr.Checkbox(
                True, label="Start at once", info="Estimate the depth as soon as a photo is chosen"
            )
            self.knobs = {"checkpoint": self.model} | widgets.create(defaults, names, group="depth")
            with gr.Row():
                self.depth_file = gr.UploadButton(
                    "Use my own depth file", file_types=list(DEPTH_ENDINGS), size="sm"
                )
                self.recipe_file = gr.UploadButton(
                    "Use a recipe", file_types=[".json", ".3mf", ".glb", ".png"], size="sm"
                )
            self.near = gr.Radio(
                [(choice.capitalize(), choice) for choice in NEAR],
                value=NEAR[0],
                label="Near is",
                info="In my own depth file; white: large values",
                elem_id="depth-near",
            )
            with gr.Row():
                self.inverse = gr.Checkbox(label="It holds disparity (1 / distance)", elem_id="depth-inverse")
                self.frame = gr.Textbox(
                    label="Its frame, of a video", placeholder="first", max_lines=1, elem_id="depth-frame"
                )

    def _bar(self) -> None:
        """Add what tells of a run and steers it; the style sheet keeps it in sight while one is under way."""
        with gr.Row(elem_id="run-bar", equal_height=False):
            self.status = gr.HTML(status(""), elem_id="status")
            self.offer = gr.HTML("", elem_id="refine-hint")
            self.refine = gr.Button("Refine", variant="primary", visible=False, elem_id="refine")
            self.cancel = gr.Button("Cancel", elem_id="cancel", interactive=False)

    @property
    def depth_choices(self) -> list[gr.components.Component]:
        """How a depth file is read: which values are near, whether they are disparity, and the frame."""
        return [self.near, self.inverse, self.frame]

    @property
    def buttons(self) -> list[gr.components.Component]:
        """What tells of a run: the outputs of `buttons`."""
        return [self.run, self.cancel, self.status]

    @staticmethod
    def _model(defaults: DepthSettings) -> gr.Dropdown:
        return gr.Dropdown(
            model_choice.choices(None),
            value=defaults.checkpoint,
            label="Model",
            allow_custom_value=True,
            elem_id="depth-checkpoint",
        )


def heading(number: int, title: str, words: str) -> str:
    """Return the heading of a stage as HTML."""
    shown = f'<h2><span aria-hidden="true">{number}</span>{title}</h2><p>{words}</p>'
    return f'<header class="stage">{shown}</header>'


_ON_SCREEN = "on_screen"  # folder of a photo as the page shows it; uploads lie in others

# Fills the box with the picture of the upload that the server was asked about, or empties it where that is no
# picture; but only while the box still holds that upload. The visitor may have dropped another one meanwhile.
ANSWERED = "(now, asked, shown) => (now && now.path === asked ? shown : now)"


def take_photo(store: SessionStore, upload: dict[str, Any] | None, at_once: bool) -> tuple[Any, ...]:
    """Read what was dropped into the box; what is no picture is told and leaves the depth before it alone.

    Returns:
        Which upload this answers, the photo as the page shows it, its key, the wish that starts a run, notes,
        run and cancel button and status, the depth stage, no depth, and the object stage.
    """
    path = (upload or {}).get("path")
    if not path or Path(path).parent.name == _ON_SCREEN:  # gradio tells of a removed example by its picture
        folded = gr.Column(visible=False)
        return path or "", None, None, gr.skip(), "", *buttons(ready=False), folded, None, folded
    try:
        photo = isolated.load_photo(path, visitor=visitor())
        doubts = may_be_depth(path, photo.rgb, remedy=_IF_DEPTH)
        photo = replace(photo, notes=photo.notes + doubts)
    except PhotoError as error:
        is_depth = depth_form(path) is not None
        told = PhotoError(f"The file is depth, not a photo; {_IF_DEPTH}.") if is_depth else error
        warn(told)
        said = buttons(ready=False, told=str(told), alert=True)
        return path, None, None, gr.skip(), "", *said, gr.skip(), gr.skip(), gr.skip()
    return path, *_taken(store, photo, at_once)


def phone_button(store: SessionStore, photo_key: str | None) -> gr.Button:
    """Show the button for the depth inside a photo where there is one."""
    return gr.Button(visible=bool(photo_key) and store.photo(photo_key).phone_depth is not None)


def chosen_example(examples: tuple[Example, ...], event: object) -> Example:
    """Return the example that an event of the gallery names.

    Raises:
        PhotoError: There is none.
    """
    index = event.get("index") if isinstance(event, dict) else None
    if not isinstance(index, int) or not 0 <= index < len(examples):
        raise PhotoError("There is no such example; choose one from the gallery.")
    return examples[index]


def take_example(store: SessionStore, example: Example, at_once: bool) -> tuple[Any, ...]:
    """Take an example as if it had been dropped; returns as `take_photo` does, but for the upload.

    Its depth is known: the network is not asked for it, unless other settings than the defaults are wished.
    """
    photo, depth = load_photo(example.path), example.known_depth()
    if depth is not None:
        store.workflow.remember(photo, DepthSettings(), depth)
    return _taken(store, photo, at_once)


def _taken(store: SessionStore, photo: Photo, at_once: bool) -> tuple[Any, ...]:
    shown = write_file(store.folder() / _ON_SCREEN, f"{photo.stem}.jpg", export.jpeg(shrink_photo(photo.rgb)))
    notes = "".join(f"<p>{html.escape(note)}</p>" for note in photo.notes) + _ratio(photo)
    wish, later = (new_wish(), gr.skip()) if at_once else (gr.skip(), gr.Column(visible=False))
    return shown, store.add_photo(photo), wish, notes, *buttons(ready=True), later, None, later


def buttons(
    *, ready: bool, busy: bool = False, told: str | None = "", alert: bool = False
) -> tuple[Any, ...]:
    """Return the run button, the cancel button and the status line; None leaves the line as it is."""
    line = gr.skip() if told is None else status(told, share=0 if busy else None, alert=alert)
    return gr.Button(interactive=ready), gr.Button(interactive=busy), line


def _ratio(photo: Photo) -> str:
    """Tell the style sheet the shape of the photo, so that boxes have it before the pictures come."""
    width, height = photo.size
    return f"<style>:root {{ --photo-ratio: {width} / {height}; }}</style>"


def recipe_told(recipe: Recipe, photo: Photo | None) -> str:
    """Say what comes of a recipe as the status line."""
    if photo is None:
        return status("The settings are those of the recipe. Now choose its photo.")
    if recipe.photo not in (None, photo.digest):
        return status("The settings are those of the recipe, but it was made for another photo.")
    return status("The settings are those of the recipe.")


def new_wish(*, finer: bool = False) -> str:
    """Return a value that differs from every earlier one, which starts a run or a refinement."""
    return f"{_FINER if finer else ''}{secrets.token_hex(8)}"


def is_for_finer(wish: str | None) -> bool:
    """Tell whether a wish is for a refinement of the depth that is there; after a restart there is none."""
    return wish is not None and wish.startswith(_FINER)
