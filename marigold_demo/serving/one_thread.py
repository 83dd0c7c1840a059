"""A Predictor that does its work in one thread, whoever asks. Knows nothing of networks.

Torch keeps worker threads and scratch memory for each thread that ever called it, some 30 MB (measured), and
Gradio resumes a generator on any of its forty.
"""

from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import Any

from marigold_demo.io.photo import Photo
from marigold_demo.settings import DepthSettings
from marigold_demo.workflow import Predictor, Step


def in_one_thread(predict: Predictor) -> Predictor:
    """Return the predictor that advances and closes its runs in a thread of their own."""
    hand = ThreadPoolExecutor(1, thread_name_prefix="networks")

    def predict_there(photo: Photo, settings: DepthSettings) -> Generator[Step, None, None]:
        context = copy_context()

        def there(work: Any, *given: Any) -> Any:
            return hand.submit(context.run, work, *given).result()

        steps = there(predict, photo, settings)
        try:
            while (step := there(next, steps, None)) is not None:
                yield step
        finally:
            if isinstance(steps, Generator):
                there(steps.close)

    return predict_there
