"""torch.compile: one graph over several shapes, and the bits of eager in values and gradients."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import robocache
import torch
from cases import assert_same_bits
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend
from torch.fx.experimental.proxy_tensor import make_fx

SHAPES = [(2, 9, 5, 3), (4, 17, 11, 6), (3, 40, 7, 2), (5, 8, 21, 9)]  # B, S, T, D
SAME_CHANNELS = [(rows, samples, targets, 4) for rows, samples, targets, _ in SHAPES]
CALLS = [
    {"mode": "linear"},
    {"mode": "linear", "outside": "extrapolate"},
    {"mode": "previous", "outside": "nan"},
    {"mode": "linear:1,next:1,linear:*", "outside": "zero"},
    {"mode": "angle"},
    {"mode": "pchip", "outside": "zero"},
    {"mode": "slerp:4", "outside": "nan"},
]


@pytest.fixture(autouse=True)
def nothing_compiled() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def inputs(shape: tuple[int, int, int, int], device: torch.device, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    rows, samples, targets, channels = shape
    return [
        torch.randn(rows, samples, channels, device=device).to(dtype),
        torch.rand(rows, samples, device=device).cumsum(1),
        torch.rand(rows, targets, device=device) * samples / 2,
    ]


def answers(call: Callable[..., Tensor], tensors: list[Tensor], **options: Any) -> list[Tensor | None]:
    """The result and the gradients."""
    leaves = [x.detach().clone().requires_grad_() for x in tensors]
    result = call(*leaves, **options)
    result.backward(torch.linspace(-1, 1, result.numel(), device=result.device).view_as(result).to(result.dtype))
    return [result.detach(), *(x.grad for x in leaves)]


def compare(compiled: Callable[..., Tensor], tensors: list[Tensor], **options: Any) -> None:
    found, expected = answers(compiled, tensors, **options), answers(robocache.resample, tensors, **options)
    for name, a, b in zip(("result", "values", "source_times", "target_times"), found, expected, strict=True):
        if b is None or not b.any():
            assert a is None or not a.any(), name  # a gradient of zeros may be given as none at all
        else:
            assert_same_bits(a, b, f"{name} {options}")


@pytest.mark.parametrize("options", CALLS, ids=str)
def test_one_graph_for_every_shape(device: torch.device, options: dict[str, Any]) -> None:
    counter = CompileCounterWithBackend("aot_eager")

    def step(values: Tensor, source_times: Tensor, target_times: Tensor) -> Tensor:
        return robocache.resample(values, source_times, target_times, **options)

    compiled = torch.compile(step, fullgraph=True, dynamic=True, backend=counter)
    # A mode with widths fixes the number of channels, so its graph is one for each number of them.
    for shape in SAME_CHANNELS if ":" in options["mode"] else SHAPES:
        found = answers(compiled, tensors := inputs(shape, device))
        for a, b in zip(found, answers(step, tensors), strict=True):
            if b is None or not b.any():
                assert a is None or not a.any()
            else:
                assert_same_bits(a, b, f"{shape} {options}")
    assert counter.frame_count == 1
    operators = [str(node.target) for graph in counter.graphs for node in graph.graph.nodes]
    assert sum("robocache.resample" in each for each in operators) == 1


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16], ids=str)
def test_other_types(device: torch.device, dtype: torch.dtype) -> None:
    compiled = torch.compile(robocache.resample, fullgraph=True, dynamic=True, backend="aot_eager")
    compare(compiled, inputs(SHAPES[0], device, dtype))


def test_ragged_rows_and_int64_times(device: torch.device) -> None:
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(robocache.resample, fullgraph=True, dynamic=True, backend=counter)
    for shape in SHAPES:
        values, source, target = inputs(shape, device)
        ticks = [(x * 1e9).to(torch.int64) for x in (source, target)]
        lengths = torch.randint(1, shape[1], (shape[0],), device=device)
        leaf, other = values.clone().requires_grad_(), values.clone().requires_grad_()
        result = compiled(leaf, *ticks, source_lengths=lengths)
        expected = robocache.resample(other, *ticks, source_lengths=lengths)
        result.sum().backward()
        expected.sum().backward()
        assert_same_bits(result, expected)
        assert_same_bits(leaf.grad, other.grad)
    assert counter.frame_count == 1


def test_module_in_a_model(device: torch.device) -> None:
    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.resample = robocache.nn.Resample(outside="extrapolate")
            self.bias = torch.nn.Parameter(torch.ones(()))

        def forward(self, values: Tensor, source_times: Tensor, target_times: Tensor) -> Tensor:
            return self.resample(values, source_times, target_times) * self.bias

    model = Model().to(device)
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(model, fullgraph=True, dynamic=True, backend=counter)
    for shape in SHAPES:
        tensors = inputs(shape, device)
        assert_same_bits(compiled(*tensors), model(*tensors))
    assert counter.frame_count == 1


def test_inductor(device: torch.device) -> None:
    counter = CompileCounterWithBackend("inductor")

    def step(values: Tensor, source_times: Tensor, target_times: Tensor) -> Tensor:
        return robocache.resample(values + 1, source_times, target_times).relu()

    compiled = torch.compile(step, fullgraph=True, dynamic=True, backend=counter)
    for shape in SHAPES:
        tensors = inputs(shape, device)
        for a, b in zip(answers(compiled, tensors), answers(step, tensors), strict=True):
            assert_same_bits(a, b, shape)
    assert counter.frame_count == 1


def test_layouts_of_the_inputs(device: torch.device) -> None:
    compiled = torch.compile(robocache.resample, fullgraph=True, dynamic=True, backend="aot_eager")
    values, source, target = inputs(SHAPES[1], device)
    for laid in (values.transpose(1, 2).contiguous().transpose(1, 2), values[:1].expand_as(values), values[..., ::2]):
        result = compiled(laid, source, target)
        assert result.is_contiguous()
        assert_same_bits(result, robocache.resample(laid, source, target))


def test_no_recompilation_for_new_times(device: torch.device) -> None:
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(robocache.resample, fullgraph=True, backend=counter)
    for _ in range(3):
        tensors = inputs(SHAPES[0], device)
        assert_same_bits(compiled(*tensors), robocache.resample(*tensors))
    assert counter.frame_count == 1


def test_vmap(device: torch.device) -> None:
    """torch.func.vmap falls back to a loop over the batch, which gives the same bits."""
    values, source, target = inputs(SHAPES[0], device)
    assert_same_bits(torch.vmap(robocache.resample)(values, source, target), robocache.resample(values, source, target))


def streams(shape: tuple[int, int, int, int], device: torch.device) -> list[Tensor]:
    """Values and times of three streams, then the targets."""
    rows, samples, targets, _ = shape
    # Widths that no other size equals: torch.compile takes equal sizes for one, and a mode in groups fixes the widths.
    counts, widths = (samples, samples + 3, 2 * samples), (3, 4, 6)
    values = [torch.randn(rows, count, width, device=device) for count, width in zip(counts, widths, strict=True)]
    times = [torch.rand(rows, count, device=device).cumsum(1) for count in counts]
    return [*values, *times, torch.rand(rows, targets, device=device) * samples / 2]


def fused(a: Tensor, b: Tensor, c: Tensor, ta: Tensor, tb: Tensor, tc: Tensor, target: Tensor) -> Tensor:
    return robocache.fuse([a, b, c], [ta, tb, tc], target, mode="linear:3,slerp:4,pchip:1,linear:*").relu()


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_fuse_in_one_graph_for_every_shape(device: torch.device, backend: str) -> None:
    counter = CompileCounterWithBackend(backend)
    compiled = torch.compile(fused, fullgraph=True, dynamic=True, backend=counter)
    for shape in SHAPES:
        tensors = streams(shape, device)
        for a, b in zip(answers(compiled, tensors), answers(fused, tensors), strict=True):
            assert_same_bits(a, b, shape)
    assert counter.frame_count == 1
    operators = [str(node.target) for graph in counter.graphs for node in graph.graph.nodes]
    assert sum("robocache.fuse" in each for each in operators) == 1


@pytest.mark.parametrize("gap", [None, 0.5, 3])
def test_mask_in_one_graph_for_every_shape(device: torch.device, gap: float | int | None) -> None:
    counter = CompileCounterWithBackend("aot_eager")

    def step(values: Tensor, source_times: Tensor, target_times: Tensor) -> Tensor:
        mask = robocache.resample_mask(source_times, target_times, max_gap=gap)
        return robocache.resample(values, source_times, target_times) * mask.unsqueeze(-1)

    compiled = torch.compile(step, fullgraph=True, dynamic=True, backend=counter)
    frames = []
    for shape in SAME_CHANNELS:
        tensors = inputs(shape, device)
        assert_same_bits(compiled(*tensors), step(*tensors), shape)
        frames.append(counter.frame_count)
    assert frames[0] == frames[-1]  # the first is 2 for a float: dynamo starts anew once it is known to be constant


@pytest.mark.parametrize(("mode", "operator"), [("slerp", "resample_curvature"), ("pchip", "resample_curvature")])
def test_second_derivatives_are_traced_as_operators(device: torch.device, mode: str, operator: str) -> None:
    def step(values: Tensor, source_times: Tensor, target_times: Tensor) -> Tensor:
        result = robocache.resample(values, source_times, target_times, mode=mode)
        (first,) = torch.autograd.grad(result.square().sum(), values, create_graph=True)
        (second,) = torch.autograd.grad(first.square().sum(), values)
        return second

    values, source, target = inputs(SAME_CHANNELS[0], device)
    values.requires_grad_()
    graph = make_fx(step, tracing_mode="symbolic")(values, source, target)
    assert f"robocache.{operator}" in graph.code
    for shape in SAME_CHANNELS:
        values, source, target = inputs(shape, device)
        values.requires_grad_()
        assert_same_bits(graph(values, source, target).detach(), step(values, source, target))
