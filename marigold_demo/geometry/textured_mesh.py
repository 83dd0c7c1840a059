"""Depth and photo into an open textured surface, and what lies behind its cuts.

Axes are glTF's: x right, y up, the camera at the origin looking along -z. The nearest point is one unit away;
depth is known up to scale and shift only, so units are not meters. Triangles are chosen in inverse depth,
where every plane of the scene is linear over the picture.

The second layer is the far side of every jump, continued under what stands before it: each sample takes the
depth and the color of the nearest sample on the far side. Depth is blurred the more the farther it is from
there; color is streaked. So a surface that is turned by some 20 degrees shows the background, no holes.
"""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol

import numpy as np
import scipy.ndimage
import trimesh
from numpy.typing import NDArray
from PIL import Image

from marigold_demo.depth import DepthMap
from marigold_demo.geometry.bas_relief import unit_range
from marigold_demo.geometry.depth_repair import fill_invalid
from marigold_demo.geometry.heightfield import resample
from marigold_demo.geometry.rtin import FaceBudget, Triangulation, compact, grid_size, triangulate
from marigold_demo.settings import MeshSettings

REACH = 0.35  # how far it goes on behind a cut, as a share of the long side
BLUR = 0.004  # of depth far from the cut, as a share of the long side
PUSH = 0.008  # from the cut to where its color is taken, of the long side; nearer is mixed with the front
STRIDES = (4, 8, 16, 32)  # samples between vertices at most, because colors do not follow straight lines

Grid = NDArray[np.float32]
Mask = NDArray[np.bool_]
Indices = NDArray[np.int32]


@dataclass(frozen=True, eq=False)
class SecondLayer:
    """Triangles behind the front.

    Attributes:
        faces: int32 [F, 3], wound as the front's are.
        samples: int32 [V], the sample of the grid that each vertex lies behind.
        linear: float32 [V], inverse depth (or depth under parallel rays).
        colors: int32 [V], the sample whose color it has.
    """

    faces: Indices
    samples: Indices
    linear: Grid
    colors: Indices


def second_layer(
    nearness: Grid, jumps: Mask, *, edge_tol: float, tolerance: float, max_faces: int
) -> SecondLayer | None:
    """Return the layer behind the jumps of a grid; None where there are none.

    Args:
        nearness: float32 [R, C], larger is nearer; every jump is one cell wide.
        jumps: bool [R-1, C-1], the cells with a jump.
        edge_tol: How large a jump is, as a share of nearness.
        tolerance: See `rtin.triangulate`.
        max_faces: Most triangles.
    """
    far = _far_side(nearness, jumps)
    if not far.any():
        return None
    rows, columns = nearness.shape
    distance, (row, column) = scipy.ndimage.distance_transform_edt(~far, return_indices=True)
    behind = nearness[row, column]  # [R, C]
    is_before = nearness > behind * np.float32(1 + edge_tol / 2)
    # Beside a shallow cut, what lies behind is at the nearest of the deep ones.
    deep = far & (nearness <= np.median(nearness[far]))
    reach, (deep_row, deep_column) = scipy.ndimage.distance_transform_edt(~deep, return_indices=True)
    deeper = nearness[deep_row, deep_column]
    is_deep = ~far & ~is_before & (nearness > deeper * np.float32(1 + edge_tol / 2))
    row, column = np.where(is_deep, deep_row, row), np.where(is_deep, deep_column, column)
    distance, behind = np.where(is_deep, reach, distance), np.where(is_deep, deeper, behind)
    is_before |= is_deep
    longest = max(rows, columns)
    region = far | (is_before & (distance <= REACH * longest))
    share = np.clip(distance / (4 * BLUR * longest), 0, 1).astype(np.float32)
    blurred = scipy.ndimage.gaussian_filter(behind, BLUR * longest, mode="nearest")
    behind = behind + share * (blurred - behind)
    behind = np.where(is_before, np.minimum(behind, nearness * np.float32(1 - edge_tol / 4)), behind)
    cells = region[:-1, :-1] & region[1:, :-1] & region[:-1, 1:] & region[1:, 1:]
    if not cells.any():
        return None
    padded = np.pad(cells, 1)
    edge = scipy.ndimage.maximum_filter(padded, 3) & ~scipy.ndimage.minimum_filter(padded, 3)
    edge = edge[1:, 1:] | edge[:-1, 1:] | edge[1:, :-1] | edge[:-1, :-1]
    for stride in STRIDES:
        forced = edge.copy()
        forced[::stride, ::stride] |= region[::stride, ::stride]
        found = triangulate(behind, tolerance, forced=forced, budget=FaceBudget(max_faces))
        top, side = np.divmod(np.ascontiguousarray(found.faces.T), np.int32(columns))
        top, side = np.minimum(top.min(axis=0), rows - 2), np.minimum(side.min(axis=0), columns - 2)
        kept = found.faces[cells[top, side]]
        if len(kept) <= max_faces:
            break
    used, faces = compact(kept, nearness.size)
    return SecondLayer(faces, used, behind.ravel()[used], _colors(used, row, column, nearness, edge_tol))


