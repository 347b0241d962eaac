"""Reads the hardware counters of each kernel at the bars' shapes with Nsight Compute, into one table.

    python benches/kernels.py --record benches/record/DATE-KIND-kernels.csv   # all cases; needs ncu and a CUDA device
    python benches/kernels.py --case "mean 500000" --record FILE.csv          # those whose name has these words
    python benches/kernels.py --table FILE.csv                                # prints a recorded table, on any machine
    python benches/kernels.py --table FILE.csv --roofline FILE.svg            # draws it

A row is one launch of one kernel. ncu runs a launch once for each group of counters: it restores the memory that the
launch wrote, and flushes the caches before each, so every launch is cold. Clocks are left as found, and a launch is
timed alone: what overlaps in a stream is not seen. `dram_bytes` lacks what is still in the L2 cache at a launch's end.
"""

from __future__ import annotations

import argparse
import csv
import glob
import json
import math
import os
import re
import shlex
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

Row = dict[str, str]  # as in the table: an absent counter is an empty cell

METRICS = {  # column to counter
    "time_us": "gpu__time_duration.sum",
    "dram_bytes": "dram__bytes.sum",
    "dram_pct": "dram__throughput.avg.pct_of_peak_sustained_elapsed",
    "l2_bytes": "lts__t_bytes.sum",
    "l2_pct": "lts__throughput.avg.pct_of_peak_sustained_elapsed",
    "sm_pct": "sm__throughput.avg.pct_of_peak_sustained_elapsed",
    "issue_pct": "smsp__inst_executed.avg.pct_of_peak_sustained_elapsed",
    "sm_mhz": "smsp__cycles_elapsed.avg.per_second",
    "warps_active_pct": "sm__warps_active.avg.pct_of_peak_sustained_active",
    "warps_limit_pct": "sm__maximum_warps_per_active_cycle_pct",
    "registers": "launch__registers_per_thread",
    "shared_bytes": "launch__shared_mem_per_block",
    "blocks": "launch__grid_size",
    "threads": "launch__block_size",
    "waves": "launch__waves_per_multiprocessor",
    "sectors_per_request_load": "l1tex__average_t_sectors_per_request_pipe_lsu_mem_global_op_ld.ratio",
    "sectors_per_request_store": "l1tex__average_t_sectors_per_request_pipe_lsu_mem_global_op_st.ratio",
    "instructions": "smsp__inst_executed.sum",
}
STALLS = (
    "barrier branch_resolving dispatch_stall drain gmma imc_miss lg_throttle long_scoreboard math_pipe_throttle membar "
    "mio_throttle misc no_instruction not_selected selected short_scoreboard sleeping tex_throttle wait"
).split()  # why a resident warp issues nothing; `selected` issues
STALL = "smsp__average_warps_issue_stalled_{}_per_issue_active.ratio"
UNITS = {"ns": 1e-3, "nsecond": 1e-3, "us": 1, "usecond": 1, "ms": 1e3, "msecond": 1e3, "s": 1e6, "second": 1e6}
UNITS |= {"hz": 1e-6, "khz": 1e-3, "mhz": 1, "ghz": 1e3, "cycle/second": 1e-6, "cycle/usecond": 1, "cycle/nsecond": 1e3}
UNITS |= {"kbyte": 1e3, "mbyte": 1e6, "gbyte": 1e9}  # to µs, MHz and bytes; the rest as it is

COLUMNS = (
    "case kernel launch time_us dram_bytes dram_pct l2_bytes l2_pct sm_pct issue_pct sm_mhz warps_active_pct "
    "warps_limit_pct registers shared_bytes blocks threads waves sectors_per_request_load sectors_per_request_store "
    "top_stall top_stall_pct second_stall second_stall_pct instructions least_bytes device versions command"
).split()  # least_bytes: of the whole case, as in `benches/peers.py`

MARKER = "spin_kernel"  # of `torch.cuda._sleep`, launched between the cases
OURS = f"regex:^(resample|fuse|voxelize|{MARKER})"
SECONDS = 100.0


