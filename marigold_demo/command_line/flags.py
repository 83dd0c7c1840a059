"""Settings classes -> command-line flags, and back. Knows no command and does none of the work."""

import argparse
from collections.abc import Callable, Mapping
from dataclasses import Field, fields, replace
from types import MappingProxyType
from typing import Any, NoReturn, TypeVar, get_args

from marigold_demo.errors import SettingsError
from marigold_demo.settings import Knob, Settings

S = TypeVar("S", bound=Settings)


class Parser(argparse.ArgumentParser):
    """An argument parser whose complaints are the visitor's errors, like all others."""

    def error(self, message: str) -> NoReturn:
        """Raise instead of printing the usage and leaving.

        Raises:
            SettingsError: Always.
        """
        sentence = message[0].upper() + message[1:]
        raise SettingsError(f"{sentence}; {self.prog} --help tells what there is.")


def add_flags(
    parser: argparse.ArgumentParser,
    settings: Settings,
    *,
    title: str,
    renamed: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Add a flag for every field: its name with dashes; unit, limits and default in the help.

    Args:
        parser: Gets the flags in a group of their own.
        settings: Its values are the defaults that the help tells.
        title: Heading of the group.
        renamed: Other names for fields whose name another group of the same command has already taken.
    """
    group = parser.add_argument_group(title)
    for field in fields(settings):
        knob: Knob = field.metadata["knob"]
        name = renamed.get(field.name, field.name).replace("_", "-")
        group.add_argument(
            f"--{name}",
            dest=_destination(settings, field),
            type=_reader(field),
            metavar=_metavar(field, knob),
            help=_help(knob, getattr(settings, field.name)),
            default=argparse.SUPPRESS,
        )


def from_flags(arguments: argparse.Namespace, defaults: S) -> S:
    """Return the defaults with what was said on the command line in their place.

    Raises:
        SettingsError: A value is out of its limits, or two contradict each other.
    """
    said = vars(arguments)
    names = {_destination(defaults, field): field.name for field in fields(defaults)}
    return replace(defaults, **{name: said[key] for key, name in names.items() if key in said})


def _destination(settings: Settings, field: Field[Any]) -> str:
    return f"{type(settings).__name__}.{field.name}"


def _reader(field: Field[Any]) -> Callable[[str], object]:
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


def _metavar(field: Field[Any], knob: Knob) -> str:
    if knob.choices:
        return "{" + ",".join(knob.choices) + "}"
    if not knob.limits:
        return "TEXT"
    return knob.unit.upper() if knob.unit.isalpha() else "N"


def _help(knob: Knob, default: object) -> str:
    facts = []
    if knob.limits:
        unit = f" {knob.unit}" if knob.unit else ""
        facts.append(f"{knob.limits[0]:.12g} to {knob.limits[1]:.12g}{unit}")
    if default is not None:
        facts.append(f"default {default:g}" if isinstance(default, float) else f"default {default}")
    told = f"{knob.help} ({'; '.join(facts)})" if facts else knob.help
    return told.replace("%", "%%")
