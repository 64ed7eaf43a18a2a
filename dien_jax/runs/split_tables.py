"""Split tables in the files of a checkpoint: every process writes and reads rows of its own.

Orbax keeps the arrays of a checkpoint in a TensorStore database. Here arrays are added to one that
it has written, as Orbax itself has several processes do: each writes into a database of its own
below, then one refers to the content of all. Rows are in the order of the vocabulary; a block of
:class:`~dien_jax.steps.row_blocks.RowBlocks` is a chunk, so no two processes write to the same one.
"""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tensorstore as ts

from dien_jax.errors import UserError
from dien_jax.steps.row_blocks import RowBlocks
from dien_jax.utils.files import read_json
from dien_jax.utils.processes import still_working

ROWS_FOLDER = "ocdbt.rows_{}"
"""Database of a process."""
PENDING_BYTES = 1 << 26
"""Bytes that are written at a time."""


def write_rows(folder: Path, process: int, tables: dict[str, RowBlocks]) -> None:
    """Write the blocks that this process gets; every process has to call this.

    Args:
      folder: folder of arrays, which has an array of any shape in place of each table.
      process: number of this process.
      tables: tables by their names in the folder.
    """
    attempt = _Attempt()
    for name, table in tables.items():
        store, pending = attempt(_made, folder, process, name, table), _Pending()
        for window in table.windows():
            still_working()
            for rows, content in window:
                attempt(pending.write, store, _place(table.axis, rows), content)
        attempt(pending.wait)
    attempt.end()


def join_rows(folder: Path, processes: int, tables: dict[str, RowBlocks]) -> None:
    """Put what all processes wrote in place of the arrays that stand for tables.

    Raises:
      UserError: if blocks are missing.
    """
    context = ts.Context()
    whole = ts.KvStore.open(_database(folder), context=context).result()
    for name in tables:
        whole.delete_range(_range(name)).result()
    for process in range(processes):
        part = _database(folder / ROWS_FOLDER.format(process))
        written = ts.KvStore.open(part, context=context).result()
        transaction = ts.Transaction(atomic=True)
        written.experimental_copy_range_to(whole.with_transaction(transaction)).result()
        transaction.commit_async().result()
    for name, table in tables.items():
        found = len(whole.list(_range(name)).result()) - 1  # and the file of its shape
        if found != table.blocks:
            raise UserError(f"{name} has {found:,} of {table.blocks:,} blocks of rows")


def read_rows(folder: Path, tables: dict[str, RowBlocks]) -> list[RowBlocks]:
    """Return tables with the rows of a folder of arrays; every process has to call this.

    Args:
      folder: folder of arrays, in which rows are in the order of the vocabulary.
      tables: shapes of tables, by their names in the folder.
    """
    attempt = _Attempt()
    found = []
    for name, table in tables.items():
        store = attempt(_opened, folder, name)
        read = functools.partial(attempt, _read, store, table.axis)
        found.append(table.with_array(table.filled(read)))
    attempt.end()
    return found


class _Attempt:
    """Work of which nothing is done after a failure, which is raised at the end.

    The other processes exchange rows with this one meanwhile, and would wait for it.
    """

    def __init__(self) -> None:
        self._problem: Exception | None = None

    def __call__(self, work: Callable[..., Any], *arguments: Any) -> Any:
        """Return the result of a function; None after a failure."""
        if self._problem is None:
            try:
                return work(*arguments)
            except Exception as problem:  # TensorStore raises errors of every kind
                self._problem = problem
        return None

    def end(self) -> None:
        if self._problem is not None:
            raise self._problem


class _Pending:
    """Writes that are under way, of at most ``PENDING_BYTES`` and one block."""

    def __init__(self) -> None:
        self._writes: list[Any] = []
        self._bytes = 0

    def write(self, store: Any, place: tuple[slice, ...], content: np.ndarray) -> None:
        self._writes.append(store[place].write(content))
        self._bytes += content.nbytes
        if self._bytes > PENDING_BYTES:
            self.wait()

    def wait(self) -> None:
        for write in self._writes:
            write.result()
        self._writes.clear()
        self._bytes = 0


def _place(axis: int, rows: slice) -> tuple[slice, ...]:
    return (*[slice(None)] * axis, rows)


def _read(store: Any, axis: int, rows: slice) -> np.ndarray:
    still_working()
    return store[_place(axis, rows)].read().result()


def _range(name: str) -> ts.KvStore.KeyRange:
    """Return the keys of an array."""
    return ts.KvStore.KeyRange(f"{name}/", f"{name}0")  # 0 follows / among characters


def _database(folder: Path, name: str | None = None) -> dict[str, Any]:
    spec = {"driver": "ocdbt", "base": {"driver": "file", "path": f"{folder}/"}}
    return spec if name is None else spec | {"path": f"{name}/"}


def _opened(folder: Path, name: str) -> Any:
    """Return an array of a folder."""
    about: dict[str, Any] = read_json(folder / "_METADATA", dict)
    files = _database(folder, name)
    if not about.get("use_ocdbt", True):
        files = {"driver": "file", "path": f"{folder / name}/"}
    driver = "zarr3" if about.get("use_zarr3") else "zarr"
    spec: dict[str, Any] = {"driver": driver, "kvstore": files}
    if about.get("store_array_data_equal_to_fill_value"):
        spec["fill_missing_data_reads"] = False
    return ts.open(spec, read=True).result()


def _made(folder: Path, process: int, name: str, table: RowBlocks) -> Any:
    """Return a new array for a table, of the type and the form of the one that stands for it."""
    chunk = list(table.shape)
    chunk[table.axis] = min(table.block, table.rows)
    like = _opened(folder, name)
    spec = {
        "driver": like.spec().to_json()["driver"],
        "kvstore": _database(folder / ROWS_FOLDER.format(process), name),
        "store_data_equal_to_fill_value": True,
    }
    return ts.open(
        spec,
        create=True,
        dtype=like.dtype,
        shape=table.shape,
        codec=like.codec,
        fill_value=like.fill_value,
        chunk_layout=ts.ChunkLayout(chunk_shape=chunk),
    ).result()
