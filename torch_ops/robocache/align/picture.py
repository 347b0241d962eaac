"""The picture: raw samples as dots and aligned channels as lines, over the whole log and in a close-up."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from robocache._command import replaced
from robocache.align.clock import NS, median_interval
from robocache.align.log import Array
from robocache.align.modes import per_channel
from robocache.align.tensors import Aligned

MAX_PANELS = 8
MAX_LINES = 6  # channels in one panel: as many as the palette keeps apart
CLOSE_UP = 6  # samples of the slowest signal shown in the close-up
COLOURS = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#E69F00",
    "#56B4E9",
)  # Okabe and Ito: safe for colour-blind eyes
GREY = "#606060"

Line = tuple[int, int]  # (signal, channel within it)


def draw(aligned: Aligned, path: Path) -> Path:
    """Draws one panel per signal, as far as there is room; the parts of a split column share a panel."""
    panels: dict[str, list[Line]] = {}
    for index, signal in enumerate(aligned.signals):
        for channel in range(len(signal.channels)):
            panels.setdefault(signal.name.partition("@")[0], []).append((index, channel))
    shown = _choose(aligned, panels)
    figure = Figure(figsize=(13, 1.2 + 1.9 * len(shown)), dpi=130, layout="constrained")
    axes = figure.subplots(len(shown), 2, squeeze=False, sharex="col", width_ratios=[3, 2])
    window = _close_up(aligned)
    for (name, lines), (whole, close) in zip(shown, axes, strict=True):
        ranges = []
        for slot, line in enumerate(lines[:MAX_LINES]):
            _draw_line(aligned, line, whole, COLOURS[slot], None)
            ranges += _draw_line(aligned, line, close, COLOURS[slot], window)
        if ranges:
            low, high = min(ranges), max(ranges)
            room = 0.08 * (high - low) or 0.05 * abs(high) or 1.0
            close.set_ylim(low - room, high + room)
        _dress(aligned, name, lines, whole, close)
    axes[0][1].set_xlim(*window)
    for axis in axes[-1]:
        axis.set_xlabel("seconds after the first sample", fontsize=8)
    period = aligned.clock.period
    rate = "" if period is None else f"{float(NS / period):.4g} Hz, "
    segments = f"; {len(aligned.pieces)} segments, dotted lines where one begins" if len(aligned.pieces) > 1 else ""
    hidden = f"; {len(panels) - len(shown)} more signals not drawn" if len(panels) > len(shown) else ""
    figure.suptitle(
        f"Raw samples and aligned channels: the whole log, and a close-up (rings: raw samples, dots: targets)\n"
        f"clock: {rate}{aligned.clock.why}{segments}{hidden}",
        fontsize=10,
        x=0.01,
        ha="left",
    )
    return replaced(path, figure.savefig)


def _choose(aligned: Aligned, panels: dict[str, list[Line]]) -> list[tuple[str, list[Line]]]:
    """The panels to draw, in order: every topic shows its first signal before any shows its second."""
    drawn: Counter[str] = Counter()
    ranks = []
    for place, (name, lines) in enumerate(panels.items()):
        topic = aligned.signals[lines[0][0]].topic.name
        ranks.append((drawn[topic], place, name))
        drawn[topic] += 1
    kept = {name for _, _, name in sorted(ranks)[:MAX_PANELS]}
    return [(name, lines) for name, lines in panels.items() if name in kept]


def _close_up(aligned: Aligned) -> tuple[float, float]:
    """A window in the middle of the longest segment that holds a few samples of the slowest signal."""
    piece = max(aligned.pieces, key=lambda piece: piece.times.size)
    first, last = (int(stamp) - aligned.origin for stamp in (piece.times[0], piece.times[-1]))
    periods = [period for signal in aligned.signals if (period := median_interval(signal.times)) is not None]
    width = min(CLOSE_UP * max(periods, default=NS), max(last - first, 1))
    middle = (first + last) / 2
    return (middle - width / 2) / NS, (middle + width / 2) / NS


def _draw_line(aligned: Aligned, line: Line, axis: Any, colour: str, window: tuple[float, float] | None) -> list[float]:
    """Draws one channel; returns the lowest and highest values that the window shows."""
    index, channel = line
    signal = aligned.signals[index]
    mode = per_channel(aligned.modes[index], len(signal.channels))[channel]
    rings: dict[str, Any] = {"markersize": 5.5, "markeredgewidth": 1.1, "mfc": "none"}
    marks = rings if window else {"markersize": 1.5, "alpha": 0.35}
    dots: dict[str, Any] = {"marker": ".", "markersize": 3.5} if window else {}
    raw_times, raw = (signal.times - aligned.origin) / NS, signal.values[:, channel].astype(np.float64)
    if mode == "angle":
        raw = (raw + np.pi) % (2 * np.pi) - np.pi  # as the aligned channel is
    keep = _inside(raw_times, window, spare=1.0)
    axis.plot(raw_times[keep], raw[keep], "o", color=colour, zorder=2, **marks)
    seen = [raw[_inside(raw_times, window)]]
    for piece in aligned.pieces:
        times = (piece.times - aligned.origin) / NS
        values = piece.values[:, aligned.slices[index][0] + channel].double().numpy()
        gaps = (piece.inside & ~piece.valid)[:, index].numpy()
        values = np.where(gaps, np.nan, values)  # what --max-gap says is not known is not drawn
        keep = _inside(times, window, spare=1.0)
        drawn = "steps-post" if mode == "previous" else "default"
        shown = (times[keep], values[keep])
        if mode == "angle":
            shown = _cut_at_turns(*shown)
        axis.plot(*shown, color=colour, linewidth=0.9, drawstyle=drawn, zorder=3, **dots)
        seen.append(values[_inside(times, window)])
    visible = np.concatenate(seen)
    visible = visible[np.isfinite(visible)]
    return [float(visible.min()), float(visible.max())] if visible.size else []


def _cut_at_turns(times: Array, angles: Array) -> tuple[Array, Array]:
    """The same with a NaN wherever an angle wraps, so that no line crosses the panel from pi to -pi."""
    turns = np.flatnonzero(np.abs(np.diff(angles)) > np.pi) + 1
    return np.insert(times, turns, times[turns]), np.insert(angles, turns, np.nan)


def _inside(times: Array, window: tuple[float, float] | None, spare: float = 0.0) -> Array:
    """Everything, or what a window shows with some windows' widths to spare, so that lines run to the edge."""
    if window is None:
        return np.ones(times.size, dtype=bool)
    start, end = window
    return (times >= start - spare * (end - start)) & (times <= end + spare * (end - start))


