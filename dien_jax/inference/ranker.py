"""Ranking many candidates for one user: what the candidates share is computed once.

A history is embedded and read by the interest extractor once; then one batch of candidates goes
through attention, interest evolution and the click network (:mod:`dien_jax.steps.rank`). Scores
are those of ``python -m dien_jax.evaluate``, to float32 rounding. Users whose histories and
candidates have the same padded sizes can share a call (:mod:`dien_jax.inference.requests`).

Dimensions: N candidates, T steps, H state.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dien_jax.data.dataset import padded_columns
from dien_jax.data.schema import UNKNOWN
from dien_jax.data.vocabularies import SEPARATOR
from dien_jax.errors import UserError
from dien_jax.inference.archive import read_artifact
from dien_jax.inference.loaded_model import RankedModel, exported_model, ranked_model
from dien_jax.inference.rank_calls import CANDIDATE_BUCKETS, Calls, Reading, Task
from dien_jax.inference.requests import RankRequest
from dien_jax.runs.trained import load_run


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
        self.schema, self.step, self._max_history = model.schema, model.step, model.max_history
        self._vocabularies, self._calls = model.vocabularies, Calls(model)
        self._max_users = max_users
        self._users: OrderedDict[str, Reading] = OrderedDict()
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
        tasks: list[Task] = []
        users: list[str | int | None] = []
        for request in requests:
            try:
                outcomes.append(self._task(request))
                tasks.append(outcomes[-1])
                users.append(request.user)
            except UserError as error:
                outcomes.append(error)
        self._read_all(tasks, users)
        scores = iter(self._calls.scores(tasks))
        for place, outcome in enumerate(outcomes):
            if isinstance(outcome, Task):
                outcomes[place] = _ranking(requests[place].candidates, outcome, next(scores))
        return outcomes

    def remember(self, user: str | int, history: Sequence[str | int]) -> None:
        """Reads a user's history, oldest first, and keeps what came of it, in place of any other.

        Args:
          user: raw id, whether or not training knew it.
          history: raw item ids; empty for a user who has done nothing yet.
        """
        _check_sequence("history", history)
        (reading,) = self._calls.readings([self._unread(history)])
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
                interests = self._calls.extended(interests, int(row), len(reading.rows))
            self._users[str(user)] = Reading(rows, interests)
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
        adopted: OrderedDict[str, Reading] = OrderedDict()
        for user, reading in readings:
            rows = reading.rows[max(len(reading.rows) - self._max_history, 0) :]
            if not same:
                rows = ours.item_rows([theirs.items[row] if row else "" for row in rows])
            adopted[user] = Reading(rows, None)
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
        candidates and a number of users; :func:`dien_jax.utils.compile_cache.enable_compile_cache`
        keeps them on disk for the next process.

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
        for share in self._calls.all_sizes(context, users, candidates):
            progress(share)

    def _task(self, request: RankRequest) -> Task:
        _check_sequence("candidates", request.candidates)
        if request.history is None:
            reading = self._recall(request.user)
        else:
            _check_sequence("history", request.history)
            reading = self._unread(request.history)
        columns, unknown_context = self._vocabularies.context_columns(request.context or {})
        return Task(
            self._vocabularies.item_rows(request.candidates),
            np.full(1, self._vocabularies.user_row(request.user), np.int32),
            padded_columns(self.schema.context, columns, np.zeros(1, np.int64)),
            reading,
            unknown_context,
        )

    def _unread(self, history: Sequence[str | int]) -> Reading:
        kept = history[max(len(history) - self._max_history, 0) :]
        return Reading(self._vocabularies.item_rows(kept), None)

    def _recall(self, user: str | int | None) -> Reading:
        with self._lock:
            reading = None if user is None else self._users.get(str(user))
            if reading is None:
                raise _not_remembered(user)
            self._users.move_to_end(str(user))
        return reading

    def _read_all(self, tasks: Sequence[Task], users: Sequence[str | int | None]) -> None:
        """Reads the histories of tasks that have not been; what is remembered keeps it."""
        places = [place for place, task in enumerate(tasks) if task.reading.interests is None]
        found = self._calls.readings([tasks[place].reading for place in places])
        for place, anew in zip(places, found, strict=True):
            with self._lock:
                if self._users.get(str(users[place])) is tasks[place].reading:
                    self._users[str(users[place])] = anew
            tasks[place].reading = anew

    def _keep(self, user: str, reading: Reading) -> None:
        with self._lock:
            self._users[user] = reading
            self._users.move_to_end(user)
            if len(self._users) > self._max_users:
                self._users.popitem(last=False)


def _ranking(candidates: Sequence[str | int], task: Task, scores: np.ndarray) -> Ranking:
    order = np.argsort(-scores, kind="stable")
    ids = [str(candidate) for candidate in candidates]
    return Ranking(
        ids=[ids[place] for place in order],
        scores=scores[order],
        unknown_history=int(np.count_nonzero(task.reading.rows == UNKNOWN)),
        unknown_candidates=int(np.count_nonzero(task.candidates == UNKNOWN)),
        unknown_context=task.unknown_context,
    )


def _check_sequence(name: str, ids: Any) -> None:
    if isinstance(ids, str):
        raise UserError(f"{name} must be a list of ids, got the text {ids[:40]!r}")


def _not_remembered(user: Any) -> UserError:
    return UserError(
        f"user {user!r} is not remembered; give the history, or remember(user, history) first "
        f"(max_users bounds how many are kept)"
    )


class Ranker(BaseRanker):
    """Ranks candidates with the best checkpoint of a run.

    Methods are those of :class:`~dien_jax.inference.ranker.BaseRanker`.

    Args:
      run_folder: made by ``dien_jax.train``.
      data: its dataset folder, where that has moved; of which vocabularies and features are read.
      max_users: remembered users; of more, those least recently used are forgotten.
      separator: between the values of a multi-valued context feature that comes as one text.

    Raises:
      UserError: when the run, its checkpoint or the data is at fault.
      ValueError: for ``max_users`` below 1.
    """

    def __init__(
        self,
        run_folder: str | Path,
        data: str | Path | None = None,
        *,
        max_users: int = 1000,
        separator: str = SEPARATOR,
    ) -> None:
        trained = load_run(Path(run_folder), None if data is None else Path(data))
        super().__init__(ranked_model(trained, separator), max_users)


class ExportedRanker(BaseRanker):
    """Ranks candidates with an exported model, alone in its file; see :class:`BaseRanker`.

    Args:
      file: written by ``python -m dien_jax.export``.
      max_users: remembered users; of more, those least recently used are forgotten.
      separator: between the values of a multi-valued context feature that comes as one text.

    Raises:
      UserError: when the file is missing, another kind of file, damaged or too new.
      ValueError: for ``max_users`` below 1.
    """

    def __init__(
        self, file: str | Path, *, max_users: int = 1000, separator: str = SEPARATOR
    ) -> None:
        super().__init__(exported_model(read_artifact(Path(file)), separator), max_users)


def load_ranker(
    path: str | Path,
    data: str | Path | None = None,
    *,
    max_users: int = 1000,
    separator: str = SEPARATOR,
) -> BaseRanker:
    """What ranks with a run folder or with an exported model, whichever lies there.

    Args:
      path: a run folder, for a :class:`Ranker`; a file, for an :class:`ExportedRanker`.
      data: the run's dataset folder, where that has moved; a file needs none.
      max_users: as both take it.
      separator: as both take it.

    Raises:
      UserError: when there is neither, what lies there cannot be used, or a file is given data.
      ValueError: for ``max_users`` below 1.
    """
    path = Path(path)
    if path.is_dir():
        return Ranker(path, data, max_users=max_users, separator=separator)
    if not path.exists():
        raise UserError(
            f"{path} does not exist; expected a run folder, or a file that "
            f"python -m dien_jax.export wrote"
        )
    if data is not None:
        raise UserError(f"{path} is an exported model, which needs no data; leave {data} out")
    return ExportedRanker(path, max_users=max_users, separator=separator)
