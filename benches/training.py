"""Times a training step with `resample` in it, beside the same step without and beside a DataLoader that resamples.

    python benches/training.py --device cuda --record benches/record/DATE-KIND-training.jsonl
    python benches/training.py --device cuda --trace step.json.gz --picture step.svg   # and its timeline
    python benches/training.py --layers 1 --batch 2 --steps 4 --only eager             # a small one on this CPU

The task: sensor channels at irregular float64 times, put on a uniform clock, from which a transformer encoder forecasts
what drives them; AdamW, bfloat16 autocast. "robocache" resamples within the step, from raw data on the device;
"resampled before" is the same model on what that gives; "DataLoader" resamples in NumPy in worker processes. Each loss
must fall before anything is timed. A step's time is from one event to the next, the variants taken in turn. `bytes` and
`floor_us` are the operator's, as in `benches/peers.py`; lines of the metric "share" have its part of a step as `share`.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import records
import robocache
import signals
import timeline
import timing
import torch
from forecast import Forecast, Raw, Task
from torch import Tensor
from torch.profiler import ProfilerActivity, profile, record_function
from torch.utils.data import DataLoader, Dataset, RandomSampler

Array = np.ndarray
Run = Callable[[int], Tensor]  # a step on the batch of this number: its loss

BF16 = torch.bfloat16
TRACED = 3  # steps of each variant in a trace
LEAD_IN = 2  # steps of each round that are not counted
DIRECTION = "forward+backward+optimizer"


class Step:
    """A model, its optimizer, and one step of training on a batch."""

    def __init__(self, task: Task, device: torch.device, compiled: bool) -> None:
        torch.manual_seed(1)
        self.model, self.device = Forecast(task).to(device), device
        cuda = device.type == "cuda"
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-3, fused=True, capturable=cuda)
        self.loss = torch.compile(self.model, dynamic=False) if compiled else self.model
        self.first: list[Tensor] = []  # losses before it has learned

    def __call__(self, batch: tuple[Tensor, ...]) -> Tensor:
        with record_function("forward"), torch.autocast(self.device.type, BF16, cache_enabled=False):
            loss = self.loss(*batch)
        with record_function("backward"):
            loss.backward()
        with record_function("optimizer"):
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
        return loss.detach()

    def warm(self, batches: list[tuple[Tensor, ...]]) -> None:
        """Compiles, tunes and allocates what a graph must find done, on a stream of its own."""
        stream = torch.cuda.Stream() if self.device.type == "cuda" else None
        if stream:
            stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            self.first = [self(batch) for batch in batches[:3]]
        if stream:
            torch.cuda.current_stream().wait_stream(stream)

    def graphs(self, batches: list[tuple[Tensor, ...]]) -> Run:
        """One CUDA graph of the whole step for each batch, so that none is copied; they run in this order."""
        pool, found = torch.cuda.graph_pool_handle(), []
        for batch in batches:
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=pool):
                loss = self(batch)
            found.append((graph, loss))

        def run(index: int) -> Tensor:
            graph, loss = found[index % len(found)]
            graph.replay()
            return loss

        return run

    def learns(self, name: str, run: Run, steps: int) -> None:
        """No step is timed whose loss does not fall by half."""
        last = [float(run(index)) for index in range(steps)][-len(self.first) :]
        first = statistics.fmean(float(loss) for loss in self.first)
        if not statistics.fmean(last) < first / 2:
            raise SystemExit(f"training: the loss of {name} must fall from {first:.4f} by half, got {last}")
        print(f"{name}: the loss falls from {first:.4f} to {statistics.fmean(last):.4f} in {steps} steps", flush=True)


def variants(task: Task, raw: Raw, options: argparse.Namespace) -> tuple[dict[str, Run], dict[str, Step]]:
    """The steps by name, "robocache" beside "resampled before", and the models for the DataLoader."""
    device, count = torch.device(options.device), options.batches
    pieces = [x.to(device).split(task.batch) for x in (raw.wanted, raw.values.to(BF16), raw.source_times)]
    target_times = raw.target_times.to(device)
    inside = [(wanted, values, times, target_times) for wanted, values, times in zip(*pieces, strict=True)][:count]
    before = [(wanted, robocache.resample(values, *times)) for wanted, values, *times in inside]
    runs: dict[str, Run] = {}
    models: dict[str, Step] = {}
    for how in ("eager", "torch.compile"):
        graph = how == "torch.compile" and device.type == "cuda"
        names = [how, "CUDA graph"] if graph else [how]
        if not any(chosen(name, options.only) for name in names):
            continue
        for data, batches in (("robocache", inside), ("resampled before", before)):
            step = Step(task, device, compiled=how != "eager")
            step.warm(batches)
            ways: dict[str, Run] = {how: lambda index, step=step, batches=batches: step(batches[index % len(batches)])}
            if graph:
                ways["CUDA graph"] = step.graphs(batches)
            for name, run in ways.items():
                step.learns(f"{data}, {name}", run, options.learn)
                if chosen(name, options.only):
                    runs[f"{data}, {name}"] = run
            models[names[-1]] = step  # the last that takes resampled input
    return runs, models


def chosen(name: str, words: list[str] | None) -> bool:
    return not words or any(word in name for word in words)


def by_channel(values: Array, times: Array, targets: Array) -> Array:
    """A sequence [S, D] at the targets [T], by `np.interp`."""
    columns = [np.interp(targets, times, values[:, channel]) for channel in range(values.shape[1])]
    return np.stack(columns, axis=1).astype(np.float32)


def by_rows(values: Array, times: Array, targets: Array) -> Array:
    """The same for all channels at once: search, gather both neighbours, lerp; ends held."""
    right = np.searchsorted(times, targets, side="right").clip(1, len(times) - 1)
    start, end = times[right - 1], times[right]
    weight = ((targets - start) / (end - start)).clip(0, 1).astype(np.float32)[:, None]
    low = values[right - 1]
    return low + weight * (values[right] - low)


METHODS = {"NumPy np.interp": by_channel, "NumPy searchsorted + lerp": by_rows}


class Sequences(Dataset[tuple[Tensor, Tensor]]):
    """The raw sequences, each resampled in NumPy when it is asked for."""

    def __init__(self, raw: Raw, method: Callable[[Array, Array, Array], Array]) -> None:
        self.values, self.times, self.targets = raw.values.numpy(), raw.source_times.numpy(), raw.target_times.numpy()
        self.wanted, self.method = raw.wanted, method

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        inputs = self.method(self.values[index], self.times[index], self.targets)
        return self.wanted[index], torch.from_numpy(inputs).to(BF16)


def host_times(task: Task, raw: Raw) -> dict[str, list[float]]:
    """Microseconds in which NumPy, on one thread, resamples a batch; its answers are checked against `resample`."""
    expected = robocache.resample(raw.values[:1], raw.source_times[:1], raw.target_times)[0]
    calls = {}
    for name, method in METHODS.items():
        data = Sequences(raw, method)
        one = method(data.values[0], data.times[0], data.targets)
        torch.testing.assert_close(torch.from_numpy(one), expected, rtol=1e-4, atol=1e-4)
        calls[name] = lambda data=data: [data[index] for index in range(task.batch)]
    return timing.alternating(calls, 1.0, least=3)


def step_times(steps: Iterator[object], device: torch.device) -> list[float]:
    """Microseconds from the end of one step to the end of the next."""
    if device.type == "cpu":
        marks = [time.perf_counter()]
        marks += [time.perf_counter() for _ in steps]
        return [(after - before) * 1e6 for before, after in zip(marks, marks[1:], strict=False)]
    events = [torch.cuda.Event(enable_timing=True)]
    events[0].record()
    for _ in steps:
        events.append(torch.cuda.Event(enable_timing=True))
        events[-1].record()
    torch.cuda.synchronize()
    return [before.elapsed_time(after) * 1e3 for before, after in zip(events, events[1:], strict=False)]


def rounds(runs: dict[str, Run], options: argparse.Namespace) -> dict[str, list[list[float]]]:
    """Step times of each variant, of each round: in turn, so that a change of clocks hits all of them."""
    found: dict[str, list[list[float]]] = {name: [] for name in runs}
    for _ in range(options.rounds):
        for name, run in runs.items():
            steps = (run(index) for index in range(options.steps + LEAD_IN))
            found[name].append(step_times(steps, torch.device(options.device))[LEAD_IN:])
    return found


def loader_times(
    task: Task, raw: Raw, method: str, models: dict[str, Step], options: argparse.Namespace
) -> dict[str, list[float]]:
    """Step times with batches from worker processes, once what they had prepared beforehand is used up."""
    device, found = torch.device(options.device), {}
    data, ahead = Sequences(raw, METHODS[method]), 2
    for name, step in models.items():
        lead_in = LEAD_IN + (ahead + 1) * options.workers
        sampler = RandomSampler(data, replacement=True, num_samples=(lead_in + options.steps) * task.batch)
        cuda = device.type == "cuda"
        parallel = {"num_workers": options.workers, "prefetch_factor": ahead if options.workers else None}
        loader = DataLoader(data, task.batch, sampler=sampler, pin_memory=cuda, **parallel)
        static = tuple(x.to(device) for x in next(iter(DataLoader(data, task.batch))))
        replay = step.graphs([static]) if name == "CUDA graph" else None

        def steps(loader=loader, static=static, replay=replay, step=step) -> Iterator[Tensor]:  # type: ignore[no-untyped-def]
            for batch in loader:
                if replay:
                    for into, piece in zip(static, batch, strict=True):
                        into.copy_(piece, non_blocking=True)
                    yield replay(0)
                else:
                    yield step(tuple(piece.to(device, non_blocking=True) for piece in batch))

        found[f"DataLoader ({method}, {options.workers} workers), {name}"] = step_times(steps(), device)[lead_in:]
    return found


def trace(runs: dict[str, Run], device: torch.device, path: Path) -> None:
    """A Chrome trace of `TRACED` steps of each variant that resamples."""
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device.type == "cuda" else [])]

    def steps(name: str, count: int) -> None:
        for index in range(count):
            with record_function(f"step {name}"):
                runs[name](index)
        if device.type == "cuda":
            torch.cuda.synchronize()

    names = [name for name in runs if name.startswith("robocache")]
    with profile(activities=activities, acc_events=True):
        steps(names[0], 1)  # what the profiler's own start takes
    with profile(activities=activities, acc_events=True) as found:
        for name in names:
            steps(name, TRACED)
    path.parent.mkdir(parents=True, exist_ok=True)
    found.export_chrome_trace(str(path))


def picture(events: list[timeline.Event], runs: dict[str, Run], path: Path, title: str) -> None:
    """The last traced step of each variant; a graph's kernels get the phases of those launched one by one."""
    names = [name for name in runs if name.startswith("robocache")]
    found = {name: own[-1] for name in names if (own := timeline.kernels(events, f"step {name}")) and own[-1]}
    if not found:
        print("training: no picture: the trace has no kernels", flush=True)
        return
    graph, launched = "robocache, CUDA graph", "robocache, torch.compile"
    if graph in found and launched in found:
        found[graph] = timeline.with_phases(found[graph], found[launched])
    timeline.draw(found, path, title)


