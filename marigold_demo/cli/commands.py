"""What depth, relief and mesh do, from files to files. Knows neither flags' spelling nor how errors look."""

import argparse
import json
from dataclasses import dataclass, replace

from marigold_demo.cli.flags import choices_of, file_options, from_flags, one_of
from marigold_demo.cli.models import load_predictor
from marigold_demo.cli.outbox import Outbox
from marigold_demo.cli.sources import named, read_photo, read_photo_or_depth, read_recipe
from marigold_demo.cli.terminal import line, say, tell
from marigold_demo.colormap import COLORMAPS, MOST_CONTOURS, colorize
from marigold_demo.depth import DepthMap
from marigold_demo.errors import PhotoError, SettingsError
from marigold_demo.geometry.print_report import build_report
from marigold_demo.io.formats import formats_of
from marigold_demo.io.photo import Photo
from marigold_demo.presets import RELIEF_PRESETS
from marigold_demo.recipe import Recipe
from marigold_demo.settings import DepthSettings, MeshSettings, ReliefSettings
from marigold_demo.workflow import Predictor, Workflow, check_same_shape, phone_depth


@dataclass(frozen=True)
class Subject:
    """What a relief or mesh is made of."""

    depth: DepthMap
    photo: Photo | None
    stem: str
    recipe: Recipe
    is_relief: bool = False  # a height map of ours, which is flattened already


@dataclass(frozen=True)
class Look:
    """How depth is written: the colors of its picture, and whether near is 1 in place of 0 in all files."""

    colormap: str
    contours: int
    invert: bool

    def written(self, kind: str, stem: str, depth: DepthMap, *, recipe: Recipe) -> tuple[str, bytes]:
        """Return name and bytes of one of the formats of depth."""
        found = formats_of("depth", "picture")[kind]
        thing: object = depth
        if found.holds == "picture":
            thing = colorize(
                depth.values, colormap=self.colormap, contours=self.contours, invert=self.invert
            )  # [H, W, 3]
        return found.write(thing, stem, recipe=recipe, invert=self.invert)


def depth(said: argparse.Namespace, predict: Predictor | None) -> None:
    """Write the depth of every photo; one that cannot be used is named at once and the others are done."""
    given = read_recipe(said.recipe)
    settings = from_flags(said, given.depth or DepthSettings())
    look = _look(said)
    files = choices_of(said.files, formats_of("depth", "picture"), name="files")
    outbox, workflow = Outbox(said.out), _workflow(predict)
    warned: set[str] = set()
    refused = 0
    for path in said.photos:
        try:
            photo = read_photo(path, if_depth="give it to relief or mesh with --depth")
            with named(path):
                estimated = _depth_of(said, workflow, photo, settings)
        except (PhotoError, SettingsError) as error:  # SettingsError: too large for the memory
            if len(said.photos) == 1:
                raise
            say(str(error))
            refused += 1
            continue
        _print_warnings(given, estimated, photo, known=warned)
        recipe = _recipe_of(photo, estimated, None if _is_from_phone(said) else settings)
        stem = outbox.free_stem(photo.stem)
        if stem != photo.stem:
            say(f"{path}: Another photo of this run is called {photo.stem}; this one is written as {stem}.")
        for name in files:
            outbox.put(*look.written(name, stem, estimated, recipe=recipe))
    if refused:
        raise PhotoError(f"{refused} of {len(said.photos)} photos could not be used; the reasons are above.")


def relief(said: argparse.Namespace, predict: Predictor | None) -> None:
    """Write the relief of one photo or depth file in every format asked for."""
    known = formats_of("relief")
    formats = [known[name] for name in choices_of(said.format, known, name="format")]
    if said.report and not any(found.is_printable for found in formats):
        raise SettingsError("report is of a file for printing; add stl or 3mf to --format.")
    given = read_recipe(said.recipe)
    base = _preset(said.preset) if said.preset else given.relief or ReliefSettings()
    settings, depth_settings = from_flags(said, base), from_flags(said, given.depth or DepthSettings())
    outbox = Outbox(said.out)
    subject = _subject(said, _workflow(predict), depth_settings)
    if subject.is_relief and not said.preset and given.relief is None:
        settings = from_flags(said, replace(base, detail=0.0, smooth_px=0.0))
        say("detail and smooth_px are 0, so that the height map stays as it is; their flags override that.")
    _print_warnings(given, subject.depth, subject.photo, known=set())
    made = Workflow.relief(subject.depth, settings, photo=subject.photo)
    for found in formats:
        name, data = found.write(made, subject.stem, recipe=subject.recipe)
        outbox.put(name, data)
        if said.report and found.is_printable:
            report = build_report(made, name, data)
            outbox.put(f"{name}.report.json", (json.dumps(report.to_dict(), indent=2) + "\n").encode())
            tell(report.to_text())
    for note in made.notes:
        say(note)


