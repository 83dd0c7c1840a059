"""The page: its tabs put together, its theme, and how it is launched."""

import html
import threading
import time
from functools import partial
from importlib.resources import files
from typing import Any

import gradio as gr
from gradio import http_server
from gradio.themes.utils import colors, sizes

from marigold_demo.depth import StatusSource
from marigold_demo.examples import Example, load_examples
from marigold_demo.serving.lifecycle import MB, Server, Service
from marigold_demo.serving.listening import Place, listen
from marigold_demo.settings import DepthSettings, ReliefSettings
from marigold_demo.ui import queue
from marigold_demo.ui.api import add_endpoints, mcp_server
from marigold_demo.ui.depth_tab import DepthTab
from marigold_demo.ui.layers import DepthStyle
from marigold_demo.ui.model_picker import ModelPicker
from marigold_demo.ui.object_tab import MESH, RELIEF, ObjectTab
from marigold_demo.ui.opening import FAVICON, TITLE, PageHead, about, head_tags, prepare
from marigold_demo.ui.photo_tab import PhotoTab
from marigold_demo.ui.queue import LISTEN_S
from marigold_demo.ui.session_restore import SessionRestore
from marigold_demo.ui.session_store import SessionStore
from marigold_demo.ui.strict_blocks import CallFilter, OpenStreams, StrictBlocks
from marigold_demo.ui.widgets import MAX_WORKERS, WORK
from marigold_demo.workflow import Workflow

WAITING_MOST = 24


class Tabs:
    """The page as a workbench: a bar, and below it slider, 3D preview and settings side by side."""

    def __init__(
        self,
        store: SessionStore,
        status_of: StatusSource | None = None,
        *,
        defaults: DepthSettings,
        examples: tuple[Example, ...] = (),
    ) -> None:
        self.store = store
        self.opening = opening = prepare(store, examples)
        self._writing, self._opened = threading.Lock(), (0.0, dict[Any, Any]())
        self.models = ModelPicker(store, status_of)
        self.photo = PhotoTab(store, self.models, defaults=defaults, examples=examples, opening=opening)
        self.depth = DepthTab(store, self.models, opening)
        self.objects = ObjectTab(store, opening, examples)
        self._add_bar(defaults)
        with gr.Row(elem_id="bench"):
            gr.HTML(_HEADLINE, elem_id="headline")
            gr.HTML(_VIEWS, elem_id="views")
            with gr.Column(elem_id="compare-pane", elem_classes="pane", min_width=0):
                self.depth.add_slider()
            with gr.Column(elem_id="object-pane", elem_classes="pane", min_width=0):
                self.objects.add_preview()
            with gr.Row(elem_id="strip"):
                self.photo.add_strip()
            with gr.Column(elem_id="settings", elem_classes="pane", min_width=0):
                self._add_settings()
        self.restore = SessionRestore(store, self.photo, self.depth, self.objects, opening)

    def _add_bar(self, defaults: DepthSettings) -> None:
        with gr.Row(elem_id="bar"):
            gr.HTML(_BRAND, elem_id="brand")
            self.photo.add_name()
            self.models.add_buttons(defaults)
            self.photo.add_run_bar()
            self.objects.add_undo()
            with gr.Row(elem_id="downloads"):
                self.objects.add_main_files()
                gr.Button("▾", elem_id="more-files")  # workbench.js names it and opens the menu
            with gr.Column(elem_id="file-menu"):
                self.objects.add_other_files()
                self.depth.add_files()

    def _add_settings(self) -> None:
        with gr.Tabs(elem_id="kinds"):
            with gr.Tab("Relief", id=RELIEF, render_children=True, elem_id="relief-tab") as relief_tab:
                self.objects.add_relief()
            with gr.Tab("Mesh", id=MESH, render_children=True, elem_id="mesh-tab") as mesh_tab:
                self.objects.add_mesh()
            with gr.Tab("Depth", id="depth", render_children=True, elem_id="depth-tab"):
                self.depth.add_controls()
                self.photo.add_settings()
        self.objects.tabs = {RELIEF: relief_tab, MESH: mesh_tab}

    def connect(self, page: gr.Blocks) -> None:
        """Connect the events of all tabs."""
        self.objects.connect(self.depth)
        run = self.depth.connect_run(self.photo, self.objects)
        self.depth.connect()
        self.photo.connect(self.depth, self.objects)
        self.models.connect(page, self.photo, self.depth, run)
        starts = self.restore.connect(page)
        if self.opening is not None:
            for begun in starts:
                begun.success(
                    self.depth.of_this(self.write_opening),
                    [self.depth.key],
                    [self.objects.relief.report, *self.objects.buttons, *self.depth.files.values()],
                    **WORK,
                )

    def write_opening(self, key: str | None) -> dict[Any, Any]:
        """Write the files of what the page shows at first; visitors share them while they are kept."""
        opening = self.opening
        if opening is None or not key or self.store.result(key) is not opening.result:
            return gr.skip()  # type: ignore[no-any-return]
        with self._writing:
            made_s, files = self._opened
            if not files or time.monotonic() - made_s > self.store.ttl_s / 2:
                files = self.objects.write_files(opening.result, ReliefSettings())
                files |= self.depth.write_exact(opening.result)
                files |= self.depth.write_picture(opening.result, DepthStyle())
                self._opened = time.monotonic(), files
            return files