def cases() -> dict[str, tuple[Any, str]]:
    """The bars by name, each with its direction."""
    import clouds
    import signals
    import torch

    short = {torch.bfloat16: "bf16", torch.float32: "f32"}
    chosen = [*((case, "forward") for case in (*signals.BARS, *clouds.BARS)), *backward_cases(signals, clouds)]
    return {
        f"{case.op} {case} {short[case.dtype]}" + (" backward" if direction == "backward" else ""): (case, direction)
        for case, direction in chosen
    }


def backward_cases(signals: Any, clouds: Any) -> list[tuple[Any, str]]:
    """The largest `resample`, and each mean of features."""
    largest = max((case for case in signals.BARS if case.op == "resample"), key=lambda case: case.batch)
    return [(case, "backward") for case in (largest, *(case for case in clouds.BARS if case.channels))]


def profiled(names: Iterable[str], facts: Path, seconds: float) -> None:
    """Runs in ncu: each case once as a warm-up, then once between the profiler's marks."""
    import robocache
    import torch

    device, every, found = torch.device("cuda"), cases(), {}
    here = {"device": torch.cuda.get_device_name(device)}
    here |= {"versions": {"robocache": robocache.__version__, "torch": torch.__version__}}
    end = time.monotonic() + seconds
    torch.manual_seed(0)
    for name in names:
        case, direction = every[name]
        if time.monotonic() > end:
            print(f"kernels: {name} is left out: {seconds:.0f} s are over", flush=True)
            continue
        data = case.inputs(device)
        call = case.implementations(device)["robocache"]
        case.check("robocache", call(data), case.expected(data))
        run = case.backward(call, data) if direction == "backward" else lambda call=call, data=data: call(data)
        run()
        found[name] = case.least_bytes(data, direction)
        facts.write_text(json.dumps(here | {"bytes": found}))
        torch.cuda.synchronize()
        torch.cuda.profiler.start()
        torch.cuda._sleep(1)
        run()
        torch.cuda.synchronize()
        torch.cuda.profiler.stop()
        del data, call, run


def find_ncu() -> str:
    """Nsight Compute's command, on the path or where its packages put it."""
    places = ["/usr/local/cuda/bin/ncu", *sorted(glob.glob("/opt/nvidia/nsight-compute/*/ncu"), reverse=True)]
    found = shutil.which("ncu") or next((place for place in places if os.access(place, os.X_OK)), None)
    if not found:
        raise SystemExit("kernels: ncu (Nsight Compute) must be on the PATH or be named by --ncu, found neither")
    return found


def profile(ncu: str, names: list[str], seconds: float) -> tuple[str, dict[str, Any]]:
    """What ncu wrote, and the facts that the profiled process wrote. A counter that ncu does not know is left out."""
    metrics = [*METRICS.values(), *(STALL.format(reason) for reason in STALLS)]
    with tempfile.TemporaryDirectory() as folder:
        log, facts = Path(folder, "ncu.csv"), Path(folder, "facts.json")
        for _ in range(3):
            command = [ncu, "--csv", "--page", "raw", "--print-units", "base", "--log-file", str(log), "--metrics"]
            command += [",".join(metrics), "--clock-control", "none", "--cache-control", "all", "--force-overwrite"]
            command += ["--profile-from-start", "off", "--kernel-name", OURS, sys.executable, __file__]
            command += ["--profiled", str(facts), "--seconds", str(seconds), *(x for n in names for x in ("--case", n))]
            code = subprocess.run(command, check=False).returncode
            text = log.read_text() if log.exists() else ""
            if '"Kernel Name"' in text:
                return text, json.loads(facts.read_text())
            unknown = [name for name in metrics if name.split(".")[0] in refused(text)]
            print(f"kernels: ncu ended with {code} and no counters:\n{text[-3000:]}", file=sys.stderr)
            if not unknown:
                break
            print(f"kernels: again without {', '.join(unknown)}", file=sys.stderr)
            metrics = [name for name in metrics if name not in unknown]
    raise SystemExit("kernels: ncu must report the counters, and did not (see above)")


