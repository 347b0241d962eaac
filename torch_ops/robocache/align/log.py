"""A log in memory: topics with int64 nanosecond stamps, and the signals that a name picks out of them."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Quaternions = dict[str, tuple[str, ...]]  # name -> the paths of its four columns, in recorded order
Advance = Callable[[int, int | None], None]  # (done, of how many or None): called now and then while reading


class AlignError(Exception):
    """Something that the user can mend: printed as it is, without a traceback, and the command exits with 2."""


@dataclass(frozen=True)
class Column:
    """One recorded number per row; `rows` names the rows of the topic that have it (None: all)."""

    values: Array  # [S]
    rows: Array | None = None  # [S] int64, ascending


@dataclass
class Topic:
    """Everything recorded under one name, on one clock."""

    name: str
    times: Array  # [N] int64, nanoseconds, in recorded order
    columns: dict[str, Column]
    source: str  # the file that it came from
    quaternions: Quaternions = field(default_factory=dict)  # columns that are one rotation together


@dataclass
class Log:
    """The topics read, and remarks for the user."""

    topics: dict[str, Topic] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def add(self, topic: Topic) -> None:
        """Takes in a topic; two files may not bring the same name."""
        if topic.name in self.topics:
            other = self.topics[topic.name].source
            raise AlignError(f"topic names must differ between logs, got {topic.name} from {other} and {topic.source}")
        self.topics[topic.name] = topic


@dataclass(frozen=True)
class Signal:
    """Channels that share their stamps and are resampled in one call."""

    name: str
    topic: Topic
    channels: tuple[str, ...]
    rows: Array | None
    values: Array  # [S, D], float64 unless every channel is of one other type
    held: tuple[bool, ...]  # per channel: integers and booleans are states, not to be blended
    quaternions: dict[str, int]  # name -> first channel, of those that lie in the signal as neighbours

    @property
    def times(self) -> Array:
        """Stamps of the samples, [S] int64 nanoseconds."""
        return self.topic.times if self.rows is None else self.topic.times[self.rows]

    def between(self, first_row: int, end_row: int) -> slice:
        """The samples recorded in rows first_row <= row < end_row of the topic."""
        if self.rows is None:
            return slice(first_row, end_row)
        low, high = np.searchsorted(self.rows, [first_row, end_row])
        return slice(int(low), int(high))


def parent(path: str) -> str:
    """The signal that a column belongs to when nothing is said: `accel.x` and `accel[0]` belong to `accel`."""
    stem, split, key = path.partition("@")
    if stem.endswith("]"):
        stem = stem[: stem.rindex("[")]
    elif "." in stem:
        stem = stem[: stem.rindex(".")]
    return stem + split + key


def joined(topic: str, path: str) -> str:
    """The full name of a path; an empty one is the topic itself."""
    return f"{topic}.{path}" if path else topic


def topic_signals(topic: Topic) -> list[str]:
    """Names of the signals of a topic, in recorded order; columns such as `qx` go by their quaternion, `q`."""
    turned = {path: name for name, paths in topic.quaternions.items() for path in paths}
    parents = {path: parent(path) for path in topic.columns}
    named = (turned.get(path, path) if own == path else own for path, own in parents.items())
    return list(dict.fromkeys(joined(topic.name, name) for name in named))


def wants(topic: str, names: Iterable[str]) -> bool:
    """Whether one of the signal names lies in this topic."""
    return any(name == topic or name.startswith(topic + ".") for name in names)


def select(log: Log, name: str) -> list[Signal]:
    """The signals under a name: a topic, a field with everything below it, or one channel."""
    for topic in sorted(log.topics.values(), key=lambda topic: -len(topic.name)):
        if not wants(topic.name, [name]):
            continue
        wanted = name[len(topic.name) + 1 :]
        turned = {path for name, paths in topic.quaternions.items() if _lies_under(name, wanted) for path in paths}
        paths = [path for path in topic.columns if not wanted or _lies_under(path, wanted) or path in turned]
        if not topic.times.size:
            raise AlignError(f"topic {topic.name} must have at least one sample, got none in {topic.source}")
        if paths:
            return list(_signals(topic, name, paths))
    raise AlignError(_unknown(log, name))


def _lies_under(path: str, wanted: str) -> bool:
    base, _, key = wanted.partition("@")
    if key:
        stem, _, path_key = path.partition("@")
        return path_key == key and (stem == base or stem.startswith((base + ".", base + "[")))
    return path == wanted or path.startswith((wanted + ".", wanted + "[", wanted + "@"))


def _signals(topic: Topic, name: str, paths: list[str]) -> Iterator[Signal]:
    """One signal for each set of rows: columns sampled at different moments cannot share a call."""
    groups: dict[bytes | None, list[str]] = {}
    for path in paths:
        rows = topic.columns[path].rows
        groups.setdefault(None if rows is None else rows.tobytes(), []).append(path)
    for number, group in enumerate(groups.values(), start=1):
        parents = {parent(path) for path in group}
        if len(group) == 1:
            label = f"{topic.name}.{group[0]}"
        elif len(groups) == 1:
            label = name
        elif len(parents) == 1 and sum(parent(path) in parents for path in paths) == len(group):
            label = f"{topic.name}.{parents.pop()}"
        else:
            label = f"{name}#{number}"
        columns = [topic.columns[path] for path in group]
        starts = {name: group.index(paths[0]) for name, paths in topic.quaternions.items() if paths[0] in group}
        yield Signal(
            label,
            topic,
            tuple(f"{topic.name}.{path}" for path in group),
            columns[0].rows,
            np.stack([column.values for column in columns], axis=1),
            tuple(column.values.dtype.kind in "iub" for column in columns),
            {
                joined(topic.name, quaternion): start
                for quaternion, start in starts.items()
                if tuple(group[start : start + 4]) == topic.quaternions[quaternion]
            },
        )


def accumulate(log: Log, name: str) -> None:
    """Turns per-step increments into their running sum, which can be interpolated; `x` becomes `x@sum`."""
    for signal in select(log, name):
        columns = signal.topic.columns
        summed = {channel[len(signal.topic.name) + 1 :] for channel in signal.channels}
        signal.topic.columns = {
            f"{path}@sum" if path in summed else path: (
                Column(np.cumsum(column.values, dtype=np.float64), column.rows) if path in summed else column
            )
            for path, column in columns.items()
        }


def _unknown(log: Log, name: str) -> str:
    known = [signal for topic in log.topics.values() for signal in topic_signals(topic)]
    names = known + list(log.topics)
    near = [other for other in names if name.strip("/") and name.strip("/") in other]
    near += difflib.get_close_matches(name, names, n=5, cutoff=0.5)
    near = list(dict.fromkeys(near))[:5] or names[:5]
    hint = f"; near names: {', '.join(near)}" if near else ""
    return f"--signal must name a signal of the log, got {name}{hint} (--signals-list prints them all)"
