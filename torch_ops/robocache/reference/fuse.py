"""`fuse` in plain PyTorch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from robocache.reference.checks import (
    UNSIGNED,
    check_contents,
    check_device,
    check_length_type,
    check_same_type,
    check_shape,
    check_source_axes,
    check_target_shape,
    check_time_type,
    check_value_type,
    refuse,
)
from robocache.reference.modes import check_modes, split_groups
from robocache.reference.resample import interpolate

OP = "fuse"


def fuse(
    values: Sequence[Tensor],  # K times [B, S_k, D_k], or [S_k, D_k] with 1-D times
    source_times: Sequence[Tensor],  # K times [B, S_k] or [S_k], ascending
    target_times: Tensor,  # [B, T] or [T], any order
    *,
    mode: str = "linear",
    outside: str = "hold",
    source_lengths: Tensor | None = None,  # [B, K], column k in [1, S_k]
) -> Tensor:  # [B, T, sum of D_k], or [T, sum of D_k]
    """Resamples streams to one clock and lays them side by side, as ``torch.ops.robocache.fuse`` does.

    >>> streams = [torch.tensor([[0.0], [1.0]]), torch.tensor([[5.0, 6.0]])]
    >>> fuse(streams, [torch.tensor([0.0, 1.0]), torch.tensor([0.0])], torch.tensor([0.5])).tolist()
    [[0.5, 5.0, 6.0]]
    """
    batched = _check(values, source_times, target_times, source_lengths)
    streams = [x if batched else x.unsqueeze(0) for x in values]
    groups = split_groups(OP, mode, [x.shape[2] for x in streams])
    check_modes(OP, streams[0].dtype, [group for each in groups for group in each], outside)
    columns = [None if source_lengths is None else source_lengths[:, stream] for stream in range(len(streams))]
    for stream, (each, times, lengths) in enumerate(zip(streams, source_times, columns, strict=True)):
        argument, of_stream = f"source_times[{stream}]", f" for stream {stream}"
        check_contents(OP, argument, times, lengths, each.shape[1], of_stream)
    parts = [
        interpolate(each, times, target_times, some, outside, lengths)
        for each, times, some, lengths in zip(streams, source_times, groups, columns, strict=True)
    ]
    result = _join(parts)
    return result if batched else result.squeeze(0)


def _join(parts: list[Tensor]) -> Tensor:
    dtype = parts[0].dtype
    if dtype in UNSIGNED:  # which PyTorch does not join
        return torch.cat([part.contiguous().view(UNSIGNED[dtype]) for part in parts], dim=2).view(dtype)
    return torch.cat(parts, dim=2)


def _check(values: Sequence[Tensor], sources: Sequence[Tensor], target: Tensor, lengths: Tensor | None) -> bool:
    """Refuses wrong types, devices and shapes; returns whether there is a batch axis."""
    if len(values) == 0:
        raise ValueError(refuse(OP, "values", "have at least one stream", "none"))
    if len(sources) != len(values):
        must = f"have one tensor for each stream of values ({len(values)})"
        raise ValueError(refuse(OP, "source_times", must, len(sources)))
    check_value_type(OP, "values[0]", values[0])
    check_device(OP, "target_times", target, "values[0]", values[0])
    check_device(OP, "source_lengths", lengths, "values[0]", values[0])
    first = list(values[0].shape)
    batched = len(first) != 2 or target.dim() != 1 or any(times.dim() != 1 for times in sources)
    batch = first[0] if batched and first else 1
    for stream, (each, times) in enumerate(zip(values, sources, strict=True)):
        name, times_name = f"values[{stream}]", f"source_times[{stream}]"
        check_same_type(OP, name, each, "values[0]", values[0])
        check_device(OP, name, each, "values[0]", values[0])
        check_time_type(OP, times_name, times)
        if stream == 0:
            check_same_type(OP, "target_times", target, "source_times[0]", times)
        check_same_type(OP, times_name, times, "source_times[0]", sources[0])
        check_device(OP, times_name, times, "values[0]", values[0])
        if each.dim() != (3 if batched else 2) or (batched and each.shape[0] != batch):
            must = "[S, D]" if not batched else f"[{batch}, S, D]" if len(first) == 3 else "[B, S, D]"
            raise ValueError(refuse(OP, name, f"have shape {must}", list(each.shape)))
        samples = each.shape[-2]
        if samples == 0:
            raise ValueError(refuse(OP, name, "have at least one sample", f"shape {list(each.shape)}"))
        check_source_axes(OP, times_name, times)
        check_shape(OP, times_name, times, [samples] if times.dim() == 1 else [batch, samples])
        check_target_shape(OP, target, batch)
    check_length_type(OP, lengths)
    if lengths is not None:
        check_shape(OP, "source_lengths", lengths, [batch, len(values)])
    return batched
