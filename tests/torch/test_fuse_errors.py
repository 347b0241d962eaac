"""Wrong calls of `fuse` that the table of cases cannot say: unbatched ones, other devices, contents on request."""

from __future__ import annotations

import pytest
import robocache
import torch
from torch import Tensor


def ones(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.ones(shape, dtype=dtype)


VALUES, TIMES, TARGET = [ones(2, 5, 3), ones(2, 6, 5), ones(2, 7, 4)], [ones(2, 5), ones(2, 6), ones(2, 7)], ones(2, 4)


def changed(tensors: list[Tensor], place: int, tensor: Tensor) -> list[Tensor]:
    return [tensor if index == place else x for index, x in enumerate(tensors)]


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
            (
                r"source_lengths must have shape \[1, 2\], got \[2\]",
                (values, times, target),
                ones(2, dtype=torch.int32),
            ),
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
