"""A file that a command is given -> the photo or the depth in it, with all that is to be said of it."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from marigold_demo.depth import DepthMap
from marigold_demo.errors import PhotoError
from marigold_demo.io.depth_file import depth_form, may_be_depth
from marigold_demo.io.isolated import load_photo, read_depth_file
from marigold_demo.io.photo import Photo, safe_stem

_DEPTH_ENDINGS = ("_16bit", "_depth_inverted", "_depth")


@dataclass(frozen=True)
class DepthInput:
    """A depth file.

    Attributes:
        depth: What it holds.
        stem: Of the files that will be made of it.
        is_relief: It is a height map of ours.
        notes: Sentences on how it was read.
    """

    depth: DepthMap
    stem: str
    is_relief: bool
    notes: tuple[str, ...] = ()


def photo_from(file: Path, *, if_depth: str | None = None) -> Photo:
    """Read a photo; `if_depth` says what to do where the file may be depth.

    Raises:
        PhotoError: It cannot be used.
    """
    try:
        read = load_photo(file)
    except PhotoError as error:
        if if_depth and depth_form(file):
            raise PhotoError(f"The file is depth, not a photo; {if_depth}.") from error
        raise
    warnings = may_be_depth(file, read.rgb, remedy=if_depth) if if_depth else ()
    return replace(read, notes=read.notes + tuple(warnings)) if warnings else read


def photo_or_depth_from(file: Path, *, is_depth: bool, options: dict[str, Any]) -> Photo | DepthInput:
    """Read a file as what its content says it is.

    Args:
        file: The file.
        is_depth: It is depth, even where its content might be that of a photo.
        options: Of `read_depth_file`.

    Raises:
        DemoError: It cannot be used.
    """
    if not is_depth and depth_form(file) is None:
        return photo_from(file, if_depth="add --depth")
    read = read_depth_file(file, **options)
    return DepthInput(read.depth, depth_stem(safe_stem(file.name)), read.is_relief, tuple(read.notes))


def depth_stem(stem: str) -> str:
    """Return the stem of a depth file without what says that it is one."""
    for ending in _DEPTH_ENDINGS:
        stem = stem.removesuffix(ending)
    return stem
