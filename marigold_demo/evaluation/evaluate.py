"""Images and a predictor -> one score per image, and their means.

The protocol of Marigold (Ke et al., CVPR 2024, section 4.1; script/depth/eval.py of its repository): scale
and shift by least squares on the valid pixels of each image, clip to the data set's range, AbsRel, delta1.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from marigold_demo.depth import DepthMap, Run
from marigold_demo.errors import DataError
from marigold_demo.evaluation.datasets import (
    BENCHMARKS,
    MANIFEST,
    Pair,
    Sample,
    benchmark_samples,
    folder_samples,
)
from marigold_demo.io.photo import Photo
from marigold_demo.settings import DepthSettings

DELTA1 = 1.25


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


def abs_rel(aligned: NDArray[np.floating], truth: NDArray[np.floating]) -> float:
    """Return the mean of |aligned - truth| / truth over values [P] of any shape; truth > 0."""
    return float(np.mean(np.abs(aligned - truth) / truth))


def delta1(aligned: NDArray[np.floating], truth: NDArray[np.floating]) -> float:
    """Return the share of values [P] with max(aligned / truth, truth / aligned) < 1.25; both > 0."""
    return float(np.mean(np.maximum(aligned / truth, truth / aligned) < DELTA1))


def spearman(prediction: NDArray[np.floating], truth: NDArray[np.floating]) -> float:
    """Return the rank correlation of values [P], ties sharing their mean rank; 0 where either is constant."""
    ranks = [stats.rankdata(values, axis=None) for values in (prediction, truth)]
    x, y = (rank - rank.mean() for rank in ranks)
    spread = float(np.sqrt((x @ x) * (y @ y)))
    return float(x @ y) / spread if spread > 0 else 0.0


def rows_only(photo: Photo, settings: DepthSettings, run: Run) -> DepthMap:
    """Predict "farther towards the top": 1 in the top row, 0 in the bottom one, straight between."""
    height, width = photo.rgb.shape[:2]
    rows = np.linspace(1, 0, height, dtype=np.float32)  # [H]
    return DepthMap(np.repeat(rows[:, None], width, axis=1))


def constant(photo: Photo, settings: DepthSettings, run: Run) -> DepthMap:
    """Predict the same depth everywhere; after alignment that is the mean of the ground truth."""
    return DepthMap(np.full(photo.rgb.shape[:2], 0.5, dtype=np.float32))


BASELINES = {"rows-only": rows_only, "constant": constant}


Predict = Callable[[Photo, DepthSettings, Run], DepthMap]
_LEAST_DEPTH = 1e-6
_MOST_RANKED = 1_000_000


@dataclass(frozen=True)
class Score:
    """What one image got; AbsRel and delta1 are None where only the order of depths is known."""

    name: str
    source: str
    abs_rel: float | None
    delta1: float | None
    spearman: float


@dataclass(frozen=True)
class Mean:
    """Means over the images of one source, or over sources.

    Attributes:
        source: The source, or what the sources have in common.
        images: How many images `spearman` is a mean of.
        measured: How many of them have metric depth: AbsRel and delta1 are means over these.
    """

    source: str
    images: int
    measured: int
    abs_rel: float | None
    delta1: float | None
    spearman: float


def find_samples(root: Path | str) -> tuple[Sample, ...]:
    """Return the samples under a folder: its manifest's, else those of the paper's five data sets.

    Raises:
        DataError: There is neither, or what is there is not as expected.
    """
    root = Path(root)
    if (root / MANIFEST).is_file():
        return folder_samples(root)
    samples = benchmark_samples(root) if root.is_dir() else ()
    if not samples:
        names = ", ".join(benchmark.name for benchmark in BENCHMARKS)
        raise DataError(
            f"{root} holds nothing to evaluate on; it needs a {MANIFEST} with the columns name, rgb, depth "
            f"and source, or one of the folders {names} as Marigold's authors publish them."
        )
    return samples


def score_all(predict: Predict, samples: Iterable[Sample], settings: DepthSettings) -> Iterator[Score]:
    """Predict and score one image after the other; each data set's own processing resolution is the default.

    Raises:
        DataError: An image or its depth cannot be read; names the file.
    """
    for sample in samples:
        pair = sample.read()
        prediction = predict(pair.photo, _settings_for(sample, settings), Run())
        yield score(prediction.values, pair, sample=sample)


def score(prediction: NDArray[np.float32], pair: Pair, *, sample: Sample) -> Score:
    """Align one prediction [H, W] and measure it; ordinal depth gets rank correlation only."""
    truth = pair.depth[pair.valid].astype(np.float64)  # [P]
    values = prediction[pair.valid].astype(np.float64)  # [P]
    step = -(-truth.size // _MOST_RANKED)  # sorting tens of millions would take longer than the network
    ranks = spearman(values[::step], truth[::step])
    if sample.ordinal:
        return Score(sample.name, sample.source, None, None, ranks)
    chosen = _grid(pair.valid.shape, long_side=sample.protocol.align_px)
    affine = fit_affine(prediction[chosen], pair.depth[chosen], mask=pair.valid[chosen])
    aligned = np.clip(affine(values), sample.protocol.min_depth, sample.protocol.max_depth)
    aligned = np.maximum(aligned, _LEAST_DEPTH)
    return Score(sample.name, sample.source, abs_rel(aligned, truth), delta1(aligned, truth), ranks)


def means(scores: Iterable[Score]) -> tuple[Mean, ...]:
    """Return the mean over images per source, in order of appearance, and last the mean of the sources."""
    groups: dict[str, list[Score]] = {}
    for one in scores:
        groups.setdefault(one.source, []).append(one)
    sources = tuple(_mean(source, group) for source, group in groups.items())
    if not sources:
        return ()
    images, measured = sum(m.images for m in sources), sum(m.measured for m in sources)
    return (
        *sources,
        Mean(
            source="mean of sources",
            images=images,
            measured=measured,
            abs_rel=_average([m.abs_rel for m in sources]),
            delta1=_average([m.delta1 for m in sources]),
            spearman=float(np.mean([m.spearman for m in sources])),
        ),
    )


def _mean(source: str, group: list[Score]) -> Mean:
    return Mean(
        source=source,
        images=len(group),
        measured=sum(one.abs_rel is not None for one in group),
        abs_rel=_average([one.abs_rel for one in group]),
        delta1=_average([one.delta1 for one in group]),
        spearman=float(np.mean([one.spearman for one in group])),
    )


def _average(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def _settings_for(sample: Sample, settings: DepthSettings) -> DepthSettings:
    if settings.resolution is not None or sample.protocol.resolution is None:
        return settings
    return replace(settings, resolution=sample.protocol.resolution)


def _grid(shape: tuple[int, ...], *, long_side: int | None) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return the rows and columns of a nearest-neighbor reduction to a long side; all where it is short."""
    share = min(1.0, long_side / max(shape)) if long_side else 1.0
    counts = (int(side * share + 1e-9) for side in shape)
    rows, columns = (np.floor(np.arange(count) / share).astype(np.intp) for count in counts)
    return np.ix_(rows, columns)  # type: ignore[return-value]
