"""Depth becomes a relief or a mesh: preview, settings, files, report and a zip."""

import html
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import gradio as gr
import numpy as np
from gradio.events import Dependency
from numpy.typing import NDArray

from marigold_demo.errors import DemoError, SettingsError
from marigold_demo.examples import Example
from marigold_demo.geometry.relief import build_report
from marigold_demo.geometry.solid import require_sound
from marigold_demo.io.formats import formats_of, page_files, page_formats
from marigold_demo.io.mesh_files import to_zip
from marigold_demo.settings import MeshSettings, ReliefSettings
from marigold_demo.ui import preview, widgets
from marigold_demo.ui.layers import CAMERA, DepthStyle
from marigold_demo.ui.messages import size_in_words, user_errors
from marigold_demo.ui.opening import Opening
from marigold_demo.ui.photo_tab import History
from marigold_demo.ui.preview import STYLES, Preview, chips, drag_picture, preset
from marigold_demo.ui.session_store import DepthResult, SessionStore, write_file
from marigold_demo.ui.widgets import ONCE, QUIET, RAW, WORK, download_button, settled_events

if TYPE_CHECKING:
    from marigold_demo.ui.depth_tab import DepthTab

RELIEF, MESH = "relief", "mesh"
ZIP = "Everything in one zip"
# What stands above "Fine tuning".
MAIN = {
    RELIEF: ("width_mm", "relief_mm", "detail", "frame_mm"),
    MESH: ("projection", "far_near_ratio", "fov_deg", "edges"),
}
FILES = {
    RELIEF: {name: found.label for name, found in page_formats("relief").items()} | {"stl": "Download STL"},
    MESH: {name: found.label for name, found in page_formats("mesh").items()} | {"glb": "Download GLB"},
}
FIRST_OF_OTHERS = ("photo_detail", "base_mm", "near", "far")
MAIN_FILE = {RELIEF: "stl", MESH: "glb"}
MOST_UNDONE = 50
OF_EXAMPLE = "As for this example"
_BUSY = """(...values) => { workbench.busy(); return objectPreview.ask(values); }"""
_DONE = """() => workbench.done()"""
# After the button has its file; the button itself is never seen.
_FETCH_ZIP = """() => setTimeout(() => document.querySelector("#zip-file").click(), 200)"""


class Shape:
    """Settings, downloads and report of one kind of object.

    Attributes:
        fields: The widgets of its settings, by name.
        files: The buttons of its files, by format.
    """

    def __init__(self, name: str, defaults: ReliefSettings | MeshSettings) -> None:
        self.name, self.kind, self.defaults = name, type(defaults), defaults
        self.fields: dict[str, gr.components.Component] = {}
        self.files: dict[str, gr.DownloadButton] = {}

    def add_fields(self) -> None:
        """Add the settings in sight, and all others below them, folded."""
        main, others = arranged(self.name, self.defaults)
        with gr.Column(elem_classes="essentials"):
            self.fields |= widgets.create(self.defaults, main, group=self.name)
        with gr.Accordion(f"Fine tuning ({len(others)})", open=False, elem_classes="fine"):
            self.fields |= widgets.create(self.defaults, others, group=self.name)

    def add_files(self, *formats: str, variant: Literal["primary", "secondary"] = "secondary") -> None:
        """Add a button for each of the formats."""
        for name in formats:
            self.files[name] = gr.DownloadButton(
                FILES[self.name][name],
                interactive=False,
                variant=variant,
                elem_id=name,
                elem_classes=f"of-{self.name}",
            )

    def add_report(self) -> None:
        """Add what there is to know of the object."""
        self.report = gr.HTML("", elem_id=f"{self.name}-report")

    @property
    def outputs(self) -> list[gr.components.Component]:
        """What is filled once the object is built."""
        return [self.report, *self.files.values()]

    def settings(self, chosen: Sequence[Any]) -> Any:
        """Make settings of the values of all fields, in their order."""
        return widgets.read(self.kind, dict(zip(self.fields, chosen, strict=True)))

    def shown(self, settings: ReliefSettings | MeshSettings) -> dict[Any, Any]:
        """Return what the fields show for these settings."""
        return dict(zip(self.fields.values(), widgets.shown(settings, list(self.fields)), strict=True))

    def waiting(self) -> dict[Any, Any]:
        """Return buttons that wait for their files."""
        words = FILES[self.name]
        return {
            button: gr.DownloadButton(words[key], interactive=False) for key, button in self.files.items()
        }


