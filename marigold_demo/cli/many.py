"""A command over many files: skips what is done, shows progress, and names bad files at the end."""

import argparse
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from marigold_demo.batch.engine import Checkpoint, Line, Networks, OneByOne, Pool
from marigold_demo.batch.manifest import (
    Item,
    Manifest,
    Names,
    Row,
    find_items,
    is_plain_file,
    only_run,
    remove_parts,
)
from marigold_demo.batch.stages import Job
from marigold_demo.catalog import EMBEDDED
from marigold_demo.cli.files import is_plain
from marigold_demo.cli.terminal import ProgressLine, duration, print_err, print_out, progress_line
from marigold_demo.depth import Progress, Run
from marigold_demo.errors import PhotoError, SettingsError
from marigold_demo.io.photo import safe_stem
from marigold_demo.recipe import Recipe
from marigold_demo.workflow import Predictor

MOST_WORKERS, MOST_THREADS = 64, 8
LOG_EVERY_S = 60.0  # where nobody watches a line that is written over


def takes_many(sources: Sequence[Path]) -> bool:
    """Return whether sources are worked on with a manifest: folders, patterns, lists, or several files.

    Raises:
        SettingsError: A pipe is among folders, patterns or lists.
    """
    plain = [is_plain_file(source) for source in sources]
    pipes = [source for source, one in zip(sources, plain, strict=True) if one and not is_plain(source)]
    if pipes and not all(plain):
        raise SettingsError(f"{pipes[0]} is a pipe, which cannot go with folders; give it alone.")
    return not pipes and (len(sources) > 1 or not plain[0])


def many(args: argparse.Namespace, job: Job, predict: Predictor | None, *, given: Recipe) -> None:
    """Do a job with all files that the sources stand for.

    Args:
        args: Sources, output folder and the flags of `_add_many`.
        job: What is made of each file.
        predict: Stands in for the networks.
        given: The recipe that was given, against which depth is held.

    Raises:
        PhotoError: Files could not be used; they are named before.
        DemoError: No file can be done.
    """
    if args.workers is not None and not 1 <= args.workers <= MOST_WORKERS:
        raise SettingsError(f"workers is {args.workers}; it must be a number from 1 to {MOST_WORKERS}.")
    with only_run(args.out):
        manifest = Manifest(args.out)
        found, problems = find_items(args.sources, out=args.out, depth_files=job.makes != "depth")
        if problems and (args.fail_fast or not found):
            raise problems[0]
        items = _named(found, manifest)
        todo = items if args.overwrite else _undone(items, manifest, job, is_real=predict is None)
        remove_parts({args.out / item.folder for item in todo})
        with progress_line(job.makes) as line:
            sources = {item.key: item.source for item in todo}
            report = _Report(manifest, args.out, given, line, sources=sources, fail_fast=args.fail_fast)
            try:
                _work(todo, job, args, predict, report)
            finally:
                line.erase()
                report.failures.extend(str(problem) for problem in problems)
                report.print_failures()
    if report.failures:
        total = len(items) + len(problems)
        counted = f"{len(report.failures)} of {total} photos could not be used; the reasons are above."
        raise PhotoError(counted)
    if len(todo) < len(items) or not all(is_plain_file(source) for source in args.sources):
        print_err(report.summary(there=len(items) - len(todo)))


def print_warnings(
    recipe: Recipe, revision: str | None, device: str | None, photo: str | None, *, known: set[str]
) -> None:
    """Print why the files may differ from those of the recipe; what is known is not repeated.

    Args:
        recipe: The recipe that was given.
        revision: Of the checkpoint that is at hand.
        device: What computed the depth.
        photo: Digest of the photo.
        known: Warnings that were printed; new ones are added.
    """
    for warning in recipe.compatibility_warnings(photo=photo, revision=revision, device=device):
        if warning not in known:
            print_err(warning)
        known.add(warning)


def _named(found: Sequence[Item], manifest: Manifest) -> list[Item]:
    """Give each file the stem that it had in an earlier run, or a free one."""
    outputs = manifest.outputs()
    names = Names(outputs.values())
    items = []
    for item in found:
        folder, _, stem = outputs.get(item.key, "").rpartition("/")
        if stem and folder == item.folder:
            items.append(Item(item.source, folder, stem))
            continue
        named = names.named(item)
        stem = safe_stem(item.source.name)
        if named.stem == f"{stem}_{named.stem.rpartition('_')[2]}":
            print_err(
                f"{item.source}: Another photo of this run is called {stem}; this one is written as"
                f" {named.stem}."
            )
        items.append(named)
    return items


