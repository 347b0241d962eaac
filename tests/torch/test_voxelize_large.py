"""Grids and offsets past 2^31, on the CPU and CUDA: through strides and untouched pages where memory would not do."""

from __future__ import annotations

import os

import numpy as np
import pytest
import robocache
import torch
from torch import Tensor

GIB = 1 << 30
EDGE = 1291  # its cube is past 2^31
OPERATORS = torch.ops.robocache


def need(device: torch.device, gib: float) -> None:
    """Skips aloud where the device has less memory free."""
    assert robocache.resample is not None  # the operators are there only once the library is
    if device.type == "cuda":
        free = torch.cuda.mem_get_info()[0]
    else:
        lines = open("/proc/meminfo").read().splitlines()
        free = 1024 * next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable"))
        limit = "/sys/fs/cgroup/memory.max"
        if os.path.exists(limit) and (most := open(limit).read().strip()) != "max":
            free = min(free, int(most) - int(open("/sys/fs/cgroup/memory.current").read()))
    if free < gib * GIB:
        pytest.skip(f"needs {gib} GiB of free memory on {device.type}, has {free / GIB:.1f}")


def untouched(elements: int, device: torch.device) -> Tensor:
    """Zeros of f16 whose pages the system gives only where they are written; on CUDA, memory as it is."""
    if device.type == "cuda":
        return torch.empty(elements, dtype=torch.float16, device=device)
    return torch.from_numpy(np.zeros(elements, dtype=np.float16))


def far_apart(rows: int, columns: int, device: torch.device) -> Tensor:
    """f16 of that shape whose last row begins past 2^31 elements."""
    step = (1 << 31) // (rows - 1) + 8
    return torch.as_strided(untouched(step * (rows - 1) + columns, device), (rows, columns), (step, 1))


