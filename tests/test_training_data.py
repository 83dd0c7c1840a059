"""Where training pictures come from, how they are changed, and which error a wrong folder gives."""

import sys
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from marigold_demo.errors import DataError, SettingsError
from marigold_demo.evaluation.datasets import DataFiles
from marigold_demo.training.batches import (
    BatchPlan,
    batches_from,
    crop_and_resize,
    disturb,
    make_batch,
    normalize_depth,
    whole_picture,
)
from marigold_demo.training.data import (
    FolderSource,
    Mixture,
    Sample,
    SceneSource,
    hide_far,
    open_data,
    open_hypersim,
    open_pairs,
    open_vkitti,
    read_any_depth,
)
from synthetic.store import SHARD, SceneStore


def slope(height: int = 40, width: int = 60, *, sky_rows: int = 0) -> Sample:
    """Return a sample whose red is its depth and whose upper rows are sky."""
    rows, columns = np.mgrid[0:height, 0:width].astype(np.float32)
    depth = 1 + columns / width + (height - rows) / height
    photo = np.stack([depth * 80, rows, columns], axis=2).astype(np.uint8)
    sky = rows < sky_rows
    return Sample(photo=photo, depth=depth, valid=~sky, sky=sky)


def write_pair(root: Path, name: str, *, size: tuple[int, int] = (32, 24)) -> None:
    (root / "rgb").mkdir(parents=True, exist_ok=True)
    (root / "depth").mkdir(exist_ok=True)
    Image.new("RGB", size, (90, 60, 30)).save(root / "rgb" / f"{name}.jpg")
    np.save(root / "depth" / f"{name}.npy", np.full(size[::-1], 2.0, np.float32))


def scenes(folder: Path) -> dict[str, Any]:
    return {"scenes_folder": folder, "seed": 0}


# --- depth in the range of the VAE


@settings(max_examples=25)
@given(scale=st.floats(0.01, 50), shift=st.floats(0, 20), seed=st.integers(0, 99))
def test_normal_depth_ignores_scale_and_shift(scale: float, shift: float, seed: int) -> None:
    sample = slope(sky_rows=5)
    depth = sample.depth + np.random.default_rng(seed).uniform(0, 0.2, sample.depth.shape).astype(np.float32)
    normal = normalize_depth(replace(sample, depth=depth))
    other = normalize_depth(replace(sample, depth=(depth * scale + shift).astype(np.float32)))
    assert normal.min() == -1
    assert normal.max() == 1
    assert np.allclose(normal, other, atol=2e-3)


def test_sky_is_far_and_does_not_move_the_rest() -> None:
    with_sky, without = slope(sky_rows=10), slope()
    normal = normalize_depth(
        replace(with_sky, depth=np.where(with_sky.sky, 1e6, with_sky.depth).astype(np.float32))
    )
    assert (normal[with_sky.sky] == 1).all()
    alone = normalize_depth(replace(without, valid=~with_sky.sky))
    assert np.array_equal(normal[~with_sky.sky], alone[~with_sky.sky])


def test_depth_without_a_known_pixel_or_without_relief_stays_finite() -> None:
    nothing = replace(slope(), valid=np.zeros((40, 60), bool))
    flat = replace(slope(), depth=np.full((40, 60), 3, np.float32))
    for sample in (nothing, flat):
        assert np.isfinite(normalize_depth(sample)).all()


def test_far_hills_count_as_sky_behind_a_street_but_not_alone() -> None:
    def row(*depths: float) -> Sample:
        depth = np.array([depths], np.float32)
        flags = np.ones(depth.shape, bool)
        return Sample(photo=np.zeros((*depth.shape, 3), np.uint8), depth=depth, valid=flags, sky=~flags)

    street = hide_far(row(3, 5, 7, 900))
    assert street.sky.tolist() == [[False, False, False, True]]
    assert np.array_equal(street.valid, ~street.sky)
    hills = hide_far(row(300, 500, 700, 900))
    assert hills.valid.all()


