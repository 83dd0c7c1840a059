"""The choice of a model on the page: what each gives and costs here, and the offer to refine a draft."""

import html
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import gradio as gr
from gradio.events import Dependency

from marigold_demo.advice import Advice, Advisor
from marigold_demo.catalog import CATALOG, EMBEDDED, KnownCheckpoint, find
from marigold_demo.errors import DemoError
from marigold_demo.settings import DepthSettings
from marigold_demo.ui import widgets
from marigold_demo.ui.messages import duration, size_in_words, user_errors
from marigold_demo.ui.session_store import DepthResult, SessionStore, new_request
from marigold_demo.ui.widgets import QUIET, WORK

if TYPE_CHECKING:
    from marigold_demo.ui.depth_tab import DepthTab
    from marigold_demo.ui.photo_tab import PhotoTab

USUAL_SIZE = (1024, 768)  # of a photo, while there is none
_ABOUT_OTHERS = "A folder in diffusers' layout, or a repository on the Hugging Face hub."
_PAUSE = "() => new Promise((go_on) => setTimeout(go_on, 4000))"


class ModelPicker:
    """A dropdown with a line below it, and a button in the run bar that refines a draft."""

    def __init__(self, store: SessionStore, advise: Advisor | None) -> None:
        self.store, self.advise = store, advise

    def add_choice(self, defaults: DepthSettings) -> None:
        """Add the dropdown and the line below it."""
        self.choice = gr.Dropdown(
            model_choices(None),
            value=defaults.checkpoint,
            label="Model",
            allow_custom_value=True,
            elem_id="depth-checkpoint",
        )
        self.advice = gr.HTML(about_model(None, None, defaults), elem_id="advice")

    def add_offer(self) -> None:
        """Add the button that refines a draft, with a line before it."""
        self.offer = gr.HTML("", elem_id="refine-hint")
        self.refine = gr.Button("Refine", variant="primary", visible=False, elem_id="refine")

    def connect(self, page: gr.Blocks, photo: "PhotoTab", depth: "DepthTab", run: Dependency) -> None:
        """Show the cost whenever it changes; offer the refinement of each draft."""
        self.photo = photo
        if self.advise is not None:
            for moment in (page.load, run.success):  # a run may have fetched a checkpoint
                moment(self.show_choices, None, [self.choice], queue=False, **QUIET)
        asked: dict[str, Any] = {
            "fn": self.show_advice,
            "inputs": [photo.key, *photo.fields.values()],
            "outputs": [self.advice],
            "trigger_mode": "always_last",
            "queue": False,
        } | QUIET
        self._ask([page.load, photo.key.change, *(field.change for field in photo.fields.values())], asked)
        offered: dict[str, Any] = {
            "fn": user_errors(self.show_offer),
            "inputs": [photo.key, depth.key],
            "outputs": [self.refine, self.offer],
            "queue": False,
        } | QUIET
        self._ask([depth.key.change, photo.key.change], offered)
        self.refine.click(lambda: new_request(refine=True), None, [photo.request], **WORK)

    def _ask(self, changed: list[Any], asked: dict[str, Any]) -> None:
        """Ask the advisor, and again after a while: its first answer about a model may not be all of it."""
        answered = gr.on(changed, **asked)
        if self.advise is not None:
            answered.success(None, js=_PAUSE, **QUIET).success(**asked)

    def show_choices(self) -> dict[Any, Any]:
        """Fill the dropdown with what is known of each checkpoint now."""
        return {self.choice: gr.Dropdown(choices=model_choices(self.advise))}

    def show_advice(self, photo_key: str | None, *chosen: Any) -> dict[Any, Any]:
        """Fill the line below the dropdown."""
        try:
            settings = widgets.read(DepthSettings, dict(zip(self.photo.fields, chosen, strict=True)))
            size = self.store.photo(photo_key).size if photo_key else None
            return {self.advice: about_model(self.advise, size, settings)}
        except DemoError as error:
            return {self.advice: _line(str(error), alert=True)}

    def show_offer(self, photo_key: str | None, depth_key: str | None) -> dict[Any, Any]:
        """Offer to refine the depth on screen, where it is a draft."""
        result = self.store.result(depth_key) if photo_key and depth_key else None
        better = refinement(self.advise, result) if result else None
        if result is None or better is None:
            return {self.refine: gr.Button(visible=False), self.offer: ""}
        cost = price(self.advise(result.photo.size, better.settings)) if self.advise else ""
        return {
            self.refine: gr.Button(f"Refine with {better.known.short_title}", visible=True),
            self.offer: _line("This is a draft; a larger model sees finer detail.", cost),
        }


