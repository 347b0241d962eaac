"""`fuse` against each stream's `resample`, the reference and a scalar definition: values, gradients and shapes."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import robocache
import torch
from cases import (
    DTYPES,
    EPOCH,
    FLOATS,
    MODES,
    assert_agrees,
    assert_same_bits,
    case_count,
    channel_modes,
    random_values,
)
from definition import fuse as define
from fuse_cases import FuseCase, random_fuse_case, side_by_side
from torch import Tensor


def compare(case: FuseCase, device: torch.device) -> None:
    """The bits are those of `resample`, stream by stream."""
    tensors, options = case.arguments(device)
    found = robocache.fuse(*tensors, **options)
    assert found.is_contiguous() and found.device == case.values[0].to(device).device, str(case)
    assert_same_bits(found, side_by_side(robocache.resample, *tensors, **options), case)


def defined(case: FuseCase) -> Tensor:
    """The scalar definition's answer, without batch where there was none."""
    (values, times, target), _ = case.arguments()
    unbatched = values[0].dim() == 2
    streams = [x.unsqueeze(0) if unbatched else x for x in values]
    rows = len(streams[0])
    placed = [x.expand(rows, x.shape[-1]).contiguous() for x in (*times, target)]
    whole = [[x.shape[1]] * rows for x in streams]
    lengths = whole if case.source_lengths is None else case.source_lengths.t().tolist()
    dense = [x.contiguous() for x in streams]
    result = define(dense, placed[:-1], placed[-1], modes=case.modes(), outside=case.outside, source_lengths=lengths)
    return result[0] if unbatched else result


def test_random_cases_have_the_bits_of_resample(device: torch.device, rng: np.random.Generator) -> None:
    for _ in range(case_count(400)):
        compare(random_fuse_case(rng), device)


def test_random_cases_are_the_reference(device: torch.device, rng: np.random.Generator) -> None:
    for _ in range(case_count(150)):
        case = random_fuse_case(rng)
        placed, _ = case.arguments(device)
        tensors, options = case.arguments()
        expected = robocache.reference.fuse(*tensors, **options)
        found = robocache.fuse(*placed, **case.arguments(device)[1])
        assert_agrees(found, expected, case.modes(), case.values, case, emulated=True)
        assert_same_bits(expected, side_by_side(robocache.reference.resample, *tensors, **options), case)


def test_the_reference_is_the_scalar_definition(rng: np.random.Generator) -> None:
    for _ in range(case_count(80)):
        case = random_fuse_case(rng)
        found = robocache.reference.fuse(*case.arguments()[0], **case.arguments()[1])
        assert_agrees(found, defined(case), case.modes(), case.values, case, emulated=True)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_dtype(device: torch.device, dtype: torch.dtype, rng: np.random.Generator) -> None:
    modes = MODES if dtype.is_floating_point else ["previous", "next", "nearest"]
    values = [random_values(rng, [2, samples, 8], dtype, special=False) for samples in (5, 9, 1)]
    times = [torch.from_numpy(rng.random((2, x.shape[1]))).cumsum(1) for x in values]
    target = torch.from_numpy(rng.random((2, 20)) * 5)
    for mode in modes:
        compare(FuseCase(values, times, target, mode), device)


@pytest.mark.parametrize("streams", [1, 2, 15, 16, 17, 40])
def test_any_number_of_streams(device: torch.device, streams: int, rng: np.random.Generator) -> None:
    widths = [int(width) for width in rng.integers(1, 20, streams)]
    values = [random_values(rng, [3, 4 + stream, width], torch.float32, False) for stream, width in enumerate(widths)]
    times = [torch.from_numpy(rng.random((3, x.shape[1]))).cumsum(1) for x in values]
    target = torch.from_numpy(rng.random((3, 50)) * 6)
    compare(FuseCase(values, times, target, "linear", "extrapolate"), device)


def test_one_stream_is_resample(device: torch.device, rng: np.random.Generator) -> None:
    for dtype in FLOATS:
        values = random_values(rng, [3, 20, 33], dtype, special=True).to(device)
        times = torch.rand(3, 20, device=device).cumsum(1)
        target = torch.rand(3, 60, device=device) * 12 - 1
        assert_same_bits(robocache.fuse([values], [times], target), robocache.resample(values, times, target))


