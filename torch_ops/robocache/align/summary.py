"""The terminal's side of `robocache align`: tables of signals, of the log's contents and of what was written."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from robocache.align.clock import NS, describe_jumps, find_jumps, intervals, median_interval
from robocache.align.log import Array, Log, Signal, select, topic_signals
from robocache.align.modes import default_mode
from robocache.align.tensors import Aligned

ONE_TABLE = 124  # columns that the whole summary takes with a signal name of 20 letters, all modes linear
MODE_WIDTH = 24  # longer mode texts are folded

Heading = tuple[str, Literal["left", "right"], bool]  # name, justification, whether its cells must stay on one line
RIGHT: tuple[Literal["right"], bool] = ("right", True)
LEFT: tuple[Literal["left"], bool] = ("left", False)


def summary(aligned: Aligned, width: int) -> list[Table]:
    """What was found in each signal and what became of it: one table, or two where one would not fit the terminal."""
    inside = np.concatenate([piece.inside.numpy() for piece in aligned.pieces])
    gaps = inside & ~np.concatenate([piece.valid.numpy() for piece in aligned.pieces])
    longest = max(len(mode) for mode in aligned.modes)
    limited = any(gap is not None for gap in aligned.gaps)
    numbers = ("samples", "rate\nHz", "interval\nms", "longest\ngap, s", "first\ns", "last\ns")
    found: list[Heading] = [(name, *RIGHT) for name in numbers]
    shares: list[Heading] = [("outside", *RIGHT), *([("in gaps", *RIGHT)] if limited else [])]
    became: list[Heading] = [("channels", *RIGHT), ("mode", "left", longest <= MODE_WIDTH), *shares, ("clock", *LEFT)]
    rows = []
    for index, (signal, mode) in enumerate(zip(aligned.signals, aligned.modes, strict=True)):
        share = [_percent(float(np.mean(~inside[:, index])))]
        share += [_percent(float(np.mean(gaps[:, index])))] if limited else []
        samples = (f"{signal.times.size:,}", *_rate(signal.times, aligned.origin))
        rows.append((signal.name, samples, (str(len(signal.channels)), mode, *share, _clock(signal))))
    extra = min(longest, MODE_WIDTH) - len("linear") + (len(" in gaps") if limited else 0)
    what = "; in gaps: between samples farther apart than --max-gap" if limited else ""
    if width >= ONE_TABLE + extra:
        title = f"signals (interval: 5th to 95th percentile; outside: share of targets outside the signal's data{what})"
        return [_filled(title, [*found, *became], [(name, (*one, *other)) for name, one, other in rows])]
    return [
        _filled("samples (interval: 5th to 95th percentile)", found, [(name, one) for name, one, _ in rows]),
        _filled(f"aligned (outside: share of targets{what})", became, [(name, other) for name, _, other in rows]),
    ]


def _filled(title: str, columns: Sequence[Heading], rows: Sequence[tuple[str, tuple[str, ...]]]) -> Table:
    table = _table(title)
    table.add_column("signal", overflow="fold", min_width=20)
    for name, justify, no_wrap in columns:
        table.add_column(name, justify=justify, no_wrap=no_wrap, overflow="fold")
    for signal, cells in rows:
        table.add_row(Text(signal), *cells)
    return table


def _table(title: str) -> Table:
    return Table(title=title, title_justify="left", header_style="bold", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))


def _rate(times: Array, origin: int) -> tuple[str, str, str, str, str]:
    first, last = (f"{(int(stamp) - origin) / NS:.2f}" for stamp in (times.min(), times.max()))
    period, steps = median_interval(times), intervals(times)
    if period is None:
        return "-", "-", "-", first, last
    low, high = np.percentile(steps, [5, 95]) / 1e6
    return f"{NS / period:.2f}", f"{low:.1f}..{high:.1f}", f"{steps.max() / NS:.3f}", first, last


def _percent(share: float) -> str:
    return "<0.1 %" if 0 < share < 0.001 else f"{100 * share:.1f} %"


def _clock(signal: Signal) -> str:
    jumps = len(find_jumps(signal.topic.times))
    repeated = int((np.diff(signal.times) == 0).sum())
    found = [f"{jumps:,} jump{'s' if jumps > 1 else ''} back"] if jumps else []
    found += [f"{repeated:,} repeated"] if repeated else []
    return ", ".join(found) or "ascends"


def report(out: Console, aligned: Aligned, written: Sequence[Path], notes: Sequence[str]) -> None:
    """Prints the table, the jumps by name, every remark, the clock and the files."""
    for table in summary(aligned, out.width):
        out.print(table)
    for name, topic in {signal.topic.name: signal.topic for signal in aligned.signals}.items():
        if jumps := find_jumps(topic.times):
            out.print(Text(f"clock of {name}: {describe_jumps(jumps, aligned.origin, limit=10)}", style="yellow"))
    for note in [*notes, *aligned.notes]:
        out.print(Text(f"note: {note}", style="yellow"))
    period = aligned.clock.period
    kind = "" if period is None else f"{float(NS / period):.6g} Hz, "
    total = sum(piece.times.size for piece in aligned.pieces)
    first, last = aligned.pieces[0].times[0], max(piece.times[-1] for piece in aligned.pieces)
    parts = f" in {len(aligned.pieces)} segments" if len(aligned.pieces) > 1 else ""
    out.print(
        Text(
            f"clock: {kind}{aligned.clock.why}; {total:,} targets{parts} from {(first - aligned.origin) / NS:.3f} s "
            f"to {(last - aligned.origin) / NS:.3f} s (second 0 is {aligned.origin} ns)"
        )
    )
    longest = max(piece.times.size for piece in aligned.pieces)
    shape = f"[{len(aligned.pieces)}, {longest}, {len(aligned.channels)}]"
    dtype = str(aligned.pieces[0].values.dtype).removeprefix("torch.")
    out.print(Text(f"values: {shape} {dtype} (segments, targets, channels)"))
    for path in written:
        out.print(Text(f"wrote {path}", style="green"))


def contents(log: Log) -> Table:
    """Every signal that can be named."""
    table = _table("signals of the log")
    table.add_column("signal", overflow="fold")
    table.add_column("channels", overflow="fold")
    table.add_column("samples", justify="right")
    table.add_column("rate, Hz", justify="right")
    table.add_column("mode", overflow="fold")
    for topic in log.topics.values():
        for name in topic_signals(topic) if topic.times.size else ():
            for signal in select(log, name):
                period = median_interval(signal.times)
                channels = [channel.removeprefix(name).lstrip(".") for channel in signal.channels]
                shown = ", ".join(channels[:6]) + (f", … ({len(channels)})" if len(channels) > 6 else "")
                rate = "-" if period is None else f"{NS / period:.2f}"
                table.add_row(Text(signal.name), Text(shown), f"{signal.times.size:,}", rate, default_mode(signal))
    return table
