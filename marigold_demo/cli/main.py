"""The command line: commands, flags and exit status.

Paths of written files go to stdout, what is meant for a person to stderr. Exit status: 0 done, 2 something
the caller can put right (a sentence says what), or not all that stdout should have got has reached it; 130
stopped by Ctrl-C. Torch, images and geometry are imported
by the command that needs them, so that --help answers at once.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from marigold_demo import __version__
from marigold_demo.cli.terminal import PROGRAM, Parser, add_file_flags, add_flags, print_err, undelivered
from marigold_demo.errors import DemoError, SettingsError
from marigold_demo.io.formats import formats_of
from marigold_demo.settings import RELIEF_PRESETS, DepthSettings, MeshSettings, ReliefSettings
from marigold_demo.training import TrainSettings

if TYPE_CHECKING:
    from marigold_demo.workflow import Predictor

DONE, WRONG, STOPPED = 0, 2, 130
COMMANDS = ("app", "depth", "relief", "mesh", "evaluate", "train", "config")
MESH_FORMATS, RELIEF_FORMATS = tuple(formats_of("mesh")), tuple(formats_of("relief"))
DEPTH_FILES = tuple(formats_of("depth", "picture"))
COLORMAPS = ("viridis", "magma", "inferno", "plasma", "cividis", "gray", "turbo", "Spectral")
DEPTH_SOURCES = ("prediction", "phone")
BASELINES = ("rows-only", "constant")
_PICTURE = "a picture (JPEG, PNG, HEIC, AVIF, WebP, TIFF, ...), a pipe, or - for standard input"

_MANY = "or several: files, folders, patterns in quotes, and .txt lists with one of these a line"


def main(arguments: Sequence[str] | None = None, *, predict: "Predictor | None" = None) -> int:
    """Run one command and return the exit status; the one place where errors become sentences.

    Args:
        arguments: As typed after the program's name; None takes the process's own.
        predict: Stands in for the networks; None takes the checkpoint that the settings name.
    """
    undelivered()  # of an earlier command in this process
    try:
        _run(_parse(sys.argv[1:] if arguments is None else arguments), predict)
        status = DONE
    except DemoError as error:
        print_err(str(error))
        status = WRONG
    except KeyboardInterrupt:
        print_err("Stopped. Files named so far are complete.")
        status = STOPPED
    except SystemExit:  # --help and --version end like this
        if problem := undelivered():
            print_err(problem)
            raise SystemExit(WRONG) from None
        raise
    if problem := undelivered():
        print_err(problem)
    return status or (WRONG if problem else DONE)


def make_parser() -> Parser:
    """Return the parser of all commands; flags come from the settings classes."""
    parser = Parser(prog=PROGRAM, description="Photo to depth to print.", allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(title="commands", dest="command", metavar="COMMAND", required=True)
    _add_app(commands)
    _add_depth(commands)
    _add_relief(commands)
    _add_mesh(commands)
    _add_evaluate(commands)
    _add_train(commands)
    _command(commands, "config", "the variables that configure the app -> value, default, meaning")
    return parser


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    try:
        return make_parser().parse_args(arguments)
    except SettingsError as error:
        files = [name for name in arguments if name.startswith("-") and Path(name).is_file()]
        hint = f" A file whose name begins with a dash is given as ./{files[0]}" if files else ""
        raise SettingsError(f"{error}{hint}") from error


def _run(args: argparse.Namespace, predict: "Predictor | None") -> None:
    if args.command == "app":
        _start_app(args)
    from marigold_demo.cli import commands

    getattr(commands, args.command)(args, predict)


def _start_app(args: argparse.Namespace) -> NoReturn:
    """Serve the page; the process ends with it."""
    from marigold_demo.serving.config import prepare

    configuration = prepare(host=args.host, port=args.port)  # before the next import
    from marigold_demo.app import App

    App(configuration).run()


def _add_app(commands: "argparse._SubParsersAction[Parser]") -> None:
    parser = _command(commands, "app", "start the page and print its URL")
    parser.description = f"{parser.description} `{PROGRAM} config` lists the variables that configure it."
    parser.add_argument("--host", metavar="ADDRESS", help="listen there, in place of GRADIO_SERVER_NAME")
    parser.add_argument("--port", type=int, metavar="N", help="and there, in place of GRADIO_SERVER_PORT")


def _add_depth(commands: "argparse._SubParsersAction[Parser]") -> None:
    parser = _command(commands, "depth", "photos -> depth as .npy, 16-bit PNG and colored PNG")
    help_text = f"{_PICTURE}; {_MANY}"
    parser.add_argument("sources", nargs="+", type=Path, metavar="PHOTO", help=help_text)
    _add_out(parser)
    _add_many(parser)
    help_text = f"any of {', '.join(DEPTH_FILES)}, joined by commas (default all)"
    parser.add_argument("--files", default=",".join(DEPTH_FILES), metavar="NAMES", help=help_text)
    parser.add_argument(
        "--invert",
        action="store_true",
        help="near is 1 (white) and far 0 in all files, as some programs want it; their names say _inverted;"
        " relief and mesh know this of the 16-bit PNG, for the .npy add --near white there",
    )
    help_text = f"of the colored PNG: any of {', '.join(COLORMAPS)} (default Spectral)"
    parser.add_argument("--colormap", default="Spectral", metavar="NAME", help=help_text)
    parser.add_argument(
        "--contours", type=int, default=0, metavar="N", help="lines of equal depth in it, 0 to 40 (default 0)"
    )
    _add_depth_source(parser)
    _add_recipe(parser)
    add_flags(parser, DepthSettings(), title="depth")


def _add_relief(commands: "argparse._SubParsersAction[Parser]") -> None:
    parser = _command(commands, "relief", "photo or depth -> watertight relief in millimeters")
    photo_for = "--photo-detail, --source luminance and --cutout alpha"
    _add_source(parser, photo_for=photo_for)
    _add_depth_source(parser)
    _add_out(parser)
    _add_many(parser)
    _add_format(
        parser, RELIEF_FORMATS, more="; heightmap is a 16-bit .png, picture shows the relief in raking light"
    )
    help_text = f"start from the settings of one of {', '.join(RELIEF_PRESETS)}; flags override them"
    parser.add_argument("--preset", metavar="NAME", help=help_text)
    parser.add_argument(
        "--report",
        action="store_true",
        help="examine stl and 3mf for printing: size, weight, slopes, whether they are closed; on stderr, and"
        " as .report.json",
    )
    _add_recipe(parser, more="; so does a preset")
    add_file_flags(parser, shared=True)
    add_flags(parser, DepthSettings(), title="depth, where a photo is given")
    add_flags(parser, ReliefSettings(), title="relief", renamed={"resolution": "relief_resolution"})


def _add_mesh(commands: "argparse._SubParsersAction[Parser]") -> None:
    parser = _command(commands, "mesh", "photo or depth -> textured surface as .glb, OBJ or PLY")
    _add_source(parser, photo_for="the texture; without it the mesh has the depth's colors")
    _add_depth_source(parser)
    _add_out(parser)
    _add_many(parser)
    _add_format(parser, MESH_FORMATS, more="; obj is a .zip with its texture, ply has a color at each vertex")
    _add_recipe(parser)
    add_file_flags(parser, shared=False)
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
        "--resume", action="store_true", help="with --output: go on with the images that are not in its .csv"
    )
    parser.add_argument("--only", metavar="NAMES", help="sources to evaluate, joined by commas")
    parser.add_argument(
        "--every", type=int, default=1, metavar="N", help="take every N-th image only (default 1)"
    )
    help_text = (
        "several checkpoints or baselines, joined by commas: one table, beside the paper's where it fits"
    )
    parser.add_argument("--methods", metavar="NAMES", help=help_text)
    help_text = "score this in place of a checkpoint; the flags below then have no effect"
    parser.add_argument("--baseline", type=str.lower, choices=BASELINES, help=help_text)
    add_flags(parser, DepthSettings(), title="depth")


def _add_train(commands: "argparse._SubParsersAction[Parser]") -> None:
    parser = _command(commands, "train", "photos with depth -> a checkpoint, by one of three protocols")
    add_flags(parser, TrainSettings(), title="training")


def _command(commands: "argparse._SubParsersAction[Parser]", name: str, purpose: str) -> Parser:
    return commands.add_parser(name, help=purpose, description=f"{purpose}.", allow_abbrev=False)


def _add_source(parser: Parser, *, photo_for: str) -> None:
    help_text = f"{_PICTURE}; or a depth file: .npy, .npz, OpenEXR, PFM, or PNG, TIFF or PGM of 16-bit gray"
    help_text = f"{help_text}; {_MANY}"
    parser.add_argument("sources", nargs="+", type=Path, metavar="PHOTO_OR_DEPTH", help=help_text)
    parser.add_argument(
        "--photo", type=Path, metavar="PHOTO", help=f"with a depth file: the photo, for {photo_for}"
    )


def _add_depth_source(parser: Parser) -> None:
    help_text = "depth of a photo: predicted by the model, or what a phone put into a portrait photo"
    parser.add_argument(
        "--depth-source",
        type=str.lower,
        choices=DEPTH_SOURCES,
        default=DEPTH_SOURCES[0],
        help=f"{help_text} (default {DEPTH_SOURCES[0]})",
    )


def _add_out(parser: Parser) -> None:
    help_text = "folder to write to; made where missing; files of the same names are replaced"
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help=help_text)


def _add_many(parser: Parser) -> None:
    group = parser.add_argument_group("several photos", "What is done is written to manifest.jsonl in DIR.")
    help_text = "do again what the manifest calls done; without it, a second run goes on where one ended"
    group.add_argument("--overwrite", action="store_true", help=help_text)
    help_text = "stop at the first file that cannot be used; without it, they are named at the end"
    group.add_argument("--fail-fast", action="store_true", help=help_text)
    help_text = (
        "processes of one thread each; 1: this one, with all threads (default: one a core with the embedded"
        " checkpoint on a CPU, else 1)"
    )
    group.add_argument("--workers", type=int, metavar="N", help=help_text)


def _add_recipe(parser: Parser, *, more: str = "") -> None:
    help_text = f"start from a recipe, or from a 3MF, PNG or GLB that carries one; flags override it{more}"
    parser.add_argument("--recipe", type=Path, metavar="FILE", help=help_text)


def _add_format(parser: Parser, formats: tuple[str, ...], *, more: str = "") -> None:
    help_text = f"any of {', '.join(formats)}, joined by commas (default {formats[0]}){more}"
    parser.add_argument("--format", default=formats[0], metavar="NAMES", help=help_text)
