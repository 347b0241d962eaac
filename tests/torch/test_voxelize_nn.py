"""`nn.Voxelize` and `voxelize_pointcloud`: the operator under other names, scripted, compiled and exported."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import robocache
import torch
from cases import assert_same_bits
from robocache.nn import Voxelize
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend
from torch.export import Dim, export
from voxelize_cases import BLENDS, REDUCTIONS

BOX: dict[str, Any] = {"origin": [-1.0, -1.0, 0.0], "voxel_size": [0.5, 0.25, 1.0], "grid_size": [4, 8, 2]}
SHAPES = [(2, 50), (3, 200), (5, 9)]


@pytest.fixture(autouse=True)
def nothing_compiled() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def inputs(shape: tuple[int, int], device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Points in and around the box, features and lengths."""
    batch, count = shape
    points = torch.rand(batch, count, 3, device=device) * 2.4 - 1.2
    return points, torch.randn(batch, count, 7, device=device), torch.randint(0, count + 1, (batch,), device=device)


def expected(tensors: tuple[Tensor, Tensor, Tensor], reduce: str) -> Tensor:
    points, features, lengths = tensors
    return robocache.voxelize(points, features, **BOX, reduce=reduce, lengths=lengths)


def test_it_prints_itself() -> None:
    assert repr(Voxelize(**BOX, reduce="max")) == (
        "Voxelize(origin=[-1.0, -1.0, 0.0], voxel_size=[0.5, 0.25, 1.0], grid_size=[4, 8, 2], reduce='max')"
    )
    module = Voxelize((0, 0, 0), 1, (2, 2, 2))
    assert repr(module) == (
        "Voxelize(origin=[0.0, 0.0, 0.0], voxel_size=[1.0], grid_size=[2, 2, 2], reduce='occupancy')"
    )
    assert not list(module.parameters()) and not module.state_dict()


@pytest.mark.parametrize("reduce", REDUCTIONS)
def test_it_is_the_operator(device: torch.device, reduce: str) -> None:
    module = Voxelize(**BOX, reduce=reduce)
    for shape in SHAPES:
        tensors = inputs(shape, device)
        assert_same_bits(module(*tensors), expected(tensors, reduce))
        points, features, _ = tensors
        assert_same_bits(module(points[0], features[0]), module(points[:1], features[:1])[0])
    if reduce not in BLENDS:
        assert_same_bits(module(points), module(points, features))


def test_wrong_arguments_are_refused_as_by_the_operator() -> None:
    points = torch.zeros(1, 5, 3)
    for changed, text in (
        ({"reduce": "avg"}, 'reduce must be "occupancy", "count", "sum", "mean", "max" or "min", got "avg"'),
        ({"voxel_size": 0}, "voxel_size must be positive and finite in float32, got 0.0 at axis 0"),
        ({"grid_size": (4, 4)}, "grid_size must have 3 numbers, got 2"),
        ({"reduce": "mean"}, 'features must be given where reduce is "mean", got none'),
    ):
        with pytest.raises(ValueError) as caught:
            Voxelize(**{**BOX, **changed})(points)
        assert str(caught.value) == f"voxelize: {text}"


@pytest.mark.parametrize("reduce", REDUCTIONS)
def test_scripted_saved_and_loaded(device: torch.device, reduce: str, tmp_path: Path) -> None:
    torch.jit.script(Voxelize(**BOX, reduce=reduce)).save(str(tmp_path / "grid.pt"))
    loaded = torch.jit.load(str(tmp_path / "grid.pt"))
    for shape in SHAPES:
        tensors = inputs(shape, device)
        for _ in range(2):
            assert_same_bits(loaded(*tensors), expected(tensors, reduce))
    if reduce not in BLENDS:
        assert_same_bits(loaded(tensors[0]), robocache.voxelize(tensors[0], None, **BOX, reduce=reduce))
    assert "robocache::voxelize" in str(loaded.inlined_graph)


def test_scripted_errors() -> None:
    with pytest.raises(RuntimeError, match='voxelize: features must be given where reduce is "sum", got none'):
        torch.jit.script(Voxelize(**BOX, reduce="sum"))(torch.zeros(1, 5, 3))


@pytest.mark.parametrize("reduce", ["occupancy", "mean", "max"])
def test_compiled_to_one_graph(device: torch.device, reduce: str) -> None:
    module = Voxelize(**BOX, reduce=reduce)
    counter = CompileCounterWithBackend("aot_eager")
    compiled, frames = torch.compile(module, fullgraph=True, dynamic=True, backend=counter), 0
    for shape in SHAPES:
        points, features, lengths = inputs(shape, device)
        results = []
        for call in (compiled, module):
            leaf = features.clone().requires_grad_()
            result = call(points, leaf, lengths)
            if reduce in BLENDS:
                result.square().sum().backward()
            results.append((result.detach(), leaf.grad))
        for a, b in zip(*results, strict=True):
            assert_same_bits(a, b, shape)
        # Dynamo takes the module's floats for inputs, sees that the operator wants constants, and starts anew, once.
        frames = counter.frame_count if shape == SHAPES[0] else frames
        assert counter.frame_count == frames <= 2
    operators = [str(node.target) for node in counter.graphs[-1].graph.nodes]
    assert sum("robocache.voxelize" in each for each in operators) == 1


