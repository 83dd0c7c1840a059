"""The configuration of the server, from environment variables, and what a process does before it serves.

Each field is one variable: MARIGOLD_ and the field's name, or the name that Gradio or uvicorn already gave
it. Defaults, units, limits and words stand here; `marigold-demo config` prints them.
"""

import ctypes
import ipaddress
import os
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import Field, dataclass, field, fields
from typing import Any, get_args

from marigold_demo.catalog import CATALOG, OTHER_METHODS, plain_name
from marigold_demo.errors import DemoError, SettingsError

LEAST_TOKEN = 16  # characters
AUTO, ANY, LISTED = "auto", "any", "catalog"
_HOST = re.compile(r"((?:\*\.)?[A-Za-z0-9_-][A-Za-z0-9_.-]*|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?")
_ON, _OFF = ("1", "on", "true", "yes"), ("0", "off", "false", "no", "")
GRADIO_DEFAULTS = {
    "GRADIO_ANALYTICS_ENABLED": "False",
    # Gradio makes a table of the last 10,000 events after each one, for a monitor that is off.
    "GRADIO_ANALYTICS_CACHE_FREQUENCY": "1000000000",
    "GRADIO_ANALYTICS_MAX_EVENTS": "100",
}
ARENA_MAX = -8  # from malloc.h


@dataclass(frozen=True)
class Variable:
    """What is known of one variable beside its default."""

    help: str
    name: str = ""  # empty: made of the field's name
    unit: str = ""
    limits: tuple[int, int] | None = None
    choices: tuple[str, ...] = ()
    secret: bool = False


@dataclass(frozen=True)
class Shown:
    """One variable as it is printed."""

    name: str
    value: str
    default: str
    help: str


def _variable(default: Any, help: str, **about: Any) -> Any:
    return field(default=default, metadata={"variable": Variable(help, **about)})


