"""Ranking many candidates for one user: what the candidates share is computed once.

    ranker = Ranker("runs/first")
    ranker.rank(["item 1", "item 7"], ["item 3", "item 4"], user="Ann").ids

A history is embedded and read by the interest extractor once; then one batch of candidates goes
through attention, interest evolution and the click network (:mod:`dien_jax.candidates`). Scores
are those of ``python -m dien_jax.evaluate``, to float32 rounding.

Dimensions: N candidates, T steps, H state.
"""

import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dien_jax.candidates import evolve
from dien_jax.config import Config
from dien_jax.dataset import Column, padded_columns
from dien_jax.errors import UserError
from dien_jax.models import InterestModel
from dien_jax.raw_values import SEPARATOR, Vocabularies
from dien_jax.schema import UNKNOWN, FeatureTables, FeatureValues, Schema
from dien_jax.trained import Trained, load_trained

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


class Interests(NamedTuple):
    """What is known of a history without a candidate.

    Attributes:
      states: ``[T, H]``, what attention weighs.
      last: ``[1, H]`` each, last states of the recurrences over the history.
    """

    states: jax.Array
    last: tuple[jax.Array, ...]


@dataclass(frozen=True)
class _Reading:
    """A history: its kept rows, and its interests where they are known."""

    rows: np.ndarray
    interests: Interests | None


class RankedModel(NamedTuple):
    """What a ranker works with.

    Attributes:
      schema: of the model.
      max_history: events kept of a history.
      buckets: lengths that histories are padded to, the last one ``max_history``.
      vocabularies: rows of raw ids.
      arguments: the first arguments of every program, on the device.
      programs: of the model.
    """

    schema: Schema
    max_history: int
    buckets: tuple[int, ...]
    vocabularies: Vocabularies
    arguments: tuple[Any, ...]
    programs: "Programs"


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

    Raises:
      ValueError: for ``max_users`` below 1.
    """

    def __init__(self, model: RankedModel, max_users: int = 1000) -> None:
        if max_users < 1:
            raise ValueError(f"max_users must be at least 1, got {max_users}")
        self._schema, self._max_history, self._buckets = model[:3]
        self._vocabularies, self._model, self._programs = model[3:]
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
        _check_sequence("candidates", candidates)
        if history is None:
            reading = self._recall(user)
        else:
            _check_sequence("history", history)
            reading = self._read(history)
        columns, unknown_context = self._vocabularies.context_columns(context or {})
        rows = self._vocabularies.item_rows(candidates)
        scores = self._scores(reading, rows, self._vocabularies.user_row(user), columns)
        order = np.argsort(-scores, kind="stable")
        ids = [str(candidate) for candidate in candidates]
        return Ranking(
            ids=[ids[place] for place in order],
            scores=scores[order],
            unknown_history=int(np.count_nonzero(reading.rows == UNKNOWN)),
            unknown_candidates=int(np.count_nonzero(rows == UNKNOWN)),
            unknown_context=unknown_context,
        )

    def remember(self, user: str | int, history: Sequence[str | int]) -> None:
        """Reads a user's history, oldest first, and keeps what came of it, in place of any other.

        Args:
          user: raw id, whether or not training knew it.
          history: raw item ids; empty for a user who has done nothing yet.
        """
        _check_sequence("history", history)
        self._keep(str(user), self._read(history))

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

    def warm_up(self) -> None:
        """Compiles every program, so that no call has to wait for it.

        Takes a second or so for each pair of a length of histories and a number of candidates;
        :func:`dien_jax.compiled.keep_compiled` keeps them on disk for the next process.
        """
        columns, _ = self._vocabularies.context_columns(
            dict.fromkeys(feature.name for feature in self._schema.context)
        )
        for bucket in self._buckets:
            reading = self._read_rows(np.zeros(bucket, np.int32))
            assert reading.interests is not None
            self._extended(reading.interests, UNKNOWN, bucket - 1)
            for size in CANDIDATE_BUCKETS:
                self._scores(reading, np.zeros(size, np.int32), UNKNOWN, columns)

    def _read(self, history: Sequence[str | int]) -> _Reading:
        kept = history[max(len(history) - self._max_history, 0) :]
        return self._read_rows(self._vocabularies.item_rows(kept))

    def _read_rows(self, rows: np.ndarray) -> _Reading:
        return _Reading(rows, self._programs.read(*self._model, self._padded(rows), len(rows)))

    def _recall(self, user: str | int | None) -> _Reading:
        with self._lock:
            reading = None if user is None else self._users.get(str(user))
            if reading is None:
                raise _not_remembered(user)
            self._users.move_to_end(str(user))
        if reading.interests is not None:
            return reading
        anew = self._read_rows(reading.rows)
        with self._lock:
            if self._users.get(str(user)) is reading:
                self._users[str(user)] = anew
        return anew

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
            padding = np.zeros((bucket - len(states), states.shape[1]), np.float32)
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

    def _scores(
        self, reading: _Reading, candidates: np.ndarray, user: int, columns: dict[str, Column]
    ) -> np.ndarray:
        """Click probabilities of rows of candidates, float32 ``[N]``."""
        context = padded_columns(self._schema.context, columns, np.zeros(1, np.int64))
        history, length = self._padded(reading.rows), len(reading.rows)
        most, turns = CANDIDATE_BUCKETS[-1], []
        for start in range(0, len(candidates), most):
            part = candidates[start : start + most]
            size = next(size for size in CANDIDATE_BUCKETS if size >= len(part))
            items = np.zeros(size, np.int32)
            items[: len(part)] = part
            shared = (reading.interests, history, length, np.full(1, user, np.int32), context)
            turns.append(self._programs.score(*self._model, *shared, items, len(part)))
        scores = np.concatenate([np.zeros(0, np.float32), *jax.device_get(turns)])
        return scores[: len(candidates)]


class Ranker(BaseRanker):
    """Ranks candidates with the best checkpoint of a run; see :class:`BaseRanker`.

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
        trained = load_trained(Path(run_folder), None if data is None else Path(data))
        super().__init__(ranked_model(trained, separator), max_users)


