"""The logistic regression that models are compared with: its inputs and its fit."""

import functools

import jax
import numpy as np
import pytest
from scipy import sparse
from support import small_dataset, tiny_run
from threadpoolctl import threadpool_info

from dien_jax.config.settings import ModelConfig, TrainConfig
from dien_jax.data.dataset import open_dataset
from dien_jax.data.loader import Loader
from dien_jax.experiments import logistic_regression
from dien_jax.experiments.logistic_regression import RegressionInputs, minimise
from dien_jax.model.click_model import with_statistics
from dien_jax.model.statistics import statistics_names
from dien_jax.steps.state import feature_tables

pytestmark = pytest.mark.long

STEPS = 8
"""Events kept of a history."""


def columns(dataset, split: str, *names: str) -> np.ndarray:
    """Dense columns of a split's examples, in their order."""
    inputs = RegressionInputs(dataset, STEPS)
    [(rows, found)] = inputs.stream(split)
    values = np.empty((len(rows), len(names)), np.float32)
    values[rows] = found.dense[:, [inputs.names.index(name) for name in names]]
    return values


@pytest.mark.parametrize("split", ["train", "valid"])
def test_counts_are_the_inputs_of_a_model(split, tmp_path):
    """Those of training leave out the example's own event and later ones."""
    dataset = open_dataset(small_dataset.write_wide(tmp_path / "data"))
    model = ModelConfig(statistics=True)
    train = TrainConfig(batch_size=128, buckets=(), max_history=STEPS)
    loader = Loader(dataset, split, train, statistics=True)
    batch, rows = loader.batch(0, 0), loader.example_indices(0, 0)
    assert (batch.own is not None and batch.own.any()) == (split == "train")
    read = jax.jit(functools.partial(with_statistics, model, dataset.schema))
    expected = read(feature_tables(dataset, model, folds=True), batch).statistics[: len(rows)]
    found = columns(dataset, split, *statistics_names(dataset.schema))[rows]
    np.testing.assert_allclose(found, expected, rtol=1e-6)  # float32


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
    uncounted = [inputs.names[place] for place in inputs.uncounted]
    assert uncounted == ["length", "item repeat_share", "category repeat_share", "match", "price"]
    [(rows, found)] = inputs.stream("train")
    used = {row: found.one_hot[[place]].indices.tolist() for place, row in enumerate(rows.tolist())}
    # category 0-1, tags 2-5, words 6, device 7-8, query 9-11, item 12-14, user 15-16
    assert used == {0: [0, 9, 10, 13, 15], 1: [1, 5, 7, 14, 15], 2: [0, 2, 3, 8, 12, 16],
                    3: [7]}  # fmt: skip


def test_large_splits_are_sampled_independently_and_said_to_be(tmp_path, monkeypatch, capfd):
    data = tiny_run.write_data(tmp_path / "data", sizes={"train": 600, "valid": 600, "test": 20})
    drawn: dict[str, set[int]] = {"train": set(), "valid": set()}

    stream = RegressionInputs.stream

    def watched(self, split, *more):
        for indices, inputs in stream(self, split, *more):
            drawn[split] |= set(indices.tolist())
            yield indices, inputs

    monkeypatch.setattr(RegressionInputs, "stream", watched)
    inputs = RegressionInputs(open_dataset(data), STEPS, batch_size=64)
    for split in drawn:
        sample = inputs.read(split, 200)
        assert len(sample.labels) == len(sample.dense) == sample.one_hot.shape[0] == 192
        assert f"reading 192 of 600 {split} examples, drawn at random" in capfd.readouterr().err
    train, valid = drawn.values()
    assert len(train) == len(valid) == 192
    assert len(train & valid) < 2 * 192 * 192 / 600
    everything = inputs.read("train", 600 + 64)
    assert sorted(everything.labels) == sorted(open_dataset(data).splits["train"].label)
    assert "drawn" not in capfd.readouterr().err


def correlated(random: np.random.Generator, rows: int, columns: int, noise: float) -> np.ndarray:
    """Standardised columns that are nearly equal, as counts and similarities are."""
    shared = random.standard_normal((rows, 1))
    result = shared + noise * random.standard_normal((rows, columns))
    return ((result - result.mean(0)) / result.std(0)).astype(np.float32)


def test_fit_takes_few_passes_over_correlated_columns_and_one_thread_of_blas(monkeypatch):
    random = np.random.default_rng(0)
    dense = correlated(random, 2000, 20, 0.003)
    one_hot = sparse.csr_array((random.random((2000, 50)) < 0.05).astype(np.float32))
    logits = 200 * (dense[:, 0] - dense[:, 1]) + one_hot[:, :10].sum(1)
    labels = (random.random(2000) < 1 / (1 + np.exp(-logits))).astype(np.int8)
    threads = []
    logaddexp = np.logaddexp

    def count(*arguments) -> np.ndarray:  # once in each pass
        libraries = threadpool_info()
        threads.extend(each["num_threads"] for each in libraries if each["user_api"] == "blas")
        passes.append(1)
        return logaddexp(*arguments)

    monkeypatch.setattr(logistic_regression.np, "logaddexp", count)
    for c in (0.01, 0.1, 1.0, 10.0):
        passes: list[int] = []
        minimise(dense, one_hot, labels, c, np.zeros(71))
        assert len(passes) < 30, c  # 60 by L-BFGS on the columns as they are, where C is 1 or 10
    assert set(threads) == {1}


def test_dependent_columns_of_many_rows_are_fitted():
    random = np.random.default_rng(0)
    few, mixed = random.standard_normal((50_000, 4)), random.standard_normal((4, 24))
    dense = (few @ mixed).astype(np.float32)
    nothing, labels = sparse.csr_array((50_000, 0), dtype=np.float32), np.arange(50_000) % 2
    # In float32 the sum of squares has an eigenvalue below -1e-3; at a million rows it is below -1.
    assert np.isfinite(minimise(dense, nothing, labels, 1e4, np.zeros(25))).all()


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
