"""Recorded logs and clouds as cases of `benches/peers.py`; their folder is named by `ROBOCACHE_DATA`."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

import clouds
import numpy as np
import signals
import torch


@dataclass(frozen=True)
class Log(signals.Case):
    """A log's samples as they were stamped; `needs` names what a peer must have for it."""

    name: str = ""
    data: signals.Inputs | None = field(default=None, repr=False, compare=False)
    needs: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.name} {super().__str__()}"

    def inputs(self, device: torch.device) -> signals.Inputs:
        assert self.data is not None
        lengths = self.data.lengths
        return signals.Inputs(
            [x.to(device, copy=True) for x in self.data.values],
            [x.to(device, copy=True) for x in self.data.source_times],
            self.data.target_times.to(device, copy=True),
            None if lengths is None else lengths.to(device),
        )

    def implementations(self, device: torch.device, autotune: bool = False) -> dict[str, signals.Call]:
        if "ragged rows" not in self.needs:
            return super().implementations(device, autotune)

        def ours(data: signals.Inputs) -> torch.Tensor:
            import robocache

            return robocache.resample(
                data.values[0], data.source_times[0], data.target_times, source_lengths=data.lengths
            )

        return {"robocache": ours}


@dataclass(frozen=True)
class Cloud(clouds.Case):
    """A scan in its own box."""

    name: str = ""
    data: torch.Tensor | None = field(default=None, repr=False, compare=False)  # [N, 3 + channels], metres
    corner: tuple[float, ...] = ()
    edge: float = 0.1
    voxels: tuple[int, int, int] = (1, 1, 1)
    needs: tuple[str, ...] = ("any number of points in a voxel",)

    def __str__(self) -> str:
        x, y, z = self.voxels
        to = f"{self.points} rows" if self.sparse else f"{x}x{y}x{z}"
        return f"{self.name} {self.reduce} {self.points}{f'x{self.channels}' if self.channels else ''}->{to}"

    @property
    def box(self) -> tuple[tuple[float, ...], tuple[float, ...], tuple[int, int, int]]:
        return self.corner, (self.edge,), self.voxels

    def inputs(self, device: torch.device) -> clouds.Inputs:
        assert self.data is not None
        rows = self.data.to(device, copy=True).unsqueeze(0)
        features = [rows[..., 3:].to(self.dtype).contiguous()] if self.channels else []
        return clouds.Inputs(rows[..., :3].contiguous(), features, self.place(device))


def cases() -> list[Log | Cloud]:
    """Those whose files are there; says aloud what is skipped."""
    if "ROBOCACHE_DATA" not in os.environ:
        print("recorded logs and clouds are skipped: name their folder in ROBOCACHE_DATA")
        return []
    folder = Path(os.environ["ROBOCACHE_DATA"])
    found: list[Log | Cloud] = []
    from robocache.cloud.clouds import CloudError

    for read in (plaza, episodes, lidar, kinect):
        try:
            found += read(folder)
        except (ImportError, OSError, CloudError) as error:  # a CloudError: a package that a file's format needs
            print(f"skipped {read.__name__}: {type(error).__name__}: {error}")
    return found


def plaza(folder: Path) -> list[Log | Cloud]:
    """Odometry of a mower, at the times of its radio ranges, in integer nanoseconds and in float64 seconds."""
    odometry, ranges = (np.loadtxt(folder / "plaza-range-odometry" / f"Plaza2_{kind}.txt") for kind in ("DR", "TD"))
    times, targets = (np.sort(x[:, 0]) for x in (odometry, ranges))
    values = torch.from_numpy(odometry[:, 1:]).float().unsqueeze(0)
    shape = (1, ((values.size(1), values.size(2)),), len(targets), signals.F32)
    found: list[Log | Cloud] = []
    for unit, scale, needs in (("seconds", None, ()), ("int64 nanoseconds", 1e9, ("int64 times",))):
        given = [torch.from_numpy(x - times[0]).unsqueeze(0) for x in (times, targets)]
        source, target = given if scale is None else [(x * scale).round().long() for x in given]
        found.append(Log(*shape, name=f"Plaza2 {unit}", data=signals.Inputs([values], [source], target), needs=needs))
    return found


