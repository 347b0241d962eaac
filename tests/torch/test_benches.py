"""The benchmark itself: what a line holds, that peers are checked, that pages follow records, that the guard guards."""

from __future__ import annotations

import ctypes
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "benches"))

import clouds  # noqa: E402
import dispatch  # noqa: E402
import guard  # noqa: E402
import limits  # noqa: E402
import others  # noqa: E402
import peers  # noqa: E402
import recorded as recorded_cases  # noqa: E402
import records  # noqa: E402
import report  # noqa: E402
import signals  # noqa: E402
import sweep  # noqa: E402
import timing  # noqa: E402

CPU = torch.device("cpu")
SIGNALS = [
    signals.Case(3, ((20, 4),), 10, signals.F32),
    signals.Case(3, ((20, 4),), 10, signals.BF16),
    signals.Case(3, ((20, 4),), 10, signals.F32, shared=True),
    signals.Case(2, ((20, 4), (7, 3), (9, 1)), 10, signals.F32),
]
CLOUDS = [
    clouds.Case("voxelize", "occupancy", 400, 0, 8),
    clouds.Case("voxelize", "mean", 400, 3, 8),
    clouds.Case("voxelize", "mean", 400, 3, 8, torch.bfloat16),
    clouds.Case("voxelize_sparse", "mean", 400, 3, 8),
]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is compiled is tested elsewhere; a large copy is not needed here."""
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)
    monkeypatch.setattr(timing, "CPU_COPY_BYTES", 1 << 16)
    monkeypatch.setattr(timing, "TURN_SECONDS", 0.0)


@pytest.fixture
def bench() -> peers.Bench:
    return peers.Bench(CPU, seconds=0.001)


COMMON: dict[str, object] = {
    "device": "Some Chip, 2 cores",
    "command": "python benches/peers.py",
    "versions": {"torch": "1"},
}


@pytest.mark.parametrize("case", [SIGNALS[0], CLOUDS[1]], ids=str)
def test_a_line_has_every_field(bench: peers.Bench, case: peers.Case, tmp_path: Path) -> None:
    path = tmp_path / "2026-01-01-some.jsonl"
    lines = list(bench.measure(case))
    for line in (*bench.copies, *lines):
        records.append(path, line | COMMON)
    found = records.read(path)
    assert [tuple(line) for line in found] == [records.FIELDS] * len(found)
    assert {line["direction"] for line in lines} == set(case.directions)
    assert {"robocache", "torch eager", "torch.compile"} <= {line["impl"] for line in lines}
    for line in found:
        assert 0 < line["p10_us"] <= line["median_us"] <= line["p90_us"]
        assert line["floor_us"] == pytest.approx(line["bytes"] / bench.bandwidth, abs=1e-3)
    assert min(line["median_us"] / line["floor_us"] for line in found if line["op"] == "copy") == pytest.approx(1, 1e-2)


def test_the_command_records_what_it_prints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(peers, "CPU_CASES", [SIGNALS[0], CLOUDS[0]])
    monkeypatch.delenv("ROBOCACHE_DATA", raising=False)
    path = tmp_path / "some.jsonl"
    peers.main(["--seconds", "0.001", "--case", "x", "--direction", "forward", "--record", str(path)])
    found = records.read(path)
    assert {each["op"] for each in found} == {"copy", "resample"}
    assert {each["direction"] for each in found} == {"forward"}
    command = f"python benches/peers.py --seconds 0.001 --case x --direction forward --record {path}"
    assert {each["command"] for each in found} == {command}
    printed = capsys.readouterr().out
    assert all(f"{each['impl']}" in printed and f"{each['median_us']:.2f}" in printed for each in found)
    peers.main(["--quick", "--seconds", "0.001", "--limit", "-1"])
    assert "not begun" not in capsys.readouterr().out  # none of these cases is a bar


def test_the_least_bytes_of_a_series() -> None:
    """Two of four rows are touched; hand-counted."""
    case = signals.Case(1, ((4, 2),), 1, signals.F32)
    times = torch.tensor([[0.0, 1.0, 2.0, 3.0]], dtype=torch.float64)
    data = signals.Inputs([torch.zeros(1, 4, 2)], [times], torch.tensor([[1.5]], dtype=torch.float64))
    rows, of_times = 2 * 4, 4 * 8 + 8
    assert case.least_bytes(data) == (2 + 1) * rows + of_times
    assert case.least_bytes(data, "backward") == (4 + 1) * rows + of_times
    assert case.least_bytes(data, "forward+backward") == 8 * rows + 2 * of_times


def test_the_least_bytes_of_a_cloud() -> None:
    """Three points in two voxels, one point outside."""
    points = torch.tensor([[[0.1, 0.1, 0.1], [0.2, 0.1, 0.1], [0.9, 0.9, 0.9], [2.0, 0.0, 0.0]]])
    case = clouds.Case("voxelize", "mean", 4, 2, 2)
    data = clouds.Inputs(points, [torch.zeros(1, 4, 2)], case.place(CPU))
    assert case.least_bytes(data) == 4 * 12 + 4 * 8 + 8 * 8
    assert case.least_bytes(data, "backward") == 4 * 12 + 2 * 8 + 4 * 8
    rows = clouds.Case("voxelize_sparse", "mean", 4, 2, 2)
    assert rows.least_bytes(data) == 4 * 12 + 4 * 8 + 2 * (8 + 20) + 4 * 8


@pytest.mark.parametrize("case", [*SIGNALS, *CLOUDS], ids=lambda case: f"{case.op} {case} {case.dtype}")
def test_every_peer_agrees_with_the_definition(case: peers.Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cloud_peers.MOST_POINTS_A_VOXEL", 64)
    data = case.inputs(CPU)
    calls, found = case.implementations(CPU, autotune=True), peers.others_of(case, CPU)
    right, right_peers = peers.checked(case, data, calls, found)
    assert list(right) == list(calls)
    assert [peer.name for peer in right_peers] == [peer.name for peer in found]
    assert any(peer.name.startswith("NumPy") for peer in found) == (case.dtype == torch.float32)
    with monkeypatch.context() as without:
        without.setattr(others.importlib, "import_module", missing)
        names = {peer.name.split()[0] for peer in peers.others_of(case, CPU)}
    assert names <= {"NumPy"}  # which torch brings


def missing(name: str) -> Any:
    raise ModuleNotFoundError(name)


@pytest.mark.parametrize("case", [SIGNALS[0], CLOUDS[1], CLOUDS[3]], ids=str)
def test_a_wrong_answer_is_not_timed(case: peers.Case, capsys: pytest.CaptureFixture[str]) -> None:
    data = case.inputs(CPU)
    calls = case.implementations(CPU)

    def off(call: Callable[..., Any], by: float) -> Callable[..., Any]:
        return lambda x: call(x) + by if torch.is_tensor(call(x)) else (call(x)[0] + by, *call(x)[1:])

    right, _ = peers.checked(case, data, {"torch eager": off(calls["torch eager"], 1.0)}, [])
    assert not right and "torch eager at" in capsys.readouterr().out
    with pytest.raises(ValueError, match="must equal the definition to the bit"):
        peers.checked(case, data, {"robocache": off(calls["robocache"], 1e-7)}, [])


def test_recorded_data_agrees(recorded: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROBOCACHE_DATA", str(recorded))
    found = recorded_cases.cases()
    assert {str(case).split()[0] for case in found} >= {"Plaza2", "episodes,", "LiDAR"}
    for case in (found[0], found[1], found[2], found[5]):
        data = case.inputs(CPU)
        calls = case.implementations(CPU)
        right, _ = peers.checked(case, data, calls, peers.others_of(case, CPU))
        assert list(right) == list(calls)


def test_recorded_data_is_skipped_aloud(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delenv("ROBOCACHE_DATA", raising=False)
    assert recorded_cases.cases() == []
    assert "ROBOCACHE_DATA" in capsys.readouterr().out


def test_dispatch_is_beside_add(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "CALLS", 2)
    monkeypatch.setattr(dispatch, "BLOCKS", 2)
    lines = list(dispatch.measure(CPU))
    for metric in ("dispatch", "dispatch, requires_grad"):
        ops = {line["op"] for line in lines if line["metric"] == metric}
        assert {"resample", "fuse", "voxelize", "voxelize_sparse"} <= ops
        for op in ops:
            names = {line["impl"] for line in lines if (line["op"], line["metric"]) == (op, metric)}
            assert names == {"robocache", "torch.ops.robocache", records.NOTHING, "torch.add"}


def test_an_operator_that_does_nothing_gives_as_many_results() -> None:
    ops = dispatch.nothing()
    values, times = torch.ones(2, 4, 3), torch.ones(2, 4)
    assert ops.fuse([values], [times], times).shape == (2, 4, 3)
    assert len(ops.voxelize_sparse(values, values, [0.0] * 3, [1.0], [2] * 3)) == 5


def test_times_of_a_stream_of_calls() -> None:
    seen: list[int] = []
    calls = [lambda index=index: seen.append(index) for index in range(3)]
    times = timing.stream_times(calls, lambda _: None, seconds=0.001, blocks=4)
    assert len(times) == 4 and min(times) > 0 and set(seen) == {0, 1, 2}


@pytest.mark.parametrize("copies, size", [(1, 10**9), (3, 10**8), (400, 1000), (1000, 1)])
def test_a_graph_takes_every_input_equally_often(copies: int, size: int) -> None:
    count = timing.rotations(copies, size)
    assert count % copies == 0 and copies <= count <= max(timing.MOST_CALLS, copies)
    assert count * size >= timing.LEAST_BYTES or count + copies > timing.MOST_CALLS


def line(impl: str, median: float, **other: object) -> records.Line:
    """A made-up line."""
    made: records.Line = {
        "op": "resample",
        "case": "32x500x256->250",
        "dtype": "float32",
        "direction": "forward",
        "impl": impl,
        "metric": "call",
        "median_us": median,
        "p10_us": median * 0.9,
        "p90_us": median * 1.2,
        "bytes": 1000,
        "floor_us": 10.0,
        "threads": 2,
    }
    return made | COMMON | other


SYNTHETIC = [
    line("memcpy", 100.0, op="copy", case="1 MiB", bytes=1_000_000, floor_us=100.0),
    line("robocache", 20.0),
    line("robocache", 38.0, threads=1),
    line("torch eager", 217.25),
    line("torch.compile", 61.5),
    line("NumPy interp", 900.0, threads=1),
    line("NumPy searchsorted", 55.5, threads=1),
    line("robocache", 31.0, direction="backward"),
    line("torch.compile", 30.0, direction="backward"),
    line("robocache", 3.0, metric="dispatch", case="tiny", bytes=0, floor_us=0.0),
    line(records.NOTHING, 2.25, metric="dispatch", case="tiny", bytes=0, floor_us=0.0),
    line("torch.add", 1.5, metric="dispatch", case="tiny", bytes=0, floor_us=0.0),
]


def write(path: Path, lines: list[records.Line]) -> None:
    for each in lines:
        records.append(path, each)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A tree with markers and a record."""
    (tmp_path / "docs").mkdir()
    for name in ("README.md", "docs/performance.md"):
        (tmp_path / name).write_text(
            "before\n<!-- benchmark: made by benches/report.py -->\nold\n<!-- end of benchmark -->\nafter\n"
        )
    write(tmp_path / "record" / "2026-02-01-some.jsonl", SYNTHETIC)
    return tmp_path


