"""`voxelize` against the reference and a scalar definition in NumPy: values, gradients, order and error."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import robocache
import torch
import voxelize_definition as definition
from cases import FLOATS, LAYOUTS, assert_same_bits, case_count, lay_out, random_values
from torch import Tensor
from voxelize_adversarial import ADVERSARIAL, Cloud
from voxelize_cases import BLENDS, PLAIN, REDUCTIONS, VoxelCase, random_voxel_case, wave

F32, F64 = torch.float32, torch.float64
Answer = tuple[Tensor, "Tensor | None"]


def answer(call: Callable[..., Tensor], arguments: list[Any], options: dict[str, Any]) -> Answer:
    """The result, and the gradient to the features where there is one."""
    points, features, *grid = arguments
    if features is None or options["reduce"] in PLAIN:
        return call(points, features, *grid, **options), None
    leaf = features.detach().requires_grad_()
    result = call(points, leaf, *grid, **options)
    (grad,) = torch.autograd.grad(result, leaf, wave(result))
    return result.detach(), grad


def defined(arguments: list[Any], options: dict[str, Any]) -> Answer:
    """What the scalar definition says of the same, on the CPU."""
    points, features, *grid = arguments
    reduce, lengths = options["reduce"], options["lengths"]
    single = points.dim() == 2
    points = points[None] if single else points
    features = features[None] if single and features is not None else features
    valid = [points.shape[1]] * points.shape[0] if lengths is None else lengths.tolist()
    result = definition.dense(points, features, *grid, reduce=reduce, lengths=valid)
    grad = None
    if features is not None and reduce in BLENDS:
        rows = definition.voxels(points, *grid, valid)
        incoming = wave(result[0] if single else result).reshape(result.shape).movedim(1, -1)
        taken = [incoming[place] for place, _ in rows]
        picked = torch.stack(taken) if taken else incoming.new_zeros((0, features.shape[2]))
        grad = definition.gradient(picked, features, rows, reduce)
        grad = grad[0] if single else grad
    return result[0] if single else result, grad


def assert_same(found: Answer, expected: Answer, what: object) -> None:
    for name, a, b in zip(("result", "gradient"), found, expected, strict=True):
        assert_same_bits(a, b, f"{name} of {what}")


def everywhere(case: VoxelCase, device: torch.device) -> None:
    """Operator, reference and definition agree by bits."""
    tensors, options = case.arguments(device)
    found = answer(robocache.voxelize, tensors, options)
    assert found[0].is_contiguous() and found[0].device == tensors[0].device
    on_host = case.arguments()
    expected = answer(robocache.reference.voxelize, *on_host)
    assert_same(found, expected, case)
    assert_same(expected, defined(*on_host), f"the reference: {case}")


def test_random_cases_are_the_reference(device: torch.device, rng: np.random.Generator) -> None:
    for _ in range(case_count(300)):
        case = random_voxel_case(rng)
        found = answer(robocache.voxelize, *case.arguments(device))
        assert_same(found, answer(robocache.reference.voxelize, *case.arguments()), case)


def test_random_cases_are_the_definition(device: torch.device, rng: np.random.Generator) -> None:
    for _ in range(case_count(100)):
        everywhere(random_voxel_case(rng, most=60), device)


@pytest.mark.gpu
def test_the_reference_is_the_same_on_cuda(rng: np.random.Generator) -> None:
    for _ in range(case_count(60)):
        case = random_voxel_case(rng)
        found = answer(robocache.reference.voxelize, *case.arguments("cuda"))
        assert_same(found, answer(robocache.reference.voxelize, *case.arguments()), case)


@pytest.mark.parametrize("reduce", REDUCTIONS)
@pytest.mark.parametrize("cloud", ADVERSARIAL.values(), ids=ADVERSARIAL)
def test_adversarial_clouds(device: torch.device, cloud: Callable[[], Cloud], reduce: str) -> None:
    points, features, grid, lengths = cloud()
    everywhere(VoxelCase(points, features, *grid, reduce, lengths), device)


@pytest.mark.parametrize("feature_type", FLOATS, ids=str)
@pytest.mark.parametrize("point_type", FLOATS, ids=str)
def test_every_type(
    device: torch.device, point_type: torch.dtype, feature_type: torch.dtype, rng: np.random.Generator
) -> None:
    points = torch.from_numpy(rng.random((2, 40, 3)) * 4 - 1.5).to(point_type)
    features = random_values(rng, [2, 40, 3], feature_type, special=False)
    for reduce in REDUCTIONS:
        everywhere(VoxelCase(points, features, [-1.0, -1.0, 0.0], [0.7, 1.1, 0.3], [3, 2, 5], reduce), device)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout(device: torch.device, layout: str, rng: np.random.Generator) -> None:
    points = torch.from_numpy(rng.random((3, 30, 3))).to(F32)
    features = random_values(rng, [3, 30, 5], F32, special=False)
    grid = ([0.0] * 3, [0.4], [3, 3, 3])
    for reduce in REDUCTIONS:
        whole = robocache.voxelize(*(lay_out(x, layout).to(device) for x in (points, features)), *grid, reduce=reduce)
        case = VoxelCase(points, features, *grid, reduce, layouts=[layout, layout])
        everywhere(case, device)
        assert_same_bits(robocache.voxelize(*case.arguments(device)[0], reduce=reduce), whole)


def test_lengths_of_either_type_and_any_stride(device: torch.device, rng: np.random.Generator) -> None:
    points = torch.from_numpy(rng.random((4, 9, 3))).to(F32).to(device)
    numbers = torch.tensor([[0, 7], [9, 7], [4, 7], [1, 7]], device=device)
    grid = ([0.0] * 3, [0.5], [2, 2, 2])
    counts = [
        robocache.voxelize(points, None, *grid, reduce="count", lengths=x[:, 0]) for x in (numbers, numbers.int())
    ]
    assert_same_bits(*counts)
    assert counts[0].sum(dim=(1, 2, 3)).tolist() == [0, 9, 4, 1]


def test_what_lies_past_a_length_is_not_read(device: torch.device) -> None:
    points, features = torch.full((1, 4, 3), 0.5, device=device), torch.ones(1, 4, 1, device=device)
    features[0, 2:] = math.nan
    lengths = torch.tensor([2], device=device)
    for reduce, expected in (("sum", 2.0), ("mean", 1.0), ("max", 1.0), ("min", 1.0)):
        found = robocache.voxelize(points, features, [0] * 3, [1], [1, 1, 1], reduce=reduce, lengths=lengths)
        assert found.item() == expected


# What the issue of other libraries is: axes swapped, negative coordinates cut towards zero, NaN counted in voxel 0.


def test_occupancy_of_many_points_is_where_some_are_counted(device: torch.device, rng: np.random.Generator) -> None:
    """Enough points that threads mark the cells in bits of their own."""
    points = torch.from_numpy(rng.random((2, 150_000, 3)) * 1.2 - 0.1).to(torch.float32).to(device)
    lengths = torch.tensor([150_000, 70_001], device=device)
    for grid in ([100, 90, 80], [7, 5, 3], [1, 1, 1]):
        box = ([0.0] * 3, [1 / n for n in grid], grid)
        count = robocache.voxelize(points, None, *box, reduce="count", lengths=lengths)
        assert int(count.sum()) < 220_001
        assert torch.equal(robocache.voxelize(points, None, *box, lengths=lengths), count > 0)


def test_axes_are_x_y_z(device: torch.device) -> None:
    points = torch.tensor([[0.5, 1.5, 2.5]], device=device)
    grid = robocache.voxelize(points, None, [0, 0, 0], [1], [2, 3, 4])
    assert grid.dtype == torch.bool and grid.nonzero().tolist() == [[0, 1, 2]]
    values = robocache.voxelize(
        points, torch.tensor([[3.0, 4.0]], device=device), [0] * 3, [1], [2, 3, 4], reduce="max"
    )
    assert values.shape == (2, 2, 3, 4) and values[:, 0, 1, 2].tolist() == [3.0, 4.0] and values.sum().item() == 7


def test_negative_coordinates_are_rounded_down(device: torch.device) -> None:
    points = torch.tensor([[-0.5, -1.5, -1e-30], [0.5, 0.5, 0.5]], device=device)
    grid = robocache.voxelize(points, None, [-2, -2, -2], [1], [4, 4, 4])
    # -1e-30 + 2 is 2 in float32, so it lies on the face of the voxel above.
    assert grid.nonzero().tolist() == [[1, 0, 2], [2, 2, 2]]
    assert robocache.voxelize(points[:1], None, [0, 0, 0], [1], [4, 4, 4]).sum() == 0


def test_a_quotient_that_underflows_lies_in_the_first_voxel(device: torch.device) -> None:
    points = torch.tensor([[-1e-38, 0.0, -0.0], [-1e-30, 0.0, 0.0]], device=device)
    assert robocache.voxelize(points, None, [0] * 3, [1e30], [1, 1, 1], reduce="count").item() == 2
    assert robocache.voxelize(points, None, [0] * 3, [1.0], [1, 1, 1], reduce="count").item() == 0


def test_integers_that_float32_cannot_count(device: torch.device) -> None:
    last = 2.0**24  # the next float32 is two more
    points = torch.tensor([[last, 0.0, 0.0], [last + 2, 0.0, 0.0], [last - 1, 0.0, 0.0]], device=device)
    grid = robocache.voxelize(points, None, [0] * 3, [1.0], [2**24 + 1, 1, 1])
    assert grid.sum() == 2 and grid[-2:].all()


# Sums


def test_no_order_of_the_points_matters(device: torch.device, rng: np.random.Generator) -> None:
    for dtype in FLOATS:
        points = torch.from_numpy(rng.random((2, 300, 3))).to(F32)
        features = random_values(rng, [2, 300, 3], dtype, special=True)
        for reduce in REDUCTIONS:
            results = []
            for _ in range(5):
                order = torch.from_numpy(rng.permutation(300))
                tensors = [x[:, order].to(device) for x in (points, features)]
                results.append(robocache.voxelize(*tensors, [0.0] * 3, [0.5], [2, 2, 2], reduce=reduce))
            for other in results[1:]:
                assert_same_bits(other, results[0], f"{dtype} {reduce}")


@pytest.mark.parametrize("scale", ["even", "wide", "cancelling"])
@pytest.mark.parametrize("reduce", ["sum", "mean"])
def test_the_error_is_no_worse_than_that_of_a_sum_in_order(
    device: torch.device, reduce: str, scale: str, rng: np.random.Generator
) -> None:
    points, features = np.zeros((1, 5000, 3), np.float32), rng.standard_normal((1, 5000, 8))
    if scale == "wide":
        features *= 10.0 ** rng.uniform(-6, 6, features.shape)
    if scale == "cancelling":
        features[:, 2500:] = -features[:, :2500] + 1e-4 * rng.standard_normal((1, 2500, 8))
    numbers = features.astype(np.float32)
    found = robocache.voxelize(
        torch.from_numpy(points).to(device), torch.from_numpy(numbers).to(device), [0] * 3, [1], [1] * 3, reduce=reduce
    )
    for channel, value in enumerate(found.flatten().tolist()):
        exact = math.fsum(numbers[0, :, channel].tolist())
        in_order = np.float32(0)
        for number in numbers[0, :, channel]:
            in_order += number
        if reduce == "mean":
            exact, in_order = exact / 5000, in_order / np.float32(5000)
        assert abs(value - exact) <= abs(float(in_order) - exact)
        assert abs(value - exact) <= np.spacing(np.float32(abs(exact)))


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_large_numbers_that_cancel_leave_the_small_one(device: torch.device, dtype: torch.dtype) -> None:
    large = float(torch.finfo(dtype).max)
    small = float(torch.finfo(dtype).smallest_normal)
    numbers = torch.tensor([large, small, large, -large, -large, 0.0], dtype=dtype, device=device)
    points = torch.zeros(6, 3, device=device)
    for order in (range(6), [3, 0, 1, 4, 2, 5], [0, 2, 1, 3, 4, 5]):
        found = robocache.voxelize(points, numbers[list(order), None], [0] * 3, [1], [1] * 3, reduce="sum")
        assert found.item() == small
    both = robocache.voxelize(points[:2], numbers[[0, 2], None], [0] * 3, [1], [1] * 3, reduce="mean")
    assert both.item() == large, "the sum is past the type, the mean is not"
    both = robocache.voxelize(points[:2], numbers[[0, 2], None], [0] * 3, [1], [1] * 3, reduce="sum")
    assert both.item() == math.inf


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_specials_of_one_voxel(device: torch.device, dtype: torch.dtype) -> None:
    nan, inf = math.nan, math.inf
    table: list[tuple[list[float], dict[str, float]]] = [
        ([-0.0, -0.0], {"sum": 0.0, "mean": 0.0, "max": -0.0, "min": -0.0}),
        ([-0.0, 0.0], {"sum": 0.0, "mean": 0.0, "max": 0.0, "min": -0.0}),
        ([1.0, -1.0], {"sum": 0.0, "mean": 0.0, "max": 1.0, "min": -1.0}),
        ([-3.0, -1.0, -2.0], {"sum": -6.0, "mean": -2.0, "max": -1.0, "min": -3.0}),
        ([1.0, nan, 5.0], {"sum": nan, "mean": nan, "max": nan, "min": nan}),
        ([inf, 1.0], {"sum": inf, "mean": inf, "max": inf, "min": 1.0}),
        ([-inf, 1.0], {"sum": -inf, "mean": -inf, "max": 1.0, "min": -inf}),
        ([-inf, inf], {"sum": nan, "mean": nan, "max": inf, "min": -inf}),
    ]
    for numbers, wanted in table:
        features = torch.tensor(numbers, dtype=dtype, device=device).unsqueeze(1)
        for reduce, value in wanted.items():
            points = torch.zeros(len(numbers), 3, device=device)
            found = robocache.voxelize(points, features, [0] * 3, [1], [1] * 3, reduce=reduce).flatten()
            assert_same_bits(found, torch.tensor([value], dtype=dtype), f"{reduce} of {numbers}")


# Wrong calls that the table of cases cannot say


def test_clouds_past_the_count_are_refused() -> None:
    points = torch.zeros(1, 3).expand(2**31, 3)
    text = "points must have at most 2147483647 points a cloud, got 2147483648"
    for name in ("voxelize", "voxelize_sparse"):
        for call in (getattr(robocache, name), getattr(robocache.reference, name)):
            with pytest.raises(ValueError, match=f"^{name}: {text}$"):
                call(points, None, [0] * 3, [1], [1] * 3, reduce="count")
            with pytest.raises(ValueError, match=f"^{name}: {text}$"):
                call(points.to("meta"), None, [0] * 3, [1], [1] * 3, reduce="count")


def test_lengths_are_checked_on_request(device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    points, lengths = torch.zeros(2, 3, 3, device=device), torch.tensor([-4, 5], device=device)
    calls = [robocache.voxelize, robocache.voxelize_sparse]
    calls += [robocache.reference.voxelize, robocache.reference.voxelize_sparse]
    if device.type == "cuda":
        counts = [call(points, None, [0] * 3, [1], [1] * 3, reduce="count", lengths=lengths) for call in calls]
        assert counts[0].flatten().tolist() == counts[2].flatten().tolist() == [0, 3]
        assert counts[1][2].tolist() == counts[3][2].tolist() == [3]
    monkeypatch.setenv("ROBOCACHE_CHECK", "1")
    for call in calls:
        with pytest.raises(ValueError, match=r"lengths must be in \[0, 3\], got -4 in row 0"):
            call(points, None, [0] * 3, [1], [1] * 3, reduce="count", lengths=lengths)


@pytest.mark.parametrize("reduce", BLENDS)
def test_gradcheck_of_the_reference(reduce: str) -> None:
    points = torch.rand(2, 12, 3, dtype=F64) * 1.4 - 0.2
    features = (torch.randperm(48).view(2, 12, 2).to(F64) / 7).requires_grad_()

    def call(values: Tensor) -> Tensor:
        return robocache.reference.voxelize(points, values, [0] * 3, [0.5], [2, 2, 2], reduce=reduce)

    assert torch.autograd.gradcheck(call, (features,))
    assert torch.autograd.gradgradcheck(call, (features,))
