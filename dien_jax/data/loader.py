"""Batches of examples: their padding, and a thread that prepares them ahead.

A batch is a function of (seed, epoch, step), so a run can resume at any step. All batches have
``batch_size`` rows and one of a few padded lengths, so a jitted step is compiled a bounded number
of times. An epoch contains every example once.

Dimensions: n examples of the split, B rows of a batch, T padded steps, R real rows of a batch,
L padded lengths.
"""

import functools
import os
from collections.abc import Generator

import jax
import numpy as np

from dien_jax.config.settings import TrainConfig
from dien_jax.data.arrays import chunks
from dien_jax.data.dataset import Dataset
from dien_jax.data.tables import Batch, folds_of, is_live
from dien_jax.errors import UserError
from dien_jax.utils.machine import map_in_order

PREFETCH = 8  # batches that are prepared ahead of the one in use
SORT_BUFFER = 20  # batches within which "sorted" sorts by length
ORDERS = ("shuffled", "time", "sorted", "evaluation")
STAGES = 64  # maximum number of stages of an epoch in the order "time"
STAGE_BATCHES = 64  # minimum number of batches of a stage
BUCKETS = (4, 8, 16, 32, 64)  # padded lengths that a loader chooses from
WORTH = 2_000_000
"""Steps of padding in an epoch that a length must save. On two CPU cores, a length takes half a
minute to compile, and a million steps of padding take .5 (native) to 3 s (XLA), in each epoch."""


