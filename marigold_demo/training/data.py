"""Where training pictures come from: rendered scenes and folders, mixed by share."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from marigold_demo.errors import DataError, SettingsError
from marigold_demo.training.folders import FOLDER_KINDS, FolderSource
from marigold_demo.training.sample import Sample, hide_far

if TYPE_CHECKING:
    from synthetic.store import SceneStore

HELD_OUT_SEED = 1_000_000_000  # scenes from here on are never trained on
PART = re.compile(
    r"(?:scenes|(?P<kind>[a-z]+):(?P<place>.+?)(?::(?P<list>[^:@]+\.txt))?)(?:@(?P<share>[0-9.]+))?"
)


class Source(Protocol):
    """Samples by number."""

    @property
    def count(self) -> int | None:
        """How many there are; None where there is no end to them."""
        ...

    def read(self, index: int) -> Sample:
        """Return one sample; the same number gives the same sample."""
        ...


class SceneSource:
    """Rendered scenes without end: number n is the scene of seed first_seed + n."""

    count: int | None = None

    def __init__(self, store: "SceneStore") -> None:
        self._store = store

    def read(self, index: int) -> Sample:
        """Return scene `index`; what is far behind the rest counts as sky."""
        scene = self._store.read(index)
        depth = scene.depth.astype(np.float32)  # [H, W]
        valid = ~scene.sky & np.isfinite(depth) & (depth > 0)
        depth = np.where(valid, depth, np.float32(1))
        return hide_far(Sample(photo=scene.photo, depth=depth, valid=valid, sky=scene.sky))


def open_scenes(folder: Path, *, seed: int) -> tuple[SceneSource, SceneSource]:
    """Return the scenes to learn from and those held out, both kept on disk below `folder`.

    Raises:
        SettingsError: The package that renders them is not installed.
    """
    try:
        from synthetic.store import SceneStore
    except ImportError as error:
        raise SettingsError(
            "The scenes are rendered by a package of their own, which is not installed; run"
            " pip install ./synthetic in a clone of this project, or name a folder of photos with --data."
        ) from error
    return (
        SceneSource(SceneStore(folder, first_seed=seed)),
        SceneSource(SceneStore(folder, first_seed=HELD_OUT_SEED)),
    )


@dataclass(frozen=True)
class Mixture:
    """Sources with the share each has of the pictures; shares sum to 1."""

    sources: tuple[Source, ...]
    shares: tuple[float, ...]

    def choose(self, rng: np.random.Generator) -> int:
        """Draw the number of a source."""
        return int(rng.choice(len(self.sources), p=self.shares))


def open_data(text: str, *, scenes_folder: Path, seed: int) -> tuple[Mixture, Mixture]:
    """Open what TrainSettings.data names, looking at every folder first: for training and for validation.

    Args:
        text: Parts joined by commas.
        scenes_folder: Keeps rendered scenes, where `text` names them.
        seed: Of the first scene.

    Raises:
        DataError: A folder is missing or not laid out as expected; the message names file and layout.
        SettingsError: Scenes are asked for and the package that renders them is not installed.
    """
    sources: list[tuple[Source, Source]] = []
    shares: list[float] = []
    for part in text.split(","):
        folder, share = _open_part(part.strip())
        sources.append(folder.split() if folder else open_scenes(scenes_folder, seed=seed))
        shares.append(share)
    return (
        Mixture(sources=tuple(training for training, _ in sources), shares=_to_one(shares)),
        Mixture(sources=tuple(validation for _, validation in sources), shares=_to_one(shares)),
    )


def _open_part(part: str) -> tuple[FolderSource | None, float]:
    match = PART.fullmatch(part)
    if not match or (match["kind"] and match["kind"] not in FOLDER_KINDS):
        raise DataError(
            f"The data {part!r} cannot be used; write scenes, or KIND:FOLDER:LIST.txt@SHARE with KIND being "
            f"{', '.join(FOLDER_KINDS)}, LIST and SHARE where wanted, joined by commas."
        )
    share = float(match["share"] or 1)
    if not match["kind"]:
        return None, share
    file_list = Path(match["list"]) if match["list"] else None
    return FOLDER_KINDS[match["kind"]](Path(match["place"]), file_list), share


def _to_one(shares: Sequence[float]) -> tuple[float, ...]:
    total = sum(shares)
    if total <= 0:
        raise DataError("The shares of the data sum to 0; give at least one of them a share above 0.")
    return tuple(share / total for share in shares)