def _undone(items: Sequence[Item], manifest: Manifest, job: Job, *, is_real: bool) -> list[Item]:
    settings = job.to_dict()
    outputs = manifest.outputs()
    revision = None
    if is_real and outputs and not (job.from_phone or job.is_depth):
        from marigold_demo.network.checkpoint_files import revision_here

        revision = revision_here(job.depth.checkpoint)
    return [
        item
        for item in items
        if outputs.get(item.key) != item.output or not manifest.is_done(item.key, settings, revision)
    ]


def _work(
    todo: Sequence[Item],
    job: Job,
    args: argparse.Namespace,
    predict: Predictor | None,
    report: "_Report",
) -> None:
    processes = min(args.workers or _processes(job), len(todo))
    if predict is None and processes > 1:
        pool = Pool(job, args.out, processes=processes, emit=report.take)
        report.stop = pool.stop
        pool.work(todo)
    elif todo:
        networks: Callable[[Run], Networks] = partial(Checkpoint, job.depth)
        if predict is not None:
            networks = partial(OneByOne, predict, job.depth)
        threads = min(_cores(), MOST_THREADS) if predict is None else 1
        line = Line(job, args.out, networks=networks, emit=report.take, threads=threads)
        report.stop = line.stop
        line.work(todo)


def _processes(job: Job) -> int:
    """Return how many processes pay: large networks fill a machine, and its memory, alone."""
    small = job.depth.checkpoint == EMBEDDED or job.from_phone or job.is_depth
    return min(_cores(), MOST_WORKERS) if small else 1


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass
class _Report:
    """Records and prints what becomes of each file."""

    manifest: Manifest
    out: Path
    given: Recipe
    line: ProgressLine
    sources: Mapping[str, Path]  # as they were named, by their absolute paths
    fail_fast: bool
    stop: Callable[[], None] = field(default=lambda: None)  # ends the work
    failures: list[str] = field(default_factory=list)
    done: int = 0
    _start: float = field(default_factory=time.monotonic)
    _logged: float = field(default_factory=time.monotonic)
    _warned: set[str] = field(default_factory=set)
    _replaced: bool = False

    def take(self, thing: Row | Progress) -> None:
        """Take what became of a file, or how far a download is."""
        if isinstance(thing, Progress):
            self.line.step(thing)
            return
        self.manifest.add(thing)
        self.line.erase()
        source = self.sources[thing.source]
        if thing.status == "failed":
            self.failures.append(f"{source}: {thing.error}")
            if self.fail_fast:
                self.stop()
        else:
            self.done += 1
            for name in thing.files:
                print_out(self.out / name)
            for note in thing.notes:
                print_err(f"{source}: {note}")
            print_warnings(self.given, thing.revision, thing.device, thing.photo, known=self._warned)
        if thing.replaced and not self._replaced:
            self._replaced = True
            print_err(
                f"{thing.replaced} was there with other content and is replaced, as are others of the same"
                " names."
            )
        self._show()

    def print_failures(self) -> None:
        """Name the files that could not be used."""
        for failure in self.failures:
            print_err(failure)

    def summary(self, *, there: int) -> str:
        """Return what was done, in a sentence."""
        seconds = time.monotonic() - self._start
        rate = f" in {duration(seconds)}, {self._rate():.2f} a second" if self.done else ""
        skipped = f"; {there} were done before" if there else ""
        return f"{self.done} of {self.done + there} photos done{rate}{skipped}."

    def _rate(self) -> float:
        return (self.done + len(self.failures)) / max(time.monotonic() - self._start, 1e-3)

    def _show(self) -> None:
        finished = self.done + len(self.failures)
        self.line.show(f"{self._rate():.2f} photos/s", finished, len(self.sources))
        now = time.monotonic()
        if not self.line.is_shown and now - self._logged >= LOG_EVERY_S:
            self._logged = now
            left = duration((len(self.sources) - finished) / self._rate())
            print_err(f"{finished} of {len(self.sources)} photos, {self._rate():.2f} a second, {left} left.")
