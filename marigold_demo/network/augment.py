"""Test-time augmentation: the photo mirrored and at nearby sizes, for checkpoints that start without noise.

A checkpoint tuned end to end starts from zeros, so all members of its ensemble would be equal. Its answers to
the mirrored photo and to slightly other sizes differ a little, and their mean is better than each of them.
"""

from dataclasses import dataclass

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
        count: How many are wanted; there are never more than MOST_VIEWS.
        resolution: Longest edge in pixels.
        multiple: All but the first resolution are rounded to this, as the network likes them.
    """
    sizes = [resolution] + [max(1, round(resolution * scale / multiple)) * multiple for scale in SCALES[1:]]
    return tuple(View(sizes[number // 2], bool(number % 2)) for number in range(min(count, MOST_VIEWS)))
