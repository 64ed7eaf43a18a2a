"""The batch loader: every example once, right histories, few shapes, repeatable, no leaks."""

import dataclasses
import os
import re
import threading
from pathlib import Path

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.programs import forked

from dien_jax.config.settings import TrainConfig
from dien_jax.data.arrays import Examples
from dien_jax.data.dataset import Dataset
from dien_jax.data.loader import ORDERS, SORT_BUFFER, Loader, evaluation_loader
from dien_jax.data.schema import Column, Feature, MultiValued, Schema

pytestmark = pytest.mark.fast

BUCKETS = (2, 4, 8)
SCHEMA = Schema(
    item=(Feature("item", "categorical", size=1000),),
    user=(Feature("user", "categorical", size=1000),),
    request=(
        Feature("device", "categorical", size=5),
        Feature("price", "numeric", mean=0.0, deviation=1.0),
        Feature("tags", "multivalued", size=9, max_values=3),
    ),
)


def make_dataset(history_lengths):
    """One sequence an example; event k is of item k + 1, so that items tell positions."""
    count = len(history_lengths)
    sequence_lengths = np.array(history_lengths, np.int64) + 1  # one event after the history
    offsets = np.concatenate([[0], np.cumsum(sequence_lengths)]).astype(np.int64)
    rows = np.arange(count, dtype=np.int32)
    tags = rows % 5
    examples = Examples(
        sequence=rows[::-1].copy(),
        history_end=(offsets[1:] - 1)[::-1].copy(),
        user=rows + 1,
        group=rows,
        item=rows + 2,
        label=(rows % 2).astype(np.int8),
        columns={
            "device": Column(rows % 5, None),
            "price": Column(rows.astype(np.float32) + 0.5, None),
            "tags": Column(
                np.repeat(rows % 9, tags), np.concatenate([[0], np.cumsum(tags)]).astype(np.int64)
            ),
        },
    )
    return Dataset(
        path=Path("data"),
        schema=SCHEMA,
        meta={},
        items={},
        users={},
        events={},
        event_item=np.arange(1, offsets[-1] + 1, dtype=np.int32),
        event_timestamp=np.zeros(offsets[-1], np.int64),
        event_offsets=offsets,
        popularity=np.zeros(1000, np.int64),
        splits={"train": examples},
    )


def make_loader(
    history_lengths, batch_size=4, order="shuffled", seed=0, max_history=12, buckets=BUCKETS
):
    dataset = make_dataset(history_lengths)
    train = TrainConfig(batch_size=batch_size, buckets=buckets, max_history=max_history)
    if order == "evaluation":
        return evaluation_loader(dataset, "train", train)
    train = dataclasses.replace(train, order=order)
    return Loader(dataset, "train", train, seed=seed)


def random_lengths(count):
    return np.random.default_rng(0).integers(0, 20, count).tolist()


def indices_of(loader, epoch):
    return [loader.example_indices(epoch, step) for step in range(loader.steps_per_epoch)]


def assert_equal(one, other):
    jax.tree.map(np.testing.assert_array_equal, one, other)


