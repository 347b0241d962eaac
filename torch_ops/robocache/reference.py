"""Each operator in plain PyTorch: the definition that the fast implementations are tested against.

These functions run on any device, need no library, and are differentiable (twice) by autograd alone. They favour plain
reading over speed. What they promise is the contract's page; where a rule needs a reason, it stands beside the line.
"""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import Tensor

__all__ = ["resample"]

_MODES = ("linear", "previous", "next", "nearest")
_OUTSIDE = ("hold", "nan", "zero", "extrapolate")
_HALVES = (torch.float16, torch.bfloat16)
_FLOATS = (torch.float64, torch.float32, *_HALVES)
_UNSIGNED = {torch.uint16: torch.int16, torch.uint32: torch.int32, torch.uint64: torch.int64}
_INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, *_UNSIGNED, torch.bool)
_TIMES = (torch.float32, torch.float64, torch.int64)


def resample(
    values: Tensor,  # [B, S, D...], or [S, D...] with 1-D times
    source_times: Tensor,  # [B, S] or [S], ascending
    target_times: Tensor,  # [B, T] or [T], any order
    *,
    mode: str = "linear",
    outside: str = "hold",
    source_lengths: Tensor | None = None,  # [B], each in [1, S]
) -> Tensor:  # [B, T, D...], or [T, D...]
    """Resamples ``values`` to ``target_times``, as ``torch.ops.robocache.resample`` does, with plain PyTorch.

    Values (f64, f32, f16, bf16, integers, bool), copied samples and the `w == 0` rule agree with the operator to the
    last bit; f64 blends do so as long as the products of weights and differences are normal numbers. Gradients agree to
    rounding: autograd adds in its own order.

    >>> values = torch.tensor([[[0.0], [10.0]]])
    >>> resample(values, torch.tensor([[0.0, 1.0]]), torch.tensor([[0.25, 2.0]])).flatten().tolist()
    [2.5, 10.0]
    """
    batched = _check(values, source_times, target_times, source_lengths)
    trailing = values.shape[2:] if batched else values.shape[1:]
    flat = values if batched else values.unsqueeze(0)
    flat = flat.reshape(*flat.shape[:2], trailing.numel())
    groups = _groups(mode, flat.shape[2])
    _check_modes(values.dtype, groups, outside)

    source = source_times.expand(flat.shape[:2])
    target = target_times.expand(flat.shape[0], target_times.shape[-1])
    _check_data(source_times, source_lengths, flat.shape[1])
    bracket = _Bracket(source, target, source_lengths, outside)

    parts, start = [], 0
    for name, width in groups:
        parts.append(bracket.blend(flat.narrow(2, start, width), name))
        start += width
    result = parts[0] if len(parts) == 1 else torch.cat([_signed(part) for part in parts], dim=2)
    result = _of_type(result, values.dtype)
    result = result.reshape(*result.shape[:2], *trailing).contiguous()
    return result if batched else result.squeeze(0)


