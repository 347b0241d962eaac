"""What the machine allows at the bars: kernels that only move what a case moves, beside RoboCache in the same run.

    python benches/limits.py --record benches/record      # a CUDA machine with CuPy, which compiles limits.cu

The floor of a case is its bytes over the bandwidth of a large copy; a small case is far from it, however it is written,
since a kernel starts, waits for the times, then for the rows they say. `benches/limits.cu` does just that and computes
nothing, so what it takes is nearer to what can be reached. Lines are those of `benches/peers.py`, in a file of their
own: `skeleton` is the fastest of the block sizes tried, and of `limit` the cases are launches that do nothing and loads
that wait for each other.
"""

from __future__ import annotations

import argparse
import ctypes
import math
import shlex
import statistics
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import clouds
import peers
import records
import signals
import timing
import torch
from records import Line, spread

Call = Callable[[], object]

SOURCE = Path(__file__).with_suffix(".cu")
BLOCK = 256
ROWS = (4, 8, 16, 32, 64, 128, 256)  # targets of a block that are tried
VECTOR = 16  # bytes
COLD_BYTES, MOST_COPIES = 300_000_000, 256
TRIPS = (1, 2, 3)
CHASED = 1 << 24  # numbers of each trip, 64 MB: beyond the L2 cache in a few calls
CHASE_BLOCKS = 132  # about one for each multiprocessor


def struct(name: str, **fields: type) -> type[ctypes.Structure]:
    return type(name, (ctypes.Structure,), {"_fields_": list(fields.items())})


P, U64, U32, I32 = ctypes.c_void_p, ctypes.c_uint64, ctypes.c_uint32, ctypes.c_int
Nothing = struct("Nothing", unused=I32)
Chase = struct("Chase", numbers=P, output=P, stride=U64, trips=I32)
Stream = struct("Stream", values=P, times=P, told=P, output=P, samples=I32, vectors=I32, pitch=I32, inverse=U32)
Rows = struct("Rows", streams=Stream * 3, targets=P, targets_count=I32, rows=I32, blocks=I32)
Clear = struct("Clear", memory=P, count=U64)
Scatter = struct("Scatter", points=P, bytes=P, bits=P, cells=U32, points_count=U32)
Expand = struct("Expand", bits=P, bytes=P, count=U32)
Entries = struct("Entries", points=P, entries=P, points_count=U32)
Tiles = struct("Tiles", entries=P, features=P, output=P, cells=U64, points_count=U32, tiles=U32)


class Attribute(ctypes.Structure):
    """CUlaunchAttribute."""

    _fields_ = (("id", I32), ("padding", I32), ("value", I32), ("rest", ctypes.c_char * 60))


class Config(ctypes.Structure):
    """CUlaunchConfig."""

    _fields_ = (
        *((name, U32) for name in ("grid_x", "grid_y", "grid_z", "block_x", "block_y", "block_z", "shared")),
        ("stream", P),
        ("attributes", ctypes.POINTER(Attribute)),
        ("count", U32),
    )


class Kernels:
    """The kernels of limits.cu, launched as RoboCache's are: on 9.0 and later the next may start before one ends."""

    PROGRAMMATIC_STREAM_SERIALIZATION = 6

    def __init__(self) -> None:
        import cupy

        self.driver = ctypes.CDLL("libcuda.so.1")
        self.module = cupy.RawModule(code=SOURCE.read_text(), options=("--std=c++17",))
        self.overlaps = torch.cuda.get_device_capability() >= (9, 0)

    def launch(self, name: str, blocks: int | tuple[int, int], params: ctypes.Structure, block: int = BLOCK) -> None:
        across, deep = blocks if isinstance(blocks, tuple) else (blocks, 1)
        attribute = Attribute(self.PROGRAMMATIC_STREAM_SERIALIZATION, 0, 1, b"")
        stream = torch.cuda.current_stream().cuda_stream
        config = Config(across, deep, 1, block, 1, 1, 0, stream, ctypes.pointer(attribute), 1 if self.overlaps else 0)
        argument = (P * 1)(ctypes.cast(ctypes.pointer(params), P))
        function = P(self.module.get_function(name).kernel.ptr)
        status = self.driver.cuLaunchKernelEx(ctypes.byref(config), function, argument, None)
        if status != 0:
            raise RuntimeError(f"{name}: cuLaunchKernelEx answered {status}")


def fastest(runs: list[list[Call]], size: int) -> list[float]:
    """Microseconds a call of the fastest of some ways to make the same calls."""
    tried = [timing.graph_times(calls, timing.rotations(len(calls), size)) for calls in runs]
    return min(tried, key=statistics.median)


