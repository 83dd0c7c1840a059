"""What a network without chance is shown instead of other noise: the photo mirrored and at nearby sizes.

A checkpoint tuned end to end starts from zeros, so all members of its ensemble would be equal. Its answers to
the mirrored photo and to slightly other sizes differ a little, and their mean is better than each of them.
Knows nothing of networks.
"""

from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import TypeVar

from marigold_demo.progress import Progress

Result = TypeVar("Result")
SCALES = (1, 9 / 8, 7 / 8, 5 / 4, 3 / 4)  # of the resolution; each is seen as it is and mirrored
MOST_VIEWS = 2 * len(SCALES)


@dataclass(frozen=True)
class View:
    """One way to show a photo.

    Attributes:
        resolution: Longest edge in pixels.
        mirrored: Left and right are swapped.
    """

    resolution: int
    mirrored: bool


def choose_views(count: int, *, resolution: int, multiple: int) -> tuple[View, ...]:
    """Choose views of a photo: pairs of mirror images, the resolution that was asked for first.

    Args:
        count: How many are wished for; there are never more than MOST_VIEWS.
        resolution: Longest edge in pixels.
        multiple: All but the first resolution are rounded to this, as the network likes them.
    """
    sizes = [resolution] + [max(1, round(resolution * scale / multiple)) * multiple for scale in SCALES[1:]]
    return tuple(View(sizes[number // 2], bool(number % 2)) for number in range(min(count, MOST_VIEWS)))


def joined(
    runs: Iterator[Generator[Progress, None, Result]], *, count: int
) -> Generator[Progress, None, list[Result]]:
    """Run one prediction after the other with the progress of a single one; return what they return.

    Args:
        runs: Makes the runs; each yields `Progress` of an equal total and ends with the stage "align".
        count: How many there are.
    """
    results = []
    for number, run in enumerate(runs):
        with closing(run):
            while True:
                try:
                    step = next(run)
                except StopIteration as end:
                    results.append(end.value)
                    break
                if step.stage != "align" or number + 1 == count:
                    yield Progress(step.stage, number * step.total + step.done, count * step.total)
    return results
