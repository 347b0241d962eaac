"""The training step and the counters of `benches/`: what they read, write and draw, on a machine without a GPU."""

from __future__ import annotations

import argparse
import csv
import gzip
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

BENCHES = Path(__file__).resolve().parents[2] / "benches"
sys.path.insert(0, str(BENCHES))

import forecast  # noqa: E402
import records  # noqa: E402
import timeline  # noqa: E402
import training  # noqa: E402

import kernels  # noqa: E402

CASE = "resample 32x500x256->250 bf16"
OTHER = "resample 8x250x128->128 bf16"
FACTS = {"bytes": {CASE: 7_000_000, OTHER: 500_000}, "device": "a GPU", "versions": {"robocache": "0", "torch": "2"}}
VALUES = {  # of a made-up launch: counter, its unit, its value as ncu writes it
    "gpu__time_duration.sum": ("ns", "4,096"),
    "dram__bytes.sum": ("byte", "8,192,000"),
    "dram__throughput.avg.pct_of_peak_sustained_elapsed": ("%", "50.5"),
    "launch__registers_per_thread": ("register/thread", "40"),
    "launch__shared_mem_per_block": ("Kbyte/block", "1.024"),
    "smsp__cycles_elapsed.avg.per_second": ("hz", "1,755,000,000"),
    "smsp__inst_executed.sum": ("inst", "1,000,000"),
    "smsp__inst_executed.avg.pct_of_peak_sustained_elapsed": ("%", "25"),
    kernels.STALL.format("long_scoreboard"): ("inst", "6"),
    kernels.STALL.format("wait"): ("inst", "3"),
    kernels.STALL.format("selected"): ("inst", "1"),
    kernels.METRICS["l2_pct"]: ("", "n/a"),
}
NAMES = [
    "spin_kernel(long)",
    "resample_f64_bf16",
    "spin_kernel(long)",
    "void robocache::resample_f64_bf16<int>(Params)",
]


def wide() -> str:
    """What `ncu --csv --page raw` prints: names, units, a line for each launch; messages around it."""
    header = ["ID", "Process ID", "Kernel Name", "Block Size", *VALUES]
    rows = [header, ["", "", "", "block", *(unit for unit, _ in VALUES.values())]]
    rows += [[str(i), "1", name, "(256, 1, 1)", *(v for _, v in VALUES.values())] for i, name in enumerate(NAMES)]
    lines = [",".join(f'"{cell}"' for cell in row) for row in rows]
    return "\n".join(["==PROF== Connected to process 1", *lines, "==PROF== Disconnected from process 1", ""])


def long() -> str:
    """The same as `--page details` prints it: a line for each counter."""
    rows = [["ID", "Kernel Name", "Metric Name", "Metric Unit", "Metric Value"]]
    rows += [[str(i), kernel, n, *VALUES[n]] for i, kernel in enumerate(NAMES) for n in VALUES]
    return "\n".join(",".join(f'"{cell}"' for cell in row) for row in rows)


@pytest.mark.parametrize("text", [wide(), long()], ids=["wide", "long"])
def test_counters_become_a_row_for_each_launch(text: str, tmp_path: Path) -> None:
    rows = list(kernels.table(text, [CASE, "left out", OTHER], FACTS, "python benches/kernels.py"))
    assert [(row["case"], row["kernel"], row["launch"]) for row in rows] == [
        (CASE, "resample_f64_bf16", "1"),
        (OTHER, "resample_f64_bf16", "1"),
    ]
    row = rows[0]
    assert (row["time_us"], row["dram_bytes"], row["shared_bytes"], row["sm_mhz"]) == (
        "4.096",
        "8192000",
        "1024",
        "1755",
    )
    assert (row["top_stall"], row["top_stall_pct"]) == ("long_scoreboard", "60")
    assert (row["second_stall"], row["second_stall_pct"]) == ("wait", "30")
    assert row["l2_pct"] == row["sm_pct"] == ""  # one that has no value, one that is not there
    kernels.write(tmp_path / "kernels.csv", rows)
    assert kernels.read(tmp_path / "kernels.csv") == rows
    with (tmp_path / "kernels.csv").open() as file:
        assert tuple(next(csv.reader(file))) == tuple(kernels.COLUMNS)


