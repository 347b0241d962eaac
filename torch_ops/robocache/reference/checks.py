"""The checks and texts that the operators share, and the types that they take."""

from __future__ import annotations

import os

import torch
from torch import Tensor

HALVES = (torch.float16, torch.bfloat16)
FLOATS = (torch.float64, torch.float32, *HALVES)
UNSIGNED = {torch.uint16: torch.int16, torch.uint32: torch.int32, torch.uint64: torch.int64}
INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, *UNSIGNED, torch.bool)
TIMES = (torch.float32, torch.float64, torch.int64)


def refuse(op: str, argument: str, must: str, found: object) -> str:
    """The text of an error: the operator, the argument, what must hold and what was found."""
    return f"{op}: {argument} must {must}, got {found}"


def name_of(dtype: torch.dtype) -> str:
    """The type as the texts spell it, such as ``float32``."""
    return str(dtype).removeprefix("torch.")


def check_value_type(op: str, argument: str, values: Tensor) -> None:
    """Refuses what cannot be resampled at all."""
    if values.dtype not in FLOATS and values.dtype not in INTEGERS:
        types = "be float64, float32, float16, bfloat16, an integer type or bool"
        raise TypeError(refuse(op, argument, types, name_of(values.dtype)))


def check_same_type(op: str, argument: str, tensor: Tensor, first_argument: str, first: Tensor) -> None:
    """Refuses another type than that of an argument before."""
    if tensor.dtype != first.dtype:
        wanted = f"be {name_of(first.dtype)} (as {first_argument})"
        raise TypeError(refuse(op, argument, wanted, name_of(tensor.dtype)))


def check_time_type(op: str, argument: str, times: Tensor) -> None:
    """Refuses times that are neither f32, f64 nor int64."""
    if times.dtype not in TIMES:
        raise TypeError(refuse(op, argument, "be float32, float64 or int64", name_of(times.dtype)))


def check_length_type(op: str, lengths: Tensor | None) -> None:
    """Refuses lengths that are no int32 or int64."""
    if lengths is not None and lengths.dtype not in (torch.int32, torch.int64):
        raise TypeError(refuse(op, "source_lengths", "be int32 or int64", name_of(lengths.dtype)))


def check_device(op: str, argument: str, tensor: Tensor | None, first_argument: str, first: Tensor) -> None:
    """Refuses another device than that of an argument before."""
    if tensor is not None and tensor.device != first.device:
        raise ValueError(refuse(op, argument, f"be on {first.device} (as {first_argument})", tensor.device))


def check_shape(op: str, argument: str, tensor: Tensor, expected: list[int]) -> None:
    """Refuses another shape."""
    if list(tensor.shape) != expected:
        raise ValueError(refuse(op, argument, f"have shape {expected}", list(tensor.shape)))


def check_source_axes(op: str, argument: str, source: Tensor) -> None:
    """Refuses times that are neither shared nor those of each row."""
    if source.dim() not in (1, 2):
        raise ValueError(refuse(op, argument, "have shape [B, S] or [S]", list(source.shape)))


def check_target_shape(op: str, target: Tensor, batch: int) -> None:
    """Refuses targets that are neither shared nor those of each row."""
    if target.dim() != 1 and (target.dim() != 2 or target.shape[0] != batch):
        raise ValueError(refuse(op, "target_times", f"have shape [B, T] or [T] with B = {batch}", list(target.shape)))


def check_contents(
    op: str, argument: str, source: Tensor, lengths: Tensor | None, samples: int, of_stream: str = ""
) -> None:
    """Refuses wrong lengths and an order that does not ascend; on other devices than the CPU only where asked to."""
    # Reading the contents waits for the device.
    checked = source.device.type == "cpu" or os.environ.get("ROBOCACHE_CHECK") == "1"
    if source.is_meta or not checked:
        return
    if lengths is not None:
        for row, length in enumerate(lengths.tolist()):
            if not 1 <= length <= samples:
                found = f"{length} in row {row}{of_stream}"
                raise ValueError(refuse(op, "source_lengths", f"be in [1, {samples}]", found))
    rows = source.detach().unsqueeze(0) if source.dim() == 1 else source.detach()
    wrong = ~(rows[:, 1:] >= rows[:, :-1])  # a NaN is out of order too
    if lengths is not None:
        wrong = wrong & (torch.arange(1, samples, device=rows.device) < lengths.unsqueeze(1))
    if bool(wrong.any()):
        row, column = wrong.nonzero()[0].tolist()
        later, earlier = rows[row % rows.shape[0], column + 1].item(), rows[row % rows.shape[0], column].item()
        found = f"{later} after {earlier} in row {row} at sample {column + 1}"
        raise ValueError(refuse(op, argument, "ascend along each row", found))
