"""Looks through the whole range of sizes for cases where a peer is faster than RoboCache, and prints the worst.

    python benches/sweep.py --cases 60 --seconds 120
    python benches/sweep.py --device cuda --cases 200 --seconds 240 --record benches/record
    python benches/sweep.py --device cuda --direction backward

Sizes are drawn by a seeded Sobol sequence, evenly over the logarithms, without those that need more than `--bytes`.
The peers are eager PyTorch and `torch.compile` for sizes that change, compiled once for each kind of case. An answer
must be near the peers' before it is timed. A backward is timed alone, of cases that have one. Lines are those of
`benches/peers.py`, in a file of their own.
"""

from __future__ import annotations

import argparse
import gc
import shlex
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import clouds
import peers
import records
import robocache
import signals
import timing
import torch
from records import Line, spread

Case = signals.Case | clouds.Case

BATCH, SOURCE, CHANNELS, TARGETS = (1, 4096), (2, 65_536), (1, 2048), (1, 16_384)
POINTS, GRID, FEATURES = (1000, 64_000_000), (16, 512), (1, 64)
DTYPES = (torch.float32, torch.bfloat16)
CLOUDS = (("voxelize", "occupancy"), ("voxelize", "mean"), ("voxelize_sparse", "mean"))
LEAST_LIMIT = 1 << 20
CPU_BYTES, CUDA_BYTES = 300_000_000, 8_000_000_000
FEW_POINTS = 1e-4  # of elements that may differ where points lie on the sides of voxels
COLD_COPIES = 3  # beyond these a case of more bytes than the cache is cold


def between(share: float, limits: tuple[int, int]) -> int:
    """The whole number at this share of the way between two, on a logarithmic scale."""
    low, high = limits
    return min(high, max(low, round(low * (high / low) ** share)))


def of(share: float, choices: tuple) -> object:  # type: ignore[type-arg]
    return choices[min(int(share * len(choices)), len(choices) - 1)]


def draw_signals(count: int, limit: int, seed: int = 0) -> list[signals.Case]:
    """Cases of `resample` whose tensors, and the peers' between, need at most `limit` bytes."""
    found: list[signals.Case] = []
    for batch, source, channels, targets, dtype in points(5, seed):
        case = signals.Case(
            between(batch, BATCH),
            ((between(source, SOURCE), between(channels, CHANNELS)),),
            between(targets, TARGETS),
            of(dtype, DTYPES),  # type: ignore[arg-type]
        )
        if need_of_signals(case) <= limit:
            found.append(case)
        if len(found) == count:
            break
    return found


def draw_clouds(count: int, limit: int, seed: int = 0) -> list[clouds.Case]:
    """Cases of `voxelize` and `voxelize_sparse`, likewise."""
    found: list[clouds.Case] = []
    for kind, number, grid, features, dtype in points(5, seed):
        op, reduce = of(kind, CLOUDS)  # type: ignore[misc]
        channels = 0 if reduce == "occupancy" else between(features, FEATURES)
        kept = of(dtype, DTYPES) if channels else torch.float32
        case = clouds.Case(op, reduce, between(number, POINTS), channels, between(grid, GRID), kept)  # type: ignore[arg-type]
        if need_of_clouds(case) <= limit:
            found.append(case)
        if len(found) == count:
            break
    return found


def points(dimensions: int, seed: int, most: int = 1 << 14) -> Iterator[list[float]]:
    """Points of the unit cube, evenly spread."""
    sobol = torch.quasirandom.SobolEngine(dimensions, scramble=True, seed=seed)
    yield from sobol.draw(most, dtype=torch.float64).tolist()


def need_of_signals(case: signals.Case) -> int:
    """Bytes of values, result, and what eager PyTorch keeps between: both neighbours in float32, and indices."""
    ((samples, channels),) = case.streams
    values, result = case.batch * samples * channels, case.batch * case.targets * channels
    return (values + result) * case.dtype.itemsize + 16 * result + 8 * case.batch * (samples + 4 * case.targets)