@given(middle=st.floats(0.5, 1000))
def test_where_a_picture_ends_follows_from_its_median(middle: float) -> None:
    depth = np.linspace(0.1, 12, 240, dtype=np.float32)[None]
    depth = np.sort(np.concatenate([np.full_like(depth, 1), depth]), axis=1) * np.float32(middle)  # median 1
    flags = np.ones(depth.shape, bool)
    sample = Sample(photo=np.zeros((*depth.shape, 3), np.uint8), depth=depth, valid=flags, sky=~flags)
    limit = max(2 * middle, min(max(4 * middle, 25), 100))
    assert np.array_equal(hide_far(sample).sky, depth > np.float32(limit))


# --- augmentation


@settings(max_examples=20)
@given(seed=st.integers(0, 10**6), size=st.sampled_from([(32, 24), (24, 32), (64, 16)]))
def test_photo_and_depth_stay_together_through_crop_and_mirror(seed: int, size: tuple[int, int]) -> None:
    cut = crop_and_resize(slope(80, 120), size=size, rng=np.random.default_rng(seed))
    assert cut.photo.shape == (size[1], size[0], 3)
    assert np.abs(cut.photo[..., 0] / 80 - cut.depth).max() < 0.12


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("size", [(24, 18), (32, 24), (56, 40), (100, 76)])
def test_depth_lies_in_register_with_its_photo(size: tuple[int, int], axis: int) -> None:
    """Red is a ramp across and green one down; so is depth: on average both show the same places."""
    ramps = np.mgrid[0:45, 0:60].astype(np.float32)[::-1]  # across, down
    everywhere = np.ones((45, 60), bool)
    photo = np.stack([4 * ramps[0], 4 * ramps[1], 0 * ramps[0]], axis=2).astype(np.uint8)
    sample = Sample(photo=photo, depth=1000 + ramps[axis], valid=everywhere, sky=~everywhere)
    offsets = []  # in pixels of the output; 8 bits of the photo round each a little
    for seed in range(100):
        cut = crop_and_resize(sample, size=size, rng=np.random.default_rng(seed))
        step = abs(float(np.gradient(cut.depth, axis=1 - axis).mean()))
        offsets.append((cut.depth - 1000 - cut.photo[..., axis] / 4)[4:-4, 4:-4].mean() / step)
    assert abs(np.mean(offsets)) <= 0.02
    assert np.abs(offsets).max() <= 0.3


def test_no_depth_is_made_up_between_what_is_near_and_what_is_far() -> None:
    columns = np.broadcast_to(np.arange(120), (80, 120))
    depth = np.where(columns > 50, np.float32(9), np.float32(2))
    valid = (columns < 20) | (columns > 24)
    sample = Sample(
        photo=np.zeros((80, 120, 3), np.uint8), depth=np.where(valid, depth, 5), valid=valid, sky=~valid
    )
    for seed in range(5):
        cut = crop_and_resize(sample, size=(200, 136), rng=np.random.default_rng(seed))
        assert set(np.unique(cut.depth[cut.valid].round(3)).tolist()) <= {2.0, 9.0}


@settings(max_examples=20)
@given(seed=st.integers(0, 10**6))
def test_a_disturbed_photo_keeps_its_size_and_type_and_the_original(seed: int) -> None:
    photo = slope().photo
    before = photo.copy()
    changed = disturb(photo, rng=np.random.default_rng(seed))
    assert changed.shape == photo.shape
    assert changed.dtype == np.uint8
    assert np.array_equal(photo, before)


# --- batches


def test_the_same_number_gives_the_same_batch_and_another_one_another(tmp_path: Path) -> None:
    for name in "abcd":
        write_pair(tmp_path, name)
    data, _ = open_data(f"pairs:{tmp_path}", **scenes(tmp_path))
    plan = BatchPlan(data=data, size=2, shapes=((16, 16), (24, 16)), fresh=1, seed=3)
    ahead = batches_from(plan, iter([5, 6]), workers=2)
    fifth, sixth = list(ahead)
    assert np.array_equal(fifth.photo, make_batch(plan, 5).photo)
    assert fifth.photo.shape != sixth.photo.shape or not np.array_equal(fifth.photo, sixth.photo)


