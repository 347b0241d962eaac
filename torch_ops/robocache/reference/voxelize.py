"""`voxelize` in plain PyTorch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from robocache.reference.exact import add_rows
from robocache.reference.grid import OF_POINTS, Points, check, place

OP = "voxelize"


def voxelize(
    points: Tensor,  # [B, N, 3] or [N, 3], metres
    features: Tensor | None,  # [B, N, C] or [N, C]
    origin: Sequence[float],  # 3 numbers, metres
    voxel_size: Sequence[float],  # 1 or 3 numbers, metres
    grid_size: Sequence[int],  # 3 numbers
    *,
    reduce: str = "occupancy",
    lengths: Tensor | None = None,  # [B], each in [0, N]
) -> Tensor:  # [B, X, Y, Z] or [B, C, X, Y, Z]; without B where there was none
    """Reduces clouds to dense grids, as ``torch.ops.robocache.voxelize`` does, with plain PyTorch.

    The result and its derivatives of any order agree with the operator to the last bit.

    >>> points = torch.tensor([[0.5, 0.5, 0.5], [0.2, 0.9, 0.1], [1.5, 0.0, 0.0]])
    >>> voxelize(points, torch.tensor([[1.0], [2.0], [7.0]]), (0, 0, 0), (1,), (2, 1, 1), reduce="mean").flatten()
    tensor([1.5000, 7.0000])
    """
    call = check(OP, points, features, origin, voxel_size, grid_size, reduce, lengths, None)
    batch, cells = call.points.shape[0], math.prod(call.size)
    found = place(call)
    if reduce in OF_POINTS or call.features is None:
        result = torch.zeros((batch, cells), dtype=torch.int32, device=points.device)
        result[found.clouds, found.cells] = found.counts.to(torch.int32)
        result = (result if reduce == "count" else result > 0).reshape(batch, *call.size)
    else:
        values = reduce_rows(call.features, found, reduce)
        result = values.new_zeros((batch, cells, values.shape[1])).index_put((found.clouds, found.cells), values)
        result = result.transpose(1, 2).reshape(batch, values.shape[1], *call.size)
    result = result.contiguous()
    return result if call.batched else result.squeeze(0)


def reduce_rows(features: Tensor, found: Points, reduce: str) -> Tensor:  # [B, N, C] -> [M, C]
    """What each row says of its points' features."""
    flat, row = features.flatten(0, 1), found.row.flatten()
    if reduce in ("sum", "mean"):
        return add_rows(flat, row, found.counts, reduce == "mean")
    holders = _holders(flat.detach(), row, found.counts, reduce)
    result: Tensor = _Pick.apply(flat, holders)  # type: ignore[no-untyped-call]
    return result


class _Pick(torch.autograd.Function):
    """One point for each row and channel; its adjoint writes, so that even the sign of a zero comes back."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, holders: Tensor) -> Tensor:
        ctx.save_for_backward(holders)
        ctx.shape = features.shape
        return features.gather(0, holders)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        (holders,) = ctx.saved_tensors
        return grads[0].new_zeros(ctx.shape).scatter(0, holders, grads[0]), None


def _holders(features: Tensor, row: Tensor, counts: Tensor, reduce: str) -> Tensor:  # [P, C], [P] -> [M, C]
    """The first point of each row that holds its extremum: a NaN before all, and of zeros +0 is the greater."""
    points = (row >= 0).nonzero()  # [K, 1]
    numbers = features[points[:, 0]].double()
    bits = numbers.view(torch.int64)
    # Two's complement in the order of the numbers: -0 is -1.
    rank = torch.where(bits < 0, -(bits & (2**63 - 1)) - 1, bits)
    rank = torch.where(numbers.isnan(), 2**63 - 1, rank if reduce == "max" else ~rank)
    index = row[points].expand_as(rank)
    lowest = torch.full((counts.shape[0], rank.shape[1]), -(2**63), device=rank.device)
    best = lowest.scatter_reduce(0, index, rank, "amax")
    held = torch.where(rank == best.gather(0, index), points, row.shape[0])
    return torch.full_like(best, row.shape[0]).scatter_reduce(0, index, held, "amin")