class Loader:
    """The batches of one split.

    The history of an example is its last ``max_history`` events, padded with 0 up to T, the
    smallest padded length that holds the longest history of its batch.

    Orders:
      ``shuffled``: examples are shuffled by (seed, epoch) and grouped by length bucket; those that
        do not fill a batch move to the next larger bucket. Then batches are shuffled, except one
        with filler, which is last. It takes some 30 bytes per example.
      ``time``: up to ``STAGES`` stages, each of which is shuffled like this. The examples of a
        sequence are spread over the stages in the order of their histories, the last one in the
        last stage, so that few targets were in the history of an earlier step. Times of different
        sequences are not compared.
      ``sorted``: examples in the file's order, sorted by length within buffers of ``SORT_BUFFER``
        batches, as in the program of the paper's authors. Every epoch has the same batches, in an
        order drawn from (seed, epoch).
      ``evaluation``: sorted by length, longest first, which wastes least padding; every epoch is
        the same. See :func:`evaluation_loader`.

    Without ``train_config.buckets``, padded lengths are those of ``BUCKETS`` that save ``WORTH``
    steps of padding in an epoch; all of them in the order ``sorted``.

    >>> from dien_jax import Loader, TrainConfig, open_dataset
    >>> loader = Loader(open_dataset("data"), "train", TrainConfig(batch_size=16), seed=1)
    >>> batch = loader.batch(epoch=0, step=0)
    >>> batch.item.shape, batch.history.shape[1] in loader.padded_lengths
    ((16,), True)

    Args:
      dataset: the dataset that has the split.
      split: ``train``, ``valid`` or ``test``.
      train_config: batch size, padded lengths and order.
      seed: seed of the order, together with the epoch.
      statistics: add ``own`` to the batches of the training split, for a model that reads counts
        of training events, and ``fold`` for one that reads factors.
      folds: add ``fold`` in any case, for training that reads vectors of items.
      order: replaces ``train_config.order``; another name is a ``ValueError``.
      part: (index, count) to build one of ``count`` equal parts of each batch's rows, (0, 1) for
        all; ``count`` divides B. All parts of a batch have the same padded length.

    Attributes:
      steps_per_epoch: batches of every epoch, ceil(n / batch_size).
      padded_lengths: the lengths T that batches can have, ascending.
      num_examples: n.
      cut_histories: examples whose history is longer than ``max_history``.
    """

    def __init__(
        self,
        dataset: Dataset,
        split: str,
        train_config: TrainConfig,
        *,
        seed: int = 0,
        statistics: bool = False,
        folds: bool = False,
        order: str | None = None,
        part: tuple[int, int] = (0, 1),
    ) -> None:
        number, parts = part
        if not 0 <= number < parts or train_config.batch_size % parts:
            whole = f"equal parts of batch_size {train_config.batch_size}"
            raise ValueError(f"part must be one of {whole}, got {number} of {parts}")
        self._dataset, self._split = dataset, split
        self._batch_size, self._seed = train_config.batch_size, seed
        self._share = share = train_config.batch_size // parts
        self._rows = slice(number * share, (number + 1) * share)
        self._own = dataset.statistics.own if statistics and split == "train" else None
        self._has_folds = folds or self._own is not None
        self._examples = examples = dataset.splits[split]
        # Without any event, a dummy that no history contains keeps every gather valid.
        events = dataset.event_item if dataset.event_item.size else np.zeros(1)
        self._event_item = events.astype(np.int32, copy=False)
        self.num_examples = size = len(examples.history_end)
        self.steps_per_epoch = -(-size // self._batch_size)
        self._max_history = train_config.max_history
        self._order = order or train_config.order
        if self._order not in ORDERS:
            raise ValueError(f"order must be one of {', '.join(ORDERS)}, got {order!r}")
        self._plan: tuple[int, np.ndarray, np.ndarray] | None = None  # epoch, and its plan
        self._lengths, self.cut_histories = np.empty(size, np.int32), 0
        for rows in chunks(size):
            lengths = examples.history_end[rows] - dataset.event_offsets[examples.sequence[rows]]
            self.cut_histories += int(np.count_nonzero(lengths > self._max_history))
            self._lengths[rows] = np.minimum(lengths, self._max_history)
        given = train_config.buckets
        buckets = (e for e in (BUCKETS if given is None else given) if e < self._max_history)
        edges = np.array([*buckets, self._max_history])
        self._edges = edges[: np.searchsorted(edges, self._lengths.max(initial=0)) + 1]
        if given is None and self._order != "sorted":
            self._edges = _worth_compiling(self._edges, self._lengths)
        self._stages = 1
        if self._order == "time":  # 16 bits hold a stage and a length
            most = min(STAGES, (1 << 16) // len(self._edges))
            self._stages = max(1, min(most, self.steps_per_epoch // STAGE_BATCHES))
        self.padded_lengths: tuple[int, ...] = tuple(self._edges.tolist())

    def example_indices(self, epoch: int, step: int) -> np.ndarray:
        """Return the examples of a batch's real rows, integers ``[R]`` with 1 <= R <= B."""
        if not 0 <= step < self.steps_per_epoch:
            raise IndexError(f"step must be in [0, {self.steps_per_epoch}), got {step}")
        epoch = 0 if self._order == "evaluation" else epoch
        if self._plan is None or self._plan[0] != epoch:
            self._plan = (epoch, *self._plan_epoch(epoch))
        _, order, steps = self._plan
        start = int(steps[step]) * self._batch_size
        return order[start : start + self._batch_size]

    def batch(self, epoch: int, step: int) -> Batch:
        """Return the batch of a step, as numpy arrays; rows at or past R are zeros of weight 0.

        Its rows are those of this loader's part. Files are checked before reading, because a
        truncated file would crash the process, and after it, because values may have changed.
        """
        indices, examples = self.example_indices(epoch, step), self._examples
        self._dataset.check_files()
        end, lengths = examples.history_end[indices], self._lengths[indices]
        width = int(self._edges[np.searchsorted(self._edges, lengths.max())])
        rows = indices[self._rows]
        first, lengths = (end - lengths)[self._rows], lengths[self._rows]
        live = is_live(lengths, width)
        events = np.where(live, first[:, None] + np.arange(width), -1)
        own = [column[rows] for column in self._own or ()]
        batch = Batch(
            history=self._event_item.take(events, mode="clip") * live,
            lengths=lengths,
            item=examples.item[rows],
            user=examples.user[rows],
            label=examples.label[rows].astype(np.float32),
            weight=np.ones(len(lengths), np.float32),
            columns=self._dataset.batch_columns(self._split, rows, events),
            own=np.stack(own, axis=-1) if own else None,
            fold=folds_of(examples.sequence[rows]) if self._has_folds else None,
        )
        self._dataset.check_files()
        return jax.tree.map(self._filled, batch)

    def epoch(self, epoch: int, start: int = 0) -> Generator[Batch, None, None]:
        """Yield the batches of an epoch from step ``start`` on, prepared ahead by a thread.

        An exception in the thread is raised here. The thread ends with the iterator, whether that
        is exhausted or dropped. A process that is forked meanwhile lacks the thread, so its
        iterator raises a ``UserError``; it must begin its own epoch.
        """
        process, prepare = os.getpid(), functools.partial(self.batch, epoch)
        steps = range(start, self.steps_per_epoch)
        for batch in map_in_order(prepare, steps, threads=1, ahead=PREFETCH):
            yield batch
            if os.getpid() != process:
                problem = f"the batches of this epoch are prepared by process {process}"
                raise UserError(f"{problem}; begin an epoch in the forked one")

    def _filled(self, values: np.ndarray) -> np.ndarray:
        """Add rows of zeros to ``[R, ...]`` up to the rows of this loader's part."""
        if len(values) == self._share:
            return values
        return np.pad(values, [(0, self._share - len(values)), *[(0, 0)] * (values.ndim - 1)])

    def _plan_epoch(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the examples in order, integers ``[n]``, and the index of each step's batch."""
        size, steps = self.num_examples, np.arange(self.steps_per_epoch)
        if self._order == "evaluation":
            return np.argsort(-self._lengths, kind="stable"), steps
        generator = np.random.default_rng((self._seed, epoch))
        whole = steps[: size // self._batch_size]  # a batch with filler stays last
        if self._order == "sorted":
            buffer = np.arange(size) // (SORT_BUFFER * self._batch_size)
            generator.shuffle(whole)
            return np.lexsort((-self._lengths, buffer)), steps
        drawn = np.arange(size, dtype=np.int32 if size < 2**31 else np.int64)
        generator.shuffle(drawn)
        group, edges = self._stage_of_examples(generator), len(self._edges)
        for rows in chunks(size):
            group[rows] *= edges
            group[rows] += np.searchsorted(self._edges, self._lengths[rows]).astype(np.uint16)
        order, counts = _sorted_by_group(drawn, group, self._stages * edges)
        ends = np.cumsum(counts.reshape(self._stages, edges).sum(1)) // self._batch_size
        for of_stage in np.split(whole, ends[:-1]):
            generator.shuffle(of_stage)
        return order, steps

    def _stage_of_examples(self, generator: np.random.Generator) -> np.ndarray:
        """Return the stage of each example, integers ``[n]``, from the end of its history."""
        stage = np.zeros(self.num_examples, np.uint16)
        if self._stages == 1:
            return stage
        sequence, end = self._examples.sequence, self._examples.history_end
        first = np.full(len(self._dataset.event_offsets) - 1, np.iinfo(np.int64).max)
        last = np.zeros_like(first)
        for rows in chunks(self.num_examples):
            np.minimum.at(first, sequence[rows], end[rows])
            np.maximum.at(last, sequence[rows], end[rows])
        if not (first < last).any():  # each sequence has one history: there is no order
            return stage
        for rows in chunks(self.num_examples):
            start, stop = first[sequence[rows]], last[sequence[rows]]
            place = (end[rows] - start + generator.random(len(start))) / (stop - start + 1)
            stage[rows] = np.minimum(self._stages * place, self._stages - 1)
        return stage


def _sorted_by_group(
    drawn: np.ndarray, group: np.ndarray, groups: int
) -> tuple[np.ndarray, np.ndarray]:
    """Sort the examples of ``drawn`` by group, ties as drawn; also return the size of each group.

    It works in chunks, because ``np.argsort`` takes 16 bytes per example.

    >>> [a.tolist() for a in _sorted_by_group(np.array([2, 0, 1]), np.array([1, 0, 0]), 3)]
    [[2, 1, 0], [2, 1, 0]]
    """
    counts = np.zeros(groups, np.int64)
    for rows in chunks(len(group)):
        counts += np.bincount(group[rows], minlength=groups)
    order, place = np.empty_like(drawn), np.cumsum(counts) - counts
    for rows in chunks(len(drawn)):
        of_piece = group[drawn[rows]]
        by_group = np.argsort(of_piece, kind="stable")  # numpy sorts numbers of 16 bits by radix
        here = np.bincount(of_piece, minlength=groups)
        places = (place + here - np.cumsum(here))[of_piece[by_group]] + np.arange(len(by_group))
        order[places] = drawn[rows][by_group]
        place += here
    return order, counts


def _worth_compiling(edges: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Return the last padded length, and the shorter ones that each save ``WORTH`` steps.

    >>> lengths = np.repeat([3, 5, 30, 90], [600_000, 100_000, 10_000, 100_000])
    >>> _worth_compiling(np.array([4, 8, 64, 100]), lengths).tolist()
    [4, 100]
    """
    examples = np.bincount(np.searchsorted(edges, lengths), minlength=len(edges))
    while len(edges) > 1:
        saved = np.diff(edges) * examples[:-1]
        least = int(np.argmin(saved))
        if saved[least] >= WORTH:
            break
        examples[least + 1] += examples[least]
        edges, examples = np.delete(edges, least), np.delete(examples, least)
    return edges


def evaluation_loader(
    dataset: Dataset, split: str, train_config: TrainConfig, part: tuple[int, int] = (0, 1)
) -> Loader:
    """Return a loader of every example once, in the order that wastes least padding.

    For ``part`` see :class:`Loader`.

    >>> from dien_jax import TrainConfig, open_dataset
    >>> evaluation_loader(open_dataset("data"), "test", TrainConfig()).steps_per_epoch
    1
    """
    return Loader(dataset, split, train_config, order="evaluation", part=part)
