"""What a ranker asks of a model's programs: padded sizes, and requests that share a call.

Histories are padded to the run's buckets, candidates to ``CANDIDATE_BUCKETS``; histories or
requests whose padded sizes are the same are read or scored together.

Dimensions: N candidates, U users of a call.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from dien_jax.data.schema import UNKNOWN, FeatureValues
from dien_jax.inference.loaded_model import RankedModel
from dien_jax.inference.requests import USER_BUCKETS, stacked, together, user_counts
from dien_jax.steps.rank import Interests

CANDIDATE_BUCKETS = (8, 32, 128, 512)
"""Numbers of candidates that programs are compiled for; more candidates go in turns of 512."""


@dataclass(frozen=True)
class Reading:
    """A history: its kept rows, and its interests where they are known."""

    rows: np.ndarray
    interests: Interests | None


@dataclass
class Task:
    """A request as the programs take it; ``user`` is a row, ``context`` has one."""

    candidates: np.ndarray
    user: np.ndarray
    context: dict[str, FeatureValues]
    reading: Reading
    unknown_context: int


class Calls:
    """The programs of a model, called for any number of histories and requests.

    Attributes:
      programs: of the model.
      buckets: lengths that histories are padded to.
    """

    def __init__(self, model: RankedModel) -> None:
        self.programs, self.buckets, self._model = model.programs, model.buckets, model.arguments

    def all_sizes(
        self, context: dict[str, FeatureValues], users: int, candidates: int
    ) -> Iterator[float]:
        """Calls every program at every combination of sizes; yields the share that is done.

        Args:
          context: one row of it, as requests have.
          users: of a call, at most.
          candidates: of a request, at most.
        """
        sizes = CANDIDATE_BUCKETS[: _bucket_place(candidates) + 1]
        for number, bucket in enumerate(self.buckets):
            unread = Reading(np.zeros(bucket, np.int32), None)
            for count in self._user_counts(1, users):
                read = self.readings([unread] * count)
            assert read[0].interests is not None
            self.extended(read[0].interests, UNKNOWN, bucket - 1)
            for place, size in enumerate(sizes):
                yield (number + place / len(sizes)) / len(self.buckets)
                rows, user = np.zeros(size, np.int32), np.full(1, UNKNOWN, np.int32)
                for count in self._user_counts(size, users):
                    self.scores([Task(rows, user, context, read[0], 0)] * count)

    def readings(self, unread: Sequence[Reading]) -> list[Reading]:
        """Histories with their interests."""
        found: list[Any] = [None] * len(unread)
        for places in together(
            range(len(unread)),
            lambda place: self._bucket(len(unread[place].rows)),
            lambda _: self._user_counts(1),
        ):
            histories = [self._padded(unread[place].rows) for place in places]
            lengths = [len(unread[place].rows) for place in places]
            if len(places) == 1:
                read = [self.programs.read(*self._model, histories[0], lengths[0])]
            else:
                stacks = np.stack(histories), np.array(lengths, np.int32)
                read = self.programs.read_many(*self._model, *stacks)
            for place, interests in zip(places, read, strict=True):
                found[place] = Reading(unread[place].rows, interests)
        return found

    def extended(self, interests: Interests, row: int, length: int) -> Interests:
        """The interests after one more event; ``length`` are the events before it."""
        states, bucket = interests.states, self._bucket(length + 1)
        if bucket > len(states):
            padding = np.zeros((bucket - len(states), states.shape[1]), states.dtype)
            wider = np.concatenate([np.asarray(states), padding])
            states = jax.device_put(wider, states.sharding)  # or programs would compile again
        interests = Interests(states, interests.last)
        return self.programs.extend(*self._model, interests, np.int32(row), length)

    def _bucket(self, length: int) -> int:
        return next(edge for edge in self.buckets if edge >= length)

    def _padded(self, rows: np.ndarray) -> np.ndarray:
        padded = np.zeros(self._bucket(len(rows)), np.int32)
        padded[: len(rows)] = rows
        return padded

    def scores(self, tasks: Sequence[Task]) -> list[np.ndarray]:
        """Click probabilities of each task's candidates, float32 ``[N]``."""
        turns = [
            (place, start)
            for place, task in enumerate(tasks)
            for start in range(0, len(task.candidates), CANDIDATE_BUCKETS[-1])
        ]

        def part(turn: tuple[int, int]) -> np.ndarray:
            place, start = turn
            return tasks[place].candidates[start : start + CANDIDATE_BUCKETS[-1]]

        def size(turn: tuple[int, int]) -> int:
            return CANDIDATE_BUCKETS[_bucket_place(len(part(turn)))]

        groups = list(
            together(
                turns,
                lambda turn: (self._bucket(len(tasks[turn[0]].reading.rows)), size(turn), turn[1]),
                lambda turn: self._user_counts(size(turn)),
            )
        )
        calls = [
            self._score([(tasks[turn[0]], part(turn)) for turn in group], size(group[0]))
            for group in groups
        ]
        found = [np.zeros(len(task.candidates), np.float32) for task in tasks]
        for group, scores in zip(groups, jax.device_get(calls), strict=True):
            for (place, start), row in zip(group, np.atleast_2d(scores), strict=True):
                count = len(part((place, start)))
                found[place][start : start + count] = row[:count]
        return found

    def _score(self, members: Sequence[tuple[Task, np.ndarray]], size: int) -> jax.Array:
        """Scores of padded candidates: ``[size]`` for one member, ``[U, size]`` for more."""
        arguments = []
        for task, candidates in members:
            items = np.zeros(size, np.int32)
            items[: len(candidates)] = candidates
            rows = task.reading.rows
            history, length = self._padded(rows), np.int32(len(rows))
            count = np.int32(len(candidates))
            arguments.append((history, length, task.user, task.context, items, count))
        interests = tuple(task.reading.interests for task, _ in members)
        if len(members) == 1:
            return self.programs.score(*self._model, interests[0], *arguments[0])
        return self.programs.score_many(*self._model, interests, *stacked(arguments))

    def _user_counts(self, candidates: int, most: int = USER_BUCKETS[-1]) -> list[int]:
        return user_counts(candidates, most) if self.programs.score_many else [1]


def _bucket_place(candidates: int) -> int:
    """Which of ``CANDIDATE_BUCKETS`` holds so many: the last, in turns, where none does."""
    fitting = (place for place, size in enumerate(CANDIDATE_BUCKETS) if size >= candidates)
    return next(fitting, len(CANDIDATE_BUCKETS) - 1)
