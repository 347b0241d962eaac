"""NumPy, CuPy and spconv-triton on the clouds of `benches/peers.py`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import others
import torch
from clouds import Case, Inputs
from others import Peer, no_wait

MOST_POINTS_A_VOXEL = 8  # spconv drops the rest; of random points one in four voxels, none has more


def peers(case: Case, device: torch.device) -> list[Peer]:
    """Those that are installed and have what the case needs; of the others, why not."""
    if case.dtype != torch.float32:
        others.tell("NumPy, CuPy and spconv-triton, bfloat16", "they have no such type, or sum in float32 only")
        return []
    arrays = host(case) if device.type == "cpu" else cupy_peers(case)
    return [*arrays, *spconv_peers(case, device)]


def take(module: Any) -> Callable[[Inputs], Any]:
    """Points, features and box as arrays of NumPy or CuPy."""

    def arrays(data: Inputs) -> Any:
        tensors = [data.points[0], data.place, *(x[0] for x in data.features)]
        return [x.numpy() if module is np else module.from_dlpack(x) for x in tensors]

    return arrays


def cells(module: Any, case: Case, points: Any, place: Any) -> Any:  # [N]
    """The voxel of each point, row-major; one past the last for a point outside. Axis by axis, without [N, 3] of it."""
    inside, cell = True, 0
    with np.errstate(invalid="ignore"):  # a NaN coordinate becomes some voxel, and is not inside
        for axis, size in enumerate(case.box[2]):
            along = points[:, axis] - place[0, axis]
            along /= place[1, axis]
            module.floor(along, out=along)
            inside = (along >= 0) & (along < size) & inside
            cell = cell * size + along.astype(module.int32)
    cell[~inside] = case.cells_in_all
    return cell


def dense(case: Case, sums: Any) -> Any:
    """Sums or flags of `[cells + 1, ...]` without the last, as the grid; channels stay last in memory."""
    return sums[:-1].reshape(1, *case.box[2], *sums.shape[1:])


def give(module: Any) -> Callable[[Any], tuple[torch.Tensor, ...]]:
    def tensors(answer: Any) -> tuple[torch.Tensor, ...]:
        grid = torch.from_numpy(answer) if module is np else torch.as_tensor(answer, device="cuda")
        return (grid.movedim(-1, 1) if grid.dim() == 5 else grid,)

    return tensors


def host(case: Case) -> list[Peer]:
    """NumPy's formulations, each on one thread."""
    if case.sparse:
        return [
            Peer("NumPy unique", take(np), lambda data: unique_rows(case, *data), tensor_rows, no_wait, single=True)
        ]
    functions: dict[str, Callable[..., Any]] = {}
    if case.channels:
        functions["NumPy bincount"] = lambda *data: mean_by_bincount(case, *data)
        functions["NumPy add.at"] = lambda *data: mean_by_add_at(case, *data)
        functions["NumPy sort + reduceat"] = lambda *data: mean_by_sorting(case, *data)
    else:
        functions["NumPy index"] = lambda *data: occupied_by_index(np, case, *data)
        functions["NumPy bincount"] = lambda *data: dense(
            case, np.bincount(cells(np, case, *data), minlength=case.cells_in_all + 1) > 0
        )
    return [
        Peer(name, take(np), lambda data, function=function: function(*data), give(np), no_wait, single=True)
        for name, function in functions.items()
    ]


def occupied_by_index(module: Any, case: Case, points: Any, place: Any) -> Any:
    grid = module.zeros(case.cells_in_all + 1, bool)
    grid[cells(module, case, points, place)] = True
    return dense(case, grid)


def mean_by_bincount(case: Case, points: Any, place: Any, features: Any) -> Any:
    cell, length = cells(np, case, points, place), case.cells_in_all + 1
    counts = np.bincount(cell, minlength=length).clip(1)
    result = np.empty((length, case.channels), features.dtype)
    for channel in range(case.channels):
        np.divide(np.bincount(cell, features[:, channel], length), counts, out=result[:, channel], casting="same_kind")
    return dense(case, result)


def mean_by_add_at(case: Case, points: Any, place: Any, features: Any) -> Any:
    cell, length = cells(np, case, points, place), case.cells_in_all + 1
    sums = np.zeros((length, case.channels), features.dtype)
    np.add.at(sums, cell, features)
    sums /= np.bincount(cell, minlength=length).clip(1).astype(features.dtype)[:, None]
    return dense(case, sums)


def mean_by_sorting(case: Case, points: Any, place: Any, features: Any) -> Any:
    cell = cells(np, case, points, place)
    order = np.argsort(cell, kind="stable")
    cell = cell[order]
    begins = np.flatnonzero(np.concatenate(([True], cell[1:] != cell[:-1])))
    sums = np.add.reduceat(features[order], begins, axis=0)
    sums /= np.diff(begins, append=len(cell)).astype(features.dtype)[:, None]
    result = np.zeros((case.cells_in_all + 1, case.channels), features.dtype)
    result[cell[begins]] = sums
    return dense(case, result)


