"""Marigold Demo as a web page: `python app.py`. The only place that knows of GPU hosts."""

import os
import sys

from marigold_demo.errors import DemoError
from marigold_demo.network.heap import share_one_heap
from marigold_demo.serving.config import read_configuration

try:
    CONFIGURATION = read_configuration(os.environ)  # before Gradio, which reads some of it as it is imported
except DemoError as error:
    sys.stderr.write(f"{error}\n")
    raise SystemExit(2) from None

share_one_heap()  # while there is one thread
import spaces  # before torch: on ZeroGPU it stands between torch and the GPU

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
# Gradio makes a table of the last 10,000 events after each one, for a monitor that is off.
os.environ.setdefault("GRADIO_ANALYTICS_CACHE_FREQUENCY", "1000000000")
os.environ.setdefault("GRADIO_ANALYTICS_MAX_EVENTS", "100")

import logging
import threading
from collections.abc import Generator
from contextlib import closing, suppress
from ctypes.util import find_library
from functools import cache
from pathlib import Path
from typing import TextIO

import gradio as gr

from marigold_demo.advice import Advice
from marigold_demo.catalog import EMBEDDED
from marigold_demo.depth import DepthMap
from marigold_demo.io import isolated
from marigold_demo.io.photo import Photo
from marigold_demo.io.private_folder import default_root, own_folder, remove_own
from marigold_demo.progress import Progress
from marigold_demo.serving import lifecycle, listening
from marigold_demo.serving.lifecycle import MB, Service, in_one_thread
from marigold_demo.serving.middleware import State
from marigold_demo.settings import DepthSettings
from marigold_demo.ui import build_page, launch, launch_options
from marigold_demo.ui.desk import Desk
from marigold_demo.ui.sessions import keep_sessions
from marigold_demo.workflow import Workflow

ZERO_GPU = os.environ.get("SPACES_ZERO_GPU", "").lower() in ("1", "true", "t")
ON_SPACES = "SPACE_ID" in os.environ
SERVICE = Service(CONFIGURATION)
WARM, WARM_AFTER_S = threading.Event(), 60.0  # whether the first checkpoint is loaded, or could not be


def gpu_seconds(photo: Photo, settings: DepthSettings) -> float:
    """Return how long the GPU is asked for: waking up, then the network calls."""
    return 8 + 0.6 * (settings.steps or 4) * (settings.ensemble or 1)


@spaces.GPU(duration=gpu_seconds)  # without ZeroGPU this does nothing
def on_gpu(photo: Photo, settings: DepthSettings) -> Generator[Progress | DepthMap | DemoError, None, None]:
    """Estimate depth; an error is yielded, because only values come whole out of a GPU worker."""
    from marigold_demo.network import checkpoint  # torch: after the page is up

    try:
        yield from checkpoint.predict(photo, settings)
    except DemoError as error:
        yield error


def predict(photo: Photo, settings: DepthSettings) -> Generator[Progress | DepthMap, None, None]:
    """Estimate depth as a Predictor does, wherever the network runs."""
    with closing(on_gpu(photo, settings)) as steps:
        for step in steps:
            if isinstance(step, DemoError):
                raise step
            yield step


def advise(size: tuple[int, int], settings: DepthSettings) -> Advice:
    """Foresee the price of a prediction, as soon as the first networks are loaded."""
    if not WARM.wait(WARM_AFTER_S):
        return Advice(download_bytes=None)
    from marigold_demo.network import estimate

    return estimate.advise(size, settings)


def foresee(size: tuple[int, int], settings: DepthSettings) -> Advice:
    """Foresee the price of a prediction as far as it is known at once."""
    return advise(size, settings) if WARM.is_set() else Advice(download_bytes=None)


@cache
def first_checkpoint() -> str:
    """Return the checkpoint that the page begins with."""
    if CONFIGURATION.checkpoint:
        return CONFIGURATION.checkpoint
    if not ZERO_GPU and find_library("cuda") is None:
        return EMBEDDED  # without a driver there is no GPU, and the page need not wait for torch to say so
    from marigold_demo.network.checkpoint import default_checkpoint

    return default_checkpoint()


