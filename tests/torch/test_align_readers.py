"""Readers of `robocache align`: small logs written here, with the odd things that real ones hold."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from robocache.align.log import AlignError, Log, select, topic_signals
from robocache.align.readers import read_logs
from robocache.align.readers.options import TableOptions
from rosbags.rosbag1 import Writer as Writer1
from rosbags.rosbag2 import StoragePlugin
from rosbags.rosbag2 import Writer as Writer2
from rosbags.typesys import Stores, get_typestore
from rosbags.typesys.store import Typestore

T0 = 1_700_000_000_000_000_000


def read(*paths: Path, names: tuple[str, ...] = (), **options: Any) -> Log:
    """Reads logs without showing progress."""
    return read_logs(paths, names, TableOptions(**options), lambda done, total: None)


def messages(store: Stores) -> tuple[Typestore, list[tuple[str, str, int, object]]]:
    """(topic, type, log time, message): two publishers of joints, an IMU with zero stamps, a bare number."""
    types = get_typestore(store)
    make = SimpleNamespace(**{name.rpartition("/")[2]: kind for name, kind in types.types.items()})
    make.Time = types.types["builtin_interfaces/msg/Time"]  # std_msgs has a Time too
    extra = {"seq": 9} if store is Stores.ROS1_NOETIC else {}

    def header(ns: int) -> object:
        return make.Header(stamp=make.Time(sec=ns // 10**9, nanosec=ns % 10**9), frame_id="base", **extra)

    def joints(ns: int, names: list[str], base: float) -> object:
        position = base + np.arange(len(names), dtype=float)
        return make.JointState(
            header=header(ns), name=names, position=position, velocity=np.zeros(0), effort=np.zeros(0)
        )

    def imu(value: float) -> object:
        axis = make.Vector3(x=value, y=-value, z=9.81)
        turn = make.Quaternion(x=0.0, y=0.0, z=0.0, w=1.0)
        return make.Imu(
            header=header(0),
            orientation=turn,
            orientation_covariance=np.zeros(9),
            angular_velocity=axis,
            angular_velocity_covariance=np.zeros(9),
            linear_acceleration=axis,
            linear_acceleration_covariance=np.zeros(9),
        )

    written = []
    for step in range(4):
        log_time = T0 + 10 + step * 1_000_000
        names = ["left", "right"] if step % 2 == 0 else ["grip"]
        written += [
            ("/joints", "sensor_msgs/msg/JointState", log_time, joints(T0 + step * 1_000_001, names, 10.0 * step)),
            ("/imu/data", "sensor_msgs/msg/Imu", log_time + 1, imu(float(step))),
            ("/load", "std_msgs/msg/Float64", log_time + 2, make.Float64(data=0.5 * step)),
        ]
    return types, written


def write_mcap(folder: Path) -> Path:
    """A ROS 2 bag folder with an MCAP file in it."""
    types, written = messages(Stores.ROS2_HUMBLE)
    with Writer2(folder, version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        links = {topic: writer.add_connection(topic, kind, typestore=types) for topic, kind, _, _ in written[:3]}
        for topic, kind, log_time, message in written:
            writer.write(links[topic], log_time, types.serialize_cdr(message, kind))
    return folder


def write_bag(path: Path) -> Path:
    """A ROS 1 bag."""
    types, written = messages(Stores.ROS1_NOETIC)
    with Writer1(path) as writer:
        links = {topic: writer.add_connection(topic, kind, typestore=types) for topic, kind, _, _ in written[:3]}
        for topic, kind, log_time, message in written:
            writer.write(links[topic], log_time, types.serialize_ros1(message, kind))
    return path


@pytest.mark.parametrize("kind", ["folder", "mcap", "bag"])
def test_ros_messages(tmp_path: Path, kind: str) -> None:
    if kind == "bag":
        path = write_bag(tmp_path / "log.bag")
    else:
        path = write_mcap(tmp_path / "log")
        path = next(path.glob("*.mcap")) if kind == "mcap" else path
    log = read(path)
    assert list(log.topics) == ["/imu/data", "/joints", "/load"]
    # Joints go by name; two publishers with joints of their own do not disturb one another.
    left, grip = select(log, "/joints.position.left")[0], select(log, "/joints.position.grip")[0]
    assert left.values[:, 0].tolist() == [0.0, 20.0]
    assert left.times.tolist() == [T0, T0 + 2_000_002]
    assert grip.values[:, 0].tolist() == [10.0, 30.0]
    assert grip.times.tolist() == [T0 + 1_000_001, T0 + 3_000_003]
    both = select(log, "/joints.position")
    assert [signal.channels for signal in both] == [
        ("/joints.position.left", "/joints.position.right"),
        ("/joints.position.grip",),
    ]
    # Messages whose stamps are all zero, or that have none, go by the time of logging; and that is said.
    acceleration = select(log, "/imu/data.linear_acceleration")[0]
    assert acceleration.channels[0] == "/imu/data.linear_acceleration.x"
    assert acceleration.values[2].tolist() == [2.0, -2.0, 9.81]
    assert acceleration.times.tolist() == [T0 + 11 + step * 1_000_000 for step in range(4)]
    assert select(log, "/load")[0].values[:, 0].tolist() == [0.0, 0.5, 1.0, 1.5]
    assert any("/imu/data: stamped by the time of logging, every header.stamp is zero" in note for note in log.notes)
    assert any("/load: stamped by the time of logging, its messages have no" in note for note in log.notes)
    assert not any("seq" in name or "stamp" in name for name in topic_signals(log.topics["/joints"]))


def test_only_the_named_topics_are_decoded(tmp_path: Path) -> None:
    assert list(read(write_mcap(tmp_path / "log"), names=("/imu/data.orientation",)).topics) == ["/imu/data"]


def test_a_cut_bag_is_refused(tmp_path: Path) -> None:
    path = write_bag(tmp_path / "log.bag")
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(AlignError, match=r"log.bag must be a ROS bag or MCAP of ROS messages, got \w+: "):
        read(path)
    (tmp_path / "x.ulg").write_bytes(b"not a log")
    with pytest.raises(AlignError, match=r"x.ulg must be a PX4 ULog, got "):
        read(tmp_path / "x.ulg")


def test_csv_with_empty_cells_holds_two_rates(tmp_path: Path) -> None:
    path = tmp_path / "wide.csv"
    path.write_text("time,a,b,name\n0.1,1,,x\n0.2,2,5.5,y\n0.3,3,,z\n")
    log = read(path)
    assert log.topics["wide"].times.tolist() == [100_000_000, 200_000_000, 300_000_000]
    a, b = select(log, "wide")
    assert (a.name, b.name) == ("wide.a", "wide.b")
    assert b.times.tolist() == [200_000_000]
    assert b.values.tolist() == [[5.5]]
    assert log.notes == ["wide: passed over name (not numbers, or lists of uneven length)"]


def test_csv_tells_nan_from_nothing(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text("time,a\n0.1,nan\n0.2,\n0.3,1\n")
    signal = select(read(path), "x.a")[0]
    assert signal.times.tolist() == [100_000_000, 300_000_000]
    assert np.isnan(signal.values[0, 0])


def test_parquet_lists_structs_and_timestamps(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    stamps = pa.array([1, 2], pa.timestamp("us"))
    pose = pa.array([{"x": 1.0, "on": True}, {"x": 2.0, "on": False}])
    action = pa.array([[1.0, 2.0], [3.0, 4.0]])
    pa.parquet.write_table(pa.table({"stamp": stamps, "pose": pose, "action": action}), path)
    log = read(path)
    assert log.topics["t"].times.tolist() == [1000, 2000]
    assert select(log, "t.action")[0].values.tolist() == [[1.0, 2.0], [3.0, 4.0]]
    assert select(log, "t.action[1]")[0].values.tolist() == [[2.0], [4.0]]
    pose_signal = select(log, "t.pose")[0]
    assert pose_signal.channels == ("t.pose.x", "t.pose.on")
    assert pose_signal.held == (False, True)


def test_text_columns_and_split(tmp_path: Path) -> None:
    path = tmp_path / "TD.txt"
    path.write_text("  1.5e+000\t 2 6 10.5\t\n1.75 2 1 20\n2.0 2 6 11\n")
    log = read(path, columns=["TD=time,sender,receiver,range"], split_by=["receiver"])
    six = select(log, "TD.range@receiver=6")[0]
    assert six.times.tolist() == [1_500_000_000, 2_000_000_000]
    assert six.values[:, 0].tolist() == [10.5, 11.0]
    assert [signal.name for signal in select(log, "TD.range")] == ["TD.range@receiver=1", "TD.range@receiver=6"]
    assert list(read(path).topics["TD"].columns) == ["column1", "column2", "column3"]
    path.write_text("# time x\n0 1\n1 2\n")
    assert list(read(path).topics["TD"].columns) == ["x"]


@pytest.mark.parametrize(
    ("text", "options", "expected"),
    [
        ("time,x\n", {}, "must have at least one row, got none"),
        ("when,x\n0,1\n", {}, r"must have a time column \(--time-column NAME\), got when, x"),
        ("time,x\n0,1\n", {}, "integer times in time need --time-unit, one of s, ms, us, ns"),
        ("time,x\n0.5,1\n,2\n", {}, "every row must have a time, got 1 empty cells in time"),
        ("time,x\n0.5,1\nnan,2\n", {}, "times in time must be finite, got nan in row 1"),
        ("time,x\nnoon,1\n", {}, "times in time must be numbers or timestamps, got string"),
        ("time,x\n0.5,1\n", {"time_column": "t"}, "--time-column must name a column of .*, one of time, x; got t"),
        ("time,x\n0.5,1\n", {"columns": ["a,b,c"]}, "--columns must name the 2 columns of .*, got 3: a, b, c"),
        ("time,x\n0.5,1\n", {"columns": ["y=a,b"]}, "--columns must begin with one of log, got y"),
        ("time,x\n0.5,1\n", {"split_by": ["y"]}, "--split-by must name a column, one of time, x; got y"),
        ("time,x\n0.5,1,2\n", {}, "must be readable as a table, got CSV parse error"),
    ],
)
def test_tables_that_are_refused(tmp_path: Path, text: str, options: dict[str, Any], expected: str) -> None:
    path = tmp_path / "log.csv"
    path.write_text(text)
    with pytest.raises(AlignError, match=expected):
        read(path, **options)


def test_table_options_need_a_table(tmp_path: Path) -> None:
    with pytest.raises(AlignError, match="--split-by goes with a table"):
        read(write_mcap(tmp_path / "log"), split_by=["x"])
