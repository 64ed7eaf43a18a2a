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

from typing import NamedTuple

import numpy as np
from numpy.random import Generator

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
