"""What a user may choose, with limits, units and defaults. Knows nothing of widgets, flags or models.

Sliders, command-line flags, examples and recipes all read the fields of these classes, so a default, a
limit or a help text stands here and nowhere else.
"""

from collections.abc import Mapping
from dataclasses import Field, dataclass, field, fields, replace
from types import MappingProxyType
from typing import Any, ClassVar, Literal, Protocol, get_args

from marigold_demo.catalog import plain_name
from marigold_demo.errors import SettingsError

# British spellings of earlier versions, still taken from flags, endpoints and recipes.
EARLIER_CHOICES = {"mould": "mold", "aluminium": "aluminum"}


@dataclass(frozen=True)
class Option:
    """What a settings field declares beside its default.

    Attributes:
        help: A phrase for help texts and sliders.
        unit: Such as "mm"; empty for a plain number.
        limits: Smallest and largest value.
        choices: All values, where there are few.
        optional: None is allowed and means "the checkpoint's (or the photo's) own".
    """

    help: str
    unit: str = ""
    limits: tuple[float, float] | None = None
    choices: tuple[str, ...] = ()
    optional: bool = False


def option(default: Any, help: str, **about: Any) -> Any:
    """Declare one field of a settings class; `about` are further attributes of its `Option`."""
    return field(default=default, metadata={"option": Option(help, **about)})


class Settings(Protocol):
    """Any of the settings classes below."""

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]


def options_of(settings: Settings | type[Settings]) -> dict[str, Option]:
    """Return the options of a settings class by field name, in order."""
    return {f.name: f.metadata["option"] for f in fields(settings)}


def check(settings: Settings) -> None:
    """Check every field against its option; an earlier spelling of a choice becomes the present one.

    Raises:
        SettingsError: A value is out of its limits, not one of its choices, or not a finite number.
    """
    for f in fields(settings):
        about: Option = f.metadata["option"]
        value = getattr(settings, f.name)
        if about.choices and isinstance(value, str) and EARLIER_CHOICES.get(value) in about.choices:
            value = EARLIER_CHOICES[value]
            object.__setattr__(settings, f.name, value)
        if value is None and about.optional:
            continue
        if f.type is str and not isinstance(value, str):
            raise SettingsError(f"{f.name} must be text.", field=f.name)
        if about.choices and value not in about.choices:
            words = ", ".join(about.choices)
            raise SettingsError(f"{f.name} must be one of {words}.", field=f.name)
        if about.limits:
            whole = f.type is int or int in get_args(f.type)
            _check_number(f.name, value, about=about, whole=whole)


def _check_number(name: str, value: object, *, about: Option, whole: bool) -> None:
    low, high = about.limits or (0, 0)
    unit = f" {about.unit}" if about.unit else ""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number:
        raise SettingsError(f"{name} must be a number from {low:g} to {high:g}{unit}.", field=name)
    if not low <= value <= high:  # type: ignore[operator]  # NaN fails the comparison too
        said = shortly(value)  # type: ignore[arg-type]
        raise SettingsError(
            f"{name} is {said}; it must be a number from {low:g} to {high:g}{unit}.", field=name
        )
    if whole and value != int(value):  # type: ignore[call-overload]
        said = shortly(value)  # type: ignore[arg-type]
        raise SettingsError(f"{name} is {said}; it must be a whole number.", field=name)


def shortly(number: float) -> str:
    """Return a number for a message in at most 13 characters, however many digits it has."""
    try:
        return f"{float(number):.6g}"
    except OverflowError:
        return "too large"


Quality = Literal["full", "draft"]
Outlines = Literal["auto", "network", "photo"]
Start = Literal["auto", "noise", "zeros"]
Spacing = Literal["auto", "leading", "trailing"]


