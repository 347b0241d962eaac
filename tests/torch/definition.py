"""The definitions once more, sample by sample in NumPy: independent of library and reference."""

from __future__ import annotations

import ctypes
import ctypes.util
import math
from fractions import Fraction
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
_PI = Fraction("3.14159265358979323846264338327950288419716939937510582")
_Wide = np.longdouble


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
    """The contract's `resample` for normalised inputs on the CPU; `slerp` and `pchip` to rounding."""
    dtype = values.dtype
    floating = dtype.is_floating_point
    compute: Any = np.float64 if dtype == torch.float64 else np.float32
    raw = values.to(torch.float64 if dtype == torch.float64 else torch.float32) if floating else _readable(values)
    samples, times, targets = raw.numpy(), source_times.numpy(), target_times.numpy()
    result = np.zeros((samples.shape[0], targets.shape[1], samples.shape[2]), samples.dtype)
    for row in range(samples.shape[0]):
        valid = times[row, : source_lengths[row]]
        for index, target in enumerate(targets[row]):
            placed = place(valid, target, outside)
            if placed is None:
                nan = floating and (outside == "nan" or math.isnan(target))
                result[row, index] = np.nan if nan else 0
                continue
            left, weight = placed
            with np.errstate(all="ignore"):
                result[row, index] = _blend(samples[row], valid, left, weight, modes, compute)
    out = torch.from_numpy(result)
    return out.view(dtype) if dtype in _SIGNED else out.to(dtype)


def _blend(samples: Any, times: Any, left: int, weight: float, modes: list[str], compute: Any) -> Any:
    """The samples at one target: [S, D] -> [D]."""
    result = samples[left].copy()
    angles = [channel for channel, mode in enumerate(modes) if mode == "angle"]
    for channel in angles:
        result[channel] = wrap(result[channel], compute)
    if weight == 0.0:
        return result
    start, stop = samples[left], samples[left + 1]
    for channel, mode in enumerate(modes):
        if mode == "next" or (mode == "nearest" and not weight <= 0.5):
            result[channel] = stop[channel]
    turned = [channel for channel, mode in enumerate(modes) if mode == "slerp"]
    for first in range(0, len(turned), 4):
        quaternion = turned[first : first + 4]
        result[quaternion] = slerp(start[quaternion], stop[quaternion], weight)
    w = compute(weight)
    if w == 0:
        return result
    lines = [channel for channel, mode in enumerate(modes) if mode == "linear"]
    if lines:
        result[lines] = _FMA[compute](w, stop[lines] - start[lines], start[lines])
    for channel in angles:
        a, b = wrap(start[channel], compute), wrap(stop[channel], compute)
        result[channel] = wrap(_fma(compute, w, wrap(b - a, compute), a), compute)
    for channel, mode in enumerate(modes):
        if mode == "pchip":
            result[channel] = pchip(times, samples[:, channel], left, weight)
    return result


def _fma(compute: Any, a: Any, b: Any, c: Any) -> Any:
    return compute((_libm.fmaf if compute is np.float32 else _libm.fma)(a, b, c))


def wrap(angle: Any, compute: Any) -> Any:
    """An angle moved by whole turns into [-pi, pi), by the contract's fixed steps in the compute type."""
    pi = compute(float(_PI))
    if -pi <= angle < pi or math.isnan(angle):
        return angle
    if math.isinf(angle):
        return compute(np.nan)
    high = 2 * pi
    low = compute(float(2 * _PI - Fraction(float(high))))
    if abs(angle) >= 2**16:
        angle = np.fmod(angle, high)
    turns = -np.rint(angle * compute(float(1 / (2 * _PI))))
    angle = _fma(compute, turns, low, _fma(compute, turns, high, angle))
    if angle >= pi:
        angle = angle - high
    if angle < -pi:
        angle = angle + high
    return angle if -pi <= angle < pi else -pi


def slerp(a: Any, b: Any, weight: float) -> Any:
    """Between two quaternions along the shorter arc, in more digits than any type has: sines of the angle itself."""
    a, b = (np.asarray(x, _Wide) for x in (a, b))
    if sum(Fraction(float(x)) * Fraction(float(y)) for x, y in zip(a, b, strict=True) if np.isfinite(x * y)) < 0:
        b = -b  # decided exactly: half a turn apart the sign stays
    a, b = a / np.sqrt((a * a).sum()), b / np.sqrt((b * b).sum())
    angle = 2 * np.arctan2(np.sqrt(((b - a) ** 2).sum()), np.sqrt(((b + a) ** 2).sum()))
    if angle == 0:
        return a
    w = _Wide(weight)
    return (np.sin((1 - w) * angle) * a + np.sin(w * angle) * b) / np.sin(angle)


