"""Gradients of `voxelize` and `voxelize_sparse`: finite differences, their definition and the reference, by bits."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import robocache
import torch
from cases import FLOATS, assert_same_bits, case_count
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck
from voxelize_cases import (
    BLENDS,
    CUBE,
    PLAIN,
    VoxelCase,
    cloud,
    dense_answers,
    expected_gradient,
    random_voxel_case,
    wave,
)

F64 = torch.float64
OPERATORS = torch.ops.robocache


@pytest.fixture(autouse=True)
def loaded() -> None:
    """The operators are there only once the library is."""
    assert robocache.resample is not None


def check(call: Callable[..., Any], *inputs: Tensor) -> None:
    assert gradcheck(call, inputs, nondet_tol=0.0)
    assert gradgradcheck(call, inputs, nondet_tol=0.0)


def small(device: torch.device, batched: bool = True) -> tuple[Tensor, Tensor]:
    """Few points, so that some voxels have several, most none; features far from each other, for max and min."""
    points, _ = cloud(device, 2, 9, point_type=F64)
    points[:, 3:5] = points[:, :1]
    features = torch.randperm(2 * 9 * 2, device=device).view(2, 9, 2).to(F64) - 17.5
    if not batched:
        points, features = points[0], features[0]
    return points, features.requires_grad_()


@pytest.mark.parametrize("ragged", [False, True], ids=["whole", "ragged"])
@pytest.mark.parametrize("batched", [True, False], ids=["batched", "unbatched"])
@pytest.mark.parametrize("reduce", BLENDS)
def test_gradcheck(device: torch.device, reduce: str, batched: bool, ragged: bool) -> None:
    points, features = small(device, batched)
    lengths = torch.tensor([7, 4] if batched else [6], device=device) if ragged else None
    grid = ([0.0] * 3, [0.5], [2, 2, 2])
    check(lambda f: OPERATORS.voxelize(points, f, *grid, reduce=reduce, lengths=lengths), features)
    for capacity in (-1, 3, 12):
        options = {"reduce": reduce, "lengths": lengths, "capacity": capacity}
        check(lambda f, more=options: OPERATORS.voxelize_sparse(points, f, *grid, **more)[1], features)


@pytest.mark.parametrize("reduce", BLENDS)
def test_gradcheck_strided(device: torch.device, reduce: str) -> None:
    points, features = small(device)
    base = features.detach().transpose(0, 2).contiguous().requires_grad_()
    turned = points.transpose(0, 1).contiguous().transpose(0, 1)

    def dense(base: Tensor) -> Tensor:
        return OPERATORS.voxelize(turned, base.transpose(0, 2), *CUBE, reduce=reduce).permute(4, 2, 0, 3, 1)

    def sparse(base: Tensor) -> Tensor:
        return OPERATORS.voxelize_sparse(turned, base.transpose(0, 2), *CUBE, reduce=reduce)[1].T

    check(dense, base)
    check(sparse, base)


@pytest.mark.parametrize("reduce", BLENDS)
def test_third_derivatives(device: torch.device, reduce: str) -> None:
    """Any order exists: each operator of the chain has a derivative, which is one of the chain."""
    points, features = small(device)

    def first(f: Tensor, g: Tensor) -> Tensor:
        result = OPERATORS.voxelize(points, f, *CUBE, reduce=reduce)
        return torch.autograd.grad(result, f, g, create_graph=True)[0]

    def first_sparse(f: Tensor, g: Tensor) -> Tensor:
        values = OPERATORS.voxelize_sparse(points, f, *CUBE, reduce=reduce)[1]
        return torch.autograd.grad(values, f, g, create_graph=True)[0]

    for call, shape in ((first, (2, 2, 4, 5, 2)), (first_sparse, None)):
        if shape is None:
            shape = OPERATORS.voxelize_sparse(points, features, *CUBE, reduce=reduce)[1].shape
        grad = torch.randn(shape, dtype=F64, device=device, requires_grad=True)
        check(lambda g, call=call: call(features, g), grad)
        # Three times along one line: g -> backward -> tangent -> backward -> tangent.
        one = call(features, grad)
        (two,) = torch.autograd.grad(one, grad, h := torch.randn_like(one).requires_grad_(), create_graph=True)
        (three,) = torch.autograd.grad(two, h, k := torch.randn_like(two).requires_grad_(), create_graph=True)
        (four,) = torch.autograd.grad(three, k, h.detach())
        assert_same_bits(four, two)


@pytest.mark.parametrize("reduce", BLENDS)
def test_gradients_are_their_definition(device: torch.device, rng: np.random.Generator, reduce: str) -> None:
    for _ in range(case_count(60)):
        case = random_voxel_case(rng, reductions=[reduce], most=60)
        result, found, _ = dense_answers(case, device)
        assert result is not None and found is not None
        assert_same_bits(found, expected_gradient(case, wave(result.cpu())), case)


def test_counted_means_have_the_gradients_of_means(device: torch.device, rng: np.random.Generator) -> None:
    for _ in range(case_count(60)):
        case = random_voxel_case(rng, reductions=["mean"], most=60)
        (points, features, *grid), options = case.arguments(device)
        if points.dim() != 3:
            continue
        del options["reduce"]
        leaf = features.detach().clone().requires_grad_()
        means, counts, point_voxel = OPERATORS.voxelize_counted(points, leaf, *grid, **options)
        assert not counts.requires_grad and not point_voxel.requires_grad
        assert_same_bits(counts, OPERATORS.voxelize(points, None, *grid, reduce="count", **options), case)
        for voxels, each in zip(point_voxel, counts.flatten(1), strict=True):
            assert_same_bits(torch.bincount(voxels[voxels >= 0], minlength=each.numel()).int(), each, case)
        result, found, _ = dense_answers(case, device)
        assert_same_bits(means, result, case)
        means.backward(wave(means))
        assert_same_bits(leaf.grad, found, case)
        # And where nobody has counted.
        again = OPERATORS.voxelize_backward(wave(means), points, None, *grid, reduce="mean", **options)
        assert_same_bits(again, found, case)
    points, features = small(device)
    _, counts, point_voxel = OPERATORS.voxelize_counted(points, features.detach(), *CUBE)
    check(lambda f: OPERATORS.voxelize_counted(points, f, *CUBE)[0], features)
    grad = torch.randn(2, 2, 4, 5, 2, dtype=F64, device=device, requires_grad=True)
    check(
        lambda g: OPERATORS.voxelize_backward(
            g, points, None, *CUBE, reduce="mean", counts=counts, point_voxel=point_voxel
        ),
        grad,
    )


def recorded_mean(points: Tensor, features: Tensor) -> Tensor:
    """In a grid that the GPU's cache holds; TorchScript compiles it, too."""
    return torch.ops.robocache.voxelize(points, features, [0.0, 0.0, 0.0], [0.125], [8, 8, 8], reduce="mean")


