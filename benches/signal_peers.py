"""NumPy, SciPy, JAX, CuPy and torchcde on the time series of `benches/peers.py`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import others
import torch
from others import Peer, no_wait
from signals import F32, Case, Inputs

MOST_ROWS = 50_000  # calls of `np.interp`, one for each row and channel

Function = Callable[[Any, Any, Any, float], Any]  # [B, S, D], [B, S], [B, T], span of the times -> [B, T, D]


def peers(case: Case, device: torch.device) -> list[Peer]:
    """Those that are installed and have what the case needs; of the others, why not."""
    arrays = host(case) if device.type == "cpu" else cupy_peers(case)
    return [*arrays, *jax_peers(case, device), *torchcde_peers(case)]


def lacks(case: Case, name: str, halves: bool, integers: bool = True, ragged: bool = False) -> bool:
    """Whether a peer has no such feature: bfloat16, int64 times, rows of different length."""
    recorded = getattr(case, "needs", ())
    for feature, has in (("int64 times", integers), ("ragged rows", ragged)):
        if feature in recorded and not has:
            others.tell(f"{name}, {feature}", "has none")
            return True
    if case.dtype != F32 and not halves:
        others.tell(f"{name}, {str(case.dtype).removeprefix('torch.')}", "has no such type")
        return True
    return False


def joined(parts: list[Any], module: Any) -> Any:
    return parts[0] if len(parts) == 1 else module.concatenate(parts, axis=2)


def host(case: Case) -> list[Peer]:
    """NumPy and SciPy, each on one thread."""
    if lacks(case, "NumPy", halves=False, integers=False):
        return []
    functions: dict[str, Function] = {
        "NumPy searchsorted": lambda *arguments: searched(np, *arguments),
        "NumPy searchsorted, rows": by_rows,
    }
    if case.batch * sum(channels for _, channels in case.streams) <= MOST_ROWS:
        functions["NumPy interp"] = by_channels
    if scipy := others.load("scipy.interpolate", "SciPy"):

        def spline(values: Any, source: Any, target: Any, span: float) -> Any:
            return np.stack(
                [
                    scipy.make_interp_spline(s, v, k=1)(t.clip(s[0], s[-1])).astype(v.dtype)
                    for v, s, t in zip(values, source, target, strict=True)
                ]
            )

        def interp1d(values: Any, source: Any, target: Any, span: float) -> Any:
            rows = []
            for v, s, t in zip(values, source, target, strict=True):
                line = scipy.interp1d(s, v, axis=0, bounds_error=False, fill_value=(v[0], v[-1]), assume_sorted=True)
                rows.append(line(t).astype(v.dtype))
            return np.stack(rows)

        functions |= {"SciPy make_interp_spline": spline, "SciPy interp1d": interp1d}

    def take(data: Inputs) -> Any:
        values, sources, target = of_each_row(data)
        return [x.numpy() for x in values], [x.numpy() for x in sources], target.numpy(), span_of(data)

    def call(arguments: Any, function: Function) -> Any:
        values, sources, target, span = arguments
        return joined([function(v, s, target, span) for v, s in zip(values, sources, strict=True)], np)

    return [
        Peer(
            name,
            take,
            lambda arguments, function=function: call(arguments, function),
            torch.from_numpy,
            no_wait,
            single=True,
        )
        for name, function in functions.items()
    ]


def of_each_row(data: Inputs) -> tuple[list[torch.Tensor], list[torch.Tensor], torch.Tensor]:
    """Values, source times and targets, the times `[B, S]` and `[B, T]` also where the batch shares them."""
    batch = len(data.values[0])
    times = [x.expand(batch, -1).contiguous() for x in (*data.source_times, data.target_times)]
    return data.values, times[:-1], times[-1]


def span_of(data: Inputs) -> float:
    """More than the times of all rows lie apart."""
    times = [*data.source_times, data.target_times]
    return 1 + max(float(x.max()) for x in times) - min(float(x.min()) for x in times)


def searched(module: Any, values: Any, source: Any, target: Any, span: float) -> Any:
    """One search for the whole batch: each row's times are moved past those of the row before."""
    batch, samples, channels = values.shape
    rows = module.arange(batch)[:, None]
    keys, wanted = (source + rows * span).ravel(), (target + rows * span).ravel()
    right = module.searchsorted(keys, wanted, side="right").reshape(target.shape)
    right = right.clip(rows * samples + 1, rows * samples + samples - 1).ravel()
    left = right - 1
    start, end = source.ravel()[left], source.ravel()[right]
    weight = ((target.ravel() - start) / (end - start)).clip(0, 1).astype(values.dtype)[:, None]
    flat = values.reshape(-1, channels)
    low, high = flat[left], flat[right]
    high -= low
    high *= weight
    high += low
    return high.reshape(batch, -1, channels)


