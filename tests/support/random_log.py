"""A random log of training events."""

from itertools import pairwise

import numpy as np

from dien_jax.statistics.training_events import TrainingEvents


def random_log(seed: int, users: int, items: int, *, all_before: bool = False) -> TrainingEvents:
    """Return the events of users, some of whom have events that count without examples."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(0, 14, users)
    lengths[:3] = lengths[-2:] = 0
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    item = rng.choice(items, offsets[-1], p=np.arange(items, 0, -1) / (items * (items + 1) / 2))
    rows = []
    for user, (start, stop) in enumerate(pairwise(offsets.tolist())):
        for place in range(start, stop):
            if rng.random() < 0.6:
                rows += [(user, place, item[place], 1), (user, place, rng.integers(items), 0)]
        if stop > start and rng.random() < 0.3:
            targets = range(rng.integers(1, 4))
            rows += [(user, stop, rng.integers(items), rng.integers(2)) for _ in targets]
    sequence, end, target, label = np.array(rows).T
    counted = None
    if all_before:
        counted = offsets[:-1] + np.where(lengths > 1, rng.integers(0, lengths + 1), 0)
    columns = (sequence.astype(np.int32), end, target.astype(np.int32), label.astype(np.int8))
    return TrainingEvents(item.astype(np.int32), offsets, *columns, counted)
