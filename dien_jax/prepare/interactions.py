"""Logs of interactions: who chose what when. What was not chosen is sampled.

An example is an event and its history everything before it in time, ties in the log's order; see
:mod:`dien_jax.prepare.splits` for who has which examples. A user's first event has no history and
is no example, so a user with a single event has none at all and only appears in ``groups.txt``
and the events. Popularity, vocabularies and rows of users come from training events, which are
those that a training example holds as its target or in its history.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from dien_jax.dataset_text import SPLITS
from dien_jax.errors import UserError
from dien_jax.prepare import splits
from dien_jax.prepare.lines import sha256
from dien_jax.prepare.negatives import Distribution, draw_negatives
from dien_jax.prepare.options import ColumnOptions, FeatureColumn, LogOptions, SplitPolicy
from dien_jax.prepare.progress import say, stage

if TYPE_CHECKING:
    from dien_jax.prepare.tables import Clock, Events
    from dien_jax.prepare.workspace import Workspace


@dataclass(frozen=True, kw_only=True)
class ImplicitOptions(LogOptions):
    """What logs without negatives have besides: how negatives are drawn."""

    negatives: int = 1
    """Negatives drawn for each positive."""
    negative_distribution: Distribution = "popularity"
    """Draw negatives in proportion to their training events, or all items alike."""
    allow_own_negatives: bool = False
    """Whether items that the same user chose, earlier or later, may be drawn."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.negatives < 1:
            raise UserError(f"--negatives must be at least 1, got {self.negatives}")

    def describe(self) -> str:
        """Splits and negatives in words."""
        plural = "s" * (self.negatives > 1)
        how = "by popularity" if self.negative_distribution == "popularity" else "uniformly drawn"
        return f"{super().describe()}, {self.negatives} negative{plural} a positive, {how}"


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
    from dien_jax.prepare.reading import Log, read_log
    from dien_jax.prepare.tables import load_events
    from dien_jax.prepare.workspace import Workspace

    say(f"from interactions in {options.file}: {options.describe()}")
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
            source={"name": "interactions", "files": {options.file.name: sha256(options.file)}},
        )


def write_interactions(
    workspace: "Workspace",
    options: ImplicitOptions,
    events: "Events",
    features: dict[str, list[FeatureColumn]],
    *,
    separator: str,
    max_values: int,
    source: dict[str, Any],
) -> list[str]:
    """Splits events, draws negatives and writes the dataset folder; see :func:`prepare`."""
    from dien_jax.prepare.features import keep
    from dien_jax.prepare.folder import History, Rows, Trained, write_folder

    offsets = events.offsets
    targets, split = _split(options, events)
    if not len(targets["train"]):
        raise UserError(
            f"no training examples: --split {options.split} leaves none of the "
            f"{len(offsets) - 1:,} users' {len(events.item):,} events to training"
        )
    seen = splits.training_events(targets["train"], offsets)
    sequence = np.repeat(np.arange(len(offsets) - 1, dtype=np.int32), np.diff(offsets))
    trained = Trained(
        items=np.bincount(events.item[seen], minlength=events.num_items),
        users=np.bincount(sequence[targets["train"]], minlength=len(offsets) - 1),
    )
    items = keep(trained.items, options.min_count)
    users = keep(trained.users, options.min_count)
    item = items.row_of[events.item]
    popularity = np.bincount(item[seen], minlength=len(items.values) + 1)
    examples, missing = {}, 0
    with stage("drawing negatives"):
        for number, name in enumerate(SPLITS):
            target = targets[name]
            drawn = draw_negatives(
                sequence[target],
                item[target],
                event_item=item,
                offsets=offsets,
                popularity=popularity,
                count=options.negatives,
                distribution=options.negative_distribution,
                allow_own=options.allow_own_negatives,
                seed=(options.seed, 1, number),
            )
            missing += drawn.missing
            positive = np.concatenate([np.arange(len(target)), drawn.positive])
            order = np.argsort(positive, kind="stable")  # a positive, then its negatives
            event = target[positive[order]]
            label = np.zeros(len(order), np.int8)
            label[order < len(target)] = 1
            candidate = np.concatenate([item[target], drawn.item])[order]
            examples[name] = Rows(sequence[event], event, candidate, label)
    report = write_folder(
        workspace,
        options,
        events,
        features,
        separator=separator,
        max_values=max_values,
        trained=trained,
        items=items,
        users=users,
        history=History(item, events.timestamp, offsets, popularity),
        examples=examples,
        source=source,
        split={
            **split,
            "negatives": options.negatives,
            "negative_distribution": options.negative_distribution,
            "allow_own_negatives": options.allow_own_negatives,
        },
    )
    return [
        *events.report,
        *report,
        *_notes(options, events, targets),
        *([f"{missing:,} negatives left out: their users chose nearly every item"] * bool(missing)),
    ]


def _split(
    options: ImplicitOptions, events: "Events"
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The target events of every split, and what ``meta.json`` says about them."""
    split: dict[str, Any] = {"policy": options.split, "seed": options.seed}
    if options.split == "last-event":
        return splits.last_event(events.offsets), split
    if options.split == "by-user":
        shares = {"valid_share": options.valid_share, "test_share": options.test_share}
        return splits.by_user(events.offsets, seed=options.seed, **shares), {**split, **shares}
    borders = time_borders(options, events.timestamp, events.clock)
    split |= {"valid_from": borders.valid, "test_from": borders.test}
    return splits.by_time(events.timestamp, events.offsets, borders), split


def time_borders(options: LogOptions, timestamp: np.ndarray, clock: "Clock") -> splits.Borders:
    """The borders of a by-time split, given or from the shares.

    Raises:
      UserError: when a given time cannot be read, or test would come before validation.
    """
    if options.valid_from is None or options.test_from is None:
        return splits.time_borders(
            timestamp, valid_share=options.valid_share, test_share=options.test_share
        )
    borders = splits.Borders(
        clock.read("--valid-from", options.valid_from), clock.read("--test-from", options.test_from)
    )
    splits.check_borders(borders)
    return borders


def _notes(options: LogOptions, events: "Events", targets: dict[str, np.ndarray]) -> list[str]:
    """What a reader should know about users without examples and about ties."""
    notes = []
    single = np.count_nonzero(np.diff(events.offsets) == 1)
    if single:
        notes.append(f"{single:,} users have one event, hence no history and no example")
    if options.split != "by-time":
        last = [targets[name] for name in SPLITS if options.split == "by-user" or name != "train"]
        tied = splits.tied_targets(np.sort(np.concatenate(last)), events.timestamp, events.offsets)
        if len(tied):
            notes.append(
                f"{len(tied):,} users' last events tie in time with the event before; the order "
                "of the log decided which came last"
            )
    return notes
