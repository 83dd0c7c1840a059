"""For programs: stateless endpoints with settings by name, and the same endpoints as tools for MCP clients.

They are events on hidden components rather than `gr.api`, which would not let a client fetch returned files.
"""

import inspect
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, get_args

import gradio as gr
from gradio.components import Component
from gradio.utils import get_upload_folder

from marigold_demo.colormap import COLORMAPS, DEFAULT_COLORMAP, colorize
from marigold_demo.depth import DepthMap
from marigold_demo.errors import DepthFileError, PhotoError, SettingsError
from marigold_demo.io.cache_folder import disk_full_errors
from marigold_demo.io.depth_file import Near, depth_form, may_be_depth
from marigold_demo.io.formats import formats_of, page_files
from marigold_demo.io.isolated import load_photo, read_depth_file
from marigold_demo.io.photo import Photo, safe_stem
from marigold_demo.recipe import recipe_of
from marigold_demo.settings import DepthSettings, MeshSettings, ReliefSettings, Settings, options_of
from marigold_demo.ui import widgets
from marigold_demo.ui.layers import DepthStyle
from marigold_demo.ui.messages import user_errors
from marigold_demo.ui.queue import forget_session, visitor
from marigold_demo.ui.session_store import SessionStore, write_file
from marigold_demo.ui.widgets import MAX_NETWORK, MAX_READING, NETWORK, READ

_DEPTH_FILE = "Depth: .npy, .npz, PNG, TIFF, PGM, PFM, OpenEXR, or any gray picture"


@dataclass(frozen=True)
class _Endpoint:
    """One endpoint: what it takes beside settings, what it gives, and what it does."""

    name: str
    about: str
    takes: dict[str, Component]
    gives: list[Component]
    settings: Settings
    work: Callable[..., Iterator[Any]]  # store, settings, then what it takes by name
    options: Callable[[], dict[str, Component]] = dict  # what it takes after the settings


def add_endpoints(store: SessionStore) -> None:
    """Add the endpoints to the page that is being built; they are hidden."""
    with gr.Group(visible=False):
        for endpoint in _endpoints():
            _add(endpoint, store)


def _endpoints() -> list[_Endpoint]:
    return [
        _Endpoint(
            name="depth",
            about="Estimate the depth of a photo: float32 .npy, 16-bit PNG (0 near, 65535 far), colored PNG.",
            takes={
                "photo": gr.File(label="Photo: any picture file"),
                "colormap": gr.Dropdown(list(COLORMAPS), value=DEFAULT_COLORMAP, label="Colors"),
            },
            gives=[gr.File(label=label) for label in ("Depth .npy", "Depth 16-bit PNG", "Colored PNG")],
            settings=DepthSettings(),
            work=predict_depth,
        ),
        _Endpoint(
            name="relief",
            about="Turn depth into a watertight relief in millimeters: a binary STL.",
            takes={
                "depth": gr.File(label=_DEPTH_FILE),
                "photo": gr.File(label="Photo; only where brightness becomes height"),
            },
            gives=[gr.File(label="Relief, STL")],
            settings=ReliefSettings(),
            work=make_relief,
            options=_file_options,
        ),
        _Endpoint(
            name="mesh",
            about="Turn depth and its photo into a textured surface: a GLB.",
            takes={
                "depth": gr.File(label=_DEPTH_FILE),
                "photo": gr.File(label="Photo; without it the depth wears its colors"),
            },
            gives=[gr.File(label="Mesh, GLB")],
            settings=MeshSettings(),
            work=make_mesh,
            options=_file_options,
        ),
    ]


def _add(endpoint: _Endpoint, store: SessionStore) -> None:
    fields_shown = widgets.create(
        endpoint.settings, list(options_of(endpoint.settings)), group=f"api-{endpoint.name}", sliders=False
    )
    options = endpoint.options()
    inputs = endpoint.takes | fields_shown | options

    def serve(*values: Any) -> Iterator[Any]:
        named = dict(zip(inputs, values, strict=True))
        try:
            settings = widgets.read(type(endpoint.settings), {name: named.pop(name) for name in fields_shown})
            yield from endpoint.work(store, settings, **named)
        finally:
            forget_session()

    serve.__name__ = endpoint.name  # what an MCP client calls it
    serve.__doc__ = _doc(endpoint, options)
    serve.__signature__ = _signature(inputs)  # type: ignore[attr-defined]  # gives clients the names
    heavy = isinstance(endpoint.settings, DepthSettings)
    gr.Button(visible=False).click(
        user_errors(serve),
        list(inputs.values()),
        endpoint.gives,
        api_name=endpoint.name,
        concurrency_id=NETWORK if heavy else READ,
        concurrency_limit=MAX_NETWORK if heavy else MAX_READING,
    )


def _signature(inputs: dict[str, Component]) -> inspect.Signature:
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    parameters = [
        inspect.Parameter(name, kind, default=inspect.Parameter.empty if position == 0 else widget.value)
        for position, (name, widget) in enumerate(inputs.items())
    ]
    return inspect.Signature(parameters)


def _file_options() -> dict[str, Component]:
    """Return how the depth file is read, beside its content."""
    return {
        "near_is": gr.Radio(
            list(get_args(Near)), value="auto", label="Values that are near; white: large ones"
        ),
        "inverse": gr.Checkbox(label="The values are disparity, 1 / distance"),
        "depth_frame": gr.Number(None, precision=0, label="Which depth of several, counted from 0"),
    }


