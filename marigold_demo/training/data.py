"""Where training pictures come from: rendered scenes, and folders and tars of photos, mixed by share.

A folder is looked through when it is opened, so that a wrong file stops the training before it starts: every
photo has its depth, and up to 256 pairs from all over the folder are read.

    pairs     rgb/NAME.jpg|png beside depth/NAME.npz (depth, valid), NAME.npy or NAME.png (16 bits, 0 unknown)
    hypersim  as published (Roberts et al. 2021): ai_VVV_NNN/images/...; where the folder has
              metadata_images_split_scene_v1.csv, its scenes for training and for validation
              as processed: ai_VVV_NNN/rgb_cam_XX_frIIII.png beside depth_plane_cam_XX_frIIII.png in
              millimeters, in a folder, a tar, or below train/ and val/
    vkitti    SceneXX/VARIATION/frames/rgb/... with depth beside it, or in the two roots rgb/ and depth/ (or
              vkitti_2.0.3_rgb/ and vkitti_2.0.3_depth/), in a folder or tar; Scene01 is held out
"""

import csv
import io
import logging
import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from marigold_demo.errors import DataError, SettingsError
from marigold_demo.evaluation.datasets import DataFiles

if TYPE_CHECKING:
    from synthetic.store import SceneStore

FAR_MEDIANS, LEAST_FAR_MEDIANS = 4.0, 2.0  # a picture ends at so many medians of its depth, ...
FAR_LIMITS_M = 25.0, 100.0  # ... within these limits, which give way to the lower number of medians


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


