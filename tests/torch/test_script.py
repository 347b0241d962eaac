"""TorchScript: a module is scripted, saved, loaded in a fresh process, run and differentiated there."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import robocache
import torch
from cases import MODES, assert_same_bits
from torch import Tensor

FRESH = """
import sys
import torch
import robocache

model, data, answer = sys.argv[1:]
loaded = torch.jit.load(model)
tensors = torch.load(data)
leaves = [tensors[name].requires_grad_() for name in ("values", "source_times", "target_times")]
result = loaded(*leaves, tensors["source_lengths"])
result.backward(tensors["grad"])
torch.save([result.detach(), *(x.grad for x in leaves)], answer)
"""


class Policy(torch.nn.Module):
    """Aligns a stream, then reads it with a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.resample = robocache.nn.Resample(mode="linear:2,slerp:4,nearest:1,pchip:2,angle:*", outside="hold")
        self.head = torch.nn.Linear(12, 2)

    def forward(
        self, values: Tensor, source_times: Tensor, target_times: Tensor, source_lengths: Tensor | None = None
    ) -> Tensor:
        return self.head(self.resample(values, source_times, target_times, source_lengths))


def inputs(device: torch.device) -> dict[str, Tensor]:
    return {
        "values": torch.randn(3, 8, 12, device=device),
        "source_times": torch.rand(3, 8, device=device).cumsum(1),
        "target_times": torch.rand(3, 12, device=device) * 5 - 1,
        "source_lengths": torch.tensor([8, 5, 1], device=device),
        "grad": torch.randn(3, 12, 2, device=device),
    }


def eager(module: torch.nn.Module, tensors: dict[str, Tensor]) -> list[Tensor | None]:
    leaves = [tensors[name].clone().requires_grad_() for name in ("values", "source_times", "target_times")]
    result = module(*leaves, tensors["source_lengths"])
    result.backward(tensors["grad"])
    return [result.detach(), *(x.grad for x in leaves)]


def test_saved_and_loaded_in_a_fresh_process(device: torch.device, tmp_path: Path) -> None:
    policy, tensors = Policy().to(device), inputs(device)
    torch.jit.script(policy).save(str(tmp_path / "policy.pt"))
    torch.save(tensors, tmp_path / "data.pt")
    files = [str(tmp_path / each) for each in ("policy.pt", "data.pt", "answer.pt")]
    done = subprocess.run([sys.executable, "-c", FRESH, *files], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    answer = torch.load(files[2])
    for name, a, b in zip(("result", "values", "source", "target"), answer, eager(policy, tensors), strict=True):
        assert_same_bits(a, b, name)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("lengths", [False, True], ids=["whole", "ragged"])
def test_scripted_module_equals_eager(device: torch.device, mode: str, lengths: bool) -> None:
    module, tensors = robocache.nn.Resample(mode=mode, outside="zero"), inputs(device)
    scripted = torch.jit.script(module)
    called = [tensors[name] for name in ("values", "source_times", "target_times")]
    extra = [tensors["source_lengths"]] if lengths else []
    expected = robocache.resample(*called, mode=mode, outside="zero", source_lengths=extra[0] if extra else None)
    for _ in range(3):  # the profiling executor replaces the graph after two runs
        assert_same_bits(scripted(*called, *extra), expected)
    assert_same_bits(module(*called, *extra), expected)
    assert "robocache::resample" in str(scripted.inlined_graph)


def test_scripted_gradients_equal_eager(device: torch.device) -> None:
    policy, tensors = Policy().to(device), inputs(device)
    scripted, expected = torch.jit.script(policy), eager(policy, tensors)
    for _ in range(3):
        for a, b in zip(eager(scripted, tensors), expected, strict=True):
            assert_same_bits(a, b)


def test_traced_and_frozen(device: torch.device) -> None:
    policy, tensors = Policy().to(device).eval(), inputs(device)
    called = tuple(tensors[name] for name in ("values", "source_times", "target_times", "source_lengths"))
    with torch.no_grad():
        expected = policy(*called)
        assert_same_bits(torch.jit.trace(policy, called)(*called), expected)
        assert_same_bits(torch.jit.freeze(torch.jit.script(policy))(*called), expected)


def test_module_says_what_it_does() -> None:
    text = repr(robocache.nn.Resample(mode="linear:2,previous:*", outside="zero"))
    assert "linear:2,previous:*" in text and "zero" in text
    assert not list(robocache.nn.Resample().parameters())
