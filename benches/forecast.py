"""What `benches/training.py` trains: raw sensor sequences, and a transformer encoder that forecasts their sources."""

from __future__ import annotations

from dataclasses import dataclass

import robocache
import torch
from torch import Tensor, nn
from torch.nn import functional

SOURCES = 8  # that drive the channels, and are forecast
AHEAD = 0.01  # how far, of the window's length


@dataclass(frozen=True)
class Task:
    """Sizes of the step."""

    batch: int = 32
    samples: int = 500
    targets: int = 250
    channels: int = 256
    layers: int = 4
    heads: int = 8
    hidden: int = 1024

    def __str__(self) -> str:
        return f"{self.batch}x{self.samples}x{self.channels}->{self.targets}, {self.layers} layers"


@dataclass(frozen=True)
class Raw:
    """A window of each of `N` sequences, on the host: sinusoids of random phase, mixed into channels, with noise."""

    values: Tensor  # [N, S, D]
    source_times: Tensor  # [N, S] float64, irregular
    target_times: Tensor  # [T] float64, uniform
    wanted: Tensor  # [N, T, SOURCES], the sources `AHEAD` of each target time

    @staticmethod
    def make(task: Task, sequences: int) -> Raw:
        source_times = torch.rand(sequences, task.samples, dtype=torch.float64).sort(dim=1).values
        target_times = torch.linspace(0, 1, task.targets, dtype=torch.float64)
        frequency, phase = torch.arange(1, SOURCES + 1) * 2 * torch.pi, torch.rand(sequences, 1, SOURCES) * 2 * torch.pi

        def sources(times: Tensor) -> Tensor:
            return torch.sin(times.float().unsqueeze(-1) * frequency + phase)

        mixing = torch.randn(SOURCES, task.channels) / SOURCES**0.5
        values = sources(source_times) @ mixing
        values += 0.1 * torch.randn_like(values)
        return Raw(values, source_times, target_times, sources(target_times.unsqueeze(0) + AHEAD))


class Layer(nn.Module):
    """A layer of a transformer encoder, normalised before each half."""

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.heads = task.heads
        self.norm, self.second_norm = nn.LayerNorm(task.channels), nn.LayerNorm(task.channels)
        self.project, self.join = nn.Linear(task.channels, 3 * task.channels), nn.Linear(task.channels, task.channels)
        self.rise, self.fall = nn.Linear(task.channels, task.hidden), nn.Linear(task.hidden, task.channels)

    def forward(self, x: Tensor) -> Tensor:  # [B, T, D]
        parts = self.project(self.norm(x)).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        attended = functional.scaled_dot_product_attention(*parts.unbind(0))
        x = x + self.join(attended.transpose(1, 2).flatten(2))
        return x + self.fall(functional.gelu(self.rise(self.second_norm(x))))


class Forecast(nn.Module):
    """The loss of a batch; `resample` comes first where it has times."""

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.position = nn.Parameter(0.02 * torch.randn(task.targets, task.channels))
        self.layers = nn.Sequential(*(Layer(task) for _ in range(task.layers)))
        self.norm, self.head = nn.LayerNorm(task.channels), nn.Linear(task.channels, SOURCES)

    def forward(self, wanted: Tensor, values: Tensor, *times: Tensor) -> Tensor:
        if times:
            values = robocache.resample(values, *times)
        found = self.head(self.norm(self.layers(values + self.position)))
        return functional.mse_loss(found.float(), wanted)
