"""The images that are evaluated: a folder with a manifest, or the five data sets of the Marigold paper.

A folder, where ROOT is what the user names:

    ROOT/manifest.csv     columns name, rgb, depth, source; optionally space: "depth" or "ordinal"
    ROOT/rgb/...          photos
    ROOT/depth/...        .npz with `depth` (float [H, W], larger is farther) and optionally `valid` (bool)

The data sets: layouts, caps, masks and crops are those of github.com/prs-eth/Marigold
(src/dataset/*_dataset.py, config/dataset_depth/*.yaml, data_split/ and script/depth/eval/*.sh). ROOT is the
authors' BASE_DATA_DIR, with the evaluation archives as downloaded, or unpacked beside or instead of the tar:

    ROOT/nyuv2/nyu_labeled_extracted.tar            filename_list_test.txt               654 images
    ROOT/kitti/kitti_eigen_split_test.tar           eigen_test_files_with_gt.txt         652
    ROOT/eth3d/eth3d.tar                            eth3d_filename_list.txt              454
    ROOT/scannet/scannet_val_sampled_800_1.tar      scannet_val_sampled_list_800_1.txt   800
    ROOT/diode/diode_val.tar                        diode_val_all_filename_list.txt      771

A list lies beside its tar or anywhere under ROOT/data_split, as in the authors' repository. Each line names
photo, depth and, for DIODE, mask, relative to the tar.
"""

import csv
import io
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from marigold_demo.errors import DataError
from marigold_demo.io.photo import Photo

MANIFEST = "manifest.csv"
_COLUMNS = ("name", "rgb", "depth", "source")
Shape = tuple[int, int]  # height, width
Box = tuple[slice, slice]  # rows, columns
KITTI_CROP: Shape = (352, 1216)


class DataFiles:
    """A folder, or an uncompressed tar file that is never unpacked."""

    def __init__(self, place: Path) -> None:
        """Open a folder, or list what is in a tar.

        Raises:
            DataError: There is neither, or the tar is damaged or compressed.
        """
        self.place = place
        self._spans: dict[str, tuple[int, int]] = {}  # by name, where in the tar, and how many bytes
        if place.is_dir():
            return
        try:
            with tarfile.open(place, "r:") as tar:
                self._spans = {m.name.removeprefix("./"): (m.offset_data, m.size) for m in tar if m.isreg()}
        except (OSError, tarfile.TarError) as error:
            raise DataError(f"{place} is neither a folder nor a readable tar file; get it again.") from error

    def names(self, pattern: str) -> tuple[str, ...]:
        """Return the names of the files that match a pattern, in order; each * stands for no slash."""
        if self.place.is_dir():
            found = (path.relative_to(self.place).as_posix() for path in self.place.glob(pattern))
            return tuple(sorted(found))
        wanted = pattern.split("/")
        split = {name: name.split("/") for name in self._spans}
        found = (name for name, parts in split.items() if len(parts) == len(wanted))
        return tuple(sorted(name for name in found if all(map(fnmatchcase, split[name], wanted))))

    def has(self, name: str) -> bool:
        """Return whether there is a file of this name."""
        return (self.place / name).is_file() if self.place.is_dir() else name in self._spans

    def read(self, name: str) -> bytes:
        """Return the content of one file.

        Raises:
            DataError: There is no such file, or it cannot be read.
        """
        try:
            if self.place.is_dir():
                return (self.place / name).read_bytes()
            start, size = self._spans[name]
            with self.place.open("rb") as tar:
                tar.seek(start)
                return tar.read(size)
        except (OSError, KeyError) as error:
            problem = f"{name} is missing in {self.place} or cannot be read"
            raise DataError(f"{problem}; the data set is incomplete.") from error


@dataclass(frozen=True)
class Protocol:
    """How one data set is judged.

    Attributes:
        title: Its name in tables.
        min_depth: Aligned depth is clipped to this, in the units of the data set.
        max_depth: And to this.
        resolution: Processing resolution in pixels, 0 the photo's own; None leaves it to the checkpoint.
        align_px: Scale and shift are fitted on so many pixels along the long side, evenly taken; None: all.
    """

    title: str
    min_depth: float = 1e-6
    max_depth: float = np.inf
    resolution: int | None = None
    align_px: int | None = None


