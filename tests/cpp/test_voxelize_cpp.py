"""C++: `voxelize` and `voxelize_sparse` by their headers, in a scripted module and in a package, bit for bit."""

from __future__ import annotations

import itertools
import json
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import robocache
import torch
from programs import CXX, ROOT, described, run
from torch import Tensor, nn

pytestmark = pytest.mark.skipif(CXX is None, reason="no C++ compiler on this machine: nothing can be built")

DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]
REDUCTIONS = ["occupancy", "count", "sum", "mean", "max", "min"]
DEVICES = ["cpu"] + ["cuda"] * torch.cuda.is_available()
ORIGIN, VOXEL_SIZE, GRID_SIZE = [-1.0, 0.0, 0.5], [0.5, 0.25, 1.0], [4, 3, 2]


def numbers(row: dict[str, Any]) -> dict[str, Tensor]:
    """The numbers of a call as tensors: C++ reads no other integers of 64 bits."""
    floats = {
        name: torch.tensor([float(x) for x in row[name]], dtype=torch.float64) for name in ("origin", "voxel_size")
    }
    integers = {"grid_size": row["grid_size"], "capacity": [row.get("capacity", -1)]}
    return floats | {name: torch.tensor(list(value), dtype=torch.int64) for name, value in integers.items()}


def random_case(
    dtype: torch.dtype, other: torch.dtype, reduce: str, batched: bool, ragged: bool, capacity: int | None
) -> dict[str, Any]:
    """One case of check_voxelize.cpp, answered by eager Python; a capacity means rows."""
    name = f"{dtype} {other} {reduce} {batched} {ragged} {capacity}"
    generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    clouds = (3,) if batched else ()
    # Quarters: many points lie on faces, some outside.
    points = torch.randint(-6, 8, (*clouds, 40, 3), generator=generator).to(dtype) / 4
    features = (torch.randint(-99, 99, (*clouds, 40, 2), generator=generator) / 7).to(other)
    lengths = torch.tensor([40, 0, 17] if batched else [31]) if ragged else None
    box = {"origin": ORIGIN, "voxel_size": VOXEL_SIZE[: 3 if batched else 1], "grid_size": GRID_SIZE}
    case: dict[str, Any] = {
        "operator": "voxelize" if capacity is None else "voxelize_sparse",
        "name": name,
        "points": points,
        "features": features if batched or reduce not in REDUCTIONS[:2] else None,
        "reduce": reduce,
        "lengths": lengths,
        **numbers(box | {"capacity": -1 if capacity is None else capacity}),
    }
    leaf = None if case["features"] is None else case["features"].clone().requires_grad_()
    if capacity is None:
        results = [robocache.voxelize(points, leaf, **box, reduce=reduce, lengths=lengths)]
        differentiable = results[0]
    else:
        rows = robocache.voxelize_sparse(points, leaf, **box, reduce=reduce, capacity=capacity, lengths=lengths)
        results, differentiable = list(rows), rows.values
    case["results"] = [result.detach() for result in results]
    if differentiable.requires_grad:
        assert leaf is not None
        case["grad"] = torch.randn(differentiable.shape, generator=generator).to(differentiable.dtype)
        torch.autograd.backward(differentiable, case["grad"])
        case["grad_features"] = leaf.grad
    return case


def wrong_cases(operator: str) -> Iterator[dict[str, Any]]:
    """Every row of the shared table of errors that a file of CPU tensors can carry into C++."""
    for row in json.loads((ROOT / f"tests/cases/{operator}_errors.json").read_text()):
        # torch.save writes the newer dtypes in a form that C++ does not read, and C++ knows one device here.
        if row.get("torch_only") or re.search(r'"device"|"uint(16|32|64)"', json.dumps(row)):
            continue
        case = {name: described(row.get(name)) for name in ("points", "features", "lengths", "reduce")}
        about = {"operator": operator, "name": row["name"], "kind": row["kind"], "error": row["text"]}
        yield case | numbers(row) | about


