import pytest
import torch

from marigold_demo.errors import SettingsError
from marigold_demo.network.memory import in_batches

OUT_OF_MEMORY = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes"),
]


def unheard(done):
    """Listen to nothing."""


@pytest.mark.parametrize(("count", "size"), [(1, 1), (5, 1), (5, 2), (5, 5), (5, 99)])
def test_each_member_runs_once_and_in_order(count, size):
    seen, told = [], []

    def run(batch):
        seen.extend(range(batch.start, batch.stop))
        return batch

    batches = in_batches(count, run, size=size, before=lambda done: told.append((done, len(seen))))
    assert seen == list(range(count))
    assert all(done == ran for done, ran in told)  # before the call
    assert [batch.start for batch in batches] == [done for done, _ in told]


@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=["gpu", "cpu"])
def test_batches_shrink_until_they_fit(error):
    seen = []

    def run(batch):
        if batch.stop - batch.start > 2:
            raise error
        seen.append((batch.start, batch.stop))

    in_batches(9, run, size=9, before=unheard)
    assert [member for first, last in seen for member in range(first, last)] == list(range(9))


@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=["gpu", "cpu"])
def test_a_member_that_does_not_fit_is_explained(error):
    def run(_):
        raise error

    with pytest.raises(SettingsError, match="choose a lower one"):
        in_batches(4, run, size=4, before=unheard)


@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=["gpu", "cpu"])
def test_what_needs_less_after_a_fallback_goes_on_where_it_was(error):
    seen, remedies = [], ["first", "second"]

    def run(batch):
        if remedies and batch.start == 1:
            raise error
        seen.append(batch.start)

    in_batches(3, run, size=1, before=unheard, escalate=lambda: bool(remedies.pop(0)))
    assert seen == [0, 1, 2]


def test_other_errors_rise():
    def run(_):
        raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes"):
        in_batches(4, run, size=4, before=unheard)
