"""Points on the compare slider: the depth there, and a known length between two, which scales the mesh."""

import math
from typing import TYPE_CHECKING, Any

import gradio as gr
from gradio.events import Dependency

from marigold_demo.errors import SettingsError
from marigold_demo.geometry.textured_mesh import span
from marigold_demo.settings import MeshSettings
from marigold_demo.ui.messages import user_errors
from marigold_demo.ui.session_store import DepthResult, SessionStore
from marigold_demo.ui.widgets import EACH, QUIET, RAW, WORK, settled_events

if TYPE_CHECKING:
    from marigold_demo.ui.depth_tab import DepthTab
    from marigold_demo.ui.object_tab import ObjectTab

Place = tuple[float, float]  # shares of width and height from the top left corner
Places = tuple[Place, ...]
MAX_LENGTH_M = 100_000.0
CAMERA = ("projection", "far_near_ratio", "fov_deg", "ortho_depth")  # a known length depends on these
_CLEAR_DOTS = """(...values) => {
  document.querySelectorAll("#compare .dot").forEach((dot) => dot.remove());
  return values;
}"""


class Points:
    """What is read at up to two points, and the field for the length between them.

    Attributes:
        places: The points that were clicked.
        before: The mesh's nearest distance, as typed, before a length was known.
    """

    def __init__(self, store: SessionStore) -> None:
        self.store = store
        self.reading = gr.HTML(text(()), elem_id="reading")
        self.point = gr.Textbox(visible="hidden", elem_id="point")  # filled by page.js
        self.places = gr.State(())
        self.before = gr.State(None)
        with gr.Row(visible=False, elem_id="measure") as self.row:
            self.length = gr.Textbox(
                label="Distance between the points (m)",
                placeholder="if you know it",
                info="Gives the mesh its scale in meters",
                max_lines=1,
                min_width=200,
                elem_id="known-length",
            )
            self.clear = gr.Button("Clear points", size="sm", min_width=120, elem_id="clear-points")

    def connect(self, depth: "DepthTab", objects: "ObjectTab") -> None:
        """Read the depth at points; a known length between two of them gives the mesh its scale."""
        self.mesh = objects.mesh
        self.point.change(
            user_errors(self.read),
            [depth.key, self.point, self.places],
            [self.reading, self.places, self.row, self.length],
            **WORK | EACH,
            **RAW,
        )
        camera = [event for name in CAMERA for event in settled_events(self.mesh.fields[name])]
        scaled = gr.on(
            [self.length.submit, self.length.blur, *camera],
            user_errors(self.scale),
            [depth.key, self.places, self.length, self.before, *self.mesh.fields.values()],
            [self.reading, self.before, self.mesh.fields["near_m"]],
            **WORK,
            **RAW,
        )
        objects.rebuild(scaled.success)
        cleared = self.clear.click(
            self.forget,
            [self.before],
            [*self._emptied, self.mesh.fields["near_m"]],
            js=_CLEAR_DOTS,
            cancels=[scaled],  # the way to the button leaves the field, and its answer may come later
            queue=False,
            **QUIET,
        )
        objects.rebuild(cleared.success)

    def forget_after(self, depth_is_there: Dependency, objects: "ObjectTab") -> Dependency:
        """Unfold the object tab and forget points on an earlier depth.

        The tab is there before its preview is made: a Model3D that is filled while it is hidden stays empty.
        """
        self.mesh = objects.mesh
        return depth_is_there.success(
            lambda before: {objects.stage: gr.Column(visible=True)} | self.forget(before),
            [self.before],
            [objects.stage, *self._emptied, self.mesh.fields["near_m"]],
            js=_CLEAR_DOTS,
            queue=False,
            **QUIET,
        )

    @property
    def _emptied(self) -> list[gr.components.Component]:
        return [self.reading, self.places, self.row, self.length, self.before]

    def read(self, key: str | None, point: str, places: Places) -> dict[Any, Any]:
        """Show the depth at a point, and which of two points is nearer.

        Args:
            key: Of the depth result.
            point: Place in the picture as shares of width and height, and which point it is: "0.25 0.75 1".
            places: The points before this one.

        Raises:
            DemoError: The depth is gone.
        """
        result, place = self.store.result(key), _place(point)
        known: Places = ()
        if place is not None:
            second = point.split()[2] == "2" and len(places) == 1
            known = (*places, place) if second else (place,)
        return {
            self.reading: text(tuple(_depth_at(result, one) for one in known)),
            self.places: known,
            self.row: gr.Row(visible=len(known) == 2),
            self.length: "",
        }

    def scale(
        self, key: str | None, places: Places, length: str, before: str | None, *chosen: Any
    ) -> dict[Any, Any]:
        """Set the mesh's nearest distance as a known length has it, or back where the length was emptied."""
        if not length and before is None:
            return gr.skip()  # type: ignore[no-any-return]
        settings: MeshSettings = self.mesh.settings(chosen)
        words, near_m = use_length(self.store, key, places, length, settings)
        near = self.mesh.fields["near_m"]
        if near_m is None:
            return {self.reading: words, self.before: None, near: before}
        typed = "" if settings.near_m is None else f"{settings.near_m:.9g}"  # never the text as it came
        kept = typed if before is None else before
        return {self.reading: words, self.before: kept, near: f"{near_m:g}"}

    def forget(self, before: str | None) -> dict[Any, Any]:
        """Forget all points, and put the nearest distance back to what it was before a length was known."""
        row = gr.Row(visible=False)
        emptied = {self.reading: text(()), self.places: (), self.row: row, self.length: "", self.before: None}
        return emptied | ({} if before is None else {self.mesh.fields["near_m"]: before})


