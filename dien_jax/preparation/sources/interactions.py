"""Logs of interactions: who chose what when. What was not chosen is sampled.

An example is an event and its history everything before it in time, ties in the log's order; see
``pipeline.splits`` for who has which examples. A user's first event has no history and
is no example, so a user with a single event has none at all and only appears in ``groups.txt``
and the events. Popularity, vocabularies and rows of users come from training events, which are
those that a training example holds as its target or in its history; with ``--train-from``
popularity counts what was before too.
"""

from dataclasses import dataclass

from dien_jax.preparation.options import (
    ColumnOptions,
    ImplicitOptions,
    SplitPolicy,
)
from dien_jax.utils.console import say, stage
from dien_jax.utils.extras import require
from dien_jax.utils.text_files import sha256


@dataclass(frozen=True, kw_only=True)
class InteractionsOptions(ImplicitOptions, ColumnOptions):
    """A log of what users chose, as CSV or Parquet; what they did not choose is drawn."""

    split: SplitPolicy = "last-event"
    """What is held out: whole users, each user's last two events, or the latest events."""


def prepare(options: InteractionsOptions) -> list[str]:
    """Makes a dataset folder of a log of interactions.

    Returns:
      lines that say what was made.

    Raises:
      UserError: when the extra ``data`` is missing, the log cannot be read or is too malformed,
        nothing is left to train on, or the folder cannot be written.
    """
    require("data", "preparing logs")
    from dien_jax.preparation.pipeline.events import load_events
    from dien_jax.preparation.pipeline.extending import described_source, open_extended
    from dien_jax.preparation.pipeline.from_interactions import write_interactions
    from dien_jax.preparation.reading.log_files import Log, read_log
    from dien_jax.preparation.reading.workspace import Workspace

    say(f"from interactions in {options.file}: {options.describe()}")
    extended = open_extended(options, "interactions")
    with Workspace(options.out, options.memory_limit) as workspace:

        def read(careful: bool) -> Log:
            with stage(f"reading {options.file}{' line by line' if careful else ''}"):
                return read_log(workspace, options, careful=careful)

        features = options.features()
        events = load_events(
            workspace,
            read,
            features=features,
            has_label=False,
            max_bad_share=options.max_bad_share,
        )
        return write_interactions(
            workspace,
            options,
            events,
            features,
            separator=options.separator,
            max_values=options.max_values,
            source=described_source("interactions", options, sha256(options.file), extended),
            extended=extended,
        )
