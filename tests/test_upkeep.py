import gc
import threading
import time
import weakref

import pytest

from marigold_demo.upkeep import Upkeep


class Work:
    def __init__(self, error: Exception | None = None) -> None:
        self.times, self.twice, self._error = 0, threading.Event(), error

    def do(self) -> None:
        self.times += 1
        if self.times == 2:
            self.twice.set()
        if self._error and self.times == 1:
            raise self._error


@pytest.mark.parametrize("error", [None, OSError("the disk is gone"), RuntimeError("a bug")])
def test_work_is_done_again_and_again_whatever_happens(error):
    work = Work(error)
    upkeep = Upkeep(work.do, every_s=0.01)
    assert not work.times
    upkeep.begin()
    upkeep.begin()
    assert work.twice.wait(30)


def test_upkeep_does_not_keep_alive_what_it_works_for():
    work = Work()
    upkeep = Upkeep(work.do, every_s=0.01)
    upkeep.begin()
    assert work.twice.wait(30)
    gone = weakref.ref(work)
    del work, upkeep
    until = time.monotonic() + 30
    while gone() is not None and time.monotonic() < until:  # the thread may be in the middle of it
        gc.collect()
        time.sleep(0.01)
    assert gone() is None
