"""Typed functions over `torch.ops.robocache.*`, with the documentation of each operator."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils import _pytree

from robocache import _library

_library.require()

# Finding an operator by its name and reading keyword arguments are a good part of a tiny call: the functions below look
# up once, and pass what differs from the schema's defaults.
_ops = torch.ops.robocache
_resample: Callable[..., Tensor] = _ops.resample.default
_resample_mask: Callable[..., Tensor] = _ops.resample_mask.default
_fuse: Callable[..., Tensor] = _ops.fuse.default
_voxelize: Callable[..., Tensor] = _ops.voxelize.default
_voxelize_sparse: Callable[..., tuple[Tensor, ...]] = _ops.voxelize_sparse.default

__all__ = ["SparseVoxels", "fuse", "resample", "resample_mask", "voxelize", "voxelize_sparse"]


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
            blended. The halves are computed in float32, `slerp` of any type in float64, and rounded once.
        source_times: `[B, S]`, or `[S]` shared by the batch. float32, float64 or int64 ticks of any unit, ascending
            along each row. Nanoseconds since 1970 are exact in int64; as float32 seconds they are minutes apart.
        target_times: `[B, T]` or `[T]`, in the dtype and unit of `source_times`, in any order.
        mode: how channels are blended, one for all or groups over the flattened trailing channels from left to right,
            `"linear:3,slerp:4,angle:7,previous:1,linear:*"` (`*`: all that remain).

            ==========  ========================================================================
            linear      `fma(w, values[i + 1] - values[i], values[i])`
            previous    `values[i]`
            next        `values[i + 1]`, or `values[i]` where `w == 0`
            nearest     `values[i]` if `w <= 0.5`, else `values[i + 1]`
            angle       radians along the shorter arc, wrapped to `[-pi, pi)`
            slerp       4 channels are a quaternion, turned along the shorter arc; of unit norm
            pchip       a smooth monotone curve that never leaves its bracket's two samples
            ==========  ========================================================================

            `angle` wraps copied samples too; one that lies in `[-pi, pi)` stays as it is (pi is the nearest number of
            the type in which the values are computed). `slerp` takes the components in any order, in widths that are
            multiples of 4. It normalises what it blends, so that samples may be slightly off unit; a sample that is hit
            exactly comes back as it is. A quaternion and its negative are one rotation: the result stays on the side
            of the left sample. A zero quaternion is no rotation and gives NaN. `pchip` reads up to four samples: the
            bracket's and one to each side. Equal times end the curve on one side and begin it anew on the other; two
            samples give a line; a NaN among the four gives NaN within the bracket.
        outside: what a target before the first or past the last sample gets: `"hold"` (the nearest end), `"nan"`,
            `"zero"`, or `"extrapolate"` (the end bracket's line; `linear` only). Integers and bool take `"hold"` and
            `"zero"`. A target at the last time is inside. An infinite target counts as outside; a NaN target gives NaN
            (0 for integers and bool).
        source_lengths: `[B]`, int32 or int64: how many samples of each row are valid, from 1 to `S`. None: all.

    Returns:
        `[B, T, D...]` (`[T, D...]` unbatched), dense, in the dtype of `values`. The same bits on CPU and CUDA, for any
        number of threads, from run to run.

    Differentiable, twice: in `values` (`slerp`: through the normalisation too; `angle`: whole turns are constants); and
    for `linear` channels in floating `source_times` and `target_times` (other modes, and held, NaN or zero targets,
    contribute zero; exactly at a sample the bracket to its right counts).

    Raises:
        ValueError: a shape or value is wrong. Row order and lengths are checked on the CPU; on CUDA, where reading them
            would stop the stream, only with `ROBOCACHE_CHECK=1` in the environment.
        TypeError: a dtype is wrong.
        NotImplementedError: the device has no backend in this library; or a third derivative of `slerp` or `pchip`.

    Sources: piecewise interpolation as in `numpy.interp`, with the rules for ends and equal times stated above.
    `slerp`: Shoemake, "Animating rotation with quaternion curves" (1985). `pchip`: Fritsch and Carlson, "Monotone
    piecewise cubic interpolation" (1980), with the slopes of Fritsch and Butland, "A method for constructing local
    monotone piecewise cubic interpolants" (1984), and the ends of `scipy.interpolate.PchipInterpolator`.

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
        >>> turned = torch.tensor([[0.0, 0.0, 0.0, 1.0], [0.0, 0.0, 1.0, 0.0]])  # half a turn about z
        >>> robocache.resample(turned, torch.tensor([0.0, 3.0]), torch.tensor([1.0]), mode="slerp")
        tensor([[0.0000, 0.0000, 0.5000, 0.8660]])
    """
    if source_lengths is None and outside == "hold":
        if mode == "linear":
            return _resample(values, source_times, target_times)
        return _resample(values, source_times, target_times, mode=mode)
    return _resample(values, source_times, target_times, mode=mode, outside=outside, source_lengths=source_lengths)


