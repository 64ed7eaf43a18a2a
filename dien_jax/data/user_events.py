"""The events of raw users, in order of time."""

import numpy as np

from dien_jax.data.arrays import chunks
from dien_jax.data.clock import LIKELY_MILLISECONDS, TIME_UNIT, Clock
from dien_jax.data.dataset import Dataset
from dien_jax.errors import UserError

_REMEDY = "give each row its own in a column 'history' (--history)"


class UserEvents:
    """Look-up of the events of raw users in a dataset folder.

    A folder that has several histories of one user is a ``UserError`` with ``remedy`` as advice.
    """

    def __init__(self, dataset: Dataset, remedy: str = _REMEDY) -> None:
        self._dataset = dataset
        sequences = _user_sequences(dataset, remedy)
        pairs = zip(dataset.groups(), sequences.tolist(), strict=True)
        self._sequences = {raw: sequence for raw, sequence in pairs if sequence >= 0}
        offsets = np.asarray(dataset.event_offsets)
        starts, ends = offsets[:-1][np.diff(offsets) > 0], offsets[1:][np.diff(offsets) > 0]
        times = dataset.event_timestamp
        self._earliest = int(times[starts].min()) if len(starts) else 0
        unit = dataset.meta.get("source", {}).get(TIME_UNIT)
        if unit is None:  # the folder does not say
            latest = times[ends - 1].max(initial=0)
            unit = "milliseconds" if latest > LIKELY_MILLISECONDS else "seconds"
        self._clock = Clock(iso=False, unit=unit)

    def __contains__(self, user: str) -> bool:
        """Return whether the folder has a history of a raw user, which may be empty."""
        return user in self._sequences

    def find(self, user: str, time: int | None) -> tuple[int, int]:
        """Return a user's sequence, and where in all events the history before ``time`` ends."""
        offsets = self._dataset.event_offsets
        sequence = self._sequences.get(user)
        if sequence is None:
            return 0, 0  # an empty history
        start, stop = int(offsets[sequence]), int(offsets[sequence + 1])
        if time is None:
            return sequence, stop
        before = np.searchsorted(self._dataset.event_timestamp[start:stop], time)
        return sequence, start + int(before)

    def time(self, text: str | None) -> int:
        """Parse a time, in the folder's unit; a ``UserError`` shows the text."""
        if not text:
            raise UserError("it is empty")
        time = self._clock.read("a time", text, self._earliest)
        if not 0 <= time <= self._clock.limit:
            raise UserError(f"{text!r} is before 1970, or beyond 9999 in {self._clock.unit}")
        return time


def _user_sequences(dataset: Dataset, remedy: str) -> np.ndarray:
    """Return the sequence of each group, int64, -1 for a group without one."""
    groups = int(dataset.meta["counts"]["groups"])
    sequences = np.full(groups, -1)
    for examples in dataset.splits.values():
        for part in chunks(len(examples.group)):
            group, sequence = examples.group[part], examples.sequence[part]
            new = sequences[group] < 0
            sequences[group[new]] = sequence[new]
            if (sequences[group] != sequence).any():
                raise UserError(f"{dataset.path} has several histories of one user; {remedy}")
    known = np.flatnonzero(sequences >= 0)
    if len(dataset.event_offsets) - 1 == groups and (sequences[known] == known).all():
        return np.arange(groups)  # includes users without an example
    return sequences
