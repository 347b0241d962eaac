"""What only a CUDA device can show of `voxelize` and `voxelize_sparse`: graphs, streams, two devices, no waiting."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import robocache
import torch
from cases import FLOATS, assert_same_bits
from torch import Tensor
from voxelize_cases import BLENDS, CUBE, PLAIN, REDUCTIONS, cloud, same, wave

gpu = pytest.mark.gpu
OPERATORS = torch.ops.robocache
Step = Callable[[Tensor, Tensor, Tensor], list[Tensor]]


@pytest.fixture(autouse=True)
def loaded() -> None:
    """The operators are there only once the library is."""
    assert robocache.resample is not None


@contextmanager
def waiting_is_an_error() -> Iterator[None]:
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def inputs(device: torch.device | str = "cuda", dtype: torch.dtype = torch.float32, points: int = 900) -> list[Tensor]:
    """Points, features and lengths; a third of the points lie in one voxel."""
    place, features = cloud(device, 3, points, 5, dtype)
    place[:, ::3] = 0.3
    return [place, features, torch.tensor([points, points // 2, 1], device=device)]


def dense(reduce: str) -> Step:
    """The grid, the gradient to the features, and the gradient of that one."""

    def step(points: Tensor, features: Tensor, lengths: Tensor) -> list[Tensor]:
        leaf = features.detach().requires_grad_(reduce in BLENDS)
        result = OPERATORS.voxelize(points, leaf, *CUBE, reduce=reduce, lengths=lengths)
        if reduce in PLAIN:
            return [result]
        grad = (result * 0.5).detach().requires_grad_()
        (first,) = torch.autograd.grad(result, leaf, grad, create_graph=True)
        return [result.detach(), first.detach(), *torch.autograd.grad(first, grad, features)]

    return step


def sparse(reduce: str, capacity: int) -> Step:
    """The rows, the gradient to the features, and the gradient of that one."""

    def step(points: Tensor, features: Tensor, lengths: Tensor) -> list[Tensor]:
        leaf = features.detach().requires_grad_(reduce in BLENDS)
        options = {"reduce": reduce, "capacity": capacity, "lengths": lengths}
        results = OPERATORS.voxelize_sparse(points, leaf, *CUBE, **options)
        if reduce in PLAIN:
            return [*results]
        grad = (results[1] * 0.5).detach().requires_grad_()
        (first,) = torch.autograd.grad(results[1], leaf, grad, create_graph=True)
        return [*(x.detach() for x in results), first.detach(), *torch.autograd.grad(first, grad, features)]

    return step


STEPS = {reduce: dense(reduce) for reduce in REDUCTIONS} | {
    f"sparse-{reduce}-{capacity}": sparse(reduce, capacity) for reduce in REDUCTIONS for capacity in (0, 30, 200)
}


@gpu
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("name", STEPS)
def test_graph_capture_and_replay(name: str, dtype: torch.dtype) -> None:
    step, fixed = STEPS[name], inputs(dtype=dtype)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        step(*fixed)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step(*fixed)
    for round in range(3):
        fresh = inputs(dtype=dtype)
        fresh[0] = fresh[0] + 0.2 * round  # other voxels, and in the end fewer
        fresh[2] = fresh[2].roll(round)
        for old, new in zip(fixed, fresh, strict=True):
            old.copy_(new)
        graph.replay()
        same([*captured], [*step(*fresh)], (name, round))


@gpu
def test_graph_capture_of_a_first_call() -> None:
    # In a process that has called nothing: loading a kernel must not break a capture.
    code = """
import torch, robocache
points, features = torch.full((1, 4, 3), 0.5, device="cuda"), torch.ones(1, 4, 2, device="cuda")
torch.cuda.synchronize()
graph = torch.cuda.CUDAGraph()
grid = ([0.0] * 3, [1.0], [1, 1, 1])
with torch.cuda.graph(graph):
    dense = torch.ops.robocache.voxelize(points, features, *grid, reduce="sum")
    sparse = torch.ops.robocache.voxelize_sparse(points, features, *grid, reduce="max", capacity=2)
