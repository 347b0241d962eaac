"""The command `robocache align`: a multi-rate log in, tensors on one clock, a summary table and a picture out."""

from robocache.align.cli import main

__all__ = ["main"]
