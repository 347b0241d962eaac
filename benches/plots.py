"""The plots of `benches/report.py`: the same bytes for the same record."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt  # noqa: E402

if TYPE_CHECKING:
    from report import Key, Record

OUR_COLOUR, PEER_COLOUR, LIMIT_COLOUR = "#1a6fb0", "#d1802a", "#666666"
MAKER = f"Matplotlib {matplotlib.__version__}"  # another version may place things differently
STYLE = {
    "svg.hashsalt": "robocache",  # ids that do not change from run to run
    "svg.fonttype": "none",
    "font.size": 9.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.alpha": 0.3,
    "figure.facecolor": "white",
}


def draw(record: Record) -> dict[str, bytes]:
    """By name the plots of a record as SVG."""
    with matplotlib.rc_context(STYLE):
        return {"size": size(record), "limit": limit(record), "peers": peers(record)}


def saved(figure: Any) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", bbox_inches="tight", metadata={"Date": None, "Creator": MAKER})
    plt.close(figure)
    return buffer.getvalue()


def label(key: Key) -> str:
    op, case, dtype = key
    short = {"bfloat16": "bf16", "float32": "f32", "float64": "f64"}.get(dtype, dtype)
    return f"{op} {case.replace('->', ' → ').replace('x', '×')} {short}"


def speeds(record: Record, clouds: bool) -> tuple[list[tuple[float, float]], list[tuple[float, float]]]:
    """Bytes, and gigabytes a second, of RoboCache and of the fastest peer, in the record and in its sweep."""
    from report import OURS, key_of, number

    ours, best = [], []
    cases: dict[Any, dict[str, Any]] = {}
    for key in record.keys():
        line, peer = record.ours(key), record.best_peer(key)
        cases[key] = {OURS: line} | ({"peer": peer} if peer else {})
    for line in record.sweep:
        lines = cases.setdefault(("sweep", *key_of(line)), {})
        name = OURS if line["impl"] == OURS else "peer"
        if name not in lines or number(line, "median_us") < number(lines[name], "median_us"):
            lines[name] = line
    for lines in cases.values():
        for name, into in ((OURS, ours), ("peer", best)):
            line = lines.get(name)
            if line and str(line["op"]).startswith("voxelize") == clouds:
                moved = number(line, "bytes")
                into.append((moved, moved / number(line, "median_us") / 1e3))
    return ours, best


def size(record: Record) -> bytes:
    """Speed over size."""
    figure, both = plt.subplots(1, 2, figsize=(9, 3.6), sharey=True, layout="constrained")
    for axes, clouds in zip(both, (False, True), strict=True):
        ours, best = speeds(record, clouds)
        for points, colour, name in ((best, PEER_COLOUR, "fastest peer"), (ours, OUR_COLOUR, "RoboCache")):
            if points:
                axes.scatter(*zip(*points, strict=True), s=18, color=colour, label=name, alpha=0.8, linewidths=0)
        axes.axhline(record.bandwidth / 1e3, color=LIMIT_COLOUR, linestyle="--", linewidth=1, label="copy")
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xlabel("bytes that a call must move")
        axes.set_title("voxelize, voxelize_sparse" if clouds else "resample, fuse")
    both[0].set_ylabel("GB/s of these bytes")
    both[1].legend(frameon=False)
    return saved(figure)


def chart(rows: int) -> tuple[Any, Any]:
    return plt.subplots(figsize=(9, 1.0 + 0.28 * max(rows, 1)), layout="constrained")


def limit(record: Record) -> bytes:
    """Share of the limit, case by case."""
    from report import number

    keys = record.keys()[::-1]
    figure, axes = chart(len(keys))
    for position, key in enumerate(keys):
        for line, colour, height in (
            (record.best_peer(key), PEER_COLOUR, -0.2),
            (record.ours(key), OUR_COLOUR, 0.2),
        ):
            if line:
                part = 100 * number(line, "floor_us") / number(line, "median_us")
                axes.barh(position + height, part, 0.38, color=colour)
    axes.axvline(100, color=LIMIT_COLOUR, linestyle="--", linewidth=1)
    axes.set_yticks(range(len(keys)), [label(key) for key in keys])
    axes.set_xlabel("floor / median, % (blue: RoboCache, orange: the fastest peer)")
    axes.set_ylim(-0.6, len(keys) - 0.4)
    return saved(figure)


def peers(record: Record) -> bytes:
    """RoboCache against the fastest peer: right of 1 RoboCache is faster."""
    from report import number

    rows = []
    for direction in ("forward", "backward", "forward+backward"):
        for key in record.keys(direction):
            line, peer = record.ours(key, direction), record.best_peer(key, direction)
            if line and peer:
                name = label(key) if direction == "forward" else f"{label(key)}, {direction}"
                rows.append((name, number(peer, "median_us") / number(line, "median_us"), str(peer["impl"])))
    rows.reverse()
    figure, axes = chart(len(rows))
    colours = [OUR_COLOUR if ratio >= 1 else PEER_COLOUR for _, ratio, _ in rows]
    # Bars begin at 1, where both are equal.
    axes.barh(range(len(rows)), [ratio - 1 for _, ratio, _ in rows], left=1, color=colours)
    for position, (_, ratio, peer) in enumerate(rows):
        axes.annotate(
            f" {peer}", (max(ratio, 1), position), va="center", fontsize=7, color=LIMIT_COLOUR, annotation_clip=False
        )
    axes.axvline(1, color=LIMIT_COLOUR, linewidth=1)
    axes.set_xscale("log")
    axes.set_yticks(range(len(rows)), [name for name, _, _ in rows])
    axes.set_xlabel("time of the fastest peer / time of RoboCache")
    axes.set_ylim(-0.6, len(rows) - 0.4)
    return saved(figure)
