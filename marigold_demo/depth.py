"""DepthMap: affine-invariant depth with its uncertainty. Progress and Run: one prediction under way."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from marigold_demo.catalog import Prediction
from marigold_demo.settings import DepthSettings

Depth = NDArray[np.float32]
FAR_NEAR = 10.0  # far : near of disparity that is shown as depth, whose shift no one knows
_FIT_PIXELS = 40_000
# Those that are tried of a depth whose own is not known.
_FAR_NEARS = np.geomspace(1.1, 100, 60).tolist()


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
        notes: Sentences on what was done otherwise than asked for, such as a lower resolution.
        prediction: What the network predicts; `values` are depth whatever it is.
        meters: Distances of values 0 and 1 where the network predicts meters.
        fov_deg: Field of view of the long side where the network predicts it.
    """

    values: Depth  # [H, W]
    uncertainty: Depth | None = None  # [H, W]
    revision: str | None = None
    device: str | None = None
    notes: tuple[str, ...] = ()
    prediction: Prediction = "affine_depth"
    meters: tuple[float, float] | None = None
    fov_deg: float | None = None

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

    @property
    def far_near(self) -> float | None:
        """How many times farther value 1 is than value 0; None where the shift of the depth is not known."""
        if self.meters is not None:
            return self.meters[1] / self.meters[0]
        return FAR_NEAR if self.prediction == "affine_disparity" else None

    def to_uint16(self) -> NDArray[np.uint16]:
        """Round depth to 16 bits: uint16 [H, W], 0 near, 65535 far."""
        return np.round(np.clip(self.values, 0, 1) * 65535).astype(np.uint16)

    @classmethod
    def from_uint16(cls, levels: NDArray[np.uint16]) -> "DepthMap":
        """Read 16-bit depth [H, W] back; exact to half a step."""
        return cls(values=levels.astype(np.float32) / np.float32(65535))


def invert(values: Depth) -> Depth:
    """Turn disparity in [0, 1], 1 near, into depth in [0, 1], 0 near, of ratio FAR_NEAR; or back.

    Depth is 1 / (disparity + c), scaled to [0, 1]; c = 1 / (FAR_NEAR - 1). The inverse has the same form.
    """
    c = np.float32(1 / (FAR_NEAR - 1))
    return c * (1 - values) / (values + c)


def align(depth: DepthMap, onto: DepthMap) -> Depth:
    """Return a depth [H, W] on the scale of another one of the same photo, by least squares.

    It is scaled and shifted as its kind allows: disparity as 1 / distance, all else as depth. Where the
    far : near of `onto` is not known, disparity takes the one at which both agree best.

    Args:
        depth: Of the same shape as `onto`.
        onto: Its values in [0, 1] are the scale.
    """
    step = max(1, int((onto.values.size / _FIT_PIXELS) ** 0.5))
    some = (slice(step // 2, None, step),) * 2
    target, few = (one.values[some].astype(np.float64) for one in (onto, depth))
    if depth.prediction != "affine_disparity":
        scale, shift = _fit(few, target)
        return (scale * depth.values + shift).astype(np.float32)
    tried = _FAR_NEARS if onto.far_near is None else [max(onto.far_near, 1.01)]
    few = invert(depth.values[some]).astype(np.float64)
    found = [(far_near, *_fit(few, 1 / (1 + (far_near - 1) * target))) for far_near in tried]
    far_near, scale, shift = min(
        found, key=lambda fit: float(np.mean((_from_inverse(fit[1] * few + fit[2], fit[0]) - target) ** 2))
    )
    return _from_inverse(scale * invert(depth.values) + shift, far_near).astype(np.float32)


def _fit(values: NDArray[np.float64], target: NDArray[np.float64]) -> tuple[float, float]:
    """Return scale > 0 and shift; where least squares would turn near and far, of equal spread."""
    centered, wanted = values - values.mean(), target - target.mean()
    power, product = float((centered**2).mean()), float((centered * wanted).mean())
    scale = product / power if power > 0 else 0.0
    if scale <= 0 and power > 0:
        scale = (float((wanted**2).mean()) / power) ** 0.5
    return scale, float(target.mean() - scale * values.mean())


def _from_inverse(inverse: NDArray[Any], far_near: float) -> NDArray[Any]:
    """Return depth of 1 / distance, where depth 0 is at distance 1 and depth 1 at `far_near`."""
    depth: NDArray[Any] = (1 / np.maximum(inverse, 0.5 / far_near) - 1) / (far_near - 1)
    return depth


def _frozen(array: Depth, name: str) -> Depth:
    if array.ndim != 2 or not array.size:
        raise ValueError(f"{name} must be [H, W] with at least one pixel, not {array.shape}")
    if (
        array.dtype == np.float32
        and array.flags.c_contiguous
        and array.flags.owndata
        and not array.flags.writeable
    ):
        return array  # nobody can change it: another depth map's
    copy = np.array(array, dtype=np.float32, order="C")
    copy.setflags(write=False)
    return copy


@dataclass(frozen=True)
class Progress:
    """One moment of a prediction.

    Attributes:
        stage: What happens next: "encode", "denoise", "decode", "predict" or "align" in the networks; before
            them "wait" for one's turn, "download" of weights and "load" into memory.
        done: Network calls finished; in "download", megabytes that are here.
        total: Network calls in all, the same throughout one prediction; in "download", megabytes in all; in
            "wait", how many are before this one; 0 where nothing can be counted.
    """

    stage: str
    done: int
    total: int


class CancelledError(Exception):
    """A prediction was canceled; it ended before its next network call."""


class Run:
    """One prediction as its caller follows it: progress comes out, a request to cancel goes in.

    Attributes:
        cancelled: Looked at before each network call; any thread may set it.
    """

    def __init__(self, on_progress: Callable[[Progress], None] | None = None) -> None:
        """Take what is called, in the prediction's thread, before each network call.

        Args:
            on_progress: An exception that it raises ends the prediction.
        """
        self._on_progress = on_progress
        self.cancelled = False

    def report(self, progress: Progress) -> None:
        """Report what happens next.

        Raises:
            CancelledError: The prediction was canceled.
        """
        if self._on_progress is not None and not self.cancelled:
            self._on_progress(progress)
        if self.cancelled:
            raise CancelledError


@dataclass(frozen=True)
class CheckpointStatus:
    """What is known of a prediction before it begins.

    Attributes:
        download_bytes: What has to be fetched first; 0 when the weights are on this machine; None where they
            are not and nobody here knows how large they are.
        last_s: Seconds in the networks of the last prediction with the same settings; None: there was none.
        limit_s: Most seconds in the networks that this server gives one prediction; None: no limit.
        reachable: False where the weights are not on this machine and the hub does not answer.
        permitted: False where this server does not run the checkpoint.
        has_gpu: A GPU makes the prediction.
    """

    download_bytes: int | None = 0
    last_s: float | None = None
    limit_s: float | None = None
    reachable: bool = True
    permitted: bool = True
    has_gpu: bool = False


# Returns the status for settings without a download; raises DemoError for a checkpoint that is not there.
StatusSource = Callable[[DepthSettings], CheckpointStatus]