@dataclass(frozen=True)
class Configuration:
    """How the app is served."""

    server_name: str = _variable(
        "127.0.0.1", "Address to listen on; 0.0.0.0: all of this machine's", name="GRADIO_SERVER_NAME"
    )
    server_port: int | None = _variable(
        None,
        "Port to listen on; unset: the first free one from 7860 on",
        name="GRADIO_SERVER_PORT",
        limits=(1, 65535),
    )
    root_path: str = _variable("", "Path below which a proxy offers the page", name="GRADIO_ROOT_PATH")
    temp_dir: str = _variable(
        "", "Folder of uploads and results; unset: one in the system's", name="GRADIO_TEMP_DIR"
    )
    share: bool = _variable(False, "Open a public link through Gradio's tunnel", name="GRADIO_SHARE")
    mcp: bool = _variable(
        False, "Offer the endpoints to MCP clients, at /gradio_api/mcp/", name="GRADIO_MCP_SERVER"
    )
    trusted_proxies: str = _variable(
        "",
        "Addresses whose X-Forwarded-For is believed, joined by commas; *: all",
        name="FORWARDED_ALLOW_IPS",
    )
    hosts: str = _variable(
        "",
        "Host names under which a proxy offers the page, joined by commas, such as depth.example.org; "
        "*: any; loopback and the address that is bound always count",
    )
    connections: int = _variable(
        1000,
        "Connections at a time; a tenth of them from one address that is no proxy's",
        limits=(32, 100_000),
    )
    checkpoint: str = _variable(
        "",
        "Checkpoint the page begins with, such as depth-anything/Depth-Anything-V2-Small-hf; unset: the best"
        " Marigold for this machine",
    )
    checkpoints: str = _variable(
        AUTO,
        "What visitors may name: any (hub repositories and folders too), catalog (what the app lists, but "
        "for those whose license forbids commerce), or names joined by commas; "
        "auto: any on loopback, catalog on a server that others reach",
    )
    keep_minutes: int = _variable(
        120, "How long photos and results are kept after their last use", unit="min", limits=(10, 10080)
    )
    visitors_mb: int = _variable(
        1024, "Memory for photos and depths of visitors", unit="MB", limits=(64, 1_000_000)
    )
    finished_mb: int = _variable(
        512, "Memory for depths that are not computed a second time", unit="MB", limits=(0, 1_000_000)
    )
    disk_mb: int = _variable(
        4096, "Disk for uploads and results; the oldest go first", unit="MB", limits=(256, 10_000_000)
    )
    upload_mb: int = _variable(100, "Largest upload", unit="MB", limits=(1, 1000))
    decode_processes: int = _variable(
        4, "Uploaded files that are decoded at the same time; half of them for one visitor", limits=(2, 64)
    )
    decode_seconds: int = _variable(
        9, "Longest time for decoding one uploaded file", unit="s", limits=(1, 600)
    )
    decode_mb: int = _variable(
        1500, "Memory of each process that decodes an uploaded file", unit="MB", limits=(500, 100_000)
    )
    queue: int = _variable(
        24, "Visitors who may wait; the next one is asked to come back later", limits=(1, 10_000)
    )
    waiting_per_visitor: int = _variable(
        2, "Runs of one visitor that may wait while others are served; 0: no limit", limits=(0, 10_000)
    )
    run_minutes: int = _variable(
        5,
        "Longest time in the network of one run, waiting not counted; 0: no limit",
        unit="min",
        limits=(0, 1440),
    )
    requests_per_minute: int = _variable(
        0, "Most requests for work of one visitor in a minute; 0: no limit", limits=(0, 100_000)
    )
    health: bool = _variable(True, "Answer /healthz")
    metrics: bool = _variable(False, "Answer /metrics, to this machine only unless a token is set")
    metrics_token: str = _variable(
        "", "Bearer token that /metrics asks for, from wherever", secret=True, limits=None
    )
    log_format: str = _variable("text", "Form of log lines", choices=("text", "json"))
    log_level: str = _variable(
        "info", "Least important lines that are logged", choices=("debug", "info", "warning", "error")
    )

    def __post_init__(self) -> None:
        for name, about in variables().items():
            _check(about, getattr(self, name))
        if self.metrics_token and len(self.metrics_token) < LEAST_TOKEN:
            raise SettingsError(
                f"MARIGOLD_METRICS_TOKEN has {len(self.metrics_token)} characters; "
                f"it must have at least {LEAST_TOKEN}."
            )
        if self.root_path and not self.root_path.startswith(("/", "http://", "https://")):
            raise SettingsError(
                f"GRADIO_ROOT_PATH is {self.root_path!r}; it must begin with /, such as /depth."
            )
        _check_proxies(self.trusted_proxies)
        _check_hosts(self.hosts)
        self.permitted_checkpoints  # noqa: B018  # checked here, read later

    @property
    def is_public(self) -> bool:
        """Return whether others than the user of this machine can reach the page."""
        led_here = self.share or self.root_path or self.trusted_proxies
        names = any(not is_loopback(name) for name in self.host_names)
        return not is_loopback(self.server_name) or names or bool(led_here)

    @property
    def host_names(self) -> list[str]:
        """Host names that were configured, in lower case and without ports; "*" among them means any."""
        return [_HOST.sub(r"\1", name).lower() for name in _names(self.hosts)]

    def is_proxy(self, address: str) -> bool:
        """Return whether an address may be many visitors: this machine's, or that of a trusted proxy."""
        trusted = _names(self.trusted_proxies)
        if "*" in trusted or is_loopback(address):
            return True
        try:
            parsed = ipaddress.ip_address(address)
        except ValueError:
            return False
        return any(parsed in ipaddress.ip_network(name) for name in trusted)

    @property
    def permitted_checkpoints(self) -> frozenset[str] | None:
        """Names that visitors may give; None: any."""
        asked = (LISTED if self.is_public else ANY) if self.checkpoints == AUTO else self.checkpoints
        if asked == ANY:
            return None
        every = (*CATALOG, *(known for known in OTHER_METHODS if not known.terms))
        listed = (known.name for known in every) if asked == LISTED else _names(asked)
        return frozenset(plain_name(name) for name in (*listed, self.checkpoint) if name)


def variables() -> dict[str, Variable]:
    """Return what is known of each variable, by field, in order."""
    return {f.name: _about(f) for f in fields(Configuration)}


def read_configuration(environment: Mapping[str, str]) -> Configuration:
    """Return the configuration an environment asks for; empty variables count as unset.

    Raises:
        SettingsError: A value cannot be used, or a variable of ours does not exist.
    """
    known = {_about(f).name: f for f in fields(Configuration)}
    for name in environment:
        if name.startswith("MARIGOLD_") and name not in known:
            raise SettingsError(f"There is no variable {name}; `marigold-demo config` lists those there are.")
    values = {
        f.name: _read(f, environment[name].strip())
        for name, f in known.items()
        if environment.get(name, "").strip()
    }
    return Configuration(**values)


