"""`robocache voxelize` from end to end: the cells against NumPy, the files, what is printed, and the refusals."""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import robocache
import torch
from robocache.cloud import main
from robocache.cloud.cli import parser
from robocache.cloud.picture import project
from robocache.cloud.voxels import Voxels, voxelize
from safetensors import safe_open
from test_docs import blocks, program

ROOT = Path(__file__).resolve().parents[2]


def save_cloud(path: Path, points: np.ndarray, **fields: np.ndarray) -> Path:
    """An .npz with points [N, 3]."""
    np.savez(path, points=points, **fields)
    return path


def scan(folder: Path, kind: type = np.float32) -> tuple[Path, np.ndarray, np.ndarray]:
    """A cloud with two holes and a far point, and its intensities."""
    rng = np.random.default_rng(3)
    points = rng.normal(0, 4, (500, 3)).astype(kind)
    points[7], points[8] = [np.nan, 1, 1], [1, np.inf, 1]
    points[9] = [90, 0, 0]
    shine = rng.uniform(0, 255, 500).astype(np.float32)
    return save_cloud(folder / "scan.npz", points, intensity=shine), points, shine


def run(folder: Path, *arguments: object) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Runs the command in this process; returns the tensors and the decoded metadata."""
    out = folder / "out" / "voxels.safetensors"
    assert main([*map(str, arguments), "--output", str(out), "--no-picture"]) == 0
    with safe_open(out, framework="pt") as file:
        meta = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}
    plain = {"format", "layout", "reduce", "unit"}
    return tensors, {name: text if name in plain else json.loads(text) for name, text in meta.items()}


def refusal(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """Runs the command, which must refuse; returns what it said."""
    assert main([*map(str, arguments), "--no-picture"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("robocache voxelize: error: ")
    return " ".join(said.removeprefix("robocache voxelize: error: ").split())


def cells(points: np.ndarray, meta: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """NumPy's voxel of each point, in the points' type, and which points are kept."""
    origin, size = (np.array(meta[name], points.dtype) for name in ("origin", "voxel_size"))
    with np.errstate(invalid="ignore"):
        found = np.floor((points - origin) / size)
    kept = np.isfinite(points).all(1) & (found >= 0).all(1) & (found < meta["grid_size"]).all(1)
    return found, kept


def dense_counts(points: np.ndarray, meta: dict[str, Any]) -> np.ndarray:
    """NumPy's count of each voxel."""
    found, kept = cells(points, meta)
    counts = np.zeros(meta["grid_size"], np.int32)
    np.add.at(counts, tuple(found[kept].astype(np.int64).T), 1)
    return counts


BOX = ["--range", -8, -8, -4, 8, 8, "4.2", "--voxel-size", "0.5", "0.25", "0.3"]


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_dense_counts(tmp_path: Path, kind: type) -> None:
    path, points, _ = scan(tmp_path, kind)
    tensors, meta = run(tmp_path, path, *BOX, "--reduce", "count")
    assert meta["format"] == "robocache.voxelize"
    assert (meta["layout"], meta["reduce"], meta["unit"], meta["channels"]) == ("B,X,Y,Z", "count", "m", [])
    assert (meta["origin"], meta["voxel_size"]) == ([-8, -8, -4], [0.5, 0.25, 0.3])
    assert meta["grid_size"] == [32, 64, 28]  # 8.2 / 0.3 is 27.3
    np.testing.assert_array_equal(tensors["grid"][0].numpy(), dense_counts(points, meta))
    assert tensors["lengths"].tolist() == [500]
    occupied, _ = run(tmp_path, path, *BOX)
    assert torch.equal(occupied["grid"], tensors["grid"] > 0)


