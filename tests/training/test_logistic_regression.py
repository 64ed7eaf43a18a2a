"""The logistic regression inside the model: its inputs, its fit, and what training leaves of it."""

import dataclasses
import itertools
import math
import types
from pathlib import Path

import jax
import numpy as np
import pytest
from scipy import sparse
from support import small_dataset, tiny_run, untrained_run
from threadpoolctl import threadpool_info

from dien_jax import auc, train
from dien_jax.config.presets import member
from dien_jax.config.settings import Config, OptimConfig, TrainConfig
from dien_jax.data.columns import Examples
from dien_jax.data.dataset import Dataset, open_dataset
from dien_jax.data.loader import Loader, evaluation_loader
from dien_jax.model.logistic_regression import FITTED, alone
from dien_jax.runs.trained import load_run, score_batches
from dien_jax.steps import make_predict_step, make_train_step, training_tables
from dien_jax.training import fitted as fitted_first
from dien_jax.training import regression_inputs
from dien_jax.training.fitted import with_fitted
from dien_jax.training.logistic_regression import fit_logistic, minimise
from dien_jax.training.regression_inputs import RegressionInputs
from dien_jax.utils.console import stage

pytestmark = pytest.mark.long

STEPS = 8
"""Events kept of a history."""


def plain_counts(dataset, row: int) -> dict[str, float]:
    """Inputs of a training example by plain counting over all users, its own later events out.

    A user counts once for a value, and once for each pair of values.
    """
    examples, offsets = dataset.splits["train"], dataset.event_offsets
    ends = {int(s): int(offsets[s]) for s in examples.sequence}
    targets: dict[int, list[tuple[int, int]]] = {sequence: [] for sequence in ends}
    for s, end, item, label in zip(
        examples.sequence, examples.history_end, examples.item, examples.label, strict=True
    ):
        ends[int(s)] = max(ends[int(s)], int(end))
        if label:
            targets[int(s)].append((int(end), int(item)))
    sequence, end = int(examples.sequence[row]), int(examples.history_end[row])
    values: dict[int, set[int]] = {}
    for s, last in ends.items():
        stop = min(last, end) if s == sequence else last
        values[s] = set(dataset.event_item[offsets[s] : stop].tolist())
        if s != sequence:
            values[s] |= {item for at, item in targets[s] if at == last}
    candidate = int(examples.item[row])
    history = dataset.event_item[offsets[sequence] : end].tolist()

    def users(*items: int) -> int:
        return sum(set(items) <= own for own in values.values())

    cosine = 0.0
    for age, item in enumerate(reversed(history)):
        if item != candidate:
            expected = (users(item) + 1) * (users(candidate) + 1)
            cosine += users(item, candidate) / math.sqrt(expected) / (1 + age)
    return {"item popularity": math.log1p(users(candidate)), "item recent_cosine": cosine}


def write_events(path: Path) -> Path:
    """Users who choose items, each event from the second on an example with a random negative."""
    random = np.random.default_rng(3)
    lengths = random.integers(2, 8, 25)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    events = random.integers(1, tiny_run.ITEMS, offsets[-1])
    sequence = np.repeat(np.arange(25), 2 * (lengths - 1))
    ends = [np.repeat(np.arange(start + 1, end), 2) for start, end in itertools.pairwise(offsets)]
    history_end = np.concatenate(ends)
    label = np.arange(len(history_end)) % 2
    drawn = random.integers(1, tiny_run.ITEMS, len(history_end))
    examples = Examples(
        sequence=sequence, history_end=history_end, user=sequence + 1, group=sequence,
        item=np.where(label == 1, events[history_end], drawn), label=label,
    )  # fmt: skip
    splits = {"train": examples, "valid": examples}
    return tiny_run.write_events(path, events, offsets, splits)


def columns(dataset, split: str, *names: str) -> np.ndarray:
    """Dense columns of a split's examples, in their order."""
    inputs = RegressionInputs(dataset, STEPS)
    [(rows, found)] = inputs.stream(split)
    values = np.empty((len(rows), len(names)), np.float32)
    values[rows] = found.dense[:, [inputs.names.index(name) for name in names]]
    return values


