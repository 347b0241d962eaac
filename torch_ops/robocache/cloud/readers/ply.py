"""Reads PLY, ascii and binary of either byte order, through plyfile."""

from __future__ import annotations

from pathlib import Path

from plyfile import PlyData

from robocache.cloud.clouds import Cloud, CloudError, ReadOptions, make_cloud
from robocache.cloud.readers import said


def read(path: Path, options: ReadOptions) -> list[Cloud]:
    """The element `vertex`; lists among its properties are left out."""
    try:
        data = PlyData.read(path, mmap=False)  # a map would keep the file open, and fails on an empty element
        elements = {element.name: element for element in data.elements}
    except Exception as error:  # plyfile passes on whatever NumPy trips over
        raise CloudError(f"{path} must be a PLY file, got {said(error)}") from None
    if "vertex" not in elements:
        raise CloudError(f"{path} must have an element vertex, got {', '.join(elements) or 'none'}")
    vertices = elements["vertex"].data
    return [make_cloud({name: vertices[name] for name in vertices.dtype.names}, path, options)]
