"""C++: the CMake package, the examples and a check of the header, built here and compared bit for bit with Python."""

from __future__ import annotations

import itertools
import json
import math
import re
import shutil
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import robocache
import torch
from programs import CXX, ROOT, attempt, configure, described, run
from robocache.nn import Fuse, Resample
from torch import Tensor, nn

sys.path.insert(0, str(ROOT / "examples"))

import policy  # noqa: E402

pytestmark = pytest.mark.skipif(CXX is None, reason="no C++ compiler on this machine: nothing can be built")

TENSORS = ("values", "source_times", "target_times", "source_lengths")
BATCH = 3
NEEDS_CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")


def test_run_policy_gives_the_actions_of_eager_python(examples: Path, tmp_path: Path) -> None:
    policy.save(tmp_path)
    files = [tmp_path / name for name in ("policy.pt", "observation.pt", "expected.pt")]
    assert "bit for bit" in run(examples / "run_policy", *files)

    # The comparison can fail: one changed bit is refused.
    expected = torch.load(files[2])
    expected.view(torch.int32)[0, 0, 0] ^= 1
    torch.save(expected, files[2])
    refused = attempt(examples / "run_policy", *files)
    assert refused.returncode == 1
    assert "must equal" in refused.stderr


def train() -> Iterator[list[float]]:
    """Loss, latency and gain at each step of examples/cpp/train.cpp, by the same steps in Python."""
    times = torch.arange(200, dtype=torch.float64) / 100.0
    frequency = torch.tensor([0.5, 0.75, 1.0], dtype=torch.float64)

    def motion(seconds: Tensor) -> Tensor:
        return torch.sin(seconds.unsqueeze(1) * frequency * 6.0).unsqueeze(0)

    stamps = torch.arange(50, dtype=torch.float64) / 30.0 + 0.1
    readings = motion(stamps - 0.03)
    latency = nn.Parameter(torch.zeros((), dtype=torch.float64))
    gain = nn.Parameter(torch.full((), 0.8, dtype=torch.float64))
    optimizer = torch.optim.SGD([latency, gain], lr=0.05)
    for _ in range(3):
        optimizer.zero_grad()
        predicted = robocache.resample(motion(times) * gain, times, stamps - latency)
        loss = nn.functional.mse_loss(predicted, readings)
        yield [loss.item(), latency.item(), gain.item()]
        torch.autograd.backward(loss)
        optimizer.step()


def test_train_takes_the_same_steps_as_python(examples: Path) -> None:
    lines = [line.split() for line in run(examples / "train").splitlines()]
    printed = [[float(line[i]) for i in (3, 5, 7)] for line in lines]
    losses = [line[0] for line in printed]
    assert losses[0] > losses[1] > losses[2] > 0
    assert printed == list(train())


