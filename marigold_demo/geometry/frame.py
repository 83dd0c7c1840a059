"""The frame around a relief: its cross-section as nested rings."""

from dataclasses import dataclass

import numpy as np

from marigold_demo.errors import SettingsError
from marigold_demo.settings import ReliefSettings

SMALLEST_MM = 0.1  # a narrower frame cannot be printed
SMALLEST_PICTURE_MM = 5.0
ROUND_RINGS = 12


@dataclass(frozen=True)
class Ring:
    """One ring: its distance outside the picture and its height above the back, in millimeters."""

    outward_mm: float
    height_mm: float


@dataclass(frozen=True)
class Profile:
    """Cross-section of the frame.

    Attributes:
        rings: Strictly outwards, beginning beside the picture; empty without a frame.
        width_mm: Width of the frame; 0 without one.
    """

    rings: tuple[Ring, ...] = ()
    width_mm: float = 0.0

    @property
    def heights_mm(self) -> tuple[float, ...]:
        """Heights of all rings."""
        return tuple(ring.height_mm for ring in self.rings)


def make_profile(settings: ReliefSettings) -> Profile:
    """Return the cross-section that the settings ask for.

    Raises:
        SettingsError: The frame is too thin, or leaves no picture.
    """
    width = _width_mm(settings)
    if width == 0:
        return Profile()
    base, top = settings.base_mm, settings.base_mm + frame_top_mm(settings)
    slope = min(settings.bevel_mm, width / 2)  # the inner slope, never 0 and never more than half the frame
    if settings.frame == "flat":
        return Profile((Ring(slope, top), Ring(width, top)), width)
    if settings.frame == "bevel":
        chamfer = min((width - slope) / 2, max(top - base, slope))
        return Profile((Ring(slope, top), Ring(width - chamfer, top), Ring(width, base)), width)
    turn = np.linspace(0, np.pi, ROUND_RINGS + 1)
    outward = slope + (width - slope) * (1 - np.cos(turn)) / 2
    height = base + (top - base) * np.sin(turn)
    return Profile(tuple(Ring(float(d), float(z)) for d, z in zip(outward, height, strict=True)), width)


def frame_top_mm(settings: ReliefSettings) -> float:
    """Return the top of the frame above the base; the rim of a mold is never lower than its relief."""
    if settings.frame_top_mm is None:
        return float(settings.relief_mm)
    if settings.mode == "mold":
        return float(max(settings.frame_top_mm, settings.relief_mm))
    return float(settings.frame_top_mm)


def _width_mm(settings: ReliefSettings) -> float:
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
