"""The steps from a log to a dataset folder, shared by all sources of logs.

Importing this module does not need the extra ``data``, so sources can be listed without it.
"""

import contextlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from dien_jax.errors import require, writing
from dien_jax.preparation.memory import reading_limit
from dien_jax.preparation.options import ColumnOptions, Features, LogOptions
from dien_jax.preparation.writer import check_target
from dien_jax.utils.files import check_utf8, partial_folder

if TYPE_CHECKING:
    from ibis.expr.types import Table, Value

    from dien_jax.data.dataset import Dataset
    from dien_jax.preparation.pipeline.events import Reasons
    from dien_jax.preparation.reading.log import Log
    from dien_jax.preparation.reading.workspace import Workspace


class SourceLog(NamedTuple):
    """A log, as returned by its source."""

    log: "Log"
    features: Features
    about: dict[str, Any]  # the entry ``source`` of ``meta.json``
    report: list[str]  # lines for the user; ``narrow`` may add some
    # filters the well-formed rows before anything is counted
    narrow: "Callable[[Table], Table]" = lambda clean: clean
    # returns more reasons why rows are malformed, from rows and their times
    refuse: "Callable[[Table, Value], Reasons]" = lambda rows, time: []
    extended: "Dataset | None" = None  # the dataset folder that the new one extends


@contextlib.contextmanager
def open_workspace(options: LogOptions) -> "Iterator[Workspace]":
    """Open the engine with a hidden folder next to ``--out``, which is removed at the end.

    Tables of DuckDB beyond ``--memory`` spill to that disk. Errors of the engine that a user can
    act on are raised as ``UserError``.
    """
    from dien_jax.preparation.reading.duckdb_engine import duckdb_workspace

    check_target(options.out)
    check_utf8(options.out, "--out")
    with (
        writing(options.out, "dataset folder"),
        partial_folder(options.out, "work-") as folder,
        duckdb_workspace(options.out, folder, f"{reading_limit(options.memory)}B") as local,
    ):
        if options.engine == "duckdb":
            yield local
            return
        require("spark", "--engine spark")
        from dien_jax.preparation.reading.spark_workspace import spark_workspace

        with spark_workspace(local, options.spark_url, options.spark_folder) as workspace:
            yield workspace


def prepare_log(options: LogOptions, read: "Callable[[Workspace, Any], SourceLog]") -> list[str]:
    """Read a log into an engine, and make the dataset folder; return report lines."""
    require("data", "preparing logs")
    from dien_jax.preparation.pipeline.events import load_events
    from dien_jax.preparation.pipeline.write import write_log

    with open_workspace(options) as workspace:
        source = read(workspace, options)
        events = load_events(workspace, source, options)
        written = write_log(options, events, source)
        return source.report + written


def prepare_columns(options: ColumnOptions, name: str, table: Any = None) -> list[str]:
    """Make a dataset folder from a log in columns: ``table`` if given, else the file."""
    require("data", "preparing logs")
    from dien_jax.preparation.pipeline.from_columns import read_own_log

    return prepare_log(options, partial(read_own_log, name=name, table=table))
