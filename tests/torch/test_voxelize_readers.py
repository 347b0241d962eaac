"""Readers of `robocache voxelize`: small clouds written here, with the odd things that real ones hold."""

from __future__ import annotations

import builtins
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from plyfile import PlyData, PlyElement
from pypcd4.pypcd4 import Encoding, PointCloud
from robocache.cloud.clouds import Cloud, CloudError, ReadOptions, choose_channels, make_batch
from robocache.cloud.readers import read_clouds
from rosbags.rosbag1 import Writer as Writer1
from rosbags.rosbag2 import StoragePlugin
from rosbags.rosbag2 import Writer as Writer2
from rosbags.typesys import Stores, get_typestore

T0 = 1_700_000_000_123_456_789
XYZ = np.array([[0.1, -2.5, 3.0], [np.nan, np.nan, np.nan], [1e-3, 7.25, -0.0]], np.float32)
SHINE = np.array([0.5, 0.0, 255.0], np.float32)
PACKED = np.array([0xFF_01_02_03, 0, 0x00_FF_80_7F], np.uint32)  # alpha, red, green, blue


def read(*paths: Path, **options: Any) -> tuple[list[Cloud], list[str]]:
    """The clouds, and what the reader says of them."""
    given = ReadOptions(**options)
    return read_clouds(paths, given), given.notes


def refusal(*paths: Path, **options: Any) -> str:
    """What a reader says of what it refuses."""
    with pytest.raises(CloudError) as caught:
        read(*paths, **options)
    return str(caught.value)


def assert_cloud(cloud: Cloud, points: np.ndarray, **fields: np.ndarray) -> None:
    """The same points to the bit, in their own type, and the same fields in the same order."""
    assert cloud.points.dtype == points.dtype
    np.testing.assert_array_equal(cloud.points, points)
    assert list(cloud.fields) == list(fields)
    for name, values in fields.items():
        np.testing.assert_array_equal(cloud.fields[name], values)


@pytest.mark.parametrize("text,order", [(True, "="), (False, "<"), (False, ">")])
@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_ply(tmp_path: Path, text: bool, order: str, kind: type) -> None:
    rows = np.zeros(3, [("x", kind), ("y", kind), ("z", kind), ("intensity", np.float32), ("red", np.uint8)])
    for axis, name in enumerate("xyz"):
        rows[name] = XYZ[:, axis]
    rows["intensity"], rows["red"] = SHINE, [1, 2, 255]
    path = tmp_path / "cloud.ply"
    faces = np.array([([0, 1, 2],)], [("vertex_indices", "O")])
    elements = [PlyElement.describe(faces, "face"), PlyElement.describe(rows, "vertex")]
    PlyData(elements, text=text, byte_order=order).write(path)
    (cloud,), notes = read(path)
    assert_cloud(cloud, XYZ.astype(kind), intensity=SHINE, red=np.array([1, 2, 255]))
    assert not notes


def test_ply_of_no_points_and_with_lists(tmp_path: Path) -> None:
    path = tmp_path / "cloud.PLY"
    head = (
        "ply\nformat ascii 1.0\nelement vertex {}\nproperty float x\nproperty float y\nproperty float z\n{}end_header\n"
    )
    path.write_text(head.format(0, ""))
    assert_cloud(read(path)[0][0], np.empty((0, 3), np.float32))
    path.write_text(head.format(1, "property list uchar int near\n") + "1 2 3 2 7 8\n")
    (cloud,), notes = read(path)
    assert_cloud(cloud, np.array([[1, 2, 3]], np.float32))
    assert notes == ["left out near: its values are not plain numbers (object of shape [1])"]


