"""The choice of a model on the page: what each gives and costs here, and the offer to refine a draft."""

import html
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import gradio as gr
from gradio.events import Dependency

from marigold_demo.catalog import CATALOG, EMBEDDED, FINEST, OTHER_METHODS, SMALL, KnownCheckpoint, find
from marigold_demo.depth import CheckpointStatus, StatusSource
from marigold_demo.errors import DemoError
from marigold_demo.settings import DepthSettings
from marigold_demo.ui import widgets
from marigold_demo.ui.messages import duration, size_in_words, user_errors
from marigold_demo.ui.session_store import DepthResult, SessionStore, new_request
from marigold_demo.ui.widgets import ONCE, QUIET, WORK

if TYPE_CHECKING:
    from marigold_demo.ui.depth_tab import DepthTab
    from marigold_demo.ui.photo_tab import PhotoTab

UNKNOWN_BYTES = 1  # in place of a download's size, where nobody says it
_ABOUT_OTHERS = "A folder with a Marigold or another depth network, or a repository on the Hugging Face hub."


class ModelPicker:
    """A dropdown with a line below it; in the bar the model in use, and a button that refines a draft."""

    def __init__(self, store: SessionStore, status_of: StatusSource | None) -> None:
        self.store, self.status_of = store, status_of
        self.choices = model_choices(None)

    def add_choice(self, defaults: DepthSettings) -> None:
        """Add the dropdown, the line below it, and what a refinement would cost."""
        self.choice = gr.Dropdown(
            self.choices,
            value=defaults.checkpoint,
            label="Model",
            allow_custom_value=True,
            elem_id="depth-checkpoint",
        )
        self.status = gr.HTML(about_model(None, defaults), elem_id="about-model")
        self.offer = gr.HTML("", elem_id="refine-hint")

    def add_buttons(self, defaults: DepthSettings) -> None:
        """Add the button that leads to the choice of a model, and the one that refines a draft."""
        self.button = gr.Button(model_words(defaults), size="sm", elem_id="model")
        self.refine = gr.Button("Refine", size="sm", visible=False, elem_id="refine")

    def connect(self, page: gr.Blocks, photo: "PhotoTab", depth: "DepthTab", run: Dependency) -> None:
        """Show the status whenever it changes; offer the refinement of each draft."""
        self.photo, self.second = photo, depth.compare.method
        if self.status_of is not None:
            for moment in (page.load, run.success):  # a run may have fetched a checkpoint
                moment(self.show_choices, None, [self.choice, depth.compare.method], queue=False, **QUIET)
        chosen = [page.load, photo.key.change, *(field.change for field in photo.fields.values())]
        shown: dict[str, Any] = {
            "fn": self.show_status,
            "inputs": [*photo.fields.values()],
            "outputs": [self.status],
            "queue": False,
        } | QUIET
        gr.on(chosen, **shown)
        if self.status_of is not None:
            run.success(**shown)
        gr.on(
            [depth.key.change, photo.key.change],
            user_errors(self.show_offer),
            [photo.key, depth.key],
            [self.refine, self.offer, self.button],
            queue=False,
            **QUIET,
        )
        self.refine.click(lambda: new_request(refine=True), None, [photo.request], **WORK | ONCE)

    def show_choices(self) -> dict[Any, Any]:
        """Fill the dropdowns with what is known of each checkpoint now."""
        choices = model_choices(self.status_of)
        return {choice: gr.Dropdown(choices=choices) for choice in (self.choice, self.second)}

    def show_status(self, *chosen: Any) -> dict[Any, Any]:
        """Fill the line below the dropdown."""
        try:
            settings = widgets.read(DepthSettings, dict(zip(self.photo.fields, chosen, strict=True)))
            return {self.status: about_model(self.status_of, settings)}
        except DemoError as error:
            return {self.status: _line(str(error), alert=True)}

    def show_offer(self, photo_key: str | None, depth_key: str | None) -> dict[Any, Any]:
        """Offer to refine the depth on screen, where it is a draft."""
        result = self.store.result(depth_key) if photo_key and depth_key else None
        better = refinement(self.status_of, result) if result else None
        if result is None or better is None:
            return {self.refine: gr.Button(visible=False), self.offer: "", **self._used(result)}
        cost = status_text(better.status, better.known) if self.status_of else ""
        offer = f"{better.known.short_title} refines this depth. {better.known.about}"
        return self._used(result) | {
            self.refine: gr.Button(better.words, visible=True),
            self.offer: _line(offer, cost)
            + f'<button data-press="#refine">{html.escape(better.words)}</button>',
        }

    def _used(self, result: DepthResult | None) -> dict[Any, Any]:
        """Return the bar's button with the model of the depth on screen, and how long its last run took."""
        if result is None or result.settings is None:
            return {}
        took = self.status_of(result.settings).last_s if self.status_of else None
        words = model_words(result.settings)
        return {self.button: gr.Button(words if took is None else f"{words} · {duration(took)}")}


def model_choices(status_of: StatusSource | None) -> list[tuple[str, str]]:
    """Return title and name of each known checkpoint; the title says whether it has to be downloaded."""
    every = (*CATALOG, *OTHER_METHODS)
    if status_of is None:
        return [(known.title, known.name) for known in every]
    return [(f"{known.title} · {_presence(status_of, known)}", known.name) for known in every]


