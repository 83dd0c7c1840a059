"""Odd files come in by three doors: page, endpoint and command line. All answer alike."""

import html
import io
import re
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from PIL import Image

from marigold_demo.cli.main import main
from marigold_demo.errors import PhotoError
from marigold_demo.io.photo import load_photo
from marigold_demo.ui.session_store import SessionStore
from marigold_demo.workflow import Workflow
from tests.pages import LENIENT, Ball, make_tabs, served
from tests.test_odd_images import ODD, TABLE

pytestmark = [pytest.mark.slow, LENIENT]


def encoded(image: Image.Image, kind: str, **how: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **how)
    return buffer.getvalue()


def card(size: tuple[int, int] = (96, 64)) -> Image.Image:
    x, y = np.meshgrid(np.linspace(0, 255, size[0]), np.linspace(0, 255, size[1]))
    return Image.fromarray(np.stack([x, y, 255 - x], axis=2).astype(np.uint8))


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def turned() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


JPEG, PNG = encoded(card(), "JPEG"), encoded(card(), "PNG")
BOMB = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 30000, 30000, 1, 0, 0, 0, 0))
# Name -> bytes, and the upright size of what is taken; None for what is refused.
MADE: dict[str, tuple[bytes, tuple[int, int] | None]] = {
    "lying.jpg": (encoded(card(), "JPEG", exif=turned()), (64, 96)),
    "ghost.png": (encoded(Image.new("RGBA", (96, 64), (255, 0, 255, 0)), "PNG"), (96, 64)),
    "inks.jpg": (encoded(card().convert("CMYK"), "JPEG"), (96, 64)),
    "deep.png": (encoded(Image.fromarray(np.full((64, 96), 40000, np.uint16)), "PNG"), (96, 64)),
    "spaces, ünï 'q' & 日本.jpg": (JPEG, (96, 64)),
    "empty.png": (b"", None),
    "story.jpg": (b"%PDF-1.7 once upon a time", None),
    "drawing.svg": (b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>', None),
    "bomb.png": (BOMB + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b""), None),
    "damaged.png": (PNG[:60] + bytes(40) + PNG[100:], None),
    "words.md": (b"not a picture at all", None),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("doors")


@pytest.fixture(scope="module")
def doors(folder):
    """A served page's client, and a store for its handler."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(folder / "cache"))
        with served(Ball(steps=1)) as url:
            client = Client(url, verbose=False, download_files=str(folder / "downloads"))
            yield client, SessionStore(Workflow(Ball(steps=1)))


def by_loader(path: Path) -> tuple[tuple[int, int] | None, str]:
    try:
        return load_photo(path).size, ""
    except PhotoError as refusal:
        return None, str(refusal)


def by_endpoint(client: Client, path: Path) -> tuple[tuple[int, int] | None, str]:
    try:
        npy, *_ = client.predict(handle_file(path), api_name="/depth")
    except AppError as refusal:
        return None, str(refusal)
    height, width = np.load(npy).shape
    return (width, height), ""


def by_command(
    path: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> tuple[tuple[int, int] | None, str]:
    status = main(["depth", "--out", str(out), "--", str(path)], predict=Ball(steps=1))
    said = capsys.readouterr()
    assert "Traceback" not in said.err
    if status == 0:
        height, width = np.load(said.out.splitlines()[0]).shape
        return (width, height), ""
    assert status == 2 and said.out == ""
    [sentence] = said.err.splitlines()
    return None, sentence


def by_page(store: SessionStore, path: Path) -> tuple[tuple[int, int] | None, str]:
    photo = make_tabs(store).photo
    said = photo.take_file({"path": str(path)}, '{"as": "photo"}', True, None)
    if photo.key in said:
        return store.photo(said[photo.key]).size, ""
    return None, html.unescape(re.search("<span>(.*)</span>", said[photo.status])[1])


def check_all_doors(path: Path, doors, tmp_path, capsys) -> tuple[int, int] | None:
    """Bring one file in by all doors, which must answer alike; return its size, None where it is refused."""
    client, store = doors
    size, sentence = by_loader(path)
    assert by_page(store, path) == (size, sentence)
    assert by_command(path, tmp_path / "out", capsys) == (
        size,
        f"marigold-demo: {path}: {sentence}" if sentence else "",
    )
    answered, told = by_endpoint(client, path)
    assert answered == size
    assert (sentence in told.replace("&amp;", "&").replace("&lt;", "<").replace("&gt;", ">")) and (
        bool(told) == bool(sentence)
    )
    return size


@pytest.mark.parametrize("name", MADE)
def test_files_made_here_are_answered_alike_by_all_doors(name, doors, folder, tmp_path, capsys):
    data, size = MADE[name]
    path = folder / name
    path.write_bytes(data)
    assert check_all_doors(path, doors, tmp_path, capsys) == size


@pytest.mark.skipif(not TABLE, reason="../shared/data/odd_images is not here")
@pytest.mark.parametrize("row", TABLE, ids=[row["what"] for row in TABLE])
def test_every_row_of_the_table_is_answered_alike_by_all_doors(row, doors, tmp_path, capsys):
    size = check_all_doors(ODD / row["file"], doors, tmp_path, capsys)
    assert row["expect"] in (("refuse", "either") if size is None else ("accept", "either"))
    if size:
        assert size == (int(row["width"]), int(row["height"]))
