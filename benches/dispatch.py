"""The host's time for a call on tiny inputs, where dispatch is the cost, beside `torch.add` in the same run."""

from __future__ import annotations

import ctypes
import functools
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import others
import robocache
import torch
from records import NOTHING, Line, spread

Call = Callable[[], object]

CALLS = 300  # of a block, with one wait at its end
BLOCKS = 40  # the implementations take turns
CASE = "tiny"


@functools.cache
def nothing() -> object | None:
    """Operators of the same schemas that only allocate their results, or None and a word why."""
    try:
        from torch.utils import cpp_extension

        source = str(Path(__file__).with_name("nothing.cpp"))
        path = cpp_extension.load("robocache_nothing", [source], extra_cflags=["-O2"], is_python_module=False)
        library = ctypes.CDLL(path)
    except (ImportError, OSError, RuntimeError) as error:
        others.tell(NOTHING, f"needs ninja and a C++ compiler ({type(error).__name__})")
        return None
    for op in ("resample", "fuse", "voxelize", "voxelize_sparse", "resample_mask"):
        schema = str(getattr(torch.ops.robocache, op).default._schema)
        library.define_nothing(b"robocache_nothing", schema.removeprefix("robocache::").encode())
    return torch.ops.robocache_nothing


def calls(device: torch.device, grad: bool) -> dict[str, dict[str, Call]]:
    """By operator: the Python function, the operator itself, one that does nothing, and `torch.add` of two tensors as
    small."""
    values = torch.randn(2, 4, 3, device=device, requires_grad=grad)
    times = torch.linspace(0, 1, 4, device=device, dtype=torch.float64).repeat(2, 1)
    targets = torch.linspace(0, 1, 5, device=device, dtype=torch.float64).repeat(2, 1)
    points = torch.rand(1, 8, 3, device=device)
    features = torch.randn(1, 8, 2, device=device, requires_grad=grad)
    box = ([0.0, 0.0, 0.0], [0.5], [2, 2, 2])
    arguments: dict[str, tuple[tuple[object, ...], dict[str, object]]] = {
        "resample": ((values, times, targets), {}),
        "fuse": (([values, values], [times, times], targets), {}),
        "voxelize": ((points, features, *box), {"reduce": "mean"}),
        "voxelize_sparse": ((points, features, *box), {"capacity": 8}),
    }
    if not grad:
        arguments["resample_mask"] = ((times, targets), {})
    places = {"robocache": robocache, "torch.ops.robocache": torch.ops.robocache, NOTHING: nothing()}
    found: dict[str, dict[str, Call]] = {}
    for op, (args, kwargs) in arguments.items():
        found[op] = {
            name: functools.partial(getattr(place, op), *args, **kwargs)
            for name, place in places.items()
            if place is not None
        }
        found[op]["torch.add"] = functools.partial(torch.add, values, values)
    return found


def measure(device: torch.device) -> Iterator[Line]:
    """A line for each; bytes and floor are those of nothing: the cost is the call."""
    for grad in (False, True):
        for op, by_name in calls(device, grad).items():
            samples = in_turn(by_name, device)
            for name, found in samples.items():
                yield {
                    "op": op,
                    "case": CASE,
                    "dtype": "float32",
                    "direction": "forward",
                    "impl": name,
                    "metric": "dispatch, requires_grad" if grad else "dispatch",
                    "bytes": 0,
                    "floor_us": 0.0,
                    "threads": torch.get_num_threads(),
                } | spread(found)


def in_turn(by_name: dict[str, Call], device: torch.device) -> dict[str, list[float]]:
    """Microseconds a call of blocks of calls."""
    samples: dict[str, list[float]] = {name: [] for name in by_name}
    for block in range(BLOCKS + 2):
        for name, call in by_name.items():
            start = time.perf_counter()
            for _ in range(CALLS):
                call()
            if device.type == "cuda":
                torch.cuda.synchronize()
            if block >= 2:
                samples[name].append((time.perf_counter() - start) * 1e6 / CALLS)
    return samples
