"""The plan of one prediction: steps, members, views and grid; and the way of pixels to that grid and back.

The settings decide, and the checkpoint's defaults where they say nothing. To the grid: as diffusers' Marigold
image processor, longest edge to the wanted resolution by an antialiased bilinear resize, then replicate
padding at the right and at the bottom to a multiple of the network's step. Back: bilinear, or by the guided
filter, which moves an edge of depth onto the edge of color beside it (He, Sun and Tang, TPAMI 2013, eq. (14)
to (16); coefficients of the coarse grid are applied on the fine one, as in He and Sun, 2015).

Test-time augmentation: a checkpoint tuned end to end starts from zeros, so all members of its ensemble would
be equal. Its answers to the mirrored photo and to slightly other sizes differ, and their mean is better.
"""

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from diffusers import DDIMScheduler, LCMScheduler
from numpy.typing import NDArray
from scipy.ndimage import maximum_filter, minimum_filter, uniform_filter
from torch import Tensor
from torch.nn import functional

from marigold_demo.errors import SettingsError
from marigold_demo.settings import DepthSettings

Size = tuple[int, int]  # height, width
RADIUS = 4  # of the windows, in pixels of the coarse grid
LEAST_VARIANCE = 1e-3  # of colors in 0..1: windows that vary less are taken as plain
ROWS, MOST_THREADS = 256, 4  # rows of the photo in a thread's hands at a time, so that memory stays bounded
Plane = NDArray[np.float32]


@dataclass(frozen=True)
class Grid:
    """Sizes (height, width) of one photo on its way through the network.

    Attributes:
        photo: The photo itself, H x W.
        inner: The resized photo, without padding.
        padded: PH x PW, what the network sees.
    """

    photo: Size
    inner: Size
    padded: Size

    @property
    def pixels(self) -> int:
        """How many pixels the network sees."""
        return self.padded[0] * self.padded[1]


