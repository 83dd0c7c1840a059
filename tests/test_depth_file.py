import io
import pickle
import resource
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from marigold_demo.depth import DepthMap
from marigold_demo.errors import DepthFileError
from marigold_demo.io.depth_file import depth_form, read_depth_file


def depth_in(path: Path) -> DepthMap:
    return read_depth_file(path).depth


def ramp(height: int = 20, width: int = 30) -> np.ndarray:
    """Depth that differs in every pixel and covers [0, 1], far at the top: float64 [H, W]."""
    return np.linspace(1, 0, height * width).reshape(height, width)


def npy(folder: Path, array: np.ndarray, name: str = "depth.npy", **options: object) -> Path:
    path = folder / name
    np.save(path, array, **options)
    return path


def png(folder: Path, array: np.ndarray) -> Path:
    path = folder / "depth.png"
    Image.fromarray(array).save(path)
    return path


@pytest.mark.parametrize("kind", ["<f2", "<f4", "<f8", ">f4", ">f8"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_floats_in_0_1_are_taken_as_they_are(tmp_path, kind, order):
    stored = np.asarray(0.2 + 0.5 * ramp(), dtype=kind, order=order)
    read = read_depth_file(npy(tmp_path, stored))
    np.testing.assert_allclose(read.depth.values, stored.astype(np.float32), atol=1e-7)
    assert read.notes == () and read.depth.uncertainty is None


def test_sixteen_bits_come_back_within_half_a_step(tmp_path):
    levels = np.round(ramp() * 65535).astype(np.uint16)
    for path in (png(tmp_path, levels), npy(tmp_path, levels)):
        np.testing.assert_allclose(depth_in(path).values, ramp(), atol=0.5 / 65535 + 1e-7)
        assert depth_form(path) is not None


def test_eight_bits_are_taken_with_a_word_about_stairs(tmp_path):
    read = read_depth_file(png(tmp_path, np.round(ramp() * 255).astype(np.uint8)))
    np.testing.assert_allclose(read.depth.values, ramp(), atol=0.5 / 255 + 1e-7)
    assert "256 levels" in read.notes[0] and "black near" in read.notes[1]


@given(scale=st.floats(2, 1e30), shift=st.floats(-1e30, 1e30))
@settings(max_examples=30)
def test_any_other_range_becomes_0_to_1(tmp_path_factory, scale, shift):
    stored = scale * ramp() + shift
    if np.unique(stored).size < stored.size or (stored.min() >= 0 and stored.max() <= 1):
        return
    read = read_depth_file(npy(tmp_path_factory.mktemp("range"), stored))
    np.testing.assert_allclose(read.depth.values, (stored - stored[-1, -1]) / np.ptp(stored), atol=1e-5)
    assert "rescaled" in read.notes[0]


def test_the_largest_floats_do_not_overflow(tmp_path):
    values = depth_in(npy(tmp_path, np.where(ramp() > 0.5, 1.7e308, -1.7e308))).values
    assert set(np.unique(values)) == {0.0, 1.0}


def test_a_constant_depth_beyond_1_is_flat(tmp_path):
    assert (depth_in(npy(tmp_path, np.full((20, 30), 7.0))).values == 0).all()


@pytest.mark.parametrize("hole", [np.nan, -np.inf])
def test_holes_take_the_value_of_their_nearest_neighbor(tmp_path, hole):
    stored = ramp()
    stored[:, :3] = hole  # a strip along a side, as depth cameras leave it, is no sky
    read = read_depth_file(npy(tmp_path, stored))
    np.testing.assert_allclose(read.depth.values[:, :3], stored[:, [3] * 3], atol=1e-6)
    np.testing.assert_allclose(read.depth.values[:, 3:], stored[:, 3:], atol=1e-6)
    assert "10.0%" in read.notes[0] and "nearest neighbors" in read.notes[0]


def test_an_npz_may_tell_uncertainty_and_what_is_valid(tmp_path):
    path, valid = tmp_path / "depth.npz", np.ones((20, 30), dtype=bool)
    valid[3, 4] = False
    depth = np.where(valid, 10 * ramp() + 5, -999)
    np.savez_compressed(path, depth=depth, uncertainty=np.full((20, 30), 0.5), valid=valid)
    read = depth_in(path)
    np.testing.assert_allclose(read.values[valid], ramp()[valid], atol=1e-6)
    np.testing.assert_allclose(read.uncertainty, 0.05, rtol=1e-5)  # rescaled with the depth


def test_a_single_array_of_an_npz_is_the_depth_whatever_its_name(tmp_path):
    np.savez(tmp_path / "one.npz", ramp())
    np.testing.assert_allclose(depth_in(tmp_path / "one.npz").values, ramp(), atol=1e-7)


@pytest.mark.parametrize("shape", [(1, 20, 30), (20, 30, 1), (1, 20, 30, 1)])
def test_axes_of_one_are_left_out(tmp_path, shape):
    np.testing.assert_allclose(depth_in(npy(tmp_path, ramp().reshape(shape))).values, ramp(), atol=1e-7)


@pytest.mark.parametrize(
    ("array", "reason"),
    [
        (np.zeros((2, 4, 20, 30)), r"\[height, width\]"),
        (np.zeros((20, 30, 2)), r"\[height, width\]"),
        (np.eye(3)[np.indices((20, 30))[1] % 3], "colors"),
        (np.zeros(600), r"\[height, width\]"),
        (np.zeros((20, 30), dtype=complex), "plain numbers"),
        (np.zeros((20, 30), dtype="U5"), "plain numbers"),
        (np.zeros((20, 30), dtype=[("a", "f4")]), "plain numbers"),
        (np.zeros((15, 15)), "too small"),
        (np.zeros((20, 401)), "too narrow"),
        (np.zeros((0, 30)), "too (small|narrow)"),
        (np.full((20, 30), np.nan), "no valid pixel"),
    ],
)
def test_arrays_that_are_no_depth_are_refused(tmp_path, array, reason):
    with pytest.raises(DepthFileError, match=reason):
        depth_in(npy(tmp_path, array))


class Bomb:
    """Unpickling this fails the test."""

    def __reduce__(self):
        return pytest.fail, ("a pickle was opened",)


def test_pickles_are_refused_unopened(tmp_path):
    path = npy(tmp_path, np.array([[Bomb()] * 20] * 20, dtype=object), allow_pickle=True)
    with pytest.raises(DepthFileError, match="plain numbers"):
        depth_in(path)
    np.savez(tmp_path / "bomb.npz", depth=np.array([[Bomb()] * 20] * 20, dtype=object), allow_pickle=True)
    with pytest.raises(DepthFileError):
        depth_in(tmp_path / "bomb.npz")
    (tmp_path / "bare.npy").write_bytes(pickle.dumps([1, 2]))
    with pytest.raises(DepthFileError, match="not a depth file"):
        depth_in(tmp_path / "bare.npy")


def npy_header(shape: str, kind: str = "<f8") -> bytes:
    header = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}".encode().ljust(118)
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header


@pytest.mark.parametrize(
    ("shape", "reason"),
    [("(100000, 100000)", "too large"), ("(5000, 5000)", "incomplete"), ("(20, 30)", "incomplete")],
)
def test_announced_sizes_are_checked_before_anything_is_allocated(tmp_path, shape, reason):
    path = tmp_path / "announced.npy"
    path.write_bytes(npy_header(shape) + bytes(80))
    with zipfile.ZipFile(tmp_path / "announced.npz", "w") as archive:
        archive.writestr("depth.npy", path.read_bytes())
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for name in ("announced.npy", "announced.npz"):
        with pytest.raises(DepthFileError, match=reason):
            depth_in(tmp_path / name)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20_000  # KB


def test_headers_are_read_and_never_evaluated(tmp_path):
    path = tmp_path / "evil.npy"
    path.write_bytes(npy_header("__import__('os').abort()"))
    with pytest.raises(DepthFileError, match="damaged"):
        depth_in(path)


def test_arrays_of_one_archive_must_be_of_one_size(tmp_path):
    np.savez(tmp_path / "two.npz", depth=ramp(), valid=np.ones((20, 31), dtype=bool))
    with pytest.raises(DepthFileError, match="30 × 20, valid 31 × 20"):
        depth_in(tmp_path / "two.npz")


def test_pictures_with_colors_are_no_depth(tmp_path):
    color = png(tmp_path, np.arange(20 * 30 * 3, dtype=np.uint8).reshape(20, 30, 3))
    assert depth_form(color) is None
    with pytest.raises(DepthFileError, match="not gray"):
        depth_in(color)
    Image.new("L", (30, 20)).save(tmp_path / "gray.jpg")
    assert depth_form(tmp_path / "gray.jpg") is None


@pytest.mark.parametrize(
    "content", [b"", b"\x93NUMPY", b"\x93NUMPY\x01\x00", b"PK\x03\x04", b"\x89PNG\r\n\x1a\n", b"x"]
)
def test_what_is_cut_off_is_refused(tmp_path, content):
    path = tmp_path / "depth.npy"
    path.write_bytes(content)
    with pytest.raises(DepthFileError):
        depth_in(path)


def test_what_is_not_there_is_no_depth_file(tmp_path):
    assert depth_form(tmp_path / "missing.npy") is None and depth_form(tmp_path) is None
    with pytest.raises(DepthFileError, match="no such file"):
        depth_in(tmp_path / "missing.npy")


def test_negative_uncertainty_is_refused(tmp_path):
    np.savez(tmp_path / "odd.npz", depth=ramp(), uncertainty=-ramp())
    with pytest.raises(DepthFileError, match="uncertainty"):
        depth_in(tmp_path / "odd.npz")


def test_files_of_our_own_come_back(tmp_path):
    from marigold_demo.depth import DepthMap
    from marigold_demo.io import export

    depth = DepthMap(ramp().astype(np.float32))
    (tmp_path / "a.npy").write_bytes(export.depth_npy(depth))
    (tmp_path / "a.png").write_bytes(export.depth_png16(depth))
    np.testing.assert_array_equal(depth_in(tmp_path / "a.npy").values, depth.values)
    np.testing.assert_array_equal(depth_in(tmp_path / "a.png").to_uint16(), depth.to_uint16())
    assert np.load(io.BytesIO(export.depth_npy(depth))).dtype == np.float32
