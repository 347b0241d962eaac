"""Builds the CMake projects of this tree and runs what they make."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[2]
CXX = os.environ.get("CXX") or shutil.which("c++") or shutil.which("g++")


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


def described(spec: Any) -> Any:
    """What a row of a table of errors gives for an argument: a tensor, a list of tensors, a text, a number or None."""
    if isinstance(spec, list):
        return [described(each) for each in spec]
    if not isinstance(spec, dict):
        return spec
    dtype = getattr(torch, spec["dtype"])
    if "data" not in spec:
        return torch.ones(spec["shape"], dtype=dtype)
    return torch.tensor(spec["data"], dtype=dtype).reshape(spec["shape"])
