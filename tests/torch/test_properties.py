"""What holds for every input: samples come back, targets and rows are independent, clocks may be shifted."""

from __future__ import annotations

import hypothesis
import hypothesis.strategies as st
import robocache
import torch
from cases import EPOCH, FLOATS, MODES, assert_same_bits, case_count
from torch import Tensor

quick = hypothesis.settings(max_examples=case_count(60), deadline=None, derandomize=True)
sizes = st.tuples(st.integers(1, 4), st.integers(1, 12), st.integers(0, 15), st.integers(1, 20))
modes = st.sampled_from(MODES)
dtypes = st.sampled_from(FLOATS)
seeds = st.integers(0, 2**31)


def inputs(size: tuple[int, int, int, int], dtype: torch.dtype, seed: int) -> list[Tensor]:
    """Values, strictly ascending int64 times and targets a little past both ends."""
    rows, samples, targets, channels = size
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(rows, samples, channels, generator=generator).to(dtype)
    source = torch.randint(1, 50, (rows, samples), generator=generator).cumsum(1)
    target = torch.randint(-20, int(source.max()) + 20, (rows, targets), generator=generator)
    return [values, source, target]


@quick
@hypothesis.given(size=sizes, mode=modes, dtype=dtypes, seed=seeds)
def test_samples_come_back_exactly(size: tuple[int, int, int, int], mode: str, dtype: torch.dtype, seed: int) -> None:
    values, source, _ = inputs(size, dtype, seed)
    assert_same_bits(robocache.resample(values, source, source, mode=mode), values)
    assert_same_bits(robocache.resample(values, source.double(), source.double(), mode=mode), values)


@quick
@hypothesis.given(size=sizes, mode=modes, dtype=dtypes, seed=seeds)
def test_permuted_targets_permute_the_result(
    size: tuple[int, int, int, int], mode: str, dtype: torch.dtype, seed: int
) -> None:
    values, source, target = inputs(size, dtype, seed)
    order = torch.randperm(target.shape[1], generator=torch.Generator().manual_seed(seed))
    result = robocache.resample(values, source, target, mode=mode)
    assert_same_bits(robocache.resample(values, source, target[:, order], mode=mode), result[:, order])


@quick
@hypothesis.given(size=sizes, mode=modes, dtype=dtypes, seed=seeds)
def test_a_ragged_row_is_the_row_alone(
    size: tuple[int, int, int, int], mode: str, dtype: torch.dtype, seed: int
) -> None:
    values, source, target = inputs(size, dtype, seed)
    lengths = torch.randint(1, size[1] + 1, (size[0],), generator=torch.Generator().manual_seed(seed))
    outside = "extrapolate" if mode == "linear" else "nan"
    result = robocache.resample(values, source, target, mode=mode, outside=outside, source_lengths=lengths)
    for row, length in enumerate(lengths.tolist()):
        alone = robocache.resample(values[row, :length], source[row, :length], target[row], mode=mode, outside=outside)
        assert_same_bits(result[row], alone)


@quick
@hypothesis.given(size=sizes, mode=modes, dtype=dtypes, seed=seeds, shift=st.sampled_from([1, -7, EPOCH, -(2**62)]))
def test_shifted_ticks_change_nothing(
    size: tuple[int, int, int, int], mode: str, dtype: torch.dtype, seed: int, shift: int
) -> None:
    values, source, target = inputs(size, dtype, seed)
    result = robocache.resample(values, source, target, mode=mode)
    assert_same_bits(robocache.resample(values, source + shift, target + shift, mode=mode), result)


@quick
@hypothesis.given(size=sizes, mode=modes, dtype=dtypes, seed=seeds)
def test_times_of_every_type_agree(size: tuple[int, int, int, int], mode: str, dtype: torch.dtype, seed: int) -> None:
    values, source, target = inputs(size, dtype, seed)
    result = robocache.resample(values, source, target, mode=mode)  # small whole numbers are exact in all three
    for time in (torch.float32, torch.float64):
        assert_same_bits(robocache.resample(values, source.to(time), target.to(time), mode=mode), result)


@quick
@hypothesis.given(size=sizes, dtype=dtypes, seed=seeds)
def test_a_blend_stays_near_its_bracket(size: tuple[int, int, int, int], dtype: torch.dtype, seed: int) -> None:
    values, source, target = inputs(size, dtype, seed)
    result = robocache.resample(values, source, target).double()
    ends = [robocache.resample(values, source, target, mode=mode).double() for mode in ("previous", "next")]
    room = 2 * torch.finfo(dtype).eps * values.double().abs().max()
    assert bool((result >= torch.minimum(*ends) - room).all() and (result <= torch.maximum(*ends) + room).all())


@quick
@hypothesis.given(size=sizes, dtype=dtypes, seed=seeds)
def test_the_backward_is_the_adjoint(size: tuple[int, int, int, int], dtype: torch.dtype, seed: int) -> None:
    values, source, target = inputs(size, torch.float64, seed)
    values.requires_grad_()
    result = robocache.resample(values, source, target, outside="extrapolate")
    probe = torch.randn(result.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    result.backward(probe)
    assert values.grad is not None
    left, right = (result.detach() * probe).sum(), (values.detach() * values.grad).sum()
    assert torch.allclose(left, right, rtol=1e-9, atol=1e-9)
