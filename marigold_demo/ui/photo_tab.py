"""First tab of the page: a photo, an example or a recipe, the settings of its depth, and the run bar."""

import html
import json
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import gradio as gr
from PIL import Image, ImageOps

from marigold_demo.errors import DemoError, PhotoError
from marigold_demo.examples import FOLDER as EXAMPLES_FOLDER
from marigold_demo.examples import Example
from marigold_demo.io import export, isolated
from marigold_demo.io.depth_arrays import ZIP
from marigold_demo.io.depth_file import MAX_BYTES, Near, depth_form, may_be_depth
from marigold_demo.io.limits import opened, start_of
from marigold_demo.io.photo import Photo, load_photo
from marigold_demo.recipe import Recipe
from marigold_demo.settings import DepthSettings, Settings
from marigold_demo.ui import widgets
from marigold_demo.ui.messages import message, status, user_errors
from marigold_demo.ui.model_picker import ModelPicker
from marigold_demo.ui.opening import TILES_PATH, Opening
from marigold_demo.ui.preview import picture_address
from marigold_demo.ui.queue import visitor
from marigold_demo.ui.session_store import DepthResult, SessionStore, new_request, shrink_photo, write_file
from marigold_demo.ui.widgets import EACH, ONCE, QUIET, RAW, READING, WORK

if TYPE_CHECKING:
    from marigold_demo.ui.depth_tab import DepthTab
    from marigold_demo.ui.object_tab import ObjectTab

HEIGHT_PX = 100
THUMBNAIL_PX = (160, 120)
PHONE_DEPTH = "Depth from the phone"
NEAR = get_args(Near)
DEPTH_ENDINGS = (
    ".npy", ".npz", ".png", ".tif", ".tiff", ".pfm", ".pgm", ".exr", ".jpg", ".jpeg", ".webp", ".bmp",
)  # fmt: skip
GAVE_WAY = "Its own settings took the place of yours; Undo brings them back."
_IF_DEPTH = "bring it by “Use my own depth file” under “Settings”"
_ON_SCREEN = "on_screen"  # folder of a photo as the page shows it; uploads lie in others
History = tuple[tuple[Any, ...], ...]  # style and values of all fields, one after each change
Outputs = dict[Any, Any]  # component -> value, what handlers return

_UPLOADED = "(...values) => waysIn.uploaded(values)"  # ways_in.js puts its upload in the place of the first


