"""Memory limits of preparation: for the database, the parts of a log, and its statistics.

``--memory`` limits the whole process. While the log is read and ordered, the database may use all
memory that the program does not need. Then its limit is ``IDLE``, and parts with as many events as
fit into the rest are written; at last training events are counted and factorised. Arrays of all
users and items stay in memory throughout.
"""

import math
import re

from dien_jax.errors import UserError
from dien_jax.statistics.factors import MAX_INTERACTIONS, MAX_VALUES

SIZE = re.compile(r"(\d{1,18}(?:\.\d+)?) *([kmgt])(i?)b", re.IGNORECASE)  # as users may write it
UNITS = "kmgt"
PROGRAM = 480 << 20  # bytes of the program with its libraries
OVERSHOOT = 1.35  # memory that the database really takes, relative to its limit
IDLE = 128 << 20  # limit of the database while parts are written and counted
OF_ID = 100  # bytes per user or item
OF_EVENT = 1  # bytes per example of the log
OF_PART_EVENT, OF_PART_EXAMPLE = 250, 33  # bytes per event of a part, and per example of it
OF_COUNTED = 35  # bytes per event that is counted and factorised
OF_VECTORS = 12_000  # bytes per item with vectors
LEAST_EVENTS, PART_EVENTS = 1 << 14, 1 << 22  # fewest and most events of a part


def parse_size(text: str) -> int:
    """Parse a size in bytes; raise ``UserError`` about ``--memory`` for other text.

    >>> parse_size("4GB"), parse_size("1.5 KiB")
    (4000000000, 1536)
    """
    matched = SIZE.fullmatch(text)
    if not matched:
        raise UserError(f"--memory must be a size such as 4GB, got {text[:80]!r}")
    number, unit, binary = matched.groups()
    return int(float(number) * (1024 if binary else 1000) ** (1 + UNITS.index(unit.lower())))


def reading_limit(memory: str) -> int:
    """Return the limit of the database, in bytes, while it reads a log of unknown size."""
    limit = _limit(memory, PROGRAM + round(OVERSHOOT * IDLE), "the program takes at least")
    return int((limit - PROGRAM) / OVERSHOOT)


def divide(
    memory: str, *, users: int, items: int, events: int, longest: int, examples: int
) -> tuple[int, int]:
    """Return the limit of the database in bytes while a log is ordered, and the events per part.

    A user has at most ``longest`` events, and each event gives ``examples`` examples. Raise
    ``UserError``, with an estimate, if the log needs more than ``--memory``.
    """
    arrays = OF_ID * (users + items) + OF_EVENT * examples * events
    least = PROGRAM + round(OVERSHOOT * IDLE) + arrays
    statistics = OF_COUNTED * min(events, MAX_INTERACTIONS) + OF_VECTORS * min(items, MAX_VALUES)
    of_event = OF_PART_EVENT + OF_PART_EXAMPLE * examples
    needed = least + max(statistics, of_event * min(max(LEAST_EVENTS, longest), events))
    log = f"{users:,} users, of {longest:,} events at most, and {items:,} items, with {examples:,}"
    limit = _limit(memory, needed, f"{log} examples of an event, take about")
    database = max(int((limit - PROGRAM - arrays) / OVERSHOOT), IDLE)
    return database, (limit - least) // of_event


def _limit(memory: str, needed: int, subject: str) -> int:
    """Return the limit in bytes; raise if it is below ``needed``."""
    limit = parse_size(memory)
    if limit < needed:
        problem = f"{subject} {math.ceil(needed / 1e6):,}MB"
        raise UserError(f"--memory {memory} is too little: {problem}; raise it, or prepare less")
    return limit