def build_page(
    workflow: Workflow,
    *,
    defaults: DepthSettings | None = None,
    status_of: StatusSource | None = None,
    store: SessionStore | None = None,
    waiting_most: int = WAITING_MOST,
    listen_s: float = LISTEN_S,
) -> StrictBlocks:
    """Return the page over a workflow; nothing is loaded or run yet.

    Args:
        workflow: Makes depth of photos.
        defaults: What the settings show at first; None: their own defaults.
        status_of: What is known of a run beforehand; without it the page says nothing of that.
        store: Keeps what visitors made; None: one with its own bounds.
        waiting_most: How many events may wait.
        listen_s: After how many seconds without a reader of its messages an event ends.
    """
    store, examples = store or SessionStore(workflow), load_examples()
    page = StrictBlocks(
        fill_width=True,
        title=TITLE,
        delete_cache=(int(store.ttl_s / 4), int(store.ttl_s)),
        analytics_enabled=False,
    )
    with page:
        page.tabs = Tabs(store, status_of, defaults=defaults or DepthSettings(), examples=examples)
        page.tabs.connect(page)
        gr.HTML(about() + _colophon(store.ttl_s, examples))
        add_endpoints(store)
    store.files.keep_what_is_there()  # the pictures of the page itself
    store.known_files = page.temp_file_sets
    store.sweeper.start()
    page.bounded_queue(
        max_size=waiting_most,
        concurrency=MAX_WORKERS,
        listen_s=listen_s,
        share_out=workflow.waiting_per_visitor is not None,
    )
    return page


_BRAND = f"""
<a class="brand" href="." aria-label="Marigold">{FAVICON.read_text(encoding="utf-8")}<b>Marigold</b></a>
"""
_HEADLINE = """
<header><h1>Turn a photo into something you can hold</h1>
<p>Drop a photo anywhere · <kbd>Ctrl</kbd>+<kbd>V</kbd> ·
<button type="button" id="choose" data-way="choose">Choose</button></p>
</header>
"""
# Where the screen is too narrow for both pictures, one of them is shown.
_VIEWS = """
<div role="group" aria-label="Picture"><button type="button" data-view="object" aria-pressed="true">3D</button
><button type="button" data-view="compare" aria-pressed="false">Photo and depth</button></div>
"""