def shown(configuration: Configuration) -> Iterator[Shown]:
    """Yield every variable as it is printed; secrets are not."""
    for f in fields(Configuration):
        about, value = _about(f), getattr(configuration, f.name)
        yield Shown(
            name=about.name,
            value="(set)" if about.secret and value else _told(value),
            default=_told(f.default),
            help=about.help + (";" if about.limits else "") + _range(about),
        )


def _about(f: Field[Any]) -> Variable:
    about: Variable = f.metadata["variable"]
    return about if about.name else Variable(**vars(about) | {"name": f"MARIGOLD_{f.name.upper()}"})


def _read(f: Field[Any], text: str) -> Any:
    about = _about(f)
    if f.type is bool:
        if text.lower() not in _ON + _OFF:
            raise SettingsError(f"{about.name} is {text!r}; it must be on or off.")
        return text.lower() in _ON
    if f.type is int or int in get_args(f.type):
        try:
            return int(text)
        except ValueError as error:
            raise SettingsError(
                f"{about.name} is {text!r}; it must be a whole number{_range(about)}."
            ) from error
    return text


def _check(about: Variable, value: Any) -> None:
    if about.choices and value not in about.choices:
        raise SettingsError(f"{about.name} is {value!r}; it must be one of {', '.join(about.choices)}.")
    if about.limits and value is not None and not about.limits[0] <= value <= about.limits[1]:
        raise SettingsError(f"{about.name} is {value}; it must be a whole number{_range(about)}.")


def _check_proxies(text: str) -> None:
    for name in _names(text):
        try:
            if name != "*":
                ipaddress.ip_network(name)
        except ValueError as error:
            raise SettingsError(
                f"FORWARDED_ALLOW_IPS has {name!r}; it must be an address such as 10.0.0.2, "
                "a network such as 10.0.0.0/24, or *."
            ) from error


def _check_hosts(text: str) -> None:
    for name in _names(text):
        if name != "*" and not _HOST.fullmatch(name):
            raise SettingsError(
                f"MARIGOLD_HOSTS has {name!r}; it must be a name such as depth.example.org, "
                "all below one such as *.example.org, or *."
            )


def _range(about: Variable) -> str:
    unit = f" {about.unit}" if about.unit else ""
    if about.limits:
        return f" from {about.limits[0]} to {about.limits[1]}{unit}"
    return f": {', '.join(about.choices)}" if about.choices else ""


def _told(value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return "unset" if value is None or value == "" else str(value)


def _names(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def is_loopback(name: str) -> bool:
    """Return whether a host name or address, in brackets or not, is this machine's own."""
    try:
        return name.lower() == "localhost" or ipaddress.ip_address(name.strip("[]")).is_loopback
    except ValueError:
        return False


def is_zero_gpu() -> bool:
    """Return whether the process runs on a Space with ZeroGPU, where networks run in forked workers."""
    return os.environ.get("SPACES_ZERO_GPU", "").lower() in ("1", "true", "t")


def is_space() -> bool:
    """Return whether the process runs on Hugging Face Spaces."""
    return "SPACE_ID" in os.environ


def share_one_arena() -> None:
    """Let all threads allocate from the main thread's arena; to be called before there are any.

    Arenas of other threads cannot keep blocks of more than 64 MB, and each holds free memory of its own. A
    thread that begins may get an arena that another one has left, whatever has been set by then.
    """
    with suppress(OSError, TypeError, AttributeError):  # another C library than glibc
        ctypes.CDLL(None).mallopt(ARENA_MAX, 1)


def prepare(*, host: str | None = None, port: int | None = None) -> Configuration:
    """Read the configuration and set up memory and environment; ends the process where that fails.

    Call it once, while there is one thread and before Gradio is imported, which reads its variables then.

    Args:
        host: Address to listen on, in place of GRADIO_SERVER_NAME.
        port: Port to listen on, in place of GRADIO_SERVER_PORT.

    Raises:
        SystemExit: A variable cannot be used; the status is 2, the reason is on stderr.
    """
    flags = {"GRADIO_SERVER_NAME": host, "GRADIO_SERVER_PORT": port}
    os.environ.update({name: str(value) for name, value in flags.items() if value is not None})
    try:
        configuration = read_configuration(os.environ)
    except DemoError as error:
        sys.stderr.write(f"{error}\n")
        raise SystemExit(2) from None
    share_one_arena()
    for name, value in GRADIO_DEFAULTS.items():
        os.environ.setdefault(name, value)
    return configuration
