"""Numbered scenes, each rendered once and kept on disk in shards of 32."""

import fcntl
import hashlib
import os
import threading
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from synthetic.render import render_scene

SHARD = 32  # scenes a file
LOADED_SHARDS = 100  # of 448x336: 3 GB


@dataclass(frozen=True, eq=False)
class Shard:
    """Scenes of one file: photos uint8 [S, H, W, 3], depth float16 [S, H, W] in m, sky bool [S, H, W]."""

    photos: NDArray[np.uint8]
    depth: NDArray[np.float16]
    sky: NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class StoredScene:
    """A photo uint8 [H, W, 3], its depth float16 [H, W] in m, and where it shows sky, bool [H, W]."""

    photo: NDArray[np.uint8]
    depth: NDArray[np.float16]
    sky: NDArray[np.bool_]


class SceneStore:
    """Endless scenes: number n is always the scene of seed first_seed + n."""

    def __init__(self, folder: Path, *, first_seed: int, size: tuple[int, int] = (448, 336)) -> None:
        """Keep shards in a folder; size is the scenes' width and height in pixels."""
        self.folder = folder / scenes_version()
        self.first_seed = first_seed
        self.size = size
        self._loaded: OrderedDict[int, Shard] = OrderedDict()
        self._guard = threading.Lock()
        self._locks: dict[int, threading.Lock] = {}

    def read(self, index: int) -> StoredScene:
        """Return scene `index`; the first request of a shard renders it."""
        shard, place = self._shard(index // SHARD), index % SHARD
        return StoredScene(photo=shard.photos[place], depth=shard.depth[place], sky=shard.sky[place])

    def _shard(self, number: int) -> Shard:
        with self._guard:
            if number in self._loaded:
                self._loaded.move_to_end(number)
                return self._loaded[number]
            lock = self._locks.setdefault(number, threading.Lock())
        with lock:
            with self._guard:
                if number in self._loaded:
                    return self._loaded[number]
            shard = self._load(number)
            with self._guard:
                self._loaded[number] = shard
                while len(self._loaded) > LOADED_SHARDS:
                    self._loaded.popitem(last=False)
        return shard

    def _load(self, number: int) -> Shard:
        width, height = self.size
        path = self.folder / f"{self.first_seed}_{width}x{height}_{number:06d}.npz"
        self.folder.mkdir(parents=True, exist_ok=True)
        with path.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # processes that train together render each shard once
            if path.exists():
                with np.load(path) as arrays:
                    return Shard(photos=arrays["photos"], depth=arrays["depth"], sky=arrays["sky"])
            return self._render_to(path, number)

    def _render_to(self, path: Path, number: int) -> Shard:
        shard = self._render(number)
        beside = path.with_suffix(f".{os.getpid()}.tmp")
        with beside.open("wb") as file:
            np.savez(file, photos=shard.photos, depth=shard.depth, sky=shard.sky)
        beside.replace(path)
        return shard

    def _render(self, number: int) -> Shard:
        width, height = self.size
        first = self.first_seed + number * SHARD
        rendered = [render_scene(first + i, width=width, height=height) for i in range(SHARD)]
        depth = np.stack([np.minimum(scene.depth, 60_000) for scene in rendered])
        return Shard(
            photos=np.stack([scene.photo for scene in rendered]),
            depth=depth.astype(np.float16),
            sky=np.stack([scene.sky for scene in rendered]),
        )


def scenes_version() -> str:
    """Return a name that changes whenever the code that draws the scenes does."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]