@pytest.mark.parametrize("channels", [1, 5, 64])
@pytest.mark.parametrize("count", [513, 5000, 60_000])
def test_means_that_keep_what_they_find(device: torch.device, count: int, channels: int) -> None:
    """So many points that a mean recorded on CUDA keeps what its gradient needs: every way has the same bits."""
    torch._dynamo.reset()  # each case is a graph of its own
    points = torch.rand(2, count, 3, device=device) * 1.1 - 0.05
    features = torch.randn(2, count, channels, device=device)
    result = recorded_mean(points, features)
    grad, direction = wave(result), torch.randn_like(features)
    wanted = OPERATORS.voxelize_backward(grad, points, None, [0.0] * 3, [0.125], [8] * 3, reduce="mean")
    steps = {
        "eager": recorded_mean,
        "script": torch.jit.script(recorded_mean),
        "compile": torch.compile(recorded_mean, backend="aot_eager", fullgraph=True, dynamic=False),
    }
    for name, step in steps.items():
        leaf, upper = features.clone().requires_grad_(), grad.clone().requires_grad_()
        found = step(points, leaf)
        assert_same_bits(found, result, name)
        twice = name != "compile"  # AOTAutograd has no second derivatives
        (first,) = torch.autograd.grad(found, leaf, upper, create_graph=twice)
        assert_same_bits(first, wanted, name)
        if twice:
            (second,) = torch.autograd.grad(first, upper, direction)
            assert_same_bits(second, recorded_mean(points, direction), name)


