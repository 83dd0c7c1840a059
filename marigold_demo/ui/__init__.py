"""The page over a Workflow: gradio components and events, one module for each stage of the page."""

from marigold_demo.ui.page import build_page
from marigold_demo.ui.theme import launch, launch_options

__all__ = ["build_page", "launch", "launch_options"]
