"""DepthMap: affine-invariant depth with its uncertainty. Knows nothing of files, photos or models."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Depth = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class DepthMap:
    """Depth that is known up to one scale and one shift.

    Attributes:
        values: float32 [H, W] in [0, 1], 0 near, 1 far; read-only.
        uncertainty: float32 [H, W] >= 0, the median absolute deviation of the members after alignment in the
            units of `values`; None where there was one member only. Read-only.
        revision: Of the checkpoint that made it: the hub's commit or a digest of its weights; None where no
            checkpoint did.
        device: What computed it, such as "CPU (AVX512, 2 threads, float32)"; None where not known. Only the
            same device gives the same bytes.
        notes: Sentences on what was done otherwise than wished for, such as a lower resolution.
    """

    values: Depth  # [H, W]
    uncertainty: Depth | None = None  # [H, W]
    revision: str | None = None
    device: str | None = None
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("values", "uncertainty"):
            array = getattr(self, name)
            if array is not None:
                object.__setattr__(self, name, _frozen(array, name))
        if self.uncertainty is not None and self.uncertainty.shape != self.values.shape:
            raise ValueError(f"uncertainty has shape {self.uncertainty.shape}, depth {self.values.shape}")

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels, the order Pillow uses."""
        height, width = self.values.shape
        return width, height

    def to_uint16(self) -> NDArray[np.uint16]:
        """Round depth to 16 bits: uint16 [H, W], 0 near, 65535 far."""
        return np.round(np.clip(self.values, 0, 1) * 65535).astype(np.uint16)

    @classmethod
    def from_uint16(cls, levels: NDArray[np.uint16]) -> "DepthMap":
        """Read 16-bit depth [H, W] back; exact to half a step."""
        return cls(values=levels.astype(np.float32) / np.float32(65535))


def _frozen(array: Depth, name: str) -> Depth:
    if array.ndim != 2 or not array.size:
        raise ValueError(f"{name} must be [H, W] with at least one pixel, not {array.shape}")
    copy = np.array(array, dtype=np.float32, order="C")
    copy.setflags(write=False)
    return copy