def test_groups_that_span_streams(device: torch.device, rng: np.random.Generator) -> None:
    values = [random_values(rng, [2, 6, width], torch.float64, False).to(device) for width in (3, 5, 4)]
    times = [torch.rand(2, 6, device=device).cumsum(1) for _ in values]
    target = torch.rand(2, 30, device=device) * 4
    for mode in ("linear:4,previous:4,slerp:4", "angle:8,slerp:*", "nearest:2,pchip:9,next:1", "linear:12,slerp:*"):
        modes, start = channel_modes(mode, 12), 0
        found = robocache.fuse(values, times, target, mode=mode)
        for stream, source in zip(values, times, strict=True):
            for channel in range(stream.shape[2]):
                name = modes[start + channel]
                if name != "slerp":
                    alone = robocache.resample(stream[..., channel], source, target, mode=name)
                    assert_same_bits(found[..., start + channel], alone, (mode, channel))
            start += stream.shape[2]


def test_a_stream_without_channels_takes_no_room(device: torch.device) -> None:
    values = [torch.randn(2, 5, width, device=device) for width in (0, 4, 0)]
    times = [torch.arange(5.0, device=device)] * 3
    target = torch.rand(2, 7, device=device) * 4
    for mode in ("linear", "slerp", "previous:2,linear:*"):
        expected = robocache.resample(values[1], times[0], target, mode=mode)
        assert_same_bits(robocache.fuse(values, times, target, mode=mode), expected)
    assert robocache.fuse([values[0]], times[:1], target).shape == (2, 7, 0)


def test_unbatched_shared_and_empty(device: torch.device, rng: np.random.Generator) -> None:
    values = [random_values(rng, [3, samples, 2], torch.float32, False).to(device) for samples in (4, 9)]
    times = [torch.rand(samples, device=device).cumsum(0) for samples in (4, 9)]
    target = torch.rand(6, device=device) * 4
    full = robocache.fuse(values, [x.expand(3, -1) for x in times], target.expand(3, 6))
    assert_same_bits(robocache.fuse(values, times, target), full)
    assert_same_bits(robocache.fuse(values, [times[0], times[1].expand(3, -1)], target), full)
    one = [x[1] for x in values]
    assert_same_bits(robocache.fuse(one, times, target), full[1])
    lengths = torch.tensor([[4, 9]], device=device)
    assert_same_bits(robocache.fuse(one, times, target, source_lengths=lengths), full[1])
    assert robocache.fuse(values, times, target[:0]).shape == (3, 0, 4)
    assert robocache.fuse([x[:0] for x in values], times, target).shape == (0, 6, 4)


def test_ragged_columns_are_streams(device: torch.device) -> None:
    values = [torch.arange(8.0, device=device).view(2, 4, 1), torch.arange(6.0, device=device).view(2, 3, 1) + 100]
    times = [torch.arange(4.0, device=device), torch.arange(3.0, device=device)]
    lengths = torch.tensor([[4, 1], [2, 3]], device=device)
    late = torch.tensor([9.0], device=device)
    for dtype in (torch.int32, torch.int64):
        for laid in (lengths.to(dtype), lengths.to(dtype).t().contiguous().t()):
            found = robocache.fuse(values, times, late, source_lengths=laid)
            assert found[:, 0].tolist() == [[3.0, 100.0], [5.0, 105.0]]


def test_epoch_nanoseconds(device: torch.device) -> None:
    camera, joints = (torch.arange(5) * 33_333_333, torch.arange(50) * 3_000_000)
    values = [torch.randn(5, 3, dtype=torch.float64), torch.randn(50, 7, dtype=torch.float64)]
    target = torch.arange(0, 140_000_000, 1_234_567)
    early, late = (
        robocache.fuse(
            [x.to(device) for x in values],
            [(x + start).to(device) for x in (camera, joints)],
            (target + start).to(device),
            mode="linear:3,pchip:*",
        )
        for start in (0, EPOCH)
    )
    assert_same_bits(early, late)


