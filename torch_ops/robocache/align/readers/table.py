"""Reads CSV, Parquet and whitespace-separated text: one file is one topic, named by its stem."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet

from robocache.align.clock import UNITS, ticks_to_ns
from robocache.align.log import AlignError, Array, Column, Log, Topic
from robocache.align.readers.options import TableOptions
from robocache.align.readers.quaternions import table_quaternions

TIME_NAMES = ("time", "timestamp", "stamp", "t", "sec", "secs", "seconds")  # each also with _s, _ms, _us, _ns
EMPTY = ["", "NA", "N/A", "null", "NULL", "None"]  # cells of a CSV that hold no sample; nan is a sample that is NaN
MAX_SPLIT = 64  # more different values than this are measurements, not labels


def read_table(log: Log, path: Path, options: TableOptions) -> None:
    """Adds one table; empty cells are no samples, so that a wide table may hold signals of several rates."""
    try:
        table = _open(path, options.names(path.stem))
    except (pa.ArrowException, OSError, ValueError) as error:
        raise AlignError(f"{path} must be readable as a table, got {' '.join(str(error).split())[:300]}") from None
    while any(pa.types.is_struct(kind) for kind in table.schema.types):
        table = table.flatten()
    if table.num_rows == 0:
        raise AlignError(f"{path} must have at least one row, got none")
    options.seen[path.stem] = list(table.column_names)
    name = _time_name(path, table.column_names, options)
    times = _times(path, name, table.column(name), options, log)
    columns: dict[str, Column] = {}
    passed_over = []
    for other in table.column_names:
        if other != name:
            found = _columns(other, table.column(other))
            columns.update(found)
            if not found:
                passed_over.append(other)
    if passed_over:
        log.notes.append(f"{path.stem}: passed over {', '.join(passed_over)} (not numbers, or lists of uneven length)")
    keys = [key for key in options.split_by if key in columns]
    if keys:
        columns = _split(path, columns, keys)
    log.add(Topic(path.stem, times, columns, str(path), table_quaternions(columns)))


def _open(path: Path, names: list[str] | None) -> pa.Table:
    suffix = path.suffix.lower()
    if suffix in {".parquet", ".pq"}:
        table = pa.parquet.read_table(path)
    elif suffix in {".csv", ".tsv"}:
        delimiter = "," if suffix == ".csv" else "\t"
        table = pa.csv.read_csv(
            path,
            parse_options=pa.csv.ParseOptions(delimiter=delimiter),
            convert_options=pa.csv.ConvertOptions(null_values=EMPTY),
        )
    else:
        return _text(path, names)
    return table if names is None else table.rename_columns(_checked(path, names, table.num_columns))


def _checked(path: Path, names: list[str], width: int) -> list[str]:
    if len(names) != width:
        raise AlignError(f"--columns must name the {width} columns of {path}, got {len(names)}: {', '.join(names)}")
    return names


def _text(path: Path, names: list[str] | None) -> pa.Table:
    """Numbers in columns; a first line that does not begin with a number (or begins with #) is a header."""
    with path.open(encoding="utf-8") as file:
        first = file.readline()
    header = first.lstrip("# ").split()
    headed = bool(header) and not _is_number(header[0])
    data = np.loadtxt(path, dtype=np.float64, ndmin=2, skiprows=1 if headed else 0)
    if names is not None:
        _checked(path, names, data.shape[1])
    elif headed and len(header) == data.shape[1]:
        names = header
    else:
        names = ["time"] + [f"column{index}" for index in range(1, data.shape[1])]
    columns = [pa.array(np.ascontiguousarray(data[:, index])) for index in range(data.shape[1])]
    return pa.table(columns, names=names)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _time_name(path: Path, names: list[str], options: TableOptions) -> str:
    if options.time_column is not None:
        if options.time_column not in names:
            raise AlignError(
                f"--time-column must name a column of {path}, one of {', '.join(names)}; got {options.time_column}"
            )
        return options.time_column
    known = [stem + end for stem in TIME_NAMES for end in ("_ns", "_us", "_ms", "_s", "")]
    for candidate in known:
        for name in names:
            if name.lower() == candidate:
                return name
    raise AlignError(f"{path} must have a time column (--time-column NAME), got {', '.join(names)}")


def _times(path: Path, name: str, column: pa.ChunkedArray, options: TableOptions, log: Log) -> Array:
    """Stamps as int64 nanoseconds: exact for integers, correctly rounded for floats."""
    if column.null_count:
        raise AlignError(f"{path}: every row must have a time, got {column.null_count} empty cells in {name}")
    kind = column.type
    if pa.types.is_timestamp(kind) or pa.types.is_duration(kind):
        unit = kind.unit
        values = column.cast(pa.int64()).to_numpy()
    elif pa.types.is_integer(kind) or pa.types.is_floating(kind):
        values = column.to_numpy()
        by_name = next((unit for unit in ("ns", "us", "ms", "s") if name.lower().endswith("_" + unit)), None)
        unit = options.time_unit or by_name or ("s" if values.dtype.kind == "f" else None)
        if unit is None:
            raise AlignError(f"{path}: integer times in {name} need --time-unit, one of {', '.join(UNITS)}")
        if values.dtype.kind == "f" and values.size and np.spacing(np.abs(values).max()) * UNITS[unit] > 1e6:
            step = float(np.spacing(np.abs(values).max())) * UNITS[unit] / 1e6
            log.notes.append(f"{path.stem}: {values.dtype} times in {name} are only good to {step:.3g} ms")
    else:
        raise AlignError(f"{path}: times in {name} must be numbers or timestamps, got {kind}")
    try:
        return ticks_to_ns(values, unit)
    except ValueError as error:
        raise AlignError(f"{path}: times in {name} {error}") from None


def _columns(name: str, column: pa.ChunkedArray) -> dict[str, Column]:
    """A column of numbers is one channel, a column of equally long lists is one channel per element."""
    kind = column.type
    present = np.flatnonzero(column.is_valid().to_numpy()) if column.null_count else None
    column = column.drop_null()
    if pa.types.is_decimal(kind):
        column, kind = column.cast(pa.float64()), pa.float64()
    if _is_plain(kind):
        return {name: Column(_numpy(column), present)}
    if not (pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)):
        return {}
    lengths = pc.unique(pc.list_value_length(column)).to_pylist()
    if len(lengths) != 1 or not lengths[0] or not _is_plain(kind.value_type):
        return {}
    table = _numpy(pc.list_flatten(column)).reshape(-1, lengths[0])
    return {f"{name}[{index}]": Column(table[:, index], present) for index in range(lengths[0])}