def warm_up() -> None:
    """Load the first checkpoint, so that the first visitor does not wait for it."""
    from marigold_demo.network.checkpoint import load_pipeline

    state = State.FAILED
    try:
        load_pipeline(first_checkpoint())
        state = State.READY
    except DemoError as error:
        logging.getLogger("marigold_demo.app").warning(error)
    finally:
        SERVICE.health.state = state
        WARM.set()


def make_page(folder: Path) -> gr.Blocks:
    """Return the page as it is configured; its files go below `folder`."""
    os.environ["GRADIO_TEMP_DIR"] = str(folder)
    keep_s = CONFIGURATION.keep_minutes * 60.0
    # On ZeroGPU the networks are in a process of their own.
    predictor = SERVICE.runs.watched(predict if ZERO_GPU else in_one_thread(predict))
    # Behind the proxy of Hugging Face all visitors have one address.
    share = None if ON_SPACES else CONFIGURATION.waiting_per_visitor or None
    workflow = Workflow(
        predictor,
        keep_bytes=CONFIGURATION.finished_mb * MB,
        keep_s=keep_s,
        waiting_per_visitor=share,
        admit=SERVICE.runs.admission(foresee),
    )
    desk = Desk(workflow, keep_bytes=CONFIGURATION.visitors_mb * MB, keep_s=keep_s, cache=SERVICE.cache)
    page = build_page(
        workflow,
        defaults=DepthSettings(checkpoint=first_checkpoint()),
        advise=SERVICE.runs.advised(advise),
        desk=desk,
        waiting_most=CONFIGURATION.queue,
    )
    SERVICE.metrics.watch_queue(lambda: len(page._queue))
    SERVICE.metrics.watch_bytes("visitors", lambda: desk.kept_bytes)
    SERVICE.metrics.watch_bytes("finished", lambda: workflow.kept_bytes)
    return page


def serve(page: gr.Blocks, place: listening.Place | None) -> None:
    """Serve the page until someone ends it.

    Args:
        page: The page.
        place: Where to listen; None leaves that to Gradio, which Hugging Face counts on.
    """
    try:
        if place is None:
            page.launch(prevent_thread_lock=True, **launch_options(SERVICE, on_spaces=ON_SPACES))
            keep_sessions(page.app)
        else:
            say(sys.stdout, f"* Running on local URL:  {launch(page, SERVICE, place)}")
        SERVICE.set_up_logging()
        if ZERO_GPU:
            page.block_thread()
        else:
            threading.Thread(target=warm_up, daemon=True).start()
            lifecycle.wait_for_end()
    except lifecycle.Ended:
        lifecycle.close(page, before=SERVICE.stop)


def decoding_limits() -> isolated.Limits:
    """Return what decoding an uploaded file may take."""
    return isolated.Limits(
        processes=CONFIGURATION.decode_processes,
        seconds=CONFIGURATION.decode_seconds,
        memory_bytes=CONFIGURATION.decode_mb * MB,
    )


def say(stream: TextIO, sentence: str) -> None:
    """Tell whoever started the process, if they are still there."""
    with suppress(OSError):
        stream.write(f"{sentence}\n")
        stream.flush()


def make_folder() -> Path:
    """Return the folder of this process for uploads and results.

    Raises:
        DemoError: It cannot be used.
    """
    return own_folder(Path(CONFIGURATION.temp_dir) if CONFIGURATION.temp_dir else default_root())


def main() -> None:
    """Run the app; ends the process."""
    if not ZERO_GPU:  # there the platform ends it
        lifecycle.end_on_signals()
    SERVICE.set_up_logging()
    folder, status = None, 0
    try:
        hosted = ON_SPACES or ZERO_GPU
        place = None if hosted else listening.listen(CONFIGURATION.server_name, CONFIGURATION.server_port)
        folder = make_folder()
        isolated.use(decoding_limits(), start=True)
        serve(make_page(folder), place)
    except DemoError as error:
        say(sys.stderr, str(error))
        status = 2
    except lifecycle.Ended:  # before there was a page
        pass
    finally:
        if folder is not None:
            remove_own(folder)
    lifecycle.leave(status)


if ZERO_GPU:
    warm_up()  # before launch: every GPU worker is forked from here, with the weights in place

if __name__ == "__main__":
    main()
