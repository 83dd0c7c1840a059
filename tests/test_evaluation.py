import csv
import dataclasses
import io
import json
import re
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy import stats

from marigold_demo.cli.main import main
from marigold_demo.depth import DepthMap, Run, invert
from marigold_demo.errors import DataError
from marigold_demo.evaluation.datasets import BENCHMARKS, Pair, Protocol, Sample
from marigold_demo.evaluation.evaluate import (
    DATA_SETS,
    PUBLISHED,
    Comparison,
    Mean,
    ResultsCsv,
    Score,
    abs_rel,
    as_json,
    as_text,
    compare,
    constant,
    delta1,
    find_samples,
    means,
    rows_only,
    score,
    score_all,
    spearman,
)
from marigold_demo.io.photo import Photo
from marigold_demo.settings import DepthSettings
from tests.predictors import stepwise

SETTINGS = DepthSettings()
DEPTH_DEV = Path(__file__).parents[1] / ".." / "shared" / "data" / "depth_dev"
RNG = np.random.default_rng(7)


def truth(height: int = 24, width: int = 32) -> np.ndarray:
    return RNG.uniform(1, 9, (height, width)).astype(np.float32)


def pair_of(depth: np.ndarray, valid: np.ndarray | None = None) -> Pair:
    photo = Photo(rgb=np.zeros((*depth.shape, 3), dtype=np.uint8))
    return Pair(photo, depth, np.ones(depth.shape, dtype=bool) if valid is None else valid)


def sample_of(pair: Pair, *, ordinal: bool = False, **protocol: object) -> Sample:
    return Sample("image", "source", Protocol("Source", **protocol), lambda: pair, ordinal)


def knowing(depth: np.ndarray, seen: list[DepthSettings] | None = None):
    """A predictor that knows the truth up to scale and shift."""

    @stepwise
    def predict(photo: Photo, settings: DepthSettings) -> Iterator[DepthMap]:
        if seen is not None:
            seen.append(settings)
        yield DepthMap(((depth - 1) / 20).astype(np.float32))

    return predict


# Metrics and alignment against independent implementations


def test_metrics_are_those_of_their_definitions():
    aligned, gt = np.array([1.0, 2.0, 4.0, 5.0]), np.array([1.0, 2.5, 3.0, 10.0])
    assert abs_rel(aligned, gt) == pytest.approx((0 + 0.5 / 2.5 + 1 / 3 + 0.5) / 4)
    assert delta1(aligned, gt) == 0.25  # 2.5 / 2 is 1.25, which is not less


@given(st.integers(0, 2**32 - 1), st.sampled_from([1.0, 3.0, 10.0]))
@settings(max_examples=25)
def test_rank_correlation_is_that_of_scipy_with_ties(seed, coarseness):
    rng = np.random.default_rng(seed)
    x, y = (np.round(rng.normal(size=200) * coarseness) for _ in range(2))
    if np.ptp(x) and np.ptp(y):
        assert spearman(x, y) == pytest.approx(stats.spearmanr(x, y).statistic, abs=1e-12)


def test_rank_correlation_with_a_constant_is_zero():
    assert spearman(np.ones(9), np.arange(9.0)) == 0


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=25)
def test_scores_are_those_of_numpys_least_squares(seed):
    rng = np.random.default_rng(seed)
    gt = rng.uniform(0.5, 30, (20, 25)).astype(np.float32)
    prediction = rng.uniform(0, 1, (20, 25)).astype(np.float32)
    valid = rng.random((20, 25)) < 0.3
    got = score(prediction, pair_of(gt, valid), sample=sample_of(pair_of(gt), min_depth=1.0, max_depth=12.0))
    design = np.stack([prediction[valid], np.ones(valid.sum())], axis=1).astype(np.float64)
    solution = np.linalg.lstsq(design, gt[valid].astype(np.float64), rcond=None)[0]
    aligned = np.clip(design @ solution, 1.0, 12.0)
    ratio = np.maximum(aligned / gt[valid], gt[valid] / aligned)
    assert got.abs_rel == pytest.approx(np.mean(abs(aligned - gt[valid]) / gt[valid]), rel=1e-5)
    assert got.delta1 == pytest.approx(np.mean(ratio < 1.25), abs=1e-9)