@pytest.mark.parametrize("encoding", [Encoding.ASCII, Encoding.BINARY, Encoding.BINARY_COMPRESSED])
def test_pcd(tmp_path: Path, encoding: Encoding) -> None:
    columns = [*XYZ.T, SHINE, PACKED, np.array([1, 2, 3], np.uint16)]
    kinds = [np.float32] * 4 + [np.uint32, np.uint16]
    path = tmp_path / "cloud.pcd"
    PointCloud.from_points(columns, ("x", "y", "z", "intensity", "rgba", "ring"), kinds).save(path, encoding)
    (cloud,), notes = read(path)
    colours = {"rgba.r": [1, 0, 255], "rgba.g": [2, 0, 128], "rgba.b": [3, 0, 127], "rgba.a": [255, 0, 0]}
    assert_cloud(cloud, XYZ, intensity=SHINE, **colours, ring=np.array([1, 2, 3]))  # type: ignore[arg-type]
    assert not notes


def test_pcd_of_one_point_with_padding_and_arrays(tmp_path: Path) -> None:
    head = "VERSION 0.7\nFIELDS x y z _ normal\nSIZE 4 4 4 1 4\nTYPE F F F U F\nCOUNT 1 1 1 4 3\nWIDTH 1\nHEIGHT 1\n"
    path = tmp_path / "cloud.pcd"
    path.write_text(head + "VIEWPOINT 0 0 0 1 0 0 0\nPOINTS 1\nDATA ascii\n1 2 3 0 0 0 0 0.5 0.25 -1\n")
    (cloud,), _ = read(path)
    named = {"normal.0": [0.5], "normal.1": [0.25], "normal.2": [-1]}
    assert_cloud(cloud, np.array([[1, 2, 3]], np.float32), **named)  # type: ignore[arg-type]
    assert choose_channels([cloud], ["normal"]) == ["normal.0", "normal.1", "normal.2"]


def test_pcd_that_ends_early(tmp_path: Path) -> None:
    path = tmp_path / "cloud.pcd"
    PointCloud.from_xyz_points(XYZ).save(path, Encoding.BINARY)
    path.write_bytes(path.read_bytes()[:-12])
    assert refusal(path) == f"{path} must have 3 points, as its header says, got 2"
    path.write_bytes(path.read_bytes()[:-1])
    assert refusal(path).startswith(f"{path} must be a PCD file, got ValueError: ")


def test_kitti_and_nuscenes(tmp_path: Path) -> None:
    kitti, nuscenes = tmp_path / "000000.bin", tmp_path / "sweep.pcd.bin"
    ring = np.array([3, 1, 31], np.float32)
    np.column_stack([XYZ, SHINE]).astype("<f4").tofile(kitti)
    np.column_stack([XYZ, SHINE, ring]).astype("<f4").tofile(nuscenes)
    assert_cloud(read(kitti)[0][0], XYZ, intensity=SHINE)
    assert_cloud(read(nuscenes)[0][0], XYZ, intensity=SHINE, ring=ring)
    assert_cloud(read(nuscenes, columns=["x", "y", "z", "i", "r"])[0][0], XYZ, i=SHINE, r=ring)
    assert_cloud(read(kitti, columns=["shine", "z", "y", "x"])[0][0], np.column_stack([SHINE, XYZ[:, ::-1][:, :2]]),
                 shine=XYZ[:, 0])  # fmt: skip
    empty = tmp_path / "empty.bin"
    empty.touch()
    assert_cloud(read(empty)[0][0], np.empty((0, 3), np.float32), intensity=np.empty(0))


def test_kitti_of_another_width(tmp_path: Path) -> None:
    path = tmp_path / "sweep.bin"
    np.zeros((3, 5), "<f4").tofile(path)
    assert refusal(path) == (
        f"{path} must hold a whole number of points of 16 bytes (x, y, z, intensity: float32 each), got 60 bytes; five "
        "columns would fit: --columns x,y,z,intensity,ring"
    )
    path.write_bytes(b"12345")
    assert refusal(path).endswith("(x, y, z, intensity: float32 each), got 5 bytes")


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64, ">f4"])
def test_npy(tmp_path: Path, kind: Any) -> None:
    path = tmp_path / "cloud.npy"
    rows = np.column_stack([XYZ, SHINE]).astype(kind)
    np.save(path, rows)
    native = rows.dtype.newbyteorder("=")
    assert_cloud(read(path)[0][0], rows[:, :3].astype(native), column3=rows[:, 3])
    assert_cloud(read(path, columns=["x", "y", "z", "shine"])[0][0], rows[:, :3].astype(native), shine=rows[:, 3])
    np.save(path, np.stack([rows, -rows]))
    clouds, _ = read(path)
    assert [cloud.label for cloud in clouds] == ["cloud.npy [0]", "cloud.npy [1]"]
    assert_cloud(clouds[1], -rows[:, :3].astype(native), column3=-rows[:, 3])


