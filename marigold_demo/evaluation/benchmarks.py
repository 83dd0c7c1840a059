"""The five data sets of the Marigold paper in their authors' published layout. Knows nothing of predictors.

Layouts, caps, masks and crops are those of github.com/prs-eth/Marigold: src/dataset/*_dataset.py,
config/dataset_depth/*.yaml, data_split/ and script/depth/eval/*.sh. ROOT is the folder that the authors call
BASE_DATA_DIR, with the evaluation archives as they are downloaded, or unpacked beside or instead of the tar:

    ROOT/nyuv2/nyu_labeled_extracted.tar            filename_list_test.txt               654 images
    ROOT/kitti/kitti_eigen_split_test.tar           eigen_test_files_with_gt.txt         652
    ROOT/eth3d/eth3d.tar                            eth3d_filename_list.txt              454
    ROOT/scannet/scannet_val_sampled_800_1.tar      scannet_val_sampled_list_800_1.txt   800
    ROOT/diode/diode_val.tar                        diode_val_all_filename_list.txt      771

A list lies beside its tar or anywhere under ROOT/data_split, as in the authors' repository. Each line names
photo, depth and, for DIODE, mask, relative to the tar.
"""

import io
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from marigold_demo.errors import DataError
from marigold_demo.evaluation.data_files import DataFiles
from marigold_demo.evaluation.samples import Pair, Protocol, Sample, checked_pair, read_rgb
from marigold_demo.io.photo import Photo

Shape = tuple[int, int]  # height, width
Box = tuple[slice, slice]  # rows, columns
KITTI_CROP: Shape = (352, 1216)


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


def _grey_png(content: bytes, *, per_unit: float) -> NDArray[np.float64]:
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
        decode=partial(_grey_png, per_unit=1000),
        mask=_nyu_eigen_mask,
    ),
    Benchmark(
        name="kitti",
        archive="kitti_eigen_split_test.tar",
        file_list="eigen_test_files_with_gt.txt",
        protocol=Protocol("KITTI", min_depth=1e-5, max_depth=80, resolution=0),
        decode=partial(_grey_png, per_unit=256),
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
        decode=partial(_grey_png, per_unit=1000),
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
    return tuple(sample for benchmark in BENCHMARKS for sample in _samples(benchmark, root))


def _samples(benchmark: Benchmark, root: Path) -> tuple[Sample, ...]:
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
            read=partial(_read_pair, benchmark, files, tuple(line[:columns])),
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


def _read_pair(benchmark: Benchmark, files: DataFiles, names: tuple[str, ...]) -> Pair:
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
