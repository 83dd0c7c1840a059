"""The choice of a checkpoint in words: what it gives, and what it costs here. Knows nothing of events."""

import html
from dataclasses import dataclass, replace

from marigold_demo.advice import Advice, Advisor
from marigold_demo.catalog import CATALOG, EMBEDDED, KnownCheckpoint, find
from marigold_demo.errors import DemoError
from marigold_demo.settings import DepthSettings
from marigold_demo.ui.messages import duration, size_in_words
from marigold_demo.ui.session_store import DepthResult

_ABOUT_OTHERS = "A folder in diffusers' layout, or a repository on the Hugging Face hub."
USUAL_SIZE = (1024, 768)  # of a photo, while there is none


def choices(advise: Advisor | None) -> list[tuple[str, str]]:
    """Return title and name of each known checkpoint; the title tells whether it has to be fetched."""
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


def told(advise: Advisor | None, size: tuple[int, int] | None, settings: DepthSettings) -> str:
    """Return as HTML what the chosen checkpoint gives, and what one run costs on this machine.

    Raises:
        DemoError: The advisor finds no such checkpoint.
    """
    known = find(settings.checkpoint)
    about = known.about if known else _ABOUT_OTHERS
    cost = price(advise(size or USUAL_SIZE, settings)) if advise else ""
    return line(about, cost)


def line(about: str, cost: str = "", *, alert: bool = False) -> str:
    """Return the line below the choice as HTML."""
    said = "".join(f"<span>{html.escape(words)}</span>" for words in (about, cost) if words)
    return f'<div class="{"advice alert" if alert else "advice"}" aria-live="polite">{said}</div>'


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
class Finer:
    """How a draft can be refined."""

    known: KnownCheckpoint
    settings: DepthSettings


def finer(advise: Advisor | None, draft: DepthResult) -> Finer | None:
    """Choose the checkpoint that refines a draft: the best one that is here, else the best one.

    None where there is nothing to refine, because the depth is no draft.
    """
    if draft.settings is None or draft.settings.checkpoint != EMBEDDED:
        return None
    # Steps and resolution were chosen for the draft; the larger network has its own.
    wish = replace(draft.settings, steps=None, resolution=None)
    larger = [known for known in CATALOG if known.name != EMBEDDED]
    here = [
        known for known in larger if advise and advise(draft.photo.size, _by(known, wish)).download_bytes == 0
    ]
    best = (here or larger)[0]
    return Finer(best, _by(best, wish))


def _by(known: KnownCheckpoint, settings: DepthSettings) -> DepthSettings:
    return replace(settings, checkpoint=known.name)