def resample_mask(
    source_times: Tensor,  # [B, S] or [S], any unit, ascending
    target_times: Tensor,  # [B, T] or [T], the unit of source_times, any order
    *,
    max_gap: float | int | None = None,  # the unit of source_times
    source_lengths: Tensor | None = None,  # [B]
) -> Tensor:  # [B, T] bool, or [T]
    """Says which targets :func:`resample` answers from data near by: within the signal, and not in a gap of it.

    True where the target lies from the first to the last valid sample, both included, and, with `max_gap`, where the
    bracket `i, i + 1` around it is no longer than that. A target at a sample's own time is true whatever the gaps
    beside it. A NaN or infinite target is false.

    Args:
        source_times: `[B, S]`, or `[S]` shared by the batch, with at least one sample; as for :func:`resample`.
        target_times: `[B, T]` or `[T]`, in the dtype and unit of `source_times`, in any order.
        max_gap: the longest bracket whose inside counts as known, at least 0, in the unit of the times. It is compared
            in the times' own type: rounded to float32 for float32 times; with int64 times a fraction does not matter.
            None: any.
        source_lengths: `[B]`, int32 or int64: how many samples of each row are valid, from 1 to `S`. None: all.

    Returns:
        `[B, T]` bool. `[T]` where both times are 1-D and there are no lengths.

    Not differentiable.

    Raises:
        ValueError: a shape or value is wrong; order and lengths are checked as by :func:`resample`.
        TypeError: a dtype is wrong.
        NotImplementedError: the device has no backend in this library.

    Example:
        >>> import torch, robocache
        >>> gps_times = torch.tensor([0.0, 1.0, 2.0, 9.0])  # seconds, with an outage
        >>> clock = torch.tensor([-1.0, 0.5, 2.0, 5.0, 9.0])
        >>> robocache.resample_mask(gps_times, clock, max_gap=1.5)
        tensor([False,  True,  True, False,  True])
    """
    if source_lengths is None:
        if max_gap is None:
            return _resample_mask(source_times, target_times)
        return _resample_mask(source_times, target_times, max_gap=max_gap)
    return _resample_mask(source_times, target_times, max_gap=max_gap, source_lengths=source_lengths)


