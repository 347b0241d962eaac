"""Equal bits, forward and backward: for any number of threads, from run to run, and on the CPU and CUDA."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import robocache
import torch
from cases import (
    COPIES,
    FLOATS,
    TIMES,
    Case,
    assert_same_bits,
    case_count,
    channel_modes,
    random_case,
    random_targets,
    random_times,
    random_values,
    tame,
)
from fuse_cases import FuseCase, random_fuse_case, random_mask_case
from torch import Tensor


def answers(case: Case, grad: Tensor, device: torch.device | str = "cpu") -> list[Tensor | None]:
    """The result and the gradients to values, source times and target times."""
    tensors, options = case.arguments(device)
    inputs = [x.detach().requires_grad_() if x.dtype.is_floating_point else x for x in tensors]
    result = robocache.resample(*inputs, **options)
    if result.requires_grad:
        result.backward(grad.to(device))
    return [result.detach(), *(x.grad for x in inputs)]


def second_answers(case: Case, grad: Tensor, device: torch.device | str = "cpu") -> list[Tensor | None]:
    """The gradient to values, and the gradients of its product with a fixed tensor: to values and to the gradient."""
    tensors, options = case.arguments(device)
    leaf, grad = tensors[0].detach().requires_grad_(), grad.to(device).requires_grad_()
    (first,) = torch.autograd.grad(robocache.resample(leaf, *tensors[1:], **options), leaf, grad, create_graph=True)
    wave = torch.linspace(-1, 1, first.numel(), dtype=torch.float64).view_as(first).to(device, first.dtype)
    return [first.detach(), *torch.autograd.grad(first, (leaf, grad), wave, allow_unused=True)]


def fused_answers(case: FuseCase, device: torch.device | str = "cpu") -> list[Tensor | None]:
    """The result and the gradients to every stream's values and times, and to the targets."""
    (values, times, target), options = case.arguments(device)
    streams = len(values)
    inputs = [x.detach().requires_grad_() if x.is_floating_point() else x for x in (*values, *times, target)]
    result = robocache.fuse(inputs[:streams], inputs[streams:-1], inputs[-1], **options)
    if result.requires_grad:
        wave = torch.linspace(-1, 1, result.numel(), dtype=torch.float64).view_as(result)
        result.backward(wave.to(device, result.dtype))
    return [result.detach(), *(x.grad for x in inputs)]


def same(first: list[Tensor | None], second: list[Tensor | None], what: object) -> None:
    for place, (a, b) in enumerate(zip(first, second, strict=True)):
        assert_same_bits(a, b, f"{place} of {what}")


def gradient(rng: np.random.Generator, case: Case) -> Tensor:
    """A gradient of the result, sometimes of stride zero, sometimes with infinities and NaN."""
    shape = robocache.reference.resample(*case.arguments()[0], **case.arguments()[1]).shape
    dtype = case.values.dtype if case.values.dtype.is_floating_point else torch.float32
    if rng.random() < 0.2:
        return torch.tensor(float(rng.standard_normal())).to(dtype).expand(shape)
    return random_values(rng, list(shape), dtype, special=bool(rng.random() < 0.2))


def large_cases(rng: np.random.Generator) -> Iterator[Case]:
    """Large enough that the work is split between threads, in both orders of targets."""
    for dtype in FLOATS:
        for time_dtype in (torch.float32, torch.int64):
            for shape in ([5, 400, 96], [1, 3000, 33], [40, 50, 1], [2, 600, 300]):
                source = random_times(rng, shape[0], shape[1], time_dtype)
                target = random_targets(rng, source, shape[0], 700)
                values = random_values(rng, shape, dtype, special=False)
                yield Case(values, source, target, str(rng.choice(COPIES)) if rng.random() < 0.3 else "linear")
    for dtype in FLOATS:
        for mode in ("angle", "slerp", "pchip", "linear:3,slerp:20,pchip:10,angle:30,slerp:4,previous:*"):
            for shape in ([5, 400, 96], [1, 3000, 68]):
                source = random_times(rng, shape[0], shape[1], TIMES[int(rng.integers(0, 3))])
                values = tame(rng, random_values(rng, shape, dtype, False), shape[1], channel_modes(mode, shape[2]))
                yield Case(values, source, random_targets(rng, source, shape[0], 700), mode)


def compare(case: Case, grad: Tensor, others: list[list[Tensor | None]]) -> None:
    first = others[0]
    for other in others[1:]:
        for name, a, b in zip(("result", "values", "source_times", "target_times"), first, other, strict=True):
            assert_same_bits(a, b, f"{name} of {case}")


def test_threads_do_not_change_bits_of_small_cases(rng: np.random.Generator, threads: None) -> None:
    for _ in range(case_count(1500)):
        case = random_case(rng)
        grad = gradient(rng, case)
        found = []
        for count in (1, 2):
            torch.set_num_threads(count)
            found.append(answers(case, grad))
        compare(case, grad, found)


