import math
import random
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from synthetic import KINDS, render_scene
from synthetic import pictures as pictures_module
from synthetic.builder import Builder
from synthetic.camera import compress, lens_blur
from synthetic.compiled import source_digest
from synthetic.fields import HILLS, field_height
from synthetic.lighting import NO_RAY, OCCLUSION
from synthetic.primitives import BALL, BOX, FRUSTUM, PUFF4, PUFF8, RELIEF, ROUND_CONE
from synthetic.render import build_world, ray_pattern
from synthetic.trace import DEEPEST, blocked, hit
from synthetic.views import View, look
from synthetic.visibility import FAR, NEAR, look_through, see, smooth_edges

SIZE = (36, 48)  # H, W


def directions(view):
    """Rays [H, W, 3] of forward component 1, from the angles alone."""
    y, p = math.radians(view.yaw), math.radians(view.pitch)
    ahead = np.array((-math.sin(y) * math.cos(p), math.cos(y) * math.cos(p), math.sin(p)))
    right = np.array((math.cos(y), math.sin(y), 0.0))
    up = np.cross(right, ahead)
    focal = SIZE[1] / 2 / math.tan(math.radians(view.fov) / 2)  # pixels
    v, u = np.mgrid[0 : SIZE[0], 0 : SIZE[1]] + 0.5
    return (
        ahead + ((u - SIZE[1] / 2) / focal)[..., None] * right + ((SIZE[0] / 2 - v) / focal)[..., None] * up
    )


def render_depth(build, view):
    b = Builder(random.Random(1))
    build(b)
    world = build_world(b)
    return world, *see(world, view.row(SIZE[1], SIZE[0]), SIZE)


def test_a_floor_has_the_depth_of_the_formula():
    view = View((0.3, -0.2, 1.5), yaw=20, pitch=-25, fov=70)
    _, depth, seen = render_depth(lambda b: b.box((0, 0, -0.5), (500, 500, 0.5), 0), view)
    rays = directions(view)
    down = rays[..., 2] < -0.01
    np.testing.assert_allclose(depth[down], 1.5 / -rays[..., 2][down], rtol=1e-9)
    assert (seen[rays[..., 2] > 0] == -1).all()
    assert (depth[rays[..., 2] > 0] == FAR).all()


def test_a_ball_has_the_depth_of_the_formula():
    view = View((0, 0, 0), yaw=-10, pitch=5, fov=60)
    center, radius = np.array((0.2, 4.0, -0.1)), 1.3
    _, depth, seen = render_depth(lambda b: b.ball(tuple(center), (radius,) * 3, 0), view)
    rays = directions(view)
    a, half_b = (rays**2).sum(-1), rays @ center
    inside = half_b**2 - a * (center @ center - radius**2)
    assert ((inside >= 0) == (seen == 0)).all()
    met = inside >= 0
    expected = (half_b[met] - np.sqrt(inside[met])) / a[met]
    np.testing.assert_allclose(depth[met], expected, rtol=1e-9)


def test_a_room_seen_from_inside_has_the_depth_of_its_nearest_wall():
    view = View((0.4, -0.3, 0.2), yaw=35, pitch=-12, fov=80)
    half = np.array((2.0, 3.0, 1.2))
    _, depth, _ = render_depth(lambda b: b.box((0, 0, 0), tuple(half), 0), view)
    rays = directions(view)
    leave = (np.sign(rays) * half - np.array(view.place)) / rays
    np.testing.assert_allclose(depth, leave.min(-1), rtol=1e-9)


def outside(kind, shape, fields, p):
    """A function of local points [..., 3] that is 0 on the surface, > 0 outside and < 0 inside."""
    a, b = shape
    x, y, z = np.moveaxis(p, -1, 0)
    if kind == BOX:
        return np.abs(p).max(-1) - 1
    if kind == BALL:
        return (p**2).sum(-1) - 1
    if kind in (PUFF4, PUFF8):
        return (p ** (4 if kind == PUFF4 else 8)).sum(-1) - 1
    if kind == FRUSTUM:
        return np.maximum(np.hypot(x, y) - (1 + (a - 1) * (z + 1) / 2), np.abs(z) - 1)
    if kind == RELIEF:
        flat = zip(x.ravel(), y.ravel(), strict=True)
        heights = [field_height(fields, shape, float(u), float(v)) for u, v in flat]
        return z - np.reshape(heights, z.shape)
    steps = np.linspace(0, 1, 4001)  # a round cone: the union of balls along its axis
    away = np.hypot(np.hypot(x, y)[..., None], z[..., None] - a * steps) - (1 + (b - 1) * steps)
    return away.min(-1)


