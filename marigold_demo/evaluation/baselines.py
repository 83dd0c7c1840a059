"""Predictors that look at nothing: what any real one must beat. Know neither networks nor ground truth."""

from collections.abc import Iterator

import numpy as np

from marigold_demo.depth import DepthMap
from marigold_demo.io.photo import Photo
from marigold_demo.progress import Progress
from marigold_demo.settings import DepthSettings


def rows_only(photo: Photo, settings: DepthSettings) -> Iterator[Progress | DepthMap]:
    """Predict "farther towards the top": 1 in the top row, 0 in the bottom one, straight between."""
    height, width = photo.rgb.shape[:2]
    rows = np.linspace(1, 0, height, dtype=np.float32)  # [H]
    yield DepthMap(np.repeat(rows[:, None], width, axis=1))


def constant(photo: Photo, settings: DepthSettings) -> Iterator[Progress | DepthMap]:
    """Predict the same depth everywhere; after alignment that is the mean of the ground truth."""
    yield DepthMap(np.full(photo.rgb.shape[:2], 0.5, dtype=np.float32))


BASELINES = {"rows-only": rows_only, "constant": constant}