def test_threads_do_not_change_bits_of_large_cases(rng: np.random.Generator, threads: None) -> None:
    for case in large_cases(rng):
        grad = gradient(rng, case)
        found = []
        for count in (1, 2, 3, 8):
            torch.set_num_threads(count)
            found.append(answers(case, grad))
        compare(case, grad, found)


def test_threads_do_not_change_bits_of_second_derivatives(rng: np.random.Generator, threads: None) -> None:
    for case in large_cases(rng):
        if case.values.dtype != torch.float32:
            continue
        grad, found = gradient(rng, case), []
        for count in (1, 2, 3, 8):
            torch.set_num_threads(count)
            found.append(second_answers(case, grad))
        for other in found[1:]:
            same(found[0], other, case)


def large_fuse_case(rng: np.random.Generator, dtype: torch.dtype) -> FuseCase:
    """Large enough that the work is split between threads."""
    values = [
        random_values(rng, [8, samples, width], dtype, False) for samples, width in ((150, 64), (500, 14), (400, 7))
    ]
    times = [random_times(rng, 8, x.shape[1], torch.int64) for x in values]
    target = random_targets(rng, times[1], 8, 250)
    return FuseCase(values, times, target, "linear:64,linear:7,angle:7,pchip:3,slerp:4")


def test_threads_do_not_change_bits_of_fuse(rng: np.random.Generator, threads: None) -> None:
    cases = [random_fuse_case(rng) for _ in range(case_count(300))]
    for case in [*cases, *(large_fuse_case(rng, dtype) for dtype in FLOATS)]:
        found = []
        for count in (1, 2, 8):
            torch.set_num_threads(count)
            found.append(fused_answers(case))
        for other in found[1:]:
            same(found[0], other, case)


def test_threads_do_not_change_a_mask(rng: np.random.Generator, threads: None) -> None:
    source = random_times(rng, 9, 400, torch.float64)
    target = random_targets(rng, source, 9, 3000)
    found = []
    for count in (1, 2, 8):
        torch.set_num_threads(count)
        found.append(robocache.resample_mask(source, target, max_gap=1.0))
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])


def test_a_loader_worker_gives_the_same_bits(rng: np.random.Generator) -> None:
    cases = [random_case(rng, FLOATS) for _ in range(20)]

    class Resampled(torch.utils.data.Dataset[Tensor]):
        def __len__(self) -> int:
            return len(cases)

        def __getitem__(self, index: int) -> Tensor:
            tensors, options = cases[index].arguments()
            return robocache.resample(*tensors, **options)

    here = [Resampled()[index] for index in range(len(cases))]
    loader = torch.utils.data.DataLoader(Resampled(), batch_size=None, num_workers=1, multiprocessing_context="fork")
    for case, a, b in zip(cases, here, loader, strict=True):
        assert_same_bits(a, b, case)


@pytest.mark.gpu
def test_cuda_gives_the_bits_of_the_cpu_in_small_cases(rng: np.random.Generator) -> None:
    for _ in range(case_count(3000)):
        case = random_case(rng)
        grad = gradient(rng, case)
        compare(case, grad, [answers(case, grad), answers(case, grad, "cuda")])


@pytest.mark.gpu
def test_cuda_gives_the_bits_of_the_cpu_in_large_cases(rng: np.random.Generator) -> None:
    for case in large_cases(rng):
        grad = gradient(rng, case)
        on_cuda = [answers(case, grad, "cuda") for _ in range(3)]
        compare(case, grad, [answers(case, grad), *on_cuda])


@pytest.mark.gpu
def test_cuda_gives_the_bits_of_the_cpu_in_second_derivatives(rng: np.random.Generator) -> None:
    for _ in range(case_count(300)):
        case = random_case(rng, FLOATS)
        if case.values.numel() > 0:
            grad = gradient(rng, case)
            same(second_answers(case, grad), second_answers(case, grad, "cuda"), case)
    for case in large_cases(rng):
        grad = gradient(rng, case)
        same(second_answers(case, grad), second_answers(case, grad, "cuda"), case)


@pytest.mark.gpu
def test_cuda_gives_the_bits_of_the_cpu_in_fuse(rng: np.random.Generator) -> None:
    cases = [random_fuse_case(rng) for _ in range(case_count(1000))]
    for case in [*cases, *(large_fuse_case(rng, dtype) for dtype in FLOATS)]:
        same(fused_answers(case), fused_answers(case, "cuda"), case)


@pytest.mark.gpu
def test_cuda_gives_the_mask_of_the_cpu(rng: np.random.Generator) -> None:
    for _ in range(case_count(1000)):
        case = random_mask_case(rng)
        masks = []
        for device in ("cpu", "cuda"):
            tensors, options = case.arguments(device)
            masks.append(robocache.resample_mask(*tensors, **options).cpu())
        assert torch.equal(*masks), case
