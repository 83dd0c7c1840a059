"""A decoded picture of any mode -> upright 8-bit sRGB with alpha. Knows nothing of files, limits or names."""

import io
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageCms

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
WRONG_PROFILE = "The picture's colour profile could not be used; its colours were read as sRGB."
STRETCHED = (
    "The picture holds numbers beyond 8 bits without a stated range; darkest and brightest were stretched."
)


@dataclass(frozen=True, eq=False)
class Pixels:
    """A picture in the one form the rest of the project knows, and what its reader should be told.

    Attributes:
        color: Mode RGB, sRGB, upright, composited on white: a hidden color is gone.
        alpha: Mode L of the same size, or None for a picture that is opaque throughout.
        notes: Sentences about what had to be guessed.
    """

    color: Image.Image
    alpha: Image.Image | None
    notes: tuple[str, ...] = ()


def standard_pixels(image: Image.Image, *, orientation: int, at_most: int) -> Pixels:
    """Bring a loaded Pillow image of any mode into sRGB, composite it on white, and stand it upright.

    Args:
        image: Any mode Pillow can load; 16-bit grey is scaled from 0..65535, never clipped.
        orientation: EXIF orientation 1..8; any other value counts as upright.
        at_most: Pictures of more pixels are shrunk to this number.
    """
    image, alpha, notes = _eight_bits(image)
    color, profile_notes = _to_srgb(image)
    del image  # the largest pictures should not be held twice
    notes += profile_notes
    share = math.sqrt(at_most / (color.width * color.height))
    turn = _UPRIGHT.get(orientation)
    if share < 1:
        size = max(1, int(color.width * share)), max(1, int(color.height * share))
        notes += (_shrunk_note(color.size, size, lying=orientation in (5, 6, 7, 8)),)
        color = color.resize(size, Image.Resampling.LANCZOS, reducing_gap=2)
        alpha = alpha and alpha.resize(size, Image.Resampling.LANCZOS, reducing_gap=2)
    if turn is not None:
        color = color.transpose(turn)
        alpha = alpha and alpha.transpose(turn)
    return Pixels(color, alpha, notes)


def _shrunk_note(before: tuple[int, int], after: tuple[int, int], *, lying: bool) -> str:
    (width, height), (used_width, used_height) = (before[::-1], after[::-1]) if lying else (before, after)
    return f"The photo has {width} × {height} pixels; it is used at {used_width} × {used_height}."


def _eight_bits(image: Image.Image) -> tuple[Image.Image, Image.Image | None, tuple[str, ...]]:
    """Split into 8-bit color on white (L, RGB, CMYK or LAB), alpha (L), and notes."""
    profile = image.info.get("icc_profile")
    alpha: Image.Image | None = None
    notes: tuple[str, ...] = ()
    if image.mode.startswith("I;16"):
        image, alpha = _from_uint16(image)
    elif image.mode in ("I", "F"):
        image, notes = _from_numbers(image)
    elif image.has_transparency_data:
        for mode in {"La": ("LA", "RGBA"), "RGBA": ()}.get(image.mode, ("RGBA",)):  # La knows one way only
            image = image.convert(mode)
        alpha = image.getchannel("A")
        image = image.convert("RGB")
    elif image.mode not in ("L", "RGB", "CMYK", "LAB"):
        image = image.convert("L" if image.mode == "1" else "RGB")
    if alpha is not None:
        transparent = ImageChops.invert(alpha)
        image.paste("white", mask=transparent)  # into the copy just made
        alpha = alpha if transparent.getbbox() else None
    if profile:
        image.info["icc_profile"] = profile
    return image, alpha, notes


def _from_uint16(image: Image.Image) -> tuple[Image.Image, Image.Image | None]:
    levels = np.asarray(image).astype(np.uint16, copy=False)  # [H, W], 0..65535, native byte order
    key = image.info.get("transparency")  # PNG: the one grey level that is see-through
    alpha = (
        Image.fromarray(np.where(levels == key, 0, 255).astype(np.uint8)) if isinstance(key, int) else None
    )
    return Image.fromarray(round_to_bytes(levels)), alpha


def round_to_bytes(levels: NDArray[np.uint16]) -> NDArray[np.uint8]:
    """Scale 0..65535 to 0..255, rounded to the nearest, without a wider temporary array."""
    quotient, rest = np.divmod(levels, np.uint16(257))
    return (quotient + (rest > 128)).astype(np.uint8)


def _from_numbers(image: Image.Image) -> tuple[Image.Image, tuple[str, ...]]:
    """Scale 32-bit integers and floats: 0..1, 0..255 and 0..65535 are recognised, all else is stretched."""
    values = np.nan_to_num(np.asarray(image, dtype=np.float64), posinf=0.0, neginf=0.0)  # [H, W]
    low, high = float(values.min()), float(values.max())
    whole = image.mode == "I"
    tops = (255.0, 65535.0) if whole else (1.0, 255.0, 65535.0)
    top = next((top for top in tops if high <= top), None)
    if low < 0 or top is None:
        values, top = (values - low) / max(high - low, 1e-30), 1.0
        return Image.fromarray(np.round(values * 255).astype(np.uint8)), (STRETCHED,)
    return Image.fromarray(np.round(values * (255 / top)).astype(np.uint8)), ()


def _to_srgb(image: Image.Image) -> tuple[Image.Image, tuple[str, ...]]:
    """Follow the embedded profile where there is a usable one."""
    profile = image.info.get("icc_profile")
    if image.mode == "LAB":
        return _through_profile(image, ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB"))), ()
    notes: tuple[str, ...] = ()
    if profile:
        try:
            return _through_profile(image, ImageCms.ImageCmsProfile(io.BytesIO(profile))), ()
        except (ImageCms.PyCMSError, OSError, TypeError, ValueError):
            notes = (WRONG_PROFILE,)
    return image if image.mode == "RGB" else image.convert("RGB"), notes


def _through_profile(image: Image.Image, profile: ImageCms.ImageCmsProfile) -> Image.Image:
    srgb = ImageCms.createProfile("sRGB")
    converted = ImageCms.profileToProfile(image, profile, srgb, outputMode="RGB")
    if converted is None:  # only when asked to convert in place
        raise TypeError("no picture came back from the colour conversion")
    return converted