def _doc(endpoint: _Endpoint, options: dict[str, Component]) -> str:
    files = [f"    {name}: {widget.label}" for name, widget in endpoint.takes.items()]
    about = [
        f"    {name}: {about.help}{f' ({about.unit})' if about.unit else ''}"
        for name, about in options_of(endpoint.settings).items()
    ]
    about += [f"    {name}: {widget.label}" for name, widget in options.items()]
    return "\n".join([endpoint.about, "", "Args:", *files, *about])


def predict_depth(
    store: SessionStore, settings: DepthSettings, *, photo: str | None, colormap: str
) -> Iterator[tuple[Any, ...]]:
    """Yield no news before each network call, which is when a client that left is noticed, then the files."""
    style, shot = DepthStyle(colormap=colormap), _photo(photo)
    _tell(may_be_depth(photo or "", shot.rgb, remedy="send it to /relief or /mesh"))
    with closing(store.workflow.stream(shot, settings, visitor=visitor())) as steps:
        for step in steps:
            if not isinstance(step, DepthMap):
                yield gr.skip(), gr.skip(), gr.skip()
                continue
            folder = store.folder()
            recipe = recipe_of(shot, step, settings)
            files = (
                *page_files("depth", step, shot.stem, recipe=recipe),
                *page_files("picture", style.colored(step.values), shot.stem, recipe=recipe),
            )
            yield tuple(write_file(folder, name, data) for name, data in files)


def make_relief(
    store: SessionStore, settings: ReliefSettings, *, depth: str | None, photo: str | None, **options: Any
) -> Iterator[str]:
    """Yield the path of the STL."""
    values = _depth_map(depth, **options)
    relief = store.workflow.relief(values, settings, photo=_photo(photo) if photo else None)
    relief.assert_sound()
    yield write_file(store.folder(), *formats_of("relief")["stl"].write(relief, _stem(depth)))


def make_mesh(
    store: SessionStore, settings: MeshSettings, *, depth: str | None, photo: str | None, **options: Any
) -> Iterator[str]:
    """Yield the path of the GLB."""
    values = _depth_map(depth, **options)
    shot = _photo(photo) if photo else Photo(colorize(values.values))
    surface = store.workflow.surface(values, shot, settings)
    yield write_file(store.folder(), *formats_of("mesh")["glb"].write(surface, _stem(depth)))


def _photo(path: str | None) -> Photo:
    if not path:
        raise PhotoError("There is no photo; send a picture file.")
    try:
        return load_photo(path, visitor=visitor())
    except PhotoError as error:
        if depth_form(path):
            raise PhotoError("The file is depth, not a photo; send it to /relief or /mesh.") from error
        raise


def _depth_map(path: str | None, *, near_is: Near, inverse: bool, depth_frame: int | None) -> DepthMap:
    """Read depth; what there is to know of it reaches clients that show messages."""
    if not path:
        raise DepthFileError("There is no depth; send a .npy, .npz or 16-bit gray PNG.")
    options = {"near": near_is, "inverse": inverse, "frame": depth_frame}
    read = read_depth_file(path, visitor=visitor(), **options)
    _tell(read.notes)
    return read.depth


def _tell(notes: Sequence[str]) -> None:
    """Send notes to clients that show messages; the results have no place for them."""
    for note in notes:
        gr.Info(note)


def _stem(path: str | None) -> str:
    """Name the object after the photo: beach_depth_16bit.png -> beach."""
    return re.sub(r"_depth(_16bit)?$", "", safe_stem(path or "")) or "depth"


# MCP ---------------------------------------------------------------------------------------------------


def mcp_server(wanted: bool) -> bool:
    """Tell `Blocks.launch` whether to be an MCP server, and make it one whose files can be used.

    Raises:
        SettingsError: It is wanted, but what it takes is not installed.
    """
    if not wanted:
        return False
    if find_spec("mcp") is None:
        raise SettingsError(
            "GRADIO_MCP_SERVER is on, but the package mcp is not installed; install this app as"
            " marigold-demo[mcp], or turn the variable off."
        )
    _answer_with_a_link_for_each_file()
    return True


def _answer_with_a_link_for_each_file() -> None:
    """Let Gradio's server answer with a link for each file, and keep what it is sent with other uploads.

    Of several files it makes one text of Python's; it writes files that come inside a call beside the cache,
    where nothing sweeps them; and of a full disk it says where on it there was no room.
    """
    from gradio import mcp

    mcp.DEFAULT_TEMP_DIR = get_upload_folder()
    if issubclass(mcp.GradioMCPServer, _Marked):
        return

    class Server(mcp.GradioMCPServer, _Marked):  # type: ignore[misc]
        def postprocess_output_data(self, data: Any, root_url: str) -> Any:
            several = len(data) == 1 and isinstance(data[0], list | tuple)
            return super().postprocess_output_data(data[0] if several else data, root_url)

        def convert_strings_to_filedata(self, value: Any, filedata_positions: Any) -> Any:
            with disk_full_errors():
                return super().convert_strings_to_filedata(value, filedata_positions)

    mcp.GradioMCPServer = Server


class _Marked:
    """Tells our server from Gradio's."""
