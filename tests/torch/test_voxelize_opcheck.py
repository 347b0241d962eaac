"""`torch.library.opcheck` of `voxelize`, `voxelize_sparse` and their private operators, with all four of its tests."""

from __future__ import annotations

from typing import Any

import pytest
import robocache
import torch
from cases import FLOATS, lay_out
from torch import Tensor
from torch.library import opcheck
from torch.testing._internal.optests import aot_autograd_check
from voxelize_cases import BLENDS, CUBE, PLAIN, REDUCTIONS, cloud

LAYOUTS = ["contiguous", "expanded", "transposed", "empty"]
TYPES = [(dtype, wanted) for dtype in FLOATS for wanted in (False, True)]
# With a gradient, opcheck also looks at what it does without; so without one alone, one layout is enough.
CASES = [(types, layout) for types in TYPES for layout in (LAYOUTS if types[1] else LAYOUTS[:1])]
OPERATORS = torch.ops.robocache


@pytest.fixture(autouse=True)
def loaded() -> None:
    """The operators are there only once the library is."""
    assert robocache.resample is not None


def name(types: tuple[torch.dtype, bool] | str) -> str:
    if isinstance(types, str):
        return types
    return str(types[0]).removeprefix("torch.") + ("-grad" if types[1] else "")


def turn(types: tuple[torch.dtype, bool], layout: str) -> str:
    """A reduction: each meets each layout and each type, but not every pair of them, as opcheck takes a while."""
    return BLENDS[(LAYOUTS.index(layout) + TYPES.index(types) // 2) % 4]


def inputs(device: torch.device, types: tuple[torch.dtype, bool], layout: str) -> list[Tensor]:
    """Points, then features and a tangent, in a layout."""
    # Points of another type than the features, as that is allowed.
    other = FLOATS[(FLOATS.index(types[0]) + 1) % len(FLOATS)]
    points, features = cloud("cpu", 2, 12, dtype=types[0], point_type=other)
    made = [points, features, torch.randn(features.shape).to(types[0])]
    if layout == "empty":
        made = [x[:0] for x in made]
    placed = [lay_out(x.to(device), "contiguous" if layout == "empty" else layout) for x in made]
    return [placed[0], *(x.detach().requires_grad_(types[1]) for x in placed[1:])]


def rows(points: Tensor, capacity: int = -1) -> list[Tensor]:
    """Coords, counts, order, starts and point_voxel, as the operators over rows take them."""
    coords, counts, point_voxel, _, order, starts = OPERATORS.voxelize_sparse_rows(points, *CUBE, capacity=capacity)
    return [coords, counts, order, starts, point_voxel]


@pytest.mark.parametrize(("types", "layout"), CASES, ids=name)
def test_voxelize(device: torch.device, types: tuple[torch.dtype, bool], layout: str) -> None:
    points, features, _ = inputs(device, types, layout)
    opcheck(OPERATORS.voxelize.default, (points, features, *CUBE), {"reduce": turn(types, layout)})


@pytest.mark.parametrize("reduce", REDUCTIONS)
def test_voxelize_by_options(device: torch.device, reduce: str) -> None:
    points, features, _ = inputs(device, (torch.float32, reduce in BLENDS), "contiguous")
    for length in (torch.int32, torch.int64):
        options = {"reduce": reduce, "lengths": torch.tensor([12, 5], dtype=length, device=device)}
        opcheck(OPERATORS.voxelize.default, (points, features, *CUBE), options)
    one = features[0].detach().requires_grad_(features.requires_grad)
    opcheck(OPERATORS.voxelize.default, (points[0], one, *CUBE), {"reduce": reduce})
    if reduce in PLAIN:
        opcheck(OPERATORS.voxelize.default, (points, None, *CUBE), {"reduce": reduce})
        opcheck(OPERATORS.voxelize.default, (points[0], None, [0.0] * 3, [0.3], [4, 4, 4]), {"reduce": reduce})


@pytest.mark.parametrize(("types", "layout"), CASES, ids=name)
def test_voxelize_tangent(device: torch.device, types: tuple[torch.dtype, bool], layout: str) -> None:
    points, features, tangent = inputs(device, types, layout)
    arguments = (tangent, points, features.detach(), *CUBE)
    opcheck(OPERATORS.voxelize_tangent.default, arguments, {"reduce": turn(types, layout)})


@pytest.mark.parametrize(("types", "layout"), CASES, ids=name)
def test_voxelize_backward(device: torch.device, types: tuple[torch.dtype, bool], layout: str) -> None:
    points, features, _ = inputs(device, types, layout)
    size = (points.shape[0], 3, 4, 5, 2)
    grad = torch.randn(size, device=device).to(types[0])
    if layout not in ("empty", "contiguous"):
        grad = lay_out(grad, layout)
    grad = grad.detach().requires_grad_(types[1])
    reduce = turn(types, layout)
    own = features.detach() if reduce in ("max", "min") else None
    opcheck(OPERATORS.voxelize_backward.default, (grad, points, own, *CUBE), {"reduce": reduce})
    _, counts, point_voxel = OPERATORS.voxelize_counted(points, features.detach(), *CUBE)
    known = {"counts": counts, "point_voxel": point_voxel}
    opcheck(OPERATORS.voxelize_backward.default, (grad, points, None, *CUBE), {"reduce": "mean", **known})


@pytest.mark.parametrize(("types", "layout"), CASES, ids=name)
def test_voxelize_counted(device: torch.device, types: tuple[torch.dtype, bool], layout: str) -> None:
    points, features, _ = inputs(device, types, layout)
    opcheck(OPERATORS.voxelize_counted.default, (points, features, *CUBE))
    lengths = torch.full(points.shape[:1], points.shape[1] // 2, device=device)
    opcheck(OPERATORS.voxelize_counted.default, (points, features, *CUBE), {"lengths": lengths})


@pytest.mark.parametrize(
    ("reduce", "capacity"), [*((each, size) for each in REDUCTIONS for size in (-1, 4)), ("mean", 0), ("count", 100)]
)
def test_voxelize_sparse(device: torch.device, reduce: str, capacity: int) -> None:
    points, features, _ = inputs(device, (torch.float32, False), "contiguous")
    options: dict[str, Any] = {"reduce": reduce, "capacity": capacity}
    opcheck(OPERATORS.voxelize_sparse.default, (points, features, *CUBE), options)
    opcheck(OPERATORS.voxelize_sparse.default, (points[0], None, *CUBE), options)
    if capacity in (-1, 4):
        options["lengths"] = torch.tensor([12, 5], device=device)
        opcheck(OPERATORS.voxelize_sparse.default, (points, features, *CUBE), options)


@pytest.mark.parametrize("capacity", [-1, 4, 100])
@pytest.mark.parametrize("reduce", BLENDS)
def test_voxelize_sparse_with_gradient(device: torch.device, reduce: str, capacity: int) -> None:
    points, features, _ = inputs(device, (torch.float32, True), "contiguous")
    options: dict[str, Any] = {"reduce": reduce, "capacity": capacity}
    tests = ("test_schema", "test_autograd_registration", "test_faketensor")
    opcheck(OPERATORS.voxelize_sparse.default, (points, features, *CUBE), options, test_utils=tests)

    # The fourth test adds up the results in the type of the first, so the values are put there.
    def values_first(points: Tensor, features: Tensor) -> tuple[Tensor, ...]:
        coords, values, *others = OPERATORS.voxelize_sparse(points, features, *CUBE, **options)
        return values, coords, *others

    aot_autograd_check(values_first, (points, features), {}, dynamic=True)


@pytest.mark.parametrize("capacity", [-1, 100])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_voxelize_sparse_rows(device: torch.device, dtype: torch.dtype, layout: str, capacity: int) -> None:
    points = inputs(device, (dtype, False), layout)[0]
    opcheck(OPERATORS.voxelize_sparse_rows.default, (points, *CUBE), {"capacity": capacity})


@pytest.mark.parametrize("capacity", [-1, 0, 4, 100])
def test_voxelize_sparse_rows_of_ragged_clouds(device: torch.device, capacity: int) -> None:
    points = inputs(device, (torch.float32, False), "contiguous")[0]
    for length in (torch.int32, torch.int64):
        options = {"capacity": capacity, "lengths": torch.tensor([12, 5], dtype=length, device=device)}
        opcheck(OPERATORS.voxelize_sparse_rows.default, (points, *CUBE), options)


@pytest.mark.parametrize(("types", "layout"), CASES, ids=name)
def test_voxelize_sparse_values(device: torch.device, types: tuple[torch.dtype, bool], layout: str) -> None:
    points, features, tangent = inputs(device, types, layout)
    found, reduce = rows(points, [-1, 4, 100][LAYOUTS.index(layout) % 3]), turn(types, layout)
    opcheck(OPERATORS.voxelize_sparse_values.default, (features, *found), {"reduce": reduce})
    options = {"reduce": reduce, "tangent": tangent}
    opcheck(OPERATORS.voxelize_sparse_values.default, (features.detach(), *found), options)


@pytest.mark.parametrize(("types", "layout"), CASES, ids=name)
def test_voxelize_sparse_backward(device: torch.device, types: tuple[torch.dtype, bool], layout: str) -> None:
    points, features, _ = inputs(device, types, layout)
    found, reduce = rows(points, [-1, 4, 100][LAYOUTS.index(layout) % 3]), turn(types, layout)
    grad = torch.randn(found[0].shape[0], 3, device=device).to(types[0])
    if layout not in ("empty", "contiguous") and grad.numel() > 0:
        grad = lay_out(grad, layout)
    grad = grad.detach().requires_grad_(types[1])
    own = features.detach() if reduce in ("max", "min") else None
    opcheck(OPERATORS.voxelize_sparse_backward.default, (grad, own, *found), {"reduce": reduce})