def test_what_was_counted_is_checked(device: torch.device) -> None:
    points, features = small(device)
    means, counts, point_voxel = OPERATORS.voxelize_counted(points, features.detach(), *CUBE)
    given = {"counts": counts, "point_voxel": point_voxel}
    shape = list(point_voxel.shape)
    for wrong, kind, text in [
        ({"point_voxel": None}, ValueError, "counts and point_voxel must be given together, got only counts"),
        ({"counts": None}, ValueError, "counts and point_voxel must be given together, got only point_voxel"),
        ({"counts": counts.long()}, TypeError, "counts must be int32, got int64"),
        ({"point_voxel": point_voxel.float()}, TypeError, "point_voxel must be int32, got float32"),
        ({"point_voxel": point_voxel[:, 1:]}, ValueError, f"point_voxel must have shape {shape}"),
        ({"reduce": "sum"}, ValueError, 'counts must be none where reduce is not "mean", got some for "sum"'),
    ]:
        with pytest.raises(kind, match=re.escape(f"voxelize_backward: {text}")):
            OPERATORS.voxelize_backward(means, points, None, *CUBE, **{**given, **wrong})


@pytest.mark.parametrize("reduce", BLENDS)
def test_gradients_are_the_references(device: torch.device, rng: np.random.Generator, reduce: str) -> None:
    for _ in range(case_count(25)):
        case = random_voxel_case(rng, reductions=[reduce], most=33)
        (points, features, *grid), options = case.arguments()
        leaf = features.detach().clone().requires_grad_()
        result = robocache.reference.voxelize(points, leaf, *grid, **options)
        result.backward(wave(result))
        found = dense_answers(case, device)
        assert_same_bits(found[0], result, case)
        assert_same_bits(found[1], torch.zeros_like(features) if leaf.grad is None else leaf.grad, case)
        other = features.detach().clone().requires_grad_()
        rows = robocache.reference.voxelize_sparse(points, other, *grid, capacity=case.capacity, **options)
        if rows[1].requires_grad:
            rows[1].backward(wave(rows[1]))
        own, options = case.arguments(device)
        leaf = own[1].detach().clone().requires_grad_()
        sparse = OPERATORS.voxelize_sparse(own[0], leaf, *own[2:], capacity=case.capacity, **options)
        sparse[1].backward(wave(sparse[1]))
        for a, b in zip(sparse, rows, strict=True):
            assert_same_bits(a, b, case)
        assert_same_bits(leaf.grad, torch.zeros_like(features) if other.grad is None else other.grad, case)


@pytest.mark.parametrize("reduce", BLENDS)
def test_sparse_gradients_are_the_dense_ones(device: torch.device, rng: np.random.Generator, reduce: str) -> None:
    for _ in range(case_count(60)):
        case = random_voxel_case(rng, reductions=[reduce])
        (points, features, *grid), options = case.arguments(device)
        leaf, other = (features.detach().clone().requires_grad_() for _ in range(2))
        dense = OPERATORS.voxelize(points, leaf, *grid, **options)
        grad = wave(dense)
        dense.backward(grad)
        coords, values, *_ = OPERATORS.voxelize_sparse(points, other, *grid, **options)
        clouds = (dense, grad) if points.dim() == 3 else (dense[None], grad[None])
        place = [axis.long() for axis in coords.unbind(1)]
        assert_same_bits(values, clouds[0].detach()[place[0], :, place[1], place[2], place[3]], case)
        values.backward(clouds[1][place[0], :, place[1], place[2], place[3]])
        assert_same_bits(other.grad, leaf.grad, case)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("reduce", ["max", "min"])
