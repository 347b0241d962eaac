"""What `voxelize` and `voxelize_sparse` allocate: the results and the planned workspace, to the byte, and no more."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import robocache
import torch
from cases import FLOATS
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from voxelize_cases import BLENDS, PLAIN, REDUCTIONS, cloud

OPERATORS = torch.ops.robocache
SHAPES = [(1, 1, 1), (2, 400, 3), (3, 1001, 8)]  # B, N, C
GRID: tuple[list[float], list[float], list[int]] = ([0.0] * 3, [0.1], [10, 11, 12])
BLOCK, REST = 512, 1 << 20  # CUDA's allocator gives multiples of the one, and of large blocks splits off no less


@pytest.fixture(autouse=True)
def loaded() -> None:
    """The operators are there only once the library is."""
    assert robocache.resample is not None


def allocated(call: Callable[[], Any], device: torch.device) -> list[int]:
    """The bytes of each allocation of a call, those of nothing left out; on CUDA their number and their sum."""
    call()  # what is made once for a process
    if device.type == "cpu":
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
            kept = call()
        sizes = [x.self_cpu_memory_usage for x in seen.events() if x.name.startswith("aten::empty")]
        del kept
        return sorted(size for size in sizes if size > 0)
    torch.cuda.synchronize()
    # What was asked for: the allocator gives more, and how much more depends on the blocks that it has.
    names = ("allocation.all.allocated", "requested_bytes.all.allocated")
    before = torch.cuda.memory_stats()
    kept = call()
    after = torch.cuda.memory_stats()
    del kept
    return [after[name] - before[name] for name in names]


def agree(found: list[int], expected: list[int], device: torch.device, what: object) -> None:
    expected = sorted(size for size in expected if size > 0)
    assert found == (expected if device.type == "cpu" else [len(expected), sum(expected)]), what


def size_of(*tensors: Tensor) -> list[int]:
    return [x.numel() * x.element_size() for x in tensors]


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("reduce", REDUCTIONS)
def test_dense(device: torch.device, reduce: str, dtype: torch.dtype) -> None:
    cuda = device.type == "cuda"
    for batch, count, channels in SHAPES:
        points, features = cloud(device, batch, count, channels, dtype)
        given = None if reduce in PLAIN else features
        result = OPERATORS.voxelize(points, given, *GRID, reduce=reduce)
        plan = OPERATORS._voxelize_workspace(batch, count, GRID[2], reduce, False, cuda)
        found = allocated(lambda: OPERATORS.voxelize(points, given, *GRID, reduce=reduce), device)  # noqa: B023
        agree(found, [*size_of(result), plan], device, (reduce, batch, count, channels))
        if reduce in PLAIN:
            continue
        plan = OPERATORS._voxelize_workspace(batch, count, GRID[2], reduce, True, cuda)

        def backward(grad: Tensor = result, own: Tensor = features, where: Tensor = points) -> Tensor:
            return OPERATORS.voxelize_backward(grad, where, own, *GRID, reduce=reduce)

        agree(allocated(backward, device), [*size_of(features), plan], device, (reduce, batch, count, channels))


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_counted(device: torch.device, dtype: torch.dtype) -> None:
    cuda = device.type == "cuda"
    for batch, count, channels in (*SHAPES, (1, 90_000, 5)):
        points, features = cloud(device, batch, count, channels, dtype)
        means, *found = OPERATORS.voxelize_counted(points, features, *GRID)
        plan = OPERATORS._voxelize_workspace(batch, count, GRID[2], "mean", False, cuda)
        bytes_found = allocated(lambda: OPERATORS.voxelize_counted(points, features, *GRID), device)  # noqa: B023
        agree(bytes_found, [*size_of(means, *found), plan], device, (batch, count, channels))
        item = features.element_size()
        plan = OPERATORS._voxelize_counted_workspace(batch, count, channels, GRID[2], item, cuda)
        assert (plan > 0) == (cuda and count == 90_000)

        def backward(grad: Tensor = means, where: Tensor = points, known: list[Tensor] = found) -> Tensor:
            counts, voxels = known
            return OPERATORS.voxelize_backward(
                grad, where, None, *GRID, reduce="mean", counts=counts, point_voxel=voxels
            )

        agree(allocated(backward, device), [*size_of(features), plan], device, (batch, count, channels))

        # Nor does autograd make gradients of what has none.
        leaf = features.detach().requires_grad_()
        recorded = OPERATORS.voxelize_counted(points, leaf, *GRID)[0]

        def gradient(result: Tensor = recorded, own: Tensor = leaf, grad: Tensor = means) -> Tensor:
            return torch.autograd.grad(result, own, grad, retain_graph=True)[0]

        agree(allocated(gradient, device), [*size_of(features), plan], device, (batch, count, channels))


@pytest.mark.parametrize("capacity", [-1, 0, 50])
@pytest.mark.parametrize("reduce", BLENDS)
def test_sparse(device: torch.device, reduce: str, capacity: int) -> None:
    for batch, count, channels in SHAPES:
        points, features = cloud(device, batch, count, channels)

        def call(place: Tensor = points, own: Tensor = features) -> tuple[Tensor, ...]:
            return OPERATORS.voxelize_sparse(place, own, *GRID, reduce=reduce, capacity=capacity)

        results = call()
        # Besides the results: the order of the points, where each row begins in it, and the plan.
        order, starts = 4 * batch * count, 4 * len(results[0])
        plan = OPERATORS._voxelize_sparse_workspace(batch, count, GRID[2], device.type == "cuda")
        expected = [*size_of(*results), order, starts, plan]
        agree(allocated(call, device), expected, device, (reduce, capacity, batch, count))


def test_the_memory_of_rows_does_not_grow_with_the_grid(device: torch.device) -> None:
    points, features = cloud(device)
    found = []
    # On CUDA grids of at most 2^24 voxels are sorted otherwise, and those of less than 2^32 by smaller keys.
    cuda = device.type == "cuda"
    edges = (1 << 11, 1 << 16, 1 << 21) if cuda else (8, 1 << 10, 1 << 21)
    for edge in edges:
        size = [1.0 / edge]
        # All in one voxel of any grid, so that there are as many rows.
        place = points * 0.1 / edge
        found.append(
            allocated(lambda: OPERATORS.voxelize_sparse(place, features, [0.0] * 3, size, [edge] * 3), device)  # noqa: B023
        )
    assert sorted(found[0]) == sorted(found[1]) == sorted(found[2])
    plans = [OPERATORS._voxelize_sparse_workspace(2, 400, [edge] * 3, cuda) for edge in edges[::2]]
    assert plans[0] == plans[1]


def test_plans_grow_with_the_points() -> None:
    for cuda in (False, True):
        plans = [OPERATORS._voxelize_sparse_workspace(1, count, [1 << 21] * 3, cuda) for count in (10**5, 2 * 10**5)]
        assert plans[0] < plans[1] < 2.1 * plans[0]
        for reduce in PLAIN:
            assert OPERATORS._voxelize_workspace(4, 1000, [64] * 3, reduce, False, cuda) == 0
        assert OPERATORS._voxelize_workspace(0, 1000, [64] * 3, "mean", False, cuda) == 0

    def gradient(batch: int, cuda: bool) -> int:
        return int(OPERATORS._voxelize_workspace(batch, 1000, [1 << 20, 1 << 21, 1 << 21], "mean", True, cuda))

    # On the CPU clouds take turns, and the grid's size does not matter.
    assert gradient(1 << 20, cuda=False) == gradient(1, cuda=False) < 1 << 16
    with pytest.raises(ValueError, match="grid_size must be small enough to plan memory for"):
        gradient(1 << 20, cuda=True)


@pytest.mark.gpu
@pytest.mark.parametrize("reduce", REDUCTIONS)
def test_the_peak_is_the_results_and_the_plan(reduce: str) -> None:
    batch, count, channels = 2, 50_000, 8
    points, features = cloud("cuda", batch, count, channels)
    given = features if reduce in BLENDS else None
    grid = ([0.0] * 3, [1 / 32], [32, 32, 32])

    def peak(call: Callable[[], Any], needed: list[int]) -> None:
        call()
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_stats()
        kept = call()
        after = torch.cuda.memory_stats()
        del kept
        needed = [size for size in needed if size > 0]
        # What was asked for, to the byte; what the allocator took for it, up to its rounding.
        assert after["requested_bytes.all.peak"] - before["requested_bytes.all.current"] == sum(needed)
        rest = sum(REST if size > REST else BLOCK for size in needed)
        taken = torch.cuda.max_memory_allocated() - before["allocated_bytes.all.current"]
        assert sum(needed) <= taken <= sum(needed) + rest

    result = OPERATORS.voxelize(points, given, *grid, reduce=reduce)
    plan = OPERATORS._voxelize_workspace(batch, count, grid[2], reduce, False, True)
    peak(lambda: OPERATORS.voxelize(points, given, *grid, reduce=reduce), [*size_of(result), plan])
    if reduce in BLENDS:
        plan = OPERATORS._voxelize_workspace(batch, count, grid[2], reduce, True, True)
        needed = [*size_of(features), plan]
        peak(lambda: OPERATORS.voxelize_backward(result, points, features, *grid, reduce=reduce), needed)
    for capacity in (-1, 5000):
        options = {"reduce": reduce, "capacity": capacity}
        results = OPERATORS.voxelize_sparse(points, given, *grid, **options)
        rows = [*size_of(*results), 4 * batch * count, 4 * len(results[0])]
        plan, values = OPERATORS._voxelize_sparse_workspace(batch, count, grid[2], True), size_of(results[1])[0]
        # The plan is given back before the values are made.
        needed = [*rows[:1], *rows[2:], max(plan, values)]
        peak(lambda: OPERATORS.voxelize_sparse(points, given, *grid, **options), needed)  # noqa: B023
