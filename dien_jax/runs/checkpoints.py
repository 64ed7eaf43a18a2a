"""Checkpoints of a run: the whole training state, the latest and the best, through Orbax.

    CHECKPOINTS/1200/            one checkpoint: ``state`` (the arrays) and ``host`` (JSON)
    CHECKPOINTS/1200-1/          the same step, saved again
    CHECKPOINTS/1500.<suffix>/   an interrupted save or removal; deleted at the next start

Orbax renames a folder once it is complete; a removal renames first, for the same reason. The best
checkpoint is marked inside itself, so that no other file has to change with it. Tables that are
split over devices are :class:`RowBlocks` in a state; :mod:`dien_jax.runs.split_tables` adds them to
what Orbax wrote, before the folder gets its name.
"""

import contextlib
import gc
import logging
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, TypedDict

import jax
import orbax.checkpoint as ocp

from dien_jax.errors import UserError, reason
from dien_jax.runs.saved_arrays import (
    STATE,
    all_but_tables,
    arrays_in,
    check_arrays,
    is_split,
    named_leaves,
    table_names,
    tables_by_name,
    to_write,
    with_key,
)
from dien_jax.runs.split_tables import join_rows, read_rows, write_rows
from dien_jax.steps.state import TrainState, placed_like
from dien_jax.utils.json_values import as_type
from dien_jax.utils.processes import count, index

_COMPLETE = re.compile(r"(\d+)(?:-(\d+))?")
_LEFTOVER = re.compile(r"\d+(-\d+)?\..+")

_Saved = tuple[int, int]
"""Step, and how many times that step was saved before."""


class _Host(TypedDict):
    """Form of ``host``."""

    best: bool
    host: dict[str, Any]


class Unfinished(NamedTuple):
    """A checkpoint that lacks its split tables.

    ``folder`` is its folder until it is complete, ``path`` after; ``names`` are those of its split
    tables in the order of the state, and ``replaced`` are earlier checkpoints that it replaces.
    """

    folder: Path
    path: Path
    names: list[str]
    replaced: list[_Saved]


class Incomplete(NamedTuple):
    """A state whose split tables are not read, the host's values, and where the tables are.

    ``names`` are those of the split tables in the order of the state.
    """

    state: TrainState
    host: dict[str, Any]
    folder: Path
    names: list[str]