def mesh(said: argparse.Namespace, predict: Predictor | None) -> None:
    """Write the textured surface of one photo or depth file; depth without a photo wears its own colors."""
    known = formats_of("mesh")
    formats = [known[name] for name in choices_of(said.format, known, name="format")]
    given = read_recipe(said.recipe)
    settings = from_flags(said, given.mesh or MeshSettings())
    depth_settings = from_flags(said, given.depth or DepthSettings())
    outbox = Outbox(said.out)
    subject = _subject(said, _workflow(predict), depth_settings)
    _print_warnings(given, subject.depth, subject.photo, known=set())
    photo = subject.photo or Photo(rgb=colorize(subject.depth.values), stem=subject.stem)
    if subject.photo is None:
        say("There is no photo with the depth, so the mesh wears the depth's colors; --photo gives it one.")
    made = Workflow.surface(subject.depth, photo, settings)
    for found in formats:
        outbox.put(*found.write(made, subject.stem, recipe=subject.recipe))
    for note in made.notes:
        say(note)


def _workflow(predict: Predictor | None) -> Workflow:
    """Return the stages, keeping one depth map only: a batch of hundreds takes the memory of one."""
    return Workflow(predict or load_predictor(), keep_bytes=0)


def _is_from_phone(said: argparse.Namespace) -> bool:
    return bool(said.depth_source == "phone")


def _depth_of(
    said: argparse.Namespace, workflow: Workflow, photo: Photo, settings: DepthSettings
) -> DepthMap:
    return phone_depth(photo) if _is_from_phone(said) else _estimate(workflow, photo, settings)


def _estimate(workflow: Workflow, photo: Photo, settings: DepthSettings) -> DepthMap:
    with line(photo.stem) as shown:
        estimated = workflow.estimate(photo, settings, on_step=shown.step)
    for note in estimated.notes:
        say(f"{photo.stem}: {note}")
    return estimated


def _subject(said: argparse.Namespace, workflow: Workflow, settings: DepthSettings) -> Subject:
    """Read a depth file, or read a photo and estimate its depth."""
    options = file_options(said)
    brought = read_photo_or_depth(said.source, is_depth=said.depth, options=options)
    if isinstance(brought, Photo):
        if said.photo or options:
            names = ["--photo"] if said.photo else [f"--{name}" for name in options]
            raise SettingsError(
                f"{names[0]} goes with a depth file, but {said.source} is none; leave it out, or add --depth."
            )
        with named(said.source):
            estimated = _depth_of(said, workflow, brought, settings)
        recipe = _recipe_of(brought, estimated, None if _is_from_phone(said) else settings)
        return Subject(estimated, brought, brought.stem, recipe)
    if _is_from_phone(said):
        raise SettingsError(f"--depth-source phone goes with a photo, but {said.source} is a depth file.")
    photo = read_photo(said.photo) if said.photo else None
    if photo is not None:
        check_same_shape(photo, brought.depth)
    recipe = Recipe(photo=photo.digest if photo else None)
    return Subject(brought.depth, photo, brought.stem, recipe, is_relief=brought.is_relief)


def _recipe_of(photo: Photo, depth: DepthMap, settings: DepthSettings | None) -> Recipe:
    return Recipe(photo=photo.digest, revision=depth.revision, device=depth.device, depth=settings)


def _print_warnings(recipe: Recipe, depth: DepthMap, photo: Photo | None, *, known: set[str]) -> None:
    """Tell why the files may differ from those that the recipe stands for; what is known is not repeated."""
    digest = photo.digest if photo else None
    for warning in recipe.compatibility_warnings(photo=digest, revision=depth.revision, device=depth.device):
        if warning not in known:
            say(warning)
        known.add(warning)


def _look(said: argparse.Namespace) -> Look:
    colormap = one_of(said.colormap, COLORMAPS)
    if colormap not in COLORMAPS:
        raise SettingsError(f"colormap is {colormap!r}; it must be one of {', '.join(COLORMAPS)}.")
    if not 0 <= said.contours <= MOST_CONTOURS:
        raise SettingsError(f"contours is {said.contours}; it must be a number from 0 to {MOST_CONTOURS}.")
    return Look(colormap, said.contours, said.invert)


def _preset(name: str) -> ReliefSettings:
    return RELIEF_PRESETS[choices_of(name, RELIEF_PRESETS, name="preset")[0]]