@dataclass(frozen=True)
class DepthSettings:
    """How a photo becomes depth."""

    checkpoint: str = option(
        "embedded", "Weights: 'embedded', a folder, or a hub name such as prs-eth/marigold-depth-v1-1"
    )
    steps: int | None = option(
        None,
        "How often the network works on one photo; unset: the model's own",
        limits=(1, 50),
        optional=True,
    )
    ensemble: int | None = option(
        None,
        "Predictions that are aligned and reduced to one, at most 10 where no chance is in them (embedded);"
        " unset: the model's own",
        limits=(1, 20),
        optional=True,
    )
    resolution: int | None = option(
        None,
        "Longest edge the network sees, a multiple of 8 from 64 on; 0: the photo's own; unset: what suits the"
        " model",
        unit="px",
        limits=(0, 2048),
        optional=True,
    )
    seed: int = option(2024, "Start of the noise; the same seed gives the same depth", limits=(0, 2**31 - 1))
    quality: Quality = option(
        "full",
        "Full, or draft: large models several times faster, softer; the embedded one is always a draft",
        choices=get_args(Quality),
    )
    outlines: Outlines = option(
        "auto",
        "Outlines as the network draws them, or moved onto the photo's; auto: what suits the model",
        choices=get_args(Outlines),
    )
    start: Start = option(
        "auto",
        "First latent: noise, or zeros for checkpoints tuned end to end; auto: what suits the checkpoint",
        choices=get_args(Start),
    )
    spacing: Spacing = option(
        "auto",
        "Timesteps from the start of each interval (leading) or from its end (trailing, for few steps);"
        " auto: the checkpoint's own",
        choices=get_args(Spacing),
    )

    def __post_init__(self) -> None:
        check(self)
        object.__setattr__(self, "checkpoint", plain_name(self.checkpoint))  # one spelling everywhere
        if self.resolution and (self.resolution < 64 or self.resolution % 8):
            raise SettingsError(
                f"resolution is {self.resolution} px; it must be 0 or a multiple of 8 from 64 to 2048 px."
            )


Frame = Literal["none", "flat", "bevel", "round"]
Mode = Literal["emboss", "engrave", "mold", "stamp"]
Source = Literal["depth", "luminance"]
Projection = Literal["perspective", "orthographic"]
Edges = Literal["cut", "stretch"]
Behind = Literal["fill", "open"]
Shading = Literal["unlit", "lit"]
Cutout = Literal["none", "depth", "alpha", "round", "oval"]
MapFrame = Literal["without", "with"]
MapHigh = Literal["light", "dark"]
Hole = Literal["none", "through", "keyhole"]
Material = Literal["PLA", "PETG", "ABS", "resin", "plaster", "beech", "aluminum"]

STEEPEST_DEG = 90.0
KEYHOLE_BASE_MM = 4.0  # a keyhole takes 3.4 mm, and something must be left above it


