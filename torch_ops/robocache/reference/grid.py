"""The grid of a cloud: the checks that both voxelize operators share, and the rule that gives a point its voxel."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from robocache.reference.checks import FLOATS, check_device, check_shape, name_of, refuse

REDUCTIONS = ("occupancy", "count", "sum", "mean", "max", "min")
OF_POINTS = ("occupancy", "count")  # these read no features
MOST_POINTS = 2**31 - 1  # counts are int32
MOST_SPARSE = 2**21  # three of them make a key of 63 bits


class Call(NamedTuple):
    """A checked call: clouds as a batch, and the grid's numbers in the type that points are computed in."""

    points: Tensor  # [B, N, 3]
    features: Tensor | None  # [B, N, C]
    origin: Tensor  # [3], metres
    voxel_size: Tensor  # [3], metres
    size: list[int]
    lengths: Tensor | None  # [B], in [0, N]
    batched: bool


class Points(NamedTuple):
    """Where points lie: the occupied voxels as rows ordered by (b, x, y, z), and each point's row."""

    clouds: Tensor  # [M], b of each row
    cells: Tensor  # [M], (x * Y + y) * Z + z of each row
    counts: Tensor  # [M]
    row: Tensor  # [B, N], or -1


def place(call: Call) -> Points:
    """The voxel of a point is ``floor((p - origin) / voxel_size)``, in the points' type (f32 for the halves)."""
    batch, count = call.points.shape[:2]
    points = call.points.detach().to(call.origin.dtype)
    quotient = ((points - call.origin) / call.voxel_size).floor()
    # Compared as integers, since f32 holds few of them. A NaN is neither; no axis is as long as 2^62.
    near = (quotient >= 0) & (quotient < 2.0**62)
    place = torch.where(near, quotient, -1.0).to(torch.int64)
    size = torch.tensor(call.size, device=points.device)
    kept = ((place >= 0) & (place < size)).all(dim=2)
    if call.lengths is not None:
        kept = kept & (torch.arange(count, device=points.device) < call.lengths.to(torch.int64).unsqueeze(1))
    cell = (place[..., 0] * call.size[1] + place[..., 1]) * call.size[2] + place[..., 2]
    cloud = torch.arange(batch, device=points.device).unsqueeze(1).expand(batch, count)
    pairs = torch.stack([cloud[kept], cell[kept]], dim=1)
    rows, inverse, counts = torch.unique(pairs, dim=0, return_inverse=True, return_counts=True)
    row = torch.full((batch, count), -1, device=points.device)
    row[kept] = inverse
    return Points(rows[:, 0], rows[:, 1], counts, row)


def check(
    op: str,
    points: Tensor,
    features: Tensor | None,
    origin: Sequence[float],
    voxel_size: Sequence[float],
    grid_size: Sequence[int],
    reduce: str,
    lengths: Tensor | None,
    capacity: int | None,  # None: a dense grid
) -> Call:
    """Refuses wrong types, shapes and numbers."""
    _check_floating(op, "points", points)
    if points.dim() not in (2, 3) or points.shape[-1] != 3:
        raise ValueError(refuse(op, "points", "have shape [B, N, 3] or [N, 3]", list(points.shape)))
    batched, count = points.dim() == 3, points.shape[-2]
    batch = points.shape[0] if batched else 1
    if count > MOST_POINTS:
        raise ValueError(refuse(op, "points", f"have at most {MOST_POINTS} points a cloud", count))
    if reduce not in REDUCTIONS:
        names = [f'"{name}"' for name in REDUCTIONS]
        raise ValueError(refuse(op, "reduce", f"be {', '.join(names[:-1])} or {names[-1]}", f'"{reduce}"'))
    if capacity is None and features is None and reduce not in OF_POINTS:
        raise ValueError(refuse(op, "features", f'be given where reduce is "{reduce}"', "none"))
    if features is not None:
        _check_features(op, features, points)
    corner, edges = _check_numbers(op, points, origin, voxel_size)
    size = _check_size(op, grid_size)
    if capacity is not None:
        if max(size) > MOST_SPARSE:
            raise ValueError(refuse(op, "grid_size", f"be at most {MOST_SPARSE} along each axis", size))
        if capacity < -1:
            raise ValueError(refuse(op, "capacity", "be -1 or at least 0", capacity))
    else:
        read = features if reduce not in OF_POINTS else None
        item = {"occupancy": 1, "count": 4}.get(reduce, 1 if read is None else read.element_size())
        channels = 1 if read is None else read.shape[-1]
        if math.prod(size) * max(batch, 1) * max(channels, 1) * item >= 2**63:
            raise ValueError(refuse(op, "grid_size", "make a result of less than 2^63 bytes", size))
    lengths = _check_lengths(op, lengths, points, batch)
    if not batched:
        points, features = points.unsqueeze(0), None if features is None else features.unsqueeze(0)
    return Call(points, features, corner, edges, size, lengths, batched)


