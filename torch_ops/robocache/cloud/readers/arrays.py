"""Reads NumPy's .npy and .npz: rows of coordinates and other numbers, or records with names."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from robocache.cloud.clouds import AXES, Array, Cloud, CloudError, ReadOptions, make_cloud
from robocache.cloud.readers import said

POINTS = ("points", "xyz")  # what an archive may call its coordinates


def read(path: Path, options: ReadOptions) -> list[Cloud]:
    """One cloud, or several of an array [B, N, k]."""
    try:
        with np.load(path, allow_pickle=False) if path.suffix.lower() == ".npz" else _Plain(path) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except Exception as error:  # of NumPy and of zipfile
        raise CloudError(f"{path} must be an .npy or .npz of plain arrays, got {said(error)}") from None
    if all(axis in arrays for axis in AXES):
        return [_cloud(arrays, path, options)]
    name = next((name for name in POINTS if name in arrays), None) or (next(iter(arrays)) if len(arrays) == 1 else None)
    if name is None:
        shapes = ", ".join(f"{name} {list(array.shape)}" for name, array in arrays.items()) or "none"
        raise CloudError(f"{path} must hold an array points, arrays x, y and z, or one array, got {shapes}")
    points = arrays.pop(name)
    if points.ndim == 3 and points.dtype.names is None:
        for other in arrays:
            options.note(f"left out {other}: {name} {list(points.shape)} holds several clouds")
        return [
            _cloud(_columns(path, rows, options), path, options, f" [{index}]") for index, rows in enumerate(points)
        ]
    return [_cloud({**_columns(path, points, options), **arrays}, path, options)]


class _Plain:
    """An .npy as an archive of one array."""

    files = ("points",)

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> _Plain:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def __getitem__(self, name: str) -> Array:
        array: Array = np.load(self.path, allow_pickle=False)
        return array


def _columns(path: Path, rows: Array, options: ReadOptions) -> dict[str, Array]:
    if rows.dtype.names is not None:
        return {name: rows[name].reshape(-1) for name in rows.dtype.names}
    names = options.columns
    if rows.ndim != 2 or rows.shape[1] < 3 or (names is not None and rows.shape[1] != len(names)):
        wanted = "3 or more" if names is None else f"{len(names)} (as --columns says)"
        raise CloudError(f"{path} must hold an array [N, k] or [B, N, k], k being {wanted}, got {list(rows.shape)}")
    names = names or [*AXES, *(f"column{index}" for index in range(3, rows.shape[1]))]
    return {name: rows[:, index] for index, name in enumerate(names)}


def _cloud(columns: dict[str, Array], path: Path, options: ReadOptions, part: str = "") -> Cloud:
    """Arrays of another length than x say nothing about the points."""
    count = next((len(array) for name, array in columns.items() if name.lower() == "x" and array.ndim), 0)
    kept = {}
    for name, array in columns.items():
        if array.ndim and len(array) == count:
            kept[name] = array
        else:
            options.note(f"left out {name} {list(array.shape)}: it has no value for each of the {count} points")
    return make_cloud(kept, path, options, part)
