"""The command that prints how the app would be served here. Knows nothing of serving."""

import argparse
import os

from marigold_demo.cli.terminal import answer
from marigold_demo.serving.config import Configuration, read_configuration, shown
from marigold_demo.workflow import Predictor


def config(said: argparse.Namespace, predict: Predictor | None) -> None:
    """Print every variable with its value, its default and its meaning.

    Raises:
        SettingsError: One of them has a value that cannot be used.
    """
    answer(as_text(read_configuration(os.environ)))


def as_text(configuration: Configuration) -> str:
    """Return one row for each variable; a star marks a value that is not the default."""
    rows = [("  VARIABLE", "VALUE", "DEFAULT", "MEANING")]
    for line in shown(configuration):
        mark = "  " if line.value == line.default else "* "
        rows.append((f"{mark}{line.name}", line.value, line.default, line.help))
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    return "\n".join(
        "  ".join((*(cell.ljust(width) for cell, width in zip(row[:3], widths, strict=True)), row[3]))
        for row in rows
    )
