"""The names of the first RoboCache, so that code written for it runs: thin functions over today's operators."""

from __future__ import annotations

from torch import Tensor

from robocache.ops import fuse, resample

__all__ = ["fuse_multimodal", "resample_trajectories"]


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
