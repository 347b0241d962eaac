"""`robocache align` on recorded logs: each kind of file, against NumPy on numbers read apart from its readers."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from zipfile import ZipFile

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import torch
from pyulog import ULog
from robocache.align import demo, main
from robocache.align.log import select
from robocache.align.readers import read_logs
from robocache.align.readers.options import TableOptions
from safetensors import safe_open
from scipy.spatial.transform import Rotation, Slerp

HUSKY = ["--signal", "/imu/data.linear_acceleration", "--signal", "/husky_velocity_controller/odom.pose.pose.position",
         "--signal", "/fix.latitude"]  # fmt: skip


def align(folder: Path, *arguments: object) -> tuple[dict[str, torch.Tensor], list[dict[str, object]]]:
    """Runs the command; returns the tensors and the signals of the metadata."""
    assert main([*map(str, arguments), "--output", str(folder), "--no-picture", "--dtype", "float64"]) == 0
    with safe_open(folder / "aligned.safetensors", framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}
        return tensors, json.loads(file.metadata()["signals"])


def test_husky_bag_folder_and_mcap_agree(recorded: Path, tmp_path: Path) -> None:
    husky = recorded / "husky-gps-imu-odom"
    logs = [husky / "test1.bag", husky / "husky_mcap", husky / "husky_mcap" / "husky_mcap.mcap"]
    found = [align(tmp_path / str(number), log, *HUSKY) for number, log in enumerate(logs)]
    first, signals = found[0]
    assert [signal["samples"] for signal in signals] == [11_865, 3_952, 989]
    assert first["values"].shape == (1, 11_865, 7)
    for other, _ in found[1:]:
        assert all(torch.equal(first[name], other[name]) for name in first)
    assert first["valid"].double().mean() > 0.999


def test_ulog(recorded: Path, tmp_path: Path) -> None:
    path = recorded / "px4-ulog" / "test_ulog.ulg"
    names = ["sensor_combined.accelerometer_m_s2", "vehicle_attitude.q", "estimator_attitude.1.q[2]", "cpuload.load"]
    tensors, signals = align(tmp_path, path, *(part for name in names for part in ("--signal", name)))
    assert [len(signal["channels"]) for signal in signals] == [3, 4, 1, 1]  # type: ignore[arg-type]
    assert [signal["mode"] for signal in signals] == ["linear", "slerp", "linear", "linear"]
    ulog, targets = ULog(str(path)), tensors["times"][0].numpy().astype(float)
    for channel, (topic, instance, field) in enumerate(
        [("sensor_combined", 0, f"accelerometer_m_s2[{axis}]") for axis in range(3)]
        + [("", 0, "the attitude, slerped: below")] * 4
        + [("estimator_attitude", 1, "q[2]"), ("cpuload", 0, "load")]
    ):
        if not topic:
            continue
        data = ulog.get_dataset(topic, instance).data
        expected = np.interp(targets, data["timestamp"] * 1e3, data[field].astype(float))
        np.testing.assert_allclose(tensors["values"][0, :, channel].numpy(), expected, atol=1e-9)


def slerp(targets: np.ndarray, times: np.ndarray, quaternions: np.ndarray) -> np.ndarray:
    """SciPy's spherical interpolation; targets past the ends take the nearest end."""
    start = times[0]
    turn = Slerp((times - start) / 1e9, Rotation.from_quat(quaternions))
    found: np.ndarray = turn((np.clip(targets, start, times[-1]) - start) / 1e9).as_quat()
    return found


def same_turn(found: np.ndarray, expected: np.ndarray, tolerance: float) -> None:
    """Equal but for the sign, which a rotation leaves open."""
    sign = np.sign((found * expected).sum(axis=1, keepdims=True))
    np.testing.assert_allclose(found, sign * expected, rtol=0, atol=tolerance)


