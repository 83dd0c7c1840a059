#!/usr/bin/env python3
"""Damage real files in thousands of ways and read each: a result or a known error must come out.

The files are photos, depth files and files that carry a recipe; each is read as what it was meant for, and
every seventh as something else. With them come files that were made to do harm.

    .venv/bin/python benchmarks/fuzz.py --count 100000

Every input is a function of its number, so a failure can be had again with --first N --count 1. Ends with
the number on the first other exception, on a warning, and on a read of more than 10 s.
"""

import argparse
import io
import random
import resource
import signal
import struct
import sys
import tempfile
import time
import warnings
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pillow_heif
from PIL import Image, ImageCms

from marigold_demo.depth import DepthMap
from marigold_demo.errors import DemoError
from marigold_demo.geometry.relief import build_relief
from marigold_demo.geometry.textured_mesh import build_surface
from marigold_demo.io import export
from marigold_demo.io.depth_file import depth_form, read_depth_file
from marigold_demo.io.photo import Photo, load_photo
from marigold_demo.recipe import Recipe, load_recipe
from marigold_demo.settings import DepthSettings, MeshSettings, ReliefSettings

TIME_LIMIT_S = 10
NASTY = (
    b"\0",
    b"\xff",
    b"\x7f",
    b"\x80",
    b"\0\0\0\0",
    b"\xff\xff\xff\xff",
    b"\x7f\xff\xff\xff",
    b"\0\0\0\x01",
)


def make_seeds() -> dict[str, bytes]:
    """Return small valid files of every format and mode that can be written here."""
    rng = np.random.default_rng(0)
    rgb = Image.fromarray(np.clip(rng.normal(128, 40, (40, 48, 3)), 0, 255).astype(np.uint8))
    grey16 = Image.fromarray(rng.integers(0, 65536, (40, 48)).astype(np.uint16))
    rgba = rgb.copy()
    rgba.putalpha(rgb.convert("L"))
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x8769] = {0xA405: 28}
    icc = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    files = {
        "jpeg": encode(rgb, "JPEG", exif=exif, icc_profile=icc),
        "jpeg_progressive": encode(rgb, "JPEG", progressive=True),
        "jpeg_grey": encode(rgb.convert("L"), "JPEG", exif=exif),
        "jpeg_cmyk": encode(rgb.convert("CMYK"), "JPEG"),
        "mpo": encode(rgb, "MPO", **pages(rgb)),
        "gif": encode(rgb.quantize(16), "GIF", **pages(rgb)),
        "apng": encode(rgba, "PNG", save_all=True, append_images=[rgba.rotate(90)]),
        "png_16": encode(grey16, "PNG"),
        "png_icc": encode(rgb, "PNG", icc_profile=icc, exif=exif),
        "png_palette": encode(rgb.quantize(16), "PNG", transparency=3),
        "webp": encode(rgba, "WEBP", lossless=True, exif=exif),
        "webp_lossy": encode(rgb, "WEBP", **pages(rgb)),
        "tiff_pages": encode(rgb, "TIFF", **pages(rgb)),
        "tiff_lzw": encode(rgb, "TIFF", compression="tiff_lzw"),
        "tiff_jpeg": encode(rgb, "TIFF", compression="jpeg"),
        "tiff_float": encode(Image.fromarray(rng.random((40, 48), dtype=np.float32)), "TIFF"),
        "tiff_lab": encode(
            ImageCms.profileToProfile(rgb, icc_of("sRGB"), icc_of("LAB"), outputMode="LAB"), "TIFF"
        ),
        "bmp": encode(rgb, "BMP"),
        "ppm": encode(rgb, "PPM"),
        "jp2": encode(rgb, "JPEG2000"),
        "avif": encode(rgb, "AVIF", exif=exif),
        "heif": heif_of(rgb),
    }
    files |= {f"png_{mode}": encode(rgba.convert(mode), "PNG") for mode in ("1", "L", "LA", "RGB", "RGBA")}
    return files | depth_seeds(rng) | recipe_seeds(rng)


