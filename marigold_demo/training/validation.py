"""AbsRel and delta1 of networks in training on folders of photos with known depth, and pictures of it."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from accelerate import Accelerator
from accelerate.utils import gather_object
from numpy.typing import NDArray
from PIL import Image

from marigold_demo.colormap import colorize
from marigold_demo.depth import Run
from marigold_demo.errors import DataError
from marigold_demo.evaluation.datasets import Sample
from marigold_demo.evaluation.evaluate import find_samples, fit_affine, means, score_all
from marigold_demo.network.pipeline import DepthPipeline
from marigold_demo.settings import DepthSettings
from marigold_demo.training import TrainSettings

SHOWN, SHOWN_PX = 6, 256  # pictures on a sheet, and their width


@dataclass(frozen=True)
class FolderScore:
    """Means over the sources of all folders."""

    abs_rel: float
    delta1: float


class FolderValidation:
    """Photos with known depth that networks are tried on while they train: one step, one member."""

    def __init__(self, samples: tuple[Sample, ...], settings: TrainSettings) -> None:
        """Take samples, whose depth must be known up to scale and shift at least."""
        self.samples = tuple(sample for sample in samples if not sample.ordinal)
        whole = settings.pictures != "crops"  # such networks see photos at their own size, as in the papers
        self.settings = DepthSettings(
            steps=1, ensemble=1, outlines="network", seed=settings.seed, resolution=0 if whole else None
        )

    def score(self, pipeline: DepthPipeline, accelerator: Accelerator) -> FolderScore:
        """Predict and score all photos, which the processes share; each calls it at the same time."""
        mine = self.samples[accelerator.process_index :: accelerator.num_processes]
        scores = list(score_all(pipeline, mine, self.settings))
        if accelerator.num_processes > 1:
            scores = gather_object(scores)
        last = means(scores)[-1]
        if last.abs_rel is None or last.delta1 is None:
            raise DataError("The photos of validate_on have no measured depth; name other folders.")
        return FolderScore(abs_rel=last.abs_rel, delta1=last.delta1)

    def sheet(self, pipeline: DepthPipeline) -> Image.Image:
        """Draw photo, measured and predicted depth of some photos, a row for each."""
        step = max(1, len(self.samples) // SHOWN)
        rows = [self._row(pipeline, sample) for sample in self.samples[::step][:SHOWN]]
        sheet = Image.new("RGB", (3 * SHOWN_PX, sum(row.height for row in rows)))
        top = 0
        for row in rows:
            sheet.paste(row, (0, top))
            top += row.height
        return sheet

    def _row(self, pipeline: DepthPipeline, sample: Sample) -> Image.Image:
        pair = sample.read()
        predicted = pipeline(pair.photo, self.settings, Run()).values  # [H, W]
        fitted = fit_affine(predicted, pair.depth, mask=pair.valid)(predicted)
        near, far = np.quantile(pair.depth[pair.valid], (0.02, 0.98))

        def colored(depth: NDArray[np.float32]) -> NDArray[np.uint8]:
            return colorize(np.clip((depth - near) / max(far - near, 1e-6), 0, 1).astype(np.float32))

        known = np.where(pair.valid[..., None], colored(pair.depth), 0).astype(np.uint8)
        cells = (pair.photo.rgb, known, colored(fitted))
        height = round(SHOWN_PX * pair.depth.shape[0] / pair.depth.shape[1])
        row = Image.new("RGB", (3 * SHOWN_PX, height))
        for place, cell in enumerate(cells):
            row.paste(Image.fromarray(cell).resize((SHOWN_PX, height)), (place * SHOWN_PX, 0))
        return row


def open_validation(settings: TrainSettings) -> FolderValidation | None:
    """Open what TrainSettings.validate_on names; None where it names nothing.

    Raises:
        DataError: A folder holds nothing to evaluate on, or no measured depth.
    """
    folders = [Path(part.strip()) for part in settings.validate_on.split(",") if part.strip()]
    if not folders:
        return None
    samples: Iterable[Sample] = [sample for folder in folders for sample in find_samples(folder)]
    found = FolderValidation(tuple(samples), settings)
    if not found.samples:
        raise DataError(f"{settings.validate_on} has no photo with measured depth; name other folders.")
    return found