def run(checkout: Path, *more: str) -> int:
    return report.main(["--root", str(checkout), "--record", str(checkout / "record"), *more])


def test_pages_follow_the_record(checkout: Path) -> None:
    assert run(checkout, "--check") == 1
    assert run(checkout) == 0
    assert run(checkout, "--check") == 0
    readme, page = ((checkout / name).read_text() for name in ("README.md", "docs/performance.md"))
    assert readme.startswith("before\n") and readme.endswith("after\n") and "old" not in readme
    row = "| `resample` 32×500×256 → 250, float32 | 20.0 µs | 50 % | 61.5 µs | 217 µs | 55.5 µs (NumPy searchsorted) |"
    assert row in readme
    assert "A peer is faster in 1 of 2 measurements" in readme and "1.03 times (torch.compile)" in readme
    assert "| 38.0 µs | 20.0 µs | 1.90 | 55.5 µs |" in page  # threads
    assert "| `resample` as `robocache.resample` | no | 3.00 µs | 1.50 µs | 2.00 | 2.25 µs (1.50) |" in page
    plots = sorted((checkout / "docs" / "performance").glob("*.svg"))
    assert [path.name for path in plots] == ["some-limit.svg", "some-peers.svg", "some-size.svg"]
    for path in (checkout / "README.md", plots[0]):
        kept = path.read_bytes()
        path.write_bytes(kept.replace(b"20", b"21") + b" ")
        assert run(checkout, "--check") == (0 if kept == path.read_bytes() else 1)
        path.write_bytes(kept)
    assert run(checkout, "--check") == 0
    plots[0].write_bytes(plots[0].read_bytes().replace(b"<dc:title>Matplotlib ", b"<dc:title>Matplotlib 0.") + b" ")
    assert run(checkout, "--check") == 0  # not compared


