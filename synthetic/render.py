"""From a number to a scene: build it, choose a view, trace, light, photograph."""

import random
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from synthetic.builder import Builder
from synthetic.camera import photograph
from synthetic.closeups import build_closeup
from synthetic.fields import load_fields
from synthetic.landscapes import build_landscape
from synthetic.lighting import L_KIND, NO_RAY, OCCLUSION, light_samples
from synthetic.passages import build_passage
from synthetic.pictures import load_pictures
from synthetic.placing import place_solids
from synthetic.rooms import build_room
from synthetic.shade import ShadingInputs, shade
from synthetic.sky import E_REACH
from synthetic.streets import build_street
from synthetic.tabletops import build_tabletop
from synthetic.trace import World, build_tree
from synthetic.views import View
from synthetic.visibility import see, smooth_edges

# What can be built, and its share of all scenes.
KINDS: dict[str, tuple[float, Callable[[Builder], list[View]]]] = {
    "room": (0.38, build_room),
    "passage": (0.05, build_passage),
    "street": (0.19, build_street),
    "closeup": (0.21, build_closeup),
    "tabletop": (0.10, build_tabletop),
    "landscape": (0.07, build_landscape),
}


@dataclass(frozen=True, eq=False)
class Scene:
    """A photo uint8 [H, W, 3], its z-depth float32 [H, W] in meters, and where it shows sky [H, W]."""

    photo: NDArray[np.uint8]
    depth: NDArray[np.float32]
    sky: NDArray[np.bool_]
    kind: str


def render_scene(seed: int, *, width: int, height: int, kind: str | None = None) -> Scene:
    """Return the made-up scene number `seed`; the same seed, size and kind give the same bytes.

    Threads may call it side by side: the loops hold no interpreter lock.

    Args:
        seed: any integer.
        width: picture width in pixels.
        height: picture height in pixels.
        kind: one of KINDS, or None to draw one by its share.

    Returns:
        The scene. Depth is exact at pixel centers, never blended or blurred; sky is at 1000 m.

    Raises:
        ValueError: the kind is not one of KINDS.
    """
    rng = random.Random(f"scene {seed}")
    if kind is None:
        kind = rng.choices(list(KINDS), [share for share, _ in KINDS.values()])[0]
    if kind not in KINDS:
        raise ValueError(f"No scene is called {kind!r}; there are {', '.join(KINDS)}.")
    b = Builder(rng)
    views = KINDS[kind][1](b)
    world, inputs = build_world(b), gather_shading_inputs(b)
    view = next((v for v in views[:-1] if worth_a_look(world, v)), views[-1])
    row = view.row(width, height)
    depth, seen = see(world, row, (height, width))  # [H, W]
    pattern, strata = ray_pattern(rng, lights=len(inputs.lights), sunny=inputs.lights[0, L_KIND] == 0.0)
    samples = light_samples(
        world, row, depth, seen, inputs.lights, pattern, strata, inputs.env[E_REACH]
    )  # [H, W]
    image = shade(world, inputs, row, depth, seen, samples, pattern)  # [H, W, 3]
    image = smooth_edges(image, seen, world, row)  # [H, W, 3]
    return Scene(photograph(image, depth, view, rng=rng), depth.astype(np.float32), seen < 0, kind)


def build_world(b: Builder) -> World:
    """Return what rays can meet of a built scene."""
    solids, bounds = place_solids(np.array(b.rows, np.float64), np.array(b.frames, np.float64))
    return World(solids, bounds, load_fields(), build_tree(solids, bounds))


def gather_shading_inputs(b: Builder) -> ShadingInputs:
    """Return what gives a built scene its colors."""
    return ShadingInputs(
        np.array(b.materials, np.float64),
        load_pictures(),
        np.array(b.lights, np.float64),
        np.array(b.env, np.float64),
    )


def worth_a_look(world: World, view: View) -> bool:
    """Return whether a thumbnail shows several things, none of them filling it or touching the lens."""
    depth, seen = see(world, view.row(32, 24), (24, 32))  # [24, 32]
    shares = np.bincount(seen.ravel() + 1) / seen.size
    near = np.quantile(depth, 0.03)
    return bool(near > view.clearance and shares.max() < 0.55 and np.count_nonzero(shares) >= view.variety)


def ray_pattern(
    rng: random.Random, *, lights: int, sunny: bool
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return which ray each pixel of a 4x4 tile traces [4, 4] and where it aims [4, 4, 3].

    Averaged over any 4x4 window, every kind of ray is spread evenly: soft shadows without grain.
    """
    cells = [(y, x) for parity in (0, 1) for y in range(4) for x in range(4) if (x + y) % 2 == parity]
    pattern = np.full((4, 4), NO_RAY, np.int64)
    strata = np.zeros((4, 4, 3))
    groups = [(0, 0, 4), (OCCLUSION, 8, 12)]
    if sunny:
        groups += [(1, 4, 8)] if lights > 1 else [(0, 0, 8)]
    for kind, first, last in groups:
        n = last - first
        for k, (y, x) in enumerate(rng.sample(cells[first:last], n)):
            pattern[y, x] = kind
            jitter = (k * 0.618 + rng.random() / n, k * 0.382 + rng.random() / n)
            strata[y, x] = (k + 0.5) / n, jitter[0] % 1.0, jitter[1] % 1.0
    return pattern, strata