@pytest.mark.parametrize("reduce", ["occupancy", pytest.param("count", marks=pytest.mark.gpu)])
def test_more_voxels_than_2_to_the_31(device: torch.device, reduce: str) -> None:
    if device.type == "cpu" and reduce == "count":
        pytest.skip("8 GiB of counts on the CPU: the occupancy walks the same offsets")
    need(device, 8 if reduce == "occupancy" else 16)
    points = torch.tensor([[0.5] * 3, [EDGE - 0.5] * 3, [EDGE - 1.0] * 3, [EDGE + 0.0] * 3, [3.0, 0.0, 7.0]])
    grid = ([0.0] * 3, [1.0], [EDGE] * 3)
    result = OPERATORS.voxelize(points.to(device), None, *grid, reduce=reduce)
    assert result.numel() > 1 << 31
    assert int(result[0, 0, 0]) == int(result[3, 0, 7]) == 1
    assert int(result[-1, -1, -1]) == (1 if reduce == "occupancy" else 2)
    # By words, as that is quicker; the last voxel is looked at above.
    words = result.flatten()[: result.numel() // 8 * 8].view(torch.int64)
    assert int(torch.count_nonzero(words)) == 2


def test_a_gradient_of_more_than_2_to_the_31_elements(device: torch.device) -> None:
    need(device, 1)
    grid = ([0.0] * 3, [1.0], [2048, 2048, 2048])
    points = torch.tensor([[[0.0] * 3, [2047.5] * 3, [2048.0] * 3]], device=device)
    grad = torch.full((), 3.0, device=device).expand(1, 2, 2048, 2048, 2048)
    result = OPERATORS.voxelize_backward(grad, points, None, *grid, reduce="sum")
    assert result[0].tolist() == [[3.0, 3.0], [3.0, 3.0], [0.0, 0.0]]


@pytest.mark.parametrize("reduce", ["count", "mean", "max"])
def test_offsets_of_points_and_features_past_2_to_the_31(device: torch.device, reduce: str) -> None:
    need(device, 10 if device.type == "cuda" else 2)
    count = 5
    points, features = far_apart(count, 3, device), far_apart(count, 2, device)
    points.copy_(torch.tensor([0.5, 1.5, 2.5, 0.5, 9.0]).view(5, 1).expand(5, 3))
    features.copy_(torch.arange(10.0).view(5, 2) + 1)
    grid = ([0.0] * 3, [1.0], [3, 3, 3])
    leaf = features.unsqueeze(0).requires_grad_()
    near = leaf.detach().clone().requires_grad_()
    for clouds, own in ((points.unsqueeze(0), leaf), (points.unsqueeze(0).clone(), near)):
        dense = OPERATORS.voxelize(clouds, own, *grid, reduce=reduce)
        rows = OPERATORS.voxelize_sparse(clouds, own, *grid, reduce=reduce if reduce != "count" else "sum")
        assert rows[2].tolist() == [2, 1, 1] and rows[3].tolist() == [[0, 1, 2, 0, -1]]
        wanted = {"count": [2.0, 1.0, 1.0], "mean": [4.0, 3.0, 5.0], "max": [7.0, 3.0, 5.0]}[reduce]
        diagonal = (dense[0] if reduce == "count" else dense[0, 0]).detach()
        assert [float(diagonal[i, i, i]) for i in range(3)] == wanted
        if reduce != "count":
            assert rows[1][:, 0].tolist() == wanted
            (found,) = torch.autograd.grad(dense.sum() + rows[1].sum(), own)
            assert found[0, :, 0].tolist() == ([1.0, 2.0, 2.0, 1.0, 0.0] if reduce == "mean" else [0.0, 2, 2, 2, 0])


def test_clouds_far_apart(device: torch.device) -> None:
    need(device, 5 if device.type == "cuda" else 2)
    clouds = far_apart(2, 12, device).view(2, 4, 3)
    clouds[0], clouds[1] = 0.5, 1.5
    lengths = torch.tensor([4, 3], device=device)
    counts = OPERATORS.voxelize(clouds, None, [0.0] * 3, [1.0], [2, 2, 2], reduce="count", lengths=lengths)
    assert counts.flatten(1).tolist() == [[4, 0, 0, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0, 0, 3]]


def test_the_widest_sparse_grid(device: torch.device) -> None:
    edge = 1 << 21
    need(device, 1)
    points = torch.tensor(
        [[edge - 0.5] * 3, [0.0] * 3, [edge - 1.0, 0.0, 0.0], [0.0, 0.0, edge - 1.0], [edge + 0.0] * 3]
    )
    points = points.double().to(device).expand(3, 5, 3)
    coords, _, counts, point_voxel, num_voxels = OPERATORS.voxelize_sparse(points, None, [0.0] * 3, [1.0], [edge] * 3)
    assert num_voxels.tolist() == [12] and counts.tolist() == [1] * 12
    last = edge - 1
    assert coords[:4].tolist() == [[0, 0, 0, 0], [0, 0, 0, last], [0, last, 0, 0], [0, last, last, last]]
    assert coords[:, 0].tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert point_voxel.tolist() == [[3, 0, 2, 1, -1], [7, 4, 6, 5, -1], [11, 8, 10, 9, -1]]


def test_more_points_than_an_int32_counts(device: torch.device) -> None:
    most = (1 << 31) - 1
    one = torch.zeros(1, 1, 3, device=device)
    with pytest.raises(ValueError, match="points must have at most 2147483647 points a cloud, got 2147483648"):
        OPERATORS.voxelize(one.expand(1, most + 1, 3), None, [0.0] * 3, [1.0], [1, 1, 1])
    with pytest.raises(ValueError, match="points must have at most 2147483647 points a cloud, got 2147483648"):
        OPERATORS.voxelize_sparse(one.expand(1, most + 1, 3), None, [0.0] * 3, [1.0], [1, 1, 1])
    with pytest.raises(ValueError, match=r"grid_size must make a result of less than 2\^63 bytes"):
        OPERATORS.voxelize(one, None, [0.0] * 3, [1.0], [1 << 21, 1 << 21, 1 << 21])


@pytest.mark.gpu
def test_as_many_points_as_an_int32_counts() -> None:
    need(torch.device("cuda"), 1)
    most = (1 << 31) - 1
    points = torch.full((1, 1, 3), 0.5, device="cuda").expand(1, most, 3)
    counts = OPERATORS.voxelize(points, None, [0.0] * 3, [1.0], [1, 1, 1], reduce="count")
    assert counts.tolist() == [[[[most]]]]