def copies_of(size: int) -> int:
    return max(3, min(MOST_COPIES, math.ceil(COLD_BYTES / size)))


def first_rows(inputs: signals.Inputs) -> list[torch.Tensor]:
    """The first of the two rows of each target, of each stream."""
    found = []
    for times in inputs.source_times:
        right = torch.searchsorted(times, inputs.target_times, right=True)
        found.append((right - 1).clamp(0, times.size(1) - 2).int())
    return found


def signal_calls(
    kernels: Kernels, case: signals.Case, data: list[signals.Inputs], rows: int, tell: bool = False
) -> list[Call]:
    """The skeleton of a resampling, or of streams side by side: rows are rounded up to whole vectors.

    It takes rows that are evenly apart, or is told the case's own, without a look at its times.
    """
    vectors = [math.ceil(channels * case.dtype.itemsize / VECTOR) for _, channels in case.streams]
    values = [
        [torch.empty(case.batch, samples, wide * VECTOR, dtype=torch.uint8, device="cuda")
         for (samples, _), wide in zip(case.streams, vectors, strict=True)]
        for _ in data
    ]  # fmt: skip
    pitch, blocks = sum(vectors), math.ceil(case.targets / rows)

    told = [first_rows(inputs) if tell else [] for inputs in data]

    def call(inputs: signals.Inputs, sources: list[torch.Tensor], firsts: list[torch.Tensor]) -> object:
        output = torch.empty(case.batch, case.targets, pitch * VECTOR, dtype=torch.uint8, device="cuda")
        streams, column = [], 0
        for index, ((samples, _), wide, source) in enumerate(zip(case.streams, vectors, sources, strict=True)):
            to, times = output.data_ptr() + column * VECTOR, inputs.source_times[index]
            inverse = 0xFFFFFFFF // wide + 1 if wide > 1 else 0
            streams.append(
                Stream(values=source.data_ptr(), times=times.data_ptr(), output=to, samples=samples, vectors=wide,
                       told=firsts[index].data_ptr() if tell else None, pitch=pitch, inverse=inverse)
            )  # fmt: skip
            column += wide
        params = Rows(
            streams=(Stream * 3)(*streams), targets=inputs.target_times.data_ptr(), targets_count=case.targets,
            rows=rows, blocks=blocks,
        )  # fmt: skip
        kernels.launch("rows", (case.batch * blocks, len(streams)), params)
        return output

    return [lambda i=i, s=s, f=f: call(i, s, f) for i, s, f in zip(data, values, told, strict=True)]  # type: ignore[misc]


