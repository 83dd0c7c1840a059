"""Depth -> reliefs and textured meshes: heights, triangles, frames, cut-outs, holes, and their checks."""
