"""Photo to depth to print: the public API. Importing it loads no network library.

import marigold_demo

depth = marigold_demo.load().estimate("photo.jpg")
marigold_demo.make_relief(depth, width_mm=120).save("relief.stl")
"""

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

# Before torch: threads that wait for each other soon sleep. By default they spin, and on a busy machine a
# thread that spins uses up the time slice that the others need (`benchmarks/busy.py`: over 10 times slower).
# GNU's OpenMP spins for a moment first, because sleeping at once costs a tenth and more on an idle machine.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("GOMP_SPINCOUNT", "10000")

if TYPE_CHECKING:
    from marigold_demo.api import Mesh, Model, Relief, estimate, load, make_mesh, make_relief, save
    from marigold_demo.depth import DepthMap
    from marigold_demo.errors import DemoError
    from marigold_demo.io.photo import Photo, load_photo
    from marigold_demo.settings import DepthSettings, MeshSettings, ReliefSettings

__version__ = "0.2.0"
__all__ = [
    "DemoError",
    "DepthMap",
    "DepthSettings",
    "Mesh",
    "MeshSettings",
    "Model",
    "Photo",
    "Relief",
    "ReliefSettings",
    "__version__",
    "estimate",
    "load",
    "load_photo",
    "make_mesh",
    "make_relief",
    "save",
]
_MODULES = {
    "DemoError": "errors",
    "DepthMap": "depth",
    "DepthSettings": "settings",
    "MeshSettings": "settings",
    "ReliefSettings": "settings",
    "Photo": "io.photo",
    "load_photo": "io.photo",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_MODULES.get(name, 'api')}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
