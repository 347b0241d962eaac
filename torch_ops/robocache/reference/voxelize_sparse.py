"""`voxelize_sparse` in plain PyTorch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from robocache.reference.grid import OF_POINTS, Points, check, place
from robocache.reference.voxelize import reduce_rows

OP = "voxelize_sparse"


def voxelize_sparse(
    points: Tensor,  # [B, N, 3] or [N, 3], metres
    features: Tensor | None,  # [B, N, C] or [N, C]
    origin: Sequence[float],  # 3 numbers, metres
    voxel_size: Sequence[float],  # 1 or 3 numbers, metres
    grid_size: Sequence[int],  # 3 numbers, at most 2^21
    *,
    reduce: str = "mean",
    capacity: int = -1,
    lengths: Tensor | None = None,  # [B], each in [0, N]
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Reduces clouds to rows for the occupied voxels, as ``torch.ops.robocache.voxelize_sparse`` does.

    Returns coords [M, 4], values [M, C], counts [M], point_voxel [B, N] (or [N]) and num_voxels [1].

    >>> points = torch.tensor([[1.5, 0.5, 0.5], [0.2, 0.9, 0.1], [1.1, 0.0, 0.0]])
    >>> coords, _, counts, point_voxel, _ = voxelize_sparse(points, None, (0, 0, 0), (1,), (2, 1, 1))
    >>> coords.tolist(), counts.tolist(), point_voxel.tolist()
    ([[0, 0, 0, 0], [0, 1, 0, 0]], [1, 2], [1, 0, 1])
    """
    call = check(OP, points, features, origin, voxel_size, grid_size, reduce, lengths, capacity)
    found = place(call)
    num_voxels = torch.tensor([found.counts.shape[0]], device=points.device)
    rows = capacity if capacity >= 0 else found.counts.shape[0]
    row = torch.where(found.row < rows, found.row, -1)
    found = Points(found.clouds[:rows], found.cells[:rows], found.counts[:rows], row)

    across, along = call.size[1] * call.size[2], call.size[2]
    place_of = [found.clouds, found.cells // across, found.cells % across // along, found.cells % along]
    coords = _padded(torch.stack(place_of, dim=1).to(torch.int32), rows, -1)
    counts = _padded(found.counts.to(torch.int32), rows, 0)
    if call.features is None or reduce in OF_POINTS:
        values = (points if features is None else features).new_zeros((rows, 0))
    else:
        values = _padded(reduce_rows(call.features, found, reduce), rows, 0)
    return coords, values, counts, row if call.batched else row.squeeze(0), num_voxels


def _padded(tensor: Tensor, rows: int, fill: int) -> Tensor:
    """With unused rows below."""
    unused = tensor.new_full((rows - tensor.shape[0], *tensor.shape[1:]), fill)
    return torch.cat([tensor, unused])