def model_choices(advise: Advisor | None) -> list[tuple[str, str]]:
    """Return title and name of each known checkpoint; the title says whether it has to be downloaded."""
    if advise is None:
        return [(known.title, known.name) for known in CATALOG]
    return [(f"{known.title} · {_presence(advise, known)}", known.name) for known in CATALOG]


def _presence(advise: Advisor, known: KnownCheckpoint) -> str:
    try:
        missing = advise(USUAL_SIZE, DepthSettings(checkpoint=known.name)).download_bytes
    except DemoError:
        return "cannot be used here"
    if missing is None:
        return "to download"
    return f"{size_in_words(missing)} to download" if missing else "ready"


def about_model(advise: Advisor | None, size: tuple[int, int] | None, settings: DepthSettings) -> str:
    """Return as HTML what the chosen checkpoint gives, and what one run costs on this machine.

    Raises:
        DemoError: The advisor finds no such checkpoint.
    """
    known = find(settings.checkpoint)
    about = known.about if known else _ABOUT_OTHERS
    cost = price(advise(size or USUAL_SIZE, settings)) if advise else ""
    return _line(about, cost)


def _line(about: str, cost: str = "", *, alert: bool = False) -> str:
    parts = "".join(f"<span>{html.escape(words)}</span>" for words in (about, cost) if words)
    return f'<div class="{"advice alert" if alert else "advice"}" aria-live="polite">{parts}</div>'


def price(advice: Advice) -> str:
    """Return what a run costs, as far as it is known."""
    missing = advice.download_bytes
    parts = ["Ready on this machine" if missing == 0 else f"Downloads {_amount(missing)} once"]
    if advice.seconds is not None:
        parts.append(f"about {duration(advice.seconds)}")
        if advice.limit_s is not None and advice.seconds > advice.limit_s:
            parts.append(f"more than the {duration(advice.limit_s)} that one run may take here")
    if advice.memory_bytes is not None:
        parts.append(f"{size_in_words(advice.memory_bytes)} of memory")
    return " · ".join(parts)


def _amount(missing: int | None) -> str:
    return "its weights" if missing is None else size_in_words(missing)


@dataclass(frozen=True)
class Refinement:
    """How a draft can be refined."""

    known: KnownCheckpoint
    settings: DepthSettings


def refinement(advise: Advisor | None, draft: DepthResult) -> Refinement | None:
    """Choose the checkpoint that refines a draft: the best one that is here, else the best one.

    None where the depth is no draft.
    """
    if draft.settings is None or draft.settings.checkpoint != EMBEDDED:
        return None
    # Steps and resolution were chosen for the draft; the larger network has its own.
    settings = replace(draft.settings, steps=None, resolution=None)
    larger = [known for known in CATALOG if known.name != EMBEDDED]
    here = [
        known
        for known in larger
        if advise and advise(draft.photo.size, _by(known, settings)).download_bytes == 0
    ]
    best = (here or larger)[0]
    return Refinement(best, _by(best, settings))


def _by(known: KnownCheckpoint, settings: DepthSettings) -> DepthSettings:
    return replace(settings, checkpoint=known.name)
