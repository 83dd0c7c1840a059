"""Relief and mesh against a straightforward loop over pixels: time, peak memory, faces, size, soundness.

Usage:
    python benchmarks/relief.py              every size, every stage, memory in processes of their own
    python benchmarks/relief.py --quick      1024 px only, as lines `ms NAME VALUE` and `ratio NAME VALUE`

Depth is made up here (smooth forms, cliffs, fine texture, slight noise), or read with --depth FILE.npy; the
photo is one of the examples.
"""

import argparse
import resource
import statistics
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from marigold_demo.depth import DepthMap
from marigold_demo.examples import FOLDER as EXAMPLES
from marigold_demo.geometry.bas_relief import compress, unit_range
from marigold_demo.geometry.heightfield import smoothed, with_photo_detail
from marigold_demo.geometry.relief import build_relief, build_report
from marigold_demo.geometry.rtin import triangulate
from marigold_demo.geometry.solid import Quality, build_solid, check_mesh
from marigold_demo.geometry.textured_mesh import build_surface
from marigold_demo.io import export
from marigold_demo.io.mesh_files import from_stl
from marigold_demo.io.photo import Photo
from marigold_demo.settings import MeshSettings, ReliefSettings

SIZES = (512, 1024, 2048)


def main() -> None:
    """Read the arguments and print the figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="1024 px only, in lines for machines")
    parser.add_argument("--depth", type=Path, help="a .npy of depth, 0 near .. 1 far")
    parser.add_argument("--only", help="run one job and print its figures; used for the memory of each")
    parser.add_argument("--size", type=int, default=1024)
    chosen = parser.parse_args()
    depth = np.load(chosen.depth).astype(np.float32) if chosen.depth else made_up(chosen.size)
    if chosen.only:
        alone(chosen.only, depth, chosen.size)
    elif chosen.quick:
        quick(depth)
    else:
        whole(chosen.depth)


def made_up(longest: int) -> NDArray[np.float32]:
    """Smooth forms, cliffs, fine texture and the slight noise of a prediction: float32 [H, W], 0 near."""
    height, width = longest * 3 // 4, longest
    y, x = np.mgrid[:height, :width].astype(np.float32) / longest
    depth = 0.7 + 0.3 * y + 0.02 * np.sin(60 * x) * np.cos(45 * y)
    for cx, cy, r, near in ((0.35, 0.4, 0.22, 0.1), (0.72, 0.5, 0.14, 0.35), (0.6, 0.15, 0.09, 0.5)):
        inside = 1 - ((x - cx) / r) ** 2 - ((y - cy) / r) ** 2
        ball = (
            near + 0.15 - 0.15 * np.sqrt(np.clip(inside, 0, None)) + 0.004 * np.sin(300 * x) * np.sin(280 * y)
        )
        depth = np.where(inside > 0, ball, depth)
    noise = np.random.default_rng(0).normal(0, 4e-4, depth.shape)
    return unit_range((depth + noise).astype(np.float32))


def loop(depth: NDArray[np.float32], longest: int) -> bytes:
    """Extrude pixel by pixel, as one would write it down first: 100 mm wide, 3 mm high on 1.6 mm."""
    height, width = depth.shape
    pitch = 100 / (max(width, height) - 1)
    vertices, faces = [], []
    for r in range(height):
        for c in range(width):
            vertices.append((c * pitch, (height - 1 - r) * pitch, 1.6 + 3 * (1 - float(depth[r, c]))))
    for r in range(height - 1):
        for c in range(width - 1):
            a, b, d, e = r * width + c, r * width + c + 1, (r + 1) * width + c, (r + 1) * width + c + 1
            faces += [(a, d, b), (b, d, e)]
    border = [r * width for r in range(height)] + [(height - 1) * width + c for c in range(1, width)]
    border += [r * width + width - 1 for r in range(height - 2, -1, -1)] + list(range(width - 2, 0, -1))
    below = len(vertices)
    for above in border:
        vertices.append((vertices[above][0], vertices[above][1], 0.0))
    middle = len(vertices)
    vertices.append(((width - 1) * pitch / 2, (height - 1) * pitch / 2, 0.0))
    for k in range(len(border)):
        following = (k + 1) % len(border)
        a, b, d, e = border[k], border[following], below + k, below + following
        faces += [(a, d, b), (b, d, e), (d, middle, e)]
    parts = [b"loop".ljust(80), struct.pack("<I", len(faces))]
    for i, j, k in faces:
        p, q, s = vertices[i], vertices[j], vertices[k]
        u, v = [q[n] - p[n] for n in range(3)], [s[n] - p[n] for n in range(3)]
        normal = (u[1] * v[2] - u[2] * v[1], u[2] * v[0] - u[0] * v[2], u[0] * v[1] - u[1] * v[0])
        length = (normal[0] ** 2 + normal[1] ** 2 + normal[2] ** 2) ** 0.5 or 1.0
        parts.append(struct.pack("<12fH", *(n / length for n in normal), *p, *q, *s, 0))
    return b"".join(parts)


def ours(depth: NDArray[np.float32], longest: int) -> bytes:
    """Build the default relief at a resolution, the photo's detail included, and write its STL."""
    relief = build_relief(DepthMap(depth), ReliefSettings(resolution=longest), photo=a_photo(depth))
    return export.stl(relief)