# Gradients


def gradients(call: Callable[..., Tensor], case: FuseCase, device: torch.device | str) -> list[Tensor | None]:
    """The result and the gradients to every stream's values, its times, and the targets."""
    (values, times, target), options = case.arguments(device)
    leaves = [
        [x.detach().requires_grad_() if x.is_floating_point() else x for x in xs] for xs in (values, times, [target])
    ]
    result = call(*leaves[:2], leaves[2][0], **options)
    if result.requires_grad:
        weights = torch.linspace(-1, 1, result.numel(), dtype=torch.float64, device=result.device)
        result.backward(weights.view_as(result).to(result.dtype))
    return [result.detach(), *(x.grad for xs in leaves for x in xs)]


concatenated = partial(side_by_side, robocache.resample)


def test_gradients_to_values_have_the_bits_of_resample(device: torch.device, rng: np.random.Generator) -> None:
    for _ in range(case_count(150)):
        case = random_fuse_case(rng, FLOATS, special=bool(rng.random() < 0.3))
        streams = len(case.values)
        case.layouts = ["contiguous"] * streams
        found, expected = (gradients(call, case, device) for call in (robocache.fuse, concatenated))
        for stream, (a, b) in enumerate(zip(found[: streams + 1], expected[: streams + 1], strict=True)):
            if case.values[stream - 1].numel() or stream == 0:
                assert_same_bits(a, b, f"{stream} of {case}")


def test_gradients_to_times_are_those_of_resample(device: torch.device, rng: np.random.Generator) -> None:
    for _ in range(case_count(150)):
        case = random_fuse_case(rng, [torch.float64], special=False)
        streams = len(case.values)
        case.layouts = ["contiguous"] * streams
        found, expected = (gradients(call, case, device) for call in (robocache.fuse, concatenated))
        for a, b in zip(found[streams + 1 :], expected[streams + 1 :], strict=True):
            # None at all and zeros say the same.
            a, b = (torch.zeros(()) if x is None or not bool(x.any()) else x for x in (a, b))
            scale = max(float(b.nan_to_num().abs().max()) if b.numel() else 0.0, 1.0)
            # The targets' gradient is a sum over streams, added in the operator's own order.
            assert torch.allclose(a, b, rtol=1e-4, atol=1e-5 * scale, equal_nan=True), str(case)


def test_unused_streams_need_no_gradient(device: torch.device) -> None:
    values = [torch.randn(2, 5, 3, device=device, requires_grad=wanted) for wanted in (True, False)]
    times = [torch.arange(5.0, device=device)] * 2
    result = robocache.fuse(values, times, torch.rand(2, 9, device=device) * 4)
    result.sum().backward()
    assert values[0].grad is not None and values[1].grad is None
    with torch.no_grad():
        assert not robocache.fuse(values, times, torch.rand(2, 9, device=device)).requires_grad


# The names of the first RoboCache


def test_first_names(device: torch.device, rng: np.random.Generator) -> None:
    data = [
        random_values(rng, [2, samples, width], torch.float32, False) for samples, width in ((30, 6), (9, 3), (50, 1))
    ]
    times = [torch.from_numpy(rng.random((2, x.shape[1]))).cumsum(1) for x in data]
    target = torch.from_numpy(rng.random((2, 40)) * 30)
    placed = [[x.to(device) for x in xs] for xs in (data, times, [target])]
    arguments = [x for pair in zip(*placed[:2], strict=True) for x in pair]
    found = robocache.fuse_multimodal(*arguments, placed[2][0])
    assert_same_bits(found, robocache.fuse(*placed[:2], placed[2][0]))
    for each, source in zip(*placed[:2], strict=True):
        one = robocache.resample_trajectories(each, source, placed[2][0])
        assert_same_bits(one, robocache.resample(each, source, placed[2][0]))
    past = torch.full((2, 1), 1e6, dtype=torch.float64, device=device)
    assert_same_bits(robocache.resample_trajectories(placed[0][0], placed[1][0], past), placed[0][0][:, -1:])
    assert math.prod(found.shape) == 2 * 40 * 10