def random_times(
    generator: torch.Generator, samples: int, targets: int, time_dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Times `[B, samples]` with equal neighbours, and targets `[B, targets]` on samples, between and outside them."""
    source_times = torch.randint(0, 5, (BATCH, samples), generator=generator).cumsum(1).to(time_dtype)
    target_times = torch.randint(-5, 45, (BATCH, targets), generator=generator).to(time_dtype)
    if time_dtype.is_floating_point:
        target_times += torch.rand(target_times.shape, generator=generator).round(decimals=1).to(time_dtype)
    return source_times, target_times


def random_values(generator: torch.Generator, samples: int, channels: int, dtype: torch.dtype) -> Tensor:
    values = torch.randint(-99, 99, (BATCH, samples, channels), generator=generator).to(dtype)
    return values / 7 if dtype.is_floating_point else values


def leaf(given: Any) -> Any:
    if isinstance(given, list):
        return [leaf(each) for each in given]
    return given.clone().requires_grad_(given.is_floating_point())


def answered(case: dict[str, Any], generator: torch.Generator) -> dict[str, Any]:
    """The case with the result and, where it has derivatives, the gradients that eager Python gives."""
    leaves = {name: leaf(case[name]) for name in TENSORS[:3]}
    options = {name: case[name] for name in ("mode", "outside", "source_lengths")}
    result = getattr(robocache, case["operator"])(*leaves.values(), **options)
    case["result"] = result.detach()
    if result.requires_grad:
        case["grad"] = torch.randn(result.shape, generator=generator).to(result.dtype)
        torch.autograd.backward(result, case["grad"])
        for name, given in leaves.items():
            case[f"grad_{name}"] = [each.grad for each in given] if isinstance(given, list) else given.grad
    return case


def random_resample(
    dtype: torch.dtype, time_dtype: torch.dtype, mode: str, outside: str, ragged: bool
) -> dict[str, Any]:
    """One case of check_cases.cpp."""
    name = f"{dtype} {time_dtype} {mode} {outside} {'ragged' if ragged else 'full'}"
    generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    samples = 17
    source_times, target_times = random_times(generator, samples, 23, time_dtype)
    case: dict[str, Any] = {
        "operator": "resample",
        "name": name,
        "values": random_values(generator, samples, 6, dtype),
        "source_times": source_times,
        "target_times": target_times,
        "mode": mode,
        "outside": outside,
        "source_lengths": torch.tensor([samples, 1, 9]) if ragged else None,
    }
    return answered(case, generator)


def random_fuse(
    dtype: torch.dtype, time_dtype: torch.dtype, mode: str, streams: int, shared: bool, ragged: bool
) -> dict[str, Any]:
    """One case with streams of 4 channels and 5, 6, 7... samples; rows have times of their own, or share them."""
    name = f"{dtype} {time_dtype} {mode} {streams} {'shared' if shared else 'own'} {'ragged' if ragged else 'full'}"
    generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    values, source_times = [], []
    for samples in range(5, 5 + streams):
        times, target_times = random_times(generator, samples, 23, time_dtype)
        values.append(random_values(generator, samples, 4, dtype))
        source_times.append(times[0] if shared else times)
    longest = torch.arange(5, 5 + streams, dtype=torch.int32)
    case: dict[str, Any] = {
        "operator": "fuse",
        "name": name,
        "values": values,
        "source_times": source_times,
        "target_times": target_times[0] if shared else target_times,
        "mode": mode,
        "outside": "hold",
        "source_lengths": torch.stack([longest, longest // longest, longest - 3]) if ragged else None,
    }
    return answered(case, generator)


def random_mask(time_dtype: torch.dtype, max_gap: float | int | None, shared: bool, ragged: bool) -> dict[str, Any]:
    name = f"{time_dtype} {max_gap} {'shared' if shared else 'own'} {'ragged' if ragged else 'full'}"
    generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    source_times, target_times = random_times(generator, 17, 40, time_dtype)
    times = [times[0] if shared else times for times in (source_times, target_times)]
    lengths = torch.tensor([17, 1, 9]) if ragged else None
    return {
        "operator": "resample_mask",
        "name": name,
        "source_times": times[0],
        "target_times": times[1],
        "max_gap": max_gap,
        "source_lengths": lengths,
        "result": robocache.resample_mask(*times, max_gap=max_gap, source_lengths=lengths),
    }


def wrong_cases(operator: str) -> Iterator[dict[str, Any]]:
    """Every row of the shared table of errors that a file of CPU tensors can carry into C++."""
    for row in json.loads((ROOT / f"tests/cases/{operator}_errors.json").read_text()):
        # torch.save writes the newer dtypes in a form that C++ does not read, and C++ knows one device here.
        if row.get("torch_only") or re.search(r'"device"|"uint(16|32|64)"', json.dumps(row)):
            continue
        case = {name: described(row.get(name)) for name in ("mode", "outside", "max_gap", *TENSORS)}
        yield case | {"operator": operator, "name": row["name"], "kind": row["kind"], "error": row["text"]}


def test_header_gives_the_results_gradients_and_errors_of_python(programs: Path, tmp_path: Path) -> None:
    dtypes = [torch.float64, torch.float32, torch.float16, torch.bfloat16]
    times = [torch.float64, torch.float32, torch.int64]
    modes = ["linear", "nearest", "linear:2,previous:1,next:1,linear:*", "angle:1,slerp:4,pchip:*"]
    cases = [
        random_resample(*options)
        for options in itertools.product(dtypes, times, modes, ["hold", "nan", "zero"], [False, True])
    ]
    cases += [random_resample(dtype, time, "linear", "extrapolate", True) for dtype in dtypes for time in times]
    copied = [torch.int32, torch.uint8, torch.bool]
    cases += [random_resample(dtype, torch.int64, "previous", "hold", True) for dtype in copied]

    fused = ["linear", "slerp", "linear:2,angle:1,pchip:2,previous:*"]
    streams = [3, 18]  # one launch takes 16
    cases += [
        random_fuse(*options)
        for options in itertools.product(dtypes, times, fused, streams, [False, True], [False, True])
    ]
    cases += [random_fuse(dtype, torch.int64, "next", 3, False, True) for dtype in copied]

    gaps = [None, 0, 2, 2.5, math.inf]
    cases += [random_mask(*options) for options in itertools.product(times, gaps, [False, True], [False, True])]
    wrong = {operator: list(wrong_cases(operator)) for operator in ("resample", "fuse", "resample_mask")}
    assert all(len(rows) >= least for rows, least in zip(wrong.values(), (90, 50, 20), strict=True))
    errors = [row for rows in wrong.values() for row in rows]

    torch.save(cases + errors, tmp_path / "cases.pt")
    printed = run(programs / "check_cases", tmp_path / "cases.pt")
    devices = 1 + torch.cuda.is_available()
    assert f"{len(cases) * devices} results, {len(errors)} errors, 0 failures" in printed


class Align(nn.Module):
    """Signals on one clock and nothing else, so that the compiled bits must be the eager ones."""

    def __init__(self) -> None:
        super().__init__()
        streams = {"joints": {"width": 8, "mode": "linear:3,pchip:4,previous:1"}, "camera": {"width": 16}}
        self.fuse = Fuse({**streams, "pose": {"width": 4, "mode": "slerp"}})
        self.camera = Resample(outside="extrapolate")

    def forward(
        self, joints: Tensor, joint_times: Tensor, camera: Tensor, camera_times: Tensor, now: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        clock = now.unsqueeze(1) + torch.arange(-15, 1, device=now.device) * 20_000_000
        values = {"joints": joints, "camera": camera, "pose": joints[:, :, 2:6]}
        times = {"joints": joint_times, "camera": camera_times, "pose": joint_times}
        return (
            self.fuse(values, times, clock),
            self.camera(camera, camera_times, clock),
            torch.ops.robocache.resample_mask(camera_times, clock, max_gap=35_000_000),
        )


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=NEEDS_CUDA)])
def test_aotinductor_package_runs_in_cpp(programs: Path, tmp_path: Path, device: str) -> None:
    inputs = [tensor.to(device) for tensor in policy.observation(batch=2)]
    batch = torch.export.Dim("batch", min=1, max=64)
    exported = torch.export.export(Align(), tuple(inputs), dynamic_shapes=[{0: batch}] * 5)
    called = {str(node.target) for node in exported.graph.nodes if "robocache" in str(node.target)}
    assert called == {f"robocache.{operator}.default" for operator in ("fuse", "resample", "resample_mask")}
    package = torch._inductor.aoti_compile_and_package(exported, package_path=str(tmp_path / "align.pt2"))

    # Another batch than the one it was exported with.
    inputs = policy.observation(batch=3)
    torch.save(inputs, tmp_path / "inputs.pt")
    torch.save(list(Align()(*inputs)), tmp_path / "expected.pt")
    assert "3 output(s) equal" in run(
        programs / "run_package", package, tmp_path / "inputs.pt", tmp_path / "expected.pt", device
    )


def test_cmake_package_says_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ROBOCACHE_LIBRARY", raising=False)
    package = tmp_path / "package/lib/cmake/robocache"
    shutil.copytree(ROOT / "csrc/cmake", package)
    project = tmp_path / "project"
    project.mkdir()
    text = "cmake_minimum_required(VERSION 3.20)\nproject(p LANGUAGES CXX)\nfind_package(robocache 0.1 REQUIRED)\n"
    (project / "CMakeLists.txt").write_text(text)
    done = configure(project, tmp_path / "build", tmp_path / "package")
    assert done.returncode != 0
    assert "librobocache.so must exist" in " ".join(done.stderr.split())


def test_cmake_package_has_the_version_of_the_crate() -> None:
    crate = re.search(r'^version = "(.+)"$', (ROOT / "Cargo.toml").read_text(), re.MULTILINE)
    assert crate is not None
    assert f'set(PACKAGE_VERSION "{crate[1]}")' in (ROOT / "csrc/cmake/robocacheConfigVersion.cmake").read_text()
