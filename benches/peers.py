"""Times the operators beside eager PyTorch and `torch.compile`, after checking every answer, into a record.

    python benches/peers.py                      # this CPU, all threads that torch uses
    python benches/peers.py --device cuda        # CUDA graph replays over rotating inputs, cold and warm
    python benches/peers.py --op voxelize        # the cases of some operators only
    python benches/peers.py --record FILE.jsonl  # appends one line for each case and implementation

A line holds: op, case, dtype, direction, device, threads, impl, metric, median_us, p10_us, p90_us, bytes, command,
versions. `bytes` is the least that the case moves: source rows that some target touches, the result, the times. A case
of several streams is one of `fuse`; "resample + cat" is RoboCache without it. Clouds are in `benches/clouds.py`.
"""

from __future__ import annotations

import argparse
import json
import platform
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import clouds
import robocache
import torch
from robocache import reference

Call = Callable[[], object]


@dataclass(frozen=True)
class Case:
    """Sizes of a call: `batch` rows of each stream's samples of its channels, to `targets` targets."""

    batch: int
    streams: tuple[tuple[int, int], ...]  # samples and channels of each
    targets: int
    dtype: torch.dtype

    @property
    def op(self) -> str:
        """`resample` takes one stream, `fuse` several."""
        return "resample" if len(self.streams) == 1 else "fuse"

    def __str__(self) -> str:
        streams = "+".join(f"{samples}x{channels}" for samples, channels in self.streams)
        return f"{self.batch}x{streams}->{self.targets}"

    @property
    def directions(self) -> tuple[str, ...]:
        return "forward", "forward+backward"

    def inputs(self, device: torch.device) -> Inputs:
        def times(count: int) -> torch.Tensor:
            return torch.rand(self.batch, count, dtype=torch.float64, device=device).sort(dim=1).values

        values = [torch.randn(self.batch, *stream, device=device).to(self.dtype) for stream in self.streams]
        return Inputs(values, [times(samples) for samples, _ in self.streams], times(self.targets))

    def implementations(self, device: torch.device) -> dict[str, Callable[[Inputs], torch.Tensor]]:
        torch._dynamo.reset()  # each case is compiled for its own sizes, and none falls back to eager at a limit
        compiled = torch.compile(in_torch, dynamic=False)
        calls = {"robocache": resampled}
        if self.op == "fuse":
            calls = {"robocache": robocache.fuse, "resample + cat": resampled_and_joined}
        calls |= {"torch eager": in_torch, "torch.compile": compiled}
        return {
            name: lambda data, call=call: call(data.values, data.source_times, data.target_times)
            for name, call in calls.items()
        }

    def expected(self, data: Inputs) -> torch.Tensor:
        return reference.fuse(data.values, data.source_times, data.target_times)

    def check(self, name: str, answer: torch.Tensor, expected: torch.Tensor) -> None:
        """No answer, no time: ours must be the definition's bits, a peer's within a rounding of its type."""
        if name.startswith(("robocache", "resample")):
            if not torch.equal(answer, expected):
                raise SystemExit(f"peers: {name} at {self} must equal the definition to the bit")
            return
        torch.testing.assert_close(answer, expected, rtol=2e-2 if self.dtype == torch.bfloat16 else 1e-4, atol=1e-2)

    def gradient(self, call: Callable[[Inputs], torch.Tensor], data: Inputs) -> Call:
        values = [x.clone().requires_grad_() for x in data.values]
        shape = (values[0].size(0), data.target_times.size(1), sum(x.size(2) for x in values))
        grad = torch.ones(shape, dtype=values[0].dtype, device=values[0].device)

        def run() -> torch.Tensor:
            result = call(Inputs(values, data.source_times, data.target_times))
            return torch.autograd.grad(result, values, grad)[0]

        return run

    def least_bytes(self, data: Inputs) -> int:
        total = data.target_times.numel() * 8
        for (samples, channels), times in zip(self.streams, data.source_times, strict=True):
            touched = torch.zeros(self.batch, samples, dtype=torch.bool, device=times.device)
            right = torch.searchsorted(times, data.target_times, right=True)
            for index in (right - 1, right):
                touched.scatter_(1, index.clamp(0, samples - 1), True)
            rows = int(touched.sum()) + self.batch * self.targets
            total += rows * channels * data.values[0].element_size() + times.numel() * 8
        return total


@dataclass
class Inputs:
    """Random values, ascending random source times in [0, 1) and ascending targets inside them, float64 seconds."""

    values: list[torch.Tensor]
    source_times: list[torch.Tensor]
    target_times: torch.Tensor


CASES: list[Case | clouds.Case] = [
    Case(32, ((500, 256),), 250, torch.float32),
    Case(32, ((500, 256),), 250, torch.bfloat16),
    Case(64, ((4096, 32),), 1024, torch.float32),
    Case(8, ((250, 128),), 128, torch.float32),
    Case(32, ((150, 512), (500, 14), (500, 6)), 250, torch.bfloat16),
    Case(4, ((30, 512), (100, 64), (200, 12)), 50, torch.bfloat16),
    *clouds.CASES,
]


def one_in_torch(values: torch.Tensor, source_times: torch.Tensor, target_times: torch.Tensor) -> torch.Tensor:
    """The same thing as users write it in PyTorch: search, gather both neighbours, lerp; ends held."""
    right = torch.searchsorted(source_times, target_times, right=True).clamp(1, source_times.size(1) - 1)
    left = right - 1
    start, end = source_times.gather(1, left), source_times.gather(1, right)
    weight = ((target_times - start) / (end - start)).clamp(0, 1).to(torch.float32).unsqueeze(-1)
    channels = (-1, -1, values.size(2))
    a = values.gather(1, left.unsqueeze(-1).expand(channels)).float()
    b = values.gather(1, right.unsqueeze(-1).expand(channels)).float()
    return torch.lerp(a, b, weight).to(values.dtype)


