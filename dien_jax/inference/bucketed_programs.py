"""A loaded model and its programs, called with padded histories and candidates of several requests.

Histories are padded to some of the run's buckets, slices of N candidates to ``CANDIDATE_BUCKETS``.
Calls of one request each are all made before the first result is waited for.
"""

import os
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from dien_jax.config.settings import Config
from dien_jax.data.arrays import Examples, padded_columns
from dien_jax.data.dataset import Dataset
from dien_jax.data.loader import BUCKETS
from dien_jax.data.schema import UNKNOWN, FeatureValues, Schema
from dien_jax.data.value_text import SEPARATOR
from dien_jax.data.vocabularies import Vocabularies
from dien_jax.errors import UserError, require_unforked
from dien_jax.inference.archive import ExportedModel, read_archive
from dien_jax.inference.exported_programs import ranking_programs
from dien_jax.model.tower import of_part
from dien_jax.runs.checkpoints import named_leaves
from dien_jax.runs.list_weights import ListWeights
from dien_jax.runs.trained import TrainedModel, load_run
from dien_jax.steps.placement import placed_like
from dien_jax.steps.rank import Interests, Programs, make_programs
from dien_jax.utils.machine import map_in_order, thread_count

LEAST_RATIO = 3
"""Least ratio of two lengths of histories that programs are compiled for."""
CANDIDATE_BUCKETS = (64, 512)
"""Numbers of candidates that programs are compiled for; more are scored in slices."""
TOWER_ROWS = 384
"""Number of candidates that the program of the tower is compiled for; more are in slices."""
SCORED_ROWS = 128
"""The same for the program of the whole model for several users."""
ROWS_TOGETHER = 32
"""Number of slices, of any users, that the programs of several users are compiled for."""
Slices = Mapping[int, int]
"""Size of slices by the largest number of candidates for it, rising; the last is for any number."""


class LoadedModel(NamedTuple):
    """A model to rank with; ``arguments`` are the first ones of every program, on the device.

    The last of ``history_buckets`` is the longest history. If the model can ``follow_authors``,
    scores depend on the other candidates of a slice, and on the length that a history is padded to.
    ``list_offsets`` are those of :func:`dien_jax.runs.calibration.list_offsets`, if there are any.
    ``tables`` are what lists over all items read, in host memory: arrays by names such as
    ``tables/item/category`` and ``params/tower/item_weights/item``. ``knows_repeats`` is false if
    no negative of training was in the history of its user.
    """

    schema: Schema
    step: int
    history_buckets: tuple[int, ...]
    follow_authors: bool
    vocabularies: Vocabularies
    arguments: tuple[Any, ...]
    programs: Programs
    list_offsets: np.ndarray | None
    list_weights: ListWeights | None
    tables: Mapping[str, np.ndarray]
    knows_repeats: bool

    @classmethod
    def from_run(cls, trained: TrainedModel, separator: str = SEPARATOR) -> "LoadedModel":
        config, dataset, tables = trained.run.config, trained.dataset, trained.feature_tables()
        variables = jax.device_put(trained.variables())
        read = {"tables": tables, "params": of_part(variables["params"], "tower")}
        return cls(
            dataset.schema,
            trained.step,
            history_buckets(config),
            config.model.follow_authors,
            Vocabularies(dataset.schema, dataset.vocabulary, separator),
            (variables, tables),
            make_programs(config, dataset.schema),
            trained.list_offsets,
            trained.list_weights,
            # Not those of the folder, whose files may change. On a CPU they are not copied.
            {name: np.asarray(leaf) for name, leaf in named_leaves(read).items()},
            knows_repeats(dataset),
        )

    @classmethod
    def from_export(cls, exported: ExportedModel, separator: str = SEPARATOR) -> "LoadedModel":
        manifest = exported.manifest
        return cls(
            exported.schema,
            manifest["step"],
            tuple(manifest["history_buckets"]),
            manifest["settings"]["model"]["follow_authors"],
            Vocabularies(exported.schema, exported.vocabularies.__getitem__, separator),
            (jax.device_put(exported.weights),),
            ranking_programs(exported.programs),
            exported.list_offsets,
            exported.list_weights,
            exported.weights,
            manifest["knows_repeats"],
        )


def knows_repeats(dataset: Dataset) -> bool:
    """Return whether negatives may be in the history of their user."""
    return dataset.meta.get("split", {}).get("allow_own_negatives") is not False


def load_model(
    path: str | Path | TrainedModel, data: str | Path | None, separator: str
) -> LoadedModel:
    """Load the best checkpoint of a run folder, or an exported file; see :class:`Ranker`."""
    if isinstance(path, TrainedModel):
        return LoadedModel.from_run(path, separator)
    if not isinstance(path, str | os.PathLike):
        expected = "a run folder such as result.run_dir, an exported file, or what load_run returns"
        raise TypeError(f"path must be {expected}, got {type(path).__name__}")
    path = Path(path)
    if path.is_dir():
        return LoadedModel.from_run(load_run(path, data), separator)
    if not path.exists():
        raise UserError(
            f"{path} does not exist; expected a run folder, or a file written by "
            f"python -m dien_jax.export"
        )
    if data is not None:
        raise UserError(f"{path} is an exported model, which needs no data; leave out {data}")
    return LoadedModel.from_export(read_archive(path), separator)


