"""Writes the tensors as safetensors, with the whole story in the metadata."""

from __future__ import annotations

import json
from pathlib import Path

from safetensors.torch import save_file

from robocache._command import replaced
from robocache.cloud.voxels import Voxels


def write(voxels: Voxels, path: Path) -> Path:
    """Writes the file; an earlier one is replaced."""
    path.parent.mkdir(parents=True, exist_ok=True)
    story = describe(voxels)
    return replaced(path, lambda part: save_file(voxels.tensors, part, metadata=story))


def describe(voxels: Voxels) -> dict[str, str]:
    """Metadata: words, and JSON where there is more to say than a word."""
    clouds = [
        {
            "source": cloud.source,
            "stamp_ns": cloud.stamp,
            "points": share.points,
            "kept": share.kept,
            "outside": share.outside,
            "not_finite": share.not_finite,
            "voxels": len(share.counts),
        }
        for cloud, share in zip(voxels.clouds, voxels.shares(), strict=True)
    ]
    return {
        "format": "robocache.voxelize",
        "layout": voxels.layout,
        "reduce": voxels.reduce,
        "unit": "m",
        "origin": json.dumps(voxels.grid.origin),
        "voxel_size": json.dumps(voxels.grid.voxel_size),
        "grid_size": json.dumps(voxels.grid.grid_size),
        "channels": json.dumps(voxels.channels),
        "source": json.dumps(clouds),
    }
