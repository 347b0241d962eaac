"""The modules: how `Fuse` reads its spec, prints itself and refuses what is wrong, and how it scripts and exports."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import robocache
import torch
from cases import assert_same_bits
from robocache.nn import Fuse
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend
from torch.export import Dim, export

SPEC: dict[str, dict[str, Any]] = {
    "vision": {"width": 512},
    "joints": {"width": 14, "mode": "linear:7,angle:7"},
    "pose": {"width": 7, "mode": "linear:3,slerp:4"},
}
YAML = """
streams:
  vision: {width: 512}
  joints:
    width: 14
    mode: linear:7,angle:7
  pose: {width: 7, mode: "linear:3,slerp:4"}
"""
# B, S of each stream, T. The first has no size that equals a width or the number of streams: torch.compile takes equal
# sizes for one.
SHAPES = [(2, (5, 9, 4), 11), (3, (5, 20, 8), 6), (4, (2, 7, 30), 21)]


@pytest.fixture(autouse=True)
def nothing_compiled() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def inputs(
    shape: tuple[int, tuple[int, ...], int], device: torch.device, dtype: torch.dtype = torch.float32
) -> tuple[dict[str, Tensor], dict[str, Tensor], Tensor, Tensor]:
    """Values, times, targets and lengths for the spec."""
    rows, samples, targets = shape
    values, times = {}, {}
    for (name, stream), count in zip(SPEC.items(), samples, strict=True):
        values[name] = torch.randn(rows, count, stream["width"], device=device).to(dtype)
        times[name] = torch.rand(rows, count, device=device).cumsum(1)
    lengths = torch.stack([torch.randint(1, count + 1, (rows,), device=device) for count in samples], dim=1)
    return values, times, torch.rand(rows, targets, device=device) * 5 - 1, lengths


def expected(tensors: tuple[dict[str, Tensor], dict[str, Tensor], Tensor, Tensor], outside: str = "hold") -> Tensor:
    """One `resample` for each stream, side by side."""
    values, times, target, lengths = tensors
    parts = [
        robocache.resample(
            values[name],
            times[name],
            target,
            mode=stream.get("mode", "linear"),
            outside=outside,
            source_lengths=lengths[:, column].contiguous(),
        )
        for column, (name, stream) in enumerate(SPEC.items())
    ]
    return torch.cat(parts, dim=-1)


# The spec


def test_it_prints_itself() -> None:
    assert repr(Fuse(SPEC)) == (
        "Fuse(\n"
        "  vision  [0:512]    512  linear\n"
        "  joints  [512:526]   14  linear:7,angle:7\n"
        "  pose    [526:533]    7  linear:3,slerp:4\n"
        "  outside='hold'\n"
        ")"
    )
    assert not list(Fuse(SPEC).parameters()) and not Fuse(SPEC).state_dict()


def test_slices_and_spec_say_where_streams_lie() -> None:
    module = Fuse(SPEC, outside="zero")
    assert module.slices == {"vision": slice(0, 512), "joints": slice(512, 526), "pose": slice(526, 533)}
    assert module.spec == {**SPEC, "vision": {"width": 512, "mode": "linear"}}
    again = Fuse(module.spec, module.outside)
    assert repr(again) == repr(module) and again.mode == module.mode
    module.spec["vision"]["width"] = 3  # a copy
    assert module.spec["vision"]["width"] == 512


def test_modes_are_those_of_each_stream() -> None:
    module = Fuse({"a": {"width": 8, "mode": "slerp"}, "b": {"width": 5, "mode": "previous:2,linear:*"}})
    assert module.mode == "slerp:8,previous:2,linear:3"
    exact = Fuse({"a": {"width": 2, "mode": "linear:2,previous:*"}, "b": {"width": 1}})
    assert exact.mode == "linear:2,linear:1"


def test_yaml_text_and_file(tmp_path: Path) -> None:
    file = tmp_path / "streams.yaml"
    file.write_text(YAML + "outside: nan\n")
    for source in (YAML + "outside: nan\n", file, str(file)):
        module = Fuse.from_yaml(source)
        assert module.spec == Fuse(SPEC).spec and module.outside == "nan"
    assert Fuse.from_yaml(YAML).outside == "hold"


def test_yaml_is_version_1_2() -> None:
    # In YAML 1.1 these names would be truth values.
    module = Fuse.from_yaml("streams:\n  no: {width: 1}\n  on: {width: 2}\n  y: {width: 3}\n")
    assert list(module.slices) == ["no", "on", "y"]


def test_yaml_without_its_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ruamel.yaml", None)
    with pytest.raises(ImportError, match=r'^Fuse.from_yaml needs ruamel.yaml: pip install "robocache\[yaml\]"'):
        Fuse.from_yaml(YAML)


@pytest.mark.parametrize(
    ("streams", "text"),
    [
        ({}, "streams must have at least one stream, got none"),
        ([("a", 3)], "streams must map names to width and mode, got list"),
        ({3: {"width": 1}}, "streams must have texts as names, got 3"),
        ({"a": 3}, 'streams["a"] must have a width, got 3'),
        ({"a": {"mode": "linear"}}, 'streams["a"] must have a width, got keys [mode]'),
        ({"a": {"width": 3, "modes": "x"}}, 'streams["a"] must have only the keys width and mode, got "modes"'),
        ({"a": {"width": 0}}, 'streams["a"]["width"] must be a whole number of at least 1, got 0'),
        ({"a": {"width": 2.0}}, 'streams["a"]["width"] must be a whole number of at least 1, got 2.0'),
        ({"a": {"width": True}}, 'streams["a"]["width"] must be a whole number of at least 1, got True'),
        ({"a": {"width": 2, "mode": 7}}, 'streams["a"]["mode"] must be a text, got 7'),
        (
            {"a": {"width": 14, "mode": "linear:7"}},
            'streams["a"]: mode must cover the 14 channels of values, got "linear:7", which covers 7',
        ),
        (
            {"a": {"width": 6, "mode": "slerp"}},
            'streams["a"]: mode must give slerp whole quaternions of 4 channels, got "slerp" for 6 channels',
        ),
        (
            {"a": {"width": 6, "mode": "cubic"}},
            'streams["a"]: mode must be made of linear, previous, next, nearest, angle, slerp, pchip, got "cubic"',
        ),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_a_wrong_spec_is_refused(streams: Any, text: str) -> None:
    with pytest.raises(ValueError) as caught:
        Fuse(streams)
    assert str(caught.value) == f"Fuse: {text}"


def test_a_wrong_rule_is_refused() -> None:
    with pytest.raises(ValueError, match='^Fuse: outside must be one of hold, nan, zero, extrapolate, got "wrap"$'):
        Fuse(SPEC, outside="wrap")
    with pytest.raises(
        ValueError, match='^Fuse: outside "extrapolate" must go with mode linear only, got mode "angle"$'
    ):
        Fuse(SPEC, outside="extrapolate")


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("a\n", "source must have the key streams, got str"),
        ("stream: {a: {width: 1}}\n", "source must have the key streams, got keys [stream]"),
        ("streams: {a: {width: 1}}\nextra: 1\n", 'source must have the keys streams and outside only, got "extra"'),
        ("streams: {a: {width: 1}\n", "source must be YAML, got "),
        ("streams: {a: {width: 1}, a: {width: 2}}\n", "source must be YAML, got "),
        ("streams: [a, b]\n", "streams must map names to width and mode, got list"),
    ],
)
def test_wrong_yaml_is_refused(source: str, text: str) -> None:
    with pytest.raises(ValueError) as caught:
        Fuse.from_yaml(source)
    assert str(caught.value).startswith(f"Fuse: {text}")


# Calls


def test_eager_is_resample_side_by_side(device: torch.device) -> None:
    module = Fuse(SPEC)
    for shape in SHAPES:
        tensors = inputs(shape, device)
        assert_same_bits(module(*tensors), expected(tensors))
        values, times, target, _ = tensors
        backwards = {name: values[name] for name in reversed(SPEC)}  # the order of the spec counts
        assert_same_bits(module(backwards, times, target), module(values, times, target))


WRONG: dict[str, Callable[[dict[str, Tensor], dict[str, Tensor]], Any]] = {
    'values must have the stream "pose", got streams [vision, joints]': lambda v, t: v.pop("pose"),
    'source_times must have the stream "joints", got streams [vision, pose]': lambda v, t: t.pop("joints"),
    'values must have only the streams vision, joints, pose, got "imu"': lambda v, t: v.update(imu=v["pose"]),
    'source_times must have only the streams vision, joints, pose, got "imu"': lambda v, t: t.update(imu=t["pose"]),
    'values["pose"] must have 7 channels in the last axis, got [2, 4, 6]': lambda v, t: v.update(
        pose=v["pose"][..., :6]
    ),
}


@pytest.mark.parametrize("text", WRONG)
def test_wrong_streams_are_refused(text: str) -> None:
    module = Fuse(SPEC)
    values, times, target, _ = inputs(SHAPES[0], torch.device("cpu"))
    WRONG[text](values, times)
    with pytest.raises(ValueError) as caught:
        module(values, times, target)
    assert str(caught.value) == f"Fuse: {text}"
    with pytest.raises(torch.jit.Error) as refused:
        torch.jit.script(module)(values, times, target)
    assert str(refused.value).splitlines()[-1] == f"builtins.ValueError: Fuse: {text}"


def test_scripted_saved_and_loaded(device: torch.device, tmp_path: Path) -> None:
    module = Fuse(SPEC, outside="zero")
    torch.jit.script(module).save(str(tmp_path / "fuse.pt"))
    loaded = torch.jit.load(str(tmp_path / "fuse.pt"))
    for shape in SHAPES:
        tensors = inputs(shape, device)
        for _ in range(2):
            assert_same_bits(loaded(*tensors), expected(tensors, "zero"))
        assert_same_bits(loaded(*tensors[:3]), module(*tensors[:3]))
    assert "robocache::fuse" in str(loaded.inlined_graph)


def test_compiled_to_one_graph(device: torch.device) -> None:
    module = Fuse(SPEC)
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(module, fullgraph=True, dynamic=True, backend=counter)
    for shape in SHAPES:
        tensors = inputs(shape, device)
        found, wanted = [], []
        for call, results in ((compiled, found), (module, wanted)):
            leaves = {name: x.clone().requires_grad_() for name, x in tensors[0].items()}
            result = call(leaves, *tensors[1:])
            result.square().sum().backward()
            results += [result.detach(), *(x.grad for x in leaves.values())]
        for a, b in zip(found, wanted, strict=True):
            assert_same_bits(a, b, shape)
    assert counter.frame_count == 1
    operators = [str(node.target) for graph in counter.graphs for node in graph.graph.nodes]
    assert sum("robocache.fuse" in each for each in operators) == 1


def shapes_of(rows: Any, targets: Any) -> dict[str, Any]:
    """Dynamic sizes for `torch.export`."""
    samples = {name: Dim(f"samples_{name}", min=2, max=1 << 16) for name in SPEC}
    return {
        "values": {name: {0: rows, 1: samples[name]} for name in SPEC},
        "source_times": {name: {0: rows, 1: samples[name]} for name in SPEC},
        "target_times": {0: rows, 1: targets},
        "source_lengths": {0: rows},
    }


@pytest.mark.parametrize("strict", [True, False], ids=["strict", "non-strict"])
def test_exported_with_dynamic_shapes(device: torch.device, strict: bool) -> None:
    module = Fuse(SPEC)
    dynamic = shapes_of(Dim("rows", max=4096), Dim("targets", max=1 << 20))
    program = export(module, inputs(SHAPES[0], device), dynamic_shapes=dynamic, strict=strict)
    targets = [str(node.target) for node in program.graph.nodes if node.op == "call_function"]
    assert targets.count("robocache.fuse.default") == 1
    for shape in SHAPES:
        tensors = inputs(shape, device)
        assert_same_bits(program.module()(*tensors), expected(tensors), shape)


def test_aot_inductor_package(aot_device: torch.device, tmp_path: Path) -> None:
    module = Fuse(SPEC).to(aot_device).eval()
    dynamic = shapes_of(Dim("rows", max=4096), Dim("targets", max=1 << 20))
    program = export(module, inputs(SHAPES[0], aot_device), dynamic_shapes=dynamic)
    path = torch._inductor.aoti_compile_and_package(program, package_path=str(tmp_path / "fuse.pt2"))
    package = torch._inductor.aoti_load_package(path)
    for shape in SHAPES:
        tensors = inputs(shape, aot_device)
        with torch.no_grad():
            assert_same_bits(package(*tensors), expected(tensors), shape)
