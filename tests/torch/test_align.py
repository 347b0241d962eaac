"""`robocache align` from end to end: the values against NumPy, the files, the choices and the refusals."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import torch
from robocache.align import main
from safetensors import safe_open

NS = 1_000_000_000
T0 = 1_700_000_000_123_456_789  # an epoch in ns, which float64 seconds cannot hold


def write_table(path: Path, times: np.ndarray, **columns: np.ndarray) -> Path:
    """A Parquet table with int64 ns stamps."""
    pa.parquet.write_table(pa.table({"time_ns": times.astype(np.int64), **columns}), path)
    return path


def two_rates(folder: Path) -> tuple[Path, Path, dict[str, np.ndarray]]:
    """A fast and a slow table with irregular stamps; the slow one starts later and ends earlier."""
    rng = np.random.default_rng(7)
    fast = T0 + np.cumsum(rng.integers(8_000_000, 12_000_000, 300))
    slow = T0 + 500_000_000 + np.cumsum(rng.integers(90_000_000, 110_000_000, 20))
    data = {"fast": fast, "slow": slow, "a": rng.normal(size=300), "b": rng.normal(size=20), "n": np.arange(20)}
    one = write_table(folder / "imu.parquet", fast, a=data["a"])
    two = write_table(folder / "odom.parquet", slow, b=data["b"], n=data["n"])
    return one, two, data


def align(folder: Path, *arguments: object) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Runs the command in this process; returns the tensors and the decoded metadata."""
    out = folder / "out"
    assert main([*map(str, arguments), "--output", str(out), "--no-picture"]) == 0
    with safe_open(out / "aligned.safetensors", framework="pt") as file:
        meta = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}
    plain = {"format", "time_unit", "mode", "outside"}
    return tensors, {name: text if name in plain else json.loads(text) for name, text in meta.items()}