def history_buckets(config: Config) -> tuple[int, ...]:
    """Return the padded lengths of histories, the last of which is ``max_history``.

    They are few, as programs are compiled for each; all where scores depend on the padding.
    """
    edges, least = [config.train.max_history], 1 if config.model.follow_authors else LEAST_RATIO
    buckets = BUCKETS if config.train.buckets is None else config.train.buckets
    for edge in reversed(buckets):
        if edge < edges[0] and least * edge <= edges[0]:
            edges.insert(0, edge)
    return tuple(edges)


def candidate_slices(*, follow_authors: bool) -> Slices:
    """Return the slices that candidates are scored in.

    Four small slices take less time than a large one; but the fewest where scores depend on the
    candidates of a slice.
    """
    small, large = CANDIDATE_BUCKETS
    return {small * (1 if follow_authors else 4): small, large: large}


class RankRequest(NamedTuple):
    """The arguments of :meth:`dien_jax.Ranker.rank`, described there, for one of several users."""

    history: Sequence[str | int] | None
    candidates: Sequence[str | int]
    user: str | int | None = None
    context: Mapping[str, Any] | None = None


@dataclass
class History:
    """A history: rows of its kept events, and its interests once they are computed."""

    rows: np.ndarray
    interests: Interests | None = None


@dataclass
class EncodedRequest:
    """A request as rows: ``user`` is int32 ``[1]``, ``context`` has one row.

    ``ids`` are the raw candidates, ``tower`` their logits of the tower, where these are known.
    """

    history: History
    user: np.ndarray
    context: dict[str, FeatureValues]
    candidates: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int32))
    ids: Sequence[Any] = ()
    unknown_context: int = 0
    tower: np.ndarray | None = None


Requests = Sequence[EncodedRequest]


def encoded_requests(
    model: LoadedModel, examples: Examples, histories: Sequence[np.ndarray]
) -> list[EncodedRequest]:
    """Return a request without candidates for each example, whose behaviours are given as rows."""
    return [
        EncodedRequest(
            History(np.asarray(history[-model.history_buckets[-1] :])),
            np.asarray(examples.user[row : row + 1], np.int32),
            padded_columns(model.schema.context, examples.context, np.array([row])),
        )
        for row, history in enumerate(histories)
    ]


