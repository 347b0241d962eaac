"""Wrong calls of `fuse` are refused with the same text in eager, Meta, fake tensors, TorchScript and the reference."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import robocache
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode


def ones(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.ones(shape, dtype=dtype)


VALUES, TIMES, TARGET = [ones(2, 5, 3), ones(2, 6, 5), ones(2, 7, 4)], [ones(2, 5), ones(2, 6), ones(2, 7)], ones(2, 4)


def changed(tensors: list[Tensor], place: int, tensor: Tensor) -> list[Tensor]:
    return [tensor if index == place else x for index, x in enumerate(tensors)]


F64, I32 = torch.float64, torch.int32
REFUSED: dict[str, tuple[type[Exception], dict[str, Any]]] = {
    "values must have at least one stream, got none": (ValueError, {"values": [], "times": []}),
    "source_times must have one tensor for each stream of values (3), got 2": (ValueError, {"times": TIMES[:2]}),
    "values[0] must be float64, float32, float16, bfloat16, an integer type or bool, got complex64": (
        TypeError,
        {"values": changed(VALUES, 0, ones(2, 5, 3, dtype=torch.complex64))},
    ),
    "values[1] must be float32 (as values[0]), got float64": (
        TypeError,
        {"values": changed(VALUES, 1, ones(2, 6, 5, dtype=F64))},
    ),
    "source_times[0] must be float32, float64 or int64, got int32": (
        TypeError,
        {"times": changed(TIMES, 0, ones(2, 5, dtype=I32))},
    ),
    "source_times[1] must be float64 (as source_times[0]), got float32": (
        TypeError,
        {"times": changed(TIMES, 0, ones(2, 5, dtype=F64)), "target": ones(2, 4, dtype=F64)},
    ),
    "source_times[2] must have shape [B, S] or [S], got [2, 7, 1]": (
        ValueError,
        {"times": changed(TIMES, 2, ones(2, 7, 1))},
    ),
    "values[0] must have shape [B, S, D], got [5]": (ValueError, {"values": changed(VALUES, 0, ones(5))}),
    "target_times must be float32 (as source_times[0]), got float64": (TypeError, {"target": ones(2, 4, dtype=F64)}),
    "source_lengths must be int32 or int64, got float32": (TypeError, {"lengths": ones(2, 3)}),
    "values[1] must have shape [2, S, D], got [3, 5, 4]": (ValueError, {"values": changed(VALUES, 1, ones(3, 5, 4))}),
    "values[2] must have shape [2, S, D], got [7, 4]": (ValueError, {"values": changed(VALUES, 2, ones(7, 4))}),
    "values[0] must have at least one sample, got shape [2, 0, 3]": (
        ValueError,
        {"values": changed(VALUES, 0, ones(2, 0, 3)), "times": changed(TIMES, 0, ones(2, 0))},
    ),
    "source_times[1] must have shape [2, 6], got [2, 4]": (ValueError, {"times": changed(TIMES, 1, ones(2, 4))}),
    "source_times[1] must have shape [6], got [4]": (ValueError, {"times": changed(TIMES, 1, ones(4))}),
    "target_times must have shape [B, T] or [T] with B = 2, got [3, 4]": (ValueError, {"target": ones(3, 4)}),
    "source_lengths must have shape [2, 3], got [3, 2]": (ValueError, {"lengths": ones(3, 2, dtype=I32)}),
    'mode must cover the 12 channels of values, got "linear:7", which covers 7': (ValueError, {"mode": "linear:7"}),
    'mode must keep each slerp group within one stream, got "linear:2,slerp:4,linear:6", '
    "whose slerp group crosses into values[1]": (ValueError, {"mode": "linear:2,slerp:4,linear:6"}),
    'mode must give slerp whole quaternions of 4 channels, got "slerp" for 3 channels': (ValueError, {"mode": "slerp"}),
    'mode must give slerp whole quaternions of 4 channels, got "linear:9,slerp:3"': (
        ValueError,
        {"mode": "linear:9,slerp:3"},
    ),
    'mode must be made of linear, previous, next, nearest, angle, slerp, pchip, got "cubic"': (
        ValueError,
        {"mode": "linear:3,cubic:*"},
    ),
    'outside must be one of hold, nan, zero, extrapolate, got "wrap"': (ValueError, {"outside": "wrap"}),
    'outside "extrapolate" must go with mode linear only, got mode "pchip"': (
        ValueError,
        {"outside": "extrapolate", "mode": "linear:3,pchip:*"},
    ),
    'values must be float64, float32, float16 or bfloat16 for mode "linear", got int32': (
        TypeError,
        {"values": [x.int() for x in VALUES]},
    ),
    'outside must be hold or zero for integer values, got "nan"': (
        ValueError,
        {"values": [x.int() for x in VALUES], "mode": "next", "outside": "nan"},
    ),
}
BY_CONTENTS: dict[str, tuple[type[Exception], dict[str, Any]]] = {
    "source_lengths must be in [1, 7], got 0 in row 1 for stream 2": (
        ValueError,
        {"lengths": torch.tensor([[5, 6, 7], [5, 6, 0]])},
    ),
    "source_lengths must be in [1, 5], got 9 in row 0 for stream 0": (
        ValueError,
        {"lengths": torch.tensor([[9, 6, 7], [5, 6, 1]])},
    ),
    "source_times[1] must ascend along each row, got 0.0 after 4.0 in row 0 at sample 4": (
        ValueError,
        {"times": changed(TIMES, 1, torch.tensor([[1.0, 2, 3, 4, 0, 9]] * 2))},
    ),
}
ALL = {**REFUSED, **BY_CONTENTS}


def refused(call: Any, text: str, place: Callable[[Tensor], Tensor] = lambda x: x) -> None:
    kind, other = ALL[text]
    given = {"values": VALUES, "times": TIMES, "target": TARGET, "mode": "linear", "outside": "hold", "lengths": None}
    given |= other
    lists = [[place(x) for x in given[name]] for name in ("values", "times")]
    lengths = None if given["lengths"] is None else place(given["lengths"])
    with pytest.raises(kind) as caught:
        call(*lists, place(given["target"]), mode=given["mode"], outside=given["outside"], source_lengths=lengths)
    assert type(caught.value) is kind
    assert str(caught.value).splitlines()[0] == f"fuse: {text}"


@pytest.mark.parametrize("text", ALL)
def test_errors(text: str) -> None:
    refused(robocache.fuse, text)
    refused(robocache.reference.fuse, text)


@pytest.mark.parametrize("text", REFUSED)
def test_errors_of_meta_and_fake_tensors(text: str) -> None:
    refused(torch.ops.robocache.fuse, text, lambda x: x.to("meta"))
    with FakeTensorMode() as mode:
        refused(torch.ops.robocache.fuse, text, mode.from_tensor)


@torch.jit.script
def scripted(
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


@pytest.mark.parametrize("text", ALL)
def test_errors_of_torchscript(text: str) -> None:
    _, other = ALL[text]
    given = {"values": VALUES, "times": TIMES, "target": TARGET, "mode": "linear", "outside": "hold", "lengths": None}
    given |= other
    with pytest.raises((RuntimeError, ValueError, TypeError)) as caught:
        scripted(*(given[name] for name in ("values", "times", "target", "mode", "outside", "lengths")))
    assert any(line.endswith(f"fuse: {text}") for line in str(caught.value).splitlines())


def test_unbatched_errors() -> None:
    values, times, target = [ones(5, 3), ones(6, 2)], [ones(5), ones(6)], ones(4)
    for call in (robocache.fuse, robocache.reference.fuse):
        for text, arguments, lengths in (
            (
                r"values\[1\] must have shape \[S, D\], got \[1, 6, 2\]",
                ([values[0], values[1][None]], times, target),
                None,
            ),
            (r"source_times\[1\] must have shape \[6\], got \[5\]", (values, [times[0], times[0]], target), None),
            (r"source_lengths must have shape \[1, 2\], got \[2\]", (values, times, target), ones(2, dtype=I32)),
        ):
            with pytest.raises(ValueError, match="^fuse: " + text):
                call(*arguments, source_lengths=lengths)
        with pytest.raises(ValueError, match=r"^fuse: values\[0\] must have shape \[B, S, D\]"):
            call(values, [times[0].expand(2, 5), times[1]], target)


def test_other_devices_are_refused() -> None:
    for call in (robocache.fuse, robocache.reference.fuse):
        for text, arguments in (
            (
                r"values\[1\] must be on cpu \(as values\[0\]\), got meta",
                (changed(VALUES, 1, VALUES[1].to("meta")), TIMES, TARGET),
            ),
            (
                r"source_times\[2\] must be on cpu \(as values\[0\]\), got meta",
                (VALUES, changed(TIMES, 2, TIMES[2].to("meta")), TARGET),
            ),
            (r"target_times must be on cpu \(as values\[0\]\), got meta", (VALUES, TIMES, TARGET.to("meta"))),
        ):
            try:
                call(*arguments)
            except NotImplementedError:
                continue  # the dispatcher may choose Meta before the check is reached
            except ValueError as error:
                assert text.replace("\\", "") in str(error)
            else:
                pytest.fail("tensors of two devices were taken")


def test_check_on_request(device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    values = [torch.ones(2, 3, 1, device=device)] * 2
    good, bad = (torch.tensor(rows, device=device) for rows in ([[0.0, 1, 2]] * 2, [[0.0, 1, 2], [0, 2, 1]]))
    if device.type == "cuda":
        assert robocache.fuse(values, [good, bad], good).shape == (2, 3, 2)
    monkeypatch.setenv("ROBOCACHE_CHECK", "1")
    with pytest.raises(
        ValueError, match=r"fuse: source_times\[1\] must ascend along each row, got 1\.0 after 2\.0 in row 1"
    ):
        robocache.fuse(values, [good, bad], good)
    lengths = torch.tensor([[3, 3], [3, 4]], device=device)
    with pytest.raises(ValueError, match=r"fuse: source_lengths must be in \[1, 3\], got 4 in row 1 for stream 1"):
        robocache.fuse(values, [good, good], good, source_lengths=lengths)
