"""Reads a Chrome trace of torch.profiler: a training step's kernels, phases and RoboCache's part; draws it."""

from __future__ import annotations

import difflib
import gzip
import json
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

Event = dict[str, Any]

OURS = re.compile(r"^(resample|fuse|voxelize)")
PHASES = ("forward", "backward", "optimizer")
COLORS = {"forward": "#4c78a8", "backward": "#72a98f", "optimizer": "#b79a52", "": "#999999"}
HIGHLIGHT = "#d62728"


@dataclass(frozen=True)
class Kernel:
    """A kernel, a copy or a fill on the GPU."""

    name: str
    start: float  # µs, of the trace's clock
    length: float  # µs
    stream: str
    phase: str = ""  # one of `PHASES`, or "" where nothing says which

    @property
    def ours(self) -> bool:
        return bool(OURS.match(self.name))


def read(path: Path) -> list[Event]:
    """The events of a trace, which may be compressed."""
    data = path.read_bytes()
    text = gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data
    return [event for event in json.loads(text)["traceEvents"] if event.get("ph") == "X"]


def ranges(events: list[Event], name: str) -> list[tuple[float, float]]:
    """Start and end of each `record_function` of this name, on the CPU's side."""
    found = [event for event in events if event.get("cat") == "user_annotation" and event["name"] == name]
    return sorted((float(event["ts"]), float(event["ts"]) + float(event["dur"])) for event in found)


def kernels(events: list[Event], step: str) -> list[list[Kernel]]:
    """The kernels of each step of this name, by start.

    A kernel belongs where the CPU launched it, from any thread; where the trace does not say, where it ran.
    """
    launched = {
        event["args"]["correlation"]: float(event["ts"])
        for event in events
        if event.get("cat") in ("cuda_runtime", "cuda_driver") and "correlation" in event.get("args", {})
    }
    phases = {phase: ranges(events, phase) for phase in PHASES}
    steps = ranges(events, step)
    found: list[list[Kernel]] = [[] for _ in steps]
    for event in events:
        if event.get("cat") not in ("kernel", "gpu_memcpy", "gpu_memset"):
            continue
        at = launched.get(event["args"].get("correlation"), float(event["ts"]))
        place = next((i for i, (start, end) in enumerate(steps) if start <= at <= end), None)
        if place is None:
            continue
        phase = next((name for name, spans in phases.items() if any(a <= at <= b for a, b in spans)), "")
        stream = str(event["args"].get("stream", event.get("tid")))
        found[place].append(Kernel(event["name"], float(event["ts"]), float(event["dur"]), stream, phase))
    return [sorted(own, key=lambda kernel: kernel.start) for own in found]


def with_phases(graph: list[Kernel], launched: list[Kernel]) -> list[Kernel]:
    """The kernels of a graph, which is one launch, with the phases of the same kernels launched one by one."""
    matcher = difflib.SequenceMatcher(None, [k.name for k in graph], [k.name for k in launched], autojunk=False)
    phases: list[str] = [""] * len(graph)
    for block in matcher.get_matching_blocks():
        for offset in range(block.size):
            phases[block.a + offset] = launched[block.b + offset].phase
    for place in range(1, len(phases)):
        phases[place] = phases[place] or phases[place - 1]
    return [replace(kernel, phase=phase) for kernel, phase in zip(graph, phases, strict=True)]


def operator_times(events: list[Event], step: str) -> list[float]:
    """Microseconds of RoboCache in each step of this name: its kernels, or on the CPU its operators."""
    found = kernels(events, step)
    if any(found):
        return [sum(kernel.length for kernel in own if kernel.ours) for own in found]
    ours = [e for e in events if e.get("cat") == "cpu_op" and e["name"].startswith("robocache::")]
    times = []
    for start, end in ranges(events, step):
        total, last = 0.0, start
        for event in sorted(ours, key=lambda event: float(event["ts"])):
            begin = max(float(event["ts"]), last)  # one within another counts once
            if begin < end and (until := float(event["ts"]) + float(event["dur"])) > begin:
                total, last = total + until - begin, until
        times.append(total)
    return times


def draw(steps: dict[str, list[Kernel]], path: Path, title: str) -> None:
    """A row of bars for each stream of each step, all on one scale of time; RoboCache's kernels stand out."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    plt.rcParams["svg.hashsalt"] = "robocache"
    streams = {name: sorted({kernel.stream for kernel in own}, key=str) for name, own in steps.items()}
    heights = [1.1 + 0.5 * len(streams[name]) for name in steps]
    figure, rows = plt.subplots(
        len(steps),
        figsize=(11, 0.8 + sum(heights)),
        height_ratios=heights,
        sharex=True,
        squeeze=False,
        layout="constrained",
    )
    for axes, (name, own) in zip(rows[:, 0], steps.items(), strict=True):
        begin = min(kernel.start for kernel in own)
        end = max(kernel.start + kernel.length for kernel in own)
        for place, stream in enumerate(streams[name]):
            for phase, color in COLORS.items():
                bars = [k for k in own if k.stream == stream and k.phase == phase and not k.ours]
                spans = [((k.start - begin) / 1e3, k.length / 1e3) for k in bars]
                axes.broken_barh(spans, (place - 0.35, 0.7), facecolor=color, linewidth=0)
            for kernel in (k for k in own if k.stream == stream and k.ours):
                at, wide = (kernel.start - begin) / 1e3, kernel.length / 1e3
                axes.broken_barh([(at, wide)], (place - 0.35, 0.7), color=HIGHLIGHT, linewidth=0.8, zorder=3)
                text = f"{kernel.name}, {kernel.length:.1f} µs"
                axes.annotate(
                    text,
                    (at, place + 0.35),
                    (4, 13),
                    textcoords="offset points",
                    fontsize=7,
                    color=HIGHLIGHT,
                    arrowprops={"arrowstyle": "-", "color": HIGHLIGHT, "linewidth": 0.7},
                )
        for phase in PHASES:
            spans = [(k.start - begin, k.start + k.length - begin) for k in own if k.phase == phase]
            if spans:
                first, last = min(a for a, _ in spans) / 1e3, max(b for _, b in spans) / 1e3
                axes.plot([first, last], [-0.5, -0.5], color=COLORS[phase], linewidth=2, solid_capstyle="butt")
                where = (max(first + last, 0) / 2, -0.58)
                axes.annotate(phase, where, ha="center", va="top", fontsize=7, color=COLORS[phase])
        busy = sum(kernel.length for kernel in own)
        heading = f"{name}: {(end - begin) / 1e3:.2f} ms, of which {busy / 1e3:.2f} ms in {len(own)} kernels and copies"
        axes.set_title(heading, loc="left", fontsize=8)
        axes.set_yticks(range(len(streams[name])), [f"stream {stream}" for stream in streams[name]], fontsize=7)
        axes.set_ylim(-1.0, len(streams[name]) - 0.5 + 0.45)
        axes.spines[["top", "right"]].set_visible(False)
    rows[-1, 0].set_xlabel("ms")
    figure.suptitle(title, fontsize=9)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
    plt.close(figure)