def _presence(status_of: StatusSource, known: KnownCheckpoint) -> str:
    try:
        status = status_of(DepthSettings(checkpoint=known.name))
    except DemoError:
        return "cannot be used here"
    missing = status.download_bytes
    if not status.permitted:
        return "not on this server"
    if not status.reachable:
        return "out of reach now"
    if missing is None:
        return "to download"
    return f"{size_in_words(missing)} to download" if missing else "ready"


def model_words(settings: DepthSettings) -> str:
    """Return the name of a model in a few words."""
    known = find(settings.checkpoint)
    return known.short_title if known else settings.checkpoint.rsplit("/", 1)[-1]


def about_model(status_of: StatusSource | None, settings: DepthSettings) -> str:
    """Return as HTML what the chosen checkpoint gives, and what one run costs on this machine.

    Raises:
        DemoError: There is no such checkpoint.
    """
    cost = status_text(status_of(settings), find(settings.checkpoint)) if status_of else ""
    return _line(method_hint(settings.checkpoint), cost)


def method_hint(name: object) -> str:
    """Return a sentence or two on a method, its license where that restricts the use."""
    known = find(name) if isinstance(name, str) else None
    return f"{known.about} {known.terms}".strip() if known else _ABOUT_OTHERS


def _line(about: str, cost: str = "", *, alert: bool = False) -> str:
    parts = "".join(f"<span>{html.escape(words)}</span>" for words in (about, cost) if words)
    return f'<div class="{"about-model alert" if alert else "about-model"}" aria-live="polite">{parts}</div>'


def status_text(status: CheckpointStatus, known: KnownCheckpoint | None = None) -> str:
    """Return what a run downloads and how long the last one took or one takes, as far as it is known."""
    missing = status.download_bytes
    if not status.permitted:
        return "This server does not run it"
    parts = ["Ready on this machine" if missing == 0 else f"Downloads {_amount(missing)} once"]
    if not status.reachable:
        parts = ["Not on this machine, and the Hugging Face hub does not answer"]
    if status.last_s is not None:
        parts.append(f"took {duration(status.last_s)} last time")
        if status.limit_s is not None and status.last_s > status.limit_s:
            parts.append(f"more than the {duration(status.limit_s)} that one run may take here")
    elif status.reachable and (takes := _takes(status, known)):
        parts.append(takes)
    return " · ".join(parts)


def _takes(status: CheckpointStatus, known: KnownCheckpoint | None) -> str:
    """Return about how long a run takes, where that was measured."""
    if known is None or known.cpu_s is None or status.has_gpu:
        return ""
    return f"about {known.cpu_s:.0f} s"


def _amount(missing: int | None) -> str:
    return "its weights" if missing is None else size_in_words(missing)


@dataclass(frozen=True)
class Refinement:
    """How a depth can be refined: by which checkpoint, with which settings, and what is known of that."""

    known: KnownCheckpoint
    settings: DepthSettings
    status: CheckpointStatus

    @property
    def words(self) -> str:
        """What the button says: what it costs to get the checkpoint, or its name where it is here."""
        missing = self.status.download_bytes
        if not missing or missing == UNKNOWN_BYTES:
            return f"Refine with {self.known.short_title}"
        return " · ".join(filter(None, ("Refine", size_in_words(missing), _takes(self.status, self.known))))


def refinement(status_of: StatusSource | None, draft: DepthResult) -> Refinement | None:
    """Choose the checkpoint that refines a depth.

    Without a GPU a draft is refined by `SMALL` first, and its depth by `FINEST`. With one, or where `SMALL`
    is out of reach, a draft is refined by the best Marigold that is here, else by the best one.

    None where the depth is of any other checkpoint, or where nothing is here and the hub does not answer.
    """
    made_by = draft.settings.checkpoint if draft.settings else None
    if draft.settings is None or made_by not in (EMBEDDED, SMALL.name):
        return None
    # Steps and resolution were chosen for the draft; the larger network has its own.
    settings = replace(draft.settings, steps=None, resolution=None)
    larger = [FINEST] if made_by == SMALL.name else [SMALL, *CATALOG[1:]]
    found = [_refine(known, settings, status_of) for known in larger]
    usable = [one for one in found if one.status.permitted and one.status.reachable]
    here = [one for one in usable if one.status.download_bytes == 0]
    to_be_had = [one for one in usable if one.status.download_bytes]
    marigolds = [one for one in (*here, *to_be_had) if one.known.is_marigold]
    small = [one for one in (*here, *to_be_had) if not one.known.is_marigold]
    has_gpu = any(one.status.has_gpu for one in found)
    return next(iter((*marigolds, *small) if has_gpu else (*small, *marigolds)), None)


def _refine(known: KnownCheckpoint, settings: DepthSettings, status_of: StatusSource | None) -> Refinement:
    settings = replace(settings, checkpoint=known.name)
    return Refinement(known, settings, status_of(settings) if status_of else CheckpointStatus(UNKNOWN_BYTES))
