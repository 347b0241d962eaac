"""The definition of `resample` once more, sample by sample in NumPy: independent of library and reference."""

from __future__ import annotations

import ctypes
import ctypes.util
import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

_libm = ctypes.CDLL(ctypes.util.find_library("m") or "libm.so.6")
_libm.fma.restype, _libm.fma.argtypes = ctypes.c_double, [ctypes.c_double] * 3
_libm.fmaf.restype, _libm.fmaf.argtypes = ctypes.c_float, [ctypes.c_float] * 3
_FMA: dict[Any, Any] = {
    np.float64: np.vectorize(_libm.fma, otypes=[np.float64]),
    np.float32: np.vectorize(_libm.fmaf, otypes=[np.float32]),
}
_SIGNED = {torch.uint16: torch.int16, torch.uint32: torch.int32, torch.uint64: torch.int64}


def _difference(later: Any, earlier: Any) -> float:
    """In the type of the times: Python's integers are exact, NumPy's scalars keep their type."""
    if isinstance(later, np.integer):
        return float(int(later) - int(earlier))
    return float(later - earlier)


def place(times: Any, target: Any, outside: str) -> tuple[int, float] | None:
    """The bracket's left sample and the weight of its right one; None: the target is filled."""
    last = len(times) - 1
    if math.isnan(target):
        return None
    infinite = not isinstance(target, np.integer) and math.isinf(target)
    left = -1
    for sample, time in enumerate(times):
        if time <= target:
            left = sample
    if infinite:
        left = last if target > 0 else -1
    elif left == last and target == times[last]:
        return last, 0.0
    if left in (-1, last):
        end = max(left, 0)
        if outside in ("nan", "zero"):
            return None
        left = 0 if left == -1 else last - 1
        if outside == "hold" or last == 0 or times[left] == times[left + 1]:
            return end, 0.0
    with np.errstate(all="ignore"):
        distance = np.float64(_difference(target, times[left]))
        return left, float(distance / np.float64(_difference(times[left + 1], times[left])))


def resample(
    values: Tensor,  # [B, S, D]
    source_times: Tensor,  # [B, S]
    target_times: Tensor,  # [B, T]
    *,
    modes: list[str],  # one a channel
    outside: str,
    source_lengths: list[int],
) -> Tensor:  # [B, T, D]
    """The contract's `resample` for normalised inputs on the CPU."""
    dtype = values.dtype
    floating = dtype.is_floating_point
    compute: Any = np.float64 if dtype == torch.float64 else np.float32
    raw = values.to(torch.float64 if dtype == torch.float64 else torch.float32) if floating else _readable(values)
    samples, times, targets = raw.numpy(), source_times.numpy(), target_times.numpy()
    result = np.zeros((samples.shape[0], targets.shape[1], samples.shape[2]), samples.dtype)
    linear = np.array([mode == "linear" for mode in modes], dtype=bool)
    for row in range(samples.shape[0]):
        valid = times[row, : source_lengths[row]]
        for index, target in enumerate(targets[row]):
            placed = place(valid, target, outside)
            if placed is None:
                nan = floating and (outside == "nan" or math.isnan(target))
                result[row, index] = np.nan if nan else 0
                continue
            left, weight = placed
            result[row, index] = samples[row, left]
            if weight == 0.0:
                continue
            right = samples[row, left + 1]
            for channel, mode in enumerate(modes):
                if mode == "next" or (mode == "nearest" and not weight <= 0.5):
                    result[row, index, channel] = right[channel]
            w = compute(weight)
            if linear.any() and w != 0:
                a, b = samples[row, left, linear], right[linear]
                with np.errstate(all="ignore"):
                    result[row, index, linear] = _FMA[compute](w, b - a, a)
    out = torch.from_numpy(result)
    return out.view(dtype) if dtype in _SIGNED else out.to(dtype)


def _readable(values: Tensor) -> Tensor:
    return values.contiguous().view(_SIGNED[values.dtype]) if values.dtype in _SIGNED else values