@given(scale=st.floats(0.01, 1000), shift=st.floats(-100, 100))
@settings(max_examples=25)
def test_scores_do_not_move_under_an_affine_change_of_the_prediction(scale, shift):
    gt, prediction = truth(), truth().astype(np.float64)
    plain = score(prediction, pair_of(gt), sample=sample_of(pair_of(gt)))
    moved = score(scale * prediction + shift, pair_of(gt), sample=sample_of(pair_of(gt)))
    assert moved.abs_rel == pytest.approx(plain.abs_rel, rel=1e-6)
    assert moved.delta1 == pytest.approx(plain.delta1, abs=2e-3)


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=15)
def test_disparity_is_fitted_to_inverse_depth(seed):
    rng = np.random.default_rng(seed)
    gt, disparity = (rng.uniform(low, 30, (20, 25)).astype(np.float32) for low in (0.5, 0.0))
    disparity -= disparity.min()
    prediction = invert(disparity / disparity.max())  # as a pipeline gives it
    sample = sample_of(pair_of(gt), max_depth=40.0)
    got = score(prediction, pair_of(gt), sample=sample, alignment="disparity")
    counted = (disparity > 0).ravel()
    design = np.stack([disparity.ravel(), np.ones(disparity.size)], axis=1).astype(np.float64)
    inverse = 1 / gt.ravel().astype(np.float64)
    solution = np.linalg.lstsq(design[counted], inverse[counted], rcond=None)[0]
    aligned = np.clip(1 / np.maximum(design @ solution, 1e-3), 1e-6, 40)
    assert got.abs_rel == pytest.approx(np.mean(abs(aligned - gt.ravel()) / gt.ravel()), rel=1e-3)
    assert got.alignment == "disparity"


def test_the_prediction_says_in_what_it_is_aligned():
    gt = truth()
    flat = 1 / gt - (1 / gt).min()

    def disparity(*_):
        return DepthMap(invert((flat / flat.max()).astype(np.float32)), prediction="affine_disparity")

    [right] = score_all(disparity, [sample_of(pair_of(gt))], SETTINGS)
    [wrong] = score_all(lambda *_: DepthMap(disparity().values), [sample_of(pair_of(gt))], SETTINGS)
    assert right.abs_rel < 1e-4 < 1e-2 < wrong.abs_rel and (right.alignment, wrong.alignment) == (
        "disparity",
        "depth",
    )


def mean_of(source: str, abs_rel: float | None, delta1: float | None = None) -> Mean:
    return Mean(source, 5, 0 if abs_rel is None else 5, abs_rel, delta1, 0.5)


def test_ranks_of_the_papers_table_are_those_it_prints():
    table = compare([("mine", "depth", [mean_of(source, 0.001, 0.999) for source in DATA_SETS])])
    paper = Comparison(table.sources, tuple(row for row in table.rows if row.is_published))
    assert [round(rank, 1) for rank in paper.mean_ranks()] == [7.6, 7.3, 5.2, 4.8, 3.2, 3.9, 2.5, 1.4]
    assert table.mean_ranks()[-1] == 1 and len(table.rows) == 9


