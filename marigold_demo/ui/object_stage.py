"""Third stage of the page: depth becomes a relief or a mesh. Knows nothing of how depth is made."""

import html
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import gradio as gr

from marigold_demo.geometry.print_report import build_report
from marigold_demo.io import export
from marigold_demo.io.formats import page_files, page_formats
from marigold_demo.presets import RELIEF_PRESETS
from marigold_demo.settings import MeshSettings, ReliefSettings
from marigold_demo.ui import widgets
from marigold_demo.ui.depth_stage import download
from marigold_demo.ui.photo_stage import heading
from marigold_demo.ui.session_store import SessionStore, write_file

HEIGHT_PX = 560
FRONT = (90, 90, None)  # degrees and distance: straight at the picture
RELIEF, MESH = "relief", "mesh"


class Shape:
    """What the visitor sets, downloads and reads of one kind of object."""

    def __init__(self, name: str, defaults: ReliefSettings | MeshSettings) -> None:
        self.name, self.kind = name, type(defaults)
        names = [f.name for f in fields(defaults)]
        self.knobs = widgets.create(defaults, [n for n in names if n in MAIN[name]], group=name)
        with gr.Accordion("More settings", open=False):
            self.knobs |= widgets.create(defaults, [n for n in names if n not in MAIN[name]], group=name)
        self.files = {
            key: gr.DownloadButton(
                words,
                interactive=False,
                variant="primary" if key in ("stl", "glb") else "secondary",
                elem_id=key,
            )
            for key, words in FILES[name].items()
        }
        self.report = gr.HTML("", elem_id=f"{name}-report")

    @property
    def outputs(self) -> list[gr.components.Component]:
        """What is filled once the object is built: the report, then the files."""
        return [self.report, *self.files.values()]

    def settings(self, chosen: Sequence[Any]) -> Any:
        """Make settings of the values of all knobs, in their order."""
        return widgets.read(self.kind, dict(zip(self.knobs, chosen, strict=True)))

    def shown(self, settings: ReliefSettings | MeshSettings) -> list[Any]:
        """Return what the knobs show for these settings, in their order."""
        return widgets.shown(settings, list(self.knobs))

    def waiting(self) -> list[gr.DownloadButton]:
        """Return buttons that wait for their files."""
        return [gr.DownloadButton(words, interactive=False) for words in FILES[self.name].values()]


# What stands above "More settings".
MAIN = {
    RELIEF: ("width_mm", "relief_mm", "base_mm", "frame_mm", "near", "far", "detail", "photo_detail"),
    MESH: ("projection", "far_near_ratio", "fov_deg", "edges"),
}
FILES = {
    RELIEF: {name: found.label for name, found in page_formats("relief").items()},
    MESH: {name: found.label for name, found in page_formats("mesh").items()},
}


class ObjectStage:
    """3D preview on the left; settings, downloads and report of relief and mesh on the right."""

    def __init__(self) -> None:
        self.chosen = gr.State(RELIEF)
        with gr.Column(visible=False, elem_id="object-stage") as self.stage:
            gr.HTML(heading(3, "Object", "Turn it, give it a size, take it with you."))
            with gr.Row(equal_height=False, elem_classes="stage-row"):
                with gr.Column(scale=7, min_width=300):
                    # Not in a tab: there it stays empty when it is filled before the tab was opened.
                    self.preview = gr.Model3D(
                        label="3D preview",
                        show_label=False,
                        height=HEIGHT_PX,
                        interactive=False,
                        camera_position=FRONT,
                        elem_id="preview",
                    )
                with gr.Column(scale=5, min_width=300):
                    with gr.Tabs(elem_id="kinds"):
                        with gr.Tab("Relief to print", id=RELIEF) as relief_tab:
                            self.preset = _presets()
                            relief = Shape(RELIEF, ReliefSettings())
                        with gr.Tab("Textured mesh", id=MESH) as mesh_tab:
                            mesh = Shape(MESH, MeshSettings())
                    self.everything = gr.Button("Everything in one zip", elem_id="everything")
                    # The browser fetches what is laid here as soon as it is packed.
                    self.parcel = gr.DownloadButton("Zip", visible="hidden", elem_id="parcel")
        self.shapes = {RELIEF: relief, MESH: mesh}
        self.tabs = {RELIEF: relief_tab, MESH: mesh_tab}


def _presets() -> gr.Dropdown:
    names = [(name[0].upper() + name[1:], name) for name in ("plain", *RELIEF_PRESETS)]
    return gr.Dropdown(names, value="plain", label="Preset", elem_id="preset")


def preview(store: SessionStore, key: str | None, settings: ReliefSettings | MeshSettings) -> str:
    """Build the object light enough for the screen; return the path of its GLB.

    Raises:
        DemoError: The depth is gone, or the settings contradict each other.
    """
    result, light = store.result(key), settings.preview()
    stem = result.photo.stem
    if isinstance(light, ReliefSettings):
        data = export.preview_glb(store.workflow.relief(result.depth, light, photo=result.photo))
        return write_file(store.folder(), f"{stem}_relief_preview.glb", data)
    data = export.glb(store.workflow.surface(result.depth, result.photo, light))
    return write_file(store.folder(), f"{stem}_mesh_preview.glb", data)


def build(store: SessionStore, key: str | None, settings: ReliefSettings | MeshSettings) -> list[Any]:
    """Build the object for download; return its report and its download buttons.

    Raises:
        DemoError: The depth is gone, or the settings contradict each other.
    """
    result = store.result(key)
    stem = result.photo.stem
    if isinstance(settings, ReliefSettings):
        relief = store.workflow.relief(result.depth, settings, photo=result.photo)
        files = list(page_files("relief", relief, stem, recipe=result.recipe(settings)))
        examined = build_report(relief, *files[0])
        return [report(examined.lines(), examined.warnings), *_downloads(store, RELIEF, files)]
    surface = store.workflow.surface(result.depth, result.photo, settings)
    files = list(page_files("mesh", surface, stem, recipe=result.recipe(settings)))
    facts = [
        ("Triangles", f"{len(surface.faces):,}"),
        ("Texture", "{1} × {0} pixels".format(*surface.texture.shape)),
    ]
    return [report(facts, surface.notes), *_downloads(store, MESH, files)]


def _downloads(store: SessionStore, name: str, files: Sequence[tuple[str, bytes]]) -> list[gr.DownloadButton]:
    folder = store.folder()
    return [
        download(words, write_file(folder, file, data), len(data))
        for words, (file, data) in zip(FILES[name].values(), files, strict=True)
    ]


def report(facts: Sequence[tuple[str, str]], notes: Sequence[str]) -> str:
    """Return facts and notes about an object as HTML."""
    rows = "".join(f"<dt>{html.escape(name)}</dt><dd>{html.escape(fact)}</dd>" for name, fact in facts)
    said = "".join(f"<p>{html.escape(note)}</p>" for note in notes)
    return f'<div class="report"><dl>{rows}</dl>{said}</div>'
