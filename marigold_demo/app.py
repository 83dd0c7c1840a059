"""The app: page, server and warm-up of the first checkpoint. Import it after `serving.config.prepare()`."""

import logging
import os
import sys
import threading
from collections.abc import Callable, Generator
from contextlib import closing, suppress
from ctypes.util import find_library
from functools import cached_property
from pathlib import Path
from typing import NoReturn, TextIO

import gradio as gr

from marigold_demo.catalog import EMBEDDED
from marigold_demo.depth import CheckpointStatus, DepthMap, Progress, Run
from marigold_demo.errors import DemoError
from marigold_demo.io import isolated
from marigold_demo.io.cache_folder import default_root, own_folder, remove_own
from marigold_demo.io.photo import Photo
from marigold_demo.serving import lifecycle, listening
from marigold_demo.serving.config import Configuration, is_space, is_zero_gpu
from marigold_demo.serving.lifecycle import MB, Service, in_one_thread
from marigold_demo.serving.middleware import State
from marigold_demo.settings import DepthSettings
from marigold_demo.ui import build_page, launch, launch_options
from marigold_demo.ui.queue import keep_sessions
from marigold_demo.ui.session_store import SessionStore
from marigold_demo.workflow import Workflow, streamed

Steps = Generator[Progress | DepthMap | DemoError, None, None]
WARM_AFTER_S = 60.0


def gpu_seconds(photo: Photo, settings: DepthSettings) -> float:
    """Return how long a ZeroGPU worker is asked for, in seconds: waking up, then the network calls."""
    return 8 + 0.6 * (settings.steps or 4) * (settings.ensemble or 1)


def predict(photo: Photo, settings: DepthSettings, run: Run) -> DepthMap:
    """Estimate depth in this process."""
    from marigold_demo.network import checkpoint  # torch: after the page is up

    return checkpoint.predict(photo, settings, run)


def predict_or_error(photo: Photo, settings: DepthSettings) -> Steps:
    """Estimate depth for a ZeroGPU worker: progress and depth are yielded, and so is an error.

    Only values come whole out of such a worker.
    """
    try:
        yield from streamed(lambda run: predict(photo, settings, run))
    except DemoError as error:
        yield error