def test_best_is_bold_and_second_underlined_in_each_column():
    ours = [
        ("a", "depth", [mean_of("x", 0.10, 0.80), mean_of("y", None)]),
        ("b", "disparity", [mean_of("x", 0.30, 0.90), mean_of("y", None)]),
        ("c|d", "depth", [mean_of("x", 0.20, 0.70), mean_of("y", None)]),
    ]
    table = compare(ours)
    lines = table.as_markdown().splitlines()
    assert lines[2] == "| a | depth | **10.0** | <u>80.0</u> | **1.5** |"
    assert lines[3] == "| b | disparity | 30.0 | **90.0** | <u>2.0</u> |"
    assert lines[4] == "| c\\|d | depth | <u>20.0</u> | 70.0 | 2.5 |"
    rows = list(csv.DictReader(io.StringIO(table.as_csv())))
    assert [row["x AbsRel"] for row in rows] == ["10.0", "30.0", "20.0"] and "y AbsRel" not in rows[0]
    stored = json.loads(table.as_json())
    assert [row["mean_rank"] for row in stored["methods"]] == [1.5, 2.0, 2.5]
    assert stored["methods"][1]["alignment"] == "disparity"
    assert stored["methods"][0]["figures"] == {"x": {"abs_rel": 10.0, "delta1": 80.0}}
    colored = table.as_text(colors=True)
    assert "\x1b[1m10.0\x1b[0m" in colored and "\x1b[4m80.0\x1b[0m" in colored
    bare = re.sub(r"\x1b\[\d+m", "", colored).splitlines()[1:]
    assert len({len(line) for line in bare}) == 1  # what cannot be seen takes no place
    ordinal = compare([("a", "depth", [mean_of("y", None)])])
    assert ordinal.mean_ranks() == [None] and ordinal.as_csv() == "method,alignment,mean rank\na,depth,\n"
    assert "10.0*" in table.as_text() and "80.0'" in table.as_text()


@pytest.mark.skipif(not DEPTH_DEV.is_dir(), reason="../shared/data/depth_dev is not here")
def test_three_methods_stand_in_one_table_of_real_photos(tmp_path, capsys):
    from tests import other_methods

    for kind in ("depth_anything", "metric"):
        other_methods.save(kind, tmp_path / kind)
    names = f"rows-only,{tmp_path / 'depth_anything'},{tmp_path / 'metric'}"
    output = tmp_path / "out" / "table.json"
    arguments = ["evaluate", str(DEPTH_DEV), "--methods", names, "--every", "9", "--output", str(output)]
    assert main(arguments) == 0
    shown = capsys.readouterr().out
    assert [line.split()[1] for line in shown.splitlines()[2:5]] == ["depth", "disparity", "depth"]
    table = json.loads(output.read_text())
    assert [row["method"] for row in table["methods"]] == ["rows-only", "depth_anything", "metric"]
    assert all(1 <= row["mean_rank"] <= 3 for row in table["methods"])
    assert output.with_suffix(".md").read_text().count("**") >= 2
    rows = output.with_suffix(".csv").read_text().splitlines()
    assert len(rows) == 1 + 3 * len(find_samples(DEPTH_DEV)[::9])
    written = {path.name for path in output.parent.iterdir()}
    assert written == {"table.json", "table.csv", "table.md", "table_methods.csv"}
    assert main([*arguments, "--resume"]) == 0  # nothing is predicted again
    assert output.with_suffix(".csv").read_text().splitlines() == rows
    assert json.loads(output.read_text()) == table


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        ("constant,constant", "names one of them twice"),
        ("constant,/no/such/folder", "no checkpoint folder /no/such/folder"),
        ("constant,", "checkpoint is empty"),
    ],
)
def test_methods_that_are_not_there_are_named_before_anything_runs(names, reason, tmp_path, capsys):
    write_folder(tmp_path, [row_of("a")])
    assert main(["evaluate", str(tmp_path), "--methods", names]) == 2
    assert reason in capsys.readouterr().err


def test_a_perfect_prediction_has_no_error_and_a_reversed_one_the_opposite_order():
    gt = truth()
    [perfect] = score_all(knowing(gt), [sample_of(pair_of(gt))], SETTINGS)
    assert perfect.abs_rel < 1e-5 and perfect.delta1 == 1 and perfect.spearman == pytest.approx(1)
    [ordinal] = score_all(knowing(10 - gt), [sample_of(pair_of(gt), ordinal=True)], SETTINGS)
    assert ordinal.abs_rel is None and ordinal.delta1 is None and ordinal.spearman == pytest.approx(-1)


def test_pixels_that_are_not_valid_count_for_nothing():
    gt, valid = truth(), np.ones((24, 32), dtype=bool)
    valid[:, 16:] = False
    spoiled = np.where(valid, gt, np.float32(-1e9))
    [got] = score_all(knowing(gt), [sample_of(pair_of(spoiled, valid))], SETTINGS)
    assert got.abs_rel < 1e-5


