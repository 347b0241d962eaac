"""The picture: the grid from above, from the front and from the side, counts summed along the line of sight."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from robocache._command import replaced
from robocache.cloud.clouds import Array
from robocache.cloud.voxels import Voxels

MAX_PIXELS = 1024  # along an axis: more than the picture has; wider grids are drawn by groups of voxels
MAX_ASPECT = 6.0  # a view that is longer than this is stretched, or it would be a line
VIEWS = (("top", 0, 1), ("front", 0, 2), ("side", 1, 2))  # name, axis to the right, axis upwards
NAMES = "xyz"
GREY = "#606060"


def draw(voxels: Voxels, path: Path) -> Path:
    """Draws the three views with one scale of colours; several clouds are drawn on top of one another."""
    figure = Figure(figsize=(13, 7), dpi=120, layout="constrained")
    axes = figure.subplot_mosaic([["top", "front"], ["top", "side"]], width_ratios=[3, 2])
    shown = {name: project(voxels, right, up) for name, right, up in VIEWS}
    most = max((int(view.max()) for view in shown.values() if view.size), default=1)
    scale = LogNorm(1, max(most, 2))
    image: Any = None
    for name, right, up in VIEWS:
        image = _view(axes[name], voxels, shown[name], name, right, up, scale)
    bar = figure.colorbar(image, ax=list(axes.values()), shrink=0.6, pad=0.01)
    bar.set_label("points along the line of sight", fontsize=8)
    bar.ax.tick_params(labelsize=8, color=GREY)
    total = voxels.total()
    several = f" of {len(voxels.clouds):,} clouds" if len(voxels.clouds) > 1 else ""
    size = " x ".join(f"{edge:g}" for edge in voxels.grid.voxel_size)
    counts = " x ".join(str(count) for count in voxels.grid.grid_size)
    figure.suptitle(
        f"{_title(voxels)}: {total.kept:,} of {total.points:,} points{several} in "
        f"{len(total.counts):,} voxels\ngrid: {counts} voxels of {size} m",
        fontsize=10,
        x=0.01,
        ha="left",
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    return replaced(path, figure.savefig)


def project(voxels: Voxels, right: int, up: int) -> Array:
    """Points summed over the third axis: rows upwards, columns to the right."""
    steps = [_step(voxels.grid.grid_size[axis]) for axis in (right, up)]
    width, height = (-(-voxels.grid.grid_size[axis] // step) for axis, step in zip((right, up), steps, strict=True))
    columns = voxels.coords[:, 1 + right].astype(np.int64) // steps[0]
    rows = voxels.coords[:, 1 + up].astype(np.int64) // steps[1]
    sums = np.bincount(rows * width + columns, weights=voxels.counts, minlength=width * height)
    view: Array = sums.reshape(height, width).astype(np.int64)
    return view


def _title(voxels: Voxels) -> str:
    if len(voxels.clouds) == 1:
        return voxels.clouds[0].label
    names = list(dict.fromkeys(cloud.path.name for cloud in voxels.clouds))
    return ", ".join([*names[:2], *(["..."] if len(names) > 2 else [])])


def _step(count: int) -> int:
    return -(-count // MAX_PIXELS)


def _view(axis: Any, voxels: Voxels, view: Array, name: str, right: int, up: int, scale: LogNorm) -> Any:
    grid = voxels.grid
    spans = []
    for place, pixels in ((right, view.shape[1]), (up, view.shape[0])):
        start = grid.origin[place]
        spans.append((start, start + pixels * _step(grid.grid_size[place]) * grid.voxel_size[place]))
    seen = np.ma.masked_equal(view, 0)
    image = axis.imshow(
        seen, origin="lower", extent=(*spans[0], *spans[1]), norm=scale, cmap="viridis", interpolation="nearest"
    )
    for span, limit in zip(spans, (axis.set_xlim, axis.set_ylim), strict=True):
        limit(*span)
    across, tall = (high - low for low, high in spans)
    axis.set_aspect("equal" if max(across / tall, tall / across) <= MAX_ASPECT else "auto")
    axis.set_title(f"{name} ({NAMES[right]}, {NAMES[up]})", loc="left", fontsize=9, fontweight="bold")
    axis.set_xlabel(f"{NAMES[right]}, metres", fontsize=8)
    axis.set_ylabel(f"{NAMES[up]}, metres", fontsize=8)
    axis.tick_params(labelsize=8, color=GREY)
    axis.ticklabel_format(useOffset=False)
    axis.set_facecolor("#f4f4f4")
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)
    return image
