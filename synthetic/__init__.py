"""Rendered scenes (rooms, streets, landscapes, close-ups) with exact depth, as training data."""

from synthetic.render import KINDS, Scene, render_scene

__all__ = ["KINDS", "Scene", "render_scene"]
