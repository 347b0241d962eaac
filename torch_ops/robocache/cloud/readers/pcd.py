"""Reads PCD, ascii, binary and binary_compressed, through pypcd4."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from pypcd4.pypcd4 import Encoding, PointCloud

from robocache.cloud.clouds import Array, Cloud, CloudError, ReadOptions, make_cloud
from robocache.cloud.readers import said


def read(path: Path, options: ReadOptions) -> list[Cloud]:
    """The fields of the header; those called `_` are padding."""
    try:
        with path.open("rb") as file:
            found = PointCloud.from_fileobj(file)
    except Exception as error:  # of pypcd4, of pydantic, which checks the header, of NumPy and of lzf
        raise CloudError(f"{path} must be a PCD file, got {said(error)}") from None
    data, header = np.atleast_1d(found.pc_data), found.metadata  # of a single ascii point pypcd4 makes a scalar
    if data.size != header.points:
        raise CloudError(f"{path} must have {header.points} points, as its header says, got {data.size}")
    columns: dict[str, Array] = {}
    for name, count in zip(header.fields, header.count, strict=True):
        if name.startswith("#$%&~~"):  # pypcd4's name for padding
            continue
        if count == 1:
            columns[name] = data[name]
        elif header.data in (Encoding.BINARY_COMPRESSED, Encoding.BINARYSCOMPRESSED):
            # PCL keeps the numbers of a point together there; pypcd4 takes the first of all points to come first.
            options.note(f"left out {name}: {count} numbers a point cannot be read from binary_compressed")
        else:
            columns[name] = np.stack([data[f"{name}__{index:04d}"] for index in range(count)], axis=1)
    return [make_cloud(columns, path, options)]
