"""Peers that are not torch: what one is, and which of them this machine has."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from types import ModuleType
from typing import Any

# XLA takes three quarters of the GPU's memory at its first call unless it is told not to.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

PACKAGES = {  # import name to the name on PyPI
    "cupy": "cupy-cuda13x",
    "jax": "jax",
    "numpy": "numpy",
    "scipy": "scipy",
    "spconv_triton": "spconv-triton",
    "torchcde": "torchcde",
    "triton": "triton",
}
_told: set[str] = set()


@dataclass(frozen=True)
class Peer:
    """An implementation with arrays of its own: `take` and `give` go from and to torch and are not timed."""

    name: str
    take: Callable[[Any], Any]  # Inputs to its arguments
    call: Callable[[Any], Any]
    give: Callable[[Any], Any]  # its result to the answer that the case checks
    wait: Callable[[Any], None]  # until a result is there
    single: bool = False  # runs on one thread, whatever torch's number
    gradient: Callable[[Any], Any] | None = None  # as `call`, and its backward


def no_wait(_: Any) -> None:
    """For results that are there when the call returns."""


def tell(name: str, reason: str) -> None:
    """Says once why a peer has a dash."""
    if name not in _told:
        _told.add(name)
        print(f"  —  {name}: {reason}", flush=True)


def load(module: str, peer: str) -> ModuleType | None:
    """The module, or None and a word why."""
    try:
        return importlib.import_module(module)
    except Exception as error:  # an import may fail in any way: a missing driver, another torch
        tell(peer, f"{PACKAGES.get(module.split('.')[0], module)} is not there ({type(error).__name__}: {error})"[:200])
        return None


def installed() -> dict[str, str]:
    """The versions of the peers' packages."""
    found = {}
    for module, package in PACKAGES.items():
        names = [package, "cupy-cuda12x", "cupy"] if module == "cupy" else [package]
        for name in names:
            try:
                found[module.replace("_", "-")] = metadata.version(name)
                break
            except metadata.PackageNotFoundError:
                continue
    return found
