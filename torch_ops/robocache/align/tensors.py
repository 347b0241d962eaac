"""Fuses the chosen signals on one clock with `robocache.fuse`, segment by segment."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise

import numpy as np
import torch

import robocache
from robocache.align.clock import NS, Segment, grid, median_interval, segments
from robocache.align.log import Advance, AlignError, Array, Signal
from robocache.align.modes import as_groups
from robocache.align.remarks import remarks

DTYPES = ("float32", "float64")


@dataclass(frozen=True)
class Clock:
    """Where the targets come from: a regular grid, or the stamps of a signal."""

    period: Fraction | None  # ns; None: the stamps of `signal`
    signal: Signal
    why: str


@dataclass(frozen=True)
class Stream:
    """What a segment holds of one signal."""

    signal: Signal
    mode: str
    gap: int | None  # ns
    values: torch.Tensor  # [S, D]
    times: torch.Tensor  # [S] int64 ns


@dataclass(frozen=True)
class Piece:
    """One segment on the common clock."""

    segment: Segment
    times: Array  # [T] int64 ns
    values: torch.Tensor  # [T, D]
    inside: torch.Tensor  # [T, K] bool, true within the first and last sample of signal k
    valid: torch.Tensor  # [T, K] bool, as inside, but false between samples farther apart than --max-gap


@dataclass(frozen=True)
class Aligned:
    """All segments, and how they came about."""

    signals: list[Signal]
    modes: list[str]
    gaps: list[int | None]  # ns: the longest gap of each signal, None: any
    slices: list[tuple[int, int]]  # channels of each signal in values
    clock: Clock
    outside: str
    origin: int  # ns: the earliest sample of the chosen signals, second 0 of everything printed
    pieces: list[Piece]
    notes: list[str]

    @property
    def channels(self) -> list[str]:
        """Names of the channels of values."""
        return [channel for signal in self.signals for channel in signal.channels]

    @property
    def mode(self) -> str:
        """The modes of all channels, as `robocache.resample` takes them for values."""
        parts = zip(self.modes, self.signals, strict=True)
        return ",".join(as_groups(mode, len(signal.channels)) for mode, signal in parts)


def choose_clock(signals: Sequence[Signal], rate: Fraction | None, clock: Signal | None) -> Clock:
    """`--clock`, else `--rate`, else the median rate of the fastest chosen signal."""
    if clock is not None:
        return Clock(None, clock, f"the stamps of {clock.name}")
    if rate is not None:
        return Clock(NS / rate, signals[0], "a regular grid, as asked")
    periods = [(period, signal) for signal in signals if (period := median_interval(signal.times)) is not None]
    if not periods:
        raise AlignError("--rate must be given where no signal has two different stamps, got none")
    period, fastest = min(periods, key=lambda pair: pair[0])
    return Clock(Fraction(period), fastest, f"a regular grid at the median rate of {fastest.name}")


def align(
    signals: list[Signal],
    modes: list[str],
    gaps: list[int | None],
    clock: Clock,
    *,
    span: str,
    start: int | None,
    end: int | None,
    outside: str,
    dtype: str,
    advance: Advance,
) -> Aligned:
    """Fuses the signals over every segment; start and end are ns after the earliest sample."""
    timed = [*signals, clock.signal]  # the clock's topic cuts and spans as the others do
    origin = min(int(signal.times.min()) for signal in signals)
    cut = segments(timed, span)
    notes = remarks(signals, modes, dtype)
    edges = np.cumsum([0] + [len(signal.channels) for signal in signals]).tolist()
    slices = list(pairwise(edges))
    values = [torch.from_numpy(np.ascontiguousarray(signal.values, dtype=dtype)) for signal in signals]
    pieces = []
    for number, segment in enumerate(cut):
        advance(number, len(cut))
        first = segment.start if start is None else max(segment.start, origin + start)
        last = segment.end if end is None else min(segment.end, origin + end)
        targets = _targets(clock, segment, first, last)
        if targets.size == 0:
            what = f"segment {number} " if len(cut) > 1 else ""
            begin, stop = (f"{(stamp - origin) / NS:.6f} s" for stamp in (first, last))
            notes.append(f"{what}has no targets: it would run from {begin} to {stop} after the earliest sample")
            continue
        parts = [signal.between(*segment.rows[signal.topic.name]) for signal in signals]
        streams = [
            Stream(signal, mode, gap, each[part], torch.from_numpy(np.ascontiguousarray(signal.times[part])))
            for signal, mode, gap, each, part in zip(signals, modes, gaps, values, parts, strict=True)
        ]
        pieces.append(_piece(segment, targets, streams, slices, outside))
        fill = 0 if outside == "zero" else "nan"
        empty = [stream.signal.name for stream in streams if not stream.times.numel()]
        notes += [f"{name}: no sample in segment {number}, filled with {fill}" for name in empty]
    if not pieces:
        raise AlignError(f"the clock must have at least one target, got none ({'; '.join(notes)})")
    return Aligned(signals, modes, gaps, slices, clock, outside, origin, pieces, notes)


def _piece(
    segment: Segment, targets: Array, streams: list[Stream], slices: list[tuple[int, int]], outside: str
) -> Piece:
    """Fuses what has samples in one call; what has none is filled, and nowhere inside or valid."""
    clock = torch.from_numpy(targets)
    present = [index for index, stream in enumerate(streams) if stream.times.numel()]
    inside = torch.zeros(targets.size, len(streams), dtype=torch.bool)
    valid = torch.zeros_like(inside)
    values = streams[0].values.new_full((targets.size, slices[-1][1]), 0.0 if outside == "zero" else float("nan"))
    if present:
        given = [streams[index] for index in present]
        fused = robocache.fuse(
            [stream.values for stream in given],
            [stream.times for stream in given],
            clock,
            mode=",".join(as_groups(stream.mode, stream.values.shape[1]) for stream in given),
            outside=outside,
        )
        values[:, [channel for index in present for channel in range(*slices[index])]] = fused
    for index in present:
        times, gap = streams[index].times, streams[index].gap
        inside[:, index] = robocache.resample_mask(times, clock)
        valid[:, index] = inside[:, index] if gap is None else robocache.resample_mask(times, clock, max_gap=gap)
    return Piece(segment, targets, values, inside, valid)


def _targets(clock: Clock, segment: Segment, first: int, last: int) -> Array:
    if clock.period is None:
        times = clock.signal.times[clock.signal.between(*segment.rows[clock.signal.topic.name])]
        return np.ascontiguousarray(times[(times >= first) & (times <= last)])
    return grid(first, last, clock.period) if first <= last else np.empty(0, dtype=np.int64)
