"""The time series of `benches/peers.py`: `resample` and `fuse` beside the same thing as users write it in PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import robocache
import torch
from robocache import reference

F32, BF16 = torch.float32, torch.bfloat16


@dataclass
class Inputs:
    """Random values, ascending random source times in [0, 1) and ascending targets inside them, float64 seconds."""

    values: list[torch.Tensor]  # [B, S, D] of each stream
    source_times: list[torch.Tensor]  # [B, S] of each, or [S] where the batch shares them
    target_times: torch.Tensor  # [B, T] or [T]
    lengths: torch.Tensor | None = field(default=None)  # [B], of one stream


Call = Callable[[Inputs], torch.Tensor]


@dataclass(frozen=True)
class Case:
    """Sizes of a call: `batch` rows of each stream's samples of its channels, to `targets` targets."""

    batch: int
    streams: tuple[tuple[int, int], ...]  # samples and channels of each
    targets: int
    dtype: torch.dtype
    bar: bool = False  # one of the cases that the guard watches
    shared: bool = False  # one row of times for the whole batch

    @property
    def op(self) -> str:
        """`resample` takes one stream, `fuse` several."""
        return "resample" if len(self.streams) == 1 else "fuse"

    def __str__(self) -> str:
        streams = "+".join(f"{samples}x{channels}" for samples, channels in self.streams)
        return f"{self.batch}x{streams}->{self.targets}" + (", shared times" if self.shared else "")

    @property
    def directions(self) -> tuple[str, ...]:
        return "forward", "backward", "forward+backward"

    def inputs(self, device: torch.device) -> Inputs:
        def times(count: int) -> torch.Tensor:
            shape = (count,) if self.shared else (self.batch, count)
            return torch.rand(shape, dtype=torch.float64, device=device).sort(dim=-1).values

        values = [torch.randn(self.batch, *stream, device=device).to(self.dtype) for stream in self.streams]
        return Inputs(values, [times(samples) for samples, _ in self.streams], times(self.targets))

    def implementations(self, device: torch.device, autotune: bool = False) -> dict[str, Call]:
        """RoboCache first, then what torch alone makes of it."""
        torch._dynamo.reset()  # each case is compiled for its own sizes, and none falls back to eager at a limit
        calls: dict[str, Callable[..., torch.Tensor]] = {"robocache": resampled}
        if self.op == "fuse":
            calls = {"robocache": fused, "resample + cat": resampled_and_joined}
        calls |= {"torch eager": in_torch, "torch.compile": torch.compile(in_torch, dynamic=False)}
        if autotune:
            mode = "max-autotune-no-cudagraphs"  # the benchmark makes the graph, of every implementation alike
            calls["torch.compile max-autotune"] = torch.compile(in_torch, dynamic=False, mode=mode)
        return {
            name: lambda data, call=call: call(data.values, data.source_times, data.target_times)
            for name, call in calls.items()
        }

    def expected(self, data: Inputs) -> torch.Tensor:
        """The definition's answer."""
        if data.lengths is not None:
            return reference.resample(
                data.values[0], data.source_times[0], data.target_times, source_lengths=data.lengths
            )
        return reference.fuse(data.values, data.source_times, data.target_times)

    def check(self, name: str, answer: torch.Tensor, expected: torch.Tensor) -> None:
        """No answer, no time: ours must be the definition's bits, a peer's within a rounding of its type."""
        if name.startswith(("robocache", "resample")):
            if not torch.equal(answer, expected):
                raise ValueError(f"{name} at {self} must equal the definition to the bit")
            return
        close = {"rtol": 1e-2, "atol": 2e-2} if self.dtype.itemsize == 2 else {"rtol": 1e-4, "atol": 1e-4}
        torch.testing.assert_close(answer, expected, **close)

    def leaves(self, data: Inputs) -> tuple[list[torch.Tensor], torch.Tensor]:
        """Values that want gradients, and a gradient of the result."""
        values = [x.clone().requires_grad_() for x in data.values]
        shape = (values[0].size(0), data.target_times.size(-1), sum(x.size(2) for x in values))
        return values, torch.ones(shape, dtype=values[0].dtype, device=values[0].device)

    def gradient(self, call: Call, data: Inputs) -> Callable[[], object]:
        """A call with its backward."""
        values, grad = self.leaves(data)
        inputs = Inputs(values, data.source_times, data.target_times, data.lengths)
        return lambda: torch.autograd.grad(call(inputs), values, grad)

    def backward(self, call: Call, data: Inputs) -> Callable[[], object]:
        """The backward alone, of a call that is made here."""
        values, grad = self.leaves(data)
        result = call(Inputs(values, data.source_times, data.target_times, data.lengths))
        return lambda: torch.autograd.grad(result, values, grad, retain_graph=True)

    def least_bytes(self, data: Inputs, direction: str = "forward") -> int:
        """Forward: source rows that some target touches, results, times. Backward: gradients in and out, times."""
        forward = backward = data.target_times.numel() * data.target_times.element_size()
        for values, times in zip(data.values, data.source_times, strict=True):
            batch, samples, channels = values.shape
            targets = data.target_times.expand(batch, -1).contiguous()
            right = torch.searchsorted(times.expand(batch, -1).contiguous(), targets, right=True)
            touched = torch.zeros(batch, samples, dtype=torch.bool, device=times.device)
            last = samples - 1 if data.lengths is None else (data.lengths - 1).unsqueeze(1)
            for index in (right - 1, right):
                touched.scatter_(1, index.clamp(min=0).minimum(torch.as_tensor(last, device=index.device)), True)
            row = channels * values.element_size()
            of_times = times.numel() * times.element_size()
            forward += (int(touched.sum()) + targets.numel()) * row + of_times
            backward += (batch * samples + targets.numel()) * row + of_times
        return {"forward": forward, "backward": backward, "forward+backward": forward + backward}[direction]


