"""How far apart the samples of each signal may lie before targets between them count as unknown: `--max-gap`."""

from __future__ import annotations

from collections.abc import Sequence

from robocache.align.clock import seconds_to_ns
from robocache.align.log import AlignError, Signal
from robocache.align.modes import is_under


def choose_gaps(signals: Sequence[Signal], texts: Sequence[str]) -> list[int | None]:
    """The longest gap of each signal in ns, None: any. The longest name that a signal lies under decides."""
    general: int | None = None
    by_name: dict[str, int | None] = {}
    for text in texts:
        name, equals, seconds = text.rpartition("=")
        gap = _gap(text, seconds)
        if not equals:
            general = gap
        elif any(is_under(signal.name, name) for signal in signals):
            by_name[name] = gap
        else:
            chosen = ", ".join(signal.name for signal in signals)
            raise AlignError(f"--max-gap NAME=SECONDS must name a chosen signal, one of {chosen}; got {name}")
    gaps = []
    for signal in signals:
        names = sorted((name for name in by_name if is_under(signal.name, name)), key=len)
        gaps.append(by_name[names[-1]] if names else general)
    return gaps


def _gap(text: str, seconds: str) -> int | None:
    if seconds.lower() == "inf":
        return None
    gap = seconds_to_ns("--max-gap", seconds)
    if gap < 0:
        raise AlignError(f"--max-gap must be at least 0 s, got {text}")
    return gap