class PhotoTab:
    """Drop zone, examples, model and settings, and the bar with the state of a run.

    Attributes:
        key: Of the photo in the session store.
        request: Id of the run that was asked for last; a run starts when it changes.
        fields: The widgets of `DepthSettings`, by name.
    """

    def __init__(
        self,
        store: SessionStore,
        models: ModelPicker,
        *,
        defaults: DepthSettings,
        examples: tuple[Example, ...],
        opening: Opening | None,
    ) -> None:
        self.store, self.models, self.examples, self.defaults = store, models, examples, defaults
        self.opening = opening
        self.key = gr.State(None)
        self.request = gr.State(None)
        self.reread = gr.State(None)  # the depth file is read again when it changes

    def add_strip(self) -> None:
        """Add the box that takes a photo, and the examples beside it."""
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
        self.notes = gr.HTML(_ratio(self.opening.photo) if self.opening else "", elem_id="photo-notes")
        self.gallery = _gallery(self.examples)
        # Filled by ways_in.js: how a file came that was uploaded, and the status line as it wants it.
        self.intake = gr.Textbox(visible="hidden", elem_id="intake")
        self.newest = gr.State(0)
        self.say = gr.Textbox(visible="hidden", elem_id="say")

    def add_settings(self) -> None:
        """Add the model, the button that starts a run, and the settings of depth."""
        defaults = self.defaults
        self.models.add_choice(defaults)
        self.run = gr.Button(
            "Estimate depth", variant="primary", elem_id="run", interactive=self.opening is not None
        )
        self.run_buttons = [self.run]  # that start a run, and wait while there is one
        self.phone_depth = gr.Button(PHONE_DEPTH, visible=False, elem_id="phone-depth")
        names = [field.name for field in fields(defaults) if field.name != "checkpoint"]
        with gr.Accordion("Settings", open=False, elem_id="depth-settings"):
            self.at_once = gr.Checkbox(
                True, label="Start at once", info="Estimate the depth as soon as a photo is chosen"
            )
            self.fields = {"checkpoint": self.models.choice} | widgets.create(defaults, names, group="depth")
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

    def add_name(self) -> None:
        """Add the name of the photo that is on the page."""
        self.name = gr.HTML(_name(self.opening.photo) if self.opening else "", elem_id="file-name")

    def add_run_bar(self) -> None:
        """Add the state of a run, and Cancel while there is one."""
        with gr.Row(elem_id="run-bar", equal_height=False):
            self.status = gr.HTML(status(""), elem_id="status")
            self.link = gr.Button("Link", visible=False, elem_id="link")
            self.cancel = gr.Button("Cancel", elem_id="cancel", interactive=False)

    @property
    def depth_file_options(self) -> list[gr.components.Component]:
        """How a depth file is read: which values are near, whether they are disparity, and the frame."""
        return [self.near, self.inverse, self.frame]

    @property
    def run_outputs(self) -> list[gr.components.Component]:
        """What `run_state` fills."""
        return [*self.run_buttons, self.cancel, self.status]

    def run_state(
        self, *, ready: bool, busy: bool = False, words: str | None = "", alert: bool = False
    ) -> Outputs:
        """Return run button, cancel button and status line; words of None leave the line as it is."""
        shown: Outputs = {button: gr.Button(interactive=ready) for button in self.run_buttons}
        shown[self.cancel] = gr.Button(interactive=busy)
        if words is not None:
            shown[self.status] = status(words, share=0 if busy else None, alert=alert)
        return shown

    def connect(self, depth: "DepthTab", objects: "ObjectTab") -> None:
        """Connect what brings in a photo, an example or a recipe.

        Args:
            depth: The tab whose depth a new photo takes away.
            objects: The tab that is folded, and whose settings examples and recipes change.
        """
        self.depth, self.objects = depth, objects
        runs = depth.runs  # a new photo cancels them
        words = [self.name, self.notes, *self.run_outputs]
        taken = [self.key, self.request, *words, depth.stage, depth.key, objects.stage]
        self.key.change(
            user_errors(self.show_phone_button), [self.key], [self.phone_depth], queue=False, **QUIET
        )
        settings = [*self.fields.values(), objects.preset, *objects.all_fields]
        took = self.intake.change(
            user_errors(self.take_file),
            [self.drop, self.intake, self.at_once, self.key],
            list(dict.fromkeys([self.drop, *taken, self.newest, self.depth_file, self.reread, *settings])),
            js=_UPLOADED,
            preprocess=False,
            **READING,
        )
        self.say.change(None, [self.say], [self.status], js="(line) => line", **QUIET)
        self.drop.input(self.empty, [self.intake, self.newest], taken, cancels=[*runs, took], **WORK)
        self.gallery.select(
            user_errors(self.take_chosen_example),
            [self.at_once, objects.history, objects.preset, *objects.all_fields],
            [
                self.drop,
                *taken,
                objects.history,
                objects.undo,
                objects.preset,
                *objects.relief.fields.values(),
            ],
            cancels=[*runs, took],  # what came before is not shown after it
            **WORK | EACH,
            **RAW,
        )
        # Through the queue, or the change of the request is not noticed.
        self.run.click(new_request, None, [self.request], **WORK | ONCE)
        self.recipe_file.upload(
            user_errors(self.take_recipe),
            [self.recipe_file, self.key],
            [self.status, self.request, *settings],
            **READING,
        )

    def empty(self, how: str, newest: int) -> Outputs:
        """Take the photo away that was removed from its box, and all that was made from it.

        Args:
            how: What `take_file` was told last when it was removed.
            newest: Number of the newest photo that has been taken; one after that stays.
        """
        if newest > _number(how):
            return gr.skip()  # type: ignore[no-any-return]
        folded = {tab.stage: gr.Column(visible=False) for tab in (self.depth, self.objects)}
        return (
            {self.key: None, self.depth.key: None, self.notes: "", self.name: ""}
            | folded
            | self.run_state(ready=False)
        )

    def take_file(
        self, upload: dict[str, Any] | None, how: str, at_once: bool, photo_key: str | None
    ) -> Outputs:
        """Take a photo, a depth file or a recipe, judged by content; what cannot be used changes nothing.

        Args:
            upload: The file, as Gradio has it.
            how: JSON of ways_in.js: "as", where the visitor said what it is, and the number of "others".
            at_once: Start the run of a photo.
            photo_key: Of the photo on screen, if any.
        """
        path, told = str((upload or {}).get("path") or ""), _how(how)
        try:
            kind = str(told.get("as") or file_kind(path))
            if kind == "recipe":
                return self.take_recipe(path, photo_key)
            if kind == "depth":
                return {self.depth_file: path, self.reread: new_request()}
            photo = isolated.load_photo(path, visitor=visitor())
        except DemoError as error:
            message(error)  # logs its kind
            return {self.status: status(str(error), alert=True)}
        notes = may_be_depth(path, photo.rgb, remedy=_IF_DEPTH)
        if told.get("others"):
            notes = (*notes, "Several files came; this is the first, and the others were not stored.")
        return self._take(replace(photo, notes=photo.notes + notes), at_once) | {self.newest: _number(how)}

    def take_chosen_example(
        self, choice: gr.EventData, at_once: bool, history: History, style: str | None, *chosen: Any
    ) -> Outputs:
        """Take the example that was clicked, with the relief settings that suit it.

        Args:
            choice: Which one.
            at_once: Start the run.
            history: The settings so far, for Undo.
            style: The style that is marked.
            chosen: The values of all fields of relief and mesh.

        Raises:
            PhotoError: There is no such example.
        """
        example = _chosen(self.examples, choice._data)
        settings, gave_way = self.objects.take_settings(example.relief, history, style, *chosen)
        taken = self.take_example(example, at_once)
        if gave_way:
            taken[self.notes] = f"<p>{GAVE_WAY}</p>{taken[self.notes]}"
        return taken | settings

    def take_example(self, example: Example, at_once: bool) -> Outputs:
        """Take an example as if it had been dropped.

        Its depth is known: the network runs only where other settings than the defaults are asked for.
        """
        photo, depth = load_photo(example.path), example.known_depth()
        if depth is not None:
            self.store.workflow.remember(photo, DepthSettings(), depth)
        others = [DepthResult(photo, other.read(), other.settings) for other in reversed(example.others)]
        return self._take(photo, at_once, others)

    def _take(self, photo: Photo, at_once: bool, others: Sequence[DepthResult] = ()) -> Outputs:
        """Return the outputs of a new photo; other depths of it will stand beside its own."""
        key = self.store.add_photo(photo)
        for other in others:
            self.store.add_result(other, photo_key=key)
        outputs = self.show(photo) | {self.key: key}
        if at_once:  # what is there stays until the new depth comes
            outputs[self.request] = new_request()
        else:
            outputs |= {self.depth.key: None}
            outputs |= {tab.stage: gr.Column(visible=False) for tab in (self.depth, self.objects)}
        return outputs | self.run_state(ready=True)

    def show(self, photo: Photo) -> Outputs:
        """Show a photo in its box, with what there is to know of it."""
        folder = self.store.folder() / _ON_SCREEN
        shown = write_file(folder, f"{photo.stem}.jpg", export.jpeg(shrink_photo(photo.rgb)))
        notes = "".join(f"<p>{html.escape(note)}</p>" for note in photo.notes) + _ratio(photo)
        return {self.drop: shown, self.notes: notes, self.name: _name(photo)}

    def show_phone_button(self, photo_key: str | None) -> Outputs:
        """Show the button for the depth inside a photo where there is one."""
        has_depth = bool(photo_key) and self.store.photo(photo_key).phone_depth is not None
        return {self.phone_depth: gr.Button(visible=has_depth)}

    def take_recipe(self, path: str | None, photo_key: str | None) -> Outputs:
        """Set all fields as a recipe has them; with a photo in its box, a run follows."""
        recipe = isolated.load_recipe(path or "", visitor=visitor())
        photo = self.store.photo(photo_key) if photo_key else None
        shown: Outputs = {self.status: status(_recipe_words(recipe, photo))}
        if photo_key:
            shown[self.request] = new_request()
        groups: list[tuple[Settings | None, dict[str, Any]]] = [
            (recipe.depth, self.fields),
            (recipe.relief, self.objects.relief.fields),
            (recipe.mesh, self.objects.mesh.fields),
        ]
        if recipe.relief is not None:
            shown[self.objects.preset] = self.objects.style_of(recipe.relief)
        for settings, group in groups:
            if settings is not None:
                shown |= dict(zip(group.values(), widgets.shown(settings, list(group)), strict=True))
        return shown


