"""Where training pictures come from: rendered scenes, and folders in the layouts their authors publish.

A folder is looked through when it is opened, so that a wrong file stops the training before it starts: every
photo has its depth, and up to 256 pairs from all over the folder are read.
"""

import logging
import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from marigold_demo.errors import DataError, SettingsError

if TYPE_CHECKING:
    from synthetic.store import SceneStore

logger = logging.getLogger(__name__)
MOST_UNUSABLE = 0.01  # of the pairs of a folder; more is a broken copy and ends the training
FAR_CAP_M = 80.0  # Virtual KITTI's far plane in Ke et al. 2024
FAR_MEDIANS, LEAST_FAR_MEDIANS = 4.0, 2.0  # a picture ends at so many medians of its depth, ...
FAR_LIMITS_M = 25.0, 100.0  # ... within these limits, which give way to the lower number of medians
PAIRS_LAYOUT = (
    "rgb/NAME.jpg|png beside depth/NAME.npz (depth, valid), NAME.npy or NAME.png (16 bits, 0 unknown)"
)
HYPERSIM_LAYOUT = (
    "ai_VVV_NNN/images/scene_cam_XX_final_preview/frame.IIII.tonemap.jpg beside "
    "ai_VVV_NNN/images/scene_cam_XX_geometry_hdf5/frame.IIII.depth_meters.hdf5"
)
VKITTI_LAYOUT = (
    "SceneXX/VARIATION/frames/rgb/Camera_N/rgb_IIIII.jpg beside frames/depth/Camera_N/depth_IIIII.png"
)
HYPERSIM_FOCAL_PX = 886.81
HYPERSIM_FAR_M = 65.0  # as in the configuration of the released Marigold v1-1
VKITTI_CROP = (1216, 352)  # width, height; the KITTI benchmark crop
FEWEST_TO_SPLIT = 20
MOST_READ_FIRST = 256  # pairs; all of Hypersim would take an hour
DepthReader = Callable[[Path], NDArray[np.float32]]
HELD_OUT_SEED = 1_000_000_000  # scenes from here on are never trained on


@dataclass(frozen=True, eq=False)
class Sample:
    """One photo with its depth.

    Attributes:
        photo: uint8 [H, W, 3].
        depth: float32 [H, W] > 0 where valid, in any unit.
        valid: bool [H, W], where depth is known; never sky.
        sky: bool [H, W].
    """

    photo: NDArray[np.uint8]
    depth: NDArray[np.float32]
    valid: NDArray[np.bool_]
    sky: NDArray[np.bool_]


def hide_far(sample: Sample) -> Sample:
    """Count what is much farther than most of the picture as sky: known to be far, and no more.

    Laser and stereo see no farther either. Without this the far end of a street, which is most of what depth
    spans and little of what there is, would press all that is near into a sliver. The limit follows from the
    picture, so that a network can know it.

    Args:
        sample: Depth in meters.
    """
    if not sample.valid.any():
        return sample
    middle = float(np.median(sample.depth[sample.valid]))
    limit = max(float(np.clip(FAR_MEDIANS * middle, *FAR_LIMITS_M)), LEAST_FAR_MEDIANS * middle)
    beyond = sample.valid & (sample.depth > limit)
    return replace(sample, valid=sample.valid & ~beyond, sky=sample.sky | beyond)