def text(depths: tuple[float, ...], *, more: str = "") -> str:
    """Return what is known of no point, one or two points as HTML."""
    if not depths:
        words = "Click the picture to read its depth; click again to compare two points."
    elif len(depths) == 1:
        words = f"Depth at 1: {depths[0]:.3f} (0 near, 1 far). Click again to compare."
    else:
        one, two = depths
        order = "1 is nearer" if one < two else "2 is nearer" if two < one else "both are equally near"
        words = f"Depth at 1: {one:.3f}, at 2: {two:.3f}; {order}."
    return f'<div class="reading" aria-live="polite">{words}{more}</div>'


def use_length(
    store: SessionStore, key: str | None, places: Places, length: str, settings: MeshSettings
) -> tuple[str, float | None]:
    """Turn a known length between two points into the distance of the nearest point.

    Args:
        store: Keeps the depth result.
        key: Of the depth result.
        places: The two points.
        length: In meters, as typed; empty where it is not known.
        settings: The camera that the length is seen with.

    Returns:
        The reading as HTML, and `MeshSettings.near_m`; None where no length is given.

    Raises:
        SettingsError: The length is no number, or no camera distance fits it.
    """
    result, known_m = store.result(key), _meters(length)
    if len(places) != 2:
        raise SettingsError("There are no two points; click two places on the picture first.")
    depths = tuple(_depth_at(result, place) for place in places)
    if known_m is None:
        return text(depths), None
    first, second = places
    units = span(result.depth, result.photo, settings, first=first, second=second)
    if units < 1e-6:
        raise SettingsError("The two points are one; click two places that lie apart.")
    near_m = float(f"{known_m / units:.6g}")
    low, high = 0.001, MAX_LENGTH_M
    if not low <= near_m <= high:
        raise SettingsError(
            f"With {known_m:g} m between the points the nearest point would be {near_m:g} m away;"
            " choose points that lie farther apart, or check the length."
        )
    more = f" With {known_m:g} m between them the nearest point is {near_m:.3g} m away."
    return text(depths, more=f"{more} The mesh is in meters."), near_m


def _place(point: str) -> Place | None:
    try:
        x, y, _ = (float(part) for part in point.split())
    except (ValueError, AttributeError):
        return None
    return (x, y) if 0 <= x <= 1 and 0 <= y <= 1 else None


def _depth_at(result: DepthResult, place: Place) -> float:
    values = result.depth.values
    rows, columns = values.shape
    x, y = place
    return float(values[min(int(y * rows), rows - 1), min(int(x * columns), columns - 1)])


def _meters(typed: str) -> float | None:
    """Read a length; None where nothing was typed."""
    if not str(typed or "").strip():
        return None
    try:
        meters = float(str(typed).strip().removesuffix("m").replace(",", "."))
    except ValueError:
        meters = math.nan
    if not 0 < meters <= MAX_LENGTH_M:
        raise SettingsError(
            f"The distance must be a number of meters above 0 and at most {MAX_LENGTH_M:,.0f}."
        )
    return meters