graph.replay()
assert dense.flatten().tolist() == [4.0, 4.0], dense
assert sparse[0].tolist() == [[0, 0, 0, 0], [-1] * 4] and sparse[2].tolist() == [4, 0], sparse
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@gpu
@pytest.mark.parametrize("name", STEPS)
def test_never_waits_for_the_device(name: str) -> None:
    tensors = inputs()
    STEPS[name](*tensors)  # the driver waits while it loads a kernel, at its first launch
    with waiting_is_an_error():
        done = torch.cuda.Event()
        torch.cuda._sleep(500_000_000)
        STEPS[name](*tensors)
        done.record()
        assert not done.query(), "the call came back only after the device had finished"


@gpu
def test_exact_size_waits_once() -> None:
    points, features, _ = inputs()
    OPERATORS.voxelize_sparse(points, features, *CUBE)
    with waiting_is_an_error(), pytest.raises(RuntimeError, match="synchronizing"):
        OPERATORS.voxelize_sparse(points, features, *CUBE)
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as seen:
        OPERATORS.voxelize_sparse(points, features, *CUBE)
    waits = [x.name for x in seen.events() if "Synchronize" in x.name and "Device" not in x.name]
    assert len(waits) == 1, waits


@gpu
def test_two_streams_at_once() -> None:
    streams = [torch.cuda.Stream(), torch.cuda.Stream()]
    names = [*STEPS] * 2
    work = [inputs(points=300 + index) for index in range(len(names))]
    expected = [STEPS[name](*tensors) for name, tensors in zip(names, work, strict=True)]
    torch.cuda.synchronize()
    found = []
    for index, (name, tensors) in enumerate(zip(names, work, strict=True)):
        with torch.cuda.stream(streams[index % 2]):
            found.append(STEPS[name](*tensors))
    torch.cuda.synchronize()
    for name, a, b in zip(names, found, expected, strict=True):
        same([*a], [*b], name)


@gpu
@pytest.mark.parametrize("name", ["occupancy", "mean", "max", "sparse-mean-200"])
def test_on_the_callers_stream(name: str) -> None:
    points, features, lengths = inputs()
    STEPS[name](points, features, lengths)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        torch.cuda._sleep(100_000_000)  # a launch on another stream would read before this ends
        points.mul_(0.5)
        features.add_(1.0)
        result = STEPS[name](points, features, lengths)
    stream.synchronize()
    same([*result], [*STEPS[name](points, features, lengths)], name)


@gpu
def test_second_device() -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("one CUDA device on this machine: a second index cannot be tried")
    first = inputs("cuda:0")
    second = [x.to("cuda:1") for x in first]
    for name, step in [*STEPS.items(), ("exact", sparse("mean", -1))]:
        assert torch.cuda.current_device() == 0
        found = step(*second)
        assert torch.cuda.current_device() == 0 and all(x.device.index == 1 for x in found)
        same([*found], [*step(*first)], name)
    with pytest.raises(ValueError, match=r"features must be on cuda:0 \(as points\), got cuda:1"):
        OPERATORS.voxelize(first[0], second[1], *CUBE, reduce="sum")


@gpu
def test_mixed_devices_are_refused() -> None:
    points, features, lengths = inputs()
    for call in (OPERATORS.voxelize, OPERATORS.voxelize_sparse):
        with pytest.raises(ValueError, match=r"features must be on cuda:0 \(as points\), got cpu"):
            call(points, features.cpu(), *CUBE, reduce="sum")
        with pytest.raises(ValueError, match=r"lengths must be on cuda:0 \(as points\), got cpu"):
            call(points, features, *CUBE, reduce="sum", lengths=lengths.cpu())