def episodes(folder: Path) -> list[Log | Cloud]:
    """Five episodes of a robot's arms, of different length, at 50 Hz; and their common part, which peers can do."""
    import pyarrow.parquet

    chunk = folder / "gr00t-picknplace-lerobot-v2" / "data" / "chunk-000"
    rows, times = [], []
    for path in sorted(chunk.glob("*.parquet")):
        table = pyarrow.parquet.read_table(path, columns=["observation.state", "timestamp"])
        rows.append(torch.from_numpy(np.array(table["observation.state"].to_pylist(), dtype=np.float32)))
        times.append(torch.from_numpy(table["timestamp"].to_numpy().astype(np.float64)))
    if not rows:
        raise FileNotFoundError(str(chunk))
    lengths = torch.tensor([len(row) for row in rows])
    shortest = int(lengths.min())
    pad = torch.nn.utils.rnn.pad_sequence
    found: list[Log | Cloud] = []
    for name, values, stamps, needs in (
        ("episodes, ragged", pad(rows, batch_first=True), pad(times, batch_first=True), ("ragged rows",)),
        ("episodes", torch.stack([x[:shortest] for x in rows]), torch.stack([x[:shortest] for x in times]), ()),
    ):
        last = float(stamps[0, shortest - 1])
        target = torch.arange(0, last, 0.02, dtype=torch.float64).repeat(len(rows), 1)
        data = signals.Inputs([values], [stamps], target, lengths if needs else None)
        shape = (len(rows), ((values.size(1), values.size(2)),), target.size(1), signals.F32)
        found.append(Log(*shape, name=name, data=data, needs=needs))
    return found


def boxed(name: str, rows: torch.Tensor, edge: float) -> list[Log | Cloud]:
    """A scan as occupancy, as a grid of means and as rows, in the box of its finite points."""
    finite = rows[rows[:, :3].isfinite().all(dim=1), :3]
    corner = tuple(float(x) for x in torch.floor(finite.amin(0) / edge) * edge)
    across, deep, high = (int(x) + 1 for x in torch.floor((finite.amax(0) - torch.tensor(corner)) / edge))
    place = {"name": name, "data": rows, "corner": corner, "edge": edge, "voxels": (across, deep, high)}
    count, channels = len(rows), rows.size(1) - 3
    return [
        Cloud("voxelize", "occupancy", count, 0, 0, **place),  # type: ignore[arg-type]
        Cloud("voxelize", "mean", count, channels, 0, **place),  # type: ignore[arg-type]
        Cloud("voxelize_sparse", "mean", count, channels, 0, **place),  # type: ignore[arg-type]
    ]


def lidar(folder: Path) -> list[Log | Cloud]:
    """A scan of a spinning LiDAR, 0.2 m voxels, its intensity: four little-endian floats a point after the header."""
    data = (folder / "lidar-small_gicp" / "source.ply").read_bytes()
    rows = np.frombuffer(data[data.index(b"end_header\n") + 11 :], "<f4").reshape(-1, 4)
    return boxed("LiDAR", torch.from_numpy(rows.copy()), 0.2)


def kinect(folder: Path) -> list[Log | Cloud]:
    """A depth camera's frame with holes (NaN), 0.02 m voxels, its colour."""
    from robocache.cloud.clouds import ReadOptions
    from robocache.cloud.readers import read_clouds

    path = folder / "rgbd-pcl" / "frame_20121214T142255.814212.pcd"
    (cloud,) = read_clouds([path], ReadOptions(frame=None))
    colours = [np.asarray(cloud.fields[f"rgba.{name}"], np.float32) for name in "rgb"]
    rows = np.column_stack([np.asarray(cloud.points, np.float32), *colours])
    return boxed("Kinect", torch.from_numpy(rows), 0.02)
