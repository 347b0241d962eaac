"""The demo's data: the Plaza robot's odometry and UWB ranges, out of the PyPI wheel of gtsam 4.2 (BSD)."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from robocache.align.log import AlignError

WHEEL = "gtsam==4.2"
# Fixed, so that one wheel serves every Python and every machine: only its data files are used.
PLATFORM = [
    "--python-version",
    "3.11",
    "--implementation",
    "cp",
    "--abi",
    "cp311",
    "--platform",
    "manylinux2014_x86_64",
]
FILES = {
    "Plaza2_DR.txt": "afd63364d0650e90ca1a9f13ceb9105104f52ab6768beb1cdf584ab9aada024e",
    "Plaza2_TD.txt": "05e884e9e131b805db71bacd345b8606e8d53fe21a6b5a3acbbb4f33d0a68cfd",
}
COLUMNS = [
    "Plaza2_DR=time,delta_distance,delta_heading",
    "Plaza2_TD=time,sender,receiver,range",
]  # s, m, rad; s, -, -, m
SPLIT_BY = ["receiver"]  # a range means nothing without the beacon that it was measured to
ACCUMULATE = ["Plaza2_DR.delta_distance", "Plaza2_DR.delta_heading"]  # increments per step cannot be interpolated
SIGNALS = ["Plaza2_DR.delta_distance", "Plaza2_DR.delta_heading", "Plaza2_TD.range"]
RATE = "10"  # Hz: the odometry's own


def demo_files() -> list[Path]:
    """The two files, from the cache or freshly downloaded; ROBOCACHE_CACHE overrides where the cache lies."""
    folder = cache_folder()
    if not all(_is_right(folder / name) for name in FILES):
        _fetch(folder)
    return [folder / name for name in FILES]


def cache_folder() -> Path:
    """ROBOCACHE_CACHE, else robocache below the XDG cache folder."""
    if own := os.environ.get("ROBOCACHE_CACHE"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "robocache"


def _is_right(path: Path) -> bool:
    return path.is_file() and _digest(path) == FILES[path.name]


def _fetch(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise AlignError(f"the demo's cache must be a folder that can be written, got {folder}: {error}") from None
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", *PLATFORM]
        command += ["--disable-pip-version-check", "--quiet", "--dest", scratch, WHEEL]
        result = subprocess.run(command, capture_output=True, text=True)
        wheels = list(Path(scratch).glob("*.whl"))
        if result.returncode or not wheels:
            said = (result.stderr.strip().splitlines() or ["no wheel"])[-1]
            names = ", ".join(f"gtsam/Data/{name}" for name in FILES)
            raise AlignError(
                f"--demo must reach PyPI through pip once, for the wheel {WHEEL}, got: {said}; "
                f"without a network, put {names} of that wheel into {folder}"
            )
        with zipfile.ZipFile(wheels[0]) as wheel:
            for name, digest in FILES.items():
                part = Path(scratch) / name
                part.write_bytes(wheel.read(f"gtsam/Data/{name}"))
                if not _is_right(part):
                    raise AlignError(f"{name} of {WHEEL} must have sha256 {digest}, got {_digest(part)}")
                part.replace(folder / name)  # a rename: no reader ever sees half a file


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
