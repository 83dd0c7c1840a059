import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from contextvars import ContextVar

import pytest

from marigold_demo.depth import DepthMap, Progress
from marigold_demo.errors import SettingsError
from marigold_demo.serving.lifecycle import in_one_thread
from marigold_demo.settings import DepthSettings
from tests.conftest import make_photo
from tests.pages import ball
from tests.predictors import steps_of, stepwise

PHOTO = make_photo(48, 64)
visitor: ContextVar[str] = ContextVar("visitor", default="nobody")


def watched(threads, *, error=None):
    @stepwise
    def predict(photo, settings):
        try:
            for step in range(3):
                threads.append((threading.get_ident(), visitor.get()))
                yield Progress("denoise", step, 3)
            if error:
                raise error
            yield DepthMap(ball(48, 64), None)
        finally:
            threads.append((threading.get_ident(), visitor.get()))

    return predict


def test_whoever_asks_from_whichever_thread_the_work_is_done_in_one():
    seen = []
    predict = in_one_thread(watched(seen))

    def ask(name):
        visitor.set(name)
        return [type(step) for step in steps_of(predict)(PHOTO, DepthSettings())]

    names = [f"visitor {number}" for number in range(5)]
    for name in names:
        with ThreadPoolExecutor(1) as thread:
            assert thread.submit(ask, name).result() == [Progress] * 3 + [DepthMap]
    assert len({thread for thread, _ in seen}) == 1
    assert threading.get_ident() not in {thread for thread, _ in seen}
    assert [name for _, name in seen[::4]] == names


def test_closing_ends_the_run_there_and_the_next_one_is_served():
    seen = []
    predict = in_one_thread(watched(seen))
    with closing(steps_of(predict)(PHOTO, DepthSettings())) as steps:
        next(steps)
    assert len(seen) == 2
    assert len(list(steps_of(predict)(PHOTO, DepthSettings()))) == 4
    assert len({thread for thread, _ in seen}) == 1


def test_errors_come_through():
    predict = in_one_thread(watched([], error=SettingsError("too many")))
    with pytest.raises(SettingsError, match="too many"):
        list(steps_of(predict)(PHOTO, DepthSettings()))


def test_threads_that_wait_sleep_unless_told_otherwise():
    told = (
        "import marigold_demo, os; print(os.environ['OMP_WAIT_POLICY'], 'torch' in __import__('sys').modules)"
    )
    for given, expected in (({}, "passive"), ({"OMP_WAIT_POLICY": "active"}, "active")):
        environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
        answer = subprocess.check_output([sys.executable, "-c", told], env=environment | given, text=True)
        assert answer.split() == [expected, "False"]
