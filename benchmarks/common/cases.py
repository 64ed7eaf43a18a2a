"""Named shapes that benchmarks share: batch B, steps T, input and state width."""

from typing import NamedTuple

import numpy as np


class Case(NamedTuple):
    """One size of a recurrence; histories are T long, or of lengths like real ones when ragged."""

    batch: int
    steps: int
    hidden: int
    ragged: bool = False

    def lengths(self) -> np.ndarray:
        """Live steps of each row, int32 ``[B]``."""
        if self.ragged:
            return history_lengths(self.batch, self.steps)
        return np.full(self.batch, self.steps, np.int32)


CASES = {
    "paper": Case(128, 100, 36),
    "large_batch": Case(1024, 100, 36),
    "long": Case(32, 1000, 36),
    "wide128": Case(128, 100, 128),
    "wide256": Case(128, 100, 256),
    "ragged": Case(128, 100, 36, ragged=True),
}


def history_lengths(count: int, longest: int) -> np.ndarray:
    """Lengths as long-tailed as real ones, int32 ``[count]``, drawn with a fixed seed.

    ``min(longest, 4 + floor(y))`` with ``y`` log-normal, its median 1.5 and the standard deviation
    of its logarithm 1.47: least 4, median 5, mean about 8, a tenth 13 or more, a hundredth about
    50. Those are the figures of training histories in the Amazon review sets (beauty, sports,
    toys), where every user has five reviews or more.
    """
    tail = np.random.default_rng(2).lognormal(np.log(1.5), 1.47, count)
    return np.minimum(longest, 4 + np.floor(tail)).astype(np.int32)