def test_husky_poses_are_slerped_as_scipy_does(recorded: Path, tmp_path: Path) -> None:
    bag = recorded / "husky-gps-imu-odom" / "test1.bag"
    pose, imu = "/husky_velocity_controller/odom.pose.pose", "/imu/data.orientation"
    tensors, signals = align(tmp_path / "all", bag, "--signal", pose, "--signal", imu, "--rate", 47)
    assert [signal["mode"] for signal in signals] == ["linear:3,slerp:4", "slerp"]
    assert signals[0]["channels"][-1].endswith(".w")  # type: ignore[index]  # SciPy's order is that of ROS
    log = read_logs([bag], [pose, imu], TableOptions(), lambda done, total: None)
    targets = tensors["times"][0].numpy()
    for name, channels in ((f"{pose}.orientation", slice(3, 7)), (imu, slice(7, 11))):
        signal = select(log, name)[0]
        found = tensors["values"][0, :, channels].numpy()
        assert (np.abs(np.linalg.norm(found, axis=1) - 1) < 1e-12).all()
        same_turn(found, slerp(targets, signal.times, signal.values), 1e-10)
        # Each target stays on the side of the sample before it.
        before = np.clip(np.searchsorted(signal.times, targets, side="right") - 1, 0, None)
        assert ((found * signal.values[before]).sum(axis=1) > 0).all()


def test_px4_attitudes_are_slerped_as_scipy_does(recorded: Path, tmp_path: Path) -> None:
    path = recorded / "px4-ulog" / "test_ulog.ulg"
    names = ["vehicle_attitude", "estimator_states.states", "vehicle_attitude_setpoint.q_d"]
    tensors, signals = align(tmp_path, path, "--rate", 333, *(part for name in names for part in ("--signal", name)))
    assert [signal["mode"] for signal in signals] == ["slerp:8,previous:1", "slerp:4,linear:20", "slerp"]
    ulog, targets = ULog(str(path)), tensors["times"][0].numpy()
    for topic, field, start in [
        ("vehicle_attitude", "q", 0),
        ("vehicle_attitude", "delta_q_reset", 4),
        ("estimator_states", "states", 9),
        ("vehicle_attitude_setpoint", "q_d", 33),
    ]:
        data = ulog.get_dataset(topic, 0).data
        recorded_turns = np.stack([data[f"{field}[{index}]"] for index in range(4)], axis=1).astype(float)
        expected = slerp(targets, data["timestamp"].astype(np.int64) * 1000, recorded_turns)
        same_turn(tensors["values"][0, :, start : start + 4].numpy(), expected, 2e-7)  # samples are as f32 holds them


def test_a_longest_gap_of_the_husky_odometry(recorded: Path, tmp_path: Path) -> None:
    bag = recorded / "husky-gps-imu-odom" / "test1.bag"
    odometry = "/husky_velocity_controller/odom.twist.twist.linear"
    options = ["--signal", odometry, "--signal", "/fix.altitude", "--rate", 200]
    tensors, signals = align(tmp_path, bag, *options, "--max-gap", "0.15", "--max-gap", "/fix=inf")
    assert [signal["max_gap_ns"] for signal in signals] == [150_000_000, None]
    log = read_logs([bag], [odometry, "/fix"], TableOptions(), lambda done, total: None)
    targets = tensors["times"][0].numpy()
    for index, (name, gap) in enumerate(((odometry, 150_000_000), ("/fix.altitude", 2**62))):
        times = select(log, name)[0].times
        after = np.searchsorted(times, targets, side="left")
        before = np.searchsorted(times, targets, side="right") - 1
        inside = (before >= 0) & (after < times.size)
        near = times[np.clip(after, 0, times.size - 1)] - times[np.clip(before, 0, None)] <= gap
        np.testing.assert_array_equal(tensors["valid"][0, :, index].numpy(), inside & near)
    assert not tensors["valid"][0, :, 0].all()
    plain, _ = align(tmp_path, bag, *options)
    assert torch.equal(plain["values"], tensors["values"])


def test_joint_angles_of_the_g1(recorded: Path, tmp_path: Path) -> None:
    log = recorded / "ros2-mcap-derived" / "g1_joint_states"
    tensors, signals = align(tmp_path, log, "--rate", 100, "--mode", "/joint_states.position=angle")
    assert signals[0]["mode"] == "angle"
    source = select(read_logs([log], [], TableOptions(), lambda done, total: None), "/joint_states.position")[0]
    targets = (tensors["times"][0].numpy() - source.times[0]).astype(float)
    for channel in range(source.values.shape[1]):
        turns = np.unwrap(source.values[:, channel])
        expected = np.interp(targets, (source.times - source.times[0]).astype(float), turns)
        found = tensors["values"][0, :, channel].numpy()
        assert ((found >= -np.pi) & (found < np.pi)).all()
        apart = (found - expected + np.pi) % (2 * np.pi) - np.pi
        np.testing.assert_allclose(apart, 0, atol=1e-9)