def in_torch(values: list[torch.Tensor], source_times: list[torch.Tensor], target: torch.Tensor) -> torch.Tensor:
    parts = [one_in_torch(v, t, target) for v, t in zip(values, source_times, strict=True)]
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=2)


def resampled(values: list[torch.Tensor], source_times: list[torch.Tensor], target: torch.Tensor) -> torch.Tensor:
    return robocache.resample(values[0], source_times[0], target)


def resampled_and_joined(
    values: list[torch.Tensor], source_times: list[torch.Tensor], target: torch.Tensor
) -> torch.Tensor:
    parts = [robocache.resample(v, t, target) for v, t in zip(values, source_times, strict=True)]
    return torch.cat(parts, dim=2)


def cpu_times(runs: dict[str, Call], seconds: float) -> dict[str, list[float]]:
    """Microseconds of single calls, the implementations taken in turn so that a busy moment hits all of them."""
    for run in runs.values():
        for _ in range(3):
            run()
    samples: dict[str, list[float]] = {name: [] for name in runs}
    end = time.perf_counter() + seconds * len(runs)
    while time.perf_counter() < end or len(next(iter(samples.values()))) < 10:
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            samples[name].append((time.perf_counter() - start) * 1e6)
    return samples


def cuda_times(calls: list[Call], repeats: int = 30) -> list[float]:
    """Microseconds a call in a CUDA graph that runs every call of the list once."""
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for call in calls[:3]:
            call()
    stream.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        for call in calls:
            call()
    samples = []
    for _ in range(repeats):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        graph.replay()
        end.record()
        end.synchronize()
        samples.append(start.elapsed_time(end) * 1e3 / len(calls))
    return samples


def measure(case: Case | clouds.Case, device: torch.device, seconds: float) -> Iterator[dict[str, object]]:
    data = case.inputs(device)
    line = {
        "op": case.op,
        "case": str(case),
        "dtype": str(case.dtype).removeprefix("torch."),
        "device": machine(device),
    }
    line |= {"threads": torch.get_num_threads(), "bytes": case.least_bytes(data)}
    calls, expected = case.implementations(device), case.expected(data)
    for name, call in calls.items():
        case.check(name, call(data), expected)
    del expected
    if device.type == "cpu":
        for direction in case.directions:
            runs = {
                name: (lambda call=call: call(data)) if direction == "forward" else case.gradient(call, data)
                for name, call in calls.items()
            }
            for name, samples in cpu_times(runs, seconds).items():
                yield line | {"direction": direction, "impl": name, "metric": "call"} | spread(samples)
        return
    # Enough inputs that none is still in the L2 cache when its turn comes again.
    copies = max(4, int(4 * torch.cuda.get_device_properties(device).L2_cache_size / line["bytes"]))  # type: ignore[operator]
    rotating = [case.inputs(device) for _ in range(copies)]
    for name, call in calls.items():
        cold = [lambda d=d, call=call: call(d) for d in rotating]
        for metric, timed in (("graph, cold", cold), ("graph, warm", cold[:1] * copies)):
            yield line | {"direction": "forward", "impl": name, "metric": metric} | spread(cuda_times(timed))
        if "forward+backward" in case.directions and name != clouds.FIXED_POINT:
            both = [case.gradient(call, d) for d in rotating]
            times = cuda_times(both)
            yield line | {"direction": "forward+backward", "impl": name, "metric": "graph, cold"} | spread(times)


def spread(samples: list[float]) -> dict[str, object]:
    deciles = statistics.quantiles(samples, n=10)
    return {
        "median_us": round(statistics.median(samples), 3),
        "p10_us": round(deciles[0], 3),
        "p90_us": round(deciles[8], 3),
    }


def machine(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    text = Path("/proc/cpuinfo")
    names = [line.split(":", 1)[1].strip() for line in text.read_text().splitlines() if line.startswith("model name")]
    return f"{names[0] if names else platform.processor()}, {len(names)} cores"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--seconds", type=float, default=3.0, help="time for each implementation of a case")
    parser.add_argument("--op", help="only the cases of this operator, or of those that begin so")
    parser.add_argument("--record", type=Path, help="a .jsonl file to append to")
    options = parser.parse_args()
    torch.manual_seed(0)
    versions = {"robocache": robocache.__version__, "torch": torch.__version__, "python": platform.python_version()}
    command = shlex.join(["python", "benches/peers.py", *sys.argv[1:]])
    header = (
        f"{'case':32} {'dtype':9} {'direction':17} {'metric':12} {'implementation':19} {'median µs':>10} {'ratio':>6}"
    )
    print(header)
    for case in (case for case in CASES if case.op.startswith(options.op or "")):
        ours: dict[tuple[object, object], float] = {}
        for line in measure(case, torch.device(options.device), options.seconds):
            median = float(str(line["median_us"]))
            key = (line["direction"], line["metric"])
            ours.setdefault(key, median)
            print(
                f"{line['case']:32} {line['dtype']:9} {line['direction']:17} {line['metric']:12} {line['impl']:19} "
                f"{median:10.1f} {median / ours[key]:6.2f}"
            )
            if options.record:
                options.record.parent.mkdir(parents=True, exist_ok=True)
                with options.record.open("a") as record:
                    record.write(json.dumps(line | {"command": command, "versions": versions}) + "\n")


if __name__ == "__main__":
    main()
