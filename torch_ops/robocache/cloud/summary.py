"""The terminal's side of `robocache voxelize`: what became of the points, the grid, the tensors and the files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from robocache.cloud.voxels import Share, Voxels

MAX_ROWS = 12  # clouds in the table: as many as are read at a glance
AXES = {"grid": "", "coords": "b, x, y, z", "values": "a row for each voxel", "point_voxel": "row of each point, or -1"}


def report(out: Console, voxels: Voxels, written: Sequence[Path], notes: Sequence[str]) -> None:
    """Prints the table, every remark, the grid, the tensors and the files."""
    out.print(_table(voxels))
    for note in notes:
        out.print(Text(f"note: {note}", style="yellow"))
    if voxels.dropped_rows:
        out.print(Text(f"note: {voxels.dropped_rows:,} voxels lie past the capacity and are not written", "yellow"))
    grid = voxels.grid
    size = " x ".join(f"{edge:g}" for edge in grid.voxel_size)
    counts = " x ".join(str(count) for count in grid.grid_size)
    out.print(Text(f"box: {counts} voxels of {size} m, from {_corner(grid.origin)} to {_corner(grid.upper())} m"))
    for line in _tensors(voxels):
        out.print(Text(line))
    for path in written:
        out.print(Text(f"wrote {path}", style="green"), soft_wrap=True)


def _table(voxels: Voxels) -> Table:
    title = "points and voxels (share: of the grid's voxels; a voxel: points in an occupied one)"
    table = Table(title=title, title_justify="left", header_style="bold", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("cloud", overflow="fold", min_width=12)
    for name in ("points", "kept", "outside", "not\nfinite", "occupied\nvoxels", "share"):
        table.add_column(name, justify="right", no_wrap=True)
    for name in ("mean a\nvoxel", "median", "max"):
        table.add_column(name, justify="right", no_wrap=True)
    shares = voxels.shares()
    for cloud, share in list(zip(voxels.clouds, shares, strict=True))[:MAX_ROWS]:
        table.add_row(Text(cloud.label), *_cells(share))
    if len(shares) > MAX_ROWS:
        table.add_row(Text(f"... {len(shares) - MAX_ROWS:,} more"))
    if len(shares) > 1:
        table.add_row(Text("all", style="bold"), *_cells(voxels.total()))
    return table


def _cells(share: Share) -> tuple[str, ...]:
    numbers = [f"{number:,}" for number in (share.points, share.kept, share.outside, share.not_finite)]
    occupied = len(share.counts)
    if not occupied:
        return (*numbers, "0", "0 %", "-", "-", "-")
    spread = (f"{share.counts.mean():.2f}", f"{np.median(share.counts):g}", f"{share.counts.max():,}")
    return (*numbers, f"{occupied:,}", f"{100 * occupied / share.cells:.3g} %", *spread)


def _corner(corner: Sequence[float]) -> str:
    return f"({', '.join(f'{value:.6g}' for value in corner)})"


def _tensors(voxels: Voxels) -> list[str]:
    """The tensors of the file, one a line."""
    lines = []
    for name, tensor in voxels.tensors.items():
        what = AXES.get(name, "")
        if name == "grid":
            what = voxels.layout.replace(",", ", ")
        if name in ("grid", "values"):
            of = f" of {', '.join(voxels.channels)}" if voxels.channels else ""
            what += f"; {voxels.reduce}{of}"
        dtype = str(tensor.dtype).removeprefix("torch.")
        lines.append(f"{name}: {list(tensor.shape)} {dtype}{f' ({what})' if what else ''}")
    return lines
