import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from marigold_demo.evaluation.evaluate import fit_affine
from marigold_demo.network.ensemble import align, reduce_members

H, W = 48, 64


def make_members(count, *, seed=0, noise=0.02, spread=0.2):
    """Return members [E, H, W] of one scene, each with smooth errors, a scale and a shift of its own."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[0:H, 0:W]
    scene = 0.3 * np.sin(columns / 11) + 0.3 * np.cos(rows / 7) + 0.5 * rows / H + 0.3 * (columns > 32)
    scene = (scene - scene.min()) / np.ptp(scene)
    phases, waves = rng.uniform(0, 6, (count, 4, 1, 1)), rng.uniform(5, 20, (count, 4, 1, 1))
    errors = np.sin(columns / waves[:, 0] + phases[:, 0]) * np.cos(rows / waves[:, 1] + phases[:, 1])
    scales, shifts = rng.uniform(1 - spread, 1, (count, 1, 1)), rng.uniform(0, spread, (count, 1, 1))
    return (scales * (scene + noise * errors) + shifts).clip(0, 1).astype(np.float32)


def reference_cost(members, scales, shifts):
    """Compute diffusers' objective as it is written there, pair by pair."""
    aligned = members.astype(np.float64) * np.reshape(scales, (-1, 1, 1)) + np.reshape(shifts, (-1, 1, 1))
    count = len(members)
    cost = sum(
        np.sqrt(np.mean((aligned[i] - aligned[j]) ** 2)) for i in range(count) for j in range(i + 1, count)
    )
    median = np.sort(aligned, axis=0)[(count - 1) // 2]
    return cost + 0.02 * (abs(median.min()) + abs(1 - median.max()))


def distances(members, scales, shifts):
    """Sum the pairs' RMS differences, members scaled so that their deviations add up to one."""
    aligned = members.astype(np.float64) * np.reshape(scales, (-1, 1, 1)) + np.reshape(shifts, (-1, 1, 1))
    differences = aligned[:, None] - aligned[None]  # [E, E, H, W]
    return np.sqrt((differences**2).mean(axis=(2, 3))).sum() / 2 / aligned.std(axis=(1, 2)).sum()


def reference_ensemble(members, monkeypatch):
    """Run diffusers' own ensembling; return depth, uncertainty and the alignment it ended with."""
    scipy_optimize = pytest.importorskip("scipy.optimize")
    import torch
    from diffusers import MarigoldDepthPipeline

    found = {}
    original = scipy_optimize.minimize

    def spy(*args, **choices):
        found["result"] = original(*args, **choices)
        return found["result"]

    with monkeypatch.context() as patch:
        patch.setattr(scipy_optimize, "minimize", spy)
        depth, uncertainty = MarigoldDepthPipeline.ensemble_depth(
            torch.from_numpy(members)[:, None], output_uncertainty=True
        )
    return depth[0, 0].numpy(), uncertainty[0, 0].numpy(), np.split(found["result"].x, 2)


@pytest.mark.parametrize("count", [2, 3, 4, 5, 10])
@pytest.mark.parametrize("noise", [0.003, 0.02, 0.1])
@pytest.mark.parametrize("spread", [0.02, 0.3])
def test_alignment_costs_no_more_than_that_of_diffusers(count, noise, spread, monkeypatch):
    members = make_members(count, seed=count, noise=noise, spread=spread)
    _, _, (scales, shifts) = reference_ensemble(members, monkeypatch)
    ours = align(members)
    assert reference_cost(members, ours.scales, ours.shifts) <= reference_cost(members, scales, shifts) + 1e-6


@pytest.mark.parametrize("count", [2, 3, 4, 5, 10])
def test_members_at_equal_spread_are_closer_together_than_those_of_diffusers(count, monkeypatch):
    """The objective falls when all members are flattened together; without that ours is still lower."""
    members = make_members(count, seed=count, noise=0.05)
    _, _, (scales, shifts) = reference_ensemble(members, monkeypatch)
    ours = align(members)
    assert distances(members, ours.scales, ours.shifts) <= distances(members, scales, shifts) + 1e-9


@pytest.mark.parametrize("count", [2, 3, 5, 10])
def test_depth_and_uncertainty_agree_with_diffusers(count, monkeypatch):
    members = make_members(count, seed=count, noise=0.005, spread=0.05)
    depth, uncertainty, _ = reference_ensemble(members, monkeypatch)
    ours = reduce_members(members)
    aligned = fit_affine(ours.values, depth)
    assert np.abs(aligned(ours.values) - depth).max() < 1e-2
    assert np.abs(ours.uncertainty - uncertainty).max() < 1e-2


@pytest.mark.parametrize("count", [2, 3, 6])
def test_the_cost_it_reports_is_the_objective(count):
    members = make_members(count, noise=0.05)
    found = align(members)
    assert found.cost == pytest.approx(reference_cost(members, found.scales, found.shifts), abs=1e-5)


def test_no_other_scales_and_shifts_bring_the_members_closer():
    members = make_members(4, noise=0.05)
    found = align(members)
    least = distances(members, found.scales, found.shifts)
    rng = np.random.default_rng(0)
    for size in (1e-1, 1e-2, 1e-3) * 20:
        scales = found.scales * (1 + size * rng.normal(size=4))
        shifts = found.shifts + size * rng.normal(size=4)
        assert distances(members, scales, shifts) > least - 1e-9


@pytest.mark.parametrize("noise", [0.02, 0.4])
def test_rounding_of_the_members_does_not_change_the_depth(noise):
    members = make_members(6, noise=noise)
    rounded = (members + np.random.default_rng(0).uniform(-1e-6, 1e-6, members.shape)).astype(np.float32)
    assert np.abs(reduce_members(rounded).values - reduce_members(members).values).max() < 2e-5


@settings(max_examples=10)
@given(order=st.permutations(range(5)))
def test_the_order_of_members_leaves_no_trace(order):
    members = make_members(5)
    plain, shuffled = reduce_members(members), reduce_members(members[list(order)])
    assert np.array_equal(plain.values, shuffled.values)
    assert np.array_equal(plain.uncertainty, shuffled.uncertainty)


@settings(max_examples=20)
@given(scales=st.lists(st.floats(0.05, 20), min_size=4, max_size=4), shift=st.floats(-5, 5))
def test_a_scale_and_shift_of_each_member_does_not_matter(scales, shift):
    members = make_members(4)
    moved = (members * np.reshape(scales, (4, 1, 1)) + shift * np.arange(4)[:, None, None]).astype(np.float32)
    largest = np.abs(moved).max(axis=(1, 2))  # float32 keeps a small scale beside a large shift this badly
    rounding = float((np.finfo(np.float32).eps * largest / scales).max())
    assert np.allclose(reduce_members(moved).values, reduce_members(members).values, atol=2e-5 + 4 * rounding)


@settings(max_examples=20)
@given(count=st.integers(2, 12), scale=st.floats(0.1, 10), shift=st.floats(-2, 2))
def test_equal_members_have_no_uncertainty(count, scale, shift):
    member = make_members(1)[0]
    members = np.stack([member, *[member * np.float32(scale) + np.float32(shift)] * (count - 1)])
    depth = reduce_members(members)
    assert depth.uncertainty.max() < 1e-5
    assert np.allclose(depth.values, (member - member.min()) / np.ptp(member), atol=1e-5)


@pytest.mark.parametrize("count", [2, 3, 6])
def test_mean_of_the_members_is_closer_to_the_scene_than_they_are(count):
    scene, members = make_members(1, noise=0)[0], make_members(count, noise=0.05)
    depth = reduce_members(members, center="mean")

    def error(values):
        return np.abs(fit_affine(values, scene)(values) - scene).mean()

    assert error(depth.values) < min(error(member) for member in members)
    assert np.array_equal(depth.values, reduce_members(members[::-1], center="mean").values)


def test_a_single_member_is_left_as_it_is():
    member = make_members(1)[0] * 0.5
    depth = reduce_members(member[None])
    assert np.array_equal(depth.values, member)
    assert depth.uncertainty is None


def test_depth_of_several_members_spans_the_unit_range():
    depth = reduce_members(make_members(3) * 0.4 + 0.1)
    assert (depth.values.min(), depth.values.max()) == (0, pytest.approx(1))


@pytest.mark.parametrize("constants", [1, 2, 3])
def test_constant_members_are_harmless(constants):
    members = make_members(3)
    members[:constants] = 0.25
    depth = reduce_members(members)
    assert np.isfinite(depth.values).all()
    assert np.isfinite(depth.uncertainty).all()
    if constants == 1:
        scene = make_members(1, noise=0)[0]
        assert np.corrcoef(depth.values.ravel(), scene.ravel())[0, 1] > 0.9


def test_members_of_two_by_one_pixels_are_enough():
    members = np.array([[[0.1], [0.9]], [[0.2], [0.7]], [[0.0], [1.0]]], dtype=np.float32)
    assert np.allclose(reduce_members(members).values, [[0], [1]])


def test_members_are_not_written_to():
    members = make_members(3)
    members.setflags(write=False)
    before = members.copy()
    reduce_members(members)
    assert np.array_equal(members, before)


def test_one_bad_member_does_not_spoil_the_depth():
    members = make_members(5, noise=0.005)
    good = reduce_members(members).values
    members[2] = np.random.default_rng(0).uniform(0, 1, (H, W))
    spoiled = reduce_members(members).values
    assert np.abs(fit_affine(spoiled, good)(spoiled) - good).mean() < 0.02
