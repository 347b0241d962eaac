"""Wrong inputs are refused with the same text in eager, Meta, fake tensors, TorchScript, torch.compile and reference.

The tables `tests/cases/*_errors.json` are those of the Rust and C++ tests too.
"""

from __future__ import annotations

import builtins
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import robocache
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

CASES = Path(__file__).parents[1] / "cases"
LEAST = {"resample": 100, "fuse": 60, "resample_mask": 25, "voxelize": 90, "voxelize_sparse": 40}
TABLES = {op: json.loads((CASES / f"{op}_errors.json").read_text()) for op in LEAST}
EVERY = [pytest.param(op, case, id=f"{op}-{case['name']}") for op, table in TABLES.items() for case in table]
BY_TYPE_AND_SHAPE = [each for each in EVERY if not each.values[1].get("cpu_only")]
CLOUD = ("points", "features", "origin", "voxel_size", "grid_size")
POSITIONAL = {
    **dict.fromkeys(("resample", "fuse"), ("values", "source_times", "target_times")),
    "resample_mask": ("source_times", "target_times"),
    **dict.fromkeys(("voxelize", "voxelize_sparse"), CLOUD),
}
OPTIONS = {
    **dict.fromkeys(("resample", "fuse"), ("mode", "outside", "source_lengths")),
    "resample_mask": ("max_gap", "source_lengths"),
    "voxelize": ("reduce", "lengths"),
    "voxelize_sparse": ("reduce", "capacity", "lengths"),
}


def argument(spec: Any, device: str) -> Any:
    """A tensor of ones or of the data of the table, a list of tensors or numbers, or what is no tensor as it is."""
    if isinstance(spec, list):
        # JSON has no number for "nan" and "inf".
        return [float(each) if isinstance(each, str) else argument(each, device) for each in spec]
    if not isinstance(spec, dict):
        return spec
    shape, dtype = spec["shape"], getattr(torch, spec["dtype"])
    data = torch.tensor(spec["data"], dtype=dtype).view(shape) if "data" in spec else torch.ones(shape).to(dtype)
    return data.to(spec.get("device", device))


def arguments(op: str, case: dict[str, Any], device: str) -> tuple[list[Any], dict[str, Any]]:
    """The positional arguments and all optional ones."""
    options = {name: argument(case.get(name, -1 if name == "capacity" else None), device) for name in OPTIONS[op]}
    return [argument(case.get(name), device) for name in POSITIONAL[op]], options


def flat(arguments: list[Any]) -> Iterator[Tensor]:
    for each in arguments:
        yield from (x for x in (each if isinstance(each, list) else [each]) if isinstance(x, Tensor))


def refused(op: str, case: dict[str, Any], call: Any, device: str = "cpu") -> None:
    tensors, options = arguments(op, case, device)
    kind: type[Exception] = getattr(builtins, case["kind"])
    with pytest.raises(kind) as caught:
        call(*tensors, **options)
    assert type(caught.value) is kind
    assert str(caught.value).splitlines()[0] == case["text"].replace("on cpu", f"on {device}")


@pytest.mark.parametrize("op", LEAST)
def test_the_table_names_every_case_once(op: str) -> None:
    table = TABLES[op]
    assert len({case["name"] for case in table}) == len(table) > LEAST[op]
    for case in table:
        assert case["text"].startswith(f"{op}: "), case["name"]
        assert case["text"][len(op) + 2].islower() and not case["text"].endswith("."), case["name"]


@pytest.mark.parametrize(("op", "case"), EVERY)
def test_eager(op: str, case: dict[str, Any]) -> None:
    refused(op, case, getattr(torch.ops.robocache, op))


@pytest.mark.parametrize(("op", "case"), EVERY)
def test_python_function(op: str, case: dict[str, Any]) -> None:
    refused(op, case, getattr(robocache, op))


@pytest.mark.parametrize(("op", "case"), EVERY)
def test_with_gradients(op: str, case: dict[str, Any]) -> None:
    tensors, options = arguments(op, case, "cpu")
    for each in flat(tensors):
        if each.dtype.is_floating_point:
            each.requires_grad_()
    with pytest.raises(getattr(builtins, case["kind"])) as caught:
        getattr(torch.ops.robocache, op)(*tensors, **options)
    assert case["text"] in str(caught.value)


