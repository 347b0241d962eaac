"""Fails where RoboCache has become slower than its record, beside peers that are measured in the same run.

    python benches/guard.py                   # the bars on this CPU
    python benches/guard.py --device cuda
    python benches/guard.py --tolerance 0.1 --case 500x256 --peer "torch eager"

A time alone would compare machines, clocks and neighbours. So what is compared are ratios: RoboCache's median over a
peer's, now and in the newest record of a machine with the same device (or of `--against FILE`). Peers change as well:
`torch.compile` may choose another kernel in each run. What makes RoboCache slower makes it slower beside all of them,
so the ratio that grew least counts. A case that seems slower is measured again, up to twice, and its best ratios count.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import peers
import records
import timing
import torch
from records import Line

Key = tuple[str, str, str, str, str]  # op, case, dtype, direction, metric
Ratios = dict[Key, dict[str, float]]  # by peer
PEERS = ["torch.compile", "torch eager"]
TRIES = 3


@dataclass(frozen=True)
class Verdict:
    """The ratio to a peer in the record and now."""

    key: Key
    peer: str
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
            f"{op:15} {case:34} {dtype:9} {direction:17} {metric:12} {self.peer:14} {self.before:8.3f} "
            f"{self.now:8.3f} {100 * self.change:+7.1f} % {word}"
        )


def ratios(lines: Iterable[Line], peers: Sequence[str]) -> Ratios:
    """RoboCache's median over each peer's, where both are there, on as many threads."""
    medians: dict[tuple[object, ...], float] = {}
    for line in lines:
        key = tuple(line[name] for name in ("op", "case", "dtype", "direction", "metric", "threads", "impl"))
        medians[key] = float(str(line["median_us"]))
    found: Ratios = {}
    for (*where, threads, name), median in medians.items():
        if name != "robocache":
            continue
        beside = {peer: medians.get((*where, threads, peer)) for peer in peers}
        by_peer = {peer: median / base for peer, base in beside.items() if base}
        if by_peer:
            op, case, dtype, direction, metric = map(str, where)
            found[op, case, dtype, direction, metric] = by_peer
    return found


def judge(
    before: Ratios,
    measure: Callable[[], Iterable[Line]],
    peers: Sequence[str],
    tolerance: float,
    tries: int = TRIES,
) -> list[Verdict]:
    """One case: measured until nothing of it seems slower, at most `tries` times."""
    best: Ratios = {}
    for _ in range(tries):
        for key, by_peer in ratios(measure(), peers).items():
            found = best.setdefault(key, {})
            found |= {peer: min(ratio, found.get(peer, ratio)) for peer, ratio in by_peer.items()}
        shared = [(key, now) for key, now in best.items() if before.get(key, {}).keys() & now]
        verdicts = [verdict(key, before[key], now, tolerance) for key, now in shared]
        if all(each.good for each in verdicts):
            break
    return verdicts


def verdict(key: Key, before: dict[str, float], now: dict[str, float], tolerance: float) -> Verdict:
    """Of the peer beside which RoboCache lost least."""
    both = [Verdict(key, peer, before[peer], now[peer], tolerance) for peer in now if peer in before]
    return min(both, key=lambda each: each.change)


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
    parser.add_argument("--peer", action="append", choices=PEERS, help="beside this one alone")
    parser.add_argument("--case", default="", help="only the cases whose text has this in it")
    parser.add_argument("--seconds", type=float, default=1.0, help="on the CPU, for each implementation of a case")
    parser.add_argument("--against", type=Path, help="this record, instead of the newest of this device")
    options = parser.parse_args(arguments)
    device = torch.device(options.device)
    path = options.against or of_device(timing.machine(device), records.FOLDER)
    beside = options.peer or PEERS
    before = ratios(records.latest(records.read(path)).values(), beside)
    print(f"{timing.machine(device)}, against {path.name}: RoboCache over a peer, record and now")
    torch.manual_seed(0)
    bench = peers.Bench(device, options.seconds, quick=True)
    cases = peers.CPU_CASES if device.type == "cpu" else peers.CUDA_CASES
    verdicts: list[Verdict] = []
    for case in (case for case in cases if case.bar and options.case in str(case)):
        directions = tuple(x for x in ("forward", "backward") if x in case.directions)
        found = judge(before, lambda case=case, on=directions: bench.measure(case, on), beside, options.tolerance)
        verdicts += found
        print("\n".join(map(str, found)), flush=True)
    slower = [each for each in verdicts if not each.good]
    print(f"{len(verdicts)} ratios, {len(slower)} more than {100 * options.tolerance:.0f} % above the record")
    if not verdicts:
        print("guard: the record has none of these cases")
    return 1 if slower or not verdicts else 0


if __name__ == "__main__":
    sys.exit(main())
