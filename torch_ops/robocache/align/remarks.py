"""Remarks on numbers that the chosen mode or type does not do justice to."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from robocache.align.log import Signal, joined
from robocache.align.modes import BLENDS, per_channel
from robocache.reference.modes import QUATERNION

COARSE = 1e-3  # a float32 step above this part of a signal's range is worth a remark
UNIT = 1e-3  # norms this close to 1, all along, make four channels look like a quaternion


def remarks(signals: Sequence[Signal], modes: Sequence[str], dtype: str) -> list[str]:
    """Everything worth saying, signal by signal."""
    found = []
    for signal, mode in zip(signals, modes, strict=True):
        found += _precision(signal, dtype) + _unknown_quaternion(signal, mode)
        found += _zero_quaternions(signal, mode) + _parts(signal, mode)
    return found


def _precision(signal: Signal, dtype: str) -> list[str]:
    """Says where float32 cannot follow the recorded numbers (latitudes, counters, bit fields)."""
    if dtype != "float32" or signal.values.dtype == np.float32 or signal.values.dtype.kind == "b":
        return []
    finite = np.where(np.isfinite(signal.values), signal.values, 0).astype(np.float64)
    spread = finite.max(axis=0) - finite.min(axis=0)
    step = np.spacing(np.abs(finite).max(axis=0).astype(np.float32)).astype(np.float64)
    exact = (finite == finite.astype(np.float32)).all(axis=0)
    coarse = np.flatnonzero((step > COARSE * spread) & (spread > 0) & ~exact)
    return [
        f"{signal.channels[index]}: float32 steps by {step[index]:.2g} there, of a range of {spread[index]:.2g}; "
        "--dtype float64 keeps it"
        for index in coarse
    ]


def _unknown_quaternion(signal: Signal, mode: str) -> list[str]:
    """Says where what looks like unit quaternions, but is not known to be, is blended number by number."""
    values = signal.values.astype(np.float64)
    if signal.quaternions or mode not in BLENDS or values.shape[1] != QUATERNION:
        return []
    if not (np.abs(np.linalg.norm(values, axis=1) - 1) < UNIT).all():
        return []
    turns = int(((values[1:] * values[:-1]).sum(axis=1) < 0).sum())
    found = f" and passes near zero where the sign turns over ({turns:,} times here)" if turns else ""
    return [
        f"{signal.name}: looks like unit quaternions, whose norm {mode} does not keep{found}; "
        f"--mode {signal.name}=slerp turns from one to the next"
    ]


def _zero_quaternions(signal: Signal, mode: str) -> list[str]:
    """Says where a known quaternion holds zeros, which are no rotation."""
    found = []
    names = per_channel(mode, len(signal.channels))
    for name, start in signal.quaternions.items():
        zeros = int((signal.values[:, start : start + QUATERNION] == 0).all(axis=1).sum())
        if zeros == len(signal.values) and names[start] == "previous":
            found.append(f"{name}: zero in all samples, which is no rotation; copied, not slerped")
        elif zeros and names[start] == "slerp":
            found.append(
                f"{name}: zero in {zeros:,} of {len(signal.values):,} samples, which is no rotation; slerp gives NaN "
                f"beside them, --mode {name}=previous copies samples"
            )
    return found


def _parts(signal: Signal, mode: str) -> list[str]:
    """Says where a component of a known quaternion is blended without the others."""
    names = dict(zip(signal.channels, per_channel(mode, len(signal.channels)), strict=True))
    found = []
    for name, paths in signal.topic.quaternions.items():
        whole = joined(signal.topic.name, name)
        taken = [channel for path in paths if names.get(channel := joined(signal.topic.name, path)) in BLENDS]
        if taken and whole not in signal.quaternions:
            found.append(
                f"{', '.join(taken)}: part of a quaternion, blended by itself; --signal {whole} takes all four "
                "and slerps them"
            )
    return found
