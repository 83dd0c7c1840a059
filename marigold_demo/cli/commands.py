"""What each command does, from files to files. Torch is imported when it is needed."""

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from marigold_demo.batch.stages import (
    AS_IT_IS,
    WITHOUT_PHOTO,
    DepthStyle,
    Job,
    Makes,
    flattened,
    relief_files,
    report_file,
)
from marigold_demo.catalog import find
from marigold_demo.cli.files import OutputFolder, named, read_photo, read_photo_or_depth, read_recipe
from marigold_demo.cli.many import many, print_warnings, takes_many
from marigold_demo.cli.terminal import (
    choices_of,
    file_options,
    from_flags,
    one_of,
    print_err,
    print_err_text,
    print_out,
    progress_line,
)
from marigold_demo.colormap import COLORMAPS, MOST_CONTOURS, colorize
from marigold_demo.depth import DepthMap, Run
from marigold_demo.errors import PhotoError, SettingsError
from marigold_demo.io.formats import formats_of
from marigold_demo.io.photo import Photo
from marigold_demo.recipe import Recipe, recipe_of
from marigold_demo.serving.config import Configuration, read_configuration, shown
from marigold_demo.settings import RELIEF_PRESETS, DepthSettings, MeshSettings, ReliefSettings
from marigold_demo.training import PROTOCOLS, TrainSettings
from marigold_demo.workflow import Predictor, Workflow, check_same_shape, phone_depth

if TYPE_CHECKING:
    from marigold_demo.evaluation.datasets import Sample
    from marigold_demo.evaluation.evaluate import Score
    from marigold_demo.training.stage_run import TrainProgress


@dataclass(frozen=True)
class Subject:
    """What a relief or mesh is made of."""

    depth: DepthMap
    photo: Photo | None
    stem: str
    recipe: Recipe
    is_relief: bool = False  # a height map of ours, which is flattened already


def depth(args: argparse.Namespace, predict: Predictor | None) -> None:
    """Write the depth of photos; one that cannot be used is named and the others are done."""
    given = read_recipe(args.recipe)
    settings = from_flags(args, given.depth or DepthSettings())
    style = _depth_style(args)
    files = choices_of(args.files, formats_of("depth", "picture"), name="files")
    _print_terms(args, settings)
    if takes_many(args.sources):
        many(args, _job(args, "depth", files, settings, style=style), predict, given=given)
        return
    output, workflow = OutputFolder(args.out), _workflow(predict)
    warned: set[str] = set()
    refused = 0
    for path in args.sources:
        try:
            photo = read_photo(path, if_depth="give it to relief or mesh with --depth")
            with named(path):
                estimated = _depth_of(args, workflow, photo, settings)
        except (PhotoError, SettingsError) as error:  # SettingsError: too large for the memory
            if len(args.sources) == 1:
                raise
            print_err(str(error))
            refused += 1
            continue
        print_warnings(given, estimated.revision, estimated.device, photo.digest, known=warned)
        recipe = recipe_of(photo, estimated, None if _is_from_phone(args) else settings)
        stem = output.free_stem(photo.stem)
        if stem != photo.stem:
            print_err(
                f"{path}: Another photo of this run is called {photo.stem}; this one is written as {stem}."
            )
        for name in files:
            output.put(*style.written(name, stem, estimated, recipe=recipe))
    if refused:
        raise PhotoError(f"{refused} of {len(args.sources)} photos could not be used; the reasons are above.")


