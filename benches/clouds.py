"""The clouds of `benches/peers.py`: the voxel operators beside the same thing as users write it in PyTorch.

A peer's sums are rounded at each step and, but for "torch deterministic", in any order; its answers must be near ours.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import robocache
import torch
from robocache import reference

Answer = tuple[torch.Tensor, ...]
FIXED_POINT = "fixed, compiled"  # rounds to integers, so that it has no gradient


@dataclass
class Inputs:
    """Points in the unit cube, and features."""

    points: torch.Tensor  # [1, N, 3]
    features: list[torch.Tensor]  # [1, N, C], or none of them


Call = Callable[[Inputs], Answer]


@dataclass(frozen=True)
class Case:
    """A cloud of `points` random points of `channels` features in a grid of `size` voxels along each axis."""

    op: str
    reduce: str
    points: int
    channels: int
    size: int
    dtype: torch.dtype = torch.float32

    def __str__(self) -> str:
        to = f"{self.points} rows" if self.sparse else f"{self.size}^3"
        channels = f"x{self.channels}" if self.channels else ""
        return f"{self.reduce} {self.points}{channels}->{to}"

    @property
    def sparse(self) -> bool:
        return self.op == "voxelize_sparse"

    @property
    def directions(self) -> tuple[str, ...]:
        return ("forward", "forward+backward") if self.channels else ("forward",)

    @property
    def box(self) -> tuple[tuple[float, ...], tuple[float], tuple[int, ...]]:
        return (0.0, 0.0, 0.0), (1 / self.size,), (self.size,) * 3

    def inputs(self, device: torch.device) -> Inputs:
        points = torch.rand(1, self.points, 3, device=device)
        features = torch.randn(1, self.points, self.channels, device=device, dtype=self.dtype)
        return Inputs(points, [features] if self.channels else [])

    def answer(self, module: object, data: Inputs) -> Answer:
        """Of the operators or of the reference."""
        features = data.features[0] if data.features else None
        if self.sparse:
            call = module.voxelize_sparse  # type: ignore[attr-defined]
            return tuple(call(data.points, features, *self.box, reduce=self.reduce, capacity=self.points))[1:]
        return (module.voxelize(data.points, features, *self.box, reduce=self.reduce),)  # type: ignore[attr-defined]

    def cells(self, points: torch.Tensor) -> torch.Tensor:  # [N]
        """The voxel of each point, row-major; one past the last for a point outside."""
        place = torch.floor(points[0] / (1 / self.size))
        inside = ((place >= 0) & (place < self.size)).all(dim=1)
        x, y, z = place.long().unbind(1)
        return torch.where(inside, (x * self.size + y) * self.size + z, self.size**3)

    def occupied(self, data: Inputs) -> Answer:
        grid = torch.zeros(self.size**3 + 1, dtype=torch.bool, device=data.points.device)
        grid.scatter_(0, self.cells(data.points), True)
        return (grid[:-1].view(1, self.size, self.size, self.size),)

    def mean(self, data: Inputs) -> Answer:
        (features,), cells = data.features, self.cells(data.points)
        sums = features.new_zeros(self.size**3 + 1, self.channels).index_add(0, cells, features[0])
        counts = features.new_zeros(self.size**3 + 1).index_add(0, cells, torch.ones_like(features[0, :, 0]))
        grid = (sums / counts.clamp(min=1).unsqueeze(1))[:-1].view(1, self.size, self.size, self.size, self.channels)
        # Channels last: what PyTorch makes without another pass over the grid. RoboCache's result is channels first.
        return (grid.permute(0, 4, 1, 2, 3),)

    def fixed_point(self, data: Inputs) -> Answer:
        """The other way to add in any order: integers, in units of 2^-36 of each voxel's greatest feature."""
        (features,), cells = data.features, self.cells(data.points)
        index = cells.unsqueeze(1).expand(-1, self.channels)
        most = features.new_zeros(self.size**3 + 1, self.channels).scatter_reduce(0, index, features[0].abs(), "amax")
        unit = torch.exp2(torch.ceil(torch.log2(most.clamp(min=1e-30))) - 36).double()
        whole = torch.round(features[0].double() / unit[cells]).long()
        sums = torch.zeros_like(most, dtype=torch.int64).index_add(0, cells, whole)
        counts = features.new_zeros(self.size**3 + 1).index_add(0, cells, torch.ones_like(features[0, :, 0]))
        means = (sums.double() * unit).to(self.dtype) / counts.clamp(min=1).unsqueeze(1)
        return (means[:-1].view(1, self.size, self.size, self.size, self.channels).permute(0, 4, 1, 2, 3),)

    def rows(self, data: Inputs) -> Answer:
        """A row for each point, as many as there can be, so that nothing waits for the device; without coordinates."""
        (features,) = data.features
        cells, order = self.cells(data.points).sort()
        outside = cells == self.size**3
        begins = torch.cat((torch.ones_like(outside[:1]), cells[1:] != cells[:-1]))
        row = torch.where(outside, self.points, begins.cumsum(0) - 1)
        sums = features.new_zeros(self.points + 1, self.channels).index_add(0, row, features[0, order])
        counts = features.new_zeros(self.points + 1).index_add(0, row, torch.ones_like(features[0, :, 0]))
        point_voxel = torch.empty_like(row).scatter(0, order, torch.where(outside, -1, row)).unsqueeze(0)
        values = (sums / counts.clamp(min=1).unsqueeze(1))[:-1]
        return values, counts[:-1].int(), point_voxel, (begins & ~outside).sum().unsqueeze(0)

    def implementations(self, device: torch.device) -> dict[str, Call]:
        torch._dynamo.reset()  # each case is compiled for its own sizes, and none falls back to eager at a limit
        peer = self.rows if self.sparse else self.mean if self.channels else self.occupied
        calls: dict[str, Call] = {
            "robocache": lambda data: self.answer(robocache, data),
            "torch eager": peer,
            "torch.compile": torch.compile(peer, dynamic=False),
        }
        # On the CPU it is eager's code; a bool that several threads set is the same whoever is first.
        if device.type == "cuda" and self.channels:
            calls["torch deterministic"] = deterministic(peer)
        if device.type == "cuda" and self.channels and not self.sparse:
            calls[FIXED_POINT] = torch.compile(self.fixed_point, dynamic=False)
        return calls

    def expected(self, data: Inputs) -> Answer:
        return self.answer(reference, data)

    def check(self, name: str, answer: Answer, expected: Answer) -> None:
        """No answer, no time: ours must be the definition's bits, a peer's within the rounding of its sums."""
        for found, wanted in zip(answer, expected, strict=True):
            if name == "robocache" or not wanted.is_floating_point():
                if not torch.equal(found, wanted):
                    raise SystemExit(f"peers: {name} at {self} must equal the definition to the bit")
            else:
                torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)

    def gradient(self, call: Call, data: Inputs) -> Callable[[], Answer]:
        features = [x.clone().requires_grad_() for x in data.features]
        values = self.points * self.channels if self.sparse else self.size**3 * self.channels
        ones = torch.ones(values, dtype=self.dtype, device=data.points.device)

        def run() -> Answer:
            result = call(Inputs(data.points, features))[0]
            return torch.autograd.grad(result, features, ones.view(result.shape))

        return run

    def least_bytes(self, data: Inputs) -> int:
        """Points, features and the result, each once."""
        read = data.points.numel() * 4 + sum(x.numel() * x.element_size() for x in data.features)
        if not self.sparse:
            item = self.dtype.itemsize * self.channels if self.channels else 1
            return read + item * math.prod(self.box[2])
        voxels = int(self.rows(data)[3])
        return read + voxels * (self.channels * self.dtype.itemsize + 5 * 4) + self.points * 8


def deterministic(call: Call) -> Call:
    """The same under torch's switch, without its filling of memory that is written anyway."""

    def run(data: Inputs) -> Answer:
        torch.use_deterministic_algorithms(True)
        torch.utils.deterministic.fill_uninitialized_memory = False
        try:
            return call(data)
        finally:
            torch.use_deterministic_algorithms(False)

    return run


CASES = [
    Case("voxelize", "occupancy", 500_000, 0, 128),
    Case("voxelize", "mean", 500_000, 8, 128),
    Case("voxelize_sparse", "mean", 500_000, 8, 128),
]