def test_scenes_are_drawn_once_and_read_from_disk_afterwards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[int] = []

    def render(seed: int, *, width: int, height: int) -> Sample:
        drawn.append(seed)
        return slope(height, width, sky_rows=seed % 5)

    monkeypatch.setattr("synthetic.store.render_scene", render)
    first, again = (
        SceneSource(SceneStore(tmp_path, first_seed=100, size=(60, 40))).read(3) for _ in range(2)
    )
    assert drawn == list(range(100, 100 + SHARD))
    assert np.array_equal(first.photo, again.photo)
    assert np.array_equal(first.depth, again.depth)
    assert (first.valid != first.sky).all()


def test_without_their_package_scenes_say_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "synthetic.store", None)
    with pytest.raises(SettingsError, match=r"pip install \./synthetic"):
        open_data("scenes", **scenes(tmp_path))
    write_pair(tmp_path, "a")
    assert open_data(f"pairs:{tmp_path}", **scenes(tmp_path))


def test_an_endless_source_gives_as_many_new_scenes_as_asked(tmp_path: Path) -> None:
    asked: list[int] = []

    class Counter:
        count = None

        def read(self, index: int) -> Sample:
            asked.append(index)
            return slope()

    data = replace(open_data("scenes", **scenes(tmp_path))[0], sources=(Counter(),))
    plan = BatchPlan(data=data, size=4, shapes=((32, 32),), fresh=0.25, seed=0)
    for number in range(20):
        make_batch(plan, number)
    assert set(asked) == set(range(20))


def test_whole_pictures_come_in_the_size_of_their_source_one_source_in_a_batch(tmp_path: Path) -> None:
    write_processed(tmp_path / "h", "ai_001_001", millimeters=2000)
    for scene in ("Scene01", "Scene02"):
        frames = tmp_path / "v" / scene / "clone" / "frames"
        write_png(frames / "rgb" / "Camera_0" / "rgb_00000.jpg", np.zeros((375, 1242, 3), np.uint8))
        write_png(frames / "depth" / "Camera_0" / "depth_00000.png", np.full((375, 1242), 500, np.uint16))
    text = f"hypersim:{tmp_path / 'h'}@0.9,vkitti:{tmp_path / 'v'}@0.1"
    data, _ = open_data(text, **scenes(tmp_path))
    plan = BatchPlan(data=data, size=2, shapes=((640, 480),), fresh=1, seed=0, pictures="whole")
    batches = [make_batch(plan, number) for number in range(24)]
    shapes = [tuple(batch.photo.shape) for batch in batches]
    assert set(shapes) == {(2, 3, 480, 640), (2, 3, 352, 1216)}
    assert 0.75 < shapes.count((2, 3, 480, 640)) / len(shapes) < 1
    assert all(len(set(batch.depth.flatten().tolist())) == 1 for batch in batches)


@pytest.mark.parametrize("smooth", [False, True])
def test_a_whole_picture_is_only_resized_and_mirrored(smooth: bool) -> None:
    sample = slope(60, 80)
    mirrored = 0
    for seed in range(40):
        whole = whole_picture(sample, size=(40, 30), smooth=smooth, rng=np.random.default_rng(seed))
        flipped = whole.depth[0, 0] > whole.depth[0, -1]
        mirrored += flipped
        depth = whole.depth[:, ::-1] if flipped else whole.depth
        assert np.array_equal(depth, sample.depth[1::2, 1::2])  # the pixel at each center, as nearest-exact
        if not smooth:
            photo = whole.photo[:, ::-1] if flipped else whole.photo
            assert np.array_equal(photo, sample.photo[1::2, 1::2])
        assert np.abs(whole.photo[..., 0] / 80 - whole.depth).max() < 0.05
    assert 8 < mirrored < 32


def test_a_folder_gives_each_pair_once_before_any_twice() -> None:
    read: list[int] = []

    class Counting(FolderSource):
        def read(self, index: int) -> Sample:
            read.append(index)
            return slope()

    pairs = tuple((f"{i}", f"{i}") for i in range(50))
    source = Counting(files=DataFiles(Path()), pairs=pairs, read_depth=read_any_depth)
    for number in range(100):
        source.draw(number, seed=5, rng=np.random.default_rng(0))
    assert sorted(read[:50]) == sorted(read[50:]) == list(range(50))
    assert read[:50] != read[50:]


