"""`resample` against three independent definitions: the reference in PyTorch, NumPy and SciPy, and a scalar loop."""

from __future__ import annotations

import math

import numpy as np
import pytest
import robocache
import scipy.interpolate
import torch
from cases import (
    BLENDS,
    COPIES,
    DTYPES,
    EPOCH,
    FLOATS,
    LAYOUTS,
    MODES,
    OUTSIDE,
    UNSIGNED,
    Case,
    assert_same_bits,
    case_count,
    channel_modes,
    lay_out,
    random_case,
    random_values,
    tame,
)
from definition import resample as define
from torch import Tensor


def defined(case: Case) -> Tensor:
    """The scalar definition's answer, batch and trailing shape given back."""
    values, source, target = case.arguments()[0]
    values = values if case.is_batched() else values.unsqueeze(0)
    rows, samples, *trailing = values.shape
    lengths = [samples] * rows if case.source_lengths is None else case.source_lengths.tolist()
    times = [x.expand(rows, x.shape[-1]).contiguous() for x in (source, target)]
    flat = values.reshape(rows, samples, math.prod(trailing)).contiguous()
    result = define(flat, *times, modes=case.modes(), outside=case.outside, source_lengths=lengths)
    result = result.reshape(rows, times[1].shape[1], *trailing)
    return result if case.is_batched() else result[0]


def test_reference_is_the_scalar_definition(rng: np.random.Generator) -> None:
    for _ in range(case_count(150)):
        case = random_case(rng)
        tensors, options = case.arguments()
        result = robocache.reference.resample(*tensors, **options)
        assert result.is_contiguous()
        case.agrees(result, defined(case), emulated=True)


def test_random_cases_are_the_reference(device: torch.device, rng: np.random.Generator) -> None:
    for _ in range(case_count(600)):
        case = random_case(rng)
        tensors, options = case.arguments(device)
        result = robocache.resample(*tensors, **options)
        assert result.is_contiguous() and result.device == tensors[0].device, str(case)
        expected = robocache.reference.resample(*case.arguments()[0], **case.arguments()[1])
        case.agrees(result, expected, emulated=True)


def test_random_f64_cases_are_the_scalar_definition(device: torch.device, rng: np.random.Generator) -> None:
    for _ in range(case_count(150)):
        case = random_case(rng, [torch.float64])
        tensors, options = case.arguments(device)
        case.agrees(robocache.resample(*tensors, **options), defined(case))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("outside", OUTSIDE)
