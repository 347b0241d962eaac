"""Reads ROS 1 bags, ROS 2 bag folders and MCAP files through rosbags: the numeric fields of any message."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
from rosbags.highlevel import AnyReader
from rosbags.typesys import Stores, get_typestore

from robocache.align.log import Advance, AlignError, Column, Log, Quaternions, Topic, wants
from robocache.align.readers.quaternions import COMPONENTS, PX4_FIELDS, array_quaternions

MAX_ARRAY = 1024  # longer arrays are images and clouds, not channels
REPORT_EVERY = 500  # messages between two reports of progress


def read_ros(log: Log, path: Path, names: Sequence[str], advance: Advance) -> None:
    """Adds the topics of a bag; stamps are header.stamp, or the log time of messages that have none."""
    buffers: dict[str, _Buffer] = {}
    try:
        with AnyReader([path], default_typestore=get_typestore(Stores.ROS2_HUMBLE)) as reader:
            chosen = [link for link in reader.connections if not names or wants(link.topic, names)]
            total = sum(link.msgcount for link in chosen)
            for link in chosen:
                first = buffers.setdefault(link.topic, _Buffer(link.msgtype))
                if first.kind != link.msgtype:
                    log.notes.append(f"{link.topic}: {link.msgtype} is passed over, {first.kind} came first")
            # An empty list would mean every connection.
            messages = reader.messages(connections=chosen) if chosen else iter(())
            for count, (link, log_time, raw) in enumerate(messages):
                if link.msgtype == buffers[link.topic].kind:
                    buffers[link.topic].add(reader.deserialize(raw, link.msgtype), log_time)
                if count % REPORT_EVERY == 0:
                    advance(count, total)
            advance(total, total)
    except Exception as error:  # rosbags passes on whatever its parsers trip over
        raise AlignError(f"{path} must be a ROS bag or MCAP of ROS messages, got {_said(error)}") from None
    for topic, buffer in sorted(buffers.items()):
        log.add(buffer.topic(topic, str(path), log.notes))


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


@dataclasses.dataclass
class _Layout:
    """Messages of one topic whose arrays have one length and one set of names."""

    lengths: tuple[int, ...]
    names: tuple[tuple[str, ...], ...]
    rows: list[int] = dataclasses.field(default_factory=list)
    arrays: list[list[Any]] = dataclasses.field(default_factory=list)


class _Buffer:
    """Collects the messages of one topic, as lists that become columns at the end."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.stamps: list[int] = []
        self.log_times: list[int] = []
        self.scalar_paths: list[str] = []
        self.array_paths: list[str] = []
        self.name_paths: list[str] = []  # for each array: the list of strings beside it, or ""
        self.passed_over: list[str] = []
        self.quaternions: Quaternions = {}
        self.scalars: list[tuple[Any, ...]] = []
        self.layouts: dict[Any, _Layout] = {}
        self.stamped = False
        self.started = False

    def add(self, message: Any, log_time: int) -> None:
        """Takes the numbers out of one message."""
        if not self.started:
            self._start(message)
        self.log_times.append(log_time)
        if self.stamped:
            stamp = message.header.stamp
            self.stamps.append(stamp.sec * 1_000_000_000 + stamp.nanosec)
        self.scalars.append(self.get_scalars(message))
        if self.array_paths:
            arrays = self.get_arrays(message)
            names = tuple(tuple(attrgetter(path)(message)) if path else () for path in self.name_paths)
            key = tuple(len(array) for array in arrays), names
            layout = self.layouts.get(key)
            if layout is None:
                layout = self.layouts[key] = _Layout(*key, arrays=[[] for _ in arrays])
            layout.rows.append(len(self.log_times) - 1)
            for kept, array in zip(layout.arrays, arrays, strict=True):
                kept.append(array if len(array) <= MAX_ARRAY else None)

    def _start(self, message: Any) -> None:
        self.started = True
        self.stamped = hasattr(getattr(message, "header", None), "stamp")
        self._walk(message, "")
        self.get_scalars = _getter(self.scalar_paths)
        self.get_arrays = _getter(self.array_paths)

    def _walk(self, message: Any, prefix: str) -> None:
        """The type fixes which fields are numbers; only the lengths of arrays vary between messages."""
        # What the class already holds are the constants of the message type (STATUS_FIX), not what was sent.
        sent = [item.name for item in dataclasses.fields(message) if not hasattr(type(message), item.name)]
        fields = {name: getattr(message, name) for name in sent}
        # geometry_msgs/Quaternion, and those of that name in other packages.
        if getattr(message, "__msgtype__", "").endswith("/Quaternion") and set(sent) == COMPONENTS:
            self.quaternions[prefix.rstrip(".")] = tuple(prefix + name for name in sent)
        beside = next((name for name in ("name", "joint_names") if isinstance(fields.get(name), list)), "")
        for name, value in fields.items():
            path = prefix + name
            if dataclasses.is_dataclass(value):
                kind = getattr(value, "__msgtype__", "")
                if not kind.endswith(("/Header", "/Time", "/Duration")):
                    self._walk(value, path + ".")
            elif isinstance(value, (bool, int, float, np.number, np.bool_)):
                self.scalar_paths.append(path)
            elif isinstance(value, np.ndarray) and value.dtype.kind in "iufb":
                self.array_paths.append(path)
                self.name_paths.append(prefix + beside if beside else "")
            elif isinstance(value, list) and not (beside and name == beside):
                self.passed_over.append(path)

    def topic(self, name: str, source: str, notes: list[str]) -> Topic:
        """The columns of everything collected; remarks go to `notes`."""
        times = np.array(self.log_times, dtype=np.int64)
        if self.stamped and any(self.stamps):
            times = np.array(self.stamps, dtype=np.int64)
        elif self.log_times:
            reason = "every header.stamp is zero" if self.stamped else "its messages have no header.stamp"
            notes.append(f"{name}: stamped by the time of logging, {reason}")
        if self.passed_over:
            notes.append(f"{name}: passed over {', '.join(self.passed_over)} (lists that are not plain numbers)")
        columns: dict[str, Column] = {}
        for index, path in enumerate(self.scalar_paths):
            columns[path] = Column(np.array([row[index] for row in self.scalars]))
        for index, path in enumerate(self.array_paths):
            columns.update(self._array_columns(name, index, path, notes))
        arrays = array_quaternions(columns, PX4_FIELDS if self.kind.startswith("px4_msgs/") else ())
        return Topic(name, times, columns, source, self.quaternions | arrays)

    def _array_columns(self, topic: str, index: int, path: str, notes: list[str]) -> dict[str, Column]:
        layouts = list(self.layouts.values())
        lengths = {layout.lengths[index] for layout in layouts}
        if max(lengths) > MAX_ARRAY:
            notes.append(f"{topic}: passed over {path}, arrays of up to {max(lengths):,} numbers (limit {MAX_ARRAY:,})")
            return {}
        named = all(
            not layout.lengths[index] or len(layout.names[index]) == layout.lengths[index] for layout in layouts
        )
        if not named and len(lengths) > 1:
            notes.append(f"{topic}: passed over {path}, arrays of {min(lengths)} to {max(lengths)} numbers")
            return {}
        parts: dict[str, list[tuple[list[int], Any]]] = {}
        for layout in layouts:
            table = np.array(layout.arrays[index])
            for channel in range(layout.lengths[index]):
                key = f"{path}.{layout.names[index][channel]}" if named else f"{path}[{channel}]"
                parts.setdefault(key, []).append((layout.rows, table[:, channel]))
        return {key: self._merged(pieces) for key, pieces in parts.items()}

    def _merged(self, pieces: list[tuple[list[int], Any]]) -> Column:
        """A channel that several layouts hold, back in recorded order."""
        rows = np.concatenate([np.array(rows, dtype=np.int64) for rows, _ in pieces])
        values = np.concatenate([values for _, values in pieces])
        order = np.argsort(rows, kind="stable")
        return Column(values[order], None if rows.size == len(self.log_times) else rows[order])


def _getter(paths: list[str]) -> Callable[[Any], tuple[Any, ...]]:
    if not paths:
        return lambda message: ()
    get = attrgetter(*paths)
    return get if len(paths) > 1 else lambda message: (get(message),)
