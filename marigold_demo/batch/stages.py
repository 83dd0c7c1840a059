"""What is done to each file: read, predict, write. Functions from items to rows that any engine can run."""

import json
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Protocol

from marigold_demo.batch.manifest import FileFacts, Item, Row, facts_of
from marigold_demo.colormap import colorize
from marigold_demo.depth import DepthMap
from marigold_demo.errors import PhotoError, SettingsError
from marigold_demo.geometry.relief import PrintReport, Relief, build_report
from marigold_demo.io import export
from marigold_demo.io.formats import formats_of
from marigold_demo.io.isolated import DepthInput, photo_from, photo_or_depth_from
from marigold_demo.io.photo import Photo
from marigold_demo.recipe import Recipe, recipe_of
from marigold_demo.settings import DepthSettings, MeshSettings, ReliefSettings
from marigold_demo.workflow import Workflow, phone_depth

Makes = Literal["depth", "relief", "mesh"]
WITHOUT_PHOTO = (
    "There is no photo with the depth, so the mesh wears the depth's colors; --photo gives it one."
)
AS_IT_IS = "detail and smooth_px are 0, so that the height map stays as it is; their flags override that."


class OutputError(SettingsError):
    """Results cannot be written: the disk is full, or the folder may not be written to."""


class Estimate(Protocol):
    """Networks: photos that go together -> their depth."""

    def __call__(self, photos: Sequence[Photo], /) -> list[DepthMap]:
        """Return the depth of each photo."""
        ...


@dataclass(frozen=True)
class DepthStyle:
    """How depth is written: the colors of its picture, and whether near is 1 in place of 0 in all files."""

    colormap: str = "Spectral"
    contours: int = 0
    invert: bool = False

    def written(self, kind: str, stem: str, depth: DepthMap, *, recipe: Recipe) -> tuple[str, bytes]:
        """Return name and bytes of one of the formats of depth."""
        found = formats_of("depth", "picture")[kind]
        thing: object = depth
        if found.holds == "picture":
            thing = colorize(
                depth.values, colormap=self.colormap, contours=self.contours, invert=self.invert
            )  # [H, W, 3]
        return found.write(thing, stem, recipe=recipe, invert=self.invert)