Share = tuple[str, str, list[float], float]  # variant, metric, microseconds in a step, their part of the step


def shares(times: dict[str, list[list[float]]], events: list[timeline.Event]) -> Iterator[Share]:
    """The operator's share of each variant's step, from the trace and as the difference to the step without it."""
    for name, samples in times.items():
        data, how = name.split(", ", 1)
        if data != "robocache":
            continue
        step = statistics.median(x for own in samples for x in own)
        own = timeline.operator_times(events, f"step {name}")
        if not own or not min(own):
            raise SystemExit(f"training: each traced step of {name} must hold the operator, got {own} µs of it")
        yield name, "share", own, statistics.median(own) / step
        without = times.get(f"resampled before, {how}", [])
        if len(without) > 1:
            pairs = zip(samples, without, strict=True)
            own = [statistics.median(with_it) - statistics.median(alone) for with_it, alone in pairs]
            yield name, "share, by difference", own, statistics.median(own) / step


def least(task: Task, raw: Raw, dtype: torch.dtype, bandwidth: float) -> records.Line:
    """The fewest bytes that `resample` moves for a batch, and the time of their copy."""
    case = signals.Case(task.batch, ((task.samples, task.channels),), task.targets, dtype)
    values, times = raw.values[: task.batch].to(dtype), raw.source_times[: task.batch]
    size = case.least_bytes(signals.Inputs([values], [times], raw.target_times))
    return {"bytes": size, "floor_us": round(size / bandwidth, 3)}


