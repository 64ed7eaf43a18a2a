"""Checkpoints of a run: the whole training state, the latest and the best, by Orbax.

    CHECKPOINTS/1200/            one checkpoint: ``state`` (the arrays) and ``host`` (JSON)
    CHECKPOINTS/1200-1/          the same step, saved again
    CHECKPOINTS/1500.<suffix>/   an interrupted save or removal; deleted at the next start

Orbax renames a folder once it is complete, and a removal renames it first, so a folder with a plain
name is complete. The mark of the best checkpoint is inside it, so that no other file has to change.
Large tables have the order of a :class:`~dien_jax.steps.placement.Layout`, for any number of
devices. In a run of several processes, each handles its devices' shards, and process 0 decides.
"""

import contextlib
import functools
import gc
import json
import logging
import re
import secrets
import shutil
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypedDict, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from jax.sharding import NamedSharding

from dien_jax.errors import UserError, failing, reason
from dien_jax.steps.placement import OneDevice, SavedTable, is_key
from dien_jax.steps.state import TrainState
from dien_jax.utils import processes
from dien_jax.utils.json_values import as_type

LOOKS = 10
"""Number of times in a second that a process looks for the folder that process 0 has made."""
_COMPLETE = re.compile(r"(\d+)(?:-(\d+))?")
_CAUSE = re.compile(r": ([^:]+) \[os_error_code=")  # after long names of files
_LEFTOVER = re.compile(r"\d+(-\d+)?\..+")

Read = TypeVar("Read")
_Saved = tuple[int, int]
"""Step, and number of earlier saves of that step."""


class _Host(TypedDict):
    """Content of ``host``."""

    best: bool
    crc32: dict[str, int]  # of the arrays that one process wrote whole
    host: dict[str, Any]


