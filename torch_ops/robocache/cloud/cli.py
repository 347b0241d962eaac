"""Arguments of `robocache voxelize`, and the order in which things happen."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from rich.text import Text

import robocache
from robocache._command import console
from robocache.cloud.clouds import CloudError, ReadOptions, choose_channels, make_batch
from robocache.cloud.grid import GridOptions, choose_grid
from robocache.cloud.output import write
from robocache.cloud.readers import read_clouds
from robocache.cloud.summary import report
from robocache.cloud.voxels import REDUCES, WITHOUT_FEATURES, Voxels, voxelize

DESCRIPTION = """\
Turns point clouds into a grid and writes it as safetensors, with a picture of it.

CLOUD is a PLY (.ply) or PCD (.pcd) file, a KITTI (.bin) or nuScenes (.pcd.bin) scan, a NumPy array (.npy, .npz), or a
ROS 2 bag folder, MCAP (.mcap, .db3) or ROS 1 bag (.bag) with sensor_msgs/PointCloud2. Several clouds, and all messages
of a bag, make a batch. Lengths are metres."""

EPILOG = """\
grid
  The voxel of a point is floor((p - origin) / voxel size) along each axis, in the points' own type. Points outside the
  grid, and points with a NaN or infinite coordinate, are dropped and counted. What the options leave open is chosen so
  that every finite point lies inside: voxels of 1, 2 or 5 times a power of ten, at most 256 along the longest axis;
  an origin that is a multiple of the voxel size. A --range that is no whole number of voxels is rounded up.

fields
  All numbers of a point but x, y and z are fields: intensity, ring, normal_x, ... A packed rgb or rgba becomes rgb.r,
  rgb.g and rgb.b (0 to 255), an array its elements, NAME.0, NAME.1, ...; the NAME alone stands for all of them.
  Columns of a NumPy array past the third are column3, column4, ... unless --columns names them.

files
  Dense: grid, [B, X, Y, Z] (occupancy: bool, count: int32) or [B, C, X, Y, Z], ready for Conv3d; and lengths [B].
  Sparse: coords [M, 4] (b, x, y, z), values [M, C], counts [M], point_voxel [B, N], num_voxels [1]; and lengths [B].
  The metadata says origin, voxel_size, grid_size, reduce, channels, layout and the source of each cloud.

examples
  robocache voxelize scan.ply --voxel-size 0.2
  robocache voxelize 000000.bin --range 0 -40 -3 70.4 40 1 --voxel-size 0.1 0.1 0.2 --features intensity --sparse
  robocache voxelize drive.mcap --topic /lidar/points --frame 0 --reduce count --output first.safetensors"""


def parser() -> argparse.ArgumentParser:
    """The options, as `--help` prints them."""
    options = argparse.ArgumentParser(
        "robocache voxelize",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = options.add_argument
    add("clouds", metavar="CLOUD", nargs="+", type=Path, help="file or ROS 2 bag folder")
    grid = options.add_argument_group("grid (metres)")
    grid.add_argument("--voxel-size", metavar="M", nargs="+", help="edge of a voxel, or its three edges")
    grid.add_argument("--origin", metavar=("X", "Y", "Z"), nargs=3, help="lowest corner of the grid")
    grid.add_argument("--grid-size", metavar=("X", "Y", "Z"), nargs=3, help="voxels along each axis")
    grid.add_argument("--range", metavar=("X0", "Y0", "Z0", "X1", "Y1", "Z1"), nargs=6,
                      help="lowest and highest corner, instead of --origin and --grid-size")  # fmt: skip
    add("--reduce", choices=REDUCES, help="what a voxel says of its points (default: mean of the --features; without "
        "them occupancy, of --sparse count)")  # fmt: skip
    add("--features", metavar="NAME,...", action="append", default=[],
        help="fields to reduce, separated by commas; all: every one")  # fmt: skip
    add("--sparse", action="store_true", help="write rows for the occupied voxels only")
    add("--capacity", metavar="M", type=int, help="of --sparse: write this many rows, whatever the cloud")
    add("--columns", metavar="NAME,...", help="names of all columns of a .bin, .npy or .npz, x, y and z among them "
        "(default: x,y,z,intensity; of .pcd.bin x,y,z,intensity,ring)")  # fmt: skip
    add("--topic", metavar="NAME", help="of a bag: the topic with the clouds (default: the only one)")
    add("--frame", metavar="INDEX", type=int, help="of a bag: take this message, counted from 0 (default: all)")
    add("--output", metavar="FILE", type=Path, default=Path("voxels.safetensors"),
        help="file to write (default: voxels.safetensors)")  # fmt: skip
    add("--picture", metavar="FILE", type=Path, help="picture to draw, .png (default: as --output, with .png)")
    add("--no-picture", action="store_true", help="do not draw it")
    add("--device", default="cpu", help="where to compute, cpu or cuda (default: cpu; the result is the same)")
    return options


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; 0 when the files are written, 2 when the user has something to mend."""
    args = parser().parse_args(argv)
    try:
        _run(args)
    except CloudError as error:
        console(stderr=True).print(Text(f"robocache voxelize: error: {error}", style="red"), soft_wrap=True)
        return 2
    except KeyboardInterrupt:
        return 130  # as shells report an interrupt
    return 0


