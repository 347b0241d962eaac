"""A small policy over a multi-rate observation: written in Python, saved as TorchScript, run from C++ and Rust.

python examples/policy.py policy      # writes policy/policy.pt, policy/observation.pt and policy/expected.pt
run_policy policy/policy.pt policy/observation.pt policy/expected.pt
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import numpy as np
import torch
from robocache.nn import Fuse
from torch import Tensor, nn

NANOSECONDS = 1_000_000_000
EPOCH = 1_760_000_000 * NANOSECONDS  # October 2025: too large for f32 and f64 seconds, exact in int64 nanoseconds


class Policy(nn.Module):
    """Actions from 7 joint positions with a gripper state, and a 16-channel camera embedding, each at its own rate."""

    def __init__(self, steps: int = 16, rate_hz: int = 50) -> None:
        super().__init__()
        self.fuse = Fuse(
            {
                # The gripper is open or closed: a blend of the two never happened.
                "joints": {"width": 8, "mode": "linear:7,previous:1"},
                "camera": {"width": 16},
            }
        )
        self.head = nn.Sequential(nn.Linear(25, 64), nn.Tanh(), nn.Linear(64, 7))
        clock = (torch.arange(steps) - (steps - 1)) * (NANOSECONDS // rate_hz)
        self.register_buffer("clock", clock)  # [steps], nanoseconds before now
        self.clock: Tensor

    def forward(
        self,
        joints: Tensor,  # [B, S1, 8], radians and one gripper state
        joint_times: Tensor,  # [B, S1], nanoseconds since the epoch
        camera: Tensor,  # [B, S2, 16]
        camera_times: Tensor,  # [B, S2], nanoseconds since the epoch
        now: Tensor,  # [B], nanoseconds since the epoch
    ) -> Tensor:  # [B, steps, 7], radians
        clock = now.unsqueeze(1) + self.clock
        values = {"joints": joints, "camera": camera}
        fused = self.fuse(values, {"joints": joint_times, "camera": camera_times}, clock)
        # Says which steps the camera saw: between two frames that are at most 0.1 s apart.
        seen = torch.ops.robocache.resample_mask(camera_times, clock, max_gap=100_000_000)
        actions: Tensor = self.head(torch.cat([fused, seen.unsqueeze(2).to(fused.dtype)], dim=2))
        return actions


def observation(batch: int = 2) -> list[Tensor]:
    """The arguments of `Policy.forward`: half a second of joints at 200 Hz and camera at 30 Hz, which lost 4 frames."""
    generator = torch.Generator().manual_seed(7)

    def stamps(rate_hz: int) -> Tensor:
        samples = rate_hz // 2
        jitter = torch.randint(0, NANOSECONDS // rate_hz // 4, (batch, samples), generator=generator)
        return EPOCH + torch.arange(samples) * (NANOSECONDS // rate_hz) + jitter

    joint_times, camera_times = stamps(200), stamps(30)
    # The camera missed more than 0.1 s.
    camera_times = torch.cat([camera_times[:, :8], camera_times[:, 12:]], dim=1)
    seconds = (joint_times - EPOCH).double().div(NANOSECONDS).float()
    joints = torch.sin(math.tau * seconds.unsqueeze(2) * torch.linspace(0.5, 2.0, 8))
    joints[:, :, 7] = (joints[:, :, 7] > 0).float()
    camera = torch.randn(batch, camera_times.size(1), 16, generator=generator)
    now = torch.full((batch,), EPOCH + NANOSECONDS // 2)
    return [joints, joint_times, camera, camera_times, now]


def save(folder: Path) -> None:
    """Write the scripted policy, one observation and the actions that eager Python takes on it.

    C++ reads `observation.pt` (a list of tensors) and `expected.pt`, Rust the same tensors by name in `policy.npz`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    policy = Policy().eval()
    inputs = observation()
    with torch.no_grad():
        actions = policy(*inputs)
    torch.jit.save(torch.jit.script(policy), folder / "policy.pt")
    torch.save(inputs, folder / "observation.pt")
    torch.save(actions, folder / "expected.pt")
    named = dict(
        zip(["joints", "joint_times", "camera", "camera_times", "now", "actions"], [*inputs, actions], strict=True)
    )
    np.savez(folder / "policy.npz", **{name: tensor.numpy() for name, tensor in named.items()})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where to write policy.pt and what to compare it with")
    folder: Path = parser.parse_args().folder
    save(folder)
    print(f"wrote policy.pt, observation.pt, expected.pt and policy.npz to {folder}")


if __name__ == "__main__":
    main()
