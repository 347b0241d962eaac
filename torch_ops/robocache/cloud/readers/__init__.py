"""One reader for each kind of file; all give clouds, several where the file holds several."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path

from robocache.cloud.clouds import Cloud, CloudError, ReadOptions

Reader = Callable[[Path, ReadOptions], list[Cloud]]

# The end of a name -> the module that reads it. The longest end decides: nuScenes writes .pcd.bin.
KINDS = {
    ".ply": "ply",
    ".pcd": "pcd",
    ".pcd.bin": "binary",
    ".bin": "binary",
    ".npy": "arrays",
    ".npz": "arrays",
    ".bag": "ros",
    ".mcap": "ros",
    ".db3": "ros",
}
COLUMNS = ("binary", "arrays")  # what --columns goes with


def read_clouds(paths: Sequence[Path], options: ReadOptions) -> list[Cloud]:
    """Reads every file, in the order given."""
    modules = [_module(path) for path in paths]
    if options.columns is not None and not any(module in COLUMNS for module in modules):
        raise CloudError(f"--columns goes with .bin, .npy and .npz, got {paths[0]}")
    for option, value in (("--topic", options.topic), ("--frame", options.frame)):
        if value is not None and "ros" not in modules:
            raise CloudError(f"{option} goes with a ROS bag or MCAP, got {paths[0]}")
    clouds: list[Cloud] = []
    for path, module in zip(paths, modules, strict=True):
        try:
            read: Reader = import_module(f"robocache.cloud.readers.{module}").read
        except ModuleNotFoundError as error:
            raise CloudError(f"{path} needs the package {error.name}: pip install 'robocache[voxelize]'") from None
        clouds += read(path, options)
    return clouds


def said(error: Exception) -> str:
    """What a reading package tripped over, in one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


def _module(path: Path) -> str:
    if not path.exists():
        raise CloudError(f"CLOUD must be a file or a ROS 2 bag folder, got {path}, which does not exist")
    if path.is_dir():
        return "ros"
    ends = [end for end in KINDS if path.name.lower().endswith(end)]
    if not ends:
        raise CloudError(f"CLOUD must be a ROS 2 bag folder or end in one of {', '.join(sorted(KINDS))}, got {path}")
    return KINDS[max(ends, key=len)]
