"""Arguments of `robocache align`, and the order in which things happen."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.text import Text

import robocache
from robocache._command import console
from robocache.align import demo
from robocache.align.clock import UNITS, describe_jumps, find_jumps, seconds_to_ns
from robocache.align.gaps import choose_gaps
from robocache.align.log import AlignError, Log, Signal, accumulate, select, topic_signals, wants
from robocache.align.modes import choose_modes
from robocache.align.output import write
from robocache.align.readers import read_logs
from robocache.align.readers.options import TableOptions
from robocache.align.summary import contents, report
from robocache.align.tensors import DTYPES, Aligned, align, choose_clock
from robocache.reference.modes import MODES

MAX_DEFAULT_CHANNELS = 128  # more than a policy takes in, and more than a table on the terminal shows
OUTSIDE = ("hold", "nan", "zero", "extrapolate")

DESCRIPTION = """\
Aligns signals of a multi-rate log to one clock and writes aligned.safetensors, aligned.parquet and aligned.png.

LOG is a PX4 ULog (.ulg), a ROS 2 bag folder or MCAP (.mcap, .db3), a ROS 1 bag (.bag), or tables: CSV, Parquet and
whitespace-separated text, each a topic named by its stem. Several logs may be given if they share one clock.
All times are int64 nanoseconds: integers are scaled exactly, float seconds are rounded once. ROS messages are
stamped by header.stamp, or by the time of logging where there is none."""

EPILOG = """\
signals
  A name is a topic and a field: /imu/data.linear_acceleration takes x, y and z, /imu/data takes every field,
  sensor_combined.gyro_rad[0] takes one channel. The second instance of a ULog topic is TOPIC.1. Without --signal all
  numeric signals are taken, covariances aside, up to 128 channels.

clock
  A regular grid at --rate, or at the fastest chosen signal's median rate; or the stamps of --clock SIGNAL. It spans
  the union of the chosen signals, so no sample is left out; where a signal has no data yet, or no more, --outside
  says what its channels get, and `valid` in the files is false. --span intersection keeps to where all have data.

modes
  linear, previous (hold), next, nearest, pchip (a smooth curve that does not overshoot), angle (radians, the short
  way round, wrapped to [-pi, pi)), slerp (unit quaternions of four neighbouring channels), or groups from left to
  right (linear:3,slerp:4). Quaternions are known by ROS message type (Quaternion), by PX4 field (q, q_d, q_offset,
  delta_q_reset, the first four estimator_states.states) and, in tables, by columns such as qx, qy, qz, qw.
  MODE alone goes for every channel, except that linear, angle and pchip leave known quaternions to slerp.
  NAME=MODE is taken at its word for all channels of NAME, which may be a topic, a signal, a field or a channel; the
  longest name decides. Nothing tells an angle from another number: ask for it (--mode /joint_states.position=angle).

gaps
  --max-gap 0.5 sets `valid` to false for targets between two samples more than 0.5 s apart (never on a sample);
  values stay. --max-gap gps=3 says it for one signal or topic, inf lifts it.

clock jumps
  A stamp earlier than the one recorded before it is a jump. "error" stops and names it. "split" cuts there: the k-th
  stretch of every topic that jumps makes segment k, and a topic that never jumps takes part in every segment, with
  all its samples. A segment spans the stretches of the jumping topics; the first one reaches back, the last one on,
  over the others. Jumping topics must jump together (as after a reboot); if not, they are refused: align them apart.
  Nothing is sorted or dropped. Equal stamps are no jump; the later sample wins, and the table counts them.

