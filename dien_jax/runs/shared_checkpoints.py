"""Checkpoints of a run of several processes: process 0 reads and writes them for all."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from dien_jax.model.batch_norm import without_total_weight
from dien_jax.runs.checkpoints import Checkpoints
from dien_jax.steps.state import TrainState
from dien_jax.utils.processes import from_first, on_first


class SharedCheckpoints:
    """:class:`Checkpoints` in a folder that only process 0 has to see.

    Every process calls every method, and an error of process 0 is raised by all. A checkpoint is
    the same as one of one process, whose rows are in the order of their vocabulary.

    Args:
      directory: the folder, of process 0.
    """

    def __init__(self, directory: Path) -> None:
        self._own = on_first(lambda: Checkpoints(directory))

    def latest_step(self) -> int | None:
        """Return the step of the last checkpoint; None without any."""
        return from_first(lambda: self._checkpoints.latest_step())

    def save(
        self, step: int, state: TrainState | None, host: dict[str, Any], *, best: bool
    ) -> None:
        """Save a checkpoint; ``state`` is on the host of process 0, and None on the others."""

        def write() -> None:
            assert state is not None
            self._checkpoints.save(step, state, host, best=best)

        on_first(write)

    def restore(
        self,
        step: int,
        like: TrainState,
        put: Callable[[TrainState | None, TrainState], TrainState],
    ) -> tuple[TrainState, dict[str, Any]]:
        """Return the state and the host's values as they were saved, bit for bit.

        Args:
          step: step of the checkpoint.
          like: shapes and types of the state, in one device's form.
          put: puts a state that process 0 has on the devices of all, given these shapes.
        """
        state: TrainState | None = None

        def read() -> tuple[dict[str, Any], bool]:
            nonlocal state
            state, host = self._checkpoints.restore(step, like, _unchanged)
            return host, len(jax.tree.leaves(state)) == len(jax.tree.leaves(like))

        host, is_whole = from_first(read)
        if not is_whole:
            like = like._replace(batch_stats=without_total_weight(like.batch_stats))
        return put(state, like), host

    @property
    def _checkpoints(self) -> Checkpoints:
        assert self._own is not None
        return self._own


def _unchanged(state: TrainState) -> TrainState:
    return state
