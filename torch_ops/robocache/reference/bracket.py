"""Where each target lies between the source times: what `resample`, `resample_mask` and `fuse` share."""

from __future__ import annotations

import torch
from torch import Tensor


class Bracket:
    """The two samples that each target blends, the weight of the later one, and which end rule holds.

    All tensors are [B, T] unless said otherwise.
    """

    def __init__(self, source: Tensor, target: Tensor, lengths: Tensor | None, outside: str) -> None:
        samples = source.shape[1]
        count = torch.full_like(source[:, :1], samples, dtype=torch.int64)  # [B, 1]
        if lengths is not None:
            count = lengths.to(torch.int64).clamp(1, samples).unsqueeze(1)
            # The tail of a short row may hold anything: make it the row's last time, so that the row ascends.
            tail = torch.arange(samples, device=source.device) >= count
            source = torch.where(tail, source.gather(1, count - 1), source)
        last = count - 1
        self.source, self.last = source, last  # [B, S], [B, 1]
        invalid = torch.isnan(target)
        upper = torch.searchsorted(source.detach().contiguous(), target.detach().contiguous(), right=True)
        # An infinite target is outside even where a source time is infinite too.
        upper = torch.where(target == -torch.inf, 0, torch.where(target == torch.inf, samples, upper))
        index = torch.minimum(upper, count) - 1  # the last sample at or before the target; -1: before the first
        before = index < 0
        ended = index >= last  # at the last sample or past it
        past = ended & ((target != source.gather(1, last)) | torch.isinf(target))
        self.inside = ~(invalid | before | past)  # from the first sample to the last one
        self.filled = invalid | ((before | past) if outside in ("nan", "zero") else torch.zeros_like(invalid))
        self.fill = torch.where(invalid, torch.nan, 0.0 if outside == "zero" else torch.nan).unsqueeze(-1)

        # `live`: the result is a point between samples `low` and `low + 1`, or of their line. Else `low` is copied.
        held = index.clamp(min=0)
        low = torch.minimum(held, (last - 1).clamp(min=0))
        high = torch.minimum(low + 1, last)
        start, stop = source.gather(1, low), source.gather(1, high)
        between = ~before & ~ended
        extended = (before | past) if outside == "extrapolate" else torch.zeros_like(invalid)
        self.live = (stop > start) & ~invalid & (between | extended)
        self.hit = self.inside & (target == source.gather(1, held))  # the target is a sample's time
        self.low = torch.where(self.live, low, held)
        self.high = torch.where(self.live, high, self.low)
        self.start, self.stop = start, stop  # the bracket's times, where it is live
        self.weight = _weight(target, start, stop, self.live)  # f64

    def neighbours(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Indices of the samples around the bracket, and the lengths of their gaps in units of the bracket's, in f64.

        A neighbour that is not there, or that an equal time cuts off, is the bracket's own sample; its gap is 0.
        """
        before, after = (self.low - 1).clamp(min=0), torch.minimum(self.high + 1, self.last)
        times = [self.source.gather(1, index).detach() for index in (before, after)]
        low, high = self.start.detach(), self.stop.detach()
        left, right = self.live & (times[0] < low), self.live & (times[1] > high)
        whole = torch.where(self.live, difference(high, low), 1.0)
        gaps = torch.where(left, difference(low, times[0]), 0.0), torch.where(right, difference(times[1], high), 0.0)
        before, after = torch.where(left, before, self.low), torch.where(right, after, self.high)
        return before, after, gaps[0] / whole, gaps[1] / whole


def difference(later: Tensor, earlier: Tensor) -> Tensor:
    """``later - earlier`` in f64, taken in the times' own type, for int64 without overflow."""
    if later.dtype.is_floating_point:
        return (later - earlier).double()
    return _unsigned_to_f64(later - earlier)


def _weight(target: Tensor, start: Tensor, stop: Tensor, live: Tensor) -> Tensor:
    """``(target - start) / (stop - start)`` in f64, from differences in the times' own type; 0 where not live."""
    if not target.dtype.is_floating_point:
        # Differences of int64 fit in 64 bits without a sign; below the first sample it is the negative one that fits.
        below = target < start
        part = _unsigned_to_f64(torch.where(below, start - target, target - start))
        part = torch.where(below, -part, part)
    else:
        part = (target - start).double()
    # Both are masked, not the quotient: autograd would multiply a masked infinity by zero.
    return torch.where(live, part, 0.0) / torch.where(live, difference(stop, start), 1.0)


def _unsigned_to_f64(bits: Tensor) -> Tensor:
    """An int64 tensor read as unsigned 64-bit numbers, rounded once to f64."""
    # Above 2^63: halve, keep the lost bit as a sticky one so that rounding stays right, and double again.
    halved = ((bits >> 1) & torch.iinfo(torch.int64).max) | (bits & 1)
    return torch.where(bits < 0, halved.double() * 2.0, bits.double())
