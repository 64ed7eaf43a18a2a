"""The steps from a log to a dataset folder that all sources of logs share.

Nothing here needs the extra ``data`` before it is called: sources can be listed without it.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from dien_jax.errors import require
from dien_jax.preparation.options import ColumnOptions, Features, LogOptions

if TYPE_CHECKING:
    from ibis.expr.types import Table, Value

    from dien_jax.data.dataset import Dataset
    from dien_jax.preparation.pipeline.events import Reasons
    from dien_jax.preparation.reading.log import Log
    from dien_jax.preparation.reading.workspace import Workspace


class SourceLog(NamedTuple):
    """A log as its source reads it.

    Attributes:
      log: the rows.
      features: the features that they have.
      about: the entry ``source`` of ``meta.json``.
      report: lines for the user; ``narrow`` may add some.
      narrow: filters the rows that are not malformed, before anything is counted.
      refuse: returns more reasons for which rows are malformed, from the rows and their times.
      extended: the dataset folder that the new one extends.
    """

    log: "Log"
    features: Features
    about: dict[str, Any]
    report: list[str]
    narrow: "Callable[[Table], Table]" = lambda clean: clean
    refuse: "Callable[[Table, Value], Reasons]" = lambda rows, time: []
    extended: "Dataset | None" = None


def prepare_log(options: LogOptions, read: "Callable[[Workspace, Any], SourceLog]") -> list[str]:
    """Read a log into an engine, and make the dataset folder; return lines about it."""
    require("data", "preparing logs")
    from dien_jax.preparation.pipeline.events import load_events
    from dien_jax.preparation.pipeline.write import write_log
    from dien_jax.preparation.reading.engines import open_workspace

    with open_workspace(options) as workspace:
        source = read(workspace, options)
        events = load_events(workspace, source, options.max_bad_share)
        written = write_log(workspace, options, events, source.about, source.extended)
        return source.report + written


def prepare_columns(options: ColumnOptions, name: str, table: Any = None) -> list[str]:
    """Make a dataset folder from a log in columns, which ``prepare NAME`` reads.

    A ``table`` in memory replaces the file, which is then its name in messages; see
    :func:`dien_jax.make_dataset`.
    """

    def read(workspace: "Workspace", options: ColumnOptions) -> SourceLog:
        from dien_jax.preparation.pipeline.from_columns import read_own_log

        return read_own_log(workspace, options, name, table)

    return prepare_log(options, read)
