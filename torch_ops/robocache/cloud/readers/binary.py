"""Reads the raw float32 rows that KITTI (`.bin`) and nuScenes (`.pcd.bin`) keep their scans in."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from robocache.cloud.clouds import Cloud, CloudError, ReadOptions, make_cloud

KITTI = ["x", "y", "z", "intensity"]
NUSCENES = [*KITTI, "ring"]


def read(path: Path, options: ReadOptions) -> list[Cloud]:
    """Rows of as many little-endian float32 as there are columns: the file itself says nothing about them."""
    default = NUSCENES if path.name.lower().endswith(".pcd.bin") else KITTI
    names = options.columns or default
    try:
        values = np.fromfile(path, "<f4") if (size := path.stat().st_size) % 4 == 0 else np.empty(0, "<f4")
    except OSError as error:
        raise CloudError(f"{path} must be a file that can be read, got {error}") from None
    if size % (4 * len(names)):
        fits = options.columns is None and size % (4 * len(NUSCENES)) == 0
        hint = f"; five columns would fit: --columns {','.join(NUSCENES)}" if fits else ""
        raise CloudError(
            f"{path} must hold a whole number of points of {4 * len(names)} bytes ({', '.join(names)}: float32 each), "
            f"got {size} bytes{hint}"
        )
    rows = values.reshape(-1, len(names))
    return [make_cloud({name: rows[:, index] for index, name in enumerate(names)}, path, options)]
