"""What each command does, from files to files. Knows neither flags' spelling nor how errors are told."""

import argparse
import json
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from marigold_demo.colormap import COLORMAPS, MOST_CONTOURS, colorize
from marigold_demo.command_line.flags import from_flags
from marigold_demo.command_line.outbox import Outbox
from marigold_demo.command_line.terminal import answer, line, say, tell
from marigold_demo.depth import DepthMap
from marigold_demo.errors import DepthFileError, PhotoError, SettingsError
from marigold_demo.files import export
from marigold_demo.geometry.relief import Relief
from marigold_demo.geometry.report import build_report
from marigold_demo.geometry.surface import Surface
from marigold_demo.presets import RELIEF_PRESETS
from marigold_demo.progress import Progress
from marigold_demo.reading import isolated
from marigold_demo.reading.depth_file import is_depth_file
from marigold_demo.reading.photo import Photo, safe_stem
from marigold_demo.recipe import Recipe
from marigold_demo.settings import DepthSettings, MeshSettings, ReliefSettings
from marigold_demo.training.train_settings import TrainSettings
from marigold_demo.workflow import (
    Predictor,
    Workflow,
    check_same_shape,
    colored_file,
    depth_files,
)

if TYPE_CHECKING:
    from marigold_demo.training.loop import TrainProgress


@dataclass(frozen=True)
class Writer:
    """One format of a relief: how the name ends, what makes its bytes, and whether a slicer takes it."""

    ending: str
    make: Callable[[Relief, Recipe], bytes]
    printable: bool = False


WRITERS = {
    "stl": Writer("stl", lambda relief, _: export.stl(relief), printable=True),
    "3mf": Writer("3mf", lambda relief, recipe: export.threemf(relief, recipe=recipe), printable=True),
    "obj": Writer("obj", lambda relief, _: export.obj(relief)),
    "ply": Writer("ply", lambda relief, _: export.ply(relief)),
    "glb": Writer("glb", lambda relief, recipe: export.preview_glb(relief, recipe=recipe)),
    "heightmap": Writer("png", lambda relief, recipe: export.heightmap_png(relief, recipe=recipe)),
}


@dataclass(frozen=True)
class Subject:
    """What a relief or mesh is made of."""

    depth: DepthMap
    photo: Photo | None
    stem: str
    recipe: Recipe


DECODING = isolated.Limits(processes=1, seconds=60)  # nobody else waits
MESH_WRITERS: dict[str, tuple[str, Callable[[Surface, Subject], bytes]]] = {
    "glb": ("glb", lambda surface, subject: export.glb(surface, recipe=subject.recipe)),
    "obj": ("zip", lambda surface, subject: export.obj_zip(surface, stem=f"{subject.stem}_mesh")),
    "ply": ("ply", lambda surface, _: export.colored_ply(surface)),
}


def depth(said: argparse.Namespace, predict: Predictor | None) -> None:
    """Write the depth of every photo; one that cannot be used does not keep the others waiting."""
    given = _recipe(said)
    settings = from_flags(said, given.depth or DepthSettings())
    if said.colormap not in COLORMAPS:
        raise SettingsError(f"colormap is {said.colormap!r}; it must be one of {', '.join(COLORMAPS)}.")
    if not 0 <= said.contours <= MOST_CONTOURS:
        raise SettingsError(f"contours is {said.contours}; it must be a number from 0 to {MOST_CONTOURS}.")
    outbox, workflow = Outbox(said.out), _workflow(predict)
    refused = []
    for path in said.photos:
        try:
            photo = _load_photo(path)
        except PhotoError as error:
            refused.append(str(error))
            continue
        estimated = _estimate(workflow, photo, settings)
        _say_doubts(given, estimated, photo)
        stem = outbox.free_stem(photo.stem)
        recipe = Recipe(photo=photo.digest, revision=estimated.revision, depth=settings)
        colored = colorize(estimated.values, colormap=said.colormap, contours=said.contours)
        for name, data in (
            *depth_files(stem, estimated, recipe=recipe),
            colored_file(stem, colored, recipe=recipe),
        ):
            outbox.put(name, data)
    if refused:
        raise PhotoError("\n".join(refused))


def relief(said: argparse.Namespace, predict: Predictor | None) -> None:
    """Write the relief of one photo or depth file in every format asked for."""
    formats = _choices(said.format, WRITERS, name="format")
    given = _recipe(said)
    base = _preset(said.preset) if said.preset else given.relief or ReliefSettings()
    settings, depth_settings = from_flags(said, base), from_flags(said, given.depth or DepthSettings())
    outbox = Outbox(said.out)
    subject = _subject(said, _workflow(predict), depth_settings)
    _say_doubts(given, subject.depth, subject.photo)
    made = Workflow.relief(subject.depth, settings, photo=subject.photo)
    for format_name in formats:
        writer = WRITERS[format_name]
        name = export.relief_name(subject.stem, made, writer.ending)
        data = writer.make(made, subject.recipe)
        outbox.put(name, data)
        if said.report and writer.printable:
            report = build_report(made, name, data)
            outbox.put(f"{name}.report.json", (json.dumps(report.to_dict(), indent=2) + "\n").encode())
            tell(report.to_text())
    for note in made.notes:
        say(note)


