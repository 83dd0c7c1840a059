"""A bounded part of benchmarks/fuzz.py: hostile files end in a result or an error message."""

import resource
import warnings

import pytest

from benchmarks.fuzz import damaged, make_bombs, make_seeds, read_as_visitor

BOMBS = make_bombs()


@pytest.mark.parametrize("name", BOMBS)
def test_a_file_made_to_do_harm_is_refused_and_costs_little_memory(name, tmp_path):
    path = tmp_path / "visitor.bin"
    path.write_bytes(BOMBS[name])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_as_visitor(path, recipe=name.startswith("recipe")) == "refused"
        read_as_visitor(path, recipe=not name.startswith("recipe"))  # through the wrong door
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # KB


def test_hundreds_of_damaged_recipes_end_in_a_recipe_or_a_sentence(tmp_path):
    seeds = {name: data for name, data in make_seeds().items() if name.startswith("recipe")}
    outcomes, path = set(), tmp_path / "visitor.bin"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name, data in seeds.items():
            path.write_bytes(data)
            assert read_as_visitor(path, recipe=True) == "recipe", name
        for number in range(300):
            path.write_bytes(damaged(seeds, number)[1])
            outcomes.add(read_as_visitor(path, recipe=True))
    assert outcomes == {"recipe", "refused"}
