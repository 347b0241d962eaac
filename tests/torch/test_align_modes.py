"""How `robocache align` blends: quaternions found by type and name, `--mode` by name, gaps, angles in the picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import robocache
import torch
from robocache.align.log import AlignError, Column, Log, Signal, Topic, select, topic_signals
from robocache.align.modes import choose_modes, default_mode
from robocache.align.picture import _cut_at_turns
from robocache.align.readers.quaternions import array_quaternions, px4_quaternions, table_quaternions
from robocache.align.readers.ros import read_ros
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from test_align import NS, T0, align, refusal, write_table

MESSAGES = {
    "px4_msgs/msg/VehicleAttitude": "uint64 timestamp\nfloat32[4] q\nfloat32[4] delta_q_reset\nuint8 resets",
    "unitree_go/msg/IMUState": "float32[4] quaternion\nfloat32[3] gyroscope\nfloat32[4] q",
    "other_msgs/msg/Quaternion": "float32 w\nfloat32 x\nfloat32 y\nfloat32 z",
    "other_msgs/msg/Two": "other_msgs/Quaternion left\nother_msgs/Quaternion right\nfloat32 grip\nbool closed",
}


def floats(*paths: str, rows: int = 3) -> dict[str, Column]:
    """Columns of small numbers."""
    return {path: Column(np.full(rows, 0.5, dtype=np.float32)) for path in paths}


def array(name: str, count: int = 4) -> list[str]:
    return [f"{name}[{index}]" for index in range(count)]


def one(columns: dict[str, Column], quaternions: dict[str, tuple[str, ...]], name: str = "t") -> Signal:
    """A signal of a log that holds one topic, `t`."""
    log = Log({"t": Topic("t", T0 + NS * np.arange(3), columns, "here", quaternions)})
    (signal,) = select(log, name)
    return signal


def write_types(folder: Path) -> Path:
    """A ROS 2 bag of messages that hold quaternions in other ways than geometry_msgs does."""
    types = get_typestore(Stores.ROS2_HUMBLE)
    for name, text in MESSAGES.items():
        types.register(get_types_from_msg(text, name))
    turn = types.types["other_msgs/msg/Quaternion"](w=1.0, x=0.0, y=0.0, z=0.0)
    standard = types.types["geometry_msgs/msg/Quaternion"](x=0.0, y=0.0, z=0.0, w=1.0)
    four, three = np.array([1, 0, 0, 0], dtype=np.float32), np.zeros(3, dtype=np.float32)
    given: dict[str, dict[str, Any]] = {
        "px4_msgs/msg/VehicleAttitude": {"timestamp": 1, "q": four, "delta_q_reset": four, "resets": 0},
        "unitree_go/msg/IMUState": {"quaternion": four, "gyroscope": three, "q": four},
        "other_msgs/msg/Two": {"left": turn, "right": turn, "grip": 0.5, "closed": True},
        "geometry_msgs/msg/Quaternion": {"x": 0.0, "y": 0.0, "z": 0.0, "w": 1.0},
        "geometry_msgs/msg/Pose": {
            "position": types.types["geometry_msgs/msg/Point"](x=1.0, y=2.0, z=3.0),
            "orientation": standard,
        },
    }
    with Writer(folder, version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        for name, fields in given.items():
            link = writer.add_connection(f"/{name.rpartition('/')[2].lower()}", name, typestore=types)
            for step in range(3):
                writer.write(link, T0 + step, types.serialize_cdr(types.types[name](**fields), name))
    return folder


@pytest.mark.parametrize(
    ("name", "mode"),
    [
        ("/vehicleattitude", "previous:2,slerp:8"),
        ("/vehicleattitude.q", "slerp"),
        ("/imustate", "slerp:4,linear:7"),  # Unitree's `q` is no quaternion: only PX4 calls one so
        ("/two", "slerp:8,linear:1,previous:1"),
        ("/two.right", "slerp"),
        ("/two.right.w", "linear"),
        ("/quaternion", "slerp"),
        ("/pose", "linear:3,slerp:4"),
    ],
)
def test_ros_quaternions_are_known_by_type(tmp_path: Path, name: str, mode: str) -> None:
    log = Log()
    read_ros(log, write_types(tmp_path / "log"), [], lambda done, total: None)
    (signal,) = select(log, name)
    assert default_mode(signal) == mode
    assert topic_signals(log.topics["/quaternion"]) == ["/quaternion"]


def test_px4_quaternions_are_known_by_field() -> None:
    columns = floats(*array("q"), *array("q_d", 3), *array("control", 4), "pose.q[0]", *array("states", 24))
    assert px4_quaternions("vehicle_odometry", columns) == {"q": tuple(array("q"))}
    assert px4_quaternions("estimator_states.1", columns)["states"] == tuple(array("states"))
    assert not px4_quaternions("x", {path: Column(np.arange(3)) for path in array("q")})  # integers


@pytest.mark.parametrize(
    ("paths", "expected"),
    [
        (["tx", "ty", "tz", "qx", "qy", "qz", "qw"], {"q": ("qx", "qy", "qz", "qw")}),
        (["q_w", "q_x", "q_y", "q_z"], {"q": ("q_w", "q_x", "q_y", "q_z")}),
        ([f"pose.rotation.{c}" for c in "xyzw"], {"pose.rotation": tuple(f"pose.rotation.{c}" for c in "xyzw")}),
        ([f"orientation_{c}" for c in "wxyz"], {"orientation": tuple(f"orientation_{c}" for c in "wxyz")}),
        ([f"Rotation{c}" for c in "XYZW"], {"Rotation": tuple(f"Rotation{c}" for c in "XYZW")}),
        ([f"q{c}@body={body}" for body in (1, 2) for c in "xyzw"],
         {f"q@body={body}": tuple(f"q{c}@body={body}" for c in "xyzw") for body in (1, 2)}),
        (array("robot0_eef_quat"), {"robot0_eef_quat": tuple(array("robot0_eef_quat"))}),
        (array("q"), {}),  # as often joint positions
        (["x", "y", "z", "w"], {}),  # a box and its width
        (["qx", "qy", "gap", "qz", "qw"], {}),
        (array("quat", 5), {}),
        ([f"velocity.{c}" for c in "xyzw"], {}),
    ],
)  # fmt: skip
def test_table_quaternions_are_known_by_columns(paths: list[str], expected: dict[str, tuple[str, ...]]) -> None:
    assert table_quaternions(floats(*paths)) == expected


def test_columns_that_are_one_quaternion_are_one_signal() -> None:
    paths = ["time_offset", "qx", "qy", "qz", "qw", "pose.x", "pose.qx", "pose.qy", "pose.qz", "pose.qw"]
    columns = floats(*paths)
    topic = Topic("t", T0 + NS * np.arange(3), columns, "here", table_quaternions(columns))
    assert topic_signals(topic) == ["t.time_offset", "t.q", "t.pose"]
    (signal,) = select(Log({"t": topic}), "t.q")
    assert signal.channels == ("t.qx", "t.qy", "t.qz", "t.qw")
    assert default_mode(select(Log({"t": topic}), "t.pose")[0]) == "linear:1,slerp:4"


POSE = floats("p.x", "p.y", "p.z", *array("q"), "joint.a", "joint.b") | {"on": Column(np.arange(3) > 1)}
KNOWN = array_quaternions(POSE, ["q"])


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        ([], "linear:3,slerp:4,linear:2,previous:1"),
        # MODE alone leaves quaternions to slerp where it would blend them number by number.
        (["linear"], "linear:3,slerp:4,linear:3"),
        (["pchip"], "pchip:3,slerp:4,pchip:3"),
        (["angle"], "angle:3,slerp:4,angle:3"),
        (["nearest"], "nearest"),
        (["previous", "t.q=slerp"], "previous:3,slerp:4,previous:3"),
        # NAME=MODE is taken at its word, and the longest name decides, in any order.
        (["t=linear"], "linear"),
        (["t.joint=angle"], "linear:3,slerp:4,angle:2,previous:1"),
        (["t.joint.b=next", "t.joint=angle"], "linear:3,slerp:4,angle:1,next:1,previous:1"),
        (["t.q=previous"], "linear:3,previous:4,linear:2,previous:1"),
        (["t.p.z=previous"], "linear:2,previous:1,slerp:4,linear:2,previous:1"),
        (["t=pchip", "t.on=previous", "t.q=slerp"], "pchip:3,slerp:4,pchip:2,previous:1"),
        (["linear:3,slerp:4,angle:*"], "linear:3,slerp:4,angle:3"),
        (["t=linear:3,slerp:4,angle:2,previous:1", "t.p=pchip"], "pchip:3,slerp:4,angle:2,previous:1"),
        (["t.joint=angle:1,nearest:1"], "linear:3,slerp:4,angle:1,nearest:1,previous:1"),
    ],
)
def test_mode_of_a_signal(texts: list[str], expected: str) -> None:
    assert choose_modes([one(POSE, KNOWN)], texts, "hold") == [expected]


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (["slerp"], 'of t must give slerp whole quaternions of 4 channels, got "slerp" for 10 channels'),
        (["t.p=slerp"], 'of t.p must give slerp whole quaternions of 4 channels, got "slerp" for 3 channels'),
        (["t=linear:3,slerp:4"], 'of t must cover the 10 channels of values, got "linear:3,slerp:4", which covers 7'),
        (["t=linear:*,slerp:4"], "of t must have * in the last group only"),
        (["t=linear:x,slerp:4"], "of t must have groups NAME:WIDTH separated by commas"),
        (["t.q[1]=nearest"], "must give slerp whole quaternions, four neighbouring channels, got linear:3,slerp:1,"),
        (["t.r=linear"], "must name a chosen signal, one of t; got t.r"),
        (["t.q=lerp"], "got lerp in t.q=lerp"),
        (["t=linear:3,bezier:7"], "got bezier:7 in t=linear:3,bezier:7"),
    ],
)
def test_modes_that_are_refused(texts: list[str], expected: str) -> None:
    with pytest.raises(AlignError) as caught:
        choose_modes([one(POSE, KNOWN)], texts, "hold")
    assert expected in str(caught.value)


def test_extrapolate_goes_with_linear_alone() -> None:
    signal = one(floats("p.x", *array("q")), KNOWN)
    with pytest.raises(AlignError, match="must go with mode linear, got linear:1,slerp:4 for t .* quaternions are sl"):
        choose_modes([signal], ["linear"], "extrapolate")
    assert choose_modes([signal], ["t=linear"], "extrapolate") == ["linear"]


def trajectory(folder: Path, zeros: slice = slice(0, 0)) -> tuple[Path, np.ndarray, np.ndarray]:
    """A robot that turns about z with stamped poses, whose quaternions now and then change sign; the times and yaw."""
    times = T0 + np.cumsum(np.random.default_rng(3).integers(80_000_000, 120_000_000, 60))
    yaw = np.linspace(0.1, 9, 60)
    q = np.stack([0 * yaw, 0 * yaw, np.sin(yaw / 2), np.cos(yaw / 2)], axis=1)
    q[np.arange(60) % 4 == 0] *= -1
    q[zeros] = 0
    columns = {"tx": np.cos(yaw), "ty": np.sin(yaw), **{f"q{c}": q[:, index] for index, c in enumerate("xyzw")}}
    columns["heading"] = (yaw + np.pi) % (2 * np.pi) - np.pi
    return write_table(folder / "track.parquet", times, **columns), times, yaw


def test_a_trajectory_turns_evenly(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, times, yaw = trajectory(tmp_path)
    arguments = ["--rate", 91, "--dtype", "float64", "--mode", "track.heading=angle"]
    tensors, meta = align(tmp_path, path, *arguments)
    assert [(signal["name"], signal["mode"]) for signal in meta["signals"]] == [
        ("track.tx", "linear"), ("track.ty", "linear"), ("track.q", "slerp"), ("track.heading", "angle")
    ]  # fmt: skip
    targets = tensors["times"][0].numpy()
    expected = np.interp((targets - T0).astype(float), (times - T0).astype(float), yaw)
    values = tensors["values"][0].numpy()
    turned = 2 * np.arctan2(values[:, 4], values[:, 5])
    for found in (turned, values[:, 6]):
        np.testing.assert_allclose((found - expected + np.pi) % (2 * np.pi) - np.pi, 0, atol=1e-12)
    np.testing.assert_allclose(np.linalg.norm(values[:, 2:6], axis=1), 1, atol=1e-15)
    assert "note: track" not in capsys.readouterr().out
    together, meta = align(tmp_path, path, *arguments, "--signal", "track")
    assert meta["mode"] == "linear:2,slerp:4,angle:1"
    assert torch.equal(together["values"], tensors["values"])


def test_the_files_go_back_into_the_operator(tmp_path: Path) -> None:
    path, _, _ = trajectory(tmp_path)
    tensors, meta = align(tmp_path, path, "--rate", 40, "--mode", "track.heading=angle")
    assert meta["mode"] == "linear:1,linear:1,slerp:4,angle:1"
    again = robocache.resample(
        tensors["values"], tensors["times"], tensors["times"], mode=meta["mode"], source_lengths=tensors["lengths"]
    )
    assert torch.equal(again, tensors["values"])


def test_zero_quaternions_are_said_and_not_turned(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, _, _ = trajectory(tmp_path, slice(None))
    tensors, meta = align(tmp_path, path, "--signal", "track.q")
    assert meta["signals"][0]["mode"] == "previous"
    assert not tensors["values"].any()
    assert "track.q: zero in all samples, which is no rotation; copied, not slerped" in capsys.readouterr().out
    path, times, _ = trajectory(tmp_path, slice(10, 12))
    tensors, meta = align(tmp_path, path, "--signal", "track.q", "--rate", 200)
    said = " ".join(capsys.readouterr().out.split())
    assert "track.q: zero in 2 of 60 samples" in said
    assert "--mode track.q=previous" in said
    targets = tensors["times"][0].numpy()
    beside = (targets > times[9]) & (targets < times[12]) & ~np.isin(targets, times)
    np.testing.assert_array_equal(tensors["values"][0].isnan().any(dim=1).numpy(), beside)


def test_a_component_alone_is_remarked_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, _, _ = trajectory(tmp_path)
    align(tmp_path, path, "--signal", "track.qz")
    assert "track.qz: part of a quaternion, blended by itself; --signal track.q takes" in capsys.readouterr().out
    align(tmp_path, path, "--signal", "track.qz", "--mode", "previous")
    assert "part of a quaternion" not in capsys.readouterr().out


def test_max_gap(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    slow = T0 + NS * np.array([0, 1, 2, 5, 6])
    one = write_table(tmp_path / "slow.parquet", slow, x=np.arange(5.0))
    two = write_table(tmp_path / "fast.parquet", T0 + NS // 2 * np.arange(17), y=np.arange(17.0))
    arguments = [one, two, "--rate", 2, "--outside", "nan"]
    plain, meta = align(tmp_path, *arguments)
    assert [signal["max_gap_ns"] for signal in meta["signals"]] == [None, None]
    assert plain["valid"][0, :, 0].tolist() == [True] * 13 + [False] * 4
    assert "in gaps" not in capsys.readouterr().out
    tensors, meta = align(tmp_path, *arguments, "--max-gap", "1")
    assert [signal["max_gap_ns"] for signal in meta["signals"]] == [NS, NS]
    # A gap as long as the limit is none, and a sample is valid however far its neighbours are.
    assert tensors["valid"][0, :, 0].tolist() == [True] * 5 + [False] * 5 + [True] * 3 + [False] * 4
    assert tensors["valid"][0, :, 1].all()
    assert tensors["values"].nan_to_num(-1).equal(plain["values"].nan_to_num(-1))
    said = capsys.readouterr().out
    assert "in gaps" in said
    assert "23.5 %" in said  # outside: 4 of 17
    assert "29.4 %" in said  # in gaps: 5 of 17
    table = pa.parquet.read_table(tmp_path / "out" / "aligned.parquet")
    assert table["valid:slow.x"].to_pylist() == tensors["valid"][0, :, 0].tolist()


def test_max_gap_by_name(tmp_path: Path) -> None:
    path = write_table(tmp_path / "a.parquet", T0 + NS * np.array([0, 1, 3]), x=np.arange(3.0), y=np.arange(3.0))
    for texts, expected in (
        (["a.x=1.5"], [1_500_000_000, None]),
        (["0.1", "a.x=inf"], [None, 100_000_000]),
        (["a=1", "a.y=2"], [NS, 2 * NS]),
        (["a.y=2", "a=0"], [0, 2 * NS]),
    ):
        _, meta = align(tmp_path, path, *(part for text in texts for part in ("--max-gap", text)))
        assert [signal["max_gap_ns"] for signal in meta["signals"]] == expected


def test_max_gap_in_segments_without_some_signal(tmp_path: Path) -> None:
    times = T0 + NS * np.array([0, 1, 4, 0, 1, 2])
    path = write_table(tmp_path / "r.parquet", times, key=np.array([5, 5, 5, 6, 6, 6]), r=np.arange(6.0))
    options = ["--clock-jumps", "split", "--split-by", "key", "--rate", 1, "--signal", "r.r", "--max-gap", 2]
    tensors, _ = align(tmp_path, path, *options)
    assert tensors["valid"][0, :, 0].tolist() == [True, True, False, False, True]
    assert tensors["valid"][1, :3, 1].all()
    assert not tensors["valid"][0, :, 1].any()
    assert not tensors["valid"][1, :, 0].any()
    assert tensors["values"][1, :3, 1].tolist() == [3, 4, 5]
    assert tensors["values"][1, :3, 0].isnan().all()


def test_signals_list_tells_the_modes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from robocache.align import main

    path, _, _ = trajectory(tmp_path)
    assert main([str(path), "--signals-list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert next(line for line in lines if "track.q" in line).split()[-1] == "slerp"
    assert "track.q" in refusal(capsys, path, "--mode", "track.p=slerp")


def test_no_line_is_drawn_across_a_wrap(tmp_path: Path) -> None:
    times, angles = _cut_at_turns(np.arange(4.0), np.array([3.0, 3.1, -3.1, -3.0]))
    assert times.tolist() == [0, 1, 2, 2, 3]
    np.testing.assert_array_equal(angles, [3.0, 3.1, np.nan, -3.1, -3.0])
    times, angles = _cut_at_turns(np.arange(3.0), np.array([np.nan, 1.0, 2.0]))
    assert times.tolist() == [0, 1, 2]