def test_the_newest_record_of_a_kind_counts(checkout: Path) -> None:
    record = checkout / "record"
    write(record / "2026-01-01-some.jsonl", [SYNTHETIC[0], line("robocache", 99.0)])
    write(record / "2026-02-01-other.jsonl", [SYNTHETIC[0], line("robocache", 77.0)])
    without = {name: value for name, value in line("robocache", 55.0).items() if name != "floor_us"}
    (record / "2026-03-01-some.jsonl").write_text(json.dumps(without) + "\n")  # of before there was a floor
    swept = [line(name, time, case="a") for name, time in (("robocache", 4.0), ("torch eager", 2.0))]
    gone_back = [line(name, time, case="b", direction="backward") for name, time in (("robocache", 3.0), ("JAX", 9.0))]
    write(record / "2026-02-01-some-sweep.jsonl", [*swept, *gone_back])
    assert run(checkout) == 0
    readme, page = ((checkout / name).read_text() for name in ("README.md", "docs/performance.md"))
    assert "20.0 µs" in readme and "77.0 µs" in readme and "99.0 µs" not in readme and "55.0" not in readme
    assert "a peer is faster in 1; the worst:" in page and "| 2.00 µs (torch eager) | 2.00 |" in page
    assert "backward alone, a peer is faster in 0; the worst:" in page and "| 9.00 µs (JAX) | 0.33 |" in page