def measure(task: Task, options: argparse.Namespace) -> Iterator[records.Line]:
    """A line for each figure."""
    device = torch.device(options.device)
    torch.manual_seed(0)
    raw = Raw.make(task, task.batch * options.batches)
    bandwidth, _ = timing.copy_bandwidth(device)
    line = {"op": "training step", "case": str(task), "dtype": "bfloat16", "direction": DIRECTION}
    line |= {"device": timing.machine(device), "threads": torch.get_num_threads(), "metric": "step"}
    line |= least(task, raw, BF16, bandwidth)
    runs, models = variants(task, raw, options)
    if not runs:
        raise SystemExit(f"training: --only must have words of eager, torch.compile or CUDA graph, got {options.only}")
    times = rounds(runs, options)
    for name, samples in times.items():
        yield line | {"impl": name} | records.spread([x for own in samples for x in own])
    with tempfile.TemporaryDirectory() as folder:
        path = options.trace or Path(folder, "trace.json")
        trace(runs, device, path)
        events = timeline.read(path)
    for name, metric, own, share in shares(times, events):
        yield line | {"impl": name, "metric": metric, "share": round(share, 5)} | records.spread(own)
    if options.picture:
        picture(events, runs, options.picture, f"{line['device']}: {task}, bfloat16")
    host, (host_bandwidth, _) = host_times(task, raw), timing.copy_bandwidth(torch.device("cpu"))
    for name, samples in host.items():
        call = line | {"op": "resample on the host", "metric": "call", "dtype": "float32", "direction": "forward"}
        call |= {"impl": name, "threads": 1, "device": timing.machine(torch.device("cpu"))}
        yield call | least(task, raw, torch.float32, host_bandwidth) | records.spread(samples)
    method = min(host, key=lambda name: statistics.median(host[name]))
    for name, samples in loader_times(task, raw, method, models, options).items():
        yield line | {"impl": name} | records.spread(samples)