def arranged(name: str, settings: ReliefSettings | MeshSettings) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the names of the settings in sight, and of those under "Fine tuning"."""
    names = [f.name for f in fields(settings)]
    first = [one for one in FIRST_OF_OTHERS if one in names]
    return MAIN[name], (*first, *(one for one in names if one not in (*MAIN[name], *first)))


class ObjectTab:
    """3D preview of relief or mesh, their settings, downloads and reports."""

    def __init__(
        self, store: SessionStore, opening: Opening | None = None, examples: Sequence[Example] = ()
    ) -> None:
        self.store, self.opening = store, opening
        self.of_examples = [example.relief for example in examples]
        self.chosen = gr.State(RELIEF)
        self.tabs: dict[str, gr.Tab] = {}  # those with the settings of relief and mesh
        self.relief, self.mesh = Shape(RELIEF, ReliefSettings()), Shape(MESH, MeshSettings())
        self.shapes = {RELIEF: self.relief, MESH: self.mesh}

    def add_preview(self) -> None:
        """Add the 3D preview."""
        opening = self.opening
        with gr.Column(visible=opening is not None, elem_id="object-stage") as self.stage:
            self.viewer = Preview((opening.preview, opening.about) if opening else None)
            self.drag = gr.HTML(opening.poster if opening else "", elem_id="drag-preview")
            self.facts = gr.HTML(opening.facts if opening else "", elem_id="facts")
        self.preview = self.viewer.model
        # workbench.js puts its words under the field that they are about.
        self.refused = gr.HTML("", elem_id="refused")

    def add_undo(self) -> None:
        """Add the button that takes the last change of a setting back."""
        self.undo = gr.Button("↶ Undo", size="sm", interactive=False, elem_id="undo")
        self.history = gr.State(())

    def add_main_files(self) -> None:
        """Add the button of the file that most people want, one for each kind of object."""
        for name, shape in self.shapes.items():
            shape.add_files(MAIN_FILE[name], variant="primary")

    def add_other_files(self) -> None:
        """Add the buttons of all other files, and the one that packs them all."""
        for name, shape in self.shapes.items():
            shape.add_files(*(key for key in FILES[name] if key != MAIN_FILE[name]))
        self.zip = gr.Button(ZIP, elem_id="everything")
        # The browser fetches what is put here as soon as it is packed.
        self.zip_file = gr.DownloadButton("Zip", visible="hidden", elem_id="zip-file")

    def add_relief(self) -> None:
        """Add the settings of the relief."""
        styles = [(words, name) for name, words in STYLES.items()]
        with gr.Column(elem_id="styles", min_width=0):
            self.preset = gr.Radio(
                styles, value="standard", label="Style", show_label=False, elem_id="preset"
            )
            self.chips = gr.HTML(self.opening.chips if self.opening else "", elem_id="chip-pictures")
            with gr.Column(elem_id="style-bar", min_width=0):
                self.note = gr.HTML("", elem_id="style-note")
                self.reset = gr.Button("Reset all", size="sm", interactive=False, elem_id="reset-all")
        # workbench.js presses it when the marked style is chosen again, of which Gradio's radio says nothing.
        self.again = gr.Button(visible="hidden", elem_id="style-again")
        self.relief.add_fields()
        self.relief.add_report()

    def add_mesh(self) -> None:
        """Add the settings of the mesh."""
        self.mesh.add_fields()
        self.mesh.add_report()

    @property
    def all_fields(self) -> list[gr.components.Component]:
        """The settings of relief and mesh, in the order in which handlers take them."""
        return [*self.relief.fields.values(), *self.mesh.fields.values()]

    # Events

    def connect(self, depth: "DepthTab") -> None:
        """Rebuild whenever the visitor has chosen something, and pack when asked to.

        Args:
            depth: The tab whose depth becomes the object; `rebuild` may be called from here on.
        """
        self.depth, self.depth_key = depth, depth.key
        self.viewer.connect()
        for name, tab in self.tabs.items():
            tab.select(lambda name=name: name, None, [self.chosen], **WORK)
        self.rebuild(self.chosen.change)  # not the tab's event, which fires when the page unfolds, too
        chosen = [self.preset.input, self.again.click]
        begun = gr.on(chosen, self.apply_preset, [self.preset], [*self.relief.fields.values()], **WORK)
        self.rebuild(begun.success)
        set_all = [self.preset, *self.all_fields]
        self.rebuild(self.reset.click(self.reset_all, None, set_all, **WORK).success)
        undone = [self.history, self.undo, *set_all, self.note, self.reset]
        self.rebuild(self.undo.click(self.take_back, [self.history], undone, **WORK).success, is_new=False)
        dragged = [self.relief.fields[name].input for name in MAIN[RELIEF]]
        gr.on(
            dragged,
            self.follow_drag,
            [depth.key, *self.relief.fields.values()],
            [self.drag],
            **WORK,
            **RAW,
        )
        settled = [
            event
            for shape in self.shapes.values()
            for name, field in shape.fields.items()
            for event in settled_events(field)
            if not (shape is self.mesh and name in CAMERA)
        ]
        self.rebuild(partial(gr.on, settled))
        begun = self.zip.click(
            lambda: gr.Button("Packing everything …", interactive=False),
            None,
            [self.zip],
            queue=False,
            **QUIET | ONCE,
        )
        packed = begun.success(
            user_errors(self.pack),
            [depth.key, *depth.style, *self.all_fields],
            [self.zip_file, self.zip],
            **WORK | ONCE,
            **RAW,
        )
        packed.success(None, js=_FETCH_ZIP)
        packed.failure(lambda: gr.Button(ZIP, interactive=True), None, [self.zip], queue=False, **QUIET)

    @property
    def buttons(self) -> list[gr.DownloadButton]:
        """The buttons of all files of relief and mesh."""
        return [*self.relief.files.values(), *self.mesh.files.values()]

    def waiting(self) -> dict[Any, Any]:
        """Return the buttons of all files, which wait for the next object."""
        return self.relief.waiting() | self.mesh.waiting()

    def rebuild(self, trigger: Callable[..., Dependency], *, is_new: bool = True) -> None:
        """Build the preview of the chosen shape at the trigger, then its files.

        Args:
            trigger: Declares an event.
            is_new: Undo is to lead back from the settings.
        """
        outputs = [*self.relief.outputs, *self.mesh.outputs]
        chosen = [self.depth_key, self.chosen]
        depth = self.depth
        show, build = depth.of_this(self.show_preview), depth.of_this(self.build)
        shown = [*self.viewer.outputs, self.facts, self.refused, *outputs]
        inputs = [*chosen, *self.all_fields]
        previewed = trigger(show, [self.preview, *inputs], shown, js=_BUSY, **WORK, **RAW)
        self.viewer.follow(previewed)
        for ended in (previewed.success, previewed.failure):
            ended(None, js=_DONE)
        if is_new:
            previewed.success(
                self.note_change,
                [self.history, self.preset, *self.all_fields],
                [self.history, self.undo, self.note, self.reset],
                queue=False,
                **QUIET,
                **RAW,
            )
        previewed.success(
            depth.of_this(depth.show_relief),
            [depth.key, depth.left, depth.right, *depth.style],
            depth.pictures,
            **WORK,
            **RAW,
        )
        previewed.success(build, inputs, outputs, **WORK, **RAW)

    # Handlers: what they return is component -> value; components that are not named stay as they are.

    def style_of(self, settings: ReliefSettings) -> str | None:
        """Return the name of the style with these settings; None: they are those of an example."""
        names = {name: preset(name) for name in STYLES}
        found = next((name for name, known in names.items() if known == settings), None)
        return found or (None if settings in self.of_examples else "standard")

    def show_settings(self, settings: ReliefSettings) -> dict[Any, Any]:
        """Return what the fields of the relief and the styles show for these settings."""
        return self.relief.shown(settings) | {self.preset: self.style_of(settings)}

    def take_settings(
        self, settings: ReliefSettings, history: History, style: str | None, *chosen: Any
    ) -> tuple[dict[Any, Any], bool]:
        """Set the relief as an example has it, so that Undo brings back what was there.

        Returns:
            The outputs, and whether settings of the visitor's own gave way.
        """
        now = (style, *chosen)
        count = len(self.relief.fields)
        shown = widgets.shown(settings, list(self.relief.fields))
        after = (self.style_of(settings), *shown, *chosen[count:])
        history = history or (self._first,)
        for entry in (now, after):
            history = history if history[-1] == entry else (*history[-MOST_UNDONE:], entry)
        try:
            before = self.relief.settings(chosen[:count])
            gave_way = before not in (ReliefSettings(), settings, *self.of_examples)
        except SettingsError:
            gave_way = True
        outputs = {self.history: history, self.undo: gr.Button(interactive=len(history) > 1)}
        return outputs | self.show_settings(settings), gave_way

    @property
    def _first(self) -> tuple[Any, ...]:
        """Style and fields as the page begins."""
        return ("standard", *(field.value for field in self.all_fields))

    def apply_preset(self, name: str | None) -> dict[Any, Any]:
        """Set the fields of the relief as a preset has them."""
        return self.relief.shown(preset(name))

    def note_change(self, history: History, style: str | None, *chosen: Any) -> dict[Any, Any]:
        """Note the settings for Undo, and say whether they are still those of the style."""
        now = (style, *chosen)
        history = history or (self._first,)
        if history[-1] != now:
            history = (*history[-MOST_UNDONE:], now)
        undo = gr.Button(interactive=len(history) > 1)
        return {self.history: history, self.undo: undo} | self._style_note(style, chosen)

    def _style_note(self, style: str | None, chosen: Sequence[Any]) -> dict[Any, Any]:
        """Return whether the settings are still those of the style, and whether Reset would change them."""
        try:
            relief = self.relief.settings(chosen[: len(self.relief.fields)])
            changed = relief not in (self.of_examples if style is None else [preset(style)])
            changed |= self.mesh.settings(chosen[len(self.relief.fields) :]) != MeshSettings()
        except SettingsError:
            changed = True
        words = f"{STYLES.get(str(style), 'Example')}, changed" if changed else ""
        if style is None and not changed:
            words = OF_EXAMPLE
        return {self.note: words, self.reset: gr.Button(interactive=changed or style != "standard")}

    def take_back(self, history: History) -> dict[Any, Any]:
        """Set all fields as they were before the last change; nothing, where none was."""
        if not history:
            return gr.skip()  # type: ignore[no-any-return]
        past = history[:-1] or history
        style, *values = past[-1]
        return {
            self.history: past,
            self.undo: gr.Button(interactive=len(past) > 1),
            self.preset: style,
            **dict(zip(self.all_fields, values, strict=True)),
            **self._style_note(style, values),
        }

    def reset_all(self) -> dict[Any, Any]:
        """Set all fields of relief and mesh as they are at first."""
        return (
            {self.preset: "standard"} | self.relief.shown(ReliefSettings()) | self.mesh.shown(MeshSettings())
        )

    def follow_drag(self, key: str | None, *chosen: Any) -> dict[Any, Any]:
        """Show a small picture of the relief while a slider is dragged; nothing, where there is none."""
        try:
            return {self.drag: drag_picture(self.store.result(key), self.relief.settings(chosen))}
        except DemoError:
            return {self.drag: ""}

    def draw_chips(self, key: str | None) -> dict[Any, Any]:
        """Draw the styles with the photo on the page."""
        return {self.chips: chips(self.store.result(key))}

    def show_preview(self, view: gr.Model3D, key: str | None, name: str, *chosen: Any) -> dict[Any, Any]:
        """Build the object light enough for the screen; the buttons wait for the files.

        Raises:
            DemoError: The depth is gone, or the settings contradict each other.
        """
        try:
            settings = self._settings(name, chosen)
            path, about, facts = preview.show(self.store, key, settings, aspect=preview.aspect_of(view))
        except SettingsError as error:
            return {self.refused: self._refusal(name, error, chosen)} | self.waiting()
        self.store.record_preview(key, settings)
        shown = dict(zip(self.viewer.outputs, (path, about), strict=True))
        shown |= {self.facts: facts, self.refused: ""}
        return shown | self.shapes[name].waiting()

    def _refusal(self, name: str, error: SettingsError, chosen: Sequence[Any]) -> str:
        """Return what is wrong, at which field, and the value that is refused, as HTML."""
        shape = self.shapes.get(name, self.relief)
        words = html.escape(widgets.refusal(error, shape.kind))
        values = dict(zip(self.all_fields, chosen, strict=True))
        value = html.escape(str(values.get(shape.fields.get(error.field), "")))
        field = html.escape(f"{shape.name}-{error.field}")
        return f'<p data-field="{field}" data-value="{value}">{words}</p>'

    def build(self, key: str | None, name: str, *chosen: Any) -> dict[Any, Any]:
        """Write the files and the report.

        Files that a newer request has overtaken are not shown, for its own will follow.

        Raises:
            DemoError: The depth is gone, or the settings contradict each other.
        """
        try:
            settings = self._settings(name, chosen)
        except SettingsError:  # it was said before
            return gr.skip()  # type: ignore[no-any-return]
        built = self.build_files(key, settings)
        return gr.skip() if self.store.is_preview_outdated(key, settings) else built

    def build_files(self, key: str | None, settings: ReliefSettings | MeshSettings) -> dict[Any, Any]:
        """Build the object of a kept depth for download, as `build` does."""
        return self.write_files(self.store.result(key), settings)

    def write_files(self, result: DepthResult, settings: ReliefSettings | MeshSettings) -> dict[Any, Any]:
        """Write the files of an object and fill their buttons and the report."""
        stem = result.photo.stem
        if isinstance(settings, ReliefSettings):
            relief = self.store.workflow.relief(result.depth, settings, photo=result.photo)
            files = list(page_files("relief", relief, stem, recipe=result.recipe(settings)))
            examined = build_report(relief, *files[0])
            require_sound(examined.check)
            report = report_html(examined.lines(), examined.warnings)
            return {self.relief.report: report} | self._downloads(self.relief, files)
        surface = self.store.workflow.surface(result.depth, result.photo, settings)
        files = list(page_files("mesh", surface, stem, recipe=result.recipe(settings)))
        facts = [
            ("Triangles", f"{len(surface.faces):,}"),
            ("Texture", "{1} × {0} pixels".format(*surface.texture.shape)),
        ]
        return {self.mesh.report: report_html(facts, surface.notes)} | self._downloads(self.mesh, files)

    def _downloads(self, shape: Shape, files: Sequence[tuple[str, bytes]]) -> dict[Any, Any]:
        folder = self.store.folder()
        return {
            shape.files[key]: download_button(words, write_file(folder, name, data), len(data))
            for (key, words), (name, data) in zip(FILES[shape.name].items(), files, strict=True)
        }

    def pack(self, key: str | None, *chosen: Any) -> dict[Any, Any]:
        """Pack everything of a depth into one zip.

        Raises:
            DemoError: The depth is gone, or the settings contradict each other.
        """
        result, count = self.store.result(key), len(fields(DepthStyle))
        style, values = DepthStyle(*chosen[:count]), chosen[count:]
        path = build_zip(
            self.store,
            result,
            relief=self._settings(RELIEF, values),
            mesh=self._settings(MESH, values),
            colored=style.colored(result.depth.values),
        )
        words = f"{ZIP} · {size_in_words(Path(path).stat().st_size)}"
        return {self.zip_file: path, self.zip: gr.Button(words, interactive=True)}

    def _settings(self, name: str, chosen: Sequence[Any]) -> Any:
        """Make settings of those of the widgets' values that belong to one shape."""
        count = len(self.relief.fields)
        if name == RELIEF:
            return self.relief.settings(chosen[:count])
        if name == MESH:
            return self.mesh.settings(chosen[count:])
        raise SettingsError(f"This is no object; it must be one of {', '.join(self.shapes)}.")