@dataclass(frozen=True)
class ReliefSettings:
    """How depth becomes a solid that can be printed or carved. Lengths in millimeters."""

    width_mm: float = option(
        100.0,
        "Longest side of the whole relief, frame included, before it is bent",
        unit="mm",
        limits=(10, 1000),
    )
    relief_mm: float = option(
        5.0, "From the lowest to the highest point of the picture", unit="mm", limits=(0.2, 100)
    )
    base_mm: float = option(1.6, "Solid under the lowest point", unit="mm", limits=(0.4, 50))
    near: float = option(
        0.0, "A depth, 0 near and 1 far; all in front of it is flat at the top", limits=(0, 1)
    )
    far: float = option(1.0, "A depth, 0 near and 1 far; all behind it is flat at the bottom", limits=(0, 1))
    detail: float = option(
        0.8, "0: plain linear depth; 1: crowded depths spread out and forms most pronounced", limits=(0, 1)
    )
    form_size: float = option(
        0.5, "Largest form that counts as detail, as a share of the long side; small: fine", limits=(0.1, 2)
    )
    level: float | None = option(
        None,
        "How much of the whole picture's tilt is taken out, 0 to 1; unset: a part where tilt is nearly all",
        limits=(0, 1),
        optional=True,
    )
    smooth_px: float = option(1.5, "Smoothing of the depth before anything else", unit="px", limits=(0, 10))
    slope_deg: float = option(
        STEEPEST_DEG,
        "Steepest slope, for molds and cutters: the far side is filled up; 90: any",
        unit="°",
        limits=(20, STEEPEST_DEG),
    )
    photo_detail: float = option(
        0.6, "The photo's brightness as fine relief upon the depth; 0: depth alone", limits=(0, 1)
    )
    source: Source = option(
        "depth", "What becomes height: depth, or luminance (a lithophane)", choices=get_args(Source)
    )
    contrast: float = option(
        16.0,
        "How much more light the thinnest place of a lithophane passes than the thickest",
        limits=(2, 200),
    )
    mode: Mode = option(
        "emboss",
        "Near is high (emboss), near is low (engrave), a mold to cast from, or a mirrored emboss (stamp)",
        choices=get_args(Mode),
    )
    frame: Frame = option("flat", "Profile of the frame", choices=get_args(Frame))
    frame_mm: float = option(5.0, "Width of the frame; 0: none", unit="mm", limits=(0, 100))
    frame_top_mm: float | None = option(
        None,
        "Top of the frame above the base; unset: as high as the relief",
        unit="mm",
        limits=(0, 300),
        optional=True,
    )
    bevel_mm: float = option(
        0.4, "Width of the frame's inner slope; never more than half the frame", unit="mm", limits=(0.05, 50)
    )
    bend_radius_mm: float = option(
        0.0,
        "Radius of the cylinder the back lies on, from 5 on; 0: flat; negative: the picture lies inside",
        unit="mm",
        limits=(-5000, 5000),
    )
    cutout: Cutout = option(
        "none",
        "What is cut away: nothing, all behind a depth, what is transparent, or all around a disc",
        choices=get_args(Cutout),
    )
    cutout_depth: float = option(0.5, "Depth behind which a cut-out ends", limits=(0.01, 1))
    center_x: float | None = option(
        None,
        "Middle of a disc, as a share of the picture's width; unset: on the subject where one is clear",
        limits=(0, 1),
        optional=True,
    )
    center_y: float | None = option(
        None,
        "Middle of a disc, as a share of the picture's height; unset: as across",
        limits=(0, 1),
        optional=True,
    )
    hole: Hole = option(
        "none",
        "How it hangs: not at all, a hole through it, or a keyhole in the back (base of 4 mm or more)",
        choices=get_args(Hole),
    )
    hole_mm: float = option(4.0, "Diameter of the hole, or of the screw's shank", unit="mm", limits=(1, 20))
    map_frame: MapFrame = option(
        "without", "Whether the height map shows the frame", choices=get_args(MapFrame)
    )
    map_high: MapHigh = option(
        "light",
        "What is high in the height map: light, or dark as laser engravers want",
        choices=get_args(MapHigh),
    )
    material: Material = option("PLA", "What it is made of, for the weight", choices=get_args(Material))
    nozzle_mm: float = option(0.4, "Width of the printer's nozzle, for warnings", unit="mm", limits=(0.1, 2))
    resolution: int = option(1024, "Samples along the long side", unit="px", limits=(128, 2048))
    tolerance_mm: float = option(
        0.02, "Largest error of the mesh against the depth; 0: every sample", unit="mm", limits=(0, 0.2)
    )
    max_faces: int = option(
        1_000_000, "Most triangles; the tolerance is raised to stay under it", limits=(10_000, 5_000_000)
    )

    def __post_init__(self) -> None:
        check(self)
        if self.far - self.near < 0.01:
            raise SettingsError(
                f"near is {self.near:g} and far is {self.far:g}; far must be at least 0.01 more than near.",
                field="far",
            )
        if 0 < abs(self.bend_radius_mm) < 5:
            raise SettingsError(
                f"bend_radius_mm is {self.bend_radius_mm:g}; it must be 0 or at least 5 mm.",
                field="bend_radius_mm",
            )
        if self.hole == "keyhole" and self.base_mm < KEYHOLE_BASE_MM:
            raise SettingsError(
                f"base_mm is {self.base_mm:g}; a keyhole needs a base of at least {KEYHOLE_BASE_MM:g} mm.",
                field="base_mm",
            )

    def preview(self) -> "ReliefSettings":
        """Return the same settings at a size for the screen; smoothing keeps its size in millimeters."""
        resolution = min(self.resolution, 512)
        return replace(
            self,
            resolution=resolution,
            smooth_px=self.smooth_px * resolution / self.resolution,
            tolerance_mm=max(self.tolerance_mm, 0.02),
            max_faces=min(self.max_faces, 200_000),
        )