def one_in_torch(values: torch.Tensor, source_times: torch.Tensor, target_times: torch.Tensor) -> torch.Tensor:
    """The same thing as users write it in PyTorch: search, gather both neighbours, lerp; ends held."""
    if source_times.dim() == 1:
        source_times, target_times = source_times.unsqueeze(0), target_times.unsqueeze(0)
    right = torch.searchsorted(source_times, target_times, right=True).clamp(1, source_times.size(1) - 1)
    left = right - 1
    start, end = source_times.gather(1, left), source_times.gather(1, right)
    weight = ((target_times - start) / (end - start)).clamp(0, 1).to(torch.float32).unsqueeze(-1)
    channels = (values.size(0), -1, values.size(2))
    a = values.gather(1, left.unsqueeze(-1).expand(channels)).float()
    b = values.gather(1, right.unsqueeze(-1).expand(channels)).float()
    return torch.lerp(a, b, weight).to(values.dtype)


def in_torch(values: list[torch.Tensor], source_times: list[torch.Tensor], target: torch.Tensor) -> torch.Tensor:
    parts = [one_in_torch(v, t, target) for v, t in zip(values, source_times, strict=True)]
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=2)


def resampled(values: list[torch.Tensor], source_times: list[torch.Tensor], target: torch.Tensor) -> torch.Tensor:
    return robocache.resample(values[0], source_times[0], target)


def fused(values: list[torch.Tensor], source_times: list[torch.Tensor], target: torch.Tensor) -> torch.Tensor:
    return robocache.fuse(values, source_times, target)


def resampled_and_joined(
    values: list[torch.Tensor], source_times: list[torch.Tensor], target: torch.Tensor
) -> torch.Tensor:
    parts = [robocache.resample(v, t, target) for v, t in zip(values, source_times, strict=True)]
    return torch.cat(parts, dim=2)


VISION = ((150, 512), (500, 14), (500, 6))  # features of a camera, joints, forces
SMALL = ((30, 512), (100, 64), (200, 12))

SHAPES: list[tuple[int, tuple[tuple[int, int], ...], int]] = [
    (32, ((500, 256),), 250),
    (256, ((1000, 512),), 500),
    (64, ((4096, 32),), 1024),
    (8, ((250, 128),), 128),
    (32, VISION, 250),
    (4, SMALL, 50),
]
BARS = [Case(*shape, BF16, bar=True) for shape in SHAPES]
SINGLES = [Case(*shape, F32) for shape in SHAPES]
SHARED = Case(32, ((500, 256),), 250, F32, shared=True)
