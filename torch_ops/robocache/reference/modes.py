"""How channels are blended and what lies outside: the texts `mode` and `outside`, read and checked."""

from __future__ import annotations

import torch

from robocache.reference.checks import FLOATS, name_of, refuse

MODES = ("linear", "previous", "next", "nearest", "angle", "slerp", "pchip")
COPIES = ("previous", "next", "nearest")
OUTSIDE = ("hold", "nan", "zero", "extrapolate")
QUATERNION = 4  # channels

Groups = list[tuple[str, int]]  # the mode and the width of each group of channels, from left to right


def is_plain(mode: str) -> bool:
    """True for one mode for all channels."""
    return ":" not in mode and "," not in mode


def read_groups(op: str, mode: str, channels: int) -> Groups:
    """Reads ``"linear"`` or ``"linear:7,slerp:4,previous:*"`` for that many channels."""
    fields = [mode + ":*"] if is_plain(mode) else mode.split(",")
    groups, covered = [], 0
    for position, field in enumerate(fields):
        name, colon, width = field.partition(":")
        if not colon:
            raise ValueError(refuse(op, "mode", "have groups NAME:WIDTH separated by commas", f'"{mode}"'))
        if name not in MODES:
            raise ValueError(refuse(op, "mode", f"be made of {', '.join(MODES)}", f'"{name}"'))
        if width == "*" and position < len(fields) - 1:
            raise ValueError(refuse(op, "mode", "have * in the last group only", f'"{mode}"'))
        if width != "*" and not (width.isascii() and width.isdigit() and 0 < int(width) < 2**64):
            raise ValueError(refuse(op, "mode", "have groups NAME:WIDTH separated by commas", f'"{mode}"'))
        groups.append((name, max(channels - covered, 0) if width == "*" else int(width)))
        covered += groups[-1][1]
    if covered != channels:
        found = f'"{mode}", which covers {covered}'
        raise ValueError(refuse(op, "mode", f"cover the {channels} channels of values", found))
    if any(name == "slerp" and width % QUATERNION for name, width in groups):
        found = f'"{mode}"' + (f" for {channels} channels" if is_plain(mode) or mode.endswith("*") else "")
        raise ValueError(refuse(op, "mode", f"give slerp whole quaternions of {QUATERNION} channels", found))
    return groups


def split_groups(op: str, mode: str, widths: list[int]) -> list[Groups]:
    """The groups of each of several streams that lie side by side, from a mode that runs over all their channels."""
    if is_plain(mode):
        return [read_groups(op, mode, width) for width in widths]
    spans, start = [], 0
    for name, width in read_groups(op, mode, sum(widths)):
        spans.append((name, start, start + width))
        start += width
    streams: list[Groups] = []
    start = 0
    for stream, width in enumerate(widths):
        end = start + width
        if any(name == "slerp" and start <= first < end < last for name, first, last in spans):
            found = f'"{mode}", whose slerp group crosses into values[{stream + 1}]'
            raise ValueError(refuse(op, "mode", "keep each slerp group within one stream", found))
        own = [(name, min(last, end) - max(first, start)) for name, first, last in spans]
        streams.append([(name, width) for name, width in own if width > 0])
        start = end
    return streams


def check_modes(op: str, dtype: torch.dtype, groups: Groups, outside: str) -> None:
    """Refuses what a value type or an outside rule does not go with."""
    names = [name for name, _ in groups]
    if outside not in OUTSIDE:
        raise ValueError(refuse(op, "outside", f"be one of {', '.join(OUTSIDE)}", f'"{outside}"'))
    blends = next((name for name in names if name not in COPIES), None)
    if dtype not in FLOATS and blends is not None:
        types = f'be float64, float32, float16 or bfloat16 for mode "{blends}"'
        raise TypeError(refuse(op, "values", types, name_of(dtype)))
    if dtype not in FLOATS and outside == "nan":
        raise ValueError(refuse(op, "outside", "be hold or zero for integer values", f'"{outside}"'))
    if outside == "extrapolate" and names != ["linear"] * len(names):
        found = next(name for name in names if name != "linear")
        raise ValueError(f'{op}: outside "extrapolate" must go with mode linear only, got mode "{found}"')
