"""One rounding where PyTorch makes two: the fused multiply-add, and f64 to a narrow type."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def fma(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """``a * b + c`` rounded once; all three f32 or all three f64."""
    if a.dtype == torch.float32:
        # The product of two f32 is exact in f64; a sum rounded to odd there rounds to f32 as the exact sum would.
        return _sum_to_odd(a.double() * b.double(), c.double()).float()
    # Near the end of the range the parts overflow where the result may not: there the same on numbers scaled down.
    scale = 2.0**-64
    exact, scaled = _fma_in_parts(a, b, c), _fma_in_parts(a, b * scale, c * scale) / scale
    # Neither is right about infinities, and a sum of parts forgets the sign of a zero.
    plain = (a * (b * scale) + c * scale) / scale
    result = torch.where(torch.isfinite(exact), exact, torch.where(torch.isnan(scaled), plain, scaled))
    return torch.where(result == 0, plain, result)


def round_to_odd(a: Tensor) -> Tensor:
    """f64 cut to the 24 digits of f32, the last of them odd unless exact, which rounds to a half type as ``a`` would.

    Without it `.to(torch.float16)` rounds twice: to f32 first.
    """
    result: Tensor = _RoundToOdd.apply(a)  # type: ignore[no-untyped-call]
    return result


class _RoundToOdd(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, a: Tensor) -> Tensor:
        cut = 2**29 - 1  # 53 digits less 24
        bits = a.contiguous().view(torch.int64)
        odd = torch.where((bits & cut) != 0, cut + 1, 0)
        return torch.where(torch.isfinite(a), ((bits & ~cut) | odd).view(torch.float64), a)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        return grads[0]


def _fma_in_parts(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """In f64; exact unless a part is subnormal or infinite.

    Source: Boldo and Melquiond, "Emulation of FMA and correctly rounded sums" (2008).
    """
    product, product_error = _two_product(a, b)
    low, low_error = _two_sum(c, product_error)
    high, high_error = _two_sum(product, low)
    return high + _sum_to_odd(low_error, high_error)


def _two_sum(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    total = a + b
    part = total - a
    return total, (a - (total - part)) + (b - part)


def _two_product(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    product = a * b
    (a_high, a_low), (b_high, b_low) = _halve(a), _halve(b)
    return product, ((a_high * b_high - product) + a_high * b_low + a_low * b_high) + a_low * b_low


def _halve(a: Tensor) -> tuple[Tensor, Tensor]:
    """Two f64 of at most 26 bits each whose sum is ``a``, so that products of them are exact."""
    scaled = a * 134217729.0  # 2^27 + 1
    high = scaled - (scaled - a)
    return high, a - high


def _sum_to_odd(a: Tensor, b: Tensor) -> Tensor:
    """``a + b`` in f64, rounded to the neighbour whose last bit is odd unless exact."""
    total, error = _two_sum(a, b)
    even = (total.contiguous().view(torch.int64) & 1) == 0
    inexact = torch.isfinite(total) & (error != 0)
    towards = torch.where(error > 0, torch.inf, -torch.inf).to(total.dtype)
    return torch.where(inexact & even, torch.nextafter(total, towards), total)
