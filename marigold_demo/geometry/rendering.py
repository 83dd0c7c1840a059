"""How objects are seen: light on a relief, its height map, and a textured surface before a viewer's camera.

Picture, 3D preview and the documentation's pictures have the light in their colors, because viewers' own
lamps leave five millimeters of relief gray: raking light with dark hollows, or light through a lithophane.
Heights are steepened for the light alone, and hollows are darkened by how far they lie under their blurred
surroundings. Brightness is a place on a ramp of colors. A height map has square pixels, for programs that
carve from one.

From the viewer's camera nothing of a surface that stands before something else uncovers a hole. The viewer's
angle is fixed, so the camera goes nearer or farther and the surface is widened along the photo's rays; planes
stay planes, and in the middle of the depth shapes keep their proportions.
"""

from dataclasses import dataclass

import numpy as np
import scipy.ndimage
from numpy.typing import NDArray
from PIL import Image

from marigold_demo.geometry.heightfield import Heightfield, resample
from marigold_demo.geometry.outline import extended
from marigold_demo.geometry.solid import ellipse_mm
from marigold_demo.geometry.textured_mesh import Surface
from marigold_demo.settings import ReliefSettings

# Heights are so many times as high for the light, and once more when blurred by a share of the long side, so
# that forms outweigh grain.
STEEPER = 1.1
FORM, FORM_STEEPER = 0.006, 1.9
AMBIENT, KEY, FILL = 0.13, 0.8, 0.12
KEY_LIGHT, FILL_LIGHT = (-0.58, 0.68, 0.45), (0.6, -0.55, 0.58)  # from the upper left, from the lower right
# Blur as a share of the long side, and how much it counts: crevices, hollows, the field behind the subject.
CAVITIES = ((0.015, 0.55), (0.05, 0.35), (0.2, 0.3))
FINEST_BLUR_PX = 4.0
DIM = 60  # level of a lithophane's walls
GAMMA = 2.2  # of screens
GROUND = (0x1C, 0x1A, 0x17)
GROUND_LEVEL = 0.11  # its brightness
# Brightness -> color: plaster, and plastic with a lamp behind it.
PLASTER = ((0.0, (9, 8, 7)), (GROUND_LEVEL, GROUND), (0.78, (0xDB, 0xD2, 0xC0)), (1.0, (0xFF, 0xFA, 0xEE)))
BACKLIT = (
    (0.0, (9, 8, 7)),
    (GROUND_LEVEL, GROUND),
    (0.35, (104, 72, 46)),
    (0.6, (198, 150, 100)),
    (0.85, (247, 218, 168)),
    (1.0, (0xFF, 0xF6, 0xE0)),
)
# Height maps.
SQUARE = 1e-3  # the most that the sides of a pixel may differ
MORE_PIXELS = 256  # along the long side, to find square ones
# A surface before a camera.
VIEWER_HALF = float(np.tan(0.4))  # half the height of what Babylon's viewer shows, per unit of distance
MARGIN = 0.98  # of the canvas that the photo fills
NEAREST = 0.3  # of the camera's distance from the nearest point may be left

Grid = NDArray[np.float32]
Numbers = NDArray[np.float64]
Mask = NDArray[np.bool_]
Levels = NDArray[np.uint8]


def shade(normals: Grid, cavity: Grid | float = 0.0) -> Grid:
    """Return the brightness [...] of plaster, 0 to 1.

    Args:
        normals: float32 [..., 3], unit length; x right, y up the picture, z towards the viewer.
        cavity: How far each place stands out of its surroundings; below 0 in hollows.
    """
    light = np.asarray(cavity, dtype=np.float32) + np.float32(AMBIENT)
    for strength, direction in ((KEY, KEY_LIGHT), (FILL, FILL_LIGHT)):
        toward = np.array(direction, dtype=np.float32) / np.float32(np.linalg.norm(direction))
        light = light + np.float32(strength) * np.maximum(normals @ toward, 0)
    brightness: Grid = np.clip(light, 0, 1).astype(np.float32)
    return brightness


