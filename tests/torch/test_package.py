"""The package around the operators: importing it, what it says about itself, and what it says when it is broken."""

from __future__ import annotations

import doctest
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import robocache
import torch
from robocache import _library, doctor

ROOT = Path(__file__).resolve().parents[2]


def run(code: str, *args: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Runs Python in a fresh process, with the package of this process."""
    path = os.pathsep.join([str(Path(robocache.__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path, **variables}
    command = [sys.executable, *(["-c", code] if code else []), *args]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)


def test_the_library_registers_every_operator() -> None:
    names = {schema.name for schema in torch._C._jit_get_all_schemas() if schema.name.startswith("robocache::")}
    assert names >= {
        "robocache::fuse",
        "robocache::resample",
        "robocache::resample_backward",
        "robocache::resample_curvature",
        "robocache::resample_mask",
        "robocache::resample_slope",
        "robocache::resample_tangent",
        "robocache::resample_time_grad",
        "robocache::_build_info",
    }


def test_one_version_everywhere() -> None:
    cargo = re.search(r'^version = "(.+)"$', (ROOT / "Cargo.toml").read_text(), re.MULTILINE)
    assert cargo is not None
    assert robocache.__version__ == robocache.build_info()["version"] == cargo[1]


def test_build_info_says_what_is_inside() -> None:
    info = robocache.build_info()
    assert info["torch"].split(".")[:2] == torch.__version__.split(".")[:2]
    assert info["simd"]
    assert "torch" in info["features"]
    assert info["cuda"] == bool(info["images"])
    kernels = {image["kernel"] for image in info["images"]}
    for kernel in kernels:
        archs = {image["arch"] for image in info["images"] if image["kernel"] == kernel}
        assert archs == {"sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_120", "compute_80"}
    if info["cuda"]:
        assert kernels == {path.stem for path in (ROOT / "kernels").glob("*.cu")}
        assert re.fullmatch(r"\d+\.\d+", info["nvrtc"])


DOCUMENTED = ["_library", "first", "nn", "ops", "reference", "reference.fuse", "reference.mask", "reference.resample"]


@pytest.mark.parametrize("name", ["robocache", *(f"robocache.{name}" for name in DOCUMENTED)])
def test_examples_in_docstrings_run(name: str) -> None:
    __import__(name)
    result = doctest.testmod(sys.modules[name])
    assert result.attempted > 0
    assert result.failed == 0


def test_every_public_name_is_there() -> None:
    for name in robocache.__all__:
        assert getattr(robocache, name) is not None
    with pytest.raises(AttributeError, match="has no attribute 'fly'"):
        robocache.fly  # noqa: B018


def test_a_missing_library_is_an_import_error_at_first_use() -> None:
    code = """
import robocache, robocache.reference
names = ("resample", "fuse", "resample_mask", "resample_trajectories", "fuse_multimodal", "nn", "build_info()")
names += ("voxelize", "voxelize_sparse", "voxelize_pointcloud")
for use in (*(f"robocache.{name}" for name in names), "from robocache import resample"):
    try:
        exec(use)
    except ImportError as error:
        print(error)
"""
    result = run(code, ROBOCACHE_LIBRARY="/nowhere/librobocache.so")
    expected = (
        "robocache: the library must be at /nowhere/librobocache.so, found none: run `make build` in the source tree "
        "of RoboCache, or set ROBOCACHE_LIBRARY to a librobocache.so"
    )
    assert result.stdout.splitlines() == [expected] * 11, result.stderr


def test_a_file_that_is_no_library_is_named(tmp_path: Path) -> None:
    file = tmp_path / "librobocache.so"
    file.write_text("not a library")
    result = run("import robocache; robocache.resample", ROBOCACHE_LIBRARY=str(file))
    assert f"ImportError: robocache: {file} could not be loaded under torch {torch.__version__}." in result.stderr


def test_another_torch_is_refused() -> None:
    _library.check_torch("2.11.0", "2.11.1+cpu")
    with pytest.raises(ImportError, match=r"was built for torch 2\.11\.0, got torch 2\.12\.0\+cu130: pip install"):
        _library.check_torch("2.11.0", "2.12.0+cu130")


def test_a_library_that_is_loaded_already_is_used() -> None:
    file = str(_library.path())
    code = "import sys, torch; torch.ops.load_library(sys.argv[1]); import robocache; print(robocache.__version__)"
    result = run(code, file, ROBOCACHE_LIBRARY="/nowhere/librobocache.so")
    assert result.stdout.strip() == robocache.__version__, result.stderr


def test_doctor_finds_nothing_wrong_here(capsys: pytest.CaptureFixture[str]) -> None:
    assert doctor.main([]) == 0
    text = capsys.readouterr().out
    assert re.search(r"^run on cpu +resample gives the right bits$", text, re.MULTILINE)
    assert text.endswith("\nNothing is wrong.\n")


def test_doctor_works_without_the_library() -> None:
    result = run("", "-m", "robocache", "doctor", ROBOCACHE_LIBRARY="/nowhere/librobocache.so")
    assert result.returncode == 1, result.stderr
    assert "1. robocache: the library must be at /nowhere/librobocache.so, found none" in result.stdout
    assert "mend: run `make build` in the source tree of RoboCache" in result.stdout


def test_doctor_names_what_is_wrong(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def broken(*args: Any, **kwargs: Any) -> torch.Tensor:
        return torch.zeros(2, 3, 3)

    monkeypatch.setattr("robocache.ops.resample", broken)
    assert doctor.main([]) == 1
    assert "1. resample on cpu differs from its definition" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("capability", "image"),
    [
        (75, None),
        (80, "sm_80"),
        (87, "compute_80"),
        (90, "sm_90"),
        (103, "sm_100"),
        (110, "compute_80"),
        (121, "sm_120"),
    ],
)
def test_doctor_chooses_images_as_the_library_does(capability: int, image: str | None) -> None:
    archs = ["sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_120", "compute_80"]
    assert doctor.image_for(capability, archs) == image
    assert doctor.image_for(capability, []) is None


def test_cmake_prefix_is_printed_even_without_the_library() -> None:
    result = run("", "-m", "robocache", "--cmake-prefix", ROBOCACHE_LIBRARY="/nowhere/librobocache.so")
    assert result.stdout.strip() == str(robocache.cmake_prefix()), result.stderr


def test_the_module_scripts_saves_and_runs_in_a_fresh_process(tmp_path: Path) -> None:
    module = robocache.nn.Resample(mode="previous", outside="zero")
    assert repr(module) == "Resample(mode='previous', outside='zero')"
    file = tmp_path / "resample.pt"
    torch.jit.script(module).save(str(file))  # type: ignore[no-untyped-call]
    code = """
import json, sys, torch, robocache
module = torch.jit.load(sys.argv[1])
times = torch.tensor([0.0, 1.0])
print(json.dumps(module(torch.tensor([1.0, 2.0]), times, torch.tensor([0.9, 1.1])).tolist()))
"""
    result = run(code, str(file))
    assert json.loads(result.stdout) == [1.0, 0.0], result.stderr
