"""A decoded picture of any mode -> upright 8-bit sRGB with alpha.

Colors follow the ICC profile, else what the file says without one: PNG in cICP, gAMA and cHRM, HEIF and AVIF
in an nclx box. HDR pictures (PQ, HLG) are tone-mapped as Chromium does it: the reference white operator of
SMPTE ST 2094-50, Annex D, for a display without headroom.
"""

import io
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageCms

Float = NDArray[np.float32]
Chromaticities = tuple[float, ...]  # x and y of white, red, green and blue

SRGB_PRIMARIES: Chromaticities = (0.3127, 0.3290, 0.64, 0.33, 0.30, 0.60, 0.15, 0.06)
_REC2020: Chromaticities = (0.3127, 0.3290, 0.708, 0.292, 0.170, 0.797, 0.131, 0.046)
_D65 = (0.3127, 0.3290)
# ITU-T H.273, table 2.
_PRIMARIES: dict[int, Chromaticities] = {
    4: (0.310, 0.316, 0.67, 0.33, 0.21, 0.71, 0.14, 0.08),
    5: (*_D65, 0.64, 0.33, 0.29, 0.60, 0.15, 0.06),
    6: (*_D65, 0.630, 0.340, 0.310, 0.595, 0.155, 0.070),
    7: (*_D65, 0.630, 0.340, 0.310, 0.595, 0.155, 0.070),
    9: _REC2020,
    11: (0.314, 0.351, 0.680, 0.320, 0.265, 0.690, 0.150, 0.060),
    12: (*_D65, 0.680, 0.320, 0.265, 0.690, 0.150, 0.060),
}
# ITU-T H.273, table 3. Video curves are shown as BT.1886 has it, as browsers do.
_GAMMAS = {1: 2.4, 4: 2.2, 5: 2.8, 6: 2.4, 8: 1.0, 14: 2.4, 15: 2.4}
_SRGB, _PQ, _HLG = 13, 16, 18
_VIDEO_CURVES = (1, 6, 14, 15)
_WHITE_NITS, _PEAK_NITS = 203.0, 1000.0  # ITU-R BT.2408: reference white and nominal peak
_HLG_GAMMA = 1.2  # BT.2100: system gamma of a display of 1000 cd/m2
_LUMINANCE = np.array([0.2627, 0.6780, 0.0593], dtype=np.float32)  # BT.2020
_KNEE = 0.5  # ST 2094-50 D.2: where reference white goes when the picture has the headroom of 1000 cd/m2
_KAPPA = 0.65  # ST 2094-50 D.3: how far the curve's middle point lies towards the tangent
_ROWS_PIXELS = 1_000_000  # worked on at a time
_MOST_MIXED = 20.0  # largest factor between two sets of primaries that means something
_SAME = 0.005  # chromaticities that differ by less are the same
_SAME_GAMMA = 0.05  # as libpng has it

HDR_NOTE = "The picture is HDR; bright parts were tone-mapped to the range of a screen."


@dataclass(frozen=True)
class Signal:
    """How numbers of a picture stand for light.

    Attributes:
        primaries: Chromaticities of white, red, green and blue.
        transfer: Code of ITU-T H.273, table 3; 0 for a plain power law.
        gamma: Exponent from number to light where `transfer` is 0.
    """

    primaries: Chromaticities = SRGB_PRIMARIES
    transfer: int = _SRGB
    gamma: float = 1.0

    @property
    def is_hdr(self) -> bool:
        """Return whether numbers stand for light brighter than a white page."""
        return self.transfer in (_PQ, _HLG)


def coded_signal(primaries: int, transfer: int, *, in_video: bool = False) -> Signal | None:
    """Return what two codes of ITU-T H.273 stand for; None for sRGB and for codes that are not known.

    Args:
        primaries: Code of table 2.
        transfer: Code of table 3.
        in_video: They come from HEIF or AVIF, where encoders write the video curve and mean sRGB.
    """
    if in_video and transfer in _VIDEO_CURVES:
        transfer = _SRGB
    signal = Signal(_PRIMARIES.get(primaries, SRGB_PRIMARIES), transfer)
    known = transfer in _GAMMAS or signal.is_hdr
    return signal if known or signal.primaries != SRGB_PRIMARIES else None


def power_signal(file_gamma: float | None, chromaticities: Chromaticities | None) -> Signal | None:
    """Return what PNG's gAMA (exponent from light to number) and cHRM stand for; None for sRGB."""
    primaries = chromaticities if chromaticities and _is_usable(chromaticities) else SRGB_PRIMARIES
    if all(abs(a - b) < _SAME for a, b in zip(primaries, SRGB_PRIMARIES, strict=True)):
        primaries = SRGB_PRIMARIES
    is_srgb = file_gamma is None or abs(file_gamma * 2.2 - 1) < _SAME_GAMMA
    if file_gamma is None or not 0.01 < file_gamma < 100:
        return None
    if is_srgb and primaries is SRGB_PRIMARIES:
        return None
    return Signal(primaries, 0, 1 / file_gamma)


def light_table(signal: Signal, count: int) -> Float:
    """Return the light of the numbers 0 .. count - 1: 1 is white; float32 [count]."""
    code = np.linspace(0, 1, count)
    if signal.transfer == _PQ:  # SMPTE ST 2084, EOTF
        root = code ** (32 / 2523)
        light = (np.maximum(root - 0.8359375, 0) / (18.8515625 - 18.6875 * root)) ** (16384 / 2610)
        light *= 10_000 / _WHITE_NITS
    elif signal.transfer == _HLG:  # BT.2100, inverse OETF: light of the scene
        light = np.where(
            code <= 0.5, code**2 / 3, (np.exp((code - 0.55991073) / 0.17883277) + 0.28466892) / 12
        )
    elif signal.transfer == 0 or signal.transfer in _GAMMAS:
        light = code ** _GAMMAS.get(signal.transfer, signal.gamma)
    else:
        light = np.where(code <= 0.04045, code / 12.92, ((code + 0.055) / 1.055) ** 2.4)
    return light.astype(np.float32)


