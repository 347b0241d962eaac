"""Times the operators beside every peer, after checking every answer, into a record.

    python benches/peers.py                      # this CPU, all threads that torch uses
    python benches/peers.py --device cuda        # CUDA graphs over rotating inputs, cold and warm; calls; tiny inputs
    python benches/peers.py --quick              # the bars only, beside eager PyTorch and torch.compile
    python benches/peers.py --op voxelize        # the cases of some operators only
    python benches/peers.py --record FILE.jsonl  # appends one line for each case, implementation and metric
    python benches/peers.py --record benches/record  # the same, to the file of today and of this machine

The fields of a line are in `benches/records.py`. `bytes` is the least that the case moves, `floor_us` these bytes over
the bandwidth of a large copy in the same run. Metrics:

    call          one call, with its wait: CPU
    graph, cold   a call in a CUDA graph whose inputs and results are not in the L2 cache when their turn comes
    graph, warm   the same inputs again and again
    stream        calls one after the other from Python, one wait at the end, cold inputs: also what cannot be captured
    dispatch      the host's time for a call on tiny inputs, beside `torch.add`; also with inputs that require gradients

A peer that is not installed, or lacks what a case needs, has a dash and is told once. Time series are in
`benches/signals.py`, clouds in `benches/clouds.py`, recorded data (`ROBOCACHE_DATA`) in `benches/recorded.py`.
"""

from __future__ import annotations

import argparse
import faulthandler
import gc
import platform
import shlex
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import cloud_peers
import clouds
import dispatch
import others
import recorded
import records
import robocache
import signal_peers
import signals
import timing
import torch
import torch._functorch.config
from others import Peer
from records import Line, spread

Case = signals.Case | clouds.Case
Call = Callable[[], object]

BARS: list[Case] = [*signals.BARS, *clouds.BARS]
# The bars first: a run that must stop early has them.
CUDA_CASES: list[Case] = [*BARS, *signals.SINGLES, signals.SHARED, *clouds.HALVES]
# Sizes that a small machine finishes.
CPU_CASES: list[Case] = [
    signals.Case(32, ((500, 256),), 250, signals.F32, bar=True),
    signals.Case(32, ((500, 256),), 250, signals.BF16),
    signals.SHARED,
    signals.Case(64, ((4096, 32),), 1024, signals.F32),
    signals.Case(8, ((250, 128),), 128, signals.F32),
    signals.Case(32, signals.VISION, 250, signals.F32),
    signals.Case(32, signals.VISION, 250, signals.BF16, bar=True),
    signals.Case(4, signals.SMALL, 50, signals.F32),
    clouds.BARS[0],
    clouds.BARS[2],
    clouds.BARS[4],
]
FORWARD_ONLY = (clouds.FIXED_POINT, "torch.compile max-autotune")  # no gradient; no time to compile it twice
OURS = ("robocache", "resample + cat")
QUICK = ("robocache", "torch eager", "torch.compile")