def refused(text: str) -> set[str]:
    """The counters that ncu's warnings and errors name, without what is asked of each."""
    lines = [line for line in text.splitlines() if line.startswith(("==WARNING==", "==ERROR=="))]
    return {name for line in lines for name in re.findall(r"[a-z0-9]+__\w+", line)}


def launches(text: str) -> list[dict[str, float | str | None]]:
    """The launches in ncu's CSV, in order: "kernel", and each counter by name, times in µs, None where it is absent."""
    lines = text.splitlines()
    start = next((index for index, line in enumerate(lines) if line.startswith('"ID"')), len(lines))
    table = list(csv.reader(line for line in lines[start:] if line.startswith('"')))
    if not table:
        return []
    header, *body = table
    if "Metric Name" in header:  # a line for each counter
        return long_form([dict(zip(header, cells, strict=False)) for cells in body])
    units, *body = body
    found: list[dict[str, float | str | None]] = []
    for cells in body:
        row = dict(zip(header, zip(cells, units, strict=False), strict=False))
        found.append({"kernel": row["Kernel Name"][0]} | {n: number(*row[n]) for n in row if "__" in n})
    return found


def long_form(rows: list[Row]) -> list[dict[str, float | str | None]]:
    found: dict[str, dict[str, float | str | None]] = {}
    for row in rows:
        launch = found.setdefault(row["ID"], {"kernel": row["Kernel Name"]})
        launch[row["Metric Name"]] = number(row["Metric Value"], row["Metric Unit"])
    return list(found.values())


def number(text: str, unit: str = "") -> float | None:
    """A cell of ncu, which may write "1,234.5"; None for "n/a", an empty cell or no number."""
    try:
        value = float(text.replace(",", ""))
    except ValueError:
        return None
    unit = unit.lower()
    return value * UNITS.get(unit, UNITS.get(unit.split("/")[0], 1)) if math.isfinite(value) else None


def table(text: str, names: list[str], facts: dict[str, Any], command: str) -> Iterator[Row]:
    """A row for each launch: the marker begins the next case."""
    done = [name for name in names if name in facts["bytes"]]
    versions, case, place = " ".join(f"{n} {v}" for n, v in facts["versions"].items()), -1, 0
    for launch in launches(text):
        kernel = re.sub(r"^(void )?(.*::)?", "", str(launch["kernel"]).split("(")[0]).split("<")[0]
        if MARKER in str(launch["kernel"]):
            case, place = case + 1, 0
            continue
        if not 0 <= case < len(done):
            raise SystemExit(f"kernels: {kernel} must lie within one of {len(done)} cases, found case {case}")
        place += 1
        row = {"case": done[case], "kernel": kernel, "launch": str(place)}
        row |= {column: written(launch.get(metric)) for column, metric in METRICS.items()} | stalls(launch)
        row |= {"least_bytes": str(facts["bytes"][done[case]]), "device": facts["device"]}
        yield {name: (row | {"versions": versions, "command": command})[name] for name in COLUMNS}


def written(value: object) -> str:
    """A number with at most three decimals, or an empty cell."""
    return "" if value is None else f"{value:.3f}".rstrip("0").rstrip(".")


def stalls(launch: dict[str, float | str | None]) -> Row:
    """The two reasons for which warps wait most, as shares of the time that they are resident."""
    found = {reason: float(launch[STALL.format(reason)] or 0) for reason in STALLS if STALL.format(reason) in launch}
    total = sum(found.values())
    found.pop("selected", None)
    most = sorted(found, key=lambda reason: found[reason], reverse=True)[:2] if total else []
    row = {}
    for place, column in enumerate(("top_stall", "second_stall")):
        reason = most[place] if place < len(most) else ""
        row |= {column: reason, f"{column}_pct": written(100 * found[reason] / total if reason else None)}
    return row


