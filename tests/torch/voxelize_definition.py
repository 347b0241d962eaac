"""`voxelize` and `voxelize_sparse` once more, point by point in NumPy: independent of library and reference."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from torch import Tensor

# The bits of a format's positive numbers as NumPy reads them (bfloat16 is the upper half of a float32), its first
# power of two that is too large, and the bits that stand there: those of infinity.
_FORMATS: dict[torch.dtype, tuple[Any, Any, int, int, int]] = {
    torch.float64: (np.float64, np.uint64, 0, 1024, 0x7FF << 52),
    torch.float32: (np.float32, np.uint32, 0, 128, 0xFF << 23),
    torch.float16: (np.float16, np.uint16, 0, 16, 0x1F << 10),
    torch.bfloat16: (np.float32, np.uint32, 16, 128, 0xFF << 7),
}


def rounded(number: Fraction, dtype: torch.dtype) -> float:
    """The nearest number of a type, found by walking its numbers from a guess; of two the one with even bits."""
    kind, word, shift, too_large, infinity = _FORMATS[dtype]

    def value(bits: int) -> Fraction:
        if bits >= infinity:
            return Fraction(2) ** too_large
        return Fraction(float(np.array([bits << shift], word).view(kind)[0]))

    size = abs(number)
    try:
        with np.errstate(over="ignore"):
            bits = int(np.array([float(size)], kind).view(word)[0]) >> shift
    except OverflowError:
        bits = infinity
    bits = min(bits, infinity)
    while value(bits) > size:
        bits -= 1
    while bits < infinity and value(bits + 1) <= size:
        bits += 1
    if bits < infinity:
        below, above = size - value(bits), value(bits + 1) - size
        bits += above < below or (above == below and bits % 2 == 1)
    result = math.inf if bits >= infinity else float(value(bits))
    return -result if number < 0 else result


def total(numbers: list[float], count: int, dtype: torch.dtype) -> float:
    """The exact sum over ``count``, rounded once; `math.fsum` where it can answer."""
    if any(map(math.isnan, numbers)) or {math.inf, -math.inf} <= set(numbers):
        return math.nan
    for infinite in (math.inf, -math.inf):
        if infinite in numbers:
            return infinite
    if dtype == torch.float64 and count == 1:
        try:
            return math.fsum(numbers) + 0.0
        except OverflowError:
            pass  # it is not exact past the largest number, though a sum may come back
    return rounded(sum(map(Fraction, numbers), Fraction(0)) / count, dtype)


def holder(numbers: list[float], reduce: str) -> int:
    """The first place of the extremum: of a NaN where there is one, and of zeros +0 is the greater."""
    best = 0
    for place, number in enumerate(numbers):
        old = numbers[best]
        if math.isnan(old):
            break
        if math.isnan(number):
            best = place
        elif number == old:
            new_sign, old_sign = math.copysign(1, number), math.copysign(1, old)
            if new_sign > old_sign if reduce == "max" else new_sign < old_sign:
                best = place
        elif number > old if reduce == "max" else number < old:
            best = place
    return best


def voxels(
    points: Tensor,  # [B, N, 3]
    origin: list[float],
    voxel_size: list[float],
    grid_size: list[int],
    lengths: list[int],
) -> list[tuple[tuple[int, ...], list[int]]]:
    """The occupied voxels `(b, x, y, z)` in order, and the points of each."""
    kind = np.float64 if points.dtype == torch.float64 else np.float32
    table = points.to(torch.float64).numpy().astype(kind)  # exact: the halves are floats too
    found: list[list[int]] = []
    owner: list[int] = []
    for cloud in range(table.shape[0]):
        for point in range(lengths[cloud]):
            with np.errstate(all="ignore"):
                corner, edges = np.array(origin, kind), np.broadcast_to(np.array(voxel_size, kind), 3)
                place = np.floor((table[cloud, point] - corner) / edges)
            if all(0 <= float(q) < size for q, size in zip(place, grid_size, strict=True)):
                found.append([cloud, *(int(q) for q in place)])
                owner.append(point)
    if not found:
        return []
    unique, inverse = np.unique(np.array(found), axis=0, return_inverse=True)
    groups: list[list[int]] = [[] for _ in unique]
    for each, row in enumerate(inverse.reshape(-1).tolist()):
        groups[row].append(owner[each])
    return [(tuple(place), sorted(group)) for place, group in zip(unique.tolist(), groups, strict=True)]


def values(features: Tensor, rows: list[tuple[tuple[int, ...], list[int]]], reduce: str) -> Tensor:  # [M, C]
    """What each voxel says of its points' features, `[B, N, C]`."""
    table = features.to(torch.float64).tolist()
    result = torch.zeros((len(rows), features.shape[2]), dtype=torch.float64)
    for row, ((cloud, *_), members) in enumerate(rows):
        for channel in range(features.shape[2]):
            numbers = [table[cloud][point][channel] for point in members]
            if reduce in ("max", "min"):
                result[row, channel] = numbers[holder(numbers, reduce)]
            else:
                result[row, channel] = total(numbers, len(numbers) if reduce == "mean" else 1, features.dtype)
    return result.to(features.dtype)