def test_joint_states_equal_the_parquet_that_they_came_from(recorded: Path, tmp_path: Path) -> None:
    tensors, signals = align(
        tmp_path, recorded / "ros2-mcap-derived" / "g1_joint_states", "--clock", "/joint_states.position"
    )
    assert signals[0]["channels"][0] == "/joint_states.position.kLeftShoulderPitch"  # type: ignore[index]
    path = recorded / "unitree-g1-lerobot-v21" / "data" / "chunk-000" / "episode_000029.parquet"
    state = np.stack(pa.parquet.read_table(path)["observation.state"].to_numpy())
    np.testing.assert_allclose(tensors["values"][0].numpy(), state, rtol=1e-7)
    table, signals = align(tmp_path, path, "--signal", "episode_000029.observation.state")
    assert table["values"].shape == (1, 221, 26)
    assert signals[0]["slice"] == [0, 26]


def test_plaza_with_jumps_is_split(recorded: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plaza = [recorded / "plaza-range-odometry" / f"Plaza1_{kind}.txt" for kind in ("DR", "TD")]
    options = ["--columns", "Plaza1_DR=time,distance,heading", "--columns", "Plaza1_TD=time,sender,receiver,range",
               "--split-by", "receiver", "--signal", "Plaza1_DR", "--signal", "Plaza1_TD.range"]  # fmt: skip
    assert main([*map(str, plaza), *options, "--output", str(tmp_path)]) == 2
    assert "clock of Plaza1_TD" in capsys.readouterr().err
    tensors, signals = align(tmp_path, *plaza, *options, "--clock-jumps", "split")
    assert "2 backward jumps: at row 1,988 from" in capsys.readouterr().out
    assert tensors["values"].shape[0] == 3
    assert [signal["name"] for signal in signals[1:]] == [f"Plaza1_TD.range@receiver={key}" for key in (0, 1, 5, 6)]
    ranges = np.loadtxt(plaza[1])
    edges = [0, *(np.flatnonzero(np.diff(ranges[:, 0]) < 0) + 1), len(ranges)]
    for segment in range(3):
        rows = ranges[edges[segment] : edges[segment + 1]]
        length = tensors["lengths"][segment]
        targets = tensors["times"][segment, :length].numpy() / 1e9
        for channel, key in enumerate([0, 1, 5, 6], start=2):
            mine = rows[rows[:, 2] == key]
            expected = np.interp(targets, mine[:, 0], mine[:, 3])
            np.testing.assert_allclose(tensors["values"][segment, :length, channel].numpy(), expected, atol=1e-4)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache for the demo."""
    monkeypatch.setenv("ROBOCACHE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_demo_reads_its_cache(recorded: Path, tmp_path: Path, cache: Path) -> None:
    cache.mkdir()
    for name in demo.FILES:
        shutil.copyfile(recorded / "plaza-range-odometry" / name, cache / name)
    tensors, signals = align(tmp_path / "out", "--demo")
    assert tensors["values"].shape == (1, 4096, 6)
    assert signals[0]["name"] == "Plaza2_DR.delta_distance@sum"
    assert 1300 < tensors["values"][0, -1, 0] < 1400  # metres driven
    assert signals[2]["name"] == "Plaza2_TD.range@receiver=0"


def test_demo_mends_a_broken_cache(recorded: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache.mkdir()
    (cache / "Plaza2_DR.txt").write_text("half a fi")

    def download(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        assert command[-1] == "gtsam==4.2"
        with ZipFile(Path(command[-2]) / "gtsam-4.2.whl", "w") as wheel:
            for name in demo.FILES:
                wheel.write(recorded / "plaza-range-odometry" / name, f"gtsam/Data/{name}")
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", download)
    assert demo.demo_files() == [cache / name for name in demo.FILES]
    assert sorted(path.name for path in cache.iterdir()) == sorted(demo.FILES)
    monkeypatch.setattr(subprocess, "run", None)
    demo.demo_files()  # from the cache


def test_demo_without_network_says_what_to_do(
    cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    assert main(["--demo"]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "--demo must reach PyPI through pip once, for the wheel gtsam==4.2, got: " in said
    assert f"put gtsam/Data/Plaza2_DR.txt, gtsam/Data/Plaza2_TD.txt of that wheel into {cache}" in said
