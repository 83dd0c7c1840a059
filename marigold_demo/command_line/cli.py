"""The command line: commands, flags and exit status. Does none of the work itself.

Paths of written files go to stdout, what is meant for a person to stderr. Exit status: 0 done, 2 something
the caller can put right (said in a sentence), 130 stopped by Ctrl-C. Torch, images and geometry are imported
by the command that needs them, so that --help answers at once.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from marigold_demo import __version__
from marigold_demo.command_line.flags import Parser, add_flags
from marigold_demo.command_line.terminal import PROGRAM, say
from marigold_demo.errors import DemoError
from marigold_demo.settings import DepthSettings, MeshSettings, ReliefSettings
from marigold_demo.training.train_settings import TrainSettings

if TYPE_CHECKING:
    from marigold_demo.workflow import Predictor

DONE, WRONG, STOPPED = 0, 2, 130
MESH_FORMATS = ("glb", "obj", "ply")
RELIEF_FORMATS = ("stl", "3mf", "obj", "ply", "glb", "heightmap")
BASELINES = ("rows-only", "constant")


def main(arguments: Sequence[str] | None = None, *, predict: "Predictor | None" = None) -> int:
    """Run one command and return the exit status; the one place where errors become sentences.

    Args:
        arguments: As typed after the program's name; None takes the process's own.
        predict: Stands in for the networks; None takes the checkpoint that the settings name.
    """
    try:
        said = make_parser().parse_args(arguments)
        _run(said, predict)
    except DemoError as error:
        for sentence in str(error).splitlines():
            say(sentence)
        return WRONG
    except KeyboardInterrupt:
        say("Stopped. Files named so far are complete.")
        return STOPPED
    return DONE


def make_parser() -> Parser:
    """Return the parser of all commands; flags come from the settings classes."""
    parser = Parser(prog=PROGRAM, description="Photo to depth to print.", allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(title="commands", dest="command", metavar="COMMAND", required=True)
    _add_depth(commands)
    _add_relief(commands)
    _add_mesh(commands)
    _add_evaluate(commands)
    _add_train(commands)
    _command(commands, "config", "the variables that configure the app -> value, default, meaning")
    return parser


def _run(said: argparse.Namespace, predict: "Predictor | None") -> None:
    from marigold_demo.command_line import commands, configuration

    work = {
        "depth": commands.depth,
        "relief": commands.relief,
        "mesh": commands.mesh,
        "evaluate": commands.evaluate,
        "train": commands.train,
        "config": configuration.config,
    }
    work[said.command](said, predict)


def _add_depth(commands: "argparse._SubParsersAction[Parser]") -> None:
    parser = _command(commands, "depth", "photos -> depth as .npy, 16-bit PNG and coloured PNG")
    parser.add_argument("photos", nargs="+", type=Path, metavar="PHOTO", help="any picture file")
    _add_out(parser)
    parser.add_argument(
        "--colormap", default="Spectral", metavar="NAME", help="of the coloured PNG (default Spectral)"
    )
    parser.add_argument(
        "--contours", type=int, default=0, metavar="N", help="lines of equal depth in it, 0 to 40 (default 0)"
    )
    _add_recipe(parser)
    add_flags(parser, DepthSettings(), title="depth")


def _add_relief(commands: "argparse._SubParsersAction[Parser]") -> None:
    parser = _command(commands, "relief", "photo or depth -> watertight relief in millimetres")
    _add_source(parser, photo_for="brightness, where --source is luminance")
    _add_out(parser)
    _add_format(parser, RELIEF_FORMATS)
    parser.add_argument(
        "--preset", metavar="NAME", help="start from the settings of portrait, landscape, coin, ..."
    )
    parser.add_argument(
        "--report",
        action="store_true",
        help="check the file for printing: tell size, weight, slopes, soundness",
    )
    _add_recipe(parser)
    add_flags(parser, DepthSettings(), title="depth, where a photo is given")
    add_flags(parser, ReliefSettings(), title="relief", renamed={"resolution": "relief_resolution"})


def _add_mesh(commands: "argparse._SubParsersAction[Parser]") -> None:
    parser = _command(commands, "mesh", "photo or depth -> textured surface, .glb")
    _add_source(parser, photo_for="the texture")
    _add_out(parser)
    _add_format(parser, MESH_FORMATS)
    _add_recipe(parser)
    add_flags(parser, DepthSettings(), title="depth, where a photo is given")
    add_flags(parser, MeshSettings(), title="mesh", renamed={"resolution": "mesh_resolution"})


def _add_evaluate(commands: "argparse._SubParsersAction[Parser]") -> None:
    parser = _command(commands, "evaluate", "photos with known depth -> AbsRel, delta1 and rank correlation")
    parser.add_argument(
        "root",
        type=Path,
        metavar="ROOT",
        help="folder with manifest.csv, or with nyuv2, kitti, eth3d, scannet, diode",
    )
    parser.add_argument(
        "--output", type=Path, metavar="TABLE.json", help="write the table; a .csv of all images beside it"
    )
    parser.add_argument(
        "--resume", action="store_true", help="go on with the images that are not in the .csv yet"
    )
    parser.add_argument("--only", metavar="NAMES", help="sources to evaluate, joined by commas")
    parser.add_argument(
        "--every", type=int, default=1, metavar="N", help="take every N-th image only (default 1)"
    )
    parser.add_argument("--baseline", choices=BASELINES, help="score this in place of a checkpoint")
    add_flags(parser, DepthSettings(), title="depth")


def _add_train(commands: "argparse._SubParsersAction[Parser]") -> None:
    parser = _command(commands, "train", "photos with depth -> a checkpoint, by the paper's protocol")
    add_flags(parser, TrainSettings(), title="training")


def _command(commands: "argparse._SubParsersAction[Parser]", name: str, purpose: str) -> Parser:
    return commands.add_parser(name, help=purpose, description=f"{purpose}.", allow_abbrev=False)


def _add_source(parser: Parser, *, photo_for: str) -> None:
    help_text = "any picture file, or a depth file: .npy, .npz or 16-bit grey PNG (0 near, 1 far)"
    parser.add_argument("source", type=Path, metavar="PHOTO_OR_DEPTH", help=help_text)
    parser.add_argument(
        "--photo", type=Path, metavar="PHOTO", help=f"with a depth file: the photo, for {photo_for}"
    )


def _add_out(parser: Parser) -> None:
    parser.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="folder to write to; made where missing"
    )


def _add_recipe(parser: Parser) -> None:
    help_text = "start from a recipe, or from a 3MF, PNG or GLB that carries one; flags override it"
    parser.add_argument("--recipe", type=Path, metavar="FILE", help=help_text)


def _add_format(parser: Parser, formats: tuple[str, ...]) -> None:
    help_text = f"any of {', '.join(formats)}, joined by commas (default {formats[0]})"
    parser.add_argument("--format", default=formats[0], metavar="NAMES", help=help_text)
