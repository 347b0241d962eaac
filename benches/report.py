"""Makes tables and plots of the newest records, into README.md and docs/performance.md between their marker comments.

    python benches/report.py            # writes them
    python benches/report.py --check    # exits with 1 where a file is not what the records give

Every number comes from a line of `benches/record/*.jsonl`; of each machine kind the newest file counts. Where no record
has today's fields, nothing is written.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import records
from records import NOTHING, Line

ROOT = Path(__file__).resolve().parents[1]
OURS = "robocache"
OURS_TOO = (OURS, "resample + cat", "torch.ops.robocache")
TORCH = ("torch eager", "torch.compile", "torch.compile max-autotune", "torch deterministic", "fixed, compiled")
# Column heads: torch's implementations each on its own, of a package's formulations the fastest.
FAMILIES = (*TORCH, "NumPy", "SciPy", "JAX", "CuPy", "torchcde", "spconv-triton")
HEADS = {
    "resample + cat": "`resample` + `cat`",
    "torch.compile max-autotune": "max-autotune",
    "fixed, compiled": "fixed point",
}
DASH = "—"
SUBJECTS = ("-sweep", "-limits", "-training")  # how the files of other subjects end
Key = tuple[str, str, str]  # op, case, dtype


@dataclass(frozen=True)
class Record:
    """The lines of one machine's newest record, by operator, case and type in the order of the file."""

    kind: str
    path: Path
    lines: list[Line]
    sweep: list[Line]
    limits: list[Line]

    @property
    def cuda(self) -> bool:
        return any(str(line["metric"]).startswith("graph") for line in self.lines)

    @property
    def main_metric(self) -> str:
        return "graph, cold" if self.cuda else "call"

    @property
    def threads(self) -> int:
        return max(int(str(line["threads"])) for line in self.lines)

    @property
    def bandwidth(self) -> float:
        """Bytes a microsecond that the fastest copy read and wrote."""
        copies = [line for line in self.lines if line["op"] == "copy"]
        return max(number(line, "bytes") / number(line, "median_us") for line in copies)

    def keys(self, direction: str = "forward", metric: str | None = None) -> list[Key]:
        found = (
            key_of(line)
            for line in self.lines
            if line["direction"] == direction
            and line["metric"] == (metric or self.main_metric)
            and line["impl"] == OURS
        )
        return list(dict.fromkeys(found))

    def ours(
        self, key: Key, direction: str = "forward", metric: str | None = None, threads: int | None = None
    ) -> Line | None:
        """RoboCache's line of a case, on all threads unless told otherwise."""
        for line in self.lines:
            if (
                key_of(line) == key
                and (line["direction"], line["impl"]) == (direction, OURS)
                and line["metric"] == (metric or self.main_metric)
                and line["threads"] == (threads or self.threads)
            ):
                return line
        return None

    def peers(self, key: Key, direction: str = "forward") -> dict[str, Line]:
        """Of each family the fastest line, cold; outside torch there is no graph, but a stream of calls."""
        found: dict[str, Line] = {}
        for line in self.lines:
            name = str(line["impl"])
            if key_of(line) != key or line["direction"] != direction or name in OURS_TOO:
                continue
            if line["metric"] != (self.main_metric if name in TORCH or not self.cuda else "stream"):
                continue
            family = name if name in TORCH else next(family for family in FAMILIES if name.startswith(family))
            if family not in found or number(line, "median_us") < number(found[family], "median_us"):
                found[family] = line
        return found

    def best_peer(self, key: Key, direction: str = "forward") -> Line | None:
        return min(self.peers(key, direction).values(), key=lambda line: number(line, "median_us"), default=None)


def number(line: Line, name: str) -> float:
    return float(str(line[name]))


def key_of(line: Line) -> Key:
    return str(line["op"]), str(line["case"]), str(line["dtype"])


def of_subject(files: dict[str, Path], name: str) -> list[Line]:
    """The lines of a machine's file of another subject, if there is one, without copies."""
    lines = records.latest(records.read(files[name])).values() if name in files else ()
    return [line for line in lines if line["op"] != "copy"]


def load(folder: Path) -> list[Record]:
    """The newest record of each machine kind, GPUs first, the newer before; other subjects' files end in their name."""
    files = records.newest(folder)
    found = []
    for kind, path in files.items():
        lines = list(records.latest(records.read(path)).values())
        if not any(line["op"] == "copy" for line in lines) or kind.endswith(SUBJECTS):
            continue
        found.append(Record(kind, path, lines, *(of_subject(files, kind + subject) for subject in SUBJECTS[:2])))
    by_kind = sorted(found, key=lambda record: record.kind, reverse=True)
    return sorted(by_kind, key=lambda record: not record.cuda)


