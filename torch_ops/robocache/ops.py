"""Typed functions over `torch.ops.robocache.*`, with the documentation of each operator."""

from __future__ import annotations

import torch
from torch import Tensor

from robocache import _library

_library.require()

__all__ = ["resample"]


def resample(
    values: Tensor,  # [B, S, D...], or [S, D...] where both times are 1-D
    source_times: Tensor,  # [B, S] or [S], any unit, ascending
    target_times: Tensor,  # [B, T] or [T], the unit of source_times, any order
    *,
    mode: str = "linear",
    outside: str = "hold",
    source_lengths: Tensor | None = None,  # [B]
) -> Tensor:  # [B, T, D...], or [T, D...]
    """Reads signals, sampled at their own times, off at the times that a model wants.

    For a target `t` let `i` be the last sample with `source_times[i] <= t`. The bracket is `i, i + 1`, the weight
    `w = (t - time[i]) / (time[i + 1] - time[i])`. Where `w == 0` the result is sample `i` exactly: a NaN in its
    neighbour does not leak. Of equal times the later sample wins.

    Args:
        values: `[B, S, D...]` with any trailing shape, any strides and at least one sample; `[S, D...]` (unbatched)
            where both times are 1-D. With 1-D times and three or more dimensions it is batched if its second size is
            `S`, else unbatched. float64, float32, float16, bfloat16; also integers and bool where no channel is
            blended. The halves are computed in float32 and rounded once.
        source_times: `[B, S]`, or `[S]` shared by the batch. float32, float64 or int64 ticks of any unit, ascending
            along each row. Nanoseconds since 1970 are exact in int64; as float32 seconds they are minutes apart.
        target_times: `[B, T]` or `[T]`, in the dtype and unit of `source_times`, in any order.
        mode: how channels are blended, one for all or groups over the flattened trailing channels from left to right,
            `"linear:7,previous:1,linear:*"` (`*`: all that remain).

            ==========  ==========================================
            linear      `fma(w, values[i + 1] - values[i], values[i])`
            previous    `values[i]`
            next        `values[i + 1]`, or `values[i]` where `w == 0`
            nearest     `values[i]` if `w <= 0.5`, else `values[i + 1]`
            ==========  ==========================================
        outside: what a target before the first or past the last sample gets: `"hold"` (the nearest end), `"nan"`,
            `"zero"`, or `"extrapolate"` (the end bracket's line; `linear` only). Integers and bool take `"hold"` and
            `"zero"`. A target at the last time is inside. An infinite target counts as outside; a NaN target gives NaN
            (0 for integers and bool).
        source_lengths: `[B]`, int32 or int64: how many samples of each row are valid, from 1 to `S`. None: all.

    Returns:
        `[B, T, D...]` (`[T, D...]` unbatched), dense, in the dtype of `values`. The same bits on CPU and CUDA, for any
        number of threads, from run to run.

    Differentiable, twice: in `values`; and for `linear` channels in floating `source_times` and `target_times` (other
    modes, and held, NaN or zero targets, contribute zero; exactly at a sample the bracket to its right counts).

    Raises:
        ValueError: a shape or value is wrong. Row order and lengths are checked on the CPU; on CUDA, where reading them
            would stop the stream, only with `ROBOCACHE_CHECK=1` in the environment.
        TypeError: a dtype is wrong.
        NotImplementedError: the device has no backend in this library.

    Source: piecewise interpolation as in `numpy.interp`, with the rules for ends and equal times stated above.

    Example:
        >>> import torch, robocache
        >>> imu_times = torch.tensor([0, 5_000_000, 10_000_000])  # nanoseconds
        >>> gyro = torch.tensor([[0.0, 1.0], [10.0, 1.0], [20.0, 3.0]])
        >>> camera_times = torch.tensor([2_500_000, 10_000_000, 12_000_000])
        >>> robocache.resample(gyro, imu_times, camera_times)
        tensor([[ 5.,  1.],
                [20.,  3.],
                [20.,  3.]])
        >>> robocache.resample(gyro, imu_times, camera_times, mode="linear:1,previous:*", outside="zero")
        tensor([[ 5.,  1.],
                [20.,  3.],
                [ 0.,  0.]])
    """
    result: Tensor = torch.ops.robocache.resample(
        values, source_times, target_times, mode=mode, outside=outside, source_lengths=source_lengths
    )
    return result
