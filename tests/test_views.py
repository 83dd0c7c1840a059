import pytest

from marigold_demo.network.views import MOST_VIEWS, View, choose_views, joined
from marigold_demo.progress import Progress


def test_the_photo_as_it_is_comes_first_and_its_mirror_image_next():
    assert choose_views(3, resolution=384, multiple=8) == (
        View(384, False),
        View(384, True),
        View(432, False),
    )


@pytest.mark.parametrize("count", [1, 5, 10, 20])
def test_no_view_is_used_twice(count):
    views = choose_views(count, resolution=64, multiple=8)
    assert len(set(views)) == len(views) == min(count, MOST_VIEWS)
    assert all(view.resolution % 8 == 0 for view in views)


def test_resolution_that_was_asked_for_is_kept_as_it_is():
    assert choose_views(1, resolution=333, multiple=8) == (View(333, False),)


def run(result, *, closed=None):
    try:
        for done in range(3):
            yield Progress("denoise", done, 3)
        yield Progress("align", 3, 3)
    finally:
        if closed is not None:
            closed.append(result)
    return result


def collect(generator):
    steps = []
    while True:
        try:
            steps.append(next(generator))
        except StopIteration as end:
            return steps, end.value


def test_runs_in_a_row_tell_the_progress_of_one():
    steps, results = collect(joined((run(number) for number in range(2)), count=2))
    assert results == [0, 1]
    assert [step.done for step in steps] == [0, 1, 2, 3, 4, 5, 6]
    assert {step.total for step in steps} == {6}
    assert [step.stage for step in steps].count("align") == 1


def test_closing_closes_the_run_and_starts_no_other():
    closed, started = [], []

    def runs():
        for number in range(3):
            started.append(number)
            yield run(number, closed=closed)

    together = joined(runs(), count=3)
    next(together)
    together.close()
    assert (started, closed) == ([0], [0])
