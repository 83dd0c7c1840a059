"""What is measured between aligned depth and ground truth. Knows nothing of files or predictors."""

import numpy as np
from numpy.typing import NDArray
from scipy import stats

DELTA1 = 1.25


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
