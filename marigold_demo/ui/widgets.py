"""Settings -> widgets and back, from the declarations in settings.py; and how events are declared."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import Field, fields, replace
from typing import Any, TypeVar, get_args

import gradio as gr
from gradio.events import Dependency

from marigold_demo.errors import SettingsError
from marigold_demo.settings import EARLIER_CHOICES, Option, Settings, options_of
from marigold_demo.ui.messages import size_in_words

S = TypeVar("S", bound=Settings)

# Groups of events that share a limit: those that use the network, those that read files, and all others.
NETWORK, WORKERS = "network", "workers"
MAX_WORKERS = 4
# Events that decode an uploaded file: twice as many as one visitor can hold up (isolated.Limits).
READ, MAX_READING = "read", 8
MAX_NETWORK = 24  # the workflow runs one at a time; the others see how many are before them
# How events of the page are declared: no program sees them, and no overlay covers the page. An event that is
# triggered while it works comes once more afterwards; Gradio would leave it out.
QUIET: dict[str, Any] = {
    "api_visibility": "private",
    "show_progress": "hidden",
    "trigger_mode": "always_last",
}
WORK: dict[str, Any] = QUIET | {"concurrency_id": WORKERS, "concurrency_limit": MAX_WORKERS}
READING: dict[str, Any] = QUIET | {"concurrency_id": READ, "concurrency_limit": MAX_READING}
ONCE = {"trigger_mode": "once"}  # a second click on the same button does nothing
EACH = {"trigger_mode": "multiple"}  # for what must not wait for the one before
# Values as they were sent: the settings' own limits hold, which are wider than those of the sliders.
RAW: dict[str, Any] = {"preprocess": False}

# Plain words, where the field's own name is not plain enough.
_LABELS = {
    "ensemble": "Predictions to combine",
    "relief_mm": "Relief height",
    "near": "Front limit",
    "far": "Back limit",
    "form_size": "Form size",
    "level": "Level the tilt",
    "smooth_px": "Smoothing",
    "source": "Height comes from",
    "slope_deg": "Steepest slope",
    "contrast": "Lithophane contrast",
    "mode": "Kind",
    "frame": "Frame",
    "frame_mm": "Frame width",
    "frame_top_mm": "Frame height",
    "bevel_mm": "Frame bevel",
    "near_m": "Nearest point",
    "cutout": "Cut out",
    "cutout_depth": "Cut out behind",
    "center_x": "Center of the disc, across",
    "center_y": "Center of the disc, down",
    "hole": "Hole to hang it",
    "hole_mm": "Hole diameter",
    "map_frame": "Height map's frame",
    "map_high": "High in the height map",
    "max_faces": "Most triangles",
    "fov_deg": "Field of view",
    "far_near_ratio": "Depth range, far : near",
    "ortho_depth": "Depth",
    "edges": "At depth jumps",
    "behind": "Behind a cut",
    "edge_tol": "Jump size",
    "start": "First latent",
    "spacing": "Timestep spacing",
}
AUTOMATIC = "automatic"  # what an empty field says
# A slider over the whole range would be too coarse for the sizes people print; the command line has the rest.
_HANDY_LIMITS = {
    "width_mm": (20, 400),
    "relief_mm": (0.2, 30),
    "base_mm": (0.4, 20),
    "frame_mm": (0, 40),
    "bevel_mm": (0.05, 10),
    "far_near_ratio": (1.1, 20),
}
_STEPS = {"resolution": 32, "edge_tol": 0.005, "tolerance": 1e-4, "tolerance_mm": 0.005, "bevel_mm": 0.05}


def create(
    defaults: Settings, names: Sequence[str], *, group: str, sliders: bool = True
) -> dict[str, gr.components.Component]:
    """Return one widget for each named field, set to the value in `defaults`, with the id `group-name`.

    Args:
        defaults: The values shown at first.
        names: Fields, in the order wanted.
        group: First half of the ids.
        sliders: Sliders over handy ranges for people; without them plain numbers, for programs.
    """
    by_name = {f.name: f for f in fields(defaults)}
    return {
        name: _widget(
            by_name[name], value=getattr(defaults, name), elem_id=f"{group}-{name}", sliders=sliders
        )
        for name in names
    }


def read(kind: type[S], values: Mapping[str, Any]) -> S:
    """Make settings of what the widgets hold; whole numbers come back whole.

    Raises:
        SettingsError: A value is out of its limits or contradicts another.
    """
    by_name = {f.name: f for f in fields(kind)}
    return kind(**{name: _typed(value, by_name[name]) for name, value in values.items()})


def shown(settings: Settings, names: Sequence[str]) -> list[Any]:
    """Return what the widgets of these fields show for these settings."""
    by_name = {f.name: f for f in fields(settings)}
    values = [(getattr(settings, name), by_name[name].metadata["option"].optional) for name in names]
    return [_text(value) if optional else value for value, optional in values]


def label(name: str, about: Option) -> str:
    """Return the label of a field: plain words and the unit."""
    words = _LABELS.get(name) or re.sub(r"_(mm|px|deg|m)$", "", name).replace("_", " ").capitalize()
    return f"{words} ({about.unit})" if about.unit else words


def refusal(error: SettingsError, kind: type[Settings]) -> str:
    """Return what is wrong with a setting in the words of the page, without names of the inside."""
    words = str(error)
    for name in sorted(options_of(kind), key=len, reverse=True):
        if "_" in name or name == error.field or {name, error.field} == {"near", "far"}:
            plain = label(name, replace(options_of(kind)[name], unit=""))
            plain = plain[:1].lower() + plain[1:]
            words = re.sub(rf"\b{name}\b", plain, words)
    return words[:1].upper() + words[1:]


def _widget(field: Field[Any], *, value: Any, elem_id: str, sliders: bool) -> gr.components.Component:
    about: Option = field.metadata["option"]
    name, kind = field.name, field.type
    help_text = about.help.replace("unset:", f"{AUTOMATIC}:") if sliders else about.help
    said: dict[str, Any] = {"label": label(name, about), "info": help_text, "elem_id": elem_id}
    if about.choices:
        earlier = [old for old, now in EARLIER_CHOICES.items() if now in about.choices]
        choices = [*about.choices, *([] if sliders else earlier)]  # programs may still send those
        if len(about.choices) <= 4:
            return gr.Radio([(choice.capitalize(), choice) for choice in choices], value=value, **said)
        return gr.Dropdown(choices, value=value, **said)
    if about.limits is None:
        return gr.Textbox(value=value, **said)
    whole = kind is int or int in get_args(kind)
    if about.optional and sliders:  # not gr.Number, which turns "unset" into 0 when its tab is opened
        return gr.Textbox(_text(value), placeholder=AUTOMATIC, max_lines=1, **said)
    if about.optional or about.limits[1] > 10_000 or not sliders:
        return gr.Number(value, precision=0 if whole else None, **said)
    low, high = _HANDY_LIMITS.get(name, about.limits)
    step = _STEPS.get(name, 1 if whole or high - low > 100 else 0.1 if high - low > 2 else 0.01)
    return gr.Slider(low, high, value=value, step=step, **said)


def _typed(value: Any, field: Field[Any]) -> Any:
    if isinstance(value, str) and field.metadata["option"].optional:
        value = _number(value, field)
    whole = field.type is int or int in get_args(field.type)
    return int(value) if whole and isinstance(value, float) and value.is_integer() else value


def _text(value: float | None) -> str:
    return "" if value is None else f"{value:g}"


def _number(text: str, field: Field[Any]) -> float | None:
    if not text.strip():
        return None
    try:
        return float(text.replace(",", "."))
    except ValueError as error:
        words = f"{field.name} must be a number, or empty for automatic."
        raise SettingsError(words, field=field.name) from error


def heading(number: int, title: str, words: str) -> str:
    """Return the heading of a tab as HTML."""
    shown = f'<h2><span aria-hidden="true">{number}</span>{title}</h2><p>{words}</p>'
    return f'<header class="stage">{shown}</header>'


def download_button(words: str, path: str, size_bytes: int) -> gr.DownloadButton:
    """Return a button that is ready to be pressed and shows the size."""
    return gr.DownloadButton(f"{words} · {size_in_words(size_bytes)}", value=path, interactive=True)


def settled_events(field: gr.components.Component) -> list[Callable[..., Dependency]]:
    """Return the events that fire when the visitor has chosen a value, not at every pixel of a drag."""
    if isinstance(field, gr.Slider):
        return [field.release]
    if isinstance(field, gr.Number | gr.Textbox):
        return [field.submit, field.blur]
    return [field.input]