def depth_seeds(rng: np.random.Generator) -> dict[str, bytes]:
    depth = rng.random((40, 48))
    files = {f"npy_{kind}": saved(np.save, depth.astype(kind)) for kind in ("f2", "f4", ">f8", "u2", "?")}
    files["npy_order"] = saved(np.save, np.asfortranarray(depth))
    files["npz"] = saved(np.savez, depth=depth, uncertainty=depth / 9, valid=depth > 0.1)
    files["npz_small"] = saved(np.savez_compressed, depth=depth)
    files["npz_video"] = saved(np.savez_compressed, depths=np.stack([depth, depth]), conf=depth)
    files["npy_channels"] = saved(np.save, np.repeat(depth[..., None], 3, 2))
    deep = Image.fromarray((65535 * depth).astype(np.uint16))
    files["pgm_16"], files["tiff_16"] = encode(deep, "PPM"), encode(deep, "TIFF")
    files["pfm"] = b"Pf\n48 40\n-1.0\n" + depth.astype("<f4").tobytes()
    files["exr"] = exr_of(np.round(depth, 1).astype(np.float32))
    files["tiff_f8"] = tiff_of(depth)
    levels = np.repeat((65535 * depth).astype(">u2")[..., None], 2, 2)
    files["png_16_alpha"] = png_of(levels.reshape(40, 96).view(np.uint8), bits=16, color=4)
    return files


def exr_of(depth: np.ndarray) -> bytes:
    """Return an OpenEXR picture of one channel, as ZIP of 16 lines whose data do not predict each other."""
    height, width = depth.shape
    channel = b"Z\0" + struct.pack("<IIii", 2, 0, 1, 1) + b"\0"
    head = b"v/1\x01\x02\0\0\0channels\0chlist\0" + struct.pack("<I", len(channel)) + channel
    head += b"compression\0compression\0\x01\0\0\0\x03"
    head += b"dataWindow\0box2i\0\x10\0\0\0" + struct.pack("<4i", 0, 0, width - 1, height - 1) + b"\0"
    bodies = [zlib.compress(depth[top : top + 16].tobytes()) for top in range(0, height, 16)]
    chunks = [struct.pack("<iI", 16 * n, len(body)) + body for n, body in enumerate(bodies)]
    starts = np.cumsum([len(head) + 8 * len(chunks), *map(len, chunks[:-1])])
    return head + starts.astype("<u8").tobytes() + b"".join(chunks)


def tiff_of(values: np.ndarray) -> bytes:
    """Return a TIFF of float64, which Pillow does not write."""
    body = zlib.compress(values.astype("<f8").tobytes())
    height, width = values.shape
    tags = {256: width, 257: height, 258: 64, 259: 8, 262: 1, 273: 8, 277: 1, 278: height}
    tags |= {279: len(body), 339: 3}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    return (
        b"II*\0" + struct.pack("<I", 8 + len(body)) + body + struct.pack("<H", len(tags)) + entries + bytes(4)
    )


def png_of(rows: np.ndarray, *, bits: int, color: int) -> bytes:
    """Return a PNG of 40 x 48 pixels of any kind, without filters."""
    data = np.concatenate([np.zeros((len(rows), 1), np.uint8), rows], axis=1).tobytes()
    return png_chunks(struct.pack(">2I5B", 48, 40, bits, color, 0, 0, 0), (b"IDAT", zlib.compress(data)))


def recipe_seeds(rng: np.random.Generator) -> dict[str, bytes]:
    depth = DepthMap(rng.random((20, 24), dtype=np.float32))
    photo = Photo(rng.integers(0, 256, (20, 24, 3)).astype(np.uint8))
    recipe = Recipe(photo="0" * 64, depth=DepthSettings(), relief=ReliefSettings(), mesh=MeshSettings())
    relief = build_relief(depth, ReliefSettings(resolution=128))
    surface = build_surface(depth, photo, MeshSettings(resolution=128))
    return {
        "recipe_json": recipe.to_json().encode(),
        "recipe_3mf": export.threemf(relief, recipe=recipe),
        "recipe_glb": export.glb(surface, recipe=recipe),
        "recipe_png": export.png(photo.rgb, recipe=recipe),
    }


