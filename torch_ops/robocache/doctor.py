"""`python -m robocache doctor`: what is installed, what this machine has, what is wrong and how to mend it."""

from __future__ import annotations

import argparse
import ctypes
import os
import platform
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from robocache import __version__, _library

_FLOOR = 80  # compute capability 8.0, what the PTX asks for
_ORIN = 87  # runs only machine code made for it, although its number continues that of the desktop's


@dataclass
class Report:
    """Lines to print, and problems, each with the way to mend it."""

    lines: list[tuple[str, str]] = field(default_factory=list)
    problems: list[tuple[str, str]] = field(default_factory=list)

    def say(self, name: str, text: object) -> None:
        self.lines.append((name, str(text)))

    def wrong(self, what: str, mend: str) -> None:
        self.problems.append((what, mend))


def main(argv: Sequence[str] | None = None) -> int:
    """Prints the report; returns 1 if something is wrong, else 0."""
    parser = argparse.ArgumentParser("robocache doctor", description=__doc__)
    parser.parse_args(argv)
    report = examine()
    width = max(len(name) for name, _ in report.lines)
    for name, text in report.lines:
        print(f"{name:<{width}}  {text}")
    print()
    if not report.problems:
        print("Nothing is wrong.")
        return 0
    for number, (what, mend) in enumerate(report.problems, 1):
        print(f"{number}. {what}\n   mend: {mend}")
    return 1


def examine() -> Report:
    """Looks at everything, in the order in which one thing needs the other."""
    report = Report()
    report.say("robocache", __version__)
    report.say("python", f"{platform.python_version()} on {platform.machine()} {platform.system()}")
    try:
        import torch
    except ImportError as error:
        report.say("torch", "missing")
        report.wrong(f"torch cannot be imported: {error}", "pip install torch==2.11.0")
        return report
    report.say("torch", f"{torch.__version__} ({_cuda_words(torch.version.cuda)}), {torch.get_num_threads()} threads")
    failure = _library.try_load()
    info = None if failure else _library.build_info()
    report.say("library", f"{_library.path()}" + (" (not loaded)" if failure else ""))
    if failure:
        report.wrong(failure.split(": run ")[0], _mend_in(failure))
    if info is not None:
        _examine_library(report, info)
        _run(report, "cpu")
    driver = driver_version()
    report.say("driver", "none" if driver is None else f"CUDA {driver}")
    _examine_devices(report, info, driver)
    return report


def image_for(capability: int, archs: Iterable[str]) -> str | None:
    """The embedded image that a device runs, as the library chooses it: `sm_90`, `compute_80` or none."""
    numbers = [(arch, int(arch.rsplit("_", 1)[1])) for arch in archs]
    cubins = [
        (number, arch)
        for arch, number in numbers
        if arch.startswith("sm_")
        and (number == capability or (capability != _ORIN and capability // 10 * 10 <= number < capability))
    ]
    ptx = [(number, arch) for arch, number in numbers if arch.startswith("compute_") and number <= capability]
    return max(cubins or ptx, default=(0, None))[1]


def driver_version() -> str | None:
    """The CUDA version that the driver supports, such as `13.0`, asked of the driver itself; None without one."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    number = ctypes.c_int()
    if driver.cuDriverGetVersion(ctypes.byref(number)) != 0:
        return None
    return f"{number.value // 1000}.{number.value % 1000 // 10}"


def _mend_in(failure: str) -> str:
    """The part of an error of `_library` that says what to do."""
    for start in ("run `make build`", "pip install"):
        if start in failure:
            return failure[failure.index(start) :]
    return "run `make build` in the source tree of RoboCache"


def _examine_library(report: Report, info: dict[str, Any]) -> None:
    report.say("built for", f"torch {info['torch']}, features {', '.join(info['features']) or 'none'}")
    report.say("cpu", f"{info['simd']} instructions")
    kernels: dict[str, list[str]] = {}
    for image in info["images"]:
        kernels.setdefault(image["kernel"], []).append(image["arch"])
    report.say("cuda kernels", f"compiled by NVRTC {info['nvrtc']}" if kernels else "none: a CPU-only library")
    for kernel, archs in sorted(kernels.items()):
        report.say(f"  {kernel}", " ".join(archs))
    if info["version"] != __version__:
        report.wrong(
            f"the library is version {info['version']}, the Python package {__version__}",
            "run `make build` in the source tree of RoboCache",
        )


def _examine_devices(report: Report, info: dict[str, Any] | None, driver: str | None) -> None:
    import torch

    if not torch.cuda.is_available():
        report.say("devices", "no CUDA device: tensors on the CPU only")
        built_for = torch.version.cuda
        if driver is not None and built_for is not None and os.environ.get("CUDA_VISIBLE_DEVICES") != "":
            report.wrong(
                f"a driver (CUDA {driver}) is installed, but torch (CUDA {built_for}) finds no device",
                f"check `nvidia-smi`; a driver below CUDA {built_for.split('.')[0]}.0 must be updated, or torch be "
                "installed for an older CUDA",
            )
        return
    archs = sorted({image["arch"] for image in info["images"]}) if info else []
    for index in range(torch.cuda.device_count()):
        major, minor = torch.cuda.get_device_capability(index)
        image = image_for(10 * major + minor, archs)
        name = f"{torch.cuda.get_device_name(index)}, compute capability {major}.{minor}"
        report.say(f"cuda:{index}", f"{name}: runs {image}" if image else f"{name}: not covered")
        if info is None:
            continue
        if image is not None:
            _run(report, f"cuda:{index}")
        elif 10 * major + minor < _FLOOR:
            report.wrong(
                f"cuda:{index} has compute capability {major}.{minor}, the kernels need 8.0",
                "keep tensors of robocache on the CPU, or use an Ampere or later device",
            )
        else:
            report.wrong(
                f"cuda:{index} has no image in this library",
                "run `make build` in the source tree of RoboCache with a torch that has CUDA, without ROBOCACHE_CUDA=0",
            )


def _run(report: Report, device: str) -> None:
    """Calls the operator on a device and compares it with the definition."""
    import torch

    from robocache import ops, reference

    values = torch.arange(24, dtype=torch.float32).view(2, 4, 3).square()
    times = torch.tensor([0.0, 1.0, 3.0, 4.0])
    targets = torch.tensor([[-1.0, 0.25, 2.0], [3.0, 3.5, 9.0]])
    expected = reference.resample(values, times, targets)
    try:
        found = ops.resample(values.to(device), times.to(device), targets.to(device)).cpu()
    except Exception as error:  # whatever it is, it is what the user came to see
        report.say(f"run on {device}", "fails")
        report.wrong(f"resample on {device} raises {type(error).__name__}: {error}", "see the message; report it if it "
                     "does not help")  # fmt: skip
        return
    equal = torch.equal(found, expected)
    report.say(f"run on {device}", "resample gives the right bits" if equal else "resample gives other bits")
    if not equal:
        report.wrong(f"resample on {device} differs from its definition", "report it, with this output")


def _cuda_words(cuda: str | None) -> str:
    return "CPU only" if cuda is None else f"CUDA {cuda}"
