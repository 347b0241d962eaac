"""`voxelize` and `voxelize_sparse`: equal bits, forward and backward, for any threads, order, run, and device."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import robocache
import torch
from cases import FLOATS, assert_same_bits, case_count, random_values
from torch import Tensor
from voxelize_cases import (
    CUBE,
    REDUCTIONS,
    VoxelCase,
    cloud,
    dense_answers,
    random_points,
    random_voxel_case,
    same,
    sparse_answers,
)

THREADS = (1, 2, 3, 4, 5)
OPERATORS = torch.ops.robocache


@pytest.fixture(autouse=True)
def loaded() -> None:
    """The operators are there only once the library is."""
    assert robocache.resample is not None


def large_cases(rng: np.random.Generator) -> Iterator[VoxelCase]:
    """Large enough that the work is split between threads; of the last two, most points lie in one voxel."""
    for number, (batch, count, channels, kind, grid) in enumerate(
        [
            (1, 20_000, 5, "uniform", [32, 32, 32]),
            (3, 7000, 33, "faces", [9, 40, 7]),
            (40, 300, 1, "odd", [5, 5, 5]),
            (1, 30_000, 3, "heavy", [16, 16, 16]),
            (2, 9000, 17, "heavy", [3, 2, 1]),
        ]
    ):
        for reduce in REDUCTIONS:
            size = [0.3, 0.3, 0.45]
            points = random_points(rng, [batch, count, 3], kind, ([-1.0, 0.0, 2.0], size, grid))
            dtype, point_type = FLOATS[number % 4], FLOATS[(number + 1) % 2]
            features = random_values(rng, [batch, count, channels], dtype, special=number == 1)
            lengths = torch.from_numpy(rng.integers(0, count + 1, batch)) if number % 2 else None
            # Large numbers that cancel: a sum in another order, or in f32, would end elsewhere.
            features[:, ::3] *= 1000.0
            features[:, 1::3] = -features[:, ::3][:, : features[:, 1::3].shape[1]]
            yield VoxelCase(points.to(point_type), features, [-1.0, 0.0, 2.0], size, grid, reduce, lengths)


def both(case: VoxelCase, device: torch.device | str = "cpu") -> list[Tensor | None]:
    return dense_answers(case, device) + sparse_answers(case, device)


def test_threads_do_not_change_bits_of_small_cases(rng: np.random.Generator, threads: None) -> None:
    for _ in range(case_count(300)):
        case, found = random_voxel_case(rng), []
        for count in (1, 2, 5):
            torch.set_num_threads(count)
            found.append(both(case))
        for other in found[1:]:
            same(found[0], other, case)


def test_threads_do_not_change_bits_of_large_cases(rng: np.random.Generator, threads: None) -> None:
    for case in large_cases(rng):
        found = []
        for count in THREADS:
            torch.set_num_threads(count)
            found.append(both(case))
        for other in found[1:]:
            same(found[0], other, case)


@pytest.mark.parametrize("reduce", REDUCTIONS)
def test_a_thousand_repeats(device: torch.device, reduce: str, rng: np.random.Generator) -> None:
    grid = ([0.0] * 3, [0.25], [4, 4, 4])
    points = random_points(rng, [2, 400, 3], "heavy", grid).float()
    features = random_values(rng, [2, 400, 3], torch.float32, special=False) * 1e3
    case = VoxelCase(points, features, *grid, reduce, capacity=40)
    first = both(case, device)
    expected = [None if x is None else x.clone() for x in first]
    for _ in range(case_count(1000)):
        for a, b in zip(both(case, device), expected, strict=True):
            # On the device, and by bits; there is no NaN here.
            assert a is not None and b is not None and torch.equal(bits(a), bits(b))


def bits(tensor: Tensor) -> Tensor:
    return tensor.contiguous().view(torch.uint8) if tensor.dim() > 0 else tensor


@pytest.mark.parametrize("reduce", REDUCTIONS)
def test_the_order_of_points_does_not_matter(device: torch.device, reduce: str, rng: np.random.Generator) -> None:
    for _ in range(case_count(40)):
        case = random_voxel_case(rng, reductions=[reduce])
        case.lengths, case.layouts = None, ["contiguous"] * 2
        axis = case.points.dim() - 2
        order = torch.from_numpy(rng.permutation(case.points.shape[axis]))
        moved = VoxelCase(**vars(case))
        moved.points = case.points.index_select(axis, order)
        moved.features = None if case.features is None else case.features.index_select(axis, order)
        found, other = dense_answers(case, device), dense_answers(moved, device)
        assert_same_bits(found[0], other[0], case)
        if reduce in ("sum", "mean") and found[1] is not None:
            assert other[1] is not None
            assert_same_bits(found[1].cpu().index_select(axis, order), other[1], case)
        rows, others = sparse_answers(case, device), sparse_answers(moved, device)
        for place in (0, 1, 2, 4):
            assert_same_bits(rows[place], others[place], case)
        assert rows[3] is not None
        assert_same_bits(rows[3].cpu().index_select(axis, order), others[3], case)


def test_a_loader_worker_gives_the_same_bits(rng: np.random.Generator) -> None:
    cases = [random_voxel_case(rng) for _ in range(20)]

    class Grids(torch.utils.data.Dataset[Tensor]):
        def __len__(self) -> int:
            return len(cases)

        def __getitem__(self, index: int) -> Tensor:
            tensors, options = cases[index].arguments()
            return OPERATORS.voxelize(*tensors, **options)

    here = [Grids()[index] for index in range(len(cases))]
    loader = torch.utils.data.DataLoader(Grids(), batch_size=None, num_workers=1, multiprocessing_context="fork")
    for case, a, b in zip(cases, here, loader, strict=True):
        assert_same_bits(a, b, case)


def test_calls_from_many_threads_at_once(rng: np.random.Generator) -> None:
    from concurrent.futures import ThreadPoolExecutor

    cases = [random_voxel_case(rng) for _ in range(60)]
    expected = [both(case) for case in cases]
    with ThreadPoolExecutor(4) as pool:
        for case, a, b in zip(cases, pool.map(both, cases), expected, strict=True):
            same(a, b, case)


@pytest.mark.gpu
@pytest.mark.parametrize("reduce", REDUCTIONS)
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_cuda_gives_the_bits_of_the_cpu_in_small_cases(
    rng: np.random.Generator, dtype: torch.dtype, reduce: str
) -> None:
    for number in range(case_count(60)):
        # One of the two types is this one, the other any; every third time as many points as one launch does not take.
        case = random_voxel_case(rng, reductions=[reduce], most=2500 if number % 3 == 0 else 200)
        if rng.random() < 0.5 or case.features is None:
            case.points = case.points.to(dtype)
        if case.features is not None:
            case.features = case.features.to(dtype)
        same(both(case), both(case, "cuda"), case)


@pytest.mark.gpu
def test_cuda_gives_the_bits_of_the_cpu_in_large_cases(rng: np.random.Generator) -> None:
    for case in large_cases(rng):
        expected = both(case)
        for _ in range(3):
            same(both(case, "cuda"), expected, case)


@pytest.mark.gpu
@pytest.mark.parametrize("reduce", REDUCTIONS)
@pytest.mark.parametrize("count", [31, 33, 1023, 1025, 4097, 100_000])
def test_cuda_gives_the_bits_of_the_cpu_where_one_voxel_has_all(
    rng: np.random.Generator, count: int, reduce: str
) -> None:
    for dtype in FLOATS:
        features = random_values(rng, [1, count, 3], dtype, special=False)
        case = VoxelCase(torch.full((1, count, 3), 0.3), features, *CUBE, reduce)
        same(both(case), both(case, "cuda"), (dtype, case))


@pytest.mark.gpu
def test_cuda_gives_the_bits_of_the_cpu_for_many_clouds() -> None:
    points, features = cloud("cpu", 70_000, 3, 2)  # more clouds than a launch has rows of blocks
    for reduce in REDUCTIONS:
        case = VoxelCase(points, features, [0.0] * 3, [0.5], [2, 2, 2], reduce)
        same(both(case), both(case, "cuda"), reduce)