def fuse(
    values: Sequence[Tensor],  # K times [B, S_k, D_k], or [S_k, D_k] where all times are 1-D
    source_times: Sequence[Tensor],  # K times [B, S_k] or [S_k], any unit, ascending
    target_times: Tensor,  # [B, T] or [T], the unit of source_times, any order
    *,
    mode: str = "linear",
    outside: str = "hold",
    source_lengths: Tensor | None = None,  # [B, K]
) -> Tensor:  # [B, T, sum of D_k], or [T, sum of D_k]
    """Puts streams that have their own clocks and rates on one clock, side by side, in one pass over the data.

    The result has the bits of :func:`resample` of each stream, concatenated along the channels. On CUDA up to 16
    streams take one launch, and no intermediate tensor is made.

    Args:
        values: one tensor for each stream, `[B, S_k, D_k]`, all of one dtype and on one device; each with its own
            number of samples and channels. Unbatched: `[S_k, D_k]`, where all times are 1-D. The dtypes of
            :func:`resample`.
        source_times: one tensor for each stream, `[B, S_k]`, or `[S_k]` shared by the batch; float32, float64 or int64,
            all of one dtype and unit, ascending along each row.
        target_times: `[B, T]` or `[T]`, in the dtype and unit of `source_times`, in any order.
        mode: as for :func:`resample`; groups run over the concatenated channels, so that one group may span streams. A
            written `slerp` group lies within one stream; plain `"slerp"` takes streams whose widths are multiples
            of 4.
        outside: as for :func:`resample`, for all streams.
        source_lengths: `[B, K]`, int32 or int64: column `k` says how many samples of each row of stream `k` are valid,
            from 1 to `S_k`. None: all.

    Returns:
        `[B, T, D_0 + D_1 + ...]` (`[T, ...]` unbatched), dense, in the dtype of `values`. The same bits on CPU and
        CUDA, for any number of threads, from run to run.

    Differentiable as :func:`resample` is, in every stream's values and floating times.

    Raises:
        ValueError: a shape or value is wrong. Row order and lengths are checked on the CPU; on CUDA, where reading them
            would stop the stream, only with `ROBOCACHE_CHECK=1` in the environment.
        TypeError: a dtype is wrong.
        NotImplementedError: the device has no backend in this library; or a third derivative of `slerp` or `pchip`.

    Source: :func:`resample`'s.

    Example:
        >>> import torch, robocache
        >>> joints, joint_times = torch.tensor([[0.0, 3.0], [1.0, -3.0]]), torch.tensor([0, 100])
        >>> gripper, gripper_times = torch.tensor([[0.0], [1.0]]), torch.tensor([0, 60])
        >>> clock = torch.tensor([0, 50, 100])
        >>> robocache.fuse([joints, gripper], [joint_times, gripper_times], clock, mode="linear:1,angle:1,previous:1")
        tensor([[ 0.0000,  3.0000,  0.0000],
                [ 0.5000, -3.1416,  0.0000],
                [ 1.0000, -3.0000,  1.0000]])
    """
    streams, times = list(values), list(source_times)
    if source_lengths is None and outside == "hold":
        if mode == "linear":
            return _fuse(streams, times, target_times)
        return _fuse(streams, times, target_times, mode=mode)
    return _fuse(streams, times, target_times, mode=mode, outside=outside, source_lengths=source_lengths)


class SparseVoxels(NamedTuple):
    """What :func:`voxelize_sparse` returns: a row for each of `M` voxels, and how rows, points and voxels belong."""

    coords: Tensor
    """`[M, 4]` int32: `(b, x, y, z)` of each row; -1 in a row that is not used."""
    values: Tensor
    """`[M, C]`: what each voxel says of its points' features."""
    counts: Tensor
    """`[M]` int32: the points of each voxel."""
    point_voxel: Tensor
    """`[B, N]` int64 (`[N]` unbatched): the row of each point's voxel, or -1."""
    num_voxels: Tensor
    """`[1]` int64: how many voxels have points, those past the capacity too."""


# An exported program that returns one can be saved only if the class has a name to be found by.
_pytree._register_namedtuple(SparseVoxels, serialized_type_name="robocache.SparseVoxels")