class _Bracket:
    """Where each target lies: the two samples that it blends, the weight, and which end rule holds."""

    def __init__(self, source: Tensor, target: Tensor, lengths: Tensor | None, outside: str) -> None:
        samples = source.shape[1]
        count = torch.full_like(source[:, :1], samples, dtype=torch.int64)  # [B, 1]
        if lengths is not None:
            count = lengths.to(torch.int64).clamp(1, samples).unsqueeze(1)
            # The tail of a short row may hold anything: make it the row's last time, so that the row ascends.
            tail = torch.arange(samples, device=source.device) >= count
            source = torch.where(tail, source.gather(1, count - 1), source)
        last = count - 1
        invalid = torch.isnan(target)
        upper = torch.searchsorted(source.detach().contiguous(), target.detach().contiguous(), right=True)
        # An infinite target is outside even where a source time is infinite too.
        upper = torch.where(target == -torch.inf, 0, torch.where(target == torch.inf, samples, upper))
        index = torch.minimum(upper, count) - 1  # the last sample at or before the target; -1: before the first
        before = index < 0
        ended = index >= last  # at the last sample or past it
        past = ended & ((target != source.gather(1, last)) | torch.isinf(target))
        self.filled = invalid | ((before | past) if outside in ("nan", "zero") else torch.zeros_like(invalid))
        self.fill = torch.where(invalid, torch.nan, 0.0 if outside == "zero" else torch.nan).unsqueeze(-1)

        # `live`: the result is a point of the line through samples `low` and `low + 1`. Else sample `low` is copied.
        held = index.clamp(min=0)
        low = torch.minimum(held, (last - 1).clamp(min=0))
        high = torch.minimum(low + 1, last)
        start, stop = source.gather(1, low), source.gather(1, high)
        inside = ~before & ~ended
        extended = (before | past) if outside == "extrapolate" else torch.zeros_like(invalid)
        live = (stop > start) & ~invalid & (inside | extended)
        self.low = torch.where(live, low, held)
        self.high = torch.where(live, high, self.low)
        self.weight = _weight(target, start, stop, live)  # [B, T], f64

    def blend(self, values: Tensor, mode: str) -> Tensor:  # [B, S, width] -> [B, T, width]
        """The result for channels that share one mode."""
        dtype = values.dtype
        values = _signed(values)
        weight = self.weight.unsqueeze(-1)
        if mode == "linear":
            # Gathered in the compute type, so that the gradients of half values are added in f32 too.
            compute = torch.float64 if dtype == torch.float64 else torch.float32
            values = values.to(compute)
            low, high = _take(values, self.low), _take(values, self.high)
            result: Tensor = _Blend.apply(low, high, weight.to(compute))  # type: ignore[no-untyped-call]
        elif mode == "previous":
            result = _take(values, self.low)
        else:
            moves = weight != 0 if mode == "next" else ~(weight <= 0.5)
            result = _take(values, torch.where(moves.squeeze(-1), self.high, self.low))
        filled = self.filled.unsqueeze(-1)
        if dtype.is_floating_point:
            result = torch.where(filled, self.fill.to(result.dtype), result)
        else:
            result = result.masked_fill(filled, 0)
        return _of_type(result, dtype)


def _weight(target: Tensor, start: Tensor, stop: Tensor, live: Tensor) -> Tensor:
    """``(target - start) / (stop - start)`` in f64, from differences in the times' own type; 0 where not live."""
    if not target.dtype.is_floating_point:
        # Differences of int64 fit in 64 bits without a sign; below the first sample it is the negative one that fits.
        below = target < start
        part = _unsigned_to_f64(torch.where(below, start - target, target - start))
        part, whole = torch.where(below, -part, part), _unsigned_to_f64(stop - start)
    else:
        part, whole = (target - start).double(), (stop - start).double()
    # Both are masked, not the quotient: autograd would multiply a masked infinity by zero.
    return torch.where(live, part, 0.0) / torch.where(live, whole, 1.0)


def _unsigned_to_f64(bits: Tensor) -> Tensor:
    """An int64 tensor read as unsigned 64-bit numbers, rounded once to f64."""
    # Above 2^63: halve, keep the lost bit as a sticky one so that rounding stays right, and double again.
    halved = ((bits >> 1) & torch.iinfo(torch.int64).max) | (bits & 1)
    return torch.where(bits < 0, halved.double() * 2.0, bits.double())


class _Blend(torch.autograd.Function):
    """``fma(w, high - low, low)``, and ``low`` itself where ``w == 0`` whatever ``high`` holds."""

    @staticmethod
    def forward(ctx: Any, low: Tensor, high: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(low, high, weight)
        return torch.where(weight == 0, low, _fma(weight, high - low, low))

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor, Tensor, Tensor]:
        # A copied sample keeps the line's gradient to the weight: the slope of the bracket to its right.
        low, high, weight = ctx.saved_tensors
        (grad,) = grads
        return grad * (1.0 - weight), grad * weight, (grad * (high - low)).sum(-1, keepdim=True)


