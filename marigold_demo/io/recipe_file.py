"""Reads the recipe from a file that carries one: JSON, 3MF, PNG or GLB."""

import io
import json
import re
import struct
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from lzma import LZMAError
from pathlib import Path
from typing import BinaryIO
from xml.sax.saxutils import unescape

from PIL import Image

from marigold_demo.errors import SettingsError
from marigold_demo.io.limits import READ_ERRORS, opened, quiet_reading, start_of
from marigold_demo.io.mesh_files import MODEL
from marigold_demo.recipe import KEY, Recipe, recipe_from_json

MOST_BYTES = 200_000_000
LARGEST_HEAD = 2**20  # a recipe stands before the vertices, and is not longer on its own
_WANTED = "a recipe is a JSON, 3MF, PNG or GLB file of ours"


def load_recipe(path: Path | str) -> Recipe:
    """Read a recipe from its own JSON, or from a 3MF, PNG or GLB that carries one.

    Raises:
        SettingsError: There is none, or not one for this version.
    """
    with opened_recipe(path) as file:
        return decode_recipe(file)


@contextmanager
def opened_recipe(path: Path | str) -> Iterator[BinaryIO]:
    """Open a file that may hold a recipe.

    Raises:
        SettingsError: It cannot be opened, is empty, or is too long.
    """
    if not path:
        raise SettingsError(f"There is no file; {_WANTED}.")
    with opened(path, max_bytes=MOST_BYTES, error=SettingsError) as file:
        yield file


def decode_recipe(file: BinaryIO) -> Recipe:
    """Read a recipe from an open, seekable file.

    Raises:
        SettingsError: As `load_recipe`.
    """
    start = start_of(file, LARGEST_HEAD + 1)
    if start.lstrip()[:1] != b"{":
        return read_recipe(file.read(MOST_BYTES))
    if len(start) > LARGEST_HEAD:
        raise SettingsError(f"This JSON is too long to be a recipe; {_WANTED}.")
    return recipe_from_json(start.decode("utf-8", errors="replace"))


def read_recipe(data: bytes) -> Recipe:
    """Return the recipe in the bytes of a 3MF, PNG or GLB.

    Raises:
        SettingsError: There is none.
    """
    try:
        with quiet_reading():
            text = _find(data)
    except (*READ_ERRORS, zipfile.BadZipFile, LZMAError, Image.DecompressionBombError) as error:
        raise SettingsError(
            "This file is damaged or holds no recipe; 3MF, PNG and GLB files of ours do."
        ) from error
    if text is None:
        raise SettingsError("This file holds no recipe; 3MF, PNG and GLB files of ours do.")
    return recipe_from_json(text)


def _find(data: bytes) -> str | None:
    if data[:4] == b"glTF":
        (length,) = struct.unpack_from("<I", data, 12)
        extras = json.loads(data[20 : 20 + length])["asset"].get("extras", {})
        return json.dumps(extras[KEY]) if KEY in extras else None
    if data[:8] == b"\x89PNG\r\n\x1a\n":
        with Image.open(io.BytesIO(data), formats=("PNG",)) as picture:
            text = picture.info.get(KEY)
        return text if isinstance(text, str) else None
    with zipfile.ZipFile(io.BytesIO(data)) as archive, archive.open(MODEL) as model:
        return _in_model(model.read(LARGEST_HEAD))


def _in_model(head: bytes) -> str | None:
    found = re.search(rf'<metadata name="\w+:{KEY}">([^<]*)</metadata>', head.decode("utf-8", "replace"))
    return unescape(found[1]) if found else None