class Checkpoints:
    """The checkpoints in one folder. Only one process may write there at a time.

    Args:
      directory: the folder; created, and cleared of leftovers, unless ``read_only``.
      read_only: change nothing.

    Attributes:
      all_see: whether every process of a run sees the folder, here of one process.

    Raises:
      UserError: when the folder cannot be written or, in methods, a checkpoint cannot be read.
    """

    all_see = True

    def __init__(self, directory: Path, *, read_only: bool = False) -> None:
        self._directory = directory.absolute()
        self._checkpointer = _checkpointer()
        if not read_only:
            with _orbax_errors(f"cannot use {directory} for checkpoints"):
                directory.mkdir(parents=True, exist_ok=True)
                self.remove_leftovers()

    def latest_step(self) -> int | None:
        """Return the step of the last checkpoint; None without any."""
        saved = self._complete()
        return saved[-1][0] if saved else None

    def best_step(self) -> int | None:
        """Return the step of the last checkpoint saved as best; None without any."""
        best = self._best()
        return best[0] if best else None

    def best_path(self) -> Path | None:
        """Return the folder of the last checkpoint saved as best; None without any."""
        best = self._best()
        return self._path(best) if best else None

    def save(self, step: int, state: TrainState, host: dict[str, Any], *, best: bool) -> None:
        """Save a checkpoint, then remove those that are neither the latest nor the best.

        The checkpoint is complete and on disk when this returns. A kill at any moment leaves the
        latest and the best either as before or as after, and so does a full disk. A step that is
        saved again stays the best if it was.

        Args:
          step: steps done, at least the latest (else ValueError).
          state: arrays, typed PRNG keys and split tables among them.
          host: values for JSON; floats are restored bit for bit.
          best: true for the best checkpoint so far.
        """
        try:
            begun = self.begin(step, state, host, best=best)
            if begun.names:
                add_rows(begun.folder, begun.names, state)
            self.finish(begun, state)
        finally:
            self.remove_leftovers()

    def begin(
        self, step: int, state: TrainState, host: dict[str, Any], *, best: bool
    ) -> Unfinished:
        """Write all of a checkpoint but its split tables; see :meth:`save`."""
        earlier = self._complete()
        kept = self._best()
        if earlier and step < earlier[-1][0]:
            raise ValueError(f"step must be at least the latest, {earlier[-1][0]}, got {step}")
        best = best or (kept is not None and kept[0] == step)
        again = [attempt + 1 for saved, attempt in earlier if saved == step]
        path = self._path((step, max(again, default=0)))
        arrays = jax.device_get(jax.tree.map(to_write, state))
        has_tables = any(map(is_split, jax.tree.leaves(state)))
        folder = path.with_name(f"{path.name}.unfinished") if has_tables else path
        with _orbax_errors(f"cannot save the checkpoint {path}"):
            values = ocp.args.JsonSave({"best": best, "host": host})
            content = ocp.args.Composite(state=ocp.args.PyTreeSave(arrays), host=values)
            self._checkpointer.save(folder, args=content)
            names = table_names(arrays_in(folder), state) if has_tables else []
        return Unfinished(folder, path, names, [old for old in earlier if best or old != kept])

    def finish(self, begun: Unfinished, state: TrainState, processes: int = 1) -> None:
        """Complete a checkpoint to which all processes have added their rows."""
        with _orbax_errors(f"cannot save the checkpoint {begun.path}"):
            if begun.names:
                join_rows(begun.folder / STATE, processes, tables_by_name(begun.names, state))
                begun.folder.rename(begun.path)
            for old in begun.replaced:
                name = self._path(old)
                name.rename(f"{name}.removed")

    def restore(
        self,
        step: int,
        like: TrainState,
        put: Callable[[TrainState], TrainState] | None = None,
    ) -> tuple[TrainState, dict[str, Any]]:
        """Return the state and the host's values as they were saved, bit for bit.

        Only names, shapes, types and devices of ``like`` matter, a state of the same configuration,
        arrays or their shapes: each array is put on the device of its counterpart there, or the
        default device; or else ``put`` takes the state, on the host but for its split tables, to
        devices. An array that differs from it, or a checkpoint that does not exist, is a UserError.
        """
        found = self.read(step, like)
        state = with_rows(found.folder, found.names, found.state)
        if put is not None:
            return put(state), found.host
        return placed_like(state, like), found.host

    def read(self, step: int, like: TrainState) -> Incomplete:
        """Return all of a checkpoint but the rows of its split tables; see :meth:`restore`."""
        attempts = [saved for saved in self._complete() if saved[0] == step]
        if not attempts:
            raise UserError(f"{self._directory} has no checkpoint of step {step}")
        path = self._path(attempts[-1])
        with _orbax_errors(f"cannot read the checkpoint {path}"):
            claimed = arrays_in(path)
        leaves, structure = jax.tree.flatten(like)
        expected = dict(zip(named_leaves(like), leaves, strict=True))
        check_arrays(path, claimed, expected)  # before memory is taken for what it claims
        with _orbax_errors(f"cannot read the checkpoint {path}"):
            state, values = all_but_tables(path, expected), ocp.args.JsonRestore()
            arguments = ocp.args.Composite(state=state, host=values)
            content = self._checkpointer.restore(path, args=arguments)
            arrays = named_leaves(content["state"])
        arrays |= {name: leaf for name, leaf in expected.items() if is_split(leaf)}
        host = as_type(content["host"], _Host, path / "host")["host"]
        check_arrays(path, arrays, expected)
        restored = [
            leaf if is_split(leaf) else with_key(arrays[name], leaf)
            for name, leaf in expected.items()
        ]
        found = jax.tree.unflatten(structure, restored)
        return Incomplete(found, host, path, table_names(claimed, found))

    def _path(self, saved: _Saved) -> Path:
        step, attempt = saved
        return self._directory / (f"{step}-{attempt}" if attempt else str(step))

    def _complete(self) -> list[_Saved]:
        """Return the complete checkpoints, oldest first."""
        if not self._directory.is_dir():
            return []
        matches = [_COMPLETE.fullmatch(path.name) for path in self._directory.iterdir()]
        return sorted((int(match[1]), int(match[2] or 0)) for match in matches if match)

    def _best(self) -> _Saved | None:
        for saved in reversed(self._complete()):
            path = self._path(saved)
            with _orbax_errors(f"cannot read the checkpoint {path}"):
                arguments = ocp.args.Composite(host=ocp.args.JsonRestore())
                host = self._checkpointer.restore(path, args=arguments)["host"]
            if as_type(host, _Host, path / "host")["best"]:
                return saved
        return None

    def remove_leftovers(self) -> None:
        """Delete leftovers; those that cannot be deleted are ignored and tried again later."""
        for path in self._directory.glob("*.*"):
            if _LEFTOVER.fullmatch(path.name):
                shutil.rmtree(path, ignore_errors=True)


