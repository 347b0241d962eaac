"""torch.export with dynamic shapes, and the AOTInductor package run from Python, with the bits of eager."""

from __future__ import annotations

from pathlib import Path

import pytest
import robocache
import torch
from cases import assert_same_bits
from torch import Tensor
from torch.export import Dim, ExportedProgram, export

SHAPES = [(3, 8, 12), (2, 30, 5), (6, 3, 40)]  # B, S, T


class Policy(torch.nn.Module):
    """Two streams on one clock, one of them ragged, what of it is known, the two fused once more, and a gain."""

    def __init__(self) -> None:
        super().__init__()
        self.joints = robocache.nn.Resample(mode="slerp:4,previous:*", outside="zero")
        self.force = robocache.nn.Resample(outside="extrapolate")
        self.both = robocache.nn.Fuse({"joints": {"width": 6, "mode": "angle:2,pchip:*"}, "force": {"width": 3}})
        self.gain = torch.nn.Parameter(torch.tensor(0.5))

    def forward(self, joints: Tensor, force: Tensor, source: Tensor, target: Tensor, lengths: Tensor) -> Tensor:
        aligned = [self.joints(joints, source, target, lengths), self.force(force, source, target)]
        streams, times = {"joints": joints, "force": force}, {"joints": source, "force": source}
        known = robocache.resample_mask(source, target, max_gap=10**7, source_lengths=lengths).unsqueeze(-1)
        return torch.cat([*aligned, self.both(streams, times, target), known], dim=-1) * self.gain


def inputs(shape: tuple[int, int, int], device: torch.device) -> tuple[Tensor, ...]:
    rows, samples, targets = shape
    return (
        torch.randn(rows, samples, 6, device=device),
        torch.randn(rows, samples, 3, device=device),
        torch.randint(1, 10**7, (rows, samples), device=device).cumsum(1) + 1_700_000_000_000_000_000,
        torch.randint(-(10**7), 10**8, (rows, targets), device=device) + 1_700_000_000_000_000_000,
        torch.randint(1, samples + 1, (rows,), device=device),
    )


def exported(device: torch.device, strict: bool) -> tuple[Policy, ExportedProgram]:
    policy = Policy().to(device).eval()
    rows, samples, targets = Dim("rows", max=4096), Dim("samples", min=2, max=1 << 20), Dim("targets", max=1 << 20)
    shapes = {
        "joints": {0: rows, 1: samples},
        "force": {0: rows, 1: samples},
        "source": {0: rows, 1: samples},
        "target": {0: rows, 1: targets},
        "lengths": {0: rows},
    }
    return policy, export(policy, inputs(SHAPES[0], device), dynamic_shapes=shapes, strict=strict)


@pytest.mark.parametrize("strict", [True, False], ids=["strict", "non-strict"])
def test_export_is_dynamic(device: torch.device, strict: bool) -> None:
    policy, program = exported(device, strict)
    targets = [str(node.target) for node in program.graph.nodes if node.op == "call_function"]
    assert targets.count("robocache.resample.default") == 2
    assert targets.count("robocache.fuse.default") == targets.count("robocache.resample_mask.default") == 1
    module = program.module()
    for shape in SHAPES:
        tensors = inputs(shape, device)
        assert_same_bits(module(*tensors), policy(*tensors), shape)


def test_export_survives_a_file_and_decomposition(device: torch.device, tmp_path: Path) -> None:
    policy, program = exported(device, strict=False)
    torch.export.save(program, tmp_path / "policy.pt2")
    loaded = torch.export.load(tmp_path / "policy.pt2")
    core = loaded.run_decompositions()
    assert any("robocache.resample" in str(node.target) for node in core.graph.nodes)
    for shape in SHAPES:
        tensors = inputs(shape, device)
        assert_same_bits(loaded.module()(*tensors), policy(*tensors), shape)
        assert_same_bits(core.module()(*tensors), policy(*tensors), shape)


def test_export_for_training_differentiates(device: torch.device) -> None:
    policy, program = exported(device, strict=False)
    module = program.module()
    joints, force, *others = inputs(SHAPES[1], device)
    grads = []
    for each in (policy, module):
        leaves = [x.clone().requires_grad_() for x in (joints, force)]
        each(*leaves, *others).sum().backward()
        grads.append([x.grad for x in leaves])
    for a, b in zip(*grads, strict=True):
        assert_same_bits(a, b)


def test_aot_inductor_package(aot_device: torch.device, tmp_path: Path) -> None:
    policy, program = exported(aot_device, strict=False)
    path = torch._inductor.aoti_compile_and_package(program, package_path=str(tmp_path / "policy.pt2"))
    package = torch._inductor.aoti_load_package(path)
    for shape in SHAPES:
        tensors = inputs(shape, aot_device)
        with torch.no_grad():
            assert_same_bits(package(*tensors), policy(*tensors), shape)
