"""The edge rules of `angle`, `slerp` and `pchip`, which operator and reference share."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import robocache
import torch
from cases import FLOATS, Case, assert_same_bits, case_count, random_times, random_values
from definition import wrap
from torch import Tensor

Call = Callable[..., Tensor]
COMPUTE = {torch.float64: np.float64, torch.float32: np.float32}
every_type = pytest.mark.parametrize("dtype", FLOATS, ids=str)
NAN, INF = math.nan, math.inf


@pytest.fixture(params=["operator", "reference"])
def resample(request: pytest.FixtureRequest, device: torch.device) -> Call:
    """The operator or its reference; tensors are placed on the device, results come back."""
    call = robocache.resample if request.param == "operator" else robocache.reference.resample

    def called(values: Tensor, times: Tensor, targets: Tensor, **options: object) -> Tensor:
        options = {name: x.to(device) if isinstance(x, Tensor) else x for name, x in options.items()}
        result: Tensor = call(*(x.to(device) for x in (values, times, targets)), **options)
        return result.cpu()

    return called


def pi_of(dtype: torch.dtype) -> float:
    """The nearest to pi of the type in which the values are computed."""
    return math.pi if dtype == torch.float64 else float(np.float32(math.pi))


# angle


@every_type
def test_angles_in_range_stay_as_they_are(resample: Call, dtype: torch.dtype) -> None:
    pi = pi_of(dtype)
    inside = torch.tensor(
        [-pi, -3.0, -0.0, 0.0, 1e-30, 3.0, pi * (1 - 1e-7) if dtype == torch.float64 else 3.14], dtype=dtype
    )
    inside = inside[(inside.double() >= -pi) & (inside.double() < pi)]
    times = torch.arange(float(len(inside)))
    assert_same_bits(resample(inside, times, times, mode="angle"), inside)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_samples_and_ends_are_wrapped(resample: Call, dtype: torch.dtype, rng: np.random.Generator) -> None:
    pi = pi_of(dtype)
    odd = [
        pi,
        -pi,
        np.nextafter(-pi, -9),
        2 * pi,
        -2 * pi,
        3 * pi,
        -3 * pi,
        65535.9,
        65536.0,
        -65536.0,
        1e10,
        -1e30,
        7e37,
    ]
    angles = np.concatenate([odd, rng.uniform(-50, 50, 200), rng.uniform(-1e6, 1e6, 200), np.pi * np.arange(-40, 40)])
    values = torch.from_numpy(angles).to(dtype)
    times = torch.arange(float(len(values)), dtype=torch.float64)
    expected = [wrap(x, COMPUTE[dtype]) for x in values.numpy()]
    found = resample(values, times, times, mode="angle")
    assert_same_bits(found, torch.tensor(np.array(expected)))
    assert bool(((found >= -pi) & (found < pi)).all())
    ends = torch.tensor([-1.0, 1e9], dtype=torch.float64)
    assert_same_bits(resample(values, times, ends, mode="angle"), found[[0, -1]])
    near = values.abs() < 1e4
    turns = (values - found)[near].double() / (2 * math.pi)
    assert float((turns - turns.round()).abs().max()) < (1e-9 if dtype == torch.float64 else 1e-2)


def test_the_shorter_arc(resample: Call) -> None:
    times, targets = torch.tensor([0.0, 1.0]), torch.tensor([0.25, 0.5, 0.75])
    across = resample(torch.tensor([3.0, -3.0], dtype=torch.float64), times, targets, mode="angle")
    step = (2 * math.pi - 6) / 4
    assert torch.allclose(across, torch.tensor([3 + step, -math.pi, -3 - step], dtype=torch.float64), atol=1e-15)
    plain = resample(torch.tensor([1.0, -1.0]), times, targets, mode="angle")
    assert plain.tolist() == [0.5, 0.0, -0.5]
    # Half a turn apart: the difference wraps to -pi, so the way leads down.
    assert (
        resample(torch.tensor([0.0, math.pi], dtype=torch.float64), times, targets[1:2], mode="angle").item()
        == -math.pi / 2
    )


@every_type
def test_infinite_angles_give_nan(resample: Call, dtype: torch.dtype) -> None:
    values, times = torch.tensor([0.0, INF, 1.0, -INF, 2.0, NAN], dtype=dtype), torch.arange(6.0)
    found = resample(values, times, torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 4.5, 5.0]), mode="angle")
    assert found.isnan().tolist() == [False, True, True, True, False, True, False, True, True]


# slerp


@every_type
def test_a_hit_quaternion_comes_back_as_it_is(resample: Call, dtype: torch.dtype, rng: np.random.Generator) -> None:
    values, times = random_values(rng, [2, 9, 8], dtype, special=True), random_times(rng, 2, 9, torch.float64)
    times = times + torch.arange(9.0) * 0.01  # no equal neighbours
    assert_same_bits(resample(values, times, times, mode="slerp"), values)
    outside = torch.stack([times[:, 0] - 1, times[:, -1] + 1], dim=1)
    assert_same_bits(resample(values, times, outside, mode="slerp"), values[:, [0, -1]])


@every_type
def test_a_blend_has_unit_norm(resample: Call, dtype: torch.dtype, rng: np.random.Generator) -> None:
    for scale in (1.0, 1.001, 0.02, 30.0):
        values = (scale * random_values(rng, [50, 4], torch.float64, special=False)).to(dtype)
        found = resample(values, torch.arange(50.0), torch.rand(300) * 49, mode="slerp").double()
        assert float((found.norm(dim=-1) - 1).abs().max()) < 3 * torch.finfo(dtype).eps


@every_type
def test_the_norms_of_the_samples_do_not_matter(resample: Call, dtype: torch.dtype, rng: np.random.Generator) -> None:
    values = random_values(rng, [20, 4], dtype, special=False)
    scales = torch.from_numpy(2.0 ** rng.integers(-3, 4, (20, 1))).to(dtype)
    times, targets = torch.arange(20.0), torch.rand(200) * 19
    targets = targets[targets != targets.round()]
    found, expected = (resample(x, times, targets, mode="slerp") for x in (values * scales, values))
    assert torch.allclose(found.double(), expected.double(), rtol=torch.finfo(dtype).eps, atol=1e-15)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_half_a_turn_apart_the_sign_as_written_counts(
    resample: Call, dtype: torch.dtype, rng: np.random.Generator
) -> None:
    x, y, z, w = random_values(rng, [200, 4], dtype, special=False).unbind(-1)
    start = torch.stack([x, y, z, w], dim=-1)
    for turn in ([-y, x, -w, z], [z, -w, -x, y], [-w, -z, y, x]):  # by half a turn about an axis: exactly orthogonal
        stop = torch.stack(turn, dim=-1)
        times, middle = torch.tensor([0.0, 1.0]), torch.tensor([0.5])
        found = resample(torch.stack([start, stop], dim=1), times, middle.expand(200, 1), mode="slerp")[:, 0]
        expected = torch.nn.functional.normalize(start.double() + stop.double(), dim=-1)
        assert torch.allclose(found.double(), expected, rtol=0, atol=4 * torch.finfo(dtype).eps)


@every_type
def test_a_zero_quaternion_is_no_rotation(resample: Call, dtype: torch.dtype) -> None:
    values = torch.tensor([[0.0, 0, 0, 1], [0, 0, 0, 0], [0, 1, 0, 0]], dtype=dtype)
    found = resample(values, torch.arange(3.0), torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0]), mode="slerp")
    assert found.isnan().all(-1).tolist() == [False, True, False, True, False]
    assert found[2].tolist() == [0.0] * 4


@every_type
@pytest.mark.parametrize("odd", [NAN, INF, -INF])
def test_a_spoilt_component_spoils_the_quaternion(resample: Call, dtype: torch.dtype, odd: float) -> None:
    for component in range(4):
        values = torch.tensor([[0.1, 0.2, 0.3, 0.9]] * 3 + [[1.0, 0, 0, 0]] * 3, dtype=dtype)
        values[1, component] = odd
        both = torch.cat([values, values.roll(1, 0).nan_to_num(1.0, 1.0, 1.0)], dim=1)  # the neighbour is not touched
        found = resample(both, torch.arange(6.0), torch.tensor([0.0, 0.5, 1.5, 2.0, 2.5]), mode="slerp")
        assert found[:, :4].isnan().all(-1).tolist() == [False, True, True, False, False]
        assert not bool(found[:, 4:].isnan().any())


def test_components_may_stand_in_any_order(resample: Call, rng: np.random.Generator) -> None:
    values, times, targets = random_values(rng, [9, 4], torch.float64, False), torch.arange(9.0), torch.rand(50) * 8
    order = [3, 0, 2, 1]
    found = resample(values[:, order], times, targets, mode="slerp")
    assert torch.allclose(found, resample(values, times, targets, mode="slerp")[:, order], rtol=0, atol=1e-15)


# pchip


@every_type
def test_a_curve_never_leaves_its_bracket(resample: Call, dtype: torch.dtype, rng: np.random.Generator) -> None:
    for _ in range(case_count(30)):
        samples = int(rng.choice([2, 3, 4, 30]))
        values = random_values(rng, [samples, 5], dtype, special=False)
        values[:, 0] = torch.from_numpy(rng.integers(0, 2, samples)).to(dtype)
        values[:, 1] = values[:, 1] * 10.0 ** float(rng.integers(-4, 5))
        times = random_times(rng, 1, samples, torch.float64)[0]
        targets = torch.from_numpy(rng.uniform(float(times[0]), float(times[-1]), 300))
        found = resample(values, times, targets, mode="pchip").double()
        ends = [resample(values, times, targets, mode=mode).double() for mode in ("previous", "next")]
        assert bool((found >= torch.minimum(*ends)).all() and (found <= torch.maximum(*ends)).all())


@every_type
def test_a_curve_is_monotone_between_samples(resample: Call, dtype: torch.dtype, rng: np.random.Generator) -> None:
    values = random_values(rng, [12, 6], dtype, special=False)
    targets = torch.linspace(0, 11, 12 * 64, dtype=torch.float64)
    found = resample(values, torch.arange(12.0, dtype=torch.float64), targets, mode="pchip").double()
    steps, rises = found.diff(dim=0), values.double().diff(dim=0)
    own = rises[targets[:-1].floor().long().clamp(max=10)]
    crosses = (targets[:-1].floor() != targets[1:].floor()).unsqueeze(-1)
    # Rounding may step back by the last digits.
    room = 8 * torch.finfo(torch.float64 if dtype == torch.float64 else torch.float32).eps * values.abs().max().double()
    assert bool((crosses | (steps * own.sign() >= -room)).all())


@every_type
def test_two_samples_give_a_line(resample: Call, dtype: torch.dtype, rng: np.random.Generator) -> None:
    values, times = random_values(rng, [2, 40], dtype, special=False), torch.tensor([1.0, 4.0])
    targets = torch.linspace(0, 5, 60)
    found, line = (resample(values, times, targets, mode=mode).double() for mode in ("pchip", "linear"))
    assert torch.allclose(found, line, rtol=0, atol=16 * torch.finfo(dtype).eps)


@every_type
def test_a_nan_spoils_the_brackets_whose_curve_it_shapes(resample: Call, dtype: torch.dtype) -> None:
    for place in range(8):
        values = torch.tensor([0.0, 1.0, 4.0, 2.0, 2.0, 3.0, 7.0, 8.0], dtype=dtype)
        values[place] = NAN
        found = resample(values, torch.arange(8.0), torch.arange(7.0) + 0.5, mode="pchip")
        # At an end the slope takes three samples, all of them within the bracket's four.
        assert found.isnan().tolist() == [place - 2 <= bracket <= place + 1 for bracket in range(7)], place
        hits = resample(values, torch.arange(8.0), torch.arange(8.0), mode="pchip")
        assert_same_bits(hits, values)


def test_equal_times_and_lengths_keep_a_nan_away(resample: Call) -> None:
    values = torch.tensor([[1.0, 2.0, 4.0, NAN, NAN, 1.0, 3.0]])
    times = torch.tensor([[0.0, 1.0, 2.0, 2.0, 3.0, 3.0, 4.0]])
    found = resample(values, times, torch.tensor([[0.5, 1.5, 2.5, 3.5]]), mode="pchip")
    assert found.isnan().tolist() == [[False, False, True, False]]
    short = resample(values, times, torch.tensor([[1.5]]), mode="pchip", source_lengths=torch.tensor([3]))
    assert_same_bits(short, found[:, 1:2])


def test_a_far_future_sample_shapes_no_curve_of_today(resample: Call) -> None:
    # Only the lengths' ratios matter, whatever the unit.
    values = torch.tensor([0.0, 1.0, 4.0, 5.0], dtype=torch.float64)
    ticks, targets = torch.tensor([0, 10, 20, 30]), torch.tensor([3, 14, 27])
    expected = resample(values, ticks, targets, mode="pchip")
    for unit in (10**3, 10**15):
        found = resample(values, ticks * unit, targets * unit, mode="pchip")
        assert torch.allclose(found, expected, rtol=1e-15, atol=0)
    for unit in (2.0**-900, 2.0**900):
        found = resample(values, ticks.double() * unit, targets.double() * unit, mode="pchip")
        assert_same_bits(found, expected)


# All of them


@pytest.mark.parametrize("mode", ["angle", "slerp", "pchip"])
@every_type
def test_outside_and_nan_targets_are_filled(
    resample: Call, mode: str, dtype: torch.dtype, rng: np.random.Generator
) -> None:
    values, times = random_values(rng, [5, 4], dtype, special=False), torch.arange(5.0)
    targets = torch.tensor([-1.0, 9.0, NAN, INF, -INF])
    for outside, fill in (("nan", NAN), ("zero", 0.0)):
        found = resample(values, times, targets, mode=mode, outside=outside)
        expected = torch.full((5, 4), fill, dtype=dtype)
        expected[2] = NAN
        assert_same_bits(found, expected)
    held = resample(values, times, targets, mode=mode)
    ends = resample(values, times, times[[0, -1]], mode=mode)
    assert_same_bits(held[[0, 4, 1, 3]], ends[[0, 0, 1, 1]])
    assert bool(held[2].isnan().all())


def test_equal_times_give_the_later_sample(resample: Call) -> None:
    values = torch.tensor([[1.0, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    times = torch.tensor([0.0, 1.0, 1.0, 2.0])
    for mode in ("angle", "slerp", "pchip"):
        assert_same_bits(resample(values, times, torch.tensor([1.0]), mode=mode), values[2:3])
        assert_same_bits(resample(values, torch.zeros(4), torch.zeros(1), mode=mode), values[3:])


def test_written_groups_are_checked() -> None:
    values, times = torch.ones(2, 6), torch.arange(2.0)
    texts = {
        "slerp": 'give slerp whole quaternions of 4 channels, got "slerp" for 6 channels',
        "slerp:3,linear:3": 'give slerp whole quaternions of 4 channels, got "slerp:3,linear:3"',
        "slerp:2,slerp:4": 'give slerp whole quaternions of 4 channels, got "slerp:2,slerp:4"',
        "linear:1,slerp:4": 'cover the 6 channels of values, got "linear:1,slerp:4", which covers 5',
        "cubic": 'be made of linear, previous, next, nearest, angle, slerp, pchip, got "cubic"',
    }
    for call in (robocache.resample, robocache.reference.resample):
        for mode, text in texts.items():
            with pytest.raises(ValueError) as caught:
                call(values, times, times, mode=mode)
            assert str(caught.value).splitlines()[0] == f"resample: mode must {text}"
        for mode in ("angle:6", "pchip", "linear:2,slerp:4"):
            with pytest.raises(TypeError, match=f'for mode "{mode.split(":")[0]}", got int32'):
                call(values.int(), times, times, mode=mode)
            if mode != "linear:2,slerp:4":
                with pytest.raises(ValueError, match='must go with mode linear only, got mode "'):
                    call(values, times, times, mode=mode, outside="extrapolate")
        assert call(values, times, times, mode="linear:2,slerp:*").shape == (2, 6)


def test_strides_of_quaternions(device: torch.device, rng: np.random.Generator) -> None:
    values = random_values(rng, [3, 7, 12], torch.float32, special=False)
    times, targets = random_times(rng, 3, 7, torch.float32), torch.rand(3, 40) * 5
    expected = robocache.resample(*(x.to(device) for x in (values, times, targets)), mode="slerp:8,pchip:2,angle:2")
    for layout in ("transposed", "sliced", "channels_last", "offset"):
        case = Case(values, times, targets, "slerp:8,pchip:2,angle:2", layouts=[layout] * 3)
        tensors, options = case.arguments(device)
        assert_same_bits(robocache.resample(*tensors, **options), expected, layout)