@dataclass(frozen=True, eq=False)
class Pair:
    """One photo and what is known of its depth."""

    photo: Photo
    depth: NDArray[np.float32]  # [H, W], larger is farther, > 0 where valid
    valid: NDArray[np.bool_]  # [H, W]


@dataclass(frozen=True, eq=False)
class Sample:
    """One image of a data set, read only when it is needed.

    Attributes:
        name: Unique within all that is evaluated together.
        source: The data set, or the source within a mixed one; figures are means per source.
        protocol: How it is judged.
        ordinal: Only the order of depths is known: rank correlation alone is measured.
        read: Reads it; raises DataError.
    """

    name: str
    source: str
    protocol: Protocol
    read: Callable[[], Pair] = field(repr=False)
    ordinal: bool = False


def read_rgb(content: bytes, *, name: str) -> NDArray[np.uint8]:
    """Decode a data set's photo as it is stored, [H, W, 3].

    Raises:
        DataError: It is damaged or not a picture; names it.
    """
    try:
        with Image.open(io.BytesIO(content)) as image:
            return np.asarray(image.convert("RGB"))
    except (OSError, SyntaxError, ValueError) as error:
        raise DataError(f"{name} is not a picture that can be read; the data set is damaged.") from error


def checked_pair(photo: Photo, depth: NDArray[np.floating], valid: NDArray[np.bool_], *, name: str) -> Pair:
    """Hold photo, depth and mask against each other.

    Raises:
        DataError: Shapes differ, no pixel is valid, or a valid depth is not positive; names the file.
    """
    height, width = photo.rgb.shape[:2]
    for array, what in ((depth, "depth"), (valid, "mask")):
        if array.shape != (height, width):
            raise DataError(
                f"{name}: the {what} has shape {array.shape}, its photo {(height, width)}; both must agree."
            )
    if not valid.any():
        raise DataError(f"{name} has no pixel with valid depth; leave it out.")
    known = depth[valid]
    if not (np.isfinite(known).all() and known.min() > 0):
        raise DataError(f"{name}: valid depths must be finite and more than 0; mark others as not valid.")
    return Pair(photo, depth.astype(np.float32), valid)


def folder_samples(root: Path) -> tuple[Sample, ...]:
    """Return the samples of a folder with a manifest, in its order.

    Raises:
        DataError: The manifest cannot be read, lacks a column, or names a file that is not there.
    """
    files = DataFiles(root)
    try:
        text = files.read(MANIFEST).decode("utf-8-sig")
        rows = list(csv.DictReader(io.StringIO(text, newline=""), strict=True))
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{root / MANIFEST} is not a CSV table in UTF-8; save it again.") from error
    if not rows:
        raise DataError(f"{root / MANIFEST} names no image; a row for each is needed.")
    missing = [column for column in _COLUMNS if not all(row.get(column) for row in rows)]
    if missing:
        raise DataError(
            f"{root / MANIFEST} lacks {', '.join(missing)}; every row needs {', '.join(_COLUMNS)}."
        )
    names = [row["name"] for row in rows]
    if len(set(names)) < len(names):
        raise DataError(f"{root / MANIFEST} gives two images the same name; names must differ.")
    absent = [row[key] for row in rows for key in ("rgb", "depth") if not (root / row[key]).is_file()]
    if absent:
        raise DataError(f"{root / absent[0]} is missing ({len(absent)} files in all that {MANIFEST} names).")
    return tuple(_folder_sample(files, row) for row in rows)


def _folder_sample(files: DataFiles, row: dict[str, str]) -> Sample:
    space = row.get("space") or "depth"
    if space not in ("depth", "ordinal"):
        raise DataError(f"{row['name']} has space {space!r} in {MANIFEST}; it must be depth or ordinal.")
    return Sample(
        name=row["name"],
        source=row["source"],
        protocol=Protocol(title=row["source"]),
        read=partial(_read_folder_pair, files, rgb_name=row["rgb"], depth_name=row["depth"]),
        ordinal=space == "ordinal",
    )


