"""Builds an emulator of the CUDA driver that runs kernels/*.cu on the CPU: tests of kernels and launches without a GPU.

    python tests/emulator/build.py --output DIR [--include DIR] [--sanitize address]    # DIR/libcuda.so.1
    python tests/emulator/build.py --output DIR --selftest && DIR/selftest              # the emulator's own test
    LD_LIBRARY_PATH=DIR cargo test --release --features cuda

With --sanitize address a process that does not know the sanitizer must preload it; for cargo's tests (not for cargo):

    export ASAN_OPTIONS=detect_leaks=0
    export CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER="env LD_PRELOAD=$(g++ -print-file-name=libasan.so)"

ROBOCACHE_EMULATOR_CAPABILITY=8.0 sets the device's capability (9.0 by default), ROBOCACHE_EMULATOR_SEED=N permutes the
order of blocks, threads and atomics, ROBOCACHE_EMULATOR_LAUNCHES=1 names each kernel that is launched.
"""

import argparse
import importlib.util
import os
import re
import subprocess
import sys
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HERE = Path("tests/emulator")  # paths are relative to ROOT: messages and __FILE__ show them
SOURCES = ["driver.cpp", "memory.cpp", "module.cpp"]
ENGINE = ["engine.cpp", "shared.cpp"]  # no kernels, and what runs at every change of threads and of blocks: unchecked

# As the device compiler: no contraction. A pointer may look at another type's bytes; a variable that was never set
# holds a pattern.
COMPILE = ["g++", "-std=c++20", "-O2", "-g1", "-fPIC", "-fvisibility=hidden", "-fno-gnu-unique"]
COMPILE += ["-ffp-contract=off", "-fno-strict-aliasing", "-ftrivial-auto-var-init=pattern"]
COMPILE += ["-Wall", "-Wno-unknown-pragmas", "-Wno-psabi", "-Wno-class-memaccess", "-Wno-maybe-uninitialized"]
# A device faults on an access that is not aligned to its width; so does the emulator. Arrays are checked as well.
ACCESS = ["-fsanitize=alignment,bounds", "-fno-sanitize-recover=all"]
ADDRESS = [
    "-fsanitize=address,undefined,float-cast-overflow",
    "-fno-sanitize-recover=all",
    "-fno-omit-frame-pointer",
]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--output", type=Path, required=True, help="folder for libcuda.so.1")
    parser.add_argument("--include", type=Path, help="folder of the CUDA headers (default: the nvidia package's)")
    parser.add_argument("--sanitize", choices=["address"], help="check every access and undefined behaviour")
    parser.add_argument("--selftest", action="store_true", help="build DIR/selftest, the emulator's own test, instead")
    arguments = parser.parse_args()
    output = arguments.output.resolve()
    output.mkdir(parents=True, exist_ok=True)
    include = (arguments.include or find_include()).resolve()
    os.chdir(ROOT)

    checks = ADDRESS if arguments.sanitize else ACCESS
    # CUDA's headers last and as the system's, so that the stand-ins only fill gaps and nothing warns.
    compile_command = [*COMPILE, "-I.", "-isystem", str(include), "-isystem", str(HERE / "include")]
    engine_command = [*compile_command, *(["-DEMULATOR_ADDRESS"] if arguments.sanitize else [])]
    compile_command += checks
    kernels = [HERE / "selftest.cu"] if arguments.selftest else sorted(Path("kernels").glob("*.cu"))
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        engine = pool.map(lambda name: compile_source(engine_command, HERE / name, output), ENGINE)
        own = pool.map(lambda name: compile_source(compile_command, HERE / name, output), SOURCES)
        translated = pool.map(lambda kernel: compile_kernels(compile_command, kernel, output), kernels)
        objects = [*engine, *own, *translated]
    print(link(objects, checks, output, arguments.selftest))


def find_include() -> Path:
    spec = importlib.util.find_spec("nvidia")
    places = list(spec.submodule_search_locations or []) if spec else []
    found = [header.parent for place in places for header in sorted(Path(place).glob("*/include/cuda.h"))]
    found += [Path(toolkit) for toolkit in ["/usr/local/cuda/include"] if Path(toolkit, "cuda.h").exists()]
    if not found:
        sys.exit("build.py: --include must name the CUDA headers: no nvidia package of this python has cuda.h")
    return found[0]


def compile_source(command: list[str], source: Path, output: Path) -> Path:
    target = output / f"{source.stem}.o"
    return run([*command, "-MMD", "-MF", f"{target}.d", "-c", str(source), "-o", str(target)], target, [source])


