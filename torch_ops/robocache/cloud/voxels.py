"""Calls the operators, and counts what became of the points."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

import robocache
from robocache.cloud.clouds import Array, Batch, Cloud, CloudError
from robocache.cloud.grid import Grid, finite

REDUCES = ("occupancy", "count", "sum", "mean", "max", "min")
WITHOUT_FEATURES = REDUCES[:2]
MAX_DENSE_BYTES = 16 * 2**30  # more than most machines have to spare; --sparse is made for what lies beyond
BYTES = {"occupancy": 1, "count": 4}  # of a dense voxel; the other reductions have the features' type


@dataclass(frozen=True)
class Share:
    """What became of the points of one cloud, or of all."""

    points: int
    not_finite: int
    counts: Array  # points of each occupied voxel
    cells: int

    @property
    def kept(self) -> int:
        """Points that lie in the grid."""
        return int(self.counts.sum())

    @property
    def outside(self) -> int:
        """Points that are finite and do not."""
        return self.points - self.not_finite - self.kept


@dataclass(frozen=True)
class Voxels:
    """The tensors to write, and what the table and the picture say of them."""

    tensors: dict[str, torch.Tensor]
    layout: str  # the axes of the main tensor
    reduce: str
    channels: list[str]
    grid: Grid
    clouds: Sequence[Cloud]
    coords: Array  # [M, 4]: every occupied voxel, whatever the capacity
    counts: Array  # [M]
    dropped_rows: int  # occupied voxels past the capacity

    def shares(self) -> list[Share]:
        """One for each cloud."""
        cells = int(np.prod(self.grid.grid_size, dtype=object))
        first = np.searchsorted(self.coords[:, 0], np.arange(len(self.clouds) + 1))  # rows ascend by cloud
        return [
            Share(len(c.points), int((~finite(c.points)).sum()), self.counts[first[b] : first[b + 1]], cells)
            for b, c in enumerate(self.clouds)
        ]

    def total(self) -> Share:
        """Of all clouds together; a voxel of two clouds is two."""
        shares = self.shares()
        return Share(
            sum(share.points for share in shares),
            sum(share.not_finite for share in shares),
            self.counts,
            sum(share.cells for share in shares),
        )


def voxelize(
    clouds: Sequence[Cloud], batch: Batch, grid: Grid, reduce: str, sparse: bool, capacity: int, device: torch.device
) -> Voxels:
    """The dense or sparse tensors of the batch; all tensors come back to the CPU."""
    if not sparse:
        _refuse_huge(batch, grid, reduce)
    place = (grid.origin, grid.voxel_size, grid.grid_size)
    points, lengths = batch.points.to(device), batch.lengths.to(device)
    features = None if batch.features is None else batch.features.to(device)
    try:
        found = robocache.voxelize_sparse(points, None, *place, reduce="count", lengths=lengths)
        if sparse:
            rows = robocache.voxelize_sparse(
                points, features, *place, reduce=reduce, capacity=capacity, lengths=lengths
            )
            tensors = rows._asdict()
            layout = "M,C"
        else:
            tensors = {"grid": robocache.voxelize(points, features, *place, reduce=reduce, lengths=lengths)}
            layout = "B,X,Y,Z" if reduce in WITHOUT_FEATURES else "B,C,X,Y,Z"
    except (ValueError, NotImplementedError, torch.OutOfMemoryError) as error:
        raise CloudError(str(error)) from None
    tensors["lengths"] = lengths
    occupied = int(found.num_voxels)
    return Voxels(
        {name: tensor.cpu().contiguous() for name, tensor in tensors.items()},
        layout,
        reduce,
        batch.channels,
        grid,
        clouds,
        found.coords.cpu().numpy(),
        found.counts.cpu().numpy(),
        max(occupied - capacity, 0) if capacity >= 0 else 0,
    )


def _refuse_huge(batch: Batch, grid: Grid, reduce: str) -> None:
    x, y, z = grid.grid_size
    width = BYTES.get(reduce)
    channels = 1 if width is not None or batch.features is None else batch.features.shape[2]
    if width is None and batch.features is not None:
        width = batch.features.element_size()
    needed = len(batch.lengths) * channels * x * y * z * (width or 1)
    if needed > MAX_DENSE_BYTES:
        raise CloudError(
            f"a dense grid must take at most {MAX_DENSE_BYTES / 2**30:.0f} GiB, got {needed / 2**30:,.1f} GiB for "
            f"{len(batch.lengths)} x {channels} x {x} x {y} x {z}: take --sparse, a larger --voxel-size, a smaller "
            "--range or one --frame"
        )
