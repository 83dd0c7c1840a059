"""Settings classes -> command-line flags, and back."""

import argparse
from collections.abc import Callable, Collection, Mapping
from dataclasses import Field, dataclass, fields, replace
from types import MappingProxyType
from typing import Any, NoReturn, TypeVar, get_args

from marigold_demo.cli.terminal import print_out
from marigold_demo.errors import SettingsError
from marigold_demo.settings import EARLIER_CHOICES, Option, Settings

S = TypeVar("S", bound=Settings)


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
