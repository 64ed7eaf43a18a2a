"""Logs of pure noise."""

import numpy as np

FIRST, LENGTH = 1_500_000_000, 10**6
"""The first time, and the seconds of a log."""


def noise(users: int, items: int, events: int, seed: int) -> list[tuple[int, int, int]]:
    """User, item and time of events: each user's items are distinct, all times random."""
    rng = np.random.default_rng(seed)
    return [
        (user, int(item), int(time))
        for user in range(users)
        for item, time in zip(
            rng.permutation(items)[:events],
            FIRST + rng.choice(LENGTH, events, replace=False),
            strict=True,
        )
    ]