def test_training_rows_leave_out_their_own_event_and_later_ones(tmp_path):
    """The same examples, held out, would find their own clicks in the counts."""
    dataset = open_dataset(write_events(tmp_path / "events"))
    names = "item popularity", "item recent_cosine"
    found, seen = (columns(dataset, split, *names) for split in ("train", "valid"))
    expected = [plain_counts(dataset, row) for row in range(len(found))]
    np.testing.assert_allclose(
        found,
        [[values[name] for name in names] for values in expected],
        rtol=1e-5,  # float32
        atol=1e-6,
    )
    labels = dataset.splits["train"].label
    for own, complete in zip(found.T, seen.T, strict=True):
        assert auc(labels, complete) > auc(labels, own) + 0.05


def test_columns_without_counts_are_the_same_for_training_and_held_out_rows(tmp_path):
    dataset = open_dataset(write_events(tmp_path / "events"))
    inputs = RegressionInputs(dataset, STEPS)
    found, seen = (columns(dataset, split, *inputs.names) for split in ("train", "valid"))
    differ = set(np.flatnonzero((found != seen).any(0)).tolist())
    assert not differ & set(inputs.uncounted)
    assert [name for place, name in enumerate(inputs.names) if place in inputs.uncounted] == [
        "length",
        *(f"item {name}" for name in ("known", "repeats", "repeat_share", "repeat_recency")),
        *(f"category {name}" for name in ("known", "repeats", "repeat_share", "repeat_recency")),
        "match",
    ]


def test_match_is_the_share_of_recent_events_with_the_attributes(tmp_path):
    item = small_dataset.ints(2, 1, 1, 0)
    dataset = open_dataset(small_dataset.write(tmp_path / "small", item=item))
    found = columns(dataset, "train", "match", "price")
    # The second example: items 1, 2 and 2 with weights 1/3, 1/2 and 1, all of the candidate's
    # category; the first has its tags.
    shares = [[1, 0], [1, (1 / 3) / (11 / 6)], [0, 0], [0, 0]]
    np.testing.assert_allclose(found[:, 0], np.mean(shares, axis=1), rtol=1e-6)  # float32
    np.testing.assert_array_equal(found[:, 1], np.asarray(dataset.items["price"].values)[item])


def test_each_value_has_a_column_and_ids_come_last(tmp_path):
    inputs = RegressionInputs(open_dataset(small_dataset.write(tmp_path / "small")), STEPS)
    assert inputs.num_attributes == 12
    [(rows, found)] = inputs.stream("train")
    used = {row: found.one_hot[[place]].indices.tolist() for place, row in enumerate(rows.tolist())}
    # category 0-1, tags 2-5, words 6, device 7-8, query 9-11, item 12-14, user 15-16
    assert used == {0: [0, 9, 10, 13, 15], 1: [1, 5, 7, 14, 15], 2: [0, 2, 3, 8, 12, 16],
                    3: [7]}  # fmt: skip


def test_values_of_a_large_vocabulary_share_columns(tmp_path, monkeypatch):
    monkeypatch.setattr(regression_inputs, "MAX_COLUMNS", 2)
    inputs = RegressionInputs(open_dataset(small_dataset.write(tmp_path / "small")), STEPS)
    [(_, found)] = inputs.stream("train")
    assert found.one_hot.shape == (4, 2 + 2 + 1 + 2 + 2 + 2 + 2)


def test_large_split_is_sampled_and_said_to_be(tmp_path, monkeypatch, capfd):
    data = tiny_run.write_data(tmp_path / "data", sizes={"train": 600, "valid": 20, "test": 20})
    monkeypatch.setattr(regression_inputs, "BATCH", 64)
    inputs = RegressionInputs(open_dataset(data), STEPS)
    sample = inputs.read("train", 200)
    assert len(sample.labels) == len(sample.dense) == sample.one_hot.shape[0] == 192
    assert "reading 192 of 600 train examples, drawn at random" in capfd.readouterr().err
    everything = inputs.read("train", 600 + 64)
    assert sorted(everything.labels) == sorted(open_dataset(data).splits["train"].label)
    assert "drawn" not in capfd.readouterr().err


def test_samples_of_splits_of_one_size_are_independent(tmp_path, monkeypatch):
    data = tiny_run.write_data(tmp_path / "data", sizes={"train": 600, "valid": 600, "test": 20})
    monkeypatch.setattr(regression_inputs, "BATCH", 64)
    drawn: dict[str, set[int]] = {"train": set(), "valid": set()}

    batches = RegressionInputs._batches

    def watched(self, loader, *more):
        for indices, inputs in batches(self, loader, *more):
            drawn[loader._split] |= set(indices.tolist())
            yield indices, inputs

    monkeypatch.setattr(RegressionInputs, "_batches", watched)
    inputs = RegressionInputs(open_dataset(data), STEPS)
    for split in drawn:
        inputs.read(split, 200)
    train, valid = drawn.values()
    assert len(train) == len(valid) == 192
    assert len(train & valid) < 2 * 192 * 192 / 600


