"""What a checkpoint wants where the visitor does not choose, and the plan of one prediction made of both."""

import math
from dataclasses import dataclass
from typing import Any, Literal

from diffusers import LCMScheduler

from marigold_demo.errors import SettingsError
from marigold_demo.network.augment import View, choose_views
from marigold_demo.network.image_grid import Grid, fit_grid
from marigold_demo.settings import DepthSettings

Start = Literal["noise", "zeros"]
Outlines = Literal["network", "photo"]
USUAL_ASPECT = 4 / 3  # width : height of the photos that a resolution is meant for
MOST_LONGER = 2.0  # very long photos are seen with fewer pixels


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
        outlines: As the network draws them, or moved onto the photo's edges (see `guided_filter`).
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
class Plan:
    """One prediction with everything that settings and checkpoint leave open resolved.

    Attributes:
        steps: Denoising steps.
        ensemble: Members that are reduced to one depth map.
        views: How the photo is shown. Members start from different noise and see one view; a checkpoint
            without noise gives equal members, so there each member sees a view of its own.
        grid: Sizes for the first view, which are those of the members that are reduced.
        is_random: Whether members start from different noise.
        guided: Whether depth is enlarged with edges that follow the photo's.
        seed: Of the noise.
    """

    steps: int
    ensemble: int
    views: tuple[View, ...]
    grid: Grid
    is_random: bool
    guided: bool
    seed: int

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
    is_random = defaults.start == "noise" or (isinstance(scheduler, LCMScheduler) and steps > 1)
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
        is_random=is_random,
        guided=outlines == "photo" and max(grid.inner) < max(grid.photo),
        seed=settings.seed,
    )


def longest_edge(size: tuple[int, int], settings: DepthSettings, *, defaults: CheckpointDefaults) -> int:
    """Return the longest edge in pixels that the network sees of a photo of this width and height."""
    chosen = defaults.longest_edge(size) if settings.resolution is None else settings.resolution
    return chosen or max(size)


def make_scheduler(recipe: Any, *, steps: int) -> Any:
    """Return a scheduler like the given one, set to a number of steps.

    Raises:
        SettingsError: It cannot take so many.
    """
    scheduler = type(recipe).from_config(recipe.config)
    try:
        scheduler.set_timesteps(steps)
    except ValueError as error:
        raise SettingsError(f"This checkpoint cannot take {steps} steps; choose fewer.") from error
    return scheduler
