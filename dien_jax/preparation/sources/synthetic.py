"""Simulated users whose clicks depend on the order of their history.

The world: things of a few kinds, each at four prices, and two offers of each kind, a new and a
used one. A user is interested in two or three kinds, and each interest has a trend: its prices rise
or fall. Visit by visit, users

    switch to another interest                               (interests interleave)
    log three things of its kind at neighbouring prices, in the order of the trend, or now and
    then against it                                          (each interest evolves)
    now and then, log any offer of any kind                  (noise)

If the prices of a kind rise, users click its new offer; if they fall, the used one. The trend shows
only in the order of events in a visit, maybe several visits ago: histories of rising and falling
interests have the same things equally often, and offers are independent of both. So counts,
co-occurrence and similarity contain no information on the trend.

Given the history, Bayes' rule gives the probability of each trend, and of a click; labels are drawn
from the latter. No model of the history can be better than this probability: its AUC and log loss
are the best possible ones.
"""

import hashlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, NamedTuple

import msgspec
import numpy as np
from numpy.random import Generator

from dien_jax.data.arrays import Examples
from dien_jax.data.metadata import FORMAT_VERSION, SPLITS
from dien_jax.data.schema import UNKNOWN, Feature, Schema
from dien_jax.errors import writing
from dien_jax.metrics.scores import auc, logloss
from dien_jax.preparation.pipeline.splits import TRAIN, user_sides
from dien_jax.preparation.writer import DatasetWriter, check_target
from dien_jax.utils.console import say
from dien_jax.utils.files import locked, user_cache
from dien_jax.utils.json_values import LargeCount, convert_fields

KINDS = ("bicycle", "camera", "guitar", "kayak", "lamp", "tent")
FORMS = ("at 100", "at 200", "at 300", "at 400", "new", "used")  # things, cheapest first; offers
PRICES = 4
NEW, USED = PRICES, PRICES + 1
ITEMS = len(KINDS) * len(FORMS)
HELD_OUT = 0.1  # share of users for validation, and for the test
IMPRESSIONS = 4  # of each user
SHORTEST, LONGEST = 9, 16  # events of a history
MOST_INTERESTS = 3
VISIT = 3  # events of a visit
AGAINST = 0.1  # chance that a visit goes against the trend
ADVERTISED = 0.2  # chance that an event between visits is any offer
AIMED = 0.85  # share of the shown items that are offers of an interest; others are any item
FIT, MISFIT, THING, OTHER = 0.92, 0.05, 0.2, 0.04
"""Click probabilities: of an offer that fits the trend, of one that does not, of a thing of the
user's interests, and of items of other kinds."""
EPOCH = 1_700_000_000  # Unix time at which the simulation begins


@dataclass(frozen=True)
class SyntheticOptions:
    """Simulated users whose clicks depend on the order of their history."""

    out: Path
    """Dataset folder to create. It must not exist."""
    users: Annotated[int, msgspec.Meta(ge=20, le=10**6)] = 4_000
    """Number of users; a tenth each is held out for validation and test."""
    seed: LargeCount = 0
    """Random seed."""

    def __post_init__(self) -> None:
        convert_fields(self)