def correlated(random: np.random.Generator, rows: int, columns: int, noise: float) -> np.ndarray:
    """Standardised columns that are nearly equal, as counts and similarities are."""
    shared = random.standard_normal((rows, 1))
    result = shared + noise * random.standard_normal((rows, columns))
    return ((result - result.mean(0)) / result.std(0)).astype(np.float32)


def test_fit_takes_few_passes_over_correlated_columns_and_one_thread_of_blas():
    random = np.random.default_rng(0)
    dense = correlated(random, 2000, 20, 0.003)
    one_hot = sparse.csr_array((random.random((2000, 50)) < 0.05).astype(np.float32))
    logits = 200 * (dense[:, 0] - dense[:, 1]) + one_hot[:, :10].sum(1)
    labels = (random.random(2000) < 1 / (1 + np.exp(-logits))).astype(np.int8)
    threads = []

    def count() -> None:
        libraries = threadpool_info()
        threads.extend(each["num_threads"] for each in libraries if each["user_api"] == "blas")
        passes.append(1)

    for c in (0.01, 0.1, 1.0, 10.0):
        passes: list[int] = []
        minimise(dense, one_hot, labels, c, np.zeros(71), count)
        assert len(passes) < 30, c  # 60 by L-BFGS on the columns as they are, where C is 1 or 10
    assert set(threads) == {1}


def test_logistic_regression_is_at_its_minimum():
    random = np.random.default_rng(0)
    dense = correlated(random, 300, 3, 0.03)
    one_hot = sparse.csr_array((random.random((300, 5)) < 0.3).astype(np.float32))
    labels = (random.random(300) < 1 / (1 + np.exp(-dense[:, 0]))).astype(np.int8)
    rows = np.concatenate([np.ones((300, 1)), dense, one_hot.toarray()], axis=1)
    for c in (0.01, 1.0):
        weights = minimise(dense, one_hot, labels, c, np.zeros(9))
        error = 1 / (1 + np.exp(-rows @ weights)) - labels
        gradient = c * rows.T @ error + np.concatenate([[0], weights[1:]])
        assert np.abs(gradient).max() < 2e-4 * c * 300


MODEL = member("din", untrained_run.SMALL)
CONFIG = Config(model=MODEL, train=TrainConfig(batch_size=16, max_history=STEPS, buckets=()))


def fitted_state(dataset: Dataset, config: Config = CONFIG):
    """A state of random parameters with a fitted logistic regression."""
    return with_fitted(untrained_run.random_state(config, dataset.schema), dataset, config)


def test_model_with_silent_networks_scores_as_the_fit(tmp_path):
    """On features of every kind, for training rows as well, whose own events are left out."""
    dataset = open_dataset(small_dataset.write(tmp_path / "small"))
    config, inputs = CONFIG, RegressionInputs(dataset, STEPS)
    rows = inputs.read("train", 100)
    with stage("fit") as current:
        fitted = fit_logistic(rows, rows, current)
    state = untrained_run.random_state(config, dataset.schema)
    weights = fitted_first._of_regression(fitted, inputs)
    params = alone({**state.params, "logistic_regression": weights})
    step = make_predict_step(config, dataset.schema)
    features = training_tables(dataset, config).features
    loader = Loader(dataset, "train", config.train, statistics=True, order="evaluation")
    scores = score_batches(step, params, state.batch_stats, features, loader)
    [(places, found)] = inputs.stream("train")
    np.testing.assert_allclose(scores[places], fitted.predict(found), rtol=1e-5)  # float32
    assert np.ptp(scores) > 0.01
    others = {**state.params, "logistic_regression": weights}
    changed = score_batches(step, others, state.batch_stats, features, loader)
    assert np.abs(changed - scores).max() > 0.01