def markdown(lines: list[records.Line]) -> str:
    """A table of recorded lines: milliseconds of a step, and the operator's part of it."""
    found = {(line["impl"], line["metric"]): line for line in lines if line["op"] == "training step"}
    table = [
        "| step | ms | tenth to ninetieth percentile | `resample`, µs | share |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for (name, metric), line in found.items():
        if metric != "step":
            continue
        median, low, high = (float(str(line[field])) / 1e3 for field in ("median_us", "p10_us", "p90_us"))
        own = found.get((name, "share"))
        part = [f"{own['median_us']}", f"{100 * float(str(own['share'])):.2f} %"] if own else ["—", "—"]
        table.append(f"| {name} | {median:.3f} | {low:.3f} – {high:.3f} | {' | '.join(part)} |")
    return "\n".join(table) + "\n"


def append(path: Path, line: records.Line) -> None:
    """Adds a line: the fields of every record, and `share` where there is one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    names = [*records.FIELDS, *(["share"] if "share" in line else [])]
    with path.open("a") as record:
        record.write(json.dumps({name: line[name] for name in names}) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    for name, value in vars(Task()).items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--batches", type=int, default=8, help="that the steps take in turn")
    parser.add_argument("--learn", type=int, default=60, help="steps in which the loss must fall by half")
    parser.add_argument("--steps", type=int, default=40, help="timed in a round, and with the DataLoader")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)), help="of the DataLoader")
    parser.add_argument("--only", action="append", help="words in the ways to run: eager, torch.compile, CUDA graph")
    parser.add_argument("--record", type=Path, help="a .jsonl file to append to")
    parser.add_argument("--trace", type=Path, help="a .json or .json.gz file for the Chrome trace")
    parser.add_argument("--picture", type=Path, help="an .svg or .png file for the timeline")
    parser.add_argument("--table", type=Path, help="a .jsonl file to print as a table, instead of a run")
    options = parser.parse_args()
    if options.table:
        return print(markdown(records.read(options.table)), end="")
    task = Task(**{name: getattr(options, name) for name in vars(Task())})
    versions = {"robocache": robocache.__version__, "torch": torch.__version__, "numpy": np.__version__}
    versions |= {"python": platform.python_version()} | (timing.clocks() if options.device == "cuda" else {})
    command = shlex.join(["python", "benches/training.py", *sys.argv[1:]])
    for line in measure(task, options):
        share = f"{100 * float(str(line['share'])):8.3f} %" if "share" in line else ""
        print(f"{line['impl']:56} {line['metric']:21} {line['median_us']:12.1f} µs {share}", flush=True)
        if options.record:
            append(options.record, line | {"command": command, "versions": versions})
    return None


if __name__ == "__main__":
    main()
