"""Files decoded in processes of their own: the same results, and what goes wrong there stays there."""

import io
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pillow_heif
import psutil
import pytest
from PIL import Image

from marigold_demo.errors import PhotoError
from marigold_demo.io import depth_file, export, isolated, photo
from marigold_demo.io.isolated import Decoder, Limits
from marigold_demo.recipe import Recipe, load_recipe
from marigold_demo.settings import ReliefSettings
from tests.conftest import make_photo

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="there are no such processes here")


# -- the same results --------------------------------------------------------------------------------


def pictures() -> dict[str, bytes]:
    """Return the same picture in all formats, some with EXIF, transparency or compression."""
    image = Image.fromarray(make_photo(60, 80).rgb)
    exif = Image.Exif()
    exif[0x0112] = 6
    exif.get_ifd(0x8769)[0xA405] = 28
    found = {}
    for kind in ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "PPM", "JPEG2000", "AVIF"):
        data = io.BytesIO()
        image.save(data, kind, **({"exif": exif} if kind in ("JPEG", "WEBP", "PNG", "TIFF") else {}))
        found[kind.lower()] = data.getvalue()
    data = io.BytesIO()
    pillow_heif.from_pillow(image).save(data)
    rgba, lzw = io.BytesIO(), io.BytesIO()
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    image.save(rgba, "PNG")
    image.convert("L").save(lzw, "TIFF", compression="tiff_lzw")
    return found | {"heif": data.getvalue(), "rgba": rgba.getvalue(), "lzw": lzw.getvalue()}


@pytest.mark.parametrize("kind", pictures())
def test_a_photo_is_the_same_as_without_a_process(tmp_path, kind):
    path = tmp_path / f"summer {kind}.x"
    path.write_bytes(pictures()[kind])
    here, there = photo.load_photo(path), isolated.load_photo(path)
    assert (there.digest, there.stem, there.notes) == (here.digest, here.stem, here.notes)
    assert there.fov_deg == here.fov_deg
    np.testing.assert_equal(there.alpha, here.alpha)
    assert not there.rgb.flags.writeable


def test_depth_files_are_the_same_as_without_a_process(tmp_path):
    values = np.random.default_rng(0).random((20, 30), np.float32)
    np.save(tmp_path / "a.npy", values * 7)
    np.savez_compressed(tmp_path / "b.npz", depth=values, uncertainty=values, valid=values > 0.1)
    Image.fromarray((values * 65535).astype(np.uint16)).save(tmp_path / "c.png")
    for path in sorted(tmp_path.iterdir()):
        here, there = depth_file.read_depth_file(path), isolated.read_depth_file(path)
        np.testing.assert_array_equal(there.depth.values, here.depth.values)
        np.testing.assert_equal(there.depth.uncertainty, here.depth.uncertainty)
        assert there.notes == here.notes


def test_recipes_are_the_same_as_without_a_process(tmp_path):
    recipe = Recipe(photo="0" * 64, relief=ReliefSettings(width_mm=77))
    (tmp_path / "a.json").write_text(recipe.to_json())
    (tmp_path / "b.png").write_bytes(export.png(make_photo(20, 20).rgb, recipe=recipe))
    for path in sorted(tmp_path.iterdir()):
        assert isolated.load_recipe(path) == load_recipe(path) == recipe


@pytest.mark.parametrize("data", [b"", b"words", b"\xff\xd8\xff\xe0 cut", b"<svg/>"])
def test_a_refusal_is_the_same_sentence(tmp_path, data):
    path = tmp_path / "photo.jpg"
    path.write_bytes(data)
    with pytest.raises(PhotoError) as here:
        photo.load_photo(path)
    with pytest.raises(PhotoError) as there:
        isolated.load_photo(path)
    assert str(there.value) == str(here.value)


# -- whatever happens there --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def decoder():
    """A decoder whose files say how their decoding fails (tests/decode_server.py)."""
    limits = Limits(processes=4, seconds=3, memory_bytes=700_000_000)
    decoder = Decoder(limits, server="tests.decode_server")
    yield decoder
    decoder.close()


def server_process() -> psutil.Process:
    """Return the server process that was started last."""
    return [p for p in psutil.Process().children() if "tests.decode_server" in p.cmdline()][-1]


@pytest.fixture
def decode(decoder, tmp_path):
    def decode(what: str, *, visitor: str | None = None):
        path = tmp_path / f"{threading.get_ident()}"
        path.write_text(what)
        with path.open("rb") as file:
            return decoder.decode("photo", file, dict, visitor=visitor, name="")

    return decode


@pytest.mark.parametrize(
    ("what", "sentence"),
    [
        ("crash", "made its decoder fail"),
        ("exit", "made its decoder fail"),
        ("sleep 60", "takes more than 3 s"),
        ("spin", "takes more than 3 s"),
        ("grow", "needs more than 0.7 GB of memory"),
        ("bug", "could not be read, which has been noted"),
    ],
)
def test_a_decoder_that_fails_costs_its_own_file_one_sentence(decode, what, sentence, caplog):
    with pytest.raises(PhotoError, match=sentence) as refused:
        decode(what)
    assert "save it as JPEG or PNG" in str(refused.value) and "secret" not in str(refused.value) + caplog.text
    assert decode("work")["rgb"][0, 0, 0] == 7


