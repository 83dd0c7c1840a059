"""What the values of a depth map mean: which stand for "no value", which end is far, how holes are filled.

Numbers and ends are judged on a sample of at most about 250,000 values.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Mask = NDArray[np.bool_]
Floats = NDArray[np.float64]
End = Literal["small", "large", ""]

_BLOCK_PX = 2**21
_SAMPLES = 250_000
_FEWEST_LEVELS = 16  # with fewer different values, a gap between them means nothing
# Gap as a share of the range of the rest: beside numbers that tools write for "no value", beside others.
_WIDE_GAP, _HUGE_GAP = 0.05, 20.0
_UNUSUAL, _NEXT_GAPS = 1.5, 5  # how many times larger than the next so many gaps it has to be as well
_FEW, _MANY = 0.01, 0.98  # share of the values that may be cut off though no tool is known to write them
# What tools write for "no value", besides 0 and whole numbers below it.
_NO_VALUE = (32767.0, 65504.0, 65535.0, 2.0**31 - 1, 2.0**32 - 1, 1e10)
_FLAT, _FLAT_TOP, _FLAT_AREA = 0.01, 0.3, 0.03  # within 1 % of an end; of the top border; of the picture

_SHORTEST_COLUMN = 5
CLEAR_TREND = 0.5  # of depth: -0.29 to -1.0 in 35 measured scenes, in 32 of them below -0.5
_SKY_WIDTH, _SKY_AREA = 0.2, 1e-3  # shares of the top border and of the picture


@dataclass(frozen=True, eq=False)
class ValueSample:
    """Every n-th value in both directions: float64 [h, w], and which of them are valid."""

    values: Floats
    valid: Mask

    @classmethod
    def of(cls, values: NDArray[Any], valid: Mask) -> "ValueSample":
        """Take a sample of values [H, W]."""
        step = max(1, int((values.size / _SAMPLES) ** 0.5))
        return cls(values[::step, ::step].astype(np.float64), valid[::step, ::step])

    @cached_property
    def ordered(self) -> Floats:
        """All valid values in ascending order."""
        return np.sort(self.values[self.valid])

    def within(self, cut: "Cut") -> "ValueSample":
        """Return the sample without what is cut off."""
        return replace(self, valid=self.valid & (self.values > cut.low) & (self.values < cut.high))


@dataclass(frozen=True)
class Cut:
    """Exclusive bounds of the values that mean something, and what lies outside them in words."""

    low: float = -np.inf
    high: float = np.inf
    named: tuple[str, ...] = ()

    def inside(self, values: NDArray[Any], valid: Mask) -> Mask:
        """Return which valid values mean something."""
        kept = np.empty_like(valid)
        for rows in blocks(values):
            kept[rows] = valid[rows] & (values[rows] > self.low) & (values[rows] < self.high)
        return kept


def blocks(values: NDArray[Any]) -> Iterator[slice]:
    """Return slices of so many rows that temporary arrays of them are small."""
    height, width = values.shape
    rows = max(1, _BLOCK_PX // width)
    return (slice(start, start + rows) for start in range(0, height, rows))


def extremes(values: NDArray[Any], valid: Mask) -> tuple[float, float]:
    """Return the smallest and the largest valid value; there must be one."""
    found = [block for rows in blocks(values) if (block := values[rows][valid[rows]]).size]
    return float(min(block.min() for block in found)), float(max(block.max() for block in found))


def find_cut(sample: ValueSample, low: float, high: float) -> Cut:
    """Find values that are cut off from the rest, at both ends.

    Args:
        sample: Of the values.
        low: Smallest valid value of all.
        high: Largest one.
    """
    ordered = np.concatenate([[low], sample.ordered, [high]])
    levels = ordered[np.concatenate([[True], ordered[1:] != ordered[:-1]])]
    cut = Cut()
    while len(levels) > _FEWEST_LEVELS:
        first, last = levels[0], levels[-1]
        is_negative = first < 0 <= levels[1] and first == np.round(first)  # -1, -999, -9999
        if (first == 0 or is_negative) and _is_wide(levels, at_once=is_negative):
            cut = replace(cut, low=float(first), named=(*cut.named, f"{first:g}"))
            levels = levels[1:]
        elif last in _NO_VALUE and _is_wide(-levels[::-1]):
            cut = replace(cut, high=float(last), named=(*cut.named, f"{last:g}"))
            levels = levels[:-1]
        else:
            break
    return _without_outlying(cut, levels, ordered)


def _is_wide(levels: Floats, *, at_once: bool = False) -> bool:
    """Return whether the first of ascending levels is far from the second one, as levels go there."""
    gaps = np.diff(levels)
    is_large = at_once or gaps[0] >= _WIDE_GAP * (levels[-1] - levels[1])
    return bool(is_large and gaps[0] > _UNUSUAL * np.median(gaps[1 : 1 + _NEXT_GAPS]))


def _without_outlying(cut: Cut, levels: Floats, ordered: Floats) -> Cut:
    """Cut off all other values as well that are many and very far from the rest: above it, else below it."""
    halves = levels / 2  # the difference of the largest floats stays finite
    gaps = np.diff(halves)
    above = np.flatnonzero(gaps >= _HUGE_GAP * (halves[:-1] - halves[0]))
    below = np.flatnonzero(gaps >= _HUGE_GAP * (halves[-1] - halves[1:]))
    for at in above[above >= _FEWEST_LEVELS][:1]:
        if _FEW <= np.mean(ordered > levels[at]) <= _MANY:
            named = f"{levels[-1]:g}" if at + 2 == len(levels) else f"above {levels[at]:.4g}"
            return replace(cut, high=float(levels[at] + gaps[at]), named=(*cut.named, named))
    for at in below[below < len(gaps) - _FEWEST_LEVELS][-1:]:
        if _FEW <= np.mean(ordered <= levels[at]) <= _MANY:
            named = f"{levels[0]:g}" if at == 0 else f"below {levels[at + 1]:.4g}"
            return replace(cut, low=float(levels[at] + gaps[at]), named=(*cut.named, named))
    return cut


def far_end(sample: ValueSample, low: float, high: float) -> tuple[End, str]:
    """Return which values are far, and why; empty where it cannot be known.

    Args:
        sample: Of the values.
        low: The smallest value there can be.
        high: The largest one.
    """
    margin = _FLAT * (high / 2 - low / 2) * 2
    flat_ends: tuple[tuple[End, Mask], ...] = (
        ("large", sample.valid & (sample.values >= high - margin)),
        ("small", sample.valid & (sample.values <= low + margin)),
    )
    top = slice(0, max(1, len(sample.values) // 50))
    for end, flat in flat_ends:
        if flat[top].mean() >= _FLAT_TOP and flat.mean() >= _FLAT_AREA and not flat[sample.valid].all():
            size = end.removesuffix("e")
            return end, f"the area along the top border, sky or background, has the {size}est values"
    found = trend(sample)
    if abs(found) < CLEAR_TREND:
        return "", ""
    end = "small" if found > 0 else "large"
    return (
        end,
        f"values become {end.removesuffix('e')}er from the bottom to the top, where scenes are farther",
    )


def trend(sample: ValueSample) -> float:
    """Return how many columns end larger than they begin, less those that end smaller: -1 .. 1 of all.

    The topmost twentieth of the valid values of a column is compared with its lowest.
    """
    signs = []
    for values, valid in zip(sample.values.T, sample.valid.T, strict=True):
        column = values[valid]
        if len(column) >= _SHORTEST_COLUMN:
            share = max(1, len(column) // 20)
            signs.append(np.sign(np.median(column[-share:]) - np.median(column[:share])))
    return float(np.mean(signs)) if signs else 0.0


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
        note = f"{max(share, 0.001):.1%} of the depth pixels have no value{what}; they were filled"
        if not sky_share:
            return f"{note} from their nearest neighbors."
        if not self._others.any():
            return f"{note} as far, like sky."
        return f"{note} as far where they are sky, along the top border, else from their nearest neighbors."


def find_holes(valid: Mask, endless: Mask | None) -> Holes:
    """Distinguish sky from other holes: it touches the top border and is neither a speck nor a side strip.

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