def refusal(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """Runs the command, which must refuse; returns what it said."""
    assert main([*map(str, arguments), "--no-picture"]) == 2
    said = capsys.readouterr().err
    assert "Traceback" not in said
    assert said.startswith("robocache align: error: ")
    return " ".join(said.split())


def interpolate(targets: np.ndarray, times: np.ndarray, values: np.ndarray) -> np.ndarray:
    """NumPy's interpolation in f64, on stamps small enough for f64."""
    found: np.ndarray = np.interp((targets - T0).astype(float), (times - T0).astype(float), values)
    return found


def test_values_valid_and_metadata(tmp_path: Path) -> None:
    one, two, data = two_rates(tmp_path)
    tensors, meta = align(tmp_path, one, two, "--rate", 100, "--dtype", "float64")
    targets = tensors["times"][0].numpy()
    first, last = data["fast"][0], data["fast"][-1]
    np.testing.assert_array_equal(targets, first + 10_000_000 * np.arange((last - first) // 10_000_000 + 1))
    values = tensors["values"][0].numpy()
    np.testing.assert_allclose(values[:, 0], interpolate(targets, data["fast"], data["a"]), atol=1e-12)
    np.testing.assert_allclose(values[:, 1], interpolate(targets, data["slow"], data["b"]), atol=1e-12)
    held = np.clip(np.searchsorted(data["slow"], targets, side="right") - 1, 0, None)
    np.testing.assert_array_equal(values[:, 2], data["n"][held])  # integers are held, not blended
    inside = (targets >= data["slow"][0]) & (targets <= data["slow"][-1])
    np.testing.assert_array_equal(tensors["valid"][0].numpy(), np.stack([np.ones_like(inside), inside, inside], axis=1))
    assert tensors["lengths"].tolist() == [targets.size]
    assert meta["time_unit"] == "ns"
    assert meta["clock"]["start_ns"] == first
    assert meta["clock"]["rate_hz"] == 100
    assert meta["clock"]["period_ns"] == "10000000"
    assert [(signal["name"], signal["slice"], signal["mode"]) for signal in meta["signals"]] == [
        ("imu.a", [0, 1], "linear"),
        ("odom.b", [1, 2], "linear"),
        ("odom.n", [2, 3], "previous"),
    ]


def test_parquet_holds_the_same_numbers(tmp_path: Path) -> None:
    one, two, _ = two_rates(tmp_path)
    tensors, meta = align(tmp_path, one, two)
    assert tensors["values"].dtype == torch.float32
    table = pa.parquet.read_table(tmp_path / "out" / "aligned.parquet")
    assert table.column_names[:5] == ["segment", "time_ns", "imu.a", "odom.b", "odom.n"]
    np.testing.assert_array_equal(table["time_ns"].to_numpy(), tensors["times"][0].numpy())
    for index, name in enumerate(["imu.a", "odom.b", "odom.n"]):
        np.testing.assert_array_equal(table[name].to_numpy(), tensors["values"][0, :, index].numpy())
        np.testing.assert_array_equal(table[f"valid:{name}"].to_numpy(), tensors["valid"][0, :, index].numpy())
    assert json.loads(table.schema.metadata[b"clock"]) == meta["clock"]


def test_default_clock_is_the_median_rate_of_the_fastest_signal(tmp_path: Path) -> None:
    one, two, data = two_rates(tmp_path)
    _, meta = align(tmp_path, one, two)
    assert meta["clock"]["period_ns"] == str(int(np.median(np.diff(data["fast"]))))
    assert "imu.a" in meta["clock"]["from"]


def test_a_thirty_hertz_grid_does_not_drift(tmp_path: Path) -> None:
    path = write_table(tmp_path / "long.parquet", np.array([T0, T0 + 3600 * NS]), x=np.array([0.0, 1.0]))
    tensors, _ = align(tmp_path, path, "--rate", 30)
    assert tensors["times"].shape == (1, 108_001)
    assert tensors["times"][0, 30 * 1800].item() == T0 + 1800 * NS
    assert tensors["times"][0, -1].item() == T0 + 3600 * NS
    assert set(tensors["times"][0].diff().tolist()) == {33_333_333, 33_333_334}


def test_the_stamps_of_a_signal_as_clock(tmp_path: Path) -> None:
    one, two, data = two_rates(tmp_path)
    tensors, meta = align(tmp_path, one, two, "--clock", "odom.b", "--signal", "odom.b", "--signal", "imu.a")
    np.testing.assert_array_equal(tensors["times"][0].numpy(), data["slow"])
    np.testing.assert_array_equal(tensors["values"][0, :, 0].numpy(), data["b"].astype(np.float32))
    assert meta["clock"]["rate_hz"] is None


def test_span_start_and_end(tmp_path: Path) -> None:
    one, two, data = two_rates(tmp_path)
    tensors, _ = align(tmp_path, one, two, "--span", "intersection", "--rate", 50)
    assert tensors["times"][0, 0].item() == data["slow"][0]
    assert tensors["times"][0, -1].item() <= data["slow"][-1]
    assert bool(tensors["valid"].all())
    tensors, _ = align(tmp_path, one, two, "--start", "0.25", "--end", "0.75", "--rate", 100)
    origin = int(data["fast"][0])
    assert tensors["times"][0, [0, -1]].tolist() == [origin + 250_000_000, origin + 750_000_000]


def test_modes_and_outside(tmp_path: Path) -> None:
    one, two, data = two_rates(tmp_path)
    tensors, meta = align(tmp_path, one, two, "--mode", "nearest", "--mode", "odom.n=linear", "--outside", "nan")
    assert [signal["mode"] for signal in meta["signals"]] == ["nearest", "nearest", "linear"]
    outside = ~tensors["valid"][0, :, 1]
    assert outside.any()
    assert tensors["values"][0, :, 1].isnan().equal(outside)
    targets = tensors["times"][0].numpy()
    expected = interpolate(targets, data["slow"], data["n"].astype(float))
    kept = ~outside.numpy()
    np.testing.assert_allclose(tensors["values"][0, :, 2].numpy()[kept], expected[kept], rtol=1e-6)
    tensors, _ = align(tmp_path, one, two, "--signal", "imu", "--signal", "odom.b", "--outside", "zero")
    assert (tensors["values"][0, outside, 1] == 0).all()


def test_accumulated_increments_keep_their_sum(tmp_path: Path) -> None:
    one, two, data = two_rates(tmp_path)
    arguments = ["--accumulate", "imu.a", "--signal", "imu.a", "--clock", "odom.b", "--dtype", "float64"]
    tensors, meta = align(tmp_path, one, two, *arguments)
    assert meta["signals"][0]["name"] == "imu.a@sum"
    expected = interpolate(data["slow"], data["fast"], np.cumsum(data["a"]))
    np.testing.assert_allclose(tensors["values"][0, :, 0].numpy(), expected, atol=1e-12)


def jumping(folder: Path) -> tuple[Path, Path, np.ndarray, np.ndarray]:
    """A range sensor whose clock goes back by 4 s, and an odometry that never jumps."""
    ranges = T0 + NS * np.array([1, 2, 3, 8, 9, 10, 6, 7, 8, 12])
    odometry = T0 + NS * np.arange(15)
    one = write_table(folder / "range.parquet", ranges, r=np.arange(10.0))
    two = write_table(folder / "drive.parquet", odometry, d=np.arange(15.0) * 2)
    return one, two, ranges, odometry


def test_a_jump_is_refused_by_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, two, _, _ = jumping(tmp_path)
    said = refusal(capsys, one, two)
    assert "clock of range" in said
    assert "1 backward jump: at row 6 from " in said
    assert "(-4.000000 s)" in said
    assert "--clock-jumps split" in said


def test_a_jump_is_split(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, two, ranges, odometry = jumping(tmp_path)
    tensors, meta = align(tmp_path, one, two, "--clock-jumps", "split", "--rate", 2, "--dtype", "float64")
    # The first segment reaches back to the odometry's start, the last one on to its end.
    spans = [(segment["start_ns"] - T0, segment["end_ns"] - T0) for segment in meta["segments"]]
    assert spans == [(0, 10 * NS), (6 * NS, 14 * NS)]
    assert tensors["lengths"].tolist() == [21, 17]
    for row, rows in enumerate([slice(0, 6), slice(6, 10)]):
        length = tensors["lengths"][row]
        targets = tensors["times"][row, :length].numpy()
        values = tensors["values"][row, :length].numpy()
        np.testing.assert_allclose(values[:, 0], interpolate(targets, ranges[rows], np.arange(10.0)[rows]))
        np.testing.assert_allclose(values[:, 1], interpolate(targets, odometry, np.arange(15.0) * 2))
        assert (tensors["times"][row, length:] == tensors["times"][row, length - 1]).all()
        assert not tensors["values"][row, length:].any()
        assert not tensors["valid"][row, length:].any()
    out = capsys.readouterr().out
    assert "clock of range: 1 backward jump: at row 6" in out
    assert "in 2 segments" in out
    table = pa.parquet.read_table(tmp_path / "out" / "aligned.parquet")
    assert np.bincount(table["segment"].to_numpy()).tolist() == [21, 17]


def test_clocks_that_jump_together_are_cut_together(tmp_path: Path) -> None:
    one = write_table(tmp_path / "a.parquet", T0 + NS * np.array([0, 1, 2, 0, 1]), x=np.arange(5.0))
    two = write_table(tmp_path / "b.parquet", T0 + NS // 2 * np.array([0, 1, 2, 5, 1, 2, 3]), y=np.arange(7.0))
    tensors, meta = align(tmp_path, one, two, "--clock-jumps", "split", "--rate", 4)
    assert [segment["length"] for segment in meta["segments"]] == [11, 7]
    assert tensors["values"][1, 0].tolist() == [3.0, 4.0]


def test_clocks_that_jump_apart_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = write_table(tmp_path / "a.parquet", T0 + NS * np.array([0, 5, 4, 90]), x=np.arange(4.0))
    two = write_table(tmp_path / "b.parquet", T0 + NS * np.array([0, 80, 79, 90]), y=np.arange(4.0))
    said = refusal(capsys, one, two, "--clock-jumps", "split")
    assert "needs the clocks that jump to jump together, got a with 1 backward jump" in said
    assert "and b with 1 backward jump" in said


def test_a_signal_without_samples_in_a_segment_is_nan_and_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    times = T0 + NS * np.array([0, 1, 2, 0, 1, 2])
    path = write_table(tmp_path / "r.parquet", times, key=np.array([5, 6, 5, 5, 5, 5]), r=np.arange(6.0))
    arguments = ["--clock-jumps", "split", "--split-by", "key", "--rate", 1]
    for span in ("union", "intersection"):
        tensors, meta = align(tmp_path, path, *arguments, "--span", span, "--signal", "r.r")
        assert [signal["name"] for signal in meta["signals"]] == ["r.r@key=5", "r.r@key=6"]
        assert tensors["values"][1, :, 0].tolist() == [3.0, 4.0, 5.0]
        assert tensors["values"][1, :, 1].isnan().all()
        assert not tensors["valid"][1, :, 1].any()
        assert "r.r@key=6: no sample in segment 1, filled with nan" in capsys.readouterr().out
    tensors, _ = align(tmp_path, path, *arguments, "--span", "intersection", "--signal", "r.r@key=6")
    assert tensors["lengths"].tolist() == [1, 3]
    tensors, _ = align(tmp_path, path, "--clock-jumps", "split", "--clock", "r.r", "--signal", "r.r")
    np.testing.assert_array_equal(tensors["times"].flatten().numpy(), times)
    assert tensors["values"].flatten().tolist() == list(range(6))


def test_an_empty_signal_is_left_out_or_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "a.parquet"
    nothing = pa.array([None, None], pa.float64())
    pa.parquet.write_table(pa.table({"time": [0.0, 1.0], "x": [1.0, 2.0], "y": nothing}), path)
    _, meta = align(tmp_path, path)
    assert [signal["name"] for signal in meta["signals"]] == ["a.x"]
    assert "left out, without any sample: a.y" in capsys.readouterr().out
    assert "signal a.y must have at least one sample, got none in" in refusal(capsys, path, "--signal", "a.y")
    assert main([str(path), "--signals-list"]) == 0


def test_repeated_stamps_are_counted_and_the_later_sample_wins(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_table(tmp_path / "a.parquet", T0 + NS * np.array([0, 1, 1, 2]), x=np.arange(4.0))
    tensors, _ = align(tmp_path, path, "--rate", 1)
    assert tensors["values"][0, :, 0].tolist() == [0, 2, 3]
    assert "1 repeated" in capsys.readouterr().out


def test_float32_says_what_it_cannot_hold(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    latitude = 42.3758 + 1e-6 * np.sin(np.arange(50))
    path = write_table(tmp_path / "fix.parquet", T0 + NS * np.arange(50), latitude=latitude)
    align(tmp_path, path)
    assert "fix.latitude: float32 steps by 3.8e-06" in capsys.readouterr().out
    tensors, _ = align(tmp_path, path, "--dtype", "float64")
    assert "float32 steps" not in capsys.readouterr().out
    np.testing.assert_array_equal(tensors["values"][0, :, 0].numpy(), latitude)


def test_linear_quaternions_are_remarked_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    turn = np.linspace(0, 3, 20)
    q = np.stack([np.cos(turn), np.sin(turn), 0 * turn, 0 * turn], axis=1) * np.where(turn < 1.5, 1, -1)[:, None]
    pa.parquet.write_table(pa.table({"time_ns": T0 + NS * np.arange(20), "q": list(q)}), tmp_path / "a.parquet")
    align(tmp_path, tmp_path / "a.parquet")
    said = " ".join(capsys.readouterr().out.split())
    assert "a.q: looks like unit quaternions, whose norm linear does not keep" in said
    assert "(1 times here); --mode a.q=slerp" in said
    for mode in ("nearest", "slerp"):
        align(tmp_path, tmp_path / "a.parquet", "--mode", mode)
        assert "unit quaternions" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], "LOG must be given, got none"),
        (["nowhere.bag"], "LOG must be a file or a ROS 2 bag folder, got nowhere.bag, which does not exist"),
        (["{odom}", "--rate", "fast"], "--rate must be a positive number of Hz, got fast"),
        (["{odom}", "--rate", "-5"], "--rate must lie above 0"),
        (["{odom}", "--rate", "1e9"], "the clock must have at most 50,000,000 targets"),
        (["{odom}", "--start", "x"], "--start must be a number of seconds, got x"),
        (["{odom}", "--start", "2", "--end", "1"], "--start must not be after --end, got 2 and 1"),
        (["{odom}", "--start", "900"], "the clock must have at least one target, got none"),
        (
            ["{odom}", "--mode", "cubic"],
            "next, nearest, angle, slerp, pchip, or groups of them such as linear:3,slerp:4, got cubic in cubic",
        ),
        (["{odom}", "--mode", "imu=linear"], "must name a chosen signal, one of odom.b, odom.n; got imu"),
        (["{odom}", "--outside", "extrapolate"], "must go with mode linear, got previous for odom.n"),
        (["{odom}", "--mode", "slerp"], 'of odom.b must give slerp whole quaternions of 4 channels, got "slerp" for 1'),
        (
            ["{odom}", "--mode", "odom.b=linear:2"],
            'must cover the 1 channels of values, got "linear:2", which covers 2',
        ),
        (["{odom}", "--max-gap", "-1"], "--max-gap must be at least 0 s, got -1"),
        (["{odom}", "--max-gap", "odom.b=soon"], "--max-gap must be a number of seconds, got soon"),
        (["{odom}", "--max-gap", "imu=1"], "must name a chosen signal, one of odom.b, odom.n; got imu"),
        (["{odom}", "--signal", "odom.bb"], "must name a signal of the log, got odom.bb; near names: odom.b"),
        (
            ["{odom}", "--signal", "odom", "--signal", "odom.b"],
            "must take a channel once, got odom.b in odom and odom.b",
        ),
        (["{odom}", "{odom}"], "topic names must differ between logs, got odom from"),
        (["{odom}", "--demo"], "--demo must stand without LOG"),
        (["{odom}", "--output", "{odom}/below"], "--output must be a folder that can be written"),
    ],
)
def test_refusals(tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], expected: str) -> None:
    _, odom, _ = two_rates(tmp_path)
    assert expected in refusal(capsys, *(text.format(odom=odom) for text in arguments))


def test_the_command_line(tmp_path: Path) -> None:
    one, two, _ = two_rates(tmp_path)
    command = [sys.executable, "-m", "robocache", "align"]
    done = subprocess.run([*command, one, two, "--output", tmp_path / "o"], capture_output=True, text=True, check=True)
    assert "imu.a" in done.stdout
    assert {path.name for path in (tmp_path / "o").iterdir()} == {
        "aligned.safetensors",
        "aligned.parquet",
        "aligned.png",
    }
    assert (tmp_path / "o" / "aligned.png").read_bytes().startswith(b"\x89PNG")
    wrong = subprocess.run([*command, "nowhere.csv"], capture_output=True, text=True)
    assert wrong.returncode == 2
    assert "which does not exist" in wrong.stderr
    help_text = subprocess.run([*command, "--help"], capture_output=True, text=True, check=True).stdout
    assert "Jumping topics must jump together" in help_text
    listed = subprocess.run([*command, two, "--signals-list"], capture_output=True, text=True, check=True).stdout
    assert "odom.b" in listed
