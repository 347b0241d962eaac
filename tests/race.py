"""Small calls of voxels, plain rows and their gradients, for compute-sanitizer's racecheck: seconds, not hours.

    compute-sanitizer --tool racecheck python tests/race.py

Sizes are those at which a plan takes another way: small clouds, tiles, tiles of more points than a block keeps, voxels
that a block shares, keys, few points in large grids, a crowd that is marked by bins; gradients of few and many targets,
ascending or not, of short rows and of long ones.
"""

from __future__ import annotations

import robocache
import torch

DEVICE = "cuda"
CLOUDS = (  # points, channels, voxels along each axis, points in one voxel, type of features
    (1500, 3, 8, 600, torch.float32),
    (6000, 5, 16, 700, torch.float32),
    (6000, 2, 32, 2600, torch.float32),
    (3000, 3, 8, 0, torch.bfloat16),
    (3000, 2, 300, 100, torch.float32),
    (2100, 40, 100, 50, torch.bfloat16),
)
SIGNALS = (  # batch, samples, channels, targets, type of values, whether targets ascend
    (2, 50, 16, 40, torch.float32, True),
    (1, 700, 3, 300, torch.float32, True),
    (3, 40, 8, 600, torch.bfloat16, True),
    (2, 64, 24, 100, torch.float32, False),
    (1, 5, 2, 900, torch.float64, True),
    (40, 9, 4, 7, torch.float32, True),
    (10, 8600, 1, 8000, torch.float32, True),
    (270, 20, 3, 7, torch.float32, True),
    (270, 20, 3, 7, torch.bfloat16, False),
    (1, 140_000, 2, 900, torch.bfloat16, True),
    (2, 60, 41, 300, torch.float32, True),
    (3, 40, 33, 30, torch.bfloat16, True),
)


def voxelize(count: int, channels: int, size: int, heavy: int, dtype: torch.dtype) -> None:
    points = torch.rand(1, count, 3, device=DEVICE)
    points[0, :heavy] = 0.5 + 0.001 * torch.rand(heavy, 3, device=DEVICE)
    points = points[:, torch.randperm(count)].contiguous()
    features = torch.randn(1, count, channels, device=DEVICE).to(dtype).requires_grad_()
    box = ([0.0] * 3, [1 / size] * 3, [size] * 3)
    for reduce in ("mean", "max"):
        grid = robocache.voxelize(points, features, *box, reduce=reduce)
        grid.sum().backward()
        # Without the counts that a recorded mean may keep.
        torch.ops.robocache.voxelize_backward(grid.detach(), points, features.detach(), *box, reduce=reduce)
        robocache.voxelize_sparse(points, features, *box, reduce=reduce, capacity=count)[1].sum().backward()
    for reduce in ("occupancy", "count"):
        robocache.voxelize(points, None, *box, reduce=reduce)


def crowd() -> None:
    robocache.voxelize(torch.rand(1, 1 << 18, 3, device=DEVICE), None, [0.0] * 3, [1 / 32] * 3, [32] * 3)


def times(batch: int, count: int, ascend: bool = True) -> torch.Tensor:
    drawn = torch.rand(batch, count, dtype=torch.float64, device=DEVICE)
    return drawn.sort(-1).values if ascend else drawn


def resample(batch: int, samples: int, channels: int, targets: int, dtype: torch.dtype, ascend: bool) -> None:
    values = torch.randn(batch, samples, channels, device=DEVICE).to(dtype).requires_grad_()
    robocache.resample(values, times(batch, samples), times(batch, targets, ascend)).sum().backward()


def fuse() -> None:
    streams = [(30, 512), (100, 14)]
    values = [torch.randn(2, *stream, device=DEVICE).bfloat16().requires_grad_() for stream in streams]
    robocache.fuse(values, [times(2, samples) for samples, _ in streams], times(2, 50)).sum().backward()


if __name__ == "__main__":
    torch.manual_seed(0)
    for cloud in CLOUDS:
        voxelize(*cloud)
    crowd()
    for signal in SIGNALS:
        resample(*signal)
    fuse()
    torch.cuda.synchronize()
    print(f"{torch.cuda.get_device_name()}: {len(CLOUDS)} clouds, {len(SIGNALS)} signals, streams")
