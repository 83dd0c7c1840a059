"""Pixels of a depth map that have no value: which of them are sky, and what fills the others."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from marigold_demo.io.depth_evidence import Mask, blocks

_SKY_WIDTH, _SKY_AREA = 0.2, 1e-3  # shares of the top border and of the picture


@dataclass(frozen=True, eq=False)
class Holes:
    """Where there is no value.

    Attributes:
        valid: bool [H, W], False in holes.
        sky: bool [H, W], the holes that are sky.
    """

    valid: Mask
    sky: Mask

    @cached_property
    def _others(self) -> Mask:
        return ~(self.valid | self.sky)

    @cached_property
    def _nearest(self) -> tuple[tuple[slice, slice], NDArray[np.int32]]:
        """The rectangle around all holes that are not sky; in it, the nearest valid pixel: [2, h, w]."""
        inside = tuple(
            slice(max(0, int(at[0]) - 1), int(at[-1]) + 2)
            for at in (np.flatnonzero(self._others.any(axis=axis)) for axis in (1, 0))
        )
        box = inside[0], inside[1]
        if not self.valid[box].any():  # enclosed by sky
            box = slice(None), slice(None)
        return box, ndimage.distance_transform_edt(
            ~self.valid[box], return_distances=False, return_indices=True
        )

    def fill(self, values: NDArray[Any], *, sky: float) -> None:
        """Write into values [H, W]: `sky` where it is sky, the nearest valid value in other holes."""
        values[self.sky] = sky
        if self._others.any():
            box, (row, column) = self._nearest
            part, holes = values[box], self._others[box]
            part[holes] = part[row[holes], column[holes]]

    def note(self, named: Sequence[str]) -> str:
        """Say how much was filled, and how; `named` are the numbers that stood there."""
        share, sky_share = 1 - float(self.valid.mean()), float(self.sky.mean())
        what = f" ({' and '.join(named)})" if named else ""
        told = f"{max(share, 0.001):.1%} of the depth pixels have no value{what}; they were filled"
        if not sky_share:
            return f"{told} from their nearest neighbors."
        if not self._others.any():
            return f"{told} as far, like sky."
        return f"{told} as far where they are sky, along the top border, else from their nearest neighbors."


def find_holes(valid: Mask, endless: Mask | None) -> Holes:
    """Tell sky from other holes: it touches the top border, and is neither a speck nor a strip along a side.

    Args:
        valid: bool [H, W], with at least one hole.
        endless: bool [H, W], holes that are sky wherever they lie.
    """
    regions, count = ndimage.label(~valid)
    top, bottom = regions[0], set(np.unique(regions[-1]))
    is_sky = np.zeros(count + 1, dtype=bool)
    for region in np.unique(top[top > 0]):
        is_sky[region] = np.mean(top == region) >= _SKY_WIDTH or region not in bottom
    if is_sky.any():
        sizes = np.zeros(count + 1, dtype=np.int64)
        for rows in blocks(regions):  # bincount makes a wider copy of what it counts
            sizes += np.bincount(regions[rows].ravel(), minlength=count + 1)
        is_sky &= sizes >= _SKY_AREA * valid.size
    sky: Mask = is_sky[regions]
    if endless is not None:
        sky |= endless
    return Holes(valid, sky)
