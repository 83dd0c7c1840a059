"""Desk: what the server keeps for visitors between two clicks, and where files for download are laid.

Knows nothing of widgets. Things are found again by unguessable keys that stay on the server; they are
bounded in bytes and in time. Files lie below Gradio's cache, which serves them and deletes them by age.
"""

import os
import secrets
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from marigold_demo.catalog import find
from marigold_demo.depth import DepthMap
from marigold_demo.errors import DemoError
from marigold_demo.io import export
from marigold_demo.io.cache_folder import CacheFolder, told_when_full
from marigold_demo.io.photo import Photo
from marigold_demo.io.private_folder import cache_root
from marigold_demo.recipe import Recipe
from marigold_demo.settings import DepthSettings, MeshSettings, ReliefSettings
from marigold_demo.shelf import Shelf
from marigold_demo.upkeep import Upkeep
from marigold_demo.workflow import Workflow, size_bytes

KEEP_BYTES = 2**30
KEEP_S = 2 * 3600.0
SCREEN_PX = 1280
_LATEST_BYTES = 2**20
_REQUEST_BYTES = 200  # about what a note of one takes
_SETTINGS_BYTES = 1000  # about what one takes
Made = ReliefSettings | MeshSettings
# Groups of events that share a limit: those that use the network, those that read files, and all others.
NETWORK, HANDS = "network", "hands"
HANDS_MOST = 4
# Events that decode an uploaded file: twice as many as one visitor can hold up (isolated.Limits).
READ, READ_MOST = "read", 8
NETWORK_MOST = 24  # the workflow lets one run at a time and tells the others how many are before them
# How events of the page are declared: no program sees them, and no overlay covers the page.
QUIET: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
WORK: dict[str, Any] = QUIET | {"concurrency_id": HANDS, "concurrency_limit": HANDS_MOST}
READING: dict[str, Any] = QUIET | {"concurrency_id": READ, "concurrency_limit": READ_MOST}
# Values as they were sent: the settings' own limits hold, which are wider than those of the sliders.
RAW: dict[str, Any] = {"preprocess": False}


@dataclass(frozen=True, eq=False)
class Piece:
    """One finished depth map with all that later stages need.

    Attributes:
        photo: The photo it belongs to.
        depth: Depth at the photo's size.
        settings: What made it; None when the visitor brought the depth.
        own_name: What the visitor reads of a depth that no settings made.
        previous: Another depth of the same photo, made before, to compare with.
        previous_name: What the visitor reads of it, for instance "Depth of Marigold LCM".
    """

    photo: Photo
    depth: DepthMap
    settings: DepthSettings | None
    own_name: str = "Your own depth"
    previous: DepthMap | None = None
    previous_name: str = ""

    @property
    def name(self) -> str:
        """What the visitor reads of its depth where there is another one beside it."""
        if self.settings is None:
            return self.own_name
        known = find(self.settings.checkpoint)
        return f"Depth of {known.short_title if known else self.settings.checkpoint}"

    @property
    def size_bytes(self) -> int:
        """Bytes of photo and depths, with the smaller copies that the screen asks for."""
        maps = [depth for depth in (self.depth, self.previous) if depth is not None]
        whole = self.photo.rgb.nbytes + sum(size_bytes(depth) for depth in maps)
        share = SCREEN_PX / max(self.photo.size)
        return whole + round(whole * share**2) if share < 1 else whole

    def after(self, earlier: "Piece | None") -> "Piece":
        """Return the piece with an earlier one of its photo beside it, as far as there is one to compare."""
        if earlier is None or earlier.photo.digest != self.photo.digest:
            return self
        if earlier.depth is self.depth:  # the same wish again
            return replace(self, previous=earlier.previous, previous_name=earlier.previous_name)
        name = earlier.name if earlier.name != self.name else f"{earlier.name}, before"
        return replace(self, previous=earlier.depth, previous_name=name)

    def recipe(self, settings: ReliefSettings | MeshSettings | None = None) -> Recipe:
        """Return what a file made of this depth was made with."""
        relief = settings if isinstance(settings, ReliefSettings) else None
        mesh = settings if isinstance(settings, MeshSettings) else None
        return Recipe(
            photo=self.photo.digest,
            revision=self.depth.revision,
            device=self.depth.device,
            depth=self.settings,
            relief=relief,
            mesh=mesh,
        )

    @cached_property
    def screen_photo(self) -> NDArray[np.uint8]:
        """The photo as large as a screen needs it: uint8 [h, w, 3]."""
        return shrink_photo(self.photo.rgb)

    @cached_property
    def screen_depth(self) -> DepthMap:
        """The depth as large as a screen needs it."""
        return _small(self.depth)

    @cached_property
    def screen_previous(self) -> DepthMap | None:
        """The other depth as large as a screen needs it."""
        return None if self.previous is None else _small(self.previous)


