"""A decoded picture of any mode -> upright 8-bit sRGB with alpha."""

import io
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageCms

from marigold_demo.io import color
from marigold_demo.io.color import HDR_NOTE, Signal

ORIENTATION_TAG = 0x0112  # EXIF 2.32, 4.6.4: how the stored picture must be turned to stand upright
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
WRONG_PROFILE = "The picture's color profile could not be used; its colors were read as sRGB."
SIGNED = "The picture holds signed numbers; 0 and above were taken as black to white."
STRETCHED = (
    "The picture holds numbers beyond 8 bits without a stated range; darkest and brightest were stretched."
)
SEE_THROUGH = "Every pixel of the picture is transparent; it was taken as opaque."
_BAND_PIXELS = 2_000_000  # as many numbers are converted at a time: all at once would take gigabytes
_BRIGHTEST = 16.0  # floats up to here are light above white, more are levels of 8 or 16 bits
_DARK = 8  # a picture whose numbers reach no more than this part of their range is called dark
_FULL_RANGE = 2**24  # unsigned numbers of 32 bits that reach beyond it are taken to use all bits

ReadRows = Callable[[int, int], NDArray[Any]]  # first row, row after the last -> [h, W] or [h, W, bands]


@dataclass(frozen=True, eq=False)
class Picture:
    """A decoded picture as its file has it.

    Attributes:
        image: Of any mode, with its ICC profile in `info`, if it has one.
        orientation: EXIF orientation 1..8; any other value counts as upright.
        focal_mm: Focal length as of 35 mm film; None where the file does not say.
        full_size: Width and height in the file, where they are not those of `image`.
        signal: What its numbers mean, where that is neither sRGB nor given by a profile.
        alpha: Mode L, where the mode of `image` has none.
        top: Number that stands for white in the modes I and I;16; None where the file does not say.
        white_is_zero: Whether the numbers of the modes I, I;16 and F run from white to black.
        notes: Sentences about its file.
    """

    image: Image.Image
    orientation: int = 1
    focal_mm: float | None = None
    full_size: tuple[int, int] | None = None
    signal: Signal | None = None
    alpha: Image.Image | None = None
    top: int | None = None
    white_is_zero: bool = False
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Pixels:
    """A picture in the one form the rest of the project knows, with notes for the reader.

    Attributes:
        color: Mode RGB, sRGB, upright, composited on white: a hidden color is gone.
        alpha: Mode L of the same size, or None for a picture that is opaque throughout.
        notes: Sentences about the file, and about what had to be guessed.
    """

    color: Image.Image
    alpha: Image.Image | None
    notes: tuple[str, ...] = ()


def standard_pixels(picture: Picture, *, at_most: int) -> Pixels:
    """Bring a picture of any mode into sRGB, composite it on white, and stand it upright.

    Args:
        picture: 16-bit gray is scaled from 0..65535, never clipped.
        at_most: Pictures of more pixels are shrunk to this number.
    """
    full_size = picture.full_size or picture.image.size
    profile, signal, orientation = picture.image.info.get("icc_profile"), picture.signal, picture.orientation
    image, alpha, notes = _eight_bits(picture)
    notes = picture.notes + notes
    image, alpha = _shrunk(image, at_most), alpha and _shrunk(alpha, at_most)
    if image.size != full_size:
        notes += (_shrunk_note(full_size, image.size, lying=orientation in (5, 6, 7, 8)),)
    if image.mode in ("LA", "RGBA"):
        image, alpha = image.convert(image.mode[:-1]), image.getchannel("A")
    alpha, alpha_notes = _used_alpha(alpha)
    shown, color_notes = _to_srgb(image, profile, signal)
    if alpha is not None:
        shown = shown.copy() if shown is image else shown
        shown.paste("white", mask=ImageChops.invert(alpha))
    shown, alpha = upright(shown, orientation), alpha and upright(alpha, orientation)
    return Pixels(shown, alpha, notes + alpha_notes + color_notes)


def upright(image: Image.Image, orientation: int) -> Image.Image:
    """Turn a stored picture as its EXIF orientation says; unknown ones count as upright."""
    turn = _UPRIGHT.get(orientation)
    return image if turn is None else image.transpose(turn)


def _shrunk(image: Image.Image, at_most: int) -> Image.Image:
    share = math.sqrt(at_most / (image.width * image.height))
    if share >= 1:
        return image
    size = max(1, int(image.width * share)), max(1, int(image.height * share))
    return image.resize(size, Image.Resampling.LANCZOS, reducing_gap=2)


def _shrunk_note(before: tuple[int, int], after: tuple[int, int], *, lying: bool) -> str:
    (width, height), (used_width, used_height) = (before[::-1], after[::-1]) if lying else (before, after)
    return f"The photo has {width} × {height} pixels; it is used at {used_width} × {used_height}."


def _used_alpha(alpha: Image.Image | None) -> tuple[Image.Image | None, tuple[str, ...]]:
    """Return alpha where it says something: programs write 0 everywhere and mean that there is none."""
    if alpha is None:
        return None, ()
    lowest, highest = alpha.getextrema()
    if highest == 0:
        return None, (SEE_THROUGH,)
    return (None if lowest == 255 else alpha), ()