# --- folders


def write_hypersim(root: Path, scene: str = "ai_001_002") -> None:
    h5py = pytest.importorskip("h5py")
    images = root / scene / "images"
    photos, depths = images / "scene_cam_00_final_preview", images / "scene_cam_00_geometry_hdf5"
    photos.mkdir(parents=True)
    depths.mkdir()
    Image.new("RGB", (64, 48)).save(photos / "frame.0007.tonemap.jpg")
    rows, columns = np.mgrid[-23.5:24, -31.5:32]
    focal = 886.81 * 64 / 1024
    wall = 4 * np.sqrt(rows**2 + columns**2 + focal**2) / focal  # distances to a wall at z = 4 m
    with h5py.File(depths / "frame.0007.depth_meters.hdf5", "w") as file:
        file["dataset"] = wall.astype(np.float16)


def test_hypersim_distances_become_depth(tmp_path: Path) -> None:
    write_hypersim(tmp_path)
    sample = open_hypersim(tmp_path).read(0)
    assert np.allclose(sample.depth, 4, atol=0.01)


def test_virtual_kitti_reads_centimetres_sky_and_the_benchmark_crop(tmp_path: Path) -> None:
    frames = tmp_path / "Scene01" / "clone" / "frames"
    (frames / "rgb" / "Camera_0").mkdir(parents=True)
    (frames / "depth" / "Camera_0").mkdir(parents=True)
    Image.new("RGB", (1242, 375)).save(frames / "rgb" / "Camera_0" / "rgb_00000.jpg")
    levels = np.full((375, 1242), 250, np.uint16)
    levels[:100] = 65535
    levels[200, 600] = 9000
    Image.fromarray(levels).save(frames / "depth" / "Camera_0" / "depth_00000.png")
    sample = open_vkitti(tmp_path).read(0)
    assert sample.depth.shape == (352, 1216)
    assert sample.depth[300, 5] == 2.5
    assert sample.sky[:77].all()
    assert not sample.sky[77:].any()
    assert not sample.valid[200 - 23, 600 - 13]  # beyond 80 m


