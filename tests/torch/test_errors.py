"""Wrong inputs are refused with the same text in eager, Meta, fake tensors, TorchScript, torch.compile and reference.

The table `tests/cases/resample_errors.json` is the Rust tests' too.
"""

from __future__ import annotations

import builtins
import json
from pathlib import Path
from typing import Any

import pytest
import robocache
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

TABLE = json.loads((Path(__file__).parents[1] / "cases" / "resample_errors.json").read_text())
EVERY = [pytest.param(case, id=case["name"]) for case in TABLE]
BY_TYPE_AND_SHAPE = [pytest.param(case, id=case["name"]) for case in TABLE if not case.get("cpu_only")]


def tensor(spec: dict[str, Any], device: str) -> Tensor:
    """Ones, or times that ascend along the last axis, or the data of the table."""
    shape, dtype = spec["shape"], getattr(torch, spec["dtype"])
    data = torch.tensor(spec["data"], dtype=dtype).view(shape) if "data" in spec else torch.ones(shape).to(dtype)
    return data.to(spec.get("device", device))


def arguments(case: dict[str, Any], device: str) -> tuple[list[Tensor], dict[str, Any]]:
    tensors = [tensor(case[name], device) for name in ("values", "source_times", "target_times")]
    lengths = case.get("source_lengths")
    lengths = None if lengths is None else tensor(lengths, device)
    return tensors, {"mode": case["mode"], "outside": case["outside"], "source_lengths": lengths}


def refused(case: dict[str, Any], call: Any, device: str = "cpu") -> None:
    tensors, options = arguments(case, device)
    kind: type[Exception] = getattr(builtins, case["kind"])
    with pytest.raises(kind) as caught:
        call(*tensors, **options)
    assert type(caught.value) is kind
    assert str(caught.value).splitlines()[0] == case["text"].replace("on cpu", f"on {device}")


def test_the_table_names_every_case_once() -> None:
    assert len({case["name"] for case in TABLE}) == len(TABLE) > 80
    for case in TABLE:
        assert case["text"].startswith("resample: "), case["name"]
        assert case["text"][10].islower() and not case["text"].endswith("."), case["name"]


@pytest.mark.parametrize("case", EVERY)
def test_eager(case: dict[str, Any]) -> None:
    refused(case, torch.ops.robocache.resample)


@pytest.mark.parametrize("case", EVERY)
def test_python_function(case: dict[str, Any]) -> None:
    refused(case, robocache.resample)


@pytest.mark.parametrize("case", EVERY)
def test_with_gradients(case: dict[str, Any]) -> None:
    tensors, options = arguments(case, "cpu")
    for each in tensors:
        if each.dtype.is_floating_point:
            each.requires_grad_()
    with pytest.raises(getattr(builtins, case["kind"])) as caught:
        torch.ops.robocache.resample(*tensors, **options)
    assert case["text"] in str(caught.value)


@pytest.mark.parametrize("case", EVERY)
def test_reference(case: dict[str, Any]) -> None:
    refused(case, robocache.reference.resample)


@pytest.mark.parametrize("case", BY_TYPE_AND_SHAPE)
def test_meta(case: dict[str, Any]) -> None:
    if "device" in json.dumps(case):
        pytest.skip("all tensors of a Meta call are on meta")
    refused(case, torch.ops.robocache.resample, "meta")


@pytest.mark.parametrize("case", BY_TYPE_AND_SHAPE)
def test_fake_tensors(case: dict[str, Any]) -> None:
    if "device" in json.dumps(case):
        pytest.skip("fake tensors refuse mixed devices themselves")
    with FakeTensorMode():
        refused(case, torch.ops.robocache.resample)


@pytest.mark.gpu
@pytest.mark.parametrize("case", BY_TYPE_AND_SHAPE)
def test_cuda(case: dict[str, Any]) -> None:
    if "device" in json.dumps(case):
        pytest.skip("the text names the device with its index: see test_cuda.py")
    refused(case, torch.ops.robocache.resample, "cuda")


@torch.jit.script
def scripted(
    values: Tensor, source_times: Tensor, target_times: Tensor, mode: str, outside: str, source_lengths: Tensor | None
) -> Tensor:
    return torch.ops.robocache.resample(
        values, source_times, target_times, mode=mode, outside=outside, source_lengths=source_lengths
    )


@pytest.mark.parametrize("case", EVERY)
def test_torchscript(case: dict[str, Any]) -> None:
    tensors, options = arguments(case, "cpu")
    with pytest.raises((RuntimeError, ValueError, TypeError)) as caught:
        scripted(*tensors, options["mode"], options["outside"], options["source_lengths"])
    assert any(line.endswith(case["text"]) for line in str(caught.value).splitlines())


COMPILED = ["source_times_short", "linear_int32", "mode_unknown", "target_times_narrower", "outside_nan_bool"]


@pytest.mark.parametrize("case", [case for case in EVERY if case.id in COMPILED])
@pytest.mark.parametrize("dynamic", [False, True])
def test_torch_compile(case: dict[str, Any], dynamic: bool) -> None:
    torch._dynamo.reset()
    tensors, options = arguments(case, "cpu")
    compiled = torch.compile(robocache.resample, fullgraph=True, dynamic=dynamic, backend="eager")
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


def test_arguments_are_keyword_only_and_typed() -> None:
    values, times = torch.ones(2, 5, 3), torch.arange(5.0).expand(2, 5)
    with pytest.raises((RuntimeError, TypeError)):
        torch.ops.robocache.resample(values, times, times, "linear")
    with pytest.raises((RuntimeError, TypeError)):
        torch.ops.robocache.resample(values, times, times, mode=3)
    with pytest.raises((RuntimeError, TypeError)):
        torch.ops.robocache.resample(values, times)


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