def _far_side(nearness: Grid, jumps: Mask) -> Mask:
    """Mark the samples bool [R, C] on the far side of the cells with a jump."""
    corners = np.stack([nearness[:-1, :-1], nearness[1:, :-1], nearness[:-1, 1:], nearness[1:, 1:]])
    middle = (corners.max(axis=0) + corners.min(axis=0)) / 2
    far = np.zeros(nearness.shape, dtype=bool)
    for corner, part in zip(corners, (far[:-1, :-1], far[1:, :-1], far[:-1, 1:], far[1:, 1:]), strict=True):
        part |= jumps & (corner < middle)
    return far


def _colors(used: Indices, row: Indices, column: Indices, nearness: Grid, edge_tol: float) -> Indices:
    """Return the sample that gives each used sample its color: a little behind the cut, seen from there."""
    rows, columns = nearness.shape
    own_row, own_column = np.divmod(used, np.int32(columns))
    far_row, far_column = row.ravel()[used], column.ravel()[used]
    away = np.stack([far_row - own_row, far_column - own_column]).astype(np.float64)
    away *= PUSH * max(rows, columns) / np.maximum(np.hypot(*away), 1e-6)
    to_row = np.clip(np.round(far_row + away[0]), 0, rows - 1).astype(np.int32)
    to_column = np.clip(np.round(far_column + away[1]), 0, columns - 1).astype(np.int32)
    is_far = nearness[to_row, to_column] <= nearness[far_row, far_column] * np.float32(1 + edge_tol)
    found: Indices = np.where(is_far, to_row * columns + to_column, far_row * columns + far_column).astype(
        np.int32
    )
    return found


FOV_DEG = 50.0  # where neither the visitor nor the photo says anything
ARBITRARY = "The scale is arbitrary: the nearest point is one unit from the camera."
EDGE_REACHES = (2, 4, 8)  # samples from before a jump to behind it: sharp jumps and soft ones
FEWEST_BEHIND = 1000  # with fewer triangles left, nothing is put behind cuts
NEAREST_M, LEAST_RATIO = 0.001, 1.001
METERS = "One unit is one meter."

Points = NDArray[np.float32]


class SurfacePhoto(Protocol):
    """What is needed of a photo."""

    @property
    def rgb(self) -> NDArray[np.uint8]:
        """Photo uint8 [H, W, 3]."""
        ...

    @property
    def fov_deg(self) -> float | None:
        """Field of view of the long side, where the photo has it."""
        ...


@dataclass(frozen=True)
class Camera:
    """The camera at the origin that sees the surface as the photo does.

    Attributes:
        projection: "perspective" or "orthographic".
        half_width: Half the picture's width, per unit of distance where the camera is perspective.
        half_height: Half its height.
        fov_deg: Field of view of the long side; None for an orthographic camera.
        near: Distance of the nearest point.
        far: Distance of the farthest point.
    """

    projection: str
    half_width: float
    half_height: float
    fov_deg: float | None
    near: float
    far: float


@dataclass(frozen=True, eq=False)
class Surface:
    """An open surface with the photo on it.

    Attributes:
        vertices: float32 [V, 3].
        faces: int32 [F, 3], counter-clockwise as the camera sees them; those behind cuts come last.
        front_faces: How many faces the camera sees.
        uv: float32 [V, 2] in [0, 1]; u right, v down from the photo's top left corner.
        texture: uint8 [h, w, 3], the photo, never enlarged.
        camera: What saw it.
        settings: What was asked for; `near_m` is filled in where the depth is in meters.
        tolerance: The largest error used, as a share of inverse depth.
        notes: What the visitor should know, in sentences.
    """

    vertices: Points
    faces: Indices
    front_faces: int
    uv: Points
    texture: NDArray[np.uint8]
    camera: Camera
    settings: MeshSettings
    tolerance: float
    notes: tuple[str, ...]

    @property
    def scale_note(self) -> str:
        """What one unit of the vertices is, as a sentence."""
        return METERS if self.settings.near_m is not None else ARBITRARY

    @cached_property
    def mesh(self) -> trimesh.Trimesh:
        """The surface as trimesh's type with its texture; not processed, so vertices keep their order."""
        material = trimesh.visual.material.SimpleMaterial(image=Image.fromarray(self.texture), name="photo")
        uv = np.column_stack([self.uv[:, 0], 1 - self.uv[:, 1]])  # trimesh counts v from the bottom
        visual = trimesh.visual.TextureVisuals(uv=uv, material=material)
        return trimesh.Trimesh(vertices=self.vertices, faces=self.faces, visual=visual, process=False)


