"""Inputs for the battery: random calls over every type, mode, rule and layout, and the comparison by bits."""

from __future__ import annotations

import itertools
import math
import os
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

FLOATS = [torch.float64, torch.float32, torch.float16, torch.bfloat16]
INTEGERS = [torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool]
UNSIGNED = [torch.uint16, torch.uint32, torch.uint64]
DTYPES = FLOATS + INTEGERS + UNSIGNED
TIMES = [torch.float32, torch.float64, torch.int64]
COPIES = ["previous", "next", "nearest"]
BLENDS = ["linear", "angle", "slerp", "pchip"]
MODES = ["linear", *COPIES, "angle", "slerp", "pchip"]
OUTSIDE = ["hold", "nan", "zero", "extrapolate"]
LAYOUTS = ["contiguous", "expanded", "transposed", "sliced", "channels_last", "offset"]
EPOCH = 1_700_000_000_000_000_000  # nanoseconds
_BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def case_count(standard: int) -> int:
    """How many random cases to try: ``ROBOCACHE_CASES`` times the standard number (default 1)."""
    return max(1, round(standard * float(os.environ.get("ROBOCACHE_CASES", "1"))))


def same_bits(a: Tensor, b: Tensor) -> bool:
    """True where shape, type and every bit agree; any NaN equals any other."""
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    a, b = a.detach().cpu().contiguous(), b.detach().cpu().contiguous()
    if a.dtype.is_floating_point:
        both_nan = a.isnan() & b.isnan()
        a, b = a.masked_fill(both_nan, 0.0), b.masked_fill(both_nan, 0.0)
    word = _BITS[a.element_size()]
    return torch.equal(a.view(word), b.view(word))


def assert_same_bits(a: Tensor | None, b: Tensor | None, what: object = "") -> None:
    """Fails with the first difference."""
    if a is None or b is None:
        assert a is b, f"{what}: {a} against {b}"
        return
    if same_bits(a, b):
        return
    assert a.shape == b.shape, f"{what}: shape {list(a.shape)} against {list(b.shape)}"
    assert a.dtype == b.dtype, f"{what}: {a.dtype} against {b.dtype}"
    a, b = (x.detach().cpu().contiguous().view(torch.uint8).view(-1, x.element_size()) for x in (a, b))
    raise AssertionError(f"{what}: {int((a != b).any(1).sum())} of {len(a)} elements differ")


def channel_modes(mode: str, channels: int) -> list[str]:
    """The mode of each channel."""
    modes: list[str] = []
    for group in mode.split(",") if ":" in mode else [mode + ":*"]:
        name, width = group.split(":")
        modes += [name] * (channels - len(modes) if width == "*" else int(width))
    return modes


def mode_text(modes: list[str]) -> str:
    """The groups that give each channel its mode."""
    return ",".join(f"{name}:{len(list(run))}" for name, run in itertools.groupby(modes))