def _run(args: argparse.Namespace) -> None:
    _require_library()
    names = _split(args.features)
    reduce = _reduce(args, names)
    device = _device(args.device)
    _check_files(args)
    options = ReadOptions(_columns(args.columns), args.topic, args.frame)
    clouds = read_clouds(args.clouds, options)
    if not clouds:
        raise CloudError(f"CLOUD must hold at least one cloud, got none in {args.clouds[0]}")
    grid = choose_grid(clouds, GridOptions(args.voxel_size, args.origin, args.grid_size, args.range))
    batch = make_batch(clouds, choose_channels(clouds, names))
    capacity = -1 if args.capacity is None else args.capacity
    voxels = voxelize(clouds, batch, grid, reduce, args.sparse, capacity, device)
    report(console(), voxels, _write(args, voxels), options.notes)


def _require_library() -> None:
    """A missing library is said before a long bag is read, not after."""
    try:
        _ = robocache.voxelize
    except ImportError as error:
        raise CloudError(str(error)) from None


def _split(texts: Sequence[str]) -> list[str]:
    return [name.strip() for text in texts for name in text.split(",") if name.strip()]


def _columns(text: str | None) -> list[str] | None:
    if text is None:
        return None
    names = [name.strip() for name in text.split(",")]
    if len(set(names)) != len(names) or not {"x", "y", "z"} <= set(names) or not all(names):
        raise CloudError(f"--columns must give each column a name of its own, x, y and z among them, got {text}")
    return names


def _reduce(args: argparse.Namespace, names: list[str]) -> str:
    """The default goes by what was given; a reduction without its features, or the other way round, is refused."""
    if args.capacity is not None and not args.sparse:
        raise CloudError("--capacity goes with --sparse, got none")
    if args.capacity is not None and args.capacity < 0:
        raise CloudError(f"--capacity must be at least 0, got {args.capacity}")
    if args.reduce is None:
        return "mean" if names else ("count" if args.sparse else "occupancy")
    reduce = str(args.reduce)
    if reduce in WITHOUT_FEATURES and names:
        raise CloudError(f"--features goes with --reduce sum, mean, max or min, got {reduce}")
    if reduce not in WITHOUT_FEATURES and not names:
        raise CloudError(f"--reduce {reduce} must have --features to reduce, got none (all: every field)")
    return reduce


def _device(text: str) -> torch.device:
    try:
        device = torch.device(text)
    except RuntimeError:
        raise CloudError(f"--device must be cpu or cuda, got {text}") from None
    if device.type not in ("cpu", "cuda"):
        raise CloudError(f"--device must be cpu or cuda, got {text}")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise CloudError(f"--device must be on this machine, got {text} of {torch.cuda.device_count()} CUDA devices")
    return device


def _check_files(args: argparse.Namespace) -> None:
    """Said before the work, not after it."""
    if args.no_picture and args.picture is not None:
        raise CloudError(f"--picture must stand without --no-picture, got {args.picture}")
    args.picture = args.picture or args.output.with_suffix(".png")
    for option, path, suffix in (("--output", args.output, ".safetensors"), ("--picture", args.picture, ".png")):
        if path.suffix.lower() != suffix:
            raise CloudError(f"{option} must end in {suffix}, got {path}")


def _write(args: argparse.Namespace, voxels: Voxels) -> list[Path]:
    try:
        written = [write(voxels, args.output)]
        if not args.no_picture:
            from robocache.cloud.picture import draw  # matplotlib takes a second to import

            written.append(draw(voxels, args.picture))
    except OSError as error:
        raise CloudError(f"--output and --picture must be files that can be written, got {error}") from None
    return written
