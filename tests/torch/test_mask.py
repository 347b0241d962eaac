"""`resample_mask` against a scalar definition and NumPy, its edge rules, its shapes and its errors."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import robocache
import torch
from cases import EPOCH, OUTSIDE, TIMES, case_count
from definition import resample_mask as define
from fuse_cases import MaskCase, random_mask_case
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode


def defined(case: MaskCase) -> Tensor:
    """The scalar definition's answer for any shapes."""
    (source, target), options = case.arguments()
    lengths = options["source_lengths"]
    batch = next((len(x) for x in (source, target) if x.dim() == 2), None)
    batch = len(lengths) if batch is None and lengths is not None else batch
    rows = 1 if batch is None else batch
    stated = [source.shape[-1]] * rows if lengths is None else lengths.tolist()
    times = [x.expand(rows, x.shape[-1]).contiguous() for x in (source, target)]
    result = define(*times, max_gap=case.max_gap, source_lengths=stated)
    return result[0] if batch is None else result


def check(case: MaskCase, device: torch.device) -> Tensor:
    """Both the operator and the reference give the scalar definition's answer."""
    tensors, options = case.arguments(device)
    found = robocache.resample_mask(*tensors, **options)
    expected = defined(case)
    assert found.dtype == torch.bool and found.device == tensors[0].device and found.is_contiguous()
    reference = robocache.reference.resample_mask(*case.arguments()[0], **case.arguments()[1])
    for result in (found.cpu(), reference):
        assert result.shape == expected.shape and torch.equal(result, expected), case
    return found.cpu()


def test_random_cases_are_the_definition(device: torch.device, rng: np.random.Generator) -> None:
    for _ in range(case_count(600)):
        check(random_mask_case(rng), device)


def test_numpy(device: torch.device, rng: np.random.Generator) -> None:
    times = np.cumsum(rng.exponential(1.0, 500))
    targets = rng.uniform(-10, times[-1] + 10, 5000)
    left = np.searchsorted(times, targets, side="right") - 1
    inside = (targets >= times[0]) & (targets <= times[-1])
    steps = np.append(np.diff(times), 0)
    for gap in (0.2, 1.0, 2.5):
        expected = inside & (steps[left] <= gap)
        found = robocache.resample_mask(*(torch.from_numpy(x).to(device) for x in (times, targets)), max_gap=gap)
        np.testing.assert_array_equal(found.cpu().numpy(), expected)


@pytest.mark.parametrize("dtype", TIMES, ids=str)
def test_ends_hits_and_gaps(device: torch.device, dtype: torch.dtype) -> None:
    source = torch.tensor([[0, 10, 10, 50, 60]]).to(dtype)
    target = torch.tensor([[-1, 0, 5, 10, 11, 49, 50, 55, 60, 61]]).to(dtype)
    within = [False, True, True, True, True, True, True, True, True, False]
    assert check(MaskCase(source, target), device)[0].tolist() == within
    near = [False, True, True, True, False, False, True, True, True, False]
    for gap in (10, 39, 39.99) if dtype != torch.float32 else (10, 39):
        assert check(MaskCase(source, target, gap), device)[0].tolist() == near
    assert check(MaskCase(source, target, 40), device)[0].tolist() == within
    assert check(MaskCase(source, target, math.inf), device)[0].tolist() == within
    hits = [False, True, False, True, False, False, True, False, True, False]
    assert check(MaskCase(source, target, 0), device)[0].tolist() == hits


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_nan_and_infinite_targets_are_unknown(device: torch.device, dtype: torch.dtype) -> None:
    target = torch.tensor([math.nan, math.inf, -math.inf, 0.5], dtype=dtype)
    for source in ([0.0, 1.0], [-math.inf, 0.0, 1.0, math.inf]):
        found = check(MaskCase(torch.tensor(source, dtype=dtype), target), device)
        assert found.tolist() == [False, False, False, True]


def test_one_sample(device: torch.device) -> None:
    source, target = torch.tensor([7]), torch.tensor([6, 7, 8])
    for gap in (None, 0):
        assert check(MaskCase(source, target, gap), device).tolist() == [False, True, False]


def test_a_gap_is_compared_in_the_type_of_the_times(device: torch.device) -> None:
    source, target = torch.tensor([0.0, 0.1]), torch.tensor([0.05])
    assert check(MaskCase(source, target, 0.1), device).item()  # 0.1 in f32 is more than 0.1
    assert check(MaskCase(source.double(), target.double(), 0.1), device).item() is False
    assert check(MaskCase(source.double(), target.double(), 0.1 + 2e-9), device).item()


