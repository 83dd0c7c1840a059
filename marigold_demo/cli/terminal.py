"""The two ends of a command: settings as flags, and what is printed, whatever becomes of the streams.

Answers (paths, tables) go to stdout, sentences and progress to stderr. A name that stdout's encoding cannot
spell, a reader that has closed the pipe and a full device do not end a command: its files are written all the
same, and `undelivered` says afterwards what happened.
"""

import argparse
import os
import shutil
import sys
import time
import unicodedata
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import Field, dataclass, fields, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NoReturn, TextIO, TypeVar, get_args

from marigold_demo.errors import SettingsError
from marigold_demo.settings import EARLIER_CHOICES, Option, Settings

if TYPE_CHECKING:
    from marigold_demo.depth import Progress

PROGRAM = "marigold-demo"
_ERASE = "\r\x1b[K"
_STEERING = ("Cc", "Cs", "Zl", "Zp")  # controls, lone surrogates, line and paragraph separators
_problems: list[str] = []  # why answers of this command were not delivered
S = TypeVar("S", bound=Settings)


def print_err(sentence: str) -> None:
    """Print a sentence for a person, on one line."""
    _to_stderr(f"{PROGRAM}: {_on_one_line(sentence)}\n")


def print_err_text(text: str) -> None:
    """Print a text of several lines for a person."""
    _to_stderr(text if text.endswith("\n") else f"{text}\n")


def print_out(text: object) -> None:
    """Write what was asked for to stdout, at once: a path, a table."""
    if sys.stdout is None:
        _problems.append(_not_written("it is closed"))
        return
    try:
        if not _spell(sys.stdout, f"{text}\n"):
            _problems.append(
                f"The encoding of standard output ({sys.stdout.encoding}) cannot spell every name, so some"
                " stand there with \\ escapes; PYTHONIOENCODING=utf-8 writes all as they are."
            )
        sys.stdout.flush()
    except (OSError, ValueError) as error:  # ValueError: the stream was closed
        _problems.append(_not_written(getattr(error, "strerror", None) or "it is closed"))
        _silence(sys.stdout)


def undelivered() -> str | None:
    """Return in a sentence why answers since the last call did not reach stdout; None where all did."""
    found = _problems[0] if _problems else None
    _problems.clear()
    return found


class ProgressLine:
    """One line that is written over; nothing at all where stderr is not a terminal."""

    def __init__(self, label: str) -> None:
        self._label = _on_one_line(label)
        self._start = time.monotonic()
        self.is_shown = sys.stderr is not None and sys.stderr.isatty()

    def step(self, progress: "Progress") -> None:
        """Show one moment of a prediction."""
        self.show(progress.stage, progress.done, progress.total)

    def show(self, stage: str, done: int, total: int) -> None:
        """Show what happens next, how much is done, and the time left at the speed so far."""
        if not self.is_shown:
            return
        spent_s = time.monotonic() - self._start
        left = f", {duration(spent_s * (total - done) / done)} left" if 0 < done < total else ""
        counted = f" {done}/{total}" if total else ""
        state = f": {stage}{counted}, {duration(spent_s)}{left}"
        # A line that wraps could not be erased. Letters of some scripts take two columns.
        room = max((shutil.get_terminal_size().columns - 1 - len(state)) // 2, 8)
        _to_stderr(f"{_ERASE}{self._label[:room]}{state}")

    def erase(self) -> None:
        """Leave an empty line behind."""
        if self.is_shown:
            _to_stderr(_ERASE)


@contextmanager
def progress_line(label: str) -> Iterator[ProgressLine]:
    """Show a line while something runs, and erase it whatever happens."""
    shown = ProgressLine(label)
    try:
        yield shown
    finally:
        shown.erase()


def _to_stderr(text: str) -> None:
    """Write to stderr; where that fails nobody is left to read it."""
    if sys.stderr is None:
        return
    try:
        sys.stderr.write(text)
        sys.stderr.flush()
    except (OSError, ValueError):
        _silence(sys.stderr)


def _spell(stream: TextIO, text: str) -> bool:
    """Write a text; bytes of names that are not text come out as they went in.

    Returns:
        Whether all of it could be spelled; where not, the rest stands there as backslash escapes.
    """
    try:
        stream.write(text)
        return True
    except UnicodeEncodeError:
        pass
    try:
        data, exact = text.encode(stream.encoding, "surrogateescape"), True
    except UnicodeEncodeError:
        data, exact = text.encode(stream.encoding, "backslashreplace"), False
    stream.flush()
    stream.buffer.write(data)
    return exact


def _silence(stream: TextIO) -> None:
    """Send to nowhere what a stream still holds, or Python complains of it when it ends."""
    with suppress(OSError, ValueError):
        number = stream.fileno()
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, number)
        os.close(nowhere)