@settings(deadline=None, max_examples=60)
@given(
    history_lengths=st.lists(st.integers(0, 20), max_size=60),
    batch_size=st.integers(1, 9),
    order=st.sampled_from(ORDERS),
    seed=st.integers(0, 3),
    epoch=st.integers(0, 3),
)
def test_an_epoch_shows_every_example_once(history_lengths, batch_size, order, seed, epoch):
    loader = make_loader(history_lengths, batch_size, order, seed)
    steps = loader.steps_per_epoch
    assert steps == -(-len(history_lengths) // batch_size)
    seen = indices_of(loader, epoch)
    assert sorted(np.concatenate([*seen, []]).tolist()) == list(range(len(history_lengths)))
    # Filler has nowhere to be but in the last batch.
    assert all(len(rows) == batch_size for rows in seen[:-1])
    for rows, batch in zip(seen, loader.epoch(epoch), strict=True):
        assert batch.history.shape[1] in loader.padded_lengths
        real = np.arange(batch_size) < len(rows)
        np.testing.assert_array_equal(batch.weight, real.astype(np.float32))
        np.testing.assert_array_equal(batch.user[real], rows + 1)
        for array in (*batch[:6], *batch.columns["tags"], batch.columns["price"]):
            assert len(array) == batch_size
            assert not array[~real].any()  # filler is 0


@pytest.mark.filterwarnings("ignore:.*fork")
def test_a_forked_process_begins_an_epoch_of_its_own():
    """It lacks the thread that prepares batches, and would wait for it for ever."""
    loader = make_loader(random_lengths(50), 5, "time")
    batches = loader.epoch(0)
    next(batches)
    assert forked(lambda: len([*loader.epoch(0)])) == "10"
    found = forked(lambda: next(batches))
    assert re.match(f"UserError: .* by process {os.getpid()}; begin an epoch", found)


@pytest.mark.parametrize("order", ORDERS)
def test_a_batch_holds_what_the_dataset_says_of_its_rows(order):
    history_lengths = random_lengths(50)
    dataset = make_dataset(history_lengths)
    train = TrainConfig(batch_size=8, buckets=BUCKETS, max_history=12)
    loader = Loader(dataset, "train", train, seed=1, order=order)
    examples = dataset.splits["train"]
    tags = examples.columns["tags"]
    for step, batch in enumerate(loader.epoch(2)):
        rows = loader.example_indices(2, step)
        longest = 0
        for position, row in enumerate(rows):
            start = dataset.event_offsets[examples.sequence[row]]
            history = dataset.event_item[start : examples.history_end[row]][-12:]
            longest = max(longest, len(history))
            assert batch.lengths[position] == len(history)
            assert batch.history[position, : len(history)].tolist() == history.tolist()
            assert not batch.history[position, len(history) :].any()
            assert batch.item[position] == examples.item[row]
            assert batch.label[position] == examples.label[row]
            assert batch.columns["device"][position] == row % 5
            assert batch.columns["price"][position] == row + 0.5
            own_tags = tags.values[tags.offsets[row] : tags.offsets[row + 1]][:3]
            found = batch.columns["tags"]
            assert isinstance(found, MultiValued)
            assert found.values[position, : found.count[position]].tolist() == own_tags.tolist()
        edges = (2, 4, 8, 12)
        assert batch.history.shape == (8, next(edge for edge in edges if edge >= longest))
        assert [array.dtype for array in batch[:6]] == [np.int32] * 4 + [np.float32] * 2


@pytest.mark.parametrize("order", ORDERS)
def test_a_batch_does_not_depend_on_what_was_read_before(order):
    history_lengths = random_lengths(70)
    straight = make_loader(history_lengths, order=order)
    expected = {
        (epoch, step): batch
        for epoch in range(3)
        for step, batch in enumerate(straight.epoch(epoch))
    }
    jumping = make_loader(history_lengths, order=order)
    keys = list(expected)
    np.random.default_rng(0).shuffle(keys)
    for epoch, step in keys:
        assert_equal(jumping.batch(epoch, step), expected[epoch, step])
    for step, batch in enumerate(jumping.epoch(1, start=5), start=5):
        assert_equal(batch, expected[1, step])
    assert step == straight.steps_per_epoch - 1


def test_shuffled_order_depends_on_seed_and_epoch():
    loaders = [make_loader(random_lengths(70), seed=seed) for seed in range(3)]
    orders = [np.concatenate(indices_of(loader, epoch)) for loader in loaders for epoch in range(3)]
    assert len({tuple(order) for order in orders}) == 9


def test_shuffled_batches_keep_to_one_bucket_but_for_leftovers():
    loader = make_loader(random_lengths(40_000), batch_size=256, order="shuffled")
    mixed = 0
    padded = []
    for batch in loader.epoch(0):
        length = batch.history.shape[1]
        below = max((edge for edge in (0, *loader.padded_lengths) if edge < length), default=0)
        mixed += bool((batch.lengths[batch.weight == 1] <= below).any() and below)
        padded.append(length)
    assert mixed <= len(loader.padded_lengths) - 1
    assert padded != sorted(padded)  # long and short batches alternate in training


def test_examples_of_a_sequence_come_in_the_order_of_time():
    sequences, events = 1280, 8  # every event but the first is an example; of 17 stages
    examples, offsets = np.tile(np.arange(1, events), sequences), np.arange(sequences + 1) * events
    sequence = np.repeat(np.arange(sequences, dtype=np.int32), events - 1)
    end = offsets[sequence] + examples
    dataset = make_dataset(examples)
    columns = {"sequence": sequence, "history_end": end}
    train = dataset.splits["train"]._replace(**columns)
    dataset = dataclasses.replace(dataset, splits={"train": train}, event_offsets=offsets)
    orders = {}
    for order in ("time", "shuffled"):
        train = TrainConfig(batch_size=8, buckets=BUCKETS, max_history=12, order=order)
        loader = Loader(dataset, "train", train)
        rows = np.concatenate(indices_of(loader, 0))
        rank = np.argsort(rows).reshape(sequences, events - 1)  # when each example comes
        orders[order] = (np.diff(rank, axis=1) > 0).mean()
    assert orders["time"] > 0.95
    assert 0.3 < orders["shuffled"] < 0.7


def test_sorted_batches_are_cut_from_the_files_order_within_buffers():
    history_lengths = random_lengths(2 * SORT_BUFFER * 4 + 7)
    loader = make_loader(history_lengths, order="sorted", max_history=20)
    lengths = np.array(history_lengths)[::-1]  # the helper hands sequences out backwards
    span = SORT_BUFFER * 4
    buffers = [
        range(start, min(start + span, len(lengths))) for start in range(0, len(lengths), span)
    ]
    # Both sorts are stable.
    order = [row for rows in buffers for row in sorted(rows, key=lambda row: -lengths[row])]
    expected = [order[start : start + 4] for start in range(0, len(order), 4)]

    first, second = ([rows.tolist() for rows in indices_of(loader, epoch)] for epoch in (0, 1))
    assert sorted(first) == sorted(second) == sorted(expected)
    assert first != second != expected
    assert first[-1] == second[-1] == expected[-1]  # the one with filler


def test_evaluation_order_pads_least():
    history_lengths = random_lengths(61)
    loader = make_loader(history_lengths, order="evaluation", max_history=20)
    rows = np.concatenate(indices_of(loader, 0))
    lengths = np.array(history_lengths)[::-1][rows]
    assert lengths.tolist() == sorted(history_lengths, reverse=True)


@pytest.mark.parametrize(
    ("history_lengths", "max_history", "expected"),
    [
        ([0, 1, 2], 12, (2,)),
        ([0, 3], 12, (2, 4)),
        ([9], 12, (2, 4, 8, 12)),
        ([50], 12, (2, 4, 8, 12)),
        ([50], 8, (2, 4, 8)),
        ([50], 1, (1,)),
        ([], 12, (2,)),
    ],
)
def test_padded_lengths_are_the_buckets_that_histories_reach(
    history_lengths, max_history, expected
):
    """However few examples need one, in this order."""
    loader = make_loader(history_lengths, order="sorted", max_history=max_history)
    assert loader.padded_lengths == expected


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ((200, 100, 100, 5), (2, 4, 8, 12)),
        ((199, 100, 100, 5), (4, 8, 12)),
        ((200, 100, 99, 5), (2, 4, 12)),
        ((10, 40, 10, 10), (4, 12)),  # 50 examples are padded by 8 steps less
        ((10, 10, 10, 10), (12,)),
        ((200, 1, 0, 0), (2, 4)),
    ],
)
@pytest.mark.parametrize("order", ["evaluation", "shuffled"])
def test_lengths_are_chosen_by_the_padding_that_they_save(counts, expected, order, monkeypatch):
    monkeypatch.setattr("dien_jax.data.loader.BUCKETS", BUCKETS)
    monkeypatch.setattr("dien_jax.data.loader.WORTH", 400)
    history_lengths = np.repeat([1, 4, 7, 12], counts).tolist()
    loader = make_loader(history_lengths, batch_size=256, order=order, buckets=None)
    assert loader.padded_lengths == expected
    widths = [batch.history.shape[1] for batch in loader.epoch(0)]
    assert set(widths) <= set(expected)
    assert order == "shuffled" or widths[0] == expected[-1]
    every = (2, 4, 8, 12)[: 4 if counts[2] else 2]
    assert make_loader(history_lengths, order=order).padded_lengths == every  # as they are given
    in_file_order = make_loader(history_lengths, order="sorted", buckets=None)
    assert in_file_order.padded_lengths == every