def test_the_constant_scores_as_the_mean_of_the_truth():
    gt = truth()
    [got] = score_all(constant, [sample_of(pair_of(gt))], SETTINGS)
    assert got.abs_rel == pytest.approx(np.mean(abs(gt - gt.mean()) / gt), rel=1e-5) and got.spearman == 0


def test_rows_only_is_far_at_the_top():
    depth = rows_only(Photo(rgb=np.zeros((20, 30, 3), dtype=np.uint8)), SETTINGS, Run())
    assert (
        (depth.values[0] == 1).all()
        and (depth.values[-1] == 0).all()
        and (np.diff(depth.values, axis=0) < 0).all()
    )


def test_alignment_on_fewer_pixels_takes_them_evenly():
    gt = truth(48, 96)
    rows, columns = np.arange(24) * 2, np.arange(48) * 2
    prediction = truth(48, 96)
    got = score(prediction, pair_of(gt), sample=sample_of(pair_of(gt), align_px=48))
    few = np.ix_(rows, columns)
    scale, shift = np.polyfit(prediction[few].ravel().astype(float), gt[few].ravel().astype(float), 1)
    aligned = np.maximum(scale * prediction.astype(float) + shift, 1e-6)
    assert got.abs_rel == pytest.approx(np.mean(abs(aligned - gt) / gt), rel=1e-5)


def test_means_are_over_images_first_and_sources_then():
    scores = [Score("a", "x", 0.1, 0.9, 0.5), Score("b", "x", 0.3, 0.7, 0.7), Score("c", "y", 0.6, 0.2, 0.1)]
    scores.append(Score("d", "z", None, None, 0.9))
    x, y, z, total = means(scores)
    assert (x.abs_rel, x.delta1, x.images) == (pytest.approx(0.2), pytest.approx(0.8), 2)
    assert y.abs_rel == 0.6 and z.abs_rel is None and z.images == 1 and z.measured == 0
    assert total.abs_rel == pytest.approx(0.4) and total.spearman == pytest.approx((0.6 + 0.1 + 0.9) / 3)
    assert means([]) == ()


# A folder with a manifest


def write_folder(root: Path, rows: list[dict[str, str]], depth: np.ndarray | None = None) -> None:
    (root / "rgb").mkdir(exist_ok=True)
    (root / "depth").mkdir(exist_ok=True)
    depth = truth() if depth is None else depth
    for row in rows:
        Image.fromarray(np.zeros((*depth.shape, 3), dtype=np.uint8)).save(root / row["rgb"])
        np.savez(root / row["depth"], depth=depth, valid=np.isfinite(depth) & (depth > 0))
    with (root / "manifest.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def row_of(name: str, **others: str) -> dict[str, str]:
    row = {
        "name": name,
        "rgb": f"rgb/{name}.png",
        "depth": f"depth/{name}.npz",
        "source": "x",
        "space": "depth",
    }
    return row | others


def test_a_folder_is_what_its_manifest_says(tmp_path):
    depth = truth()
    depth[3, 3] = 0
    write_folder(tmp_path, [row_of("a"), row_of("b", source="y", space="ordinal")], depth)
    a, b = find_samples(tmp_path)
    assert (a.name, a.source, a.ordinal) == ("a", "x", False) and (b.source, b.ordinal) == ("y", True)
    pair = a.read()
    np.testing.assert_array_equal(pair.depth, depth)
    assert not pair.valid[3, 3] and pair.valid.sum() == depth.size - 1


@pytest.mark.parametrize(
    ("break_it", "reason"),
    [
        (lambda root: (root / "depth/a.npz").unlink(), "a.npz is missing"),
        (lambda root: (root / "rgb/a.png").unlink(), "a.png is missing"),
        (lambda root: (root / "manifest.csv").write_text("name,rgb\n1,2\n"), "lacks depth, source"),
        (lambda root: (root / "manifest.csv").write_text("name,rgb,depth,source\n"), "names no image"),
        (lambda root: (root / "manifest.csv").write_bytes(b"\xff\xfe\xff"), "UTF-8"),
        (lambda root: write_folder(root, [row_of("a"), row_of("a")]), "same name"),
        (lambda root: write_folder(root, [row_of("a", space="disparity")]), "depth or ordinal"),
    ],
)
def test_a_folder_that_is_not_as_expected_is_named_before_anything_runs(tmp_path, break_it, reason):
    write_folder(tmp_path, [row_of("a")])
    break_it(tmp_path)
    with pytest.raises(DataError, match=reason):
        find_samples(tmp_path)


@pytest.mark.parametrize(
    ("arrays", "reason"),
    [
        ({"depth": np.ones((9, 9))}, "must|both agree"),
        ({"depth": np.full((24, 32), np.nan), "valid": np.ones((24, 32), bool)}, "finite and more than 0"),
        ({"depth": np.zeros((24, 32))}, "no pixel"),
        ({"z": np.ones((24, 32))}, "named 'depth'"),
        ({"depth": np.array([None])}, "named 'depth'"),
    ],
)
def test_depth_that_cannot_be_judged_is_named(tmp_path, arrays, reason):
    write_folder(tmp_path, [row_of("a")])
    np.savez(tmp_path / "depth/a.npz", **arrays)
    with pytest.raises(DataError, match=reason) as error:
        find_samples(tmp_path)[0].read()
    assert "a.npz" in str(error.value)


@pytest.mark.parametrize("name", ["missing", "empty"])
def test_a_folder_with_nothing_in_it_is_told_what_belongs_there(tmp_path, name):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"manifest\.csv.*nyuv2, kitti, eth3d, scannet, diode"):
        find_samples(tmp_path / name)


