"""Between a photo's pixels and the padded grid the network works on, and back.

There: as diffusers' Marigold image processor, longest edge to the wanted resolution by an antialiased
bilinear resize, then replicate padding at the right and at the bottom to a multiple of the network's step.

Back: bilinear, or guided. A small network draws edges of depth some pixels wide. The guided filter makes
depth a linear function of the photo's colors in every small window, so an edge of depth moves onto the edge
of color beside it; where the photo has none, depth stays smooth. He, Sun and Tang, "Guided Image Filtering",
TPAMI 2013, eq. (14) to (16); what is found on the coarse grid is applied on the fine one, as in He and Sun,
"Fast Guided Filter", 2015.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import maximum_filter, minimum_filter, uniform_filter
from torch import Tensor
from torch.nn import functional

Size = tuple[int, int]  # height, width
RADIUS = 4  # of the windows, in pixels of the coarse grid
LEAST_VARIANCE = 1e-3  # of colors in 0..1: windows that vary less are taken as plain
ROWS = 256  # of the photo at a time, so that memory stays bounded
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
    for top in range(0, height, ROWS):
        rows = slice(top, min(top + ROWS, height))
        *slopes, shift, low, high = _enlarge(wide, height, axis=1, part=rows)  # [R, W] each
        fine = shift
        for channel, steep in enumerate(slopes):
            fine += steep * (photo[rows, :, channel] * np.float32(1 / 255))
        np.clip(fine, low, high, out=enlarged[rows])
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
