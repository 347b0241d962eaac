"""What holds for every input: samples come back, targets and rows are independent, clocks may be shifted."""

from __future__ import annotations

import functools

import hypothesis
import hypothesis.strategies as st
import numpy as np
import robocache
import torch
from cases import BLENDS, FLOATS, MODES, assert_same_bits, case_count, random_mode
from definition import wrap
from torch import Tensor

quick = hypothesis.settings(max_examples=case_count(60), deadline=None, derandomize=True)
sizes = st.tuples(st.integers(1, 4), st.integers(1, 12), st.integers(0, 15), st.integers(1, 20))
modes = st.sampled_from(MODES)
dtypes = st.sampled_from(FLOATS)
seeds = st.integers(0, 2**31)
shifts = st.integers(-(2**63) + 1000, 2**63 - 2000)  # not past the ends of int64


def inputs(size: tuple[int, int, int, int], dtype: torch.dtype, seed: int, mode: str = "linear") -> list[Tensor]:
    """Values, strictly ascending int64 times and targets a little past both ends."""
    rows, samples, targets, channels = size
    generator = torch.Generator().manual_seed(seed)
    values = 2.0 * torch.randn(rows, samples, channels * (4 if mode == "slerp" else 1), generator=generator).to(dtype)
    source = torch.randint(1, 50, (rows, samples), generator=generator).cumsum(1)
    target = torch.randint(-20, int(source.max()) + 20, (rows, targets), generator=generator)
    return [values, source, target]


@quick
@hypothesis.given(size=sizes, mode=modes, dtype=dtypes, seed=seeds)
def test_samples_come_back_exactly(size: tuple[int, int, int, int], mode: str, dtype: torch.dtype, seed: int) -> None:
    values, source, _ = inputs(size, dtype, seed, mode)
    expected = values
    if mode == "angle":
        compute = np.float64 if dtype == torch.float64 else np.float32
        wide = values.to(torch.float64 if dtype == torch.float64 else torch.float32).numpy()
        wrapped = [wrap(x, compute) for x in wide.flat]
        expected = torch.from_numpy(np.array(wrapped, compute).reshape(wide.shape)).to(dtype)
    assert_same_bits(robocache.resample(values, source, source, mode=mode), expected)
    assert_same_bits(robocache.resample(values, source.double(), source.double(), mode=mode), expected)


@quick
@hypothesis.given(size=sizes, mode=modes, dtype=dtypes, seed=seeds)
def test_permuted_targets_permute_the_result(
    size: tuple[int, int, int, int], mode: str, dtype: torch.dtype, seed: int
) -> None:
    values, source, target = inputs(size, dtype, seed, mode)
    order = torch.randperm(target.shape[1], generator=torch.Generator().manual_seed(seed))
    result = robocache.resample(values, source, target, mode=mode)
    assert_same_bits(robocache.resample(values, source, target[:, order], mode=mode), result[:, order])


@quick
@hypothesis.given(size=sizes, mode=modes, dtype=dtypes, seed=seeds)
def test_a_ragged_row_is_the_row_alone(
    size: tuple[int, int, int, int], mode: str, dtype: torch.dtype, seed: int
) -> None:
    values, source, target = inputs(size, dtype, seed, mode)
    lengths = torch.randint(1, size[1] + 1, (size[0],), generator=torch.Generator().manual_seed(seed))
    outside = "extrapolate" if mode == "linear" else "nan"
    result = robocache.resample(values, source, target, mode=mode, outside=outside, source_lengths=lengths)
    for row, length in enumerate(lengths.tolist()):
        alone = robocache.resample(values[row, :length], source[row, :length], target[row], mode=mode, outside=outside)
        assert_same_bits(result[row], alone)


@quick
@hypothesis.given(size=sizes, mode=modes, dtype=dtypes, seed=seeds, shift=shifts)
def test_shifted_ticks_change_nothing(
    size: tuple[int, int, int, int], mode: str, dtype: torch.dtype, seed: int, shift: int
) -> None:
    values, source, target = inputs(size, dtype, seed, mode)
    result = robocache.resample(values, source, target, mode=mode)
    assert_same_bits(robocache.resample(values, source + shift, target + shift, mode=mode), result)
    mask = robocache.resample_mask(source, target, max_gap=20)
    assert torch.equal(robocache.resample_mask(source + shift, target + shift, max_gap=20), mask)


@quick
@hypothesis.given(size=sizes, mode=modes, dtype=dtypes, seed=seeds)
def test_times_of_every_type_agree(size: tuple[int, int, int, int], mode: str, dtype: torch.dtype, seed: int) -> None:
    values, source, target = inputs(size, dtype, seed, mode)
    result = robocache.resample(values, source, target, mode=mode)  # small whole numbers are exact in all three
    for time in (torch.float32, torch.float64):
        assert_same_bits(robocache.resample(values, source.to(time), target.to(time), mode=mode), result)


@quick
@hypothesis.given(size=sizes, mode=st.sampled_from(["linear", "pchip"]), dtype=dtypes, seed=seeds)
def test_a_blend_stays_near_its_bracket(
    size: tuple[int, int, int, int], mode: str, dtype: torch.dtype, seed: int
) -> None:
    values, source, target = inputs(size, dtype, seed)
    result = robocache.resample(values, source, target, mode=mode).double()
    ends = [robocache.resample(values, source, target, mode=end).double() for end in ("previous", "next")]
    room = 2 * torch.finfo(dtype).eps * values.double().abs().max() if mode == "linear" else 0.0
    assert bool((result >= torch.minimum(*ends) - room).all() and (result <= torch.maximum(*ends) + room).all())


