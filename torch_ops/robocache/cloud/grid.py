"""Which grid: what the user says, and for the rest one that every finite point lies in."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from robocache.cloud.clouds import Array, Cloud, CloudError

MAX_AXIS = 2**21  # voxels along an axis: what voxelize_sparse, which also counts for the table, can number
DEFAULT_VOXELS = 256  # at most, along the longest axis: fine enough for a picture, small enough for a dense grid
DEFAULT_SIZE = Fraction(1, 10)  # metres, where all points lie in one place
ONE_PLACE = Fraction(1, 10**9)  # metres: no sensor tells points apart that are nearer

Three = tuple[float, float, float]


@dataclass(frozen=True)
class GridOptions:
    """What the command line says about the grid, as text: decimals are exact until the grid is chosen."""

    voxel_size: Sequence[str] | None = None
    origin: Sequence[str] | None = None
    grid_size: Sequence[str] | None = None
    range: Sequence[str] | None = None


@dataclass(frozen=True)
class Grid:
    """The arguments of the operators."""

    origin: Three  # metres
    voxel_size: Three  # metres
    grid_size: tuple[int, int, int]

    def upper(self) -> Three:
        """The highest corner."""
        corner = [o + s * n for o, s, n in zip(self.origin, self.voxel_size, self.grid_size, strict=True)]
        return (corner[0], corner[1], corner[2])


def choose_grid(clouds: Sequence[Cloud], options: GridOptions) -> Grid:
    """Origin, voxel size and grid size, each from its option, from --range, or from the extent of the finite points."""
    kind = np.result_type(np.float32, *(cloud.points.dtype for cloud in clouds))  # the type that decides the voxel
    sizes = _voxel_size(options.voxel_size)
    if options.range is not None:
        return _from_range(options, sizes)
    if options.origin is not None and options.grid_size is not None and sizes is not None:
        lows = highs = np.zeros(3, kind)  # not needed: the clouds may be empty
    else:
        lows, highs = _extent(clouds, kind)
    # In fractions, because the difference of two floats may overflow.
    spans = [Fraction(float(high)) - Fraction(float(low)) for low, high in zip(lows, highs, strict=True)]
    sizes = sizes or [_default_size(max(spans))] * 3
    edges = [float(size) for size in sizes]
    if options.origin is not None:
        origin = [float(number) for number in _numbers("--origin", options.origin)]
    else:
        origin = [_below(low, size, kind) for low, size in zip(lows, sizes, strict=True)]
    if options.grid_size is not None:
        counts: list[float] = [float(count) for count in _counts(options.grid_size)]
    else:
        last = [cell(high, start, edge, kind) for high, start, edge in zip(highs, origin, edges, strict=True)]
        counts = [max(float(index) + 1, 1.0) for index in last]
    return _grid(origin, edges, counts)


def cell(points: Any, origin: float, size: float, kind: np.dtype[Any]) -> Array:
    """The operators' rule along one axis, in the points' type."""
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        found: Array = np.floor((np.asarray(points, kind) - kind.type(origin)) / kind.type(size))
    return found


def finite(points: Array) -> Array:
    """Which points have three finite coordinates."""
    return np.asarray(np.isfinite(points).all(axis=1))


def _extent(clouds: Sequence[Cloud], kind: np.dtype[Any]) -> tuple[Array, Array]:
    kept = [cloud.points[finite(cloud.points)] for cloud in clouds]
    filled = [points for points in kept if len(points)]
    if not filled:
        total = sum(len(cloud.points) for cloud in clouds)
        raise CloudError(
            f"CLOUD must have a finite point to choose a grid by, got none among {total:,} in {clouds[0].source}; "
            "--range with --voxel-size says which grid to take"
        )
    lows = np.min([points.min(axis=0) for points in filled], axis=0)
    highs = np.max([points.max(axis=0) for points in filled], axis=0)
    return lows.astype(kind), highs.astype(kind)


def _default_size(extent: Fraction) -> Fraction:
    """The least of 1, 2, 5, 10, 20, ... (and their tenths) of which the extent takes no more than 256."""
    if extent < ONE_PLACE:
        return DEFAULT_SIZE
    least = extent / DEFAULT_VOXELS
    scale = Fraction(10) ** math.floor(math.log10(least))
    return next(factor * scale for factor in (1, 2, 5, 10, 20) if factor * scale >= least)


def _below(low: Any, size: Fraction, kind: np.dtype[Any]) -> float:
    """A multiple of the size below the lowest point, so that grids of one size fit one another."""
    start = float(Fraction(float(low)) // size * size)
    # Where the points' type rounds that multiple above the point, the point itself is the start.
    return start if cell(low, start, float(size), kind) >= 0 else float(low)


def _from_range(options: GridOptions, sizes: list[Fraction] | None) -> Grid:
    for name, given in (("--origin", options.origin), ("--grid-size", options.grid_size)):
        if given is not None:
            raise CloudError(f"{name} must stand without --range, which says the same")
    numbers = _numbers("--range", options.range or ())
    spans = [high - low for low, high in zip(numbers[:3], numbers[3:], strict=True)]
    if any(span <= 0 for span in spans):
        raise CloudError(
            f"--range must be three low ends, then three higher ones (metres), got {' '.join(options.range or ())}"
        )
    sizes = sizes or [_default_size(max(spans))] * 3
    origin = [float(low) for low in numbers[:3]]
    edges = [float(size) for size in sizes]
    return _grid(origin, edges, [float(math.ceil(span / size)) for span, size in zip(spans, sizes, strict=True)])


def _grid(origin: list[float], edges: list[float], counts: list[float]) -> Grid:
    if not all(count <= MAX_AXIS for count in counts):
        shown = ", ".join(f"{count:.0f}" if count < 1e15 else f"{count:.3g}" for count in counts)
        raise CloudError(
            f"the grid must have at most {MAX_AXIS} voxels along each axis, got [{shown}]: --voxel-size can be larger, "
            "or --range can leave far points out"
        )
    x, y, z = (int(count) for count in counts)
    return Grid((origin[0], origin[1], origin[2]), (edges[0], edges[1], edges[2]), (x, y, z))


def _voxel_size(texts: Sequence[str] | None) -> list[Fraction] | None:
    if texts is None:
        return None
    numbers = _numbers("--voxel-size", texts)
    if len(numbers) not in (1, 3) or any(number <= 0 for number in numbers):
        raise CloudError(f"--voxel-size must be 1 or 3 positive numbers (metres), got {' '.join(texts)}")
    return numbers * 3 if len(numbers) == 1 else numbers


def _counts(texts: Sequence[str]) -> list[int]:
    numbers = _numbers("--grid-size", texts)
    if any(number < 1 or number.denominator != 1 for number in numbers):
        raise CloudError(f"--grid-size must be 3 whole numbers, each at least 1, got {' '.join(texts)}")
    return [int(number) for number in numbers]


def _numbers(option: str, texts: Sequence[str]) -> list[Fraction]:
    hint = "; CLOUD stands before the options" if option == "--voxel-size" else ""
    numbers = []
    for text in texts:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise CloudError(f"{option} must be finite numbers, got {' '.join(texts)}{hint}")
        # The decimal as written; past the floats' range its exact value would be a number without end.
        numbers.append(Fraction(text) if value else Fraction(0))
    return numbers