def test_every_dtype_mode_rule_and_layout(device: torch.device, dtype: torch.dtype, mode: str, outside: str) -> None:
    refused = not dtype.is_floating_point and (mode in BLENDS or outside == "nan")
    if refused or (outside == "extrapolate" and mode != "linear"):
        pytest.skip("refused by contract: see test_errors.py")
    rng = np.random.default_rng(5)
    values = random_values(rng, [3, 9, 4, 5], dtype, special=False)
    source = torch.from_numpy(rng.random((3, 9))).cumsum(1)
    target = torch.from_numpy(rng.random((3, 14)) * 7 - 1)
    target[:, 3] = source[:, 5]
    for layout in LAYOUTS:
        case = Case(values, source, target, mode, outside, layouts=[layout] * 3)
        tensors, options = case.arguments(device)
        case.agrees(robocache.resample(*tensors, **options), defined(case))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_numpy_interp(device: torch.device, dtype: torch.dtype, rng: np.random.Generator) -> None:
    times, values = np.cumsum(rng.random(200)), rng.standard_normal(200)
    targets = rng.random(500) * 120 - 10
    expected = np.interp(targets, times, values)
    result = robocache.resample(*(torch.from_numpy(x).to(device, dtype) for x in (values, times, targets)))
    tolerance = 1e-13 if dtype == torch.float64 else 1e-3  # f32: the times themselves are rounded
    np.testing.assert_allclose(result.cpu().numpy(), expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("kind", ["linear", "previous", "next", "nearest"])
def test_scipy_interp1d(device: torch.device, kind: str, rng: np.random.Generator) -> None:
    times, values = np.cumsum(rng.random(50) + 0.1), rng.standard_normal((50, 6))
    targets = np.concatenate([rng.uniform(times[0], times[-1], 300), times])
    if kind == "nearest":
        targets = np.concatenate([targets, (times[1:] + times[:-1]) / 2])  # halves go down in both
    expected = scipy.interpolate.interp1d(times, values, kind=kind, axis=0)(targets)
    tensors = (torch.from_numpy(x).to(device) for x in (values, times, targets))
    result = robocache.resample(*tensors, mode=kind).cpu().numpy()
    if kind == "nearest":
        # SciPy rounds the midpoint's time, resample the weight: within rounding of a half either is right.
        left = np.clip(np.searchsorted(times, targets, side="right") - 1, 0, 48)
        weight = (targets - times[left]) / (times[left + 1] - times[left])
        clear = np.abs(weight - 0.5) > 1e-9
        result, expected = result[clear], expected[clear]
    np.testing.assert_allclose(result, expected, rtol=1e-12, atol=1e-13)


def test_scipy_extrapolation(device: torch.device, rng: np.random.Generator) -> None:
    times, values = np.cumsum(rng.random(20) + 0.1), rng.standard_normal((20, 3))
    targets = rng.uniform(-30, 60, 400)
    line = scipy.interpolate.interp1d(times, values, axis=0, fill_value="extrapolate")
    tensors = (torch.from_numpy(x).to(device) for x in (values, times, targets))
    result = robocache.resample(*tensors, outside="extrapolate").cpu().numpy()
    np.testing.assert_allclose(result, line(targets), rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("mode", ["linear", "angle", "pchip"])
def test_half_precision_is_one_rounding_of_f32(device: torch.device, mode: str, rng: np.random.Generator) -> None:
    for dtype in (torch.float16, torch.bfloat16):
        values = 3 * random_values(rng, [2, 30, 19], dtype, special=False)
        source = torch.from_numpy(rng.random((2, 30))).cumsum(1)
        target = torch.from_numpy(rng.random((2, 90)) * 15)
        placed = [x.to(device) for x in (values, source, target)]
        wide = robocache.resample(placed[0].float(), *placed[1:], mode=mode)
        assert_same_bits(robocache.resample(*placed, mode=mode), wide.to(dtype), dtype)


def test_linear_is_close_to_exact_arithmetic(device: torch.device, rng: np.random.Generator) -> None:
    source = torch.from_numpy(rng.random((2, 30))).cumsum(1)
    target = torch.from_numpy(rng.random((2, 90)) * 15)
    for dtype in FLOATS:
        values = random_values(rng, [2, 30, 5], dtype, special=False)
        placed = [x.to(device) for x in (values, source, target)]
        result = robocache.resample(*placed).cpu().double()
        for row in range(2):
            for channel in range(5):
                exact = np.interp(target[row].numpy(), source[row].numpy(), values[row, :, channel].double().numpy())
                tolerance = 4 * torch.finfo(dtype).eps
                np.testing.assert_allclose(result[row, :, channel].numpy(), exact, rtol=tolerance, atol=tolerance)


def check(case: Case, device: torch.device) -> Tensor:
    """Both the operator and the reference give the scalar definition's answer."""
    tensors, options = case.arguments(device)
    result, expected = robocache.resample(*tensors, **options), defined(case)
    case.agrees(result, expected)
    case.agrees(robocache.reference.resample(*case.arguments()[0], **case.arguments()[1]), expected, emulated=True)
    return result.cpu()


def test_equal_times_give_the_later_sample(device: torch.device) -> None:
    values, source = torch.tensor([[1.0, 2.0, 3.0, 4.0, 5.0]]), torch.tensor([[0.0, 1.0, 1.0, 1.0, 2.0]])
    target = torch.tensor([[0.5, 1.0, 1.5, 2.0]])
    assert check(Case(values, source, target), device).tolist() == [[1.5, 4.0, 4.5, 5.0]]
    assert check(Case(values, source, target, "previous"), device).tolist() == [[1.0, 4.0, 4.0, 5.0]]
    assert check(Case(values, source, target, "next"), device).tolist() == [[2.0, 4.0, 5.0, 5.0]]
    assert check(Case(values, source, target, "nearest"), device).tolist() == [[1.0, 4.0, 4.0, 5.0]]


@pytest.mark.parametrize("mode", ["linear", *COPIES, "pchip"])
def test_equal_times_at_both_ends(device: torch.device, mode: str) -> None:
    values, source = torch.tensor([[1.0, 2.0, 3.0, 4.0]]), torch.tensor([[1.0, 1.0, 2.0, 2.0]])
    target = torch.tensor([[0.0, 1.0, 2.0, 3.0]])
    assert check(Case(values, source, target, mode), device).tolist() == [[1.0, 2.0, 4.0, 4.0]]
    if mode == "linear":  # an end bracket of no length has no line
        assert check(Case(values, source, target, mode, "extrapolate"), device).tolist() == [[1.0, 2.0, 4.0, 4.0]]


@pytest.mark.parametrize("outside", OUTSIDE)
def test_all_times_equal(device: torch.device, outside: str) -> None:
    values, source = torch.tensor([[1.0, 2.0, 3.0]]), torch.full((1, 3), 7.0)
    ends = {"hold": [1.0, 3.0], "nan": [math.nan] * 2, "zero": [0.0, 0.0], "extrapolate": [1.0, 3.0]}[outside]
    result = check(Case(values, source, torch.tensor([[6.0, 7.0, 8.0]]), "linear", outside), device)
    assert_same_bits(result, torch.tensor([[ends[0], 3.0, ends[1]]]))


@pytest.mark.parametrize("outside", OUTSIDE)
@pytest.mark.parametrize("lengths", [None, torch.tensor([1, 1], dtype=torch.int32)], ids=["whole", "short"])
def test_one_sample(device: torch.device, outside: str, lengths: Tensor | None) -> None:
    samples = 1 if lengths is None else 4
    values = torch.arange(2.0 * samples * 3).view(2, samples, 3) + 1
    source = torch.zeros(2, samples, dtype=torch.int64)
    target = torch.tensor([[-1, 0, 1], [0, 0, 5]])
    result = check(Case(values, source, target, "linear", outside, lengths), device)
    assert_same_bits(result[:, 0 if outside == "hold" else 1][1], values[1, 0])


def test_epoch_nanoseconds_are_exact(device: torch.device) -> None:
    # In f64 these times would be 256 ns apart.
    source = EPOCH + torch.tensor([[0, 10, 1_000_000_007]])
    target = EPOCH + torch.tensor([[-1, 0, 1, 5, 9, 10, 11, 500_000_008, 1_000_000_006, 1_000_000_007]])
    values = torch.tensor([[0.0, 1.0, 2.0]], dtype=torch.float64)
    small = Case(values, source - EPOCH, target - EPOCH)
    assert_same_bits(check(Case(values, source, target), device), check(small, device))
    assert check(Case(values, source, target, "next"), device)[0, :4].tolist() == [0.0, 0.0, 1.0, 1.0]


@pytest.mark.parametrize("mode", MODES)
def test_int64_times_at_the_ends_of_the_range(device: torch.device, mode: str) -> None:
    low, high = -(2**63), 2**63 - 1
    source = torch.tensor([[low, low + 1, 0, high - 1, high], [low, high, high, high, high]])
    target = torch.tensor([[low, low + 1, low + 2, -1, 0, 1, high - 2, high - 1, high]]).expand(2, 9)
    values = torch.tensor([[1.0, 2.0, 3.0, 4.0, 5.0]] * 2, dtype=torch.float64)
    if mode == "slerp":
        values = torch.stack([values, values.sin(), values.cos(), -values], dim=-1)
    result = check(Case(values, source, target, mode), device)
    if mode == "linear":
        # The middle of a bracket 2^64 - 1 ticks long: -1 lies just below it, 0 just above.
        assert result[1, 3] == 1.5 and result[1, 4] == 1.5


def test_int64_extrapolation_over_the_whole_range(device: torch.device) -> None:
    source = torch.tensor([[0, 1, 2]])
    target = torch.tensor([[-(2**63), -1, 3, 2**63 - 1]])
    values = torch.tensor([[0.0, 1.0, 2.0]], dtype=torch.float64)
    result = check(Case(values, source, target, "linear", "extrapolate"), device)
    assert result.tolist() == [[-(2.0**63), -1.0, 3.0, 2.0**63]]


def test_epoch_seconds_in_f64(device: torch.device, rng: np.random.Generator) -> None:
    source = torch.from_numpy(1.7e9 + np.cumsum(rng.random((2, 50)) * 0.02, axis=1))
    target = source[:, :-1] + (source[:, 1:] - source[:, :-1]) * torch.from_numpy(rng.random((2, 49)))
    for dtype in FLOATS:
        for mode in MODES:
            values = random_values(rng, [2, 50, 4], dtype, special=True)
            check(Case(tame(rng, values, 50, [mode] * 4), source, target, mode), device)


def test_denormal_values_and_times(device: torch.device) -> None:
    for dtype in (torch.float32, torch.float64):
        tiny = float(np.nextafter(np.zeros(1, str(dtype).removeprefix("torch.")), 1)[0])
        values = torch.tensor([[0.0, tiny, -tiny, 40 * tiny]], dtype=dtype)
        source = torch.tensor([[0.0, 4 * tiny, 8 * tiny, 64 * tiny]], dtype=dtype)
        target = torch.tensor([[tiny, 2 * tiny, 3 * tiny, 5 * tiny, 9 * tiny, 60 * tiny, 64 * tiny]], dtype=dtype)
        for mode in ("linear", *COPIES, "angle"):
            check(Case(values, source, target, mode), device)
        # A weight that is 0 in the compute type copies the sample, even beside a NaN.
        beside = Case(
            torch.tensor([[1.0, math.nan]]), torch.tensor([[0.0, 1.0]]).double(), torch.tensor([[1e-60]]).double()
        )
        assert check(beside, device).item() == 1.0


def test_nan_and_infinite_neighbours_do_not_leak(device: torch.device) -> None:
    for dtype in FLOATS:
        for odd in (math.nan, math.inf, -math.inf):
            values = torch.tensor([[odd, 1.0, odd, 2.0, odd, odd]], dtype=dtype)
            source = torch.arange(6.0).unsqueeze(0)
            for mode in MODES:
                case = Case(values.unsqueeze(-1).expand(-1, -1, 4), source, torch.tensor([[1.0, 3.0]]), mode)
                assert check(case, device).tolist() == [[[1.0] * 4, [2.0] * 4]], (dtype, odd, mode)
            result = check(Case(values, source, torch.tensor([[1.25, 1.5, 2.75]]), "nearest"), device)
            assert result[0, :2].tolist() == [1.0, 1.0]
            assert check(Case(values, source, torch.tensor([[0.5, 1.5]])), device).isfinite().sum() == 0


def test_samples_past_the_length_are_never_read(device: torch.device) -> None:
    values = torch.tensor([[1.0, 2.0, math.nan, math.nan], [1.0, 2.0, 3.0, math.nan]])
    source = torch.tensor([[0.0, 1.0, -9.0, math.nan], [0.0, 1.0, 2.0, 0.5]])
    target = torch.tensor([[-1.0, 0.5, 1.0, 5.0]])[0]
    for outside in ("hold", "extrapolate"):
        case = Case(values, source, target, "linear", outside, torch.tensor([2, 3]))
        assert check(case, device).isfinite().all()


@pytest.mark.parametrize("outside", OUTSIDE)
@pytest.mark.parametrize("time_dtype", [torch.float32, torch.float64], ids=str)
def test_nan_and_infinite_targets(device: torch.device, outside: str, time_dtype: torch.dtype) -> None:
    target = torch.tensor([[math.nan, math.inf, -math.inf, 0.5, math.nan]], dtype=time_dtype)
    source = torch.tensor([[0.0, 1.0, 3.0]], dtype=time_dtype)
    values = torch.tensor([[[1.0, 5.0, math.inf], [2.0, 5.0, 0.0], [4.0, 5.0, 1.0]]])
    for mode in ["linear"] if outside == "extrapolate" else ["linear", *COPIES, "angle"]:
        result = check(Case(values, source, target, mode, outside), device)
        assert result[0, [0, 4]].isnan().all()
    for dtype in (torch.int32, torch.bool, *UNSIGNED):
        if outside in ("hold", "zero"):
            whole = torch.ones(1, 3, 2).to(dtype)
            result = check(Case(whole, source, target, "previous", outside), device)
            assert not result[0, [0, 4]].to(torch.int64).any()
    if outside == "extrapolate":
        line = check(Case(values, source, target, "linear", outside), device)[0]
        assert line[1, 0] == math.inf and line[2, 0] == -math.inf and line[1, 1].isnan()


def test_infinite_source_times(device: torch.device) -> None:
    source = torch.tensor([[-math.inf, 0.0, 1.0, math.inf]])
    target = torch.tensor([[-math.inf, -1.0, 0.0, 0.5, 1.0, 2.0, math.inf]])
    values = torch.tensor([[1.0, 2.0, 3.0, 4.0]])
    for mode in ("linear", *COPIES, "angle"):
        check(Case(values, source, target, mode), device)
    # The span of these overflows f32.
    check(Case(values, torch.tensor([[-3e38, 0.0, 1.0, 3e38]]), torch.tensor([[-1e38, 0.5, 2e38]])), device)


@pytest.mark.parametrize("shape", [(0, 4, 3), (2, 4, 0), (0, 4, 0), (2, 4, 2, 0), (0, 4)], ids=str)
@pytest.mark.parametrize("targets", [0, 3])
def test_empty(device: torch.device, shape: tuple[int, ...], targets: int) -> None:
    for dtype in (torch.float32, torch.float64, torch.int64):
        values, source = torch.ones(shape, device=device), torch.arange(4, device=device, dtype=dtype)
        target = torch.ones(targets, device=device, dtype=dtype)
        batched = robocache.resample(values, source.expand(shape[0], 4), target.expand(shape[0], targets))
        assert batched.shape == (shape[0], targets, *shape[2:])
        assert robocache.resample(values[:, :1], source[:1].expand(shape[0], 1), target).shape == batched.shape
    full = robocache.resample(torch.ones(2, 4, 3, device=device), source.expand(2, 4), target.expand(2, targets))
    assert full.shape == (2, targets, 3)


def test_unbatched_and_shared_times(device: torch.device, rng: np.random.Generator) -> None:
    values, source, target = (
        random_values(rng, [3, 6, 2, 2], torch.float32, False),
        torch.arange(6.0),
        torch.rand(4) * 6,
    )
    placed, source, target = values.to(device), source.to(device), target.to(device)
    full = robocache.resample(placed, source.expand(3, 6), target.expand(3, 4))
    for s in (source, source.expand(3, 6)):
        for t in (target, target.expand(3, 4)):
            assert_same_bits(robocache.resample(placed, s, t), full)
    assert_same_bits(robocache.resample(placed[1], source, target), full[1])
    assert_same_bits(robocache.resample(placed[1, :, 0], source, target), full[1, :, 0])
    assert_same_bits(robocache.resample(placed[1, :, 0, 0], source, target), full[1, :, 0, 0])
    assert_same_bits(robocache.resample(placed[..., 0, 0], source.expand(3, 6), target), full[..., 0, 0])
    square = torch.rand(6, 6, 2, device=device)  # both axes have the samples: read as a batch
    assert_same_bits(robocache.resample(square, source, target)[2], robocache.resample(square[2], source, target))


def test_groups_are_their_modes_side_by_side(device: torch.device, rng: np.random.Generator) -> None:
    values = random_values(rng, [2, 9, 23], torch.float32, special=True).to(device)
    source, target = torch.rand(2, 9, device=device).cumsum(1), torch.rand(2, 30, device=device) * 6 - 1
    mode = "linear:3,slerp:8,previous:1,next:2,pchip:2,linear:1,angle:2,nearest:*"
    result = robocache.resample(values, source, target, mode=mode)
    modes = channel_modes(mode, 23)
    for mode in MODES:
        channels = [channel for channel, each in enumerate(modes) if each == mode]
        alone = robocache.resample(values[..., channels], source, target, mode=mode)
        assert_same_bits(result[..., channels], alone, mode)
    everything = robocache.resample(values, source, target, mode="linear:23,previous:*")
    assert_same_bits(everything, robocache.resample(values, source, target))


def test_layouts_of_strided_inputs_give_the_same_bits(device: torch.device, rng: np.random.Generator) -> None:
    values = random_values(rng, [4, 7, 3, 5], torch.float32, special=False).to(device)
    source, target = torch.rand(4, 7, device=device).cumsum(1), torch.rand(4, 12, device=device) * 5
    expected = robocache.resample(values, source, target)
    for layout in set(LAYOUTS) - {"expanded"}:
        laid = [lay_out(x, layout) for x in (values, source, target)]
        assert_same_bits(robocache.resample(*laid), expected, layout)
