"""Random calls of `voxelize` and `voxelize_sparse`, over everything that the contract allows, and what they answer."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from cases import FLOATS, LAYOUTS, assert_same_bits, lay_out, random_values
from torch import Tensor

PLAIN = ["occupancy", "count"]
BLENDS = ["sum", "mean", "max", "min"]
REDUCTIONS = [*PLAIN, *BLENDS]
GRIDS = [[4, 5, 6], [1, 1, 1], [3, 1, 2], [8, 8, 8], [1, 40, 2], [17, 3, 9]]
KINDS = ["uniform", "faces", "heavy", "outside", "odd"]
Answers = list["Tensor | None"]


@dataclass
class VoxelCase:
    """One call, as dense tensors on the CPU, with the layouts that points and features are to have."""

    points: Tensor
    features: Tensor | None
    origin: list[float]
    voxel_size: list[float]
    grid_size: list[int]
    reduce: str = "mean"
    lengths: Tensor | None = None
    capacity: int = -1
    layouts: list[str] = field(default_factory=lambda: ["contiguous"] * 2)

    def arguments(self, device: torch.device | str = "cpu") -> tuple[list[Any], dict[str, Any]]:
        """The positional and keyword arguments of `voxelize` on a device, laid out."""
        points = lay_out(self.points.to(device), self.layouts[0])
        features = None if self.features is None else lay_out(self.features.to(device), self.layouts[1])
        lengths = None if self.lengths is None else self.lengths.to(device)
        options = {"reduce": self.reduce, "lengths": lengths}
        return [points, features, self.origin, self.voxel_size, self.grid_size], options

    def __str__(self) -> str:
        shapes = [None if x is None else (x.dtype, list(x.shape)) for x in (self.points, self.features)]
        lengths = None if self.lengths is None else self.lengths.tolist()
        grid = f"{self.origin} {self.voxel_size} {self.grid_size}"
        return f"{shapes} {grid} {self.reduce} lengths {lengths} capacity {self.capacity} {self.layouts}"


def random_points(
    rng: np.random.Generator, shape: list[int], kind: str, grid: tuple[list[float], list[float], list[int]]
) -> Tensor:
    """Points of a kind, in f64: within, on faces and an ulp beside, in one voxel, all outside, with odd numbers."""
    origin, size, count = (np.asarray(x, dtype=np.float64) for x in grid)
    size = np.broadcast_to(size, 3)
    cell = rng.random(shape) * (count + 1) - 0.5
    if kind == "faces":
        points = origin + np.round(cell) * size
        beside = np.nextafter(points, points + rng.choice([-1.0, 1.0], shape))
        return torch.from_numpy(np.where(rng.random(shape) < 0.5, beside, points))
    if kind == "heavy":
        chosen = np.floor(rng.random(3) * count)
        cell = np.where(rng.random((*shape[:-1], 1)) < 0.9, chosen + rng.random(shape) * 0.9 + 0.05, cell)
    points = origin + cell * size
    if kind == "outside":
        points = points + (count + 2) * size
    if kind == "odd":
        odd = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-310, -1e-310, 1e300, -1e300])
        points = np.where(rng.random(shape) < 0.1, rng.choice(odd, shape), points)
    return torch.from_numpy(np.asarray(points))


def random_voxel_case(
    rng: np.random.Generator,
    dtypes: list[torch.dtype] | None = None,
    reductions: list[str] | None = None,
    special: bool = True,
    most: int = 200,
) -> VoxelCase:
    """A small call over everything that the contract allows."""
    dtypes = dtypes or FLOATS
    point_type, feature_type = (dtypes[int(rng.integers(0, len(dtypes)))] for _ in range(2))
    unbatched = bool(rng.random() < 0.2)
    batch, count = 1 if unbatched else int(rng.choice([0, 1, 2, 3])), int(rng.choice([0, 1, 2, 7, 33, most]))
    channels = int(rng.choice([0, 1, 2, 3, 4, 5, 8, 17, 33]))
    grid = list(GRIDS[int(rng.integers(0, len(GRIDS)))])
    origin = rng.choice([0.0, -0.5, 1.25, -3.3], 3).tolist()
    size = rng.choice([0.1, 0.25, 0.3, 1.0, 2.0], int(rng.choice([1, 3]))).tolist()
    reduce = str(rng.choice(reductions or REDUCTIONS))
    shape = [count] if unbatched else [batch, count]
    points = random_points(rng, [*shape, 3], str(rng.choice(KINDS)), (origin, size, grid)).to(point_type)
    features = None
    if reduce in BLENDS or rng.random() < 0.3:
        features = random_values(rng, [*shape, channels], feature_type, special and bool(rng.random() < 0.5))
    lengths = None
    if rng.random() < 0.4:
        lengths = torch.from_numpy(rng.integers(0, count + 1, batch)).to(rng.choice([torch.int32, torch.int64]))
    layouts = [str(rng.choice(LAYOUTS)) for _ in range(2)]
    return VoxelCase(points, features, origin, size, grid, reduce, lengths, int(rng.choice([-1, 0, 3, 500])), layouts)


def cells(case: VoxelCase) -> Tensor:
    """The flat voxel of each point, `[B, N]` or `[N]`, or -1: by NumPy's floor, in the points' type."""
    points = case.arguments()[0][0]
    kind = np.float64 if points.dtype == torch.float64 else np.float32
    place = points.to(torch.float64 if kind is np.float64 else torch.float32).numpy()
    with np.errstate(all="ignore"):
        cell = np.floor((place - np.asarray(case.origin, kind)) / np.asarray(case.voxel_size, kind))
    kept = ((cell >= 0) & (cell < np.asarray(case.grid_size))).all(-1)
    x, y, z = (np.where(kept, cell[..., axis], 0).astype(np.int64) for axis in range(3))
    flat = torch.from_numpy(np.asarray((x * case.grid_size[1] + y) * case.grid_size[2] + z))
    if case.lengths is not None:
        limit = case.lengths.long() if flat.dim() == 1 else case.lengths.long().unsqueeze(1)
        kept &= (torch.arange(flat.shape[-1]) < limit).numpy()
    return flat.masked_fill(torch.from_numpy(~np.asarray(kept)), -1)


def holders(features: Tensor, voxel: Tensor, reduce: str) -> Tensor:
    """Where a point, `[N, C]`, is the first of its voxel that holds the maximum or the minimum, by a plain loop."""
    first: dict[tuple[int, int], int] = {}
    table = features.double().tolist()

    def better(new: float, old: float) -> bool:
        if math.isnan(old) or math.isnan(new):
            return not math.isnan(old)
        keys = [(each, math.copysign(1.0, each)) for each in (new, old)]
        return keys[0] > keys[1] if reduce == "max" else keys[0] < keys[1]

    for point, place in enumerate(voxel.tolist()):
        for channel, value in enumerate(table[point] if place >= 0 else []):
            old = first.get((place, channel))
            if old is None or better(value, table[old][channel]):
                first[place, channel] = point
    held = torch.zeros(features.shape, dtype=torch.bool)
    for (_, channel), point in first.items():
        held[point, channel] = True
    return held


def expected_gradient(case: VoxelCase, grad: Tensor) -> Tensor:
    """The gradient to the features, from that of the dense result: what its definition says, point by point."""
    assert case.features is not None
    features, voxel = case.arguments()[0][1], cells(case)
    if features.dim() == 2:
        whole = VoxelCase(**{**vars(case), "points": case.points[None], "features": case.features[None]})
        # An expanded layout repeats the first row, here the first point.
        whole.points, whole.features = case.arguments()[0][0].unsqueeze(0), features.unsqueeze(0)
        whole.layouts = ["contiguous"] * 2
        return expected_gradient(whole, grad.unsqueeze(0)).squeeze(0)
    result = torch.zeros(features.shape, dtype=features.dtype)
    for row in range(features.shape[0]):
        inside = voxel[row] >= 0
        place = voxel[row].clamp(min=0)
        if features.shape[2] == 0 or features.shape[1] == 0:
            continue
        own = grad[row].reshape(grad.shape[1], -1)[:, place].T  # [N, C]
        if case.reduce == "mean":
            count = torch.bincount(place[inside], minlength=math.prod(case.grid_size))[place].clamp(min=1)
            # A quotient in f64, rounded once more, is that of the exact one: 53 bits are more than twice 24 and two.
            own = (own.double() / count.unsqueeze(1)).to(features.dtype)
        if case.reduce in ("max", "min"):
            own = torch.where(holders(features[row], voxel[row], case.reduce), own, 0.0)
        result[row] = torch.where(inside.unsqueeze(1), own, torch.zeros((), dtype=own.dtype))
    return result


def wave(like: Tensor) -> Tensor:
    """A gradient that tells every element from every other."""
    steps = torch.linspace(-1.7, 1.3, like.numel(), dtype=torch.float64)
    return steps.view(like.shape).to(like.device, like.dtype)


def dense_answers(case: VoxelCase, device: torch.device | str = "cpu") -> Answers:
    """The dense result, the gradient to the features, and the gradient of that one to the first."""
    (points, features, *grid), options = case.arguments(device)
    if features is None or case.reduce in PLAIN:
        return [torch.ops.robocache.voxelize(points, features, *grid, **options)]
    leaf = features.detach().requires_grad_()
    result = torch.ops.robocache.voxelize(points, leaf, *grid, **options)
    grad = wave(result).requires_grad_()
    (first,) = torch.autograd.grad(result, leaf, grad, create_graph=True)
    (second,) = torch.autograd.grad(first, grad, wave(first))
    return [result.detach(), first.detach(), second]


def sparse_answers(case: VoxelCase, device: torch.device | str = "cpu") -> Answers:
    """The five sparse results, the gradient to the features, and the gradient of that one to the first."""
    (points, features, *grid), options = case.arguments(device)
    options["capacity"] = case.capacity
    leaf = None if features is None else features.detach().requires_grad_()
    found = torch.ops.robocache.voxelize_sparse(points, leaf, *grid, **options)
    if leaf is None or case.reduce in PLAIN:
        return [*found]
    grad = wave(found[1]).requires_grad_()
    (first,) = torch.autograd.grad(found[1], leaf, grad, create_graph=True)
    (second,) = torch.autograd.grad(first, grad, wave(first))
    return [*(x.detach() for x in found), first.detach(), second]


def same(first: Answers, second: Answers, what: object) -> None:
    """Fails unless each answer agrees by bits with its other."""
    for place, (a, b) in enumerate(zip(first, second, strict=True)):
        assert_same_bits(a, b, f"{place} of {what}")


def cloud(
    device: torch.device | str,
    batch: int = 2,
    points: int = 400,
    channels: int = 3,
    dtype: torch.dtype = torch.float32,
    point_type: torch.dtype = torch.float32,
) -> tuple[Tensor, Tensor]:
    """Points in and around the unit cube, and features."""
    place = torch.rand(batch, points, 3, device=device) * 1.2 - 0.1
    return place.to(point_type), torch.randn(batch, points, channels, device=device).to(dtype)


CUBE: tuple[list[float], list[float], list[int]] = ([0.0, 0.0, 0.0], [0.25, 0.2, 0.5], [4, 5, 2])  # the unit cube