def test_split_without_a_single_event():
    dataset = make_dataset([0, 0])
    train = dataset.splits["train"]._replace(history_end=np.zeros(2, np.int64))
    events = {"event_item": np.zeros(0, np.int32), "event_offsets": np.zeros(3, np.int64)}
    empty = dataclasses.replace(dataset, splits={"train": train}, **events)
    loader = Loader(empty, "train", TrainConfig(batch_size=2, buckets=BUCKETS))
    assert not loader.batch(0, 0).history.any()


def test_batches_share_no_memory():
    loader = make_loader([3] * 8)
    first = loader.batch(0, 0)
    kept = [array.copy() for array in first[:6]]
    for array in loader.batch(0, 0)[:6]:
        array[...] = 77
    for array, copy in zip(first[:6], kept, strict=True):
        np.testing.assert_array_equal(array, copy)


def test_step_outside_the_epoch_is_refused():
    loader = make_loader([3] * 8)
    loader.batch(0, 1)
    for step in (-1, 2, 3):
        with pytest.raises(IndexError, match=r"step must be in \[0, 2\)"):
            loader.batch(0, step)


def test_exception_in_the_thread_reaches_the_reader(monkeypatch):
    loader = make_loader(random_lengths(100))
    batch = loader.batch

    def failing(epoch, step):
        if step == 3:
            raise OSError("disk gone")
        return batch(epoch, step)

    monkeypatch.setattr(loader, "batch", failing)
    threads = threading.active_count()
    seen = []
    with pytest.raises(OSError, match="disk gone"):
        seen.extend(loader.epoch(0))
    assert threading.active_count() == threads


