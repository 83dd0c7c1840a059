"""The photos that come with the package: each with depth, license and relief settings.

The depth is kept at the photo's size in 16 bits as JPEG 2000, which is ten times smaller than PNG and here
off by less than what the eye or a printer can distinguish.
"""

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
from PIL import Image

from marigold_demo.catalog import EMBEDDED, Prediction
from marigold_demo.depth import DepthMap
from marigold_demo.errors import DataError, SettingsError
from marigold_demo.settings import DepthSettings, ReliefSettings

FOLDER = Path(__file__).parent / "example_photos"
MANIFEST = "manifest.json"
_NOTE = "This depth came with the example."
_STORED = "a file that came with the example"
_TEXTS = ("file", "title", "license", "source")


@dataclass(frozen=True)
class StoredDepth:
    """A file of depth that came with an example.

    Attributes:
        path: 16 bits, 0 near.
        method: Name of the checkpoint that made it at its own settings.
        revision: Of the checkpoint.
        prediction: What it predicts, with `meters` and `fov_deg` as `DepthMap` has them.
    """

    path: Path
    method: str = EMBEDDED
    revision: str | None = None
    prediction: Prediction = "affine_depth"
    meters: tuple[float, float] | None = None
    fov_deg: float | None = None

    @property
    def settings(self) -> DepthSettings:
        """What made it."""
        return DepthSettings(checkpoint=self.method)

    def read(self) -> DepthMap:
        """Return the depth."""
        with Image.open(self.path) as image:
            levels = np.asarray(image, dtype=np.uint16)  # [H, W]
        return replace(
            DepthMap.from_uint16(levels),
            revision=self.revision,
            device=_STORED,
            notes=(_NOTE,),
            prediction=self.prediction,
            meters=self.meters,
            fov_deg=self.fov_deg,
        )


@dataclass(frozen=True)
class Example:
    """One photo that comes with the app.

    Attributes:
        path: The picture file.
        title: What it shows, for people and screen readers.
        license: An SPDX name or "public domain".
        source: Who made it and where it comes from.
        relief: Settings of a relief that suit it.
        depth: The file of its depth by the embedded checkpoint at its own settings; None without one.
        tile: A small picture, split diagonally into photo and lit relief; None without one.
        revision: Of the checkpoint that made the depth.
        others: Depth of other methods (`scripts/make_examples.py --method`).
    """

    path: Path
    title: str
    license: str
    source: str
    relief: ReliefSettings = field(default_factory=ReliefSettings)
    depth: Path | None = None
    tile: Path | None = None
    revision: str | None = None
    others: tuple[StoredDepth, ...] = ()

    def known_depth(self) -> DepthMap | None:
        """Return the depth that came with the photo."""
        return None if self.depth is None else StoredDepth(self.depth, revision=self.revision).read()


def load_examples(folder: Path = FOLDER) -> tuple[Example, ...]:
    """Return the examples of a folder with a manifest; none where there is no manifest.

    Raises:
        DataError: The manifest is damaged, names a missing file, or holds a setting that does not exist.
    """
    manifest = folder / MANIFEST
    if not manifest.is_file():
        return ()
    try:
        entries = json.loads(manifest.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{manifest} is not JSON; a list of examples is expected.") from error
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise DataError(f"{manifest} must hold a list of examples, each with {', '.join(_TEXTS)}.")
    return tuple(_example(entry, folder=folder) for entry in entries)


def _example(entry: dict[str, Any], *, folder: Path) -> Example:
    texts = [entry.get(key) for key in _TEXTS]
    if not all(isinstance(text, str) and text for text in texts):
        raise DataError(f"The example {entry} lacks one of {', '.join(_TEXTS)}.")
    file, title, license, source = (str(text) for text in texts)
    depth, tile, revision = (entry.get(key) for key in ("depth", "tile", "revision"))
    paths = {name: _file(folder, name) for name in (file, depth, tile) if name}
    try:
        relief = ReliefSettings(**entry.get("relief", {}))
    except (TypeError, SettingsError) as error:  # TypeError: a name that is no setting
        raise DataError(f"The relief settings of the example {file} cannot be used: {error}") from error
    return Example(
        paths[file],
        title=title,
        license=license,
        source=source,
        relief=relief,
        depth=paths.get(depth),
        tile=paths.get(tile),
        revision=revision,
        others=tuple(_other(about, folder=folder) for about in entry.get("others", ())),
    )


def _file(folder: Path, name: str) -> Path:
    """Return the path of a file of the folder itself.

    Raises:
        DataError: There is none of this name.
    """
    if Path(name).name != name or not (folder / name).is_file():
        raise DataError(f"The example {name!r} is not a file in {folder}.")
    return folder / name


def _other(about: dict[str, Any], *, folder: Path) -> StoredDepth:
    """Return the depth of another method, as the manifest describes it.

    Raises:
        DataError: The description is damaged, or names a missing file.
    """
    try:
        meters = about.get("meters")
        found = StoredDepth(
            _file(folder, about["file"]),
            method=about["method"],
            revision=about.get("revision"),
            prediction=about.get("prediction", "affine_depth"),
            meters=meters and (float(meters[0]), float(meters[1])),
            fov_deg=about.get("fov_deg"),
        )
        if found.prediction not in get_args(Prediction):
            raise ValueError(found.prediction)
        found.settings  # noqa: B018  # raises where the name is none
    except (AttributeError, KeyError, IndexError, TypeError, ValueError, SettingsError) as error:
        raise DataError(f"The other depth {about} of an example cannot be used.") from error
    return found
