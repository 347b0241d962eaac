"""TorchScript of `voxelize` and `voxelize_sparse`: saved, and run in a fresh process that loads the library alone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import robocache
import torch
from cases import assert_same_bits
from robocache import _library
from torch import Tensor
from voxelize_cases import BLENDS, CUBE, REDUCTIONS, cloud, same, wave

FRESH = """
import sys
import torch

library, model, data, answer = sys.argv[1:]
torch.ops.load_library(library)
loaded = torch.jit.load(model)
tensors = torch.load(data)
leaf = tensors["features"].requires_grad_()
results = loaded(tensors["points"], leaf, tensors["lengths"])
torch.autograd.backward([results[0], results[3]], [tensors["dense"], tensors["sparse"]])
assert "robocache" not in sys.modules
torch.save([*(x.detach() for x in results), leaf.grad], answer)
"""


class Grid(torch.nn.Module):
    """The cloud as a dense grid, and as rows: of exact size, and of a fixed one."""

    def __init__(self, reduce: str) -> None:
        super().__init__()
        assert robocache.resample is not None  # the operators are there only once the library is
        self.reduce = reduce
        self.origin, self.voxel_size, self.grid_size = CUBE

    def forward(
        self, points: Tensor, features: Tensor, lengths: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
        dense = torch.ops.robocache.voxelize(
            points, features, self.origin, self.voxel_size, self.grid_size, reduce=self.reduce, lengths=lengths
        )
        exact = torch.ops.robocache.voxelize_sparse(
            points, features, self.origin, self.voxel_size, self.grid_size, reduce=self.reduce, lengths=lengths
        )
        fixed = torch.ops.robocache.voxelize_sparse(
            points, features, self.origin, self.voxel_size, self.grid_size, reduce=self.reduce, capacity=9
        )
        return dense, exact[0], exact[2], exact[1], exact[3], exact[4], fixed[0], fixed[1], fixed[3]


def inputs(device: torch.device) -> dict[str, Tensor]:
    points, features = cloud(device, 3, 50)
    return {"points": points, "features": features, "lengths": torch.tensor([50, 20, 0], device=device)}


def eager(module: torch.nn.Module, tensors: dict[str, Tensor]) -> list[Tensor | None]:
    """The results, and the gradient of the dense grid and of the rows together."""
    leaf = tensors["features"].clone().requires_grad_()
    results = module(tensors["points"], leaf, tensors["lengths"])
    wanted = [x for x in (results[0], results[3]) if x.requires_grad]
    if wanted:
        torch.autograd.backward(wanted, [wave(x) for x in wanted])
    return [*(x.detach() for x in results), leaf.grad]


@pytest.mark.parametrize("reduce", ["mean", "max"])
def test_saved_and_loaded_in_a_fresh_process(device: torch.device, reduce: str, tmp_path: Path) -> None:
    module, tensors = Grid(reduce), inputs(device)
    torch.jit.script(module).save(str(tmp_path / "model.pt"))
    results = module(tensors["points"], tensors["features"], tensors["lengths"])
    torch.save({**tensors, "dense": wave(results[0]), "sparse": wave(results[3])}, tmp_path / "data.pt")
    files = [str(_library.path()), *(str(tmp_path / each) for each in ("model.pt", "data.pt", "answer.pt"))]
    done = subprocess.run([sys.executable, "-c", FRESH, *files], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    same(torch.load(files[3]), eager(module, tensors), reduce)


@pytest.mark.parametrize("reduce", REDUCTIONS)
def test_scripted_equals_eager(device: torch.device, reduce: str) -> None:
    module, tensors = Grid(reduce), inputs(device)
    scripted, expected = torch.jit.script(module), eager(module, tensors)
    for _ in range(3):  # the profiling executor replaces the graph after two runs
        same(eager(scripted, tensors), expected, reduce)
    text = str(scripted.inlined_graph)
    assert "robocache::voxelize" in text and "robocache::voxelize_sparse" in text
    assert (expected[-1] is not None) == (reduce in BLENDS)


def test_traced_and_frozen(device: torch.device) -> None:
    module, tensors = Grid("mean").eval(), inputs(device)
    called = (tensors["points"], tensors["features"], tensors["lengths"])
    with torch.no_grad():
        expected = [*module(*called)]
        same([*torch.jit.trace(module, called)(*called)], expected, "traced")
        same([*torch.jit.freeze(torch.jit.script(module))(*called)], expected, "frozen")
        other = cloud(device, 2, 90)
        lengths = torch.tensor([90, 3], device=device)
        for a, b in zip(torch.jit.trace(module, called)(*other, lengths), module(*other, lengths), strict=True):
            assert_same_bits(a, b, "traced with other sizes")


def test_errors_are_those_of_eager(device: torch.device) -> None:
    scripted, tensors = torch.jit.script(Grid("mean")), inputs(device)
    with pytest.raises(Exception, match=r"voxelize: points must have shape \[B, N, 3\] or \[N, 3\], got \[3, 50, 2\]"):
        scripted(tensors["points"][..., :2], tensors["features"], None)