def by_bytes(kernels: Kernels, case: clouds.Case, data: clouds.Inputs) -> object:
    cells = case.cells_in_all
    grid = torch.empty(cells, dtype=torch.uint8, device="cuda")
    kernels.launch("clear", math.ceil(cells / VECTOR / BLOCK), Clear(memory=grid.data_ptr(), count=cells // VECTOR))
    params = Scatter(
        points=data.points.data_ptr(), bytes=grid.data_ptr(), bits=None, cells=cells, points_count=case.points
    )
    kernels.launch("scatter_bytes", math.ceil(case.points / 4 / BLOCK), params)
    return grid


def by_bits(kernels: Kernels, case: clouds.Case, data: clouds.Inputs) -> object:
    cells = case.cells_in_all
    bits = torch.empty(cells // 8, dtype=torch.uint8, device="cuda")
    grid = torch.empty(cells, dtype=torch.uint8, device="cuda")
    words = cells // 8 // VECTOR
    kernels.launch("clear", math.ceil(words / BLOCK), Clear(memory=bits.data_ptr(), count=words))
    params = Scatter(
        points=data.points.data_ptr(), bytes=None, bits=bits.data_ptr(), cells=cells, points_count=case.points
    )
    kernels.launch("scatter_bits", math.ceil(case.points / 4 / BLOCK), params)
    count = cells // VECTOR
    kernels.launch("expand", math.ceil(count / BLOCK), Expand(bits=bits.data_ptr(), bytes=grid.data_ptr(), count=count))
    return grid


def by_tiles(kernels: Kernels, case: clouds.Case, data: clouds.Inputs) -> object:
    cells, points = case.cells_in_all, case.points
    entries = torch.empty(points, dtype=torch.int32, device="cuda")
    grid = torch.empty(case.channels, cells, device="cuda")
    kernels.launch(
        "entries", math.ceil(points / 4 / BLOCK),
        Entries(points=data.points.data_ptr(), entries=entries.data_ptr(), points_count=points),
    )  # fmt: skip
    params = Tiles(
        entries=entries.data_ptr(), features=data.features[0].data_ptr(), output=grid.data_ptr(), cells=cells,
        points_count=points, tiles=cells // 1024,
    )  # fmt: skip
    kernels.launch("tiles", cells // 1024, params)
    return grid


def skeletons(kernels: Kernels, case: signals.Case | clouds.Case, data: list) -> dict[str, list[list[Call]]]:  # type: ignore[type-arg]
    """For each way in which a case can be done, the calls of each choice of blocks; none for what has no skeleton."""
    if isinstance(case, signals.Case):
        return {
            "skeleton": [signal_calls(kernels, case, data, rows) for rows in ROWS],
            "skeleton, told": [signal_calls(kernels, case, data, rows, tell=True) for rows in ROWS],
        }
    ways = {"occupancy": {"skeleton": by_bytes, "skeleton, bits": by_bits}, "mean": {"skeleton": by_tiles}}
    if case.sparse or case.dtype != torch.float32:
        return {}
    return {
        name: [[lambda d=d, way=way: way(kernels, case, d) for d in data]]  # type: ignore[misc]
        for name, way in ways.get(case.reduce, {}).items()
    }


def launches(kernels: Kernels) -> Iterator[tuple[str, list[float]]]:
    """A launch that does nothing, and loads that wait for each other."""
    count = timing.MOST_CALLS
    yield "nothing", timing.graph_times([lambda: kernels.launch("nothing", 1, Nothing(unused=0))], count)
    numbers = torch.zeros((max(TRIPS) + 1) * CHASED, dtype=torch.int32, device="cuda")
    threads = CHASE_BLOCKS * BLOCK
    for trips in TRIPS:
        calls = []
        for copy in range(CHASED // threads):
            output = torch.empty(threads, dtype=torch.int32, device="cuda")
            params = Chase(
                numbers=numbers.data_ptr() + copy * threads * 4, output=output.data_ptr(), stride=CHASED, trips=trips
            )
            calls.append(lambda params=params, _output=output: kernels.launch("chase", CHASE_BLOCKS, params))
        yield f"{trips} trip{'s' if trips > 1 else ''} to memory", timing.graph_times(calls, len(calls))


def measure(kernels: Kernels, device: torch.device) -> Iterator[Line]:
    bandwidth, copies = timing.copy_bandwidth(device)
    yield from copies
    same = {"direction": "forward", "metric": "graph, cold"}
    for name, samples in launches(kernels):
        line = {"op": "limit", "case": name, "dtype": "uint8", "impl": "skeleton", "bytes": 0, "floor_us": 0.0}
        yield line | same | spread(samples)
    for case in peers.BARS:
        first = case.inputs(device)
        least = case.least_bytes(first)
        data = [first, *(case.inputs(device) for _ in range(copies_of(least) - 1))]
        ours = case.implementations(device)["robocache"]
        runs = {"robocache": [[lambda d=d, ours=ours: ours(d) for d in data]], **skeletons(kernels, case, data)}  # type: ignore[misc]
        for name, ways in runs.items() if len(runs) > 1 else ():
            yield same | {
                "op": case.op, "case": str(case), "dtype": str(case.dtype).removeprefix("torch."), "impl": name,
                "bytes": least, "floor_us": round(least / bandwidth, 3),
            } | spread(fastest(ways, least))  # fmt: skip
        del data, runs
        torch.cuda.empty_cache()


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--record", type=Path, help="a file of lines, or the folder of records")
    options = parser.parse_args(arguments)
    if not torch.cuda.is_available():
        print("limits.py needs a CUDA device", file=sys.stderr)
        return 1
    device = torch.device("cuda")
    name = timing.machine(device)
    same = {
        "device": name,
        "threads": torch.get_num_threads(),
        "command": shlex.join(["python", "benches/limits.py", *(sys.argv[1:] if arguments is None else arguments)]),
        "versions": peers.versions(device),
    }
    path = records.place(options.record, str(name), "limits") if options.record else None
    for line in measure(Kernels(), device):
        print(f"{line['op']:10} {line['case']:40} {line['impl']:16} {line['median_us']:9.2f} us", flush=True)
        if path:
            records.append(path, {"threads": torch.get_num_threads(), **line, **same})
    return 0


if __name__ == "__main__":
    sys.exit(main())
