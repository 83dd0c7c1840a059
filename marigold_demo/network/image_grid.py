"""Between a photo's pixels and the padded grid the network works on.

Follows diffusers' Marigold image processor: longest edge to the wanted resolution by an antialiased
bilinear resize, then replicate padding at the right and at the bottom to a multiple of the network's step.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

Size = tuple[int, int]  # height, width


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
