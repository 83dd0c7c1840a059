"""A recipe: the settings and versions that a file was made with, as JSON, and how it is read from files.

3MF, PNG and GLB files carry one, so that a file can be made again from itself and its photo.
"""

import io
import json
import re
import struct
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from lzma import LZMAError
from pathlib import Path
from types import MappingProxyType
from typing import Any, BinaryIO
from xml.sax.saxutils import unescape

from PIL import Image

from marigold_demo import __version__
from marigold_demo.depth import DepthMap
from marigold_demo.errors import SettingsError
from marigold_demo.io.limits import READ_ERRORS, opened, quiet_reading, start_of
from marigold_demo.io.mesh_files import THREEMF_MODEL
from marigold_demo.io.photo import Photo
from marigold_demo.settings import DepthSettings, MeshSettings, ReliefSettings

KEY = "marigold-demo-recipe"  # under which files keep it
NEAR_KEY = "marigold-demo-near"  # text beside it in a PNG of depth: "white" where that was inverted
HIGH_KEY = "marigold-demo-high"  # the same in a height map: "light" or "dark"
LIBRARIES = ("torch", "diffusers", "numpy", "scipy", "pillow")  # whose versions may change a result
_PARTS = {"depth": DepthSettings, "relief": ReliefSettings, "mesh": MeshSettings}
_WORDS = ("version", "photo", "revision", "device", "prediction")
MOST_BYTES = 200_000_000
LARGEST_HEAD = 2**20  # a recipe stands before the vertices, and is not longer on its own
_WANTED = "a recipe is a JSON, 3MF, PNG or GLB file of ours"


@cache
def libraries() -> Mapping[str, str]:
    """Return the versions of the libraries that are installed here."""
    found = {}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return MappingProxyType(found)


@dataclass(frozen=True)
class Recipe:
    """Everything but the photo.

    Attributes:
        version: Of the program that made the file.
        libraries: Versions of the libraries it used.
        photo: Digest of the photo (`Photo.digest`), where there was one.
        revision: Of the checkpoint: the hub's commit or a digest of its weights (`DepthMap.revision`).
        device: What computed the depth (`DepthMap.device`).
        prediction: What the network predicts (`DepthMap.prediction`), such as "affine_disparity".
        depth: How the photo became depth; None where depth was brought.
        relief: How depth became a relief.
        mesh: How depth became a surface.
    """

    version: str = __version__
    libraries: Mapping[str, str] = field(default_factory=libraries, hash=False)
    photo: str | None = None
    revision: str | None = None
    device: str | None = None
    prediction: str | None = None
    depth: DepthSettings | None = None
    relief: ReliefSettings | None = None
    mesh: MeshSettings | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, without what is unset."""
        parts = {name: asdict(part) for name in _PARTS if (part := getattr(self, name)) is not None}
        words = {name: word for name in _WORDS if (word := getattr(self, name)) is not None}
        return words | {"libraries": dict(self.libraries)} | parts

    def to_json(self) -> str:
        """Return one line of ASCII."""
        return json.dumps(self.to_dict(), separators=(",", ":"))

    def compatibility_warnings(
        self, *, photo: str | None = None, revision: str | None = None, device: str | None = None
    ) -> list[str]:
        """Return, in sentences, why a result made here may differ from the one that carries this recipe.

        Args:
            photo: Digest of the photo that is at hand.
            revision: Of the checkpoint that is at hand.
            device: What computed the depth that is at hand.
        """
        found = []
        if photo and self.photo and photo != self.photo:
            found.append("The recipe was made for another photo.")
        if revision and self.revision and revision != self.revision:
            found.append(
                f"The recipe's checkpoint was at revision {self.revision[:12]}, the one here is at"
                f" {revision[:12]}; the depth may differ."
            )
        if device and self.device and device != self.device:
            found.append(
                f"The recipe's depth is from {self.device}, the one here from {device}; its bytes may differ."
            )
        mine = {"Marigold Demo": __version__, **libraries()}
        theirs = {"Marigold Demo": self.version, **self.libraries}
        others = [
            f"{name} {theirs[name][:20]}" for name in mine if theirs.get(name, mine[name]) != mine[name]
        ]
        if others:
            found.append(f"The recipe was made with {', '.join(others)}; what is here may give other bytes.")
        return found


def recipe_of(photo: Photo | None, depth: DepthMap, settings: DepthSettings | None) -> Recipe:
    """Return what depth was made with; `settings` is None where it was brought."""
    return Recipe(
        photo=photo.digest if photo else None,
        revision=depth.revision,
        device=depth.device,
        prediction=depth.prediction if settings else None,
        depth=settings,
    )


def recipe_from_json(text: str) -> Recipe:
    """Read a recipe back.

    Raises:
        SettingsError: It is no recipe, or not one for this version.
    """
    try:
        found = json.loads(text)
        parts = {name: kind(**found.pop(name)) for name, kind in _PARTS.items() if name in found}
        used = found.pop("libraries", {})
        strange = [name for name, word in {**used, **found}.items() if not isinstance(word, str)]
        if strange:
            raise ValueError("A word is no text.")
        return Recipe(libraries=MappingProxyType(used), **found, **parts)
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise SettingsError(f"This is no recipe that version {__version__} can read.") from error


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
    with zipfile.ZipFile(io.BytesIO(data)) as archive, archive.open(THREEMF_MODEL) as model:
        return _in_model(model.read(LARGEST_HEAD))


def _in_model(head: bytes) -> str | None:
    found = re.search(rf'<metadata name="\w+:{KEY}">([^<]*)</metadata>', head.decode("utf-8", "replace"))
    return unescape(found[1]) if found else None
