"""The bas-relief operator: compresses the range of depth and keeps its detail.

Gradients are attenuated as in Weyrich et al., "Digital bas-relief from 3D scenes" (2007), eq. 2, and
integrated by a screened Poisson equation, which keeps a part of the true order of depth.
"""

import numpy as np
import scipy.fft
from numpy.typing import NDArray

ATTENUATION = 10.0  # alpha: slopes well above 1/alpha are attenuated
ASSUMED_RANGE = 0.4  # depth range of a scene as a share of its long side
ORDER = 0.02  # beta: how much of the true depth stays beside the detail
TAILS = (0.05, 99.95)  # percentiles that become the lowest and the highest point

Grid = NDArray[np.float32]


def compress(nearness: Grid, *, detail: float, feature_scale: float) -> Grid:
    """Blend linear heights with detail-preserving heights.

    Args:
        nearness: float32 [R, C] in [0, 1], 1 near.
        detail: 0 gives the linear heights, 1 the detail-preserving heights.
        feature_scale: Size of the features that are flattened, as a share of the long side.

    Returns:
        Heights float32 [R, C]; they span [0, 1] exactly unless nearness is constant.
    """
    if detail == 0 or not np.ptp(nearness) > 0:
        return unit_range(nearness)
    heights = _clip_tails(screened(nearness, feature_scale=feature_scale))
    heights *= np.float32(detail)
    heights += np.float32(1 - detail) * nearness
    return unit_range(heights)


def screened(nearness: Grid, *, feature_scale: float) -> Grid:
    """Solve for heights with the attenuated gradients.

    Minimizes |grad h - g'|^2 + lambda |h - beta f|^2 for f = S D n with mirrored borders, where
    g' = grad f log(1 + alpha |grad f|) / (alpha |grad f|) and lambda = (2 pi / (feature_scale S))^2.

    Returns:
        Heights float32 [R, C] in samples; zero and scale are arbitrary.
    """
    longest = max(nearness.shape)
    form = nearness * np.float32(longest * ASSUMED_RANGE)  # [R, C] f
    across, down = _attenuated(form)
    screen = np.float32((2 * np.pi / (feature_scale * longest)) ** 2)
    right = form * (-screen * np.float32(ORDER))
    right[:, :-1] += across[:, :-1]
    right[:, 1:] -= across[:, :-1]
    right[:-1] += down[:-1]
    right[1:] -= down[:-1]
    return _solve(right, screen)


def _attenuated(form: Grid) -> tuple[Grid, Grid]:
    across, down = np.zeros_like(form), np.zeros_like(form)
    np.subtract(form[:, 1:], form[:, :-1], out=across[:, :-1])
    np.subtract(form[1:], form[:-1], out=down[:-1])
    slope = np.sqrt(across * across + down * down) * np.float32(ATTENUATION)
    np.maximum(slope, np.float32(1e-6), out=slope)
    factor = np.log1p(slope) / slope  # 1 where there is no slope
    across *= factor
    down *= factor
    return across, down


def _solve(right: Grid, screen: np.float32) -> Grid:
    """Solve (laplacian - screen) h = right by cosine transforms, which mirror at the borders."""
    spectrum = scipy.fft.dctn(right, type=2, overwrite_x=True, workers=2)
    down, across = (_second_difference(n) for n in right.shape)
    spectrum /= down[:, None] + across[None, :] - screen
    heights: Grid = scipy.fft.idctn(spectrum, type=2, overwrite_x=True, workers=2)
    return heights


def _second_difference(n: int) -> NDArray[np.float32]:
    return (2 * np.cos(np.pi * np.arange(n) / n) - 2).astype(np.float32)


def _clip_tails(heights: Grid) -> Grid:
    stride = max(1, int((heights.size / 1e5) ** 0.5))
    low, high = np.percentile(heights[::stride, ::stride], TAILS)
    if high - low <= 0:
        low, high = heights.min(), heights.max()
    if high - low <= 0:
        return np.zeros_like(heights)
    clipped: Grid = np.clip((heights - np.float32(low)) / np.float32(high - low), 0, 1)
    return clipped


def unit_range(heights: Grid) -> Grid:
    """Stretch to [0, 1] exactly; a constant becomes 0.5 everywhere."""
    low, high = heights.min(), heights.max()
    if not high > low:
        return np.full_like(heights, 0.5)
    stretched = (heights - low) / (high - low)
    within: Grid = np.clip(stretched, 0, 1, out=stretched)
    return within