def test_int64_gaps_are_exact_over_the_whole_range(device: torch.device) -> None:
    low, high = -(2**63), 2**63 - 1
    source, target = torch.tensor([low, high]), torch.tensor([0])
    for gap, known in ((2**63 - 1, False), (2.0**63, False), (1.8e19, False), (2.0**64, True), (math.inf, True)):
        assert check(MaskCase(source, target, gap), device).item() is known, gap
    stamps = EPOCH + torch.tensor([0, 1_000_000_007])
    for gap, known in ((1_000_000_006, False), (1_000_000_007, True), (1e9 + 7.5, True), (1e9 + 6.999, False)):
        assert check(MaskCase(stamps, stamps[:1] + 5, gap), device).item() is known, gap


def test_samples_past_the_length_are_never_read(device: torch.device) -> None:
    source = torch.tensor([[0.0, 1.0, -9.0, math.nan], [0.0, 1.0, 2.0, 0.5]])
    target = torch.tensor([0.5, 1.0, 1.5, 3.0])
    found = check(MaskCase(source, target, 1.0, torch.tensor([2, 3])), device)
    assert found.tolist() == [[True, True, False, False], [True, True, True, False]]


def test_shapes(device: torch.device) -> None:
    source, target = torch.arange(5.0), torch.tensor([0.5, 3.5, 9.0])
    lengths = torch.tensor([5, 2], dtype=torch.int32)
    assert check(MaskCase(source, target), device).shape == (3,)
    assert check(MaskCase(source, target, None, lengths), device).tolist() == [
        [True, True, False],
        [True, False, False],
    ]
    for times in (
        (source.expand(2, 5), target),
        (source, target.expand(2, 3)),
        (source.expand(2, 5), target.expand(2, 3)),
    ):
        assert check(MaskCase(*times), device).shape == (2, 3)
        assert check(MaskCase(*times, 2.0, lengths), device).shape == (2, 3)
    assert check(MaskCase(source.expand(0, 5), target), device).shape == (0, 3)
    assert check(MaskCase(source, target[:0], 1.0), device).shape == (0,)


def test_strided_times(device: torch.device, rng: np.random.Generator) -> None:
    source = torch.from_numpy(rng.random((4, 12))).cumsum(1).to(device)
    target = torch.from_numpy(rng.random((4, 30)) * 8).to(device)
    expected = robocache.resample_mask(source, target, max_gap=0.5)
    laid = [x.t().contiguous().t() for x in (source, target)]
    assert torch.equal(robocache.resample_mask(*laid, max_gap=0.5), expected)
    assert torch.equal(robocache.resample_mask(source, target.flip(1), max_gap=0.5), expected.flip(1))


@pytest.mark.parametrize("outside", OUTSIDE[1:3])
def test_it_marks_what_resample_fills(device: torch.device, outside: str, rng: np.random.Generator) -> None:
    for _ in range(case_count(60)):
        case = random_mask_case(rng)
        (source, target), options = case.arguments(device)
        if source.dim() == 1:
            continue
        del options["max_gap"]
        values = torch.ones(*source.shape, 1, device=device)
        filled = ~robocache.resample_mask(source, target, **options)
        found = robocache.resample(values, source, target, outside=outside, **options)[..., 0]
        assert torch.equal(filled, found != 1)


def test_gradients_stop_here(device: torch.device) -> None:
    source = torch.arange(4.0, device=device, requires_grad=True)
    target = torch.tensor([0.5, 9.0], device=device, requires_grad=True)
    assert not robocache.resample_mask(source, target).requires_grad


# What the table of cases (tests/cases/resample_mask_errors.json) cannot say.
REFUSED: list[tuple[type[Exception], str, dict[str, Any]]] = [
    (ValueError, "max_gap must be at least 0, got nan", {"max_gap": math.nan}),
    (TypeError, "max_gap must be a real number, got bool", {"max_gap": True}),
]
CALLS = {"operator": lambda: robocache.resample_mask, "reference": lambda: robocache.reference.resample_mask}


