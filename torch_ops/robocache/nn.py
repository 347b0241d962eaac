"""The operators as modules, for `nn.Sequential`-like code, TorchScript and saved policies."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Dict, Optional  # noqa: UP035 - TorchScript reads the annotations of forward

import torch
from torch import Tensor, nn

from robocache import _library
from robocache.reference.modes import check_modes, read_groups

_library.require()

__all__ = ["Fuse", "Resample", "Voxelize"]


class Resample(nn.Module):
    """Resamples with a fixed mode; everything else is as in :func:`robocache.resample`.

    Has no parameters. Can be scripted, compiled and exported.

    Args:
        mode: `"linear"`, `"previous"`, `"next"`, `"nearest"`, `"angle"`, `"slerp"`, `"pchip"`, or groups such as
            `"linear:3,slerp:4,previous:*"`.
        outside: `"hold"`, `"nan"`, `"zero"` or `"extrapolate"`.

    Example:
        >>> import torch, robocache
        >>> align = torch.jit.script(robocache.nn.Resample(mode="previous"))
        >>> align(torch.tensor([1.0, 2.0]), torch.tensor([0.0, 1.0]), torch.tensor([0.9, 1.1]))
        tensor([1., 2.])
    """

    def __init__(self, mode: str = "linear", outside: str = "hold") -> None:
        super().__init__()
        self.mode = mode
        self.outside = outside

    def forward(
        self,
        values: Tensor,  # [B, S, D...], or [S, D...] where both times are 1-D
        source_times: Tensor,  # [B, S] or [S], any unit, ascending
        target_times: Tensor,  # [B, T] or [T], the unit of source_times
        source_lengths: Optional[Tensor] = None,  # noqa: UP045 - TorchScript reads this annotation; [B]
    ) -> Tensor:
        """`values` at `target_times`: `[B, T, D...]`, or `[T, D...]`."""
        result: Tensor = torch.ops.robocache.resample(
            values, source_times, target_times, mode=self.mode, outside=self.outside, source_lengths=source_lengths
        )
        return result

    def extra_repr(self) -> str:
        """The arguments, as they were given."""
        return f"mode={self.mode!r}, outside={self.outside!r}"


class Fuse(nn.Module):
    """Puts named streams on one clock, side by side in the order of the spec; see :func:`robocache.fuse`.

    Has no parameters. Can be scripted, compiled and exported.

    Args:
        streams: for each stream its name, its `width` in channels, and its `mode` (default `"linear"`): one mode, or
            groups that cover the width, such as `"linear:3,slerp:4"`.
        outside: `"hold"`, `"nan"`, `"zero"` or `"extrapolate"`, for all streams.

    Attributes:
        slices: where the channels of each stream lie in the result.
        spec: the streams, with width and mode, as `Fuse` takes them.

    Raises:
        ValueError: the spec, or the streams or widths of a call, are wrong. What the operator refuses is as in
            :func:`robocache.fuse`, whose texts name a stream by its place in the spec, `values[0]`.

    Example:
        >>> import torch, robocache
        >>> clock = robocache.nn.Fuse({
        ...     "vision": {"width": 512},
        ...     "joints": {"width": 14, "mode": "linear:7,angle:7"},
        ...     "pose": {"width": 7, "mode": "linear:3,slerp:4"},
        ... })
        >>> clock
        Fuse(
          vision  [0:512]    512  linear
          joints  [512:526]   14  linear:7,angle:7
          pose    [526:533]    7  linear:3,slerp:4
          outside='hold'
        )
        >>> rates = {"vision": 30, "joints": 100, "pose": 100}  # samples in one second
        >>> values = {name: torch.randn(2, rate, clock.spec[name]["width"]) for name, rate in rates.items()}
        >>> times = {name: torch.arange(rate) / rate for name, rate in rates.items()}
        >>> fused = clock(values, times, torch.linspace(0, 1, 50))
        >>> fused.shape, fused[..., clock.slices["pose"]].shape
        (torch.Size([2, 50, 533]), torch.Size([2, 50, 7]))
    """

    # TorchScript knows no slices and no dictionaries of mixed values.
    __jit_unused_properties__ = ["slices", "spec"]

    def __init__(self, streams: Mapping[str, Mapping[str, Any]], outside: str = "hold") -> None:
        super().__init__()
        rows = _read_streams(streams)
        self.names = [name for name, _, _ in rows]
        self.widths = [width for _, width, _ in rows]
        self.modes = [mode for _, _, mode in rows]
        self.outside = outside
        groups = []
        for name, width, mode in rows:
            groups += read_groups(f'Fuse: streams["{name}"]', mode, width)
        check_modes("Fuse", torch.float32, groups, outside)
        # Written group by group: `*` and plain modes mean a stream's channels here, not all that remain.
        self.mode = ",".join(f"{name}:{width}" for name, width in groups if width > 0)

    @classmethod
    def from_yaml(cls, source: str | os.PathLike[str]) -> Fuse:
        """Reads the spec from YAML 1.2: a file's path, or, where the string has a line break, the text itself.

        The keys are `streams` and, optionally, `outside`. Needs `ruamel.yaml`: `pip install "robocache[yaml]"`.

        Example:
            >>> import robocache
            >>> robocache.nn.Fuse.from_yaml('''
            ... streams:
            ...   joints: {width: 14, mode: "linear:7,angle:7"}
            ...   gripper: {width: 1, mode: previous}
            ... outside: zero
            ... ''')
            Fuse(
              joints   [0:14]   14  linear:7,angle:7
              gripper  [14:15]   1  previous
              outside='zero'
            )
        """
        try:
            from ruamel.yaml import YAML
            from ruamel.yaml.error import YAMLError
        except ImportError as error:
            must = 'Fuse.from_yaml needs ruamel.yaml: pip install "robocache[yaml]"'
            raise ImportError(f"{must} ({error})") from error
        text = source if isinstance(source, str) and "\n" in source else Path(source).read_text(encoding="utf-8")
        try:
            spec = YAML(typ="safe", pure=True).load(text)  # the other parser reads YAML 1.1, where `no` is false
        except YAMLError as error:
            raise ValueError(f"Fuse: source must be YAML, got {error}") from error
        if not isinstance(spec, dict) or "streams" not in spec:
            found = f"keys {_listed(spec)}" if isinstance(spec, dict) else type(spec).__name__
            raise ValueError(f"Fuse: source must have the key streams, got {found}")
        for key in spec:
            if key not in ("streams", "outside"):
                raise ValueError(f'Fuse: source must have the keys streams and outside only, got "{key}"')
        return cls(**spec)

    @property
    def slices(self) -> dict[str, slice]:
        """Where the channels of each stream lie in the result."""
        found, start = {}, 0
        for name, width in zip(self.names, self.widths, strict=True):
            found[name] = slice(start, start + width)
            start += width
        return found

    @property
    def spec(self) -> dict[str, dict[str, Any]]:
        """The streams, with width and mode, as the constructor takes them."""
        rows = zip(self.names, self.widths, self.modes, strict=True)
        return {name: {"width": width, "mode": mode} for name, width, mode in rows}

    def forward(
        self,
        values: Dict[str, Tensor],  # noqa: UP006 - TorchScript; [B, S_k, D_k], or [S_k, D_k] where all times are 1-D
        source_times: Dict[str, Tensor],  # noqa: UP006 - TorchScript; [B, S_k] or [S_k], any unit, ascending
        target_times: Tensor,  # [B, T] or [T], the unit of source_times
        source_lengths: Optional[Tensor] = None,  # noqa: UP045 - TorchScript; [B, K], columns in the spec's order
    ) -> Tensor:
        """The streams at `target_times`: `[B, T, sum of D_k]`, or `[T, sum of D_k]`."""
        expected = ", ".join(self.names)
        for name in values.keys():
            if name not in self.names:
                raise ValueError(f'Fuse: values must have only the streams {expected}, got "{name}"')
        for name in source_times.keys():
            if name not in self.names:
                raise ValueError(f'Fuse: source_times must have only the streams {expected}, got "{name}"')
        streams = [target_times for _ in range(0)]
        times = [target_times for _ in range(0)]
        for name, width in zip(self.names, self.widths):  # noqa: B905 - TorchScript knows no strict=
            if name not in values:
                found = ", ".join(list(values.keys()))
                raise ValueError(f'Fuse: values must have the stream "{name}", got streams [{found}]')
            if name not in source_times:
                found = ", ".join(list(source_times.keys()))
                raise ValueError(f'Fuse: source_times must have the stream "{name}", got streams [{found}]')
            stream = values[name]
            if stream.dim() == 0 or stream.size(-1) != width:
                shape = list(stream.shape)
                raise ValueError(f'Fuse: values["{name}"] must have {width} channels in the last axis, got {shape}')
            streams.append(stream)
            times.append(source_times[name])
        result: Tensor = torch.ops.robocache.fuse(
            streams, times, target_times, mode=self.mode, outside=self.outside, source_lengths=source_lengths
        )
        return result

    def extra_repr(self) -> str:
        """A line for each stream: its name, its channels in the result, their number, its mode."""
        spans = [f"[{each.start}:{each.stop}]" for each in self.slices.values()]
        columns = [self.names, spans, [str(width) for width in self.widths]]
        name, span, width = (max(map(len, column)) for column in columns)
        rows = zip(*columns, self.modes, strict=True)
        lines = [f"{a:<{name}}  {b:<{span}}  {c:>{width}}  {mode}" for a, b, c, mode in rows]
        return "\n".join([*lines, f"outside={self.outside!r}"])


class Voxelize(nn.Module):
    """Turns clouds into dense grids, with a fixed grid; everything else is as in :func:`robocache.voxelize`.

    Has no parameters. Can be scripted, compiled and exported.

    Args:
        origin: the lowest corner of the grid, 3 numbers in the unit of the points.
        voxel_size: the edges of a voxel, 3 numbers, or 1 number for a cube.
        grid_size: voxels along `x`, `y` and `z`.
        reduce: `"occupancy"`, `"count"`, `"sum"`, `"mean"`, `"max"` or `"min"`.

    Raises:
        ValueError: what the operator refuses, when it is called.

    Example:
        >>> import torch, robocache
        >>> grid = robocache.nn.Voxelize(origin=(0, 0, 0), voxel_size=0.5, grid_size=(4, 4, 2), reduce="mean")
        >>> net = torch.nn.Conv3d(1, 8, kernel_size=3, padding=1)
        >>> points, intensity = torch.rand(2, 100, 3), torch.rand(2, 100, 1)
        >>> net(grid(points, intensity, torch.tensor([100, 60]))).shape
        torch.Size([2, 8, 4, 4, 2])
    """

    def __init__(
        self,
        origin: Sequence[float],  # 3 numbers
        voxel_size: float | Sequence[float],  # 1 or 3 numbers
        grid_size: Sequence[int],  # 3 numbers
        reduce: str = "occupancy",
    ) -> None:
        super().__init__()
        edges = [voxel_size] if isinstance(voxel_size, (int, float)) else voxel_size
        # Lists of one type: TorchScript takes no others.
        self.origin = [float(number) for number in origin]
        self.voxel_size = [float(edge) for edge in edges]
        self.grid_size = [int(voxels) for voxels in grid_size]
        self.reduce = reduce

    def forward(
        self,
        points: Tensor,  # [B, N, 3] or [N, 3], the unit of origin and voxel_size
        features: Optional[Tensor] = None,  # noqa: UP045 - TorchScript; [B, N, C] or [N, C]
        lengths: Optional[Tensor] = None,  # noqa: UP045 - TorchScript; [B]
    ) -> Tensor:
        """`[B, X, Y, Z]` or `[B, C, X, Y, Z]`; without `B` where points are `[N, 3]`."""
        result: Tensor = torch.ops.robocache.voxelize(
            points, features, self.origin, self.voxel_size, self.grid_size, reduce=self.reduce, lengths=lengths
        )
        return result

    def extra_repr(self) -> str:
        """The arguments, as the operator takes them."""
        box = f"origin={self.origin}, voxel_size={self.voxel_size}, grid_size={self.grid_size}"
        return f"{box}, reduce={self.reduce!r}"


def _read_streams(streams: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, int, str]]:
    """The name, width and mode of each stream; refuses a spec that does not say them."""
    if not isinstance(streams, Mapping):
        raise ValueError(f"Fuse: streams must map names to width and mode, got {type(streams).__name__}")
    if not streams:
        raise ValueError("Fuse: streams must have at least one stream, got none")
    found = []
    for name, stream in streams.items():
        if not isinstance(name, str):
            raise ValueError(f"Fuse: streams must have texts as names, got {name!r}")
        argument = f'streams["{name}"]'
        if not isinstance(stream, Mapping) or "width" not in stream:
            got = f"keys {_listed(stream)}" if isinstance(stream, Mapping) else repr(stream)
            raise ValueError(f"Fuse: {argument} must have a width, got {got}")
        for key in stream:
            if key not in ("width", "mode"):
                raise ValueError(f'Fuse: {argument} must have only the keys width and mode, got "{key}"')
        width, mode = stream["width"], stream.get("mode", "linear")
        if isinstance(width, bool) or not isinstance(width, int) or width < 1:
            raise ValueError(f'Fuse: {argument}["width"] must be a whole number of at least 1, got {width!r}')
        if not isinstance(mode, str):
            raise ValueError(f'Fuse: {argument}["mode"] must be a text, got {mode!r}')
        found.append((name, width, mode))
    return found


def _listed(names: Mapping[Any, Any]) -> str:
    return f"[{', '.join(map(str, names))}]"
