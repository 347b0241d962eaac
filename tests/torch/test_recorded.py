"""The operators on real robot data, each log against NumPy or SciPy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import robocache
import scipy.interpolate
import torch
from scipy.spatial.transform import Rotation, Slerp


def ascending(rows: np.ndarray) -> np.ndarray:
    """The rows in the order of their first column; the stable sort keeps the log's order of equal stamps."""
    return rows[np.argsort(rows[:, 0], kind="stable")]


@pytest.mark.parametrize("log", ["Plaza1", "Plaza2"])
def test_odometry_at_the_times_of_ranges(device: torch.device, recorded: Path, log: str) -> None:
    odometry = ascending(np.loadtxt(recorded / "plaza-range-odometry" / f"{log}_DR.txt"))
    ranges = np.loadtxt(recorded / "plaza-range-odometry" / f"{log}_TD.txt")
    times, values, targets = odometry[:, 0], odometry[:, 1:], ranges[:, 0]
    placed = [torch.from_numpy(np.ascontiguousarray(x)).to(device) for x in (values, times, targets)]
    result = robocache.resample(*placed).cpu().numpy()
    distinct = np.isin(times, times[:-1][np.diff(times) == 0], invert=True).all()
    for channel in range(values.shape[1]):
        expected = np.interp(targets, times, values[:, channel])
        np.testing.assert_allclose(result[:, channel], expected, rtol=1e-9, atol=1e-9)
    if distinct:
        held = scipy.interpolate.interp1d(times, values, kind="previous", axis=0, bounds_error=False)(targets)
        inside = ~np.isnan(held[:, 0])
        previous = robocache.resample(*placed, mode="previous").cpu().numpy()
        np.testing.assert_array_equal(previous[inside], held[inside])
    whole = [(x.double() * 1e9).round().to(torch.int64) for x in placed[1:]]
    in_ticks = robocache.resample(placed[0], *whole).cpu().numpy()
    np.testing.assert_allclose(in_ticks, result, rtol=1e-5, atol=1e-6)


def husky(recorded: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Stamps in nanoseconds and samples of the Husky's IMU, odometry and GPS; of equal stamps the last."""
    rosbags = pytest.importorskip("rosbags.highlevel")
    stores = pytest.importorskip("rosbags.typesys")

    def read(message: Any) -> list[float]:
        if message.__msgtype__.endswith("/Imu"):
            parts = [message.orientation, message.angular_velocity, message.linear_acceleration]
        elif message.__msgtype__.endswith("/Odometry"):
            parts = [message.pose.pose.position, message.pose.pose.orientation]
        else:
            return [message.latitude, message.longitude, message.altitude]
        return [getattr(part, axis) for part in parts for axis in "xyzw" if hasattr(part, axis)]

    rows: dict[str, dict[int, list[float]]] = {"imu": {}, "odom": {}, "gps": {}}
    names = {"/imu/data": "imu", "/husky_velocity_controller/odom": "odom", "/fix": "gps"}
    typestore = stores.get_typestore(stores.Stores.ROS1_NOETIC)
    bag = recorded / "husky-gps-imu-odom" / "test1.bag"
    with rosbags.AnyReader([bag], default_typestore=typestore) as reader:
        for connection, _, raw in reader.messages():
            message = reader.deserialize(raw, connection.msgtype)
            stamp = message.header.stamp.sec * 10**9 + message.header.stamp.nanosec
            rows[names[connection.topic]][stamp] = read(message)
    return {name: (np.array(sorted(each)), np.array([each[x] for x in sorted(each)])) for name, each in rows.items()}


def aligned(found: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """The expected quaternions, each with the sign of the found one: both are one rotation."""
    return expected * np.where((found * expected).sum(-1, keepdims=True) < 0, -1.0, 1.0)


def turned(stamps: np.ndarray, quaternions: np.ndarray, clock: np.ndarray) -> np.ndarray:
    """SciPy's `Slerp`, past the ends held."""
    times = (stamps - stamps[0]).astype(np.float64)  # exact; SciPy has no int64 times
    within = np.clip((clock - stamps[0]).astype(np.float64), times[0], times[-1])
    return Slerp(times, Rotation.from_quat(quaternions))(within).as_quat()


def test_imu_and_odometry_on_one_clock(device: torch.device, recorded: Path) -> None:
    stamps, samples = husky(recorded)["imu"]
    values = samples[:, 4:]
    clock = np.arange(stamps[0], stamps[-1], 20_000_000)
    for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 1e-5)):
        placed = torch.from_numpy(values).to(device, dtype)
        result = robocache.resample(placed, *(torch.from_numpy(x).to(device) for x in (stamps, clock)))
        for channel in range(values.shape[1]):
            # NumPy has no int64 times: from the first stamp on they are exact in f64.
            expected = np.interp(clock - stamps[0], stamps - stamps[0], values[:, channel])
            np.testing.assert_allclose(result[:, channel].cpu(), expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 3e-6)], ids=str)
