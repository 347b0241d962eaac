"""The formulas of the modes that blend: what a point between the samples of a bracket is."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from robocache.reference.fma import fma

# Of each compute type: the nearest to pi, to what two of those lack of a turn, and to the turns in a radian.
_TURN = {
    torch.float32: (3.1415927410125732, -1.7484555314695172e-07, 0.15915493667125702),
    torch.float64: (math.pi, 2.4492935982947064e-16, 0.15915494309189535),
}
_FAR = 2.0**16  # from here on an angle is brought near by an exact remainder first


def linear(low: Tensor, high: Tensor, weight: Tensor) -> Tensor:
    """``fma(w, high - low, low)``, and ``low`` itself where ``w == 0`` whatever ``high`` holds."""
    result: Tensor = _Line.apply(low, high, weight)  # type: ignore[no-untyped-call]
    return result


def angle(low: Tensor, high: Tensor, weight: Tensor) -> Tensor:
    """Linear along the shorter arc, in radians, wrapped to [-pi, pi)."""
    result: Tensor = _Arc.apply(low, high, weight)  # type: ignore[no-untyped-call]
    return result


def wrap(x: Tensor) -> Tensor:
    """``x`` moved by whole turns into [-pi, pi), where pi is the type's nearest; itself where it lies there."""
    pi, low, per_turn = _TURN[x.dtype]
    high = 2.0 * pi
    # Two numbers hold a turn more exactly than one.
    near = torch.where(x.abs() >= _FAR, torch.fmod(x, high), x)
    turns = -torch.round(near * per_turn)
    moved = fma(turns, torch.full_like(x, high), near)
    moved = fma(turns, torch.full_like(x, low), moved)
    moved = torch.where(moved >= pi, moved - high, moved)
    moved = torch.where(moved < -pi, moved + high, moved)
    moved = torch.where((moved < -pi) | (moved >= pi), -pi, moved)
    return torch.where((x >= -pi) & (x < pi), x, moved)


