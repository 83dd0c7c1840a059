"""The page: three stages that unfold. Knows nothing of pixels, solids or what an event does."""

import gradio as gr

from marigold_demo.advice import Advisor
from marigold_demo.examples import load_examples
from marigold_demo.settings import DepthSettings
from marigold_demo.ui.depth_stage import DepthStage
from marigold_demo.ui.desk import HANDS_MOST, Desk
from marigold_demo.ui.endpoints import add_endpoints
from marigold_demo.ui.intake import Intake
from marigold_demo.ui.object_stage import ObjectStage
from marigold_demo.ui.photo_stage import PhotoStage
from marigold_demo.ui.queue import LISTEN_S
from marigold_demo.ui.wiring import Wiring
from marigold_demo.workflow import Workflow

TITLE = "Marigold: photo to depth to print"
WAITING_MOST = 24


def build_page(
    workflow: Workflow,
    *,
    defaults: DepthSettings | None = None,
    advise: Advisor | None = None,
    desk: Desk | None = None,
    waiting_most: int = WAITING_MOST,
    listen_s: float = LISTEN_S,
) -> gr.Blocks:
    """Return the page over a workflow; nothing is loaded or run yet.

    Args:
        workflow: Makes depth of photos.
        defaults: What the settings show at first; None: their own defaults.
        advise: Foresees what a run costs; without it the page says nothing of that.
        desk: Keeps what visitors made; None: one with its own bounds.
        waiting_most: How many events may wait.
        listen_s: After how many seconds without a reader of its messages an event ends.
    """
    desk = desk or Desk(workflow)
    with Intake(
        title=TITLE, delete_cache=(int(desk.keep_s / 4), int(desk.keep_s)), analytics_enabled=False
    ) as page:
        gr.HTML(_MASTHEAD)
        examples = load_examples()
        photo = PhotoStage(defaults or DepthSettings(), examples)
        depth = DepthStage()
        made = ObjectStage()
        Wiring(desk, examples, photo=photo, depth=depth, made=made, advise=advise).connect(page)
        gr.HTML(_colophon(desk.keep_s))
        add_endpoints(desk)
    desk.cache.keep_what_is_there()  # the pictures of the page itself
    desk.known_files = page.temp_file_sets
    desk.upkeep.begin()
    page.bounded_queue(
        max_size=waiting_most,
        concurrency=HANDS_MOST,
        listen_s=listen_s,
        share_out=workflow.waiting_per_visitor is not None,
    )
    return page


_PETALS = "".join(
    f'<ellipse cy="-13" rx="5.4" ry="9.5" transform="rotate({turn})" opacity="{0.95 if turn % 60 else 0.7}"/>'
    for turn in range(0, 360, 30)
)
_MASTHEAD = f"""
<header class="masthead">
  <svg viewBox="-24 -24 48 48" width="44" height="44" aria-hidden="true" fill="var(--primary-400)">{_PETALS}
    <circle r="6" fill="var(--primary-700)"/></svg>
  <div><h1>Marigold</h1><p>A photo becomes depth, and depth becomes something you can hold.</p></div>
</header>
"""


def _colophon(keep_s: float) -> str:
    hours = round(keep_s / 3600, 1)
    kept = f"{hours:g} {'hour' if hours == 1 else 'hours'}" if hours >= 1 else f"{round(keep_s / 60)} minutes"
    return f"""
<footer class="colophon">Depth from one photo is relative: it orders near and far, without metres.
Photos and results stay on this server for at most {kept} after their last use, less when its
room runs out, and go nowhere else.</footer>
"""
