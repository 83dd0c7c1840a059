"""The compare slider: its layers and their colors, points on it, and a second method as one more layer.

A layer is a picture of a depth result. A point tells the depth there; a known length between two scales the
mesh. A comparison is a run beside those of `depth_tab`: click, start (buttons), run (the network), show.
"""

import html
import math
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import gradio as gr
import numpy as np
from gradio.events import Dependency
from numpy.typing import NDArray

from marigold_demo.catalog import OTHER_METHODS
from marigold_demo.colormap import COLORMAPS, DEFAULT_COLORMAP, DIVERGING, MOST_CONTOURS, colorize
from marigold_demo.depth import Depth, DepthMap
from marigold_demo.errors import DemoError, SettingsError
from marigold_demo.geometry import rendering
from marigold_demo.geometry.textured_mesh import span
from marigold_demo.settings import DepthSettings, MeshSettings, ReliefSettings, check, option
from marigold_demo.ui.messages import ProgressText, status, user_errors
from marigold_demo.ui.model_picker import ModelPicker, method_hint
from marigold_demo.ui.queue import is_current, visitor
from marigold_demo.ui.session_store import MOST_OTHERS, DepthResult, OtherDepth, SessionStore, new_request
from marigold_demo.ui.widgets import EACH, MAX_NETWORK, NETWORK, ONCE, QUIET, RAW, WORK, settled_events
from marigold_demo.workflow import Workflow

if TYPE_CHECKING:
    from marigold_demo.ui.depth_tab import DepthTab
    from marigold_demo.ui.object_tab import ObjectTab
    from marigold_demo.ui.photo_tab import Outputs, PhotoTab

RGB = NDArray[np.uint8]  # [H, W, 3]

PHOTO, DEPTH, GRAY, SHADED, RELIEF, UNCERTAINTY = (
    "Photo",
    "Colored depth",
    "Gray depth",
    "Shaded shape",
    "Relief",
    "Uncertainty",
)
# Those of other depths of the photo, the newest first, and how far each is from the one on screen.
OTHERS = ("Another depth", *(f"Another depth {number}" for number in range(2, MOST_OTHERS + 1)))
DIFFERENCES = ("Difference", *(f"Difference {number}" for number in range(2, MOST_OTHERS + 1)))
OTHER, DIFFERENCE = OTHERS[0], DIFFERENCES[0]
ALWAYS = (PHOTO, DEPTH, GRAY, SHADED, RELIEF)
LAYERS = (*ALWAYS, UNCERTAINTY, *OTHERS, *DIFFERENCES)
RELIEF_PX = 768  # samples of the relief along the long side
SHADED_DEPTH = 0.1  # how deep a scene is for the light, as a share of its long side
_LEGEND_STOPS = 12
_MISSING = {
    UNCERTAINTY: "One prediction knows no uncertainty; set “Predictions to combine” to 3 or more.",
} | dict.fromkeys(
    (*OTHERS, *DIFFERENCES),
    "There is no other depth of this photo yet; compare it with another method, or bring a depth file.",
)
_LEAST_DIFFERENCE = 0.01  # what less than this is colored with


@dataclass(frozen=True)
class DepthStyle:
    """How depth is colored on the screen and in the colored download."""

    colormap: str = option(DEFAULT_COLORMAP, "Colors, near to far", choices=COLORMAPS)
    near: float = option(0.0, "Depth of the first color", limits=(0, 1))
    far: float = option(1.0, "Depth of the last color", limits=(0, 1))
    invert: bool = option(False, "Swap near and far colors")
    contours: int = option(0, "Lines of equal depth between near and far", limits=(0, MOST_CONTOURS))

    def __post_init__(self) -> None:
        check(self)
        if not self.far - self.near >= 0.01:
            raise SettingsError(
                f"near is {self.near:g} and far is {self.far:g}; far must be at least 0.01 more than near."
            )

    def colored(self, values: NDArray[np.float32]) -> RGB:
        """Color depth [H, W] 0 near .. 1 far: uint8 [H, W, 3]."""
        return self._plain(values, contours=int(self.contours))

    def ramp(self, values: NDArray[np.float32]) -> RGB:
        """Color values as `colored` does, without contours."""
        return self._plain(values, contours=0)

    def _plain(self, values: NDArray[np.float32], *, contours: int) -> RGB:
        return colorize(
            values,
            colormap=self.colormap,
            near=self.near,
            far=self.far,
            invert=bool(self.invert),
            contours=contours,
        )


def available(result: DepthResult) -> tuple[str, ...]:
    """Return the names of the layers that exist for this depth."""
    count = len(result.others)
    missing = {*OTHERS[count:], *DIFFERENCES[count:]}
    if result.depth.uncertainty is None:
        missing.add(UNCERTAINTY)
    return tuple(name for name in LAYERS if name not in missing)


def check_layers(result: DepthResult, wanted: Sequence[str]) -> None:
    """Check that the layers that are wanted exist for this depth.

    Raises:
        SettingsError: One does not; the message says what would give it.
    """
    for name in wanted:
        if name not in available(result):
            why = _MISSING.get(name) if isinstance(name, str) else None
            raise SettingsError(why or f"This is no picture of depth; choose one of {', '.join(LAYERS)}.")