def relief(args: argparse.Namespace, predict: Predictor | None) -> None:
    """Write reliefs of photos or depth files in every format asked for."""
    known = formats_of("relief")
    formats = choices_of(args.format, known, name="format")
    if args.report and not any(known[name].is_printable for name in formats):
        raise SettingsError("report is of a file for printing; add stl or 3mf to --format.")
    given = read_recipe(args.recipe)
    base = _preset(args.preset) if args.preset else given.relief or ReliefSettings()
    settings, depth_settings = from_flags(args, base), from_flags(args, given.depth or DepthSettings())
    flat = None if args.preset or given.relief is not None else from_flags(args, flattened(base))
    if takes_many(args.sources):
        job = _job(args, "relief", formats, depth_settings, made=settings, flat=flat)
        many(args, job, predict, given=given)
        return
    output = OutputFolder(args.out)
    subject = _subject(args, _workflow(predict), depth_settings)
    if subject.is_relief and flat is not None:
        settings = flat
        print_err(AS_IT_IS)
    _print_warnings(given, subject)
    made = Workflow.relief(subject.depth, settings, photo=subject.photo)
    made.assert_sound()
    for name, data, report in relief_files(
        made, subject.stem, formats, recipe=subject.recipe, report=args.report
    ):
        output.put(name, data)
        if report is not None:
            output.put(*report_file(name, report))
            print_err_text(report.to_text())
    for note in made.notes:
        print_err(note)


def mesh(args: argparse.Namespace, predict: Predictor | None) -> None:
    """Write textured surfaces of photos or depth files; depth without a photo gets its own colors."""
    known = formats_of("mesh")
    formats = choices_of(args.format, known, name="format")
    given = read_recipe(args.recipe)
    settings = from_flags(args, given.mesh or MeshSettings())
    depth_settings = from_flags(args, given.depth or DepthSettings())
    if takes_many(args.sources):
        many(args, _job(args, "mesh", formats, depth_settings, made=settings), predict, given=given)
        return
    output = OutputFolder(args.out)
    subject = _subject(args, _workflow(predict), depth_settings)
    _print_warnings(given, subject)
    photo = subject.photo or Photo(rgb=colorize(subject.depth.values), stem=subject.stem)
    if subject.photo is None:
        print_err(WITHOUT_PHOTO)
    made = Workflow.surface(subject.depth, photo, settings)
    for name in formats:
        output.put(*known[name].write(made, subject.stem, recipe=subject.recipe))
    for note in made.notes:
        print_err(note)


def _job(
    args: argparse.Namespace, makes: Makes, formats: list[str], settings: DepthSettings, **others: Any
) -> Job:
    """Return what is made of each of many files.

    Raises:
        SettingsError: A flag goes with a single file.
    """
    if getattr(args, "photo", None):
        raise SettingsError("--photo goes with one depth file; name it alone.")
    if makes != "depth":
        options = tuple(file_options(args).items())
        others |= {"is_depth": args.depth, "file_options": options}
        if makes == "relief":
            others |= {"report": args.report}
    return Job(makes, tuple(formats), settings, from_phone=_is_from_phone(args), **others)


def _workflow(predict: Predictor | None) -> Workflow:
    """Return the stages, keeping one depth map only: a batch of hundreds takes the memory of one."""
    return Workflow(predict or _late_predictor(), keep_bytes=0)


def _is_from_phone(args: argparse.Namespace) -> bool:
    return bool(args.depth_source == "phone")


def _depth_of(
    args: argparse.Namespace, workflow: Workflow, photo: Photo, settings: DepthSettings
) -> DepthMap:
    return phone_depth(photo) if _is_from_phone(args) else _estimate(workflow, photo, settings)


def _print_terms(args: argparse.Namespace, settings: DepthSettings) -> None:
    """Print, before a download, what the license of a checkpoint does not allow."""
    known = find(settings.checkpoint.partition("@")[0])
    if known is not None and known.terms and getattr(args, "depth_source", "") != "phone":
        print_err(f"{known.title}: {known.terms}")


def _estimate(workflow: Workflow, photo: Photo, settings: DepthSettings) -> DepthMap:
    with progress_line(photo.stem) as shown:
        estimated = workflow.estimate(photo, settings, run=Run(shown.step))
    for note in estimated.notes:
        print_err(f"{photo.stem}: {note}")
    return estimated


