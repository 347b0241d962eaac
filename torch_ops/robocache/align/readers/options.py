"""What the command line says about tables: column names, the time column and its unit, the split."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from robocache.align.log import AlignError


@dataclass
class TableOptions:
    """Options of the table readers (CSV, Parquet, whitespace-separated text)."""

    columns: list[str] = field(default_factory=list)  # "STEM=NAME,NAME" or "NAME,NAME"
    time_column: str | None = None
    time_unit: str | None = None
    split_by: list[str] = field(default_factory=list)
    seen: dict[str, list[str]] = field(default_factory=dict)  # the columns found, by stem

    def check(self, stems: Sequence[str]) -> None:
        """Refuses options that no given table answers to."""
        given = [
            option
            for option, value in (
                ("--columns", self.columns),
                ("--time-column", self.time_column),
                ("--time-unit", self.time_unit),
                ("--split-by", self.split_by),
            )
            if value
        ]
        if given and not stems:
            raise AlignError(f"{given[0]} goes with a table (CSV, Parquet, text), got none among the logs")
        for text in self.columns:
            stem, equals, _ = text.partition("=")
            if equals and stem not in stems:
                raise AlignError(f"--columns must begin with one of {', '.join(stems)}, got {stem}")
            if not equals and len(stems) > 1:
                raise AlignError(f"--columns must be STEM=NAME,NAME,... when several tables are given, got {text}")

    def check_split(self, columns: set[str]) -> None:
        """Every split column must stand in some table."""
        for name in self.split_by:
            if name not in columns:
                raise AlignError(f"--split-by must name a column, one of {', '.join(sorted(columns))}; got {name}")

    def names(self, stem: str) -> list[str] | None:
        """The column names given for the table of this stem."""
        for text in self.columns:
            head, equals, rest = text.partition("=")
            if not equals or head == stem:
                names = [name.strip() for name in (rest if equals else text).split(",")]
                if len(set(names)) != len(names) or not all(names):
                    raise AlignError(f"--columns must give each column of {stem} a name of its own, got {text}")
                return names
        return None