@pytest.mark.parametrize("update", ["dense", "lazy_adam"])
def test_training_leaves_what_was_fitted_as_it_is(update, tmp_path, monkeypatch):
    monkeypatch.setattr("dien_jax.steps.rows.DENSE_ROWS", 3)
    dataset = open_dataset(tiny_run.write_data(tmp_path / "data"))
    config = dataclasses.replace(CONFIG, optim=OptimConfig(embedding_update=update))
    state = fitted_state(dataset, config)
    expected = {name: jax.device_get(state.params[name]) for name in FITTED}
    assert np.abs(expected["logistic_regression"]["item_weights"]["item"]).max() > 0.01
    assert np.abs(expected["statistics_network"]["kernel_0"]).max() > 0.01
    before = jax.device_get(state.params["mlp"])
    loader = Loader(dataset, "train", config.train, statistics=True)
    step = make_train_step(config, dataset.schema, loader.steps_per_epoch)
    tables = training_tables(dataset, config)
    for batch in itertools.islice(loader.epoch(0), 2):
        state, _ = step(state, tables, batch)
    found = jax.device_get(state.params)
    jax.tree.map(np.testing.assert_array_equal, {name: found[name] for name in FITTED}, expected)
    assert np.abs(found["mlp"]["logit"]["kernel"] - before["logit"]["kernel"]).max() > 0


def test_compact_tables_look_up_the_same_weights(tmp_path, monkeypatch):
    """The loss of a first step is that of whole tables."""
    monkeypatch.setattr("dien_jax.steps.rows.DENSE_ROWS", 3)
    dataset = open_dataset(tiny_run.write_data(tmp_path / "data"))
    losses = []
    for update in ("dense", "lazy_adam"):
        config = dataclasses.replace(CONFIG, optim=OptimConfig(embedding_update=update))
        loader = Loader(dataset, "train", config.train, statistics=True)
        step = make_train_step(config, dataset.schema, loader.steps_per_epoch)
        tables = training_tables(dataset, config)
        _, metrics = step(fitted_state(dataset, config), tables, loader.batch(0, 0))
        losses.append(float(metrics["click_loss"]))
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)  # float32


def test_run_starts_from_the_fit_keeps_it_and_says_what_it_reaches(tmp_path, capfd):
    data = tiny_run.write_data(tmp_path / "data")
    folder = tmp_path / "run"
    flags = [*tiny_run.flags(data, folder), "--train.epochs=1", "--model.statistics"]
    assert train.main(flags) == 0
    printed = capfd.readouterr()
    assert "logistic regression" in printed.err
    rows = {line[:28].strip(): line[28:].split() for line in printed.out.splitlines()}
    trained = load_run(folder)
    dataset, config = trained.dataset, trained.run.config
    expected = fitted_state(dataset, config).params
    for name in FITTED:
        jax.tree.map(np.testing.assert_array_equal, trained.params[name], expected[name])
    assert "test, without the networks" in rows
    step = make_predict_step(config, dataset.schema)
    features = training_tables(dataset, config).features
    loader = evaluation_loader(dataset, "test", config.train)
    scores = score_batches(step, alone(trained.params), trained.batch_stats, features, loader)
    area = auc(np.asarray(dataset.splits["test"].label), scores)
    assert rows["test, logistic regression"] == [f"{area:.4f}"]


def test_training_examples_of_one_label_have_none(tmp_path, capfd):
    dataset = open_dataset(tiny_run.write_data(tmp_path / "data", train=1))
    state = untrained_run.random_state(CONFIG, dataset.schema)
    assert with_fitted(state, dataset, CONFIG) is state
    assert "no logistic regression: all training examples" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("simple", "changes", "expected"),
    [
        ({"popularity": 0.5, "logistic regression": 0.792}, {}, ["0.0080 above that of log"]),
        ({"popularity": 0.81, "logistic regression": None}, {}, ["0.0100 below that of pop"]),
        ({"popularity": 0.5, "best possible": 0.9}, {}, []),
        ({"popularity": None}, {"best_step": 40}, ["more epochs"]),
        ({"without the networks": 0.77}, {}, ["in its order adds 0.0300 of AUC"]),
        ({"without the networks": 0.798}, {}, ["adds 0.0020 of AUC: here counts say almost all"]),
        ({"without the networks": 0.81}, {}, ["in its order takes 0.0100 of AUC"]),
        ({"without the networks": 0.8}, {"network_share": 0.0}, ["history adds nothing"]),
    ],
)
def test_table_says_in_words_what_parts_and_simple_models_are_worth(simple, changes, expected):
    about = {"test": {"auc": 0.8}, "baselines": simple, "best_step": 30, "steps": 40}
    result = types.SimpleNamespace(**{"network_share": 1.0, **about, **changes})
    lines = [*train._worth(result), *train._margin(result), *train._more_epochs(result)]
    assert len(lines) == len(expected)
    assert all(part in line for line, part in zip(lines, expected, strict=True))