def shade_heights(heights: Grid, *, pitch: float, full: float) -> Grid:
    """Return the brightness float32 [H, W] of heights in raking light, 0 to 1.

    Args:
        heights: float32 [H, W], larger is nearer to the viewer; the first row is the top of the picture.
        pitch: Size of a pixel in the unit of heights.
        full: From the lowest to the highest point of the picture, in the unit of heights.
    """
    form = _blurred(heights, FORM * max(heights.shape))
    steep = np.float32(STEEPER) * heights + np.float32(FORM_STEEPER) * form
    down, across = np.gradient(steep, np.float32(pitch))
    normals = np.stack([-across, down, np.ones_like(heights)], axis=-1)
    normals /= np.linalg.norm(normals, axis=-1, keepdims=True)
    return shade(normals, cavity(heights, full=full))


def cavity(heights: Grid, *, full: float) -> Grid:
    """Return how far heights [H, W] stand out of their surroundings as a share of `full`, weighted."""
    found = np.zeros_like(heights)
    for sigma, weight in CAVITIES:
        found += np.float32(weight / full) * (heights - _blurred(heights, sigma * max(heights.shape)))
    return found


def _blurred(heights: Grid, sigma: float) -> Grid:
    """Blur heights [H, W]; wide blurs are worked out on fewer pixels."""
    factor = max(1, int(sigma / FINEST_BLUR_PX))
    rows, columns = heights.shape
    small = resample(heights, max(1, columns // factor), max(1, rows // factor))
    blurred = scipy.ndimage.gaussian_filter(small, sigma / factor, mode="nearest", truncate=2.5)
    wide = Image.fromarray(blurred).resize((columns, rows), Image.Resampling.BILINEAR)
    return np.asarray(wide)


def shine_through(thickness: Grid, *, lowest: float, full: float, contrast: float) -> Grid:
    """Return the brightness [...] of a lithophane before a lamp, 0 to 1.

    Light falls off exponentially in plastic: the thickest place passes 1 / contrast of the thinnest's.
    """
    share = np.clip((thickness - np.float32(lowest)) / np.float32(full), 0, None)
    light: Grid = np.float32(contrast) ** (-share / np.float32(GAMMA))
    return light


def light_piece(field: Heightfield, settings: ReliefSettings) -> Levels:
    """Return the brightness uint8 [H, W] of a whole piece with its frame, as it lies; a bend is not shown."""
    heights, inside = continued_map(field, with_frame=True)
    return _light(field, settings, heights, inside, pitch=field.footprint.outer_mm[0] / heights.shape[1])


def colored_piece(field: Heightfield, settings: ReliefSettings) -> Levels:
    """Return the color uint8 [H, W, 3] of a whole piece in its light, as it lies."""
    return ramp(settings)[light_piece(field, settings)]


def light_picture(field: Heightfield, settings: ReliefSettings) -> Levels:
    """Return the brightness uint8 [R, C] of the picture alone, sample for sample."""
    heights, columns = continued(field), field.heights.shape[1]
    pitch = field.footprint.width_mm / (columns - 1)
    return _light(field, settings, heights, field.footprint.picture, pitch=pitch)


def _light(
    field: Heightfield,
    settings: ReliefSettings,
    heights: Grid,
    inside: NDArray[np.bool_] | None,
    *,
    pitch: float,
) -> Levels:
    if settings.source == "luminance":
        light = shine_through(
            heights, lowest=settings.base_mm, full=settings.relief_mm, contrast=settings.contrast
        )
    else:
        light = shade_heights(heights, pitch=pitch, full=settings.relief_mm)
    if inside is not None:
        light = np.where(inside, light, np.float32(GROUND_LEVEL))
    return np.round(light * 255).astype(np.uint8)


def ramp(settings: ReliefSettings) -> Levels:
    """Return the colors uint8 [256, 3] of all levels of brightness."""
    stops, colors = zip(*(BACKLIT if settings.source == "luminance" else PLASTER), strict=True)
    levels = np.arange(256) / 255
    channels = [np.interp(levels, stops, channel) for channel in zip(*colors, strict=True)]
    return np.round(np.stack(channels, axis=1)).astype(np.uint8)


def scaled(levels: Levels, longest: int) -> Levels:
    """Resize brightness [H, W] so that its long side has so many pixels."""
    rows, columns = levels.shape
    scale = longest / max(rows, columns)
    return resized(levels, max(1, round(columns * scale)), max(1, round(rows * scale)))


def resized(levels: Levels, columns: int, rows: int) -> Levels:
    """Resize brightness [H, W] to so many columns and rows."""
    return np.asarray(Image.fromarray(levels).resize((columns, rows), Image.Resampling.LANCZOS))


@dataclass(frozen=True)
class MapSize:
    """What a height map covers, in millimeters.

    Attributes:
        left: Left edge in the coordinates of the relief.
        front: Front edge.
        width: Extent in x.
        depth: Extent in y.
        low: What the lowest level stands for, above the back.
        high: What the highest level stands for.
    """

    left: float
    front: float
    width: float
    depth: float
    low: float
    high: float

    @property
    def span(self) -> float:
        """From the lowest to the highest level."""
        return self.high - self.low


def map_size(field: Heightfield, *, with_frame: bool) -> MapSize:
    """Return what the height map of a relief covers: the picture, or the whole piece with its frame."""
    footprint, inside = field.footprint, field.footprint.picture
    counted = field.heights if inside is None else field.heights[inside]
    if with_frame:
        return MapSize(0.0, 0.0, *footprint.outer_mm, field.lowest_mm, field.highest_mm)
    left, front, width, depth = footprint.left_mm, footprint.front_mm, footprint.width_mm, footprint.depth_mm
    if footprint.outline is not None:
        frame = field.profile.width_mm
        left, front, (width, depth) = frame, frame, footprint.outer_mm
        width, depth = width - 2 * frame, depth - 2 * frame
    return MapSize(left, front, width, depth, float(counted.min()), float(counted.max()))


def height_map(field: Heightfield, *, with_frame: bool) -> Grid:
    """Return heights float32 [H, W] in millimeters above the back; what is cut away is lowest."""
    size = map_size(field, with_frame=with_frame)
    heights, inside = continued_map(field, with_frame=with_frame)
    return heights if inside is None else np.where(inside, heights, np.float32(size.low))


def continued_map(field: Heightfield, *, with_frame: bool) -> tuple[Grid, Mask | None]:
    """Return the height map with heights that go on past the border, and which are inside it.

    Returns:
        float32 [H, W] in millimeters above the back, and bool [H, W]; None where all are inside.
    """
    size = map_size(field, with_frame=with_frame)
    columns, rows = _square_pixels(size, longest=max(field.heights.shape))
    x = size.left + size.width * (np.arange(columns) + 0.5) / columns
    y = size.front + size.depth * (1 - (np.arange(rows) + 0.5) / rows)
    inside: Mask | None = None
    if field.footprint.outline is None:
        made = _around_rectangle(field, x, y)
    elif field.footprint.outline.ellipse is not None:
        made, inside = _around_ellipse(field, x, y)
    else:
        inside = _sampled(field.footprint.outline.level, field, *np.meshgrid(x, y)) > 0
        made = _sampled(continued(field), field, *np.meshgrid(x, y))
    return np.clip(made, size.low, size.high).astype(np.float32), inside


def _square_pixels(size: MapSize, *, longest: int) -> tuple[int, int]:
    """Return the fewest columns and rows from so many on whose pixels are square."""
    sides = np.array([size.width, size.depth])
    for pixels in range(longest, longest + MORE_PIXELS):
        counts = np.maximum(1, np.round(sides * (pixels / sides.max())))
        pitch = sides / counts
        if abs(pitch[0] / pitch[1] - 1) <= SQUARE:
            break
    return int(counts[0]), int(counts[1])


def _around_rectangle(field: Heightfield, x: Numbers, y: Numbers) -> Numbers:
    footprint = field.footprint
    right, back = footprint.left_mm + footprint.width_mm, footprint.front_mm + footprint.depth_mm
    across = np.maximum(np.maximum(footprint.left_mm - x, x - right), 0)
    down = np.maximum(np.maximum(footprint.front_mm - y, y - back), 0)
    heights = _sampled(field.heights, field, *np.meshgrid(x, y))  # outside, that of the nearest border
    return _with_frame(heights, np.maximum(across, down[:, None]), field)


def _around_ellipse(field: Heightfield, x: Numbers, y: Numbers) -> tuple[Numbers, Mask]:
    outer, (a, b) = field.footprint.outer_mm, ellipse_mm(field.footprint)
    x, y = x - outer[0] / 2, y[:, None] - outer[1] / 2
    low, high = np.zeros((y.size, x.size)), np.full((y.size, x.size), max(outer))
    for _ in range(40):  # how far outside the picture's ellipse, along one whose half axes are longer by that
        middle = (low + high) / 2
        is_beyond = (x / (a + middle)) ** 2 + (y / (b + middle)) ** 2 > 1
        low, high = np.where(is_beyond, middle, low), np.where(is_beyond, high, middle)
    inner_x, inner_y = x * (a / (a + low)), y * (b / (b + low))
    heights = _sampled(continued(field), field, inner_x + outer[0] / 2, inner_y + outer[1] / 2)
    made = _with_frame(heights, np.where(low < 1e-6, 0, low), field)
    return made, low <= field.profile.width_mm + 1e-6


def _with_frame(heights: Numbers, outward: Numbers, field: Heightfield) -> Numbers:
    """Put the frame where it is: outside the picture by `outward` millimeters [H, W]."""
    rings = field.profile.rings
    if not rings:
        return heights
    first = rings[0]
    share = np.clip(outward / first.outward_mm, 0, 1)
    slope = heights * (1 - share) + first.height_mm * share
    rim = np.interp(outward, [ring.outward_mm for ring in rings], field.profile.heights_mm)
    made: Numbers = np.where(outward < first.outward_mm, slope, rim)
    return made


def continued(field: Heightfield) -> Grid:
    """Return the heights [R, C] in millimeters, those outside an outline as high as beside it."""
    inside = field.footprint.picture
    return field.heights if inside is None else extended(field.heights, inside)


def _sampled(values: Grid, field: Heightfield, x: Numbers, y: Numbers) -> Numbers:
    """Interpolate samples [R, C] at places in millimeters, float64 [H, W]; outside, the nearest is taken."""
    footprint, (rows, columns) = field.footprint, values.shape
    column = (x - footprint.left_mm) / footprint.width_mm * (columns - 1)
    row = (1 - (y - footprint.front_mm) / footprint.depth_mm) * (rows - 1)
    found: Numbers = scipy.ndimage.map_coordinates(values, [row, column], float, order=1, mode="nearest")
    return found


def from_the_eye(surface: Surface, *, aspect: float) -> Grid:
    """Return the vertices for such a viewer, with its camera one unit from the middle of their box.

    Args:
        surface: The surface.
        aspect: Width over height of the viewer.

    Returns:
        float32 [V + 2, 3]; the last two belong to no face and make the box symmetrical about the axis.
    """
    camera = surface.camera
    points = surface.vertices.astype(np.float64) / camera.near
    distance, ratio = -points[:, 2], camera.far / camera.near
    is_flat = camera.projection == "orthographic"
    rays = points[:, :2] / (1 if is_flat else distance[:, None])  # [V, 2]
    half = np.array([camera.half_width, camera.half_height])
    wider = MARGIN * VIEWER_HALF * float(np.min(np.array([aspect, 1]) / half))
    middle = float(np.sqrt(ratio))
    back = max((1 if is_flat else middle) / wider - middle, NEAREST - 1)
    near, far = 1 + back, ratio + back
    reach = np.append(wider * far * half, 0)
    corners = np.array([[0, 0, -near], [0, 0, -far]]) + np.array([[-1], [1]]) * reach
    moved = np.column_stack([wider * rays * (distance + back)[:, None], -(distance + back)])
    placed: Grid = (np.concatenate([moved, corners]) / ((near + far) / 2)).astype(np.float32)
    return placed
