"""Random training events: repeats, ties, users without events, several targets at one time."""

import hashlib
from itertools import pairwise

import numpy as np

from dien_jax.data.tables import ValueStatistics
from dien_jax.statistics.training_events import TrainingEvents

ITEMS, USERS = 150, 400


def random_log(seed: int, *, all_before: bool = False) -> TrainingEvents:
    """Return the events of users, some of whom have events that count without examples."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(0, 14, USERS)
    lengths[:3] = lengths[-2:] = 0
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    item = rng.choice(ITEMS, offsets[-1], p=np.arange(ITEMS, 0, -1) / (ITEMS * (ITEMS + 1) / 2))
    rows = []
    for user, (start, stop) in enumerate(pairwise(offsets.tolist())):
        for place in range(start, stop):
            if rng.random() < 0.6:
                rows += [(user, place, item[place], 1), (user, place, rng.integers(ITEMS), 0)]
        if stop > start and rng.random() < 0.3:
            targets = range(rng.integers(1, 4))
            rows += [(user, stop, rng.integers(ITEMS), rng.integers(2)) for _ in targets]
    sequence, end, target, label = np.array(rows).T
    counted = None
    if all_before:
        counted = offsets[:-1] + np.where(lengths > 1, rng.integers(0, lengths + 1), 0)
    columns = (sequence.astype(np.int32), end, target.astype(np.int32), label.astype(np.int8))
    return TrainingEvents(item.astype(np.int32), offsets, *columns, counted)


def divided(events: TrainingEvents, parts: int) -> list[TrainingEvents]:
    """Return events in parts of random sizes, some of them empty."""
    borders = np.random.default_rng(parts).integers(0, USERS + 1, parts - 1)
    found = []
    for first, stop in pairwise(np.sort([0, USERS, *borders]).tolist()):
        chosen = (events.sequence >= first) & (events.sequence < stop)
        begin, end = events.offsets[[first, stop]]
        counted = events.counted_end
        part = TrainingEvents(
            events.event_item[begin:end],
            events.offsets[first : stop + 1] - begin,
            events.sequence[chosen] - np.int32(first),
            events.history_end[chosen] - begin,
            events.item[chosen],
            events.label[chosen],
            None if counted is None else counted[first:stop] - begin,
            first,
        )
        found.append(part)
    return found


def digest(counts: ValueStatistics, own: np.ndarray) -> str:
    """Return the start of the sha256 of all counts."""
    sha = hashlib.sha256(repr((counts.sequences, counts.least, counts.longest)).encode())
    for name in ("count", "offsets", "other", "together", "before", "following"):
        sha.update(np.asarray(getattr(counts, name), "<i4").tobytes())
    sha.update(own.tobytes())
    return sha.hexdigest()[:12]
