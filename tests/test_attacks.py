"""The attack suite: it attacks nothing but this machine, and its files are read up to where they do harm."""

import io
import subprocess
import sys
from argparse import ArgumentTypeError

import numpy as np
import pillow_heif
import pytest
from PIL import Image

from benchmarks import hostile_files as hostile
from benchmarks.attack_target import Target, checked, picture
from benchmarks.attack_watch import ATTACKS, SECTIONS, Outcome, judged
from benchmarks.attacks import shown
from tests.pages import ROOT

EXIF = hostile.exif_pointers(size=5_000, tags=5)


@pytest.mark.parametrize(
    "url",
    [
        "http://192.0.2.1:7860",
        "https://127.0.0.1",
        "example.org",
        "http://127.0.0.1.example.org",
        "http://[",
        "",
    ],
)
def test_only_servers_on_this_machine_are_attacked(url):
    with pytest.raises(ArgumentTypeError, match="only servers on loopback"):
        checked(url)


@pytest.mark.parametrize(
    ("url", "used"),
    [
        ("127.0.0.1:7860", "http://127.0.0.1:7860"),
        ("http://localhost:7860/", "http://127.0.0.1:7860"),
        ("http://[::1]:7860", "http://[::1]:7860"),
        ("http://127.0.0.9", "http://127.0.0.9:80"),
    ],
)
def test_addresses_of_loopback_are_taken(url, used):
    assert checked(url) == used


def test_the_program_refuses_an_address_elsewhere_and_lists_what_it_does():
    def run(*words):
        return subprocess.run(
            [sys.executable, "-m", "benchmarks.attacks", *words], cwd=ROOT, capture_output=True, text=True
        )

    refused = run("http://192.0.2.1")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "only servers on loopback" in refused.stderr and "Traceback" not in refused.stderr
    listed = run("--list").stdout.splitlines()
    assert len(listed) == len(ATTACKS) > 40
    assert {each.section for each in ATTACKS.values()} == set(SECTIONS)


def test_visitors_have_addresses_of_their_own():
    sources = [Target("http://127.0.0.1:1").source(number) for number in range(1, 600)]
    assert len(set(sources)) == len(sources)
    assert all(source.startswith("127.") and not source.endswith((".0", ".255")) for source in sources)
    assert Target("http://[::1]:1").source(5) is None


def test_an_outcome_holds_where_there_is_no_fault():
    assert judged([], "all refused") == Outcome(True, "all refused")
    assert judged(["a", "a", "b"], "all refused") == Outcome(False, "a; b")
    assert "BROKEN" in shown("markup", Outcome(False, "silent"), took_s=3)
    assert "skipped" in shown("markup", Outcome(None, "needs a server"), took_s=0)


@pytest.mark.parametrize(
    ("data", "kind", "size", "frames"),
    [
        (hostile.tiff_pointers(size=10_000, tags=5), "TIFF", (64, 64), 1),
        (hostile.tiff_pages(pages=3), "TIFF", (64, 64), 3),
        (hostile.tiff_floats(side=100), "TIFF", (100, 100), 1),
        (hostile.jpeg_scans(side=64, size=5_000), "JPEG", (64, 64), 1),
        (hostile.gif_comments(size=10_000), "GIF", (64, 64), 1),
        (hostile.gif_frames(frames=5), "GIF", (64, 64), 5),
        (hostile.png_empty_chunks(chunks=9), "PNG", (64, 64), 1),
    ],
    ids=[
        "tiff-pointers",
        "tiff-pages",
        "tiff-floats",
        "jpeg-scans",
        "gif-comments",
        "gif-frames",
        "png-chunks",
    ],
)
def test_small_ones_of_the_hostile_pictures_are_pictures(data, kind, size, frames):
    with Image.open(io.BytesIO(data)) as image:
        image.load()
        assert (image.format, image.size, getattr(image, "n_frames", 1)) == (kind, size, frames)


def test_all_tags_point_at_the_same_bytes():
    with Image.open(io.BytesIO(hostile.tiff_pointers(size=10_000, tags=5))) as image:
        assert sum(len(value) for value in image.tag_v2.values() if isinstance(value, bytes)) == 5 * 9_992


@pytest.mark.parametrize(
    "data",
    [
        hostile.exif_in_jpeg(EXIF),
        hostile.exif_in_png(EXIF),
        *(hostile.exif_in(kind, EXIF) for kind in ("WEBP", "AVIF", "HEIF")),
    ],
    ids=["jpeg", "png", "webp", "avif", "heif"],
)
def test_readers_find_the_exif_in_each_format(data):
    pillow_heif.register_heif_opener()
    with Image.open(io.BytesIO(data)) as image:
        exif = image.getexif()
        assert len(exif) == 6
        assert sum(len(value) for value in exif.values() if isinstance(value, bytes)) > 5 * 4_000


def test_the_scans_of_a_jpeg_are_all_read():
    def scans(data):
        return data.count(b"\xff\xda")

    data = hostile.jpeg_scans(side=64, size=5_000)
    assert scans(data) > 100
    assert scans(hostile.jpeg_scans()) > 5_000
    with Image.open(io.BytesIO(data)) as image:
        assert len(np.unique(np.asarray(image))) == 1


def test_pictures_of_the_bystander_are_ordinary_and_differ():
    assert picture(1) != picture(2)
    with Image.open(io.BytesIO(picture(3, size=(300, 200), kind="JPEG"))) as image:
        assert image.size == (300, 200)
