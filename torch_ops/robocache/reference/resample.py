"""`resample` in plain PyTorch."""

from __future__ import annotations

import torch
from torch import Tensor

from robocache.reference import blend
from robocache.reference.bracket import Bracket
from robocache.reference.checks import (
    HALVES,
    UNSIGNED,
    check_contents,
    check_device,
    check_length_type,
    check_same_type,
    check_shape,
    check_source_axes,
    check_target_shape,
    check_time_type,
    check_value_type,
    refuse,
)
from robocache.reference.fma import round_to_odd
from robocache.reference.modes import Groups, check_modes, read_groups

OP = "resample"


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
    last bit in every mode but ``slerp`` and ``pchip``; f64 blends do so as long as the products of weights and
    differences are normal numbers. ``slerp`` and ``pchip`` agree to rounding, and so do gradients: autograd adds in its
    own order.

    >>> values = torch.tensor([[[0.0], [10.0]]])
    >>> resample(values, torch.tensor([[0.0, 1.0]]), torch.tensor([[0.25, 2.0]])).flatten().tolist()
    [2.5, 10.0]
    """
    batched = _check(values, source_times, target_times, source_lengths)
    trailing = values.shape[2:] if batched else values.shape[1:]
    flat = values if batched else values.unsqueeze(0)
    flat = flat.reshape(*flat.shape[:2], trailing.numel())
    groups = read_groups(OP, mode, flat.shape[2])
    check_modes(OP, values.dtype, groups, outside)
    check_contents(OP, "source_times", source_times, source_lengths, flat.shape[1])
    result = interpolate(flat, source_times, target_times, groups, outside, source_lengths)
    result = result.reshape(*result.shape[:2], *trailing).contiguous()
    return result if batched else result.squeeze(0)


def interpolate(
    values: Tensor,  # [B, S, D]
    source_times: Tensor,  # [B, S] or [S]
    target_times: Tensor,  # [B, T] or [T]
    groups: Groups,
    outside: str,
    source_lengths: Tensor | None,  # [B]
) -> Tensor:  # [B, T, D]
    """The result for checked arguments."""
    source = source_times.expand(values.shape[:2])
    target = target_times.expand(values.shape[0], target_times.shape[-1])
    bracket = Bracket(source, target, source_lengths, outside)
    parts, start = [], 0
    for name, width in groups or [("previous", 0)]:  # a stream without channels has no group
        parts.append(_of_group(bracket, values.narrow(2, start, width), name))
        start += width
    # PyTorch does not join wide unsigned integers.
    result = parts[0] if len(parts) == 1 else torch.cat([_signed(part) for part in parts], dim=2)
    return _of_type(result, values.dtype)


def _of_group(bracket: Bracket, values: Tensor, mode: str) -> Tensor:  # [B, S, width] -> [B, T, width]
    """The result for channels that share one mode."""
    dtype = values.dtype
    values = _signed(values)
    weight = bracket.weight.unsqueeze(-1)
    if mode in ("linear", "angle", "slerp", "pchip"):
        # Gathered in the compute type, so that the gradients of half values are added in f32 too.
        compute = torch.float64 if dtype == torch.float64 or mode == "slerp" else torch.float32
        values, weight = values.to(compute), weight.to(compute)
        low, high = _take(values, bracket.low), _take(values, bracket.high)
        if mode == "linear":
            result = blend.linear(low, high, weight)
        elif mode == "angle":
            result = blend.angle(low, high, weight.detach())
        elif mode == "slerp":
            result = blend.slerp(low, high, weight.detach())
            result = round_to_odd(result) if dtype in HALVES else result
        else:
            before, after, *gaps = bracket.neighbours()
            left, right = (gap.unsqueeze(-1).to(compute) for gap in gaps)
            curve = _take(values, before), low, high, _take(values, after)
            result = blend.pchip(curve, (left, right), weight.detach())
    elif mode == "previous":
        result = _take(values, bracket.low)
    else:
        moves = weight != 0 if mode == "next" else ~(weight <= 0.5)
        result = _take(values, torch.where(moves.squeeze(-1), bracket.high, bracket.low))
    filled = bracket.filled.unsqueeze(-1)
    if dtype.is_floating_point:
        result = torch.where(filled, bracket.fill.to(result.dtype), result)
    else:
        result = result.masked_fill(filled, 0)
    return _of_type(result, dtype)


def _take(values: Tensor, index: Tensor) -> Tensor:  # [B, S, D], [B, T] -> [B, T, D]
    return values.gather(1, index.unsqueeze(-1).expand(-1, -1, values.shape[2]))


def _signed(values: Tensor) -> Tensor:
    """The same bits as a signed type: PyTorch neither indexes nor joins wide unsigned integers."""
    return values.contiguous().view(UNSIGNED[values.dtype]) if values.dtype in UNSIGNED else values


def _of_type(result: Tensor, dtype: torch.dtype) -> Tensor:
    """Undoes ``_signed``; other types are converted."""
    return result.view(dtype) if dtype in UNSIGNED else result.to(dtype)


def _check(values: Tensor, source: Tensor, target: Tensor, lengths: Tensor | None) -> bool:
    """Refuses wrong types, devices and shapes; returns whether ``values`` has a batch axis."""
    check_value_type(OP, "values", values)
    check_time_type(OP, "source_times", source)
    check_same_type(OP, "target_times", target, "source_times", source)
    check_length_type(OP, lengths)
    for argument, tensor in (("source_times", source), ("target_times", target), ("source_lengths", lengths)):
        check_device(OP, argument, tensor, "values", values)

    shape = list(values.shape)
    check_source_axes(OP, "source_times", source)
    shared = source.dim() == 1 and target.dim() == 1
    if len(shape) < (1 if shared else 2):
        raise ValueError(refuse(OP, "values", "have shape [B, S, D...] or [S, D...]", shape))
    # With both times shared a rank of 3 or more is read as a batch if its second axis has the samples.
    samples = source.shape[-1]
    batched = not shared or (len(shape) >= 3 and (shape[1] == samples or shape[0] != samples))
    batch, expected = (shape[0], shape[1]) if batched else (1, shape[0])
    if expected == 0:
        raise ValueError(refuse(OP, "values", "have at least one sample", f"shape {shape}"))
    check_shape(OP, "source_times", source, [expected] if source.dim() == 1 else [batch, expected])
    check_target_shape(OP, target, batch)
    if lengths is not None:
        check_shape(OP, "source_lengths", lengths, [batch])
    return batched