@gpu
@pytest.mark.parametrize("dtype", [torch.int32, torch.int64], ids=str)
def test_lengths_are_clamped(dtype: torch.dtype) -> None:
    if os.environ.get("ROBOCACHE_CHECK"):
        pytest.skip("ROBOCACHE_CHECK is set: they are refused")
    points, features, _ = inputs()
    wild = torch.tensor([-5, 901, 2**31 - 1 if dtype == torch.int32 else 2**62], device="cuda").to(dtype)
    tame = torch.tensor([0, 900, 900], device="cuda").to(dtype)
    for name, step in [*STEPS.items(), ("exact", sparse("mean", -1))]:
        same([*step(points, features, wild)], [*step(points, features, tame)], name)


@gpu
def test_lengths_are_checked_where_asked() -> None:
    code = """
import torch, robocache
points, lengths = torch.zeros(2, 5, 3, device="cuda"), torch.tensor([5, 6], device="cuda")
for call in (torch.ops.robocache.voxelize, torch.ops.robocache.voxelize_sparse):
    try:
        call(points, None, [0.0] * 3, [1.0], [1, 1, 1], reduce="count", lengths=lengths)
    except ValueError as error:
        assert str(error).endswith("lengths must be in [0, 5], got 6 in row 1"), error
    else:
        raise SystemExit("not refused")
"""
    environment = {**os.environ, "ROBOCACHE_CHECK": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@gpu
@pytest.mark.parametrize("shape", [(0, 5, 2), (2, 0, 2), (2, 5, 0), (0, 0, 0)], ids=str)
def test_empty(shape: tuple[int, int, int]) -> None:
    points, features = torch.rand(*shape[:2], 3), torch.randn(shape)
    lengths = torch.zeros(shape[0], dtype=torch.int64)
    for name, step in [*STEPS.items(), ("exact", sparse("mean", -1))]:
        found = step(points.cuda(), features.cuda(), lengths.cuda())
        same([*found], [*step(points, features, lengths)], (name, shape))


@gpu
def test_one_voxel_of_very_many_points() -> None:
    """Half a million points of one voxel, with numbers that cancel: the sum is exact, so it is that of any order."""
    count = 500_000
    points = torch.full((1, count, 3), 0.5, device="cuda")
    features = torch.randn(1, count, 2, device="cuda") * 10.0 ** torch.randint(-3, 8, (1, count, 2), device="cuda")
    order = torch.randperm(count, device="cuda")
    for reduce in BLENDS:
        both = [
            OPERATORS.voxelize(points, each, [0.0] * 3, [1.0], [1, 1, 1], reduce=reduce)
            for each in (features, features[:, order])
        ]
        assert_same_bits(both[0], both[1], reduce)
        cpu = OPERATORS.voxelize(points.cpu(), features.cpu(), [0.0] * 3, [1.0], [1, 1, 1], reduce=reduce)
        assert_same_bits(both[0], cpu, reduce)


@gpu
def test_full_tiles_of_many_channels() -> None:
    """Blocks share the channels of a tile whose points are too many for the shared memory of each."""
    points, features = torch.rand(2, 5000, 3) * 0.2, torch.randn(2, 5000, 800).half()
    box = ([0.0] * 3, [0.125, 0.0625, 0.125], [8, 16, 8])
    for reduce in BLENDS:
        cpu = OPERATORS.voxelize(points, features, *box, reduce=reduce)
        found = OPERATORS.voxelize(points.cuda(), features.cuda(), *box, reduce=reduce)
        assert_same_bits(found, cpu, reduce)
        grad = wave(cpu)
        cpu = OPERATORS.voxelize_backward(grad, points, features, *box, reduce=reduce)
        found = OPERATORS.voxelize_backward(grad.cuda(), points.cuda(), features.cuda(), *box, reduce=reduce)
        assert_same_bits(found, cpu, reduce)


@gpu
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_scans_with_a_full_voxel(dtype: torch.dtype) -> None:
    """A scanner's tile has more points than a block keeps, and its neighbours few; channels begin anywhere."""
    generator = torch.Generator().manual_seed(5)
    points = torch.randn(2, 20_000, 3, generator=generator) * 0.1 + 0.5
    points[:, ::3] = 0.503
    box = ([0.0] * 3, [1 / 61, 1 / 93, 1 / 31], [61, 93, 31])
    for channels in (1, 3, 4, 9):
        features = torch.randn(2, 20_000, channels, generator=generator).to(dtype)
        features[:, :, -1] *= 10.0 ** torch.randint(-3, 5, (2, 20_000), generator=generator)
        for reduce in BLENDS:
            cpu = OPERATORS.voxelize(points, features, *box, reduce=reduce)
            assert_same_bits(
                OPERATORS.voxelize(points.cuda(), features.cuda(), *box, reduce=reduce), cpu, (channels, reduce)
            )


@gpu
@pytest.mark.parametrize(
    ("points", "side", "channels"),
    [(4_500_000, 65, 1), (6_000_000, 170, 3), (300_000, 300, 3), (1_300_000, 258, 2), (0, 300, 1), (400_000, 513, 1)],
    ids=[
        "full tiles",
        "more than are linked",
        "shared lists",
        "their gradient",
        "empty lists",
        "more lists than counters",
    ],
)
@pytest.mark.parametrize("reduce", ["mean", "max"])
def test_large_grids(points: int, side: int, channels: int, reduce: str) -> None:
    generator = torch.Generator().manual_seed(points)
    place = torch.rand(points, 3, generator=generator)
    features = torch.randn(points, channels, generator=generator).half()
    box = ([0.0] * 3, [1 / side], [side] * 3)
    results = []
    for device in ("cpu", "cuda"):
        leaf = features.to(device).requires_grad_()
        grid = OPERATORS.voxelize(place.to(device), leaf, *box, reduce=reduce)
        (grad,) = torch.autograd.grad(grid, leaf, grid.detach())
        results.append([grid.detach().cpu(), grad.cpu()])
        # Without the counts that a recorded mean may keep.
        again = OPERATORS.voxelize_backward(
            grid.detach()[None], place.to(device)[None], leaf.detach()[None], *box, reduce=reduce
        )
        assert_same_bits(again[0], grad)
    for expected, found in zip(*results, strict=True):
        assert_same_bits(found, expected)


@gpu
def test_odd_points_stay_within_bounds() -> None:
    """The memory check of the GPU run watches the bounds."""
    points, features, lengths = inputs()
    odd = torch.tensor([float("nan"), float("inf"), float("-inf"), 3e38, -3e38, -1e-45, 1.0, 0.0], device="cuda")
    points[:, ::2] = odd[torch.randint(0, 8, points[:, ::2].shape, device="cuda")]
    for name, step in [*STEPS.items(), ("exact", sparse("max", -1))]:
        found = step(points, features, lengths)
        same([*found], [*step(points.cpu(), features.cpu(), lengths.cpu())], name)


@pytest.mark.parametrize("low", [torch.bfloat16, torch.float16], ids=str)
def test_autocast_keeps_the_types(device: torch.device, low: torch.dtype) -> None:
    for dtype in FLOATS:
        points, features = cloud(device, dtype=dtype)
        for reduce in BLENDS:
            found = []
            for enabled in (False, True):
                leaf = features.clone().requires_grad_()
                with torch.autocast(device.type, dtype=low, enabled=enabled):
                    result = OPERATORS.voxelize(points, leaf, *CUBE, reduce=reduce)
                    values = OPERATORS.voxelize_sparse(points, leaf, *CUBE, reduce=reduce)[1]
                assert result.dtype == values.dtype == dtype
                torch.autograd.backward([result, values], [wave(result), wave(values)])
                found.append([result.detach(), values.detach(), leaf.grad])
            same(found[0], found[1], (dtype, reduce))
