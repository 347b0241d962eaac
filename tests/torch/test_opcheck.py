"""`torch.library.opcheck` of every operator: schema, autograd registration, fake tensors, AOT dispatch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import robocache
import torch
from cases import DTYPES, FLOATS, lay_out, random_values
from torch import Tensor
from torch.library import opcheck

LAYOUTS = ["contiguous", "expanded", "transposed", "empty"]
# A gradient check of integers would have nothing to check.
TYPES = [(dtype, False) for dtype in DTYPES] + [(dtype, True) for dtype in FLOATS]
FLOAT_TYPES = [(dtype, wanted) for dtype in FLOATS for wanted in (False, True)]
OPERATORS = torch.ops.robocache


@pytest.fixture(autouse=True)
def loaded() -> None:
    """The operators are there only once the library is."""
    assert robocache.resample is not None


def name(types: tuple[torch.dtype, bool]) -> str:
    return str(types[0]).removeprefix("torch.") + ("-grad" if types[1] else "")


def inputs(device: torch.device, types: tuple[torch.dtype, bool], layout: str, channels: int = 3) -> dict[str, Tensor]:
    """The tensors that any of the operators takes, `[B, ...]`, in a layout."""
    dtype, wanted = types
    rng = np.random.default_rng(3)
    rows = 0 if layout == "empty" else 2
    made = {
        "grad": random_values(rng, [rows, 5, channels], dtype, special=False),
        "values": random_values(rng, [rows, 4, channels], dtype, special=False),
        "tangent": random_values(rng, [rows, 4, channels], dtype, special=False),
        "source_times": torch.from_numpy(rng.random((rows, 4))).cumsum(1),
        "target_times": torch.from_numpy(rng.random((rows, 5))) * 3,
    }
    placed = {key: lay_out(x.to(device), layout if layout != "empty" else "contiguous") for key, x in made.items()}
    if wanted:
        placed = {key: x.detach().requires_grad_() for key, x in placed.items()}
    return placed


def pick(made: dict[str, Tensor], *names: str) -> tuple[Tensor, ...]:
    return tuple(made[each] for each in names)


@pytest.mark.parametrize("types", TYPES, ids=name)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_resample(device: torch.device, types: tuple[torch.dtype, bool], layout: str) -> None:
    made = inputs(device, types, layout)
    mode = "linear:1,previous:1,linear:*" if types[0] in FLOATS else "nearest"
    opcheck(OPERATORS.resample.default, pick(made, "values", "source_times", "target_times"), {"mode": mode})


CURVED = "slerp:4,pchip:2,angle:1,linear:*"  # of 8 channels


@pytest.mark.parametrize("types", FLOAT_TYPES, ids=name)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("mode", ["angle", "slerp", "pchip", CURVED])
def test_resample_by_curves(device: torch.device, types: tuple[torch.dtype, bool], layout: str, mode: str) -> None:
    made = inputs(device, types, layout, channels=8)
    opcheck(OPERATORS.resample.default, pick(made, "values", "source_times", "target_times"), {"mode": mode})


@pytest.mark.parametrize("types", FLOAT_TYPES, ids=name)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("operator", ["resample_tangent", "resample_curvature", "resample_backward"])
def test_derivatives_of_curves(
    device: torch.device, types: tuple[torch.dtype, bool], layout: str, operator: str
) -> None:
    made = inputs(device, types, layout, channels=8)
    options: dict[str, Any] = {"mode": CURVED, "outside": "hold"}
    names = {
        "resample_tangent": ("tangent", "values"),
        "resample_curvature": ("grad", "tangent", "values"),
        "resample_backward": ("grad",),
    }[operator]
    if operator == "resample_backward":
        options["values"] = made["values"]
    if operator == "resample_curvature":
        # A third derivative of these modes is refused, so none is asked for.
        made = {key: x.detach() for key, x in made.items()}
    opcheck(getattr(OPERATORS, operator).default, pick(made, *names, "source_times", "target_times"), options)


@pytest.mark.parametrize("types", TYPES, ids=name)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_fuse(device: torch.device, types: tuple[torch.dtype, bool], layout: str) -> None:
    made, other = inputs(device, types, layout), inputs(device, types, layout, channels=8)
    mode = f"linear:3,{CURVED}" if types[0] in FLOATS else "nearest"
    values, times = ([each[key] for each in (made, other)] for key in ("values", "source_times"))
    opcheck(OPERATORS.fuse.default, (values, times, made["target_times"]), {"mode": mode})
    lengths = torch.tensor([[4, 2], [1, 3]], device=device)[: values[0].shape[0]]
    opcheck(OPERATORS.fuse.default, (values, times, made["target_times"]), {"mode": mode, "source_lengths": lengths})


@pytest.mark.parametrize("time_dtype", [torch.float32, torch.float64, torch.int64], ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_resample_mask(device: torch.device, time_dtype: torch.dtype, layout: str) -> None:
    made = inputs(device, (torch.float32, False), layout)
    source, target = ((made[key] * 100).to(time_dtype) for key in ("source_times", "target_times"))
    opcheck(OPERATORS.resample_mask.default, (source, target))
    lengths = torch.tensor([3, 4], device=device)[: source.shape[0]]
    for gap in (0, 30, 12.5):
        opcheck(OPERATORS.resample_mask.default, (source, target), {"max_gap": gap, "source_lengths": lengths})
    if layout == "contiguous":
        opcheck(OPERATORS.resample_mask.default, (source[0], target[0]), {"max_gap": 30})
        opcheck(OPERATORS.resample_mask.default, (source[0], target), {})


@pytest.mark.parametrize("types", FLOAT_TYPES, ids=name)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_resample_slope(device: torch.device, types: tuple[torch.dtype, bool], layout: str) -> None:
    made = inputs(device, types, layout)
    options = {"mode": "linear", "outside": "extrapolate"}
    opcheck(OPERATORS.resample_slope.default, pick(made, "values", "source_times", "target_times"), options)


@pytest.mark.parametrize("slope", [False, True], ids=["value", "slope"])
@pytest.mark.parametrize("types", FLOAT_TYPES, ids=name)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_resample_backward(device: torch.device, types: tuple[torch.dtype, bool], layout: str, slope: bool) -> None:
    made = inputs(device, types, layout)
    options = {"mode": "linear", "outside": "hold", "slope": slope}
    opcheck(OPERATORS.resample_backward.default, pick(made, "grad", "source_times", "target_times"), options)


@pytest.mark.parametrize("types", FLOAT_TYPES, ids=name)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_resample_time_grad(device: torch.device, types: tuple[torch.dtype, bool], layout: str) -> None:
    made = inputs(device, types, layout)
    options = {"mode": "linear", "outside": "hold"}
    tensors = pick(made, "grad", "values", "source_times", "target_times")
    opcheck(OPERATORS.resample_time_grad.default, tensors, options)


@pytest.mark.parametrize(
    "options",
    [
        {"outside": "extrapolate"},
        {"outside": "zero", "mode": "previous"},
        {"source_lengths": torch.tensor([3, 4])},
        {"source_lengths": torch.tensor([1, 4], dtype=torch.int32), "outside": "zero"},
    ],
    ids=str,
)
def test_options(device: torch.device, options: dict[str, Any]) -> None:
    made = inputs(device, (torch.float64, True), "contiguous")
    options = {key: x.to(device) if isinstance(x, Tensor) else x for key, x in options.items()}
    opcheck(OPERATORS.resample.default, pick(made, "values", "source_times", "target_times"), options)


def test_nan_outside(device: torch.device) -> None:
    made = inputs(device, (torch.float64, True), "contiguous")
    # opcheck takes no NaN for equal: the targets are moved to where there are none.
    within = made["source_times"].detach()[:, [0, 1, 2, 3, 2]].requires_grad_()
    tensors = (made["values"], made["source_times"], within)
    opcheck(OPERATORS.resample.default, tensors, {"outside": "nan"})


def test_shapes(device: torch.device) -> None:
    made = inputs(device, (torch.float32, True), "contiguous")
    values, source, target = (x.detach() for x in pick(made, "values", "source_times", "target_times"))
    source, target = source.float(), target.float()
    for tensors in (
        (values, source[0], target),
        (values, source, target[0]),
        (values, source[0], target[0]),
        (values[0], source[0], target[0]),
        (values[0, :, 0], source[0], target[0]),
        (values[:, :, 0], source, target),
        (values[..., None, :].expand(2, 4, 2, 3), source, target),
        (values, (source * 1000).to(torch.int64), (target * 1000).to(torch.int64)),
    ):
        leaves = tuple(x.clone().requires_grad_() if x.is_floating_point() else x for x in tensors)
        opcheck(OPERATORS.resample.default, leaves)