class Checkpoints:
    """The checkpoints in one folder. Only one run may write there at a time.

    The folder is created if missing, and leftovers are removed. Every process of a run must be able
    to access it and must call every method; an error in one is raised in all. ``read_only`` changes
    nothing and reads without other processes. Failed reads and writes are a ``UserError``.
    """

    def __init__(self, directory: Path, *, read_only: bool = False) -> None:
        self._directory = directory.absolute()
        self._is_alone = read_only
        self._checkpointer = _checkpointer(alone=read_only)

        def made() -> None:
            with _orbax_errors(f"cannot use {directory} for checkpoints"):
                directory.mkdir(parents=True, exist_ok=True)
                self.remove_leftovers()

        if not read_only:
            processes.on_first(made)
            if processes.count() > 1:
                _require_shared(self._directory)

    def _of_first(self, work: Callable[[], Any]) -> Any:
        """Return the result of process 0, which must be JSON values."""
        return work() if self._is_alone else processes.from_first(work)

    def latest_step(self) -> int | None:
        """Return the step of the last checkpoint, or None."""
        return self._of_first(lambda: max((step for step, _ in self._complete()), default=None))

    def best_step(self) -> int | None:
        """Return the step of the last checkpoint saved as best, or None."""
        best = self._best()
        return best[0] if best else None

    def best_path(self) -> Path | None:
        """Return the folder of the last checkpoint saved as best, or None."""
        best = self._best()
        return self._path(best) if best else None

    def save(self, step: int, state: TrainState, host: dict[str, Any], *, best: bool) -> None:
        """Save a checkpoint, then remove those that are neither the latest nor the best.

        The checkpoint is complete and on disk when this returns. A kill at any moment, or a full
        disk, leaves the latest and the best either as before or as after. A step that is saved
        again stays the best if it was; a step before the latest is a ``ValueError``. ``host`` has
        JSON values; floats are restored bit for bit.
        """

        def planned() -> tuple[str, bool, list[str]]:
            earlier, kept = self._complete(), self._best()
            if earlier and step < earlier[-1][0]:
                raise ValueError(f"step must be at least the latest, {earlier[-1][0]}, got {step}")
            is_best = best or (kept is not None and kept[0] == step)
            again = [attempt + 1 for saved, attempt in earlier if saved == step]
            replaced = [self._path(old).name for old in earlier if is_best or old != kept]
            return self._path((step, max(again, default=0))).name, is_best, replaced

        def write() -> None:
            arrays = jax.tree.map(to_write, state)
            values = _Host(best=is_best, crc32=checksums(named_leaves(arrays)), host=host)
            args = ocp.args.Composite(
                state=ocp.args.PyTreeSave(arrays), host=ocp.args.JsonSave(values)
            )
            with _orbax_errors(f"cannot save the checkpoint {path}"):
                self._checkpointer.save(path, args=args)

        def remove() -> None:
            with _orbax_errors(f"cannot save the checkpoint {path}"):
                for old in replaced:
                    (self._directory / old).rename(self._directory / f"{old}.removed")

        try:
            name, is_best, replaced = self._of_first(planned)
            path = self._directory / name
            processes.on_each(write)
            processes.on_first(remove)
        finally:
            if processes.index() == 0:
                self.remove_leftovers()

    def restore(
        self, step: int, like: TrainState, *, optimizer: bool = True
    ) -> tuple[TrainState, dict[str, Any]]:
        """Return the state and the host's values as they were saved, bit for bit.

        Without ``optimizer`` the optimizer's state, twice the size of the model, is not read; its
        arrays are None.

        ``like`` is a state of the same configuration, of arrays or their shapes; only its names,
        shapes, types and devices matter. Arrays that it has sharded are read onto these devices,
        others into host memory. An array that differs from it, or from what was saved, or a
        checkpoint that does not exist, is a UserError.
        """

        def attempt() -> str:
            attempts = [saved for saved in self._complete() if saved[0] == step]
            if not attempts:
                raise UserError(f"{self._directory} has no checkpoint of step {step}")
            return self._path(attempts[-1]).name

        path = self._directory / self._of_first(attempt)
        read = functools.partial(self._read, path, like, optimizer)
        return read() if self._is_alone else processes.on_each(read)

    def settled(self, read: Callable[[], Read]) -> Read:
        """Return ``read()``; repeat it if it fails while a run replaces checkpoints."""
        while True:
            before = self._complete()
            try:
                return read()
            except UserError:
                if self._complete() == before:
                    raise

    def _read(
        self, path: Path, like: TrainState, optimizer: bool
    ) -> tuple[TrainState, dict[str, Any]]:
        with _orbax_errors(f"cannot read the checkpoint {path}"):
            metadata: Any = ocp.PyTreeCheckpointHandler().metadata(path / STATE)
            claimed = named_leaves(metadata.tree)
        leaves, structure = jax.tree.flatten(like)
        expected = dict(zip(named_leaves(like), leaves, strict=True))
        check_arrays(path, claimed, expected)  # before memory is allocated for them
        wanted = {n: leaf for n, leaf in expected.items() if optimizer or not n.startswith(SLOTS)}
        with _orbax_errors(f"cannot read the checkpoint {path}"):
            entries = [claimed[n] if n in wanted else ocp.PLACEHOLDER for n in claimed]
            ways = [_how_to_read(expected[name]) for name in claimed]
            there = jax.tree.structure(metadata.tree)
            item, how = (jax.tree.unflatten(there, leaves) for leaves in (entries, ways))
            state = ocp.args.PyTreeRestore(item=item, restore_args=how)
            content = self._checkpointer.restore(path, args=ocp.args.Composite(state=state))
            found = named_leaves(content["state"])
        arrays = {name: array for name, array in found.items() if array is not ocp.PLACEHOLDER}
        check_arrays(path, arrays, wanted)
        host = _host(path)
        for name, found_sum in checksums(arrays).items():
            if found_sum != host["crc32"].get(name, found_sum):
                raise UserError(f"the checkpoint {path} is damaged: {name} is not as it was saved")
        for name, leaf in wanted.items():
            if is_key(leaf):
                impl = jax.random.key_impl(leaf) if isinstance(leaf, jax.Array) else None
                arrays[name] = jax.random.wrap_key_data(jnp.asarray(arrays[name]), impl=impl)
        state = jax.tree.unflatten(structure, [arrays.get(name) for name in expected])
        return state, host["host"]

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
        newest = reversed(self._complete())
        return next((saved for saved in newest if _host(self._path(saved))["best"]), None)

    def remove_leftovers(self) -> None:
        """Delete leftovers; those that cannot be deleted are ignored and tried again later."""
        for path in self._directory.glob("*.*"):
            if _LEFTOVER.fullmatch(path.name):
                shutil.rmtree(path, ignore_errors=True)


def _host(path: Path) -> _Host:
    file = path / "host/metadata"
    with failing(f"cannot read the checkpoint {path}"):
        return as_type(json.loads(file.read_bytes()), _Host, file)


def restored(
    checkpoints: Checkpoints,
    step: int,
    like: TrainState,
    place: OneDevice,
    *,
    optimizer: bool = True,
) -> tuple[TrainState, dict[str, Any]]:
    """Return :meth:`Checkpoints.restore`, with the state on the devices of ``like``."""
    state, host = checkpoints.restore(step, place.to_restore(like), optimizer=optimizer)
    arrays = [state]
    del state  # keep no reference to the arrays that ``place`` replaces
    return place.restored(arrays.pop(), like), host


def _require_shared(directory: Path) -> None:
    """Refuse a folder that some process of a run cannot access."""
    name = processes.from_first(lambda: f"0.{secrets.token_hex(8)}")  # named like a leftover
    place = directory / name
    processes.on_first(place.mkdir)
    answer = "no"
    for _ in range(LOOKS):  # it may become visible with a delay
        try:
            (place / str(processes.index())).mkdir()
            answer = "yes"
            break
        except OSError:
            time.sleep(1 / LOOKS)
    answers = processes.exchange(answer)
    processes.on_first(lambda: shutil.rmtree(place))
    if "no" in answers:
        where = processes.from_first(lambda: str(directory))
        raise processes.SharedError(
            f"every process of a run must see its folder: process {answers.index('no')} does not "
            f"see {where}; choose a folder of a shared file system"
        )


