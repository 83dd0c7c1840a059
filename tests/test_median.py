import numpy as np
import pytest

from marigold_demo.network.ensemble import lower_median, median_network


@pytest.mark.parametrize("count", range(1, 21))
def test_network_finds_the_lower_median_of_any_number_of_rows(count):
    rows = np.random.default_rng(count).normal(size=(count, 500)).astype(np.float32)
    rows[:, :100] = np.round(rows[:, :100])  # ties
    assert np.array_equal(lower_median(rows.copy()), np.sort(rows, axis=0)[(count - 1) // 2])


@pytest.mark.parametrize("count", range(1, 13))
def test_network_is_right_for_every_input_of_zeros_and_ones(count):
    """By the zero-one principle a comparator network that does this is right for all inputs."""
    rows = (np.arange(2**count) >> np.arange(count)[:, None] & 1).astype(np.float32)  # [count, 2^count]
    assert np.array_equal(lower_median(rows.copy()), np.sort(rows, axis=0)[(count - 1) // 2])


def test_network_leaves_out_what_the_median_does_not_need():
    outputs = sum(low + high for _, _, low, high in median_network(10))
    assert outputs < 2 * 31  # Batcher's network sorts ten rows with 31 exchanges of two outputs each
