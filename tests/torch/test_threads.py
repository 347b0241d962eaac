"""Equal bits, forward and backward: for any number of threads, from run to run, and on the CPU and CUDA."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import robocache
import torch
from cases import (
    FLOATS,
    MODES,
    Case,
    assert_same_bits,
    case_count,
    random_case,
    random_targets,
    random_times,
    random_values,
)
from torch import Tensor


def answers(case: Case, grad: Tensor, device: torch.device | str = "cpu") -> list[Tensor | None]:
    """The result and the gradients to values, source times and target times."""
    tensors, options = case.arguments(device)
    inputs = [x.detach().requires_grad_() if x.dtype.is_floating_point else x for x in tensors]
    result = robocache.resample(*inputs, **options)
    if result.requires_grad:
        result.backward(grad.to(device))
    return [result.detach(), *(x.grad for x in inputs)]


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
                yield Case(values, source, target, str(rng.choice(MODES)) if rng.random() < 0.3 else "linear")


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
