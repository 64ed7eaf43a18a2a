"""Parts of a dataset folder that a killed process had finished, for the next one with its task.

    PARTIAL/finished/key           names all that the parts are made of
    PARTIAL/finished/NUMBER.json   counts of a finished part, and a note of who wrote it

Without the same key nothing is taken over. The files are removed when the folder is complete.
"""

import itertools
import json
import shutil
from pathlib import Path
from typing import Any

from dien_jax.data.metadata import Counts, part_name
from dien_jax.utils.files import KEPT


class FinishedParts:
    """The finished parts of a folder that is being written.

    Args:
      folder: the partial folder.
      key: names all that the parts are made of; empty to take over nothing and leave nothing.
    """

    def __init__(self, folder: Path, key: str) -> None:
        self._folder, self._key = folder, key
        self.entries: list[tuple[Counts, dict[str, Any]]] = []
        """Counts and notes of the first parts, which are finished."""

    def take_over(self, left: Path) -> None:
        """Move the finished parts here from the folder that a killed process left."""
        key = left / KEPT
        if not self._key or self.entries or not key.is_file() or key.read_text() != self._key:
            return
        for number in itertools.count():
            entry = self._entry(left, number)
            try:
                values = json.loads(entry.read_text(encoding="utf-8"))
                counts = Counts(**values["counts"])  # type: ignore[typeddict-item]
                found = counts, dict(values["note"])
            except (OSError, ValueError, KeyError, TypeError):
                return
            target = self._folder / part_name(number)
            target.parent.mkdir(parents=True, exist_ok=True)
            (left / part_name(number)).rename(target)
            self._write(number, *found)
            self.entries.append(found)

    def begin(self) -> None:
        """Tell later processes what the parts are made of."""
        if self._key:
            (self._folder / KEPT).parent.mkdir(exist_ok=True)
            (self._folder / KEPT).write_text(self._key)

    def add(self, number: int, counts: Counts, note: dict[str, Any]) -> None:
        """Tell later processes that a part is finished."""
        if self._key:
            self._write(number, counts, note)

    def end(self) -> None:
        """Remove what only later processes need."""
        shutil.rmtree((self._folder / KEPT).parent, ignore_errors=True)

    def _write(self, number: int, counts: Counts, note: dict[str, Any]) -> None:
        entry = self._entry(self._folder, number)
        entry.parent.mkdir(exist_ok=True)
        started = entry.with_suffix(".started")
        started.write_text(json.dumps({"counts": counts, "note": note}), encoding="utf-8")
        started.replace(entry)

    def _entry(self, folder: Path, number: int) -> Path:
        return (folder / KEPT).with_name(f"{number}.json")
