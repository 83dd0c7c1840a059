"""Members of an ensemble -> one DepthMap with its uncertainty.

Each member is right up to a scale and a shift of its own (Ke et al., CVPR 2024, section 3.3). They are
aligned by the objective of diffusers' `MarigoldDepthPipeline.ensemble_depth`,

    sum over pairs i < j of RMS(d'_i - d'_j)  +  0.02 (|min of m| + |1 - max of m|),   d'_i = s_i d_i + t_i,

where m is the median of the d'_i. Three facts turn it from a search over pixel maps into a small problem:

1. With the deviations D_i = s_i sigma_i and the means M_i of the aligned members and with their correlations,
   a pair term is the root of D_i^2 + D_j^2 - 2 corr_ij D_i D_j + (M_i - M_j)^2. So pixels are looked at once,
   for the Gram matrix, and all pair terms are least where the means are equal.
2. A common scale and shift of all members leaves the reduced map as it is, for that is normalized at the end.
   Over the common scale the objective is linear: where the pair terms at unit range exceed 0.02, it falls
   until all is one constant, which no one wants. So the scales are found at a fixed sum of the deviations.
   There the pair terms are convex: one minimum, that no rounding can shake.
3. The common shift and scale are then the best ones in closed form, the scale from `LEAST_RANGE` to 1.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from marigold_demo.depth import DepthMap

Members = NDArray[np.float32]  # [E, H, W]
Floats = NDArray[np.float64]

RANGE_WEIGHT = 0.02
LEAST_RANGE = 0.5
LEAST_SCALE = 0.05  # of a member against its own min-max scale: none is turned upside down or flattened away
TINY = 1e-6  # a range below this is constant
PRODUCT = 2**18  # multiplications at a time; for many more BLAS starts threads, which takes longer here
CHUNK = 8192  # pixels at a time; E rows of it fit into the processor's cache


@dataclass(frozen=True)
class Alignment:
    """One scale and shift for each member, aligned = scale * member + shift.

    Attributes:
        scales: float64 [E], positive.
        shifts: float64 [E].
        cost: The objective at these.
    """

    scales: Floats
    shifts: Floats
    cost: float


def reduce_members(members: Members, *, center: Literal["median", "mean"] = "median") -> DepthMap:
    """Align members and reduce them to their median or mean.

    A single member is returned as it is. Else the reduced map is normalized to [0, 1]; the uncertainty is the
    median absolute deviation of the aligned members from it, in its units. Neither the order of the members
    nor a scale and shift of any of them matters.

    Args:
        members: float32 [E, H, W], 0 near, finite.
        center: The median shrugs off a member that went wrong; the mean is better for few that did not.
    """
    if len(members) == 1:
        return DepthMap(values=members[0])
    moments = _moments(members)
    reduced, deviation = np.empty_like(members[0]), np.empty_like(members[0])  # [H, W] each
    for pixels, aligned in _aligned(members, moments, scales=_solve(moments)):
        middle = (
            aligned[moments.order].mean(axis=0) if center == "mean" else lower_median(aligned.copy())
        )  # [n]
        reduced.reshape(-1)[pixels] = middle
        deviation.reshape(-1)[pixels] = lower_median(np.abs(aligned - middle, out=aligned))
    near = reduced.min()
    span = max(reduced.max() - near, np.float32(TINY))
    return DepthMap(values=(reduced - near) / span, uncertainty=deviation / span)


def align(members: Members) -> Alignment:
    """Find the scale and shift of each member that minimize the objective.

    Args:
        members: float32 [E, H, W] with E >= 2, finite.
    """
    moments = _moments(members)
    scales = _solve(moments)
    ends = [
        (median.min(), median.max())
        for median in (lower_median(part) for _, part in _aligned(members, moments, scales=scales))
    ]
    near, far = float(min(low for low, _ in ends)), float(max(high for _, high in ends))
    pairs, span = moments.pairs(scales)[0], max(far - near, TINY)
    unit = 1.0 if pairs / span <= RANGE_WEIGHT else LEAST_RANGE  # linear in between
    original_scales, original_shifts = _affine(moments, scales)
    return Alignment(
        scales=original_scales * (unit / span),
        shifts=(original_shifts - near) * (unit / span),
        cost=pairs * (unit / span) + RANGE_WEIGHT * (1 - unit * (far - near) / span),
    )


@dataclass(frozen=True)
class _Moments:
    """What the pair terms need to know of the members, in the members' own order.

    Attributes:
        order: Ranks the members by their means, so that the given order leaves no trace in any rounding.
        lows: Smallest values [E].
        spans: Largest minus smallest values [E]; 1 where the member is constant.
        means: Mean values [E] of the members scaled to [0, 1].
        covariance: Of the members scaled to [0, 1], [E, E].
    """

    order: NDArray[np.intp]
    lows: Floats
    spans: Floats
    means: Floats
    covariance: Floats

    def pairs(self, scales: Floats) -> tuple[float, Floats]:
        """Return the sum of the pair terms at equal means and its gradient by the scales [E]."""
        variance = np.diag(self.covariance) * scales * scales  # [E]
        squares = variance[:, None] + variance - 2 * self.covariance * np.outer(scales, scales)  # [E, E]
        rms = np.sqrt(np.maximum(squares, 0))
        inverse = np.divide(1, rms, out=np.zeros_like(rms), where=rms > TINY)
        np.fill_diagonal(inverse, 0)
        slope = np.diag(self.covariance) * scales * inverse.sum(axis=1) - (inverse * self.covariance) @ scales
        return float(rms.sum() - np.trace(rms)) / 2, slope


def _moments(members: Members) -> _Moments:
    flat = members.reshape(len(members), -1)  # [E, H * W]
    lows = flat.min(axis=1).astype(np.float64)
    spans = flat.max(axis=1) - lows
    spans[spans < TINY] = 1
    means = flat.mean(axis=1, dtype=np.float64)
    order = np.argsort((means - lows) / spans, kind="stable")
    lows, spans, means = lows[order], spans[order], means[order]
    covariance = np.zeros((len(flat), len(flat)))
    run = max(1, PRODUCT // len(flat) ** 2)
    for first in range(0, flat.shape[1], run):
        part = flat[order, first : first + run] - means[:, None]  # [E, n] float64
        covariance += part @ part.T
    covariance /= flat.shape[1] * np.outer(spans, spans)
    return _Moments(order=order, lows=lows, spans=spans, means=(means - lows) / spans, covariance=covariance)


def _solve(moments: _Moments) -> Floats:
    """Return the scales [E] of the ordered members, scaled to [0, 1], that minimize the pair terms."""
    count = len(moments.means)
    deviations = np.sqrt(np.diag(moments.covariance))

    def cost(scales: Floats) -> tuple[float, Floats]:
        pairs, slope = moments.pairs(scales)
        total = max(float(deviations @ scales), TINY)
        return pairs / total, slope / total - deviations * (pairs / total**2)

    found = minimize(
        cost,
        np.ones(count),
        jac=True,
        method="L-BFGS-B",
        bounds=[(LEAST_SCALE, None)] * count,
        options={"ftol": 1e-14, "gtol": 1e-10, "maxiter": 500},
    )
    scales: Floats = found.x / max(float(deviations @ found.x), TINY)
    return scales


def _affine(moments: _Moments, scales: Floats) -> tuple[Floats, Floats]:
    """Return scales and shifts [E] of the members as they are, in their given order; all means are 0."""
    original_scales, original_shifts = np.empty_like(scales), np.empty_like(scales)
    original_scales[moments.order] = scales / moments.spans
    original_shifts[moments.order] = -scales * (moments.means + moments.lows / moments.spans)
    return original_scales, original_shifts


def _aligned(members: Members, moments: _Moments, *, scales: Floats) -> Iterator[tuple[slice, Members]]:
    """Yield runs of pixels with the aligned members there, float32 [E, n]."""
    flat = members.reshape(len(members), -1)  # [E, H * W]
    scale, shift = (part.astype(np.float32)[:, None] for part in _affine(moments, scales))
    for first in range(0, flat.shape[1], CHUNK):
        pixels = slice(first, min(first + CHUNK, flat.shape[1]))
        yield pixels, flat[:, pixels] * scale + shift


Comparators = tuple[tuple[int, int, bool, bool], ...]  # low row, high row, is the low needed, is the high


def lower_median(rows: NDArray[Any]) -> NDArray[Any]:
    """Return the lower median over rows [E, N] as [N], as torch.median does; `rows` is used as scratch space.

    For an even number of rows it is the lower of the two in the middle, so it is always one of the values.
    """
    table = list(rows)
    spare = np.empty_like(table[0])  # [N]
    for low, high, needs_low, needs_high in median_network(len(table)):
        if needs_low and needs_high:
            np.minimum(table[low], table[high], out=spare)
            np.maximum(table[low], table[high], out=table[high])
            table[low], spare = spare, table[low]
        elif needs_low:
            np.minimum(table[low], table[high], out=table[low])
        else:
            np.maximum(table[low], table[high], out=table[high])
    median: NDArray[Any] = table[(len(table) - 1) // 2]
    return median


@lru_cache
def median_network(count: int) -> Comparators:
    """Return Batcher's odd-even merge sort of `count` rows without what the lower median does not need."""
    steps: list[tuple[int, int, bool, bool]] = []
    needed = {(count - 1) // 2}
    for low, high in reversed(_sorting_network(count)):
        if low in needed or high in needed:
            steps.append((low, high, low in needed, high in needed))
            needed |= {low, high}
    return tuple(reversed(steps))


def _sorting_network(count: int) -> list[tuple[int, int]]:
    """Return Batcher's odd-even merge sort (Knuth, The Art of Computer Programming 3, algorithm 5.2.2 M)."""
    steps: list[tuple[int, int]] = []
    top = 1 << max(0, (count - 1).bit_length() - 1)
    p = top
    while p > 0:
        q, r, distance = top, 0, p
        while distance > 0:
            steps += [(i, i + distance) for i in range(count - distance) if i & p == r]
            distance, q, r = q - p, q >> 1, p
        p >>= 1
    return steps