@dataclass(frozen=True)
class FolderSource:
    """Pairs of files by number.

    Attributes:
        pairs: Photo and depth file of each sample.
        read_depth: Depth file -> float32 [H, W], 0 or NaN where unknown, infinite where sky.
        far: Depth beyond this is unknown.
        crop: Width and height cut out at the middle of the lower edge, None: all.
        unusable: Photos of the pairs that turned out not to be usable; shared with what is split off.
    """

    pairs: tuple[tuple[Path, Path], ...]
    read_depth: DepthReader
    far: float = np.inf
    crop: tuple[int, int] | None = None
    unusable: set[Path] = field(default_factory=set)

    @property
    def count(self) -> int:
        """How many samples there are."""
        return len(self.pairs)

    def split(self) -> tuple["FolderSource", "FolderSource"]:
        """Return the pairs to learn from and those held out: one in twenty, or all where there are few."""
        if self.count < FEWEST_TO_SPLIT:
            return self, self
        first_held_out = self.count - max(1, self.count // 20)
        return replace(self, pairs=self.pairs[:first_held_out]), replace(
            self, pairs=self.pairs[first_held_out:]
        )

    def draw(self, rng: np.random.Generator) -> Sample:
        """Read a random pair; one that cannot be used is logged, counted and replaced by another.

        Raises:
            DataError: More than `MOST_UNUSABLE` of the pairs cannot be used.
        """
        while True:
            index = int(rng.integers(self.count))
            try:
                return self.read(index)
            except DataError as error:
                self._skip(self.pairs[index][0], error)

    def _skip(self, photo: Path, error: DataError) -> None:
        if photo not in self.unusable:
            self.unusable.add(photo)
            logger.warning("Skipped, %d of %d pairs so far: %s", len(self.unusable), self.count, error)
        check_share(len(self.unusable), self.count, error)

    def read(self, index: int) -> Sample:
        """Read one pair.

        Raises:
            DataError: A file cannot be read, sizes differ, or no depth is known.
        """
        photo_path, depth_path = self.pairs[index % len(self.pairs)]
        photo, depth = _read_photo(photo_path), self._depth(depth_path)
        if photo.shape[:2] != depth.shape:
            raise DataError(
                f"{depth_path} is {depth.shape[1]}x{depth.shape[0]}, but its photo {photo_path.name} is "
                f"{photo.shape[1]}x{photo.shape[0]}; both must have one size."
            )
        if self.crop is not None:
            photo, depth = _crop(photo, self.crop), _crop(depth, self.crop)
        sky = np.isposinf(depth)
        valid = np.isfinite(depth) & (depth > 0) & (depth <= self.far)
        if not valid.any():
            raise DataError(
                f"{depth_path} holds no depth that is known (finite and above 0); leave this pair out."
            )
        return Sample(photo=photo, depth=np.where(valid, depth, np.float32(1)), valid=valid, sky=sky)

    def _depth(self, path: Path) -> NDArray[np.float32]:
        try:
            depth = self.read_depth(path)
        except (OSError, ValueError, KeyError, UnidentifiedImageError) as error:
            raise DataError(
                f"{path} cannot be read as depth ({error}); restore the file or leave the pair out."
            ) from error
        if depth.ndim != 2:
            raise DataError(f"{path} holds an array of shape {depth.shape}; depth must be [height, width].")
        return depth


def open_pairs(root: Path) -> FolderSource:
    """Open a folder laid out as PAIRS_LAYOUT says.

    Raises:
        DataError: The layout is another one, or a file has no partner.
    """
    photos = _found(root, "rgb/*.*", layout=PAIRS_LAYOUT)
    pairs = []
    for photo in photos:
        candidates = [root / "depth" / f"{photo.stem}{ending}" for ending in (".npz", ".npy", ".png")]
        depth = next((path for path in candidates if path.exists()), None)
        if depth is None:
            raise DataError(f"{photo} has no depth beside it; expected {candidates[0]} ({PAIRS_LAYOUT}).")
        pairs.append((photo, depth))
    return _checked(FolderSource(pairs=tuple(pairs), read_depth=read_any_depth))


def open_hypersim(root: Path) -> FolderSource:
    """Open Hypersim as its authors publish it (Roberts et al. 2021).

    Raises:
        DataError: The layout is another one, a file has no partner, or h5py is not installed.
    """
    photos = _found(root, "ai_*/images/scene_cam_*_final_preview/frame.*.tonemap.jpg", layout=HYPERSIM_LAYOUT)
    return _checked(
        FolderSource(
            pairs=tuple(
                (photo, _partner(photo, _hypersim_depth(photo), HYPERSIM_LAYOUT)) for photo in photos
            ),
            read_depth=read_hypersim_depth,
            far=HYPERSIM_FAR_M,
        )
    )


def open_vkitti(root: Path) -> FolderSource:
    """Open Virtual KITTI 2 as its authors publish it (Cabon et al. 2020).

    Raises:
        DataError: The layout is another one, or a file has no partner.
    """
    photos = _found(root, "Scene*/*/frames/rgb/Camera_*/rgb_*.jpg", layout=VKITTI_LAYOUT)
    return _checked(
        FolderSource(
            pairs=tuple((photo, _partner(photo, _vkitti_depth(photo), VKITTI_LAYOUT)) for photo in photos),
            read_depth=read_vkitti_depth,
            far=FAR_CAP_M,
            crop=VKITTI_CROP,
        )
    )


def _found(root: Path, pattern: str, *, layout: str) -> list[Path]:
    if not root.is_dir():
        raise DataError(f"There is no folder {root}; expected {layout} in it.")
    photos = sorted(root.glob(pattern))
    if not photos:
        raise DataError(f"{root} holds no {pattern}; expected {layout}.")
    return photos


def _partner(photo: Path, depth: Path, layout: str) -> Path:
    if not depth.exists():
        raise DataError(f"{photo} has no depth beside it; expected {depth} ({layout}).")
    return depth


def _checked(source: FolderSource) -> FolderSource:
    """Read pairs spread evenly over the folder, so that wrong files are known before training.

    Raises:
        DataError: More than `MOST_UNUSABLE` of them cannot be used.
    """

    def look(index: int) -> DataError | None:
        try:
            source.read(index)
        except DataError as error:
            return error
        return None

    looked_at = range(0, source.count, -(-source.count // MOST_READ_FIRST))
    with ThreadPoolExecutor() as pool:
        errors = {
            index: error for index, error in zip(looked_at, pool.map(look, looked_at), strict=True) if error
        }
    for index, error in errors.items():
        check_share(len(errors), len(looked_at), error)
        source._skip(source.pairs[index][0], error)
    return source


def check_share(unusable: int, count: int, error: DataError) -> None:
    """Check that few enough pairs of a folder cannot be used.

    Raises:
        DataError: They are more than `MOST_UNUSABLE` of it; `error` is what is wrong with one of them.
    """
    if unusable > MOST_UNUSABLE * count:
        raise DataError(
            f"{error} {unusable} of {count} pairs cannot be used; at most {MOST_UNUSABLE:.0%} may be so."
        ) from error


def _hypersim_depth(photo: Path) -> Path:
    folder = photo.parent.with_name(photo.parent.name.replace("_final_preview", "_geometry_hdf5"))
    return folder / photo.name.replace(".tonemap.jpg", ".depth_meters.hdf5")


def _vkitti_depth(photo: Path) -> Path:
    frames = photo.parent.parent.parent
    return frames / "depth" / photo.parent.name / photo.name.replace("rgb_", "depth_").replace(".jpg", ".png")


def read_any_depth(path: Path) -> NDArray[np.float32]:
    """Read NAME.npz (depth, valid), NAME.npy or a 16-bit NAME.png as float32 [H, W], 0 where unknown."""
    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as arrays:
            depth = arrays["depth"].astype(np.float32)
            return np.where(arrays["valid"], depth, np.float32(0)) if "valid" in arrays else depth
    if path.suffix == ".npy":
        return np.load(path, allow_pickle=False).astype(np.float32)  # type: ignore[no-any-return]
    with Image.open(path) as picture:
        return np.asarray(picture).astype(np.float32)


def read_hypersim_depth(path: Path) -> NDArray[np.float32]:
    """Read distances to the camera's center and turn them to z [H, W] in meters.

    Raises:
        DataError: h5py is not installed.
    """
    try:
        import h5py
    except ImportError as error:
        raise DataError(
            "Hypersim's depth needs h5py; install it with pip install 'marigold-demo[train]'."
        ) from error
    with h5py.File(path) as file:
        distance = np.asarray(file["dataset"], dtype=np.float32)  # [H, W]
    height, width = distance.shape
    x = np.linspace(0.5 - width / 2, width / 2 - 0.5, width, dtype=np.float32)
    y = np.linspace(0.5 - height / 2, height / 2 - 0.5, height, dtype=np.float32)
    focal = np.float32(HYPERSIM_FOCAL_PX * width / 1024)
    ray = np.sqrt(x[None, :] ** 2 + y[:, None] ** 2 + focal**2)  # [H, W]
    depth: NDArray[np.float32] = distance * focal / ray
    return depth


def read_vkitti_depth(path: Path) -> NDArray[np.float32]:
    """Read 16-bit centimeters as meters [H, W]; the largest number is sky."""
    with Image.open(path) as picture:
        levels = np.asarray(picture)
    return np.where(levels == 65535, np.float32(np.inf), levels.astype(np.float32) / 100)


def _read_photo(path: Path) -> NDArray[np.uint8]:
    try:
        with Image.open(path) as picture:
            return np.asarray(picture.convert("RGB"))
    except (OSError, UnidentifiedImageError) as error:
        raise DataError(
            f"{path} cannot be read as a photo ({error}); restore the file or leave the pair out."
        ) from error


def _crop(array: NDArray[Any], size: tuple[int, int]) -> NDArray[Any]:
    """Cut [H, W, ...] at the middle of the lower edge."""
    height, width = array.shape[:2]
    left = max((width - size[0]) // 2, 0)
    return array[max(height - size[1], 0) :, left : left + size[0]]


FOLDER_KINDS = {"pairs": open_pairs, "hypersim": open_hypersim, "vkitti": open_vkitti}


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
    match = re.fullmatch(r"(?:scenes|(?P<kind>[a-z]+):(?P<folder>.+?))(?:@(?P<share>[0-9.]+))?", part)
    if not match or (match["kind"] and match["kind"] not in FOLDER_KINDS):
        raise DataError(
            f"The data {part!r} cannot be used; write scenes, or KIND:FOLDER@SHARE with KIND being "
            f"{', '.join(FOLDER_KINDS)}, joined by commas."
        )
    share = float(match["share"] or 1)
    folder = FOLDER_KINDS[match["kind"]](Path(match["folder"])) if match["kind"] else None
    return folder, share


def _to_one(shares: Sequence[float]) -> tuple[float, ...]:
    total = sum(shares)
    if total <= 0:
        raise DataError("The shares of the data sum to 0; give at least one of them a share above 0.")
    return tuple(share / total for share in shares)
