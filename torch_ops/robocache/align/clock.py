"""Stamps in int64 nanoseconds: exact conversion, backward jumps, the pieces between them and the target times."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from fractions import Fraction

import numpy as np

from robocache.align.log import AlignError, Array, Signal, Topic

NS = 1_000_000_000
UNITS = {"s": NS, "ms": 1_000_000, "us": 1_000, "ns": 1}
MAX_TARGETS = 50_000_000  # 400 MB of stamps: more is a stray stamp or a wrong unit, not a log


@dataclass(frozen=True)
class Jump:
    """A stamp that is earlier than the one recorded before it."""

    row: int
    before: int  # ns
    after: int  # ns


@dataclass(frozen=True)
class Segment:
    """A stretch in which every clock ascends: targets run from start to end, `rows` says which rows take part."""

    start: int  # ns
    end: int  # ns, inclusive
    rows: dict[str, tuple[int, int]]  # topic -> first row, end row


def ticks_to_ns(values: Array, unit: str) -> Array:
    """Integer or float ticks of a unit as int64 nanoseconds, rounded to nearest even once; ValueError out of range."""
    scale = UNITS[unit]
    if values.dtype.kind == "f":
        values = values.astype(np.float64)
        if not np.isfinite(values).all():
            row = int(np.flatnonzero(~np.isfinite(values))[0])
            raise ValueError(f"must be finite, got {values[row]} in row {row}")
    limit = (2**63 - 1) // scale
    # A float64 cannot hold the limit itself, only the number above it, which no longer fits.
    over = np.abs(values) >= float(limit) if values.dtype.kind == "f" else (values > limit) | (values < -limit)
    outside = np.flatnonzero(over)
    if outside.size:
        raise ValueError(f"must fit int64 nanoseconds, got {values[outside[0]]} {unit} in row {outside[0]}")
    if values.dtype.kind != "f":
        return values.astype(np.int64) * scale
    whole: Array = np.floor(values)
    part = (values - whole) * scale  # the difference is exact, the product is rounded
    ns: Array = np.rint(part)
    # Rounding keeps order, so only a product that landed on a half may have come from either side of it.
    for tied in np.flatnonzero(np.abs(part - ns) == 0.5):
        ns[tied] = round(Fraction(float(values[tied] - whole[tied])) * scale)
    stamps: Array = whole.astype(np.int64) * scale + ns.astype(np.int64)
    return stamps


def seconds_to_ns(option: str, text: str) -> int:
    """What an option gives in seconds, as nanoseconds; the digits are decimal, so 0.1 s is exact."""
    try:
        ns = int((Decimal(text) * 1_000_000_000).to_integral_value())
    except (InvalidOperation, OverflowError, ValueError):
        raise AlignError(f"{option} must be a number of seconds, got {text}") from None
    if abs(ns) >= 2**62:
        raise AlignError(f"{option} must lie within 146 years, got {text} s")
    return ns


def find_jumps(times: Array) -> list[Jump]:
    """Every place where the clock goes backward."""
    rows = np.flatnonzero(times[1:] < times[:-1]) + 1
    return [Jump(int(row), int(times[row - 1]), int(times[row])) for row in rows]


def intervals(times: Array) -> Array:
    """Forward intervals between neighbouring samples, in ns; backward jumps are left out."""
    steps = np.diff(times)
    return steps[steps >= 0]


def median_interval(times: Array) -> int | None:
    """The median time between samples in ns (repeated stamps aside), None where there are fewer than two."""
    steps = intervals(times)
    steps = steps[steps > 0]
    return int(np.median(steps)) if steps.size else None


def grid(start: int, end: int, period: Fraction) -> Array:
    """start, start + period, ... up to end; each stamp is rounded by itself, so a 30 Hz grid does not drift."""
    count = int((end - start) / period) + 1
    if count > MAX_TARGETS:
        raise AlignError(
            f"the clock must have at most {MAX_TARGETS:,} targets, got {count:,}: one each {float(period) / NS:.6g} s "
            f"over {(end - start) / NS:.6g} s; check the first and last times, or give --rate, --start, --end or --span"
        )
    index = np.arange(count, dtype=np.int64)
    whole, rest = divmod(period.numerator, period.denominator)
    if rest * count >= 2**62:
        raise AlignError(f"--rate must have fewer digits for a log this long, got a period of {period} ns")
    return start + index * whole + (index * rest + period.denominator // 2) // period.denominator


def segments(signals: Sequence[Signal], span: str) -> list[Segment]:
    """Cuts the log at backward jumps.

    A topic whose clock jumps n times has n + 1 pieces; piece k of every such topic goes into segment k, which needs
    their jumps to be the same events. A topic that never jumps takes part in every segment with all its samples.
    A segment spans the jumping pieces; the first one reaches back, and the last one on, over the topics that do not
    jump. Consecutive segments overlap in time, since a jump goes backward, so every sample lies in one of them.
    """
    topics = {signal.topic.name: signal.topic for signal in signals}
    jumps = {name: found for name, topic in topics.items() if (found := find_jumps(topic.times))}
    lead_name, lead = next(iter(jumps.items()), ("", []))
    for name, own in jumps.items():
        same = len(own) == len(lead) and all(
            one.after <= other.before and other.after <= one.before for one, other in zip(own, lead, strict=True)
        )
        if not same:
            raise AlignError(
                f"--clock-jumps split needs the clocks that jump to jump together, got {lead_name} with "
                f"{describe_jumps(lead)} and {name} with {describe_jumps(own)}; align them in separate calls"
            )
    found_segments = []
    for number in range(len(lead) + 1):
        rows = {}
        for name, topic in topics.items():
            edges = [0, *(jump.row for jump in jumps.get(name, [])), topic.times.size]
            rows[name] = (edges[number], edges[number + 1]) if name in jumps else (0, topic.times.size)
        found_segments.append(_segment(signals, jumps, rows, span, number == 0, number == len(lead)))
    return found_segments


def _segment(
    signals: Sequence[Signal],
    jumps: Mapping[str, Sequence[Jump]],
    rows: dict[str, tuple[int, int]],
    span: str,
    is_first: bool,
    is_last: bool,
) -> Segment:
    pieces: list[tuple[int, int]] = []  # first and last stamp in the stretches between jumps
    steady: list[tuple[int, int]] = []
    for signal in signals:
        times = signal.times[signal.between(*rows[signal.topic.name])]
        if times.size:
            (pieces if signal.topic.name in jumps else steady).append((int(times[0]), int(times[-1])))
    if span == "intersection" and pieces + steady:
        return Segment(max(first for first, _ in pieces + steady), min(last for _, last in pieces + steady), rows)
    # The whole piece counts, even where the chosen signals of its topic have no sample at its ends.
    for name in jumps:
        first_row, end_row = rows[name]
        times = signals_topic(signals, name).times
        pieces.append((int(times[first_row]), int(times[end_row - 1])))
    starts = pieces + (steady if is_first or not pieces else [])
    stops = pieces + (steady if is_last or not pieces else [])
    return Segment(min(first for first, _ in starts), max(last for _, last in stops), rows)


def signals_topic(signals: Sequence[Signal], name: str) -> Topic:
    """The topic of this name among those of the signals."""
    return next(signal.topic for signal in signals if signal.topic.name == name)


def describe_jumps(jumps: Sequence[Jump], origin: int = 0, limit: int = 3) -> str:
    """`2 backward jumps: at row 1,203 from 12.5 s to 3.1 s (-9.4 s), ...`."""
    parts = [
        f"at row {jump.row:,} from {(jump.before - origin) / NS:.6f} s to {(jump.after - origin) / NS:.6f} s "
        f"({(jump.after - jump.before) / NS:+.6f} s)"
        for jump in jumps[:limit]
    ]
    more = [f"and {len(jumps) - limit:,} more"] if len(jumps) > limit else []
    return f"{len(jumps):,} backward jump{'s' if len(jumps) > 1 else ''}: {', '.join(parts + more)}"
