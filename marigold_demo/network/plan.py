"""The plan of one prediction: what the settings say, and what the checkpoint wants where they say nothing.

Test-time augmentation: a checkpoint tuned end to end starts from zeros, so all members of its ensemble would
be equal. Its answers to the mirrored photo and to slightly other sizes differ a little, and their mean is
better than each of them.
"""

import math
from dataclasses import dataclass
from typing import Any, Literal

from diffusers import DDIMScheduler, LCMScheduler

from marigold_demo.errors import SettingsError
from marigold_demo.network.image_grid import Grid, fit_grid
from marigold_demo.settings import DepthSettings

Start = Literal["noise", "zeros"]
Outlines = Literal["network", "photo"]
USUAL_ASPECT = 4 / 3  # width : height of the photos that a resolution is meant for
MOST_LONGER = 2.0  # very long photos are seen with fewer pixels
SCALES = (1, 9 / 8, 7 / 8, 5 / 4, 3 / 4)  # of the resolution; each is seen as it is and mirrored
MOST_VIEWS = 2 * len(SCALES)
LEADING_STEPS = 10  # leading spacing never sees full noise, which fewer steps do not make up for


@dataclass(frozen=True)
class CheckpointDefaults:
    """What a checkpoint wants where the visitor does not choose.

    Attributes:
        steps: Denoising steps.
        resolution: Longest edge in pixels, of a 4:3 photo where `same_pixels` is set.
        same_pixels: Photos of every shape are seen with about as many pixels as a 4:3 photo; what is small in
            a panorama would vanish otherwise.
        ensemble: Predictions that are reduced to one.
        start: The first depth latent: Gaussian noise, or zeros for checkpoints tuned end to end.
        outlines: As the network draws them, or moved onto the photo's edges (see `image_grid`).
        prediction_type: What the decoded image means; only "depth" is supported.
    """

    steps: int
    resolution: int
    start: Start = "noise"
    outlines: Outlines = "network"
    prediction_type: str = "depth"
    same_pixels: bool = False
    ensemble: int = 1

    def longest_edge(self, size: tuple[int, int]) -> int:
        """Return the longest edge in pixels at which a photo is seen; 0: its own.

        Args:
            size: Width and height of the photo, in either order.
        """
        if not self.same_pixels:
            return self.resolution
        longer = math.sqrt(max(size) / min(size) / USUAL_ASPECT)
        return round(self.resolution * min(longer, MOST_LONGER) / 8) * 8


@dataclass(frozen=True)
class View:
    """One way to show a photo.

    Attributes:
        resolution: Longest edge in pixels.
        mirrored: Left and right are swapped.
    """

    resolution: int
    mirrored: bool


@dataclass(frozen=True)
class Plan:
    """One prediction with everything that settings and checkpoint leave open resolved.

    Attributes:
        steps: Denoising steps.
        ensemble: Members that are reduced to one depth map.
        views: How the photo is shown. Members start from different noise and see one view; a checkpoint
            without noise gives equal members, so there each member sees a view of its own.
        grid: Sizes for the first view, which are those of the members that are reduced.
        start: The first depth latent.
        spacing: Of the time steps; None: as the scheduler has it.
        is_random: Whether members start from different noise.
        guided: Whether depth is enlarged with edges that follow the photo's.
        seed: Of the noise.
        notes: Sentences on settings that do not suit the checkpoint.
    """

    steps: int
    ensemble: int
    views: tuple[View, ...]
    grid: Grid
    start: Start
    spacing: str | None
    is_random: bool
    guided: bool
    seed: int
    notes: tuple[str, ...] = ()

    @property
    def members_per_view(self) -> int:
        """How many members see each view."""
        return self.ensemble // len(self.views)

    @property
    def calls_per_view(self) -> int:
        """Network calls for one view: encode, denoise each member at each step, decode each member."""
        return 1 + self.members_per_view * self.steps + self.members_per_view


def make_plan(
    size: tuple[int, int],
    settings: DepthSettings,
    *,
    defaults: CheckpointDefaults,
    scheduler: Any,
    multiple: int,
) -> Plan:
    """Resolve settings and a checkpoint's defaults for a photo.

    Args:
        size: Width and height of the photo in pixels.
        settings: What the visitor chose.
        defaults: For what the settings leave open.
        scheduler: The checkpoint's; an LCMScheduler adds noise between steps.
        multiple: Sides of the padded grid are multiples of this many pixels.
    """
    steps, ensemble = settings.steps or defaults.steps, settings.ensemble or defaults.ensemble
    resolution = longest_edge(size, settings, defaults=defaults)
    start = defaults.start if settings.start == "auto" else settings.start
    spacing = _spacing(settings, start=start, scheduler=scheduler)
    is_random = start == "noise" or (isinstance(scheduler, LCMScheduler) and steps > 1)
    views: tuple[View, ...] = (View(resolution, mirrored=False),)
    if not is_random:
        views = choose_views(ensemble, resolution=resolution, multiple=multiple)
        ensemble = len(views)
    grid = fit_grid(size[::-1], resolution=resolution, multiple=multiple)
    outlines = defaults.outlines if settings.outlines == "auto" else settings.outlines
    return Plan(
        steps=steps,
        ensemble=ensemble,
        views=views,
        grid=grid,
        start=start,
        spacing=spacing,
        is_random=is_random,
        guided=outlines == "photo" and max(grid.inner) < max(grid.photo),
        seed=settings.seed,
        notes=_notes(steps, spacing=spacing),
    )


def _spacing(settings: DepthSettings, *, start: Start, scheduler: Any) -> str | None:
    """Return the spacing of DDIM's time steps; LCM has its own."""
    if not isinstance(scheduler, DDIMScheduler):
        return None
    if settings.spacing != "auto":
        return settings.spacing
    return "trailing" if start == "zeros" else str(scheduler.config.timestep_spacing)


def _notes(steps: int, *, spacing: str | None) -> tuple[str, ...]:
    if spacing != "leading" or steps >= LEADING_STEPS:
        return ()
    return (
        f"This checkpoint spaces its time steps for {LEADING_STEPS} steps or more; for {steps} the depth is"
        " weak: set spacing to trailing, or take more steps.",
    )


def choose_views(count: int, *, resolution: int, multiple: int) -> tuple[View, ...]:
    """Choose views of a photo: pairs of mirror images, the resolution that was asked for first.

    Args:
        count: How many are wanted; there are never more than MOST_VIEWS.
        resolution: Longest edge in pixels.
        multiple: All but the first resolution are rounded to this, as the network likes them.
    """
    sizes = [resolution] + [max(1, round(resolution * scale / multiple)) * multiple for scale in SCALES[1:]]
    return tuple(View(sizes[number // 2], bool(number % 2)) for number in range(min(count, MOST_VIEWS)))


def longest_edge(size: tuple[int, int], settings: DepthSettings, *, defaults: CheckpointDefaults) -> int:
    """Return the longest edge in pixels that the network sees of a photo of this width and height."""
    chosen = defaults.longest_edge(size) if settings.resolution is None else settings.resolution
    return chosen or max(size)


def make_scheduler(recipe: Any, *, steps: int, spacing: str | None = None) -> Any:
    """Return a scheduler like the given one, set to a number of steps; `spacing` replaces that of its config.

    Raises:
        SettingsError: It cannot take so many.
    """
    others = {} if spacing is None else {"timestep_spacing": spacing}
    scheduler = type(recipe).from_config(recipe.config, **others)
    try:
        scheduler.set_timesteps(steps)
    except ValueError as error:
        raise SettingsError(f"This checkpoint cannot take {steps} steps; choose fewer.") from error
    return scheduler