@pytest.mark.parametrize("kind", [BOX, BALL, FRUSTUM, PUFF4, PUFF8, ROUND_CONE, RELIEF])
def test_what_is_seen_of_a_solid_lies_on_its_surface_and_nothing_of_it_is_nearer(kind):
    def build(b):
        with b.at((0.1, 5.0, 0.2), 0.7, pitch=0.3, roll=-0.2, scale=1.1):
            if kind == ROUND_CONE:
                b.limb((-0.8, 0, -0.4), (0.7, 0.3, 0.5), 0.7, 0, tip=0.35, flat=0.8)
            elif kind == RELIEF:
                b.relief((0, 0, 0), (1.8, 1.2, 0.5), 0, fields=HILLS, span=-0.7)
            else:
                b.solid(
                    kind,
                    (0, 0, 0),
                    (1.0, 0.7, 0.9),
                    m=0,
                    turn=(0.4, 0.2, -0.5),
                    a=0.6 if kind == FRUSTUM else 1.0,
                )

    view = View(
        (0, 0, 0.8 if kind != RELIEF else 2.5),
        *look((0, 0, 0.8 if kind != RELIEF else 2.5), (0.1, 5, 0.2)),
        fov=45,
    )
    world, depth, seen = render_depth(build, view)
    assert 0.05 < (seen == 0).mean() < 0.9
    solid = world.solids[0]
    rays = directions(view)[seen == 0]
    place = np.array(view.place)
    t = depth[seen == 0]

    def at(t):
        return (place + t[:, None] * rays - solid[:3]) @ solid[3:12].reshape(3, 3).T

    shape = (solid[12], solid[13])
    # float tolerance of Newton (puffs), of the 4001 balls (round cone), of 24 halvings (relief)
    assert np.abs(outside(kind, shape, world.fields, at(t))).max() < 2e-4
    for share in (0.5, 0.8, 0.95, 0.99):
        nearer = at(t * share)
        free = outside(kind, shape, world.fields, nearer) > -1e-9
        assert (free | (np.abs(nearer).max(-1) > 1.0)).all()


def some_world():
    def build(b):
        r = b.rng
        for _ in range(40):
            place, half = [
                tuple(r.uniform(low, high) for _ in range(3)) for low, high in ((-3, 3), (0.1, 0.6))
            ]
            b.solid(r.choice((BOX, BALL, FRUSTUM, PUFF4)), place, half, m=0, turn=(r.random(), r.random(), 0))
            b.limb(place, half, 0.1, 0, tip=0.2)

    return render_depth(build, View((0, -6, 0)))


def test_the_tree_of_boxes_blocks_the_rays_that_some_solid_blocks():
    world, _, _ = some_world()
    rng = np.random.default_rng(5)
    stack = np.empty(DEEPEST, np.int64)
    found = 0
    for start, end in rng.uniform(-4, 4, (300, 2, 3)):
        o, d = tuple(start), tuple(end - start)
        hits = [hit(world.solids, world.fields, p, o, d, (1e-4, 1.0)) for p in range(len(world.solids))]
        blocks = any(0 < t < 1 for t in hits)
        assert (blocked(world.solids, world.fields, world.tree, stack, o, d, 1.0) > 0) == blocks
        found += blocks
    assert 50 < found < 290


def test_the_nearest_solid_is_seen_whatever_the_drawing_rectangles():
    world, depth, seen = some_world()
    row = View((0, -6, 0)).row(SIZE[1], SIZE[0])
    for y in range(0, SIZE[0], 5):
        for x in range(0, SIZE[1], 5):
            d = look_through(row, x + 0.5, y + 0.5, SIZE)
            hits = [
                hit(world.solids, world.fields, p, (0.0, -6.0, 0.0), d, (NEAR, FAR))
                for p in range(len(world.solids))
            ]
            met = [t for t in hits if t > 0]
            assert depth[y, x] == pytest.approx(min(met) if met else FAR, rel=1e-9)
            assert (seen[y, x] >= 0) == bool(met)