def gradient(
    grad: Tensor,  # [M, C]
    features: Tensor,  # [B, N, C]
    rows: list[tuple[tuple[int, ...], list[int]]],
    reduce: str,
) -> Tensor:  # [B, N, C]
    """The gradient to the features of what ``values`` says."""
    result = torch.zeros(features.shape, dtype=torch.float64)
    table, incoming = features.to(torch.float64).tolist(), grad.to(torch.float64).tolist()
    for row, ((cloud, *_), members) in enumerate(rows):
        for channel, number in enumerate(incoming[row]):
            if reduce in ("max", "min"):
                held = holder([table[cloud][point][channel] for point in members], reduce)
                result[cloud, members[held], channel] = number
                continue
            share = number
            if reduce == "mean" and math.isfinite(number) and number != 0:
                share = rounded(Fraction(number) / len(members), features.dtype)
            for point in members:
                result[cloud, point, channel] = share
    return result.to(features.dtype)


def dense(
    points: Tensor,  # [B, N, 3]
    features: Tensor | None,  # [B, N, C]
    origin: list[float],
    voxel_size: list[float],
    grid_size: list[int],
    *,
    reduce: str,
    lengths: list[int],
) -> Tensor:
    """The contract's `voxelize` for batched inputs on the CPU."""
    rows = voxels(points, origin, voxel_size, grid_size, lengths)
    if features is None or reduce in ("occupancy", "count"):
        result = torch.zeros((points.shape[0], *grid_size), dtype=torch.int32)
        for place, members in rows:
            result[place] = len(members)
        return result if reduce == "count" else result > 0
    grid = torch.zeros((points.shape[0], *grid_size, features.shape[2]), dtype=features.dtype)
    for (place, _), value in zip(rows, values(features, rows, reduce), strict=True):
        grid[place] = value
    return grid.movedim(-1, 1).contiguous()


def sparse(
    points: Tensor,  # [B, N, 3]
    features: Tensor | None,  # [B, N, C]
    origin: list[float],
    voxel_size: list[float],
    grid_size: list[int],
    *,
    reduce: str,
    capacity: int,
    lengths: list[int],
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The contract's `voxelize_sparse` for batched inputs on the CPU."""
    rows = voxels(points, origin, voxel_size, grid_size, lengths)
    size = len(rows) if capacity < 0 else capacity
    kept = rows[:size]
    coords, counts = torch.full((size, 4), -1, dtype=torch.int32), torch.zeros(size, dtype=torch.int32)
    point_voxel = torch.full(points.shape[:2], -1)
    for row, (place, members) in enumerate(kept):
        coords[row], counts[row] = torch.tensor(place), len(members)
        point_voxel[place[0], members] = row
    if features is None or reduce in ("occupancy", "count"):
        found = torch.zeros((size, 0), dtype=(points if features is None else features).dtype)
    else:
        found = torch.zeros((size, features.shape[2]), dtype=features.dtype)
        found[: len(kept)] = values(features, kept, reduce)
    return coords, found, counts, point_voxel, torch.tensor([len(rows)])
