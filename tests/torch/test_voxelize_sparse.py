"""`voxelize_sparse` against the reference, a scalar definition in NumPy and `voxelize`: rows, values and gradients."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import robocache
import torch
import voxelize_definition as definition
from cases import FLOATS, LAYOUTS, assert_same_bits, case_count, random_values
from robocache import SparseVoxels
from torch import Tensor
from voxelize_adversarial import SPARSE, Cloud
from voxelize_cases import BLENDS, PLAIN, REDUCTIONS, VoxelCase, random_voxel_case, wave

F32 = torch.float32
NAMES = [*SparseVoxels._fields, "gradient"]
GRID: tuple[list[float], list[float], list[int]] = ([0.0] * 3, [1.0], [4, 4, 4])


def arguments(case: VoxelCase, device: torch.device | str = "cpu") -> tuple[list[Any], dict[str, Any]]:
    positional, options = case.arguments(device)
    return positional, {**options, "capacity": case.capacity}


def answer(call: Callable[..., Any], positional: list[Any], options: dict[str, Any]) -> list[Tensor | None]:
    """The five results, and the gradient to the features where there is one."""
    points, features, *grid = positional
    if features is None or options["reduce"] in PLAIN:
        return [*call(points, features, *grid, **options), None]
    leaf = features.detach().requires_grad_()
    found = call(points, leaf, *grid, **options)
    (grad,) = torch.autograd.grad(found[1], leaf, wave(found[1]))
    return [*(x.detach() for x in found), grad]


def defined(positional: list[Any], options: dict[str, Any]) -> list[Tensor | None]:
    """What the scalar definition says of the same, on the CPU."""
    points, features, *grid = positional
    reduce, lengths, capacity = options["reduce"], options["lengths"], options["capacity"]
    single = points.dim() == 2
    points = points[None] if single else points
    features = features[None] if single and features is not None else features
    valid = [points.shape[1]] * points.shape[0] if lengths is None else lengths.tolist()
    found = list(definition.sparse(points, features, *grid, reduce=reduce, capacity=capacity, lengths=valid))
    grad = None
    if features is not None and reduce in BLENDS:
        rows = definition.voxels(points, *grid, valid)[: len(found[1])]
        grad = definition.gradient(wave(found[1])[: len(rows)], features, rows, reduce)
        grad = grad[0] if single else grad
    found[3] = found[3][0] if single else found[3]
    return [*found, grad]


def assert_same(found: list[Tensor | None], expected: list[Tensor | None], what: object) -> None:
    for name, a, b in zip(NAMES, found, expected, strict=True):
        assert_same_bits(a, b, f"{name} of {what}")


def everywhere(case: VoxelCase, device: torch.device) -> None:
    """Operator, reference and definition agree by bits."""
    found = answer(robocache.voxelize_sparse, *arguments(case, device))
    assert all(x.is_contiguous() and x.device.type == device.type for x in found[:5] if x is not None), str(case)
    expected = answer(robocache.reference.voxelize_sparse, *arguments(case))
    assert_same(found, expected, case)
    assert_same(expected, defined(*arguments(case)), f"the reference: {case}")


def test_random_cases_are_the_reference(device: torch.device, rng: np.random.Generator) -> None:
    for _ in range(case_count(300)):
        case = random_voxel_case(rng)
        found = answer(robocache.voxelize_sparse, *arguments(case, device))
        assert_same(found, answer(robocache.reference.voxelize_sparse, *arguments(case)), case)


def test_random_cases_are_the_definition(device: torch.device, rng: np.random.Generator) -> None:
    for _ in range(case_count(100)):
        everywhere(random_voxel_case(rng, most=60), device)


@pytest.mark.gpu
def test_the_reference_is_the_same_on_cuda(rng: np.random.Generator) -> None:
    for _ in range(case_count(60)):
        case = random_voxel_case(rng)
        found = answer(robocache.reference.voxelize_sparse, *arguments(case, "cuda"))
        assert_same(found, answer(robocache.reference.voxelize_sparse, *arguments(case)), case)


@pytest.mark.parametrize("reduce", REDUCTIONS)
@pytest.mark.parametrize("cloud", SPARSE.values(), ids=SPARSE)
def test_adversarial_clouds(device: torch.device, cloud: Callable[[], Cloud], reduce: str) -> None:
    points, features, grid, lengths = cloud()
    for capacity in (-1, 0, 1, 3, 400):
        everywhere(VoxelCase(points, features, *grid, reduce, lengths, capacity), device)
    everywhere(VoxelCase(points, None, *grid, reduce, lengths), device)


@pytest.mark.parametrize("feature_type", FLOATS, ids=str)
@pytest.mark.parametrize("point_type", FLOATS, ids=str)
def test_every_type(
    device: torch.device, point_type: torch.dtype, feature_type: torch.dtype, rng: np.random.Generator
) -> None:
    points = torch.from_numpy(rng.random((2, 40, 3)) * 4 - 1.5).to(point_type)
    features = random_values(rng, [2, 40, 3], feature_type, special=False)
    for reduce in REDUCTIONS:
        everywhere(VoxelCase(points, features, [-1.0, -1.0, 0.0], [0.7, 1.1, 0.3], [3, 2, 5], reduce), device)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout(device: torch.device, layout: str, rng: np.random.Generator) -> None:
    points = torch.from_numpy(rng.random((3, 30, 3))).to(F32)
    features = random_values(rng, [3, 30, 5], F32, special=False)
    for reduce in REDUCTIONS:
        everywhere(VoxelCase(points, features, [0.0] * 3, [0.4], [3, 3, 3], reduce, layouts=[layout, layout]), device)


def test_the_rows_are_those_of_the_dense_grid(device: torch.device, rng: np.random.Generator) -> None:
    for _ in range(case_count(60)):
        case = dataclasses.replace(random_voxel_case(rng, reductions=BLENDS), capacity=-1)
        positional, options = arguments(case, device)
        voxels = robocache.voxelize_sparse(*positional, **options)
        del options["capacity"]
        grid = robocache.voxelize(*positional, **options)
        options["reduce"] = "count"
        counts = robocache.voxelize(*positional, **options)
        if positional[0].dim() == 2:
            grid, counts = grid[None], counts[None]
        place = voxels.coords.long().unbind(1)
        rebuilt = torch.zeros_like(grid.movedim(1, -1)).index_put(place, voxels.values).movedim(-1, 1)
        assert_same_bits(rebuilt, grid, case)
        assert_same_bits(torch.zeros_like(counts).index_put(place, voxels.counts), counts, case)
        flat = torch.arange(counts.numel(), device=device).view(counts.shape)[place]
        assert (flat.diff() > 0).all(), "the rows ascend by (b, x, y, z)"


def test_points_find_their_rows(device: torch.device) -> None:
    points = torch.rand(3, 200, 3, device=device) * 5
    voxels = robocache.voxelize_sparse(points, None, *GRID)
    inside = (points < 4).all(dim=2)
    assert torch.equal(voxels.point_voxel >= 0, inside)
    batch, index = inside.nonzero().unbind(1)
    coords = torch.cat([batch[:, None], points[batch, index].long()], dim=1)
    assert torch.equal(voxels.coords[voxels.point_voxel[inside]].long(), coords)
    assert torch.equal(voxels.counts.long(), torch.bincount(voxels.point_voxel[inside]))
    assert voxels.num_voxels.tolist() == [len(voxels.coords)]


def test_no_order_of_the_points_matters(device: torch.device, rng: np.random.Generator) -> None:
    for dtype in FLOATS:
        points = torch.from_numpy(rng.random((2, 300, 3)) * 4.5).to(F32)
        features = random_values(rng, [2, 300, 3], dtype, special=True)
        for reduce in REDUCTIONS:
            for capacity in (-1, 20, 200):
                orders = [torch.from_numpy(rng.permutation(300)) for _ in range(3)]
                results = [
                    robocache.voxelize_sparse(
                        points[:, order].to(device), features[:, order].to(device), *GRID,
                        reduce=reduce, capacity=capacity,
                    )
                    for order in orders
                ]  # fmt: skip
                for order, found in zip(orders, results, strict=True):
                    for name in ("coords", "values", "counts", "num_voxels"):
                        assert_same_bits(getattr(found, name), getattr(results[0], name), f"{name} {dtype} {reduce}")
                    back, first = torch.argsort(order), torch.argsort(orders[0])
                    assert torch.equal(found.point_voxel.cpu()[:, back], results[0].point_voxel.cpu()[:, first])


# Capacity


def test_rows_past_the_capacity_are_dropped_in_order(device: torch.device) -> None:
    points = torch.tensor([[[3.5, 0, 0], [0.5, 0, 0], [2.5, 0, 0], [0.7, 0, 0]], [[0, 0, 1.0]] * 4], device=device)
    features = torch.tensor([[[1.0], [2.0], [3.0], [4.0]], [[5.0]] * 4], device=device, requires_grad=True)
    voxels = robocache.voxelize_sparse(points, features, *GRID, reduce="sum", capacity=2)
    assert voxels.coords.tolist() == [[0, 0, 0, 0], [0, 2, 0, 0]]
    assert voxels.values.tolist() == [[6.0], [3.0]] and voxels.counts.tolist() == [2, 1]
    assert voxels.point_voxel.tolist() == [[-1, 0, 1, 0], [-1] * 4]
    assert voxels.num_voxels.tolist() == [4], "those past the capacity are counted too"
    voxels.values.sum().backward()
    assert features.grad is not None and features.grad.flatten().tolist() == [0, 1, 1, 1, 0, 0, 0, 0]


def test_rows_that_are_not_used_are_marked(device: torch.device) -> None:
    points = torch.full((1, 3, 3), 0.5, device=device)
    features = torch.full((1, 3, 2), math.nan, device=device, requires_grad=True)
    voxels = robocache.voxelize_sparse(points, features, *GRID, reduce="max", capacity=3)
    assert voxels.coords.tolist() == [[0] * 4, [-1] * 4, [-1] * 4]
    assert voxels.counts.tolist() == [3, 0, 0] and voxels.values[1:].abs().sum() == 0
    voxels.values[1:].sum().backward()
    assert features.grad is not None and features.grad.abs().sum() == 0


def test_a_capacity_of_the_exact_size_changes_nothing(device: torch.device, rng: np.random.Generator) -> None:
    for _ in range(case_count(20)):
        case = random_voxel_case(rng)
        exact = answer(robocache.voxelize_sparse, *arguments(dataclasses.replace(case, capacity=-1), device))
        assert exact[4] is not None
        fixed = dataclasses.replace(case, capacity=int(exact[4]))
        assert_same(answer(robocache.voxelize_sparse, *arguments(fixed, device)), exact, case)


@pytest.mark.gpu
def test_a_fixed_capacity_never_waits() -> None:
    points, features = torch.rand(2, 500, 3, device="cuda") * 4, torch.randn(2, 500, 3, device="cuda")
    lengths = torch.tensor([500, 7], device="cuda")

    def step() -> None:
        leaf = features.detach().requires_grad_()
        voxels = robocache.voxelize_sparse(points, leaf, *GRID, reduce="max", capacity=200, lengths=lengths)
        voxels.values.sum().backward()

    step()  # kernels are loaded
    torch.cuda.set_sync_debug_mode("error")
    try:
        step()
    finally:
        torch.cuda.set_sync_debug_mode("default")


# Shapes and names


def test_it_is_a_named_tuple(device: torch.device) -> None:
    points = torch.rand(7, 3, device=device)
    voxels = robocache.voxelize_sparse(points, torch.rand(7, 2, device=device).half(), *GRID)
    assert isinstance(voxels, SparseVoxels) and isinstance(voxels, tuple)
    coords, values, counts, point_voxel, num_voxels = voxels
    assert (coords.shape, values.shape, counts.shape, point_voxel.shape) == ((1, 4), (1, 2), (1,), (7,))
    kinds = [coords.dtype, values.dtype, counts.dtype, point_voxel.dtype, num_voxels.dtype]
    assert kinds == [torch.int32, torch.float16, torch.int32, torch.int64, torch.int64]


@pytest.mark.parametrize("reduce", REDUCTIONS)
def test_values_without_columns(device: torch.device, reduce: str) -> None:
    points = torch.rand(2, 7, 3, device=device, dtype=torch.float64)
    bare = robocache.voxelize_sparse(points, None, *GRID, reduce=reduce)
    assert bare.values.shape == (2, 0) and bare.values.dtype == torch.float64
    if reduce in PLAIN:
        given = robocache.voxelize_sparse(points, torch.ones(2, 7, 3, device=device).half(), *GRID, reduce=reduce)
        assert given.values.shape == (2, 0) and given.values.dtype == torch.float16


def test_meta_and_fake_rows() -> None:
    points, features = torch.ones(2, 7, 3, device="meta"), torch.ones(2, 7, 5, device="meta", dtype=torch.float16)
    voxels = robocache.voxelize_sparse(points, features, *GRID, capacity=11)
    real = robocache.voxelize_sparse(torch.ones(2, 7, 3), torch.ones(2, 7, 5).half(), *GRID, capacity=11)
    for name, a, b in zip(SparseVoxels._fields, voxels, real, strict=True):
        assert (a.shape, a.dtype, a.stride()) == (b.shape, b.dtype, b.stride()), name


@pytest.mark.parametrize("reduce", BLENDS)
@pytest.mark.parametrize("capacity", [-1, 5, 30])
def test_gradcheck_of_the_reference(reduce: str, capacity: int) -> None:
    points = torch.rand(2, 12, 3, dtype=torch.float64) * 1.4 - 0.2
    features = (torch.randperm(48).view(2, 12, 2).double() / 7).requires_grad_()

    def call(values: Tensor) -> Tensor:
        grid = ([0.0] * 3, [0.5], [2, 2, 2])
        return robocache.reference.voxelize_sparse(points, values, *grid, reduce=reduce, capacity=capacity)[1]

    assert torch.autograd.gradcheck(call, (features,))
    assert torch.autograd.gradgradcheck(call, (features,))
