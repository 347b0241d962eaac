"""The documentation's claims: Python blocks run and print what they say, C++ compiles, links and names exist."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import robocache
from torch.utils import cpp_extension

ROOT = Path(__file__).resolve().parents[2]
PAGES = [
    *(ROOT / name for name in ("README.md", "DESIGN.md", "CONTRIBUTING.md")),
    *sorted((ROOT / "docs").glob("*.md")),
]
CXX = os.environ.get("CXX") or shutil.which("c++") or shutil.which("g++")
NOT_RUN = re.compile(r"<!-- not run: .+ -->")
RUN = "<!-- run -->"  # before a ```sh block that belongs to the page's Python blocks
PRINTED = re.compile(r"^ *print\(.+\)  # (.+)$")
# What rustdoc leaves alone; `rust` blocks are doctests of README.md and docs/deploy.md (src/lib.rs).
LANGUAGES = {"python", "sh", "cpp", "cmake", "toml", "text", "rust", "rust,no_run"}


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    language: str
    line: int  # of its first line, from 0
    lines: list[str]
    before: str  # the line before the fence


def blocks(page: Path) -> Iterator[Block]:
    """The fenced blocks of a page, in order."""
    lines = page.read_text().splitlines()
    opened: int | None = None
    for number, line in enumerate(lines):
        if not line.startswith("```"):
            continue
        if opened is None:
            opened = number
        else:
            yield Block(lines[opened][3:], opened + 1, lines[opened + 1 : number], lines[opened - 1])
            opened = None
    assert opened is None, f"{page.name}: the block that opens in line {(opened or 0) + 1} must close"


def is_run(block: Block) -> bool:
    return (block.language == "python" and not NOT_RUN.fullmatch(block.before)) or (
        block.language == "sh" and block.before == RUN
    )


def program(page: Path) -> str:
    """The page's Python (and marked shell) blocks as one program, each line where the page has it."""
    lines = [""] * len(page.read_text().splitlines())
    for block in filter(is_run, blocks(page)):
        if block.language == "python":
            lines[block.line : block.line + len(block.lines)] = block.lines
        else:
            command = "\n".join(block.lines)
            lines[block.line] = (
                f"from subprocess import DEVNULL, run; run({command!r}, shell=True, check=True, stdout=DEVNULL)"
            )
    return "\n".join(lines) + "\n"


def named(pages: list[Path]) -> list[str]:
    return [str(page.relative_to(ROOT)) for page in pages]


RUNNABLE = [page for page in PAGES if any(map(is_run, blocks(page)))]
CPP = [(page, block) for page in PAGES for block in blocks(page) if block.language == "cpp"]


@pytest.mark.parametrize("page", RUNNABLE, ids=named(RUNNABLE))
def test_python_blocks_run_and_print_what_they_say(page: Path, tmp_path: Path) -> None:
    # A file, because TorchScript reads the source of what it compiles.
    file = tmp_path / f"{page.stem}.py"
    file.write_text(program(page))
    environment = {
        **os.environ,
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]),
        "PYTHONPATH": os.pathsep.join([str(Path(robocache.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]),
    }
    done = subprocess.run(
        [sys.executable, str(file)], cwd=tmp_path, env=environment, text=True, capture_output=True, check=False
    )
    assert done.returncode == 0, f"{page.name}, by its own line numbers:\n{done.stderr}"
    expected = [found[1] for line in program(page).splitlines() if (found := PRINTED.match(line))]
    assert done.stdout.splitlines() == expected


@pytest.mark.skipif(CXX is None, reason="no C++ compiler on this machine: the C++ blocks cannot be compiled")
@pytest.mark.parametrize(("page", "block"), CPP, ids=[f"{page.stem}:{block.line}" for page, block in CPP])
def test_cpp_blocks_compile(page: Path, block: Block, tmp_path: Path) -> None:
    file = tmp_path / "block.cpp"
    file.write_text("\n".join(block.lines) + "\n")
    includes = [word for folder in cpp_extension.include_paths() for word in ("-isystem", folder)]
    command = [str(CXX), "-std=c++20", "-fsyntax-only", "-Wall", "-Wextra", "-Werror"]
    command += [f"-I{ROOT / 'csrc/include'}", *includes, str(file)]
    done = subprocess.run(command, text=True, capture_output=True, check=False)
    assert done.returncode == 0, f"{page.name}, block at line {block.line}:\n{done.stderr}"


def test_every_block_names_its_language() -> None:
    for page in PAGES:
        for block in blocks(page):
            assert block.language in LANGUAGES, f"{page.name}, line {block.line}: a fence must name one of {LANGUAGES}"


def test_links_lead_to_files() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text()):
            if not target.startswith(("http://", "https://")):
                assert (page.parent / target).exists(), f"{page.name}: a link must lead to a file, got {target}"


def test_make_targets_and_options_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    align = pytest.importorskip("robocache.align.cli")  # needs the readers' and the table's packages
    options = set(re.findall(r"--[a-z][a-z-]+", align.parser().format_help()))
    for page in PAGES:
        text = page.read_text()
        for target in re.findall(r"`(?:[A-Z_]+=\S+ )?make ([a-z-]+)`", text):
            assert target in targets, f"{page.name}: `make {target}` must be a target of the Makefile"
        for line in text.replace("\\\n", " ").splitlines():
            if re.match(r"(\.venv/bin/)?robocache align ", line):
                assert set(re.findall(r"--[a-z][a-z-]+", line)) <= options, f"{page.name}: {line}"