def file_kind(path: Path | str) -> Literal["photo", "depth", "recipe"]:
    """Return by content what a file is taken for: a recipe (JSON, 3MF, GLB), depth, or else a photo.

    Depth is an array, or a gray picture of more than 8 bits; see `depth_form`.

    Raises:
        PhotoError: The file cannot be opened, or is empty.
    """
    with opened(path, max_bytes=MAX_BYTES, error=PhotoError) as file:
        start = start_of(file, 4096)
    is_zip = start.startswith(ZIP)  # .npz or 3MF
    first_name = start[30 : 30 + int.from_bytes(start[26:28], "little")] if is_zip else b""
    if start.lstrip()[:1] == b"{" or start.startswith(b"glTF") or (is_zip and first_name[-4:] != b".npy"):
        return "recipe"
    return "photo" if depth_form(path) is None else "depth"


def _how(text: str) -> dict[str, Any]:
    """Read what ways_in.js tells of a file."""
    try:
        found = json.loads(text)
    except (TypeError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _number(how: str) -> int:
    """Return the number that ways_in.js has given a file; 0 where there was none."""
    number = _how(how).get("choice")
    return number if isinstance(number, int) else 0


def _chosen(examples: tuple[Example, ...], event: object) -> Example:
    index = event.get("index") if isinstance(event, dict) else None
    if not isinstance(index, int) or not 0 <= index < len(examples):
        raise PhotoError("There is no such example; choose one from the gallery.")
    return examples[index]


def _name(photo: Photo) -> str:
    """Return the name of a photo as HTML; where it is cut off, all of it is a tooltip."""
    return f'<span title="{html.escape(photo.stem)}">{html.escape(photo.stem)}</span>'


def _ratio(photo: Photo) -> str:
    """Tell the style sheet the shape of the photo, so that boxes have it before the pictures come."""
    width, height = photo.size
    return f"<style>:root {{ --photo-ratio: {width} / {height}; }}</style>"


def _recipe_words(recipe: Recipe, photo: Photo | None) -> str:
    if photo is None:
        return "The settings are those of the recipe. Now choose its photo."
    if recipe.photo not in (None, photo.digest):
        return "The settings are those of the recipe, but it was made for another photo."
    return "The settings are those of the recipe."


_TILE = """<button type="button" data-index="{index}" aria-label="Example: {title}">
<img alt="" src="{address}" width="{size[0]}" height="{size[1]}" decoding="async">
<span>{title}</span></button>"""
_CHOSE = """element.addEventListener("click", ({ target }) => {
  const tile = target.closest("button");
  if (!tile) return;
  element.querySelector(".selected")?.classList.remove("selected");
  tile.classList.add("selected");
  trigger("select", { index: Number(tile.dataset.index) });
});"""


def _gallery(examples: tuple[Example, ...]) -> gr.HTML:
    """Return tiles of the examples; the `select` event has the index of the example.

    Not gr.Gallery, which loads a player of videos.
    """
    tiles = [
        _TILE.format(
            index=index, title=html.escape(example.title), address=_tile_address(example), size=THUMBNAIL_PX
        )
        for index, example in enumerate(examples)
    ]
    return gr.HTML(
        f'<div role="group" aria-label="Examples">{"".join(tiles)}</div>',
        js_on_load=_CHOSE,
        elem_id="examples",
        visible=bool(examples),
    )


def _tile_address(example: Example) -> str:
    if example.tile is not None and example.tile.parent == EXAMPLES_FOLDER:
        return f".{TILES_PATH}{example.tile.name}"
    with Image.open(example.tile) if example.tile else Image.fromarray(load_photo(example.path).rgb) as tile:
        return picture_address(ImageOps.fit(tile.convert("RGB"), THUMBNAIL_PX))
