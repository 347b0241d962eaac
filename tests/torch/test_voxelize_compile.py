"""torch.compile of `voxelize` and `voxelize_sparse`: one graph over several shapes, with the bits of eager."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import robocache
import torch
from cases import FLOATS, assert_same_bits
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend
from torch.fx.experimental.proxy_tensor import make_fx
from voxelize_cases import BLENDS, CUBE, REDUCTIONS, cloud, same, wave

# B, N, C: the tracer takes equal sizes for one, so none of the first shape equals another, nor the points' 3.
SHAPES = [(2, 60, 7), (4, 17, 5), (3, 300, 8), (5, 31, 2)]
OPERATORS = torch.ops.robocache


@pytest.fixture(autouse=True)
def nothing_compiled() -> Iterator[None]:
    assert robocache.resample is not None  # the operators are there only once the library is
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


# The numbers stand in the code here: where they come from outside of it, dynamo starts anew once it knows that they are
# constant, and so counts the first graph twice (test_numbers_from_outside).
def dense(points: Tensor, features: Tensor | None, reduce: str, lengths: Tensor | None = None) -> Tensor:
    return OPERATORS.voxelize(
        points, features, [0.0, 0.0, 0.0], [0.25, 0.2, 0.5], [4, 5, 2], reduce=reduce, lengths=lengths
    )


def sparse(
    points: Tensor, features: Tensor | None, reduce: str, capacity: int = -1, lengths: Tensor | None = None
) -> tuple[Tensor, ...]:
    return OPERATORS.voxelize_sparse(
        points,
        features,
        [0.0, 0.0, 0.0],
        [0.25, 0.2, 0.5],
        [4, 5, 2],
        reduce=reduce,
        capacity=capacity,
        lengths=lengths,
    )


def answers(call: Callable[..., Any], points: Tensor, features: Tensor, *others: Tensor) -> list[Tensor | None]:
    """The results and the gradient to the features."""
    leaf = features.detach().clone().requires_grad_()
    results = call(points, leaf, *others)
    results = [results] if isinstance(results, Tensor) else list(results)
    wanted = [x for x in results if x.requires_grad]
    if wanted:
        torch.autograd.backward(wanted, [wave(x) for x in wanted])
    return [*(x.detach() for x in results), leaf.grad]


def counted(step: Callable[..., Any], backend: str, **options: Any) -> tuple[Any, CompileCounterWithBackend]:
    counter = CompileCounterWithBackend(backend)
    return torch.compile(step, fullgraph=True, backend=counter, **options), counter


def nodes(counter: CompileCounterWithBackend) -> list[str]:
    return [str(node.target) for graph in counter.graphs for node in graph.graph.nodes]


@pytest.mark.parametrize("ragged", [False, True], ids=["whole", "ragged"])
@pytest.mark.parametrize("reduce", REDUCTIONS)
def test_one_graph_for_every_shape(device: torch.device, reduce: str, ragged: bool) -> None:
    def step(points: Tensor, features: Tensor, lengths: Tensor) -> Tensor:
        return dense(points, features, reduce, lengths if ragged else None)

    compiled, counter = counted(step, "aot_eager", dynamic=True)
    for rows, points, channels in SHAPES:
        tensors = [*cloud(device, rows, points, channels), torch.randint(0, points + 1, (rows,), device=device)]
        same(answers(compiled, *tensors), answers(step, *tensors), (rows, points, channels, reduce))
    assert counter.frame_count == 1
    assert sum("robocache.voxelize" in each for each in nodes(counter)) == 1


@pytest.mark.parametrize("reduce", REDUCTIONS)
def test_one_graph_of_fixed_capacity(device: torch.device, reduce: str) -> None:
    def step(points: Tensor, features: Tensor, lengths: Tensor) -> tuple[Tensor, ...]:
        return sparse(points, features, reduce, 20, lengths)

    compiled, counter = counted(step, "aot_eager", dynamic=True)
    for rows, points, channels in SHAPES:
        tensors = [*cloud(device, rows, points, channels), torch.randint(0, points + 1, (rows,), device=device)]
        same(answers(compiled, *tensors), answers(step, *tensors), (rows, points, channels, reduce))
    assert counter.frame_count == 1


@pytest.mark.parametrize(("reduce", "backend"), [*((each, "aot_eager") for each in REDUCTIONS), ("mean", "inductor")])
def test_one_graph_of_exact_size(device: torch.device, reduce: str, backend: str) -> None:
    """The number of rows is known to a run only: what follows takes it as it comes."""

    def step(points: Tensor, features: Tensor) -> tuple[Tensor, ...]:
        coords, values, counts, *others = sparse(points, features, reduce)
        return coords[:, 1:] + 1, values * 2, values.relu() * counts.unsqueeze(1), *others

    with torch._dynamo.config.patch(capture_dynamic_output_shape_ops=True):
        compiled, counter = counted(step, backend, dynamic=True)
        for rows, points, channels in SHAPES:
            tensors = cloud(device, rows, points, channels)
            found: list[Tensor | None] = []
            expected: list[Tensor | None] = []
            for call, kept in ((compiled, found), (step, expected)):
                leaf = tensors[1].clone().requires_grad_()
                results = call(tensors[0], leaf)
                if results[1].requires_grad:
                    (results[1].sum() + results[2].sum()).backward()
                kept += [*(x.detach() for x in results), leaf.grad]
            same(found, expected, (rows, points, channels, reduce))
    assert counter.frame_count == 1


def test_exact_size_breaks_the_graph_without_that_option(device: torch.device) -> None:
    def step(points: Tensor, features: Tensor) -> tuple[Tensor, ...]:
        return sparse(points * 1.0, features, "mean")

    tensors = cloud(device)
    with torch._dynamo.config.patch(capture_dynamic_output_shape_ops=False):
        same([*torch.compile(step, backend="aot_eager")(*tensors)], [*step(*tensors)], "with a break")


@pytest.mark.parametrize("reduce", REDUCTIONS)
def test_static_shapes(device: torch.device, reduce: str) -> None:
    def step(points: Tensor, features: Tensor) -> tuple[Tensor, ...]:
        return dense(points, features, reduce), *sparse(points, features, reduce, 20)

    compiled, counter = counted(step, "aot_eager", dynamic=False)
    for _ in range(3):  # new numbers, the same graph
        tensors = cloud(device)
        same(answers(compiled, *tensors), answers(step, *tensors), reduce)
    assert counter.frame_count == 1


@pytest.mark.parametrize("reduce", ["occupancy", "max"])
def test_inductor(device: torch.device, reduce: str) -> None:
    def step(points: Tensor, features: Tensor) -> tuple[Tensor, ...]:
        grid = dense(points + 0.125, features * 2, reduce)
        _, values, *others = sparse(points - 0.125, features, "mean", 30)
        return grid.float() * 0.5, values.relu(), *others

    compiled, counter = counted(step, "inductor", dynamic=True)
    for rows, points, channels in SHAPES:
        tensors = cloud(device, rows, points, channels)
        same(answers(compiled, *tensors), answers(step, *tensors), (rows, points, channels))
    assert counter.frame_count == 1


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("reduce", BLENDS)
def test_types(device: torch.device, reduce: str, dtype: torch.dtype) -> None:
    def step(points: Tensor, features: Tensor) -> Tensor:
        return dense(points, features, reduce)

    compiled, _ = counted(step, "aot_eager", dynamic=True)
    for point_type in (dtype, torch.float32):
        tensors = cloud(device, dtype=dtype, point_type=point_type)
        same(answers(compiled, *tensors), answers(step, *tensors), (dtype, point_type))


def test_unbatched_and_without_features(device: torch.device) -> None:
    def step(points: Tensor) -> tuple[Tensor, ...]:
        return dense(points, None, "occupancy"), *sparse(points, None, "mean", 9)

    compiled, counter = counted(step, "aot_eager", dynamic=True)
    for count in (60, 17, 200):
        points = cloud(device, 1, count)[0][0]
        same([*compiled(points)], [*step(points)], count)
    assert counter.frame_count == 1


def test_numbers_from_outside(device: torch.device) -> None:
    """A grid that a module keeps as floats: no shape makes another graph."""
    origin, voxel_size, grid_size = CUBE

    def step(points: Tensor, features: Tensor) -> Tensor:
        return OPERATORS.voxelize(points, features, origin, voxel_size, grid_size, reduce="mean")

    compiled, counter = counted(step, "aot_eager", dynamic=True)
    frames = []
    for shape in SHAPES:
        tensors = cloud(device, *shape)
        assert_same_bits(compiled(*tensors), step(*tensors), shape)
        frames.append(counter.frame_count)
    assert frames[0] == frames[-1]


def test_layouts_of_the_inputs(device: torch.device) -> None:
    compiled, _ = counted(OPERATORS.voxelize, "aot_eager", dynamic=True)
    points, features = cloud(device, channels=6)
    for laid in (features.transpose(1, 2).contiguous().transpose(1, 2), features[:1].expand_as(features)):
        for place in (points, points.transpose(0, 2).contiguous().transpose(0, 2)):
            result = compiled(place, laid, *CUBE, reduce="mean")
            assert result.is_contiguous()
            assert_same_bits(result, OPERATORS.voxelize(place, laid, *CUBE, reduce="mean"))


def test_vmap(device: torch.device) -> None:
    """torch.func.vmap falls back to a loop over the batch, which gives the same bits."""
    points, features = cloud(device)

    def one(points: Tensor, features: Tensor) -> Tensor:
        return dense(points, features, "mean")

    assert_same_bits(torch.vmap(one)(points, features), one(points, features))


@pytest.mark.parametrize("reduce", BLENDS)
def test_second_derivatives_are_traced_as_operators(device: torch.device, reduce: str) -> None:
    def step(points: Tensor, features: Tensor) -> tuple[Tensor, ...]:
        cubes = dense(points, features, reduce).pow(3).sum() + sparse(points, features, reduce, 20)[1].pow(3).sum()
        (first,) = torch.autograd.grad(cubes, features, create_graph=True)
        return first, torch.autograd.grad(first.square().sum(), features)[0]

    points, features = cloud(device, *SHAPES[0])
    graph = make_fx(step, tracing_mode="symbolic")(points, features.requires_grad_())
    for name in ("voxelize", "voxelize_backward", "voxelize_sparse_values", "voxelize_sparse_backward"):
        assert f"robocache.{name}." in graph.code, name
    assert ("robocache.voxelize_tangent." in graph.code) == (reduce in ("max", "min"))
    for rows, count, channels in SHAPES:
        points, features = cloud(device, rows, count, channels)
        features.requires_grad_()
        for a, b in zip(graph(points, features), step(points, features), strict=True):
            assert_same_bits(a.detach(), b.detach(), (rows, count, channels))