def need_of_clouds(case: clouds.Case) -> int:
    """Bytes of points, features, results, and sums in float32 beside them."""
    cells = case.points if case.sparse else case.size**3
    width = max(case.channels, 1)
    return case.points * (12 + 40 + 8 * width) + cells * width * (case.dtype.itemsize + 8)


class Sweep:
    """Eager and compiled peers, and how each is timed on a device."""

    def __init__(self, device: torch.device, seconds: float, direction: str = "forward") -> None:
        self.device, self.seconds, self.direction = device, seconds, direction
        torch._functorch.config.donated_buffer = False  # a backward alone is repeated
        self.bandwidth, self.copies = timing.copy_bandwidth(device)
        torch._dynamo.reset()
        torch._dynamo.config.recompile_limit = 64
        formulations = {
            "resample": signals.one_in_torch,
            "occupancy": clouds.Case.occupied,
            "mean": clouds.Case.mean,
            "rows": clouds.Case.rows,
        }
        self.compiled = {name: torch.compile(each, dynamic=True) for name, each in formulations.items()}

    def calls(self, case: Case) -> dict[str, Callable[..., object]]:
        """RoboCache first."""
        if isinstance(case, clouds.Case):
            compiled = self.compiled["rows" if case.sparse else case.reduce]
            return {
                "robocache": lambda data: case.answer(robocache, data),
                "torch eager": case.peer,
                "torch.compile": lambda data: compiled(case, data),
            }
        compiled = self.compiled["resample"]
        return {
            "robocache": lambda data: signals.resampled(data.values, data.source_times, data.target_times),
            "torch eager": lambda data: signals.one_in_torch(data.values[0], data.source_times[0], data.target_times),
            "torch.compile": lambda data: compiled(data.values[0], data.source_times[0], data.target_times),
        }

    def measure(self, case: Case) -> Iterator[Line]:
        """A line for each implementation."""
        data = case.inputs(self.device)
        calls = agreeing(case, data, self.calls(case))
        size = case.least_bytes(data, self.direction)
        for name, samples in self.times(case, data, calls, size).items():
            yield {
                "op": case.op,
                "case": str(case),
                "dtype": str(case.dtype).removeprefix("torch."),
                "direction": self.direction,
                "impl": name,
                "metric": "call" if self.device.type == "cpu" else "graph, cold",
                "bytes": size,
                "floor_us": round(size / self.bandwidth, 3),
                "threads": torch.get_num_threads(),
            } | spread(samples)

    def times(
        self, case: Case, data: object, calls: dict[str, Callable[..., object]], size: int
    ) -> dict[str, list[float]]:
        if self.device.type == "cpu":
            runs = {name: self.run(case, call, data) for name, call in calls.items()}
            return timing.alternating(runs, self.seconds, least=5)
        cache = torch.cuda.get_device_properties(self.device).L2_cache_size
        copies = max(COLD_COPIES, min(4 * cache // max(size, 1) + 1, timing.MOST_CALLS // 4))
        if size > 4 * cache:
            copies = 1  # it does not fit, whatever came before
        rotating = [data, *(case.inputs(self.device) for _ in range(copies - 1))]  # type: ignore[list-item]
        count = min(timing.rotations(copies, size), 4 * copies)
        found: dict[str, list[float]] = {}
        for name, call in calls.items():
            with peers.attempt(name, case):
                found[name] = self.in_graph(case, call, rotating, count)
        return found

    def run(self, case: Case, call: Callable[..., object], data: object) -> Callable[[], object]:
        """A call without arguments, or the backward of one that is made here."""
        if self.direction == "forward":
            return lambda: call(data)
        return case.backward(call, data)  # type: ignore[arg-type]

    def in_graph(self, case: Case, call: Callable[..., object], rotating: list[object], count: int) -> list[float]:
        """What a backward needs is made on the stream of its graph."""
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            runs = [self.run(case, call, each) for each in rotating]
            torch.cuda.synchronize()
            return timing.graph_times(runs, count, stream)


def agreeing(case: Case, data: object, calls: dict[str, Callable[..., object]]) -> dict[str, Callable[..., object]]:
    """Those that work at this size; RoboCache must be among them, and near eager PyTorch."""
    answers: dict[str, object] = {}
    for name, call in calls.items():
        with peers.attempt(name, case):
            answers[name] = call(data)
    ours = as_tuple(answers["robocache"])
    agree = {}
    for name, answer in answers.items():
        wrong = max(
            far(found, near) / max(found.numel(), 1) for found, near in zip(ours, as_tuple(answer), strict=False)
        )
        if wrong <= (FEW_POINTS if isinstance(case, clouds.Case) else 0):
            agree[name] = calls[name]
        elif name == "torch eager":
            raise ValueError(f"{case}: robocache and {name} must agree, {100 * wrong:.3g} % of the elements do not")
        else:
            print(f"{name} differs at {case} in {100 * wrong:.3g} % of the elements and is not timed")
    return agree


def far(found: torch.Tensor, near: torch.Tensor) -> int:
    """How many elements are not what another implementation found, beyond what rounding explains."""
    if found.shape != near.shape:
        return max(found.numel(), 1)
    if not found.is_floating_point():
        return int((found != near).sum())
    few = 2e-2 if found.dtype.itemsize == 2 else 1e-3
    return int((~torch.isclose(found, near, rtol=few, atol=few)).sum())


def as_tuple(answer: object) -> tuple[torch.Tensor, ...]:
    return answer if isinstance(answer, tuple) else (answer,)  # type: ignore[return-value]


def ratio(lines: list[Line]) -> tuple[float, str]:
    """RoboCache's median over the fastest peer's, and which that is."""
    medians = {str(line["impl"]): float(str(line["median_us"])) for line in lines}
    ours = medians.pop("robocache")
    best = min(medians, key=lambda name: medians[name])
    return ours / medians[best], best


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--cases", type=int, default=40, help="of time series and of clouds, half each")
    parser.add_argument("--seconds", type=float, default=300.0, help="after which no case is begun")
    parser.add_argument("--direction", default="forward", choices=["forward", "backward"])
    parser.add_argument("--bytes", type=int, help="that a case may need")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--worst", type=int, default=15, help="ratios to print in the end")
    parser.add_argument("--record", type=Path, help="a .jsonl file to append to, or the folder of one a day")
    options = parser.parse_args(arguments)
    device, begun = torch.device(options.device), time.monotonic()
    limit = options.bytes or (CPU_BYTES if device.type == "cpu" else CUDA_BYTES)
    if limit < LEAST_LIMIT:
        parser.error(f"--bytes must be at least {LEAST_LIMIT}")
    torch.manual_seed(options.seed)
    sweep = Sweep(device, 0.1, options.direction)
    common: Line = {
        "device": timing.machine(device),
        "command": shlex.join(["python", "benches/sweep.py", *(arguments if arguments is not None else sys.argv[1:])]),
        "versions": peers.versions(device),
    }
    record = records.place(options.record, str(common["device"]), "sweep") if options.record else None
    half = (options.cases + 1) // 2
    both = zip(draw_signals(half, limit, options.seed), draw_clouds(half, limit, options.seed), strict=True)
    found: list[tuple[float, str]] = []
    for case in (case for pair in both for case in pair if options.direction in case.directions):
        if time.monotonic() - begun > options.seconds:
            print(f"{options.seconds:.0f} s are over after {len(found)} cases")
            break
        try:
            lines = list(sweep.measure(case))
        except torch.OutOfMemoryError:
            print(f"no memory for {case.op} {case}")
            continue
        finally:
            gc.collect()
        medians = ", ".join(f"{line['impl']} {float(str(line['median_us'])):.1f} µs" for line in lines)
        worse, best = ratio(lines)
        text = f"{case.op} {case} {lines[0]['dtype']}: {medians}"
        print(f"{worse:8.3f} {text}", flush=True)
        found.append((worse, f"{text} (fastest peer: {best})"))
        if record:
            for line in lines:
                records.append(record, line | common)
    found.sort(reverse=True)
    print(f"\nworst of {len(found)}, RoboCache over the fastest peer:")
    for worse, text in found[: options.worst]:
        print(f"{worse:8.3f} {text}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