def build_zip(
    store: SessionStore,
    result: DepthResult,
    *,
    relief: ReliefSettings,
    mesh: MeshSettings,
    colored: NDArray[np.uint8],
) -> str:
    """Build relief and mesh and write all files into one ZIP; return its path.

    Raises:
        SettingsError: The settings contradict each other.
    """
    stem, recipe = result.photo.stem, replace(result.recipe(relief), mesh=mesh)
    solid = store.workflow.relief(result.depth, relief, photo=result.photo)
    reliefs = list(page_files("relief", solid, stem, recipe=recipe))
    examined = build_report(solid, *reliefs[0])
    require_sound(examined.check)
    surface = store.workflow.surface(result.depth, result.photo, mesh)
    members = dict(
        [
            *page_files("depth", result.depth, stem, recipe=recipe),
            *page_files("picture", colored, stem, recipe=recipe),
            *reliefs,
            formats_of("mesh")["glb"].write(surface, stem, recipe=recipe),
            (f"{stem}_report.txt", examined.to_text().encode()),
            (f"{stem}_recipe.json", recipe.to_json().encode()),
        ]
    )
    return write_file(store.folder(), f"{stem}_marigold.zip", to_zip(members))


def report_html(facts: Sequence[tuple[str, str]], notes: Sequence[str]) -> str:
    """Return facts and notes about an object as HTML."""
    rows = "".join(f"<dt>{html.escape(name)}</dt><dd>{html.escape(fact)}</dd>" for name, fact in facts)
    paragraphs = "".join(f"<p>{html.escape(note)}</p>" for note in notes)
    return f'<div class="report"><dl>{rows}</dl>{paragraphs}</div>'
