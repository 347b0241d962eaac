"""C++: the CMake package, the examples and a check of the header, built here and compared bit for bit with Python."""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import robocache
import torch
from robocache.nn import Resample
from torch import Tensor, nn

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "examples"))

import policy  # noqa: E402

CXX = os.environ.get("CXX") or shutil.which("c++") or shutil.which("g++")
pytestmark = pytest.mark.skipif(CXX is None, reason="no C++ compiler on this machine: nothing can be built")

NEEDS_CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")


def attempt(*command: str | Path) -> subprocess.CompletedProcess[str]:
    """The command's status and what it writes; cmake, ninja and python are those of this environment."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    words = [str(word) for word in command]
    return subprocess.run(words, text=True, capture_output=True, env={**os.environ, "PATH": path}, check=False)


def run(*command: str | Path) -> str:
    """What the command prints; its failure shows all that it wrote."""
    done = attempt(*command)
    assert done.returncode == 0, f"{command} ended with {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def configure(source: Path, folder: Path, prefix: str | Path) -> subprocess.CompletedProcess[str]:
    return attempt("cmake", "-G", "Ninja", "-S", source, "-B", folder, f"-DCMAKE_PREFIX_PATH={prefix}")


def build(source: str) -> Path:
    """Configure and build a CMake project of this tree as its head says, with the prefix that the package prints."""
    folder = ROOT / "target/cpp" / source.replace("/", "-")
    prefix = run(sys.executable, "-m", "robocache", "--cmake-prefix").strip()
    configured = configure(ROOT / source, folder, prefix)
    assert configured.returncode == 0, configured.stderr
    run("cmake", "--build", folder)
    return folder


@pytest.fixture(scope="session")
def examples() -> Path:
    return build("examples/cpp")


@pytest.fixture(scope="session")
def programs() -> Path:
    return build("tests/cpp")


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


def random_case(dtype: torch.dtype, time_dtype: torch.dtype, mode: str, outside: str, ragged: bool) -> dict[str, Any]:
    """One case of check_cases.cpp, with the result and the gradients that eager Python gives."""
    name = f"{dtype} {time_dtype} {mode} {outside} {'ragged' if ragged else 'full'}"
    generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    batch, samples, targets, channels = 3, 17, 23, 6
    steps = torch.randint(0, 5, (batch, samples), generator=generator)  # 0: equal neighbours
    source_times = steps.cumsum(1).to(time_dtype)
    target_times = torch.randint(-5, 45, (batch, targets), generator=generator).to(time_dtype)
    if time_dtype.is_floating_point:
        target_times += torch.rand(target_times.shape, generator=generator).round(decimals=1).to(time_dtype)
    values = torch.randint(-99, 99, (batch, samples, channels), generator=generator).to(dtype)
    if dtype.is_floating_point:
        values = values / 7
    case: dict[str, Any] = {
        "name": name,
        "values": values,
        "source_times": source_times,
        "target_times": target_times,
        "mode": mode,
        "outside": outside,
        "source_lengths": torch.tensor([samples, 1, 9]) if ragged else None,
    }
    leaves = ["values", "source_times", "target_times"]
    inputs = {name: case[name].clone().requires_grad_(case[name].is_floating_point()) for name in leaves}
    result = robocache.resample(**inputs, mode=mode, outside=outside, source_lengths=case["source_lengths"])
    case["result"] = result.detach()
    if result.requires_grad:
        case["grad"] = torch.randn(result.shape, generator=generator).to(dtype)
        torch.autograd.backward(result, case["grad"])
        case |= {f"grad_{name}": inputs[name].grad for name in leaves}
    return case


def wrong_cases() -> Iterator[dict[str, Any]]:
    """Every row of the shared table of errors that a file of CPU tensors can carry into C++."""
    arguments = ["values", "source_times", "target_times", "source_lengths"]
    for row in json.loads((ROOT / "tests/cases/resample_errors.json").read_text()):
        tensors = [row[name] for name in arguments if row.get(name)]
        # torch.save writes the newer dtypes in a form that C++ does not read.
        if row.get("torch_only") or any(
            "device" in tensor or tensor["dtype"].startswith(("uint16", "uint32", "uint64")) for tensor in tensors
        ):
            continue
        case: dict[str, Any] = {name: None for name in arguments}
        for name in arguments:
            if row.get(name):
                shape, dtype = row[name]["shape"], getattr(torch, row[name]["dtype"])
                data = row[name].get("data")
                case[name] = (
                    torch.zeros(shape, dtype=dtype) if data is None else torch.tensor(data, dtype=dtype).reshape(shape)
                )
        yield case | {name: row[name] for name in ("name", "mode", "outside", "kind")} | {"error": row["text"]}


def test_header_gives_the_results_gradients_and_errors_of_python(programs: Path, tmp_path: Path) -> None:
    dtypes = [torch.float64, torch.float32, torch.float16, torch.bfloat16]
    times = [torch.float64, torch.float32, torch.int64]
    modes = ["linear", "nearest", "linear:2,previous:1,next:1,linear:*"]
    cases = [
        random_case(dtype, time, mode, outside, ragged)
        for dtype, time, mode, outside, ragged in itertools.product(
            dtypes, times, modes, ["hold", "nan", "zero"], [False, True]
        )
    ]
    cases += [random_case(dtype, time, "linear", "extrapolate", True) for dtype in dtypes for time in times]
    cases += [
        random_case(dtype, torch.int64, "previous", "hold", True) for dtype in (torch.int32, torch.uint8, torch.bool)
    ]
    wrong = list(wrong_cases())
    assert len(wrong) > 50
    torch.save(cases + wrong, tmp_path / "cases.pt")
    printed = run(programs / "check_cases", tmp_path / "cases.pt")
    devices = 1 + torch.cuda.is_available()
    assert f"{len(cases) * devices} results, {len(wrong)} errors, 0 failures" in printed


class Align(nn.Module):
    """Two signals on one clock and nothing else, so that the compiled bits must be the eager ones."""

    def __init__(self) -> None:
        super().__init__()
        self.joints = Resample(mode="linear:7,previous:1")
        self.camera = Resample(outside="extrapolate")

    def forward(self, joints: Tensor, joint_times: Tensor, camera: Tensor, camera_times: Tensor, now: Tensor) -> Tensor:
        clock = now.unsqueeze(1) + torch.arange(-15, 1, device=now.device) * 20_000_000
        aligned = [self.joints(joints, joint_times, clock), self.camera(camera, camera_times, clock)]
        return torch.cat(aligned, dim=2)


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=NEEDS_CUDA)])
def test_aotinductor_package_runs_in_cpp(programs: Path, tmp_path: Path, device: str) -> None:
    inputs = [tensor.to(device) for tensor in policy.observation(batch=2)]
    batch = torch.export.Dim("batch", min=1, max=64)
    exported = torch.export.export(Align(), tuple(inputs), dynamic_shapes=[{0: batch}] * 5)
    assert "robocache.resample" in str(exported.graph)
    package = torch._inductor.aoti_compile_and_package(exported, package_path=str(tmp_path / "align.pt2"))

    # Another batch than the one it was exported with.
    inputs = policy.observation(batch=3)
    torch.save(inputs, tmp_path / "inputs.pt")
    torch.save([Align()(*inputs)], tmp_path / "expected.pt")
    assert "1 output(s) equal" in run(
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