@pytest.mark.skipif(not DEPTH_DEV.is_dir(), reason="../shared/data/depth_dev is not here")
def test_rows_only_scores_on_real_photos_what_others_found_for_it():
    *_, total = means(score_all(rows_only, find_samples(DEPTH_DEV), SETTINGS))
    assert total.abs_rel == pytest.approx(0.247, abs=0.0005) and total.delta1 == pytest.approx(
        0.624, abs=0.0005
    )
    assert (total.images, total.measured) == (35, 31)


# The paper's five data sets, in the authors' layout

LISTS = {
    "nyuv2": "test/office_0005/rgb_0009.png test/office_0005/depth_0009.png test/office_0005/filled_0009.png",
    "kitti": "2011_09_26/2011_09_26_drive_0002_sync/image_02/data/0000000069.png "
    "2011_09_26_drive_0002_sync/proj_depth/groundtruth/image_02/0000000069.png 721.5377\n"
    "2011_09_26/2011_09_26_drive_0002_sync/image_02/data/0000000070.png None 721.5377",
    "eth3d": "rgb/office/images/dslr_images/DSC_0219.JPG "
    "depth/office_dslr_depth/office/ground_truth_depth/dslr_images/DSC_0219.JPG",
    "scannet": "scene0406_02/color/000300.jpg scene0406_02/depth/000300.png",
    "diode": "indoors/scene_00021/scan_00189/00021_00189_indoors_200_010.png "
    "indoors/scene_00021/scan_00189/00021_00189_indoors_200_010_depth.npy "
    "indoors/scene_00021/scan_00189/00021_00189_indoors_200_010_depth_mask.npy",
}
SIZES = {
    "nyuv2": (480, 640),
    "kitti": (375, 1242),
    "eth3d": (403, 604),
    "scannet": (480, 640),
    "diode": (768, 1024),
}


def depth_of(name: str) -> np.ndarray:
    """A ramp in meters that leaves the range of the data set at both ends."""
    top = {"nyuv2": 11, "kitti": 90, "eth3d": 40, "scannet": 11, "diode": 300}[name]
    height, width = SIZES[name]
    return np.linspace(0, top, height * width).reshape(height, width)