def test_what_the_machine_allows_stands_beside_what_is_reached(checkout: Path) -> None:
    lines = [
        line("skeleton", 1.25, op="limit", case="1 trip to memory", bytes=0, floor_us=0.0),
        line("robocache", 6.0, case="32x500x256->250"),
        line("skeleton", 5.0, case="32x500x256->250"),
        line("skeleton, told", 4.5, case="32x500x256->250"),
        line("skeleton, bits", 4.0, case="32x500x256->250"),
    ]
    write(checkout / "record" / "2026-02-01-some-limits.jsonl", lines)
    assert run(checkout) == 0
    page = (checkout / "docs" / "performance.md").read_text()
    assert "1 trip to memory: 1.25 µs" in page
    assert "| 5.00 µs | 4.50 µs | 4.00 µs | 6.00 µs | 1.50 |" in page
    assert "6.00 µs" not in (checkout / "README.md").read_text(), "of another run"


def test_limits_pass_what_their_kernels_take() -> None:
    sizes = {limits.Stream: 48, limits.Rows: 168, limits.Scatter: 32, limits.Tiles: 40, limits.Config: 56}
    assert {struct: ctypes.sizeof(struct) for struct in sizes} == sizes
    assert limits.copies_of(1) == limits.MOST_COPIES and limits.copies_of(10**9) == 3
    for kernel in ("nothing", "chase", "rows", "clear", "scatter_bytes", "scatter_bits", "expand", "entries", "tiles"):
        assert f" {kernel}(const __grid_constant__" in limits.SOURCE.read_text()