def voxelize(
    points: Tensor,  # [B, N, 3] or [N, 3], metres
    features: Tensor | None,  # [B, N, C] or [N, C]
    origin: Sequence[float],  # 3 numbers, metres
    voxel_size: Sequence[float],  # 1 or 3 numbers, metres
    grid_size: Sequence[int],  # 3 numbers: X, Y, Z
    *,
    reduce: str = "occupancy",
    lengths: Tensor | None = None,  # [B]
) -> Tensor:  # [B, X, Y, Z] or [B, C, X, Y, Z]; without B where points are [N, 3]
    """Turns point clouds into dense grids that a 3-D convolution takes as they are.

    The voxel of a point is `floor((p - origin) / voxel_size)` along each axis, in the points' type (float32 for the
    halves; `origin` and `voxel_size` are rounded to it first): the voxel that NumPy finds by that expression. Voxels
    are half-open: a point on a face belongs to the voxel above it. A point outside the grid, or with a NaN or infinite
    coordinate, is dropped.

    Args:
        points: `[B, N, 3]`, or `[N, 3]` unbatched, in metres or any other unit; any strides, any number of points up to
            2^31 - 1 a cloud, also none. float64, float32, float16, bfloat16.
        features: `[B, N, C]` (`[N, C]` unbatched), in a floating dtype that need not be the points'. None, or not
            read, for `"occupancy"` and `"count"`.
        origin: the lowest corner of the grid, 3 numbers in the unit of `points`.
        voxel_size: the edges of a voxel, 3 numbers, or 1 for a cube; positive.
        grid_size: voxels along `x`, `y` and `z`, each at least 1.
        reduce: what a voxel says of its points.

            ==========  ===============================================  =================  ===============
            occupancy   whether it has any                               `[B, X, Y, Z]`     bool
            count       how many                                         `[B, X, Y, Z]`     int32
            sum         the exact sum of their features, rounded once    `[B, C, X, Y, Z]`  as the features
            mean        that exact sum over their number, rounded once   `[B, C, X, Y, Z]`  as the features
            max, min    their greatest, their least feature              `[B, C, X, Y, Z]`  as the features
            ==========  ===============================================  =================  ===============

            An empty voxel is False or 0. `sum` and `mean` are exact whatever cancels: `1e30 + 1 - 1e30` is 1; a sum of
            exactly zero is +0. A NaN feature makes its voxel NaN in all four, opposite infinities in `sum` and `mean`.
            For `max` and `min` -0 is less than +0.
        lengths: `[B]` (`[1]` unbatched), int32 or int64, from 0 to `N`: how many points of each cloud are valid; what
            lies past them is not read. None: all.

    Returns:
        A contiguous tensor of that shape, without `B` for unbatched points. The same bits on CPU and CUDA, for any
        number of threads, from run to run, and for any order of the points.

    Differentiable in `features`, any number of times: `sum` sends a point the gradient of its voxel, `mean` that over
    the number of points, `max` and `min` all of it to the first point, by index, that holds the extremum. Points get no
    gradient: their voxels are constant almost everywhere.

    Raises:
        ValueError: a shape or value is wrong. Lengths are checked on the CPU; on CUDA, where reading them would stop
            the stream, only with `ROBOCACHE_CHECK=1` in the environment, and clamped otherwise.
        TypeError: a dtype is wrong.
        NotImplementedError: the device has no backend in this library.

    Sources: the voxel rule is NumPy's `floor` and IEEE 754 division. Exact sums as in `math.fsum`: errors by Knuth's
    two-sum (The Art of Computer Programming, volume 2), else a fixed-point sum over all exponents as in Kulisch,
    "Computer Arithmetic and Validity" (2008).

    Example:
        >>> import torch, robocache
        >>> points = torch.tensor([[0.1, 0.2, 0.0], [0.4, 0.1, 0.3], [-0.2, 0.7, 0.0], [9.0, 0.0, 0.0]])  # metres
        >>> box = {"origin": (-0.5, 0.0, 0.0), "voxel_size": (0.5,), "grid_size": (2, 2, 1)}
        >>> robocache.voxelize(points, None, **box, reduce="count").squeeze(-1)
        tensor([[0, 1],
                [2, 0]], dtype=torch.int32)
        >>> intensity = torch.tensor([[1.0], [2.0], [5.0], [7.0]])
        >>> robocache.voxelize(points, intensity, **box, reduce="mean").squeeze(-1)
        tensor([[[0.0000, 5.0000],
                 [1.5000, 0.0000]]])
    """
    if lengths is None:
        return _voxelize(points, features, origin, voxel_size, grid_size, reduce=reduce)
    return _voxelize(points, features, origin, voxel_size, grid_size, reduce=reduce, lengths=lengths)