def encoded(name: str, depth: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    if name == "eth3d":
        return np.where(depth == 0, np.inf, depth).astype("<f4").tobytes()
    if name == "diode":
        np.save(buffer, depth[..., None].astype(np.float32))
    else:
        Image.fromarray(np.round(depth * (256 if name == "kitti" else 1000)).astype(np.uint16)).save(
            buffer, "PNG"
        )
    return buffer.getvalue()


def write_benchmark(root: Path, name: str, *, tarred: bool) -> None:
    benchmark = next(one for one in BENCHMARKS if one.name == name)
    folder = root / name
    folder.mkdir(parents=True)
    (folder / benchmark.file_list).write_text(LISTS[name] + "\n")
    depth = depth_of(name)
    rgb, mask = io.BytesIO(), io.BytesIO()
    Image.fromarray(np.zeros((*depth.shape, 3), dtype=np.uint8)).save(rgb, "JPEG")
    np.save(mask, (depth > 30).astype(np.float32))
    photo, truth_file, *rest = LISTS[name].splitlines()[0].split()
    files = {photo: rgb.getvalue(), truth_file: encoded(name, depth)}
    if name == "diode":
        files[rest[0]] = mask.getvalue()
    if tarred:
        with tarfile.open(folder / benchmark.archive, "w") as archive:
            for file, data in files.items():
                about = tarfile.TarInfo(f"./{file}")
                about.size = len(data)
                archive.addfile(about, io.BytesIO(data))
        return
    for file, data in files.items():
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_bytes(data)


@pytest.mark.parametrize("tarred", [True, False], ids=["tar", "folder"])
@pytest.mark.parametrize("name", LISTS)
def test_each_benchmark_is_read_in_its_published_layout(tmp_path, name, tarred):
    write_benchmark(tmp_path, name, tarred=tarred)
    [sample] = find_samples(tmp_path)
    pair = sample.read()
    depth, valid = depth_of(name), expected_valid(name)
    if name == "kitti":
        depth, valid = depth[23:, 13:1229], valid[23:, 13:1229]
        assert pair.depth.shape == (352, 1216)
    np.testing.assert_allclose(pair.depth, depth, atol=0.005)
    np.testing.assert_array_equal(pair.valid, valid)
    assert sample.source in DATA_SETS and sample.name.startswith(f"{name}/")


def expected_valid(name: str) -> np.ndarray:
    """Which pixels the authors count, written down once more from their text."""
    depth, box = depth_of(name), np.zeros(SIZES[name], dtype=bool)
    if name == "nyuv2":
        box[45:471, 41:601] = True
        return box & (np.round(depth, 3) > 0.001) & (np.round(depth, 3) < 10)
    if name == "kitti":
        cropped = box[23:, 13:1229]
        cropped[
            int(0.3324324 * 352) : int(0.91351351 * 352), int(0.0359477 * 1216) : int(0.96405229 * 1216)
        ] = True
        return box & (np.round(depth * 256) / 256 < 80)
    if name == "eth3d":
        return depth > 0
    if name == "diode":
        return depth > 30
    return (np.round(depth, 3) > 0.001) & (np.round(depth, 3) < 10)


def test_caps_and_processing_resolutions_are_the_authors():
    facts = {b.name: (b.protocol.min_depth, b.protocol.max_depth, b.protocol.resolution) for b in BENCHMARKS}
    assert facts == {
        "nyuv2": (1e-3, 10, 0),
        "kitti": (1e-5, 80, 0),
        "eth3d": (1e-5, np.inf, 760),
        "scannet": (1e-3, 10, 0),
        "diode": (0.6, 350, 640),
    }
    assert next(b for b in BENCHMARKS if b.name == "eth3d").protocol.align_px == 1024


def test_the_benchmarks_resolution_is_a_default_and_no_more(tmp_path):
    write_benchmark(tmp_path, "diode", tarred=False)
    seen: list[DepthSettings] = []
    samples = find_samples(tmp_path)
    predict = knowing(depth_of("diode"), seen)
    [got] = score_all(predict, samples, SETTINGS)
    list(score_all(predict, samples, dataclasses.replace(SETTINGS, resolution=256)))
    assert [one.resolution for one in seen] == [640, 256] and got.abs_rel < 1e-4


def test_lists_may_lie_where_the_authors_keep_them(tmp_path):
    write_benchmark(tmp_path, "nyuv2", tarred=True)
    split = tmp_path / "data_split/nyu_depth/labeled"
    split.mkdir(parents=True)
    (tmp_path / "nyuv2/filename_list_test.txt").rename(split / "filename_list_test.txt")
    assert len(find_samples(tmp_path)) == 1
    (split / "filename_list_test.txt").unlink()
    with pytest.raises(DataError, match=r"filename_list_test\.txt is missing"):
        find_samples(tmp_path)


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (
            lambda folder: (folder / "scannet_val_sampled_list_800_1.txt").write_text("one_name_only\n"),
            "2 file names",
        ),
        (lambda folder: (folder / "scene0406_02/depth/000300.png").unlink(), "000300.png is missing"),
        (
            lambda folder: (folder / "scene0406_02/depth/000300.png").write_bytes(b"no"),
            "not depth of ScanNet",
        ),
        (lambda folder: (folder / "scene0406_02/color/000300.jpg").write_bytes(b"no"), "not a picture"),
        (lambda folder: (folder / "scannet_val_sampled_800_1.tar").write_bytes(b"no tar"), "readable tar"),
    ],
)
def test_a_damaged_benchmark_is_named(tmp_path, spoil, reason):
    write_benchmark(tmp_path, "scannet", tarred=False)
    spoil(tmp_path / "scannet")
    with pytest.raises(DataError, match=reason):
        [sample.read() for sample in find_samples(tmp_path)]


