"""Folders, patterns, lists and files -> the files to work on, and where their results go."""

import glob
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from marigold_demo.errors import PhotoError
from marigold_demo.io.isolated import depth_stem
from marigold_demo.io.photo import safe_stem

PHOTO_ENDINGS = frozenset(
    ".jpg .jpeg .jpe .jfif .png .webp .tif .tiff .heic .heif .hif .avif .bmp .gif .jp2 .ppm .pgm".split()
)
DEPTH_ENDINGS = frozenset(".npy .npz .exr .pfm".split())
LIST_ENDING = ".txt"
_WILD = "*?["


@dataclass(frozen=True)
class Item:
    """One file to work on.

    Attributes:
        source: Its path.
        folder: Of its results, relative to the output folder; "" is that folder itself.
        stem: With which their names begin; empty until `Names` has chosen it.
    """

    source: Path
    folder: str = ""
    stem: str = ""

    @property
    def key(self) -> str:
        """The absolute path, by which the manifest knows the file."""
        return os.path.abspath(self.source)

    @property
    def output(self) -> str:
        """Folder and stem of its results, relative to the output folder."""
        return f"{self.folder}/{self.stem}" if self.folder else self.stem


def is_plain_file(source: Path) -> bool:
    """Return whether a source is one file and no list of files."""
    return source.suffix.lower() != LIST_ENDING and not os.path.isdir(source) and not _is_pattern(source)


def find_items(
    sources: Sequence[Path], *, out: Path, depth_files: bool
) -> tuple[list[Item], list[PhotoError]]:
    """Return the files that sources stand for, each once, and what is wrong with sources.

    A folder stands for all pictures below it, by their endings and without hidden ones; a pattern for what
    matches; a list for the sources in its lines. Below `out` nothing is found. Results of a folder keep its
    tree, those of a pattern the tree below its first wildcard; those of a file lie in the output folder.

    Args:
        sources: Files, folders, patterns with * ? [ or **, and lists (.txt).
        out: Where results go.
        depth_files: Folders stand for .npy, .npz, .exr and .pfm too.
    """
    endings = PHOTO_ENDINGS | DEPTH_ENDINGS if depth_files else PHOTO_ENDINGS
    found: dict[str, Item] = {}
    problems = []
    for source in sources:
        try:
            for item in _expanded(source, out=os.path.abspath(out), endings=endings):
                found.setdefault(item.key, item)
        except PhotoError as error:
            problems.append(error)
    return list(found.values()), problems


def _expanded(source: Path, *, out: str, endings: frozenset[str]) -> list[Item]:
    """Return what one source stands for.

    Raises:
        PhotoError: Nothing, or it cannot be read.
    """
    if os.path.isdir(source):
        items, problem = list(_in_folder(source, out=out, endings=endings)), "The folder holds no picture"
    elif _is_pattern(source):
        items, problem = list(_matching(source, out=out, endings=endings)), "Nothing matches"
    elif source.suffix.lower() == LIST_ENDING:
        inner = [_expanded(line, out=out, endings=endings) for line in _lines(source)]
        items, problem = [item for part in inner for item in part], "The list names no file"
    else:
        return [Item(source)]
    if not items:
        raise PhotoError(
            f"{source}: {problem}; name photos, folders, a pattern, or a .txt with one path a line."
        )
    return items


def _is_pattern(source: Path) -> bool:
    return any(letter in str(source) for letter in _WILD) and not os.path.lexists(source)


def _in_folder(top: Path, *, out: str, endings: frozenset[str]) -> Iterator[Item]:
    for folder, inner, names in os.walk(top):
        inner[:] = sorted(
            name for name in inner if name[0] != "." and os.path.abspath(os.path.join(folder, name)) != out
        )
        if os.path.abspath(folder) == out:
            continue
        below = os.path.relpath(folder, top)
        for name in sorted(names):
            if name[0] != "." and os.path.splitext(name)[1].lower() in endings:
                yield Item(Path(folder, name), "" if below == "." else Path(below).as_posix())


def _matching(pattern: Path, *, out: str, endings: frozenset[str]) -> Iterator[Item]:
    fixed = next(n for n, part in enumerate(pattern.parts) if any(letter in part for letter in _WILD))
    top = Path(*pattern.parts[:fixed])
    for name in sorted(glob.glob(str(pattern), recursive=True)):
        path = Path(name)
        if path.is_dir() or Path(os.path.abspath(path)).is_relative_to(out):
            continue
        if "**" in pattern.parts[-1] and path.suffix.lower() not in endings:
            continue
        below = path.parent.relative_to(top).as_posix()
        yield Item(path, "" if below == "." else below)


def _lines(source: Path) -> Iterator[Path]:
    """Yield the paths in a list, which are relative to its folder."""
    try:
        text = source.read_bytes().decode("utf-8-sig", "surrogateescape")
    except OSError as error:
        raise PhotoError(f"{source} cannot be read ({error.strerror}).") from error
    for line in text.splitlines():
        name = line.strip()
        if name and not name.startswith("#"):
            path = source.parent / Path(name).expanduser()
            if path.suffix.lower() == LIST_ENDING:
                raise PhotoError(f"{source} names the list {name}; a list cannot name another one.")
            yield path


class Names:
    """Chooses stems that do not collide within a folder; upper case does not count."""

    def __init__(self, taken: Iterable[str] = ()) -> None:
        """Take the outputs (see `Item.output`) that files have already, such as those of an earlier run."""
        self._taken = {output.casefold() for output in taken}

    def named(self, item: Item) -> Item:
        """Return an item with its own stem, which has a number where another file has it already."""
        stem = safe_stem(item.source.name)
        if item.source.suffix.lower() in DEPTH_ENDINGS or stem.endswith("_16bit"):
            stem = depth_stem(stem)
        count, named = 1, Item(item.source, item.folder, stem)
        while named.output.casefold() in self._taken:
            count += 1
            named = Item(item.source, item.folder, f"{stem}_{count}")
        self._taken.add(named.output.casefold())
        return named