def _dress(aligned: Aligned, name: str, lines: list[Line], whole: Any, close: Any) -> None:
    owners = {aligned.signals[index].name for index, _ in lines}
    labels = [aligned.signals[index].channels[channel] for index, channel in lines]
    for slot, label in enumerate(labels[:MAX_LINES]):
        short = label.removeprefix(name).lstrip(".@") or label.rpartition(".")[2]
        whole.plot([], [], color=COLOURS[slot], linewidth=2, label=short)
    if len(labels) > MAX_LINES:
        whole.plot([], [], " ", label=f"+{len(labels) - MAX_LINES} more")
    close.set_title(" ")
    whole.set_title(owners.pop() if len(owners) == 1 else name, loc="left", fontsize=9, fontweight="bold")
    if len(labels) > 1:
        whole.legend(
            loc="lower right",
            bbox_to_anchor=(1.0, 0.98),
            ncols=MAX_LINES + 1,
            fontsize=7,
            frameon=False,
            handlelength=1.2,
            columnspacing=1.2,
            borderaxespad=0.2,
        )
    for piece in aligned.pieces[1:]:
        whole.axvline((int(piece.times[0]) - aligned.origin) / NS, color="black", linewidth=0.8, linestyle=":")
    for axis in (whole, close):
        axis.grid(True, color="#e4e4e4", linewidth=0.6)
        axis.tick_params(labelsize=8, color=GREY)
        axis.ticklabel_format(axis="y", useOffset=False)
        axis.margins(x=0.01)
        for side in ("top", "right"):
            axis.spines[side].set_visible(False)
