"""Random calls of `fuse` and `resample_mask`, over everything that the contract allows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from cases import (
    COPIES,
    DTYPES,
    LAYOUTS,
    MODES,
    OUTSIDE,
    TIMES,
    channel_modes,
    lay_out,
    mode_text,
    random_mode,
    random_targets,
    random_times,
    random_values,
    tame,
)
from torch import Tensor

SIGNED = {torch.uint16: torch.int16, torch.uint32: torch.int32, torch.uint64: torch.int64}
STREAMS = [1, 2, 3, 5, 17]  # one launch takes up to 16


@dataclass
class FuseCase:
    """One call of `fuse`, as dense tensors on the CPU with the layout that each stream's values are to have."""

    values: list[Tensor]
    source_times: list[Tensor]
    target_times: Tensor
    mode: str = "linear"
    outside: str = "hold"
    source_lengths: Tensor | None = None
    layouts: list[str] | None = None

    def arguments(self, device: torch.device | str = "cpu") -> tuple[list[Any], dict[str, Any]]:
        """The positional and keyword arguments on a device, laid out."""
        layouts = self.layouts or ["contiguous"] * len(self.values)
        values = [lay_out(x.to(device), layout) for x, layout in zip(self.values, layouts, strict=True)]
        times = [x.to(device) for x in self.source_times]
        lengths = None if self.source_lengths is None else self.source_lengths.to(device)
        options = {"mode": self.mode, "outside": self.outside, "source_lengths": lengths}
        return [values, times, self.target_times.to(device)], options

    def modes(self) -> list[str]:
        """The mode of each channel of the result."""
        return channel_modes(self.mode, sum(x.shape[-1] for x in self.values))

    def __str__(self) -> str:
        lengths = None if self.source_lengths is None else self.source_lengths.tolist()
        shapes = [list(x.shape) for x in (*self.values, *self.source_times, self.target_times)]
        types = f"{self.values[0].dtype} at {self.target_times.dtype}"
        return f"{types} {shapes} {self.mode!r} {self.outside!r} lengths {lengths} {self.layouts}"


def side_by_side(
    call: Callable[..., Tensor],
    values: list[Tensor],
    source_times: list[Tensor],
    target_times: Tensor,
    *,
    mode: str,
    outside: str,
    source_lengths: Tensor | None,
) -> Tensor:
    """`fuse` as one `resample` for each stream, and the results concatenated."""
    modes, start, parts = channel_modes(mode, sum(x.shape[-1] for x in values)), 0, []
    for stream, (each, times) in enumerate(zip(values, source_times, strict=True)):
        own = mode_text(modes[start : start + each.shape[-1]]) or mode.split(":")[0]
        start += each.shape[-1]
        lengths = None if source_lengths is None else source_lengths[:, stream]
        parts.append(call(each, times, target_times, mode=own, outside=outside, source_lengths=lengths))
    signed = SIGNED.get(parts[0].dtype)  # PyTorch does not join wide unsigned integers
    if signed is None:
        return torch.cat(parts, dim=-1)
    return torch.cat([part.view(signed) for part in parts], dim=-1).view(parts[0].dtype)


