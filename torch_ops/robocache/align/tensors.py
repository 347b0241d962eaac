"""Resamples the chosen signals to one clock with `robocache.resample`, segment by segment."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import groupby, pairwise

import numpy as np
import torch

import robocache
from robocache.align.clock import NS, Segment, grid, median_interval, segments
from robocache.align.log import Advance, AlignError, Array, Signal

MODES = ("linear", "previous", "next", "nearest")
DTYPES = ("float32", "float64")
COARSE = 1e-3  # a float32 step above this part of a signal's range is worth a remark


@dataclass(frozen=True)
class Clock:
    """Where the targets come from: a regular grid, or the stamps of a signal."""

    period: Fraction | None  # ns; None: the stamps of `signal`
    signal: Signal
    why: str


@dataclass(frozen=True)
class Piece:
    """One segment on the common clock."""

    segment: Segment
    times: Array  # [T] int64 ns
    values: torch.Tensor  # [T, D]
    mask: torch.Tensor  # [T, K] bool, true within the first and last sample of signal k


@dataclass(frozen=True)
class Aligned:
    """All segments, and how they came about."""

    signals: list[Signal]
    modes: list[str]
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


def choose_modes(signals: Sequence[Signal], modes: Sequence[str], outside: str) -> list[str]:
    """The mode of each signal: `NAME=MODE`, else `MODE`, else linear for floats and previous for integers and bools."""
    general: str | None = None
    by_name: dict[str, str] = {}
    for text in modes:
        name, equals, mode = text.rpartition("=")
        if mode not in MODES:
            raise AlignError(f"--mode must be MODE or NAME=MODE with MODE one of {', '.join(MODES)}, got {text}")
        if equals:
            if not any(_is_of(signal, name) for signal in signals):
                chosen = ", ".join(signal.name for signal in signals)
                raise AlignError(f"--mode NAME=MODE must name a chosen signal, one of {chosen}; got {name}")
            by_name[name] = mode
        else:
            general = mode
    chosen_modes = []
    for signal in signals:
        names = sorted((name for name in by_name if _is_of(signal, name)), key=len)
        mode = by_name[names[-1]] if names else general or _default_mode(signal)
        if outside == "extrapolate" and mode != "linear":
            raise AlignError(
                f"--outside extrapolate must go with mode linear, got {mode} for {signal.name} "
                f"(integers and booleans are held unless --mode {signal.name}=linear says otherwise)"
            )
        chosen_modes.append(mode)
    return chosen_modes


def _is_of(signal: Signal, name: str) -> bool:
    return signal.name == name or signal.name.startswith((name + ".", name + "[", name + "@", name + "#"))


def _default_mode(signal: Signal) -> str:
    runs = [("previous" if held else "linear", len(list(run))) for held, run in groupby(signal.held)]
    return runs[0][0] if len(runs) == 1 else ",".join(f"{mode}:{width}" for mode, width in runs)


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
    clock: Clock,
    *,
    span: str,
    start: int | None,
    end: int | None,
    outside: str,
    dtype: str,
    advance: Advance,
) -> Aligned:
    """Resamples every signal over every segment; start and end are ns after the earliest sample."""
    timed = [*signals, clock.signal]  # the clock's topic cuts and spans as the others do
    origin = min(int(signal.times.min()) for signal in signals)
    cut = segments(timed, span)
    notes = [note for signal in signals for note in _precision(signal, dtype)]
    notes += [note for signal, mode in zip(signals, modes, strict=True) for note in _quaternion(signal, mode)]
    values = [torch.from_numpy(np.ascontiguousarray(signal.values, dtype=dtype)) for signal in signals]
    pieces = []
    for number, segment in enumerate(cut):
        first = segment.start if start is None else max(segment.start, origin + start)
        last = segment.end if end is None else min(segment.end, origin + end)
        targets = _targets(clock, segment, first, last)
        if targets.size == 0:
            what = f"segment {number} " if len(cut) > 1 else ""
            begin, stop = (f"{(stamp - origin) / NS:.6f} s" for stamp in (first, last))
            notes.append(f"{what}has no targets: it would run from {begin} to {stop} after the earliest sample")
            continue
        blended, masks = [], []
        for index, (signal, mode) in enumerate(zip(signals, modes, strict=True)):
            advance(number * len(signals) + index, len(cut) * len(signals))
            part = signal.between(*segment.rows[signal.topic.name])
            times = signal.times[part]
            if times.size == 0:
                fill = 0.0 if outside == "zero" else float("nan")
                notes.append(f"{signal.name}: no sample in segment {number}, filled with {fill:g}")
                blended.append(values[index].new_full((targets.size, len(signal.channels)), fill))
                masks.append(torch.zeros(targets.size, dtype=torch.bool))
                continue
            blended.append(
                robocache.resample(
                    values[index][part],
                    torch.from_numpy(np.ascontiguousarray(times)),
                    torch.from_numpy(targets),
                    mode=mode,
                    outside=outside,
                )
            )
            masks.append(torch.from_numpy((targets >= times[0]) & (targets <= times[-1])))
        pieces.append(Piece(segment, targets, torch.cat(blended, dim=1), torch.stack(masks, dim=1)))
    if not pieces:
        raise AlignError(f"the clock must have at least one target, got none ({'; '.join(notes)})")
    edges = np.cumsum([0] + [len(signal.channels) for signal in signals]).tolist()
    slices = list(pairwise(edges))
    return Aligned(signals, modes, slices, clock, outside, origin, pieces, notes)


def _targets(clock: Clock, segment: Segment, first: int, last: int) -> Array:
    if clock.period is None:
        times = clock.signal.times[clock.signal.between(*segment.rows[clock.signal.topic.name])]
        return np.ascontiguousarray(times[(times >= first) & (times <= last)])
    return grid(first, last, clock.period) if first <= last else np.empty(0, dtype=np.int64)


def _quaternion(signal: Signal, mode: str) -> list[str]:
    """Says where `linear` runs over what looks like unit quaternions, whose sign may turn over between samples."""
    values = signal.values.astype(np.float64)
    if mode != "linear" or values.shape[1] != 4 or not (np.abs(np.linalg.norm(values, axis=1) - 1) < 1e-3).all():
        return []
    turns = int(((values[1:] * values[:-1]).sum(axis=1) < 0).sum())
    found = f" and passes near zero where the sign turns over ({turns:,} times here)" if turns else ""
    return [
        f"{signal.name}: looks like unit quaternions, whose norm linear does not keep{found}; "
        f"--mode {signal.name}=nearest copies samples instead"
    ]


def _precision(signal: Signal, dtype: str) -> list[str]:
    """Says where float32 cannot follow the recorded numbers (latitudes, counters, bit fields)."""
    if dtype != "float32" or signal.values.dtype == np.float32 or signal.values.dtype.kind == "b":
        return []
    finite = np.where(np.isfinite(signal.values), signal.values, 0).astype(np.float64)
    spread = finite.max(axis=0) - finite.min(axis=0)
    step = np.spacing(np.abs(finite).max(axis=0).astype(np.float32)).astype(np.float64)
    exact = (finite == finite.astype(np.float32)).all(axis=0)
    coarse = np.flatnonzero((step > COARSE * spread) & (spread > 0) & ~exact)
    return [
        f"{signal.channels[index]}: float32 steps by {step[index]:.2g} there, of a range of {spread[index]:.2g}; "
        "--dtype float64 keeps it"
        for index in coarse
    ]