def test_imu_odometry_and_gps_fused(device: torch.device, recorded: Path, dtype: torch.dtype, tolerance: float) -> None:
    log = husky(recorded)
    (imu_stamps, imu), (odom_stamps, odom), (gps_stamps, gps) = (log[name] for name in ("imu", "odom", "gps"))
    gps = gps - gps.mean(axis=0)  # degrees in f32 would be a metre apart
    clock = np.arange(imu_stamps[0], imu_stamps[-1], 50_000_000)
    module = robocache.nn.Fuse(
        {
            "imu": {"width": 10, "mode": "slerp:4,linear:6"},
            "odom": {"width": 7, "mode": "linear:3,slerp:4"},
            "gps": {"width": 3, "mode": "pchip"},
        }
    )
    values = {"imu": imu, "odom": odom, "gps": gps}
    result = module(
        {name: torch.from_numpy(each).to(device, dtype) for name, each in values.items()},
        {name: torch.from_numpy(log[name][0]).to(device) for name in values},
        torch.from_numpy(clock).to(device),
    )
    found = {name: result[:, where].cpu().double().numpy() for name, where in module.slices.items()}
    for name, stamps, samples, first in (("imu", imu_stamps, imu, 0), ("odom", odom_stamps, odom, 3)):
        quaternions = found[name][:, first : first + 4]
        expected = turned(stamps, samples[:, first : first + 4], clock)
        # Where a target is a sample, or past the end, the log's quaternion comes back with its own norm.
        np.testing.assert_allclose(quaternions, aligned(quaternions, expected), rtol=0, atol=1e-6)
        blended = ~np.isin(clock, stamps) & (clock > stamps[0]) & (clock < stamps[-1])
        assert blended.sum() > 1000
        close = aligned(quaternions, expected)[blended]
        np.testing.assert_allclose(quaternions[blended], close, rtol=0, atol=tolerance)
    for channel in range(3):
        line = np.interp(clock - odom_stamps[0], odom_stamps - odom_stamps[0], odom[:, channel])
        np.testing.assert_allclose(found["odom"][:, channel], line, rtol=tolerance, atol=tolerance)
    within = np.clip(clock, gps_stamps[0], gps_stamps[-1]) - gps_stamps[0]
    smooth = scipy.interpolate.PchipInterpolator((gps_stamps - gps_stamps[0]) * 1e-9, gps)(within * 1e-9)
    np.testing.assert_allclose(found["gps"], smooth, rtol=0, atol=1e-9 if dtype == torch.float64 else 1e-4)


def test_gaps_of_the_gps_are_marked(device: torch.device, recorded: Path) -> None:
    stamps, _ = husky(recorded)["gps"]
    clock = np.arange(stamps[0] - 10**9, stamps[-1] + 10**9, 37_000_000)
    gap = int(np.quantile(np.diff(stamps), 0.9))
    left = np.searchsorted(stamps, clock, side="right") - 1
    inside = (clock >= stamps[0]) & (clock <= stamps[-1])
    length = np.append(np.diff(stamps), 0)[left]
    expected = inside & ((length <= gap) | (stamps[left] == clock))
    placed = [torch.from_numpy(x).to(device) for x in (stamps, clock)]
    found = robocache.resample_mask(*placed, max_gap=gap).cpu().numpy()
    np.testing.assert_array_equal(found, expected)
    assert found.any() and not found[inside].all()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_the_attitude_of_a_flight_controller(device: torch.device, recorded: Path, dtype: torch.dtype) -> None:
    pyulog = pytest.importorskip("pyulog")
    log = pyulog.ULog(str(recorded / "px4-ulog" / "test_ulog.ulg"), ["vehicle_attitude", "sensor_combined"])
    attitude, sensor = (log.get_dataset(name).data for name in ("vehicle_attitude", "sensor_combined"))
    stamps, clock = (each["timestamp"].astype(np.int64) for each in (attitude, sensor))
    assert len(stamps) > 100 and (np.diff(stamps) > 0).all()
    quaternions = np.stack([attitude[f"q[{part}]"] for part in (1, 2, 3, 0)], axis=1)  # PX4 puts w first
    placed = [torch.from_numpy(x).to(device) for x in (quaternions, stamps, clock)]
    found = robocache.resample(placed[0].to(dtype), *placed[1:], mode="slerp").cpu().double().numpy()
    expected = turned(stamps, quaternions.astype(np.float64), clock)
    blended = ~np.isin(clock, stamps) & (clock > stamps[0]) & (clock < stamps[-1])
    close = aligned(found, expected)[blended]
    np.testing.assert_allclose(found[blended], close, rtol=0, atol=1e-14 if dtype == torch.float64 else 1e-7)
    raw = np.stack([attitude[f"q[{part}]"] for part in range(4)], axis=1)
    first = robocache.resample(torch.from_numpy(raw).to(device, dtype), *placed[1:], mode="slerp").cpu().double()
    np.testing.assert_allclose(first.numpy()[:, [1, 2, 3, 0]], found, rtol=0, atol=1e-7)