def _colophon(ttl_s: float, examples: tuple[Example, ...]) -> str:
    hours = round(ttl_s / 3600, 1)
    kept = f"{hours:g} {'hour' if hours == 1 else 'hours'}" if hours >= 1 else f"{round(ttl_s / 60)} minutes"
    return f"""
<footer class="colophon">Depth from one photo is relative: it orders near and far, without meters.
Photos and results stay on this server for at most {kept} after their last use, less when its
room runs out, and go nowhere else.{_credits(examples)}</footer>
"""


def _credits(examples: tuple[Example, ...]) -> str:
    """Return who made the examples whose license asks for that, as HTML."""
    made = [
        f"{example.title} by {example.source.partition(';')[0]} ({example.license.replace('-', ' ')})"
        for example in examples
        if example.license.startswith("CC-BY")
    ]
    return f"<p>Examples: {html.escape('; '.join(made))}.</p>" if made else ""


_REFERRER = '<meta name="referrer" content="no-referrer">'  # an address may hold the key of a result

MARIGOLD = colors.Color(
    name="marigold",
    c50="#fff9eb", c100="#ffefc7", c200="#ffdd8a", c300="#ffc64d", c400="#ffb224", c500="#f59300",
    c600="#d96f00", c700="#a85000", c800="#8a3f0a", c900="#72340c", c950="#431a03",
)  # fmt: skip
INK = "#2a1600"  # on marigold
LIGHT, DARK = str(colors.stone.c50), "#161412"  # of the page itself

THEME = {
    "body_background_fill": "*neutral_50",
    "body_background_fill_dark": DARK,
    "background_fill_primary": "white",
    "background_fill_primary_dark": "#1f1c19",
    "block_background_fill": "white",
    "block_background_fill_dark": "#1f1c19",
    "block_border_width": "1px",
    "block_border_color": "*neutral_200",
    "block_border_color_dark": "#37322d",
    "block_shadow": "none",
    "button_border_width": "1px",
    "button_primary_border_color_hover": "*primary_300",
    "block_label_text_color": "*neutral_600",
    "block_label_text_color_dark": "*neutral_300",
    "block_title_text_color": "*neutral_800",
    "block_title_text_color_dark": "*neutral_100",
    "block_title_text_weight": "600",
    "block_info_text_color": "*neutral_600",
    "block_info_text_color_dark": "*neutral_400",
    "body_text_color": "*neutral_800",
    "body_text_color_dark": "*neutral_100",
    "body_text_color_subdued": "*neutral_600",
    "body_text_color_subdued_dark": "*neutral_400",
    "button_primary_background_fill": "*primary_400",
    "button_primary_background_fill_hover": "*primary_300",
    "button_primary_background_fill_dark": "*primary_400",
    "button_primary_background_fill_hover_dark": "*primary_300",
    "button_primary_text_color": INK,
    "button_primary_text_color_dark": INK,
    "button_primary_border_color": "*primary_400",
    "button_primary_border_color_dark": "*primary_400",
    "button_secondary_background_fill": "white",
    "button_secondary_background_fill_hover": "*neutral_100",
    "button_secondary_background_fill_dark": "#2b2723",
    "button_secondary_background_fill_hover_dark": "#37322d",
    "button_secondary_border_color": "*neutral_300",
    "button_secondary_border_color_dark": "#4a433c",
    "button_secondary_text_color": "*neutral_800",
    "button_secondary_text_color_dark": "*neutral_100",
    "slider_color": "*primary_500",
    "slider_color_dark": "*primary_500",
    "input_background_fill": "white",
    "input_background_fill_dark": "#26221f",
    "input_border_width": "1px",
    "input_border_color": "*neutral_300",
    "input_border_color_dark": "#4a433c",
    "link_text_color": "*primary_700",
    "link_text_color_dark": "*primary_300",
    "link_text_color_hover": "*primary_800",
    "link_text_color_visited": "*primary_700",
    "link_text_color_visited_dark": "*primary_300",
    "color_accent": "*primary_500",
    "border_color_accent": "*primary_500",
}


