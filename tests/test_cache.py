import gc
import threading
import time
import weakref

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from marigold_demo.workflow import IdleCache, PeriodicTask


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def test_the_least_recently_used_goes_first():
    cache: IdleCache[str] = IdleCache(max_bytes=20)
    cache.put("a", "A", size_bytes=10)
    cache.put("b", "B", size_bytes=10)
    assert cache.get("a") == "A"
    cache.put("c", "C", size_bytes=10)
    assert (cache.get("a"), cache.get("b"), cache.get("c")) == ("A", None, "C")


def test_what_is_idle_too_long_goes_and_what_is_used_stays():
    clock = Clock()
    cache: IdleCache[str] = IdleCache(max_bytes=100, ttl_s=60, clock=clock)
    cache.put("a", "A", size_bytes=1)
    cache.put("b", "B", size_bytes=1)
    clock.now_s = 50
    assert cache.get("a") == "A"
    clock.now_s = 100
    assert (cache.get("a"), cache.get("b"), len(cache)) == ("A", None, 1)


def test_sweeping_forgets_what_is_idle_though_nobody_asks():
    clock = Clock()
    cache: IdleCache[str] = IdleCache(max_bytes=100, ttl_s=60, clock=clock)
    cache.put("a", "A", size_bytes=10)
    cache.put("a", "B", size_bytes=20)
    assert (cache.size_bytes, len(cache)) == (20, 1)
    clock.now_s = 61
    cache.sweep()
    assert (cache.size_bytes, len(cache)) == (0, 0)


def test_a_thing_larger_than_the_cache_is_kept_until_the_next_one_comes():
    cache: IdleCache[str] = IdleCache(max_bytes=10)
    cache.put("huge", "H", size_bytes=1000)
    assert cache.get("huge") == "H"
    cache.put("small", "S", size_bytes=1)
    assert (cache.get("huge"), cache.get("small")) == (None, "S")


def test_a_dropped_thing_is_gone_and_may_be_dropped_twice():
    cache: IdleCache[str] = IdleCache(max_bytes=10)
    cache.put("a", "A", size_bytes=1)
    cache.drop("a")
    cache.drop("a")
    assert cache.get("a") is None


@settings(max_examples=30)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(1, 50)), max_size=40))
def test_the_bytes_never_exceed_the_bound_when_each_thing_fits(puts):
    cache: IdleCache[int] = IdleCache(max_bytes=50)
    for key, size in puts:
        cache.put(key, size, size_bytes=size)
        assert cache.size_bytes <= 50
        assert cache.get(key) == size


def test_a_cache_without_bytes_holds_the_last_value_alone():
    cache: IdleCache[str] = IdleCache(max_bytes=0)
    for key in "ab":
        cache.put(key, key.upper(), size_bytes=10)
    assert (cache.get("a"), cache.get("b"), len(cache)) == (None, "B", 1)


def test_threads_that_put_and_get_keep_to_the_bound_and_never_fail():
    cache: IdleCache[int] = IdleCache(max_bytes=50, ttl_s=0.001)
    failures: list[BaseException] = []

    def use(start: int) -> None:
        try:
            for count in range(start, start + 2000):
                cache.put(count % 7, count, size_bytes=10 + count % 5)
                cache.get((count + 3) % 7)
                if count % 5 == 0:
                    cache.drop(count % 7)
                assert cache.size_bytes <= 50
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=use, args=(start,)) for start in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


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
    task = PeriodicTask(work.do, every_s=0.01)
    assert not work.times
    task.start()
    task.start()
    assert work.twice.wait(30)


def test_a_periodic_task_does_not_keep_alive_what_it_works_for():
    work = Work()
    task = PeriodicTask(work.do, every_s=0.01)
    task.start()
    assert work.twice.wait(30)
    gone = weakref.ref(work)
    del work, task
    until = time.monotonic() + 30
    while gone() is not None and time.monotonic() < until:  # the thread may be in the middle of it
        gc.collect()
        time.sleep(0.01)
    assert gone() is None
