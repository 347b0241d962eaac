"""`resample` and its reference against SciPy, NumPy and mpmath, on random and adversarial signals."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mpmath
import numpy as np
import pytest
import robocache
import scipy.interpolate
import torch
from cases import EPOCH, case_count
from scipy.spatial.transform import Rotation, Slerp
from torch import Tensor

Array = np.ndarray[Any, Any]
Resample = Callable[..., Array]
TOLERANCE = {torch.float64: 1e-13, torch.float32: 2e-5}
both_types = pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)


@pytest.fixture(params=["operator", "reference"])
def resample(request: pytest.FixtureRequest, device: torch.device) -> Resample:
    """The operator or its reference, from NumPy to NumPy: values in a type, times in their own."""
    call = robocache.resample if request.param == "operator" else robocache.reference.resample

    def called(
        values: Array, times: Array, targets: Array, dtype: torch.dtype = torch.float64, **options: Any
    ) -> Array:
        tensors = [torch.from_numpy(np.ascontiguousarray(x)).to(device) for x in (values, times, targets)]
        found: Tensor = call(tensors[0].to(dtype), *tensors[1:], **options)
        assert found.dtype == dtype
        return found.cpu().double().numpy()

    return called


def clock(rng: np.random.Generator, samples: int, targets: int) -> tuple[Array, Array]:
    """Jittered times, and targets within them and on them."""
    times = np.cumsum(rng.exponential(1.0, samples) + 0.01)
    return times, np.concatenate([rng.uniform(times[0], times[-1], targets), times])


def aligned(found: Array, expected: Array) -> Array:
    """The expected quaternions, each with the sign of the found one: both are one rotation."""
    return expected * np.where((found * expected).sum(-1, keepdims=True) < 0, -1.0, 1.0)


# Rotations


@both_types
def test_slerp_is_scipys(resample: Resample, dtype: torch.dtype, rng: np.random.Generator) -> None:
    for samples in (2, 3, 60):
        times, targets = clock(rng, samples, 300)
        quaternions = Rotation.random(samples, rng).as_quat() * rng.choice([1.0, -1.0], (samples, 1))
        expected = Slerp(times, Rotation.from_quat(quaternions))(targets).as_quat()
        found = resample(quaternions, times, targets, dtype, mode="slerp")
        np.testing.assert_allclose(found, aligned(found, expected), rtol=0, atol=min(TOLERANCE[dtype], 3e-7))
        assert np.abs(np.linalg.norm(found, axis=1) - 1).max() < 4 * torch.finfo(dtype).eps


def test_slerp_of_slow_turns_is_scipys(resample: Resample, rng: np.random.Generator) -> None:
    for step in (1e-2, 1e-5, 1e-8, 1e-12, 0.0):
        times, targets = clock(rng, 40, 200)
        track = Rotation.from_rotvec(np.cumsum(step * rng.standard_normal((40, 3)), axis=0))
        found = resample(track.as_quat(), times, targets, mode="slerp")
        expected = Slerp(times, track)(targets).as_quat()
        np.testing.assert_allclose(found, aligned(found, expected), rtol=0, atol=1e-15)


def test_slerp_stays_on_the_side_of_the_left_sample(resample: Resample, rng: np.random.Generator) -> None:
    quaternions = Rotation.random(50, rng).as_quat() * rng.choice([1.0, -1.0], (50, 1))
    middle = resample(quaternions, np.arange(50.0), np.arange(49) + 0.5, mode="slerp")
    assert ((middle * quaternions[:-1]).sum(-1) > 0).all()


def exact_slerp(a: Array, b: Array, weight: mpmath.mpf) -> list[mpmath.mpf]:
    """The definition in 40 digits."""
    with mpmath.workdps(40):
        first, second = ([mpmath.mpf(float(x)) for x in q] for q in (a, b))
        first, second = ([x / mpmath.norm(q) for x in q] for q in (first, second))
        cosine = mpmath.fdot(first, second)
        if cosine < 0:
            second, cosine = [-x for x in second], -cosine
        angle = mpmath.acos(min(cosine, mpmath.mpf(1)))
        if mpmath.sin(angle) == 0:
            return first
        parts = [mpmath.sin(part * angle) / mpmath.sin(angle) for part in (1 - weight, weight)]
        return [parts[0] * x + parts[1] * y for x, y in zip(first, second, strict=True)]


def pairs(rng: np.random.Generator, count: int) -> tuple[Array, Array]:
    """f32 quaternions: far apart, near, equal, opposite, nearly half a turn apart, and of other norms than 1."""
    a, b = rng.standard_normal((2, count, 4))
    kind = rng.integers(0, 7, (count, 1))
    near = a + 10.0 ** rng.uniform(-7, -1, (count, 1)) * b
    across = b - a * (a * b).sum(1, keepdims=True) / (a * a).sum(1, keepdims=True)
    across = across + 10.0 ** rng.uniform(-5, -1, (count, 1)) * a
    b = np.select([kind == 1, kind == 2, kind == 3, kind == 4, kind == 5], [near, -near, a, -a, across], b)
    unit = rng.random((count, 1)) < 0.5
    a, b = (np.where(unit, q / np.linalg.norm(q, axis=1, keepdims=True), q) for q in (a, b))
    return a.astype(np.float32), b.astype(np.float32)


def test_slerp_in_f32_is_within_4_ulp_of_exact(resample: Resample, rng: np.random.Generator) -> None:
    count = case_count(1500)
    a, b = pairs(rng, count)
    targets = rng.uniform(0, 1, (count, 1)).astype(np.float32)
    values, times = np.stack([a, b], axis=1), np.array([0.0, 1.0], np.float32)
    found = resample(values, times, targets, torch.float32, mode="slerp")[:, 0]
    worst = 0.0
    for row in range(count):
        for x, y in zip(found[row], exact_slerp(a[row], b[row], mpmath.mpf(float(targets[row, 0]))), strict=True):
            worst = max(worst, float(abs(x - y)) / float(np.spacing(np.float32(abs(y)))))
    assert worst <= 4, f"{worst} ulp"


def test_slerp_in_f64_is_near_exact(resample: Resample, rng: np.random.Generator) -> None:
    count = case_count(300)
    a, b = (q.astype(np.float64) for q in pairs(rng, count))
    targets = rng.uniform(0, 1, (count, 1))
    found = resample(np.stack([a, b], axis=1), np.array([0.0, 1.0]), targets, mode="slerp")[:, 0]
    for row in range(count):
        exact = exact_slerp(a[row], b[row], mpmath.mpf(targets[row, 0]))
        assert max(float(abs(x - y)) for x, y in zip(found[row], exact, strict=True)) < 1e-15


@both_types
def test_slerp_over_half_a_turn(resample: Resample, dtype: torch.dtype) -> None:
    weights = np.linspace(0, 1, 21)
    for axis in range(3):
        stop = np.eye(4)[axis]
        found = resample(np.stack([np.eye(4)[3], stop]), np.array([0.0, 1.0]), weights, dtype, mode="slerp")
        expected = np.zeros((21, 4))
        expected[:, 3], expected[:, axis] = np.cos(weights * np.pi / 2), np.sin(weights * np.pi / 2)
        np.testing.assert_allclose(found, expected, rtol=0, atol=2 * torch.finfo(dtype).eps)


@both_types
def test_slerp_of_equal_and_opposite_quaternions(
    resample: Resample, dtype: torch.dtype, rng: np.random.Generator
) -> None:
    q = Rotation.random(30, rng).as_quat()
    values = np.stack([q, q, -q, q, q, -q, -q], axis=1)
    targets = np.linspace(0, 6, 97)
    found = resample(values, np.arange(7.0), targets, dtype, mode="slerp")
    np.testing.assert_allclose(np.abs((found * q[:, None]).sum(-1)), 1.0, rtol=0, atol=4 * torch.finfo(dtype).eps)
    np.testing.assert_allclose(found, aligned(found, q[:, None]), rtol=0, atol=4 * torch.finfo(dtype).eps)


def test_slerp_at_epoch_nanoseconds(resample: Resample, rng: np.random.Generator) -> None:
    stamps = np.cumsum(rng.integers(1_000_000, 9_000_000, 50))
    targets = rng.integers(stamps[0], stamps[-1], 200)
    track = Rotation.random(50, rng)
    found = resample(track.as_quat(), EPOCH + stamps, EPOCH + targets, mode="slerp")
    expected = Slerp(stamps, track)(targets).as_quat()
    np.testing.assert_allclose(found, aligned(found, expected), rtol=0, atol=1e-14)


# Smooth curves


def signals(rng: np.random.Generator, samples: int) -> Array:
    """Channels with turns, flat parts, steps, ramps and outliers."""
    noise, steps = rng.standard_normal((samples, 3)), np.sign(rng.standard_normal((samples, 1)))
    ramp, wave = np.cumsum(rng.random((samples, 1)), axis=0), np.sin(np.arange(samples) / 3)[:, None]
    outliers = wave + 1e3 * (rng.random((samples, 1)) < 0.1)
    return np.concatenate(
        [noise, steps, ramp, wave, outliers, rng.integers(-1, 2, (samples, 1)), ramp * 0 + 2.5], axis=1
    )


@both_types
@pytest.mark.parametrize("samples", [2, 3, 4, 50])
def test_pchip_is_scipys(resample: Resample, samples: int, dtype: torch.dtype, rng: np.random.Generator) -> None:
    for _ in range(5):
        times, targets = clock(rng, samples, 300)
        values = signals(rng, samples)
        expected = scipy.interpolate.PchipInterpolator(times, values)(targets)
        found = resample(values, times, targets, dtype, mode="pchip")
        scale = np.abs(values).max(axis=0)
        assert (np.abs(found - expected) <= TOLERANCE[dtype] * scale).all()


def test_pchip_of_uneven_brackets_is_scipys(resample: Resample, rng: np.random.Generator) -> None:
    for _ in range(20):
        times = np.cumsum(10.0 ** rng.uniform(-4, 4, 30))
        targets = rng.uniform(times[:-1], times[1:])
        values = signals(rng, 30)
        expected = scipy.interpolate.PchipInterpolator(times, values)(targets)
        found = resample(values, times, targets, mode="pchip")
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-11 * np.abs(values).max())


def test_pchip_holds_past_the_ends_and_with_one_sample(resample: Resample, rng: np.random.Generator) -> None:
    values, targets = rng.standard_normal((5, 3)), np.array([-7.0, 99.0])
    found = resample(values, np.arange(5.0), targets, mode="pchip")
    np.testing.assert_array_equal(found, values[[0, -1]])
    np.testing.assert_array_equal(resample(values[:1], np.zeros(1), targets, mode="pchip"), values[[0, 0]])


def test_pchip_begins_anew_at_equal_times(resample: Resample, rng: np.random.Generator) -> None:
    for _ in range(10):
        times, values = np.cumsum(rng.random(24) + 0.1), signals(rng, 24)
        pieces = [0, 1, 3, 6, 7, 13, 24]  # of 1, 2, 3, 1, 6 and 11 samples; each starts when the one before ends
        for start in pieces[1:-1]:
            times[start:] += times[start - 1] - times[start]
            times[start] = times[start - 1]  # the sum may be rounded
        for start, stop in zip(pieces[:-1], pieces[1:], strict=True):
            if stop - start == 1:
                continue
            targets = rng.uniform(times[start], times[stop - 1], 50)
            expected = scipy.interpolate.PchipInterpolator(times[start:stop], values[start:stop])(targets)
            found = resample(values, times, targets, mode="pchip")
            np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-10)


def test_pchip_at_epoch_nanoseconds(resample: Resample, rng: np.random.Generator) -> None:
    stamps = np.cumsum(rng.integers(1_000_000, 9_000_000, 50))
    targets = rng.integers(stamps[0], stamps[-1], 300)
    values = signals(rng, 50)
    expected = scipy.interpolate.PchipInterpolator((stamps - stamps[0]) * 1e-9, values)((targets - stamps[0]) * 1e-9)
    found = resample(values, EPOCH + stamps, EPOCH + targets, mode="pchip")
    np.testing.assert_allclose(found, expected, rtol=1e-11, atol=1e-10)


# Angles


@both_types
def test_angle_is_a_line_through_unwrapped_angles(
    resample: Resample, dtype: torch.dtype, rng: np.random.Generator
) -> None:
    times, targets = clock(rng, 80, 500)
    turns = np.cumsum(rng.uniform(-3.1, 3.1, (80, 4)), axis=0)  # less than half a turn at a time
    wrapped = (turns + np.pi) % (2 * np.pi) - np.pi
    unwrapped = np.unwrap(wrapped, axis=0)
    expected = np.stack([np.interp(targets, times, unwrapped[:, channel]) for channel in range(4)], axis=1)
    for given in (wrapped, turns, wrapped + 2 * np.pi * rng.integers(-9, 9, wrapped.shape)):
        found = resample(given, times, targets, dtype, mode="angle")
        assert (found >= -np.pi - 1e-6).all() and (found < np.pi + 1e-6).all()
        error = (found - expected + np.pi) % (2 * np.pi) - np.pi
        assert np.abs(error).max() < {torch.float64: 1e-12, torch.float32: 5e-5}[dtype]


# Lines and copies


@both_types
@pytest.mark.parametrize("kind", ["linear", "previous", "next"])
def test_interp1d(resample: Resample, kind: str, dtype: torch.dtype, rng: np.random.Generator) -> None:
    times, targets = clock(rng, 60, 400)
    values = signals(rng, 60).astype(np.float32)
    expected = scipy.interpolate.interp1d(times, values.astype(np.float64), kind=kind, axis=0)(targets)
    found = resample(values, times, targets, dtype, mode=kind)
    np.testing.assert_allclose(found, expected, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype] * 1e3)


def test_groups_are_each_their_own_method(resample: Resample, rng: np.random.Generator) -> None:
    times, targets = clock(rng, 40, 200)
    track = Rotation.random(40, rng).as_quat()
    position, heading = signals(rng, 40)[:, :2], rng.uniform(-np.pi, np.pi, (40, 1))
    gripper = rng.integers(0, 2, (40, 1)).astype(float)
    pose = np.concatenate([position, track, heading, gripper, position], axis=1)
    found = resample(pose, times, targets, mode="linear:2,slerp:4,angle:1,previous:1,pchip:*")
    for channel in range(2):
        np.testing.assert_allclose(found[:, channel], np.interp(targets, times, position[:, channel]), atol=1e-12)
    turned = Slerp(times, Rotation.from_quat(track))(targets).as_quat()
    np.testing.assert_allclose(found[:, 2:6], aligned(found[:, 2:6], turned), rtol=0, atol=1e-14)
    line = np.interp(targets, times, np.unwrap(heading[:, 0]))
    np.testing.assert_allclose(np.exp(1j * found[:, 6]), np.exp(1j * line), rtol=0, atol=1e-12)
    held = scipy.interpolate.interp1d(times, gripper, kind="previous", axis=0)(targets)
    np.testing.assert_array_equal(found[:, 7:8], held)
    smooth = scipy.interpolate.PchipInterpolator(times, position)(targets)
    np.testing.assert_allclose(found[:, 8:], smooth, rtol=0, atol=1e-12)