class Theme(gr.themes.Base):  # type: ignore[misc]
    """Warm grays and one accent; the fonts of the visitor's own system."""

    def __init__(self) -> None:
        super().__init__(
            primary_hue=MARIGOLD,
            secondary_hue=MARIGOLD,
            neutral_hue=colors.stone,
            radius_size=sizes.radius_lg,
            text_size=sizes.text_md,
            font=["system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif"],
            font_mono=["ui-monospace", "SFMono-Regular", "Menlo", "monospace"],
        )
        self.name = "marigold"
        self.set(**THEME)


# Gradio applies its css after the page has begun to show; without these it would jump then.
_FIRST_STYLE = """<style>
:is(.gradio-container, .gradio-container > .main) { max-width: none !important; padding: 0 !important; }
.gradio-container main > .column { min-height: calc(100vh + 110px); }
.gradio-container main > .column > .block:has(.colophon) { margin-top: auto !important; }
#styles { min-height: 148px; }
#strip { min-height: 84px; }
.wrap:has(> p.loading) { position: fixed !important; inset: 0 !important; height: auto !important; }
/* Not before what is above has its height. */
.block:has(.colophon), .colophon { animation: marigold-later 3s step-end; }
@keyframes marigold-later { from, to { visibility: hidden; } }
</style>"""


def launch_options(service: Service | None = None, *, on_spaces: bool = False) -> dict[str, Any]:
    """Return what `Blocks.launch` needs for the page.

    Args:
        service: What stands around the page; None takes one with all defaults.
        on_spaces: The page stands in a frame of Hugging Face, which sets its own headers.
    """
    service = service or Service()
    here = files("marigold_demo.ui")
    app_options = service.app_options(on_spaces=on_spaces)
    tags = partial(head_tags, light=LIGHT, dark=DARK)
    app_options["middleware"] += [(PageHead, (), {"tags": tags}), (CallFilter, (), {}), (OpenStreams, (), {})]
    scripts, styles = (
        [(here / f"{name}.{kind}").read_text(encoding="utf-8") for name in names]
        for kind, names in (
            ("js", ("page", "ways_in", "workbench", "preview")),
            ("css", ("page", "ways_in", "preview")),
        )
    )
    return {
        "theme": Theme(),
        "css": "\n".join(styles),
        "head": _REFERRER + _FIRST_STYLE + "".join(f"<script>{script}</script>" for script in scripts),
        "favicon_path": FAVICON,
        "footer_links": ["api"],
        "show_error": False,
        "run_history": False,
        "enable_monitoring": False,
        "ssr_mode": False,  # no proxy of Gradio's own: it would answer beside all this
        "num_workers": 0,  # Gradio's own would serve files and uploads by rules of their own
        "mcp_server": mcp_server(service.configuration.mcp),
        "state_session_capacity": queue.MAX_SESSIONS,
        "max_file_size": service.configuration.upload_mb * MB,
        "app_kwargs": app_options,
    }


def launch(page: gr.Blocks, service: Service | None = None, place: Place | None = None) -> str:
    """Serve a page with our own server in place of Gradio's, and return its address on this machine.

    Args:
        page: The page.
        service: What stands around the page; None takes one with all defaults.
        place: Where the server listens; None: where the configuration says.

    Raises:
        AddressError: Its port is in use, or it cannot listen there for another reason.
    """
    service = service or Service()
    chosen = service.configuration
    place = place or listen(chosen.server_name, chosen.server_port)

    def start_server(app: Any, **_: Any) -> tuple[str, int, str, Server]:
        queue.keep_sessions(app)
        server = service.server(app, place)
        server.begin()
        return place.host.strip("[]"), place.port, place.url, server

    original, http_server.start_server = http_server.start_server, start_server
    try:
        page.launch(prevent_thread_lock=True, quiet=True, **launch_options(service))
    finally:
        http_server.start_server = original
    if page.share_url:
        service.hosts.add(page.share_url)
    return place.url