def title(result: DepthResult, name: str) -> str:
    """Return the title of one layer."""
    if name in OTHERS:
        return result.others[OTHERS.index(name)].name
    if name in DIFFERENCES:
        other = result.others[DIFFERENCES.index(name)].name.removeprefix("Depth of ")
        return f"{name.partition(' ')[0]} to {other}"
    return result.name if name == DEPTH and result.others else name


def render(result: DepthResult, name: str, style: DepthStyle, *, relief: ReliefSettings | None = None) -> RGB:
    """Return one layer as large as the screen needs it: uint8 [h, w, 3].

    Args:
        result: The depth and its photo.
        name: Of the layer.
        style: How depth is colored.
        relief: What the relief is made with; None: its defaults.

    Raises:
        SettingsError: There is no such layer for this depth, or the relief's settings contradict the photo.
    """
    check_layers(result, (name,))
    depth = result.screen_depth
    if name in OTHERS:
        return style.colored(result.screen_others[OTHERS.index(name)])
    if name in DIFFERENCES:
        values, most = _difference(result, name)
        return colorize(values, colormap=DIVERGING, near=-most, far=most)
    if name == UNCERTAINTY and depth.uncertainty is not None:
        return _heat(depth.uncertainty, most=max(float(depth.uncertainty.max()), 1e-6))
    if name == PHOTO:
        return result.screen_photo
    if name == GRAY:
        return _gray(depth.values, style)
    if name == RELIEF:
        return _lit(result, relief or ReliefSettings())
    return shade(depth.values) if name == SHADED else style.colored(depth.values)


def shade(values: NDArray[np.float32]) -> RGB:
    """Shade depth [H, W] as if it were a relief: uint8 [H, W, 3]."""
    full = SHADED_DEPTH * max(values.shape)
    light = rendering.shade_heights((1 - values) * np.float32(full), pitch=1, full=full)
    return rendering.ramp(ReliefSettings())[np.round(255 * light).astype(np.uint8)]


def _lit(result: DepthResult, settings: ReliefSettings) -> RGB:
    """Return the picture of a relief, without its frame so that it lies on the photo."""
    light = replace(settings, resolution=min(settings.resolution, RELIEF_PX), bend_radius_mm=0, hole="none")
    relief = Workflow.relief(result.depth, light, photo=result.photo)
    levels = rendering.light_picture(relief.field, settings)
    rows, columns, _ = result.screen_photo.shape
    return rendering.ramp(settings)[rendering.resized(levels, columns, rows)]


def _difference(result: DepthResult, name: str) -> tuple[Depth, float]:
    """Return how much farther another depth is, [h, w], and the amount of the end colors."""
    values = result.screen_others[DIFFERENCES.index(name)] - result.screen_depth.values
    return values, max(float(np.quantile(np.abs(values), 0.99)), _LEAST_DIFFERENCE)


def legend(result: DepthResult, shown: tuple[str, ...], style: DepthStyle) -> str:
    """Return the titles of the two layers, each with its scale if it has one, as HTML."""
    cells = "".join(
        f"<div><span data-side>{html.escape(title(result, name))}</span>{_scale(result, name, style)}</div>"
        for name in shown
    )
    return f'<div class="legends">{cells}</div>'


def _scale(result: DepthResult, name: str, style: DepthStyle) -> str:
    ramp = np.linspace(style.near, style.far, _LEGEND_STOPS, dtype=np.float32)[None]
    if name in DIFFERENCES:
        most = _difference(result, name)[1]
        between = np.linspace(-1, 1, _LEGEND_STOPS, dtype=np.float32)[None]
        colors = colorize(between, colormap=DIVERGING, near=-1, far=1)
        return f" ±&nbsp;{most:.2f}{_bar(colors, 'nearer', 'farther')}"
    if name in (DEPTH, *OTHERS):
        return _bar(style.ramp(ramp), "near", "far")
    if name == GRAY:
        return _bar(_gray(ramp, style), "near", "far")
    if name == UNCERTAINTY:
        return _bar(_heat(np.linspace(0, 1, _LEGEND_STOPS, dtype=np.float32)[None], most=1), "sure", "unsure")
    return ""


def _bar(colors: RGB, low: str, high: str) -> str:
    stops = ", ".join(f"rgb({r} {g} {b})" for r, g, b in colors[0].tolist())
    return (
        f'<div class="legend" role="img" aria-label="Colors from {low} to {high}">'
        f'<span>{low}</span><i style="background: linear-gradient(to right, {stops})"></i>'
        f"<span>{high}</span></div>"
    )


def _gray(values: NDArray[np.float32], style: DepthStyle) -> RGB:
    return colorize(values, colormap="gray", near=style.near, far=style.far, invert=not style.invert)


def _heat(spread: NDArray[np.float32], *, most: float) -> RGB:
    return colorize(spread, colormap="magma", near=0, far=most)


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


# A narrow screen shows the slider instead of the object.
_SHOW_SLIDER = """() => document.querySelector('#views button[data-view="compare"]')?.click()"""