logger = logging.getLogger(__name__)
MOST_UNUSABLE = 0.01  # of the pairs of a folder; more is a broken copy and ends the training
PAIRS_LAYOUT = "rgb/NAME.jpg|png beside depth/NAME.npz (depth, valid), .npy or .png (16 bits, 0 unknown)"
HYPERSIM_LAYOUT = (
    "ai_VVV_NNN/images/scene_cam_XX_final_preview/frame.IIII.tonemap.jpg and scene_cam_XX_geometry_hdf5/"
    "frame.IIII.depth_meters.hdf5, or ai_VVV_NNN/rgb_cam_XX_frIIII.png and depth_plane_cam_XX_frIIII.png"
)
VKITTI_LAYOUT = (
    "SceneXX/VARIATION/frames/rgb/Camera_N/rgb_IIIII.jpg and frames/depth/Camera_N/depth_IIIII.png, also "
    "below rgb/ and depth/"
)
HYPERSIM_SPLIT = "metadata_images_split_scene_v1.csv"
HYPERSIM_FOCAL_PX = 886.81
HYPERSIM_FAR_M = 65.0  # as in the configuration of the released Marigold v1-1
HYPERSIM_SIZE = (640, 480)  # to which a whole picture is reduced in Ke et al. 2024
VKITTI_CROP = (1216, 352)  # width, height; the KITTI benchmark crop
VKITTI_FAR_M = 80.0  # Virtual KITTI's far plane in Ke et al. 2024
VKITTI_HELD_OUT = "Scene01"
VKITTI_ROOTS = {"": "", "rgb/": "depth/", "vkitti_2.0.3_rgb/": "vkitti_2.0.3_depth/"}  # photos -> depth
FEWEST_TO_SPLIT = 20
MOST_READ_FIRST = 256  # pairs; all of Hypersim would take an hour
DepthReader = Callable[[bytes, str], NDArray[np.float32]]  # content, name -> 0 or NaN unknown, infinite sky
Pairs = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class FolderSource:
    """Pairs of files by number.

    Attributes:
        files: The folder or tar that they are in.
        pairs: Photo and depth file of each sample.
        read_depth: Content and name of a depth file -> float32 [H, W]: 0 or NaN unknown, infinite sky.
        held_out: Pairs for validation, where the data set says which; None: some of `pairs` are split off.
        far: Depth beyond this is unknown.
        crop: Width and height cut out at the middle of the lower edge, None: all.
        whole: Width and height at which whole pictures are trained on, None: any.
        unusable: Photos of the pairs that turned out not to be usable; shared with what is split off.
    """

    files: DataFiles
    pairs: Pairs
    read_depth: DepthReader
    held_out: Pairs | None = None
    far: float = np.inf
    crop: tuple[int, int] | None = None
    whole: tuple[int, int] | None = None
    unusable: set[str] = field(default_factory=set)

    @property
    def count(self) -> int:
        """How many samples there are."""
        return len(self.pairs)

    def split(self) -> tuple["FolderSource", "FolderSource"]:
        """Return the pairs to learn from and those held out: the data set's, one in twenty, or all of few."""
        if self.held_out is not None:
            return replace(self, held_out=None), replace(self, pairs=self.held_out, held_out=None)
        if self.count < FEWEST_TO_SPLIT:
            return self, self
        first_held_out = self.count - max(1, self.count // 20)
        return replace(self, pairs=self.pairs[:first_held_out]), replace(
            self, pairs=self.pairs[first_held_out:]
        )

    def draw(self, number: int, *, seed: int, rng: np.random.Generator) -> Sample:
        """Read the pair of a number in random order; one that cannot be used is replaced by another.

        Numbers 0 to count - 1 give each pair once, and so do the next ones, in another order.

        Args:
            number: Which sample of the training.
            seed: Of the order.
            rng: Chooses what takes the place of a pair that is skipped.

        Raises:
            DataError: More than `MOST_UNUSABLE` of the pairs cannot be used.
        """
        epoch, place = divmod(number, self.count)
        index = int(_order(self.count, seed, epoch)[place])
        while True:
            try:
                return self.read(index)
            except DataError as error:
                self.skip(index, error)
                index = int(rng.integers(self.count))

    def skip(self, index: int, error: DataError) -> None:
        """Log and count a pair that cannot be used.

        Raises:
            DataError: They have become more than `MOST_UNUSABLE`.
        """
        photo = self.pairs[index][0]
        if photo not in self.unusable:
            self.unusable.add(photo)
            logger.warning("Skipped, %d of %d pairs so far: %s", len(self.unusable), self.count, error)
        check_share(len(self.unusable), self.count, error)

    def read(self, index: int) -> Sample:
        """Read one pair.

        Raises:
            DataError: A file cannot be read, sizes differ, or no depth is known.
        """
        photo_name, depth_name = self.pairs[index % len(self.pairs)]
        depth_path = self.files.place / depth_name
        photo, depth = self._photo(photo_name), self._depth(depth_name)
        if photo.shape[:2] != depth.shape:
            raise DataError(
                f"{depth_path} is {depth.shape[1]}x{depth.shape[0]}, but its photo {photo_name} is "
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

    def _photo(self, name: str) -> NDArray[np.uint8]:
        try:
            with Image.open(io.BytesIO(self.files.read(name))) as picture:
                return np.asarray(picture.convert("RGB"))
        except (OSError, UnidentifiedImageError) as error:
            raise DataError(
                f"{self.files.place / name} cannot be read as a photo ({error}); restore the file or leave "
                "the pair out."
            ) from error

    def _depth(self, name: str) -> NDArray[np.float32]:
        path = self.files.place / name
        try:
            depth = self.read_depth(self.files.read(name), name)
        except (OSError, ValueError, KeyError, EOFError, UnidentifiedImageError) as error:
            raise DataError(
                f"{path} cannot be read as depth ({error}); restore the file or leave the pair out."
            ) from error
        if depth.ndim != 2:
            raise DataError(f"{path} holds an array of shape {depth.shape}; depth must be [height, width].")
        return depth


@lru_cache(maxsize=8)
def _order(count: int, seed: int, epoch: int) -> NDArray[np.intp]:
    return np.random.default_rng((seed, epoch)).permutation(count)


def open_pairs(root: Path, file_list: Path | None = None) -> FolderSource:
    """Open a folder or tar laid out as PAIRS_LAYOUT says.

    Args:
        root: The folder or tar.
        file_list: Text with photo and depth of a pair in each line, relative to root; None: all there are.

    Raises:
        DataError: The layout is another one, or a file has no partner.
    """
    files = _files(root, PAIRS_LAYOUT)

    def depth_of(photo: str) -> str:
        stem = f"depth/{Path(photo).stem}"
        return next(
            (f"{stem}{end}" for end in (".npz", ".npy", ".png") if files.has(f"{stem}{end}")), f"{stem}.npz"
        )

    pairs = _pairs(files, ["rgb/*.*"], depth_of, layout=PAIRS_LAYOUT, file_list=file_list)
    return _checked(FolderSource(files=files, pairs=pairs, read_depth=read_any_depth))


def open_hypersim(root: Path, file_list: Path | None = None) -> FolderSource:
    """Open Hypersim as published, or as Marigold's authors process it; takes what `open_pairs` takes.

    Raises:
        DataError: The layout is another one, a file has no partner, or h5py is not installed.
    """
    files = _files(root, HYPERSIM_LAYOUT)
    patterns = ["ai_*/images/scene_cam_*_final_preview/frame.*.tonemap.jpg"]
    patterns += ["ai_*/rgb_cam_*_fr*.png", "train/ai_*/rgb_cam_*_fr*.png"]
    pairs = _pairs(files, patterns, _hypersim_depth, layout=HYPERSIM_LAYOUT, file_list=file_list)
    held_out = None
    if file_list is None and pairs[0][0].startswith("train/"):
        photos = files.names("val/ai_*/rgb_cam_*_fr*.png")
        held_out = tuple((photo, _hypersim_depth(photo)) for photo in photos) or None
    elif file_list is None and files.has(HYPERSIM_SPLIT):
        pairs, held_out = _hypersim_split(pairs, files.read(HYPERSIM_SPLIT).decode())
    source = FolderSource(files, pairs, read_hypersim_depth, held_out=held_out)
    return _checked(replace(source, far=HYPERSIM_FAR_M, whole=HYPERSIM_SIZE))


def open_vkitti(root: Path, file_list: Path | None = None) -> FolderSource:
    """Open Virtual KITTI 2 (Cabon et al. 2020), in one root or two; takes what `open_pairs` takes.

    Raises:
        DataError: The layout is another one, or a file has no partner.
    """
    files = _files(root, VKITTI_LAYOUT)
    frames = "Scene*/*/frames/rgb/Camera_*/rgb_*.jpg"
    patterns = [f"{start}{frames}" for start in VKITTI_ROOTS]
    pairs = _pairs(files, patterns, _vkitti_depth, layout=VKITTI_LAYOUT, file_list=file_list)
    held_out = tuple(pair for pair in pairs if f"{VKITTI_HELD_OUT}/" in pair[0]) or None
    trained = tuple(pair for pair in pairs if f"{VKITTI_HELD_OUT}/" not in pair[0])
    if file_list is not None or not trained:
        trained, held_out = pairs, None
    source = FolderSource(files, trained, read_vkitti_depth, held_out=held_out)
    return _checked(replace(source, far=VKITTI_FAR_M, crop=VKITTI_CROP, whole=VKITTI_CROP))


def _files(root: Path, layout: str) -> DataFiles:
    if not root.exists():
        raise DataError(f"There is no folder {root}; expected {layout} in it.")
    return DataFiles(root)


def _pairs(
    files: DataFiles,
    patterns: list[str],
    depth_of: Callable[[str], str],
    *,
    layout: str,
    file_list: Path | None,
) -> Pairs:
    """Return the pairs of a list, or all photos of the first pattern that there are any of."""
    if file_list is not None:
        pairs = _listed(file_list)
    else:
        photos = next((names for names in map(files.names, patterns) if names), ())
        pairs = tuple((photo, depth_of(photo)) for photo in photos)
    if not pairs:
        raise DataError(f"{files.place} holds no {patterns[0]}; expected {layout}.")
    for photo, depth in pairs:
        for name, other in ((photo, depth), (depth, photo)):
            if not files.has(name):
                what, path = "depth" if name == depth else "photo", files.place / name
                raise DataError(f"{files.place / other} has no {what} beside it; expected {path} ({layout}).")
    return pairs


def _listed(file_list: Path) -> Pairs:
    try:
        lines = [line.split() for line in file_list.read_text().splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file_list} cannot be read as a list of files; name another one.") from error
    if any(len(line) < 2 for line in lines):
        raise DataError(f"{file_list} is no list of pairs; each line names a photo and its depth.")
    return tuple((line[0], line[1]) for line in lines if line[1] != "None")


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
        found = zip(looked_at, pool.map(look, looked_at), strict=True)
        errors = {index: error for index, error in found if error}
    for index, error in errors.items():
        check_share(len(errors), len(looked_at), error)
        source.skip(index, error)
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


def _hypersim_depth(photo: str) -> str:
    folder, _, name = photo.rpartition("/")
    if name.startswith("rgb_"):
        return f"{folder}/{name.replace('rgb_', 'depth_plane_', 1)}"
    folder = folder.replace("_final_preview", "_geometry_hdf5")
    return f"{folder}/{name.replace('.tonemap.jpg', '.depth_meters.hdf5')}"


def _hypersim_split(pairs: Pairs, table: str) -> tuple[Pairs, Pairs | None]:
    """Return the training and validation pairs by the published split of the scenes."""
    parts: dict[tuple[str, str, int], str] = {}
    for row in csv.DictReader(io.StringIO(table)):
        if row["included_in_public_release"] == "True":
            key = (row["scene_name"], row["camera_name"], int(row["frame_id"]))
            parts[key] = row["split_partition_name"]

    def part_of(photo: str) -> str | None:
        match = re.match(r"(ai_\d+_\d+)/images/scene_(cam_\d+)_final_preview/frame\.(\d+)\.", photo)
        return parts.get((match[1], match[2], int(match[3]))) if match else None

    trained = tuple(pair for pair in pairs if part_of(pair[0]) == "train")
    held_out = tuple(pair for pair in pairs if part_of(pair[0]) == "val")
    if not trained:
        raise DataError(f"{HYPERSIM_SPLIT} names none of the photos for training; take it out of the folder.")
    return trained, held_out or None


def _vkitti_depth(photo: str) -> str:
    start = next(start for start in reversed(VKITTI_ROOTS) if photo.startswith(start))
    frames, _, camera = photo.removeprefix(start).partition("/frames/rgb/")
    camera = camera.replace("rgb_", "depth_").replace(".jpg", ".png")
    return f"{VKITTI_ROOTS[start]}{frames}/frames/depth/{camera}"


def read_any_depth(content: bytes, name: str) -> NDArray[np.float32]:
    """Read NAME.npz (depth, valid), NAME.npy or a 16-bit NAME.png as float32 [H, W], 0 where unknown."""
    opened = io.BytesIO(content)
    if name.endswith(".npz"):
        with np.load(opened, allow_pickle=False) as arrays:
            depth = arrays["depth"].astype(np.float32)
            return np.where(arrays["valid"], depth, np.float32(0)) if "valid" in arrays else depth
    if name.endswith(".npy"):
        return np.load(opened, allow_pickle=False).astype(np.float32)  # type: ignore[no-any-return]
    with Image.open(opened) as picture:
        return np.asarray(picture).astype(np.float32)


def read_hypersim_depth(content: bytes, name: str) -> NDArray[np.float32]:
    """Read depth [H, W] in meters: processed millimeters, or distances to the camera's center turned to z.

    Raises:
        DataError: h5py is not installed.
    """
    if name.endswith(".png"):
        return read_any_depth(content, name) / np.float32(1000)
    try:
        import h5py
    except ImportError as error:
        raise DataError(
            "Hypersim's depth needs h5py; install it with pip install 'marigold-demo[train]'."
        ) from error
    with h5py.File(io.BytesIO(content)) as file:
        distance = np.asarray(file["dataset"], dtype=np.float32)  # [H, W]
    height, width = distance.shape
    x = np.linspace(0.5 - width / 2, width / 2 - 0.5, width, dtype=np.float32)
    y = np.linspace(0.5 - height / 2, height / 2 - 0.5, height, dtype=np.float32)
    focal = np.float32(HYPERSIM_FOCAL_PX * width / 1024)
    ray = np.sqrt(x[None, :] ** 2 + y[:, None] ** 2 + focal**2)  # [H, W]
    depth: NDArray[np.float32] = distance * focal / ray
    return depth


def read_vkitti_depth(content: bytes, name: str) -> NDArray[np.float32]:
    """Read 16-bit centimeters as meters [H, W]; the largest number is sky."""
    with Image.open(io.BytesIO(content)) as picture:
        levels = np.asarray(picture)
    return np.where(levels == 65535, np.float32(np.inf), levels.astype(np.float32) / 100)


def _crop(array: NDArray[Any], size: tuple[int, int]) -> NDArray[Any]:
    """Cut [H, W, ...] at the middle of the lower edge."""
    height, width = array.shape[:2]
    left = max((width - size[0]) // 2, 0)
    return array[max(height - size[1], 0) :, left : left + size[0]]


FOLDER_KINDS = {"pairs": open_pairs, "hypersim": open_hypersim, "vkitti": open_vkitti}


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
