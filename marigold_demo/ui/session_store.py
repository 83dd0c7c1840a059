"""Server-side session store: photos, depth results and the folders of files for download.

Entries have random 128-bit keys, which stay on the server, and are evicted least recently used when
`max_bytes` is reached, or `ttl_s` after their last use. Files lie below Gradio's cache, which serves them.

A key may have a part behind a dot: whoever comes back to an entry gets one of their own, so that what is
noted for one visitor never meets another's. Only keys of `remember` leave the server; they give such keys.
"""

import json
import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from marigold_demo.catalog import find
from marigold_demo.depth import Depth, DepthMap, align
from marigold_demo.errors import DemoError
from marigold_demo.io import export
from marigold_demo.io.cache_folder import CacheFolder, cache_root, disk_full_errors
from marigold_demo.io.photo import Photo
from marigold_demo.recipe import Recipe, recipe_of
from marigold_demo.settings import DepthSettings, MeshSettings, ReliefSettings
from marigold_demo.workflow import IdleCache, PeriodicTask, Workflow, size_bytes

MAX_BYTES = 2**30
TTL_S = 2 * 3600.0
SCREEN_PX = 1280
MOST_OTHERS = 3  # other depths of a photo beside the one on screen
_KEPT_BYTES = 2**23  # of what `remember` keeps
_SHARED = "~"  # how the second part of a key begins that came by a link
_REFINE = "refine-"  # how the id of a refinement begins
_NOTES_BYTES = 2**20  # of what is noted of one kind
_NOTE_BYTES = 200  # about what one note takes
_SHARED_BYTES = 2000  # about what a key takes, and its place, where the arrays are shared
_SETTINGS_BYTES = 1000  # about what one takes
ObjectSettings = ReliefSettings | MeshSettings


@dataclass(frozen=True)
class Kept:
    """What a key that left the server leads to.

    Attributes:
        photo_key: Of the photo in the store, if any.
        depth_key: Of the depth result in the store, if any.
        settings: Of the page when a link was made.
    """

    photo_key: str | None
    depth_key: str | None
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class OtherDepth:
    """Another depth of the same photo, and what the visitor reads of it, such as "Depth of Marigold LCM"."""

    name: str
    depth: DepthMap


@dataclass(frozen=True, eq=False)
class DepthResult:
    """One finished depth map with all that is made from it.

    Attributes:
        photo: The photo it belongs to.
        depth: Depth at the photo's size.
        settings: What made it; None when the visitor brought the depth.
        own_name: What the visitor reads of a depth that no settings made.
        others: Other depths of the same photo to compare with, the newest first.
    """

    photo: Photo
    depth: DepthMap
    settings: DepthSettings | None
    own_name: str = "Your own depth"
    others: tuple[OtherDepth, ...] = ()

    @property
    def name(self) -> str:
        """What the visitor reads of its depth where there is another one beside it."""
        if self.settings is None:
            return self.own_name
        known = find(self.settings.checkpoint)
        return f"Depth of {known.short_title if known else self.settings.checkpoint.rpartition('/')[2]}"

    @property
    def size_bytes(self) -> int:
        """Bytes of photo and depths, with the smaller copies that the screen asks for."""
        maps = [self.depth, *(other.depth for other in self.others)]
        whole = self.photo.rgb.nbytes + sum(size_bytes(depth) for depth in maps)
        share = SCREEN_PX / max(self.photo.size)
        return whole + round(whole * share**2) if share < 1 else whole

    def compared_with(self, earlier: "DepthResult | None") -> "DepthResult":
        """Return the result with an earlier one of the same photo to compare with, where there is one."""
        if earlier is None or earlier.photo.digest != self.photo.digest:
            return self
        if earlier.depth is self.depth:  # the same request again
            return replace(self, others=earlier.others)
        name = earlier.name if earlier.name != self.name else f"{earlier.name}, before"
        before = tuple(other for other in earlier.others if other.name != self.name)
        return replace(self, others=before).beside(OtherDepth(name, earlier.depth))

    def beside(self, other: OtherDepth) -> "DepthResult":
        """Return the result with one more other depth; one of the same name goes, or else the oldest."""
        older = [one for one in self.others if one.name != other.name]
        return replace(self, others=(other, *older)[:MOST_OTHERS])

    def recipe(self, settings: ObjectSettings | None = None) -> Recipe:
        """Return what a file made from this depth was made with."""
        relief = settings if isinstance(settings, ReliefSettings) else None
        mesh = settings if isinstance(settings, MeshSettings) else None
        return replace(recipe_of(self.photo, self.depth, self.settings), relief=relief, mesh=mesh)

    @cached_property
    def screen_photo(self) -> NDArray[np.uint8]:
        """The photo as large as a screen needs it: uint8 [h, w, 3]."""
        return shrink_photo(self.photo.rgb)

    @cached_property
    def screen_depth(self) -> DepthMap:
        """The depth as large as a screen needs it."""
        return _small(self.depth)

    @cached_property
    def screen_others(self) -> tuple[Depth, ...]:
        """The other depths, as large as `screen_depth` and on its scale; beyond [0, 1] is possible."""
        depth = self.screen_depth
        return tuple(align(_resized(other.depth, depth.size), depth) for other in self.others)


