"""Simulated users whose interests drift and evolve, with the true click probability of each row.

The world: every item is on the path of one category, its interest. A user has two to four
interests, popular ones more often, and a place on the path of each. Step by step

    stay with the current interest, or jump to another one     (drift)
    move one or two places along its path                      (evolution)
    log the item at that place, or now and then a popular one  (noise)

An impression is then clicked with probability sigma(logit), where the logit is highest for items
just ahead of the user on the path of the current interest, low for those just ahead on another
one, lower for those behind or far ahead, and lowest for other categories. Price, tags, the user's
segment and the slot on the page change it a little. Candidates of all these kinds are shown, so
most negatives are hard: to predict them takes the order of the history, not its set of items.

The label is drawn from that probability. No model of the history can score better than the
probability itself: its AUC and log loss are the best possible ones.
"""

import hashlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.random import Generator

from dien_jax.data.columns import Column, Examples
from dien_jax.data.metadata import FORMAT_VERSION, SPLITS
from dien_jax.data.schema import UNKNOWN, Feature, Schema
from dien_jax.errors import UserError, writing
from dien_jax.metrics.scores import auc, logloss
from dien_jax.preparation.options import require_at_least
from dien_jax.preparation.pipeline.splits import TRAIN, user_sides
from dien_jax.preparation.writer import DatasetWriter, check_target
from dien_jax.utils.console import say
from dien_jax.utils.files import convert_fields, locked, user_cache

HELD_OUT = 0.1  # share of users for validation, and again for the test
ANONYMOUS = 0.1  # share of training users without a row, so that the unknown row is trained
LONGEST = 100  # events of the longest history
MEDIAN_LENGTH = 18
SHORT_SHARE = 0.02  # share of users without any event, and again of users with one
MOST_INTERESTS = 4
JUMP = 0.12  # chance that a step goes to another interest
SKIP = 0.15  # chance that a step moves two places along the path
NOISE = 0.06  # chance that an event is a popular item and no step
TAGS = 30
CATEGORY_TAGS = 4  # tags that items of a category choose from
MOST_TAGS = 3
SEGMENTS = ("budget", "regular", "premium")
SLOTS = ("top", "middle", "bottom")
PLACES = 12  # places that a path must have at least
EPOCH = 1_700_000_000  # Unix time at which the simulation begins

CANDIDATES = {
    "current, just ahead": 0.30,
    "current, elsewhere": 0.20,
    "another, just ahead": 0.20,
    "another, elsewhere": 0.10,
    "popular": 0.10,
    "any": 0.10,
}
"""Shares of the shown items: a place on the path of an interest, or from the whole catalogue."""
LOGITS = np.array([[-4.0, -3.0, -1.6], [-4.0, -1.6, 2.0]])
"""For another and the current interest: an item off its path, elsewhere on it, just ahead."""


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
        convert_fields(self)
        limits = {
            "--users": (self.users, 20, 10**7),
            "--items": (self.items, 1, 10**7),
            "--categories": (self.categories, MOST_INTERESTS, 10**4),
            "--examples-per-user": (self.examples_per_user, 1, 10**4),
        }
        for flag, (value, least, most) in limits.items():
            if not least <= value <= most:
                raise UserError(f"{flag} must be from {least} to {most}, got {value}")
        require_at_least({"--seed": (self.seed, 0)})
        least = PLACES * self.categories
        if self.items < least:
            where = f"{PLACES} for each of the --categories, {self.categories}"
            raise UserError(f"--items must be at least {least}, {where}; got {self.items}")


def built_in_data() -> Path:
    """Return the folder of the built-in data, which is simulated on first use.

    The folder is in the user's cache, under a name made of the dataset format and a hash of the
    code that generates it: data of other code is never used. Several processes may call this at
    once: the first one provides the folder for all, and the others wait for it.
    """
    folder = user_cache() / f"format-{FORMAT_VERSION}-{code_digest()[:12]}" / "simulated"
    if not folder.exists():
        with writing(folder.parent):
            folder.parent.mkdir(parents=True, exist_ok=True)
        with locked(folder.parent, str(folder.parent), wait=True):
            if not folder.exists():
                say(f"built-in data: simulating users into {folder}")
                prepare(SyntheticOptions(out=folder))
    return folder


def code_digest(package: Path = Path(__file__).parents[2]) -> str:
    """Return a hash of all code that may decide the content of a dataset folder."""
    digest = hashlib.sha256()
    for layer in ("data", "metrics", "preparation", "statistics", "utils"):
        for file in sorted((package / layer).rglob("*.py")):
            digest.update(file.read_bytes())
    return digest.hexdigest()