class App:
    """The app of one process.

    Attributes:
        service: What stands between the page and the network: limits, logs, metrics, health.
    """

    def __init__(
        self,
        configuration: Configuration,
        *,
        on_gpu: Callable[[Photo, DepthSettings], Steps] = predict_or_error,
    ) -> None:
        """Set up the app; nothing runs yet.

        Args:
            configuration: From `prepare`.
            on_gpu: What ZeroGPU made of `predict_or_error`; used there only.
        """
        self.configuration, self._on_gpu = configuration, on_gpu
        self.service = Service(configuration)
        self._warm = threading.Event()  # set once the first checkpoint is loaded, or could not be

    def predict_on_gpu(self, photo: Photo, settings: DepthSettings, run: Run) -> DepthMap:
        """Estimate depth in a worker that has the GPU."""
        with closing(self._on_gpu(photo, settings)) as steps:
            for step in steps:
                if isinstance(step, DemoError):
                    raise step
                if isinstance(step, DepthMap):
                    return step
                run.report(step)
        raise RuntimeError("the GPU worker ended without a depth map")

    def status(self, settings: DepthSettings) -> CheckpointStatus:
        """Return what is known of a prediction beforehand, as soon as the first networks are loaded."""
        if not self._warm.wait(WARM_AFTER_S):
            return CheckpointStatus(download_bytes=None)
        from marigold_demo.network import checkpoint

        return checkpoint.status(settings)

    def _status_at_once(self, settings: DepthSettings) -> CheckpointStatus:
        """Return what is known without waiting for the first networks."""
        return self.status(settings) if self._warm.is_set() else CheckpointStatus(download_bytes=None)

    @cached_property
    def first_checkpoint(self) -> str:
        """The checkpoint that the page begins with."""
        if self.configuration.checkpoint:
            return self.configuration.checkpoint
        if not is_zero_gpu() and find_library("cuda") is None:
            return (
                EMBEDDED  # without a driver there is no GPU, and the page need not wait for torch to say so
            )
        from marigold_demo.network.checkpoint import default_checkpoint

        return default_checkpoint()

    def warm_up(self) -> None:
        """Load the first checkpoint, so that the first visitor does not wait for it."""
        from marigold_demo.network.checkpoint import load_pipeline

        state = State.FAILED
        try:
            load_pipeline(self.first_checkpoint)
            state = State.READY
        except DemoError as error:
            logging.getLogger("marigold_demo.app").warning(error)
        finally:
            self.service.health.state = state
            self._warm.set()

    def make_page(self, folder: Path) -> gr.Blocks:
        """Return the page as it is configured; its files go below `folder`."""
        os.environ["GRADIO_TEMP_DIR"] = str(folder)
        configuration, service = self.configuration, self.service
        keep_s = configuration.keep_minutes * 60.0
        # On ZeroGPU the networks are in a process of their own.
        predictor = service.runs.watched(self.predict_on_gpu if is_zero_gpu() else in_one_thread(predict))
        # Behind the proxy of Hugging Face all visitors have one address.
        share = None if is_space() else configuration.waiting_per_visitor or None
        workflow = Workflow(
            predictor,
            keep_bytes=configuration.finished_mb * MB,
            keep_s=keep_s,
            waiting_per_visitor=share,
            admit=service.runs.admission(self._status_at_once),
        )
        memory_bytes = configuration.visitors_mb * MB
        store = SessionStore(workflow, max_bytes=memory_bytes, ttl_s=keep_s, files=service.cache)
        page = build_page(
            workflow,
            defaults=DepthSettings(checkpoint=self.first_checkpoint),
            status_of=service.runs.with_limit(self.status),
            store=store,
            waiting_most=configuration.queue,
        )
        service.metrics.watch_queue(lambda: len(page.event_queue))
        service.metrics.watch_bytes("visitors", lambda: store.used_bytes)
        service.metrics.watch_bytes("finished", lambda: workflow.kept_bytes)
        return page

    def run(self) -> NoReturn:
        """Serve the page until a signal ends it; ends the process, with status 2 where it cannot start."""
        if not is_zero_gpu():  # there the platform ends it
            lifecycle.end_on_signals()
        self.service.set_up_logging()
        configuration, folder, status = self.configuration, None, 0
        try:
            hosted = is_space() or is_zero_gpu()  # Hugging Face counts on Gradio's own server
            address = configuration.server_name, configuration.server_port
            place = None if hosted else listening.listen(*address)
            folder = own_folder(Path(configuration.temp_dir) if configuration.temp_dir else default_root())
            isolated.use(self._decoding_limits(), start=True)
            self._serve(self.make_page(folder), place)
        except DemoError as error:
            print_line(sys.stderr, str(error))
            status = 2
        except lifecycle.Ended:  # before there was a page
            pass
        finally:
            if folder is not None:
                remove_own(folder)
        lifecycle.leave(status)

    def _serve(self, page: gr.Blocks, place: listening.Place | None) -> None:
        """Serve the page until someone ends it; without a place Gradio chooses where to listen."""
        try:
            if place is None:
                options = launch_options(self.service, on_spaces=is_space())
                page.launch(prevent_thread_lock=True, **options)
                keep_sessions(page.app)
            else:
                url = launch(page, self.service, place)
                print_line(sys.stdout, f"* Running on local URL:  {url}")
            self.service.set_up_logging()  # again: uvicorn has set up its own way
            if is_zero_gpu():
                page.block_thread()
            else:
                threading.Thread(target=self.warm_up, daemon=True).start()
                lifecycle.wait_for_end()
        except lifecycle.Ended:
            lifecycle.close(page, before=self.service.stop)

    def _decoding_limits(self) -> isolated.Limits:
        configuration = self.configuration
        return isolated.Limits(
            processes=configuration.decode_processes,
            seconds=configuration.decode_seconds,
            memory_bytes=configuration.decode_mb * MB,
        )


def print_line(stream: TextIO, sentence: str) -> None:
    """Print to whoever started the process, if they are still there."""
    with suppress(OSError):
        stream.write(f"{sentence}\n")
        stream.flush()
