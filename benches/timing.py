"""How a call is timed: on the CPU in turn with its peers, on CUDA in a graph or as a stream of calls; and the limit."""

from __future__ import annotations

import concurrent.futures
import statistics
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import torch
from records import Line, spread

Call = Callable[[], object]

REPLAYS, FEWEST_REPLAYS, GRAPH_SECONDS = 40, 10, 0.4  # samples of a graph, fewer where they take long
SLEEP_CYCLES = 400_000  # about 0.2 ms, longer than the host takes to launch a graph
TURN_SECONDS = 0.03  # of one implementation, before the next
LEAST_BYTES = 2_000_000_000  # of a graph: about half a millisecond, so that its own launch does not count
MOST_CALLS = 1000  # of a graph
COPY_BYTES = 1 << 30  # of the buffer whose copy gives the bandwidth on CUDA
CPU_COPY_BYTES = 1 << 28  # beyond any cache


def alternating(runs: dict[str, Call], seconds: float, least: int = 7) -> dict[str, list[float]]:
    """Microseconds of single calls, the implementations taken in turn so that a busy moment hits all of them.

    The first call of a turn is not counted, unless it fills the turn: it finds the caches, and spinning threads, of the
    implementation before.
    """
    for run in runs.values():
        run()
    samples: dict[str, list[float]] = {name: [] for name in runs}
    spent = dict.fromkeys(runs, 0.0)
    while unfinished := [name for name in runs if spent[name] < seconds or len(samples[name]) < least]:
        for name in unfinished:
            taken = turn(runs[name])
            samples[name] += [microseconds for _, microseconds in taken[1 if len(taken) > 1 else 0 :]]
            spent[name] += taken[-1][0]
    return samples


def turn(run: Call) -> list[tuple[float, float]]:
    """Calls until a turn is over: for each the seconds since its begin, and the call's microseconds."""
    taken: list[tuple[float, float]] = []
    begin = time.perf_counter()
    while not taken or taken[-1][0] < TURN_SECONDS:
        start = time.perf_counter()
        run()
        end = time.perf_counter()
        taken.append((end - begin, (end - start) * 1e6))
    return taken


