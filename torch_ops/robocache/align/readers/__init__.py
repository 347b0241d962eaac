"""One reader for each kind of log; all give topics with int64 nanosecond stamps."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from robocache.align.log import Advance, AlignError, Log
from robocache.align.readers.options import TableOptions

ROS = {".bag", ".mcap", ".db3"}
TABLES = {".csv", ".parquet", ".pq", ".txt", ".dat", ".tsv"}


def read_logs(paths: Sequence[Path], names: Sequence[str], options: TableOptions, advance: Advance) -> Log:
    """Reads every log; `names` (empty: all) limits the topics that are decoded."""
    log = Log()
    tables = [path for path in paths if path.suffix.lower() in TABLES]
    options.check([path.stem for path in tables])
    for path in paths:
        if not path.exists():
            raise AlignError(f"LOG must be a file or a ROS 2 bag folder, got {path}, which does not exist")
        suffix = path.suffix.lower()
        if path.is_dir() or suffix in ROS:
            from robocache.align.readers.ros import read_ros

            read_ros(log, path, names, advance)
        elif suffix == ".ulg":
            from robocache.align.readers.ulog import read_ulog

            read_ulog(log, path, names)
        elif suffix in TABLES:
            from robocache.align.readers.table import read_table

            read_table(log, path, options)
        else:
            kinds = ", ".join(sorted(ROS | TABLES | {".ulg"}))
            raise AlignError(f"LOG must be a ROS 2 bag folder or end in one of {kinds}, got {path}")
    if tables:
        options.check_split({column for path in tables for column in options.seen.get(path.stem, ())})
    return log
