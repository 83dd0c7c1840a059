"""Photo to depth to print: the public names and the version."""

__version__ = "0.1.0"
