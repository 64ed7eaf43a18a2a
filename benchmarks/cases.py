"""Named shapes that benchmarks share: batch B, steps T, input and state width."""

from typing import NamedTuple


class Case(NamedTuple):
    """One size of a recurrence; every history is T long."""

    batch: int
    steps: int
    hidden: int


CASES = {
    "paper": Case(128, 100, 36),
    "wide": Case(128, 100, 128),
    "large batch": Case(1024, 100, 36),
    "long": Case(32, 1000, 36),
}