@quick
@hypothesis.given(size=sizes, mode=st.sampled_from(["linear", "pchip"]), dtype=dtypes, seed=seeds)
def test_a_blend_is_monotone_between_samples(
    size: tuple[int, int, int, int], mode: str, dtype: torch.dtype, seed: int
) -> None:
    values, source, target = inputs(size, dtype, seed)
    clock = torch.arange(int(source.max())).expand(size[0], -1)
    result = robocache.resample(values, source, clock, mode=mode).double()
    start, stop = (robocache.resample(values, source, clock, mode=end).double() for end in ("previous", "next"))
    rising = (stop - start)[:, :-1].sign()
    # Between ticks of one bracket. The line never steps back; the curve, by rounding of its three products, may.
    together = (start[:, 1:] == start[:, :-1]) & (rising != 0)
    compute = torch.float64 if dtype == torch.float64 else torch.float32
    room = 0.0 if mode == "linear" else 8 * torch.finfo(compute).eps * values.double().abs().max()
    assert bool((result.diff(dim=1) * rising >= -room)[together].all())


@quick
@hypothesis.given(size=sizes, dtype=dtypes, seed=seeds)
def test_a_quaternion_keeps_its_norm_and_the_shorter_arc(
    size: tuple[int, int, int, int], dtype: torch.dtype, seed: int
) -> None:
    values, source, target = inputs(size, dtype, seed, "slerp")
    found, left = (robocache.resample(values, source, target, mode=mode) for mode in ("slerp", "previous"))
    found, left = (x.double().reshape(*x.shape[:2], x.shape[2] // 4, 4) for x in (found, left))
    blended = (found != left).any(-1)  # a hit comes back as it is
    assert bool(((found.norm(dim=-1) - 1)[blended].abs() <= 4 * torch.finfo(dtype).eps).all())
    assert bool(((found * left).sum(-1) > 0).all())


@quick
@hypothesis.given(size=sizes, dtype=dtypes, seed=seeds, cut=st.integers(0, 20), mode=modes)
def test_a_stream_split_in_two_by_width_fuses_to_the_same_bits(
    size: tuple[int, int, int, int], dtype: torch.dtype, seed: int, cut: int, mode: str
) -> None:
    values, source, target = inputs(size, dtype, seed, mode)
    cut = min(cut * (4 if mode == "slerp" else 1), values.shape[2])
    whole = robocache.fuse([values], [source], target, mode=mode)
    assert_same_bits(whole, robocache.resample(values, source, target, mode=mode))
    halves = [values[..., :cut], values[..., cut:]]
    assert_same_bits(robocache.fuse(halves, [source, source], target, mode=mode), whole)


@functools.cache
def scripted(mode: str) -> torch.jit.ScriptModule:
    return torch.jit.script(robocache.nn.Resample(mode=mode, outside="zero"))


@functools.cache
def scripted_fuse(modes: tuple[str, str], widths: tuple[int, int]) -> tuple[torch.nn.Module, torch.jit.ScriptModule]:
    streams = {name: {"width": width, "mode": mode} for name, width, mode in zip("ab", widths, modes, strict=True)}
    module = robocache.nn.Fuse(streams)
    return module, torch.jit.script(module)


@quick
@hypothesis.given(size=sizes, mode=modes, dtype=dtypes, seed=seeds)
def test_a_scripted_module_is_eager(size: tuple[int, int, int, int], mode: str, dtype: torch.dtype, seed: int) -> None:
    values, source, target = inputs(size, dtype, seed, mode)
    eager = robocache.resample(values, source, target, mode=mode, outside="zero")
    assert_same_bits(scripted(mode)(values, source, target), eager)
    rng = np.random.default_rng(seed)
    widths = tuple(int(width) for width in rng.choice([1, 4], 2))
    written = tuple(str(random_mode(np.random.default_rng(seed % 7), width, MODES)) for width in widths)
    module, script = scripted_fuse(written, widths)
    streams = {name: torch.randn(size[0], size[1], width).to(dtype) for name, width in zip("ab", widths, strict=True)}
    times = {"a": source, "b": source + 3}
    assert_same_bits(script(streams, times, target), module(streams, times, target))


@quick
@hypothesis.given(size=sizes, seed=seeds)
def test_the_backward_is_the_adjoint(size: tuple[int, int, int, int], seed: int) -> None:
    values, source, target = inputs(size, torch.float64, seed)
    values.requires_grad_()
    result = robocache.resample(values, source, target, outside="extrapolate")
    probe = torch.randn(result.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    result.backward(probe)
    assert values.grad is not None
    left, right = (result.detach() * probe).sum(), (values.detach() * values.grad).sum()
    assert torch.allclose(left, right, rtol=1e-9, atol=1e-9)


@quick
@hypothesis.given(size=sizes, mode=st.sampled_from(BLENDS), seed=seeds)
def test_the_backward_is_the_adjoint_of_the_derivative(size: tuple[int, int, int, int], mode: str, seed: int) -> None:
    values, source, target = inputs(size, torch.float64, seed, mode)
    generator = torch.Generator().manual_seed(seed)
    move = torch.randn(values.shape, generator=generator, dtype=torch.float64)
    leaf = values.clone().requires_grad_()
    result = robocache.resample(leaf, source, target, mode=mode)
    probe = torch.randn(result.shape, generator=generator, dtype=torch.float64).requires_grad_()
    (grad,) = torch.autograd.grad(result, leaf, probe, create_graph=True)
    (along,) = torch.autograd.grad(grad, probe, move)  # the derivative along the move, by a backward of the backward
    left, right = (along * probe.detach()).sum(), (grad.detach() * move).sum()
    assert torch.allclose(left, right, rtol=1e-9, atol=1e-7)
