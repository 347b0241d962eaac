"""Clouds that break careless voxelizers: faces, neighbours of faces, denormals, cancellation, nothing at all."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

Grid = tuple[list[float], list[float], list[int]]
Cloud = tuple[Tensor, "Tensor | None", Grid, "Tensor | None"]  # points, features, grid, lengths
CUBE: Grid = ([0.0, 0.0, 0.0], [0.1], [5, 5, 5])


def _numbers(shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> Tensor:
    """Features of both signs, whose sums need more digits than they have."""
    steps = torch.arange(math.prod(shape), dtype=torch.float64)
    return (torch.sin(steps * 1.7) * 3.0 ** (steps % 11 - 5)).view(shape).to(dtype)


def _diagonal(along: np.ndarray, dtype: torch.dtype) -> Tensor:
    """Each coordinate with itself and with two others: [1, N, 3]."""
    return torch.from_numpy(np.stack([along, np.roll(along, 1), np.roll(along, 5)], axis=1))[None].to(dtype)


def _faces(dtype: torch.dtype, grid: Grid = CUBE) -> Cloud:
    """On every face as the type can say it, and the numbers just below and above."""
    kind = {torch.float64: np.float64, torch.float16: np.float16}.get(dtype, np.float32)
    faces = (grid[0][0] + np.arange(-1, 7) * grid[1][0]).astype(kind)
    near = np.concatenate([faces, np.nextafter(faces, kind(-np.inf)), np.nextafter(faces, kind(np.inf))])
    points = _diagonal(near, dtype)
    return points, _numbers((1, points.shape[1], 2)), grid, None


def _spread(numbers: list[float], dtype: torch.dtype = torch.float32) -> Cloud:
    """These coordinates in every combination of three."""
    table = torch.tensor(numbers, dtype=dtype)
    points = torch.cartesian_prod(table, table, table)[None]
    return points, _numbers((1, points.shape[1], 2)), ([0.0, -1.0, -0.5], [1.0, 2.0, 0.5], [2, 1, 3]), None


def _one_voxel(features: Tensor) -> Cloud:
    """All of these features in one voxel: [N, C]."""
    return torch.full((1, len(features), 3), 0.5), features[None], ([0.0] * 3, [1.0], [1, 1, 1]), None


def _empty(batch: int, count: int, channels: int) -> Cloud:
    features = _numbers((batch, count, channels))
    return torch.full((batch, count, 3), 0.25), features, CUBE, None


def _outside() -> Cloud:
    points = torch.rand(2, 50, 3, generator=torch.Generator().manual_seed(1)) + torch.tensor([0.0, 0.0, 7.0])
    return points, _numbers((2, 50, 3)), CUBE, None


def _ragged() -> Cloud:
    points = torch.rand(4, 20, 3, generator=torch.Generator().manual_seed(2))
    points[1, 10:] = math.nan
    return points, _numbers((4, 20, 3)), ([0.0] * 3, [0.5], [2, 2, 2]), torch.tensor([0, 10, 20, 1])


def _unbatched() -> Cloud:
    points, features, grid, _ = _outside()
    return points[0] - torch.tensor([0.2, 0.2, 7.3]), features[0], grid, torch.tensor([37], dtype=torch.int32)


def _cancelling(dtype: torch.dtype) -> Tensor:
    """Columns whose exact sums are far below their numbers, and roundings that hang on one tiny number."""
    info = torch.finfo(dtype)
    large, tiny, half = float(info.max), float(info.tiny) * float(info.eps), float(info.eps) / 2
    columns = [
        [large, 1.0, -large, 0.0, 0.0],
        [large, large, -large, tiny, -large],
        [1.0, half, tiny, 0.0, 0.0],
        [1.0, half, -tiny, 0.0, 0.0],
        [-1.0, -half, 0.0, 0.0, -0.0],
        [tiny, 0.0, 0.0, 0.0, 0.0],
        [-tiny, -tiny, 0.0, 0.0, 0.0],
        [tiny, tiny, tiny, 0.0, 0.0],
        [large, large, large, large, large],
        [1e4, 1.0, -1e4, 1e-3, -1.0],
    ]
    return torch.tensor(columns, dtype=torch.float64).t().to(dtype)


def _specials() -> Tensor:
    """Every pair of special numbers, as columns of two points and a plain one between."""
    odd = torch.tensor([math.nan, math.inf, -math.inf, 0.0, -0.0, 1.0, -2.0])
    first, last = torch.cartesian_prod(odd, odd).t()
    return torch.stack([first, torch.full_like(first, -0.0), last])


def _wide() -> Cloud:
    """The corners of the widest sparse grid, in float64; without it a dense grid is too large."""
    most = float(2**21)
    along = torch.tensor([0.0, most - 1, most - 0.5, most, -0.5, most / 2], dtype=torch.float64)
    points = torch.cartesian_prod(along, along, along)[None]
    return points, _numbers((1, points.shape[1], 2)), ([0.0] * 3, [1.0], [2**21] * 3), None


# Grids small enough for a dense result.
ADVERSARIAL: dict[str, Callable[[], Cloud]] = {
    "faces_f32": lambda: _faces(torch.float32),
    "faces_f64": lambda: _faces(torch.float64),
    "faces_f16": lambda: _faces(torch.float16),
    "faces_bf16": lambda: _faces(torch.bfloat16),
    "faces_far_from_zero": lambda: _faces(torch.float32, ([1000.1, 1000.1, 1000.1], [0.3], [5, 4, 6])),
    "faces_of_thirds": lambda: _faces(torch.float64, ([-1.0, -0.7, 1e-3], [1 / 3], [4, 4, 4])),
    "negative": lambda: _spread([-3.0, -1.5, -1.0, -0.5, -1e-20, -1e-45, 0.5]),
    "zeros_and_denormals": lambda: _spread([0.0, -0.0, 1e-45, -1e-45, 1e-39, -1e-39]),
    "denormals_f64": lambda: _spread([0.0, -0.0, 5e-324, -5e-324, 1e-310, -1e-310], torch.float64),
    "nan_and_infinite": lambda: _spread([math.nan, math.inf, -math.inf, 3e38, -3e38, 0.25]),
    "nan_and_infinite_bf16": lambda: _spread([math.nan, math.inf, 1e38, 0.25, -0.5], torch.bfloat16),
    "one_voxel_of_1000": lambda: _one_voxel(_numbers((1000, 3))),
    "one_voxel_of_33": lambda: _one_voxel(_numbers((33, 9))),
    "none_inside": _outside,
    "no_points": lambda: _empty(2, 0, 3),
    "no_clouds": lambda: _empty(0, 4, 3),
    "no_channels": lambda: _empty(2, 4, 0),
    "nothing": lambda: _empty(0, 0, 0),
    "ragged": _ragged,
    "unbatched": _unbatched,
    **{
        f"cancelling_{str(t)[6:]}": lambda t=t: _one_voxel(_cancelling(t))
        for t in (torch.float64, torch.float32, torch.float16, torch.bfloat16)
    },  # fmt: skip
    "specials": lambda: _one_voxel(_specials()),
    "cancelling_1e30": lambda: _one_voxel(torch.tensor([[1e30], [1.0], [-1e30]])),
}
SPARSE = {**ADVERSARIAL, "corners_of_the_widest_grid": _wide}