class Bench:
    """One run: a device, the bandwidth of its copies, and how much is measured."""

    def __init__(self, device: torch.device, seconds: float = 1.0, quick: bool = False, autotune: bool = False) -> None:
        self.device, self.seconds, self.quick, self.autotune = device, seconds, quick, autotune
        torch._functorch.config.donated_buffer = False  # a backward alone is repeated
        self.bandwidth, self.copies = timing.copy_bandwidth(device)

    def measure(self, case: Case, directions: tuple[str, ...] | None = None) -> Iterator[Line]:
        """The lines of a case, RoboCache's first in each metric; nothing is timed before its answer is checked."""
        data = case.inputs(self.device)
        directions = tuple(name for name in case.directions if directions is None or name in directions)
        calls = case.implementations(self.device, self.autotune and case.bar)
        peers = [] if self.quick else others_of(case, self.device)
        if self.quick:
            calls = {name: call for name, call in calls.items() if name in QUICK}
        calls, peers = checked(case, data, calls, peers)
        sizes = {direction: case.least_bytes(data, direction) for direction in directions}
        parts = self.on_cpu if self.device.type == "cpu" else self.on_cuda
        for direction, name, metric, threads, samples in parts(case, data, calls, peers, sizes):
            yield {
                "op": case.op,
                "case": str(case),
                "dtype": str(case.dtype).removeprefix("torch."),
                "direction": direction,
                "impl": name,
                "metric": metric,
                "bytes": sizes[direction],
                "floor_us": round(sizes[direction] / self.bandwidth, 3),
                "threads": threads,
            } | spread(samples)

    def on_cpu(
        self, case: Case, data: object, calls: dict[str, Call], peers: list[Peer], sizes: dict[str, int]
    ) -> Iterator[tuple[str, str, str, int, list[float]]]:
        threads = torch.get_num_threads()
        single = {peer.name for peer in peers if peer.single}
        for direction in sizes:
            runs = prepared(case, data, calls, direction)
            for peer in peers:
                call = peer.call if direction == "forward" else peer.gradient
                if direction != "backward" and call is not None:
                    runs[peer.name] = peer_run(peer, call, taken(peer, data))
            working: dict[str, Call] = {}
            for name, run in runs.items():
                with attempt(name, case):
                    run()
                    working[name] = run
            for name, samples in timing.alternating(working, self.seconds).items():
                yield direction, name, "call", 1 if name in single else threads, samples
        if case.bar and threads > 1 and "forward" in sizes:
            torch.set_num_threads(1)
            try:
                run = {"robocache": lambda: calls["robocache"](data)}  # type: ignore[call-arg]
                yield "forward", "robocache", "call", 1, timing.alternating(run, self.seconds)["robocache"]
            finally:
                torch.set_num_threads(threads)

    def on_cuda(
        self, case: Case, data: object, calls: dict[str, Call], peers: list[Peer], sizes: dict[str, int]
    ) -> Iterator[tuple[str, str, str, int, list[float]]]:
        threads = torch.get_num_threads()
        first = next(iter(sizes))
        # Enough inputs that none is still in the L2 cache when its turn comes again.
        cache = torch.cuda.get_device_properties(self.device).L2_cache_size
        copies = max(3, min(4 * cache // max(sizes[first], 1) + 1, timing.MOST_CALLS))
        rotating = [data, *(case.inputs(self.device) for _ in range(copies - 1))]
        for direction, size in sizes.items():
            count = timing.rotations(copies, size)
            for name, call in calls.items():
                if direction != "forward" and name in FORWARD_ONLY:
                    continue
                with attempt(name, case):
                    for metric, samples in self.in_graphs(case, call, name, direction, rotating, count):
                        yield direction, name, metric, threads, samples
            for peer in peers:
                call = peer.call if direction == "forward" else peer.gradient
                if direction == "backward" or call is None:
                    continue
                with attempt(peer.name, case):
                    runs = [peer_run(peer, call, taken(peer, each), wait=False) for each in rotating]
                    yield direction, peer.name, "stream", threads, timing.stream_times(runs, peer.wait)
                runs = []  # arrays of a peer, which may share a case's memory
            gc.collect()

    def in_graphs(
        self, case: Case, call: Call, name: str, direction: str, rotating: list[object], count: int
    ) -> list[tuple[str, list[float]]]:
        """By metric the microseconds of a call of torch's; what a backward needs is made on the stream of its graph."""
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            runs = [prepared(case, each, {name: call}, direction)[name] for each in rotating]
            torch.cuda.synchronize()
            found = [("graph, cold", timing.graph_times(runs, count, stream))]
            if direction == "forward" and not self.quick:
                found.append(("graph, warm", timing.graph_times(runs[:1], min(count, 200), stream)))
                found.append(("stream", timing.stream_times(runs, timing.wait_for_cuda)))
        return found


class attempt:
    """Lets a peer fail without ending the run, and says so; RoboCache may not."""

    def __init__(self, name: str, case: Case) -> None:
        self.name, self.case = name, case

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        if error is None or not isinstance(error, Exception) or self.name in OURS:
            return False
        text = " ".join(str(error).split())[:160]
        others.tell(f"{self.name} at {self.case}", f"{type(error).__name__}: {text}")
        return True


def others_of(case: Case, device: torch.device) -> list[Peer]:
    """The peers that are not torch."""
    if "ragged rows" in getattr(case, "needs", ()):
        others.tell("every peer, ragged rows", "has none")
        return []
    if isinstance(case, signals.Case):
        return signal_peers.peers(case, device)
    return cloud_peers.peers(case, device)


def checked(case: Case, data: object, calls: dict[str, Call], peers: list[Peer]) -> tuple[dict[str, Call], list[Peer]]:
    """Those whose answer is the definition's: ours to the bit or not at all, a peer within its rounding or a dash."""
    expected = case.expected(data)  # type: ignore[arg-type]
    right, right_peers = {}, []
    for name, call in calls.items():
        with attempt(name, case):
            case.check(name, call(data), expected)  # type: ignore[arg-type,call-arg]
            right[name] = call
    for peer in peers:
        with attempt(peer.name, case):
            answer = peer.call(taken(peer, data))
            peer.wait(answer)
            case.check(peer.name, peer.give(answer), expected)
            right_peers.append(peer)
    return right, right_peers


def prepared(case: Case, data: object, calls: dict[str, Call], direction: str) -> dict[str, Call]:
    """Calls without arguments."""
    make = {
        "forward": lambda call: lambda: call(data),
        "backward": lambda call: case.backward(call, data),  # type: ignore[arg-type]
        "forward+backward": lambda call: case.gradient(call, data),  # type: ignore[arg-type]
    }[direction]
    found: dict[str, Call] = {}
    for name, call in calls.items():
        with attempt(name, case):
            found[name] = make(call)
    return found


def taken(peer: Peer, data: object) -> object:
    """The inputs in the peer's own arrays, and there."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()  # a peer works on a stream of its own
    return peer.take(data)


def peer_run(peer: Peer, call: Callable[[object], object], arguments: object, wait: bool = True) -> Call:
    def run() -> object:
        result = call(arguments)
        if wait:
            peer.wait(result)
        return result

    return run


def versions(device: torch.device) -> dict[str, str]:
    """Of everything that a time may depend on; on CUDA the clocks as found."""
    found = {"robocache": robocache.__version__, "torch": torch.__version__, "python": platform.python_version()}
    found |= others.installed()
    if device.type == "cuda":
        found |= {"cuda": str(torch.version.cuda)} | timing.clocks()
    return found


COLUMNS = (("op", 15), ("case", 42), ("dtype", 8), ("direction", 16), ("metric", 23), ("threads", 7), ("impl", 27))


def heading() -> str:
    return " ".join(f"{name:{width}}" for name, width in COLUMNS) + f" {'median µs':>11} {'ratio':>7} {'% limit':>7}"


def table_line(line: Line, ours: dict[object, float]) -> str:
    """A row for a person: the ratio to RoboCache, the first of its metric, and the share of the limit."""
    median, floor = float(str(line["median_us"])), float(str(line["floor_us"]))
    base = ours.setdefault(tuple(line[name] for name in ("op", "case", "dtype", "direction", "metric")), median)
    fraction = f"{100 * floor / median:7.1f}" if floor else f"{'—':>7}"
    cells = " ".join(f"{line[name]!s:{width}}" for name, width in COLUMNS)
    return f"{cells} {median:11.2f} {median / base:7.2f} {fraction}"


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--seconds", type=float, default=0.4, help="on the CPU, for each implementation of a case")
    parser.add_argument("--quick", action="store_true", help="the bars, eager PyTorch and torch.compile only")
    parser.add_argument("--op", default="", help="only the cases of this operator, or of those that begin so")
    parser.add_argument("--case", default="", help="only the cases whose text has this in it")
    parser.add_argument("--direction", action="append", help="forward, backward, forward+backward; may be repeated")
    parser.add_argument("--limit", type=float, default=3600.0, help="seconds after which no case is begun")
    parser.add_argument("--record", type=Path, help="a .jsonl file to append to, or the folder of one a day")
    options = parser.parse_args(arguments)
    torch.manual_seed(0)
    device, begun = torch.device(options.device), time.monotonic()
    bench = Bench(device, options.seconds, options.quick, autotune=device.type == "cuda" and not options.quick)
    common: Line = {
        "device": timing.machine(device),
        "command": shlex.join(["python", "benches/peers.py", *(sys.argv[1:] if arguments is None else arguments)]),
        "versions": versions(device),
    }
    record = records.place(options.record, str(common["device"])) if options.record else None
    ours: dict[object, float] = {}
    print(common["device"], common["versions"], f"copy: {bench.bandwidth / 1e3:.0f} GB/s read and written", sep="\n")
    print(heading())

    def say(line: Line) -> None:
        print(table_line(line, ours), flush=True)
        if record:
            records.append(record, line | common)

    for line in bench.copies:
        say(line)
    cases = CPU_CASES if device.type == "cpu" else CUDA_CASES
    if options.quick:
        cases = [case for case in cases if case.bar]
    else:
        cases = [*cases, *recorded.cases()]
        if not options.op and not options.case:
            for line in dispatch.measure(device):
                say(line)
    cases = [case for case in cases if case.op.startswith(options.op) and options.case in str(case)]
    directions = tuple(options.direction) if options.direction else None
    # A quick run may be cut short: then it has every forward before the first backward.
    rounds = [(name,) for name in ("forward", "backward")] if options.quick and not directions else [directions]
    for wanted in rounds:
        for case in cases:
            if wanted and not set(wanted) & set(case.directions):
                continue
            if time.monotonic() - begun > options.limit:
                print(f"not begun, {options.limit:.0f} s are over: {case.op} {case} {' '.join(wanted or ())}")
                continue
            for line in bench.measure(case, wanted):
                say(line)
            if device.type == "cuda":
                torch.cuda.empty_cache()


if __name__ == "__main__":
    faulthandler.enable()  # a peer that ends the process says where
    main()