def test_without_records_nothing_is_made(checkout: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (checkout / "record" / "2026-02-01-some.jsonl").unlink()
    assert run(checkout) == 0 and run(checkout, "--check") == 0
    assert "nothing to make" in capsys.readouterr().out
    assert "old" in (checkout / "README.md").read_text()


def test_the_committed_pages_follow_the_committed_record() -> None:
    assert report.main(["--check"]) == 0


def test_a_rerun_replaces_what_a_file_had() -> None:
    again = line("robocache", 19.0)
    assert [each["median_us"] for each in records.latest([*SYNTHETIC[1:3], again]).values()] == [19.0, 38.0]


def test_a_record_is_named_by_day_and_machine() -> None:
    name = records.place(Path("x"), "NVIDIA H100 80GB HBM3").name
    assert records.kind(Path(name)) == "nvidia-h100" and name[4] == name[7] == "-"
    assert records.kind(records.place(Path("x"), "AMD EPYC, 2 cores", "sweep")) == "amd-epyc-2-cores-sweep"
    assert records.place(Path("x/y.jsonl"), "") == Path("x/y.jsonl")


KEY = ("resample", "32x500x256->250", "float32", "forward", "call")


def test_the_guard_compares_ratios_to_the_peer() -> None:
    before = guard.ratios(SYNTHETIC, "torch.compile")
    assert before[KEY] == pytest.approx(20 / 61.5)
    busy = [line("robocache", 40.0), line("torch.compile", 123.0)]  # twice as slow, both
    assert all(verdict.good for verdict in guard.judge(before, lambda: busy, "torch.compile", 0.05))
    slower = [line("robocache", 21.2), line("torch.compile", 61.5)]
    (verdict,) = guard.judge(before, lambda: slower, "torch.compile", 0.05)
    assert not verdict.good and "SLOWER" in str(verdict) and verdict.change == pytest.approx(0.06)
    assert all(verdict.good for verdict in guard.judge(before, lambda: slower, "torch.compile", 0.07))


def test_the_guard_measures_again_before_it_fails() -> None:
    before = guard.ratios(SYNTHETIC, "torch.compile")
    runs = iter([[line("robocache", each), line("torch.compile", 61.5)] for each in (30.0, 20.5, 99.0)])
    (verdict,) = guard.judge(before, lambda: next(runs), "torch.compile", 0.05)
    assert verdict.good and verdict.now == pytest.approx(20.5 / 61.5)
    assert len(list(runs)) == 1


def test_the_guard_runs(checkout: Path, bench: peers.Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    case = signals.Case(3, ((20, 4),), 10, signals.F32, bar=True)
    monkeypatch.setattr(peers, "CPU_CASES", [case])
    path = checkout / "record" / "2026-02-02-this.jsonl"
    lines = [each | COMMON for each in bench.measure(case)]
    write(path, lines)
    options = ["--seconds", "0.001", "--against", str(path)]
    assert guard.main([*options, "--tolerance", "1000"]) == 0
    for each in lines:  # a record in which RoboCache took no time at all
        if each["impl"] == "robocache":
            each["median_us"] = 1e-6
    write(path, lines)
    assert guard.main(options) == 1
    monkeypatch.setattr(peers, "CPU_CASES", [])
    assert guard.main(options) == 1


def test_sweeps_stay_within_their_limits() -> None:
    limit = 50_000_000
    series, scans = sweep.draw_signals(60, limit), sweep.draw_clouds(60, limit)
    assert len(series) == len(scans) == 60
    assert series == sweep.draw_signals(60, limit) and series != sweep.draw_signals(60, limit, seed=1)
    for case in series:
        ((source, channels),) = case.streams
        assert 1 <= case.batch <= 4096 and 2 <= source <= 65_536
        assert 1 <= channels <= 2048 and 1 <= case.targets <= 16_384
        assert sweep.need_of_signals(case) <= limit
    for cloud in scans:
        assert 1000 <= cloud.points <= 64_000_000 and 16 <= cloud.size <= 512 and 0 <= cloud.channels <= 64
        assert sweep.need_of_clouds(cloud) <= limit
    everything = sweep.draw_signals(300, 1 << 62)
    assert max(case.batch for case in everything) > 3000 and min(case.batch for case in everything) == 1
    assert {case.dtype for case in everything} == {torch.float32, torch.bfloat16}
    assert {(case.op, case.reduce) for case in scans} == set(sweep.CLOUDS)


def test_a_sweep_records_and_ends(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "sweep.jsonl"
    arguments = ["--cases", "4", "--bytes", str(1 << 20), "--record", str(path)]
    assert sweep.main(arguments) == 0
    assert "worst of 4" in capsys.readouterr().out
    assert {each["impl"] for each in records.read(path)} == {"robocache", "torch eager", "torch.compile"}
    assert sweep.main([*arguments, "--seconds", "-1"]) == 0
    assert "are over after 0 cases" in capsys.readouterr().out
    path.unlink()
    assert sweep.main([*arguments, "--direction", "backward"]) == 0
    found = records.read(path)
    assert {each["direction"] for each in found} == {"backward"}
    assert not any("occupancy" in each["case"] for each in found)