@dataclass(frozen=True)
class MeshSettings:
    """How depth and photo become a textured surface."""

    projection: Projection = option("perspective", "Camera of the surface", choices=get_args(Projection))
    fov_deg: float | None = option(
        None,
        "Field of view of the long side; unset: from the photo's EXIF, else 50",
        unit="°",
        limits=(10, 120),
        optional=True,
    )
    far_near_ratio: float = option(
        2.0, "How many times farther the farthest point is than the nearest", limits=(1.05, 50)
    )
    ortho_depth: float = option(
        0.4, "Depth of an orthographic surface as a share of the long side", limits=(0, 2)
    )
    edges: Edges = option(
        "cut", "What happens at depth jumps: cut open, or stretched", choices=get_args(Edges)
    )
    behind: Behind = option(
        "fill",
        "What is behind a cut: the far side goes on, in its depth and color (fill), or nothing (open)",
        choices=get_args(Behind),
    )
    edge_tol: float = option(0.04, "How large a jump of inverse depth counts as an edge", limits=(0.005, 1))
    resolution: int = option(1024, "Samples along the long side", unit="px", limits=(128, 2048))
    tolerance: float = option(
        5e-4, "Largest error of the mesh, as a share of inverse depth; 0: every sample", limits=(0, 1e-2)
    )
    texture_px: int = option(
        4096, "Longest side of the texture; never more than the photo", unit="px", limits=(256, 8192)
    )
    max_faces: int = option(
        320_000, "Most triangles; the tolerance is raised to stay under it", limits=(10_000, 5_000_000)
    )
    shading: Shading = option(
        "unlit", "The photo as it is, or lit by the viewer's lamps", choices=get_args(Shading)
    )
    near_m: float | None = option(
        None,
        "Distance of the nearest point, which gives the scale; unset: the scale is arbitrary",
        unit="m",
        limits=(0.001, 100_000),
        optional=True,
    )

    def __post_init__(self) -> None:
        check(self)

    def preview(self) -> "MeshSettings":
        """Return the same settings at a size for the screen."""
        return replace(
            self,
            resolution=min(self.resolution, 640),
            tolerance=max(self.tolerance, 1e-3),
            texture_px=min(self.texture_px, 2048),
            max_faces=min(self.max_faces, 200_000),
        )


# Settings that suit a kind of picture or a way of making it.
RELIEF_PRESETS: Mapping[str, ReliefSettings] = MappingProxyType(
    {
        "portrait": ReliefSettings(
            relief_mm=5.0,
            far=0.9,
            form_size=0.7,
            smooth_px=2.5,
            photo_detail=0.8,
            frame="round",
            frame_mm=6.0,
        ),
        "landscape": ReliefSettings(
            width_mm=150.0,
            relief_mm=7.0,
            detail=1.0,
            smooth_px=2.5,
            photo_detail=0.8,
            frame="bevel",
            frame_mm=7.0,
        ),
        "coin": ReliefSettings(
            width_mm=40.0,
            relief_mm=1.6,
            detail=1.0,
            smooth_px=2.0,
            cutout="round",
            frame="round",
            frame_mm=1.5,
            resolution=768,
        ),
        "CNC": ReliefSettings(
            width_mm=200.0,
            relief_mm=10.0,
            slope_deg=75.0,
            base_mm=6.0,
            smooth_px=4.0,
            photo_detail=0.25,
            frame="none",
            material="beech",
        ),
        "lithophane": ReliefSettings(
            source="luminance",
            smooth_px=0.5,
            width_mm=120.0,
            relief_mm=2.4,
            base_mm=0.8,
            frame_mm=3.0,
        ),
        "plain": ReliefSettings(detail=0.0, photo_detail=0.0, level=0.0),
    }
)
