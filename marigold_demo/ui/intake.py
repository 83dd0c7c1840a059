"""What a client sends, held against the fields before any handler sees it. Knows nothing of stages.

Gradio checks types, choices and uploads itself, but says what it finds to the log only. Whoever sends what
no field of the page can hold gets a sentence here, like everyone else.
"""

import logging
from collections.abc import Sequence
from typing import Any

import gradio as gr
from gradio.exceptions import InvalidPathError

from marigold_demo.files.private_folder import FileRoot, paths_in, served_folder

_log = logging.getLogger(__name__)
_NOT_UPLOADED = "This file was not uploaded here; upload it first."
_DOES_NOT_FIT = "A value does not fit its field; send what the page or the endpoint's description offers."


class Intake(gr.Blocks):  # type: ignore[misc]  # gradio is not typed
    """Blocks whose refusals of a client's values are sentences."""

    async def preprocess_data(self, block_fn: Any, inputs: Sequence[Any], *values: Any, **named: Any) -> Any:
        """Turn what a client sent into what handlers take.

        Raises:
            gr.Error: A value does not fit, or a file was not uploaded.
        """
        root = FileRoot(served_folder())
        if not all(root.has(path) for path in set(paths_in(inputs))):
            raise gr.Error(_NOT_UPLOADED, print_exception=False)
        try:
            return await super().preprocess_data(block_fn, inputs, *values, **named)
        except gr.Error:
            raise
        except InvalidPathError as error:
            raise gr.Error(_NOT_UPLOADED, print_exception=False) from error
        except Exception as error:
            _log.info("refused a value: %s", type(error).__name__)
            raise gr.Error(_DOES_NOT_FIT, print_exception=False) from error