def _eight_bits(picture: Picture) -> tuple[Image.Image, Image.Image | None, tuple[str, ...]]:
    """Return the picture in 8 bits (L, LA, RGB, RGBA, CMYK or LAB), alpha (L) if it is apart, and notes."""
    image = picture.image
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        levels, notes = to_bytes(
            lambda top, end: np.asarray(image.crop((0, top, image.width, end))),
            image.size,
            top=picture.top or (65535 if image.mode.startswith("I;16") else None),
            white_is_zero=picture.white_is_zero,
        )
        return Image.fromarray(levels), _alpha_of_key(image), notes
    if image.has_transparency_data:
        for mode in {"La": ("LA",), "LA": (), "RGBA": ()}.get(image.mode, ("RGBA",)):
            image = image.convert(mode)
    elif image.mode not in ("L", "RGB", "CMYK", "LAB"):
        image = image.convert("L" if image.mode == "1" else "RGB")
    return image, picture.alpha, ()


def _alpha_of_key(image: Image.Image) -> Image.Image | None:
    """Return the alpha of 16-bit gray in which one level is see-through, as PNG has it."""
    key = image.info.get("transparency")
    if not isinstance(key, int) or not image.mode.startswith("I;16"):
        return None
    alpha = np.empty((image.height, image.width), np.uint8)
    for top, end in _bands(image.size):
        alpha[top:end] = np.where(np.asarray(image.crop((0, top, image.width, end))) == key, 0, 255)
    return Image.fromarray(alpha)


def _bands(size: tuple[int, int]) -> list[tuple[int, int]]:
    """Return first row, and row after the last, of bands that are worked on one after the other."""
    width, height = size
    rows = max(1, _BAND_PIXELS // width)
    return [(top, min(top + rows, height)) for top in range(0, height, rows)]


def to_bytes(
    read: ReadRows, size: tuple[int, int], *, top: float | None = None, white_is_zero: bool = False
) -> tuple[NDArray[np.uint8], tuple[str, ...]]:
    """Scale integers or floats of any width to uint8 [H, W] or [H, W, bands], band by band.

    Args:
        read: Returns rows.
        size: Width and height.
        top: Number that stands for white. Without it 1, 255, 65535 and all 32 bits are recognized, and all
            else is stretched.
        white_is_zero: The numbers run from white to black.

    Returns:
        The levels, and notes on what had to be guessed.
    """
    low, high = math.inf, -math.inf
    for start, end in _bands(size):
        rows = _finite(read(start, end))
        low, high = min(low, float(rows.min())), max(high, float(rows.max()))
    low, high, notes = _range(low, high, top, is_whole=rows.dtype.kind in "iu")
    scale = 255 / max(high - low, 1e-30)
    exact = np.float32 if rows.dtype.itemsize <= 2 or rows.dtype == np.float32 else np.float64
    found = np.empty((size[1], *rows.shape[1:]), np.uint8)
    for start, end in _bands(size):
        levels: NDArray[Any] = _finite(read(start, end)).astype(exact)
        levels -= exact(low)
        levels *= exact(scale)
        np.rint(np.clip(levels, 0, 255, out=levels), out=levels)
        found[start:end] = 255 - levels if white_is_zero else levels
    return found, notes


def _finite(values: NDArray[Any]) -> NDArray[Any]:
    return np.nan_to_num(values, posinf=0.0, neginf=0.0) if values.dtype.kind == "f" else values


def _range(
    low: float, high: float, top: float | None, *, is_whole: bool
) -> tuple[float, float, tuple[str, ...]]:
    """Return which numbers become black and white, from the lowest and highest there are."""
    if top is not None:
        dark = f"The picture's numbers reach {high:.0f} of {top:.0f}; it is as dark as it was stored."
        return 0.0, top, (dark,) if 0 < high * _DARK <= top else ()
    if is_whole:
        tops: tuple[float, ...] = (255.0, 65535.0, *((2.0**32 - 1,) if high > _FULL_RANGE else ()))
    else:
        tops = (1.0, _BRIGHTEST, 255.0, 65535.0)
    found = next((top for top in tops if high <= top), None)
    if low < 0 or found is None:
        return low, high, (STRETCHED,)
    if found == _BRIGHTEST:
        bright = f"The picture holds light up to {high:.1f} times as bright as white; it is shown as white."
        return 0.0, 1.0, (bright,)
    return 0.0, found, ()


def _to_srgb(
    image: Image.Image, profile: bytes | None, signal: Signal | None
) -> tuple[Image.Image, tuple[str, ...]]:
    """Follow what the file says of its colors: HDR codes, else a usable profile, else other codes."""
    if image.mode == "LAB":
        return _through_profile(image, ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB"))), ()
    notes: tuple[str, ...] = ()
    if profile and signal is None:
        try:
            return _through_profile(image, ImageCms.ImageCmsProfile(io.BytesIO(profile))), ()
        except (ImageCms.PyCMSError, OSError, TypeError, ValueError):
            notes = (WRONG_PROFILE,)
    if signal is not None:
        image = color.to_srgb(image, signal)
        notes += (HDR_NOTE,) if signal.is_hdr else ()
    return image if image.mode == "RGB" else image.convert("RGB"), notes


def _through_profile(image: Image.Image, profile: ImageCms.ImageCmsProfile) -> Image.Image:
    srgb = ImageCms.createProfile("sRGB")
    converted = ImageCms.profileToProfile(image, profile, srgb, outputMode="RGB")
    if converted is None:  # only when asked to convert in place
        raise TypeError("no picture came back from the color conversion")
    return converted
