"""Logs of interactions: users, and the items they chose. Negatives are drawn.

:mod:`dien_jax.preparation.pipeline.from_interactions` describes examples, histories and splits.
"""

from dataclasses import dataclass

from dien_jax.preparation.options import ColumnOptions, ImplicitOptions, SplitPolicy
from dien_jax.utils.console import say
from dien_jax.utils.extras import require


@dataclass(frozen=True, kw_only=True)
class InteractionsOptions(ImplicitOptions, ColumnOptions):
    """A log of items that users chose, as CSV or Parquet. Negatives are drawn."""

    split: SplitPolicy = "last-event"
    """Held out: whole users (by-user), each user's last two events (last-event), or the latest
    events (by-time)."""


def prepare(options: InteractionsOptions) -> list[str]:
    """Make a dataset folder from a log of interactions.

    Returns:
      lines that summarise it.

    Raises:
      UserError: when the extra ``data`` is missing, the log cannot be read or is too malformed,
        nothing is left to train on, or the folder cannot be written.
    """
    require("data", "preparing logs")
    from dien_jax.preparation.pipeline.events import load_events
    from dien_jax.preparation.pipeline.extending import column_source, open_extended
    from dien_jax.preparation.pipeline.from_interactions import write_interactions
    from dien_jax.preparation.reading.log_files import read_log
    from dien_jax.preparation.reading.workspace import Workspace

    say(f"from interactions in {options.file}: {options.describe()}")
    extended = open_extended(options, "interactions")
    with Workspace(options.out, options.memory_limit) as workspace:
        log = read_log(workspace, options)
        events = load_events(
            workspace, log, options.features(), max_bad_share=options.max_bad_share
        )
        source = column_source("interactions", options, extended)
        return write_interactions(workspace, options, events, source, extended)