class Desk:
    """The workflow, together with what it has made for whom."""

    def __init__(
        self,
        workflow: Workflow,
        *,
        keep_bytes: int = KEEP_BYTES,
        keep_s: float = KEEP_S,
        cache: CacheFolder | None = None,
    ) -> None:
        """Take the workflow and the bounds of what is kept.

        Args:
            workflow: Makes depth, reliefs and surfaces.
            keep_bytes: Photos and depths in memory take no more.
            keep_s: How long something is kept after its last use.
            cache: Where files are laid; None: the folder that Gradio serves, with the bounds by default.
        """
        self.workflow, self.keep_s = workflow, keep_s
        self.cache = cache or CacheFolder(cache_root(), keep_s=keep_s)
        self.known_files: list[set[str]] = []  # paths that Gradio has seen; it forgets only what it deletes
        self.upkeep = Upkeep(self.tidy)
        self._photos: Shelf[Photo] = Shelf(max_bytes=keep_bytes // 2, max_idle_s=keep_s)
        self._pieces: Shelf[Piece] = Shelf(max_bytes=keep_bytes // 2, max_idle_s=keep_s)
        # Requests whose runs have begun and not ended.
        self._running: Shelf[bool] = Shelf(max_bytes=_LATEST_BYTES, max_idle_s=keep_s)
        # The key of the piece that was made last, by the key of its photo.
        self._latest: Shelf[str] = Shelf(max_bytes=_LATEST_BYTES, max_idle_s=keep_s)
        # What the preview on screen was made with, by the key of its piece and the kind of object.
        self._previewed: Shelf[Made] = Shelf(max_bytes=_LATEST_BYTES, max_idle_s=keep_s)

    @property
    def kept_bytes(self) -> int:
        """Bytes of all photos and pieces in memory."""
        return self._photos.size_bytes + self._pieces.size_bytes

    def begin_run(self, request: str | None) -> None:
        """Note that the run of a request has begun."""
        self._running.put(request, True, size_bytes=_REQUEST_BYTES)

    def end_run(self, request: str | None) -> None:
        """Note that the run of a request has ended."""
        self._running.drop(request)

    def is_running(self, request: str | None) -> bool:
        """Tell whether the run of a request has begun and not ended."""
        return bool(self._running.get(request))

    def keep_photo(self, photo: Photo) -> str:
        """Keep a photo and return its key."""
        key = secrets.token_urlsafe(16)
        inside = 0 if photo.phone_depth is None else photo.phone_depth.nbytes
        self._photos.put(key, photo, size_bytes=photo.rgb.nbytes + inside)
        return key

    def photo(self, key: str | None) -> Photo:
        """Return a kept photo.

        Raises:
            DemoError: There is none, or it was kept too long ago.
        """
        if not key:
            raise DemoError("There is no photo yet; drop one into the first box.")
        photo = self._photos.get(key)
        if photo is None:
            raise DemoError("This photo has left the server's memory; upload it again.")
        return photo

    def keep_piece(self, piece: Piece, *, photo_key: str | None = None) -> str:
        """Keep a finished depth map and return its key.

        Args:
            piece: What is kept, beside the piece that was last made of the same photo.
            photo_key: Of the photo it belongs to, where that is on the desk.
        """
        key = secrets.token_urlsafe(16)
        if photo_key:
            piece = piece.after(self._pieces.get(self._latest.get(photo_key)))
            self._latest.put(photo_key, key, size_bytes=len(key))
        self._pieces.put(key, piece, size_bytes=piece.size_bytes)
        return key

    def piece(self, key: str | None) -> Piece:
        """Return a kept piece.

        Raises:
            DemoError: There is none, or it was kept too long ago.
        """
        if not key:
            raise DemoError("There is no depth yet; choose a photo first.")
        piece = self._pieces.get(key)
        if piece is None:
            raise DemoError("This depth has left the server's memory; press “Estimate depth” again.")
        return piece

    def is_own(self, key: str | None) -> bool:
        """Tell whether a kept depth map was brought by the visitor."""
        piece = self._pieces.get(key)
        return piece is not None and piece.settings is None

    def note_preview(self, key: str | None, settings: Made) -> None:
        """Note what the preview of an object shows from now on."""
        self._previewed.put((key, type(settings)), settings, size_bytes=_SETTINGS_BYTES)

    def is_outdated(self, key: str | None, settings: Made) -> bool:
        """Tell whether the preview of this kind of object has gone on to other settings."""
        return self._previewed.get((key, type(settings))) not in (None, settings)

    def folder(self) -> Path:
        """Return a new empty folder below Gradio's cache, unguessable.

        Raises:
            DiskFullError: The disk has no room left.
        """
        return self.cache.new_folder()

    def tidy(self) -> None:
        """Let go of what was kept for too long, on the disk and in memory."""
        self.cache.sweep()
        self.workflow.tidy()
        for shelf in (self._photos, self._pieces, self._running, self._latest, self._previewed):
            shelf.sweep()
        for known in self.known_files:
            known.difference_update([path for path in list(known) if not os.path.lexists(path)])


def lay(folder: Path, name: str, data: bytes) -> str:
    """Write a file of the page and return its path, as Gradio wants it.

    Raises:
        DiskFullError: The disk has no room for it.
    """
    with told_when_full():
        return str(export.save(folder, name, data))


def shrink_photo(rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Make a photo small enough for a screen: uint8 [h, w, 3]; itself where it is that small."""
    return rgb if _fits(rgb) else np.asarray(_fit(Image.fromarray(rgb)))


def _small(depth: DepthMap) -> DepthMap:
    if _fits(depth.values):
        return depth
    spread = depth.uncertainty
    return DepthMap(_shrink(depth.values), None if spread is None else _shrink(spread))


def _shrink(values: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray(_fit(Image.fromarray(values)), dtype=np.float32)  # mode F, [h, w]


def _fits(values: NDArray[Any]) -> bool:
    return bool(max(values.shape[:2]) <= SCREEN_PX)


def _fit(image: Image.Image) -> Image.Image:
    share = SCREEN_PX / max(image.size)
    size = (max(1, round(image.width * share)), max(1, round(image.height * share)))
    return image.resize(size, Image.Resampling.BOX if share < 0.5 else Image.Resampling.BILINEAR)