@pytest.mark.parametrize("strict", [True, False], ids=["strict", "non-strict"])
def test_exported_with_dynamic_shapes(device: torch.device, strict: bool) -> None:
    module = Voxelize(**BOX, reduce="sum")
    batch, count = Dim("batch", max=4096), Dim("count", max=1 << 20)
    shapes = {"points": {0: batch, 1: count}, "features": {0: batch, 1: count}, "lengths": {0: batch}}
    program = export(module, inputs(SHAPES[0], device), dynamic_shapes=shapes, strict=strict)
    targets = [str(node.target) for node in program.graph.nodes if node.op == "call_function"]
    assert targets.count("robocache.voxelize.default") == 1
    for shape in SHAPES:
        tensors = inputs(shape, device)
        assert_same_bits(program.module()(*tensors), expected(tensors, "sum"), shape)


def test_a_convolution_takes_its_result(device: torch.device) -> None:
    net = torch.nn.Sequential(torch.nn.Conv3d(7, 4, 3, padding=1), torch.nn.ReLU()).to(device)
    points, features, lengths = inputs(SHAPES[0], device)
    leaf = features.requires_grad_()
    net(Voxelize(**BOX, reduce="mean")(points, leaf, lengths)).sum().backward()
    assert leaf.grad is not None and leaf.grad.isfinite().all() and leaf.grad.abs().sum() > 0


@pytest.mark.parametrize("capacity", [-1, 64])
def test_sparse_rows_leave_an_exported_program_with_their_names(device: torch.device, capacity: int) -> None:
    class Rows(torch.nn.Module):
        def forward(self, points: Tensor, features: Tensor, lengths: Tensor) -> robocache.SparseVoxels:
            return robocache.voxelize_sparse(points, features, **BOX, capacity=capacity, lengths=lengths)

    tensors, file = inputs(SHAPES[0], device), io.BytesIO()
    torch.export.save(export(Rows(), tensors), file)
    file.seek(0)
    found = torch.export.load(file).module()(*tensors)
    assert isinstance(found, robocache.SparseVoxels)
    for name, a, b in zip(found._fields, found, Rows()(*tensors), strict=True):
        assert_same_bits(a, b, name)


# The first name


def test_the_first_name_is_the_operator(device: torch.device) -> None:
    points, features, _ = inputs(SHAPES[1], device)
    for reduce in REDUCTIONS:
        found = robocache.voxelize_pointcloud(
            points,
            features,
            grid_min=BOX["origin"],
            voxel_size=BOX["voxel_size"],
            grid_size=BOX["grid_size"],
            mode=reduce,
        )
        assert_same_bits(found, robocache.voxelize(points, features, **BOX, reduce=reduce))
    cube = robocache.voxelize_pointcloud(points, None, (-1, -1, -1), 0.5, (4, 4, 4), "count")
    assert_same_bits(cube, robocache.voxelize(points, None, [-1] * 3, [0.5], [4, 4, 4], reduce="count"))
    assert_same_bits(robocache.voxelize_pointcloud(points, None, [-1] * 3, [0.5], [4, 4, 4], "count"), cube)


def test_the_first_names_default_grid(device: torch.device) -> None:
    corners = torch.tensor([[-10.0, -10.0, -10.0], [9.99, 9.99, 9.99], [10.0, 0.0, 0.0]], device=device)
    grid = robocache.voxelize_pointcloud(corners)
    assert grid.shape == (128, 128, 128) and grid.dtype == torch.bool
    assert grid.nonzero().tolist() == [[0, 0, 0], [127, 127, 127]]


def test_what_the_first_name_got_wrong(device: torch.device) -> None:
    # It swapped axes, cut negative coordinates towards zero, began maxima at 0 and counted NaN in voxel 0.
    points = torch.tensor([[[-0.5, 0.5, 1.5], [float("nan"), 0.0, 0.0]]], device=device)
    features = torch.tensor([[[-3.0], [9.0]]], device=device)
    found = robocache.voxelize_pointcloud(points, features, (-1, 0, 0), 1.0, (2, 3, 4), mode="max")
    assert found.shape == (1, 1, 2, 3, 4) and found[0, 0, 0, 0, 1] == -3 and found.sum() == -3