@pytest.mark.parametrize(("op", "case"), EVERY)
def test_reference(op: str, case: dict[str, Any]) -> None:
    refused(op, case, getattr(robocache.reference, op))


@pytest.mark.parametrize(("op", "case"), BY_TYPE_AND_SHAPE)
def test_meta(op: str, case: dict[str, Any]) -> None:
    if "device" in json.dumps(case):
        pytest.skip("all tensors of a Meta call are on meta")
    refused(op, case, getattr(torch.ops.robocache, op), "meta")


@pytest.mark.parametrize(("op", "case"), BY_TYPE_AND_SHAPE)
def test_fake_tensors(op: str, case: dict[str, Any]) -> None:
    if "device" in json.dumps(case):
        pytest.skip("fake tensors refuse mixed devices themselves")
    with FakeTensorMode():
        refused(op, case, getattr(torch.ops.robocache, op))


@pytest.mark.gpu
@pytest.mark.parametrize(("op", "case"), BY_TYPE_AND_SHAPE)
def test_cuda(op: str, case: dict[str, Any]) -> None:
    if "device" in json.dumps(case):
        pytest.skip("the text names the device with its index: see test_cuda.py")
    refused(op, case, getattr(torch.ops.robocache, op), "cuda")


@torch.jit.script
def resample(
    values: Tensor, source_times: Tensor, target_times: Tensor, mode: str, outside: str, source_lengths: Tensor | None
) -> Tensor:
    return torch.ops.robocache.resample(
        values, source_times, target_times, mode=mode, outside=outside, source_lengths=source_lengths
    )


@torch.jit.script
def fuse(
    values: list[Tensor],
    source_times: list[Tensor],
    target_times: Tensor,
    mode: str,
    outside: str,
    source_lengths: Tensor | None,
) -> Tensor:
    return torch.ops.robocache.fuse(
        values, source_times, target_times, mode=mode, outside=outside, source_lengths=source_lengths
    )


@torch.jit.script
def resample_mask(
    source_times: Tensor, target_times: Tensor, max_gap: int | float | complex | None, source_lengths: Tensor | None
) -> Tensor:
    return torch.ops.robocache.resample_mask(source_times, target_times, max_gap=max_gap, source_lengths=source_lengths)


@torch.jit.script
def voxelize(
    points: Tensor,
    features: Tensor | None,
    origin: list[float],
    voxel_size: list[float],
    grid_size: list[int],
    reduce: str,
    lengths: Tensor | None,
) -> Tensor:
    return torch.ops.robocache.voxelize(points, features, origin, voxel_size, grid_size, reduce=reduce, lengths=lengths)


