"""One photo with its depth, and what counts as too far in it."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

FAR_MEDIANS, LEAST_FAR_MEDIANS = 4.0, 2.0  # a picture ends at so many medians of its depth, ...
FAR_LIMITS_M = 25.0, 100.0  # ... within these limits, which give way to the lower number of medians


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
        sample: Depth in meters.
    """
    if not sample.valid.any():
        return sample
    middle = float(np.median(sample.depth[sample.valid]))
    limit = max(float(np.clip(FAR_MEDIANS * middle, *FAR_LIMITS_M)), LEAST_FAR_MEDIANS * middle)
    beyond = sample.valid & (sample.depth > limit)
    return replace(sample, valid=sample.valid & ~beyond, sky=sample.sky | beyond)
