"""Profiles of the frame around a relief, as nested rings. Knows nothing of pictures or triangles."""

from dataclasses import dataclass

import numpy as np

from marigold_demo.errors import SettingsError
from marigold_demo.settings import ReliefSettings

SMALLEST_MM = 0.1  # a frame narrower than this is a slip, not a wish
SMALLEST_PICTURE_MM = 5.0
ROUND_RINGS = 12


@dataclass(frozen=True)
class Ring:
    """One ring of the profile: how far outside the picture, how high above the back. In millimetres."""

    outward_mm: float
    height_mm: float


def frame_width(settings: ReliefSettings) -> float:
    """Return the width of the frame in millimetres, 0 without a frame.

    Raises:
        SettingsError: The frame is too thin, or leaves no picture.
    """
    if settings.frame == "none" or settings.frame_mm == 0:
        return 0.0
    if settings.frame_mm < SMALLEST_MM:
        raise SettingsError(
            f"frame_mm is {settings.frame_mm:g}; it must be 0 or at least {SMALLEST_MM:g} mm."
        )
    left = settings.width_mm - 2 * settings.frame_mm
    if left < SMALLEST_PICTURE_MM:
        most = (settings.width_mm - SMALLEST_PICTURE_MM) / 2
        raise SettingsError(
            f"frame_mm is {settings.frame_mm:g}, which leaves no picture on {settings.width_mm:g} mm;"
            f" it must be at most {most:g} mm."
        )
    return float(settings.frame_mm)


def frame_top(settings: ReliefSettings) -> float:
    """Return the top of the frame above the base; the rim of a mould is never lower than its relief."""
    if settings.frame_top_mm is None:
        return float(settings.relief_mm)
    if settings.mode == "mould":
        return float(max(settings.frame_top_mm, settings.relief_mm))
    return float(settings.frame_top_mm)


def profile(settings: ReliefSettings) -> tuple[Ring, ...]:
    """Return the rings of the frame from the picture outwards, strictly outwards; none without a frame."""
    width = frame_width(settings)
    if width == 0:
        return ()
    base, top = settings.base_mm, settings.base_mm + frame_top(settings)
    slope = min(settings.bevel_mm, width / 2)  # the inner slope, never 0 and never more than half the frame
    if settings.frame == "flat":
        return Ring(slope, top), Ring(width, top)
    if settings.frame == "bevel":
        chamfer = min((width - slope) / 2, max(top - base, slope))
        return Ring(slope, top), Ring(width - chamfer, top), Ring(width, base)
    turn = np.linspace(0, np.pi, ROUND_RINGS + 1)
    outward = slope + (width - slope) * (1 - np.cos(turn)) / 2
    height = base + (top - base) * np.sin(turn)
    return tuple(Ring(float(d), float(z)) for d, z in zip(outward, height, strict=True))
