"""Relief settings that suit a kind of picture or a way of making it. Knows nothing of widgets or flags."""

from collections.abc import Mapping
from types import MappingProxyType

from marigold_demo.settings import ReliefSettings

RELIEF_PRESETS: Mapping[str, ReliefSettings] = MappingProxyType(
    {
        "portrait": ReliefSettings(relief_mm=4.0, far=0.9, frame="round", frame_mm=6.0),
        "landscape": ReliefSettings(
            width_mm=150.0, relief_mm=4.0, detail=1.0, photo_detail=0.6, frame="bevel", frame_mm=7.0
        ),
        "coin": ReliefSettings(
            width_mm=40.0,
            relief_mm=1.2,
            detail=1.0,
            cutout="round",
            frame="round",
            frame_mm=1.5,
            resolution=768,
        ),
        "CNC": ReliefSettings(
            width_mm=200.0,
            relief_mm=8.0,
            base_mm=6.0,
            detail=1.0,
            smooth_px=4.0,
            photo_detail=0.25,
            frame="none",
            tolerance_mm=0.02,
            material="beech",
        ),
        "lithophane": ReliefSettings(
            source="luminance",
            smooth_px=0.5,
            width_mm=120.0,
            relief_mm=2.4,
            base_mm=0.8,
            frame_mm=3.0,
            tolerance_mm=0.02,
        ),
    }
)