def test_integers_become_float64(tmp_path: Path) -> None:
    path = tmp_path / "cloud.npy"
    np.save(path, np.array([[1, 2, 2**31]]))
    assert_cloud(read(path)[0][0], np.array([[1.0, 2.0, 2.0**31]]))


def test_npz_and_records(tmp_path: Path) -> None:
    path = tmp_path / "cloud.npz"
    np.savez(path, points=XYZ, intensity=SHINE, colour=np.eye(3), stamp=np.array(7), other=np.arange(4))
    (cloud,), notes = read(path)
    colour = {f"colour.{index}": np.eye(3)[index] for index in range(3)}
    assert_cloud(cloud, XYZ, intensity=SHINE, **colour)
    assert notes == [
        "left out stamp []: it has no value for each of the 3 points",
        "left out other [4]: it has no value for each of the 3 points",
    ]
    np.savez(path, x=XYZ[:, 0], y=XYZ[:, 1], z=XYZ[:, 2], t=[1, 2, 3])
    assert_cloud(read(path)[0][0], XYZ, t=np.array([1, 2, 3]))
    records = np.zeros(3, [("z", "f4"), ("y", "f4"), ("x", "f4"), ("t", "i8")])
    records["x"], records["y"], records["z"] = XYZ.T
    np.save(tmp_path / "records.npy", records)
    assert_cloud(read(tmp_path / "records.npy")[0][0], XYZ, t=np.zeros(3))


def test_arrays_that_are_no_cloud(tmp_path: Path) -> None:
    path = tmp_path / "cloud.npy"
    np.save(path, np.zeros((4, 2)))
    assert refusal(path) == f"{path} must hold an array [N, k] or [B, N, k], k being 3 or more, got [4, 2]"
    np.save(path, np.zeros((4, 5)))
    assert refusal(path, columns=list("xyz")).endswith("k being 3 (as --columns says), got [4, 5]")
    np.save(path, np.array([None]), allow_pickle=True)
    assert refusal(path).startswith(f"{path} must be an .npy or .npz of plain arrays, got ValueError: Object arrays")
    np.save(path, np.zeros((4, 3), complex))
    assert refusal(path) == f"{path}: x must hold one number a point, got complex128 of shape [4]"
    np.savez(tmp_path / "cloud.npz", a=np.zeros((4, 3)), b=np.zeros(4))
    assert refusal(tmp_path / "cloud.npz").endswith("x, y and z, or one array, got a [4, 3], b [4]")


