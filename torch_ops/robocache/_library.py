"""Finds the library, loads it into torch, and keeps the reason where it cannot."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

_PACKAGE = Path(__file__).resolve().parent
_BUILD = "run `make build` in the source tree of RoboCache"

_failure: str | None = None
_loaded: Path | None = None


def path() -> Path:
    """The file of the library: `ROBOCACHE_LIBRARY`, or the one beside this package."""
    override = os.environ.get("ROBOCACHE_LIBRARY")
    return Path(override).absolute() if override else _PACKAGE / "lib" / "librobocache.so"


def cmake_prefix() -> Path:
    """The folder for `CMAKE_PREFIX_PATH`, with which `find_package(robocache)` finds headers and library."""
    return _PACKAGE


def try_load() -> str | None:
    """Loads the library if it is not loaded yet; returns what is wrong and how to mend it, or None."""
    global _failure, _loaded
    if _loaded is None and _failure is None:
        try:
            _load(path())
            _loaded = path()
        except ImportError as error:
            _failure = str(error)
    return _failure


def require() -> None:
    """Raises ImportError, with the way to mend it, unless the library is loaded."""
    failure = try_load()
    if failure is not None:
        raise ImportError(failure)


def build_info() -> dict[str, Any]:
    """What the library was built with: versions, features, CPU instructions in use and embedded CUDA images.

    >>> import robocache
    >>> robocache.build_info()["version"] == robocache.__version__
    True

    Raises ImportError where the library is missing.
    """
    require()
    return _build_info()


def _build_info() -> dict[str, Any]:
    import torch

    info: dict[str, Any] = json.loads(torch.ops.robocache._build_info())
    return info


def _load(file: Path) -> None:
    try:
        import torch
    except ImportError as error:
        raise ImportError(f"robocache needs torch 2.11: pip install torch==2.11.0 ({error})") from error
    # A program that embeds Python may have loaded it before: a second copy could not register the same operators.
    if not hasattr(torch.ops.robocache, "_build_info"):
        if not file.is_file():
            raise ImportError(
                f"robocache: the library must be at {file}, found none: {_BUILD}, or set ROBOCACHE_LIBRARY to a "
                "librobocache.so"
            )
        try:
            torch.ops.load_library(str(file))  # type: ignore[no-untyped-call]
        except OSError as error:
            raise ImportError(
                f"robocache: {file} could not be loaded under torch {torch.__version__}. If it was built for another "
                f"torch, {_BUILD} with this one ({error})"
            ) from error
        if not hasattr(torch.ops.robocache, "_build_info"):
            raise ImportError(f"robocache: {file} registers no operators of robocache: {_BUILD}")
    check_torch(str(_build_info()["torch"]), torch.__version__)
    from robocache import _fake  # needs torch, which this file must do without

    _fake.register()


def check_torch(built: str, running: str) -> None:
    """Raises ImportError where the library was built for another minor version of torch than the one that runs."""
    if built.split(".")[:2] != running.split(".")[:2]:
        raise ImportError(
            f"robocache: the library was built for torch {built}, got torch {running}: pip install torch=={built}, or "
            f"{_BUILD} with the torch that runs"
        )