def slerp(low: Tensor, high: Tensor, weight: Tensor) -> Tensor:  # [B, T, 4 n] f64, [B, T, 1]
    """Spherical linear between quaternions of 4 neighbouring channels, along the shorter arc.

    Source: Shoemake, "Animating rotation with quaternion curves" (1985).
    """
    start, stop = (x.reshape(*x.shape[:-1], x.shape[-1] // 4, 4) for x in (low, high))
    weight = weight.unsqueeze(-1)
    # A sample that is hit comes back as it is, and autograd must not see its neighbour: 0 times NaN is NaN.
    hit = weight == 0
    spare = torch.tensor([1.0, 0.0, 0.0, 0.0], dtype=low.dtype, device=low.device)
    a, b = (_unit(torch.where(hit, spare, x)) for x in (start, stop))
    # A quaternion and its negative are one rotation: the nearer of the two, on the side of the left sample. Half a turn
    # apart neither is nearer, and the sign as written counts: products of the samples, in pairs, cancel exactly there.
    products = (start * stop).detach()
    apart = (products[..., :1] + products[..., 1:2]) + (products[..., 2:3] + products[..., 3:]) < 0
    b = torch.where(apart, -b, b)
    squared = (b - a).square().sum(-1, keepdim=True) / 4  # of the sine of half the angle between them
    turned = _share(1.0 - weight, squared) * a + _share(weight, squared) * b
    return torch.where(hit, start, turned).flatten(-2)


def _unit(q: Tensor) -> Tensor:
    # The largest component is brought near 1 by a power of two, which is exact, so that squares neither vanish nor
    # overflow. The result does not depend on it, so it needs no gradient.
    exponent = torch.frexp(q.detach().abs().amax(-1, keepdim=True))[1].to(torch.int64)
    q = q / ((exponent.clamp(min=-1021) + 1022) << 52).view(torch.float64)
    return q / q.square().sum(-1, keepdim=True).sqrt()


def _share(part: Tensor, squared: Tensor) -> Tensor:
    """``sin(part * angle) / sin(angle)`` from the squared sine of half the angle, smooth at 0."""
    # Near 0 by part * 2F1(1 + part, 1 - part; 3/2; squared): the angle itself has no derivative there.
    near = squared < 0.01
    total = term = part
    small = torch.where(near, squared, 0.0)
    for n in range(1, 11):  # the next term is below 2^-64 of the first
        term = term * small * ((n - part) * (n + part)) / (n * (n + 0.5))
        total = total + term
    theta = 2.0 * torch.asin(torch.where(near, 0.5, torch.where(near, 0.25, squared).sqrt()))
    return torch.where(near, total, torch.sin(part * theta) / torch.sin(theta))


def pchip(samples: tuple[Tensor, Tensor, Tensor, Tensor], gaps: tuple[Tensor, Tensor], weight: Tensor) -> Tensor:
    """The monotone cubic between the second and third of four samples.

    ``gaps`` are the lengths of the brackets to the left and the right in units of this one; 0: there is none, and the
    sample that it would give is one of the bracket's own.

    Sources: Fritsch and Carlson (1980) for the limits, Fritsch and Butland (1984) for the slopes within, and the
    three-point slopes at the ends of `scipy.interpolate.PchipInterpolator`.
    """
    hit = weight == 0
    copied = samples[1]
    before, low, high, after = (torch.where(hit, 0.0, x) for x in samples)
    left, right = gaps[0] > 0, gaps[1] > 0
    gap_left, gap_right = torch.where(left, gaps[0], 1.0), torch.where(right, gaps[1], 1.0)
    # Slopes are per length of the bracket, so that no unit of time overflows.
    slope, slope_left, slope_right = high - low, (low - before) / gap_left, (after - high) / gap_right
    one = torch.ones_like(gap_left)
    start = torch.where(left, _inner(gap_left, one, slope_left, slope), slope)
    start = torch.where(~left & right, _end(one, gap_right, slope, slope_right), start)
    stop = torch.where(right, _inner(one, gap_right, slope, slope_right), slope)
    stop = torch.where(left & ~right, _end(one, gap_left, slope, slope_left), stop)
    cubic, square = start + stop - 2.0 * slope, 3.0 * slope - 2.0 * start - stop
    curve = low + weight * (start + weight * (square + weight * cubic))
    within: Tensor = _Within.apply(curve, low, high)  # type: ignore[no-untyped-call]
    # The comparisons above would hide a NaN beside the bracket.
    unknown = torch.stack([x.isnan() for x in (before, low, high, after)]).any(0)
    return torch.where(hit, copied, torch.where(unknown, torch.nan, within))


def _inner(gap_left: Tensor, gap_right: Tensor, slope_left: Tensor, slope_right: Tensor) -> Tensor:
    """The slope at a sample within: a weighted harmonic mean, or 0 at a turn."""
    turns = (slope_left.sign() != slope_right.sign()) | (slope_left == 0) | (slope_right == 0)
    slope_left, slope_right = torch.where(turns, 1.0, slope_left), torch.where(turns, 1.0, slope_right)
    weight_left, weight_right = 2.0 * gap_right + gap_left, gap_right + 2.0 * gap_left
    mean = (weight_left + weight_right) / (weight_left / slope_left + weight_right / slope_right)
    return torch.where(turns, 0.0, mean)


def _end(gap: Tensor, next_gap: Tensor, slope: Tensor, next_slope: Tensor) -> Tensor:
    """The slope at an end, from the bracket there and the next one: of their parabola, but never past the data."""
    parabola = ((2.0 * gap + next_gap) * slope - gap * next_slope) / (gap + next_gap)
    steep = (slope.sign() != next_slope.sign()) & (parabola.abs() > 3.0 * slope.abs())
    limited = torch.where(steep, 3.0 * slope, parabola)
    # Flat: 0 too, so that its derivative is.
    return torch.where((parabola.sign() != slope.sign()) | (slope == 0), 0.0, limited)


class _Line(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, low: Tensor, high: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(low, high, weight)
        return torch.where(weight == 0, low, fma(weight, high - low, low))

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor, Tensor, Tensor]:
        # A copied sample keeps the line's gradient to the weight: the slope of the bracket to its right.
        low, high, weight = ctx.saved_tensors
        (grad,) = grads
        return grad * (1.0 - weight), grad * weight, (grad * (high - low)).sum(-1, keepdim=True)


class _Arc(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, low: Tensor, high: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(weight)
        start = wrap(low)
        turned = wrap(fma(weight, wrap(wrap(high) - start), start))
        return torch.where(weight == 0, start, turned)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor, Tensor, None]:
        # Whole turns are constants.
        (weight,) = ctx.saved_tensors
        (grad,) = grads
        return grad * (1.0 - weight), grad * weight, None


class _Within(torch.autograd.Function):
    """The curve, kept between the bracket's samples. Only rounding makes it leave them: the gradient is the curve's."""

    @staticmethod
    def forward(ctx: Any, curve: Tensor, low: Tensor, high: Tensor) -> Tensor:
        return torch.minimum(torch.maximum(curve, torch.minimum(low, high)), torch.maximum(low, high))

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Any, None, None]:
        return grads[0], None, None
