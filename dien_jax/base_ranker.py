"""Ranking many candidates for one user: what the candidates share is computed once.

A history is embedded and read by the interest extractor once; then one batch of candidates goes
through attention, interest evolution and the click network (:mod:`dien_jax.candidates`). Scores
are those of ``python -m dien_jax.evaluate``, to float32 rounding. Users whose histories and
candidates have the same padded sizes can share a call (:mod:`dien_jax.user_batches`).

Dimensions: N candidates, T steps, H state.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import numpy as np

from dien_jax.dataset import padded_columns
from dien_jax.errors import UserError
from dien_jax.rank_programs import Interests, Programs
from dien_jax.raw_values import Vocabularies
from dien_jax.schema import UNKNOWN, FeatureValues, Schema
from dien_jax.user_batches import (
    USER_BUCKETS,
    RankRequest,
    stacked,
    together,
    user_counts,
)

CANDIDATE_BUCKETS = (8, 32, 128, 512)
"""Numbers of candidates that programs are compiled for; more candidates go in turns of 512."""


class Ranking(NamedTuple):
    """Candidates, the likeliest click first; those of equal scores as they were given.

    Attributes:
      ids: raw ids.
      scores: float32 ``[N]``, click probabilities.
      unknown_history: behaviours, of those that were kept, that training did not know.
      unknown_candidates: candidates that training did not know; all of them score alike.
      unknown_context: context values that training did not know.
    """

    ids: list[str]
    scores: np.ndarray
    unknown_history: int
    unknown_candidates: int
    unknown_context: int


@dataclass(frozen=True)
class _Reading:
    """A history: its kept rows, and its interests where they are known."""

    rows: np.ndarray
    interests: Interests | None


@dataclass
class _Task:
    """A request as the programs take it; ``user`` is a row, ``context`` has one."""

    candidates: np.ndarray
    user: np.ndarray
    context: dict[str, FeatureValues]
    reading: _Reading
    unknown_context: int


class RankedModel(NamedTuple):
    """What a ranker works with.

    Attributes:
      schema: of the model.
      step: of the checkpoint.
      max_history: events kept of a history.
      buckets: lengths that histories are padded to, the last one ``max_history``.
      vocabularies: rows of raw ids.
      arguments: the first arguments of every program, on the device.
      programs: of the model.
    """

    schema: Schema
    step: int
    max_history: int
    buckets: tuple[int, ...]
    vocabularies: Vocabularies
    arguments: tuple[Any, ...]
    programs: Programs


class BaseRanker:
    """Ranks candidates with a model, wherever that is from.

    Histories keep their latest ``max_history`` events and are padded to the run's buckets,
    candidates to ``CANDIDATE_BUCKETS``: each pair of sizes is compiled when it is first met, or by
    :meth:`warm_up`. The methods may be called from several threads.

    Users can be remembered: :meth:`remember` reads a history, :meth:`observe` adds an event by a
    single step of the recurrence, and ``rank(None, ...)`` ranks for what is remembered. Once a
    history is ``max_history`` long, each further event drops the oldest one. A recurrence cannot
    forget its first event, so the history that is left is then read anew, when next ranked for:
    a remembered user always scores as the same history given whole.

    Two choices of the authors' program make scores depend on more than user and candidate, here
    as in ``evaluate``: ``model.dice_statistics`` ``batch`` normalises over the candidates that are
    ranked together, ``model.pooling`` ``padded_sum`` counts the padding of the history's bucket.

    Args:
      model: to rank with.
      max_users: remembered users; of more, those least recently used are forgotten.

    Attributes:
      step: of the checkpoint.
      schema: the features that it was trained on.

    Raises:
      ValueError: for ``max_users`` below 1.
    """

    def __init__(self, model: RankedModel, max_users: int = 1000) -> None:
        if max_users < 1:
            raise ValueError(f"max_users must be at least 1, got {max_users}")
        self.schema, self.step, self._max_history, self._buckets = model[:4]
        self._vocabularies, self._model, self._programs = model[4:]
        self._max_users = max_users
        self._users: OrderedDict[str, _Reading] = OrderedDict()
        self._lock = threading.Lock()

    def rank(
        self,
        history: Sequence[str | int] | None,
        candidates: Sequence[str | int],
        user: str | int | None = None,
        context: Mapping[str, Any] | None = None,
    ) -> Ranking:
        """Scores candidates for a user and sorts them.

        Ids and values are raw, as in the log: text, or numbers that read alike as text. What
        training did not know is unknown to the model, and counted.

        Args:
          history: the user's behaviours, oldest first; may be empty. None stands for the history
            that is remembered of ``user``.
          candidates: items.
          user: None for an unknown user.
          context: values of all context features by name; None for a missing value, a list or one
            text with separators for a multi-valued feature.

        Raises:
          UserError: for a context feature that is missing, does not exist or is not a number, or
            for ``history=None`` and a user who is not remembered.
        """
        (outcome,) = self.rank_many([RankRequest(history, candidates, user, context)])
        if isinstance(outcome, UserError):
            raise outcome
        return outcome

    def rank_many(self, requests: Sequence[RankRequest]) -> list[Ranking | UserError]:
        """What :meth:`rank` gives for each of several requests, to float32 rounding.

        Those whose padded sizes are the same share calls of the programs. A request that cannot be
        ranked for has its error in place of a ranking; the others do not depend on it.
        """
        outcomes: list[Any] = []
        tasks: list[_Task] = []
        users: list[str | int | None] = []
        for request in requests:
            try:
                outcomes.append(self._task(request))
                tasks.append(outcomes[-1])
                users.append(request.user)
            except UserError as error:
                outcomes.append(error)
        self._read_all(tasks, users)
        scores = iter(self._scores(tasks))
        for place, outcome in enumerate(outcomes):
            if isinstance(outcome, _Task):
                outcomes[place] = _ranking(requests[place].candidates, outcome, next(scores))
        return outcomes

    def remember(self, user: str | int, history: Sequence[str | int]) -> None:
        """Reads a user's history, oldest first, and keeps what came of it, in place of any other.

        Args:
          user: raw id, whether or not training knew it.
          history: raw item ids; empty for a user who has done nothing yet.
        """
        _check_sequence("history", history)
        (reading,) = self._readings([self._unread(history)])
        self._keep(str(user), reading)

    def observe(self, user: str | int, event: str | int) -> None:
        """Adds an event to the end of a remembered history.

        Raises:
          UserError: when the user is not remembered, never was or no longer is.
        """
        (row,) = self._vocabularies.item_rows([event])
        with self._lock:  # no other event of the user may come between
            reading = self._users.get(str(user))
            if reading is None:
                raise _not_remembered(user)
            rows, interests = np.append(reading.rows, row), reading.interests
            if len(rows) > self._max_history:
                rows, interests = rows[1:], None
            elif interests is not None:
                interests = self._extended(interests, int(row), len(reading.rows))
            self._users[str(user)] = _Reading(rows, interests)
            self._users.move_to_end(str(user))

    def __contains__(self, user: object) -> bool:
        """Whether a user is remembered."""
        return str(user) in self._users

    @property
    def remembered_users(self) -> int:
        """How many users are remembered."""
        return len(self._users)

    def adopt(self, other: "BaseRanker") -> None:
        """Remembers whom another ranker remembers, in its place: for a newer checkpoint of a run.

        Histories are taken over as the events that the other knew, by their raw ids, and are read
        anew, each when it is next ranked for. They replace those that are remembered here.
        """
        ours, theirs = self._vocabularies, other._vocabularies
        same = ours.items == theirs.items
        with other._lock:
            readings = list(other._users.items())[-self._max_users :]
        adopted: OrderedDict[str, _Reading] = OrderedDict()
        for user, reading in readings:
            rows = reading.rows[max(len(reading.rows) - self._max_history, 0) :]
            if not same:
                rows = ours.item_rows([theirs.items[row] if row else "" for row in rows])
            adopted[user] = _Reading(rows, None)
        with self._lock:
            self._users = adopted

    def warm_up(
        self,
        users: int = 1,
        candidates: int = CANDIDATE_BUCKETS[-1],
        progress: Callable[[float], None] = lambda share: None,
    ) -> None:
        """Compiles every program, so that no call has to wait for it.

        Takes half a second or so for each combination of a length of histories, a number of
        candidates and a number of users; :func:`dien_jax.compiled.keep_compiled` keeps them on
        disk for the next process.

        Args:
          users: as many as :meth:`rank_many` will be given at once, more than
            ``USER_BUCKETS`` has being the same as its last.
          candidates: as many as a request will have, more than ``CANDIDATE_BUCKETS`` has being
            the same as its last.
          progress: is called with the share that is done, from 0 to 1, now and then.
        """
        columns, _ = self._vocabularies.context_columns(
            dict.fromkeys(feature.name for feature in self.schema.context)
        )
        context = padded_columns(self.schema.context, columns, np.zeros(1, np.int64))
        sizes = CANDIDATE_BUCKETS[: _bucket_place(candidates) + 1]
        for number, bucket in enumerate(self._buckets):
            unread = _Reading(np.zeros(bucket, np.int32), None)
            for count in self._user_counts(1, users):
                read = self._readings([unread] * count)
            assert read[0].interests is not None
            self._extended(read[0].interests, UNKNOWN, bucket - 1)
            for place, size in enumerate(sizes):
                progress((number + place / len(sizes)) / len(self._buckets))
                rows, user = np.zeros(size, np.int32), np.full(1, UNKNOWN, np.int32)
                for count in self._user_counts(size, users):
                    self._scores([_Task(rows, user, context, read[0], 0)] * count)

    def _user_counts(self, candidates: int, most: int = USER_BUCKETS[-1]) -> list[int]:
        return user_counts(candidates, most) if self._programs.score_many else [1]

    def _task(self, request: RankRequest) -> _Task:
        _check_sequence("candidates", request.candidates)
        if request.history is None:
            reading = self._recall(request.user)
        else:
            _check_sequence("history", request.history)
            reading = self._unread(request.history)
        columns, unknown_context = self._vocabularies.context_columns(request.context or {})
        return _Task(
            self._vocabularies.item_rows(request.candidates),
            np.full(1, self._vocabularies.user_row(request.user), np.int32),
            padded_columns(self.schema.context, columns, np.zeros(1, np.int64)),
            reading,
            unknown_context,
        )

    def _unread(self, history: Sequence[str | int]) -> _Reading:
        kept = history[max(len(history) - self._max_history, 0) :]
        return _Reading(self._vocabularies.item_rows(kept), None)

    def _recall(self, user: str | int | None) -> _Reading:
        with self._lock:
            reading = None if user is None else self._users.get(str(user))
            if reading is None:
                raise _not_remembered(user)
            self._users.move_to_end(str(user))
        return reading

    def _read_all(self, tasks: Sequence[_Task], users: Sequence[str | int | None]) -> None:
        """Reads the histories of tasks that have not been; what is remembered keeps it."""
        places = [place for place, task in enumerate(tasks) if task.reading.interests is None]
        found = self._readings([tasks[place].reading for place in places])
        for place, anew in zip(places, found, strict=True):
            with self._lock:
                if self._users.get(str(users[place])) is tasks[place].reading:
                    self._users[str(users[place])] = anew
            tasks[place].reading = anew

    def _readings(self, unread: Sequence[_Reading]) -> list[_Reading]:
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
                read = [self._programs.read(*self._model, histories[0], lengths[0])]
            else:
                stacks = np.stack(histories), np.array(lengths, np.int32)
                read = self._programs.read_many(*self._model, *stacks)
            for place, interests in zip(places, read, strict=True):
                found[place] = _Reading(unread[place].rows, interests)
        return found

    def _keep(self, user: str, reading: _Reading) -> None:
        with self._lock:
            self._users[user] = reading
            self._users.move_to_end(user)
            if len(self._users) > self._max_users:
                self._users.popitem(last=False)

    def _extended(self, interests: Interests, row: int, length: int) -> Interests:
        """The interests after one more event; ``length`` are the events before it."""
        states, bucket = interests.states, self._bucket(length + 1)
        if bucket > len(states):
            padding = np.zeros((bucket - len(states), states.shape[1]), states.dtype)
            wider = np.concatenate([np.asarray(states), padding])
            states = jax.device_put(wider, states.sharding)  # or programs would compile again
        interests = Interests(states, interests.last)
        return self._programs.extend(*self._model, interests, np.int32(row), length)

    def _bucket(self, length: int) -> int:
        return next(edge for edge in self._buckets if edge >= length)

    def _padded(self, rows: np.ndarray) -> np.ndarray:
        padded = np.zeros(self._bucket(len(rows)), np.int32)
        padded[: len(rows)] = rows
        return padded

    def _scores(self, tasks: Sequence[_Task]) -> list[np.ndarray]:
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

    def _score(self, members: Sequence[tuple[_Task, np.ndarray]], size: int) -> jax.Array:
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
            return self._programs.score(*self._model, interests[0], *arguments[0])
        return self._programs.score_many(*self._model, interests, *stacked(arguments))


def _ranking(candidates: Sequence[str | int], task: _Task, scores: np.ndarray) -> Ranking:
    order = np.argsort(-scores, kind="stable")
    ids = [str(candidate) for candidate in candidates]
    return Ranking(
        ids=[ids[place] for place in order],
        scores=scores[order],
        unknown_history=int(np.count_nonzero(task.reading.rows == UNKNOWN)),
        unknown_candidates=int(np.count_nonzero(task.candidates == UNKNOWN)),
        unknown_context=task.unknown_context,
    )


def _bucket_place(candidates: int) -> int:
    """Which of ``CANDIDATE_BUCKETS`` holds so many: the last, in turns, where none does."""
    fitting = (place for place, size in enumerate(CANDIDATE_BUCKETS) if size >= candidates)
    return next(fitting, len(CANDIDATE_BUCKETS) - 1)


def _check_sequence(name: str, ids: Any) -> None:
    if isinstance(ids, str):
        raise UserError(f"{name} must be a list of ids, got the text {ids[:40]!r}")


def _not_remembered(user: Any) -> UserError:
    return UserError(
        f"user {user!r} is not remembered; give the history, or remember(user, history) first "
        f"(max_users bounds how many are kept)"
    )
