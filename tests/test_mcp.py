"""The endpoints as MCP tools, called by a real MCP client over loopback."""

import asyncio
import base64
import io
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trimesh

from marigold_demo.errors import SettingsError
from marigold_demo.serving.config import read_configuration
from marigold_demo.serving.lifecycle import Service
from marigold_demo.serving.listening import listen
from marigold_demo.ui import api, build_page, launch, launch_options
from marigold_demo.workflow import Workflow
from tests.pages import LENIENT, Ball, ball, draw_photo, readme_examples


def test_the_server_is_off_unless_asked_for():
    assert launch_options()["mcp_server"] is False


def test_without_the_package_there_is_a_sentence(monkeypatch):
    monkeypatch.setattr(api, "find_spec", lambda name: None)
    assert api.mcp_server(False) is False
    with pytest.raises(SettingsError, match=r"install this app as marigold-demo\[mcp\]"):
        api.mcp_server(True)


mcp = pytest.importorskip("mcp", reason="the extra mcp is not installed: pip install -e '.[mcp]'")
slow = [pytest.mark.slow, LENIENT]


@pytest.fixture(scope="module")
def address(tmp_path_factory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("mcp")
    configuration = read_configuration({"GRADIO_MCP_SERVER": "1"})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(folder / "cache"))
        page = build_page(Workflow(Ball()))
        url = launch(page, Service(configuration), listen("127.0.0.1", 0))
        yield f"{url}gradio_api/mcp/"
        page.close(verbose=False)


def call(address: str, name: str, arguments: dict[str, Any]) -> Any:
    """Call a tool and return the client's result."""

    async def ask(session: Any) -> Any:
        return await session.call_tool(name, arguments)

    return asyncio.run(with_session(address, ask))


async def with_session(address: str, ask: Any) -> Any:
    from mcp import ClientSession
    from mcp.client.streamable_http import streamablehttp_client

    async with streamablehttp_client(address) as (reads, writes, _), ClientSession(reads, writes) as session:
        await session.initialize()
        return await ask(session)


def as_data(data: bytes) -> str:
    return f"data:application/octet-stream;base64,{base64.b64encode(data).decode()}"


def fetched(result: Any) -> list[bytes]:
    """Return the files that a result's texts link to."""
    assert not result.isError, result.content
    links = [part.text.split()[-1] for part in result.content if part.type == "text"]
    files = []
    for link in links:
        with urllib.request.urlopen(link) as answer:
            files.append(answer.read())
    return files


@pytest.fixture(scope="module")
def photo(tmp_path_factory) -> Path:
    return draw_photo(tmp_path_factory.mktemp("photo"), size=(160, 120))


@pytest.fixture(scope="module")
def depth(address, photo) -> list[bytes]:
    return fetched(call(address, "depth", {"photo": as_data(photo.read_bytes())}))


class TestTools:
    pytestmark = slow

    def test_the_three_tools_and_nothing_else_are_listed(self, address):
        listed = asyncio.run(with_session(address, lambda session: session.list_tools()))
        assert sorted(tool.name for tool in listed.tools) == ["depth", "mesh", "relief"]
        for tool in listed.tools:
            assert len(tool.description) > 40
        relief = next(tool for tool in listed.tools if tool.name == "relief")
        assert "millimeters" in relief.description
        assert "mm" in relief.inputSchema["properties"]["width_mm"]["description"]

    def test_a_photo_becomes_files_that_can_be_fetched(self, depth):
        npy, png16, colored = depth
        np.testing.assert_array_equal(np.load(io.BytesIO(npy)), ball(120, 160))
        assert png16[:4] == colored[:4] == b"\x89PNG"

    def test_depth_becomes_a_watertight_relief(self, address, depth):
        asked = {"depth": as_data(depth[0]), "width_mm": 60, "resolution": 128}
        [stl] = fetched(call(address, "relief", asked))
        solid = trimesh.load(io.BytesIO(stl), file_type="stl")
        assert solid.is_volume and max(solid.extents) == pytest.approx(60, abs=0.01)

    def test_depth_and_photo_become_a_mesh(self, address, depth, photo):
        asked = {"depth": as_data(depth[1]), "photo": as_data(photo.read_bytes()), "resolution": 128}
        [glb] = fetched(call(address, "mesh", asked))
        [surface] = trimesh.load(io.BytesIO(glb), file_type="glb").geometry.values()
        assert surface.visual.material.baseColorTexture.size == (160, 120)

    def test_what_is_wrong_is_told_in_a_sentence(self, address, depth):
        result = call(address, "relief", {"depth": as_data(depth[0]), "width_mm": 5})
        assert result.isError
        assert "width_mm is 5; it must be a number from 10 to 1000 mm" in result.content[0].text

    def test_the_example_in_the_readme_works(self, address, photo, monkeypatch, capsys):
        [example] = [text for text in readme_examples() if "ClientSession" in text]
        monkeypatch.chdir(photo.parent)
        (photo.parent / "photo.jpg").write_bytes(photo.read_bytes())
        exec(example.replace("http://127.0.0.1:7860/gradio_api/mcp/", address), {"__name__": "readme"})
        assert capsys.readouterr().out.count("/gradio_api/file=") == 3

    def test_a_file_of_the_server_cannot_be_named(self, address):
        assert call(address, "depth", {"photo": "/etc/hostname"}).isError
