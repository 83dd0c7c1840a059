"""What a run will cost, told before it begins. Knows nothing of networks or of who is told."""

from dataclasses import dataclass
from typing import Protocol

from marigold_demo.settings import DepthSettings


@dataclass(frozen=True)
class Advice:
    """The price of one prediction on this machine.

    Attributes:
        seconds: Time in the networks once they are loaded; None while nothing was measured.
        memory_bytes: Peak memory of the networks, weights included; None while unknown.
        download_bytes: What has to be fetched first; 0 when the weights are on this machine; None where they
            are not and nobody here knows how large they are.
        limit_s: Most time in the networks that this server gives one prediction; None: no limit.
    """

    seconds: float | None = None
    memory_bytes: int | None = None
    download_bytes: int | None = 0
    limit_s: float | None = None


class Advisor(Protocol):
    """Something that foresees the price of a prediction; quick, and never starts a download."""

    def __call__(self, size: tuple[int, int], settings: DepthSettings, /) -> Advice:
        """Foresee the price for a photo of this width and height in pixels."""
        ...
