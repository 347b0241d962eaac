"""The lines of `benches/record/*.jsonl`: one for each case, implementation and metric, and how they are read back."""

from __future__ import annotations

import json
import re
import statistics
import time
from collections.abc import Iterable
from pathlib import Path

Line = dict[str, object]

FOLDER = Path(__file__).resolve().parent / "record"
FIELDS = (
    "op",
    "case",
    "dtype",
    "direction",
    "device",
    "impl",
    "metric",
    "median_us",
    "p10_us",
    "p90_us",
    "bytes",  # the least that the case moves
    "floor_us",  # these bytes over the copy bandwidth of the same run
    "threads",
    "command",
    "versions",  # of the packages that the line depends on, the driver, and the clocks as found
)


NOTHING = "an operator that does nothing"  # but allocate its results: an implementation beside calls on tiny inputs


def spread(samples: list[float]) -> Line:
    """Median, tenth and ninetieth percentile of microseconds."""
    deciles = statistics.quantiles(samples, n=10)
    return {
        "median_us": round(statistics.median(samples), 3),
        "p10_us": round(deciles[0], 3),
        "p90_us": round(deciles[8], 3),
    }


def append(path: Path, line: Line) -> None:
    """Adds a line, in the order of `FIELDS`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as record:
        record.write(json.dumps({name: line[name] for name in FIELDS}) + "\n")


def read(path: Path) -> list[Line]:
    """The lines of a file that have every field; older ones lack the floor."""
    lines = [json.loads(text) for text in path.read_text().splitlines() if text.strip()]
    return [line for line in lines if all(name in line for name in FIELDS)]


def place(path: Path, device: str, subject: str = "") -> Path:
    """A record's file: `path`, or in the folder `path` that of today and of this device."""
    if path.suffix == ".jsonl":
        return path
    words = re.findall(r"[a-z0-9]+", device.lower())
    if words[0] == "nvidia":
        words = words[:2]  # without memory and socket
    return path / f"{'-'.join(filter(None, [time.strftime('%Y-%m-%d'), *words, subject]))}.jsonl"


def kind(path: Path) -> str:
    """The machine kind in a record's name, `<date>-<machine kind>.jsonl`."""
    return path.stem[len("2026-01-01-") :]


def newest(folder: Path = FOLDER) -> dict[str, Path]:
    """For each machine kind its newest record that holds lines of today's fields."""
    return {kind(path): path for path in sorted(folder.glob("*.jsonl")) if read(path)}


def latest(lines: Iterable[Line]) -> dict[tuple[object, ...], Line]:
    """The last line of each case, implementation and metric: a rerun appended to a file replaces what stood before."""
    key = ("op", "case", "dtype", "direction", "device", "impl", "metric", "threads")
    return {tuple(line[name] for name in key): line for line in lines}