def _read_folder_pair(files: DataFiles, *, rgb_name: str, depth_name: str) -> Pair:
    photo = Photo(rgb=read_rgb(files.read(rgb_name), name=rgb_name), stem=Path(rgb_name).stem)
    try:
        with np.load(io.BytesIO(files.read(depth_name)), allow_pickle=False) as arrays:
            depth = arrays["depth"]  # [H, W]
            valid = arrays["valid"].astype(bool) if "valid" in arrays else np.isfinite(depth) & (depth > 0)
    except (OSError, KeyError, ValueError, TypeError, AttributeError, zipfile.BadZipFile) as error:
        raise DataError(f"{depth_name} is not an .npz with an array named 'depth'; save it again.") from error
    return checked_pair(photo, depth, valid, name=depth_name)


def _everything(_: Shape) -> Box:
    return slice(None), slice(None)


def _kitti_benchmark_crop(shape: Shape) -> Box:
    """Cut to the size of the KITTI benchmark: the bottom, and the middle columns."""
    height, width = KITTI_CROP
    top, left = shape[0] - height, (shape[1] - width) // 2
    if top < 0 or left < 0:
        raise DataError(
            f"KITTI: a photo has {shape[1]} × {shape[0]} pixels, less than the crop of 1216 × 352."
        )
    return slice(top, top + height), slice(left, left + width)


def _nyu_eigen_mask(_: Shape) -> Box:
    return slice(45, 471), slice(41, 601)


def _kitti_eigen_mask(shape: Shape) -> Box:
    """Eigen et al., NIPS 2014, as a share of the (cropped) picture."""
    height, width = shape
    rows = slice(int(0.3324324 * height), int(0.91351351 * height))
    return rows, slice(int(0.0359477 * width), int(0.96405229 * width))


def _gray_png(content: bytes, *, per_unit: float) -> NDArray[np.float64]:
    with Image.open(io.BytesIO(content)) as image:
        return np.asarray(image, dtype=np.float64) / per_unit


def _raw_floats(content: bytes) -> NDArray[np.float32]:
    depth = np.frombuffer(content, dtype="<f4")  # [H * W], infinite where unknown
    return np.where(np.isfinite(depth), depth, np.float32(0))


def _npy(content: bytes) -> NDArray[np.floating]:
    return np.load(io.BytesIO(content), allow_pickle=False).squeeze()  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Benchmark:
    """Where one data set lies and how its files are read."""

    name: str
    archive: str
    file_list: str
    protocol: Protocol
    decode: Callable[[bytes], NDArray[np.floating]]
    crop: Callable[[Shape], Box] = _everything  # applied to photo and depth, before prediction
    mask: Callable[[Shape], Box] = _everything  # where pixels count
    mask_file: bool = False  # the third file of a line says which pixels count, whatever their depth


BENCHMARKS = (
    Benchmark(
        name="nyuv2",
        archive="nyu_labeled_extracted.tar",
        file_list="filename_list_test.txt",
        protocol=Protocol("NYUv2", min_depth=1e-3, max_depth=10, resolution=0),
        decode=partial(_gray_png, per_unit=1000),
        mask=_nyu_eigen_mask,
    ),
    Benchmark(
        name="kitti",
        archive="kitti_eigen_split_test.tar",
        file_list="eigen_test_files_with_gt.txt",
        protocol=Protocol("KITTI", min_depth=1e-5, max_depth=80, resolution=0),
        decode=partial(_gray_png, per_unit=256),
        crop=_kitti_benchmark_crop,
        mask=_kitti_eigen_mask,
    ),
    Benchmark(
        name="eth3d",
        archive="eth3d.tar",
        file_list="eth3d_filename_list.txt",
        # The authors process at 756 px; ours must be a multiple of 8.
        protocol=Protocol("ETH3D", min_depth=1e-5, resolution=760, align_px=1024),
        decode=_raw_floats,
    ),
    Benchmark(
        name="scannet",
        archive="scannet_val_sampled_800_1.tar",
        file_list="scannet_val_sampled_list_800_1.txt",
        protocol=Protocol("ScanNet", min_depth=1e-3, max_depth=10, resolution=0),
        decode=partial(_gray_png, per_unit=1000),
    ),
    Benchmark(
        name="diode",
        archive="diode_val.tar",
        file_list="diode_val_all_filename_list.txt",
        protocol=Protocol("DIODE", min_depth=0.6, max_depth=350, resolution=640),
        decode=_npy,
        mask_file=True,
    ),
)