def prepare(options: SyntheticOptions, *, chunk_users: int = 1 << 14) -> list[str]:
    """Simulate users, write the dataset folder, and return lines that summarise it.

    ``chunk_users`` are simulated at a time, which their data depend on.
    ``meta.json`` has the AUC and log loss of the true probabilities as ``best_possible``, for
    validation and test.
    """
    check_target(options.out)
    rng = np.random.default_rng((options.seed, 0))
    world = make_world(options.items, options.categories, rng)
    parts = []
    for first in range(0, options.users, chunk_users):
        users = min(chunk_users, options.users - first)
        generator = np.random.default_rng((options.seed, 1, first))
        part = simulate(world, users, options.examples_per_user, generator)
        parts.append(part._replace(user=part.user + first))
    simulated = Simulated(*map(np.concatenate, zip(*parts, strict=True)))
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


def _schema(world: "World", users: int) -> Schema:
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


def _write_items(folder: DatasetWriter, world: "World") -> None:
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


class World(NamedTuple):
    """The catalogue. Items and categories are counted from 0 here."""

    path: np.ndarray  # int64 [items], items of category 0 along its path, then of category 1 ...
    start: np.ndarray  # int64 [categories], where each category begins in path
    places: np.ndarray  # int64 [categories], items of each
    category: np.ndarray  # int64 [items]
    place: np.ndarray  # int64 [items], of each item on its path
    category_weight: np.ndarray  # float64 [categories], chance of a category to be an interest
    item_weight: np.ndarray  # float64 [items], popularity, summing to 1
    price: np.ndarray  # float64 [items], NaN where it is missing
    tags: np.ndarray  # int64 [items, MOST_TAGS]
    tag_count: np.ndarray  # int64 [items], number of real ones
    appeal: np.ndarray  # float64 [segments, items], added to the logit by price and tags


class State(NamedTuple):
    """The interests of users, and where on their paths the users are, at R impressions."""

    interests: np.ndarray  # int64 [R, MOST_INTERESTS], categories
    num_interests: np.ndarray  # int64 [R], how many of them are real
    current: np.ndarray  # int64 [R], position of the current interest
    place: np.ndarray  # int64 [R, MOST_INTERESTS], place on the path of each interest


class Simulated(NamedTuple):
    """Simulated U users, E events, R impressions; rows are in order of users."""

    length: np.ndarray  # int64 [U], events of each user
    segment: np.ndarray  # int64 [U]
    event_item: np.ndarray  # int64 [E]
    timestamp: np.ndarray  # int64 [E]
    user: np.ndarray  # int64 [R], counted from the first of these users
    history: np.ndarray  # int64 [R], events that precede the impression
    item: np.ndarray  # int64 [R]
    slot: np.ndarray  # int64 [R]
    probability: np.ndarray  # float32 [R], of a click
    label: np.ndarray  # int8 [R]