class Compare:
    """Choice of a second method, and the button that runs it.

    Attributes:
        request: Id of the comparison that was asked for last.
        found: Changes when a second depth is there.
    """

    def __init__(self, store: SessionStore, models: ModelPicker) -> None:
        self.store, self.models = store, models
        self.request, self.found = gr.State(None), gr.State(None)

    def add_controls(self, *, ready: bool) -> None:
        """Add the choice of a method, with a line on it, and the button."""
        method = OTHER_METHODS[0]
        with gr.Column(elem_id="compare-row", min_width=0):
            self.method = gr.Dropdown(
                self.models.choices,
                value=method.name,
                label="Compare with",
                info=method_hint(method.name),
                allow_custom_value=True,
                elem_id="compare-method",
            )
            self.button = gr.Button("Compare", size="sm", interactive=ready, elem_id="compare-run")

    def connect(self, photo: "PhotoTab", depth: "DepthTab") -> Dependency:
        """Run a comparison at each click; return the event that uses the network."""
        self.photo, self.depth = photo, depth
        photo.run_buttons.append(self.button)
        self.method.change(
            lambda name: gr.Dropdown(info=method_hint(name)),
            [self.method],
            [self.method],
            queue=False,
            **QUIET,
        )
        begun = self.button.click(
            user_errors(self.start),
            [self.method, photo.request, photo.key, depth.key],
            [self.request, *photo.run_outputs],
            **WORK | ONCE,
        )
        run = begun.success(
            user_errors(self.run, also=lambda words: {photo.status: status(words, alert=True)}),
            [self.request, self.method, photo.key, depth.key],
            [photo.status, self.found],
            concurrency_id=NETWORK,
            concurrency_limit=MAX_NETWORK,
            **QUIET | EACH,
            **RAW,
        )
        for ended in (run.success, run.failure):
            ended(
                self.end,
                [self.request, photo.request, photo.key, photo.status],
                photo.run_outputs,
                queue=False,
                **QUIET,
            )
        shown = self.found.change(
            depth.of_this(self.show), [depth.key, *depth.style], depth.pictures, **WORK, **RAW
        )
        depth.bring_into_view(shown.success(None, js=_SHOW_SLIDER))
        return run

    # Handlers: what they return is component -> value; components that are not named stay as they are.

    def start(
        self, name: str, photo_request: str | None, photo_key: str | None, depth_key: str | None
    ) -> "Outputs":
        """Note the run and set the buttons.

        Raises:
            DemoError: There is nothing to compare with, or the method is the one on screen.
        """
        if self.store.is_running(photo_request):
            raise DemoError("The depth is still being made; compare it when it is there.")
        self._check(name, photo_key, depth_key)
        request = new_request()
        self.store.begin_run(request)
        state = self.photo.run_state(ready=False, busy=True, words="Getting ready")
        return {self.request: request} | state

    def _check(self, name: str, photo_key: str | None, depth_key: str | None) -> DepthSettings:
        """Return the settings of the second method: all but its name as they are at first."""
        first = self.store.result(depth_key)
        if not photo_key or self.store.photo(photo_key).digest != first.photo.digest:
            raise DemoError(
                "The depth on screen was not made from the chosen photo; press “Estimate depth” first."
            )
        settings = DepthSettings(checkpoint=str(name or ""))
        if first.settings and first.settings.checkpoint == settings.checkpoint:
            raise DemoError("This method made the depth on screen; choose another one to compare it with.")
        return settings

    def run(
        self, request: str, name: str, photo_key: str | None, depth_key: str | None
    ) -> Iterator["Outputs"]:
        """Yield the status line before each network call, and at the end that the second depth is there.

        Raises:
            DemoError: The first depth is gone, or the second one cannot be made.
        """
        stopped = False
        try:
            settings = self._check(name, photo_key, depth_key)
            photo = self.store.result(depth_key).photo
            text, line = ProgressText(), self.photo.status
            with closing(self.store.workflow.stream(photo, settings, visitor=visitor())) as steps:
                for step in steps:
                    if not (is_current(self.photo.key, photo_key) and is_current(self.depth.key, depth_key)):
                        return
                    if isinstance(step, DepthMap):
                        second = OtherDepth(DepthResult(photo, step, settings).name, step)
                        self.store.compare(depth_key, second)
                        words = f"{text.done()}. The second depth is on the scale of the first."
                        yield {line: status(words), self.found: request}
                    else:
                        yield {line: status(text.show(step), share=text.share, stage=step.stage)}
        except GeneratorExit:
            stopped = True
            raise
        finally:
            self.store.end_run(request, stopped=stopped)

    def end(
        self, request: str | None, photo_request: str | None, photo_key: str | None, line: str
    ) -> "Outputs":
        """Put the buttons back, unless a run has taken the place of the comparison."""
        if self.store.is_running(photo_request):
            return gr.skip()  # type: ignore[no-any-return]
        return self.depth.end_run(str(request), photo_key, line)

    def show(self, key: str | None, *style: Any) -> "Outputs":
        """Show the first depth beside the second."""
        return self.depth.show(self.store.result(key), (DEPTH, OTHER), DepthStyle(*style))
