"""Robot time series on one clock and point clouds in one grid, inside PyTorch.

>>> import robocache, torch
>>> times = torch.tensor([0.0, 1.0, 2.0])
>>> robocache.resample(torch.tensor([0.0, 10.0, 40.0]), times, torch.tensor([0.5, 1.5]))
tensor([ 5., 25.])

Importing this package loads the library, which registers `torch.ops.robocache.*`. Where the library is missing, the
first use of a function says how to get it; `robocache.reference` and `python -m robocache doctor` work without it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from robocache import _library
from robocache._library import build_info, cmake_prefix

__version__ = "0.1.0"
__all__ = [
    "SparseVoxels",
    "build_info",
    "cmake_prefix",
    "fuse",
    "fuse_multimodal",
    "nn",
    "ops",
    "reference",
    "resample",
    "resample_mask",
    "resample_trajectories",
    "voxelize",
    "voxelize_pointcloud",
    "voxelize_sparse",
]

if TYPE_CHECKING or _library.try_load() is None:
    from robocache import nn, ops, reference
    from robocache.first import fuse_multimodal, resample_trajectories, voxelize_pointcloud
    from robocache.ops import SparseVoxels, fuse, resample, resample_mask, voxelize, voxelize_sparse


def __getattr__(name: str) -> Any:
    # Reached only without the library: an import that fails could not run the doctor, so the first use fails instead.
    if name == "reference":
        import robocache.reference

        return robocache.reference
    if name in __all__:
        _library.require()
    raise AttributeError(f"module 'robocache' has no attribute {name!r}")
