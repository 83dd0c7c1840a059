import pytest

from marigold_demo.network.plan import MOST_VIEWS, View, choose_views


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