def pchip(times: Any, samples: Any, left: int, weight: float) -> float:
    """Fritsch and Carlson's curve in f64, from its slopes at both samples of the bracket."""
    first, last = left, left + 1
    while first > 0 and times[first - 1] < times[first]:
        first -= 1
    while last + 1 < len(times) and times[last + 1] > times[last]:
        last += 1
    y = [float(sample) for sample in samples[first : last + 1]]
    h = [_difference(times[k + 1], times[k]) for k in range(first, last)]
    k = left - first
    if any(math.isnan(near) for near in y[max(k - 1, 0) : k + 3]):
        return math.nan
    m = [(y[j + 1] - y[j]) / h[j] for j in range(len(h))]
    t = weight
    curve = (
        (1 + 2 * t) * (1 - t) ** 2 * y[k]
        + t * t * (3 - 2 * t) * y[k + 1]
        + h[k] * t * (1 - t) ** 2 * _slope(h, m, k)
        - h[k] * t * t * (1 - t) * _slope(h, m, k + 1)
    )
    return min(max(curve, min(y[k], y[k + 1])), max(y[k], y[k + 1]))


def _slope(h: list[float], m: list[float], k: int) -> float:
    """The slope at sample ``k`` of a piece with brackets of length ``h`` and rise ``m``."""
    if len(h) == 1:
        return m[0]
    if k in (0, len(h)):
        near, far = (0, 1) if k == 0 else (-1, -2)
        slope = ((2 * h[near] + h[far]) * m[near] - h[near] * m[far]) / (h[near] + h[far])
        if slope * m[near] <= 0:
            return 0.0
        return 3 * m[near] if m[near] * m[far] <= 0 and abs(slope) > 3 * abs(m[near]) else slope
    if m[k - 1] * m[k] <= 0:
        return 0.0
    a, b = 2 * h[k] + h[k - 1], h[k] + 2 * h[k - 1]
    return (a + b) / (a / m[k - 1] + b / m[k])


def resample_mask(
    source_times: Tensor,  # [B, S]
    target_times: Tensor,  # [B, T]
    *,
    max_gap: float | int | None,
    source_lengths: list[int],
) -> Tensor:  # [B, T]
    """The contract's `resample_mask` for normalised inputs on the CPU."""
    times, targets = source_times.numpy(), target_times.numpy()
    result = np.zeros(targets.shape, bool)
    for row in range(targets.shape[0]):
        valid = times[row, : source_lengths[row]]
        for index, target in enumerate(targets[row]):
            if not math.isfinite(target) or not valid[0] <= target <= valid[-1]:
                continue
            left = max(sample for sample, time in enumerate(valid) if time <= target)
            known = valid[left] == target or max_gap is None
            if not known and isinstance(target, np.integer):
                known = int(valid[left + 1]) - int(valid[left]) <= max_gap
            elif not known:
                with np.errstate(over="ignore"):
                    known = bool(valid[left + 1] - valid[left] <= times.dtype.type(max_gap))
            result[row, index] = known
    return torch.from_numpy(result)


def fuse(
    values: list[Tensor],  # [B, S_k, D_k]
    source_times: list[Tensor],  # [B, S_k]
    target_times: Tensor,  # [B, T]
    *,
    modes: list[str],  # one a channel, over all streams
    outside: str,
    source_lengths: list[list[int]],  # of each stream
) -> Tensor:  # [B, T, sum of D_k]
    """The contract's `fuse` for normalised inputs on the CPU: each stream by itself, side by side."""
    parts, start = [], 0
    for stream, times, lengths in zip(values, source_times, source_lengths, strict=True):
        own = modes[start : start + stream.shape[2]]
        start += stream.shape[2]
        parts.append(
            _readable(resample(stream, times, target_times, modes=own, outside=outside, source_lengths=lengths))
        )
    joined = torch.cat(parts, dim=2)
    return joined.view(values[0].dtype) if values[0].dtype in _SIGNED else joined


def _readable(values: Tensor) -> Tensor:
    return values.contiguous().view(_SIGNED[values.dtype]) if values.dtype in _SIGNED else values
