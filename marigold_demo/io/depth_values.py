"""Stored depth values -> DepthMap: which end is near, the scale, and what stands where there is no value.

Files of our own are certain: 16-bit PNG that carry a recipe, and float arrays in [0, 1]. What other tools
write is judged by its values, on a sample of at most about 250,000. Every decision is a note.

Values are worked on in blocks of rows: a map of 32 million float64 pixels takes 256 MB by itself.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from marigold_demo.depth import DepthMap
from marigold_demo.errors import DepthFileError
from marigold_demo.io.limits import size_problem

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


Near = Literal["auto", "white", "black"]

MAX_PIXELS = 32_000_000
WANTED = "a float array [height, width] as .npy or .npz, or a 16-bit gray PNG or TIFF, with 0 near and 1 far"
FAR_MARGIN = 0.9  # the real scene takes this share of 0..1 where sky is filled in behind it
_ROUNDING = 1e-5  # float16 and JPEG-like tools overshoot [0, 1] by a hair; that is no other range
_PHOTOSHOP_TOP = 32768.0  # Photoshop counts 16 bits from 0 to 32768
_NEARLY_FULL, _AT_AN_END = 0.9, 1e-3  # shares of the range of a format
_LONG_TAIL, _LONG_RANGE = 10.0, 25.0  # all of the range as a multiple of 99.5 % of the pixels, and of half


@dataclass(frozen=True, eq=False)
class DepthFile:
    """What a depth file holds.

    Attributes:
        depth: Its depth.
        notes: Sentences about what was done to it.
        is_relief: It is a height map of this app, whose depth has been compressed to a relief already.
    """

    depth: DepthMap
    notes: tuple[str, ...] = ()
    is_relief: bool = False


@dataclass(frozen=True, eq=False)
class StoredDepth:
    """Depth as a file holds it, not yet judged by its values.

    Attributes:
        values: [H, W], any real dtype.
        origin: "own depth", "own inverted" and "own heights" carry a recipe of ours, "array" has the form of
            our arrays, "disparity" is named so by the file, "other" is none of these.
        is_picture: Whether it is a picture, in which people see black and white, not numbers.
        uncertainty: [H, W], in the unit of the values, where the file has it.
        valid: [H, W], zero where there is no value, where the file says so.
        notes: Sentences about how it was read.
    """

    values: NDArray[Any]
    origin: Literal["own depth", "own inverted", "own heights", "array", "disparity", "other"] = "other"
    is_picture: bool = False
    uncertainty: NDArray[Any] | None = None
    valid: NDArray[Any] | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Scale:
    """How values become depth.

    Attributes:
        low: The smallest value; what lies below is clipped.
        high: The largest value.
        is_inverted: Large values are near.
        form: "linear", "reciprocal" (distances shown as 1 / distance) or "inverse" (1 / value is distance).
        is_absolute: The range is that of the format, not that of the values.
        reach: Depth of the farthest value.
    """

    low: float
    high: float
    is_inverted: bool = False
    form: Literal["linear", "reciprocal", "inverse"] = "linear"
    is_absolute: bool = False
    reach: float = 1.0

    @property
    def span(self) -> float:
        """The range, never 0."""
        return 2 * self._half_span(self.low, self.high)

    def depth(self, values: NDArray[Any]) -> Floats:
        """Return depth from 0 to `reach`."""
        numbers, low, high = values.astype(np.float64), self.low, self.high
        if self.form != "linear":
            numbers, low, high = 1 / np.clip(numbers, low, high), 1 / high, 1 / low
        share = np.clip((numbers / 2 - low / 2) / self._half_span(low, high), 0, 1)
        flips: bool = self.form == "reciprocal" or (self.form == "linear" and self.is_inverted)
        return self.reach * (1 - share if flips else share)

    @staticmethod
    def _half_span(low: float, high: float) -> float:
        # Halves, so that the span of the largest floats stays finite.
        return max(high / 2 - low / 2, float(np.finfo(np.float64).tiny))


def check_size(width: int, height: int) -> None:
    """Refuse a size in pixels that cannot be used.

    Raises:
        DepthFileError: It is too large, too small or too narrow.
    """
    problem = size_problem(width, height, max_pixels=MAX_PIXELS)
    if problem:
        raise DepthFileError(f"The depth file cannot be used: {problem}")


def check_frame(frame: int | None, frames: int) -> tuple[int, tuple[str, ...]]:
    """Return which frame is taken, counted from 0, and a note where there are others.

    Raises:
        DepthFileError: There is no such frame.
    """
    if frames == 1 and frame not in (None, 0):
        raise DepthFileError("The file holds one depth map and no frames; leave frame out.")
    if frame is not None and not 0 <= frame < frames:
        raise DepthFileError(f"The file holds {frames} frames; frame must be from 0 to {frames - 1}.")
    if frames == 1:
        return 0, ()
    taken = frame or 0
    which = (
        "the first, frame 0, was taken; frame picks another" if frame is None else f"frame {taken} was taken"
    )
    return taken, (f"The file holds {frames} frames; {which}.",)


def to_depth(stored: StoredDepth, *, near: Near = "auto", inverse: bool = False) -> DepthFile:
    """Judge stored values, fill those that mean nothing, and bring the rest into [0, 1].

    Args:
        stored: Values as the file holds them.
        near: Which end is near: "white" (large values), "black" (small values), or what the file suggests.
        inverse: The values are disparity: 1 / value is distance.

    Raises:
        DepthFileError: No value is valid, or the choices contradict each other.
    """
    if inverse and near == "black":
        raise DepthFileError("Disparity is large where it is near; set near to auto, or leave inverse out.")
    notes = list(stored.notes)
    if stored.values.dtype == np.uint8:
        notes.append("The depth has 256 levels only, which show as stairs; 16 bits or floats are better.")
    valid, endless = _valid(stored)
    scale: _Scale | None = None
    near_notes: list[str] = []
    named: tuple[str, ...] = ()
    if inverse:
        endless, valid = _zero_and_more(stored.values, valid)
    else:
        scale = _range_of_format(stored, valid)
    if scale is None:
        valid, named = _with_meaning(stored.values, valid)
        scale = _Scale(*extremes(stored.values, valid))
    sample = ValueSample.of(stored.values, valid)
    if inverse:
        scale = replace(scale, is_inverted=True, form="inverse")
    else:
        scale, near_notes = _with_near(scale, stored, sample, near=near)
    scale, range_notes = _shortened(scale, sample)
    depth, uncertainty, hole_notes = _scaled(stored, valid, endless, scale=scale, named=named)
    all_notes = (*notes, *range_notes, *near_notes, *hole_notes)
    return DepthFile(DepthMap(depth, uncertainty), all_notes, is_relief=stored.origin == "own heights")


def _valid(stored: StoredDepth) -> tuple[Mask, Mask | None]:
    """Return which values are numbers, and which are +inf, as renderers give for sky."""
    valid = np.isfinite(stored.values)
    endless = None if valid.all() else stored.values == np.inf
    if stored.valid is not None:
        usable = stored.valid.astype(bool, copy=False)
        valid &= usable
        endless = None if endless is None else endless & usable
    if not valid.any():
        raise DepthFileError(
            "The depth file holds no valid pixel (all are NaN, infinite or masked); save it again."
        )
    return valid, endless


def _zero_and_more(values: NDArray[Any], valid: Mask) -> tuple[Mask, Mask]:
    """Return which disparities are 0 or less, which is infinitely far, and which are more."""
    more = np.empty_like(valid)
    for rows in blocks(values):
        more[rows] = valid[rows] & (values[rows] > 0)
    if not more.any():
        raise DepthFileError("No value is above 0, so these are no disparities; leave inverse out.")
    return valid & ~more, more


def _with_meaning(values: NDArray[Any], valid: Mask) -> tuple[Mask, tuple[str, ...]]:
    """Return which values are not cut off from the rest, and what the others are in words."""
    cut = find_cut(ValueSample.of(values, valid), *extremes(values, valid))
    return cut.inside(values, valid) if cut.named else valid, cut.named


def _range_of_format(stored: StoredDepth, valid: Mask) -> _Scale | None:
    """Return the range that the format gives to its values; None for numbers with a scale of their own."""
    low, high = extremes(stored.values, valid)
    if stored.origin.startswith("own "):
        return _Scale(0.0, 65535.0, is_absolute=True)
    if stored.values.dtype.kind in "fb":
        is_in_range = low >= -_ROUNDING and high <= 1 + _ROUNDING and stored.origin != "disparity"
        return _Scale(0.0, 1.0, is_absolute=True) if is_in_range else None
    if stored.values.dtype not in (np.uint8, np.uint16):
        return None
    tops = (255.0,) if stored.values.dtype == np.uint8 else (_PHOTOSHOP_TOP, 65535.0)
    top = next(top for top in tops if high <= top)
    sample = ValueSample.of(stored.values, valid)
    cut = find_cut(sample, low, high)
    scene = sample.within(cut)
    has_missing_sky = cut.low >= 0 and trend(scene) <= -CLEAR_TREND  # then 0 is not the near end of the scene
    if high < _NEARLY_FULL * top or has_missing_sky or not scene.valid.any():
        return None
    low, high = (low, high) if not cut.named else extremes(stored.values, cut.inside(stored.values, valid))
    fills_format = low <= _AT_AN_END * top or high >= (1 - _AT_AN_END) * top
    return _Scale(0.0, top, is_absolute=True) if fills_format else None


def _with_near(
    scale: _Scale, stored: StoredDepth, sample: ValueSample, *, near: Near
) -> tuple[_Scale, list[str]]:
    """Decide which end of the values is near, with a note where it had to be inferred."""
    if near != "auto":
        return replace(scale, is_inverted=near == "white"), []
    known = {
        "own heights": "This is a height map of this app, so white, which is high, was taken as near; with"
        " detail and smoothing at 0 it comes back as it is.",
        "own inverted": "This depth of this app was written inverted, so white was taken as near.",
        "disparity": "The file calls its values disparity, so large values were taken as near.",
    }
    if stored.origin in known:
        return replace(scale, is_inverted=True), [known[stored.origin]]
    if stored.origin == "own depth":
        return scale, []
    is_number = not scale.is_absolute
    far, why = far_end(sample, scale.low, scale.high)
    if stored.origin == "array" and scale.is_absolute and stored.values.dtype.kind in "fb":
        if far != "small":
            return scale, []
        taken = f"Small values were taken as near, as this app writes them, although {why}"
        return scale, [f"{taken}; if near and far are swapped, set near to white."]
    unknown = "as distances are" if is_number else "because nothing in the file tells which end is"
    reason = f"because {why}" if why else unknown
    if stored.is_picture:
        taken = f"The gray picture was taken as depth with {'white' if far == 'small' else 'black'} near"
    else:
        taken = f"{'Large' if far == 'small' else 'Small'} values were taken as near"
    other = "black" if far == "small" else "white"
    note = f"{taken}, {reason}; if near and far are swapped, set near to {other}."
    return replace(scale, is_inverted=far == "small"), [note]


def _shortened(scale: _Scale, sample: ValueSample) -> tuple[_Scale, list[str]]:
    """Cut long tails of values without a range of their own, and show very long ranges by their inverse."""
    if scale.is_absolute:
        return scale, []
    notes, ordered = [], sample.ordered
    least, few, half, many = (float(q) for q in np.quantile(ordered, (0.02, 0.005, 0.5, 0.995)))
    if scale.form == "inverse":
        if 1 / scale.low - 1 / scale.high > _LONG_RANGE * (1 / half - 1 / scale.high) > 0:
            scale = replace(scale, low=least)
            notes.append(f"Disparities below {least:.4g} are very far away; they were cut off there.")
        return scale, [*notes, _range_note(scale)]
    if scale.high / 2 - scale.low / 2 > _LONG_TAIL * (many / 2 - scale.low / 2) > 0:
        notes.append(f"The few values from {many:.4g} to {scale.high:.4g} are far out; they were cut off.")
        scale = replace(scale, high=many)
    if scale.high / 2 - scale.low / 2 > _LONG_TAIL * (scale.high / 2 - few / 2) > 0:
        notes.append(f"The few values from {scale.low:.4g} to {few:.4g} are far out; they were cut off.")
        scale = replace(scale, low=few)
    is_long = scale.high - scale.low > _LONG_RANGE * (half - scale.low) > 0
    if is_long and scale.low > 0 and not scale.is_inverted:
        scale = replace(scale, form="reciprocal")
        notes.append("The distances reach very far, so depth shows their inverse (1 / distance).")
    return scale, [*notes, _range_note(scale)]


def _range_note(scale: _Scale) -> str:
    near, far = (scale.high, scale.low) if scale.is_inverted else (scale.low, scale.high)
    return f"The depth runs from {near:.4g} (near) to {far:.4g} (far); it was rescaled to 0 .. 1."


def _scaled(
    stored: StoredDepth, valid: Mask, endless: Mask | None, *, scale: _Scale, named: tuple[str, ...]
) -> tuple[NDArray[np.float32], NDArray[np.float32] | None, list[str]]:
    """Return depth [H, W] without holes, uncertainty where the file has it, and notes on the holes."""
    is_disparity = scale.is_inverted and scale.form == "linear"  # where +inf is as near as can be
    holes = None if valid.all() else find_holes(valid, None if is_disparity else endless)
    if holes is not None and holes.sky.any() and not scale.is_absolute:
        scale = replace(scale, reach=FAR_MARGIN)
    depth = np.empty(stored.values.shape, dtype=np.float32)
    for rows in blocks(depth):
        depth[rows] = scale.depth(np.where(valid[rows], stored.values[rows], scale.high))
    if holes is not None:
        holes.fill(depth, sky=1.0)
    uncertainty = _uncertainty(stored.uncertainty, holes, scale=scale)
    return depth, uncertainty, [] if holes is None else [holes.note(named)]


def _uncertainty(
    stored: NDArray[Any] | None, holes: Holes | None, *, scale: _Scale
) -> NDArray[np.float32] | None:
    """Return the uncertainty in the unit of depth; None where depth is no linear function of the values."""
    if stored is None or scale.form != "linear":
        return None
    values = stored.astype(np.float64)
    if holes is not None:
        holes.fill(values, sky=0.0)
    if not np.isfinite(values).all() or values.min() < 0:
        raise DepthFileError(
            "The array 'uncertainty' holds negative or unknown values; leave it out or save it again."
        )
    return np.minimum(values * (scale.reach / scale.span), 1e6).astype(np.float32)
