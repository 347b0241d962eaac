"""The command `robocache`: align a log, voxelize a cloud, look after the installation, tell CMake where it lies."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a subcommand or prints what an option asks for; returns the exit status."""
    parser = argparse.ArgumentParser("robocache", description="Robot time series on one clock, clouds in one grid.")
    parser.add_argument("--version", action="store_true", help="print the version of the package")
    parser.add_argument("--cmake-prefix", action="store_true", help="print the folder for CMAKE_PREFIX_PATH")
    parser.add_argument("command", nargs="?", choices=("align", "voxelize", "doctor"),
                        metavar="{align,voxelize,doctor}",
                        help="align: a multi-rate log to tensors on one clock; voxelize: point clouds to a grid; "
                        "doctor: what is installed, wrong, and how to mend it; each has its own --help")  # fmt: skip
    parser.add_argument("rest", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    # Imports wait for their command: doctor and --cmake-prefix must run where the library or a reader is missing.
    if args.version:
        print(f"robocache {_version()}")
    elif args.cmake_prefix:
        from robocache._library import cmake_prefix

        print(cmake_prefix())
    elif args.command == "align":
        from robocache.align import main as align

        return align(args.rest)
    elif args.command == "voxelize":
        from robocache.cloud import main as voxelize

        return voxelize(args.rest)
    elif args.command == "doctor":
        from robocache.doctor import main as doctor

        return doctor(args.rest)
    else:
        parser.print_help(sys.stderr)
        return 2
    return 0


def _version() -> str:
    try:
        return version("robocache")
    except PackageNotFoundError:
        return "(not installed: run from a source tree)"


if __name__ == "__main__":
    sys.exit(main())
