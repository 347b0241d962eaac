"""Fixtures of the pytest battery: the devices, the recorded robot data, and a seeded generator that names its seed."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

# torch keeps traced graphs between processes, and does not see that the library whose operators it traced has changed.
os.environ["TORCHINDUCTOR_FORCE_DISABLE_CACHES"] = "1"

import torch  # noqa: E402

CHECKOUT = Path(__file__).resolve().parents[2]


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "gpu: needs a CUDA device; skipped aloud without one")


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu") and not torch.cuda.is_available():
        pytest.skip("no CUDA device on this machine")


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> torch.device:
    """Every device that the operators run on."""
    return torch.device(str(request.param))


_PLAIN_PACKAGE = """
import sys, torch
class Plain(torch.nn.Module):
    def forward(self, x):
        return x.relu() + 1
x = torch.randn(4, 8, device="cuda")
with torch.no_grad():
    program = torch.export.export(Plain(), (x,))
    path = torch._inductor.aoti_compile_and_package(program, package_path=sys.argv[1])
    assert torch.equal(torch._inductor.aoti_load_package(path)(x), Plain()(x))
"""


@functools.cache
def _torch_loads_packages_of_its_own(folder: Path) -> bool:
    """Whether AOTInductor works on this machine's CUDA for a model without an operator of ours, in a process apart."""
    command = [sys.executable, "-c", _PLAIN_PACKAGE, str(folder / "plain.pt2")]
    return subprocess.run(command, capture_output=True, check=False, timeout=400).returncode == 0


@pytest.fixture
def aot_device(device: torch.device, tmp_path_factory: pytest.TempPathFactory) -> torch.device:
    """Every device on which torch can load what AOTInductor made; skipped aloud where it crashes without us."""
    if device.type == "cuda" and not _torch_loads_packages_of_its_own(tmp_path_factory.getbasetemp()):
        pytest.skip("torch's own AOTInductor package, of a model without RoboCache, does not load on this CUDA machine")
    return device


@pytest.fixture
def recorded() -> Path:
    """The folder of recorded robot data: ``ROBOCACHE_DATA``, else ``../shared/data`` beside the checkout."""
    folder = Path(os.environ.get("ROBOCACHE_DATA", CHECKOUT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no recorded data at {folder}: set ROBOCACHE_DATA")
    return folder


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    """A seed of its own for each test, or ``ROBOCACHE_SEED``; printed, so that a failure names it."""
    value = int(os.environ.get("ROBOCACHE_SEED", zlib.crc32(request.node.name.encode())))
    print(f"seed {value}: ROBOCACHE_SEED={value} repeats this run")
    return value


@pytest.fixture
def rng(seed: int) -> np.random.Generator:
    """A generator of that seed."""
    return np.random.default_rng(seed)


@pytest.fixture(autouse=True)
def fixed_seed(request: pytest.FixtureRequest) -> None:
    """The global generator starts from the test's name, so that no test depends on its neighbours."""
    torch.manual_seed(zlib.crc32(request.node.name.encode()))


@pytest.fixture
def threads() -> Iterator[None]:
    """Gives back the number of threads that the test found."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)