def time_of(microseconds: float) -> str:
    """Three digits, in microseconds or, from a thousand, milliseconds."""
    if microseconds >= 1000:
        return f"{digits(microseconds / 1000)} ms"
    return f"{digits(microseconds)} µs"


def digits(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def case_of(key: Key) -> str:
    """A case in words: operator, sizes, type."""
    op, case, dtype = key
    return f"`{op}` {case.replace('->', ' → ').replace('x', '×')}, {dtype}"


def table(heads: list[str], rows: Iterable[list[str]]) -> list[str]:
    return [
        f"| {' | '.join(heads)} |",
        f"| {' | '.join('---' for _ in heads)} |",
        *(f"| {' | '.join(row)} |" for row in rows),
    ]


def cell(line: Line | None) -> str:
    return DASH if line is None else time_of(number(line, "median_us"))


def spread_cell(line: Line | None) -> str:
    if line is None:
        return DASH
    return f"{cell(line)} ({digits(number(line, 'p10_us'))}–{digits(number(line, 'p90_us'))} µs)"


def share(line: Line) -> str:
    return f"{100 * number(line, 'floor_us') / number(line, 'median_us'):.0f} %"


def bars(record: Record) -> list[Key]:
    """The cases of the short table: on CUDA time series in bfloat16 and clouds in float32, of random data."""
    keys = record.keys()
    if not record.cuda:
        return [key for key in keys if record.ours(key, threads=1)] or keys
    signals = [key for key in keys if key[2] == "bfloat16" and key[1][0].isdigit()]
    return signals + [key for key in keys if key[2] == "float32" and key[1].startswith(("occupancy", "mean"))]


def short_table(record: Record) -> Iterator[str]:
    """For the README: the bars beside `torch.compile`, eager PyTorch and the fastest of all other peers."""
    rows = []
    for key in bars(record):
        ours = record.ours(key)
        if ours is None:
            continue
        peers = record.peers(key)
        rest = [line for family, line in peers.items() if family not in ("torch eager", "torch.compile")]
        other = min(rest, key=lambda line: number(line, "median_us"), default=None)
        named = DASH if other is None else f"{cell(other)} ({other['impl']})"
        row = [case_of(key), cell(ours), share(ours), cell(peers.get("torch.compile")), cell(peers.get("torch eager"))]
        rows.append([*row, named])
    yield f"{device(record)} ([record](benches/record/{record.path.name})):"
    yield ""
    yield from table(["case", "RoboCache", "of the limit", "`torch.compile`", "eager PyTorch", "fastest other"], rows)
    yield ""
    yield behind(record)


def behind(record: Record) -> str:
    """Where a peer is faster, in a sentence."""
    rows = []
    for direction in ("forward", "backward", "forward+backward"):
        for key in record.keys(direction):
            ours, best = record.ours(key, direction), record.best_peer(key, direction)
            if ours and best:
                rows.append((number(ours, "median_us") / number(best, "median_us"), key, direction, str(best["impl"])))
    slower = sorted((row for row in rows if row[0] > 1), key=lambda row: row[0], reverse=True)
    text = f"A peer is faster in {len(slower)} of {len(rows)} measurements (cases, forward and backward)"
    worst = [f"{case_of(key)}, {direction}: {ratio:.2f} times ({impl})" for ratio, key, direction, impl in slower[:5]]
    return f"{text}{'; the most: ' if worst else ''}{'; '.join(worst)}."


def device(record: Record) -> str:
    return str(record.lines[0]["device"])


def about(record: Record) -> Iterator[str]:
    """Where the numbers come from."""
    line = record.lines[0]
    versions = line["versions"]
    assert isinstance(versions, dict)
    commands = list(dict.fromkeys(f"`{line['command']}`" for line in record.lines))
    yield f"{device(record)}; {record.threads} CPU threads; a copy reads and writes {record.bandwidth / 1e3:.0f} GB/s."
    yield f"Versions: {', '.join(f'{name} {version}' for name, version in versions.items())}."
    yield f"Command: {', '.join(commands)}; record: [{record.path.name}](../benches/record/{record.path.name})."


def full_table(record: Record, direction: str) -> list[str]:
    """Every case and implementation."""
    keys = record.keys(direction)
    found = {key: record.peers(key, direction) for key in keys}
    families = [family for family in FAMILIES if any(family in peers for peers in found.values())]
    rows = []
    for key in keys:
        ours = record.ours(key, direction)
        assert ours is not None
        fast = record.best_peer(key, direction)
        ratio = DASH if fast is None else digits(number(fast, "median_us") / number(ours, "median_us"))
        row = [case_of(key), time_of(number(ours, "floor_us")), spread_cell(ours), share(ours), ratio]
        rows.append([*row, *(cell(found[key].get(family)) for family in families)])
    heads = [HEADS.get(family, family) for family in families]
    return (
        table(["case", "floor", "RoboCache (p10–p90)", "of the limit", "best peer / ours", *heads], rows)
        if rows
        else []
    )


def by_metric(record: Record, metric: str) -> list[str]:
    """RoboCache and torch's implementations in another metric."""
    names = ("torch eager", "torch.compile", "torch.compile max-autotune")
    lines = {(key_of(line), line["impl"]): line for line in record.lines if line["metric"] == metric}
    keys = record.keys("forward", metric)
    rows = [[case_of(key), *(cell(lines.get((key, name))) for name in (OURS, *names))] for key in keys]
    return table(["case", "RoboCache", *(HEADS.get(name, name) for name in names)], rows) if rows else []


def one_thread(record: Record) -> list[str]:
    """What a second thread brings, and NumPy's fastest beside one."""
    rows = []
    for key in record.keys():
        one, all_threads = record.ours(key, threads=1), record.ours(key)
        if one is None or all_threads is None or one is all_threads:
            continue
        ratio = digits(number(one, "median_us") / number(all_threads, "median_us"))
        rows.append([case_of(key), cell(one), cell(all_threads), ratio, cell(record.peers(key).get("NumPy"))])
    heads = ["case", "1 thread", f"{record.threads} threads", "ratio", "NumPy's fastest, 1 thread"]
    return table(heads, rows) if rows else []


def dispatch(record: Record) -> list[str]:
    """Calls on tiny inputs as multiples of `torch.add`, and what an operator that does nothing takes."""
    rows = []
    lines = [line for line in record.lines if str(line["metric"]).startswith("dispatch")]
    of = {(line["op"], line["metric"], line["impl"]): number(line, "median_us") for line in lines}
    for line in lines:
        if line["impl"] in ("torch.add", NOTHING):
            continue
        base, least = (of.get((line["op"], line["metric"], name)) for name in ("torch.add", NOTHING))
        assert base is not None
        name = f"`{line['op']}` as `{line['impl']}.{line['op']}`"
        grad = "yes" if "requires_grad" in str(line["metric"]) else "no"
        nothing = "—" if least is None else f"{time_of(least)} ({digits(least / base)})"
        rows.append([name, grad, cell(line), time_of(base), digits(number(line, "median_us") / base), nothing])
    heads = ["call", "requires gradients", "time", "`torch.add`", "ratio", "doing nothing (ratio)"]
    return table(heads, rows) if rows else []


def swept(record: Record) -> list[str]:
    """The worst ratios of the sweep to the fastest peer, the backward's in a table of its own."""
    found: list[str] = []
    for direction in ("forward", "backward"):
        worst = worst_of([line for line in record.sweep if line["direction"] == direction], direction)
        found += [*([""] if found and worst else []), *worst]
    return found


def worst_of(swept: list[Line], direction: str, most: int = 12) -> list[str]:
    by_case: dict[Key, dict[str, Line]] = {}
    for line in swept:
        by_case.setdefault(key_of(line), {})[str(line["impl"])] = line
    rows = []
    for key, lines in by_case.items():
        peers = [line for name, line in lines.items() if name != OURS]
        if OURS in lines and peers:
            best = min(peers, key=lambda line: number(line, "median_us"))
            rows.append((number(lines[OURS], "median_us") / number(best, "median_us"), key, lines[OURS], best))
    rows.sort(key=lambda row: row[0], reverse=True)
    if not rows:
        return []
    slower = sum(ratio > 1 for ratio, *_ in rows)
    cells = [
        [case_of(key), cell(ours), f"{cell(best)} ({best['impl']})", f"{ratio:.2f}"]
        for ratio, key, ours, best in rows[:most]
    ]
    alone = ", backward alone," if direction == "backward" else ""
    return [
        f"Of {len(rows)} cases drawn by `benches/sweep.py`{alone} a peer is faster in {slower}; the worst:",
        "",
        *table(["case", "RoboCache", "fastest peer", "ours / peer"], cells),
    ]


def allowed(record: Record) -> list[str]:
    """Kernels that only move a case's bytes, beside RoboCache in their own run."""
    by_case: dict[Key, dict[str, Line]] = {}
    for line in record.limits:
        by_case.setdefault(key_of(line), {})[str(line["impl"])] = line
    if not by_case:
        return []
    launches = [
        f"{case}: {time_of(number(lines['skeleton'], 'median_us'))}"
        for (op, case, _), lines in by_case.items()
        if op == "limit"
    ]
    rows = []
    for key, lines in by_case.items():
        if OURS not in lines or "skeleton" not in lines:
            continue
        skeletons = {name: line for name, line in lines.items() if name != OURS}
        # One that is told its rows does less than the case asks for.
        whole = [line for name, line in skeletons.items() if name != "skeleton, told"]
        best = min(whole, key=lambda line: number(line, "median_us"))
        ratio = number(lines[OURS], "median_us") / number(best, "median_us")
        cells = [cell(skeletons.get(name)) for name in ("skeleton", "skeleton, told", "skeleton, bits")]
        floor = time_of(number(lines[OURS], "floor_us"))
        rows.append([case_of(key), floor, *cells, cell(lines[OURS]), f"{ratio:.2f}"])
    return [
        "`benches/limits.py`: kernels that move what a case moves, in as many trips to memory as depend on each",
        "other, and compute nothing; the fastest of their block sizes. A launch in a graph that does nothing, or so",
        f"many loads that wait for each other: {'; '.join(launches)}.",
        "",
        *table(["case", "floor", "skeleton", "told the rows", "by bits", "RoboCache", "ours / fastest skeleton"], rows),
    ]


def sections(record: Record) -> Iterator[str]:
    """All of a machine, for docs/performance.md."""
    yield f"### {device(record)}"
    yield ""
    yield from about(record)
    title = "calls in a CUDA graph, cold inputs; outside torch calls from Python" if record.cuda else "calls"
    parts: list[tuple[str, list[str]]] = [
        (f"Forward: {title}", full_table(record, "forward")),
        ("Backward alone", full_table(record, "backward")),
        ("Forward and backward", full_table(record, "forward+backward")),
        ("Forward, warm inputs", by_metric(record, "graph, warm")),
        ("Forward, calls from Python one after the other", by_metric(record, "stream")),
        ("Threads", one_thread(record)),
        ("Dispatch: the host's time for a call on tiny inputs", dispatch(record)),
        ("What the machine allows", allowed(record)),
        ("The whole range of sizes", swept(record)),
    ]
    for heading, lines in parts:
        if lines:
            yield from ("", f"#### {heading}", "", *lines)
    for name, text in (
        ("size", "Bytes a second over the bytes that a case moves"),
        ("limit", "Share of the limit, forward"),
        ("peers", "Time of the fastest peer over RoboCache's"),
    ):
        yield from ("", f"![{text}, {device(record)}](performance/{record.kind}-{name}.svg)")


def between(text: str, name: str, lines: Iterable[str]) -> str:
    """The text with what stands between its markers replaced."""
    begin, end = f"<!-- {name}: made by benches/report.py -->", f"<!-- end of {name} -->"
    if begin not in text or end not in text:
        raise SystemExit(f"report: the markers {begin} and {end} must be there")
    head, rest = text.split(begin, 1)
    return f"{head}{begin}\n" + "\n".join(lines) + f"\n{end}{rest.split(end, 1)[1]}"


def outputs(root: Path, folder: Path) -> dict[Path, bytes]:
    """What each file should hold; nothing without a record."""
    import plots

    found = load(folder)
    if not found:
        return {}
    short = [line for record in found for line in (*short_table(record), "")][:-1]
    long = [line for record in found for line in (*sections(record), "")][:-1]
    made = {
        root / name: between((root / name).read_text(), "benchmark", lines).encode()
        for name, lines in (("README.md", short), ("docs/performance.md", long))
    }
    for record in found:
        for name, image in plots.draw(record).items():
            made[root / "docs" / "performance" / f"{record.kind}-{name}.svg"] = image
    return made


def same(path: Path, content: bytes) -> bool:
    """Whether a file holds this; a plot that another Matplotlib drew is not compared."""
    if not path.is_file():
        return False
    found = path.read_bytes()
    drawn = re.compile(rb"<dc:title>Matplotlib [^<]*</dc:title>")
    by, now = drawn.search(found), drawn.search(content)
    if path.suffix == ".svg" and by and now and by.group() != now.group():
        print(f"not compared, drawn by another Matplotlib: {path.name}")
        return True
    return found == content


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 where a file would change")
    parser.add_argument("--record", type=Path, default=records.FOLDER, help="the folder of records")
    parser.add_argument("--root", type=Path, default=ROOT, help="the checkout whose files are made")
    options = parser.parse_args(arguments)
    made = outputs(options.root, options.record)
    if not made:
        print(f"report: no record in {options.record} has the fields {json.dumps(records.FIELDS)}: nothing to make")
    stale = [path for path, content in made.items() if not same(path, content)]
    for path in stale:
        print(f"{'differs from the records' if options.check else 'wrote'}: {path.relative_to(options.root)}")
        if not options.check:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(made[path])
    return 1 if options.check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