def _is_plain(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind))


def _numpy(column: Any) -> Array:
    values: Array = column.to_numpy()  # a null inside a list becomes NaN here
    return values.astype(np.float64) if values.dtype.kind == "O" else values


def _split(path: Path, columns: dict[str, Column], keys: list[str]) -> dict[str, Column]:
    """Cuts every column by the values of the key columns: `range` becomes `range@receiver=6` and its siblings."""
    for key in keys:
        if columns[key].rows is not None:
            raise AlignError(f"--split-by {key}: every row of {path} must have a value, got empty cells")
    table = np.stack([columns[key].values for key in keys], axis=1)
    labels, of_row = np.unique(table, axis=0, return_inverse=True)
    if len(labels) > MAX_SPLIT:
        raise AlignError(f"--split-by must give at most {MAX_SPLIT} parts, got {len(labels)} in {path}")
    split: dict[str, Column] = {}
    for number, label in enumerate(labels):
        suffix = ",".join(f"{key}={_label(value)}" for key, value in zip(keys, label, strict=True))
        rows = np.flatnonzero(of_row.reshape(-1) == number)
        for name, column in columns.items():
            if name in keys:
                continue
            if column.rows is None:
                split[f"{name}@{suffix}"] = Column(column.values[rows], rows)
            else:
                kept = np.isin(column.rows, rows)
                if kept.any():
                    split[f"{name}@{suffix}"] = Column(column.values[kept], column.rows[kept])
    return split


def _label(value: Any) -> str:
    return str(int(value)) if float(value).is_integer() else f"{float(value):g}"