@dataclass(frozen=True)
class Job:
    """What is made of each file.

    Attributes:
        makes: "depth", "relief" or "mesh".
        formats: Names of the formats that are written.
        depth: How photos become depth.
        made: Settings of the relief or mesh.
        flat: Those of a relief of a height map of ours, which is flattened already; None: the same.
        style: How depth is written.
        report: Whether files for printing are examined.
        from_phone: Depth is what a phone put into its photo.
        is_depth: Files are depth, even where they could be photos.
        file_options: Of `read_depth_file`.
    """

    makes: Makes
    formats: tuple[str, ...]
    depth: DepthSettings = field(default_factory=DepthSettings)
    made: ReliefSettings | MeshSettings | None = None
    flat: ReliefSettings | None = None
    style: DepthStyle = field(default_factory=DepthStyle)
    report: bool = False
    from_phone: bool = False
    is_depth: bool = False
    file_options: tuple[tuple[str, Any], ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return all that results depend on as JSON values, without what is unset."""
        parts = asdict(self)
        if self.makes != "depth":
            parts.pop("style")
        return dict(json.loads(json.dumps(_without_unset(parts))))


@dataclass(frozen=True, eq=False)
class Loaded:
    """A file that was read."""

    item: Item
    file: FileFacts
    thing: Photo | DepthInput
    seconds: float

    @property
    def pixels(self) -> int:
        """How many pixels it has."""
        width, height = self.thing.size if isinstance(self.thing, Photo) else self.thing.depth.size
        return width * height

    def needs_network(self, job: Job) -> bool:
        """Return whether its depth has to be predicted."""
        return isinstance(self.thing, Photo) and not job.from_phone


@dataclass(frozen=True, eq=False)
class Predicted:
    """A file with its depth."""

    loaded: Loaded
    depth: DepthMap
    seconds: float


def read(item: Item, job: Job) -> Loaded:
    """Read a file.

    Raises:
        DemoError: It cannot be used.
    """
    start = time.perf_counter()
    if job.makes == "depth":
        thing: Photo | DepthInput = photo_from(item.source, if_depth="give it to relief or mesh with --depth")
    else:
        thing = photo_or_depth_from(item.source, is_depth=job.is_depth, options=dict(job.file_options))
    if isinstance(thing, Photo) and job.file_options:
        name = job.file_options[0][0]
        raise SettingsError(
            f"--{name} goes with a depth file, but this is none; leave it out, or add --depth."
        )
    if not isinstance(thing, Photo) and job.from_phone:
        raise SettingsError("--depth-source phone goes with a photo, but this is a depth file.")
    return Loaded(item, facts_of(item.source), thing, time.perf_counter() - start)


def predict(loaded: Sequence[Loaded], job: Job, estimate: Estimate) -> list[Predicted]:
    """Return the files with their depth; those that need the network are predicted together.

    Raises:
        DemoError: One of them cannot be used.
    """
    start = time.perf_counter()
    photos = [one.thing for one in loaded if isinstance(one.thing, Photo) and one.needs_network(job)]
    estimated = iter(estimate(photos) if photos else ())
    found = [next(estimated) if one.needs_network(job) else _own_depth(one.thing) for one in loaded]
    each_s = (time.perf_counter() - start) / len(loaded)
    return [Predicted(one, depth, one.seconds + each_s) for one, depth in zip(loaded, found, strict=True)]


def _own_depth(thing: Photo | DepthInput) -> DepthMap:
    return phone_depth(thing) if isinstance(thing, Photo) else thing.depth


def write(predicted: Predicted, job: Job, out: Path) -> Row:
    """Make and write all files of one photo below the output folder, and return its row.

    Raises:
        OutputError: They cannot be written.
        DemoError: They cannot be made.
    """
    start = time.perf_counter()
    loaded, depth = predicted.loaded, predicted.depth
    photo = loaded.thing if isinstance(loaded.thing, Photo) else None
    names, replaced = [], ""
    notes = [*loaded.thing.notes, *depth.notes]
    for name, data in _files(predicted, job, notes):
        replaced = replaced or _replaced(out / loaded.item.folder / name, data)
        try:
            path = export.save(out / loaded.item.folder, name, data)
        except OSError as error:
            problem = f"{out / loaded.item.folder / name} cannot be written ({error.strerror})"
            raise OutputError(f"{problem}; make room or name another folder.") from error
        names.append(path.relative_to(out).as_posix())
    return Row(
        source=loaded.item.key,
        output=loaded.item.output,
        status="done",
        settings=job.to_dict(),
        file=loaded.file,
        revision=depth.revision,
        device=depth.device,
        photo=photo.digest if photo else None,
        files=tuple(names),
        seconds=predicted.seconds + time.perf_counter() - start,
        notes=tuple(notes),
        replaced=replaced,
    )


def failed(item: Item, job: Job, error: Exception, *, seconds: float = 0.0) -> Row:
    """Return the row of a file that cannot be used."""
    try:
        file = facts_of(item.source)
    except PhotoError:
        file = None
    return Row(item.key, item.output, "failed", job.to_dict(), file=file, error=str(error), seconds=seconds)


def _files(predicted: Predicted, job: Job, notes: list[str]) -> Iterator[tuple[str, bytes]]:
    """Yield name and bytes of each file; what is to be said of them is added to the notes."""
    thing, stem, depth = predicted.loaded.thing, predicted.loaded.item.stem, predicted.depth
    photo = thing if isinstance(thing, Photo) else None
    settings = job.depth if predicted.loaded.needs_network(job) else None
    recipe = recipe_of(photo, depth, settings) if photo else Recipe()
    if isinstance(job.made, ReliefSettings):
        made = job.made
        if isinstance(thing, DepthInput) and thing.is_relief and job.flat is not None:
            made = job.flat
            notes.append(AS_IT_IS)
        relief = Workflow.relief(depth, made, photo=photo)
        relief.assert_sound()
        notes += relief.notes
        for name, data, report in relief_files(relief, stem, job.formats, recipe=recipe, report=job.report):
            yield name, data
            if report is not None:
                yield report_file(name, report)
    elif isinstance(job.made, MeshSettings):
        if photo is None:
            notes.append(WITHOUT_PHOTO)
        surface = Workflow.surface(depth, photo or Photo(rgb=colorize(depth.values), stem=stem), job.made)
        notes += surface.notes
        for kind in job.formats:
            yield formats_of("mesh")[kind].write(surface, stem, recipe=recipe)
    else:
        for kind in job.formats:
            yield job.style.written(kind, stem, depth, recipe=recipe)


def relief_files(
    relief: Relief, stem: str, formats: Sequence[str], *, recipe: Recipe, report: bool
) -> Iterator[tuple[str, bytes, PrintReport | None]]:
    """Yield name and bytes of a relief in each format, with the report of those for printing if wanted."""
    for kind in formats:
        found = formats_of("relief")[kind]
        name, data = found.write(relief, stem, recipe=recipe)
        yield name, data, build_report(relief, name, data) if report and found.is_printable else None


def report_file(name: str, report: PrintReport) -> tuple[str, bytes]:
    """Return name and bytes of the report of a file."""
    return f"{name}.report.json", (json.dumps(report.to_dict(), indent=2) + "\n").encode()


def _replaced(path: Path, data: bytes) -> str:
    """Return the path where there is a file with other bytes, else nothing."""
    try:
        same = not path.is_file() or (os.path.getsize(path) == len(data) and path.read_bytes() == data)
    except OSError:  # it may not be read
        same = False
    return "" if same else str(path)


def _without_unset(values: dict[str, Any]) -> dict[str, Any]:
    given = {name: value for name, value in values.items() if value is not None and value != ()}
    return {
        name: _without_unset(value) if isinstance(value, dict) else value for name, value in given.items()
    }


def flattened(settings: ReliefSettings) -> ReliefSettings:
    """Return settings that leave a height map of ours as it is."""
    return replace(settings, detail=0.0, smooth_px=0.0)
