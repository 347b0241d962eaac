"""The operators as modules, for `nn.Sequential`-like code, TorchScript and saved policies."""

from __future__ import annotations

from typing import Optional

import torch
from torch import Tensor, nn

from robocache import _library

_library.require()

__all__ = ["Resample"]


class Resample(nn.Module):
    """Resamples with a fixed mode; everything else is as in :func:`robocache.resample`.

    Has no parameters. Can be scripted, compiled and exported.

    Args:
        mode: `"linear"`, `"previous"`, `"next"`, `"nearest"`, or groups such as `"linear:7,previous:*"`.
        outside: `"hold"`, `"nan"`, `"zero"` or `"extrapolate"`.

    Example:
        >>> import torch, robocache
        >>> align = torch.jit.script(robocache.nn.Resample(mode="previous"))
        >>> align(torch.tensor([1.0, 2.0]), torch.tensor([0.0, 1.0]), torch.tensor([0.9, 1.1]))
        tensor([1., 2.])
    """

    def __init__(self, mode: str = "linear", outside: str = "hold") -> None:
        super().__init__()
        self.mode = mode
        self.outside = outside

    def forward(
        self,
        values: Tensor,  # [B, S, D...], or [S, D...] where both times are 1-D
        source_times: Tensor,  # [B, S] or [S], any unit, ascending
        target_times: Tensor,  # [B, T] or [T], the unit of source_times
        source_lengths: Optional[Tensor] = None,  # noqa: UP045 - TorchScript reads this annotation; [B]
    ) -> Tensor:
        """`values` at `target_times`: `[B, T, D...]`, or `[T, D...]`."""
        result: Tensor = torch.ops.robocache.resample(
            values, source_times, target_times, mode=self.mode, outside=self.outside, source_lengths=source_lengths
        )
        return result

    def extra_repr(self) -> str:
        """The arguments, as they were given."""
        return f"mode={self.mode!r}, outside={self.outside!r}"