# The table and the CSV


def test_the_table_stands_beside_the_published_rows():
    scores = [Score(str(n), "NYUv2", 0.061, 0.955, 0.9) for n in range(3)]
    text = as_text(means(scores), predictor="embedded")
    assert "6.1 / 95.5" in text and "5.5 / 96.4" in text and "NYUv2: ours on 3 of 654 images." in text
    own = as_text(means([dataclasses.replace(one, source="own") for one in scores]), predictor="embedded")
    assert "Marigold" not in own and "0.061" in own


def test_every_published_row_has_a_figure_or_a_gap_per_data_set():
    assert all(len(row.figures) == len(DATA_SETS) == len(BENCHMARKS) for row in PUBLISHED)
    assert [benchmark.protocol.title for benchmark in BENCHMARKS] == list(DATA_SETS)


def test_a_csv_gives_back_what_was_scored_and_nothing_of_others(tmp_path):
    path, scores = (
        tmp_path / "t.csv",
        [Score("a,b", "x", 0.1 + 0.2, 1 / 3, -0.5), Score("c", "y", None, None, 0.25)],
    )
    results = ResultsCsv(path, predictor="mine", resume=False)
    for one in scores:
        results.add(one)
    ResultsCsv(path, predictor="other", resume=True).add(Score("c", "y", 9.0, 9.0, 9.0))
    with path.open("a") as file:
        file.write("mine,x,cut off in the mid")
    assert list(ResultsCsv(path, predictor="mine", resume=True).known.values()) == scores
    assert "cut off" not in path.read_text()
    assert ResultsCsv(path, predictor="mine", resume=False).known == {}


@pytest.mark.parametrize(
    "content", ["a,b\n1,2\n", "", "predictor,source,name,abs_rel,delta1,spearman\nmine,x\n"]
)
def test_a_csv_does_not_touch_a_file_of_another_kind(tmp_path, content):
    path = tmp_path / "t.csv"
    path.write_text(content)
    with pytest.raises(DataError, match="not a table of scores"):
        ResultsCsv(path, predictor="mine", resume=True)
    assert path.read_text() == content


def test_json_holds_the_means():
    import json

    table = json.loads(as_json(means([Score("a", "x", 0.5, 0.25, 0.1)]), predictor="mine"))
    assert table["predictor"] == "mine" and table["means"][0]["abs_rel"] == 0.5
    assert [one["source"] for one in table["means"]] == ["x", "mean of sources"]
