"""Points on the compare slider: the depth there, and a known length between two that gives metres.

Knows nothing of how depth is made or shown.
"""

import math
from typing import Any

import gradio as gr

from marigold_demo.errors import SettingsError
from marigold_demo.geometry.textured_mesh import span
from marigold_demo.settings import MeshSettings
from marigold_demo.ui.session_store import DepthResult, SessionStore

Place = tuple[float, float]  # shares of width and height from the top left corner
Places = tuple[Place, ...]
LONGEST_M = 100_000.0


class Measure:
    """What is read at up to two points, and the field for the length between them."""

    def __init__(self) -> None:
        self.reading = gr.HTML(reading(()), elem_id="reading")
        self.point = gr.Textbox(visible="hidden", elem_id="point")  # filled by page.js
        self.places = gr.State(())  # of the points that were clicked
        self.before = gr.State(None)  # the mesh's nearest distance as it was before a length was known
        with gr.Row(visible=False, elem_id="measure") as self.row:
            self.length = gr.Textbox(
                label="Distance between the points (m)",
                placeholder="if you know it",
                info="Gives the mesh its scale in metres",
                max_lines=1,
                min_width=200,
                elem_id="known-length",
            )
            self.clear = gr.Button("Clear points", size="sm", min_width=120, elem_id="clear-points")

    @property
    def emptied(self) -> list[gr.components.Component]:
        """What `empty` fills."""
        return [self.reading, self.places, self.row, self.length, self.before]


def empty() -> tuple[Any, ...]:
    """Return what stands there before a point was clicked."""
    return reading(()), (), gr.Row(visible=False), "", None


def read_point(store: SessionStore, key: str | None, point: str, places: Places) -> tuple[Any, ...]:
    """Tell the depth at a point, and which of two points is nearer.

    Args:
        store: Keeps the result.
        key: Of the result.
        point: Place in the picture as shares of width and height, and which point it is: "0.25 0.75 1".
        places: The points before this one.

    Returns:
        The sentence, all points that count now, the row for their distance, and an empty field in it.

    Raises:
        DemoError: The depth is gone.
    """
    result, place = store.result(key), _place(point)
    if place is None:
        return reading(()), (), gr.Row(visible=False), ""
    second = point.split()[2] == "2" and len(places) == 1
    known = (*places, place) if second else (place,)
    return reading(tuple(_depth_at(result, p) for p in known)), known, gr.Row(visible=second), ""


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


def reading(depths: tuple[float, ...], *, more: str = "") -> str:
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
        store: Keeps the result.
        key: Of the result.
        places: The two points.
        length: In metres, as typed; empty where it is not known.
        settings: The camera that the length is seen with.

    Returns:
        The sentence, and `MeshSettings.near_m`; None where no length is given.

    Raises:
        SettingsError: The length is no number, or no camera distance fits it.
    """
    result, known_m = store.result(key), _metres(length)
    if len(places) != 2:
        raise SettingsError("There are no two points; click two places on the picture first.")
    depths = tuple(_depth_at(result, place) for place in places)
    if known_m is None:
        return reading(depths), None
    first, second = places
    units = span(result.depth, result.photo, settings, first=first, second=second)
    if units < 1e-6:
        raise SettingsError("The two points are one; click two places that lie apart.")
    near_m = float(f"{known_m / units:.6g}")
    low, high = 0.001, LONGEST_M
    if not low <= near_m <= high:
        raise SettingsError(
            f"With {known_m:g} m between the points the nearest point would be {near_m:g} m away;"
            " choose points that lie farther apart, or check the length."
        )
    told = f" With {known_m:g} m between them the nearest point is {near_m:.3g} m away."
    return reading(depths, more=f"{told} The mesh is in metres."), near_m


def _metres(text: str) -> float | None:
    """Read a length; None where nothing was typed."""
    if not str(text or "").strip():
        return None
    try:
        metres = float(str(text).strip().removesuffix("m").replace(",", "."))
    except ValueError:
        metres = math.nan
    if not 0 < metres <= LONGEST_M:
        raise SettingsError(f"The distance must be a number of metres above 0 and at most {LONGEST_M:,.0f}.")
    return metres
