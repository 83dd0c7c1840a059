"""What a process does before it imports Gradio, numpy and torch to serve the page."""

import os
import sys

from marigold_demo.errors import DemoError
from marigold_demo.network.cpu.memory import share_one_arena
from marigold_demo.serving.config import Configuration, read_configuration

GRADIO_DEFAULTS = {
    "GRADIO_ANALYTICS_ENABLED": "False",
    # Gradio makes a table of the last 10,000 events after each one, for a monitor that is off.
    "GRADIO_ANALYTICS_CACHE_FREQUENCY": "1000000000",
    "GRADIO_ANALYTICS_MAX_EVENTS": "100",
}


def is_zero_gpu() -> bool:
    """Return whether the process runs on a Space with ZeroGPU, where networks run in forked workers."""
    return os.environ.get("SPACES_ZERO_GPU", "").lower() in ("1", "true", "t")


def is_space() -> bool:
    """Return whether the process runs on Hugging Face Spaces."""
    return "SPACE_ID" in os.environ


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