def ranked_model(trained: Trained, separator: str = SEPARATOR) -> RankedModel:
    """A trained model as a ranker takes it."""
    config, dataset = trained.run.config, trained.dataset
    variables = {"params": trained.params, "batch_stats": trained.batch_stats}
    tables = FeatureTables(dataset.item_tables(), dataset.user_tables())
    return RankedModel(
        dataset.schema,
        config.train.max_history,
        history_buckets(config),
        Vocabularies(dataset, separator),
        jax.device_put((variables, tables)),
        make_programs(config, dataset.schema),
    )


def history_buckets(config: Config) -> tuple[int, ...]:
    """Lengths that histories are padded to, ``max_history`` the last."""
    train = config.train
    return (*(edge for edge in train.buckets if edge < train.max_history), train.max_history)


class Programs(NamedTuple):
    """The jitted parts of ranking; each takes the model's arguments first."""

    read: Any
    extend: Any
    score: Any


def make_programs(config: Config, schema: Schema) -> Programs:
    """The programs of a model.

    ``read(variables, tables, history [T], length) -> Interests``,
    ``extend(variables, tables, interests, item, length) -> Interests`` and
    ``score(variables, tables, interests, history [T], length, user [1], context, items [N],
    count) -> [N]``, click probabilities of the first ``count`` items.
    """
    model = InterestModel(config.model, schema)

    def apply(variables: Any, method: str, *arguments: Any) -> Any:
        return model.apply(variables, *arguments, method=method)

    def read(
        variables: Any, tables: FeatureTables, history: jax.Array, length: jax.Array
    ) -> Interests:
        embedded = apply(variables, "embed_items", jnp.asarray(history)[None], tables)
        states, last = apply(variables, "read", embedded, jnp.asarray(length, jnp.int32)[None])
        return Interests(states[0], last)

    def extend(
        variables: Any,
        tables: FeatureTables,
        interests: Interests,
        item: jax.Array,
        length: jax.Array,
    ) -> Interests:
        embedded = apply(variables, "embed_items", jnp.asarray(item)[None, None], tables)
        one = jnp.ones(1, jnp.int32)
        state, last = apply(variables, "read", embedded, one, interests.last)
        states = jax.lax.dynamic_update_slice_in_dim(interests.states, state[0], length, 0)
        return Interests(states, last)

    def score(
        variables: Any,
        tables: FeatureTables,
        interests: Interests,
        history: jax.Array,
        length: jax.Array,
        user: jax.Array,
        context: dict[str, FeatureValues],
        items: jax.Array,
        count: jax.Array,
    ) -> jax.Array:
        length = jnp.asarray(length, jnp.int32)
        size, steps = items.shape[0], history.shape[0]
        embedded = apply(variables, "embed_items", jnp.asarray(history)[None], tables)
        live = (jnp.arange(steps, dtype=jnp.int32) < length)[None, :, None]
        pooled = apply(variables, "pool", embedded, live, length[None])
        candidates = apply(variables, "embed_items", jnp.asarray(items), tables)
        final = evolve(config.model, variables["params"], candidates, interests.states, length)

        def repeated(row: jax.Array) -> jax.Array:
            return jnp.broadcast_to(row, (size, row.shape[1]))

        of_context = None
        if schema.context:
            of_context = repeated(apply(variables, "embed_context", context))
        logits = apply(
            variables,
            "click_logits",
            repeated(apply(variables, "embed_users", jnp.asarray(user), tables)),
            candidates,
            repeated(pooled),
            final,
            of_context,
            jnp.arange(size) < count,
        )
        return jax.nn.sigmoid(logits)

    return Programs(jax.jit(read), jax.jit(extend), jax.jit(score))


def _check_sequence(name: str, ids: Any) -> None:
    if isinstance(ids, str):
        raise UserError(f"{name} must be a list of ids, got the text {ids[:40]!r}")


def _not_remembered(user: Any) -> UserError:
    return UserError(
        f"user {user!r} is not remembered; give the history, or remember(user, history) first "
        f"(max_users bounds how many are kept)"
    )
