"""app.py as ZeroGPU runs it, but without torch: a child process of test_zerogpu."""
# ruff: noqa: E402

import json
import os
import signal
import sys
import time
import types
from pathlib import Path

sys.modules["torch"] = None  # type: ignore[assignment]  # spaces then patches nothing

from marigold_demo.depth import Run
from marigold_demo.errors import CheckpointError
from tests.pages import Ball

ROOT, NOTES = Path(__file__).parents[1], Path(sys.argv[1])


def note(**facts) -> None:
    """Write down what happened, from whatever process."""
    with NOTES.open("a") as file:
        file.write(json.dumps(facts | {"pid": os.getpid()}) + "\n")


def predict(photo, settings, run):
    def slow(progress):
        note(step=progress.done)
        time.sleep(0.3)
        run.report(progress)

    if settings.checkpoint == "missing":
        raise CheckpointError("There is no checkpoint 'missing'; name another.")
    note(began=True)
    try:
        return Ball(steps=settings.steps or 2)(photo, settings, Run(slow))
    finally:
        note(ended=True)


checkpoint = types.ModuleType("marigold_demo.network.checkpoint")
checkpoint.predict = predict  # type: ignore[attr-defined]
checkpoint.load_pipeline = lambda name: note(loaded=name)  # type: ignore[attr-defined]
checkpoint.default_checkpoint = lambda: "embedded"  # type: ignore[attr-defined]
sys.modules["marigold_demo.network.checkpoint"] = checkpoint
import marigold_demo.network

marigold_demo.network.checkpoint = checkpoint  # type: ignore[attr-defined]
sys.path.insert(0, str(ROOT))
from app import app
from marigold_demo.ui import build_page, launch_options
from marigold_demo.workflow import Workflow


def end(*_) -> None:
    import multiprocessing

    for worker in multiprocessing.active_children():  # the platform does it in production
        worker.terminate()
    os._exit(0)


signal.signal(signal.SIGTERM, end)
page = build_page(Workflow(app.predict_on_gpu))
_, url, _ = page.launch(prevent_thread_lock=True, quiet=True, server_name="127.0.0.1", **launch_options())
note(url=url, main=True)
while True:
    time.sleep(1)