def make_bombs() -> dict[str, bytes]:
    """Return files that were made to use up memory or stack, or to run code."""
    deep = b"[" * 200_000
    glb_deep = b'{"asset":{"extras":' + deep
    zeros = bytes(50_000_000)
    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (5000, 6000), }"
    huge = b"\x93NUMPY\x02\x00" + struct.pack("<I", 2**32 - 1)
    return {
        "recipe_json_deep": b'{"depth":' + deep,
        "recipe_json_wide": b'{"relief":{' + b'"a":1,' * 200_000 + b'"b":1}}',
        "recipe_json_number": b'{"depth":{"steps":' + b"9" * 100_000 + b"}}",
        "recipe_json_nan": b'{"relief":{"width_mm":NaN,"relief_mm":1e999}}',
        "recipe_glb_deep": b"glTF" + struct.pack("<4I", 2, 20, len(glb_deep), 0) + glb_deep,
        "recipe_glb_long": b"glTF" + struct.pack("<4I", 2, 2**32 - 1, 2**32 - 1, 0) + b"{}",
        "recipe_3mf_zeros": zipped({"3D/3dmodel.model": zeros}),
        "recipe_3mf_many": zipped(dict.fromkeys(map(str, range(5000)), b"")),
        "recipe_png_text": png_with(b"zTXt", b"marigold-demo-recipe\0\0" + zlib.compress(zeros)),
        "recipe_png_huge": png_with(b"tEXt", b"marigold-demo-recipe\0{}", size=(2**31 - 1, 2**31 - 1)),
        "npz_zeros": zipped(
            {"depth.npy": b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + zeros}
        ),
        "npz_pickle": zipped({"depth.npy": saved(np.save, np.array([print], dtype=object))}),
        "npy_pickle": saved(np.save, np.array([print], dtype=object)),
        "npy_huge_header": huge + b" " * 1000,
        "npy_code": b"\x93NUMPY\x01\x00\x20\x00" + b"__import__('os').system('exit 9')"[:32],
        "png_huge": png_with(b"IDAT", zlib.compress(zeros), size=(2**31 - 1, 2**31 - 1)),
    }


