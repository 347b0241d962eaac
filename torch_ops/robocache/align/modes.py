"""How the channels of each signal are blended: by what they hold, unless `--mode` says otherwise."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

import numpy as np

from robocache.align.log import AlignError, Signal, joined
from robocache.reference.modes import MODES, QUATERNION, read_groups

BLENDS = ("linear", "angle", "pchip")  # computed number by number, which turns no quaternion
Word = tuple[str, int]  # the mode of a channel, and its place in the quaternion that it is slerped with


def choose_modes(signals: Sequence[Signal], texts: Sequence[str], outside: str) -> list[str]:
    """The mode text of each signal.

    Without a text: slerp for known quaternions, previous for integers and booleans, linear for other floats. `MODE`
    goes for every channel, but one of BLENDS leaves known quaternions to slerp. `NAME=MODE` is taken at its word for
    every channel under that name; the longest name that covers a channel decides.
    """
    general: str | None = None
    by_name: dict[str, str] = {}
    for text in texts:
        name, equals, mode = text.rpartition("=")
        if unknown := [part for part in mode.split(",") if part.partition(":")[0] not in MODES]:
            raise AlignError(
                f"--mode must be [NAME=]MODE with MODE one of {', '.join(MODES)}, or groups of them such as "
                f"linear:3,slerp:4, got {unknown[0]} in {text}"
            )
        if not equals:
            general = mode
        elif any(_covered(signal, name) for signal in signals):
            by_name[name] = mode
        else:
            chosen = ", ".join(signal.name for signal in signals)
            raise AlignError(f"--mode NAME=MODE must name a chosen signal, one of {chosen}; got {name}")
    found = [_choose(signal, general, by_name) for signal in signals]
    if outside == "extrapolate":
        for signal, mode in zip(signals, found, strict=True):
            if mode != "linear":
                raise AlignError(
                    f"--outside extrapolate must go with mode linear, got {mode} for {signal.name} (integers and "
                    f"booleans are held and quaternions are slerped unless --mode {signal.name}=linear says otherwise)"
                )
    return found


def default_mode(signal: Signal) -> str:
    """The mode text of a signal that `--mode` does not mention."""
    return _text(_default(signal))


def per_channel(mode: str, channels: int) -> list[str]:
    """The name of each channel's mode."""
    return [name for name, width in read_groups("resample", mode, channels) for _ in range(width)]


def as_groups(mode: str, channels: int) -> str:
    """The mode text with widths, so that it can stand beside those of other signals."""
    return f"{mode}:{channels}" if mode in MODES else mode


def is_under(path: str, name: str) -> bool:
    """Whether a signal or channel is the named one or lies below it."""
    return path == name or path.startswith((name + ".", name + "[", name + "@", name + "#"))


def _covered(signal: Signal, name: str) -> list[int]:
    if is_under(signal.name, name):
        return list(range(len(signal.channels)))
    topic = signal.topic
    turned = [paths for own, paths in topic.quaternions.items() if is_under(joined(topic.name, own), name)]
    named = {joined(topic.name, path) for paths in turned for path in paths}
    return [index for index, channel in enumerate(signal.channels) if is_under(channel, name) or channel in named]


def _default(signal: Signal) -> list[Word]:
    words: list[Word] = [("previous" if held else "linear", 0) for held in signal.held]
    for start in signal.quaternions.values():
        # Sensors without an orientation send four zeros, which no mode can turn.
        known = np.any(signal.values[:, start : start + QUATERNION] != 0)
        for place in range(QUATERNION):
            words[start + place] = ("slerp", place) if known else ("previous", 0)
    return words


def _choose(signal: Signal, general: str | None, by_name: dict[str, str]) -> str:
    words = _default(signal)
    if general is not None:
        turned = {start + place for start in signal.quaternions.values() for place in range(QUATERNION)}
        for index, word in enumerate(_read(signal.name, general, len(words))):
            if general not in BLENDS or index not in turned:
                words[index] = word
    for name in sorted(by_name, key=len):
        covered = _covered(signal, name)
        if covered:
            for index, word in zip(covered, _read(name, by_name[name], len(covered)), strict=True):
                words[index] = word
    index = 0
    while index < len(words):
        whole = [("slerp", place) for place in range(QUATERNION)]
        if words[index][0] != "slerp":
            index += 1
        elif words[index : index + QUATERNION] == whole:
            index += QUATERNION
        else:
            raise AlignError(
                f"--mode must give slerp whole quaternions, four neighbouring channels, got {_text(words)} for "
                f"{signal.name} ({', '.join(signal.channels)})"
            )
    return _text(words)


def _read(name: str, mode: str, channels: int) -> list[Word]:
    """A mode text over that many channels; what the operator would refuse is refused in its words."""
    try:
        groups = read_groups("resample", mode, channels)
    except ValueError as error:
        raise AlignError(f"--mode of {name} {str(error).removeprefix('resample: mode ')}") from None
    return [(word, place % QUATERNION if word == "slerp" else 0) for word, width in groups for place in range(width)]


def _text(words: Sequence[Word]) -> str:
    runs = [(name, len(list(run))) for name, run in groupby(name for name, _ in words)]
    return runs[0][0] if len(runs) == 1 else ",".join(f"{name}:{width}" for name, width in runs)
