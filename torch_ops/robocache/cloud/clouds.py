"""Clouds in memory: points with their other fields, and the features that the user picks out of them."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

Array = NDArray[Any]

AXES = ("x", "y", "z")
COLOURS = ("rgb", "rgba")  # one number of 4 bytes that holds 0xAARRGGBB, as PCL and ROS drivers write it
ALL = "all"


class CloudError(Exception):
    """Something that the user can mend: printed as it is, without a traceback, and the command exits with 2."""


@dataclass(frozen=True)
class Cloud:
    """The points of one file, one array or one message."""

    points: Array  # [N, 3] floating, metres
    fields: dict[str, Array]  # [N] each, in recorded order
    path: Path
    part: str = ""  # which of the file's clouds
    stamp: int | None = None  # ns, of a message

    @property
    def source(self) -> str:
        """Where it came from, in full."""
        return f"{self.path}{self.part}"

    @property
    def label(self) -> str:
        """The same without the folder."""
        return f"{self.path.name}{self.part}"


@dataclass
class ReadOptions:
    """What the command line says to the readers, and what they say to the user."""

    columns: list[str] | None = None
    topic: str | None = None
    frame: int | None = None
    notes: list[str] = field(default_factory=list)

    def note(self, text: str) -> None:
        """Keeps a remark; a thousand messages make it once."""
        if text not in self.notes:
            self.notes.append(text)


@dataclass(frozen=True)
class Batch:
    """Clouds as the operators take them: padded to the longest, with their lengths."""

    points: torch.Tensor  # [B, N, 3], metres
    features: torch.Tensor | None  # [B, N, C]
    lengths: torch.Tensor  # [B] int64
    channels: list[str]  # the fields that the C features are


def make_cloud(
    columns: Mapping[str, Array], path: Path, options: ReadOptions, part: str = "", stamp: int | None = None
) -> Cloud:
    """A cloud of named columns [N] or [N, k]: x, y and z are its points, all other numbers its fields."""
    names = {name.lower(): name for name in columns}
    if missing := [axis for axis in AXES if axis not in names]:
        raise CloudError(f"{path}{part} must have fields x, y and z, got {_listed(columns)} (no {', '.join(missing)})")
    axes = [np.asarray(columns[names[axis]]) for axis in AXES]
    for axis, values in zip(AXES, axes, strict=True):
        if values.dtype.kind not in "fiu" or values.ndim != 1:
            raise CloudError(f"{path}{part}: {axis} must hold one number a point, got {_described(values)}")
    kind = np.result_type(*axes)
    # A float keeps its type, which decides the voxel; integers and long doubles have none that the operators know.
    kept = kind.newbyteorder("=") if kind.kind == "f" and kind.itemsize <= 8 else np.dtype(np.float64)
    points = np.stack([values.astype(kept) for values in axes], axis=1)
    fields: dict[str, Array] = {}
    for name, column in columns.items():
        if name in [names[axis] for axis in AXES]:
            continue
        values = np.asarray(column)
        if values.dtype.kind not in "fiub" or values.ndim > 2:
            options.note(f"left out {name}: its values are not plain numbers ({_described(values)})")
        elif name in COLOURS and values.ndim == 1 and values.dtype.itemsize == 4:
            fields.update(_unpacked(name, values))
        elif values.ndim == 2:
            fields.update({f"{name}.{index}": values[:, index] for index in range(values.shape[1])})
        else:
            fields[name] = values
    return Cloud(points, fields, path, part, stamp)


def _unpacked(name: str, packed: Array) -> dict[str, Array]:
    """A colour's channels, 0 to 255: the mean of packed colours would be none."""
    bits = np.ascontiguousarray(packed.astype(packed.dtype.newbyteorder("="))).view(np.uint32)
    shifts = {"r": 16, "g": 8, "b": 0, **({"a": 24} if name == "rgba" else {})}
    return {f"{name}.{letter}": (bits >> shift & 255).astype(np.uint8) for letter, shift in shifts.items()}


def choose_channels(clouds: Sequence[Cloud], names: Sequence[str]) -> list[str]:
    """The channels that the names stand for: a field, several channels under one name (`rgb`), or all."""
    common = [name for name in clouds[0].fields if all(name in cloud.fields for cloud in clouds)]
    chosen: list[str] = []
    for name in names:
        found = common if name == ALL else [one for one in common if one == name or one.rpartition(".")[0] == name]
        if not found:
            near = difflib.get_close_matches(name, common, 1)
            hint = f" (did you mean {near[0]}?)" if near else ""
            raise CloudError(
                f"--features must name fields that every cloud has, one of {_listed(common)}; got {name}{hint}"
            )
        chosen += found
    if repeated := sorted({name for name in chosen if chosen.count(name) > 1}):
        raise CloudError(f"--features must name a field once, got {', '.join(repeated)} twice")
    return chosen


def make_batch(clouds: Sequence[Cloud], channels: list[str]) -> Batch:
    """Pads with zeros, which the lengths keep from being read."""
    longest = max(len(cloud.points) for cloud in clouds)
    points = np.zeros((len(clouds), longest, 3), np.result_type(*(cloud.points.dtype for cloud in clouds)))
    kinds = [cloud.fields[name].dtype for cloud in clouds for name in channels]
    features = np.zeros((len(clouds), longest, len(channels)), _feature_type(kinds))
    for row, cloud in enumerate(clouds):
        points[row, : len(cloud.points)] = cloud.points
        for column, name in enumerate(channels):
            features[row, : len(cloud.points), column] = cloud.fields[name]
    lengths = torch.tensor([len(cloud.points) for cloud in clouds])
    return Batch(torch.from_numpy(points), torch.from_numpy(features) if channels else None, lengths, channels)


def _feature_type(kinds: Sequence[np.dtype[Any]]) -> type[np.floating[Any]]:
    """float32 where it holds every value of the fields, else float64."""
    return np.float32 if all(np.can_cast(kind, np.float32, "safe") for kind in kinds) else np.float64


def _listed(names: Mapping[str, Array] | Sequence[str]) -> str:
    return ", ".join(names) or "none"


def _described(values: Array) -> str:
    return f"{values.dtype} of shape {list(values.shape)}"
