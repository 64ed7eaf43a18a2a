"""``metrics.jsonl`` of a run folder: one JSON object for each evaluation."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dien_jax.errors import UserError, reading, writing
from dien_jax.utils.files import atomic_path

METRICS_FILE = "metrics.jsonl"


def read_evaluations(folder: Path) -> list[dict[str, Any]]:
    """Return the evaluations of a run, oldest first, without a last line that was cut short."""
    file = folder / METRICS_FILE
    with reading(file):
        try:
            lines = file.read_bytes().split(b"\n")[:-1]
        except FileNotFoundError:
            return []
    records = []
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line)
        except ValueError:
            record = None
        if not isinstance(record, dict) or not isinstance(record.get("step"), int):
            expected = f"{file}, line {number}: expected the JSON object of an evaluation"
            raise UserError(f"{expected}, found {line[:60].decode(errors='replace')!r}")
        records.append(record)
    return records


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
    records = read_evaluations(folder)
    kept = "".join(json.dumps(record) + "\n" for record in records if record["step"] <= step)
    if file.exists() and file.read_bytes() != kept.encode():
        with writing(file), atomic_path(file) as partial:
            partial.write_bytes(kept.encode())
