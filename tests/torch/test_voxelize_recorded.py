"""`robocache voxelize` on recorded clouds: two LiDAR scans, Kinect frames with holes, and their messages."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import robocache
import torch
from cases import assert_same_bits
from robocache import reference
from robocache.cloud.clouds import Cloud, CloudError, ReadOptions
from robocache.cloud.grid import GridOptions, choose_grid
from robocache.cloud.readers import read_clouds
from test_voxelize_cli import cells, dense_counts, expected, printed, run

KINECT = "rgbd-pcl/frame_20121214T142255.814212.pcd"
CLOUDS = {
    "lidar-small_gicp/source.ply": (69_792, 0),
    "lidar-small_gicp/target.ply": (69_088, 0),
    "rgbd-pcl/bun0.pcd": (397, 0),
    KINECT: (307_200, 35_625),
    "ros2-mcap-derived/pcl_kinect_pointcloud2": (307_200, 35_625),
}  # points, points with a NaN


def first(path: Path) -> Cloud:
    options = ReadOptions(frame=0 if path.is_dir() else None)
    try:
        return read_clouds([path], options)[0]
    except CloudError as error:  # a machine with a GPU may lack a reader's package
        if "needs the package" in str(error):
            pytest.skip(str(error))
        raise


def raw_ply(path: Path) -> np.ndarray:
    """The rows of the scans, without plyfile: four little-endian floats after the header."""
    data = path.read_bytes()
    found: np.ndarray = np.frombuffer(data[data.index(b"end_header\n") + 11 :], "<f4").reshape(-1, 4)
    return found


@pytest.mark.parametrize("name", ["source", "target"])
def test_a_scan_is_read_as_its_bytes_say(recorded: Path, name: str) -> None:
    path = recorded / "lidar-small_gicp" / f"{name}.ply"
    cloud = first(path)
    np.testing.assert_array_equal(cloud.points, raw_ply(path)[:, :3])
    np.testing.assert_array_equal(cloud.fields["scalar_intensity"], raw_ply(path)[:, 3])


def test_the_bunny_is_read_as_its_text_says(recorded: Path) -> None:
    path = recorded / "rgbd-pcl" / "bun0.pcd"
    rows = np.loadtxt(path, skiprows=11, dtype=np.float32)
    cloud = first(path)
    np.testing.assert_array_equal(cloud.points, rows[:, :3])
    assert list(cloud.fields) == ["normal_x", "normal_y", "normal_z", "curvature"]
    np.testing.assert_array_equal(cloud.fields["normal_y"], rows[:, 4])


def test_the_message_holds_the_frame(recorded: Path) -> None:
    """Two readers, two packages, one Kinect frame."""
    frame, message = first(recorded / KINECT), first(recorded / "ros2-mcap-derived" / "pcl_kinect_pointcloud2")
    holes = np.isnan(frame.points).any(1)
    np.testing.assert_array_equal(holes, np.isnan(message.points).any(1))
    np.testing.assert_allclose(message.points[~holes], frame.points[~holes], atol=1e-6)
    assert message.stamp == 1_355_494_975_814_212_000


Numbers = Callable[[np.ndarray], tuple[list[float], list[float], list[int]]]
GRIDS: dict[str, Numbers] = {
    # Every finite point inside, as the command chooses it; and a box of odd voxels that cuts the cloud.
    "default": lambda points: tuple(  # type: ignore[return-value]
        vars(choose_grid([Cloud(points, {}, Path("cloud"))], GridOptions())).values()
    ),
    "cut": lambda points: (
        np.nanquantile(points, 0.2, axis=0).tolist(),
        (np.nanstd(points, axis=0) / [7, 11, 13]).tolist(),
        [17, 20, 23],
    ),
}


@pytest.mark.parametrize("kind", [np.float32, np.float64])
@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("name", CLOUDS)
def test_the_voxel_of_every_point(recorded: Path, device: torch.device, name: str, grid: str, kind: type) -> None:
    points = first(recorded / name).points.astype(kind)
    count, bad = CLOUDS[name]
    assert (len(points), int(np.isnan(points).any(1).sum())) == (count, bad)
    origin, size, shape = GRIDS[grid](points)
    place = {"origin": origin, "voxel_size": size, "grid_size": shape}
    found, kept = cells(points, place)
    if grid == "default":
        assert int(kept.sum()) == count - bad
    else:
        assert 0 < int(kept.sum()) < count - bad
    cloud = torch.from_numpy(points).to(device)
    rows = robocache.voxelize_sparse(cloud, None, **place)
    unique, inverse, counts = np.unique(found[kept].astype(int), axis=0, return_inverse=True, return_counts=True)
    np.testing.assert_array_equal(rows.coords[:, 1:].cpu().numpy(), unique)
    np.testing.assert_array_equal(rows.counts.cpu().numpy(), counts)
    expected_row = np.full(count, -1)
    expected_row[kept] = inverse.reshape(-1)
    np.testing.assert_array_equal(rows.point_voxel.cpu().numpy(), expected_row)
    dense = robocache.voxelize(cloud, None, **place, reduce="count")
    np.testing.assert_array_equal(dense.cpu().numpy(), dense_counts(points, place))
    assert torch.equal(robocache.voxelize(cloud, None, **place), dense > 0)


@pytest.mark.parametrize("reduce", ["sum", "mean", "max", "min"])
@pytest.mark.parametrize("name", CLOUDS)
def test_the_points_of_a_voxel(recorded: Path, device: torch.device, name: str, reduce: str) -> None:
    """Every point's coordinates as its features: the reference's bits, in rows and in the grid."""
    points = torch.from_numpy(first(recorded / name).points[:20_000])
    origin, size, shape = GRIDS["cut"](points.numpy())
    wanted = reference.voxelize_sparse(points, points, origin, size, shape, reduce=reduce)
    cloud = points.to(device)
    rows = robocache.voxelize_sparse(cloud, cloud, origin, size, shape, reduce=reduce)
    for found, expected_part in zip(rows, wanted, strict=True):
        assert_same_bits(found, expected_part, name)
    _, x, y, z = rows.coords.long().unbind(1)
    dense = robocache.voxelize(cloud, cloud, origin, size, shape, reduce=reduce)
    assert_same_bits(dense[:, x, y, z].T.contiguous(), rows.values, name)


@pytest.mark.parametrize("name", ["lidar-small_gicp/source.ply", "rgbd-pcl/bun0.pcd", KINECT])
def test_the_command_prints_what_numpy_counts(
    recorded: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    path = recorded / name
    tensors, meta = run(tmp_path, path, "--reduce", "count")
    counts = dense_counts(first(path).points, meta)
    np.testing.assert_array_equal(tensors["grid"][0].numpy(), counts)
    points, bad = CLOUDS[name]
    assert printed(capsys.readouterr().out, path.name) == expected(points, bad, counts[counts > 0], counts.size)


def test_all_messages_of_a_bag(recorded: Path, tmp_path: Path) -> None:
    bag = recorded / "ros2-mcap-derived" / "pcl_kinect_pointcloud2"
    tensors, meta = run(tmp_path, bag, "--reduce", "count", "--voxel-size", "0.05")
    assert tensors["lengths"].tolist() == [307_200] * 3
    assert [story["not_finite"] for story in meta["source"]] == [35_625, 35_805, 35_872]
    for row, cloud in enumerate(read_clouds([bag], ReadOptions())):
        np.testing.assert_array_equal(tensors["grid"][row].numpy(), dense_counts(cloud.points, meta))
        assert meta["source"][row]["stamp_ns"] == cloud.stamp


def test_the_mean_colour_of_a_kinect_frame(recorded: Path, tmp_path: Path) -> None:
    path = recorded / KINECT
    tensors, meta = run(tmp_path, path, "--features", "rgba", "--voxel-size", "0.05", "--sparse")
    assert meta["channels"] == ["rgba.r", "rgba.g", "rgba.b", "rgba.a"]
    cloud = first(path)
    row = tensors["point_voxel"][0].numpy()
    for channel, name in enumerate(meta["channels"]):
        sums = np.bincount(row[row >= 0], weights=cloud.fields[name][row >= 0].astype(float))
        means = (sums / tensors["counts"].numpy()).astype(np.float32)  # sums of small integers are exact
        np.testing.assert_array_equal(tensors["values"][:, channel].numpy(), means)