def test_headers_give_the_results_gradients_and_errors_of_python(programs: Path, tmp_path: Path) -> None:
    flags = [False, True]
    capacities = [None, -1, 5, 200]
    cases = [
        random_case(*options) for options in itertools.product(DTYPES, DTYPES[:2], REDUCTIONS, flags, flags, capacities)
    ]
    # Halves as features, too.
    cases += [random_case(torch.float32, dtype, reduce, True, True, -1) for dtype in DTYPES for reduce in REDUCTIONS]
    assert sum("grad" in case for case in cases) >= 200
    wrong = {operator: list(wrong_cases(operator)) for operator in ("voxelize", "voxelize_sparse")}
    assert all(len(rows) >= least for rows, least in zip(wrong.values(), (85, 35), strict=True))
    errors = [row for rows in wrong.values() for row in rows]

    torch.save(cases + errors, tmp_path / "cases.pt")
    printed = run(programs / "check_voxelize", tmp_path / "cases.pt")
    assert f"{len(cases) * len(DEVICES)} results, {len(errors)} errors, 0 failures" in printed


class Grids(nn.Module):
    """Dense grids and rows of both forms, and nothing else, so that the compiled bits must be the eager ones."""

    def forward(
        self, points: Tensor, features: Tensor, lengths: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
        origin, voxel_size, grid_size = [-1.0, 0.0, 0.5], [0.5, 0.25, 1.0], [4, 3, 2]
        mean = torch.ops.robocache.voxelize(
            points, features, origin, voxel_size, grid_size, reduce="mean", lengths=lengths
        )
        occupied = torch.ops.robocache.voxelize(points, None, origin, [0.5], grid_size)
        exact = torch.ops.robocache.voxelize_sparse(points, features, origin, voxel_size, grid_size, lengths=lengths)
        fixed = torch.ops.robocache.voxelize_sparse(
            points, features, origin, voxel_size, grid_size, reduce="max", capacity=50
        )
        return mean, occupied, exact[0], exact[1], fixed[1], fixed[3]


def clouds(batch: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(batch)
    points = torch.rand(batch, 60, 3, generator=generator) * 3 - 1
    return points, torch.randn(batch, 60, 5, generator=generator), torch.arange(60, 60 - batch, -1)


def saved(folder: Path, batch: int) -> list[Path]:
    """Files with the inputs of the module and the outputs that eager Python gives."""
    inputs = clouds(batch)
    torch.save(list(inputs), folder / "inputs.pt")
    torch.save(list(Grids()(*inputs)), folder / "expected.pt")
    return [folder / "inputs.pt", folder / "expected.pt"]


@pytest.mark.parametrize("device", DEVICES)
def test_a_scripted_module_runs_in_cpp(programs: Path, tmp_path: Path, device: str) -> None:
    module = tmp_path / "grids.pt"
    torch.jit.script(Grids()).save(str(module))
    assert "6 output(s) equal" in run(programs / "run_module", module, *saved(tmp_path, 3), device)


@pytest.mark.parametrize("device", DEVICES)
def test_aotinductor_package_runs_in_cpp(programs: Path, tmp_path: Path, device: str) -> None:
    inputs = tuple(tensor.to(device) for tensor in clouds(2))
    batch = torch.export.Dim("batch", min=1, max=64)
    exported = torch.export.export(Grids(), inputs, dynamic_shapes=[{0: batch}] * 3)
    called = {str(node.target) for node in exported.graph.nodes if "robocache" in str(node.target)}
    assert "robocache.voxelize.default" in called
    package = torch._inductor.aoti_compile_and_package(exported, package_path=str(tmp_path / "grids.pt2"))
    # Another batch than the one it was exported with.
    assert "6 output(s) equal" in run(programs / "run_package", package, *saved(tmp_path, 3), device)