def add_rows(folder: Path, names: list[str], state: TrainState) -> None:
    """Add rows of the split tables of a state; every process has to call this.

    Args:
      folder: that of an :class:`Unfinished` checkpoint.
      names: names of its split tables.
      state: state with split tables, whose other arrays do not matter.
    """
    with _orbax_errors(f"cannot save the checkpoint {folder.with_suffix('')}"):
        write_rows(folder / STATE, index(), tables_by_name(names, state))


def with_rows(folder: Path, names: list[str], state: TrainState) -> TrainState:
    """Return a state with the rows of its split tables; every process has to call this.

    Args:
      folder: folder of a checkpoint.
      names: names of its split tables.
      state: state with split tables, whose other arrays do not matter.
    """
    if not names:
        return state
    with _orbax_errors(f"cannot read the checkpoint {folder}"):
        tables = iter(read_rows(folder / STATE, tables_by_name(names, state)))
    return jax.tree.map(lambda leaf: next(tables) if is_split(leaf) else leaf, state)


def _checkpointer() -> ocp.Checkpointer:
    """Return Orbax's reader and writer; in a run of several processes it waits for none of them."""
    alone = ocp.options.MultiprocessingOptions()
    if count() > 1:
        alone = ocp.options.MultiprocessingOptions(primary_host=index(), active_processes={index()})
    composite = ocp.CompositeOptions(multiprocessing_options=alone)
    handler = ocp.CompositeCheckpointHandler("state", "host", composite_options=composite)
    return ocp.Checkpointer(handler, multiprocessing_options=alone)


@contextlib.contextmanager
def _orbax_errors(failure: str) -> Iterator[None]:
    """Turn an error of files, in any form that Orbax gives it, into a :class:`UserError`.

    Orbax reads and writes arrays concurrently. When one fails, the threads and tasks of the others
    find their event loop closed and print tracebacks, which are silenced: one message is enough.
    """
    jax.devices()  # Orbax asks for them; where there are none, no file is at fault
    loggers = [logging.getLogger(name) for name in ("absl", "asyncio")]
    levels, hook = [logger.level for logger in loggers], sys.unraisablehook
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    sys.unraisablehook = lambda _: None
    problem = None
    try:
        yield
    except Exception as error:  # a damaged checkpoint raises exceptions of every kind
        problem = reason(error)
    finally:
        if problem is not None:
            time.sleep(0.1)  # Orbax's threads cannot be joined from here
            gc.collect()  # a task complains when it is collected
        sys.unraisablehook = hook
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
    if problem is not None:
        raise UserError(f"{failure}: {problem}")
