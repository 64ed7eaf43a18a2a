"""The evaluations that a run has written to ``metrics.jsonl``"""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dien_jax.errors import UserError
from dien_jax.utils.files import atomic_path

if TYPE_CHECKING:
    pass

METRICS_FILE = "metrics.jsonl"


def cut_back(folder: Path, step: int) -> None:
    """Drops the evaluations after ``step``, and a last line that was cut short.

    Raises:
      UserError: when ``metrics.jsonl`` is damaged or cannot be written.
    """
    file = folder / METRICS_FILE
    records = read_evaluations(folder)
    kept = "".join(json.dumps(record) + "\n" for record in records if record["step"] <= step)
    if file.exists() and file.read_bytes() != kept.encode():
        with _writing(file), atomic_path(file) as partial:
            partial.write_bytes(kept.encode())


def read_evaluations(folder: Path) -> list[dict[str, Any]]:
    """What ``metrics.jsonl`` holds, oldest first; a last line that was cut short is ignored.

    Raises:
      UserError: when another line is not an evaluation, or the file cannot be read.
    """
    file = folder / METRICS_FILE
    try:
        lines = file.read_bytes().split(b"\n")[:-1]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise UserError(f"{file}: cannot be read: {error.strerror}") from error
    records = []
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line)
        except ValueError:
            record = None
        if not isinstance(record, dict) or not isinstance(record.get("step"), int):
            found = line[:60].decode(errors="replace")
            raise UserError(
                f"{file}, line {number}: expected the JSON object of an evaluation, found {found!r}"
            )
        records.append(record)
    return records


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror or error}") from error