def fit_grid(photo: Size, *, resolution: int, multiple: int) -> Grid:
    """Choose the sizes for a photo.

    Args:
        photo: Height and width of the photo in pixels.
        resolution: Longest edge after the resize; 0 keeps the photo's own size.
        multiple: Both padded sides are multiples of this.
    """
    inner = photo
    if resolution:
        longest = max(photo)
        inner = (max(1, photo[0] * resolution // longest), max(1, photo[1] * resolution // longest))
    padded = (inner[0] + -inner[0] % multiple, inner[1] + -inner[1] % multiple)
    return Grid(photo=photo, inner=inner, padded=padded)


def reduced(rgb: NDArray[np.uint8], *, least_px: int) -> NDArray[np.uint8]:
    """Average whole blocks of a photo [H, W, 3], leaving at least so many pixels along its longest edge.

    Much faster than a resize of the whole photo, and hardly anything is lost for one to half of that or less.
    """
    factor = max(rgb.shape[:2]) // least_px
    if factor < 2:
        return rgb
    image = torch.tensor(rgb).permute(2, 0, 1)[None].float()  # [1, 3, H, W]
    blocks = functional.avg_pool2d(image, factor, ceil_mode=True, count_include_pad=False)
    levels: NDArray[np.uint8] = blocks[0].round_().byte().permute(1, 2, 0).numpy()
    return levels


def photo_to_grid(rgb: NDArray[np.uint8], grid: Grid, *, device: torch.device) -> Tensor:
    """Return the photo [H, W, 3] as float32 [1, 3, PH, PW] in [-1, 1]."""
    image = torch.tensor(rgb, device=device).permute(2, 0, 1)[None].float()  # [1, 3, H, W], 0 .. 255
    if grid.inner != grid.photo:
        image = functional.interpolate(image, grid.inner, mode="bilinear", antialias=True)
    return pad(image.mul_(2 / 255).sub_(1), grid)


def photo_on_grid(rgb: NDArray[np.uint8], grid: Grid) -> NDArray[np.uint8]:
    """Return the photo [H, W, 3] at the size of the grid without its padding: uint8 [*inner, 3]."""
    image = unpad(photo_to_grid(rgb, grid, device=torch.device("cpu")), grid)[0]  # [3, *inner]
    levels: NDArray[np.uint8] = image.add_(1).mul_(255 / 2).round_().byte().permute(1, 2, 0).numpy()
    return levels


def pad(image: Tensor, grid: Grid) -> Tensor:
    """Repeat the last row and column of [N, C, *inner] until the size is `grid.padded`."""
    below, right = grid.padded[0] - grid.inner[0], grid.padded[1] - grid.inner[1]
    if not below and not right:
        return image
    return functional.pad(image, (0, right, 0, below), mode="replicate")


def unpad(image: Tensor, grid: Grid) -> Tensor:
    """Cut [N, C, *padded] back to `grid.inner`."""
    return image[..., : grid.inner[0], : grid.inner[1]]


def resize(members: Tensor, size: Size) -> Tensor:
    """Resize members [E, h, w] to a size, bilinear, without antialiasing."""
    if members.shape[-2:] == size:
        return members
    return functional.interpolate(members[:, None], size, mode="bilinear")[:, 0]


def to_photo_size(values: NDArray[np.float32], grid: Grid) -> NDArray[np.float32]:
    """Resize a map [*inner] to the photo [H, W], bilinear, without antialiasing."""
    resized: NDArray[np.float32] = resize(torch.tensor(values)[None], grid.photo)[0].numpy()
    return resized


def guided_upsample(depth: Plane, small: NDArray[np.uint8], photo: NDArray[np.uint8]) -> Plane:
    """Enlarge depth to the size of a photo with edges that follow the photo's.

    Args:
        depth: float32 [h, w].
        small: The photo at the size of depth: uint8 [h, w, 3].
        photo: uint8 [H, W, 3].

    Returns:
        float32 [H, W]; nowhere outside the depths that the coarse map has nearby.
    """
    guide = small * np.float32(1 / 255)  # [h, w, 3]
    slope, offset = _coefficients(depth, guide)  # [h, w, 3], [h, w]
    window = 4 * RADIUS + 1  # a coefficient has seen depth this far around
    height, width = photo.shape[:2]
    planes = np.stack(
        [*np.moveaxis(slope, -1, 0), offset, minimum_filter(depth, window), maximum_filter(depth, window)]
    )
    wide = _enlarge(planes, width, axis=2)  # [6, h, W]
    enlarged = np.empty((height, width), np.float32)  # [H, W]

    def fill(top: int) -> None:
        rows = slice(top, min(top + ROWS, height))
        *slopes, shift, low, high = _enlarge(wide, height, axis=1, part=rows)  # [R, W] each
        fine = shift
        for channel, steep in enumerate(slopes):
            fine += steep * (photo[rows, :, channel] * np.float32(1 / 255))
        np.clip(fine, low, high, out=enlarged[rows])

    with ThreadPoolExecutor(min(torch.get_num_threads(), MOST_THREADS)) as threads:
        list(threads.map(fill, range(0, height, ROWS)))
    return enlarged


def _coefficients(depth: Plane, guide: Plane) -> tuple[Plane, Plane]:
    """Fit depth [h, w] = slope . color + offset in every window; return slope [h, w, 3] and offset [h, w]."""
    mean_color = np.stack([_mean(guide[..., c]) for c in range(3)], axis=-1)  # [h, w, 3]
    mean_depth = _mean(depth)  # [h, w]
    together = np.stack([_mean(guide[..., c] * depth) for c in range(3)], axis=-1)  # [h, w, 3]
    covariance = together - mean_color * mean_depth[..., None]
    spread = np.empty((*depth.shape, 3, 3), np.float32)
    for i in range(3):
        for j in range(i, 3):
            product = _mean(guide[..., i] * guide[..., j]) - mean_color[..., i] * mean_color[..., j]
            spread[..., i, j] = spread[..., j, i] = product
    spread += LEAST_VARIANCE * np.eye(3, dtype=np.float32)
    slope = np.linalg.solve(spread, covariance[..., None])[..., 0].astype(np.float32, copy=False)
    offset = mean_depth - np.einsum("hwc,hwc->hw", slope, mean_color)
    return np.stack([_mean(slope[..., c]) for c in range(3)], axis=-1), _mean(offset)


def _mean(plane: Plane) -> Plane:
    averaged: Plane = uniform_filter(plane, 2 * RADIUS + 1, mode="nearest")
    return averaged


def _enlarge(planes: Plane, length: int, *, axis: int, part: slice = slice(None)) -> Plane:
    """Resize planes [N, h, w] bilinearly along an axis to a length, and return a part of that."""
    coarse = planes.shape[axis]
    place = np.clip((np.arange(length)[part] + 0.5) * coarse / length - 0.5, 0, coarse - 1)
    before = place.astype(np.intp)
    after = np.minimum(before + 1, coarse - 1)
    share = (place - before).astype(np.float32).reshape(-1, *[1] * (planes.ndim - 1 - axis))
    first, second = planes.take(before, axis), planes.take(after, axis)
    second -= first
    second *= share
    second += first
    return second  # type: ignore[no-any-return]


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
        outlines: As the network draws them, or moved onto the photo's edges (`guided_upsample`).
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
