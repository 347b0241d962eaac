"""What the commands share: a console for their tables, and files that are never half written."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from rich.console import Console

PLAIN_WIDTH = 160  # columns where the output is no terminal


def console(stderr: bool = False) -> Console:
    """A console that does not fold its tables at 80 columns when piped."""
    out = Console(stderr=stderr, highlight=False, soft_wrap=False)
    return out if out.is_terminal else Console(stderr=stderr, highlight=False, width=PLAIN_WIDTH)


def replaced(path: Path, save: Callable[[Path], object]) -> Path:
    """Writes beside the path and renames, so that no half-written file bears its name."""
    part = path.with_name(f".{os.getpid()}-{path.name}")  # the suffix stays: matplotlib reads the format off it
    try:
        save(part)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    return path