def benchmark_samples(root: Path) -> tuple[Sample, ...]:
    """Return the samples of those of the five data sets that lie under a folder, in the order of the paper.

    Raises:
        DataError: A data set is there without its list, or the list is not as expected.
    """
    return tuple(sample for benchmark in BENCHMARKS for sample in _samples_of(benchmark, root))


def _samples_of(benchmark: Benchmark, root: Path) -> tuple[Sample, ...]:
    folder = root / benchmark.name
    if not folder.is_dir():
        return ()
    file_list = _find_list(benchmark, root)
    places = (folder / benchmark.archive, (folder / benchmark.archive).with_suffix(""), folder)
    files = DataFiles(next(place for place in places if place.exists()))
    columns = 3 if benchmark.mask_file else 2
    lines = [line.split() for line in file_list.read_text().splitlines() if line.strip()]
    if not lines or any(len(line) < columns for line in lines):
        raise DataError(
            f"{file_list} is not as expected; every line needs {columns} file names with a space between."
        )
    return tuple(
        Sample(
            name=f"{benchmark.name}/{line[0]}",
            source=benchmark.protocol.title,
            protocol=benchmark.protocol,
            read=partial(_read_benchmark_pair, benchmark, files, tuple(line[:columns])),
        )
        for line in lines
        if line[1] != "None"  # KITTI has photos without ground truth
    )


def _find_list(benchmark: Benchmark, root: Path) -> Path:
    beside = root / benchmark.name / benchmark.file_list
    found = beside if beside.is_file() else next((root / "data_split").rglob(benchmark.file_list), None)
    if found is None:
        raise DataError(
            f"{beside} is missing; it lies beside {benchmark.archive} or under {root / 'data_split'}, "
            "and comes from data_split/ of github.com/prs-eth/Marigold."
        )
    return found


def _read_benchmark_pair(benchmark: Benchmark, files: DataFiles, names: tuple[str, ...]) -> Pair:
    rgb = read_rgb(files.read(names[0]), name=names[0])
    try:
        depth = benchmark.decode(files.read(names[1]))
        if depth.ndim == 1:
            depth = depth.reshape(rgb.shape[:2])
        mask = _npy(files.read(names[2])).astype(bool) if benchmark.mask_file else None
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise DataError(f"{names[1]} is not depth of {benchmark.protocol.title} as published.") from error
    if depth.shape != rgb.shape[:2]:
        raise DataError(f"{names[1]} has shape {depth.shape}, its photo {rgb.shape[:2]}; they must be equal.")
    box = benchmark.crop(rgb.shape[:2])
    rgb, depth = rgb[box], depth[box]
    valid = _valid(benchmark, depth) if mask is None else mask & np.isfinite(depth) & (depth > 0)
    return checked_pair(Photo(rgb=rgb, stem=Path(names[0]).stem), depth, valid, name=names[1])


def _valid(benchmark: Benchmark, depth: NDArray[np.floating]) -> NDArray[np.bool_]:
    """Return where depth lies strictly within the caps and inside the evaluation crop."""
    counted = np.zeros(depth.shape, dtype=bool)
    counted[benchmark.mask(depth.shape)] = True
    return counted & (depth > benchmark.protocol.min_depth) & (depth < benchmark.protocol.max_depth)