def test_the_first_holder_gets_it_all(device: torch.device, reduce: str, dtype: torch.dtype) -> None:
    nan, inf, sign = math.nan, math.inf, 1.0 if reduce == "max" else -1.0
    rows: list[tuple[list[float], list[float]]] = [
        ([1.0, 3.0, 3.0, 2.0], [0, 1, 0, 0]),
        ([-2.0, -1.0, -3.0, -1.0], [0, 1, 0, 0]),
        ([-0.0, 0.0, -0.0, 0.0], [0, 1, 0, 0]),
        ([-0.0, -0.0, -5.0, -0.0], [1, 0, 0, 0]),
        ([inf, nan, nan, inf], [0, 1, 0, 0]),
        ([-inf, -inf, -inf, -inf], [1, 0, 0, 0]),
        ([1.0, inf, 2.0, inf], [0, 1, 0, 0]),
    ]
    points = torch.full((1, 4, 3), 0.5, device=device)
    for values, wanted in rows:
        features = (torch.tensor(values, device=device) * sign).to(dtype).view(1, 4, 1)
        for sparse in (False, True):
            leaf = features.clone().requires_grad_()
            if sparse:
                OPERATORS.voxelize_sparse(points, leaf, *CUBE, reduce=reduce)[1].sum().backward()
            else:
                OPERATORS.voxelize(points, leaf, *CUBE, reduce=reduce).sum().backward()
            assert leaf.grad is not None and leaf.grad.flatten().tolist() == wanted, (values, sparse)


def test_a_mean_divides_the_gradient_once(device: torch.device) -> None:
    for dtype in FLOATS:
        for count in (3, 7, 49, 1000, 4097):
            points = torch.zeros(1, count, 3, device=device)
            features = torch.zeros(1, count, 1, dtype=dtype, device=device, requires_grad=True)
            OPERATORS.voxelize(points, features, *CUBE, reduce="mean").sum().backward()
            expected = (torch.ones((), dtype=F64) / count).to(dtype)
            assert features.grad is not None and bool((features.grad.cpu() == expected).all()), (dtype, count)


def test_what_is_dropped_gets_nothing(device: torch.device) -> None:
    points = torch.tensor([[0.1] * 3, [5.0] * 3, [math.nan, 0.1, 0.1], [0.1, math.inf, 0.1], [0.9] * 3, [0.1] * 3])
    points = points.unsqueeze(0).to(device)
    lengths = torch.tensor([5], device=device)
    for reduce in BLENDS:
        for capacity in (-1, 1):
            features = torch.full((1, 6, 2), math.nan, device=device)
            features[0, [0, 4]] = 1.0
            leaf, other = features.clone().requires_grad_(), features.clone().requires_grad_()
            OPERATORS.voxelize(points, leaf, *CUBE, reduce=reduce, lengths=lengths).sum().backward()
            options = {"reduce": reduce, "lengths": lengths, "capacity": capacity}
            _, values, _, point_voxel, _ = OPERATORS.voxelize_sparse(points, other, *CUBE, **options)
            assert point_voxel[0].tolist() == [0, -1, -1, -1, 1 if capacity < 0 else -1, -1]
            values.sum().backward()
            assert leaf.grad is not None and leaf.grad[0, :, 0].tolist() == [1.0, 0, 0, 0, 1.0, 0]
            assert other.grad is not None and other.grad[0, :, 1].tolist() == [1.0, 0, 0, 0, float(capacity < 0), 0]


