"""Depth -> solids and surfaces: heights, triangles, frames, cuts, and the proof that a solid is one."""
