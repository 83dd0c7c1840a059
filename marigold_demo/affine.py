"""The scale and shift that affine-invariant depth leaves open: fit map to map. Knows nothing of files."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Affine:
    """The two free numbers: aligned = scale * depth + shift."""

    scale: float
    shift: float

    def __call__(self, depth: NDArray[Any]) -> NDArray[Any]:
        """Return `scale * depth + shift` in the array's own number format."""
        dtype = depth.dtype if np.issubdtype(depth.dtype, np.floating) else np.dtype(np.float64)
        return depth * dtype.type(self.scale) + dtype.type(self.shift)


def fit_affine(
    prediction: NDArray[Any], target: NDArray[Any], *, mask: NDArray[np.bool_] | None = None
) -> Affine:
    """Fit prediction to target by least squares, in float64.

    The closed form of eq. (9) of Ranftl et al., "Towards Robust Monocular Depth Estimation", TPAMI 2022, and
    the alignment of Marigold's evaluation (Ke et al., CVPR 2024, section 4.2).

    Args:
        prediction: Values of any shape.
        target: Values of the same shape.
        mask: Which of them count; None counts all.

    Returns:
        The affine map; scale 0 and the mean of the target where the prediction is constant.

    Raises:
        ValueError: Shapes differ, nothing is left to fit, or a counted value is not finite.
    """
    if prediction.shape != target.shape or (mask is not None and mask.shape != target.shape):
        raise ValueError(f"prediction {prediction.shape}, target {target.shape} and mask must have one shape")
    x = np.array(prediction if mask is None else prediction[mask], dtype=np.float64).ravel()
    y = np.array(target if mask is None else target[mask], dtype=np.float64).ravel()
    if not x.size:
        raise ValueError("no value is left to fit")
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise ValueError("a value that counts is not finite")
    if x.min() == x.max():
        return Affine(scale=0.0, shift=float(y.mean()))
    x_mean, y_mean = x.mean(), y.mean()
    x -= x_mean
    scale = float(x @ (y - y_mean) / (x @ x))
    return Affine(scale=scale, shift=float(y_mean - scale * x_mean))