def read(path: Path) -> list[Row]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def write(path: Path, rows: list[Row]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def show(rows: list[Row]) -> None:
    """The columns that say what bounds a launch."""
    titles = ("µs", "DRAM %", "L2 %", "SM %", "issue %", "warps %", "regs", "sect/ld", "sect/st")
    columns = ("time_us", "dram_pct", "l2_pct", "sm_pct", "issue_pct", "warps_active_pct", "registers")
    columns += ("sectors_per_request_load", "sectors_per_request_store")
    print(f"{'kernel':34}" + "".join(f"{title:>9}" for title in titles) + "  waits for")
    for name in dict.fromkeys(row["case"] for row in rows):
        own = [row for row in rows if row["case"] == name]
        total = sum(float(row["time_us"] or 0) for row in own)
        print(f"{name}: {total:.2f} µs, launches: {len(own)}, least bytes: {int(own[0]['least_bytes']) / 1e6:.2f} MB")
        for row in own:
            cells = "".join(f"{row[column][:8]:>9}" for column in columns)
            waits = (f"{row[name]} {row[name + '_pct']} %" for name in ("top_stall", "second_stall") if row[name])
            print(f"  {row['kernel']:32}{cells}  {', '.join(waits)}")


def markdown(rows: list[Row]) -> str:
    """A line for each kernel of each case: its launches' time in all, the rest of the longest of them."""
    titles = (
        "case|kernel|launches|µs|DRAM %|L2 %|SM %|issue %|warps %, of at most|registers|sectors a request|waits for"
    )
    lines = [f"| {titles.replace('|', ' | ')} |", "| --- | --- " + "| ---: " * 8 + "| ---: | --- |"]
    shown = ""
    for case, kernel in dict.fromkeys((row["case"], row["kernel"]) for row in rows):
        own = [row for row in rows if (row["case"], row["kernel"]) == (case, kernel)]
        most = max(own, key=lambda row: float(row["time_us"] or 0))
        total = sum(float(row["time_us"] or 0) for row in own)
        shares = [rounded(most[name]) for name in ("dram_pct", "l2_pct", "sm_pct", "issue_pct")]
        warps = f"{rounded(most['warps_active_pct'])}, {rounded(most['warps_limit_pct'])}"
        sectors = " / ".join(rounded(most[f"sectors_per_request_{way}"], 1) for way in ("load", "store"))
        waits = [
            f"{most[name]} {rounded(most[name + '_pct'])} %" for name in ("top_stall", "second_stall") if most[name]
        ]
        cells = [case if case != shown else "", f"`{kernel}`", str(len(own)), f"{total:.2f}", *shares, warps]
        lines.append(f"| {' | '.join([*cells, most['registers'], sectors, ', '.join(waits)])} |")
        shown = case
    return "\n".join(lines) + "\n"


def rounded(cell: str, digits: int = 0) -> str:
    """A cell with so many decimals, or a dash."""
    return f"{float(cell):.{digits}f}" if cell else "—"


def limit(rows: list[Row], amount: str, share: str) -> float | None:
    """The device's peak of an amount a microsecond: what a launch reached over its share of the peak, the median."""
    found = [
        float(row[amount]) / float(row["time_us"]) / (float(row[share]) / 100)
        for row in rows
        if row[amount] and row["time_us"] and row[share] and float(row[share]) >= 2
    ]
    return statistics.median(found) if found else None


def roofline(rows: list[Row], path: Path) -> None:
    """Bytes a second of each kernel that takes a tenth of its case, over its instructions a byte, under both limits."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    plt.rcParams["svg.hashsalt"] = "robocache"
    operators = list(dict.fromkeys(row["case"].split()[0] for row in rows))
    whole: dict[str, float] = {}
    for row in rows:
        whole[row["case"]] = whole.get(row["case"], 0) + float(row["time_us"] or 0)
    points = [r for r in rows if all(r[n] and float(r[n]) for n in ("time_us", "dram_bytes", "instructions"))]
    points = [row for row in points if float(row["time_us"]) >= 0.1 * whole[row["case"]]]
    points.sort(key=lambda row: operators.index(row["case"].split()[0]))
    if not points:
        raise SystemExit("kernels: the table must hold time_us, dram_bytes and instructions, found no such row")
    across = [float(row["instructions"]) / float(row["dram_bytes"]) for row in points]
    up = [float(row["dram_bytes"]) / float(row["time_us"]) / 1e6 for row in points]
    figure, axes = plt.subplots(figsize=(11, 6.2), layout="constrained")
    ends = [min(across) / 2, max(across) * 2]
    steps = [ends[0] * (ends[1] / ends[0]) ** (i / 200) for i in range(201)]
    if dram := limit(rows, "dram_bytes", "dram_pct"):
        axes.plot(ends, [dram / 1e6] * 2, color="black", linewidth=1)
        axes.annotate(
            f"DRAM {dram / 1e6:.2f} TB/s", (ends[0], dram / 1e6), (3, 3), textcoords="offset points", fontsize=8
        )
    if issue := limit(rows, "instructions", "issue_pct"):
        under = [(x, issue / x / 1e6) for x in steps if not dram or issue / x <= 2 * dram]
        label = f"issue, {issue / 1e6:.2f} T warp instructions/s"
        axes.plot([x for x, _ in under], [y for _, y in under], color="black", linewidth=1, linestyle="--", label=label)
    for place, operator in enumerate(operators):
        own = [i for i, row in enumerate(points) if row["case"].split()[0] == operator]
        axes.scatter([across[i] for i in own], [up[i] for i in own], s=26, color=f"C{place}", zorder=3)
        for i in own:
            text = f"{i + 1}  {points[i]['kernel']}: {points[i]['case']}"
            axes.plot([], [], "o", markersize=4, color=f"C{place}", label=text)
            axes.annotate(str(i + 1), (across[i], up[i]), (3, 3), textcoords="offset points", fontsize=7)
    axes.set(xscale="log", yscale="log", xlabel="warp instructions a byte of DRAM", ylabel="DRAM bytes, TB/s")
    axes.set_title(f"{points[0]['device']}, cold, one launch at a time", fontsize=10)
    axes.grid(True, which="major", linewidth=0.4, alpha=0.5)
    figure.legend(loc="outside right upper", fontsize=6, frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", action="append", help="a case, or words in its name; may be repeated")
    parser.add_argument("--record", type=Path, help="the .csv file to write")
    parser.add_argument("--ncu", help="Nsight Compute's command, else `ncu` from the PATH")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="no case begins after so many")
    parser.add_argument("--table", type=Path, help="a table to print instead of a run")
    parser.add_argument("--markdown", action="store_true", help="print the table for a page")
    parser.add_argument("--roofline", type=Path, help="an .svg or .png file to draw")
    parser.add_argument("--profiled", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.profiled:
        return profiled(options.case, options.profiled, options.seconds)
    left: list[str] = []
    if options.table:
        rows = read(options.table)
    else:
        names = [name for name in cases() if not options.case or any(word in name for word in options.case)]
        if not names:
            raise SystemExit(f"kernels: --case must name one of {', '.join(cases())}, got {options.case}")
        command = shlex.join(["python", "benches/kernels.py", *sys.argv[1:]])
        text, facts = profile(options.ncu or find_ncu(), names, options.seconds)
        rows, left = list(table(text, names, facts, command)), [name for name in names if name not in facts["bytes"]]
        if options.record:
            write(options.record, rows)
    print(markdown(rows), end="") if options.markdown else show(rows)
    if options.roofline:
        roofline(rows, options.roofline)
    if left:
        raise SystemExit(f"kernels: each case must be read, these were not (see above): {', '.join(left)}")
    return None


if __name__ == "__main__":
    main()
