"""Layers of the compare slider: the pictures of a depth result, how they are colored, and their legend."""

import html
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from marigold_demo.colormap import COLORMAPS, DEFAULT_COLORMAP, DIVERGING, MOST_CONTOURS, colorize
from marigold_demo.depth import Depth
from marigold_demo.errors import SettingsError
from marigold_demo.geometry import rendering
from marigold_demo.settings import ReliefSettings, check, option
from marigold_demo.ui.session_store import MOST_OTHERS, DepthResult
from marigold_demo.workflow import Workflow

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