def test_outlines_are_smoothed_and_all_else_is_left_alone():
    world, _, seen = some_world()
    image = np.random.default_rng(0).random((*SIZE, 3)).astype(np.float32)
    smooth = smooth_edges(image, seen, world, View((0, -6, 0)).row(SIZE[1], SIZE[0]))
    padded = np.pad(seen, 1, mode="edge")
    around = [
        padded[1 + j : 1 + j + SIZE[0], 1 + i : 1 + i + SIZE[1]]
        for j, i in ((0, 1), (1, 0), (0, -1), (-1, 0))
    ]
    outline = np.any([a != seen for a in around], axis=0)
    np.testing.assert_array_equal(smooth[~outline], image[~outline])
    assert (smooth[outline] != image[outline]).any(-1).mean() > 0.3


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_gives_a_lively_photo_with_finite_depth_and_sky_only_where_nothing_is(kind):
    for seed in range(3):
        scene = render_scene(seed, width=SIZE[1], height=SIZE[0], kind=kind)
        assert scene.kind == kind
        assert scene.photo.shape == (*SIZE, 3) and scene.photo.dtype == np.uint8
        assert scene.depth.shape == SIZE and scene.depth.dtype == np.float32
        assert np.isfinite(scene.depth).all() and (scene.depth > 0).all()
        assert scene.photo.std() > 5
        np.testing.assert_array_equal(scene.sky, scene.depth == FAR)
        assert np.ptp(scene.depth) > 0.05


def test_the_same_number_gives_the_same_bytes_also_from_threads():
    def picture(seed):
        scene = render_scene(seed, width=32, height=24)
        return scene.kind, scene.photo.tobytes(), scene.depth.tobytes(), scene.sky.tobytes()

    alone = [picture(seed) for seed in range(6)]
    with ThreadPoolExecutor(3) as pool:
        assert list(pool.map(picture, range(6))) == alone
    assert len({photo for _, photo, _, _ in alone}) == 6


def test_depth_does_not_depend_on_the_picture_size():
    small = render_scene(11, width=16, height=12, kind="room")
    large = render_scene(11, width=48, height=36, kind="room")
    # the center of a small pixel is the center of the middle one of its 3x3
    np.testing.assert_allclose(large.depth[1::3, 1::3], small.depth, rtol=1e-6)


def test_an_unknown_kind_is_refused_with_the_kinds_there_are():
    with pytest.raises(ValueError, match=r"No scene is called 'dream'; there are room, .*landscape"):
        render_scene(0, width=8, height=8, kind="dream")


def test_the_lens_leaves_alone_what_is_in_focus_and_smooths_what_is_not():
    rng = np.random.default_rng(0)
    image = rng.random((*SIZE, 3)).astype(np.float32)
    depth = np.full(SIZE, 2.0)
    depth[:, 24:] = 20.0
    blurred = lens_blur(image, depth, 2.0, 12.0, 6.0)
    np.testing.assert_allclose(blurred[:, :16], image[:, :16])
    assert blurred[:, 30:].std() < 0.5 * image[:, 30:].std()


def test_jpeg_keeps_size_and_changes_little():
    gradient = np.broadcast_to(np.linspace(0, 255, 48).astype(np.uint8)[None, :, None], (*SIZE, 3))
    assert np.abs(compress(gradient, quality=90).astype(int) - gradient).max() < 12


@pytest.mark.parametrize(
    ("lights", "sunny", "rays"), [(1, True, (8, 0)), (2, True, (4, 4)), (2, False, (4, 0))]
)
def test_rays_of_each_light_are_spread_evenly_over_every_tile(lights, sunny, rays):
    pattern, strata = ray_pattern(random.Random(3), lights=lights, sunny=sunny)
    for light, count in enumerate(rays):
        places = np.sort(strata[pattern == light, 0])
        np.testing.assert_allclose(places, (np.arange(count) + 0.5) / max(count, 1))
    assert (pattern == OCCLUSION).sum() == 4
    assert (pattern == NO_RAY).sum() == 12 - sum(rays)


def test_views_stand_square_and_look_at_their_target():
    place, target = (1.0, 2.0, 3.0), (-2.0, 5.0, 1.0)
    yaw, pitch = look(place, target)
    row = View(place, yaw, pitch, roll=17, fov=50).row(64, 48)
    axes = row[3:12].reshape(3, 3)
    np.testing.assert_allclose(axes @ axes.T, np.eye(3), atol=1e-12)
    toward = np.subtract(target, place)
    np.testing.assert_allclose(axes[2], toward / np.linalg.norm(toward), atol=1e-12)
    assert row[12] == pytest.approx(math.tan(math.radians(25)))
    assert row[13] == pytest.approx(row[12] * 48 / 64)


def test_pictures_are_there_without_scikit_image(monkeypatch):
    monkeypatch.setattr(pictures_module, "find_spec", lambda name: None)
    made_up = pictures_module.load_pictures.__wrapped__()
    assert made_up.shape == (len(pictures_module.NAMES), 256, 256, 3)
    assert 0 <= made_up.min() and made_up.max() <= 1 and made_up.std(axis=(1, 2)).min() > 0.02


def test_a_cached_loop_is_renewed_when_any_loop_changes():
    assert see.__module__ and smooth_edges.py_func.__qualname__ == f"smooth_edges_{source_digest()}"
