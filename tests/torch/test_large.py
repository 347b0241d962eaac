"""More than 2^31 elements on the CPU: through strides and untouched pages, so that little memory is used."""

from __future__ import annotations

import os

import numpy as np
import pytest
import robocache
import torch

GIB = 1 << 30


@pytest.fixture(autouse=True)
def enough_memory() -> None:
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if free < 4 * GIB:
        pytest.skip(f"needs 4 GiB of free memory, has {free / GIB:.1f}")


def untouched(elements: int) -> torch.Tensor:
    """Zero bytes whose pages the system gives only where they are written."""
    return torch.from_numpy(np.zeros(elements, dtype=np.uint8))


def test_offsets_past_2_to_the_31() -> None:
    values = untouched(3 * GIB + 3).view(1, 3, GIB + 1)
    values[0, 2, -1], values[0, 1, 0] = 7, 5
    times = torch.arange(3.0)
    strided = values[:, :, :: 1 << 20]  # [1, 3, 1025]: few channels, far apart
    result = robocache.resample(strided, times, torch.tensor([0.0, 1.0, 2.0, 9.0]), mode="previous")
    assert result[0, 1, 0] == 5 and int(result.sum()) == 5 + 7 + 7
    assert result[0, 2:, -1].tolist() == [7, 7]
    rows = torch.as_strided(values, (1025, 3, 1), (1 << 20, GIB + 1, 1))  # batch rows far apart
    assert int(robocache.resample(rows, times, times, mode="nearest").sum()) == 12


def test_more_than_2_to_the_31_samples() -> None:
    samples = 2 * GIB + 5
    values = untouched(samples)
    values[-1] = 9
    times = torch.zeros(1).expand(samples)  # all equal: the last one wins
    assert robocache.resample(values, times, torch.zeros(2), mode="previous").tolist() == [9, 9]


def test_more_than_2_to_the_31_results() -> None:
    channels, targets = 1 << 13, (1 << 18) + 1
    values = torch.tensor([[0], [1]], dtype=torch.uint8).expand(2, channels).unsqueeze(0)
    when = torch.zeros(1, targets)
    when[0, -2:] = 1.0
    result = robocache.resample(values, torch.tensor([0.0, 1.0]), when, mode="previous")
    assert result.numel() > 2 * GIB
    assert result[0, -2:].all() and not result[0, -3].any() and not result[0, 0].any()
    assert torch.count_nonzero(result[0, :, -1]) == 2


def test_a_gradient_of_more_than_2_to_the_31_elements() -> None:
    channels, targets = 2049, 1 << 20
    grad = torch.ones(()).expand(1, targets, channels)
    when = torch.zeros(1, targets)
    when[0, -1] = 0.25
    result = torch.ops.robocache.resample_backward(
        grad, torch.tensor([[0.0, 1.0]]), when, mode="linear", outside="hold", source_lengths=None, slope=False
    )
    assert torch.equal(result[0, 0], torch.full((channels,), targets - 0.25))
    assert torch.equal(result[0, 1], torch.full((channels,), 0.25))
