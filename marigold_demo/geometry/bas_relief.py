"""The bas-relief operator: depth compressed into a few millimeters that still read at arm's length.

Heights are a monotone tone curve of nearness, which keeps the order of depth, plus detail from the gradient
domain: gradients attenuated as in Weyrich et al., "Digital bas-relief from 3D scenes" (2007), eq. 2, and
integrated in the bands of two feature sizes only, so that no large form can stand the wrong way round.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import scipy.fft
import scipy.ndimage
from numpy.typing import NDArray

TAILS = (0.05, 99.95)  # percentiles of nearness that become the lowest and the highest point
FINISH = (0.1, 99.9)  # the same of the heights with their detail
ASSUMED_RANGE = 0.4  # depth range of a scene as a share of its long side
ATTENUATION = 20.0  # alpha: slopes well above 1/alpha are attenuated
GAIN = 64.0  # of attenuated detail, in nearness
STRONGEST = 0.12  # most that detail raises or lowers, as a share of the relief
DEEPEST = np.float32(0.6)  # most that it lowers, as a share of the height there: nothing sinks to the sky
SECOND_SCALE = 0.25  # the second feature size, as a share of the first
DENSITY = (0.15, 2.5)  # slope limits of the tone curve, relative to that of linear heights
FAR = 0.05  # about this nearness detail fades out, and up to twice it the tone curve never magnifies: sky
TILTED = 0.8  # share of the variance from which one plane counts as a tilt of the whole picture
MOST_AUTOMATIC = 0.4  # share of the tilt that is then taken out
_BINS = 256
_LEVELS = 2**14  # steps of a curve: 0.3 micrometers of a relief of 5 mm
_SAMPLES = 1e5

Grid = NDArray[np.float32]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Tilt:
    """The plane that fits nearness best.

    Attributes:
        across, down: Its rise from the first to the last column, and row.
        share: Share of the variance of nearness that it explains, from 0 to 1.
    """

    across: float
    down: float
    share: float

    def automatic_level(self) -> float:
        """Return the share of the tilt to take out where nobody chose one: none, unless it is nearly all."""
        return MOST_AUTOMATIC * max(0.0, self.share - TILTED) / (1 - TILTED)


def compress(
    nearness: Grid,
    *,
    detail: float,
    feature_scale: float,
    level: float = 0.0,
    tilt: Tilt | None = None,
    kept: Mask | None = None,
) -> Grid:
    """Return heights that keep the order of depth and bring out its forms.

    Scale and shift of nearness change nothing.

    Args:
        nearness: float32 [R, C], larger is nearer.
        detail: 0 gives linear heights; 1 the whole tone curve and the strongest detail.
        feature_scale: Size of the largest features that become detail is half of this share of the long side.
        level: Share of the tilt that is taken out first, from 0 to 1.
        tilt: The plane of `fit_tilt`; fitted here where it is needed and not given.
        kept: bool [R, C], the samples that count for ranges and curves; all by default.

    Returns:
        Heights float32 [R, C] in [0, 1]; constant nearness gives 0.5 everywhere.
    """
    if not np.ptp(nearness) > 0:
        return unit_range(nearness)
    level_nearness = nearness
    if level > 0:
        level_nearness = _leveled(nearness, tilt or fit_tilt(nearness, kept=kept), level)
    if detail == 0:
        return unit_range(level_nearness)
    near = _stretched(nearness, TAILS, kept)
    base, place = near, _indices(near)
    if level > 0:
        base = _stretched(level_nearness, TAILS, kept)
    toned = _tone_curve(base, kept)[_indices(base) if level > 0 else place]
    heights = base + np.float32(min(1.0, 2 * detail)) * (toned - base)
    added = detail_bands(near, feature_scale=feature_scale)
    added *= np.float32(GAIN / STRONGEST)
    np.tanh(added, out=added)
    added *= _far_fade()[place]
    added *= np.float32(detail * STRONGEST)
    heights += np.maximum(added, -DEEPEST * heights)
    return unit_range(_stretched(heights, FINISH, kept))


def fit_tilt(nearness: Grid, *, kept: Mask | None = None) -> Tilt:
    """Fit a plane to nearness [R, C] by least squares, on some 100,000 samples."""
    stride = _stride(nearness)
    values = nearness[::stride, ::stride]
    counted = np.ones(values.shape, dtype=bool) if kept is None else kept[::stride, ::stride]
    if counted.sum() < 3:
        return Tilt(0, 0, 0)
    rows, columns = np.nonzero(counted)
    x, y = columns / max(values.shape[1] - 1, 1) - 0.5, rows / max(values.shape[0] - 1, 1) - 0.5
    z = values[counted].astype(np.float64)
    covariance = np.cov(np.stack([x, y, z]), bias=True)  # [3, 3]
    slope = np.linalg.pinv(covariance[:2, :2]) @ covariance[:2, 2]
    variance = float(covariance[2, 2])
    explained = float(slope @ covariance[:2, 2])
    return Tilt(float(slope[0]), float(slope[1]), explained / variance if variance > 0 else 0)


def detail_bands(nearness: Grid, *, feature_scale: float) -> Grid:
    """Return the detail of nearness in the bands of two feature sizes, mean 0.

    With f = S D n, g' = grad f log(1 + alpha |grad f|) / (alpha |grad f|) and mirrored borders, it is the sum
    over the two sizes L of the h that minimizes |grad h - g'|^2 + (2 pi / (L S))^2 |h|^2, divided by S D.

    Args:
        nearness: float32 [R, C] in [0, 1].
        feature_scale: L is half of this for the first size, and `SECOND_SCALE` of that for the second.

    Returns:
        float32 [R, C], in units of nearness.
    """
    longest = max(nearness.shape)
    form = nearness * np.float32(longest * ASSUMED_RANGE)  # [R, C] f
    across, down = gradient(form)
    attenuate(across, down, ATTENUATION)
    first = feature_scale / 2
    bands = integrate(across, down, sizes=(first, first * SECOND_SCALE))
    bands /= np.float32(longest * ASSUMED_RANGE)
    return bands


def gradient(values: Grid) -> tuple[Grid, Grid]:
    """Return the forward differences of values [R, C] across and down, 0 at the last column and row."""
    across, down = np.zeros_like(values), np.zeros_like(values)
    np.subtract(values[:, 1:], values[:, :-1], out=across[:, :-1])
    np.subtract(values[1:], values[:-1], out=down[:-1])
    return across, down


def attenuate(across: Grid, down: Grid, alpha: float) -> None:
    """Multiply a gradient, in place, by log(1 + alpha |g|) / (alpha |g|): steep places lose most."""
    slope = np.sqrt(across * across + down * down) * np.float32(alpha)
    np.maximum(slope, np.float32(1e-6), out=slope)
    factor = np.log1p(slope) / slope  # 1 where there is no slope
    across *= factor
    down *= factor


def integrate(across: Grid, down: Grid, *, sizes: tuple[float, ...]) -> Grid:
    """Return the sum over sizes L of the h that minimizes |grad h - g|^2 + (2 pi / (L S))^2 |h|^2.

    Args:
        across: Gradient g to the right, float32 [R, C].
        down: Gradient downwards, float32 [R, C].
        sizes: Each L, as a share of the long side S.

    Returns:
        float32 [R, C], mean 0. Borders mirror, so cosine transforms make the Laplacian a product.
    """
    right = np.zeros_like(across)  # the divergence of g
    right[:, :-1] += across[:, :-1]
    right[:, 1:] -= across[:, :-1]
    right[:-1] += down[:-1]
    right[1:] -= down[:-1]
    spectrum = scipy.fft.dctn(right, type=2, overwrite_x=True, workers=2)
    spectrum *= _response(*right.shape, sizes)
    heights: Grid = scipy.fft.idctn(spectrum, type=2, overwrite_x=True, workers=2)
    return heights


def unit_range(heights: Grid) -> Grid:
    """Stretch to [0, 1] exactly; a constant becomes 0.5 everywhere."""
    low, high = heights.min(), heights.max()
    if not high > low:
        return np.full_like(heights, 0.5)
    stretched = (heights - low) / (high - low)
    within: Grid = np.clip(stretched, 0, 1, out=stretched)
    return within


@lru_cache(maxsize=4)
def _response(rows: int, columns: int, sizes: tuple[float, ...]) -> Grid:
    """Return the solution's spectrum over the divergence's, float32 [R, C]; 0 for the mean."""
    down, across = ((2 * np.cos(np.pi * np.arange(n) / n) - 2).astype(np.float32) for n in (rows, columns))
    laplacian = down[:, None] + across[None, :]  # at most 0
    response = np.zeros_like(laplacian)
    for size in sizes:
        response += 1 / (laplacian - np.float32((2 * np.pi / (size * max(rows, columns))) ** 2))
    response[0, 0] = 0
    response.flags.writeable = False
    return response


def _leveled(nearness: Grid, tilt: Tilt, level: float) -> Grid:
    rows, columns = nearness.shape
    x = np.linspace(-0.5, 0.5, columns, dtype=np.float32) * np.float32(level * tilt.across)
    y = np.linspace(-0.5, 0.5, rows, dtype=np.float32) * np.float32(level * tilt.down)
    leveled: Grid = nearness - x[None, :] - y[:, None]
    return leveled


def _tone_curve(near: Grid, kept: Mask | None) -> Grid:
    """Return the cumulative histogram of near [R, C], whose density is kept within limits: float32 [_LEVELS].

    So large areas get height, and neither gaps at depth jumps nor crowded planes take it all.
    """
    place = np.clip(_sample(near, kept).ravel() * _BINS - 0.5, 0, _BINS - 1)  # in bins, from center to center
    first = np.minimum(place.astype(np.intp), _BINS - 2)
    share = place - first  # of the second bin: no value jumps from one bin to the next
    counts = np.bincount(first, 1 - share, _BINS) + np.bincount(first + 1, share, _BINS)
    density = scipy.ndimage.gaussian_filter1d(counts * (_BINS / counts.sum()), 2, mode="nearest")
    density = np.clip(density, *DENSITY)
    far = slice(0, round(2 * FAR * _BINS))
    for _ in range(8):  # until its own mean, which is 1 in the end, no longer lifts it above 1
        density /= density.mean()
        density[far] = np.minimum(density[far], 1)
    edges = np.concatenate([[0], np.cumsum(density)])
    curve = np.interp(np.linspace(0, 1, _LEVELS), np.linspace(0, 1, _BINS + 1), edges / edges[-1])
    tones: Grid = curve.astype(np.float32)
    return tones


def _indices(near: Grid) -> NDArray[np.int32]:
    """Return which of `_LEVELS` values from 0 to 1 is nearest: int32 [R, C]."""
    levels: NDArray[np.int32] = (near * np.float32(_LEVELS - 1) + np.float32(0.5)).astype(np.int32)
    return levels


def _far_fade() -> Grid:
    """Return 0 up to a nearness of `FAR` / 2, 1 from one and a half `FAR` on, smooth between: [_LEVELS]."""
    t = np.clip(np.linspace(0, 1, _LEVELS) / FAR - 0.5, 0, 1)
    faded: Grid = (t * t * (3 - 2 * t)).astype(np.float32)
    return faded


def _stretched(values: Grid, tails: tuple[float, float], kept: Mask | None) -> Grid:
    """Return values with two percentiles brought to 0 and 1 and the rest cut off there."""
    sample = _sample(values, kept)
    low, high = np.percentile(sample, tails)
    if not high > low:
        low, high = sample.min(), sample.max()
    if not high > low:
        return unit_range(values)
    stretched = (values - np.float32(low)) / np.float32(high - low)
    within: Grid = np.clip(stretched, 0, 1, out=stretched)
    return within


def _sample(values: Grid, kept: Mask | None) -> Grid:
    stride = _stride(values)
    sample = values[::stride, ::stride]
    if kept is not None and kept[::stride, ::stride].any():
        sample = sample[kept[::stride, ::stride]]
    return sample


def _stride(values: Grid) -> int:
    return max(1, int((values.size / _SAMPLES) ** 0.5))