def _check_floating(op: str, argument: str, tensor: Tensor) -> None:
    if tensor.dtype not in FLOATS:
        must = "be float64, float32, float16 or bfloat16"
        raise TypeError(refuse(op, argument, must, name_of(tensor.dtype)))


def _check_features(op: str, features: Tensor, points: Tensor) -> None:
    _check_floating(op, "features", features)
    if features.dim() != points.dim() or features.shape[:-1] != points.shape[:-1]:
        must = f"[N, C] with N = {points.shape[0]}"
        if points.dim() == 3:
            must = f"[B, N, C] with B = {points.shape[0]} and N = {points.shape[1]}"
        raise ValueError(refuse(op, "features", f"have shape {must}", list(features.shape)))
    check_device(op, "features", features, "points", points)


def _check_numbers(
    op: str, points: Tensor, origin: Sequence[float], voxel_size: Sequence[float]
) -> tuple[Tensor, Tensor]:
    """The corner and the edges in the type that points are computed in."""
    compute = torch.float64 if points.dtype == torch.float64 else torch.float32
    if len(origin) != 3:
        raise ValueError(refuse(op, "origin", "have 3 numbers", len(origin)))
    corner = torch.tensor(list(origin), dtype=torch.float64).to(compute)
    for axis, number in enumerate(corner.tolist()):
        if not math.isfinite(number):
            found = f"{_spelt(origin[axis])} at axis {axis}"
            raise ValueError(refuse(op, "origin", f"be finite in {name_of(compute)}", found))
    if len(voxel_size) not in (1, 3):
        raise ValueError(refuse(op, "voxel_size", "have 1 or 3 numbers", len(voxel_size)))
    edges = torch.tensor(list(voxel_size), dtype=torch.float64).to(compute)
    for axis, number in enumerate(edges.tolist()):
        if not (number > 0 and math.isfinite(number)):
            found = f"{_spelt(voxel_size[axis])} at axis {axis}"
            raise ValueError(refuse(op, "voxel_size", f"be positive and finite in {name_of(compute)}", found))
    # On the device of the points, since a quotient by a number of the host is rounded twice on CUDA.
    return corner.to(points.device), edges.expand(3).to(points.device)


def _check_size(op: str, grid_size: Sequence[int]) -> list[int]:
    size = list(grid_size)
    if len(size) != 3:
        raise ValueError(refuse(op, "grid_size", "have 3 numbers", len(size)))
    if min(size) < 1:
        raise ValueError(refuse(op, "grid_size", "be at least 1 along each axis", size))
    return size


def _check_lengths(op: str, lengths: Tensor | None, points: Tensor, batch: int) -> Tensor | None:
    """The lengths within [0, N]; others are refused where they are looked at, and clamped elsewhere."""
    if lengths is None:
        return None
    if lengths.dtype not in (torch.int32, torch.int64):
        raise TypeError(refuse(op, "lengths", "be int32 or int64", name_of(lengths.dtype)))
    check_shape(op, "lengths", lengths, [batch])
    check_device(op, "lengths", lengths, "points", points)
    count = points.shape[-2]
    # Reading the contents waits for the device.
    if lengths.device.type == "cpu" or os.environ.get("ROBOCACHE_CHECK") == "1":
        for row, length in enumerate(lengths.tolist()):
            if not 0 <= length <= count:
                raise ValueError(refuse(op, "lengths", f"be in [0, {count}]", f"{length} in row {row}"))
    return lengths.clamp(0, count)


def _spelt(number: float) -> str:
    """The number as every runtime spells it: ``1e300``, not ``1e+300``."""
    mantissa, _, exponent = repr(float(number)).partition("e")
    return f"{mantissa}e{int(exponent)}" if exponent else mantissa