def refused(call: Any, kind: type[Exception], text: str, changed: dict[str, Any]) -> None:
    given = {"source": torch.ones(2, 5), "target": torch.ones(2, 4), "max_gap": None, "lengths": None, **changed}
    with pytest.raises(kind) as caught:
        call(given["source"], given["target"], max_gap=given["max_gap"], source_lengths=given["lengths"])
    assert type(caught.value) is kind
    assert str(caught.value).splitlines()[0] == f"resample_mask: {text}"


@pytest.mark.parametrize(("kind", "text", "changed"), REFUSED, ids=lambda x: x if isinstance(x, str) else "")
@pytest.mark.parametrize("name", CALLS)
def test_errors(name: str, kind: type[Exception], text: str, changed: dict[str, Any]) -> None:
    refused(CALLS[name](), kind, text, changed)


@pytest.mark.parametrize(("kind", "text", "changed"), REFUSED, ids=lambda x: x if isinstance(x, str) else "")
def test_errors_of_meta_and_fake_tensors(kind: type[Exception], text: str, changed: dict[str, Any]) -> None:
    def on_meta(source: Tensor, target: Tensor, max_gap: Any, source_lengths: Tensor | None) -> None:
        lengths = None if source_lengths is None else source_lengths.to("meta")
        torch.ops.robocache.resample_mask(source.to("meta"), target.to("meta"), max_gap=max_gap, source_lengths=lengths)

    def fake(source: Tensor, target: Tensor, max_gap: Any, source_lengths: Tensor | None) -> None:
        with FakeTensorMode() as mode:
            made = [None if x is None else mode.from_tensor(x) for x in (source, target, source_lengths)]
            torch.ops.robocache.resample_mask(*made[:2], max_gap=max_gap, source_lengths=made[2])

    refused(on_meta, kind, text, changed)
    refused(fake, kind, text, changed)


def test_a_shape_with_neither_batch_is_refused() -> None:
    source, target = torch.ones(5), torch.ones(2, 3, 4)
    for call in (robocache.resample_mask, robocache.reference.resample_mask):
        with pytest.raises(ValueError, match=r"resample_mask: target_times must have shape \[B, T\] or \[T\]"):
            call(source, target)
        with pytest.raises(ValueError, match=r"resample_mask: source_lengths must have shape \["):
            call(source, torch.ones(4), source_lengths=torch.ones(1, 1).int())


def test_other_devices_are_refused() -> None:
    source, target = torch.ones(2, 5), torch.ones(2, 4)
    for call in (robocache.resample_mask, robocache.reference.resample_mask):
        with pytest.raises((ValueError, NotImplementedError), match="meta"):
            call(source, target.to("meta"))
        with pytest.raises((ValueError, NotImplementedError), match="meta"):
            call(source, target, source_lengths=torch.ones(2, dtype=torch.int32, device="meta"))


def test_check_on_request(device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    source = torch.tensor([[0.0, 1, 2], [0, 2, 1]], device=device)
    monkeypatch.setenv("ROBOCACHE_CHECK", "1")
    with pytest.raises(
        ValueError, match=r"resample_mask: source_times must ascend along each row, got 1\.0 after 2\.0"
    ):
        robocache.resample_mask(source, source)
    with pytest.raises(ValueError, match=r"resample_mask: source_lengths must be in \[1, 3\], got 4 in row 1"):
        lengths = torch.tensor([3, 4], device=device)
        robocache.resample_mask(source.sort(dim=1).values, source, source_lengths=lengths)


@torch.jit.script
def scripted(source_times: Tensor, target_times: Tensor, max_gap: float, source_lengths: Tensor | None) -> Tensor:
    return torch.ops.robocache.resample_mask(source_times, target_times, max_gap=max_gap, source_lengths=source_lengths)


def test_torchscript(device: torch.device, rng: np.random.Generator) -> None:
    for _ in range(20):
        case = random_mask_case(rng)
        (source, target), options = case.arguments(device)
        gap = 1.5 if options["max_gap"] is None else float(options["max_gap"])
        expected = robocache.resample_mask(source, target, max_gap=gap, source_lengths=options["source_lengths"])
        assert torch.equal(scripted(source, target, gap, options["source_lengths"]), expected)
    with pytest.raises((RuntimeError, ValueError)) as caught:
        scripted(torch.ones(5), torch.ones(4), -1.0, None)
    assert any(
        line.endswith("resample_mask: max_gap must be at least 0, got -1.0") for line in str(caught.value).splitlines()
    )
