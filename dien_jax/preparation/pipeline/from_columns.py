"""Logs in columns, of interactions or impressions: read the log, write the folder."""

from collections.abc import Callable

from dien_jax.preparation.options import ColumnOptions
from dien_jax.preparation.pipeline.events import load_events
from dien_jax.preparation.pipeline.extending import column_source, open_extended
from dien_jax.preparation.reading.engines import open_workspace, read_columns
from dien_jax.preparation.reading.log import address_of
from dien_jax.utils.console import say


def prepare_columns(
    options: ColumnOptions, name: str, write: Callable[..., list[str]], part_events: int
) -> list[str]:
    """Read the log that the options name, and ``write`` the folder with the source's name.

    ``part_events`` are held in memory at a time.
    """
    say(f"from {name} in {address_of(options.file) or options.file}: {options.describe()}")
    extended = open_extended(options, name)
    hint = " (a CSV file without a header needs --columns)"
    text = {"separator": options.separator, "hint": hint}
    with open_workspace(options.out, options.memory_limit, options.spark) as workspace:
        wanted = options.log_columns()
        log = read_columns(workspace, options.file, wanted, columns=options.columns, **text)
        features = options.features()
        events = load_events(workspace, log, features, options.max_bad_share)
        events = events._replace(part_events=part_events)
        return write(
            workspace, options, events, column_source(name, options, log, extended), extended
        )
