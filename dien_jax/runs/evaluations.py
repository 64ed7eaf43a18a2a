"""``metrics.jsonl`` of a run folder: one JSON object for each evaluation."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypedDict

from dien_jax.errors import reading, writing
from dien_jax.utils.files import atomic_path
from dien_jax.utils.json_values import Count, LargeCount, NotNegative, parse_json

METRICS_FILE = "metrics.jsonl"
Metrics = dict[str, LargeCount | NotNegative | None]
"""Metrics of a split by name; None where undefined."""


class Evaluation(TypedDict):
    """One line: step, epoch, training metrics since the last line, and validation metrics."""

    step: Count
    epoch: NotNegative
    train: dict[str, float]
    valid: Metrics


def read_evaluations(folder: Path) -> list[Evaluation]:
    """Return the evaluations of a run, oldest first, without a last line that was cut short."""
    return [evaluation for _, evaluation in _read_lines(folder / METRICS_FILE)]


def _read_lines(file: Path) -> list[tuple[bytes, Evaluation]]:
    """Return the lines, with their ends, and what they say."""
    with reading(file):
        try:
            lines = file.read_bytes().split(b"\n")[:-1]
        except FileNotFoundError:
            return []
    return [
        (line + b"\n", parse_json(line, Evaluation, f"{file}, line {number}"))
        for number, line in enumerate(lines, start=1)
    ]


def append_evaluation(folder: Path, record: Mapping[str, Any]) -> None:
    """Write one evaluation, to the disk; a number that is not finite is a ValueError."""
    line = json.dumps(record, allow_nan=False) + "\n"
    file = folder / METRICS_FILE
    with writing(file), file.open("ab") as stream:
        stream.write(line.encode())
        stream.flush()
        os.fsync(stream.fileno())


def cut_back(folder: Path, step: int) -> None:
    """Drop the evaluations after ``step``, and a last line that was cut short."""
    file = folder / METRICS_FILE
    kept = b"".join(line for line, record in _read_lines(file) if record["step"] <= step)
    if file.exists() and file.read_bytes() != kept:
        with writing(file), atomic_path(file) as partial:
            partial.write_bytes(kept)