files
  aligned.safetensors: values [segments, T, channels], times [segments, T] int64 ns, lengths [segments], valid
  [segments, T, signals] (true within the signal's data, gaps aside); rows shorter than T are padded: value 0, last
  time, false. So robocache.resample takes values, times, lengths and the mode in the metadata as they are.
  aligned.parquet: a row per target, no padding, a column valid:SIGNAL each. The metadata of both names the clock, the
  signals with their slices of channels and their modes, and the segments.

examples
  robocache align drive.mcap --signal /imu/data.linear_acceleration --signal /odom.pose.pose --rate 50
  robocache align flight.ulg --clock vehicle_attitude.q --signal vehicle_attitude.q --signal sensor_combined
  robocache align arm.mcap --mode /joint_states.position=angle --max-gap 0.2 --max-gap /fix=2
  robocache align DR.txt TD.txt --columns TD=time,sender,receiver,range --split-by receiver --clock-jumps split"""


def parser() -> argparse.ArgumentParser:
    """The options, as `--help` prints them."""
    options = argparse.ArgumentParser(
        "robocache align", description=DESCRIPTION, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = options.add_argument
    add("logs", metavar="LOG", nargs="*", type=Path, help="file or ROS 2 bag folder")
    add("--demo", action="store_true", help="align the Plaza robot's odometry and UWB ranges (downloaded once)")
    add("--signals-list", action="store_true", help="print the signals of the log and stop")
    add("--signal", metavar="NAME", action="append", default=[], help="signal to align; repeat for more")
    add("--accumulate", metavar="NAME", action="append", default=[], help="turn increments per step into a running sum")
    clock = options.add_mutually_exclusive_group()
    clock.add_argument("--rate", metavar="HZ", help="rate of the grid (default: the fastest signal's median)")
    clock.add_argument("--clock", metavar="SIGNAL", help="use the stamps of this signal")
    add("--span", choices=("union", "intersection"), default="union", help="what the clock spans (default: union)")
    add("--start", metavar="S", help="first target, seconds after the earliest sample")
    add("--end", metavar="S", help="last target, seconds after the earliest sample")
    add("--mode", metavar="[NAME=]MODE", action="append", default=[], help=f"{', '.join(MODES)}, or groups; repeat for "
        "more (default: slerp for quaternions, linear for other floats, previous for the rest)")  # fmt: skip
    add("--outside", choices=OUTSIDE, default="hold", help="what targets outside a signal's data get (default: hold)")
    add("--max-gap", metavar="[NAME=]S", action="append", default=[], help="targets between samples farther apart "
        "than this many seconds are not valid; repeat for more (default: any gap is)")  # fmt: skip
    add("--clock-jumps", choices=("error", "split"), default="error", help="see below (default: error)")
    add("--dtype", choices=DTYPES, default="float32", help="of the values, computed in it too (default: float32)")
    add("--output", metavar="DIR", type=Path, default=Path("aligned"), help="folder to write to (default: aligned)")
    add("--no-picture", action="store_true", help="do not draw aligned.png")
    tables = options.add_argument_group("tables (CSV, Parquet, text)")
    tables.add_argument("--columns", metavar="[STEM=]NAMES", action="append", default=[],
                        help="names of all columns, separated by commas")  # fmt: skip
    tables.add_argument("--time-column", metavar="NAME", help="default: time, timestamp, stamp, ... as found")
    tables.add_argument(
        "--time-unit", choices=tuple(UNITS), help="default: by the name's end (_ns), seconds for floats"
    )
    tables.add_argument("--split-by", metavar="COLUMN", action="append", default=[],
                        help="cut columns by this one's values: range becomes range@receiver=6, ...")  # fmt: skip
    return options


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; 0 when the files are written, 2 when the user has something to mend."""
    args = parser().parse_args(argv)
    try:
        _run(args)
    except AlignError as error:
        console(stderr=True).print(Text(f"robocache align: error: {error}", style="red"), soft_wrap=True)
        return 2
    except KeyboardInterrupt:
        return 130  # as shells report an interrupt
    return 0


def _run(args: argparse.Namespace) -> None:
    if args.demo:
        _fill_demo(args)
    if not args.logs:
        raise AlignError("LOG must be given, got none (try --demo)")
    if not args.signals_list:
        _require_library()
    rate = _rate(args.rate)
    start = None if args.start is None else seconds_to_ns("--start", args.start)
    end = None if args.end is None else seconds_to_ns("--end", args.end)
    if start is not None and end is not None and start > end:
        raise AlignError(f"--start must not be after --end, got {args.start} and {args.end}")
    out = console()
    log = _read(args)
    for name in args.accumulate:
        accumulate(log, name)
    if args.signals_list:
        out.print(contents(log))
        for note in log.notes:
            out.print(Text(f"note: {note}", style="yellow"))
        return
    signals = _choose(log, args.signal)
    clock = choose_clock(signals, rate, _one(log, args.clock) if args.clock else None)
    if args.clock_jumps == "error":
        _refuse_jumps([*signals, clock.signal])
    modes = choose_modes(signals, args.mode, args.outside)
    gaps = choose_gaps(signals, args.max_gap)
    with _progress() as progress:
        task = progress.add_task("aligning", total=None)
        aligned = align(
            signals,
            modes,
            gaps,
            clock,
            span=args.span,
            start=start,
            end=end,
            outside=args.outside,
            dtype=args.dtype,
            advance=lambda done, total: progress.update(task, completed=done, total=total),
        )
    report(out, aligned, _write(args, aligned), log.notes)


def _require_library() -> None:
    """A missing library is said before a long log is read, not after."""
    try:
        _ = robocache.resample
    except ImportError as error:
        raise AlignError(str(error)) from None


def _read(args: argparse.Namespace) -> Log:
    """Decodes the topics that are asked for, or all of them to list, to take them all or to find a misspelt one."""
    names = [*args.signal, *args.accumulate, *([args.clock] if args.clock else [])]
    if args.signals_list or not args.signal:
        names = []
    tables = TableOptions(args.columns, args.time_column, args.time_unit, args.split_by)
    with _progress() as progress:
        task = progress.add_task("reading", total=None)

        def advance(done: int, total: int | None) -> None:
            progress.update(task, completed=done, total=total)

        log = read_logs(args.logs, names, tables, advance)
        if all(any(wants(topic, [name]) for topic in log.topics) for name in names):
            return log
        return read_logs(args.logs, [], tables, advance)


def _write(args: argparse.Namespace, aligned: Aligned) -> list[Path]:
    try:
        written = write(aligned, args.output)
        if not args.no_picture:
            from robocache.align.picture import draw  # matplotlib takes a second to import

            written.append(draw(aligned, args.output / "aligned.png"))
    except OSError as error:
        raise AlignError(f"--output must be a folder that can be written, got {args.output}: {error}") from None
    return written


def _fill_demo(args: argparse.Namespace) -> None:
    if args.logs:
        raise AlignError(f"--demo must stand without LOG, got {args.logs[0]}")
    args.logs = demo.demo_files()
    args.columns = args.columns or demo.COLUMNS
    args.split_by = args.split_by or demo.SPLIT_BY
    args.accumulate = args.accumulate or demo.ACCUMULATE
    args.signal = args.signal or demo.SIGNALS
    if args.rate is None and args.clock is None:
        args.rate = demo.RATE


def _choose(log: Log, names: Sequence[str]) -> list[Signal]:
    """The named signals, or all numeric ones of a log small enough for that."""
    chosen = [signal for name in dict.fromkeys(names) for signal in _filled(select(log, name))]
    if not names:
        everything = [name for topic in log.topics.values() if topic.times.size for name in topic_signals(topic)]
        kept = [name for name in everything if "covariance" not in name]
        found = [signal for name in kept for signal in select(log, name)]
        chosen = [signal for signal in found if signal.times.size]
        count = sum(len(signal.channels) for signal in chosen)
        if count > MAX_DEFAULT_CHANNELS:
            raise AlignError(
                f"--signal must choose among {count:,} channels in {len(chosen):,} signals (all are taken up to "
                f"{MAX_DEFAULT_CHANNELS}), got none; for example --signal {' --signal '.join(kept[:2])} "
                "(--signals-list prints them all)"
            )
        if not chosen:
            raise AlignError(f"LOG must hold numeric signals, got none in {len(log.topics)} topics")
        if len(chosen) < len(found):
            empty = ", ".join(signal.name for signal in found if not signal.times.size)
            log.notes.append(f"left out, without any sample: {empty}")
        if len(kept) < len(everything):
            log.notes.append(f"{len(everything) - len(kept)} covariance signals are left out; name them with --signal")
    seen: dict[str, str] = {}
    for signal in chosen:
        for channel in signal.channels:
            if channel in seen:
                raise AlignError(
                    f"--signal must take a channel once, got {channel} in {seen[channel]} and {signal.name}"
                )
            seen[channel] = signal.name
    return chosen


def _filled(signals: list[Signal]) -> list[Signal]:
    for signal in signals:
        if not signal.times.size:
            raise AlignError(f"signal {signal.name} must have at least one sample, got none in {signal.topic.source}")
    return signals


def _one(log: Log, name: str) -> Signal:
    signals = _filled(select(log, name))
    if len(signals) != 1:
        raise AlignError(f"--clock must name one signal, got {', '.join(signal.name for signal in signals)}")
    return signals[0]


def _refuse_jumps(signals: Sequence[Signal]) -> None:
    for topic in {signal.topic.name: signal.topic for signal in signals}.values():
        if jumps := find_jumps(topic.times):
            raise AlignError(
                f"clock of {topic.name} ({topic.source}) must ascend, got {describe_jumps(jumps)}; "
                "--clock-jumps split aligns the stretches between them one by one"
            )


def _rate(text: str | None) -> Fraction | None:
    if text is None:
        return None
    try:
        rate = Fraction(text)
    except (ValueError, ZeroDivisionError):
        raise AlignError(f"--rate must be a positive number of Hz, got {text}") from None
    if not 0 < rate <= 1_000_000_000:
        raise AlignError(f"--rate must lie above 0 and up to 1e9 Hz (one target each nanosecond), got {text}")
    return rate


def _progress() -> Progress:
    """On the terminal's error stream, gone when done; silent where that is no terminal."""
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    return Progress(*columns, console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty())