def mesh(said: argparse.Namespace, predict: Predictor | None) -> None:
    """Write the textured surface of one photo or depth file; depth without a photo wears its own colors."""
    formats = _choices(said.format, MESH_WRITERS, name="format")
    given = _recipe(said)
    settings = from_flags(said, given.mesh or MeshSettings())
    depth_settings = from_flags(said, given.depth or DepthSettings())
    outbox = Outbox(said.out)
    subject = _subject(said, _workflow(predict), depth_settings)
    _say_doubts(given, subject.depth, subject.photo)
    photo = subject.photo or Photo(rgb=colorize(subject.depth.values), stem=subject.stem)
    if subject.photo is None:
        say("There is no photo with the depth, so the mesh wears the depth's colors; --photo gives it one.")
    made = Workflow.surface(subject.depth, photo, settings)
    for format_name in formats:
        ending, make = MESH_WRITERS[format_name]
        outbox.put(export.surface_name(subject.stem, ending), make(made, subject))
    for note in made.notes:
        say(note)


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
    from marigold_demo.evaluation.baselines import BASELINES
    from marigold_demo.evaluation.table import Journal, as_json, as_text

    settings = from_flags(said, DepthSettings())
    if said.output and said.output.suffix != ".json":
        raise SettingsError(f"output is {said.output}; its name must end in .json (a .csv is put beside it).")
    samples = scoring.find_samples(said.root)
    if said.only:
        wanted = _choices(said.only, {sample.source: None for sample in samples}, name="only")
        samples = tuple(sample for sample in samples if sample.source in wanted)
    samples = samples[:: max(1, said.every)]
    predictor = said.baseline or _label(settings)
    journal = Journal(
        said.output and said.output.with_suffix(".csv"), predictor=predictor, resume=said.resume
    )
    scores = [journal.known[sample.name] for sample in samples if sample.name in journal.known]
    todo = [sample for sample in samples if sample.name not in journal.known]
    predict = BASELINES[said.baseline] if said.baseline else predict or _load_predictor()
    with line(predictor) as shown:
        for done, score in enumerate(scoring.score_all(predict, todo, settings), start=1):
            journal.add(score)
            scores.append(score)
            shown.show(score.name, done, len(todo))
    means = scoring.means(scores)
    answer(as_text(means, predictor=predictor))
    if said.output:
        Outbox(said.output.parent).put(said.output.name, as_json(means, predictor=predictor))


def _workflow(predict: Predictor | None) -> Workflow:
    return Workflow(predict or _load_predictor())


def _load_predictor() -> Predictor:
    """Return the networks' predictor; torch is imported when it is first asked."""

    def predict(photo: Photo, settings: DepthSettings) -> Iterator[Progress | DepthMap]:
        from marigold_demo.network.checkpoint import predict as real

        yield from real(photo, settings)

    return predict


def _load_photo(path: Path) -> Photo:
    isolated.use(DECODING)
    try:
        photo = isolated.load_photo(path)
    except PhotoError as error:
        raise PhotoError(f"{path}: {error}") from error
    for note in photo.notes:
        say(f"{path}: {note}")
    return photo


def _estimate(workflow: Workflow, photo: Photo, settings: DepthSettings) -> DepthMap:
    with line(photo.stem) as shown:
        return workflow.estimate(photo, settings, on_step=shown.step)


def _subject(said: argparse.Namespace, workflow: Workflow, settings: DepthSettings) -> Subject:
    """Read a depth file, or read a photo and estimate its depth."""
    if not is_depth_file(said.source):
        if said.photo:
            raise SettingsError(
                f"--photo goes with a depth file, but {said.source} is none; leave one of them out."
            )
        shot = _load_photo(said.source)
        estimated = _estimate(workflow, shot, settings)
        recipe = Recipe(photo=shot.digest, revision=estimated.revision, depth=settings)
        return Subject(estimated, shot, shot.stem, recipe)
    isolated.use(DECODING)
    try:
        read = isolated.read_depth_file(said.source)
    except DepthFileError as error:
        raise DepthFileError(f"{said.source}: {error}") from error
    for note in read.notes:
        say(f"{said.source}: {note}")
    photo = _load_photo(said.photo) if said.photo else None
    if photo is not None:
        check_same_shape(photo, read.depth)
    stem = safe_stem(said.source.name).removesuffix("_16bit").removesuffix("_depth")
    return Subject(read.depth, photo, stem, Recipe(photo=photo.digest if photo else None))


def _recipe(said: argparse.Namespace) -> Recipe:
    """Return the recipe that the settings start from; without one, what is here."""
    isolated.use(DECODING)
    try:
        return isolated.load_recipe(said.recipe) if said.recipe else Recipe()
    except SettingsError as error:
        raise SettingsError(f"{said.recipe}: {error}") from error


def _say_doubts(recipe: Recipe, depth: DepthMap, photo: Photo | None) -> None:
    """Tell why the files may differ from those that the recipe stands for."""
    for doubt in recipe.doubts(photo=photo.digest if photo else None, revision=depth.revision):
        say(doubt)


def _choices(names: str, known: Collection[str], *, name: str) -> list[str]:
    """Split names joined by commas and hold each against what there is."""
    asked = [part.strip() for part in names.split(",") if part.strip()]
    strange = [part for part in asked if part not in known]
    if strange or not asked:
        told = repr(strange[0]) if strange else "empty"
        raise SettingsError(f"{name} is {told}; it must be one of {', '.join(known)}.")
    return list(dict.fromkeys(asked))


def _preset(name: str) -> ReliefSettings:
    return RELIEF_PRESETS[_choices(name, RELIEF_PRESETS, name="preset")[0]]


def _label(settings: DepthSettings) -> str:
    """Return checkpoint and all other settings in one line."""
    values = vars(settings)
    others = (
        f"{name} {value}" for name, value in values.items() if name != "checkpoint" and value is not None
    )
    return ", ".join((settings.checkpoint, *others))