def random_fuse_case(
    rng: np.random.Generator, dtypes: list[torch.dtype] | None = None, special: bool = True
) -> FuseCase:
    """A small call: streams of their own lengths, widths, rates and layouts."""
    streams, targets = int(rng.choice(STREAMS)), int(rng.choice([0, 1, 7, 40]))
    unbatched = bool(rng.random() < 0.15)
    rows = 1 if unbatched else int(rng.choice([0, 1, 2, 3]))
    dtypes = dtypes or DTYPES
    dtype = dtypes[int(rng.integers(0, len(dtypes)))]
    time_dtype = TIMES[int(rng.integers(0, 3))]
    widths = [int(width) for width in rng.choice([0, 1, 3, 4, 7, 8, 16, 33], streams)]
    mode = random_fuse_mode(rng, widths, MODES if dtype.is_floating_point else COPIES)
    modes = channel_modes(mode, sum(widths))
    values, times, lengths, start = [], [], [], 0
    for width in widths:
        samples = int(rng.choice([1, 2, 3, 9]))
        shared = unbatched or bool(rng.random() < 0.2)
        source = random_times(rng, 1 if shared else max(rows, 1), samples, time_dtype)
        stream = random_values(rng, [rows, samples, width], dtype, special)
        stream = tame(rng, stream, samples, modes[start : start + width])
        start += width
        values.append(stream[0] if unbatched else stream)
        times.append(source[0] if shared else source[:rows])
        lengths.append(rng.integers(1, samples + 1, rows))
    shared = unbatched or bool(rng.random() < 0.2)
    clock = random_times(rng, 1, 9, time_dtype) if rows == 0 else torch.atleast_2d(times[0])
    target = random_targets(rng, clock, 1 if shared else max(rows, 1), targets)
    rules = [rule for rule in OUTSIDE if rule != "nan" or dtype.is_floating_point]
    if mode != "linear" and (":" not in mode or set(modes) != {"linear"}):
        rules.remove("extrapolate")
    stated = torch.from_numpy(np.stack(lengths, axis=1)).to(rng.choice([torch.int32, torch.int64]))
    return FuseCase(
        values,
        times,
        target[0] if shared else target[:rows],
        mode,
        str(rng.choice(rules)),
        stated if rng.random() < 0.4 else None,
        [str(rng.choice(LAYOUTS)) for _ in range(streams)],
    )


def random_fuse_mode(rng: np.random.Generator, widths: list[int], names: list[str]) -> str:
    """One mode for all, groups that end with their streams, or groups that span streams."""
    whole = not any(width % 4 for width in widths)
    kind = float(rng.random())
    if kind < 0.3 or sum(widths) == 0:
        return str(rng.choice([name for name in names if name != "slerp" or whole]))
    if kind < 0.7:
        each = [mode_text(channel_modes(random_mode(rng, width, names), width)) for width in widths]
        return ",".join(text for text in each if text)
    return random_mode(rng, sum(widths), [name for name in names if name != "slerp"])


@dataclass
class MaskCase:
    """One call of `resample_mask`."""

    source_times: Tensor
    target_times: Tensor
    max_gap: float | int | None = None
    source_lengths: Tensor | None = None

    def arguments(self, device: torch.device | str = "cpu") -> tuple[list[Tensor], dict[str, Any]]:
        """The positional and keyword arguments on a device."""
        lengths = None if self.source_lengths is None else self.source_lengths.to(device)
        times = [self.source_times.to(device), self.target_times.to(device)]
        return times, {"max_gap": self.max_gap, "source_lengths": lengths}


def random_mask_case(rng: np.random.Generator) -> MaskCase:
    """Times of every type, gaps that some bracket has exactly, and shared, ragged or unbatched rows."""
    rows, samples, targets = int(rng.choice([0, 1, 2, 3])), int(rng.choice([1, 2, 9, 33])), int(rng.choice([0, 1, 40]))
    time_dtype = TIMES[int(rng.integers(0, 3))]
    shared_source, shared_target = bool(rng.random() < 0.3), bool(rng.random() < 0.3)
    source = random_times(rng, 1 if shared_source else max(rows, 1), samples, time_dtype)
    target = random_targets(rng, source, 1 if shared_target else max(rows, 1), targets)
    steps = (source[:, 1:] - source[:, :-1]).flatten()
    gap: float | int | None = None
    kind = float(rng.random())
    if kind < 0.2:
        gap = float(rng.choice([0.0, 0.5, 1.5, np.inf, 1e300, 2.0**63, 2.0**64]))
    elif kind < 0.4:
        gap = int(rng.choice([0, 1, 7, 2**62]))
    elif kind < 0.8 and steps.numel() > 0:
        gap = steps[int(rng.integers(0, steps.numel()))].item()
    lengths = None
    if rng.random() < 0.4:
        lengths = torch.from_numpy(rng.integers(1, samples + 1, rows)).to(rng.choice([torch.int32, torch.int64]))
    return MaskCase(
        source[0] if shared_source else source[:rows], target[0] if shared_target else target[:rows], gap, lengths
    )
