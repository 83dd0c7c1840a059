"""Predictors for tests, written as generators."""

from collections.abc import Callable
from contextlib import closing
from functools import wraps
from typing import Any

from marigold_demo.depth import DepthMap, Run
from marigold_demo.workflow import Steps, streamed


def stepwise(steps: Callable[..., Any]) -> Callable[..., DepthMap]:
    """Make a predictor of a generator that yields Progress and, last, the DepthMap."""

    @wraps(steps)
    def predict(*given: Any) -> DepthMap:
        *arguments, run = given if isinstance(given[-1], Run) else (*given, Run())
        with closing(steps(*arguments)) as under_way:
            for step in under_way:
                if isinstance(step, DepthMap):
                    return step
                run.report(step)
        raise RuntimeError("ended without a depth map")

    return predict


def steps_of(predict: Callable[..., DepthMap]) -> Callable[..., Steps]:
    """Make a function that yields what a predictor reports and, last, the DepthMap."""
    return lambda photo, settings: streamed(lambda run: predict(photo, settings, run))