def build_surface(depth: DepthMap, photo: SurfacePhoto, settings: MeshSettings) -> Surface:
    """Build the surface.

    Args:
        depth: Depth; faces at values that are not finite are left out.
        photo: Its pixels become the texture, its field of view the camera's where the settings leave it open.
        settings: Camera, edges and mesh quality.

    Raises:
        DepthFileError: The depth holds no finite value.
    """
    # 1. Depth on a grid, 0 near .. 1 far
    width, height = depth.size
    columns, rows = grid_size(width, height, settings.resolution)
    far_share = _far_share(resample(fill_invalid(depth.values), columns, rows))  # [R, C]
    if depth.meters is not None and settings.near_m is None:
        settings = replace(settings, near_m=max(depth.meters[0], NEAREST_M))
    camera = _camera(depth, photo=photo, settings=settings)
    # 2. What is linear over the picture: inverse depth, or depth itself under parallel rays
    linear = _linear(far_share, camera)
    # 3. Triangles, without those that cross an edge or touch a hole
    holes = _holes(depth.values, columns, rows)
    linear, dropped = _opened(linear, holes, settings)
    found = _triangulated(linear, dropped, settings)
    faces = _without(found.faces, dropped)
    # 4. Vertices where the photo's rays end
    used, faces = compact(faces, linear.size)
    uv = _uv(used, columns, rows)
    vertices = _points(uv, linear.ravel()[used], camera)
    # 5. The far side goes on behind the cuts
    front_faces = len(faces)
    layer = None
    if settings.behind == "fill":
        layer = _behind(
            linear, dropped & ~holes, camera, settings, max_faces=settings.max_faces - front_faces
        )
    if layer is not None:
        faces = np.concatenate([faces, layer.faces + np.int32(len(vertices))])
        back = _points(_uv(layer.samples, columns, rows), layer.linear, camera)
        vertices = np.concatenate([vertices, back])
        uv = np.concatenate([uv, _uv(layer.colors, columns, rows)])
    return Surface(
        vertices=vertices * np.float32(camera.near),
        faces=faces,
        front_faces=front_faces,
        uv=uv,
        texture=_texture(photo.rgb, settings.texture_px),
        camera=camera,
        settings=settings,
        tolerance=found.tolerance,
        notes=_notes(found.tolerance, settings),
    )


def span(
    depth: DepthMap,
    photo: SurfacePhoto,
    settings: MeshSettings,
    *,
    first: tuple[float, float],
    second: tuple[float, float],
) -> float:
    """Return the distance between two places of the picture in units of the nearest point's distance.

    A known length in meters over this number is `near_m`, which turns the surface into meters.

    Args:
        depth: Depth.
        photo: Gives the field of view where the settings leave it open.
        settings: Camera and far/near ratio.
        first: One end, 0 to 1 right and down from the photo's top left corner.
        second: The other end.
    """
    width, height = depth.size
    camera = _camera(depth, photo=photo, settings=replace(settings, near_m=None))
    linear = _linear(_far_share(fill_invalid(depth.values)), camera)  # [H, W]
    places = np.array([first, second], dtype=np.float32)
    x = np.clip((places[:, 0] * width).astype(int), 0, width - 1)
    y = np.clip((places[:, 1] * height).astype(int), 0, height - 1)
    ends = _points(places, linear[y, x], camera)
    return float(np.linalg.norm(ends[1] - ends[0]))


def _far_share(values: Grid) -> Grid:
    """Spread depth over [0, 1]; constant depth is all near."""
    return unit_range(values) if np.ptp(values) > 0 else np.zeros_like(values)


