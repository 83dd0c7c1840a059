"""What a checkpoint wants where the visitor does not choose. Knows nothing of networks."""

from dataclasses import dataclass
from typing import Literal

Start = Literal["noise", "zeros"]
Outlines = Literal["network", "photo"]


@dataclass(frozen=True)
class Defaults:
    """What a checkpoint wants where the visitor does not choose.

    Attributes:
        steps: Denoising steps.
        resolution: Longest edge in pixels.
        start: The first depth latent: Gaussian noise, or zeros for checkpoints tuned end to end.
        outlines: As the network draws them, or moved onto the photo's (see `guided`).
        prediction_type: What the decoded picture means; only "depth" is supported.
    """

    steps: int
    resolution: int
    start: Start = "noise"
    outlines: Outlines = "network"
    prediction_type: str = "depth"
