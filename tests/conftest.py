"""What all tests share: one torch thread, no network, no analytics, toy-width checkpoints of real classes.

The environment is set while pytest loads this file, before any library that reads it is imported. Torch and
diffusers are imported only by the tests that ask for a toy.
"""

import gc
import os
import shutil
import sys
import warnings

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import settings

from marigold_demo.io.photo import Photo

# The same examples in every run: what was green stays green. HYPOTHESIS_PROFILE=search looks for new ones.
settings.register_profile("same", deadline=None, derandomize=True)
settings.register_profile("search", deadline=None, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "same"))


def make_photo(height: int, width: int, *, seed: int = 0, stem: str = "photo") -> Photo:
    """Return a photo of smooth random colors."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[0:height, 0:width]
    phase = rng.uniform(0, 6, (3, 1, 1))
    waves = np.sin(rows / rng.uniform(3, 9) + phase) + np.cos(columns / rng.uniform(3, 9) - phase)
    rgb = (127 + 60 * waves + rng.normal(0, 5, waves.shape)).clip(0, 255).astype(np.uint8).transpose(1, 2, 0)
    return Photo(rgb=np.ascontiguousarray(rgb), stem=stem, alpha=None, fov_deg=None, notes=())


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put files that open a browser first, then others with slow tests, so that two processes end together.

    A test in the browser that fails is tried once again and then reported as RERUN: on a busy machine a click
    can come between two layouts of the page.
    """
    in_browser = [item for item in items if "browser" in getattr(item, "fixturenames", ())]
    first = {item.path for item in in_browser}
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: (item.path not in first, item.path not in slow))
    for item in in_browser:
        item.add_marker(pytest.mark.flaky(reruns=1))


@pytest.fixture(scope="module", autouse=True)
def let_go() -> Iterator[None]:
    """Collect the sockets and event loops that gradio leaves, for which a later test would be blamed.

    What was there before is not looked at again: after two thousand tests that would take half a second.
    """
    gc.freeze()
    yield
    if "gradio" in sys.modules:
        collect()


@pytest.hookimpl(tryfirst=True)
def pytest_unconfigure() -> None:
    """Let go of what gradio, its client and playwright left open, before pytest makes an error of it."""
    collect()


def collect() -> None:
    """Collect garbage; what was left open is nobody's fault here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Return a running Chromium."""
    from tests.visits import chromium

    with chromium() as running:
        yield running


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    """Return a folder for the files of one test module."""
    return tmp_path_factory.mktemp(request.module.__name__.rpartition("test_")[2])


@pytest.fixture(scope="module")
def photo(folder: Path) -> Path:
    """Return a small photo."""
    from tests.pages import draw_photo

    return draw_photo(folder, size=(160, 120))


@pytest.fixture(scope="module")
def predict() -> Any:
    """Return the predictor behind the page."""
    from tests.pages import Ball

    return Ball()


@pytest.fixture(scope="module")
def status_of() -> Any:
    """Return what tells the state of a checkpoint, None for none."""


@pytest.fixture(scope="module")
def url(folder: Path, predict: Any, status_of: Any) -> Iterator[str]:
    """Serve the page over the predictor, with coarse objects, and return its address."""
    from tests.pages import CoarseWorkflow, served

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(folder / "cache"))
        with served(predict, status_of=status_of, workflow=CoarseWorkflow) as address:
            yield address


@pytest.fixture
def visit(browser: Any, url: str) -> Iterator[Callable[..., Any]]:
    """Return a function that opens the page for one more visitor; no visit may have a fault."""
    from tests.visits import Visit

    visits: list[Visit] = []

    def start(through: str = url, **how: Any) -> Visit:
        visits.append(Visit(browser, through, **how))
        return visits[-1]

    yield start
    for one in visits:
        one.context.close()
    assert [fault for one in visits for fault in one.faults] == []


@pytest.fixture(scope="module")
def drawn() -> bool:
    """Return whether the 3D preview of the shared page is drawn: False where no test looks at its pixels."""
    return False


@pytest.fixture(scope="module")
def visitor(browser: Any, url: str, photo: Path, drawn: bool) -> Iterator[Callable[..., Any]]:
    """Return a function that opens a page whose relief is built: once for the tests of `built`, or anew."""
    from tests.visits import Visit

    visits: list[Visit] = []

    def arrive(*, anew: bool) -> Visit:
        if anew or not visits:
            visits.append(Visit(browser, url, motion="reduce", drawn=drawn))
            visits[-1].upload(photo)
            visits[-1].wait_for_object()
        return visits[-1]

    yield arrive
    for one in visits:
        one.context.close()


@pytest.fixture
def built(visitor: Callable[..., Any], request: pytest.FixtureRequest) -> Iterator[Any]:
    """Return a page with a relief; it is shared, and the tests of a module change it in their order."""
    seen = visitor(anew=getattr(request.node, "execution_count", 1) > 1)
    yield seen
    faults, seen.faults = seen.faults, []
    assert faults == []


@pytest.fixture(scope="session")
def toy_parts() -> Callable[..., dict[str, Any]]:
    """Return a function that makes the components of a toy Marigold with seeded random weights."""
    import torch

    from tests import toys

    torch.set_num_threads(1)
    return toys.make_parts


@pytest.fixture(scope="session")
def toy_pipeline(toy_parts: Callable[..., dict[str, Any]]) -> Any:
    """Return one toy DepthPipeline (trailing DDIM, two steps) for tests that only look."""
    from tests import toys

    return toys.make_pipeline()


@pytest.fixture(scope="session")
def toy_original(tmp_path_factory: pytest.TempPathFactory, toy_parts: Callable[..., dict[str, Any]]) -> Path:
    """Return a checkpoint folder as the hub has them, text encoder and all; for copying only."""
    from tests import toys

    folder = tmp_path_factory.mktemp("toy") / "checkpoint"
    toys.make_reference().save_pretrained(folder)
    return folder


@pytest.fixture
def toy_folder(toy_original: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a checkpoint folder of the test's own: the first load leaves the prompt's embedding in it."""
    return Path(shutil.copytree(toy_original, tmp_path_factory.mktemp("toy") / "checkpoint"))
