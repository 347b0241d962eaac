"""Fails where RoboCache has become slower than its record, beside a peer that is measured in the same run.

    python benches/guard.py                   # the bars on this CPU
    python benches/guard.py --device cuda
    python benches/guard.py --tolerance 0.1 --case 500x256 --peer torch.compile

A time alone would compare machines, clocks and neighbours. So what is compared is a ratio: RoboCache's median over the
peer's, now and in the newest record of a machine with the same device (or of `--against FILE`). The peer is eager
PyTorch, since `torch.compile` may choose another kernel in each run. A case that seems slower is measured again, up to
twice, and its best ratio counts.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import peers
import records
import timing
import torch
from records import Line

Key = tuple[str, str, str, str, str]  # op, case, dtype, direction, metric
Ratios = dict[Key, float]
TRIES = 3


@dataclass(frozen=True)
class Verdict:
    """The ratio to the peer in the record and now."""

    key: Key
    before: float
    now: float
    tolerance: float

    @property
    def change(self) -> float:
        return self.now / self.before - 1

    @property
    def good(self) -> bool:
        return self.change <= self.tolerance

    def __str__(self) -> str:
        op, case, dtype, direction, metric = self.key
        word = "ok" if self.good else "SLOWER"
        return (
            f"{op:15} {case:34} {dtype:9} {direction:17} {metric:12} {self.before:8.3f} {self.now:8.3f} "
            f"{100 * self.change:+7.1f} % {word}"
        )


def ratios(lines: Iterable[Line], peer: str) -> Ratios:
    """RoboCache's median over the peer's, where both are there, on as many threads."""
    medians: dict[tuple[object, ...], float] = {}
    for line in lines:
        key = tuple(line[name] for name in ("op", "case", "dtype", "direction", "metric", "threads", "impl"))
        medians[key] = float(str(line["median_us"]))
    found: Ratios = {}
    for (*where, threads, name), median in medians.items():
        base = medians.get((*where, threads, peer))
        if name == "robocache" and base:
            op, case, dtype, direction, metric = map(str, where)
            found[op, case, dtype, direction, metric] = median / base
    return found


def judge(
    before: Ratios, measure: Callable[[], Iterable[Line]], peer: str, tolerance: float, tries: int = TRIES
) -> list[Verdict]:
    """One case: measured until nothing of it seems slower, at most `tries` times."""
    best: Ratios = {}
    for _ in range(tries):
        for key, ratio in ratios(measure(), peer).items():
            best[key] = min(ratio, best.get(key, ratio))
        verdicts = [Verdict(key, before[key], best[key], tolerance) for key in best if key in before]
        if all(verdict.good for verdict in verdicts):
            break
    return verdicts


def of_device(device: str, folder: Path) -> Path:
    """The newest record with lines of this device."""
    found = [path for path in records.newest(folder).values() if any(x["device"] == device for x in peer_lines(path))]
    if not found:
        raise SystemExit(f"guard: no record in {folder} is of {device}: make one with benches/peers.py --record")
    return max(found)


def peer_lines(path: Path) -> Iterator[Line]:
    """The lines of `benches/peers.py`, without those of its sweep."""
    return (line for line in records.read(path) if "benches/peers.py" in str(line["command"]))


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--tolerance", type=float, default=0.05, help="by which a ratio may grow")
    parser.add_argument("--peer", default="torch eager")
    parser.add_argument("--case", default="", help="only the cases whose text has this in it")
    parser.add_argument("--seconds", type=float, default=1.0, help="on the CPU, for each implementation of a case")
    parser.add_argument("--against", type=Path, help="this record, instead of the newest of this device")
    options = parser.parse_args(arguments)
    device = torch.device(options.device)
    path = options.against or of_device(timing.machine(device), records.FOLDER)
    before = ratios(records.latest(records.read(path)).values(), options.peer)
    print(f"{timing.machine(device)}, against {path.name}: RoboCache over {options.peer}, record and now")
    torch.manual_seed(0)
    bench = peers.Bench(device, options.seconds, quick=True)
    cases = peers.CPU_CASES if device.type == "cpu" else peers.CUDA_CASES
    verdicts: list[Verdict] = []
    for case in (case for case in cases if case.bar and options.case in str(case)):
        directions = tuple(x for x in ("forward", "backward") if x in case.directions)
        found = judge(before, lambda case=case, on=directions: bench.measure(case, on), options.peer, options.tolerance)
        verdicts += found
        print("\n".join(map(str, found)), flush=True)
    slower = [verdict for verdict in verdicts if not verdict.good]
    print(f"{len(verdicts)} ratios, {len(slower)} more than {100 * options.tolerance:.0f} % above the record")
    if not verdicts:
        print("guard: the record has none of these cases")
    return 1 if slower or not verdicts else 0


if __name__ == "__main__":
    sys.exit(main())