def by_rows(values: Any, source: Any, target: Any, span: float) -> Any:
    result = np.empty((len(values), target.shape[1], values.shape[2]), values.dtype)
    for v, s, t, into in zip(values, source, target, result, strict=True):
        right = np.searchsorted(s, t, side="right").clip(1, len(s) - 1)
        left = right - 1
        weight = ((t - s[left]) / (s[right] - s[left])).clip(0, 1).astype(v.dtype)[:, None]
        low = v[left]
        np.subtract(v[right], low, out=into)
        into *= weight
        into += low
    return result


def by_channels(values: Any, source: Any, target: Any, span: float) -> Any:
    result = np.empty((len(values), target.shape[1], values.shape[2]), values.dtype)
    for v, s, t, into in zip(values, source, target, result, strict=True):
        for channel in range(v.shape[1]):
            into[:, channel] = np.interp(t, s, v[:, channel])
    return result


def cupy_peers(case: Case) -> list[Peer]:
    if lacks(case, "CuPy", halves=False, integers=False):
        return []
    cupy = others.load("cupy", "CuPy")
    if cupy is None:
        return []

    def take(data: Inputs) -> Any:
        values, sources, target = of_each_row(data)
        series = [[cupy.from_dlpack(x) for x in xs] for xs in (values, sources)]
        return *series, cupy.from_dlpack(target), span_of(data)

    def call(arguments: Any) -> Any:
        values, sources, target, span = arguments
        return joined([searched(cupy, v, s, target, span) for v, s in zip(values, sources, strict=True)], cupy)

    return [Peer("CuPy searchsorted", take, call, torch.from_dlpack, lambda _: cupy.cuda.Device().synchronize())]


def jax_peers(case: Case, device: torch.device) -> list[Peer]:
    """`jnp.interp` of one channel, under vmap over channels and batch, compiled."""
    if lacks(case, "JAX", halves=True, integers=False):
        return []
    jax = others.load("jax", "JAX")
    if jax is None:
        return []
    jax.config.update("jax_enable_x64", True)  # the times are float64
    try:
        place = jax.devices("gpu" if device.type == "cuda" else "cpu")[0]
    except RuntimeError as error:
        others.tell("JAX", f"no such device ({error})"[:200])
        return []
    jnp = jax.numpy

    def row(values: Any, source: Any, target: Any) -> Any:  # [S, D], [S], [T]
        return jax.vmap(lambda channel: jnp.interp(target, source, channel), in_axes=1, out_axes=1)(values)

    over = (0, None, None) if case.shared else (0, 0, 0)

    def interpolated(values: list[Any], sources: list[Any], target: Any) -> Any:
        parts = [
            jax.vmap(row, in_axes=over)(v, s, target).astype(v.dtype) for v, s in zip(values, sources, strict=True)
        ]
        return joined(parts, jnp)

    def both(values: list[Any], sources: list[Any], target: Any, grad: Any) -> Any:
        result, pull = jax.vjp(lambda v: interpolated(v, sources, target), values)
        return result, pull(grad)

    def take(data: Inputs) -> Any:
        def given(x: torch.Tensor) -> Any:
            return jax.device_put(jax.dlpack.from_dlpack(x.contiguous()), place)

        ones = torch.ones(
            (data.values[0].size(0), data.target_times.size(-1), sum(x.size(2) for x in data.values)),
            dtype=case.dtype,
            device=device,
        )
        values, sources = ([given(x) for x in xs] for xs in (data.values, data.source_times))
        return values, sources, given(data.target_times), given(ones)

    forward, gradient = jax.jit(interpolated), jax.jit(both)
    return [
        Peer(
            "JAX interp",
            take,
            lambda arguments: forward(*arguments[:3]),
            torch.from_dlpack,
            jax.block_until_ready,
            gradient=lambda arguments: gradient(*arguments),
        )
    ]


def torchcde_peers(case: Case) -> list[Peer]:
    if not case.shared:
        others.tell("torchcde, times of each row", "has one row of times for the batch")
        return []
    torchcde = others.load("torchcde", "torchcde")
    if torchcde is None:
        return []

    def call(data: Inputs) -> torch.Tensor:
        source = data.source_times[0]
        line = torchcde.LinearInterpolation(data.values[0], source)
        return line.evaluate(data.target_times.clamp(source[0], source[-1])).to(case.dtype)

    def wait(answer: torch.Tensor) -> None:
        if answer.is_cuda:
            torch.cuda.synchronize()

    return [Peer("torchcde", lambda data: data, call, lambda answer: answer, wait)]
