"""The memory of a preparation: what the database, the parts of a log and its statistics may take.

The limit is that of the whole process. While the log is read and ordered, the database takes what
the program leaves. Then it has ``IDLE``, and parts are written of as many events as fit into the
rest; at last training events are counted and similar items found, which takes no more for longer
logs. Arrays of all users and items are there throughout.
"""

import math
import re
from typing import NamedTuple

from dien_jax.errors import UserError
from dien_jax.statistics.factors import MAX_INTERACTIONS, MAX_VALUES

SIZE = re.compile(r"(\d+(?:\.\d+)?) *([kmgt])(i?)b", re.IGNORECASE)
"""Sizes that a user may write."""
UNITS = "kmgt"
PROGRAM = 480 << 20
"""Bytes of the program with its libraries."""
OVERSHOOT = 1.35
"""What the database takes, as a share of its own limit."""
IDLE = 128 << 20
"""Limit of the database while parts are written and counted."""
OF_ID, OF_EVENT, OF_PART_EVENT, OF_PART_EXAMPLE = 100, 1, 250, 33
"""Bytes of each user and item, and of each example of the log; of each event of a part, and of each
of its examples."""
OF_COUNTED, OF_VECTORS = 35, 12_000
"""Bytes of each event that is counted and factorised, and of each item with vectors."""
LEAST_EVENTS, PART_EVENTS = 1 << 14, 1 << 22
"""Events of a part, at least and at most."""


def parse_size(text: str) -> int:
    """Return the bytes of a size.

    >>> parse_size("4GB"), parse_size("1.5 KiB")
    (4000000000, 1536)

    Raises:
      UserError: when the text is none, for the flag ``--memory``.
    """
    matched = SIZE.fullmatch(text)
    if not matched:
        raise UserError(f"--memory must be a size such as 4GB, got {text[:80]!r}")
    number, unit, binary = matched.groups()
    return int(float(number) * (1024 if binary else 1000) ** (1 + UNITS.index(unit.lower())))


class Sizes(NamedTuple):
    """Sizes of a log."""

    users: int
    items: int
    events: int
    longest: int  # events of one user, at most
    examples: int = 1  # of each event


def reading_limit(memory: str) -> int:
    """Return the limit of the database while it reads a log of which nothing is known, in bytes.

    Raises:
      UserError: when ``--memory`` leaves the database nothing.
    """
    limit, least = parse_size(memory), PROGRAM + round(OVERSHOOT * IDLE)
    if limit < least:
        raise _too_little(memory, f"the program takes at least {_size(least)}")
    return int((limit - PROGRAM) / OVERSHOOT)


def divide(memory: str, sizes: Sizes) -> tuple[int, int]:
    """Return the limit of the database in bytes while a log is ordered, and the events of a part.

    Raises:
      UserError: when the log takes more than ``--memory``, with an estimate.
    """
    users, items, events, longest, examples = sizes
    arrays = OF_ID * (users + items) + OF_EVENT * examples * events
    least = PROGRAM + round(OVERSHOOT * IDLE) + arrays
    statistics = OF_COUNTED * min(events, MAX_INTERACTIONS) + OF_VECTORS * min(items, MAX_VALUES)
    of_event = OF_PART_EVENT + OF_PART_EXAMPLE * examples
    needed = least + max(statistics, of_event * min(max(LEAST_EVENTS, longest), events))
    limit = parse_size(memory)
    if needed > limit:
        log = (
            f"{users:,} users, of {longest:,} events at most, and {items:,} items, with "
            f"{examples:,} examples of an event, take about {_size(needed)}"
        )
        remedy = "raise it, or prepare fewer examples, users and items"
        raise _too_little(memory, f"{log}; {remedy}")
    database = max(int((limit - PROGRAM - arrays) / OVERSHOOT), IDLE)
    return database, (limit - least) // of_event


def _too_little(memory: str, problem: str) -> UserError:
    return UserError(f"--memory {memory} is too little: {problem}")


def _size(size: int) -> str:
    return f"{math.ceil(size / 1e6):,}MB" if size < 1e11 else f"{math.ceil(size / 1e9):,}GB"