def _fma(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """``a * b + c`` rounded once, which PyTorch has no function for."""
    if a.dtype == torch.float32:
        # The product of two f32 is exact in f64; a sum rounded to odd there rounds to f32 as the exact sum would.
        return _sum_to_odd(a.double() * b.double(), c.double()).float()
    # Near the end of the range the parts overflow where the result may not: there the same on numbers scaled down.
    scale = 2.0**-64
    exact, scaled = _fma_in_parts(a, b, c), _fma_in_parts(a, b * scale, c * scale) / scale
    # Neither is right about infinities, and a sum of parts forgets the sign of a zero.
    plain = (a * (b * scale) + c * scale) / scale
    result = torch.where(torch.isfinite(exact), exact, torch.where(torch.isnan(scaled), plain, scaled))
    return torch.where(result == 0, plain, result)


def _fma_in_parts(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """In f64; exact unless a part is subnormal or infinite.

    Source: Boldo and Melquiond, "Emulation of FMA and correctly rounded sums" (2008).
    """
    product, product_error = _two_product(a, b)
    low, low_error = _two_sum(c, product_error)
    high, high_error = _two_sum(product, low)
    return high + _sum_to_odd(low_error, high_error)


def _two_sum(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    total = a + b
    part = total - a
    return total, (a - (total - part)) + (b - part)


def _two_product(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    product = a * b
    (a_high, a_low), (b_high, b_low) = _halve(a), _halve(b)
    return product, ((a_high * b_high - product) + a_high * b_low + a_low * b_high) + a_low * b_low


def _halve(a: Tensor) -> tuple[Tensor, Tensor]:
    """Two f64 of at most 26 bits each whose sum is ``a``, so that products of them are exact."""
    scaled = a * 134217729.0  # 2^27 + 1
    high = scaled - (scaled - a)
    return high, a - high


def _sum_to_odd(a: Tensor, b: Tensor) -> Tensor:
    """``a + b`` in f64, rounded to the neighbour whose last bit is odd unless exact."""
    total, error = _two_sum(a, b)
    even = (total.contiguous().view(torch.int64) & 1) == 0
    inexact = torch.isfinite(total) & (error != 0)
    towards = torch.where(error > 0, torch.inf, -torch.inf).to(total.dtype)
    return torch.where(inexact & even, torch.nextafter(total, towards), total)


def _take(values: Tensor, index: Tensor) -> Tensor:  # [B, S, D], [B, T] -> [B, T, D]
    return values.gather(1, index.unsqueeze(-1).expand(-1, -1, values.shape[2]))


def _signed(values: Tensor) -> Tensor:
    """The same bits as a signed type: PyTorch neither indexes nor joins wide unsigned integers."""
    return values.contiguous().view(_UNSIGNED[values.dtype]) if values.dtype in _UNSIGNED else values


def _of_type(result: Tensor, dtype: torch.dtype) -> Tensor:
    """Undoes ``_signed``; other types are converted."""
    return result.view(dtype) if dtype in _UNSIGNED else result.to(dtype)


def _refuse(argument: str, must: str, found: object) -> str:
    return f"resample: {argument} must {must}, got {found}"


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _check(values: Tensor, source: Tensor, target: Tensor, lengths: Tensor | None) -> bool:
    """Refuses wrong types, devices and shapes; returns whether ``values`` has a batch axis."""
    if values.dtype not in _FLOATS and values.dtype not in _INTEGERS:
        types = "be float64, float32, float16, bfloat16, an integer type or bool"
        raise TypeError(_refuse("values", types, _name(values.dtype)))
    if source.dtype not in _TIMES:
        raise TypeError(_refuse("source_times", "be float32, float64 or int64", _name(source.dtype)))
    if target.dtype != source.dtype:
        raise TypeError(_refuse("target_times", f"be {_name(source.dtype)} (as source_times)", _name(target.dtype)))
    if lengths is not None and lengths.dtype not in (torch.int32, torch.int64):
        raise TypeError(_refuse("source_lengths", "be int32 or int64", _name(lengths.dtype)))
    for argument, tensor in (("source_times", source), ("target_times", target), ("source_lengths", lengths)):
        if tensor is not None and tensor.device != values.device:
            raise ValueError(_refuse(argument, f"be on {values.device} (as values)", tensor.device))

    shape = list(values.shape)
    if source.dim() not in (1, 2):
        raise ValueError(_refuse("source_times", "have shape [B, S] or [S]", list(source.shape)))
    shared = source.dim() == 1 and target.dim() == 1
    if len(shape) < (1 if shared else 2):
        raise ValueError(_refuse("values", "have shape [B, S, D...] or [S, D...]", shape))
    # With both times shared a rank of 3 or more is read as a batch if its second axis has the samples.
    samples = source.shape[-1]
    batched = not shared or (len(shape) >= 3 and (shape[1] == samples or shape[0] != samples))
    batch, expected = (shape[0], shape[1]) if batched else (1, shape[0])
    if expected == 0:
        raise ValueError(_refuse("values", "have at least one sample", f"shape {shape}"))
    wanted = [expected] if source.dim() == 1 else [batch, expected]
    if list(source.shape) != wanted:
        raise ValueError(_refuse("source_times", f"have shape {wanted}", list(source.shape)))
    if target.dim() != 1 and (target.dim() != 2 or target.shape[0] != batch):
        raise ValueError(_refuse("target_times", f"have shape [B, T] or [T] with B = {batch}", list(target.shape)))
    if lengths is not None and list(lengths.shape) != [batch]:
        raise ValueError(_refuse("source_lengths", f"have shape {[batch]}", list(lengths.shape)))
    return batched


def _groups(mode: str, channels: int) -> list[tuple[str, int]]:
    """The mode and the width of each group of channels, from left to right."""
    fields = [mode + ":*"] if ":" not in mode and "," not in mode else mode.split(",")
    groups, covered = [], 0
    for position, field in enumerate(fields):
        name, colon, width = field.partition(":")
        if not colon:
            raise ValueError(_refuse("mode", "have groups NAME:WIDTH separated by commas", f'"{mode}"'))
        if name not in _MODES:
            raise ValueError(_refuse("mode", f"be made of {', '.join(_MODES)}", f'"{name}"'))
        if width == "*" and position < len(fields) - 1:
            raise ValueError(_refuse("mode", "have * in the last group only", f'"{mode}"'))
        if width != "*" and not (width.isascii() and width.isdigit() and 0 < int(width) < 2**64):
            raise ValueError(_refuse("mode", "have groups NAME:WIDTH separated by commas", f'"{mode}"'))
        groups.append((name, max(channels - covered, 0) if width == "*" else int(width)))
        covered += groups[-1][1]
    if covered != channels:
        found = f'"{mode}", which covers {covered}'
        raise ValueError(_refuse("mode", f"cover the {channels} channels of values", found))
    return groups


def _check_modes(dtype: torch.dtype, groups: list[tuple[str, int]], outside: str) -> None:
    names = [name for name, _ in groups]
    if outside not in _OUTSIDE:
        raise ValueError(_refuse("outside", f"be one of {', '.join(_OUTSIDE)}", f'"{outside}"'))
    if dtype not in _FLOATS and "linear" in names:
        types = 'be float64, float32, float16 or bfloat16 for mode "linear"'
        raise TypeError(_refuse("values", types, _name(dtype)))
    if dtype not in _FLOATS and outside == "nan":
        raise ValueError(_refuse("outside", "be hold or zero for integer values", f'"{outside}"'))
    if outside == "extrapolate" and names != ["linear"] * len(names):
        found = next(name for name in names if name != "linear")
        raise ValueError(f'resample: outside "extrapolate" must go with mode linear only, got mode "{found}"')


def _check_data(source: Tensor, lengths: Tensor | None, samples: int) -> None:
    """Refuses wrong contents; on other devices than the CPU only where asked to, as it waits for the device."""
    checked = source.device.type == "cpu" or os.environ.get("ROBOCACHE_CHECK") == "1"
    if source.is_meta or not checked:
        return
    if lengths is not None:
        for row, length in enumerate(lengths.tolist()):
            if not 1 <= length <= samples:
                raise ValueError(_refuse("source_lengths", f"be in [1, {samples}]", f"{length} in row {row}"))
    rows = source.detach().unsqueeze(0) if source.dim() == 1 else source.detach()
    wrong = ~(rows[:, 1:] >= rows[:, :-1])  # a NaN is out of order too
    if lengths is not None:
        wrong = wrong & (torch.arange(1, samples, device=rows.device) < lengths.unsqueeze(1))
    if bool(wrong.any()):
        row, column = wrong.nonzero()[0].tolist()
        later, earlier = rows[row % rows.shape[0], column + 1].item(), rows[row % rows.shape[0], column].item()
        found = f"{later} after {earlier} in row {row} at sample {column + 1}"
        raise ValueError(_refuse("source_times", "ascend along each row", found))
