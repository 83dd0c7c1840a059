"""What the command line does with checkpoints: predict, train, evaluate. Torch is imported late."""

import argparse
from collections.abc import Iterator
from typing import TYPE_CHECKING

from marigold_demo.cli.flags import choices_of, from_flags
from marigold_demo.cli.outbox import Outbox
from marigold_demo.cli.terminal import answer, line
from marigold_demo.depth import DepthMap
from marigold_demo.errors import SettingsError
from marigold_demo.io.photo import Photo
from marigold_demo.progress import Progress
from marigold_demo.settings import DepthSettings
from marigold_demo.training.settings import TrainSettings
from marigold_demo.workflow import Predictor

if TYPE_CHECKING:
    from marigold_demo.training.train import TrainProgress


def load_predictor() -> Predictor:
    """Return the networks' predictor; torch is imported when it is first asked."""

    def predict(photo: Photo, settings: DepthSettings) -> Iterator[Progress | DepthMap]:
        from marigold_demo.network.checkpoint import predict as real

        yield from real(photo, settings)

    return predict


def train(said: argparse.Namespace, predict: Predictor | None) -> None:
    """Train, or go on with a training, and print where the checkpoint is."""
    from marigold_demo.training.train import train as run_training

    settings = from_flags(said, TrainSettings())
    with line("train") as shown:

        def on_progress(moment: "TrainProgress") -> None:
            shown.show(f"{moment.stage}, loss {moment.loss:.4f},", moment.step, moment.steps)

        checkpoint = run_training(settings, on_progress)
    answer(checkpoint)


def evaluate(said: argparse.Namespace, predict: Predictor | None) -> None:
    """Score a predictor on all images under a folder, print the table, and write it where asked."""
    from marigold_demo.evaluation import evaluate as scoring
    from marigold_demo.evaluation.evaluate import BASELINES
    from marigold_demo.evaluation.table import ResultsCsv, as_json, as_text

    settings = from_flags(said, DepthSettings())
    if said.output and said.output.suffix != ".json":
        raise SettingsError(f"output is {said.output}; its name must end in .json (a .csv is put beside it).")
    if said.resume and not said.output:
        raise SettingsError("resume goes on with the .csv beside --output; name the output too.")
    if said.every < 1:
        raise SettingsError(f"every is {said.every}; it must be at least 1.")
    samples = scoring.find_samples(said.root)
    if said.only:
        wanted = choices_of(said.only, {sample.source: None for sample in samples}, name="only")
        samples = tuple(sample for sample in samples if sample.source in wanted)
    samples = samples[:: said.every]
    predictor = said.baseline or _label(settings)
    results = ResultsCsv(
        said.output and said.output.with_suffix(".csv"), predictor=predictor, resume=said.resume
    )
    scores = [results.known[sample.name] for sample in samples if sample.name in results.known]
    todo = [sample for sample in samples if sample.name not in results.known]
    predict = BASELINES[said.baseline] if said.baseline else predict or load_predictor()
    with line(predictor) as shown:
        for done, score in enumerate(scoring.score_all(predict, todo, settings), start=1):
            results.add(score)
            scores.append(score)
            shown.show(score.name, done, len(todo))
    means = scoring.means(scores)
    answer(as_text(means, predictor=predictor))
    if said.output:
        Outbox(said.output.parent).put(said.output.name, as_json(means, predictor=predictor))


def _label(settings: DepthSettings) -> str:
    """Return checkpoint and all other settings in one line."""
    values = vars(settings)
    others = (
        f"{name} {value}" for name, value in values.items() if name != "checkpoint" and value is not None
    )
    return ", ".join((settings.checkpoint, *others))