def voxelize_sparse(
    points: Tensor,  # [B, N, 3] or [N, 3], metres
    features: Tensor | None,  # [B, N, C] or [N, C]
    origin: Sequence[float],  # 3 numbers, metres
    voxel_size: Sequence[float],  # 1 or 3 numbers, metres
    grid_size: Sequence[int],  # 3 numbers, each at most 2^21
    *,
    reduce: str = "mean",
    capacity: int = -1,
    lengths: Tensor | None = None,  # [B]
) -> SparseVoxels:
    """Turns point clouds into rows for the occupied voxels only: memory grows with the points, not with the grid.

    Which voxel a point is in, what `reduce` means, and what is dropped is as for :func:`voxelize`; the values are its
    bits.

    Args:
        points: `[B, N, 3]` or `[N, 3]`, as for :func:`voxelize`.
        features: `[B, N, C]` or `[N, C]`, as for :func:`voxelize`; None: `values` has no columns.
        origin: the lowest corner of the grid, 3 numbers in the unit of `points`.
        voxel_size: the edges of a voxel, 3 numbers, or 1 for a cube; positive.
        grid_size: voxels along `x`, `y` and `z`, each from 1 to 2^21.
        reduce: `"sum"`, `"mean"`, `"max"` or `"min"`; with `"occupancy"` and `"count"` `values` has no columns.
        capacity: -1: as many rows as there are occupied voxels, which on CUDA waits for the device once. Else the
            number of rows, whatever the points are, without waiting, so that the call can be captured in a CUDA graph:
            rows that are left over have coords -1, values 0 and counts 0; voxels past the capacity, in the order of the
            rows, are dropped, and their points have no row.
        lengths: `[B]` (`[1]` unbatched), int32 or int64, from 0 to `N`: valid points of each cloud. None: all.

    Returns:
        A named tuple, its rows ordered by `(b, x, y, z)`:

        * `coords` `[M, 4]` int32, `(b, x, y, z)`; `b` is 0 for unbatched points.
        * `values` `[M, C]` in the dtype of `features` (`[M, 0]`, in the dtype of `points`, without features).
        * `counts` `[M]` int32, the points of each voxel.
        * `point_voxel` `[B, N]` (`[N]` unbatched) int64, the row of each point's voxel, or -1 for a dropped point.
        * `num_voxels` `[1]` int64, the occupied voxels, those past the capacity too.

        The same bits on CPU and CUDA, for any number of threads and from run to run. The order of the points matters
        to `point_voxel` only.

    Differentiable in `features` through `values`, any number of times, as :func:`voxelize` is. Points get no gradient.

    Raises:
        ValueError: a shape or value is wrong; lengths are checked as by :func:`voxelize`.
        TypeError: a dtype is wrong.
        NotImplementedError: the device has no backend in this library.

    Sources: :func:`voxelize`'s; rows by a stable radix sort (Knuth, The Art of Computer Programming, volume 3).

    Example:
        >>> import torch, robocache
        >>> points = torch.tensor([[0.1, 0.2, 0.0], [-0.2, 0.7, 0.0], [0.4, 0.1, 0.3], [float("nan"), 0.0, 0.0]])
        >>> box = {"origin": (-0.5, 0.0, 0.0), "voxel_size": (0.5,), "grid_size": (2, 2, 1)}
        >>> voxels = robocache.voxelize_sparse(points, torch.tensor([[1.0], [5.0], [2.0], [7.0]]), **box)
        >>> voxels.coords
        tensor([[0, 0, 1, 0],
                [0, 1, 0, 0]], dtype=torch.int32)
        >>> voxels.values.flatten(), voxels.counts, voxels.point_voxel
        (tensor([5.0000, 1.5000]), tensor([1, 2], dtype=torch.int32), tensor([ 1,  0,  1, -1]))
    """
    if lengths is None and reduce == "mean":
        found = _voxelize_sparse(points, features, origin, voxel_size, grid_size, capacity=capacity)
    else:
        found = _voxelize_sparse(
            points, features, origin, voxel_size, grid_size, reduce=reduce, capacity=capacity, lengths=lengths
        )
    return SparseVoxels(*found)