def test_dense_and_sparse_means(tmp_path: Path) -> None:
    path, points, shine = scan(tmp_path)
    dense, meta = run(tmp_path, path, *BOX, "--features", "intensity")
    assert (meta["layout"], meta["reduce"], meta["channels"]) == ("B,C,X,Y,Z", "mean", ["intensity"])
    rows, meta = run(tmp_path, path, *BOX, "--features", "intensity", "--sparse")
    assert meta["layout"] == "M,C"
    found, kept = cells(points, meta)
    expected, inverse, counts = np.unique(found[kept].astype(int), axis=0, return_inverse=True, return_counts=True)
    np.testing.assert_array_equal(rows["coords"].numpy(), np.column_stack([np.zeros(len(expected)), expected]))
    np.testing.assert_array_equal(rows["counts"].numpy(), counts)
    voxel = np.full(500, -1)
    voxel[kept] = inverse.reshape(-1)
    np.testing.assert_array_equal(rows["point_voxel"][0].numpy(), voxel)
    means = [np.float32(math.fsum(shine[voxel == row].astype(float)) / counts[row]) for row in range(len(counts))]
    np.testing.assert_array_equal(rows["values"][:, 0].numpy(), means)
    b, x, y, z = rows["coords"].long().T
    assert torch.equal(dense["grid"][b, 0, x, y, z], rows["values"][:, 0])
    assert int((dense["grid"] != 0).sum()) == len(counts)
    assert rows["num_voxels"].tolist() == [len(counts)]


