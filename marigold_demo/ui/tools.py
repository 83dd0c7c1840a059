"""The endpoints as tools for MCP clients, where the server is asked for them. Knows nothing of stages."""

from importlib.util import find_spec
from typing import Any

from gradio.utils import get_upload_folder

from marigold_demo.errors import SettingsError
from marigold_demo.io.cache_folder import told_when_full


def mcp_server(wanted: bool) -> bool:
    """Tell `Blocks.launch` whether to be an MCP server, and make it one whose files can be used.

    Raises:
        SettingsError: It is wanted, but what it takes is not installed.
    """
    if not wanted:
        return False
    if find_spec("mcp") is None:
        raise SettingsError(
            "GRADIO_MCP_SERVER is on, but the package mcp is not installed; install this app as"
            " marigold-demo[mcp], or turn the variable off."
        )
    _one_content_for_each_file()
    return True


def _one_content_for_each_file() -> None:
    """Let Gradio's server answer with a link for each file, and keep what it is sent with other uploads.

    Of several files it makes one text of Python's; it lays files that come inside a call beside the cache,
    where nothing sweeps them; and of a full disk it says where on it there was no room.
    """
    from gradio import mcp

    mcp.DEFAULT_TEMP_DIR = get_upload_folder()
    if issubclass(mcp.GradioMCPServer, _Marked):
        return

    class Server(mcp.GradioMCPServer, _Marked):  # type: ignore[misc]
        def postprocess_output_data(self, data: Any, root_url: str) -> Any:
            several = len(data) == 1 and isinstance(data[0], list | tuple)
            return super().postprocess_output_data(data[0] if several else data, root_url)

        def convert_strings_to_filedata(self, value: Any, filedata_positions: Any) -> Any:
            with told_when_full():
                return super().convert_strings_to_filedata(value, filedata_positions)

    mcp.GradioMCPServer = Server


class _Marked:
    """Tells our server from Gradio's."""