def _not_written(reason: str) -> str:
    return (
        f"Not everything could be written to standard output ({reason}); files that were made are complete."
    )


def _on_one_line(text: str) -> str:
    """Escape what would break a line or steer a terminal; names of files can hold anything."""
    return "".join(
        c.encode("unicode_escape").decode() if unicodedata.category(c) in _STEERING else c for c in text
    )


def duration(seconds: float) -> str:
    """Return a duration as people read it, such as "10 min"."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"


@dataclass(frozen=True)
class FileFlag:
    """A flag that says how a depth file is read.

    Attributes:
        dest: Where its value goes.
        shown: Its values in the help.
        help: What it says.
        read: Text -> value, None for text that is no value of it.
    """

    dest: str
    shown: str
    help: str
    read: Callable[[str], str | int | None]

    def checked(self, text: str) -> str | int:
        """Return the value.

        Raises:
            ArgumentTypeError: It is none.
        """
        value = self.read(text)
        if value is None:
            raise argparse.ArgumentTypeError(f"{text!r} is none of {self.shown}")
        return value


FILE_FLAGS = {
    "near": FileFlag(
        "depth_near",
        "{auto,white,black}",
        "of a depth file: which values are near, white (large) or black (small)",
        lambda text: text.lower() if text.lower() in ("auto", "white", "black") else None,
    ),
    "frame": FileFlag(
        "depth_frame",
        "N",
        "of a depth file that holds several: which one, counted from 0",
        lambda text: int(text) if text.isdecimal() and len(text) < 10 else None,
    ),
}


class Parser(argparse.ArgumentParser):
    """An argument parser whose complaints are SettingsErrors."""

    def error(self, message: str) -> NoReturn:
        """Raise instead of printing the usage and leaving.

        Raises:
            SettingsError: Always.
        """
        sentence = message[0].upper() + message[1:]
        raise SettingsError(f"{sentence}; {self.prog} --help tells what there is.")

    def _print_message(self, message: str, file: Any = None) -> None:
        """Print help or version, whatever becomes of stdout."""
        print_out(message.removesuffix("\n"))


def add_flags(
    parser: argparse.ArgumentParser,
    settings: Settings,
    *,
    title: str,
    renamed: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Add a flag for every field: its name with dashes; unit, limits and default in the help.

    A field with the name of a flag in `FILE_FLAGS` shares it: words and numbers tell which of both is meant.

    Args:
        parser: Gets the flags in a group of their own.
        settings: Its values are the defaults that the help shows.
        title: Heading of the group.
        renamed: Other names for fields whose name another group of the same command has already taken.
    """
    group = parser.add_argument_group(title)
    for field in fields(settings):
        option: Option = field.metadata["option"]
        name = renamed.get(field.name, field.name).replace("_", "-")
        metavar, text = _metavar(field, option), _help(option, getattr(settings, field.name))
        facts: dict[str, Any] = {"dest": _destination(settings, field), "default": argparse.SUPPRESS}
        flag = FILE_FLAGS.get(name)
        if flag is None:
            group.add_argument(f"--{name}", type=_reader(field), metavar=metavar, help=text, **facts)
        else:
            shown, text = f"{metavar}|{flag.shown}", f"{text}; or, {flag.help}"
            group.add_argument(
                f"--{name}", action=_Shared, flag=flag, read=_reader(field), metavar=shown, help=text, **facts
            )