def unique_rows(case: Case, points: Any, place: Any, features: Any) -> Any:
    voxels, inverse, counts = np.unique(cells(np, case, points, place), return_inverse=True, return_counts=True)
    values = np.stack([np.bincount(inverse, features[:, channel]) for channel in range(case.channels)], axis=1)
    values = (values / counts[:, None]).astype(features.dtype)
    some_outside = int(voxels[-1] == case.cells_in_all)
    return values, counts, inverse, len(voxels) - some_outside


def tensor_rows(answer: Any) -> tuple[torch.Tensor, ...]:
    """Exact rows filled up to one for each point, as the fixed capacity has it."""
    values, counts, inverse, voxels = answer
    values, counts, inverse = (torch.as_tensor(x) for x in (values, counts, inverse))
    left = len(inverse) - voxels
    row = torch.where(inverse < voxels, inverse, -1).long()
    pad = torch.nn.functional.pad
    number = torch.tensor([voxels], device=row.device)
    return pad(values[:voxels], (0, 0, 0, left)), pad(counts[:voxels], (0, left)).int(), row.unsqueeze(0), number


def cupy_peers(case: Case) -> list[Peer]:
    cupy, cupyx = others.load("cupy", "CuPy"), others.load("cupyx", "CuPy")
    if cupy is None or cupyx is None:
        return []

    def wait(_: Any) -> None:
        cupy.cuda.Device().synchronize()

    def sums(cell: Any, features: Any, length: int) -> tuple[Any, Any]:
        result, counts = cupy.zeros((length, case.channels), features.dtype), cupy.zeros(length, features.dtype)
        cupyx.scatter_add(result, cell, features)
        cupyx.scatter_add(counts, cell, cupy.float32(1))
        return result, counts

    def mean(data: Any) -> Any:
        points, place, features = data
        result, counts = sums(cells(cupy, case, points, place), features, case.cells_in_all + 1)
        result /= cupy.maximum(counts, 1)[:, None]
        return dense(case, result)

    def rows(data: Any) -> Any:
        points, place, features = data
        cell = cells(cupy, case, points, place)
        voxels, inverse, counts = cupy.unique(cell, return_inverse=True, return_counts=True)
        values, _ = sums(inverse, features, len(voxels))
        values /= counts.astype(features.dtype)[:, None]
        return values, counts, inverse, len(voxels) - int(voxels[-1] == case.cells_in_all)

    if case.sparse:
        return [Peer("CuPy unique", take(cupy), rows, tensor_rows, wait)]
    if case.channels:
        return [Peer("CuPy scatter_add", take(cupy), mean, give(cupy), wait)]
    return [Peer("CuPy index", take(cupy), lambda data: occupied_by_index(cupy, case, *data), give(cupy), wait)]


def spconv_peers(case: Case, device: torch.device) -> list[Peer]:
    """`PointToVoxel` and the mean of each voxel's points; dense through `SparseConvTensor`. Rows as first seen."""
    if not case.channels:
        others.tell("spconv-triton, occupancy", "has rows of points, not a grid of flags")
        return []
    if getattr(case, "needs", ()):
        others.tell(
            "spconv-triton, recorded clouds", "keeps a fixed number of points for each voxel, and drops the rest"
        )
        return []
    module = others.load("spconv_triton.pytorch", "spconv-triton")
    utils = others.load("spconv_triton.pytorch.utils", "spconv-triton")
    if module is None or utils is None:
        return []
    origin, (edge, *_), size = case.box
    corners = [*origin, *(low + edge * cells for low, cells in zip(origin, size, strict=True))]
    voxels = min(case.points, case.cells_in_all)
    generator = utils.PointToVoxel([edge] * 3, corners, 3 + case.channels, voxels, MOST_POINTS_A_VOXEL, device)

    def call(data: Inputs) -> Any:
        cloud = torch.cat((data.points[0], data.features[0][0]), 1)
        table, indices, counts, row = generator.generate_voxel_with_id(cloud)
        values = table[:, :, 3:].sum(1) / counts.unsqueeze(1)
        if case.sparse:
            return values, indices, counts, row
        where = torch.nn.functional.pad(indices, (1, 0))
        return (module.SparseConvTensor(values, where, list(reversed(size)), 1).dense(),)

    def give(answer: Any) -> tuple[torch.Tensor, ...]:
        if not case.sparse:
            return (answer[0].permute(0, 1, 4, 3, 2),)
        values, indices, counts, row = answer
        z, y, x = indices.long().unbind(1)
        order = ((x * size[1] + y) * size[2] + z).argsort()
        place = torch.empty_like(order).scatter(0, order, torch.arange(len(order), device=order.device))
        found = torch.where(row < 0, len(order), place[row.clamp(min=0)])
        return tensor_rows((values[order], counts[order], found, len(order)))

    def wait(_: Any) -> None:
        if device.type == "cuda":
            torch.cuda.synchronize()

    return [Peer("spconv-triton", lambda data: data, call, give, wait)]