@pytest.mark.parametrize("folder", ["unitree-g1-lerobot-v21", "gr00t-picknplace-lerobot-v2"])
def test_joint_angles(device: torch.device, recorded: Path, folder: str) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    paths = sorted((recorded / folder / "data" / "chunk-000").glob("*.parquet"))
    assert len(paths) >= 2
    for path in paths:
        table = parquet.read_table(path, columns=["observation.state", "timestamp"])
        joints = np.array(table["observation.state"].to_pylist(), dtype=np.float64)
        times = table["timestamp"].to_numpy().astype(np.float64)
        targets = np.arange(times[0], times[-1], 0.007)
        placed = [torch.from_numpy(x).to(device) for x in (joints, times, targets)]
        smooth = robocache.resample(*placed, mode="pchip").cpu().numpy()
        expected = scipy.interpolate.PchipInterpolator(times, joints)(targets)
        np.testing.assert_allclose(smooth, expected, rtol=0, atol=1e-12)
        # The angles of a joint that has turned on by whole turns are the same directions.
        unwrapped = np.unwrap(joints, axis=0)
        line = np.stack([np.interp(targets, times, each) for each in unwrapped.T], axis=1)
        for turns in (0, 3):
            given = placed[0] + 2 * np.pi * turns
            found = robocache.resample(given, *placed[1:], mode="angle").cpu().numpy()
            assert (found >= -np.pi).all() and (found < np.pi).all()
            np.testing.assert_allclose(np.exp(1j * found), np.exp(1j * line), rtol=0, atol=1e-12)
        single = robocache.resample(placed[0].float(), *placed[1:], mode="pchip").cpu().numpy()
        np.testing.assert_allclose(single, expected, rtol=0, atol=4e-6)


def test_an_episode_at_another_rate(device: torch.device, recorded: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    chunk = recorded / "gr00t-picknplace-lerobot-v2" / "data" / "chunk-000"
    rows, times = [], []
    for path in sorted(chunk.glob("*.parquet")):
        table = parquet.read_table(path, columns=["observation.state", "timestamp"])
        rows.append(torch.from_numpy(np.array(table["observation.state"].to_pylist(), dtype=np.float64)))
        times.append(torch.from_numpy(table["timestamp"].to_numpy().astype(np.float64)))
    assert len(rows) == 5
    lengths = torch.tensor([len(row) for row in rows])
    values = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=float("nan"))
    source = torch.nn.utils.rnn.pad_sequence(times, batch_first=True, padding_value=-1.0)
    target = torch.arange(0, 10, 0.02, dtype=torch.float64)
    placed = [x.to(device) for x in (values, source, target)]
    result = robocache.resample(*placed, source_lengths=lengths.to(device)).cpu()
    assert result.shape == (5, 500, values.shape[2])
    for row, (samples, stamps) in enumerate(zip(rows, times, strict=True)):
        line = scipy.interpolate.make_interp_spline(stamps.numpy(), samples.numpy(), k=1)
        within = np.clip(target.numpy(), stamps[0].item(), stamps[-1].item())
        np.testing.assert_allclose(result[row].numpy(), line(within), rtol=1e-12, atol=1e-12)