def compile_kernels(command: list[str], source: Path, output: Path) -> Path:
    """Compiles a .cu behind the shim, with the registrations of its kernels at its end."""
    section = f"shared_{source.stem}"
    command = [*command, "-include", str(HERE / "cuda.h")]
    listing = output / f"{source.stem}.kernels.ii"
    preprocess = ["-DEMULATOR_LISTING", "-E", "-P", "-MMD", "-MF", f"{listing}.d", "-x", "c++", str(source)]
    run([*command, *preprocess, "-o", str(listing)], listing, [source])
    lines = [
        f'#include "{source}"',
        f'extern "C" unsigned char __start_{section}[] __attribute__((weak, visibility("hidden")));',
        f'extern "C" unsigned char __stop_{section}[] __attribute__((weak, visibility("hidden")));',
        "[[gnu::constructor]] static void emulator_add() {",
        *(
            f'  emulator::add("{name}", &{name}, {threads}, __start_{section}, __stop_{section});'
            for name, threads in find_kernels(listing.read_text())
        ),
        "}",
    ]
    wrapper = output / f"{source.stem}.kernels.cpp"
    text = "\n".join(lines) + "\n"
    if not wrapper.exists() or wrapper.read_text() != text:
        wrapper.write_text(text)
    return gather_shared(compile_source(command, wrapper, output), section)


def gather_shared(source: Path, section: str) -> Path:
    """Moves the __shared__ variables to one section: g++ forgets the attribute for it on a template's variables."""
    target = source.with_suffix(".shared.o")
    listed = subprocess.run(["objdump", "-h", str(source)], capture_output=True, text=True, check=True).stdout
    # A kernel has no other variable that starts as zeros, nor a function-local one that may change.
    zeros = sorted(set(re.findall(r"\s(\.bss\S*)\s", listed)))
    renames = [f"--rename-section={name}={section}" for name in zeros]
    return run(["objcopy", *renames, str(source), str(target)], target, [source])


def find_kernels(preprocessed: str) -> Iterable[tuple[str, str]]:
    """Each kernel's name and the most threads of a block that its launch bounds allow."""
    for found in re.finditer(r"\bEMULATOR_GLOBAL\b([^{;]*)", preprocessed):
        head = found[1]
        threads = "1024"
        if bounds := re.search(r"\bEMULATOR_BOUNDS\s*\(", head):
            end = closing(head, bounds.end())
            threads = head[bounds.end() : end].split(",")[0].strip()
            head = head[: bounds.start()] + head[end + 1 :]
        if name := re.search(r"\bvoid\s+(\w+)\s*\(", head):
            yield name[1], threads


def closing(text: str, start: int) -> int:
    """Where the parenthesis that opened before `start` closes."""
    depth = 1
    for place in range(start, len(text)):
        depth += {"(": 1, ")": -1}.get(text[place], 0)
        if depth == 0:
            return place
    return len(text)


def link(objects: list[Path], checks: list[str], output: Path, selftest: bool) -> Path:
    # The sanitizer's own library stays inside, so that a process that knows nothing of it can load this one.
    command = ["g++", *checks, *([] if checks is ADDRESS else ["-static-libubsan"]), *map(str, objects), "-ldl"]
    if selftest:
        return run([*command, "-o", str(output / "selftest")], output / "selftest", objects)
    library = output / "libcuda.so.1"
    shared = ["-shared", "-Wl,-soname,libcuda.so.1", "-Wl,--exclude-libs,ALL", "-o", str(library)]
    run([*command, *shared], library, objects)
    plain = output / "libcuda.so"
    if not plain.is_symlink():
        plain.symlink_to(library.name)
    return library


def run(command: list[str], target: Path, sources: Iterable[Path]) -> Path:
    """Runs a command, unless its target is newer than all that it was made of and this very command made it."""
    recorded, dependencies = Path(f"{target}.command"), Path(f"{target}.d")
    made_of = list(sources)
    if dependencies.exists():
        words = dependencies.read_text().replace("\\\n", " ").split(":", 1)[1].split()
        made_of += map(Path, words)
    text = "\n".join(command)
    fresh = (
        target.exists()
        and recorded.exists()
        and recorded.read_text() == text
        and all(path.exists() and path.stat().st_mtime_ns <= target.stat().st_mtime_ns for path in made_of)
    )
    if not fresh:
        recorded.unlink(missing_ok=True)
        if subprocess.run(command, check=False).returncode != 0:
            sys.exit(f"build.py: {target.name} was not built: {command[0]} says why above")
        recorded.write_text(text)
    return target


if __name__ == "__main__":
    main()
