"""The files to work on, and manifest.jsonl, by which a later run knows which of them are done.

Folders, patterns, lists and files become items with a place for their results. The manifest has one line for
each file that was worked on. Lines are only ever added, each with one call of write, after all files of its
photo have their final names. So whenever a run ends, what the manifest calls done is there whole. The last
line of a source counts.
"""

import glob
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock, Timeout

from marigold_demo.errors import PhotoError, SettingsError
from marigold_demo.io.export import PART_PREFIX, PART_SUFFIX
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


NAME = "manifest.jsonl"
LOCK = ".manifest.lock"
_NEWLINE = b"\n"


@dataclass(frozen=True)
class FileFacts:
    """By what a file is known again.

    Attributes:
        sha256: Of its bytes.
        bytes: How many.
        modified_ns: When it was changed, in nanoseconds.
    """

    sha256: str
    bytes: int
    modified_ns: int


@dataclass(frozen=True)
class Row:
    """What became of one file.

    Attributes:
        source: Its absolute path.
        output: Folder and stem of its results, relative to the output folder.
        status: "done" or "failed".
        settings: All that the results depend on besides the file (`Job.to_dict`).
        file: The file as it was; None where it could not be read.
        revision: Of the checkpoint (`DepthMap.revision`).
        device: What computed the depth (`DepthMap.device`).
        photo: Digest of the pixels (`Photo.digest`).
        files: Names of the results, relative to the output folder.
        seconds: That reading, predicting and writing took.
        error: Why it failed, in a sentence.
        notes: Sentences on what was done otherwise than asked for.
        replaced: A result that was there with other content; not in the manifest.
    """

    source: str
    output: str
    status: Literal["done", "failed"]
    settings: dict[str, Any]
    file: FileFacts | None = None
    revision: str | None = None
    device: str | None = None
    photo: str | None = None
    files: tuple[str, ...] = ()
    seconds: float = 0.0
    error: str = ""
    notes: tuple[str, ...] = ()
    replaced: str = field(default="", compare=False)

    def to_json(self) -> str:
        """Return one line of ASCII."""
        values = {name: value for name, value in asdict(self).items() if value not in (None, "", ())}
        values.pop("replaced", None)
        file = values.pop("file", {})
        return json.dumps({"source": self.source, **file, **values, "seconds": round(self.seconds, 3)})


def facts_of(path: Path) -> FileFacts:
    """Read a file once and return by what it is known again.

    Raises:
        PhotoError: It cannot be read.
    """
    try:
        with path.open("rb") as file:
            about = os.fstat(file.fileno())
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise PhotoError(f"The file cannot be read ({error.strerror}).") from error
    return FileFacts(digest, about.st_size, about.st_mtime_ns)


class Manifest:
    """The manifest of one output folder."""

    def __init__(self, folder: Path) -> None:
        """Read what is there; lines that are no rows, such as a last one cut off, are passed over."""
        self._folder, self._path = folder, folder / NAME
        self._rows: dict[str, Row] = {}
        self._is_cut = False
        try:
            data = self._path.read_bytes()
        except FileNotFoundError:
            return
        except OSError as error:
            raise SettingsError(
                f"{self._path} cannot be read ({error.strerror}); name another folder."
            ) from error
        self._is_cut = bool(data) and not data.endswith(_NEWLINE)
        for row in map(_row, data.splitlines()):
            if row is not None:
                self._rows[row.source] = row

    def outputs(self) -> dict[str, str]:
        """Return the output (see `Row`) of each source that was worked on."""
        return {source: row.output for source, row in self._rows.items()}

    def is_done(self, source: str, settings: dict[str, Any], revision: str | None) -> bool:
        """Return whether a file is done: unchanged, with these settings, all its results there.

        A file of the same size and time is taken as unchanged; of another time, its bytes decide.

        Args:
            source: Its absolute path.
            settings: What its results would depend on now.
            revision: Of the checkpoint that would be used; None: any.
        """
        row = self._rows.get(source)
        if row is None or row.status != "done" or row.settings != settings or row.file is None:
            return False
        if revision is not None and row.revision is not None and row.revision != revision:
            return False
        try:
            now = os.stat(source)
            if (now.st_size, now.st_mtime_ns) != (row.file.bytes, row.file.modified_ns) and (
                now.st_size != row.file.bytes or facts_of(Path(source)).sha256 != row.file.sha256
            ):
                return False
        except (OSError, PhotoError):
            return False
        return all((self._folder / name).is_file() for name in row.files)

    def add(self, row: Row) -> None:
        """Add a row.

        Raises:
            SettingsError: The disk is full, or the folder cannot be written to.
        """
        line = row.to_json().encode() + _NEWLINE
        try:
            with self._path.open("ab", buffering=0) as file:
                file.write(_NEWLINE + line if self._is_cut else line)
        except OSError as error:
            raise SettingsError(
                f"{self._path} cannot be written ({error.strerror}); make room or name another folder."
            ) from error
        self._is_cut = False
        self._rows[row.source] = row


def _row(line: bytes) -> Row | None:
    try:
        values = json.loads(line)
        facts = {name.name: values.pop(name.name, None) for name in fields(FileFacts)}
        known = {name.name for name in fields(Row)}
        values = {name: value for name, value in values.items() if name in known}
        values |= {name: tuple(values.get(name, ())) for name in ("files", "notes")}
        return Row(**values, file=FileFacts(**facts) if facts["sha256"] else None)
    except (ValueError, TypeError, AttributeError):
        return None


@contextmanager
def only_run(folder: Path) -> Iterator[None]:
    """Keep other runs out of an output folder meanwhile; a run that was killed keeps nobody out.

    Raises:
        SettingsError: Another run works in it, or it cannot be written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / LOCK, timeout=0)
        lock.acquire()
    except Timeout as error:
        raise SettingsError(f"Another run works in {folder}; wait for it, or name another folder.") from error
    except OSError as error:
        problem = f"{folder} cannot be made or used ({error.strerror})"
        raise SettingsError(f"{problem}; name another folder.") from error
    try:
        yield
    finally:
        with suppress(OSError):
            (folder / LOCK).unlink()
        lock.release()


def remove_parts(folders: Iterable[Path]) -> None:
    """Remove what runs that were killed have left half written."""
    for folder in folders:
        for part in folder.glob(f"{PART_PREFIX}*{PART_SUFFIX}"):
            part.unlink(missing_ok=True)
