"""Writes aligned tensors as safetensors and Parquet, each with the whole story in its metadata."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import torch
from safetensors.torch import save_file

from robocache._command import replaced
from robocache.align.tensors import Aligned


def write(aligned: Aligned, folder: Path) -> list[Path]:
    """Writes aligned.safetensors and aligned.parquet; an earlier pair is replaced."""
    folder.mkdir(parents=True, exist_ok=True)
    story = describe(aligned)
    tensors, table = padded(aligned), rows(aligned, story)
    return [
        replaced(folder / "aligned.safetensors", lambda path: save_file(tensors, path, metadata=story)),
        replaced(folder / "aligned.parquet", lambda path: pa.parquet.write_table(table, path)),
    ]


def padded(aligned: Aligned) -> dict[str, torch.Tensor]:
    """One row per segment, in the form that `robocache.resample` takes as values, source_times and source_lengths.

    Past the length of a row, times repeat its last stamp (so they still ascend), values are 0 and valid is false.
    """
    lengths = [piece.times.size for piece in aligned.pieces]
    longest = max(lengths)
    first = aligned.pieces[0]
    values = first.values.new_zeros(len(lengths), longest, first.values.shape[1])
    times = torch.empty(len(lengths), longest, dtype=torch.int64)
    valid = torch.zeros(len(lengths), longest, first.valid.shape[1], dtype=torch.bool)
    for row, piece in enumerate(aligned.pieces):
        values[row, : lengths[row]] = piece.values
        times[row, : lengths[row]] = torch.from_numpy(piece.times)
        times[row, lengths[row] :] = int(piece.times[-1])
        valid[row, : lengths[row]] = piece.valid
    return {"values": values, "times": times, "lengths": torch.tensor(lengths), "valid": valid}


def rows(aligned: Aligned, story: dict[str, str]) -> pa.Table:
    """One row per target: segment, time_ns, every channel, and for each signal whether its data answer for it."""
    columns = {
        "segment": pa.array(
            np.repeat(np.arange(len(aligned.pieces)), [p.times.size for p in aligned.pieces]), pa.int32()
        ),
        "time_ns": pa.array(np.concatenate([piece.times for piece in aligned.pieces])),
    }
    values = torch.cat([piece.values for piece in aligned.pieces]).numpy()
    valid = torch.cat([piece.valid for piece in aligned.pieces]).numpy()
    for index, channel in enumerate(aligned.channels):
        columns[channel] = pa.array(np.ascontiguousarray(values[:, index]))
    for index, signal in enumerate(aligned.signals):
        columns[f"valid:{signal.name}"] = pa.array(np.ascontiguousarray(valid[:, index]))
    return pa.table(columns).replace_schema_metadata(story)


def describe(aligned: Aligned) -> dict[str, str]:
    """Metadata of both files: strings, JSON where they hold more than a word."""
    period = aligned.clock.period
    clock = {
        "from": aligned.clock.why,
        "start_ns": int(aligned.pieces[0].times[0]),
        "end_ns": int(aligned.pieces[-1].times[-1]),
        "rate_hz": None if period is None else float(1_000_000_000 / period),
        "period_ns": None if period is None else str(period),
    }
    signals = [
        {
            "name": signal.name,
            "slice": list(bounds),
            "channels": list(signal.channels),
            "mode": mode,
            "max_gap_ns": gap,
            "samples": int(signal.times.size),
            "source": signal.topic.source,
        }
        for signal, bounds, mode, gap in zip(aligned.signals, aligned.slices, aligned.modes, aligned.gaps, strict=True)
    ]
    stretches = [
        {"start_ns": int(piece.times[0]), "end_ns": int(piece.times[-1]), "length": int(piece.times.size)}
        for piece in aligned.pieces
    ]
    return {
        "format": "robocache.align",
        "time_unit": "ns",
        "mode": aligned.mode,
        "outside": aligned.outside,
        "clock": json.dumps(clock),
        "signals": json.dumps(signals),
        "segments": json.dumps(stretches),
        "notes": json.dumps(aligned.notes),
    }
