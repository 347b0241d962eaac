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


STREAMS = ((50, 24), (120, 7), (9, 3))  # samples and channels of three streams
FUSED = "linear:24,linear:3,slerp:4,pchip:2,angle:1"


def fuse_inputs() -> list[Tensor]:
    """Values, then times, of three streams, and the targets."""
    values = [torch.randn(4, samples, width, device="cuda") for samples, width in STREAMS]
    times = [torch.rand(4, samples, device="cuda").cumsum(1) for samples, _ in STREAMS]
    return [*values, *times, torch.rand(4, 90, device="cuda") * 30 - 1]


def fuse_forward_and_backward(leaves: list[Tensor], grad: Tensor) -> list[Tensor]:
    result = robocache.fuse(leaves[:3], leaves[3:6], leaves[6], mode=FUSED)
    return [result, *torch.autograd.grad(result, leaves, grad)]


@gpu
def test_graph_capture_and_replay_of_fuse() -> None:
    leaves = [x.requires_grad_() for x in fuse_inputs()]
    grad = torch.randn(4, 90, 34, device="cuda")
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        fuse_forward_and_backward(leaves, grad)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = fuse_forward_and_backward(leaves, grad)
    for _ in range(3):
        fresh = fuse_inputs()
        with torch.no_grad():
            for leaf, new in zip(leaves, fresh, strict=True):
                leaf.copy_(new)
            grad.copy_(torch.randn(4, 90, 34, device="cuda"))
        graph.replay()
        expected = fuse_forward_and_backward([x.clone().requires_grad_() for x in fresh], grad.clone())
        for a, b in zip(captured, expected, strict=True):
            assert_same_bits(a, b)


@gpu
@pytest.mark.parametrize("mode", ["angle", "slerp", "pchip"])
def test_graph_capture_and_replay_of_second_derivatives(mode: str) -> None:
    def second(values: Tensor, source: Tensor, target: Tensor) -> list[Tensor]:
        result = robocache.resample(values, source, target, mode=mode)
        (first,) = torch.autograd.grad(result.square().sum(), values, create_graph=True)
        return [result, first, *torch.autograd.grad(first.square().sum(), values)]

    values, source, target = inputs("cuda")
    values.requires_grad_()
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        second(values, source, target)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = second(values, source, target)
    with torch.no_grad():
        values.copy_(torch.randn_like(values))
    graph.replay()
    for a, b in zip(captured, second(values.detach().clone().requires_grad_(), source, target), strict=True):
        assert_same_bits(a, b)


@gpu
def test_graph_capture_and_replay_of_a_mask() -> None:
    _, source, target = inputs("cuda")
    lengths = torch.full((4,), 50, device="cuda")
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        mask = robocache.resample_mask(source, target, max_gap=0.5, source_lengths=lengths)
    for length in (50, 20, 1):
        lengths.fill_(length)
        source.copy_(torch.rand(4, 50, device="cuda").cumsum(1))
        graph.replay()
        assert torch.equal(mask, robocache.resample_mask(source, target, max_gap=0.5, source_lengths=lengths))


@gpu
@pytest.mark.parametrize(("streams", "launches"), [(1, 1), (3, 1), (16, 1), (17, 2), (40, 3)])
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_fuse_launches_once_for_16_streams(streams: int, launches: int, dtype: torch.dtype) -> None:
    values = [torch.randn(8, 20 + each, 4 + 4 * (each % 3), device="cuda").to(dtype) for each in range(streams)]
    times = [torch.rand(8, x.shape[1], device="cuda").cumsum(1) for x in values]
    target = torch.rand(8, 100, device="cuda") * 20
    for mode in ("linear", "slerp", "angle", "pchip", "previous"):
        robocache.fuse(values, times, target, mode=mode)
        torch.cuda.synchronize()
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
            robocache.fuse(values, times, target, mode=mode)
            torch.cuda.synchronize()
        kernels = [each.name for each in profile.events() if each.device_type == torch.autograd.DeviceType.CUDA]
        assert len(kernels) == launches, (mode, kernels)


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
    streams, mixed = [x.requires_grad_() for x in fuse_inputs()], torch.randn(4, 90, 34, device="cuda")
    ragged = lengths.unsqueeze(1).expand(4, 3).clamp(max=9)

    def every_operator() -> None:
        torch.autograd.grad(robocache.resample(*leaves, source_lengths=lengths), leaves, grad)
        robocache.resample_mask(*leaves[1:], max_gap=1.0, source_lengths=lengths)
        fuse_forward_and_backward(streams, mixed)
        robocache.fuse(streams[:3], streams[3:6], streams[6], source_lengths=ragged)

    every_operator()  # the driver waits while it loads a kernel, at its first launch
    done = torch.cuda.Event()
    torch.cuda._sleep(1_000_000_000)
    every_operator()
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
        for mode in ("slerp", "pchip", "angle"):
            curve = robocache.resample(leaves[0], source, target, mode=mode, source_lengths=lengths)
            (first,) = torch.autograd.grad(curve.sum(), leaves[0], create_graph=True)
            if first.requires_grad:
                first.sum().backward()
        robocache.resample_mask(source, target, max_gap=1.0, source_lengths=lengths)
        columns = None if lengths is None else torch.stack([lengths, lengths.flip(0)], dim=1)
        both = robocache.fuse([values, values], [source, source], target, source_lengths=columns)
        torch.cuda.synchronize()
        assert result.shape == (4, 90, 24) and both.shape == (4, 90, 48)


@gpu
def test_lengths_are_clamped() -> None:
    values, source, target = inputs("cuda")
    wild, tame = torch.tensor([0, -5, 51, 2**62], device="cuda"), torch.tensor([1, 1, 50, 50], device="cuda")
    results = [robocache.resample(values, source, target, source_lengths=x) for x in (wild, tame)]
    assert_same_bits(*results)
    masks = [robocache.resample_mask(source, target, source_lengths=x) for x in (wild, tame)]
    assert torch.equal(*masks)
    fused = [robocache.fuse([values], [source], target, source_lengths=x.unsqueeze(1)) for x in (wild, tame)]
    assert_same_bits(fused[0], results[0])
    assert_same_bits(*fused)


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