def test_a_file_that_waits_for_a_busy_processor_gets_its_time(tmp_path):
    limit, cpu = Limits(processes=1, seconds=3, memory_bytes=700_000_000), min(os.sched_getaffinity(0))
    decoder = Decoder(limit, server="tests.decode_server")
    busy = [
        subprocess.Popen([sys.executable, "-c", "while True: pass"], start_new_session=True) for _ in range(2)
    ]
    try:
        decoder.start()
        for process in [server_process(), *(psutil.Process(one.pid) for one in busy)]:
            process.cpu_affinity([cpu])
        (tmp_path / "x").write_text("spin 1.05")
        with (tmp_path / "x").open("rb") as file:
            assert decoder.decode("photo", file, dict, name="")["rgb"][0, 0, 0] == 7
    finally:
        for one in busy:
            one.kill()
            one.wait()
        decoder.close()


def test_no_process_is_left_behind(decoder, decode):
    with pytest.raises(PhotoError):
        decode("spin")
    decode("work")
    server = server_process()
    for _ in range(100):
        if not server.children():
            break
        time.sleep(0.05)
    assert server.children() == [] and server.num_threads() == 1


def test_a_server_process_that_was_killed_is_started_again(decoder, decode):
    decode("work")
    server = server_process()
    with ThreadPoolExecutor() as hands:
        lost = hands.submit(decode, "sleep 2")
        while not server.children():
            time.sleep(0.01)
        children = server.children()
        server.send_signal(signal.SIGKILL)
        with pytest.raises(PhotoError, match="made its decoder fail"):
            lost.result()
    assert decode("work")["rgb"][0, 0, 0] == 7
    _, alive = psutil.wait_procs(children, timeout=10)
    assert alive == []


@pytest.mark.parametrize(
    "deed",
    [
        "open('/etc/passwd')",
        "os.listdir('/proc/self/fd')",
        "socket.socket()",
        "os.kill(os.getppid(), 0)",
        "os.fork()",
        "os.execv('/bin/true', ['true'])",
        "open(f'/proc/{os.getppid()}/mem', 'rb')",
        "os.memfd_create('more')",
    ],
)
def test_a_decoder_that_was_taken_over_reaches_nothing(decode, deed):
    said = f"try:\n    {deed}\nexcept OSError as error:\n    assert error.errno == 1\nelse:\n    os._exit(1)"
    assert decode(f"try {said}")["rgb"][0, 0, 0] == 7


def test_a_decoder_that_was_taken_over_cannot_lift_its_limits(decode):
    said = "try: resource.setrlimit(0, (99, 99))\nexcept ValueError: pass\nelse: os._exit(1)"
    assert decode(f"try {said}")["rgb"][0, 0, 0] == 7


def test_a_decoder_holds_no_descriptor_but_its_file_and_its_answer(decode):
    said = """try for n in range(3, 300):
    try: os.lseek(n, 0, 1)
    except OSError as error: assert error.errno == (29 if n == 101 else 9)
    else: assert n in (3, 100)"""
    assert decode(said)["rgb"][0, 0, 0] == 7


@pytest.mark.parametrize(
    "answer",
    [
        "[1, 2]",
        "{'rgb': {'array': 0, 'shape': [10**6, 10**6, 3], 'dtype': 'uint8'}}",
        "{'rgb': {'array': 0, 'shape': [16, 16, 3], 'dtype': 'uint8'}}",
        "{'rgb': {'array': 0, 'shape': [-1], 'dtype': 'uint8'}}",
        "{'rgb': {'array': 0, 'shape': ['x'], 'dtype': 'object'}}",
        "[[[[]] * 99] * 99]",
        "'x' * 70000",
    ],
)
def test_answers_that_no_decoder_gives_are_refused(decode, answer):
    with pytest.raises(PhotoError, match=r"could not be read|made its decoder fail"):
        decode(f"send {answer}")


@pytest.fixture
def odd_server():
    isolated.use(Limits(), server="tests.decode_server")
    yield
    isolated.use(Limits())


@pytest.mark.usefixtures("odd_server")
def test_an_answer_with_strange_fields_is_refused(tmp_path):
    for fields in ("{}", "{'rgb': 1}", "{'rgb': np.zeros((2, 2), np.uint8)}", "{'colour': 'red'}"):
        (tmp_path / "x.jpg").write_text(f"send {fields}")
        with pytest.raises(PhotoError, match="could not be read"):
            isolated.load_photo(tmp_path / "x.jpg")


def test_one_visitor_cannot_keep_the_others_waiting(decode):
    with ThreadPoolExecutor(8) as hands:
        slow = [hands.submit(decode, "sleep 2", visitor="greedy") for _ in range(4)]
        time.sleep(0.5)
        with pytest.raises(PhotoError, match="Several of your files are still being read"):
            decode("work", visitor="greedy")
        began_s = time.monotonic()
        for _ in range(3):
            assert decode("work", visitor="other")["rgb"][0, 0, 0] == 7
        assert time.monotonic() - began_s < 1
        assert all(one.result()["rgb"][0, 0, 0] == 7 for one in slow)


def test_only_harmless_variables_reach_the_server_process(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "secret")
    decoder = Decoder(server="tests.decode_server")
    decoder.start()
    try:
        server = server_process()
        names = set(server.environ())
        assert "HF_TOKEN" not in names and "OPENBLAS_NUM_THREADS" in names
    finally:
        decoder.close()
