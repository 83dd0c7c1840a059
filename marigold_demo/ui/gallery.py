"""Examples to begin with, as a wall of small pictures. Knows nothing of what is done with them."""

import tempfile
from pathlib import Path

import gradio as gr
import numpy as np
from PIL import Image, ImageOps

from marigold_demo.examples import Example
from marigold_demo.io import export
from marigold_demo.io.photo import load_photo

THUMB_PX = (160, 120)


def show_examples(examples: tuple[Example, ...]) -> gr.Gallery:
    """Return the wall; its `select` event tells the index of the example."""
    with tempfile.TemporaryDirectory() as folder:  # gradio takes copies of its own
        return gr.Gallery(
            [(str(_thumb(example, Path(folder))), example.title) for example in examples],
            label="Examples",
            show_label=False,
            columns=4,
            object_fit="cover",
            allow_preview=False,
            interactive=False,
            buttons=[],
            elem_id="examples",
            visible=bool(examples),
        )


def _thumb(example: Example, folder: Path) -> Path:
    image = ImageOps.fit(Image.fromarray(load_photo(example.path).rgb), THUMB_PX)
    return export.save(folder, f"{example.path.stem}.jpg", export.jpeg(np.asarray(image)))