def _subject(args: argparse.Namespace, workflow: Workflow, settings: DepthSettings) -> Subject:
    """Read a depth file, or read a photo and estimate its depth."""
    options = file_options(args)
    given_input = read_photo_or_depth(args.sources[0], is_depth=args.depth, options=options)
    if isinstance(given_input, Photo):
        if args.photo or options:
            names = ["--photo"] if args.photo else [f"--{name}" for name in options]
            problem = f"{names[0]} goes with a depth file, but {args.sources[0]} is none"
            raise SettingsError(f"{problem}; leave it out, or add --depth.")
        _print_terms(args, settings)
        with named(args.sources[0]):
            estimated = _depth_of(args, workflow, given_input, settings)
        recipe = recipe_of(given_input, estimated, None if _is_from_phone(args) else settings)
        return Subject(estimated, given_input, given_input.stem, recipe)
    if _is_from_phone(args):
        raise SettingsError(f"--depth-source phone goes with a photo, but {args.sources[0]} is a depth file.")
    photo = read_photo(args.photo) if args.photo else None
    if photo is not None:
        check_same_shape(photo, given_input.depth)
    recipe = Recipe(photo=photo.digest if photo else None)
    return Subject(given_input.depth, photo, given_input.stem, recipe, is_relief=given_input.is_relief)


def _print_warnings(given: Recipe, subject: Subject) -> None:
    digest = subject.photo.digest if subject.photo else None
    print_warnings(given, subject.depth.revision, subject.depth.device, digest, known=set())


def _depth_style(args: argparse.Namespace) -> DepthStyle:
    colormap = one_of(args.colormap, COLORMAPS)
    if colormap not in COLORMAPS:
        raise SettingsError(f"colormap is {colormap!r}; it must be one of {', '.join(COLORMAPS)}.")
    if not 0 <= args.contours <= MOST_CONTOURS:
        raise SettingsError(f"contours is {args.contours}; it must be a number from 0 to {MOST_CONTOURS}.")
    return DepthStyle(colormap, args.contours, args.invert)


def _preset(name: str) -> ReliefSettings:
    return RELIEF_PRESETS[choices_of(name, RELIEF_PRESETS, name="preset")[0]]


def _late_predictor() -> Predictor:
    """Return the networks' predictor; torch is imported when it is first asked."""

    def predict(photo: Photo, settings: DepthSettings, run: Run, /) -> DepthMap:
        from marigold_demo.network.checkpoint import predict as real

        return real(photo, settings, run)

    return predict


def train(args: argparse.Namespace, predict: Predictor | None) -> None:
    """Train, or go on with a training, and print where the checkpoint is."""
    from marigold_demo.training.train import train as run_training

    settings = from_flags(args, _protocol(args))
    with progress_line("train") as shown:

        def on_progress(moment: "TrainProgress") -> None:
            shown.show(f"{moment.stage}, loss {moment.loss:.4f},", moment.step, moment.steps)

        checkpoint = run_training(settings, on_progress, print_err)
    print_out(checkpoint)


def _protocol(args: argparse.Namespace) -> TrainSettings:
    """Return the settings of the protocol that the flags name."""
    name = getattr(args, "TrainSettings.protocol", "small")
    return PROTOCOLS.get(name, TrainSettings())  # what is none of them is refused with the other flags


def evaluate(args: argparse.Namespace, predict: Predictor | None) -> None:
    """Score predictors on all images under a folder, print the table, and write it where asked."""
    from marigold_demo.evaluation import evaluate as scoring
    from marigold_demo.evaluation.evaluate import compare

    settings = from_flags(args, DepthSettings())
    if args.output and args.output.suffix != ".json":
        raise SettingsError(f"output is {args.output}; its name must end in .json (a .csv is put beside it).")
    if args.resume and not args.output:
        raise SettingsError("resume goes on with the .csv beside --output; name the output too.")
    if args.every < 1:
        raise SettingsError(f"every is {args.every}; it must be at least 1.")
    methods = _methods(args, settings, check=predict is None)
    samples = scoring.find_samples(args.root)
    if args.only:
        wanted = choices_of(args.only, {sample.source: None for sample in samples}, name="only")
        samples = tuple(sample for sample in samples if sample.source in wanted)
    found = []
    for number, (name, label, chosen) in enumerate(methods):
        predictor = scoring.BASELINES.get(name) or predict or _late_predictor()
        resume = args.resume or number > 0  # the rows of the methods before stay
        scores = _scores(args, predictor, samples[:: args.every], settings=chosen, label=label, resume=resume)
        alignment = " and ".join(sorted({score.alignment for score in scores}))
        found.append((_short(name, [name for name, *_ in methods]), alignment, scoring.means(scores)))
    output = OutputFolder(args.output.parent) if args.output else None
    if not args.methods:
        print_out(scoring.as_text(found[0][2], predictor=methods[0][1]))
        if output:
            output.put(args.output.name, scoring.as_json(found[0][2], predictor=methods[0][1]))
        return
    table = compare(found)
    print_out(table.as_text(colors=sys.stdout.isatty()))
    if output:
        output.put(args.output.name, table.as_json())
        output.put(f"{args.output.stem}.md", table.as_markdown().encode())
        output.put(f"{args.output.stem}_methods.csv", table.as_csv().encode())


