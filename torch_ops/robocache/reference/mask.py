"""`resample_mask` in plain PyTorch."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from robocache.reference.bracket import Bracket
from robocache.reference.checks import (
    check_contents,
    check_device,
    check_length_type,
    check_same_type,
    check_shape,
    check_source_axes,
    check_target_shape,
    check_time_type,
    refuse,
)

OP = "resample_mask"


def resample_mask(
    source_times: Tensor,  # [B, S] or [S], ascending
    target_times: Tensor,  # [B, T] or [T], any order
    *,
    max_gap: float | int | None = None,  # in the unit of the times
    source_lengths: Tensor | None = None,  # [B], each in [1, S]
) -> Tensor:  # [B, T] bool, or [T]
    """Says which targets lie within the data, as ``torch.ops.robocache.resample_mask`` does, with plain PyTorch.

    >>> times = torch.tensor([0.0, 1.0, 5.0])
    >>> resample_mask(times, torch.tensor([-1.0, 0.5, 3.0, 5.0]), max_gap=2.0).tolist()
    [False, True, False, True]
    """
    if isinstance(max_gap, (bool, complex)):
        found = "bool" if isinstance(max_gap, bool) else "complex128"
        raise TypeError(refuse(OP, "max_gap", "be a real number", found))
    batch = _check(source_times, target_times, source_lengths)
    if max_gap is not None and not max_gap >= 0:  # a NaN is not either
        raise ValueError(refuse(OP, "max_gap", "be at least 0", max_gap))
    samples = source_times.shape[-1]
    check_contents(OP, "source_times", source_times, source_lengths, samples)
    source = source_times.detach().expand(batch, samples)
    target = target_times.detach().expand(batch, target_times.shape[-1])
    bracket = Bracket(source, target, source_lengths, "hold")
    mask = bracket.inside
    if max_gap is not None:
        mask = mask & (bracket.hit | _at_most(bracket.start, bracket.stop, max_gap))
    single = source_times.dim() == 1 and target_times.dim() == 1 and source_lengths is None
    return mask.squeeze(0) if single else mask


def _at_most(start: Tensor, stop: Tensor, gap: float | int) -> Tensor:
    """True where ``stop - start <= gap``, in the times' own type."""
    if start.dtype.is_floating_point:
        return stop - start <= torch.tensor(gap, dtype=start.dtype, device=start.device)
    # Differences of int64 fit in 64 bits without a sign: those that look negative are 2^63 and more.
    bits, whole = stop - start, 2**64 if math.isinf(gap) else math.floor(gap)
    if whole >= 2**64 - 1:
        return torch.ones_like(bits, dtype=torch.bool)
    if whole >= 2**63:
        return (bits >= 0) | (bits <= whole - 2**64)
    return (bits >= 0) & (bits <= whole)


def _check(source: Tensor, target: Tensor, lengths: Tensor | None) -> int:
    """Refuses wrong types, devices and shapes; returns the rows of the batch."""
    check_time_type(OP, "source_times", source)
    check_same_type(OP, "target_times", target, "source_times", source)
    check_length_type(OP, lengths)
    for argument, tensor in (("target_times", target), ("source_lengths", lengths)):
        check_device(OP, argument, tensor, "source_times", source)
    check_source_axes(OP, "source_times", source)
    if source.shape[-1] == 0:
        raise ValueError(refuse(OP, "source_times", "have at least one sample", f"shape {list(source.shape)}"))
    batch = 1
    if source.dim() == 2:
        batch = source.shape[0]
    elif target.dim() == 2:
        batch = target.shape[0]
    elif lengths is not None and lengths.dim() == 1:
        batch = lengths.shape[0]
    check_target_shape(OP, target, batch)
    if lengths is not None:
        check_shape(OP, "source_lengths", lengths, [batch])
    return batch
