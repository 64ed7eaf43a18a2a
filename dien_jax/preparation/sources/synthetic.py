"""Simulated users as a dataset folder; ``sources.simulation`` describes their world."""

import hashlib
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from dien_jax.data import metadata, part_writer, schema, statistics_files, tables
from dien_jax.data.columns import Column, Examples
from dien_jax.data.metadata import SPLITS
from dien_jax.data.schema import UNKNOWN, Feature, Schema
from dien_jax.errors import UserError, writing
from dien_jax.metrics import scores
from dien_jax.metrics.scores import auc, logloss
from dien_jax.preparation import writer
from dien_jax.preparation.options import require_at_least
from dien_jax.preparation.pipeline import splits
from dien_jax.preparation.pipeline.splits import TRAIN, user_sides
from dien_jax.preparation.sources import simulation
from dien_jax.preparation.sources.simulation import MOST_TAGS, SEGMENTS, SLOTS, TAGS, World
from dien_jax.preparation.writer import DatasetWriter, check_target
from dien_jax.statistics import (
    counting,
    factors,
    features,
    pairs,
    singular_vectors,
    training_events,
)
from dien_jax.utils.console import say
from dien_jax.utils.files import locked, user_cache
from dien_jax.utils.memory import machine_bytes, require_memory

HELD_OUT = 0.1  # share of users for validation, and again for the test
ANONYMOUS = 0.1  # share of training users without a row, so that the unknown row is trained
CHUNK_USERS = 1 << 14  # users simulated at a time
GENERATOR = (
    *(simulation, splits, scores, schema, metadata, writer, part_writer, tables),
    *(statistics_files, counting, pairs, factors, singular_vectors, features),
    training_events,
)
"""Modules that determine the content of the folder, besides this one."""


@dataclass(frozen=True)
class SyntheticOptions:
    """Simulated users with drifting, evolving interests and a known best possible AUC."""

    out: Path
    """Dataset folder to create. It must not exist."""
    users: int = 8_000
    """Number of users; a tenth each is held out for validation and test."""
    items: int = 400
    """Number of items."""
    categories: int = 20
    """Number of categories; each has a path of its own through its share of the items."""
    examples_per_user: int = 8
    """Impressions of each user."""
    seed: int = 0
    """Random seed."""

    def __post_init__(self) -> None:
        flags = {
            "--users": (self.users, 20),
            "--categories": (self.categories, simulation.MOST_INTERESTS),
            "--items": (self.items, 1),
            "--examples-per-user": (self.examples_per_user, 1),
            "--seed": (self.seed, 0),
        }
        require_at_least(flags)
        least = simulation.PLACES * self.categories
        if self.items < least:
            where = f"{simulation.PLACES} for each of the --categories, {self.categories}"
            raise UserError(f"--items must be at least {least}, {where}; got {self.items}")

    def least_bytes(self) -> int:
        """Return the size of arrays that the simulation holds at a time; it needs some more."""
        events = self.users * simulation.MEDIAN_LENGTH
        walking = min(self.users, CHUNK_USERS)
        interests = walking * (32 * self.categories + 56 * simulation.LONGEST)
        impressions = self.users * self.examples_per_user
        return interests + 16 * events + 37 * impressions + 150 * self.items


def built_in_data() -> Path:
    """Return the folder of the built-in data, which is simulated on first use.

    The folder is in the user's cache, under a name made of the dataset format and a hash of the
    code that generates it: data of other code is never used. Several processes may call this at
    once: the first one provides the folder for all, and the others wait for it.
    """
    digest = hashlib.sha256(Path(__file__).read_bytes())
    for module in GENERATOR:
        digest.update(Path(str(module.__file__)).read_bytes())
    code = f"format-{metadata.FORMAT_VERSION}-{digest.hexdigest()[:12]}"
    folder = user_cache() / code / "simulated"
    if not folder.exists():
        with writing(folder.parent):
            folder.parent.mkdir(parents=True, exist_ok=True)
        with locked(folder.parent, str(folder.parent), wait=True):
            if not folder.exists():
                say(f"built-in data: simulating users into {folder}")
                prepare(SyntheticOptions(out=folder))
    return folder