def tone_map(light: Float) -> Float:
    """Bring light of HDR, 1 = reference white, into 0..1 by its largest channel; [..., 3] in BT.2020."""
    peak = _PEAK_NITS / _WHITE_NITS
    most = light.max(axis=-1, keepdims=True)
    middle_x = (1 - _KAPPA) + _KAPPA / _KNEE
    middle_y = (1 - _KAPPA) * _KNEE + _KAPPA
    # Above white a parabola from (1, knee) by the middle point to (peak, 1): x(t) is solved for t.
    a, b = 1 - 2 * middle_x + peak, 2 * (middle_x - 1)
    over = np.clip(most, 1, peak) - 1
    t = (-b + np.sqrt(b * b + 4 * a * over)) / (2 * a)
    above = (_KNEE - 2 * middle_y + 1) * t**2 + 2 * (middle_y - _KNEE) * t + _KNEE
    mapped = np.where(most <= 1, most * _KNEE, above)
    scale: Float = mapped / np.maximum(most, 1e-9)
    return light * scale


def to_srgb(image: Image.Image, signal: Signal) -> Image.Image:
    """Return an 8-bit picture (L or RGB) whose numbers have another meaning as sRGB."""
    if image.mode == "L" and not signal.is_hdr:  # gray stays gray
        return image.point(_encoded(light_table(signal, 256)).tolist())
    if image.mode != "RGB":
        image = image.convert("RGB")
    if signal.primaries == SRGB_PRIMARIES and not signal.is_hdr:
        return image.point(_encoded(light_table(signal, 256)).tolist() * 3)
    return _by_rows(image, _converter(signal))


def _converter(signal: Signal) -> Callable[[NDArray[np.uint8]], NDArray[np.uint8]]:
    """Return a function from uint8 [h, W, 3] to the same in sRGB."""
    table = light_table(signal, 256)
    out = _encoded(np.linspace(0, 1, 4096, dtype=np.float32))
    working = _REC2020 if signal.is_hdr else signal.primaries
    before = _between(signal.primaries, working)
    after = _between(working, SRGB_PRIMARIES)

    def convert(codes: NDArray[np.uint8]) -> NDArray[np.uint8]:
        light: Float = table[codes]  # [h, W, 3]
        if signal.is_hdr:
            light = light @ before
            if signal.transfer == _HLG:
                scene = np.maximum(light @ _LUMINANCE, 1e-9)[..., None]
                light *= scene ** np.float32(_HLG_GAMMA - 1) * np.float32(_PEAK_NITS / _WHITE_NITS)
            light = tone_map(light)
        light = light @ after
        shown: NDArray[np.uint8] = out[np.clip(light * 4095 + 0.5, 0, 4095).astype(np.uint16)]
        return shown

    return convert


def _by_rows(image: Image.Image, convert: Callable[[NDArray[np.uint8]], NDArray[np.uint8]]) -> Image.Image:
    """Convert RGB in bands of rows, in place: a picture's worth of floats would not fit into memory."""
    rows = max(1, _ROWS_PIXELS // image.width)
    for top in range(0, image.height, rows):
        box = (0, top, image.width, min(top + rows, image.height))
        image.paste(Image.fromarray(convert(np.asarray(image.crop(box)))), box)
    return image


def _encoded(light: Float) -> NDArray[np.uint8]:
    """Return sRGB numbers of light in 0..1."""
    light = np.clip(light, 0, 1)
    code = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    return np.round(code * 255).astype(np.uint8)


def _between(source: Chromaticities, target: Chromaticities) -> Float:
    """Return the matrix [3, 3] that turns rows of linear RGB of one set of primaries into another's.

    White goes to white: the eye adapts to a picture's white.
    """
    matrix = np.linalg.solve(_to_xyz(target), _to_xyz(source))
    matrix /= matrix.sum(axis=1, keepdims=True)
    return matrix.T.astype(np.float32)


def _is_usable(primaries: Chromaticities) -> bool:
    """Return whether three primaries span the colors and mix to the white."""
    try:
        matrix = _between(primaries, SRGB_PRIMARIES)
    except np.linalg.LinAlgError:
        return False
    return bool(np.isfinite(matrix).all() and np.abs(matrix).max() < _MOST_MIXED)


def _to_xyz(primaries: Chromaticities) -> NDArray[np.float64]:
    xy = np.reshape(primaries, (4, 2))
    xyz = np.column_stack([xy[:, 0] / xy[:, 1], np.ones(4), (1 - xy.sum(axis=1)) / xy[:, 1]])  # [4, 3]
    return xyz[1:].T * np.linalg.solve(xyz[1:].T, xyz[0])


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
        image = to_srgb(image, signal)
        notes += (HDR_NOTE,) if signal.is_hdr else ()
    return image if image.mode == "RGB" else image.convert("RGB"), notes


def _through_profile(image: Image.Image, profile: ImageCms.ImageCmsProfile) -> Image.Image:
    srgb = ImageCms.createProfile("sRGB")
    converted = ImageCms.profileToProfile(image, profile, srgb, outputMode="RGB")
    if converted is None:  # only when asked to convert in place
        raise TypeError("no picture came back from the color conversion")
    return converted
