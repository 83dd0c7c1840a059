"""What a file says of its colors without an ICC profile -> sRGB. Knows no file format and no size limit.

PNG has it in cICP, gAMA and cHRM, HEIF and AVIF in an nclx box. HDR pictures (PQ, HLG) are tone-mapped as
Chromium does it: the reference white operator of SMPTE ST 2094-50, Annex D, for a display without headroom.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

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
