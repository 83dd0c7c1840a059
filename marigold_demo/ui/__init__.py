"""The page over a Workflow: Gradio components and their events, one module for each tab."""

from marigold_demo.ui.page import build_page, launch, launch_options

__all__ = ["build_page", "launch", "launch_options"]
