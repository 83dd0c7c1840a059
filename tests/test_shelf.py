from hypothesis import given, settings
from hypothesis import strategies as st

from marigold_demo.shelf import Shelf


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def test_the_least_recently_used_goes_first():
    shelf: Shelf[str] = Shelf(max_bytes=20)
    shelf.put("a", "A", size_bytes=10)
    shelf.put("b", "B", size_bytes=10)
    assert shelf.get("a") == "A"
    shelf.put("c", "C", size_bytes=10)
    assert (shelf.get("a"), shelf.get("b"), shelf.get("c")) == ("A", None, "C")


def test_what_is_idle_too_long_goes_and_what_is_used_stays():
    clock = Clock()
    shelf: Shelf[str] = Shelf(max_bytes=100, max_idle_s=60, clock=clock)
    shelf.put("a", "A", size_bytes=1)
    shelf.put("b", "B", size_bytes=1)
    clock.now_s = 50
    assert shelf.get("a") == "A"
    clock.now_s = 100
    assert (shelf.get("a"), shelf.get("b"), len(shelf)) == ("A", None, 1)


def test_sweeping_forgets_what_is_idle_though_nobody_asks():
    clock = Clock()
    shelf: Shelf[str] = Shelf(max_bytes=100, max_idle_s=60, clock=clock)
    shelf.put("a", "A", size_bytes=10)
    shelf.put("a", "B", size_bytes=20)
    assert (shelf.size_bytes, len(shelf)) == (20, 1)
    clock.now_s = 61
    shelf.sweep()
    assert (shelf.size_bytes, len(shelf)) == (0, 0)


def test_a_thing_larger_than_the_shelf_is_kept_until_the_next_one_comes():
    shelf: Shelf[str] = Shelf(max_bytes=10)
    shelf.put("huge", "H", size_bytes=1000)
    assert shelf.get("huge") == "H"
    shelf.put("small", "S", size_bytes=1)
    assert (shelf.get("huge"), shelf.get("small")) == (None, "S")


def test_a_dropped_thing_is_gone_and_may_be_dropped_twice():
    shelf: Shelf[str] = Shelf(max_bytes=10)
    shelf.put("a", "A", size_bytes=1)
    shelf.drop("a")
    shelf.drop("a")
    assert shelf.get("a") is None


@settings(max_examples=30)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(1, 50)), max_size=40))
def test_the_bytes_never_exceed_the_bound_when_each_thing_fits(puts):
    shelf: Shelf[int] = Shelf(max_bytes=50)
    for key, size in puts:
        shelf.put(key, size, size_bytes=size)
        assert shelf.size_bytes <= 50
        assert shelf.get(key) == size
