"""Similarities of candidate and history as inputs of the click network."""

import functools
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import small_dataset
from support.untrained_run import check_ranking, trained

from dien_jax import Loader, ModelConfig, TrainConfig, open_dataset
from dien_jax.data.tables import ValueFactors, folds_of, with_scale
from dien_jax.model.click_model import with_statistics
from dien_jax.model.factors import OF_LEVEL, factor_names, similarities
from dien_jax.model.statistics import statistics_names
from dien_jax.steps.state import feature_tables

VALUES, COMPONENTS = 9, 32


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_dataset.write_wide(tmp_path_factory.mktemp("many") / "data")


@pytest.fixture(scope="module", params=[1, 3], ids=["of choices", "with transitions"])
def factors(request: pytest.FixtureRequest) -> ValueFactors:
    """Three tables of vectors; values 0 and 8 have none."""
    vectors = np.random.default_rng(0).normal(size=(3, VALUES - 1, request.param * COMPONENTS)) / 10
    vectors[:, 0] = 0
    row = np.array([0, *range(1, VALUES - 1), 0], np.int32)
    return with_scale(row, vectors.astype(np.float16), transitions=request.param == 3)


def plain(factors: ValueFactors, candidate: int, history: list[int], table: int) -> np.ndarray:
    """Return the inputs of one row, written out."""
    vectors = factors.vectors[table].astype(np.float64)[factors.row]
    components = vectors.shape[1] if vectors.shape[1] in (16, 32) else vectors.shape[1] // 3
    parts = np.split(vectors, vectors.shape[1] // components, axis=1)
    found = [plain_pair(parts[0], parts[0], candidate, history)]
    if len(parts) == 3:
        found.append(plain_pair(parts[2], parts[1], candidate, history))
    return np.concatenate(found)


def plain_pair(
    ours_of: np.ndarray, theirs_of: np.ndarray, candidate: int, history: list[int]
) -> np.ndarray:
    """Return the inputs of the vectors of a candidate and of events."""
    columns = []
    for level in (level for level in (16, 32) if level <= ours_of.shape[1]):

        def unit(vector: np.ndarray) -> np.ndarray:
            return vector / (np.linalg.norm(vector) or 1)

        ours = unit(ours_of[candidate, :level])
        theirs = [unit(theirs_of[event, :level]) for event in history]
        recent = [vector / (len(theirs) - place) for place, vector in enumerate(theirs)]
        zero = np.zeros(level)
        columns += [
            max((ours @ vector for vector in theirs), default=0),
            ours @ (theirs[-1] if theirs else zero),
            ours @ unit(sum(theirs, zero)),
            ours @ unit(sum(recent, zero)),
        ]
    return np.array(columns)


def jitted(factors: ValueFactors) -> Callable[..., jax.Array]:
    transitions = factors.vectors.shape[2] == 3 * COMPONENTS
    return jax.jit(functools.partial(similarities, transitions=transitions))


def inputs(
    factors: ValueFactors, candidates: list[int], histories: list[list[int]], tables: list[int]
) -> np.ndarray:
    longest = max(map(len, histories)) + 2
    history = np.array([h + [3] * (longest - len(h)) for h in histories], np.int32)
    lengths = np.array([len(h) for h in histories], np.int32)
    arrays = np.array(candidates, np.int32), history, lengths, np.array(tables, np.int32)
    return np.asarray(jitted(factors)(factors, *map(jnp.asarray, arrays)))


def test_inputs_are_what_their_names_say(factors: ValueFactors) -> None:
    candidates, tables = [1, 2, 8, 4, 5], [0, 1, 2, 1, 0]
    histories = [[2, 3, 4], [5, 2], [1, 2], [8, 0], []]
    found = inputs(factors, candidates, histories, tables)
    expected = [plain(factors, *row) for row in zip(candidates, histories, tables, strict=True)]
    np.testing.assert_allclose(found, expected, atol=2e-6)
    assert found.shape[1] in (2 * len(OF_LEVEL), 4 * len(OF_LEVEL))
    assert not found[2:].any()  # no vector, or no history


@pytest.mark.long
def test_one_history_serves_all_candidates(factors: ValueFactors) -> None:
    candidates, history = np.array([1, 2, 8, 4], np.int32), np.array([[5, 3, 7, 0]], np.int32)
    lengths = np.array([3], np.int32)
    one, four = (
        jitted(factors)(factors, *map(jnp.asarray, arrays))
        for arrays in (
            (candidates, history, lengths),
            (candidates, history.repeat(4, 0), lengths.repeat(4)),
        )
    )
    np.testing.assert_allclose(one, four, atol=1e-6)


def test_names_have_features_and_levels(many: Path) -> None:
    schema = open_dataset(many).schema
    expected = [f"item {kind}_16_{name}" for kind in ("similarity", "next") for name in OF_LEVEL]
    assert factor_names(schema) == tuple(expected)
    names = statistics_names(schema)
    assert names[-8:] == factor_names(schema)


@pytest.mark.long
def test_training_examples_read_the_tables_without_their_users(many: Path) -> None:
    dataset, model = open_dataset(many), ModelConfig(statistics=True)
    loader = Loader(dataset, "train", TrainConfig(batch_size=16), statistics=True)
    batch = loader.batch(0, 0)
    sequence = dataset.splits["train"].sequence[loader.example_indices(0, 0)]
    np.testing.assert_array_equal(batch.fold, folds_of(sequence))
    tables = feature_tables(dataset, model, folds=True)
    found = jax.jit(functools.partial(with_statistics, model, dataset.schema))(tables, batch)
    for row in range(16):
        history = batch.history[row, : batch.lengths[row]].tolist()
        expected = plain(dataset.factors["item"], batch.item[row], history, batch.fold[row])
        np.testing.assert_allclose(found.statistics[row, -8:], expected, atol=2e-6)


@pytest.mark.long
def test_ranking_reads_the_same_counts_and_factors(many: Path) -> None:
    model = trained(many, "din")
    inputs = model.params["tower"]["layer_0"]["kernel"].shape[0]
    assert inputs == len(statistics_names(model.dataset.schema))
    check_ranking(model)
