"""The clouds of `benches/peers.py`: the voxel operators beside the same thing as users write it in PyTorch.

A peer's sums are rounded at each step and, but for "torch deterministic", in any order; its answers must be near ours.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import robocache
import torch
from robocache import reference

Answer = tuple[torch.Tensor, ...]
FIXED_POINT = "fixed, compiled"  # rounds to integers, so that it has no gradient
CHECKED_POINTS = 10_000  # whose voxels are compared to the bit: the definition adds in exact fractions, one by one


@dataclass
class Inputs:
    """Points in metres, features, and the box: origin and edges of a voxel."""

    points: torch.Tensor  # [1, N, 3]
    features: list[torch.Tensor]  # [1, N, C], or none of them
    place: torch.Tensor  # [2, 3], on the points' device: PyTorch divides by a tensor, but multiplies for a number


Call = Callable[[Inputs], Answer]


@dataclass
class Expected:
    """The definition's answer for the planes `x < planes`, and for all of them a sum in float64."""

    planes: int
    chosen: torch.Tensor  # [N], whether a point is in these planes
    exact: Answer
    near: Answer


@dataclass(frozen=True)
class Case:
    """A cloud of `points` random points of `channels` features in a grid of `size` voxels along each axis."""

    op: str
    reduce: str
    points: int
    channels: int
    size: int
    dtype: torch.dtype = torch.float32  # of the features
    bar: bool = field(default=False)  # one of the cases that the guard watches

    def __str__(self) -> str:
        to = f"{self.points} rows" if self.sparse else f"{self.size}^3"
        channels = f"x{self.channels}" if self.channels else ""
        return f"{self.reduce} {self.points}{channels}->{to}"

    @property
    def sparse(self) -> bool:
        return self.op == "voxelize_sparse"

    @property
    def directions(self) -> tuple[str, ...]:
        return ("forward", "backward", "forward+backward") if self.channels else ("forward",)

    @property
    def box(self) -> tuple[tuple[float, ...], tuple[float, ...], tuple[int, int, int]]:
        """Origin, edges of a voxel, voxels along each axis."""
        return (0.0, 0.0, 0.0), (1 / self.size,), (self.size, self.size, self.size)

    @property
    def cells_in_all(self) -> int:
        return math.prod(self.box[2])

    def inputs(self, device: torch.device) -> Inputs:
        points = torch.rand(1, self.points, 3, device=device)
        features = torch.randn(1, self.points, self.channels, device=device).to(self.dtype)
        return Inputs(points, [features] if self.channels else [], self.place(device))

    def place(self, device: torch.device) -> torch.Tensor:
        origin, voxel_size, _ = self.box
        return torch.stack((torch.tensor(origin), torch.tensor(voxel_size).expand(3))).float().to(device)

    def answer(self, module: object, data: Inputs, grid_size: tuple[int, ...] | None = None) -> Answer:
        """Of the operators or of the reference; coordinates last, which peers lack."""
        features = data.features[0] if data.features else None
        origin, voxel_size, size = self.box
        box = (origin, voxel_size, grid_size or size)
        if self.sparse:
            call = module.voxelize_sparse  # type: ignore[attr-defined]
            coords, *found = call(data.points, features, *box, reduce=self.reduce, capacity=self.points)
            return (*found, coords)
        return (module.voxelize(data.points, features, *box, reduce=self.reduce),)  # type: ignore[attr-defined]

    def cells(self, data: Inputs) -> torch.Tensor:  # [N]
        """The voxel of each point, row-major; one past the last for a point outside."""
        (across, deep, high) = self.box[2]
        place = torch.floor((data.points[0] - data.place[0]) / data.place[1])
        x, y, z = place.unbind(1)
        inside = (x >= 0) & (x < across) & (y >= 0) & (y < deep) & (z >= 0) & (z < high)
        return torch.where(inside, (x.long() * deep + y.long()) * high + z.long(), self.cells_in_all)

    def occupied(self, data: Inputs) -> Answer:
        grid = torch.zeros(self.cells_in_all + 1, dtype=torch.bool, device=data.points.device)
        grid.scatter_(0, self.cells(data), True)
        return (grid[:-1].view(1, *self.box[2]),)

    def mean(self, data: Inputs, dtype: torch.dtype = torch.float32) -> Answer:
        (features,), cells = data.features, self.cells(data)
        sums = features.new_zeros(self.cells_in_all + 1, self.channels, dtype=dtype)
        sums = sums.index_add(0, cells, features[0].to(dtype))
        counts = sums.new_zeros(self.cells_in_all + 1).index_add(0, cells, torch.ones_like(cells, dtype=dtype))
        grid = (sums / counts.clamp(min=1).unsqueeze(1)).to(self.dtype)[:-1].view(1, *self.box[2], self.channels)
        # Channels last: what PyTorch makes without another pass over the grid. RoboCache's result is channels first.
        return (grid.permute(0, 4, 1, 2, 3),)

    def fixed_point(self, data: Inputs) -> Answer:
        """The other way to add in any order: integers, in units of 2^-36 of each voxel's greatest feature."""
        (features,), cells = data.features, self.cells(data)
        index = cells.unsqueeze(1).expand(-1, self.channels)
        single = features[0].float()
        most = single.new_zeros(self.cells_in_all + 1, self.channels).scatter_reduce(0, index, single.abs(), "amax")
        unit = torch.exp2(torch.ceil(torch.log2(most.clamp(min=1e-30))) - 36).double()
        whole = torch.round(single.double() / unit[cells]).long()
        sums = torch.zeros_like(most, dtype=torch.int64).index_add(0, cells, whole)
        counts = single.new_zeros(self.cells_in_all + 1).index_add(0, cells, torch.ones_like(single[:, 0]))
        means = ((sums.double() * unit) / counts.clamp(min=1).unsqueeze(1)).to(self.dtype)
        return (means[:-1].view(1, *self.box[2], self.channels).permute(0, 4, 1, 2, 3),)

    def rows(self, data: Inputs, dtype: torch.dtype = torch.float32) -> Answer:
        """A row for each point, as many as there can be, so that nothing waits for the device; without coordinates."""
        (features,) = data.features
        cells, order = self.cells(data).sort()
        outside = cells == self.cells_in_all
        begins = torch.cat((torch.ones_like(outside[:1]), cells[1:] != cells[:-1]))
        row = torch.where(outside, self.points, begins.cumsum(0) - 1)
        sums = features.new_zeros(self.points + 1, self.channels, dtype=dtype)
        sums = sums.index_add(0, row, features[0, order].to(dtype))
        counts = sums.new_zeros(self.points + 1).index_add(0, row, torch.ones_like(row, dtype=dtype))
        point_voxel = torch.empty_like(row).scatter(0, order, torch.where(outside, -1, row)).unsqueeze(0)
        values = (sums / counts.clamp(min=1).unsqueeze(1)).to(self.dtype)[:-1]
        return values, counts[:-1].int(), point_voxel, (begins & ~outside).sum().unsqueeze(0)

    @property
    def peer(self) -> Call:
        """The plain formulation of this case."""
        return self.rows if self.sparse else self.mean if self.channels else self.occupied

    def implementations(self, device: torch.device, autotune: bool = False) -> dict[str, Call]:
        """RoboCache first, then what torch alone makes of it."""
        torch._dynamo.reset()  # each case is compiled for its own sizes, and none falls back to eager at a limit
        peer = self.peer
        calls: dict[str, Call] = {
            "robocache": lambda data: self.answer(robocache, data),
            "torch eager": peer,
            "torch.compile": torch.compile(peer, dynamic=False),
        }
        if autotune:
            mode = "max-autotune-no-cudagraphs"  # the benchmark makes the graph, of every implementation alike
            calls["torch.compile max-autotune"] = torch.compile(peer, dynamic=False, mode=mode)
        # On the CPU it is eager's code; a bool that several threads set is the same whoever is first.
        if device.type == "cuda" and self.channels:
            calls["torch deterministic"] = deterministic(peer)
        if device.type == "cuda" and self.channels and not self.sparse:
            calls[FIXED_POINT] = torch.compile(self.fixed_point, dynamic=False)
        return calls

    def expected(self, data: Inputs) -> Expected:
        across = self.box[2][0]
        if not self.channels:
            everywhere = torch.ones_like(data.points[0, :, 0], dtype=torch.bool)
            exact = self.answer(reference, data)
            return Expected(across, everywhere, exact, exact)
        plane = self.cells(data) // (self.cells_in_all // across)
        below = torch.bincount(plane, minlength=across)[:across].cumsum(0)
        planes = max(1, int((below <= CHECKED_POINTS).sum()))
        chosen = plane < planes
        few = Inputs(data.points[:, chosen], [x[:, chosen] for x in data.features], data.place)
        exact = self.answer(reference, few, (planes, *self.box[2][1:]))
        return Expected(planes, chosen, exact, self.peer(data, torch.float64))  # type: ignore[call-arg]

    def check(self, name: str, answer: Answer, expected: Expected) -> None:
        """No answer, no time: ours must be the definition's bits where it was worked out, a peer's near everywhere."""
        few = 1e-2 if self.dtype.itemsize == 2 else 1e-4
        for found, near in zip(answer, expected.near, strict=False):
            if near.is_floating_point():
                torch.testing.assert_close(found, near, rtol=few, atol=few / 10)
            elif not torch.equal(found, near):
                raise ValueError(f"{name} at {self} must agree with the definition")
        if name != "robocache":
            return
        if self.sparse:
            values, counts, point_voxel, _, coords = answer
            voxels = int(expected.exact[3])
            answer = values[:voxels], counts[:voxels], point_voxel[:, expected.chosen], coords[:voxels]
            wanted = expected.exact
            exact: Answer = (wanted[0][:voxels], wanted[1][:voxels], wanted[2], wanted[4][:voxels])
        else:
            answer, exact = (answer[0][..., : expected.planes, :, :],), expected.exact
        if not all(torch.equal(found, wanted) for found, wanted in zip(answer, exact, strict=True)):
            raise ValueError(f"{name} at {self} must equal the definition to the bit")

    def leaves(self, data: Inputs) -> tuple[list[torch.Tensor], torch.Tensor]:
        """Features that want gradients, and a gradient of the result, flat."""
        values = self.points * self.channels if self.sparse else self.cells_in_all * self.channels
        ones = torch.ones(values, dtype=self.dtype, device=data.points.device)
        return [x.clone().requires_grad_() for x in data.features], ones

    def gradient(self, call: Call, data: Inputs) -> Callable[[], object]:
        """A call with its backward."""
        features, ones = self.leaves(data)
        inputs = Inputs(data.points, features, data.place)

        def run() -> object:
            result = call(inputs)[0]
            return torch.autograd.grad(result, features, ones.view(result.shape))

        return run

    def backward(self, call: Call, data: Inputs) -> Callable[[], object]:
        """The backward alone, of a call that is made here."""
        features, ones = self.leaves(data)
        result = call(Inputs(data.points, features, data.place))[0]
        ones = ones.view(result.shape)
        return lambda: torch.autograd.grad(result, features, ones, retain_graph=True)

    def least_bytes(self, data: Inputs, direction: str = "forward") -> int:
        """Forward: points, features and the result. Backward: points, gradients of occupied voxels and of features."""
        points = data.points.numel() * data.points.element_size()
        features = sum(x.numel() * x.element_size() for x in data.features)
        item = self.dtype.itemsize * self.channels if self.channels else 1
        cells = self.cells(data)
        voxels = int(torch.unique(cells[cells < self.cells_in_all]).numel())
        # A row: its values, four coordinates and a count; a point: the row of its voxel.
        result = voxels * (item + 5 * 4) + self.points * 8 if self.sparse else item * self.cells_in_all
        forward, backward = points + features + result, points + voxels * item + features
        return {"forward": forward, "backward": backward, "forward+backward": forward + backward}[direction]


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


BF16 = torch.bfloat16
BARS = [
    Case("voxelize", "occupancy", 500_000, 0, 128, bar=True),
    Case("voxelize", "occupancy", 4_000_000, 0, 256, bar=True),
    Case("voxelize", "mean", 500_000, 8, 128, bar=True),
    Case("voxelize", "mean", 4_000_000, 8, 256, bar=True),
    Case("voxelize_sparse", "mean", 500_000, 8, 128, bar=True),
]
HALVES = [
    Case("voxelize", "mean", 500_000, 8, 128, BF16),
    Case("voxelize", "mean", 4_000_000, 8, 256, BF16),
    Case("voxelize_sparse", "mean", 500_000, 8, 128, BF16),
]
CASES = [*BARS, *HALVES]
