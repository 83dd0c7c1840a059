"""A photo -> depth, a relief to print and a textured mesh: python examples/photo_to_relief.py [PHOTO]."""

import sys
from pathlib import Path

import marigold_demo
from marigold_demo.examples import FOLDER

photo = Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER / "chelsea.jpg"
out = Path("out")

depth = marigold_demo.load().estimate(photo)
marigold_demo.save(depth, out / f"{photo.stem}_depth.png")

relief = marigold_demo.make_relief(depth, width_mm=120, relief_mm=4, photo=photo)
print(
    relief.save(out / f"{photo.stem}.stl"), "of", " x ".join(f"{side:.4g}" for side in relief.size_mm), "mm"
)

mesh = marigold_demo.make_mesh(depth, photo)
print(mesh.save(out / f"{photo.stem}.glb"), f"with {len(mesh.faces):,} triangles")