def make_world(items: int, categories: int, rng: Generator) -> World:
    """Draw a catalogue of ``items`` items in ``categories`` paths of about equal length."""
    places = np.full(categories, items // categories)
    places[: items % categories] += 1
    start = np.cumsum(places) - places
    path = rng.permutation(items)
    category, place = np.empty(items, np.int64), np.empty(items, np.int64)
    category[path] = np.repeat(np.arange(categories), places)
    place[path] = np.arange(items) - np.repeat(start, places)
    category_weight = 1 / np.arange(1, categories + 1)
    item_weight = category_weight[category] / (1 + place)
    price = np.exp(rng.normal(3.0, 0.5, items))
    favourites = rng.permuted(np.tile(np.arange(TAGS), (categories, 1)), axis=1)[:, :CATEGORY_TAGS]
    tags = rng.permuted(favourites[category], axis=1)[:, :MOST_TAGS]
    tag_count = rng.integers(MOST_TAGS + 1, size=items)
    has_tag = np.arange(MOST_TAGS) < tag_count[:, None]
    tag_appeal = (rng.normal(0.0, 0.5, TAGS)[tags] * has_tag).sum(1) / np.maximum(tag_count, 1)
    dearness = (price - price.mean()) / price.std()
    sensitivity = np.linspace(0.5, -0.1, len(SEGMENTS))
    is_missing = rng.random(items) < 0.02
    appeal = np.where(is_missing, tag_appeal, tag_appeal - sensitivity[:, None] * dearness)
    price = np.where(is_missing, np.nan, price)
    category_weight /= category_weight.sum()
    item_weight /= item_weight.sum()
    weights = (category_weight, item_weight)
    return World(path, start, places, category, place, *weights, price, tags, tag_count, appeal)


def simulate(world: World, users: int, impressions: int, rng: Generator) -> Simulated:
    """Let users walk, and show each of them some items along the way."""
    length = np.exp(rng.normal(np.log(MEDIAN_LENGTH), 0.8, users)).astype(np.int64)
    kind = rng.random(users)
    length[kind < 2 * SHORT_SHARE] = 1
    length[kind < SHORT_SHARE] = 0
    length = np.minimum(length, LONGEST)
    keys = np.log(world.category_weight) + rng.gumbel(size=(users, len(world.places)))
    interests = np.argsort(-keys, axis=1)[:, :MOST_INTERESTS]
    count = rng.integers(2, MOST_INTERESTS + 1, users)
    event_item, timestamp, current, place = _walk(world, interests, count, length, rng)
    happened = np.arange(LONGEST) < length[:, None]
    user = np.repeat(np.arange(users), impressions)
    # The first impression comes after the last event, the others later rather than sooner.
    share = np.sqrt(rng.random((users, impressions)))
    share[:, 0] = 1.0
    history = np.sort((share * length[:, None] + 0.5).astype(np.int64), axis=1).ravel()
    shown = State(interests[user], count[user], current[user, history], place[user, history])
    item = _candidates(world, shown, rng)
    segment = rng.integers(len(SEGMENTS), size=users)
    slot = rng.integers(len(SLOTS), size=len(user))
    logit = _match(world, shown, item)
    logit += world.appeal[segment[user], item] + np.array([0.5, 0.0, -0.5])[slot]
    probability = (1 / (1 + np.exp(-logit))).astype(np.float32)
    label = (rng.random(len(user)) < probability).astype(np.int8)
    events = (event_item[happened], timestamp[happened])
    return Simulated(length, segment, *events, user, history, item, slot, probability, label)


def _walk(
    world: World, interests: np.ndarray, count: np.ndarray, length: np.ndarray, rng: Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Walk all users, a step at a time.

    Returns:
      item and time of each event, ``[U, LONGEST]``; the current interest before each event and
      after the last one, ``[U, LONGEST + 1]``; and the user's place on the path of each interest
      at these times, ``[U, LONGEST + 1, MOST_INTERESTS]``.
    """
    users, rows = len(length), np.arange(len(length))
    places = world.places[interests]
    item = np.zeros((users, LONGEST), np.int64)
    gap = np.zeros((users, LONGEST))
    current = np.zeros((users, LONGEST + 1), np.int64)
    place = np.zeros((users, LONGEST + 1, MOST_INTERESTS), np.int64)
    current[:, 0] = rng.integers(count)
    # Most start near the start of a path, so its first items are the popular ones.
    place[:, 0] = (rng.exponential(places / 6)).astype(np.int64) % places
    for step in range(int(length.max(initial=0))):
        jumps = rng.random(users) < JUMP
        other = (current[:, step] + rng.integers(1, count)) % count
        is_noise = rng.random(users) < NOISE
        now = np.where(jumps & ~is_noise, other, current[:, step])
        stride = np.where(is_noise, 0, 1 + (rng.random(users) < SKIP))
        place[:, step + 1] = place[:, step]
        place[rows, step + 1, now] = (place[rows, step, now] + stride) % places[rows, now]
        current[:, step + 1] = now
        walked = world.path[world.start[interests[rows, now]] + place[rows, step + 1, now]]
        popular = rng.choice(len(world.path), users, p=world.item_weight)
        item[:, step] = np.where(is_noise, popular, walked)
        gap[:, step] = rng.exponential(np.where(jumps, 86_400.0, 600.0))
    first = rng.uniform(0, 30 * 86_400, users)
    timestamp = EPOCH + (first[:, None] + np.cumsum(gap, axis=1)).astype(np.int64)
    return item, timestamp, current, place


def _candidates(world: World, state: State, rng: Generator) -> np.ndarray:
    """Draw the items to show: int64 ``[R]``."""
    rows = np.arange(len(state.current))
    kind = rng.choice(len(CANDIDATES), len(rows), p=list(CANDIDATES.values()))
    other = (state.current + rng.integers(1, state.num_interests)) % state.num_interests
    interest = np.where(kind < 2, state.current, other)
    ahead = 1 + (rng.random(len(rows)) < SKIP)
    is_behind = rng.random(len(rows)) < 0.5
    behind, far = -rng.integers(0, 5, len(rows)), rng.integers(3, 8, len(rows))
    category = state.interests[rows, interest]
    offset = np.where(kind % 2 == 0, ahead, np.where(is_behind, behind, far))
    places = (state.place[rows, interest] + offset) % world.places[category]
    on_path = world.path[world.start[category] + places]
    popular = rng.choice(len(world.path), len(rows), p=world.item_weight)
    uniform = rng.integers(len(world.path), size=len(rows))
    return np.select([kind < 4, kind == 4], [on_path, popular], uniform)


def _match(world: World, state: State, item: np.ndarray) -> np.ndarray:
    """Return how well items fit the state of their users: logits ``[R]``."""
    category = world.category[item]
    is_real = np.arange(MOST_INTERESTS) < state.num_interests[:, None]
    is_interest = (state.interests == category[:, None]) & is_real
    interest = np.argmax(is_interest, axis=1)
    place = state.place[np.arange(len(item)), interest]
    offset = (world.place[item] - place) % world.places[category]
    is_ahead = (offset == 1) | (offset == 2)
    fit = np.where(is_interest.any(axis=1), 1 + is_ahead, 0)
    return LOGITS[(interest == state.current).astype(np.int64), fit]