def write_png(path: Path, levels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(levels).save(path)


def write_processed(root: Path, scene: str, *, millimeters: int) -> None:
    for frame in range(2):
        name = f"cam_00_fr{frame:04d}.png"
        write_png(root / scene / f"rgb_{name}", np.full((48, 64, 3), 90, np.uint8))
        write_png(root / scene / f"depth_plane_{name}", np.full((48, 64), millimeters, np.uint16))


def tar_of(folder: Path) -> Path:
    with tarfile.open(folder.with_suffix(".tar"), "w") as tar:
        tar.add(folder, arcname=".")
    return folder.with_suffix(".tar")


@pytest.mark.parametrize("packed", [False, True])
def test_hypersim_as_marigolds_authors_process_it_is_read(tmp_path: Path, packed: bool) -> None:
    root = tmp_path / "processed"
    write_processed(root, "ai_001_001", millimeters=2500)
    write_processed(root, "ai_001_002", millimeters=65001)  # beyond 65 m: unknown
    first = root / "ai_001_002" / "depth_plane_cam_00_fr0000.png"
    write_png(first, np.where(np.arange(64) < 32, 1500, 65001).astype(np.uint16)[None].repeat(48, 0))
    (root / "ai_001_002" / "rgb_cam_00_fr0001.png").unlink()
    place = tar_of(root) if packed else root
    source = open_hypersim(place)
    assert [photo for photo, _ in source.pairs] == [
        "ai_001_001/rgb_cam_00_fr0000.png",
        "ai_001_001/rgb_cam_00_fr0001.png",
        "ai_001_002/rgb_cam_00_fr0000.png",
    ]
    assert (source.read(0).depth == 2.5).all()
    assert np.array_equal(source.read(2).valid, np.broadcast_to(np.arange(64) < 32, (48, 64)))
    listed = tmp_path / "list.txt"
    listed.write_text("ai_001_002/rgb_cam_00_fr0000.png ai_001_002/depth_plane_cam_00_fr0000.png\n")
    data, _ = open_data(f"hypersim:{place}:{listed}@0.9", **scenes(tmp_path))
    assert data.sources[0].read(0).depth[0, 0] == 1.5
    listed.write_text("ai_001_009/rgb_cam_00_fr0000.png ai_001_009/depth_plane_cam_00_fr0000.png\n")
    with pytest.raises(DataError, match="ai_001_009"):
        open_hypersim(place, listed)


def test_training_and_validation_scenes_are_those_of_the_authors(tmp_path: Path) -> None:
    write_processed(tmp_path / "processed" / "train", "ai_001_001", millimeters=2000)
    write_processed(tmp_path / "processed" / "val", "ai_003_001", millimeters=3000)
    training, validation = open_hypersim(tmp_path / "processed").split()
    assert (training.count, validation.count) == (2, 2)
    assert (training.read(0).depth[0, 0], validation.read(0).depth[0, 0]) == (2, 3)

    raw = tmp_path / "raw"
    write_hypersim(raw, "ai_001_002")
    write_hypersim(raw, "ai_001_003")
    write_hypersim(raw, "ai_001_004")
    (raw / "metadata_images_split_scene_v1.csv").write_text(
        "scene_name,camera_name,frame_id,included_in_public_release,exclude_reason,split_partition_name\n"
        "ai_001_002,cam_00,7,True,,train\nai_001_003,cam_00,7,True,,val\nai_001_004,cam_00,7,False,x,train\n"
    )
    training, validation = open_hypersim(raw).split()
    assert [[photo[:10] for photo, _ in part.pairs] for part in (training, validation)] == [
        ["ai_001_002"],
        ["ai_001_003"],
    ]


@pytest.mark.parametrize("roots", [("rgb", "depth"), ("vkitti_2.0.3_rgb", "vkitti_2.0.3_depth"), ("", "")])
@pytest.mark.parametrize("packed", [False, True])
def test_virtual_kitti_is_read_from_one_root_or_two(
    tmp_path: Path, roots: tuple[str, str], packed: bool
) -> None:
    for number, scene in enumerate(("Scene01", "Scene02", "Scene20")):
        for root, kind in zip(roots, ("rgb", "depth"), strict=True):
            frames = tmp_path / "v" / root / scene / "fog" / "frames" / kind / "Camera_1"
            if kind == "rgb":
                write_png(frames / "rgb_00003.jpg", np.zeros((375, 1242, 3), np.uint8))
            else:
                write_png(frames / "depth_00003.png", np.full((375, 1242), 100 + number, np.uint16))
    training, validation = open_vkitti(tar_of(tmp_path / "v") if packed else tmp_path / "v").split()
    read = [[float(part.read(i).depth[0, 0]) for i in range(part.count)] for part in (training, validation)]
    assert read == [[pytest.approx(1.01), pytest.approx(1.02)], [pytest.approx(1.0)]]


def test_a_mixture_keeps_its_shares(tmp_path: Path) -> None:
    for root in ("a", "b"):
        write_pair(tmp_path / root, "photo")
    data, _ = open_data(f"pairs:{tmp_path}/a@0.9,pairs:{tmp_path}/b@0.1", **scenes(tmp_path))
    rng = np.random.default_rng(0)
    drawn = np.mean([data.choose(rng) for _ in range(2000)])
    assert drawn == pytest.approx(0.1, abs=0.03)


def test_some_pairs_are_held_out_of_training() -> None:
    pairs = tuple((f"{i}", f"{i}") for i in range(100))
    source = FolderSource(files=DataFiles(Path()), pairs=pairs, read_depth=read_any_depth)
    training, validation = source.split()
    assert len(validation.pairs) == 5
    assert not set(training.pairs) & set(validation.pairs)
    assert set(training.pairs) | set(validation.pairs) == set(source.pairs)


@pytest.mark.parametrize("opener", [open_pairs, open_hypersim, open_vkitti])
def test_a_folder_that_is_missing_or_empty_is_told_its_layout(opener, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(DataError, match="expected"):
        opener(tmp_path / "missing")
    with pytest.raises(DataError, match="expected"):
        opener(tmp_path)


def test_a_photo_without_depth_is_named(tmp_path: Path) -> None:
    write_pair(tmp_path, "one")
    (tmp_path / "depth" / "one.npy").unlink()
    with pytest.raises(DataError, match=r"one\.jpg has no depth"):
        open_pairs(tmp_path)


@pytest.mark.parametrize(
    ("depth", "told"),
    [
        (np.ones((5, 5), np.float32), "must have one size"),
        (np.full((24, 32), np.nan, np.float32), "no depth that is known"),
        (np.ones((24, 32, 3), np.float32), "must be"),
    ],
)
def test_depth_that_cannot_be_used_is_named_before_training(
    tmp_path: Path, depth: np.ndarray, told: str
) -> None:
    for name in ("a", "b", "one", "two"):
        write_pair(tmp_path, name)
    np.save(tmp_path / "depth" / "one.npy", depth)
    with pytest.raises(DataError, match=told) as error:
        open_pairs(tmp_path)
    assert "one" in str(error.value)


def test_a_frame_without_depth_is_skipped_counted_and_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(120):
        write_pair(tmp_path, f"{number:03d}", size=(8, 8))
    source = open_pairs(tmp_path)
    np.save(tmp_path / "depth" / "007.npy", np.zeros((8, 8), np.float32))
    plan = BatchPlan(data=Mixture((source,), (1.0,)), size=64, shapes=((8, 8),), fresh=1, seed=0)
    batches = [make_batch(plan, number) for number in range(8)]  # 512 draws of 120 pairs
    assert all(batch.valid.all() for batch in batches)
    assert source.unusable == {"rgb/007.jpg"}
    assert [record.getMessage() for record in caplog.records] == [
        f"Skipped, 1 of 120 pairs so far: {tmp_path / 'depth' / '007.npy'} holds no depth that is known"
        " (finite and above 0); leave this pair out."
    ]
    assert np.array_equal(make_batch(plan, 3).photo, batches[3].photo)  # the same number, the same batch
    (tmp_path / "depth" / "050.npy").write_bytes(b"cut off")
    with pytest.raises(DataError, match=r"2 of 120 pairs cannot be used; at most 1%"):
        for number in range(8, 40):
            make_batch(plan, number)


def test_a_few_frames_without_depth_do_not_keep_a_large_folder_from_opening(tmp_path: Path) -> None:
    for number in range(120):
        write_pair(tmp_path, f"{number:03d}", size=(8, 8))
    np.save(tmp_path / "depth" / "007.npy", np.zeros((8, 8), np.float32))
    assert len(open_pairs(tmp_path).unusable) == 1
    np.save(tmp_path / "depth" / "008.npy", np.zeros((8, 8), np.float32))
    with pytest.raises(DataError, match=r"00[78]\.npy holds no depth .* 2 of 120"):
        open_pairs(tmp_path)


def test_of_a_large_folder_pairs_from_all_over_are_read_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = []
    monkeypatch.setattr(FolderSource, "read", lambda self, index: read.append(index))
    monkeypatch.setattr("marigold_demo.training.data.MOST_READ_FIRST", 4)
    for number in range(10):
        write_pair(tmp_path, f"{number}")
    open_pairs(tmp_path)
    assert sorted(read) == [0, 3, 6, 9]


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    write_pair(tmp_path, "one")
    (tmp_path / "depth" / "one.npy").write_bytes(b"\x93NUMPY")
    with pytest.raises(DataError, match=r"one\.npy"):
        open_pairs(tmp_path)


@pytest.mark.parametrize("text", ["nothing", "pairs", "books:/x", "scenes@0"])
def test_data_that_is_not_known_is_refused(text: str, tmp_path: Path) -> None:
    with pytest.raises(DataError):
        open_data(text, **scenes(tmp_path))
