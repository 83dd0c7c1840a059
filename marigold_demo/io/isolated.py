"""Photos, depth files and recipes, decoded in a process of their own; page, API and command line use this.

Decoders of pictures are a large body of C that meets bytes of visitors. So a server process without torch
(`decode_server`) forks one child for each file, under limits of memory, time and system calls;
the child sees that one file and ends with it. Whatever it does, its own visitor reads a sentence and the
others are served (`decoder`). Outside Linux files are decoded here, by the same functions.
"""

import sys
from pathlib import Path
from typing import Any

from marigold_demo import recipe
from marigold_demo.depth import DepthMap
from marigold_demo.errors import DepthFileError, PhotoError
from marigold_demo.io import depth_file, photo
from marigold_demo.io.decoder import SERVER, Decoder, Limits
from marigold_demo.io.depth_file import DepthFile
from marigold_demo.io.limits import opened
from marigold_demo.io.photo import Photo, safe_stem
from marigold_demo.recipe import Recipe, recipe_from_json

__all__ = ["Limits", "load_photo", "load_recipe", "read_depth_file", "use"]

AVAILABLE = sys.platform == "linux"
_decoder = Decoder()


def use(limits: Limits, *, start: bool = False, server: str = SERVER) -> None:
    """Decode under these limits from now on, in children of a module that is run as the server process.

    `start` starts that process before the first file.
    """
    global _decoder
    if (limits, server) != (_decoder.limits, _decoder.server):
        _decoder.close()
        _decoder = Decoder(limits, server=server)
    if start and AVAILABLE:
        _decoder.start()


def load_photo(path: Path | str, *, visitor: str | None = None) -> Photo:
    """Read a photo as `photo.load_photo` does, in a process of its own.

    Raises:
        PhotoError: The file cannot be used, or takes too much time or memory.
    """
    if not AVAILABLE:
        return photo.load_photo(path)
    stem = safe_stem(Path(path).name)
    with opened(path, max_bytes=photo.MAX_BYTES, error=PhotoError) as file:
        return _decoder.decode(
            "photo", file, lambda found: Photo(**found | {"stem": stem}), visitor=visitor, name=""
        )


def read_depth_file(path: Path | str, *, visitor: str | None = None, **options: Any) -> DepthFile:
    """Read a depth file as `depth_file.read_depth_file` does, in a process of its own.

    Raises:
        DepthFileError: The file cannot be used, or takes too much time or memory.
    """
    if not AVAILABLE:
        return depth_file.read_depth_file(path, **options)
    with opened(path, max_bytes=depth_file.MAX_BYTES, error=DepthFileError) as file:
        return _decoder.decode(
            "depth",
            file,
            lambda found: DepthFile(**found | {"depth": DepthMap(**found["depth"])}),
            visitor=visitor,
            **options,
        )


def load_recipe(path: Path | str, *, visitor: str | None = None) -> Recipe:
    """Read a recipe as `recipe.load_recipe` does, in a process of its own.

    Raises:
        SettingsError: The file holds no recipe, or takes too much time or memory.
    """
    if not AVAILABLE:
        return recipe.load_recipe(path)
    with recipe.opened_recipe(path) as file:
        return _decoder.decode("recipe", file, lambda found: recipe_from_json(found["text"]), visitor=visitor)