def test_limits_come_from_shares_of_the_peak() -> None:
    rows = list(kernels.table(wide(), [CASE, OTHER], FACTS, ""))
    assert kernels.limit(rows, "dram_bytes", "dram_pct") == pytest.approx(8_192_000 / 4.096 / 0.505)
    assert kernels.limit(rows, "instructions", "issue_pct") == pytest.approx(1_000_000 / 4.096 / 0.25)
    assert kernels.limit(rows, "l2_bytes", "l2_pct") is None


def test_roofline_is_the_same_file_each_time(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    rows = list(kernels.table(wide(), [CASE, OTHER], FACTS, ""))
    for name in ("one.svg", "two.svg"):
        kernels.roofline(rows, tmp_path / name)
    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "two.svg").read_bytes()
    kernels.show(rows)
    assert f"{CASE}: 4.10 µs, launches: 1, least bytes: 7.00 MB" in capsys.readouterr().out


def test_page_has_a_line_for_each_kernel() -> None:
    rows = list(kernels.table(wide(), [CASE, OTHER], FACTS, ""))
    lines = kernels.markdown([rows[0], rows[0] | {"launch": "2", "time_us": "1"}, rows[1]]).splitlines()
    assert len(lines) == 4 and len({line.count("|") for line in lines}) == 1
    assert lines[2] == (
        f"| {CASE} | `resample_f64_bf16` | 2 | 5.10 | 50 | — | — | 25 | —, — | 40 | — / — "
        "| long_scoreboard 60 %, wait 30 % |"
    )


def test_counter_that_ncu_does_not_know_is_left_out(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "table.csv").write_text(wide())
    ncu = tmp_path / "ncu"
    ncu.write_text(f"""#!{sys.executable}
import json, pathlib, sys
given = sys.argv
log = pathlib.Path(given[given.index("--log-file") + 1])
unknown = "smsp__average_warps_issue_stalled_gmma_per_issue_active"
if unknown in given[given.index("--metrics") + 1]:
    log.write_text("==ERROR== Failed to find metric " + unknown + ".ratio\\n")
    sys.exit(1)
log.write_text(pathlib.Path({str(tmp_path / "table.csv")!r}).read_text())
pathlib.Path(given[given.index("--profiled") + 1]).write_text({json.dumps(FACTS)!r})
""")
    ncu.chmod(0o755)
    text, facts = kernels.profile(str(ncu), [CASE, OTHER], 1.0)
    assert facts == FACTS and len(list(kernels.table(text, [CASE, OTHER], facts, ""))) == 2
    assert "again without smsp__average_warps_issue_stalled_gmma" in capfd.readouterr().err


def test_absent_ncu_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(kernels.glob, "glob", lambda _: [])
    monkeypatch.setattr(kernels.os, "access", lambda *_: False)
    with pytest.raises(SystemExit, match="ncu .* must be on the PATH or be named by --ncu"):
        kernels.find_ncu()


def test_every_bar_has_its_counters() -> None:
    import clouds
    import signals

    found = list(kernels.cases().values())
    assert all((case, "forward") in found for case in (*signals.BARS, *clouds.BARS))
    assert sum(direction == "backward" for _, direction in found) >= 3


def made_up_trace() -> list[dict[str, object]]:
    """Two steps launched one by one and one of a graph: times in µs, the GPU 100 behind the CPU."""
    events: list[dict[str, object]] = []

    def add(category: str, name: str, start: float, length: float, **args: object) -> None:
        events.append({"ph": "X", "cat": category, "name": name, "ts": start, "dur": length, "args": args})

    names = ["resample_f64_bf16", "layer", "layer_backward", "adamw"]
    for begin in (0, 1000):
        add("user_annotation", "step robocache, eager", begin, 100)
        for place, (phase, launches) in enumerate(
            zip(timeline.PHASES, (names[:2], names[2:3], names[3:]), strict=True)
        ):
            add("user_annotation", phase, begin + 30 * place, 25)
            for offset, name in enumerate(launches):
                at, correlation = begin + 30 * place + 5 * offset + 1, begin + 10 * place + offset
                add("cuda_driver" if name == names[0] else "cuda_runtime", "launch", at, 2, correlation=correlation)
                add("kernel", name, at + 100, 4, correlation=correlation, stream=7)
    add("user_annotation", "step robocache, CUDA graph", 2000, 10)
    add("cuda_runtime", "cudaGraphLaunch", 2001, 5, correlation=2000)
    for place, name in enumerate([*names[:2], "Memset", *names[2:]]):
        add("gpu_memset" if name == "Memset" else "kernel", name, 2100 + 10 * place, 3, correlation=2000, stream=7)
    return events


