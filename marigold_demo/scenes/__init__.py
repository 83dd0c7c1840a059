"""Photo-like pictures of made-up scenes with their exact depth.

Knows nothing of networks, training or files.
"""

from marigold_demo.scenes.render import KINDS, Scene, render_scene

__all__ = ["KINDS", "Scene", "render_scene"]