def _checkpointer(*, alone: bool) -> ocp.Checkpointer:
    """Return an Orbax checkpointer for all processes of a run, or for this one alone."""
    options = ocp.options.MultiprocessingOptions()
    if processes.count() > 1:
        active = {processes.index()} if alone else {*range(processes.count())}
        options = ocp.options.MultiprocessingOptions(
            primary_host=min(active), active_processes=active
        )
    composite = ocp.CompositeOptions(multiprocessing_options=options)
    handler = ocp.CompositeCheckpointHandler("state", "host", composite_options=composite)
    return ocp.Checkpointer(handler, multiprocessing_options=options)


@contextlib.contextmanager
def _orbax_errors(failure: str) -> Iterator[None]:
    """Turn file errors, of whatever type Orbax raises, into a :class:`UserError`.

    Orbax reads and writes arrays concurrently. When one fails, the threads and tasks of the others
    find their event loop closed and print tracebacks, which are silenced: one message is enough.
    """
    jax.devices()  # Orbax needs them; an error about devices is not one about files
    loggers = [logging.getLogger(name) for name in ("absl", "asyncio")]
    levels, hook = [logger.level for logger in loggers], sys.unraisablehook
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    sys.unraisablehook = lambda _: None
    problem = None
    try:
        yield
    except Exception as error:  # a damaged checkpoint raises exceptions of every kind
        cause = _CAUSE.search(str(error))
        problem = cause[1] if cause else reason(error)
    finally:
        if problem is not None:
            time.sleep(0.1)  # Orbax's threads cannot be joined from here
            gc.collect()  # tasks print errors when they are collected
        sys.unraisablehook = hook
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
    if problem is not None:
        raise UserError(f"{failure}: {problem}")


STATE = "state"
"""Folder of the arrays of a checkpoint."""
SLOTS = "optimizer_state/"
"""Prefix of the names of the optimizer's arrays."""
MOST_FILLER = 4096
"""Limit of the filler rows after a table's rows in a file; there are fewer than devices."""


def _how_to_read(leaf: Any) -> Any:
    """Return Orbax's arguments to restore an array, sharded as the leaf is, or on the host."""
    sharding = getattr(leaf, "sharding", None)
    if not isinstance(sharding, NamedSharding) or isinstance(leaf, jax.Array):
        return ocp.RestoreArgs(restore_type=np.ndarray)
    plain = jax.eval_shape(_without_key, leaf) if is_key(leaf) else leaf
    return ocp.ArrayRestoreArgs(
        sharding=sharding, global_shape=plain.shape, dtype=plain.dtype, strict=False
    )


def to_write(leaf: Any) -> Any:
    """Return an array for Orbax to write: sharded over devices, or copied to the host."""
    leaf = _without_key(leaf)
    sharding = getattr(leaf, "sharding", None)
    return leaf if isinstance(sharding, NamedSharding) else jax.device_get(leaf)


def _without_key(leaf: Any) -> Any:
    """Return the integers of a typed PRNG key, and any other array unchanged."""
    return jax.random.key_data(leaf) if is_key(leaf) else leaf


def named_leaves(tree: Any) -> dict[str, Any]:
    """Return the leaves by names like ``params/embedding/item``, since Orbax loses tuples."""
    paths, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in paths}


def checksums(arrays: dict[str, Any]) -> dict[str, int]:
    """Return the CRC-32 of the arrays that are in host memory."""
    whole = {name: array for name, array in arrays.items() if isinstance(array, np.ndarray)}
    parts = {name: np.ascontiguousarray(array).reshape(-1) for name, array in whole.items()}
    return {name: zlib.crc32(part.view(np.uint8).data) for name, part in parts.items()}


def check_arrays(path: Path, found: dict[str, Any], expected: dict[str, Any]) -> None:
    """Refuse arrays whose names, types or shapes differ from those of the configuration."""
    mismatch = f"the checkpoint {path} does not fit the configuration:"
    for name, leaf in expected.items():
        plain = jax.eval_shape(_without_key, leaf) if is_key(leaf) else leaf
        wanted, array = _described(plain), found.get(name)
        actual = "nothing" if array is None else _described(array)
        if actual != wanted and not (isinstance(leaf, SavedTable) and _has_rows(array, leaf)):
            raise UserError(f"{mismatch} expected {name} as {wanted}, found {actual}")
    for name in found:
        if name not in expected:
            raise UserError(f"{mismatch} it has {name}, which the configuration lacks")


def _has_rows(array: Any, table: SavedTable) -> bool:
    """Return whether an array has the rows of a table, and only a little filler after them."""
    if array is None or not array.shape:
        return False
    same = array.dtype == table.dtype and tuple(array.shape[1:]) == table.shape[1:]
    return same and table.used <= array.shape[0] < table.used + MOST_FILLER


def _described(array: Any) -> str:
    return f"{array.dtype} {list(array.shape)}"
