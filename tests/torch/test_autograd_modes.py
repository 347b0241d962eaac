"""Gradients of `angle`, `slerp`, `pchip` and `fuse`, first and second: against differences and the reference."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import robocache
import torch
from cases import FLOATS, assert_same_bits, case_count, random_case, random_values
from fuse_cases import random_fuse_case
from test_autograd import smooth
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

F64 = torch.float64
MODES = ["angle", "slerp", "pchip"]
CALLS = [robocache.resample, robocache.reference.resample]
GROUPS = "linear:2,slerp:4,angle:1,pchip:2,previous:1,slerp:4,linear:*"  # of 15 channels
curved = pytest.mark.parametrize("mode", MODES)
both = pytest.mark.parametrize("call", CALLS, ids=["operator", "reference"])


def leaves(device: torch.device, channels: int, **shape: int) -> tuple[Tensor, Tensor, Tensor]:
    """As :func:`smooth`; some targets on samples, where slerp and pchip are smooth to the values too."""
    values, source, target = smooth(device, channels=channels, **{"samples": 5, "targets": 6, **shape})
    with torch.no_grad():
        target[:, 2] = source[:, 2]
    return values, source, target


# On CUDA autograd of plain PyTorch adds in an order that changes from run to run; ours does not.
NOT_EXACT: weakref.WeakSet[Callable[..., Tensor]] = weakref.WeakSet()


def check(call: Callable[..., Tensor], inputs: tuple[Tensor, ...], fast: bool = False) -> None:
    """First and second derivatives against differences; ``fast``: along random directions only."""
    tolerance = 1e-9 if inputs[0].is_cuda and call in NOT_EXACT else 0.0
    assert gradcheck(call, inputs, nondet_tol=tolerance, fast_mode=fast)
    assert gradgradcheck(call, inputs, nondet_tol=tolerance, fast_mode=fast)


def to_values(
    call: Callable[..., Tensor], source: Tensor, target: Tensor, **options: Any
) -> Callable[[Tensor], Tensor]:
    """The call as a function of the values."""

    def called(values: Tensor) -> Tensor:
        return call(values, source.detach(), target.detach(), **options).nan_to_num()

    if call is robocache.reference.resample:
        NOT_EXACT.add(called)
    return called


@curved
@both
@pytest.mark.parametrize("outside", ["hold", "nan", "zero"])
def test_gradcheck(device: torch.device, call: Callable[..., Tensor], mode: str, outside: str) -> None:
    values, source, target = leaves(device, 8)
    check(to_values(call, source, target, mode=mode, outside=outside), (values,), call is not robocache.resample)


@both
@pytest.mark.parametrize("samples", [1, 2, 3, 4])
def test_gradcheck_of_short_curves(device: torch.device, call: Callable[..., Tensor], samples: int) -> None:
    values = torch.randn(1, samples, 4, dtype=F64, device=device, requires_grad=True)
    source = torch.rand(1, samples, dtype=F64, device=device).add(0.3).cumsum(1)
    target = torch.linspace(0, 4, 15, dtype=F64, device=device)
    for mode in MODES:
        check(to_values(call, source, target, mode=mode), (values,), call is not robocache.resample)


@both
def test_gradcheck_of_groups_and_times(device: torch.device, call: Callable[..., Tensor]) -> None:
    values, source, target = smooth(device, channels=15)

    def called(*tensors: Tensor) -> Tensor:
        return call(*tensors, mode=GROUPS)

    # Only linear channels tell the times a gradient, so differences by the times are taken of them alone.
    check(to_values(call, source, target, mode=GROUPS), (values,), True)
    found = torch.autograd.grad(called(values, source, target).sum(), (source, target))
    linear = [channel for channel in range(15) if channel < 2 or channel == 14]
    alone = call(values[..., linear], source, target).sum()
    for a, b in zip(found, torch.autograd.grad(alone, (source, target)), strict=True):
        assert torch.allclose(a, b, rtol=1e-12, atol=1e-12)


@both
@pytest.mark.parametrize("dtype", [torch.int32, torch.int64], ids=str)
def test_gradcheck_of_ragged_rows(device: torch.device, call: Callable[..., Tensor], dtype: torch.dtype) -> None:
    values, source, target = leaves(device, 8)
    for lengths in ([5, 3], [2, 1]):
        stated = torch.tensor(lengths, dtype=dtype, device=device)
        for mode in MODES:
            check(to_values(call, source, target, mode=mode, source_lengths=stated), (values,), True)


@both
def test_gradcheck_of_shared_unbatched_and_int64_times(device: torch.device, call: Callable[..., Tensor]) -> None:
    values, source, target = leaves(device, 4)
    ticks, clock = ((x.detach() * 1000).to(torch.int64) for x in (source, target))
    for mode in MODES:
        check(to_values(call, source[0], target[0], mode=mode), (values,), True)
        check(to_values(call, source[0], target[0], mode=mode), (values.detach()[0].requires_grad_(),), True)
        check(to_values(call, ticks, clock, mode=mode), (values,), True)


@both
def test_gradcheck_of_rotations_of_every_kind(device: torch.device, call: Callable[..., Tensor]) -> None:
    start = torch.tensor([0.2, -0.4, 0.1, 0.9], dtype=F64)
    moves = torch.randn(6, 4, dtype=F64)
    across = moves[0] - start * (moves[0] @ start) / (start @ start)
    stops = [start + 1e-1 * moves[1], start + 1e-4 * moves[2], 1.7 * start, -0.3 * start, -start + 1e-3 * moves[3]]
    stops += [across + 0.05 * start, moves[4], 2e-3 * moves[5]]
    values = torch.stack([torch.stack([start, stop]) for stop in stops]).to(device).requires_grad_()
    source = torch.tensor([0.0, 1.0], dtype=F64, device=device)
    target = torch.tensor([0.1, 0.5, 0.9], dtype=F64, device=device)
    # Steps that suit the shortest of them.
    call = to_values(call, source, target, mode="slerp")
    tolerance = 1e-9 if values.is_cuda and call in NOT_EXACT else 0.0
    assert gradcheck(call, (values,), eps=1e-7, atol=2e-4, rtol=1e-4, nondet_tol=tolerance)
    assert gradgradcheck(call, (values,), eps=1e-7, atol=1e-2, rtol=1e-3, nondet_tol=tolerance)


@curved
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_gradients_are_the_references(
    device: torch.device, mode: str, dtype: torch.dtype, rng: np.random.Generator
) -> None:
    source, target = torch.rand(3, 12, dtype=F64).cumsum(1), torch.rand(3, 70, dtype=F64) * 8 - 1
    values, grad = (random_values(rng, [3, count, 8], dtype, special=False) for count in (12, 70))
    found = []
    for call, place in zip(CALLS, (device, torch.device("cpu")), strict=True):
        leaf = values.to(place).clone().requires_grad_()
        call(leaf, source.to(place), target.to(place), mode=mode).backward(grad.to(place))
        assert leaf.grad is not None and leaf.grad.dtype == dtype
        found.append(leaf.grad.cpu().double())
    room = 8 * torch.finfo(dtype).eps + 8 * torch.finfo(torch.float32 if dtype != F64 else F64).eps
    assert torch.allclose(*found, rtol=room, atol=room * float(found[1].abs().max()))


@pytest.mark.parametrize("mode", [*MODES, GROUPS])
def test_second_derivatives_are_the_references(device: torch.device, mode: str) -> None:
    found = []
    for call in CALLS:
        torch.manual_seed(5)
        values, source, target = leaves(device, 15 if mode == GROUPS else 8)
        result = call(values, source, target, mode=mode)
        grad = torch.randn(result.shape, dtype=F64).to(device).requires_grad_()
        first = torch.autograd.grad(result, values, grad, create_graph=True)[0]
        move = torch.randn(first.shape, dtype=F64).to(device)
        second = torch.autograd.grad((first * move).sum(), (values, grad), allow_unused=True)
        found.append([first.detach(), *(torch.zeros(()) if x is None else x for x in second)])
    for a, b in zip(*found, strict=True):
        a, b = (x if x.any() else torch.zeros(()) for x in (a, b))  # zeros or none: the same
        assert torch.allclose(a, b, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("mode", ["slerp", "pchip"])
def test_a_third_derivative_is_refused(device: torch.device, mode: str) -> None:
    values, source, target = leaves(device, 4)
    result = robocache.resample(values, source.detach(), target.detach(), mode=mode)
    (first,) = torch.autograd.grad(result.square().sum(), values, create_graph=True)
    (second,) = torch.autograd.grad(first.square().sum(), values, create_graph=True)
    with pytest.raises(NotImplementedError, match="resample"):
        torch.autograd.grad(second.square().sum(), values)


@both
@curved
def test_times_get_no_gradient(device: torch.device, call: Callable[..., Tensor], mode: str) -> None:
    values, source, target = leaves(device, 4)
    call(values, source, target, mode=mode).square().sum().backward()
    assert values.grad is not None and bool(values.grad.any())
    for times in (source, target):
        assert times.grad is None or not times.grad.any()


@both
@curved
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_a_hit_sends_the_gradient_of_a_copy(
    device: torch.device, call: Callable[..., Tensor], mode: str, dtype: torch.dtype
) -> None:
    values = torch.tensor([[0.1, 0.2, 0.3, 0.4], [math.nan] * 4, [0.5, 0.4, 0.3, 0.2], [0.0] * 4], dtype=dtype)
    values = values.to(device).requires_grad_()
    source = torch.arange(4.0, device=device)
    target = torch.tensor([0.0, 2.0, 3.0, 9.0, -1.0], device=device)
    result = call(values, source, target, mode=mode)
    grad = torch.arange(20.0, device=device).view(5, 4).to(dtype)
    result.backward(grad)
    assert values.grad is not None
    assert values.grad.tolist() == [
        (grad[0] + grad[4]).tolist(),
        [0.0] * 4,
        grad[1].tolist(),
        (grad[2] + grad[3]).tolist(),
    ]


@both
@pytest.mark.parametrize("dtype", [torch.float32, F64], ids=str)
def test_equal_and_opposite_quaternions_have_gradients(
    device: torch.device, call: Callable[..., Tensor], dtype: torch.dtype
) -> None:
    q = torch.tensor([0.5, -0.5, 0.5, 0.5], dtype=dtype)
    values = torch.stack([q, q, -q, -q, 2 * q, q * (1 + 1e-7)]).to(device).requires_grad_()
    target = torch.linspace(0, 5, 61, device=device)
    result = call(values, torch.arange(6.0, device=device), target, mode="slerp")
    (grad,) = torch.autograd.grad(result, values, torch.randn_like(result), create_graph=True)
    grad.square().sum().backward()
    assert bool(grad.isfinite().all()) and values.grad is not None and bool(values.grad.isfinite().all())
    # Along its own direction a quaternion may be stretched without effect; a hit is a copy, so none is taken here.
    between = torch.linspace(0.1, 0.9, 9, device=device)
    pair = values.detach()[:2].requires_grad_()
    blend = call(pair, torch.tensor([0.0, 1.0], device=device), between, mode="slerp")
    (flat,) = torch.autograd.grad(blend, pair, torch.randn_like(blend))
    assert float((flat * pair.detach()).sum(-1).abs().max()) < 1e-5


@both
def test_a_flat_curve_has_gradients(device: torch.device, call: Callable[..., Tensor]) -> None:
    values = torch.zeros(5, 2, dtype=F64, device=device)
    values[2:, 1] = 1.0
    values.requires_grad_()
    result = call(values, torch.arange(5.0, device=device), torch.linspace(0, 4, 33, device=device), mode="pchip")
    (grad,) = torch.autograd.grad(result.sum(), values, create_graph=True)
    grad.square().sum().backward()
    assert bool(grad.isfinite().all()) and values.grad is not None and bool(values.grad.isfinite().all())
    # Whatever the curve, moving all samples moves it as one.
    assert torch.allclose(grad.sum(0), torch.full((2,), 33.0, dtype=F64, device=device))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_half_gradients_are_added_in_f32(device: torch.device, mode: str, dtype: torch.dtype) -> None:
    values = torch.tensor([[0.5] * 4, [0.25] * 4], dtype=dtype, device=device).requires_grad_()
    target = torch.zeros(4096, device=device)
    robocache.resample(values, torch.tensor([0.0, 1.0], device=device), target, mode=mode).sum().backward()
    assert values.grad is not None and values.grad.tolist() == [[4096.0] * 4, [0.0] * 4]


def test_random_second_derivatives_from_run_to_run(device: torch.device, rng: np.random.Generator) -> None:
    for _ in range(case_count(40)):
        case = random_case(rng, FLOATS, special=False)
        tensors, options = case.arguments(device)
        runs = []
        for _ in range(2):
            inputs = [x.detach().requires_grad_() if x.is_floating_point() else x for x in tensors]
            result = robocache.resample(*inputs, **options)
            if not result.requires_grad:
                break
            wanted = [x for x in inputs if x.requires_grad]
            first = torch.autograd.grad(result.square().sum(), wanted, create_graph=True, allow_unused=True)
            scalar = torch.stack([x.double().square().sum() for x in first if x is not None]).sum()
            second = torch.autograd.grad(scalar, wanted, allow_unused=True) if scalar.requires_grad else []
            runs.append([x if x is None else x.detach() for x in (*first, *second)])
        for a, b in zip(*runs, strict=True) if len(runs) == 2 else ():
            assert_same_bits(a, b, case)


# fuse


def test_gradcheck_of_fuse(device: torch.device) -> None:
    a = smooth(device, channels=5)
    b = smooth(device, channels=4, samples=4)
    target = a[2].detach().requires_grad_()
    lengths = torch.tensor([[6, 4], [3, 2]], device=device)

    def called(va: Tensor, sa: Tensor, vb: Tensor, sb: Tensor, tt: Tensor, **options: Any) -> Tensor:
        return robocache.fuse([va, vb], [sa, sb], tt, **options).nan_to_num()

    inputs = (a[0], a[1], b[0], b[1] * 1.01, target)
    inputs = tuple(x.detach().requires_grad_() for x in inputs)
    for options in ({}, {"outside": "extrapolate"}, {"outside": "zero", "source_lengths": lengths}):
        check(lambda *x, o=options: called(*x, **o), inputs)
    for mode in ("linear:1,slerp:4,pchip:2,angle:2", "pchip:5,slerp:4", "previous:3,linear:*"):

        def by_values(va: Tensor, vb: Tensor, mode: str = mode) -> Tensor:
            return called(
                va, inputs[1].detach(), vb, inputs[3].detach(), target.detach(), mode=mode, source_lengths=lengths
            )

        check(by_values, (inputs[0], inputs[2]))


def test_second_derivatives_of_fuse_are_the_references(device: torch.device, rng: np.random.Generator) -> None:
    for _ in range(case_count(30)):
        case = random_fuse_case(rng, [F64], special=False)
        found = []
        for call in (robocache.fuse, robocache.reference.fuse):
            (values, times, target), options = case.arguments(device)
            inputs = [x.detach().requires_grad_() for x in values]
            first = torch.autograd.grad(
                call(inputs, times, target, **options).nan_to_num().square().sum(),
                inputs,
                create_graph=True,
                allow_unused=True,
            )
            scalar = torch.stack([x.square().sum() for x in first if x is not None]).sum()
            second = torch.autograd.grad(scalar, inputs, allow_unused=True)
            found.append([x for x in (*first, *second)])
        for a, b in zip(*found, strict=True):
            a, b = (torch.zeros(()) if x is None or not bool(x.any()) else x.detach() for x in (a, b))
            scale = max(float(b.nan_to_num().abs().max()) if b.numel() else 0.0, 1.0)
            assert torch.allclose(a, b, rtol=1e-6, atol=1e-8 * scale, equal_nan=True), str(case)


@pytest.mark.parametrize("mode", ["linear", "angle", "linear:2,previous:2"])
def test_third_derivatives_of_modes_that_do_not_bend_are_the_references(device: torch.device, mode: str) -> None:
    values, source, target = smooth(device, channels=4)
    wanted = [values, source, target] if mode == "linear" else [values]  # only linear channels tell the times
    found = []
    for call in (robocache.resample, robocache.reference.resample):
        result = call(values, source, target, mode=mode).pow(4).sum()
        for _ in range(3):
            grads = torch.autograd.grad(result, wanted, create_graph=True)
            result = torch.stack([grad.square().sum() for grad in grads]).sum()
        found.append(grads)
    for a, b in zip(*found, strict=True):
        assert torch.allclose(a, b, rtol=1e-6, atol=1e-9)
