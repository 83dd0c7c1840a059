"""Running pages for tests: a server around a predictor, and predictors that need no network."""

import asyncio
import gc
import os
import re
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import gradio as gr
import numpy as np
import pytest
from PIL import Image, ImageDraw

from marigold_demo.depth import DepthMap, Progress
from marigold_demo.workflow import Workflow
from tests.predictors import stepwise

ROOT = Path(__file__).parents[1]
# Put on every module that serves pages: what gradio and its client leave open is not ours to close, and what
# they use that is deprecated is not ours to change. Our own modules get no such leave.
LENIENT = pytest.mark.filterwarnings(
    "ignore::ResourceWarning",
    "ignore::pytest.PytestUnraisableExceptionWarning",
    "ignore::DeprecationWarning:(?!marigold_demo|tests|benchmarks|synthetic)",
)


class Ball:
    """Predicts a ball before a slope, counts runs, and waits at each step where a test asks for it."""

    def __init__(self, *, steps: int = 3) -> None:
        self.runs, self.calls, self.running, self.peak = 0, 0, 0, 0
        self.may_go_on = threading.Event()
        self.may_go_on.set()
        self._steps = steps

    @stepwise
    def __call__(self, photo, settings):
        self.runs += 1
        self.running += 1
        self.peak = max(self.peak, self.running)
        try:
            for done in range(self._steps):
                yield Progress("denoise", done, self._steps)
                self.may_go_on.wait(20)
                self.calls += 1
            uncertainty = spread(photo) if (settings.ensemble or 1) > 1 else None
            yield DepthMap(ball(*photo.rgb.shape[:2]), uncertainty)
        finally:
            self.running -= 1


def ball(height: int, width: int) -> np.ndarray:
    """Return depth [H, W] of a ball before ground that rises to the horizon."""
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j].astype(np.float32)
    inside = np.clip(0.36 - x**2 - y**2, 0, None)
    return np.clip(0.9 - 0.4 * np.clip(y, 0, 1) - np.sqrt(inside), 0, 1).astype(np.float32)


def spread(photo) -> np.ndarray:
    """Return an uncertainty [H, W] for tests."""
    return np.full(photo.rgb.shape[:2], 0.01, dtype=np.float32)


def draw_photo(folder: Path, name: str = "holiday.jpg", *, size: tuple[int, int] = (640, 480)) -> Path:
    """Write a picture of a ball on a lawn and return its path."""
    image = Image.new("RGB", size, "#9cc3e6")
    draw = ImageDraw.Draw(image)
    draw.rectangle((0, size[1] // 2, *size), fill="#4d7a3a")
    middle, radius = (size[0] / 2, size[1] / 2), min(size) * 0.3
    draw.ellipse(
        (middle[0] - radius, middle[1] - radius, middle[0] + radius, middle[1] + radius), fill="#c8502d"
    )
    image.save(folder / name)
    return folder / name


def readme_examples() -> list[str]:
    """Return the Python examples of the README."""
    return re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)


async def small_app(scope, receive, send):
    """Answer with the length of the body; /slow holds on, /endless sends until it is left."""
    if scope["type"] == "lifespan":
        for kind in ("startup", "shutdown"):
            await receive()
            await send({"type": f"lifespan.{kind}.complete"})
        return
    if scope["path"] == "/slow":
        await asyncio.sleep(1.5)
    if scope["path"] == "/refused":  # without reading the body
        await send({"type": "http.response.start", "status": 413, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b""})
        return
    read, more = 0, True
    while more:
        message = await receive()
        read += len(message.get("body", b""))
        more = message.get("more_body", False)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    gone = asyncio.ensure_future(receive())  # else the thread would be busy long after its test
    while scope["path"] == "/endless" and not gone.done():
        await send({"type": "http.response.body", "body": bytes(2**16), "more_body": True})
        await asyncio.sleep(0)
    gone.cancel()
    await send({"type": "http.response.body", "body": b"%d" % read})


def free_port() -> int:
    """Return a port of loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def app_running(folder: Path) -> Iterator[str]:
    """Run `python app.py` as a visitor would; gives its address."""
    port = free_port()
    environment = os.environ | {"GRADIO_SERVER_PORT": str(port), "GRADIO_TEMP_DIR": str(folder / "app_cache")}
    log = (folder / "app.log").open("w")
    process = subprocess.Popen([sys.executable, "app.py"], cwd=ROOT, env=environment, stdout=log, stderr=log)
    try:
        url = f"http://127.0.0.1:{port}"
        for _ in range(600):
            assert process.poll() is None, (folder / "app.log").read_text()
            try:
                urllib.request.urlopen(url, timeout=5).close()
                break
            except OSError:
                time.sleep(0.1)
        yield url
    finally:
        process.terminate()
        process.wait(20)
        log.close()


def make_tabs(store, *, status_of=None, defaults=None):
    """Return the tabs of a page over a store, with their events, but no server."""
    from marigold_demo.settings import DepthSettings
    from marigold_demo.ui.page import Tabs

    with gr.Blocks() as page:
        tabs = Tabs(store, status_of, defaults=defaults or DepthSettings())
        tabs.connect(page)
    return tabs


class CoarseWorkflow(Workflow):
    """Builds objects of few triangles, whatever resolution is asked: Chromium draws them without a GPU."""

    @staticmethod
    def relief(depth, settings, *, photo=None):
        return Workflow.relief(depth, coarse(settings), photo=photo)

    @staticmethod
    def surface(depth, photo, settings):
        return Workflow.surface(depth, photo, coarse(settings))


def coarse(settings):
    """Return the settings of an object at 192 samples along the long side, or fewer."""
    return replace(settings, resolution=min(settings.resolution, 192))


@contextmanager
def served(predict, service=None, *, status_of=None, workflow=Workflow) -> Iterator[str]:
    """Serve the page over a predictor, with a Service around it where one is given; gives its address."""
    from marigold_demo.serving.listening import listen
    from marigold_demo.ui import build_page, launch
    from marigold_demo.ui.session_store import SessionStore

    workflow = workflow(predict if service is None else service.runs.watched(predict))
    store = None if service is None else SessionStore(workflow, files=service.cache)
    page = build_page(workflow, status_of=status_of, store=store)
    url = launch(page, service, listen("127.0.0.1", 0))
    try:
        yield url.rstrip("/")
    finally:
        page.close(verbose=False)
        gc.collect()  # gradio leaves sockets and loops for it, which a later test would be blamed for
