"""torch.export of `voxelize` and `voxelize_sparse` with any number of points, and AOTInductor packages of them."""

from __future__ import annotations

from pathlib import Path

import pytest
import robocache
import torch
from cases import assert_same_bits
from torch import Tensor
from torch.export import Dim, ExportedProgram, export
from voxelize_cases import CUBE, cloud, same

SHAPES = [(3, 80), (2, 300), (6, 5)]  # B, N
OPERATORS = torch.ops.robocache


class Dense(torch.nn.Module):
    """Every reduction, the mean as the input of a convolution."""

    def __init__(self) -> None:
        super().__init__()
        assert robocache.resample is not None  # the operators are there only once the library is
        self.convolution = torch.nn.Conv3d(3, 2, 1)

    def forward(self, points: Tensor, features: Tensor, lengths: Tensor) -> tuple[Tensor, ...]:
        mean = OPERATORS.voxelize(points, features, *CUBE, reduce="mean", lengths=lengths)
        others = [OPERATORS.voxelize(points, features, *CUBE, reduce=each) for each in ("sum", "max", "min")]
        plain = [OPERATORS.voxelize(points, None, *CUBE, reduce=each) for each in ("occupancy", "count")]
        return self.convolution(mean), *others, *plain


class Fixed(torch.nn.Module):
    """As many rows as said, whatever comes."""

    def forward(self, points: Tensor, features: Tensor, lengths: Tensor) -> tuple[Tensor, ...]:
        options = {"reduce": "max", "capacity": 25, "lengths": lengths}
        coords, values, *others = OPERATORS.voxelize_sparse(points, features, *CUBE, **options)
        return coords, values * 2, *others


class Exact(torch.nn.Module):
    """As many rows as there are voxels."""

    def forward(self, points: Tensor, features: Tensor, lengths: Tensor) -> tuple[Tensor, ...]:
        coords, values, *others = OPERATORS.voxelize_sparse(points, features, *CUBE, lengths=lengths)
        return coords[:, 1:] * 2, values.relu() + 1, *others


MODELS = {"dense": Dense, "fixed": Fixed, "exact": Exact}


def inputs(shape: tuple[int, int], device: torch.device) -> tuple[Tensor, ...]:
    rows, points = shape
    return *cloud(device, rows, points), torch.randint(0, points + 1, (rows,), device=device)


def exported(model: str, device: torch.device, strict: bool = False) -> tuple[torch.nn.Module, ExportedProgram]:
    module = MODELS[model]().to(device).eval()
    rows, points = Dim("rows", max=4096), Dim("points", max=1 << 24)
    shapes = {"points": {0: rows, 1: points}, "features": {0: rows, 1: points}, "lengths": {0: rows}}
    return module, export(module, inputs(SHAPES[0], device), dynamic_shapes=shapes, strict=strict)


def agree(found: torch.nn.Module, expected: torch.nn.Module, device: torch.device) -> None:
    for shape in SHAPES:
        tensors = inputs(shape, device)
        with torch.no_grad():
            same([*found(*tensors)], [*expected(*tensors)], shape)


@pytest.mark.parametrize("strict", [True, False], ids=["strict", "non-strict"])
@pytest.mark.parametrize("model", MODELS)
def test_export_is_dynamic(device: torch.device, model: str, strict: bool) -> None:
    module, program = exported(model, device, strict)
    found = [str(node.target) for node in program.graph.nodes if "robocache" in str(node.target)]
    assert len(found) == (6 if model == "dense" else len(found)) and found
    agree(program.module(), module, device)


@pytest.mark.parametrize("model", MODELS)
def test_export_survives_a_file_and_decomposition(device: torch.device, model: str, tmp_path: Path) -> None:
    module, program = exported(model, device)
    torch.export.save(program, tmp_path / "model.pt2")
    loaded = torch.export.load(tmp_path / "model.pt2")
    core = loaded.run_decompositions()
    found = [str(node.target) for node in core.graph.nodes if "robocache" in str(node.target)]
    if model == "dense":
        assert found == ["robocache.voxelize.default"] * 6
    else:
        assert found == ["robocache.voxelize_sparse_rows.default", "robocache.voxelize_sparse_values.default"]
    agree(loaded.module(), module, device)
    agree(core.module(), module, device)


def test_the_number_of_rows_is_free(device: torch.device) -> None:
    """The exported program says by a symbol that only a run knows how many rows there are."""
    _, program = exported("exact", device)
    outputs = next(node for node in program.graph.nodes if node.op == "output").args[0]
    coords, values = (node.meta["val"] for node in outputs[:2])
    assert isinstance(coords.shape[0], torch.SymInt) and str(coords.shape[0]).startswith("u")
    assert coords.shape[0].node.expr == values.shape[0].node.expr
    _, program = exported("fixed", device)
    outputs = next(node for node in program.graph.nodes if node.op == "output").args[0]
    assert outputs[0].meta["val"].shape == (25, 4)


@pytest.mark.parametrize("model", MODELS)
def test_exported_models_differentiate(device: torch.device, model: str) -> None:
    module, program = exported(model, device)
    points, features, lengths = inputs(SHAPES[1], device)
    grads = []
    for each in (module, program.module()):
        leaf = features.clone().requires_grad_()
        results = [x for x in each(points, leaf, lengths) if x.requires_grad]
        torch.stack([x.square().sum() for x in results]).sum().backward()
        grads.append(leaf.grad)
    assert grads[0] is not None and bool(grads[0].any())
    assert_same_bits(grads[0], grads[1])


@pytest.mark.parametrize("model", MODELS)
def test_aot_inductor_package(aot_device: torch.device, model: str, tmp_path: Path) -> None:
    module, program = exported(model, aot_device)
    path = torch._inductor.aoti_compile_and_package(program, package_path=str(tmp_path / "model.pt2"))
    agree(torch._inductor.aoti_load_package(path), module, aot_device)