def messages(store: Stores, order: str) -> tuple[Any, list[tuple[str, int, object]]]:
    """Two clouds on one topic: organised with padded rows and points, and one of another length, and empty."""
    types = get_typestore(store)
    make = SimpleNamespace(**{name.rpartition("/")[2]: kind for name, kind in types.types.items()})
    time = types.types["builtin_interfaces/msg/Time"]
    extra = {"seq": 9} if store is Stores.ROS1_NOETIC else {}
    kind = np.dtype({"names": ["x", "y", "z", "rgb", "normal", "t"], "offsets": [4, 8, 12, 20, 24, 40], "itemsize": 48,
                     "formats": [f"{order}f4"] * 3 + [f"{order}u4", f"({2},){order}f4", f"{order}f8"]})  # fmt: skip
    numbers = {"x": 7, "y": 7, "z": 7, "rgb": 7, "normal": 7, "t": 8}
    fields = [
        make.PointField(
            name=name, offset=kind.fields[name][1], datatype=numbers[name], count=kind[name].itemsize // size
        )
        for name, size in zip(kind.names, (4, 4, 4, 4, 4, 8), strict=True)
    ]
    written = []
    for step, (height, width, gap) in enumerate([(1, 3, 0), (3, 1, 5), (0, 0, 0)]):
        rows = np.zeros(height * width, kind)
        if rows.size:
            rows["x"], rows["y"], rows["z"] = XYZ.T
            rows["rgb"], rows["normal"], rows["t"] = PACKED, [[0, 1]] * 3, [1e9, 2e9, 3e9 + step]
        raw = rows.view(np.uint8).reshape(height, width * 48)
        data = np.concatenate([raw, np.full((height, gap), 77, np.uint8)], axis=1).ravel()
        stamp = T0 + step
        message = make.PointCloud2(
            header=make.Header(stamp=time(sec=stamp // 10**9, nanosec=stamp % 10**9), frame_id="lidar", **extra),
            height=height,
            width=width,
            fields=fields,
            is_bigendian=order == ">",
            point_step=48,
            row_step=width * 48 + gap,
            data=data,
            is_dense=False,
        )  # fmt: skip
        written.append(("sensor_msgs/msg/PointCloud2", T0 + 50 + step, message))
    return types, written


def write_mcap(folder: Path, order: str = "<", topics: tuple[str, ...] = ("/points",)) -> Path:
    """A ROS 2 bag folder with an MCAP file in it."""
    types, written = messages(Stores.ROS2_HUMBLE, order)
    with Writer2(folder, version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        for topic in topics:
            link = writer.add_connection(topic, written[0][0], typestore=types)
            for kind, log_time, message in written:
                writer.write(link, log_time, types.serialize_cdr(message, kind))
    return folder


def write_bag(path: Path, order: str) -> Path:
    """A ROS 1 bag."""
    types, written = messages(Stores.ROS1_NOETIC, order)
    with Writer1(path) as writer:
        link = writer.add_connection("/points", written[0][0], typestore=types)
        for kind, log_time, message in written:
            writer.write(link, log_time, types.serialize_ros1(message, kind))
    return path


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("kind", ["folder", "mcap", "bag"])
def test_point_cloud_messages(tmp_path: Path, kind: str, order: str) -> None:
    if kind == "bag":
        path = write_bag(tmp_path / "log.bag", order)
    else:
        path = write_mcap(tmp_path / "log", order)
        path = next(path.glob("*.mcap")) if kind == "mcap" else path
    clouds, notes = read(path)
    assert not notes
    assert [cloud.stamp for cloud in clouds] == [T0, T0 + 1, T0 + 2]
    assert [cloud.label for cloud in clouds] == [f"{path.name} /points [{index}]" for index in range(3)]
    for step, cloud in enumerate(clouds[:2]):
        colours = {"rgb.r": [1, 0, 255], "rgb.g": [2, 0, 128], "rgb.b": [3, 0, 127]}
        more = {"normal.0": [0, 0, 0], "normal.1": [1, 1, 1], "t": [1e9, 2e9, 3e9 + step]}
        assert_cloud(cloud, XYZ, **colours, **more)  # type: ignore[arg-type]
    assert clouds[2].points.shape == (0, 3)
    (one,), _ = read(path, frame=1)
    assert one.stamp == T0 + 1
    batch = make_batch(clouds, choose_channels(clouds, ["rgb", "t"]))
    assert batch.lengths.tolist() == [3, 3, 0]
    assert batch.features is not None
    assert str(batch.features.dtype) == "torch.float64"  # t needs it
    assert batch.channels == ["rgb.r", "rgb.g", "rgb.b", "t"]
    assert refusal(path, frame=3) == "--frame must be from 0 to 2 for /points, got 3"
    assert refusal(path, topic="/point") == "--topic must be one of /points; got /point"


def test_bags_with_several_topics_or_without_clouds(tmp_path: Path) -> None:
    path = write_mcap(tmp_path / "two", topics=("/left", "/right"))
    assert refusal(path) == "--topic must choose one of /left, /right; got none"
    assert [cloud.part for cloud in read(path, topic="/right", frame=0)[0]] == [" /right [0]"]
    types = get_typestore(Stores.ROS2_HUMBLE)
    bare = types.types["std_msgs/msg/Float64"]
    with Writer2(tmp_path / "none", version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        link = writer.add_connection("/load", "std_msgs/msg/Float64", typestore=types)
        writer.write(link, 0, types.serialize_cdr(bare(data=1.0), "std_msgs/msg/Float64"))
    assert refusal(tmp_path / "none") == (
        f"{tmp_path / 'none'} must have a topic of sensor_msgs/msg/PointCloud2, got std_msgs/msg/Float64"
    )


def test_messages_that_contradict_themselves(tmp_path: Path) -> None:
    from robocache.cloud.readers import ros

    _, written = messages(Stores.ROS2_HUMBLE, "<")
    message: Any = written[1][2]
    message.data = message.data[:-6]  # the gap after the last row may be missing, no point may
    with pytest.raises(CloudError, match=r"log /p \[1\] must hold 3 rows of 1 points of 48 bytes, got rows of 53 bytes "
                       "in 153 bytes"):  # fmt: skip
        ros._cloud(message, Path("log"), ReadOptions(), " /p [1]")
    message = written[0][2]
    message.fields[5].offset = 44
    with pytest.raises(CloudError, match="must have fields of different names within 48 bytes, got"):
        ros._cloud(message, Path("log"), ReadOptions(), " /p [0]")


@pytest.mark.parametrize("name", ["a.ply", "a.pcd", "a.npy", "a.npz", "a.mcap", "a.bag", "a.db3"])
def test_files_that_are_something_else(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(b"This is a letter, not a cloud.\n" * 40)
    said = refusal(path)
    assert said.startswith(f"{path} must be a"), said
    path.write_bytes(b"")
    assert refusal(path).startswith(f"{path} must ")


def test_files_that_are_not_there_or_of_no_known_kind(tmp_path: Path) -> None:
    assert refusal(tmp_path / "no.ply") == (
        f"CLOUD must be a file or a ROS 2 bag folder, got {tmp_path / 'no.ply'}, which does not exist"
    )
    (tmp_path / "a.las").touch()
    assert refusal(tmp_path / "a.las") == (
        "CLOUD must be a ROS 2 bag folder or end in one of .bag, .bin, .db3, .mcap, .npy, .npz, .pcd, .pcd.bin, .ply, "
        f"got {tmp_path / 'a.las'}"
    )


def test_fields_that_are_missing(tmp_path: Path) -> None:
    path = tmp_path / "cloud.ply"
    path.write_text("ply\nformat ascii 1.0\nelement vertex 1\nproperty float x\nproperty int row\nend_header\n1 2\n")
    assert refusal(path) == f"{path} must have fields x, y and z, got x, row (no y, z)"
    path.write_text("ply\nformat ascii 1.0\nelement face 1\nproperty float x\nend_header\n1\n")
    assert refusal(path) == f"{path} must have an element vertex, got face"


def test_options_of_other_kinds_of_files(tmp_path: Path) -> None:
    path = tmp_path / "cloud.ply"
    path.touch()
    assert refusal(path, columns=list("xyz")) == f"--columns goes with .bin, .npy and .npz, got {path}"
    assert refusal(path, topic="/points") == f"--topic goes with a ROS bag or MCAP, got {path}"
    assert refusal(path, frame=0) == f"--frame goes with a ROS bag or MCAP, got {path}"


def test_a_reader_that_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cloud.ply").touch()
    real = builtins.__import__

    def without(name: str, *rest: Any, **more: Any) -> Any:
        if name == "plyfile":
            raise ModuleNotFoundError("No module named 'plyfile'", name="plyfile")
        return real(name, *rest, **more)

    monkeypatch.delitem(sys.modules, "robocache.cloud.readers.ply", raising=False)
    monkeypatch.setattr(builtins, "__import__", without)
    assert refusal(tmp_path / "cloud.ply") == (
        f"{tmp_path / 'cloud.ply'} needs the package plyfile: pip install 'robocache[voxelize]'"
    )
