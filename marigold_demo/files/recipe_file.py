"""The recipe out of a file that carries one. Knows nothing of how the file was made."""

import io
import json
import re
import struct
import zipfile
from lzma import LZMAError
from pathlib import Path
from xml.sax.saxutils import unescape

from PIL import Image

from marigold_demo.errors import SettingsError
from marigold_demo.files.threemf import MODEL
from marigold_demo.reading.limits import DAMAGED, quiet_reading
from marigold_demo.recipe import KEY, Recipe, recipe_from_json

MOST_BYTES = 200_000_000
LARGEST_HEAD = 2**20  # a recipe stands before the vertices


def load_recipe(path: Path | str) -> Recipe:
    """Read a recipe from its own JSON, or from a 3MF, PNG or GLB that carries one.

    Raises:
        SettingsError: There is none, or not one for this version.
    """
    if not path:
        raise SettingsError("There is no file; a recipe is a JSON, 3MF, PNG or GLB file of ours.")
    try:
        with Path(path).open("rb") as file:
            data = file.read(MOST_BYTES + 1)
    except OSError as error:
        told = f"The file cannot be read ({error.strerror})"
        raise SettingsError(f"{told}; a recipe is a JSON, 3MF, PNG or GLB file of ours.") from error
    if not data or len(data) > MOST_BYTES:
        raise SettingsError(
            "This file is empty or too large for a recipe; 3MF, PNG, GLB and JSON of ours are not."
        )
    if data.lstrip()[:1] == b"{":
        return recipe_from_json(data.decode("utf-8", errors="replace"))
    return read_recipe(data)


def read_recipe(data: bytes) -> Recipe:
    """Return the recipe in the bytes of a 3MF, PNG or GLB.

    Raises:
        SettingsError: There is none.
    """
    try:
        with quiet_reading():
            text = _find(data)
    except (*DAMAGED, zipfile.BadZipFile, LZMAError, Image.DecompressionBombError) as error:
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