def _camera(depth: DepthMap, *, photo: SurfacePhoto, settings: MeshSettings) -> Camera:
    """Return the camera; a far : near ratio that nobody changed is the depth's own, where it has one."""
    (width, height), longest = depth.size, max(depth.size)
    near = 1.0 if settings.near_m is None else float(settings.near_m)
    if settings.projection == "orthographic":
        half = 0.5
        ratio, fov = 1 + settings.ortho_depth, None
    else:
        fov = settings.fov_deg or photo.fov_deg or depth.fov_deg or FOV_DEG
        half = float(np.tan(np.radians(fov) / 2))
        own = depth.far_near if settings.far_near_ratio == MeshSettings.far_near_ratio else None
        ratio = max(own or settings.far_near_ratio, LEAST_RATIO)
    return Camera(
        projection=settings.projection,
        half_width=half * width / longest,
        half_height=half * height / longest,
        fov_deg=fov,
        near=near,
        far=near * ratio,
    )


def _linear(far_share: Grid, camera: Camera) -> Grid:
    """Return what a plane of the scene is linear in, for a nearest point one unit away: float32 [R, C]."""
    distance = np.float32(camera.far / camera.near - 1) * far_share + np.float32(1)
    return distance if camera.projection == "orthographic" else np.float32(1) / distance


def _holes(values: Grid, columns: int, rows: int) -> Mask:
    """Mark the grid cells bool [R-1, C-1] that lie on pixels without a value."""
    invalid = ~np.isfinite(values)
    if not invalid.any():
        return np.zeros((rows - 1, columns - 1), dtype=bool)
    share = Image.fromarray(invalid.astype(np.float32)).resize(
        (columns - 1, rows - 1), Image.Resampling.BILINEAR
    )
    holes: Mask = np.asarray(share) > 0
    return (
        np.zeros_like(holes) if holes.all() else holes
    )  # lone pixels: what was filled in is better than nothing


def _opened(linear: Grid, holes: Mask, settings: MeshSettings) -> tuple[Grid, Mask]:
    """Sharpen jumps where they are to be cut, and mark the cells bool [R-1, C-1] to leave out."""
    if settings.edges == "stretch":
        return linear, holes
    sharp, jumps = sharpened(linear, settings.edge_tol)
    if (holes | jumps).all():
        return linear, holes  # where all is a jump, as in noise, there is nothing to cut out
    return sharp, holes | jumps


def sharpened(linear: Grid, edge_tol: float) -> tuple[Grid, Mask]:
    """Make every jump one cell wide, and mark the cells bool [R-1, C-1] that hold it.

    A depth map climbs a silhouette over several samples, which belong to neither side. Each takes the value
    of the nearer end of its climb, so that the surface ends where the object does.
    """
    climbs = _climbs(linear, edge_tol)
    turned = np.ascontiguousarray(_ends_of_climbs(linear, climbs).T)
    climbs_down = _climbs(turned, edge_tol)
    sharp = np.ascontiguousarray(_ends_of_climbs(turned, climbs_down).T)
    touched = scipy.ndimage.maximum_filter(climbs | climbs_down.T, size=3)
    high, low = np.maximum(sharp[:-1], sharp[1:]), np.minimum(sharp[:-1], sharp[1:])
    span = np.maximum(high[:, :-1], high[:, 1:]) - np.minimum(low[:, :-1], low[:, 1:])
    cells: Mask = span > np.float32(edge_tol) * sharp[:-1, :-1]
    cells &= touched[:-1, :-1] | touched[1:, :-1] | touched[:-1, 1:] | touched[1:, 1:]
    return sharp, cells


def _climbs(linear: Grid, edge_tol: float) -> Mask:
    """Mark samples bool [R, C] that lie on a jump along the rows; the softer, the larger it must be."""
    sharpest = EDGE_REACHES[0]
    climbs: Mask = np.logical_or.reduce(
        [_climbs_within(linear, edge_tol * reach / sharpest, reach=reach) for reach in EDGE_REACHES]
    )
    return climbs


def _climbs_within(linear: Grid, edge_tol: float, *, reach: int) -> Mask:
    """Mark the samples of jumps that are over within the reach, however steep the ground; a plane has none.

    A jump is a change from so many samples before to so many behind that neither the stretch before nor
    the one after shares.
    """
    padded = np.pad(linear, ((0, 0), (reach, reach)), mode="reflect", reflect_type="odd")
    change = np.abs(padded[:, 2 * reach :] - padded[:, : -2 * reach])  # [R, C]
    around = np.pad(change, ((0, 0), (2 * reach, 2 * reach)), mode="edge")
    slope = np.maximum(around[:, : -4 * reach], around[:, 4 * reach :])
    jumps = change - slope > np.float32(edge_tol) * linear
    climbs: Mask = scipy.ndimage.maximum_filter1d(jumps, size=2 * reach - 1, axis=1)
    return climbs


