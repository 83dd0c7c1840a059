"""Marigold Demo as a web page: `python app.py`, which is also how Hugging Face Spaces starts it."""

from marigold_demo.serving.config import is_zero_gpu, prepare

CONFIGURATION = prepare()  # before Gradio, numpy and torch are imported
import spaces  # before torch: on ZeroGPU it stands between torch and the GPU

from marigold_demo.app import App, Steps, gpu_seconds, predict_or_error
from marigold_demo.io.photo import Photo
from marigold_demo.settings import DepthSettings


@spaces.GPU(duration=gpu_seconds)  # without ZeroGPU this does nothing
def on_gpu(photo: Photo, settings: DepthSettings) -> Steps:
    """Estimate depth in a process that has the GPU."""
    yield from predict_or_error(photo, settings)


app = App(CONFIGURATION, on_gpu=on_gpu)
if is_zero_gpu():
    app.warm_up()  # before launch: every GPU worker is forked from here, with the weights in place

if __name__ == "__main__":
    app.run()
