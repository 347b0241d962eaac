"""Gradients of `resample`: against finite differences, against the reference's autograd, and their edge rules."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import robocache
import torch
from cases import COPIES, FLOATS, OUTSIDE, Case, assert_same_bits, case_count, random_case, random_values
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

F64 = torch.float64


def smooth(device: torch.device, outside: str = "hold", **shape: int) -> tuple[Tensor, Tensor, Tensor]:
    """Values, times and unsorted targets of which none lies within a finite difference of a kink."""
    rows, samples, targets = shape.get("rows", 2), shape.get("samples", 6), shape.get("targets", 9)
    generator = torch.Generator().manual_seed(11)
    values = torch.randn(rows, samples, shape.get("channels", 3), generator=generator, dtype=F64)
    source = torch.rand(rows, samples, generator=generator, dtype=F64).add(0.5).cumsum(1)
    place = torch.randint(0, samples - 1, (rows, targets), generator=generator)
    low, high = source.gather(1, place), source.gather(1, place + 1)
    target = low + (high - low) * (0.2 + 0.6 * torch.rand(rows, targets, generator=generator, dtype=F64))
    target[:, 1], target[:, -1] = source[:, 0] - 0.7, source[:, -1] + 0.9
    return tuple(x.to(device).requires_grad_() for x in (values, source, target))  # type: ignore[return-value]


def called(**options: Any) -> Any:
    return lambda *tensors: robocache.resample(*tensors, **options).nan_to_num()


def check(call: Any, inputs: tuple[Tensor, ...]) -> None:
    assert gradcheck(call, inputs, nondet_tol=0.0)
    assert gradgradcheck(call, inputs, nondet_tol=0.0)


@pytest.mark.parametrize("outside", OUTSIDE)
def test_gradcheck_linear(device: torch.device, outside: str) -> None:
    check(called(outside=outside), smooth(device))


@pytest.mark.parametrize("mode", COPIES)
def test_gradcheck_copies(device: torch.device, mode: str) -> None:
    values, source, target = smooth(device)
    check(called(mode=mode), (values, source, target))


@pytest.mark.parametrize("outside", ["hold", "zero"])
def test_gradcheck_groups(device: torch.device, outside: str) -> None:
    check(called(mode="linear:1,previous:1,linear:*", outside=outside), smooth(device))
    check(called(mode="nearest:2,linear:1", outside=outside), smooth(device))


@pytest.mark.parametrize("lengths_dtype", [torch.int32, torch.int64], ids=str)
@pytest.mark.parametrize("outside", ["hold", "extrapolate"])
def test_gradcheck_ragged(device: torch.device, outside: str, lengths_dtype: torch.dtype) -> None:
    values, source, target = smooth(device)
    lengths = torch.tensor([6, 3], dtype=lengths_dtype, device=device)
    check(called(outside=outside, source_lengths=lengths), (values, source, target))


def test_gradcheck_shared_times(device: torch.device) -> None:
    values, source, target = smooth(device)
    source, target = source[0].detach().requires_grad_(), target[0].detach().requires_grad_()
    check(called(outside="extrapolate"), (values, source, target))
    rows = target.detach().expand(2, -1).clone().requires_grad_()
    check(called(), (values, source, rows))
    check(called(), (values, source.detach().expand(2, -1).clone().requires_grad_(), target))


def test_gradcheck_unbatched_and_trailing(device: torch.device) -> None:
    values, source, target = smooth(device)
    unbatched = (values[0].detach().requires_grad_(), source[0].detach().requires_grad_(), target[0].detach())
    check(called(), (*unbatched[:2], unbatched[2].requires_grad_()))
    check(called(), (values.detach()[:, :, 0].clone().requires_grad_(), source, target))
    trailing = torch.randn(2, 6, 2, 2, dtype=F64, device=device).requires_grad_()
    check(called(outside="extrapolate"), (trailing, source, target))


def test_gradcheck_strided(device: torch.device) -> None:
    values, source, target = smooth(device)
    base = values.detach().transpose(0, 2).contiguous().requires_grad_()

    def call(base: Tensor, source: Tensor, target: Tensor) -> Tensor:
        return robocache.resample(base.transpose(0, 2), source.flip(0).flip(0), target)

    check(call, (base, source, target))


def test_gradcheck_int64_times(device: torch.device) -> None:
    source = torch.tensor([[0, 10, 20, 50]], device=device)
    target = torch.tensor([[3, 10, 49, -5, 70, 12]], device=device)
    values = torch.randn(1, 4, 2, dtype=F64, device=device, requires_grad=True)
    for outside in OUTSIDE:
        check(lambda v, rule=outside: called(outside=rule)(v, source, target), (values,))


def gradients(call: Any, case: Case, grad: Tensor, device: torch.device) -> tuple[Tensor, list[Tensor | None]]:
    tensors, options = case.arguments(device)
    inputs = [x.detach().requires_grad_() if x.dtype.is_floating_point else x for x in tensors]
    result = call(*inputs, **options)
    if result.requires_grad:
        result.backward(grad.to(device, result.dtype))
    return result, [x.grad for x in inputs]


def test_gradients_are_the_references(device: torch.device, rng: np.random.Generator) -> None:
    for _ in range(case_count(200)):
        case = random_case(rng, [torch.float64, torch.float32], special=False)
        case.layouts[1:] = ["contiguous"] * 2
        if case.values.numel() == 0:
            continue  # see test_empty
        shape = robocache.reference.resample(*case.arguments()[0], **case.arguments()[1]).shape
        grad = random_values(rng, list(shape), torch.float64, special=False)
        _, found = gradients(robocache.resample, case, grad, device)
        _, expected = gradients(robocache.reference.resample, case, grad, torch.device("cpu"))
        tolerance = 1e-9 if case.values.dtype == F64 and case.source_times.dtype == F64 else 1e-3
        for name, a, b in zip(("values", "source_times", "target_times"), found, expected, strict=True):
            # Where nothing is blended autograd gives none at all for the times, the operator zeros.
            assert b is not None or a is None or not a.any(), f"{name} of {case}"
            assert a is not None or b is None, f"{name} of {case}"
            if a is not None and b is not None:
                finite = b.isfinite()
                scale = float(b[finite].abs().max()) if bool(finite.any()) else 1.0
                close = torch.allclose(a.cpu()[finite], b[finite], rtol=tolerance, atol=tolerance * max(scale, 1.0))
                assert close, f"{name} of {case}"


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_half_gradients_are_added_in_f32(device: torch.device, dtype: torch.dtype) -> None:
    # 4096 targets on one sample: an f16 or bf16 sum would stop growing long before.
    values = torch.zeros(1, 2, 1, dtype=dtype, device=device, requires_grad=True)
    source, target = torch.tensor([0.0, 1.0], device=device), torch.zeros(1, 4096, device=device)
    robocache.resample(values, source, target).sum().backward()
    assert values.grad is not None and values.grad.flatten().tolist() == [4096.0, 0.0]


def test_sorted_and_permuted_targets(device: torch.device, rng: np.random.Generator) -> None:
    values = random_values(rng, [2, 50, 7], F64, False).to(device)
    source = torch.rand(2, 50, device=device, dtype=F64).cumsum(1)
    target = (torch.rand(2, 400, device=device, dtype=F64) * 30 - 2).sort(1).values
    grad = torch.randn(2, 400, 7, device=device, dtype=F64)
    order = torch.randperm(400, device=device)
    found = []
    for t, g in ((target, grad), (target[:, order], grad[:, order])):
        inputs = [x.detach().clone().requires_grad_() for x in (values, source, t)]
        found.append(torch.autograd.grad(robocache.resample(*inputs), inputs, g))
    (v, s, t), (v_permuted, s_permuted, t_permuted) = found
    assert torch.allclose(v, v_permuted, rtol=1e-12, atol=1e-12)
    assert torch.allclose(s, s_permuted, rtol=1e-10, atol=1e-10)
    assert_same_bits(t[:, order], t_permuted)  # a target's own gradient needs no sum over targets


@pytest.mark.parametrize("ordered", [True, False], ids=["sorted", "unsorted"])
def test_from_run_to_run(device: torch.device, ordered: bool) -> None:
    values = torch.randn(3, 200, 65, device=device)
    source = torch.rand(3, 200, device=device).cumsum(1)
    target = torch.rand(3, 900, device=device) * 100
    target = target.sort(1).values if ordered else target
    grad = torch.randn(3, 900, 65, device=device)
    runs = []
    for _ in range(5):
        inputs = [x.detach().clone().requires_grad_() for x in (values, source, target)]
        robocache.resample(*inputs).backward(grad)
        runs.append([x.grad for x in inputs])
    for run in runs[1:]:
        for a, b in zip(runs[0], run, strict=True):
            assert_same_bits(a, b)


def test_expanded_gradient(device: torch.device) -> None:
    values, source, target = smooth(device)
    robocache.resample(values, source, target).sum().backward()
    found = [x.grad.clone() for x in (values, source, target) if x.grad is not None]
    for x in (values, source, target):
        x.grad = None
    result = robocache.resample(values, source, target)
    result.backward(torch.ones_like(result))
    for a, b in zip(found, (values, source, target), strict=True):
        assert_same_bits(a, b.grad)


@pytest.mark.parametrize("wanted", [(1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 0), (0, 1, 1), (1, 0, 1)], ids=str)
def test_only_the_wanted_gradients(device: torch.device, wanted: tuple[int, ...]) -> None:
    full = smooth(device)
    robocache.resample(*full).square().sum().backward()
    some = [x.detach().clone().requires_grad_(bool(want)) for x, want in zip(full, wanted, strict=True)]
    robocache.resample(*some).square().sum().backward()
    for a, b, want in zip(some, full, wanted, strict=True):
        assert_same_bits(a.grad, b.grad if want else None)


def test_times_without_gradient(device: torch.device) -> None:
    """Copied channels and held targets do not move with the times; copied samples move with the right bracket."""
    values = torch.tensor([[[1.0], [3.0], [4.0]]], dtype=F64, device=device)
    source = torch.tensor([[0.0, 1.0, 3.0]], dtype=F64, device=device)
    target = torch.tensor([[-1.0, 0.0, 0.5, 1.0, 2.0, 3.0, 4.0]], dtype=F64, device=device)
    slopes = {
        "hold": [0.0, 2.0, 2.0, 0.5, 0.5, 0.0, 0.0],
        "nan": [0.0, 2.0, 2.0, 0.5, 0.5, 0.0, 0.0],
        "zero": [0.0, 2.0, 2.0, 0.5, 0.5, 0.0, 0.0],
        "extrapolate": [2.0, 2.0, 2.0, 0.5, 0.5, 0.0, 0.5],
    }
    for call in (robocache.resample, robocache.reference.resample):
        for outside, expected in slopes.items():
            moving = target.clone().requires_grad_()
            call(values, source, moving, outside=outside).nansum().backward()
            assert moving.grad is not None and moving.grad[0].tolist() == expected, (call, outside)
        for mode in [*COPIES, "angle", "pchip"]:
            moving, fixed = target.clone().requires_grad_(), source.clone().requires_grad_()
            result = call(values.clone().requires_grad_(), fixed, moving, mode=mode)
            result.sum().backward()
            for grad in (moving.grad, fixed.grad):
                assert grad is None or not grad.any(), (call, mode)


def test_nan_in_unused_neighbours_does_not_leak(device: torch.device) -> None:
    values = torch.tensor([[[math.nan], [1.0], [math.nan], [2.0], [3.0]]], device=device)
    source = torch.arange(5.0, device=device).unsqueeze(0)
    target = torch.tensor([[1.0, 3.0, 3.5, 4.0, 7.0]], device=device)
    for call in (robocache.resample, robocache.reference.resample):
        moving = values.clone().requires_grad_()
        fixed, times = source.clone().requires_grad_(), target.clone().requires_grad_()
        call(moving, fixed, times).sum().backward()
        assert moving.grad is not None and moving.grad.flatten().tolist() == [0.0, 1.0, 0.0, 1.5, 2.5]
        assert times.grad is not None and times.grad[0, 1:].tolist() == [1.0, 1.0, 0.0, 0.0]


def test_filled_targets_send_no_gradient(device: torch.device) -> None:
    target = torch.tensor([[math.nan, -5.0, 9.0, 0.5]], device=device, requires_grad=True)
    values = torch.tensor([[math.inf, 1.0, 2.0]], device=device, requires_grad=True)
    source = torch.tensor([[0.0, 1.0, 2.0]], device=device, requires_grad=True)
    for outside in ("nan", "zero"):
        for x in (values, source, target):
            x.grad = None
        robocache.resample(values, source, target, outside=outside).backward(torch.ones(1, 4, device=device))
        assert values.grad is not None and values.grad.tolist() == [[0.5, 0.5, 0.0]]
        assert target.grad is not None and target.grad[0, :3].tolist() == [0.0, 0.0, 0.0]


def test_integers_need_no_gradient(device: torch.device) -> None:
    values = torch.arange(6, device=device).view(1, 3, 2)
    source = torch.arange(3.0, device=device).requires_grad_()
    target = torch.rand(1, 4, device=device).requires_grad_()
    for dtype in (torch.int64, torch.int32, torch.uint8, torch.bool):
        assert not robocache.resample(values.to(dtype), source, target, mode="previous").requires_grad
    with torch.no_grad():
        assert not robocache.resample(values.double().requires_grad_(), source.double(), target.double()).requires_grad


def test_the_gradient_to_values_does_not_keep_them(device: torch.device) -> None:
    values = torch.randn(2, 5, 3, device=device, requires_grad=True)
    source, target = torch.arange(5.0, device=device), torch.rand(2, 4, device=device)
    result = robocache.resample(values * 1.0, source, target)  # the product lives on only if it is saved
    saved = [getattr(result.grad_fn, name) for name in dir(result.grad_fn) if name.startswith("_saved")]
    assert all(x.shape != values.shape for x in saved if isinstance(x, Tensor))


@pytest.mark.parametrize("empty", [(0, 4, 3, 5), (2, 4, 0, 5), (2, 4, 3, 0)], ids=["batch", "channels", "targets"])
def test_empty(device: torch.device, empty: tuple[int, int, int, int]) -> None:
    rows, samples, channels, targets = empty
    values = torch.ones(rows, samples, channels, device=device, requires_grad=True)
    source = torch.arange(float(samples), device=device).requires_grad_()
    target = torch.ones(rows, targets, device=device, requires_grad=True)
    robocache.resample(values, source, target).sum().backward()
    for x in (values, source, target):
        assert x.grad is not None and x.grad.shape == x.shape and not x.grad.any()


def test_double_backward_is_the_references(device: torch.device) -> None:
    found = []
    for call in (robocache.resample, robocache.reference.resample):
        inputs = smooth(device)
        result = call(*inputs, outside="extrapolate").square().sum()
        first = torch.autograd.grad(result, inputs, create_graph=True)
        found.append(torch.autograd.grad(torch.stack([x.square().sum() for x in first]).sum(), inputs))
    for a, b in zip(*found, strict=True):
        assert torch.allclose(a, b, rtol=1e-9, atol=1e-9)