class BucketedPrograms:
    """The programs of a model, for any number of histories and requests."""

    def __init__(self, model: LoadedModel, slices: Slices | None = None) -> None:
        self._programs, self._arguments = model.programs, model.arguments
        self._slices = slices or candidate_slices(follow_authors=model.follow_authors)
        self.may_pad = not model.follow_authors
        self.buckets = self._every = model.history_buckets

    @property
    def programs(self) -> Programs:
        """The programs, in a process that has the threads of JAX."""
        require_unforked()
        return self._programs

    def compile_all(
        self,
        context: dict[str, FeatureValues],
        candidates: int,
        *,
        tower: bool,
        ready: Callable[[], None],
    ) -> Iterator[float]:
        """Call every program at every size, up to ``candidates``; yield the share that is done.

        Those for the longest histories come first, and ``ready`` is called after them: shorter
        histories are padded for these until their own are compiled.
        """
        largest = slice_size(self._slices, candidates)
        sizes = [size for size in self._slices.values() if size <= largest]
        user = np.full(1, UNKNOWN, np.int32)

        def call(bucket: int, with_tower: bool) -> None:
            alone, history = copy(self), History(np.zeros(bucket, np.int32))
            alone.buckets = (bucket,)
            alone.encode([history])
            if not with_tower:
                alone.extend(history.interests, UNKNOWN, bucket - 1)
            for size in sizes:
                request = EncodedRequest(history, user, context, np.zeros(size, np.int32))
                if with_tower:
                    (request.tower,) = alone.tower([request])
                alone.score([request])

        every, kinds = self._every, (False, True)[: 1 + tower]
        self.buckets = every[-1:] if self.may_pad else every
        first = [partial(call, bucket, kind) for bucket in self.buckets for kind in kinds]
        yield 0.0
        for number, _ in enumerate(map_in_order(lambda call: call(), first, thread_count()), 1):
            yield number / len(first) * len(self.buckets) / len(every)
        ready()
        for bucket in reversed(every[: -len(self.buckets)]):
            for kind in kinds:
                call(bucket, kind)
            self.buckets = (bucket, *self.buckets)
            yield len(self.buckets) / len(every)

    def encode(self, histories: Iterable[History]) -> None:
        """Compute the interests of those histories that have none."""
        for history in histories:
            if history.interests is None:
                _, *rows = self._read(history)
                history.interests = self.programs.read(*self._arguments, *rows)

    def extend(self, interests: Any, row: int, length: int) -> Interests:
        """Return the interests after one more event; ``length`` counts the events before it."""
        states, bucket = interests.states, self._bucket(length + 1)
        steps, size = states.shape
        if bucket != steps:
            padding = np.zeros((max(bucket - steps, 0), size), states.dtype)
            padded = np.concatenate([np.asarray(states)[:bucket], padding])
            states = placed_like(padded, states)  # or programs would compile again
        event = interests._replace(states=states), np.int32(row), np.int32(length)
        return self.programs.extend(*self._arguments, *event)

    def score(
        self, requests: Requests, *, together: bool = False, arguments: Any = None
    ) -> list[np.ndarray]:
        """Return click probabilities, float32 ``[N]`` of each request, whose history is encoded.

        ``together`` calls the program of several users, which encodes all and keeps nothing of it.
        ``arguments`` replaces the first ones of the program.
        """
        if not together:
            self.encode(request.history for request in requests)
        program = self.programs.score_of_users if together else self.programs.score
        slices = {SCORED_ROWS: SCORED_ROWS} if together else self._slices
        return self._in_slices(requests, slices, program, arguments, together=together)

    def tower(
        self, requests: Requests, *, together: bool = False, arguments: Any = None
    ) -> list[np.ndarray]:
        """Return logits of the tower, float32 ``[N]`` of each request; see :meth:`score`."""
        program = self.programs.tower_of_users if together else self.programs.tower
        slices = {TOWER_ROWS: TOWER_ROWS}
        return self._in_slices(requests, slices, program, arguments, together=together)

    def _in_slices(
        self, requests: Requests, slices: Slices, program: Any, arguments: Any, *, together: bool
    ) -> list[np.ndarray]:
        """Return what a program gives for the candidates, in padded slices."""
        program = partial(program, *(self._arguments if arguments is None else arguments))
        rows: list[tuple[int, tuple, dict[str, np.ndarray]]] = []
        for place, request in enumerate(requests):
            interests, *history = self._read(request.history)
            inputs: tuple = (*history, request.user, request.context)
            if program.func is self._programs.score:
                inputs = (interests, *inputs)
            start, count = 0, len(request.candidates)
            while start < count:
                size = slice_size(slices, count - start)
                part = slice(start, start + size)
                items, known = request.candidates[part], {}
                if request.tower is not None:
                    known = {"tower": _padded(request.tower[part], size, np.float32)}
                rows.append((place, (*inputs, _padded(items, size), np.int32(len(items))), known))
                start += size
        if together:
            found: Any = self._together(program, [row[1:] for row in rows])
        else:
            found = [program(*inputs, **known) for _, inputs, known in rows]
        parts = [[np.zeros(0, np.float32)] for _ in requests]
        for (place, *_), result in zip(rows, jax.device_get(found), strict=True):
            parts[place].append(result)
        pairs = zip(parts, requests, strict=True)
        return [np.concatenate(own)[: len(request.candidates)] for own, request in pairs]

    def _together(self, program: Any, rows: list[tuple[tuple, dict]]) -> list[np.ndarray]:
        """Return what a program of several users gives for each row, those of a shape together."""
        shapes: dict[Any, list[int]] = {}
        for place, (inputs, known) in enumerate(rows):
            shapes.setdefault((len(inputs[0]), len(inputs[-2]), *known), []).append(place)
        results = [np.zeros(0, np.float32)] * len(rows)
        for places in shapes.values():
            for start in range(0, len(places), ROWS_TOGETHER):
                some = places[start : start + ROWS_TOGETHER]
                filled = some + some[:1] * (ROWS_TOGETHER - len(some))
                inputs, known = jax.tree.map(lambda *v: np.stack(v), *(rows[p] for p in filled))
                found = np.asarray(program(np.int32(len(some)), *inputs, **known))
                for row, place in enumerate(some):
                    results[place] = found[row]
        return results

    def _read(self, history: History) -> tuple[Interests | None, np.ndarray, np.int32]:
        """Return a history's interests, its rows, padded as these are, and its length."""
        rows, interests = history.rows, history.interests  # which another thread may compute now
        steps = self._bucket(len(rows)) if interests is None else len(interests.states)
        return interests, _padded(rows, steps), np.int32(len(rows))

    def _bucket(self, length: int) -> int:
        buckets = self.buckets  # another thread may add to them
        return buckets[bisect_left(buckets, length)]


def _padded(rows: np.ndarray, size: int, dtype: Any = np.int32) -> np.ndarray:
    padded = np.zeros(size, dtype)
    padded[: len(rows)] = rows
    return padded


def slice_size(slices: Slices, candidates: int) -> int:
    """Return the size of the next slice of some candidates."""
    sizes = (size for most, size in slices.items() if candidates <= most)
    return next(sizes, [*slices.values()][-1])