def test_trace_says_which_kernels_run_in_which_phase(tmp_path: Path) -> None:
    (tmp_path / "trace.json.gz").write_bytes(gzip.compress(json.dumps({"traceEvents": made_up_trace()}).encode()))
    events = timeline.read(tmp_path / "trace.json.gz")
    launched = timeline.kernels(events, "step robocache, eager")
    phases = ["forward", "forward", "backward", "optimizer"]
    assert [[kernel.phase for kernel in own] for own in launched] == [phases, phases]
    assert [kernel.ours for kernel in launched[0]] == [True, False, False, False]
    (graph,) = timeline.kernels(events, "step robocache, CUDA graph")
    assert {kernel.phase for kernel in graph} == {""}
    graph = timeline.with_phases(graph, launched[1])
    assert [kernel.phase for kernel in graph] == ["forward", "forward", "forward", "backward", "optimizer"]
    assert timeline.operator_times(events, "step robocache, eager") == [4, 4]
    assert timeline.operator_times(events, "step robocache, CUDA graph") == [3]
    pytest.importorskip("matplotlib")
    for name in ("one.svg", "two.svg"):
        timeline.draw({"eager": launched[1], "CUDA graph": graph}, tmp_path / name, "a GPU")
    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "two.svg").read_bytes()


def test_operator_within_another_counts_once() -> None:
    events = [{"cat": "user_annotation", "name": "step", "ts": 0, "dur": 100}]
    events += [{"cat": "cpu_op", "name": "robocache::resample", "ts": at, "dur": 10 - at} for at in (1, 2)]
    events += [{"cat": "cpu_op", "name": "aten::add", "ts": 20, "dur": 5}]
    assert timeline.operator_times(events, "step") == [9]


@pytest.fixture
def options(tmp_path: Path) -> Iterator[argparse.Namespace]:
    """Of a run as small as can be, on one thread: two wait for each other where others use the machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    names = {"device": "cpu", "batches": 2, "learn": 40, "steps": 2, "rounds": 2, "workers": 0, "only": ["eager"]}
    yield argparse.Namespace(**names, trace=tmp_path / "trace.json.gz", picture=tmp_path / "picture.svg")
    torch.set_num_threads(threads)


TINY = forecast.Task(batch=2, samples=20, targets=10, channels=16, layers=1, heads=2, hidden=32)


def test_training_step_beside_the_step_without_and_the_loader(
    options: argparse.Namespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training.timing, "copy_bandwidth", lambda _: (1000.0, []))
    lines = list(training.measure(TINY, options))
    found = {(line["impl"], line["metric"]): line for line in lines}
    assert ("robocache, eager", "step") in found and ("resampled before, eager", "step") in found
    assert 0 < float(str(found["robocache, eager", "share"]["share"])) < 1
    assert ("robocache, eager", "share, by difference") in found
    assert {line["impl"] for line in lines if line["metric"] == "call"} == set(training.METHODS)
    assert any(str(line["impl"]).startswith("DataLoader (NumPy") for line in lines)
    for line in lines:
        training.append(tmp_path / "record.jsonl", line | {"command": "", "versions": {}})
        assert float(str(line["floor_us"])) == round(float(str(line["bytes"])) / 1000, 3)
    assert len(records.read(tmp_path / "record.jsonl")) == len(lines)
    table = training.markdown(records.read(tmp_path / "record.jsonl")).splitlines()
    assert len(table) == 5 and "%" in table[2] and len({line.count("|") for line in table}) == 1
    assert timeline.ranges(timeline.read(options.trace), "backward")
    assert not options.picture.exists()  # a CPU has no kernels to draw


def test_training_that_does_not_learn_is_not_timed(options: argparse.Namespace) -> None:
    options.learn = 2
    with pytest.raises(SystemExit, match="the loss of robocache, eager must fall"):
        training.variants(TINY, forecast.Raw.make(TINY, 4), options)