def built_in_data() -> Path:
    """Return the folder of the built-in data, which is simulated on first use.

    The folder is in the user's cache, under a name made of the dataset format and a hash of the
    code that generates it: data of other code is never used. Several processes may call this at
    once: the first creates the folder, and the others wait for it.
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
    """Return a hash of all code that may affect the content of a dataset folder."""
    digest = hashlib.sha256()
    for layer in ("data", "metrics", "preparation", "statistics", "utils"):
        for file in sorted((package / layer).rglob("*.py")):
            digest.update(file.read_bytes())
    return digest.hexdigest()


def prepare(options: SyntheticOptions) -> list[str]:
    """Simulate users, write the dataset folder, and return lines that summarise it.

    ``meta.json`` has the AUC and log loss of the probabilities given the history as
    ``best_possible``, for validation and test.
    """
    check_target(options.out)
    simulated = simulate(options.users, np.random.default_rng(options.seed))
    sides = user_sides(options.users, valid_share=HELD_OUT, test_share=HELD_OUT, seed=options.seed)
    user_row = np.where(sides == TRAIN, np.cumsum(sides == TRAIN), UNKNOWN)
    names = [f"user{user}" for user in range(options.users)]
    side = sides[simulated.user]
    rows = {split: np.flatnonzero(side == number) for number, split in enumerate(SPLITS)}
    best = {}
    for split in ("valid", "test"):
        scored = simulated.label[rows[split]], simulated.probability[rows[split]]
        best[split] = {"auc": auc(*scored), "logloss": logloss(*scored)}
    settings = {name: value for name, value in asdict(options).items() if name != "out"}
    sizes = {"item": ITEMS, "kind": len(KINDS), "form": len(FORMS), "user": int(user_row.max())}
    ids = {name: Feature(name, "categorical", size=size + 1) for name, size in sizes.items()}
    item_kind, item_form = np.divmod(np.arange(ITEMS), len(FORMS))
    with DatasetWriter(
        options.out,
        schema=Schema(item=(ids["item"], ids["kind"], ids["form"]), user=(ids["user"],)),
        source={"name": "synthetic", "files": {}, "settings": settings},
        split={"policy": "by-user", "seed": options.seed, "share": HELD_OUT},
    ) as folder:
        folder.note(best_possible=best)
        folder.vocabulary("item", ["", *(f"{kind} {form}" for kind in KINDS for form in FORMS)])
        folder.vocabulary("kind", ["", *KINDS])
        folder.vocabulary("form", ["", *FORMS])
        folder.vocabulary("user", ["", *(names[user] for user in np.flatnonzero(user_row))])
        folder.items("kind", np.concatenate([[UNKNOWN], item_kind + 1]))
        folder.items("form", np.concatenate([[UNKNOWN], item_form + 1]))
        folder.groups(names)
        first = np.arange(options.users + 1) * LONGEST
        folder.events(simulated.event.ravel() + 1, simulated.time.ravel(), first)
        trained = simulated.event[sides == TRAIN].ravel()
        folder.popularity(np.bincount(trained + 1, minlength=ITEMS + 1))
        for split, chosen in rows.items():
            user = simulated.user[chosen]
            end = first[user] + simulated.history[chosen]
            item, label = simulated.item[chosen] + 1, simulated.label[chosen]
            folder.examples(split, Examples(user, end, user_row[user], user, item, label))
    counts = ", ".join(f"{len(chosen):,} for {split}" for split, chosen in rows.items())
    report = [
        f"{options.users:,} simulated users with {first[-1]:,} events; examples: {counts}",
        f"{simulated.label.mean():.1%} of the examples are clicks",
    ]
    if best["test"]["auc"] is not None:
        report.append(f"best possible test AUC, given the history: {best['test']['auc']:.4f}")
    return report


class Simulated(NamedTuple):
    """Simulated U users and R impressions, in order of users. Items are counted from 0."""

    event: np.ndarray  # int64 [U, LONGEST], items
    time: np.ndarray  # int64 [U, LONGEST]
    user: np.ndarray  # int64 [R]
    history: np.ndarray  # int64 [R], events that precede the impression
    item: np.ndarray  # int64 [R]
    probability: np.ndarray  # float32 [R], of a click given the history
    label: np.ndarray  # int8 [R]


def simulate(users: int, rng: Generator) -> Simulated:
    """Simulate users who visit their interests, and show each of them some items on the way."""
    interests = rng.permuted(np.tile(np.arange(len(KINDS)), (users, 1)), axis=1)
    count = rng.integers(2, MOST_INTERESTS + 1, users)
    event, visits = _visits(interests, count, rng)
    time = EPOCH + np.cumsum(rng.integers(60, 86_400, event.shape), axis=1)
    user = np.repeat(np.arange(users), IMPRESSIONS)
    history = rng.integers(SHORTEST, LONGEST + 1, len(user))
    is_aimed = rng.random(len(user)) < AIMED
    of_interest = interests[user, rng.integers(count[user])]
    offer = rng.integers(NEW, USED + 1, len(user))
    any_item = rng.integers(ITEMS, size=len(user))
    item = np.where(is_aimed, of_interest * len(FORMS) + offer, any_item)
    probability = click_probability(item, visits[user, history])
    label = (rng.random(len(user)) < probability).astype(np.int8)
    return Simulated(event, time, user, history, item, probability.astype(np.float32), label)


def _visits(
    interests: np.ndarray, count: np.ndarray, rng: Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Simulate visits of users to the first ``count`` of their ``interests``, event by event.

    Return items, int64 ``[U, LONGEST]``, and the number of falling and rising visits of each kind
    that began in the first 0, 1 ... LONGEST events, int8 ``[U, LONGEST + 1, KINDS, 2]``.
    """
    users, rows = len(count), np.arange(len(count))
    trend = rng.integers(2, size=interests.shape)  # of each interest: 0 falls, 1 rises
    event = np.zeros((users, LONGEST), np.int64)
    visits = np.zeros((users, LONGEST + 1, len(KINDS), 2), np.int8)
    turn, rises, price, left = rng.integers(count), *np.zeros((3, users), np.int64)
    for step in range(LONGEST):
        is_between = left == 0
        is_offer = is_between & (rng.random(users) < ADVERTISED)
        begins = is_between & ~is_offer
        turn = np.where(begins, (turn + rng.integers(1, count)) % count, turn)
        kind = interests[rows, turn]
        is_against = rng.random(users) < AGAINST
        rises = np.where(begins, trend[rows, turn] ^ is_against, rises)
        cheapest = rng.integers(PRICES - VISIT + 1, size=users)
        first = np.where(rises, cheapest, cheapest + VISIT - 1)
        price = np.where(begins, first, price + 2 * rises - 1)
        left = np.where(begins, VISIT, left) - ~is_offer
        advertised, offer = rng.integers(len(KINDS), size=users), rng.integers(NEW, USED + 1, users)
        kind, form = np.where(is_offer, (advertised, offer), (kind, price))
        event[:, step] = kind * len(FORMS) + form
        visits[:, step + 1] = visits[:, step]
        visits[rows, step + 1, kind, rises] += begins
    return event, visits


def click_probability(item: np.ndarray, visits: np.ndarray) -> np.ndarray:
    """Return click probabilities of items ``[R]``, numbered from 0, given visits of each history.

    Both trends are equally likely before any visit, and each visit multiplies the odds of its
    direction by ``(1 - AGAINST) / AGAINST``. Its first thing shows the direction. ``visits`` has
    the number of falling and rising visits of each kind, int ``[R, KINDS, 2]``.
    """
    kind, form = np.divmod(item, len(FORMS))
    falling, rising = visits[np.arange(len(item)), kind].T.astype(float)
    rises = 1 / (1 + (AGAINST / (1 - AGAINST)) ** (rising - falling))
    fits = np.where(form == NEW, rises, 1 - rises)
    of_interest = np.where(form < PRICES, THING, MISFIT + (FIT - MISFIT) * fits)
    return np.where(falling + rising > 0, of_interest, OTHER)