def _ends_of_climbs(linear: Grid, climbs: Mask) -> Grid:
    """Give each sample on a climb the value of the end it is nearer to, row by row."""
    columns = linear.shape[1]
    column = np.arange(columns, dtype=np.int32)
    before = np.maximum.accumulate(np.where(climbs, np.int32(-1), column), axis=1)
    behind = np.minimum.accumulate(np.where(climbs, np.int32(columns), column)[:, ::-1], axis=1)[:, ::-1]
    row, at = np.nonzero(climbs)
    before, behind = before[row, at], behind[row, at]
    before, behind = np.where(before < 0, behind, before), np.where(behind == columns, before, behind)
    first, second = linear[row, np.minimum(before, columns - 1)], linear[row, np.maximum(behind, 0)]
    value = linear[row, at]
    sharp = linear.copy()
    sharp[row, at] = np.where(np.abs(value - first) <= np.abs(value - second), first, second)
    return sharp


def _behind(
    linear: Grid, jumps: Mask, camera: Camera, settings: MeshSettings, *, max_faces: int
) -> SecondLayer | None:
    """Return the layer behind jumps; distance under parallel rays grows with depth, inverse depth falls."""
    if settings.edges == "stretch" or not jumps.any() or max_faces < FEWEST_BEHIND:
        return None
    is_distance = camera.projection == "orthographic"
    layer = second_layer(
        np.float32(1) / linear if is_distance else linear,
        jumps,
        edge_tol=settings.edge_tol,
        tolerance=settings.tolerance,
        max_faces=max_faces,
    )
    return replace(layer, linear=np.float32(1) / layer.linear) if layer is not None and is_distance else layer


def _triangulated(linear: Grid, dropped: Mask, settings: MeshSettings) -> Triangulation:
    forced = None
    if dropped.any():
        # Full resolution around what is dropped, so that only unit triangles go.
        forced = np.zeros(linear.shape, dtype=bool)
        around = scipy.ndimage.maximum_filter(dropped, size=3)
        for corner in (forced[:-1, :-1], forced[1:, :-1], forced[:-1, 1:], forced[1:, 1:]):
            corner |= around
    with_layer = settings.edges == "cut" and settings.behind == "fill"
    most = settings.max_faces * 3 // 4 if with_layer else settings.max_faces
    return triangulate(linear, settings.tolerance, forced=forced, budget=FaceBudget(most))


def _without(faces: Indices, dropped: Mask) -> Indices:
    """Leave out the unit triangles of dropped cells."""
    if not dropped.any():
        return faces
    columns = dropped.shape[1] + 1
    row, column = np.divmod(np.ascontiguousarray(faces.T), np.int32(columns))  # [3, F]
    top, left = np.minimum.reduce(row), np.minimum.reduce(column)
    unit = (np.maximum.reduce(row) - top == 1) & (np.maximum.reduce(column) - left == 1)
    last_row, last_column = dropped.shape[0] - 1, dropped.shape[1] - 1
    kept: Indices = faces[~(unit & dropped[np.minimum(top, last_row), np.minimum(left, last_column)])]
    return kept


def _uv(used: Indices, columns: int, rows: int) -> Points:
    row, column = np.divmod(used, np.int32(columns))
    u, v = np.linspace(0, 1, columns, dtype=np.float32), np.linspace(0, 1, rows, dtype=np.float32)
    return np.column_stack([u[column], v[row]])


def _points(uv: Points, linear: Grid, camera: Camera) -> Points:
    """Follow each vertex's ray to its depth: float32 [V, 3]."""
    x = (2 * uv[:, 0] - 1) * np.float32(camera.half_width)
    y = (1 - 2 * uv[:, 1]) * np.float32(camera.half_height)
    if camera.projection == "orthographic":
        return np.column_stack([x, y, -linear])
    distance = 1 / linear
    return np.column_stack([x * distance, y * distance, -distance])


def _texture(rgb: NDArray[np.uint8], longest: int) -> NDArray[np.uint8]:
    height, width = rgb.shape[:2]
    if max(width, height) <= longest:
        return rgb
    scale = longest / max(width, height)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return np.asarray(Image.fromarray(rgb).resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0))


def _notes(tolerance: float, settings: MeshSettings) -> tuple[str, ...]:
    notes = [] if settings.near_m is not None else [ARBITRARY]
    if tolerance > settings.tolerance:
        notes.append(
            f"The tolerance was raised from {settings.tolerance:g} to {tolerance:.3g}"
            f" to stay under {settings.max_faces:,} triangles."
        )
    return tuple(notes)
