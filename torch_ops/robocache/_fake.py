"""The fake kernel of the one operator whose result has a size that only a run can know."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["register"]


def _voxelize_sparse_rows(
    points: Tensor,  # [B, N, 3]
    origin: list[float],
    voxel_size: list[float],
    grid_size: list[int],
    *,
    capacity: int = -1,
    lengths: Tensor | None = None,  # [B]
) -> tuple[Tensor, ...]:
    batch, count = points.shape[0], points.shape[1]
    rows = capacity if capacity >= 0 else torch.library.get_ctx().new_dynamic_size()
    return (
        points.new_empty((rows, 4), dtype=torch.int32),
        points.new_empty((rows,), dtype=torch.int32),
        points.new_empty((batch, count), dtype=torch.int64),
        points.new_empty((1,), dtype=torch.int64),
        points.new_empty((batch, count), dtype=torch.int32),
        points.new_empty((rows,), dtype=torch.int32),
    )


def register() -> None:
    """Tells torch's tracers what `voxelize_sparse_rows` returns; once, after the library is loaded."""
    torch.library.register_fake("robocache::voxelize_sparse_rows", _voxelize_sparse_rows)
