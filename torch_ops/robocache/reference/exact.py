"""Sums without rounding, in whole numbers, and their derivatives: what ``sum`` and ``mean`` of a voxel are."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

# Digits of the type, and the exponents of its least and of its greatest power of two.
FORMATS = {
    torch.float64: (53, -1074, 1023),
    torch.float32: (24, -149, 127),
    torch.float16: (11, -24, 15),
    torch.bfloat16: (8, -133, 127),
}
_UNIT = 1074  # every number of every type is a multiple of 2^-1074


def add_rows(features: Tensor, row: Tensor, counts: Tensor, mean: bool) -> Tensor:  # [P, C], [P] -> [M, C]
    """The exact sum of each row's features, or that sum divided by ``counts``, rounded once; row -1 is nobody's.

    >>> numbers = torch.tensor([[1e30], [1.0], [5.0], [-1e30]])
    >>> add_rows(numbers, torch.tensor([0, 0, -1, 0]), torch.tensor([3]), mean=True).item()
    0.3333333432674408
    """
    result: Tensor = _AddRows.apply(features, row, counts, mean)  # type: ignore[no-untyped-call]
    return result


class _AddRows(torch.autograd.Function):
    """Linear, with its adjoint as the derivative, so that every order of derivative is exact too."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, row: Tensor, counts: Tensor, mean: bool) -> Tensor:
        ctx.save_for_backward(row, counts)
        ctx.mean = mean
        members: list[list[int]] = [[] for _ in range(counts.shape[0])]
        for point, each in enumerate(row.tolist()):
            if each >= 0:
                members[each].append(point)
        columns = features.detach().cpu().double().t().tolist()
        divisors = counts.tolist() if mean else [1] * counts.shape[0]
        result = [
            [_quotient([column[point] for point in points], by, features.dtype) for column in columns]
            for points, by in zip(members, divisors, strict=True)
        ]
        return _as(result, features.new_empty((counts.shape[0], features.shape[1])))

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        row, counts = ctx.saved_tensors
        return _Spread.apply(grads[0], row, counts, ctx.mean), None, None, None  # type: ignore[no-untyped-call]


class _Spread(torch.autograd.Function):
    """To each point the number of its row, or that number's exact quotient by the row's points, rounded once."""

    @staticmethod
    def forward(ctx: Any, grad: Tensor, row: Tensor, counts: Tensor, mean: bool) -> Tensor:
        ctx.save_for_backward(row, counts)
        ctx.mean = mean
        shares = grad
        if mean:
            rows = zip(grad.detach().cpu().double().tolist(), counts.tolist(), strict=True)
            # A quotient of one number keeps the sign of a zero, which a sum does not.
            one = [[number and _quotient([number], by, grad.dtype) for number in numbers] for numbers, by in rows]
            shares = _as(one, grad)
        result = grad.new_zeros((row.shape[0], grad.shape[1]))
        result[row >= 0] = shares[row[row >= 0]]
        return result

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        row, counts = ctx.saved_tensors
        return _AddRows.apply(grads[0], row, counts, ctx.mean), None, None, None  # type: ignore[no-untyped-call]


def _as(numbers: list[list[float]], like: Tensor) -> Tensor:
    """A tensor of the shape and type of ``like``, which holds these numbers exactly."""
    return torch.tensor(numbers, dtype=torch.float64).reshape(like.shape).to(like.device, like.dtype)


def _quotient(numbers: list[float], count: int, dtype: torch.dtype) -> float:
    """The sum divided by ``count``: a NaN, or both infinities, give NaN, an infinity itself, an exact zero +0."""
    if not all(map(math.isfinite, numbers)):
        return sum(number for number in numbers if not math.isfinite(number))
    total = 0
    for number in numbers:
        above, below = number.as_integer_ratio()
        total += above << (_UNIT + 1 - below.bit_length())
    size = _nearest(abs(total), count << _UNIT, *FORMATS[dtype])
    return -size if total < 0 else size


def _nearest(above: int, below: int, digits: int, least: int, greatest: int) -> float:
    """The quotient rounded to the nearest number of a format, of two to the even one."""
    # One too few at most; the loop puts that right.
    exponent = max(above.bit_length() - below.bit_length() - digits, least)
    while True:
        whole, rest = divmod(above << max(-exponent, 0), below << max(exponent, 0))
        if whole < 2**digits:
            break
        exponent += 1
    scaled = below << max(exponent, 0)
    if 2 * rest > scaled or (2 * rest == scaled and whole % 2 == 1):
        whole += 1
    return math.inf if whole >> max(greatest + 1 - exponent, 0) else math.ldexp(whole, exponent)
