"""`resample` of real robot data, each log against NumPy or SciPy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import robocache
import scipy.interpolate
import torch


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


def test_imu_and_odometry_on_one_clock(device: torch.device, recorded: Path) -> None:
    rosbags = pytest.importorskip("rosbags.highlevel")
    stores = pytest.importorskip("rosbags.typesys")
    typestore = stores.get_typestore(stores.Stores.ROS1_NOETIC)
    times: list[int] = []
    samples: list[list[float]] = []
    bag = recorded / "husky-gps-imu-odom" / "test1.bag"
    with rosbags.AnyReader([bag], default_typestore=typestore) as reader:
        wanted = [connection for connection in reader.connections if connection.msgtype.endswith("/Imu")][:1]
        assert wanted, "the bag holds an Imu topic"
        for connection, _, raw in reader.messages(connections=wanted):
            message = reader.deserialize(raw, connection.msgtype)
            times.append(message.header.stamp.sec * 10**9 + message.header.stamp.nanosec)
            rate, force = message.angular_velocity, message.linear_acceleration
            samples.append([rate.x, rate.y, rate.z, force.x, force.y, force.z])
    order = np.argsort(times, kind="stable")
    stamps, values = np.array(times)[order], np.array(samples)[order]
    clock = np.arange(stamps[0], stamps[-1], 20_000_000)
    for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 1e-5)):
        placed = torch.from_numpy(values).to(device, dtype)
        result = robocache.resample(placed, *(torch.from_numpy(x).to(device) for x in (stamps, clock)))
        for channel in range(values.shape[1]):
            # NumPy has no int64 times: from the first stamp on they are exact in f64.
            expected = np.interp(clock - stamps[0], stamps - stamps[0], values[:, channel])
            np.testing.assert_allclose(result[:, channel].cpu(), expected, rtol=tolerance, atol=tolerance)


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