@torch.jit.script
def voxelize_sparse(
    points: Tensor,
    features: Tensor | None,
    origin: list[float],
    voxel_size: list[float],
    grid_size: list[int],
    reduce: str,
    capacity: int,
    lengths: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    return torch.ops.robocache.voxelize_sparse(
        points, features, origin, voxel_size, grid_size, reduce=reduce, capacity=capacity, lengths=lengths
    )


SCRIPTED: dict[str, Any] = {
    "resample": resample,
    "fuse": fuse,
    "resample_mask": resample_mask,
    "voxelize": voxelize,
    "voxelize_sparse": voxelize_sparse,
}


@pytest.mark.parametrize(("op", "case"), EVERY)
def test_torchscript(op: str, case: dict[str, Any]) -> None:
    tensors, options = arguments(op, case, "cpu")
    with pytest.raises((RuntimeError, ValueError, TypeError)) as caught:
        SCRIPTED[op](*tensors, *options.values())
    assert any(line.endswith(case["text"]) for line in str(caught.value).splitlines())


COMPILED = [
    *("source_times_short", "linear_int32", "mode_unknown", "target_times_narrower", "outside_nan_bool"),
    *("source_times_missing", "values_batch", "lengths_streams", "slerp_crosses", "slerp_plain_width"),
    *("max_gap_negative", "lengths_target_batch"),
    *("points_int32", "reduce_unknown", "features_missing_mean", "features_points", "origin_nan", "voxel_size_zero"),
    *("grid_size_zero", "grid_size_times_batch", "grid_size_past_2_21", "capacity_negative", "lengths_too_many"),
]


@pytest.mark.parametrize(("op", "case"), [each for each in EVERY if each.values[1]["name"] in COMPILED])
@pytest.mark.parametrize("dynamic", [False, True])
def test_torch_compile(op: str, case: dict[str, Any], dynamic: bool) -> None:
    torch._dynamo.reset()
    tensors, options = arguments(op, case, "cpu")
    compiled = torch.compile(getattr(robocache, op), fullgraph=True, dynamic=dynamic, backend="eager")
    with pytest.raises(Exception) as caught:
        compiled(*tensors, **options)
    assert case["text"] in str(caught.value)


def test_a_length_past_the_end_of_the_valid_samples_is_no_descent() -> None:
    source = torch.tensor([[0.0, 1.0, 2.0, 1.0, float("nan")]])
    result = robocache.resample(
        torch.arange(5.0)[None], source, torch.tensor([[9.0]]), source_lengths=torch.tensor([3])
    )
    assert result.item() == 2.0


def test_a_nan_time_is_out_of_order() -> None:
    source = torch.tensor([[0.0, 1.0, float("nan"), 3.0, 4.0]])
    for call in (robocache.resample, robocache.reference.resample):
        with pytest.raises(ValueError, match=r"source_times must ascend along each row, got .* in row 0 at sample 2"):
            call(torch.arange(5.0)[None], source, torch.tensor([[9.0]]))


def test_an_unsupported_backend() -> None:
    sparse = torch.ones(2, 5, 3).to_sparse()
    times = torch.arange(5.0).expand(2, 5)
    with pytest.raises(NotImplementedError, match="robocache::resample"):
        torch.ops.robocache.resample(sparse, times, times)
    with pytest.raises(NotImplementedError, match="robocache::fuse"):
        torch.ops.robocache.fuse([sparse], [times], times)
    with pytest.raises(NotImplementedError, match="robocache::resample_mask"):
        torch.ops.robocache.resample_mask(times.to_sparse(), times)
    box = ([0.0] * 3, [1.0], [2, 2, 2])
    with pytest.raises(NotImplementedError, match="robocache::voxelize"):
        torch.ops.robocache.voxelize(sparse, None, *box)
    with pytest.raises(NotImplementedError, match="robocache::voxelize_sparse_rows"):
        torch.ops.robocache.voxelize_sparse(sparse, None, *box)


VALUES, TIMES = torch.ones(2, 5, 3), torch.arange(5.0).expand(2, 5)
REQUIRED: dict[str, list[Any]] = {
    "resample": [VALUES, TIMES, TIMES],
    "fuse": [[VALUES], [TIMES], TIMES],
    "resample_mask": [TIMES, TIMES],
    **dict.fromkeys(("voxelize", "voxelize_sparse"), [VALUES, None, [0.0] * 3, [1.0], [2, 2, 2]]),
}


@pytest.mark.parametrize("op", REQUIRED)
def test_arguments_are_keyword_only_and_typed(op: str) -> None:
    call, required = getattr(torch.ops.robocache, op), REQUIRED[op]
    first, wrong = OPTIONS[op][0], "long" if op == "resample_mask" else 3
    call(*required)
    for positional, options in ((required[:-1], {}), ([*required, "linear"], {}), (required, {first: wrong})):
        with pytest.raises((RuntimeError, TypeError)):
            call(*positional, **options)


def test_check_on_request(device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    values, source = torch.ones(2, 3, 1, device=device), torch.tensor([[0.0, 1, 2], [0, 2, 1]], device=device)
    if device.type == "cuda":
        # Not checked, and not out of bounds either.
        assert robocache.resample(values, source, source).shape == values.shape
    monkeypatch.setenv("ROBOCACHE_CHECK", "1")
    with pytest.raises(
        ValueError, match=r"source_times must ascend along each row, got 1\.0 after 2\.0 in row 1 at sample 2"
    ):
        robocache.resample(values, source, source)
    lengths = torch.tensor([3, 4], device=device)
    with pytest.raises(ValueError, match=r"source_lengths must be in \[1, 3\], got 4 in row 1"):
        robocache.resample(values, source.sort(dim=1).values, source, source_lengths=lengths)