def test_capacity(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, _, _ = scan(tmp_path)
    exact, _ = run(tmp_path, path, *BOX, "--sparse")
    capsys.readouterr()
    few, _ = run(tmp_path, path, *BOX, "--sparse", "--capacity", 100)
    occupied = len(exact["coords"])
    assert f"note: {occupied - 100:,} voxels lie past the capacity and are not written" in capsys.readouterr().out
    assert torch.equal(few["coords"], exact["coords"][:100])
    assert few["num_voxels"].tolist() == [occupied]
    more, _ = run(tmp_path, path, *BOX, "--sparse", "--capacity", 1000)
    assert more["coords"].shape == (1000, 4)
    assert bool((more["coords"][occupied:] == -1).all())


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("offset", [0.0, -1.0, 1000.0])
def test_the_default_grid_holds_every_finite_point(tmp_path: Path, kind: type, offset: float) -> None:
    rng = np.random.default_rng(5)
    for scale in (1e-3, 0.3, 20.0):
        points = (rng.uniform(-1, 1, (200, 3)) * scale + offset).astype(kind)
        points[3] = np.nan
        tensors, meta = run(tmp_path, save_cloud(tmp_path / "a.npz", points), "--reduce", "count")
        assert int(tensors["grid"].sum()) == 199
        (story,) = meta["source"]
        assert (story["points"], story["kept"], story["outside"], story["not_finite"]) == (200, 199, 0, 1)
        assert max(meta["grid_size"]) <= 258  # 256 and the voxels that the ends cut


def test_the_default_origin_is_a_multiple_of_the_voxel_size(tmp_path: Path) -> None:
    path = save_cloud(tmp_path / "a.npz", np.array([[-0.35, 0.0, 12.34], [2.95, 0.05, 12.45]]))
    _, meta = run(tmp_path, path, "--voxel-size", "0.1")
    np.testing.assert_allclose(meta["origin"], [-0.4, 0.0, 12.3], rtol=1e-15)
    assert meta["grid_size"] == [34, 1, 2]
    _, meta = run(tmp_path, path)
    assert meta["voxel_size"] == [0.02] * 3  # 3.3 m in 165 voxels; 0.01 m would make 330


def test_origin_and_grid_size_alone_and_together(tmp_path: Path) -> None:
    path = save_cloud(tmp_path / "a.npz", np.array([[-1.0, 0.5, 2.0], [3.0, 0.75, 2.5]]))
    _, meta = run(tmp_path, path, "--voxel-size", "0.5", "--origin", 0, 0, 0)
    assert (meta["origin"], meta["grid_size"]) == ([0, 0, 0], [7, 2, 6])
    assert meta["source"][0]["outside"] == 1
    _, meta = run(tmp_path, path, "--voxel-size", "0.5", "--grid-size", 4, 3, 2)
    assert (meta["origin"], meta["grid_size"]) == ([-1, 0.5, 2], [4, 3, 2])
    _, meta = run(tmp_path, path, "--voxel-size", "0.5", "--origin", -1, 0, 0, "--grid-size", 4, 3, 2)
    assert (meta["origin"], meta["grid_size"]) == ([-1, 0, 0], [4, 3, 2])


def test_a_range_is_counted_in_decimals(tmp_path: Path) -> None:
    path = save_cloud(tmp_path / "a.npz", np.zeros((1, 3)))
    _, meta = run(tmp_path, path, "--range", 0, 0, 0, "1.1", "0.3", 1, "--voxel-size", "0.1")
    assert meta["grid_size"] == [11, 3, 10]  # in floats 1.1 / 0.1 is 11.000000000000002


def test_clouds_without_any_point(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    empty = save_cloud(tmp_path / "empty.npz", np.empty((0, 3), np.float32))
    holes = save_cloud(tmp_path / "holes.npz", np.full((4, 3), np.nan, np.float32))
    for path, count in ((empty, 0), (holes, 4)):
        assert refusal(capsys, path) == (
            f"CLOUD must have a finite point to choose a grid by, got none among {count} in {path}; --range with "
            "--voxel-size says which grid to take"
        )
        tensors, meta = run(tmp_path, path, *BOX)
        assert not tensors["grid"].any()
        assert meta["source"][0]["not_finite"] == count
        run(tmp_path, path, *BOX, "--sparse", "--capacity", 3)
    _, meta = run(tmp_path, empty, "--voxel-size", 1, "--origin", 0, 0, 0, "--grid-size", 2, 2, 2)
    assert meta["grid_size"] == [2, 2, 2]
    assert main([str(empty), *map(str, BOX), "--output", str(tmp_path / "empty.safetensors")]) == 0  # with a picture


def test_one_point(tmp_path: Path) -> None:
    _, meta = run(tmp_path, save_cloud(tmp_path / "a.npz", np.array([[1.25, 0, 0]], np.float32)))
    assert (meta["voxel_size"], meta["grid_size"]) == ([0.1] * 3, [1, 1, 1])


def test_several_clouds_make_a_ragged_batch(tmp_path: Path) -> None:
    path, points, _ = scan(tmp_path)
    other = save_cloud(tmp_path / "other.npz", points[:120].astype(float), intensity=np.arange(120))
    tensors, meta = run(tmp_path, path, other, *BOX, "--reduce", "count")
    assert tensors["lengths"].tolist() == [500, 120]
    wide = points.astype(float)  # the widest type decides for all
    for row, cloud in enumerate((wide, wide[:120])):
        np.testing.assert_array_equal(tensors["grid"][row].numpy(), dense_counts(cloud, meta))
    assert [Path(story["source"]).name for story in meta["source"]] == ["scan.npz", "other.npz"]


def printed(text: str, label: str) -> list[str]:
    """The cells of a row of the table."""
    row = next(line for line in text.splitlines() if line.split()[:1] == [label])
    return re.sub(r"(?<=\d) %", "%", row).replace(",", "").split()[1:]


def test_the_table_says_what_numpy_counts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, points, _ = scan(tmp_path)
    other = save_cloud(tmp_path / "other.npz", points[:100])
    _, meta = run(tmp_path, path, other, *BOX)
    out = capsys.readouterr().out
    everything = []
    for label, cloud in (("scan.npz", points), ("other.npz", points[:100])):
        counts = dense_counts(cloud, meta)
        everything.append(counts[counts > 0])
        bad = int((~np.isfinite(cloud)).any(1).sum())
        assert printed(out, label) == expected(len(cloud), bad, counts[counts > 0], counts.size)
    both, size = np.concatenate(everything), 2 * int(np.prod(meta["grid_size"]))
    assert printed(out, "all") == expected(600, 4, both, size)
    assert "box: 32 x 64 x 28 voxels of 0.5 x 0.25 x 0.3 m, from (-8, -8, -4) to (8, 8, 4.4) m" in out
    assert "grid: [2, 32, 64, 28] bool (B, X, Y, Z; occupancy)" in out


def expected(points: int, bad: int, counts: np.ndarray, size: int) -> list[str]:
    kept = int(counts.sum())
    spread = [f"{counts.mean():.2f}", f"{np.median(counts):g}", str(counts.max())]
    share = f"{100 * len(counts) / size:.3g}%"
    return [str(points), str(kept), str(points - kept - bad), str(bad), str(len(counts)), share, *spread]


def made(points: np.ndarray, folder: Path, *arguments: object) -> Voxels:
    """What the command hands to its picture."""
    kept: list[Voxels] = []

    def keep(*given: Any) -> Voxels:
        kept.append(voxelize(*given))
        return kept[0]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("robocache.cloud.cli.voxelize", keep)
        run(folder, save_cloud(folder / "a.npz", points), *arguments)
    return kept[0]


def test_views_are_sums_along_an_axis(tmp_path: Path) -> None:
    _, points, _ = scan(tmp_path)
    voxels = made(points, tmp_path, *BOX)
    counts = np.zeros(voxels.grid.grid_size, np.int64)
    counts[tuple(voxels.coords[:, 1:].T)] = voxels.counts
    for right, up, along in ((0, 1, 2), (0, 2, 1), (1, 2, 0)):
        np.testing.assert_array_equal(project(voxels, right, up), counts.sum(along).T)


def test_a_wide_grid_is_drawn_by_groups_of_voxels(tmp_path: Path) -> None:
    _, points, _ = scan(tmp_path)
    fine = ["--range", -8, -8, -8, 8, 8, 8, "--voxel-size", "1e-4", "1e-2", 1, "--sparse"]
    voxels = made(points, tmp_path, *fine)
    view = project(voxels, 0, 1)
    assert view.shape == (800, 1020)  # 1600 voxels by twos, 160000 by 157s
    assert view.sum() == voxels.counts.sum()


def test_the_picture(tmp_path: Path) -> None:
    path, _, _ = scan(tmp_path)
    out = tmp_path / "new" / "a.safetensors"
    assert main([str(path), "--output", str(out)]) == 0
    assert sorted(file.name for file in out.parent.iterdir()) == ["a.png", "a.safetensors"]
    assert out.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    other = tmp_path / "b" / "c.png"
    assert main([str(path), "--output", str(out), "--picture", str(other), "--sparse"]) == 0
    assert other.read_bytes().startswith(b"\x89PNG")


@pytest.mark.gpu
def test_cuda_gives_the_same_file(tmp_path: Path) -> None:
    path, _, _ = scan(tmp_path)
    for options in (["--features", "intensity"], ["--features", "intensity", "--sparse"], []):
        there, _ = run(tmp_path, path, *BOX, *options, "--device", "cuda")
        here, _ = run(tmp_path, path, *BOX, *options)
        assert all(torch.equal(there[name], here[name]) for name in here)


REFUSED = [
    (["--capacity", 3], "--capacity goes with --sparse, got none"),
    (["--sparse", "--capacity", -3], "--capacity must be at least 0, got -3"),
    (["--reduce", "max"], "--reduce max must have --features to reduce, got none (all: every field)"),
    (["--features", "intensity", "--reduce", "count"], "--features goes with --reduce sum, mean, max or min, got "
     "count"),
    (["--features", "intensty"], "--features must name fields that every cloud has, one of intensity; got intensty "
     "(did you mean intensity?)"),
    (["--features", "intensity,all"], "--features must name a field once, got intensity twice"),
    (["--device", "mps"], "--device must be cpu or cuda, got mps"),
    (["--device", "gpu"], "--device must be cpu or cuda, got gpu"),
    (["--device", "cuda:99"], f"--device must be on this machine, got cuda:99 of {torch.cuda.device_count()} CUDA "
     "devices"),
    (["--columns", "x,y,y"], "--columns must give each column a name of its own, x, y and z among them, got x,y,y"),
    (["--output", "a.pt"], "--output must end in .safetensors, got a.pt"),
    (["--picture", "a.png"], "--picture must stand without --no-picture, got a.png"),
    (["--voxel-size", 0], "--voxel-size must be 1 or 3 positive numbers (metres), got 0"),
    (["--voxel-size", 1, 2], "--voxel-size must be 1 or 3 positive numbers (metres), got 1 2"),
    (["--voxel-size", "nan"], "--voxel-size must be finite numbers, got nan; CLOUD stands before the options"),
    (["--origin", 0, "a", 0], "--origin must be finite numbers, got 0 a 0"),
    (["--voxel-size", "1e-999999999"], "--voxel-size must be 1 or 3 positive numbers (metres), got 1e-999999999"),
    (["--grid-size", 2, 2, "2.5"], "--grid-size must be 3 whole numbers, each at least 1, got 2 2 2.5"),
    (["--range", 0, 0, 0, 1, 1, 0], "--range must be three low ends, then three higher ones (metres), got 0 0 0 1 1 0"),
    (["--range", 0, 0, 0, 1, 1, 1, "--origin", 0, 0, 0], "--origin must stand without --range, which says the same"),
    (["--range", 0, 0, 0, 1, 1, "1e999"], "--range must be finite numbers, got 0 0 0 1 1 1e999"),
    (["--origin", "1e300", 0, 0], "voxelize_sparse: origin must be finite in float32, got 1e300 at axis 0"),
    (["--voxel-size", "1e-60", "--grid-size", 1, 1, 1], "voxelize_sparse: voxel_size must be positive and finite in "
     "float32, got 1e-60 at axis 0"),
    (["--range", 0, 0, 0, 3000, 1, 1, "--voxel-size", "0.001"], "the grid must have at most 2097152 voxels along each "
     "axis, got [3000000, 1000, 1000]: --voxel-size can be larger, or --range can leave far points out"),
    (["--range", 0, 0, 0, 100, 100, 100, "--voxel-size", "0.01"], "a dense grid must take at most 16 GiB, got 931.3 "
     "GiB for 1 x 1 x 10000 x 10000 x 10000: take --sparse, a larger --voxel-size, a smaller --range or one --frame"),
]  # fmt: skip


@pytest.mark.parametrize(("options", "said"), REFUSED, ids=[" ".join(map(str, options)) for options, _ in REFUSED])
def test_refusals(tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[Any], said: str) -> None:
    path, points, _ = scan(tmp_path)
    found = refusal(capsys, path, *options)
    assert found == said
    assert sorted(file.name for file in tmp_path.iterdir()) == ["scan.npz"]


def test_a_folder_that_cannot_be_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, _, _ = scan(tmp_path)
    (tmp_path / "file").touch()
    said = refusal(capsys, path, "--output", tmp_path / "file" / "a.safetensors")
    assert said.startswith("--output and --picture must be files that can be written, got ")


def test_the_library_is_asked_for_before_a_cloud_is_read(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Without:
        def __getattr__(self, name: str) -> Any:
            raise ImportError("robocache: the library must be somewhere")

    monkeypatch.setattr("robocache.cloud.cli.robocache", Without())
    assert refusal(capsys, "no.ply") == "robocache: the library must be somewhere"


def test_the_subcommand_leaves_the_function_alone(tmp_path: Path) -> None:
    path, _, _ = scan(tmp_path)
    command = [sys.executable, "-m", "robocache", "voxelize", str(path), "--output", str(tmp_path / "a.safetensors")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert f"wrote {tmp_path / 'a.safetensors'}\nwrote {tmp_path / 'a.png'}\n" in done.stdout
    assert callable(robocache.voxelize)  # although robocache.cloud is imported here


def test_the_page_names_options_that_exist() -> None:
    options = set(re.findall(r"--[a-z][a-z-]+", parser().format_help()))
    text = (ROOT / "docs" / "voxelize.md").read_text()
    lines = [line for line in text.replace("\\\n", " ").splitlines() if line.startswith("robocache voxelize ")]
    assert lines
    for line in lines:
        assert set(re.findall(r"--[a-z][a-z-]+", line)) <= options, line


def test_the_page_shows_what_the_command_prints(tmp_path: Path) -> None:
    page = ROOT / "docs" / "voxelize.md"
    (shown,) = (block.lines for block in blocks(page) if block.language == "text")
    (tmp_path / "page.py").write_text(program(page).replace("stdout=DEVNULL", ""))
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    command = [sys.executable, "page.py"]
    environment = {**os.environ, "PATH": path, "COLUMNS": "160"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    printed_lines = [line.rstrip() for line in done.stdout.splitlines()]
    start = printed_lines.index(shown[0])
    assert printed_lines[start : start + len(shown)] == shown