def _short(name: str, names: Sequence[str]) -> str:
    """Return a method's name for a table: of a folder the last part, unless another one ends like that."""
    if name[:1] not in "/.~":
        return name
    last = [Path(other).name for other in names]
    return Path(name).name if last.count(Path(name).name) == 1 else name


def _methods(
    args: argparse.Namespace, settings: DepthSettings, *, check: bool
) -> list[tuple[str, str, DepthSettings]]:
    """Return name, label in the CSV and settings of each predictor that is asked for.

    Raises:
        DemoError: One is named twice, or, with `check`, its checkpoint is not there.
    """
    from marigold_demo.evaluation.evaluate import BASELINES

    if not args.methods:
        return [(args.baseline or settings.checkpoint, args.baseline or _label(settings), settings)]
    if args.baseline:
        raise SettingsError("baseline is for one table of its own; name it among the methods instead.")
    names = [name.strip() for name in args.methods.split(",")]
    methods = []
    for name in names:
        chosen = settings if name in BASELINES else replace(settings, checkpoint=name)
        if check and name not in BASELINES:
            from marigold_demo.network.checkpoint import status

            status(chosen)
            _print_terms(args, chosen)
        methods.append((name, name if name in BASELINES else _label(chosen), chosen))
    if len({label for _, label, _ in methods}) < len(methods):
        raise SettingsError("methods names one of them twice.")
    return methods


def _scores(
    args: argparse.Namespace,
    predict: Predictor,
    samples: "Sequence[Sample]",
    *,
    settings: DepthSettings,
    label: str,
    resume: bool,
) -> "list[Score]":
    """Return the scores of one predictor; those that the CSV beside the output has are not made again."""
    from marigold_demo.evaluation.evaluate import ResultsCsv, score_all

    results = ResultsCsv(args.output and args.output.with_suffix(".csv"), predictor=label, resume=resume)
    known = results.known if args.resume else {}
    scores = [known[sample.name] for sample in samples if sample.name in known]
    todo = [sample for sample in samples if sample.name not in known]
    with progress_line(label) as shown:
        for done, score in enumerate(score_all(predict, todo, settings), start=1):
            results.add(score)
            scores.append(score)
            shown.show(score.name, done, len(todo))
    return scores


def _label(settings: DepthSettings) -> str:
    """Return checkpoint and all other settings in one line."""
    values = vars(settings)
    others = (
        f"{name} {value}" for name, value in values.items() if name != "checkpoint" and value is not None
    )
    return ", ".join((settings.checkpoint, *others))


def config(args: argparse.Namespace, predict: Predictor | None) -> None:
    """Print every variable with its value, its default and its meaning.

    Raises:
        SettingsError: One of them has a value that cannot be used.
    """
    print_out(as_text(read_configuration(os.environ)))


def as_text(configuration: Configuration) -> str:
    """Return one row for each variable; a star marks a value that is not the default."""
    rows = [("  VARIABLE", "VALUE", "DEFAULT", "MEANING")]
    for row in shown(configuration):
        mark = "  " if row.value == row.default else "* "
        rows.append((f"{mark}{row.name}", row.value, row.default, row.help))
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    return "\n".join(
        "  ".join((*(cell.ljust(width) for cell, width in zip(row[:3], widths, strict=True)), row[3]))
        for row in rows
    )
