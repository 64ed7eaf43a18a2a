"""A dataset folder of simulated users; ``sources.simulation`` describes their world."""

from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from dien_jax.data.dataset import Column
from dien_jax.data.metadata import SPLITS
from dien_jax.data.schema import UNKNOWN, Feature, Schema
from dien_jax.data.writer import DatasetWriter, check_target
from dien_jax.errors import UserError
from dien_jax.metrics.scores import auc, logloss
from dien_jax.preparation.pipeline.splits import TRAIN, user_sides
from dien_jax.preparation.sources.simulation import (
    MOST_INTERESTS,
    MOST_TAGS,
    PLACES,
    SEGMENTS,
    SLOTS,
    TAGS,
    Simulated,
    World,
    make_world,
    simulate,
)

HELD_OUT = 0.1
"""Share of users for validation, and again for the test."""
ANONYMOUS = 0.1
"""Share of training users without a row, so that the unknown row is trained."""
CHUNK_USERS = 1 << 14
"""Users simulated at a time."""


@dataclass(frozen=True)
class SyntheticOptions:
    """Simulated users with drifting, evolving interests and a known best possible AUC."""

    out: Path
    """Dataset folder to make; must not exist."""
    users: int = 8_000
    """Users in all; a tenth each is held out for validation and test."""
    items: int = 400
    """Items in all."""
    categories: int = 20
    """Categories; each has a path of its own through its share of the items."""
    examples_per_user: int = 8
    """Impressions of each user."""
    seed: int = 0
    """The same seed gives the same folder."""

    def __post_init__(self) -> None:
        for flag, value, least in (
            ("--users", self.users, 20),
            ("--categories", self.categories, MOST_INTERESTS),
            ("--items", self.items, PLACES * self.categories),
            ("--examples-per-user", self.examples_per_user, 1),
            ("--seed", self.seed, 0),
        ):
            if value < least:
                raise UserError(f"{flag} must be at least {least}, got {value}")


def prepare(options: SyntheticOptions) -> list[str]:
    """Simulates users and writes the dataset folder ``options.out``.

    ``meta.json`` has the AUC and log loss of the true probabilities as ``best_possible``, for
    validation and test.

    Returns:
      Lines of text for the user: what was made, and the best possible AUC.

    Raises:
      UserError: when the folder exists or cannot be written.
    """
    check_target(options.out)
    rng = np.random.default_rng((options.seed, 0))
    world = make_world(options.items, options.categories, rng)
    found = _simulate_all(world, options)
    offsets = np.concatenate([[0], np.cumsum(found.length)])
    sides = user_sides(options.users, valid_share=HELD_OUT, test_share=HELD_OUT, seed=options.seed)
    has_row = (sides == TRAIN) & (rng.random(options.users) >= ANONYMOUS)
    user_row = np.where(has_row, np.cumsum(has_row), UNKNOWN)
    names = [f"user{user}" for user in range(options.users)]
    in_training = np.repeat(sides == TRAIN, found.length)
    rows = {split: np.flatnonzero(sides[found.user] == side) for side, split in enumerate(SPLITS)}
    best = {
        split: {
            "auc": auc(found.label[rows[split]], found.probability[rows[split]]),
            "logloss": logloss(found.label[rows[split]], found.probability[rows[split]]),
        }
        for split in ("valid", "test")
    }
    settings = {name: value for name, value in asdict(options).items() if name != "out"}
    with DatasetWriter(
        options.out,
        schema=_schema(world, int(has_row.sum())),
        source={"name": "synthetic", "files": {}, "settings": settings},
        split={"policy": "by-user", "seed": options.seed, "share": HELD_OUT},
    ) as writer:
        writer.note(best_possible=best)
        _write_items(writer, world)
        writer.vocabulary("user", ["", *(names[user] for user in np.flatnonzero(has_row))])
        writer.vocabulary("segment", ["", *SEGMENTS])
        writer.users("segment", np.concatenate([[UNKNOWN], found.segment[has_row] + 1]))
        writer.vocabulary("slot", ["", *SLOTS])
        writer.groups(names)
        writer.events(found.event_item + 1, found.timestamp, offsets)
        writer.popularity(
            np.bincount(found.event_item[in_training] + 1, minlength=options.items + 1)
        )
        for split, chosen in rows.items():
            user = found.user[chosen]
            writer.examples(
                split,
                sequence=user,
                history_end=offsets[user] + found.history[chosen],
                user=user_row[user],
                group=user,
                item=found.item[chosen] + 1,
                label=found.label[chosen],
                context={"slot": Column(found.slot[chosen] + 1, None)},
                probability=found.probability[chosen],
            )
    counts = ", ".join(f"{len(chosen):,} for {split}" for split, chosen in rows.items())
    report = [
        f"{options.users:,} simulated users with {offsets[-1]:,} events; examples: {counts}",
        f"{found.label.mean():.1%} of the examples are clicks",
    ]
    if best["test"]["auc"] is not None:
        report.append(f"best possible test AUC: {best['test']['auc']:.4f}")
    return report


def _simulate_all(world: World, options: SyntheticOptions) -> Simulated:
    parts = []
    for first in range(0, options.users, CHUNK_USERS):
        users = min(CHUNK_USERS, options.users - first)
        rng = np.random.default_rng((options.seed, 1, first))
        part = simulate(world, users, options.examples_per_user, rng)
        parts.append(part._replace(user=part.user + first))
    return Simulated(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))


def _schema(world: World, users: int) -> Schema:
    items, categories = len(world.path), len(world.places)
    mean, deviation = float(np.nanmean(world.price)), float(np.nanstd(world.price))
    return Schema(
        item=(
            Feature("item", "categorical", size=items + 1),
            Feature("category", "categorical", size=categories + 1),
            Feature("tags", "multivalued", size=TAGS + 1, max_values=MOST_TAGS),
            Feature("price", "numeric", mean=mean, deviation=deviation),
        ),
        user=(
            Feature("user", "categorical", size=users + 1),
            Feature("segment", "categorical", size=len(SEGMENTS) + 1),
        ),
        context=(Feature("slot", "categorical", size=len(SLOTS) + 1),),
    )


def _write_items(writer: DatasetWriter, world: World) -> None:
    """Items and their features; row 0, the unknown item, has neither category, tags nor price."""
    items, categories = len(world.path), len(world.places)
    writer.vocabulary("item", ["", *(f"item{item}" for item in range(items))])
    writer.vocabulary("category", ["", *(f"category{number}" for number in range(categories))])
    writer.items("category", np.concatenate([[UNKNOWN], world.category + 1]))
    writer.vocabulary("tags", ["", *(f"tag{number}" for number in range(TAGS))])
    has_tag = np.arange(MOST_TAGS) < world.tag_count[:, None]
    ends = np.cumsum(world.tag_count)
    writer.items("tags", world.tags[has_tag] + 1, np.concatenate([[0, 0], ends]))
    standardised = (world.price - np.nanmean(world.price)) / np.nanstd(world.price)
    writer.items("price", np.concatenate([[0.0], np.nan_to_num(standardised, nan=0.0)]))