def add_file_flags(parser: argparse.ArgumentParser, *, shared: bool) -> None:
    """Add the flags that say how a depth file is read.

    Args:
        parser: Gets them in a group of their own.
        shared: `add_flags` adds those of `FILE_FLAGS` together with settings of their names.
    """
    group = parser.add_argument_group("depth file")
    group.add_argument("--depth", action="store_true", help="it is depth, even if it could be a photo")
    group.add_argument("--inverse", action="store_true", help="its values are disparity: 1 / distance")
    parser.set_defaults(**{flag.dest: None for flag in FILE_FLAGS.values()})
    for name, flag in {} if shared else FILE_FLAGS.items():
        group.add_argument(f"--{name}", dest=flag.dest, type=flag.checked, metavar=flag.shown, help=flag.help)


def file_options(args: argparse.Namespace) -> dict[str, Any]:
    """Return how a depth file is to be read, as far as flags say: arguments of `read_depth_file`."""
    found = {"near": args.depth_near, "frame": args.depth_frame, "inverse": args.inverse or None}
    return {name: value for name, value in found.items() if value is not None}


class _Shared(argparse.Action):
    """Stores the value of a setting, or that of the depth file's flag with the same name."""

    def __init__(self, *, flag: FileFlag, read: Callable[[str], object], **facts: Any) -> None:
        super().__init__(**facts)
        self._flag, self._read = flag, read

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        """Store the value where it belongs."""
        for_file = self._flag.read(values)
        try:
            dest, value = (
                (self._flag.dest, for_file) if for_file is not None else (self.dest, self._read(values))
            )
        except argparse.ArgumentTypeError as error:
            raise argparse.ArgumentError(self, f"{error} and none of {self._flag.shown}") from error
        setattr(namespace, dest, value)


def from_flags(arguments: argparse.Namespace, defaults: S) -> S:
    """Return the defaults with the values of the command line in their place.

    Raises:
        SettingsError: A value is out of its limits, or two contradict each other.
    """
    given = vars(arguments)
    names = {_destination(defaults, field): field.name for field in fields(defaults)}
    return replace(defaults, **{name: given[key] for key, name in names.items() if key in given})


def one_of(text: str, choices: Collection[str]) -> str:
    """Return the choice that is meant, in upper or lower case; what is none of them stays as it is."""
    if text in choices:
        return text
    return {choice.casefold(): choice for choice in choices}.get(text.strip().casefold(), text)


def choices_of(names: str, known: Collection[str], *, name: str) -> list[str]:
    """Split names joined by commas and find each, in upper or lower case, among what there is.

    Raises:
        SettingsError: One of them is not there, or there is no name.
    """
    asked = [part.strip() for part in names.split(",") if part.strip()]
    found = [one_of(part, known) for part in asked]
    strange = [part for part in found if part not in known]
    if strange or not asked:
        text = repr(strange[0]) if strange else "empty"
        raise SettingsError(f"{name} is {text}; it must be one of {', '.join(known)}.")
    return list(dict.fromkeys(found))


def _destination(settings: Settings, field: Field[Any]) -> str:
    return f"{type(settings).__name__}.{field.name}"


def _reader(field: Field[Any]) -> Callable[[str], object]:
    choices = field.metadata["option"].choices
    if choices:
        return lambda text: one_of(text, (*choices, *EARLIER_CHOICES))
    kinds = {field.type, *get_args(field.type)}
    if float in kinds:
        return _number
    return _whole_number if int in kinds else str


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number") from error


def _whole_number(text: str) -> int:
    try:
        return int(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number") from error


def _metavar(field: Field[Any], option: Option) -> str:
    if option.choices:
        return "{" + ",".join(option.choices) + "}"
    if not option.limits:
        return "TEXT"
    return option.unit.upper() if option.unit.isalpha() else "N"


def _help(option: Option, default: object) -> str:
    facts = []
    if option.limits:
        unit = f" {option.unit}" if option.unit else ""
        facts.append(f"{option.limits[0]:.12g} to {option.limits[1]:.12g}{unit}")
    if default is not None:
        facts.append(f"default {default:g}" if isinstance(default, float) else f"default {default}")
    text = f"{option.help} ({'; '.join(facts)})" if facts else option.help
    return text.replace("%", "%%")
