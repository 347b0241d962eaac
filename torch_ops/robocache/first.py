"""The names of the first RoboCache, so that code written for it runs: thin functions over today's operators."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from robocache.ops import fuse, resample, voxelize

__all__ = ["fuse_multimodal", "resample_trajectories", "voxelize_pointcloud"]


def resample_trajectories(
    source_data: Tensor,  # [B, S, D]
    source_times: Tensor,  # [B, S]
    target_times: Tensor,  # [B, T]
) -> Tensor:  # [B, T, D]
    """Linear :func:`robocache.resample`; past the ends the nearest sample is held.

    Shapes, types, gradients and errors are those of :func:`robocache.resample`.

    Example:
        >>> import torch, robocache
        >>> data, times = torch.tensor([[[0.0], [10.0]]]), torch.tensor([[0.0, 1.0]])
        >>> robocache.resample_trajectories(data, times, torch.tensor([[0.5, 2.0]]))
        tensor([[[ 5.],
                 [10.]]])
    """
    return resample(source_data, source_times, target_times)


def fuse_multimodal(
    stream1_data: Tensor,  # [B, S1, D1]
    stream1_times: Tensor,  # [B, S1]
    stream2_data: Tensor,  # [B, S2, D2]
    stream2_times: Tensor,  # [B, S2]
    stream3_data: Tensor,  # [B, S3, D3]
    stream3_times: Tensor,  # [B, S3]
    target_times: Tensor,  # [B, T]
) -> Tensor:  # [B, T, D1 + D2 + D3]
    """Linear :func:`robocache.fuse` of three streams; past the ends the nearest sample is held.

    Shapes, types, gradients and errors are those of :func:`robocache.fuse`.

    Example:
        >>> import torch, robocache
        >>> camera, joints, force = torch.zeros(1, 2, 3), torch.ones(1, 4, 2), torch.full((1, 8, 1), 2.0)
        >>> times = [torch.linspace(0, 1, steps).unsqueeze(0) for steps in (2, 4, 8)]
        >>> clock = torch.tensor([[0.3]])
        >>> robocache.fuse_multimodal(camera, times[0], joints, times[1], force, times[2], clock)
        tensor([[[0., 0., 0., 1., 1., 2.]]])
    """
    streams = [stream1_data, stream2_data, stream3_data]
    return fuse(streams, [stream1_times, stream2_times, stream3_times], target_times)


def voxelize_pointcloud(
    points: Tensor,  # [B, N, 3] or [N, 3], metres
    features: Tensor | None = None,  # [B, N, C] or [N, C]
    grid_min: Sequence[float] = (-10.0, -10.0, -10.0),  # metres
    voxel_size: float | Sequence[float] = 0.15625,  # metres
    grid_size: Sequence[int] = (128, 128, 128),
    mode: str = "occupancy",
) -> Tensor:  # [B, X, Y, Z] or [B, C, X, Y, Z]
    """Dense :func:`robocache.voxelize` under its first argument names: `grid_min` is `origin` and `mode` is `reduce`.

    The default grid is the cube from -10 to 10 metres, in 128 voxels along each axis. `voxel_size` is one number or a
    sequence of 1 or 3. Shapes, types, gradients and errors are those of :func:`robocache.voxelize`.

    Example:
        >>> import torch, robocache
        >>> points = torch.tensor([[[0.0, 0.0, 0.0], [0.1, 0.1, 0.1], [11.0, 0.0, 0.0]]])
        >>> robocache.voxelize_pointcloud(points, mode="count")[0, 64, 64, 64]
        tensor(2, dtype=torch.int32)
    """
    edges = [float(voxel_size)] if isinstance(voxel_size, (int, float)) else voxel_size
    return voxelize(points, features, grid_min, edges, grid_size, reduce=mode)