def prepare(options: SyntheticOptions) -> list[str]:
    """Simulate users, write the dataset folder, and return lines that summarise it.

    ``meta.json`` has the AUC and log loss of the true probabilities as ``best_possible``, for
    validation and test.
    """
    check_target(options.out)
    subject = "users, items and examples of these numbers"
    require_memory(options.least_bytes(), machine_bytes(), subject, "choose smaller numbers")
    rng = np.random.default_rng((options.seed, 0))
    world = simulation.make_world(options.items, options.categories, rng)
    parts = []
    for first in range(0, options.users, CHUNK_USERS):
        users = min(CHUNK_USERS, options.users - first)
        generator = np.random.default_rng((options.seed, 1, first))
        part = simulation.simulate(world, users, options.examples_per_user, generator)
        parts.append(part._replace(user=part.user + first))
    simulated = simulation.Simulated(*map(np.concatenate, zip(*parts, strict=True)))
    offsets = np.concatenate([[0], np.cumsum(simulated.length)])
    sides = user_sides(options.users, valid_share=HELD_OUT, test_share=HELD_OUT, seed=options.seed)
    has_row = (sides == TRAIN) & (rng.random(options.users) >= ANONYMOUS)
    user_row = np.where(has_row, np.cumsum(has_row), UNKNOWN)
    names = [f"user{user}" for user in range(options.users)]
    trained_items = simulated.event_item[np.repeat(sides == TRAIN, simulated.length)]
    side = sides[simulated.user]
    rows = {split: np.flatnonzero(side == number) for number, split in enumerate(SPLITS)}
    best = {}
    for split in ("valid", "test"):
        scored = simulated.label[rows[split]], simulated.probability[rows[split]]
        best[split] = {"auc": auc(*scored), "logloss": logloss(*scored)}
    settings = {name: value for name, value in asdict(options).items() if name != "out"}
    with DatasetWriter(
        options.out,
        schema=_schema(world, int(has_row.sum())),
        source={"name": "synthetic", "files": {}, "settings": settings},
        split={"policy": "by-user", "seed": options.seed, "share": HELD_OUT},
    ) as folder:
        folder.note(best_possible=best)
        _write_items(folder, world)
        folder.vocabulary("user", ["", *(names[user] for user in np.flatnonzero(has_row))])
        folder.vocabulary("segment", ["", *SEGMENTS])
        folder.users("segment", np.concatenate([[UNKNOWN], simulated.segment[has_row] + 1]))
        folder.vocabulary("slot", ["", *SLOTS])
        folder.groups(names)
        folder.events(simulated.event_item + 1, simulated.timestamp, offsets)
        folder.popularity(np.bincount(trained_items + 1, minlength=options.items + 1))
        for split, chosen in rows.items():
            user = simulated.user[chosen]
            end = offsets[user] + simulated.history[chosen]
            item, label = simulated.item[chosen] + 1, simulated.label[chosen]
            context = {"slot": Column(simulated.slot[chosen] + 1, None)}
            examples = Examples(user, end, user_row[user], user, item, label, context)
            probability = simulated.probability[chosen]
            folder.examples(split, examples._replace(probability=probability))
    counts = ", ".join(f"{len(chosen):,} for {split}" for split, chosen in rows.items())
    report = [
        f"{options.users:,} simulated users with {offsets[-1]:,} events; examples: {counts}",
        f"{simulated.label.mean():.1%} of the examples are clicks",
    ]
    if best["test"]["auc"] is not None:
        report.append(f"best possible test AUC: {best['test']['auc']:.4f}")
    return report


def _schema(world: World, users: int) -> Schema:
    def ids(name: str, size: int) -> Feature:
        return Feature(name, "categorical", size=size + 1)

    tags = Feature("tags", "multivalued", size=TAGS + 1, max_values=MOST_TAGS)
    mean, deviation = float(np.nanmean(world.price)), float(np.nanstd(world.price))
    price = Feature("price", "numeric", mean=mean, deviation=deviation)
    return Schema(
        item=(ids("item", len(world.path)), ids("category", len(world.places)), tags, price),
        user=(ids("user", users), ids("segment", len(SEGMENTS))),
        context=(ids("slot", len(SLOTS)),),
    )


def _write_items(folder: DatasetWriter, world: World) -> None:
    """Write items and features; the unknown item, row 0, has no category, tags or price."""
    sizes = {"item": len(world.path), "category": len(world.places), "tags": TAGS}
    for name, size in sizes.items():
        folder.vocabulary(name, ["", *(f"{name.removesuffix('s')}{k}" for k in range(size))])
    folder.items("category", np.concatenate([[UNKNOWN], world.category + 1]))
    has_tag = np.arange(MOST_TAGS) < world.tag_count[:, None]
    offsets = np.concatenate([[0, 0], np.cumsum(world.tag_count)])
    folder.items("tags", world.tags[has_tag] + 1, offsets)
    standardised = (world.price - np.nanmean(world.price)) / np.nanstd(world.price)
    folder.items("price", np.concatenate([[0.0], np.nan_to_num(standardised, nan=0.0)]))
