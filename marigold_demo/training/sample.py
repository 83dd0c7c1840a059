"""Sample: one photo with its depth, and depth in the range of the VAE. Knows nothing of files."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

FAR_CAP_M = 80.0  # Virtual KITTI's far plane in Ke et al. 2024
FAR_MEDIANS, LEAST_FAR_MEDIANS = 4.0, 2.0  # a picture ends at so many medians of its depth, ...
FAR_LIMITS_M = 25.0, 100.0  # ... within these limits, which give way to the lower number of medians
QUANTILES = (0.02, 0.98)


@dataclass(frozen=True, eq=False)
class Sample:
    """One photo with its depth.

    Attributes:
        photo: uint8 [H, W, 3].
        depth: float32 [H, W] > 0 where valid, in any unit.
        valid: bool [H, W], where depth is known; never sky.
        sky: bool [H, W].
    """

    photo: NDArray[np.uint8]
    depth: NDArray[np.float32]
    valid: NDArray[np.bool_]
    sky: NDArray[np.bool_]


def hide_far(sample: Sample) -> Sample:
    """Count what is much farther than most of the picture as sky: known to be far, and no more.

    Laser and stereo see no farther either. Without this the far end of a street, which is most of what depth
    spans and little of what there is, would press all that is near into a sliver. The limit follows from the
    picture, so that a network can know it.

    Args:
        sample: Depth in metres.
    """
    if not sample.valid.any():
        return sample
    middle = float(np.median(sample.depth[sample.valid]))
    limit = max(float(np.clip(FAR_MEDIANS * middle, *FAR_LIMITS_M)), LEAST_FAR_MEDIANS * middle)
    beyond = sample.valid & (sample.depth > limit)
    return replace(sample, valid=sample.valid & ~beyond, sky=sample.sky | beyond)


def normalise_depth(sample: Sample) -> NDArray[np.float32]:
    """Map depth to [-1, 1], its 2 % and 98 % quantiles to the ends (Ke et al. 2024, eq. (5)).

    Sky becomes 1. Unknown pixels become the mean of the known ones, so that the VAE has something to encode.

    Returns:
        float32 [H, W] in [-1, 1]; zeros where nothing is known.
    """
    known = sample.depth[sample.valid]
    if not known.size:
        return np.where(sample.sky, np.float32(1), np.float32(0))
    near, far = np.quantile(known, QUANTILES)
    scale = 2 / max(float(far - near), 1e-6 * max(abs(float(far)), 1e-6))
    normal = np.clip((sample.depth - np.float32(near)) * np.float32(scale) - 1, -1, 1)  # [H, W]
    normal = np.where(sample.valid, normal, normal[sample.valid].mean())
    return np.where(sample.sky, 1, normal).astype(np.float32)
