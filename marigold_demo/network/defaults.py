"""What a checkpoint wants where the visitor does not choose. Knows nothing of networks."""

import math
from dataclasses import dataclass
from typing import Literal

Start = Literal["noise", "zeros"]
Outlines = Literal["network", "photo"]
USUAL_SHAPE = 4 / 3  # width : height of the photos that a resolution is meant for
MOST_LONGER = 2.0  # very long photos are seen with fewer pixels


@dataclass(frozen=True)
class Defaults:
    """What a checkpoint wants where the visitor does not choose.

    Attributes:
        steps: Denoising steps.
        resolution: Longest edge in pixels, of a 4:3 photo where `same_pixels` is set.
        same_pixels: Photos of every shape are seen with about as many pixels as a 4:3 photo; what is small in
            a panorama would vanish otherwise.
        ensemble: Predictions that are reduced to one.
        start: The first depth latent: Gaussian noise, or zeros for checkpoints tuned end to end.
        outlines: As the network draws them, or moved onto the photo's (see `guided`).
        prediction_type: What the decoded picture means; only "depth" is supported.
    """

    steps: int
    resolution: int
    start: Start = "noise"
    outlines: Outlines = "network"
    prediction_type: str = "depth"
    same_pixels: bool = False
    ensemble: int = 1

    def longest_edge(self, size: tuple[int, int]) -> int:
        """Return the longest edge in pixels at which a photo is seen; 0: its own.

        Args:
            size: Width and height of the photo, in either order.
        """
        if not self.same_pixels:
            return self.resolution
        longer = math.sqrt(max(size) / min(size) / USUAL_SHAPE)
        return round(self.resolution * min(longer, MOST_LONGER) / 8) * 8