class SessionStore:
    """The workflow, together with what it has made for visitors."""

    def __init__(
        self,
        workflow: Workflow,
        *,
        max_bytes: int = MAX_BYTES,
        ttl_s: float = TTL_S,
        files: CacheFolder | None = None,
    ) -> None:
        """Take the workflow and the limits of what is kept.

        Args:
            workflow: Makes depth, reliefs and surfaces.
            max_bytes: Photos and results in memory take no more.
            ttl_s: How long something is kept after its last use.
            files: Where files are written; None: the folder that Gradio serves, with the default limits.
        """
        self.workflow, self.ttl_s = workflow, ttl_s
        self.files = files or CacheFolder(cache_root(), keep_s=ttl_s)
        self.known_files: list[set[str]] = []  # paths that Gradio has seen; it forgets only what it deletes
        self.sweeper = PeriodicTask(self.sweep)
        self._photos: IdleCache[Photo] = IdleCache(max_bytes=max_bytes // 2, ttl_s=ttl_s)
        self._results: IdleCache[DepthResult] = IdleCache(max_bytes=max_bytes // 2, ttl_s=ttl_s)
        # Whether the run of a request is under way; False where it has ended by itself.
        self._running: IdleCache[bool] = IdleCache(max_bytes=_NOTES_BYTES, ttl_s=ttl_s)
        # The key of the last result, by the key of its photo.
        self._latest: IdleCache[str] = IdleCache(max_bytes=_NOTES_BYTES, ttl_s=ttl_s)
        self._kept: IdleCache[Kept] = IdleCache(max_bytes=_KEPT_BYTES, ttl_s=ttl_s)
        # What the preview on screen was made with, by the key of its result and the kind of object.
        self._previewed: IdleCache[ObjectSettings] = IdleCache(max_bytes=_NOTES_BYTES, ttl_s=ttl_s)

    @property
    def used_bytes(self) -> int:
        """Bytes of all photos and results in memory."""
        return self._photos.size_bytes + self._results.size_bytes

    def begin_run(self, request: str | None) -> None:
        """Note that the run of a request has begun."""
        self._running.put(request, True, size_bytes=_NOTE_BYTES)

    def end_run(self, request: str | None, *, stopped: bool) -> None:
        """Note that the run of a request has ended: by itself, or because it was stopped."""
        if stopped:
            self._running.drop(request)
        else:
            self._running.put(request, False, size_bytes=_NOTE_BYTES)

    def has_ended(self, request: str | None) -> bool:
        """Return whether the run of a request has ended by itself, with a result or an error."""
        return self._running.get(request) is False

    def is_running(self, request: str | None) -> bool:
        """Return whether the run of a request has begun and not ended."""
        return bool(self._running.get(request))

    def add_photo(self, photo: Photo) -> str:
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
        photo = self._photos.get(_entry(key))
        if photo is None:
            raise DemoError("This photo has left the server's memory; upload it again.")
        return photo

    def add_result(self, result: DepthResult, *, photo_key: str | None = None) -> str:
        """Keep a finished depth map and return its key.

        Args:
            result: What is kept; the last result of the same photo becomes its `previous`.
            photo_key: Of the photo it belongs to, where that is in the store.
        """
        key = secrets.token_urlsafe(16)
        if photo_key:
            result = result.compared_with(self._find(self._latest.get(photo_key)))
            self._latest.put(photo_key, key, size_bytes=len(key))
        self._results.put(key, result, size_bytes=result.size_bytes)
        return key

    def add_example(self, result: DepthResult) -> tuple[str, str]:
        """Keep a result that the page itself holds, and its photo, for one more visitor; return both keys."""
        photo_key, key = secrets.token_urlsafe(16), secrets.token_urlsafe(16)
        self._photos.put(photo_key, result.photo, size_bytes=_SHARED_BYTES)
        self._results.put(key, result, size_bytes=_SHARED_BYTES)
        self._latest.put(photo_key, key, size_bytes=len(key))
        return photo_key, key

    def result(self, key: str | None) -> DepthResult:
        """Return a kept depth map.

        Raises:
            DemoError: There is none, or it was kept too long ago.
        """
        if not key:
            raise DemoError("There is no depth yet; choose a photo first.")
        result = self._find(key)
        if result is None:
            raise DemoError("This depth has left the server's memory; press “Estimate depth” again.")
        return result

    def _find(self, key: str | None) -> DepthResult | None:
        result = self._results.get(_entry(key))
        return result and (self._results.get(_compared(key)) or result)

    def compare(self, key: str | None, other: OtherDepth) -> None:
        """Keep another depth beside a result, for the owner of this key alone.

        Raises:
            DemoError: As `result`.
        """
        self._keep_compared(key, self.result(key).beside(other))

    def _keep_compared(self, key: str | None, result: DepthResult) -> None:
        self._results.put(_compared(key), result, size_bytes=result.size_bytes)

    def is_own_depth(self, key: str | None) -> bool:
        """Return whether a kept depth map was brought by the visitor."""
        result = self._results.get(_entry(key))
        return result is not None and result.settings is None

    def remember(
        self, photo_key: str | None, depth_key: str | None, *, settings: Mapping[str, Any] | None = None
    ) -> str:
        """Return a random key of 128 bits for a photo and its depth, which keeps neither of them longer."""
        key, kept = secrets.token_urlsafe(16), Kept(photo_key, depth_key, settings or {})
        self._kept.put(key, kept, size_bytes=_NOTE_BYTES + len(json.dumps(kept.settings)))
        return key

    def recall(self, key: str, *, shared: bool = False) -> Kept | None:
        """Return what a key of `remember` leads to, under new keys; None where it was never given or is gone.

        Args:
            key: As it came from a browser.
            shared: It came by a link; see `is_shared`.
        """
        kept = self._kept.get(key)
        if kept is None:
            return None
        photo = kept.photo_key if self._photos.get(_entry(kept.photo_key)) else None
        depth = kept.depth_key if self._results.get(_entry(kept.depth_key)) else None
        if photo is None and depth is None:
            return None
        photo, depth = _branch(photo, shared=shared), self._branch_result(depth, shared=shared)
        if photo and depth:
            self._latest.put(photo, depth, size_bytes=_NOTE_BYTES)
        return replace(kept, photo_key=photo, depth_key=depth)

    def branch_result(self, key: str | None) -> str | None:
        """Return another key to a result as it is now; later comparisons are of one key only."""
        return self._branch_result(key, shared=False)

    def _branch_result(self, key: str | None, *, shared: bool) -> str | None:
        branch, compared = _branch(key, shared=shared), self._results.get(_compared(key))
        if compared is not None:
            self._keep_compared(branch, compared)
        return branch

    def is_shared(self, key: str | None) -> bool:
        """Return whether an entry came by a link and not from this visitor."""
        return f".{_SHARED}" in (key or "")

    def record_preview(self, key: str | None, settings: ObjectSettings) -> None:
        """Note what the preview of an object shows from now on."""
        self._previewed.put((key, type(settings)), settings, size_bytes=_SETTINGS_BYTES)

    def is_preview_outdated(self, key: str | None, settings: ObjectSettings) -> bool:
        """Return whether the preview of this kind of object has gone on to other settings."""
        return self._previewed.get((key, type(settings))) not in (None, settings)

    def shown_relief(self, key: str | None) -> ReliefSettings:
        """Return the settings of the relief that the preview showed last, or the defaults."""
        found = self._previewed.get((key, ReliefSettings))
        return found if isinstance(found, ReliefSettings) else ReliefSettings()

    def folder(self) -> Path:
        """Return a new empty folder of a random name below Gradio's cache.

        Raises:
            DiskFullError: The disk has no room left.
        """
        return self.files.new_folder()

    def sweep(self) -> None:
        """Forget what was kept for too long, on the disk and in memory."""
        self.files.sweep()
        self.workflow.tidy()
        for cache in (self._photos, self._results, self._running, self._latest, self._previewed, self._kept):
            cache.sweep()
        for known in self.known_files:
            known.difference_update([path for path in list(known) if not os.path.lexists(path)])


def _entry(key: str | None) -> str | None:
    """Return the part of a key that names the entry."""
    return key and key.partition(".")[0]


def _compared(key: str | None) -> str:
    """Return under which key a result lies with what its owner compared it with."""
    return f"compared {key}"


def _branch(key: str | None, *, shared: bool) -> str | None:
    """Return a key of one's own to an entry."""
    return key and f"{_entry(key)}.{_SHARED if shared else ''}{secrets.token_urlsafe(8)}"


def new_request(*, refine: bool = False) -> str:
    """Return a random id for a run, or for a run that refines the depth on screen."""
    return f"{_REFINE if refine else ''}{secrets.token_hex(8)}"


def is_refinement(request: str | None) -> bool:
    """Return whether a request is for a refinement of the depth on screen; after a restart there is none."""
    return request is not None and request.startswith(_REFINE)


def write_file(folder: Path, name: str, data: bytes) -> str:
    """Write a file of the page and return its path, as Gradio wants it.

    Raises:
        DiskFullError: The disk has no room for it.
    """
    with disk_full_errors():
        return str(export.save(folder, name, data))


def shrink_photo(rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Make a photo small enough for a screen: uint8 [h, w, 3]; itself where it is that small."""
    return rgb if _fits(rgb) else np.asarray(_fit(Image.fromarray(rgb)))


def _small(depth: DepthMap) -> DepthMap:
    if _fits(depth.values):
        return depth
    spread = depth.uncertainty
    return replace(
        depth, values=_shrink(depth.values), uncertainty=None if spread is None else _shrink(spread)
    )


def _resized(depth: DepthMap, size: tuple[int, int]) -> DepthMap:
    """Return a depth at a size, width and height, without its uncertainty."""
    values = _small(depth).values
    if values.shape[::-1] != size:
        image = Image.fromarray(values).resize(size, Image.Resampling.BILINEAR)  # mode F
        values = np.asarray(image, dtype=np.float32)
    return replace(depth, values=values, uncertainty=None)


def _shrink(values: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray(_fit(Image.fromarray(values)), dtype=np.float32)  # mode F, [h, w]


def _fits(values: NDArray[Any]) -> bool:
    return bool(max(values.shape[:2]) <= SCREEN_PX)


def _fit(image: Image.Image) -> Image.Image:
    share = SCREEN_PX / max(image.size)
    size = (max(1, round(image.width * share)), max(1, round(image.height * share)))
    return image.resize(size, Image.Resampling.BOX if share < 0.5 else Image.Resampling.BILINEAR)
