"""Depth, reliefs and surfaces as bytes of files, and the one place that writes them."""