def assert_agrees(
    found: Tensor,
    expected: Tensor,
    modes: list[str],
    values: Tensor | list[Tensor],
    what: object,
    emulated: bool = False,
) -> None:
    """Fails unless channels, the trailing axes, agree by bits, and those of slerp and pchip to rounding.

    ``modes`` has one for each channel. ``emulated``: one side makes its f64 fused multiply-adds of several operations,
    which may round twice among denormals.
    """
    assert found.shape == expected.shape and found.dtype == expected.dtype, what
    if not found.dtype.is_floating_point:
        return assert_same_bits(found, expected, what)
    wide = found.dtype == torch.float64
    finite = [x[x.isfinite()].abs().double() for x in (values if isinstance(values, list) else [values])]
    scale = max((float(x.max()) for x in finite if x.numel() > 0), default=1.0)
    narrow = torch.finfo(found.dtype).eps
    bent = 16 * torch.finfo(torch.float64 if wide else torch.float32).eps * scale
    allowed = {"slerp": (narrow, 4e-15), "pchip": (narrow, bent)}
    if emulated and wide:
        allowed |= {"linear": (1e-15, 1e-307), "angle": (1e-15, 1e-307)}
    for mode in set(modes):
        channels = torch.tensor([channel for channel, each in enumerate(modes) if each == mode])
        a, b = (x.detach().cpu().reshape(x.numel() // len(modes), len(modes))[:, channels] for x in (found, expected))
        if mode not in allowed:
            assert_same_bits(a, b, f"{mode}: {what}")
            continue
        relative, absolute = allowed[mode]
        close = torch.isclose(a.double(), b.double(), rtol=relative, atol=absolute, equal_nan=True)
        assert bool(close.all()), f"{mode}: {a[~close]} against {b[~close]}: {what}"


def lay_out(tensor: Tensor, layout: str) -> Tensor:
    """The tensor in another layout (``expanded``: its first row for every row, as that layout can hold no other)."""
    if tensor.dim() == 0 or tensor.numel() == 0 or layout == "contiguous":
        return tensor
    if layout == "expanded":
        return tensor[:1].expand_as(tensor)
    if layout == "transposed":
        return tensor.transpose(0, -1).contiguous().transpose(0, -1)
    if layout == "sliced":
        wide = torch.full((*tensor.shape[:-1], 2 * tensor.shape[-1] + 1), 77, device=tensor.device).to(tensor.dtype)
        wide[..., 1::2].copy_(tensor)
        return wide[..., 1::2]
    if layout == "channels_last":
        if tensor.dim() == 4:
            return tensor.contiguous(memory_format=torch.channels_last)
        return tensor.movedim(1, -1).contiguous().movedim(-1, 1) if tensor.dim() > 1 else tensor
    assert layout == "offset", layout
    # One element past an aligned address: wide loads must not assume alignment.
    flat = torch.full((tensor.numel() + 1,), 77, device=tensor.device).to(tensor.dtype)
    flat[1:].copy_(tensor.reshape(-1))
    return flat[1:].view(tensor.shape)


@dataclass
class Case:
    """One call, as dense tensors on the CPU with the layout that each is to have."""

    values: Tensor
    source_times: Tensor
    target_times: Tensor
    mode: str = "linear"
    outside: str = "hold"
    source_lengths: Tensor | None = None
    layouts: list[str] = field(default_factory=lambda: ["contiguous"] * 3)

    def arguments(self, device: torch.device | str = "cpu") -> tuple[list[Tensor], dict[str, Any]]:
        """The positional and keyword arguments on a device, laid out."""
        tensors = (self.values, self.source_times, self.target_times)
        placed = [lay_out(tensor.to(device), layout) for tensor, layout in zip(tensors, self.layouts, strict=True)]
        lengths = None if self.source_lengths is None else self.source_lengths.to(device)
        return placed, {"mode": self.mode, "outside": self.outside, "source_lengths": lengths}

    def is_batched(self) -> bool:
        """True where the first axis of the values is the batch."""
        shared = self.source_times.dim() == 1 and self.target_times.dim() == 1
        return not shared or (self.values.dim() > 2 and self.values.shape[1] == self.source_times.shape[0])

    def modes(self) -> list[str]:
        """The mode of each channel."""
        return channel_modes(self.mode, math.prod(self.values.shape[2 if self.is_batched() else 1 :]))

    def agrees(self, found: Tensor, expected: Tensor, emulated: bool = False) -> None:
        """Fails as :func:`assert_agrees` does."""
        assert_agrees(found, expected, self.modes(), self.values, self, emulated)

    def __str__(self) -> str:
        lengths = None if self.source_lengths is None else self.source_lengths.tolist()
        shapes = [list(tensor.shape) for tensor in (self.values, self.source_times, self.target_times)]
        types = f"{self.values.dtype} at {self.source_times.dtype}"
        return f"{types} {shapes} {self.mode!r} {self.outside!r} lengths {lengths} {self.layouts}"


def random_values(rng: np.random.Generator, shape: list[int], dtype: torch.dtype, special: bool) -> Tensor:
    """Normal numbers, with zeros of both signs, denormals, infinities and NaN among them where asked for."""
    if dtype == torch.bool:
        return torch.from_numpy(rng.integers(0, 2, shape).astype(bool))
    if not dtype.is_floating_point:
        return torch.from_numpy(rng.integers(-(2**63), 2**63 - 1, shape, dtype=np.int64)).to(dtype)
    values = rng.standard_normal(shape)
    if special:
        tiny = float(torch.finfo(dtype).smallest_normal)
        huge = float(torch.finfo(dtype).max)
        odd = np.array([0.0, -0.0, tiny / 4, -tiny / 8, np.inf, -np.inf, np.nan, huge, -huge, 1.0])
        values = np.where(rng.random(shape) < 0.2, rng.choice(odd, shape), values)
    return torch.from_numpy(np.asarray(values)).to(dtype)


def tame(rng: np.random.Generator, values: Tensor, samples: int, modes: list[str]) -> Tensor:
    """The values without what slerp and pchip have no definition for, and with quaternions of every kind.

    ``modes`` has one for each channel: the axes after the samples, `[..., S, D...]`.
    """
    curved = torch.tensor([mode in ("slerp", "pchip") for mode in modes], dtype=torch.bool)
    if not bool(curved.any()) or values.numel() == 0:
        return values
    flat = values.reshape(values.numel() // (samples * len(modes)), samples, len(modes)).clone()
    wild = flat.isinf() | (flat.abs() > 1e4) | ((flat.abs() < 1e-30) & (flat != 0))
    flat = torch.where(wild & curved, torch.ones_like(flat), flat)
    turned = [channel for channel, mode in enumerate(modes) if mode == "slerp"]
    for first in range(0, len(turned), 4):
        quaternion = flat[..., turned[first : first + 4]].double()
        kind = float(rng.random())
        if kind < 0.4:
            quaternion = quaternion / quaternion.norm(dim=-1, keepdim=True)
        elif kind < 0.6:  # a slow turn, as a robot's log has it
            start = quaternion[..., :1, :]
            quaternion = start + 10.0 ** -float(rng.integers(1, 9)) * quaternion
        signs = torch.from_numpy(rng.choice([1.0, -1.0], quaternion.shape[:-1])).unsqueeze(-1)
        if kind > 0.8:  # equal and opposite neighbours
            quaternion = quaternion[..., :1, :].expand_as(quaternion)
        flat[..., turned[first : first + 4]] = (quaternion * signs).to(flat.dtype)
    return flat.reshape(values.shape)


def random_times(rng: np.random.Generator, rows: int, samples: int, dtype: torch.dtype) -> Tensor:
    """Ascending rows: a jittered clock, sometimes with equal neighbours, sometimes since the epoch."""
    steps = rng.exponential(1.0, (rows, samples)) + 0.01
    if rng.random() < 0.3:
        steps[rng.random((rows, samples)) < 0.3] = 0.0
    times = torch.from_numpy(np.cumsum(steps, axis=1))
    if dtype == torch.int64:
        start = int(rng.choice([0, -50, EPOCH, -(2**63), 2**63 - 1 - 2000 * (samples + 20)]))
        ticks = (times * int(rng.choice([1, 7, 1000]))).to(torch.int64).clamp(max=2000 * (samples + 10))
        return ticks + start
    return times.to(dtype) + float(rng.choice([0.0, -3.0, 1.7e9]) if dtype == torch.float64 else 0.0)


def random_targets(rng: np.random.Generator, source: Tensor, rows: int, count: int) -> Tensor:
    """Within, on and outside of the source times, in any order; NaN and infinities for floating times."""
    samples = source.shape[1]
    pick = torch.from_numpy(rng.integers(0, samples, (rows, count)))
    after = torch.from_numpy(rng.integers(0, samples, (rows, count)))
    base = source.expand(rows, samples) if source.shape[0] == 1 else source[:rows]
    low, high = base.gather(1, torch.minimum(pick, after)), base.gather(1, torch.maximum(pick, after))
    kind = torch.from_numpy(rng.random((rows, count)))
    if source.dtype == torch.int64:
        between = low + ((high - low) * torch.from_numpy(rng.random((rows, count)))).to(torch.int64)
        near = torch.from_numpy(rng.integers(-30, 30, (rows, count)))
        # Not past the ends of int64.
        roomy = (low < 2**63 - 31) & (low > -(2**63) + 31)
        targets = torch.where(kind < 0.7, between, torch.where(roomy, low + near, low))
    else:
        between = low + (high - low) * torch.from_numpy(rng.random((rows, count))).to(source.dtype)
        wide = torch.from_numpy(rng.standard_normal((rows, count)) * 5).to(source.dtype)
        targets = torch.where(kind < 0.6, between, low + wide)
        odd = torch.from_numpy(rng.choice([np.nan, np.inf, -np.inf], (rows, count))).to(source.dtype)
        targets = torch.where(kind > 0.97, odd, targets)
    targets = torch.where((kind > 0.3) & (kind < 0.5), low, targets)
    return targets.sort(dim=1).values if rng.random() < 0.5 else targets


def random_mode(rng: np.random.Generator, channels: int, names: list[str]) -> str:
    """One mode, or groups that cover the channels."""

    def fitting(width: int) -> str:
        return str(rng.choice([name for name in names if name != "slerp" or width % 4 == 0]))

    if channels < 2 or rng.random() < 0.5:
        return fitting(channels)
    unit = 4 if channels > 4 and rng.random() < 0.5 else 1
    cuts = sorted({int(cut) * unit for cut in rng.integers(1, -(-channels // unit), int(rng.integers(1, 4)))})
    widths = np.diff([0, *cuts, channels]).tolist()
    groups = [f"{fitting(width)}:{width}" for width in widths]
    if rng.random() < 0.5:
        groups[-1] = groups[-1].split(":")[0] + ":*"
    return ",".join(groups)


def random_case(rng: np.random.Generator, dtypes: list[torch.dtype] | None = None, special: bool = True) -> Case:
    """A small call over everything that the contract allows."""
    batch, samples = int(rng.choice([0, 1, 2, 3, 5])), int(rng.choice([1, 2, 3, 8, 33]))
    targets = int(rng.choice([0, 1, 2, 7, 40]))
    trailing = [[], [0], [1], [3], [4], [8], [17], [32], [67], [2, 3], [4, 2, 2]][int(rng.integers(0, 11))]
    dtypes = dtypes or DTYPES
    dtype = dtypes[int(rng.integers(0, len(dtypes)))]
    time_dtype = TIMES[int(rng.integers(0, 3))]
    names = MODES if dtype.is_floating_point else COPIES
    shared_source, shared_target = bool(rng.random() < 0.2), bool(rng.random() < 0.2)
    unbatched = bool(rng.random() < 0.15)
    if shared_source and shared_target and not unbatched and not trailing:
        shared_target = False  # [B, S] with both times shared would read as one unbatched [S, D]
    rows = 1 if unbatched else batch
    source = random_times(rng, 1 if shared_source or unbatched else max(rows, 1), samples, time_dtype)
    target = random_targets(rng, source, 1 if shared_target or unbatched else max(rows, 1), targets)
    mode = random_mode(rng, math.prod(trailing), names)
    rules = [rule for rule in OUTSIDE if rule != "nan" or dtype.is_floating_point]
    if any(name in mode for name in MODES if name != "linear"):
        rules.remove("extrapolate")
    lengths = None
    if rng.random() < 0.3:
        lengths = torch.from_numpy(rng.integers(1, samples + 1, rows)).to(rng.choice([torch.int32, torch.int64]))
    if unbatched and len(trailing) >= 2:
        trailing = [trailing[0] + samples, *trailing[1:]]  # its second axis must not pass for the samples
        mode = mode if ":" not in mode else mode.split(":")[0]
        if mode == "slerp" and math.prod(trailing) % 4:
            mode = "linear"
    values = random_values(rng, ([samples] if unbatched else [rows, samples]) + trailing, dtype, special)
    values = tame(rng, values, samples, channel_modes(mode, math.prod(trailing)))
    return Case(
        values,
        source[0] if shared_source or unbatched else source[:rows],
        target[0] if shared_target or unbatched else target[:rows],
        mode,
        str(rng.choice(rules)),
        lengths,
        [str(rng.choice(LAYOUTS)) for _ in range(3)],
    )
