"""Counts the instructions of the Rust core's loops under callgrind, on one thread, and appends them to a record.

    python benches/callgrind.py                      # into benches/record/<date>-<processor>-callgrind.jsonl
    python benches/callgrind.py --record FILE.jsonl

What a call executes is the difference between a run of two calls and a run of one: the same in every run, whatever else
the machine does. Valgrind knows no AVX-512, so the loops are those for AVX2. A line holds: op, case, dtype, direction,
device, level, metric, instructions, element, elements, per_element, command, versions.
"""

from __future__ import annotations

import argparse
import json
import re
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

import records
import timing
import torch

ROOT = Path(__file__).resolve().parent.parent


def output(*command: str) -> str:
    return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.strip()


def program() -> str:
    """Builds `benches/callgrind.rs`; its path."""
    lines = output("cargo", "bench", "--no-run", "--bench", "callgrind", "--message-format", "json").splitlines()
    built = [message for message in map(json.loads, lines) if message.get("executable")]
    return str(built[-1]["executable"])


def run(command: list[str]) -> tuple[str, int]:
    """What a program prints under callgrind, and the instructions that it executes."""
    with tempfile.NamedTemporaryFile() as counts:
        valgrind = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={counts.name}"]
        done = subprocess.run([*valgrind, *command], check=True, capture_output=True, text=True)
    found = re.search(r"Collected : (\d+)", done.stderr)
    if found is None:
        raise SystemExit("callgrind: valgrind must say what it collected, got " + done.stderr[-400:])
    return done.stdout, int(found[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--record", type=Path, default=records.FOLDER, help="a file, or a folder")
    arguments = parser.parse_args()
    device = timing.machine(torch.device("cpu"))
    path = records.place(arguments.record, device, "callgrind")
    built = program()
    common = {
        "command": shlex.join(["python", "benches/callgrind.py", *sys.argv[1:]]),
        "versions": {"valgrind": output("valgrind", "--version"), "rustc": output("rustc", "--version")},
    }
    for case in run([built])[0].splitlines():
        name, op, sizes, dtype, elements, element, level = case.split("\t")
        one, two = (run([built, name, calls])[1] for calls in ("1", "2"))
        line = {
            "op": op,
            "case": sizes,
            "dtype": dtype,
            "direction": "forward",
            "device": device,
            "level": level,
            "metric": "callgrind",
            "instructions": two - one,
            "element": element,
            "elements": int(elements),
            "per_element": round((two - one) / int(elements), 3),
            **common,
        }
        print(f"{op} {sizes} {dtype}: {two - one} instructions, {line['per_element']} for each {element}")
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a") as record:
            record.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()