def a_photo(depth: NDArray[np.float32]) -> Photo:
    """Return an example photo at the size of a depth map."""
    height, width = depth.shape
    with Image.open(EXAMPLES / "raccoon.jpg") as picture:
        rgb = np.asarray(picture.convert("RGB").resize((width, height), Image.Resampling.BICUBIC))
    return Photo(rgb=rgb, stem="raccoon")


def jobs(depth: NDArray[np.float32], longest: int) -> dict[str, Callable[[], object]]:
    """Return every job of the table by name."""
    whole_depth, settings = DepthMap(depth), ReliefSettings(resolution=longest)
    photo = a_photo(depth)
    relief = build_relief(whole_depth, settings, photo=photo)
    mesh = MeshSettings(resolution=longest)
    data = export.stl(relief)
    return {
        "relief_stl": lambda: export.stl(build_relief(whole_depth, settings, photo=photo)),
        "relief_3mf": lambda: export.threemf(build_relief(whole_depth, settings, photo=photo)),
        "relief_preview_glb": lambda: export.preview_glb(
            build_relief(whole_depth, settings.preview(), photo=photo)
        ),
        "mesh_glb": lambda: export.glb(build_surface(whole_depth, photo, mesh)),
        "mesh_preview_glb": lambda: export.glb(build_surface(whole_depth, photo, mesh.preview())),
        "print_report": lambda: build_report(relief, "piece.stl", data),
    }


def stages(depth: NDArray[np.float32], longest: int) -> dict[str, Callable[[], object]]:
    """Return the stages of a relief by name."""
    settings = ReliefSettings(resolution=longest)
    photo = a_photo(depth)
    relief = build_relief(DepthMap(depth), settings, photo=photo)
    size = relief.heights.shape[1], relief.heights.shape[0]
    quality = Quality(settings.tolerance_mm, settings.max_faces)
    nearness = unit_range(-smoothed(depth, settings.smooth_px, size=size))
    return {
        "resize_and_smooth": lambda: smoothed(depth, settings.smooth_px, size=size),
        "compress": lambda: compress(nearness, detail=settings.detail, feature_scale=settings.form_size),
        "photo_detail": lambda: with_photo_detail(nearness, photo.rgb, amount=settings.photo_detail),
        "triangulate": lambda: triangulate(relief.heights, settings.tolerance_mm),
        "solid": lambda: build_solid(relief.field, quality),
        "write_stl": lambda: export.stl(relief),
        "write_3mf": lambda: export.threemf(relief),
    }


def median_ms(job: Callable[[], object], *, times: int = 5) -> float:
    """Return the median time of a job in milliseconds, the first run left out."""
    job()
    spent = []
    for _ in range(times):
        start = time.perf_counter()
        job()
        spent.append((time.perf_counter() - start) * 1000)
    return statistics.median(spent)


def least_cpu_ms(job: Callable[[], object], *, times: int = 3) -> float:
    """Return the least processor time of a job in milliseconds: what it would take on an idle machine."""
    spent = []
    for _ in range(times):
        start = time.process_time()
        job()
        spent.append((time.process_time() - start) * 1000)
    return min(spent)


def quick(depth: NDArray[np.float32]) -> None:
    """Print the figures at 1024 px."""
    spent = {name: median_ms(job) for name, job in jobs(depth, 1024).items()}
    for name, value in spent.items():
        print(f"ms {name} {value:.0f}")
    start = time.perf_counter()
    slow = loop(depth, 1024)
    print(f"ms loop_stl {(time.perf_counter() - start) * 1000:.0f}")
    print(f"ratio loop_over_relief_stl_time {(time.perf_counter() - start) * 1000 / spent['relief_stl']:.1f}")
    print(f"ratio loop_over_relief_stl_bytes {len(slow) / len(ours(depth, 1024)):.1f}")


def alone(name: str, depth: NDArray[np.float32], longest: int) -> None:
    """Run one job in this process and print time, peak memory, faces, bytes and soundness."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    data = {"loop": loop, "ours": ours}[name](depth, longest)
    spent = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = check_mesh(from_stl(data)["corners"])
    print(
        f"{spent:.2f} {peak / 1024:.0f} {before / 1024:.0f} {found.faces} {len(data) / 1e6:.1f} {found.solid}"
    )


def whole(depth_file: Path | None) -> None:
    """Print tables of all sizes."""
    print("size  job    s      peak MB  (before)  faces      STL MB  sound")
    for size in SIZES:
        for job in ("ours", "loop"):
            command = [sys.executable, __file__, "--only", job, "--size", str(size)]
            if depth_file:
                command += ["--depth", str(depth_file)]
            found = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
            spent, peak, before, faces, megabytes, sound = found
            print(f"{size:<5} {job:6} {spent:6} {peak:8} {before:9} {int(faces):<10,} {megabytes:7} {sound}")
    for size in SIZES:
        depth = np.load(depth_file).astype(np.float32) if depth_file else made_up(size)
        print(f"\n{size} px, ms: median of 5 by the wall clock; least processor time of 3")
        for name, job in (jobs(depth, size) | stages(depth, size)).items():
            print(f"  {name:20} {median_ms(job):7.0f} {least_cpu_ms(job):7.0f}")


if __name__ == "__main__":
    main()