def zipped(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def png_with(kind: bytes, content: bytes, *, size: tuple[int, int] = (16, 16)) -> bytes:
    head = struct.pack(">2I5B", *size, 8, 0, 0, 0, 0)
    return png_chunks(head, (kind, content), (b"IDAT", zlib.compress(bytes(17 * 16))))


def png_chunks(head: bytes, *chunks: tuple[bytes, bytes]) -> bytes:
    parts = (
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in ((b"IHDR", head), *chunks, (b"IEND", b""))
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def encode(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.copy().save(buffer, kind, **options)  # a picture remembers the encoder it was saved with
    return buffer.getvalue()


def pages(image: Image.Image) -> dict[str, object]:
    return {"save_all": True, "append_images": [image.rotate(90), image.rotate(180)]}


def heif_of(image: Image.Image) -> bytes:
    pillow_heif.register_heif_opener()
    return encode(image, "HEIF")


def icc_of(space: str) -> ImageCms.ImageCmsProfile:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile(space))


def saved(save: Callable[..., None], *arrays: np.ndarray, **named: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    save(buffer, *arrays, **named)
    return buffer.getvalue()


def damaged(seeds: dict[str, bytes], number: int) -> tuple[str, bytes]:
    """Return name and bytes of one damaged file; the number alone decides."""
    rng = random.Random(f"fuzz {number}")
    name = rng.choice(sorted(seeds))
    data = bytearray(seeds[name])
    for _ in range(rng.choice((1, 1, 2, 4, 16))):
        rng.choice((flip, overwrite, cut, drop, repeat, shuffle, graft))(data, rng, seeds)
    if name.startswith(("png", "apng")) and rng.random() < 0.7:
        repair_checksums(data)
    return name, bytes(data)


def flip(data: bytearray, rng: random.Random, seeds: dict[str, bytes]) -> None:
    if data:
        data[place(data, rng)] ^= 1 << rng.randrange(8)


def overwrite(data: bytearray, rng: random.Random, seeds: dict[str, bytes]) -> None:
    start, nasty = place(data, rng), rng.choice(NASTY)
    data[start : start + len(nasty)] = nasty


def cut(data: bytearray, rng: random.Random, seeds: dict[str, bytes]) -> None:
    if rng.random() < 0.3:
        del data[place(data, rng) :]


def drop(data: bytearray, rng: random.Random, seeds: dict[str, bytes]) -> None:
    start = place(data, rng)
    del data[start : start + rng.choice((1, 2, 4, 16, 100))]


def repeat(data: bytearray, rng: random.Random, seeds: dict[str, bytes]) -> None:
    start = place(data, rng)
    data[start:start] = data[start : start + rng.choice((1, 2, 4, 16, 100))]


def shuffle(data: bytearray, rng: random.Random, seeds: dict[str, bytes]) -> None:
    start = place(data, rng)
    data[start : start + 8] = rng.randbytes(min(8, len(data) - start))


def graft(data: bytearray, rng: random.Random, seeds: dict[str, bytes]) -> None:
    other = seeds[rng.choice(sorted(seeds))]
    start, from_here = place(data, rng), rng.randrange(len(other))
    data[start : start + 40] = other[from_here : from_here + 40]


def place(data: bytearray, rng: random.Random) -> int:
    """Headers decide most, so half of the damage goes there."""
    return rng.randrange(max(1, min(len(data), 200) if rng.random() < 0.5 else len(data)))


def repair_checksums(data: bytearray) -> None:
    """Make the checksums of PNG chunks right again, so that the damage gets past them."""
    start = 8
    while start + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, start)
        end = start + 8 + length
        if end + 4 > len(data):
            return
        struct.pack_into(">I", data, end, zlib.crc32(data[start + 4 : end]))
        start = end + 4


def read_as_visitor(path: Path, *, recipe: bool = False) -> str:
    """Read a file as a recipe, or as photo and, where it looks like one, as depth; return what came out."""
    outcome = "recipe" if recipe else "depth" if depth_form(path) else "photo"
    try:
        if recipe:
            assert isinstance(load_recipe(path), Recipe)
        elif outcome == "depth":
            depth = read_depth_file(path).depth
            assert 0 <= depth.values.min() <= depth.values.max() <= 1
        else:
            photo = load_photo(path)
            assert photo.rgb.dtype == np.uint8 and photo.rgb.shape[2] == 3
    except DemoError as error:
        assert len(str(error)) > 20 and "\n" not in str(error)
        assert len(str(error)) < 500
        return "refused"
    return outcome


def is_recipe(name: str, number: int) -> bool:
    """Return how an input is read: as its own kind, but every seventh as another."""
    return name.startswith("recipe") != (number % 7 == 0)


class Hang(BaseException):
    """A read that does not end."""


def on_alarm(signum: int, frame: object) -> None:
    raise Hang(f"a read took more than {TIME_LIMIT_S} s")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--count", type=int, default=5000)
    parser.add_argument("--keep", type=Path, help="write a failing input here")
    said = parser.parse_args()
    warnings.simplefilter("error")
    signal.signal(signal.SIGALRM, on_alarm)
    seeds, outcomes, started = make_seeds(), Counter[str](), time.monotonic()
    rss_before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "visitor.bin"
        bombs = list(make_bombs().items())
        for number in range(said.first - len(bombs), said.first + said.count):
            name, data = damaged(seeds, number) if number >= said.first else bombs.pop()
            path.write_bytes(data)
            signal.alarm(TIME_LIMIT_S)
            try:
                outcomes[read_as_visitor(path, recipe=is_recipe(name, number))] += 1
            except BaseException:
                print(f"input {number} (from {name}, {len(data)} bytes) failed:", file=sys.stderr)
                if said.keep:
                    said.keep.write_bytes(data)
                raise
            finally:
                signal.alarm(0)
    rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    spent_s = time.monotonic() - started
    print(f"{said.count} inputs of {len(seeds)} kinds in {spent_s:.0f} s: {dict(outcomes)}")
    print(f"peak memory {rss / 1024:.0f} MB, {(rss - rss_before) / 1024:.0f} MB more than before")
    return 0


if __name__ == "__main__":
    sys.exit(main())
