"""What only a CUDA device can show: graphs, streams, a second device, no waiting, sizes; and autocast on any device."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import robocache
import torch
from cases import FLOATS, assert_same_bits
from torch import Tensor

gpu = pytest.mark.gpu


def inputs(device: torch.device | str, dtype: torch.dtype = torch.float32, ordered: bool = True) -> list[Tensor]:
    target = torch.rand(4, 90, device=device) * 30 - 1
    return [
        torch.randn(4, 50, 24, device=device).to(dtype),
        torch.rand(4, 50, device=device).cumsum(1),
        target.sort(1).values if ordered else target,
    ]


def forward_and_backward(leaves: list[Tensor], grad: Tensor) -> list[Tensor]:
    result = robocache.resample(*leaves)
    return [result, *torch.autograd.grad(result, leaves, grad)]


@pytest.fixture
def waiting_is_an_error() -> Iterator[None]:
    torch.cuda.set_sync_debug_mode("error")
    yield
    torch.cuda.set_sync_debug_mode("default")


@gpu
@pytest.mark.parametrize("ordered", [True, False], ids=["sorted", "unsorted"])
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_graph_capture_and_replay(dtype: torch.dtype, ordered: bool) -> None:
    leaves = [x.requires_grad_() for x in inputs("cuda", dtype, ordered)]
    grad = torch.randn(4, 90, 24, device="cuda").to(dtype)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        forward_and_backward(leaves, grad)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = forward_and_backward(leaves, grad)
    for _ in range(3):
        fresh = inputs("cuda", dtype, ordered)
        with torch.no_grad():
            for leaf, new in zip(leaves, fresh, strict=True):
                leaf.copy_(new)
            grad.copy_(torch.randn(4, 90, 24, device="cuda"))
        graph.replay()
        expected = forward_and_backward([x.clone().requires_grad_() for x in fresh], grad.clone())
        for a, b in zip(captured, expected, strict=True):
            assert_same_bits(a, b)


@gpu
def test_graph_capture_of_a_first_call() -> None:
    # No warm-up call of this type: loading a kernel must not break a capture.
    values = torch.arange(12, device="cuda", dtype=torch.int16).view(1, 4, 3)
    times = torch.arange(4, device="cuda")
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = robocache.resample(values, times, times, mode="previous")
    graph.replay()
    assert torch.equal(result, values)


@gpu
def test_two_streams_at_once() -> None:
    streams = [torch.cuda.Stream(), torch.cuda.Stream()]
    work = [(inputs("cuda", ordered=bool(index % 2)), torch.randn(4, 90, 24, device="cuda")) for index in range(40)]
    expected = [forward_and_backward([x.clone().requires_grad_() for x in leaves], grad) for leaves, grad in work]
    torch.cuda.synchronize()
    found = []
    for index, (leaves, grad) in enumerate(work):
        with torch.cuda.stream(streams[index % 2]):
            found.append(forward_and_backward([x.clone().requires_grad_() for x in leaves], grad))
    torch.cuda.synchronize()
    for some, others in zip(found, expected, strict=True):
        for a, b in zip(some, others, strict=True):
            assert_same_bits(a, b)


@gpu
def test_on_the_callers_stream() -> None:
    values, source, target = inputs("cuda")
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        torch.cuda._sleep(100_000_000)  # a launch on another stream would read the values before this ends
        values.mul_(2.0)
        result = robocache.resample(values, source, target)
    stream.synchronize()
    assert_same_bits(result, robocache.resample(values, source, target))


@gpu
def test_second_device() -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("one CUDA device on this machine: a second index cannot be tried")
    first = [x.requires_grad_() for x in inputs("cuda:0")]
    second = [x.detach().to("cuda:1").requires_grad_() for x in first]
    assert torch.cuda.current_device() == 0
    grad = torch.randn(4, 90, 24, device="cuda:0")
    found = forward_and_backward(second, grad.to("cuda:1"))
    assert torch.cuda.current_device() == 0 and all(x.device.index == 1 for x in found)
    for a, b in zip(forward_and_backward(first, grad), found, strict=True):
        assert_same_bits(a, b)
    with pytest.raises(ValueError, match=r"source_times must be on cuda:0 \(as values\), got cuda:1"):
        robocache.resample(first[0], second[1], first[2])


@gpu
def test_mixed_devices_are_refused() -> None:
    values, source, target = inputs("cuda")
    with pytest.raises(ValueError, match=r"target_times must be on cuda:0 \(as values\), got cpu"):
        robocache.resample(values, source, target.cpu())


@gpu
@pytest.mark.parametrize("ordered", [True, False], ids=["sorted", "unsorted"])
def test_never_waits_for_the_device(ordered: bool, waiting_is_an_error: None) -> None:
    leaves = [x.requires_grad_() for x in inputs("cuda", ordered=ordered)]
    lengths = torch.full((4,), 40, device="cuda")
    grad = torch.randn(4, 90, 24, device="cuda")
    torch.autograd.grad(robocache.resample(*leaves, source_lengths=lengths), leaves, grad)
    done = torch.cuda.Event()
    torch.cuda._sleep(1_000_000_000)
    result = robocache.resample(*leaves, source_lengths=lengths)
    torch.autograd.grad(result, leaves, grad)
    done.record()
    assert not done.query(), "the call came back only after the device had finished"


@gpu
def test_wrong_contents_stay_within_bounds() -> None:
    """On CUDA neither order nor lengths are checked; the memory check of the GPU run watches the bounds."""
    values, source, target = inputs("cuda", ordered=False)
    source = source[:, torch.randperm(50, device="cuda")]
    source[0, 3], source[1, 0], source[2, 49] = float("nan"), float("inf"), float("-inf")
    leaves = [x.requires_grad_() for x in (values, source, target)]
    for lengths in (None, torch.tensor([0, -5, 51, 2**62], device="cuda")):
        result = robocache.resample(*leaves, source_lengths=lengths)
        result.backward(torch.ones_like(result))
        torch.cuda.synchronize()
        assert result.shape == (4, 90, 24)


@gpu
def test_lengths_are_clamped() -> None:
    values, source, target = inputs("cuda")
    wild, tame = torch.tensor([0, -5, 51, 2**62], device="cuda"), torch.tensor([1, 1, 50, 50], device="cuda")
    results = [robocache.resample(values, source, target, source_lengths=x) for x in (wild, tame)]
    assert_same_bits(*results)


@gpu
def test_more_than_2_to_the_31_elements() -> None:
    if torch.cuda.mem_get_info()[0] < 16 << 30:
        pytest.skip("needs 16 GiB of free device memory")
    values = torch.zeros(1, 3, (1 << 30) + 1, dtype=torch.uint8, device="cuda")
    values[0, 2, -1] = 7
    times = torch.arange(3.0, device="cuda")
    result = robocache.resample(values, times, times, mode="previous")
    assert result[0, 2, -1] == 7 and torch.count_nonzero(result) == 1
    del values, result
    grad = torch.ones((), device="cuda").expand(1, 1 << 20, 2049)
    leaf = torch.zeros(1, 2, 2049, device="cuda", requires_grad=True)
    when = torch.zeros(1, 1 << 20, device="cuda")
    robocache.resample(leaf, torch.tensor([[0.0, 1.0]], device="cuda"), when).backward(grad)
    assert leaf.grad is not None and torch.equal(leaf.grad[0, 0], torch.full((2049,), 2.0**20, device="cuda"))


@gpu
def test_more_rows_than_a_launch_has_blocks() -> None:
    values = torch.arange(140_000.0, device="cuda").view(-1, 2, 1)
    times, middle = torch.tensor([0.0, 1.0], device="cuda"), torch.tensor([0.5], device="cuda")
    assert torch.equal(robocache.resample(values, times, middle)[:, 0, 0], values[:, 0, 0] + 0.5)
    narrow = torch.arange(2.0, device="cuda").view(1, 2, 1)
    many = torch.rand(1, 3_000_000, device="cuda")
    assert torch.equal(robocache.resample(narrow, times, many)[..., 0], many)


@pytest.mark.parametrize("low", [torch.bfloat16, torch.float16], ids=str)
def test_autocast_keeps_the_type_of_values(device: torch.device, low: torch.dtype) -> None:
    for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.float16):
        tensors = inputs(device, dtype)
        plain = [x.clone().requires_grad_() for x in tensors]
        cast = [x.clone().requires_grad_() for x in tensors]
        expected = robocache.resample(*plain)
        with torch.autocast(device.type, dtype=low):
            result = robocache.resample(*cast)
            lower = torch.nn.functional.linear(result.float(), torch.eye(24, device=device))
        assert lower.dtype == low, "autocast is on"
        assert_same_bits(result, expected)
        result.backward(torch.ones_like(result))
        expected.backward(torch.ones_like(expected))
        for a, b in zip(cast, plain, strict=True):
            assert_same_bits(a.grad, b.grad)