def test_points_get_no_gradient(device: torch.device) -> None:
    points, features = cloud(device)
    points.requires_grad_()
    for reduce in PLAIN:
        assert not OPERATORS.voxelize(points, features.requires_grad_(), *CUBE, reduce=reduce).requires_grad
    assert not OPERATORS.voxelize(points, features.detach(), *CUBE, reduce="sum").requires_grad
    OPERATORS.voxelize(points, features, *CUBE, reduce="sum").sum().backward()
    coords, values, counts, point_voxel, num_voxels = OPERATORS.voxelize_sparse(points, features, *CUBE)
    assert not any(x.requires_grad for x in (coords, counts, point_voxel, num_voxels))
    values.sum().backward()
    assert points.grad is None
    with torch.no_grad():
        assert not OPERATORS.voxelize(points, features, *CUBE, reduce="sum").requires_grad


@pytest.mark.parametrize("reduce", ["sum", "mean"])
def test_the_gradient_of_a_sum_does_not_keep_the_features(device: torch.device, reduce: str) -> None:
    points, features = cloud(device, channels=5)
    features.requires_grad_()
    for result in (
        OPERATORS.voxelize(points, features * 1.0, *CUBE, reduce=reduce),
        OPERATORS.voxelize_sparse(points, features * 1.0, *CUBE, reduce=reduce)[1],
    ):
        saved = [getattr(result.grad_fn, name) for name in dir(result.grad_fn) if name.startswith("_saved")]
        saved += list(getattr(result.grad_fn, "saved_tensors", []))
        assert all(x.shape != features.shape for x in saved if isinstance(x, Tensor))


@pytest.mark.parametrize("reduce", BLENDS)
def test_expanded_gradients(device: torch.device, reduce: str) -> None:
    points, features = cloud(device)
    leaf, other = (features.clone().requires_grad_() for _ in range(2))
    for call in (
        lambda f: OPERATORS.voxelize(points, f, *CUBE, reduce=reduce),
        lambda f: OPERATORS.voxelize_sparse(points, f, *CUBE, reduce=reduce)[1],
    ):
        leaf.grad = other.grad = None
        call(leaf).sum().backward()
        result = call(other)
        result.backward(torch.ones_like(result))
        assert_same_bits(leaf.grad, other.grad)


@pytest.mark.parametrize("reduce", BLENDS)
@pytest.mark.parametrize("shape", [(0, 5, 2), (2, 0, 2), (2, 5, 0)], ids=["clouds", "points", "channels"])
def test_empty(device: torch.device, shape: tuple[int, int, int], reduce: str) -> None:
    points = torch.rand(*shape[:2], 3, device=device)
    features = torch.randn(shape, device=device, requires_grad=True)
    dense = OPERATORS.voxelize(points, features, *CUBE, reduce=reduce)
    assert dense.shape == (shape[0], shape[2], 4, 5, 2) and (dense.numel() == 0 or not dense.any())
    for capacity in (-1, 0, 4):
        rows = OPERATORS.voxelize_sparse(points, features, *CUBE, reduce=reduce, capacity=capacity)
        features.grad = None
        (dense.sum() + rows[1].sum()).backward(retain_graph=True)
        assert features.grad is not None and features.grad.shape == shape


def test_no_voxel_at_all(device: torch.device) -> None:
    points, features = torch.full((2, 6, 3), 9.0, device=device), torch.ones(2, 6, 2, device=device).requires_grad_()
    case = VoxelCase(points, features, *CUBE)
    coords, values, counts, point_voxel, num_voxels = OPERATORS.voxelize_sparse(points, features, *CUBE)
    assert list(coords.shape) == [0, 4] and list(values.shape) == [0, 2] and counts.numel() == 0, case
    assert num_voxels.tolist() == [0] and bool((point_voxel == -1).all())
    (values.sum() + OPERATORS.voxelize(points, features, *CUBE, reduce="max").sum()).backward()
    assert features.grad is not None and not features.grad.any()
