"""Reads PX4 ULog files through pyulog."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from pyulog import ULog

from robocache.align.log import AlignError, Column, Log, Topic
from robocache.align.readers.quaternions import px4_quaternions


def read_ulog(log: Log, path: Path, names: Sequence[str]) -> None:
    """Adds the topics of a ULog; its microsecond stamps become nanoseconds, in integers."""
    wanted = sorted({name.partition(".")[0] for name in names}) or None
    try:
        ulog = ULog(str(path), wanted)
    except Exception as error:  # pyulog passes on whatever its parser trips over
        raise AlignError(f"{path} must be a PX4 ULog, got {type(error).__name__}: {error}") from None
    instances = Counter(data.name for data in ulog.data_list)
    for data in ulog.data_list:
        # A topic of one instance goes by its plain name even where PX4 numbers it 1 (actuator_outputs).
        plain = data.multi_id == 0 or instances[data.name] == 1
        columns = {
            field.field_name: Column(_booleans(data.data[field.field_name], field.type_str))
            for field in data.field_data
            # Other stamps of the message (timestamp_sample) are clocks, not signals.
            if not field.field_name.startswith(("timestamp", "_padding")) and field.type_str != "char"
        }
        times = data.data["timestamp"].astype(np.int64) * 1000
        name = data.name if plain else f"{data.name}.{data.multi_id}"
        log.add(Topic(name, times, columns, str(path), px4_quaternions(name, columns)))
    if ulog.file_corruption:
        log.notes.append(f"{path}: damaged in places; pyulog passed over what it could not read")
    if ulog.dropouts:
        lost = sum(dropout.duration for dropout in ulog.dropouts)
        log.notes.append(f"{path}: the logger dropped data {len(ulog.dropouts)} times, {lost} ms in all")


def _booleans(values: np.ndarray, kind: str) -> np.ndarray:
    return values.astype(bool) if kind == "bool" else values