@pytest.mark.parametrize("read", [0, 1, 5, 25])
def test_iterator_that_is_dropped_ends_its_thread(read):
    loader = make_loader(random_lengths(100))
    threads = threading.active_count()
    iterator = loader.epoch(0)
    for _ in range(read):
        next(iterator)
    assert threading.active_count() <= threads + 1
    iterator.close()
    assert threading.active_count() == threads


def test_another_order_is_refused():
    with pytest.raises(ValueError, match=r"order must be one of .*, got 'evalution'"):
        Loader(make_dataset([3] * 8), "train", TrainConfig(batch_size=4), order="evalution")


# Parts of a batch, one for each process of a run

PART_LENGTHS = random_lengths(50)
PART_TRAIN = TrainConfig(batch_size=12, buckets=BUCKETS, max_history=12)


@pytest.mark.parametrize("parts", [2, 3, 12])
@pytest.mark.parametrize("order", ORDERS)
def test_parts_together_are_the_batch(order: str, parts: int) -> None:
    dataset = make_dataset(PART_LENGTHS)
    about = {"seed": 3, "order": order}
    whole = Loader(dataset, "train", PART_TRAIN, **about)
    loaders = [Loader(dataset, "train", PART_TRAIN, **about, part=(k, parts)) for k in range(parts)]
    for epoch in (0, 1):
        for step in range(whole.steps_per_epoch):  # the last one has filler, in whole parts too
            batches = [loader.batch(epoch, step) for loader in loaders]
            joined = jax.tree.map(lambda *rows: np.concatenate(rows), *batches)
            jax.tree.map(np.testing.assert_array_equal, joined, whole.batch(epoch, step))
            assert {batch.item.shape for batch in batches} == {(12 // parts,)}
    indices = [loader.example_indices(1, 2).tolist() for loader in (whole, *loaders)]
    assert all(one == indices[0] for one in indices)


@pytest.mark.parametrize("part", [(2, 2), (-1, 2), (0, 5)])
def test_other_parts_are_refused(part: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=r"part must be one of equal parts of batch_size 12"):
        Loader(make_dataset(PART_LENGTHS), "train", PART_TRAIN, part=part)