def rotations(copies: int, size: int) -> int:
    """How many calls a graph holds: each of `copies` inputs, of `size` bytes, equally often."""
    rounds = max(1, min(LEAST_BYTES // (size * copies) + 1, MOST_CALLS // copies))
    return copies * rounds


class Graph:
    """A CUDA graph that runs `count` calls, taken from `calls` in turn; results stay until their input's next turn.

    So neither inputs nor results are in the L2 cache when they are touched, if there are enough of them.
    """

    def __init__(self, calls: list[Call], count: int, stream: torch.cuda.Stream) -> None:
        self.count, self.results = count, [None] * len(calls)  # type: list[object]
        with torch.cuda.stream(stream):
            for call in calls[:2]:
                call()
        stream.synchronize()
        self.graph = torch.cuda.CUDAGraph()
        # Relaxed: threads of other libraries (JAX's) call the driver whenever they like, which would end the capture.
        with torch.cuda.graph(self.graph, stream=stream, capture_error_mode="relaxed"):
            for index in range(count):
                self.results[index % len(calls)] = calls[index % len(calls)]()

    def times(self) -> list[float]:
        """Microseconds a call, one sample a replay."""
        samples: list[float] = []
        self.graph.replay()
        torch.cuda.synchronize()
        begun = time.perf_counter()
        while len(samples) < REPLAYS and (len(samples) < FEWEST_REPLAYS or time.perf_counter() - begun < GRAPH_SECONDS):
            start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            torch.cuda._sleep(SLEEP_CYCLES)  # the graph is queued by the time the first event fires
            start.record()
            self.graph.replay()
            end.record()
            end.synchronize()
            samples.append(start.elapsed_time(end) * 1e3 / self.count)
        return samples


def graph_times(calls: list[Call], count: int, stream: torch.cuda.Stream | None = None) -> list[float]:
    """Microseconds a call in a CUDA graph."""
    return Graph(calls, count, stream or torch.cuda.Stream()).times()


def stream_times(
    calls: list[Call], synchronize: Callable[[object], None], seconds: float = 0.2, blocks: int = 12
) -> list[float]:
    """Microseconds a call, of many calls one after the other with one wait at the end of each block of them."""

    def block(count: int) -> float:
        result: object = None
        start = time.perf_counter()
        for index in range(count):
            result = calls[index % len(calls)]()
        synchronize(result)
        return (time.perf_counter() - start) * 1e6 / count

    block(min(len(calls), 4))
    estimate = block(min(len(calls), 4))
    count = max(2, min(2000, int(seconds * 1e6 / blocks / estimate)))
    return [block(count) for _ in range(blocks if estimate < 1e6 else 3)]


def wait_for_cuda(_: object) -> None:
    torch.cuda.synchronize()


def copy_bandwidth(device: torch.device) -> tuple[float, list[Line]]:
    """Bytes a microsecond, read and written, of the fastest copy, and the lines that say so."""
    found = cuda_copies() if device.type == "cuda" else cpu_copies()
    size = 2 * (COPY_BYTES if device.type == "cuda" else CPU_COPY_BYTES)
    bandwidth = size / min(statistics.median(samples) for samples in found.values())
    case = f"{size // 2 >> 20} MiB"
    lines = [
        {"op": "copy", "case": case, "dtype": "uint8", "direction": "forward", "impl": name, "metric": "call"}
        | spread(samples)
        | {"bytes": size, "floor_us": round(size / bandwidth, 3), "threads": torch.get_num_threads()}
        for name, samples in found.items()
    ]
    return bandwidth, lines


def cuda_copies() -> dict[str, list[float]]:
    source = torch.zeros(COPY_BYTES, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    samples = []
    for _ in range(30):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        target.copy_(source)
        end.record()
        end.synchronize()
        samples.append(start.elapsed_time(end) * 1e3)
    return {"torch copy_": samples[5:]}


def cpu_copies() -> dict[str, list[float]]:
    """By torch, and by one `memcpy` a thread (NumPy's copy, which lets go of the interpreter)."""
    source = torch.zeros(CPU_COPY_BYTES, dtype=torch.uint8)
    target = torch.zeros_like(source)
    threads = torch.get_num_threads()
    pairs = list(zip(target.chunk(threads), source.chunk(threads), strict=True))
    pairs = [(into.numpy(), piece.numpy()) for into, piece in pairs]
    with concurrent.futures.ThreadPoolExecutor(threads) as pool:

        def memcpy() -> None:
            for job in [pool.submit(into.__setitem__, slice(None), piece) for into, piece in pairs]:
                job.result()

        return alternating({"torch copy_": lambda: target.copy_(source), "memcpy": memcpy}, 0.5)


def machine(device: torch.device) -> str:
    """The name of the GPU, or of the processor and how many cores it shows."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else 'CPU'}, {len(names) or torch.get_num_threads()} cores"


def clocks() -> dict[str, str]:
    """The driver and the clocks of the GPU while it copies, in MHz, as found: nothing is locked."""
    source = torch.zeros(COPY_BYTES, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    for _ in range(2000):  # about a second of work for the query to see
        target.copy_(source)
    names = ["driver_version", "clocks.sm", "clocks.max.sm", "clocks.mem", "clocks.max.mem"]
    index = str(torch.cuda.current_device())
    command = ["nvidia-smi", "-i", index, f"--query-gpu={','.join(names)}", "--format=csv,noheader,nounits"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout
        values = [value.strip() for value in found.splitlines()[0].split(",")]
    except (OSError, subprocess.SubprocessError, IndexError) as error:
        print(f"no clocks: nvidia-smi: {error}")
        return {}
    finally:
        torch.cuda.synchronize()
    driver, sm, most_sm, memory, most_memory = values
    return {
        "driver": driver,
        "clocks": f"SM {sm} of {most_sm} MHz, memory {memory} of {most_memory} MHz",
    }
