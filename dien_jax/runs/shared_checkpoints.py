"""Checkpoints of a run of several processes, which all see their folder, or process 0 alone."""

import secrets
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dien_jax.runs.checkpoints import Checkpoints, add_rows, with_rows
from dien_jax.steps.state import TrainState
from dien_jax.utils.processes import exchange, from_first, index, on_each, on_first

LOOKS = 10
"""How often a process looks for what process 0 has written, in a second."""


class SharedCheckpoints:
    """:class:`Checkpoints` of all processes of a run.

    Where all see the folder, each writes and reads rows of split tables; process 0 does the rest.
    Otherwise a state to be saved is on its host, and what it restores is put on devices by way of
    it. Every process calls every method, and an error of one is raised by all. A checkpoint is the
    same as one of one process, whose rows are in the order of their vocabulary.

    Args:
      directory: the folder, as this process sees it.

    Attributes:
      all_see: whether every process can write there.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory.absolute()
        self._own = on_first(lambda: Checkpoints(directory))
        self.all_see = _all_see(directory)

    def latest_step(self) -> int | None:
        """Return the step of the last checkpoint; None without any."""
        return from_first(lambda: self._checkpoints.latest_step())

    def save(
        self, step: int, state: TrainState | None, host: dict[str, Any], *, best: bool
    ) -> None:
        """Save a checkpoint.

        ``state`` has split tables, if all see the folder; otherwise it is on the host of process 0,
        and None on the others.
        """
        try:
            begun = on_first(lambda: self._checkpoints.begin(step, _some(state), host, best=best))
            found = from_first(lambda: (_some(begun).folder.name, _some(begun).names))
            folder, names = self._directory / found[0], found[1]
            if names:
                on_each(lambda: add_rows(folder, names, _some(state)))
            processes = len(exchange(""))
            on_first(lambda: self._checkpoints.finish(_some(begun), _some(state), processes))
        finally:
            if self._own is not None:
                self._own.remove_leftovers()

    def restore(
        self,
        step: int,
        like: TrainState,
        put: Callable[[TrainState | None, TrainState], TrainState],
    ) -> tuple[TrainState, dict[str, Any]]:
        """Return the state and the host's values as they were saved, bit for bit.

        Args:
          step: step of the checkpoint.
          like: shapes and types of the state, in one device's form or, if all see the folder, with
            split tables.
          put: puts a state that process 0 has on the devices of all, given these shapes, and split
            tables that are there.
        """
        state: TrainState | None = None

        def read() -> tuple[dict[str, Any], str, list[str]]:
            nonlocal state
            found = self._checkpoints.read(step, like)
            state = found.state
            return found.host, found.folder.name, found.names

        host, folder, names = from_first(read)
        like = on_each(lambda: with_rows(self._directory / folder, names, like))
        return put(state, like), host

    @property
    def _checkpoints(self) -> Checkpoints:
        return _some(self._own)


def _some(value: Any) -> Any:
    """Return what this process has."""
    assert value is not None
    return value


def _all_see(directory: Path) -> bool:
    """Return whether every process can write in a folder that process 0 makes below this one."""
    name = from_first(lambda: f"0.{secrets.token_hex(8)}")  # a leftover, if it stays
    place = directory / name
    on_first(place.mkdir)
    answers = exchange("yes" if _reaches(place) else "no")
    on_first(lambda: shutil.rmtree(place))
    return "no" not in answers


def _reaches(place: Path) -> bool:
    for _ in range(LOOKS):
        try:
            (place / str(index())).mkdir()
            return True
        except OSError:
            time.sleep(1 / LOOKS)
    return False
