"""Item embeddings that start from the vectors of the factorization, and are kept near them."""

import dataclasses
import itertools
import shutil
import signal
from pathlib import Path
from unittest.mock import Mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.small_dataset import write_wide

from dien_jax.config.settings import Config, ModelConfig, OptimConfig, TrainConfig
from dien_jax.data.dataset import Dataset, open_dataset
from dien_jax.data.loader import Loader
from dien_jax.data.tables import FOLDS, FeatureTables
from dien_jax.errors import Interrupted, UserError
from dien_jax.model.click_model import ClickModel
from dien_jax.model.embeddings import without_own_user
from dien_jax.runs.folder import Run, WarmStart
from dien_jax.runs.trained import load_run
from dien_jax.steps.placement import OneDevice
from dien_jax.steps.state import create_state, feature_tables
from dien_jax.training import run as training_run
from dien_jax.training.run import fit, resume
from dien_jax.training.vectors import ItemVectors, item_vectors, started
from dien_jax.training.warm_start import (
    NEW,
    grown,
    load_source,
    make_rotation,
    trained_rows,
    warm_start_of,
)

pytestmark = pytest.mark.long

LEVEL, SIZE = 16, 18
"""Components of the vectors of this data, and of the embeddings."""
MODEL = ModelConfig(embedding_size=4, item_embedding_size=SIZE, hidden_size=4, layers=(4,))
WITHOUT = {"extractor": "none", "evolution": "none", "auxiliary_weight": 0.0, "statistics": False}
LIGHT = Config(
    model=dataclasses.replace(MODEL, **WITHOUT),
    train=TrainConfig(batch_size=16, epochs=2, max_history=8, buckets=()),
    optim=OptimConfig(learning_rate=0.02),
)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return open_dataset(write_wide(Path(tmp_path_factory.mktemp("wide")) / "data"))


def vectors_of(dataset: Dataset, size: int = SIZE) -> ItemVectors:
    model = dataclasses.replace(MODEL, item_embedding_size=size)
    found = item_vectors(dataset, Config(model=model))
    assert found is not None
    return found


def test_items_with_a_vector_start_from_it_and_all_else_at_random(dataset: Dataset) -> None:
    state = create_state(Config(model=MODEL), dataset.schema, 1, seed=0)
    random, place = jax.device_get(state.params), OneDevice(dataset.schema)
    found = vectors_of(dataset)
    params = started(state, place, found).params
    before, after = (np.asarray(params["item_embeddings"]["item"]) for params in (random, params))
    factors = dataset.factors["item"]
    vectors = np.float32(factors.vectors[0])[factors.row, :LEVEL]
    has_vector = np.linalg.norm(vectors, axis=1) > 0
    assert has_vector.sum() > 40
    assert not has_vector[0]  # the unknown item
    np.testing.assert_array_equal(after[~has_vector], before[~has_vector])
    unit = vectors[has_vector] / np.linalg.norm(vectors[has_vector], axis=1, keepdims=True)
    np.testing.assert_allclose(after[has_vector, :LEVEL], unit, atol=1e-3)
    assert not after[has_vector, LEVEL:].any()
    np.testing.assert_array_equal(
        params["user_embeddings"]["user"], random["user_embeddings"]["user"]
    )


def test_vectors_without_a_fold_are_turned_towards_those_of_all_users(dataset: Dataset) -> None:
    found = vectors_of(dataset, LEVEL)
    _, turned = (np.asarray(part, np.float32) for part in found)
    stored = np.asarray(dataset.factors["item"].vectors, np.float32)[..., :LEVEL]
    assert len(turned) == 1 + FOLDS

    def likeness(tables: np.ndarray, fold: int) -> float:
        """Mean cosine of the rows of a table and of the first."""
        products = (tables[fold] * tables[0]).sum(1)
        lengths = np.linalg.norm(tables[fold], axis=1) * np.linalg.norm(tables[0], axis=1)
        return float((products[lengths > 0] / lengths[lengths > 0]).mean())

    for fold in range(1, 1 + FOLDS):
        assert likeness(turned, fold) > max(0.6, likeness(stored, fold))
        gram = [tables[fold] @ tables[fold].T for tables in (stored, turned)]
        norm = np.linalg.norm(stored[fold], axis=1)
        expected = gram[0] / np.maximum(norm[:, None] * norm[None, :], 1e-9)
        np.testing.assert_allclose(gram[1], expected, atol=4e-3)  # angles stay


def test_no_vectors_without_a_factorization(dataset: Dataset) -> None:
    assert item_vectors(dataclasses.replace(dataset, factors={}), LIGHT) is None


def test_training_reads_what_was_learned_on_top_of_the_vector_of_a_fold() -> None:
    random = np.random.default_rng(0)
    row = np.array([0, 1, 2, 0])  # items 0 and 3 have none
    vectors = random.normal(size=(3, 3, 2)).astype(np.float16)
    vectors[:, 0] = 0
    tables = FeatureTables({}, {}, vector_row=row, vectors=vectors)
    table = random.normal(size=(4, 3)).astype(np.float32)
    ids, fold = np.array([[0, 1], [2, 3], [1, 2]]), np.array([1, 2, 0])
    found, learned = without_own_user(
        jnp.asarray(table[ids]), jnp.asarray(ids), tables, jnp.asarray(fold)[:, None]
    )
    for place in np.ndindex(ids.shape):
        item = ids[place]
        first, ours = vectors[0, row[item]], vectors[fold[place[0]], row[item]]
        expected = table[item].copy()
        expected[:2] += ours.astype(np.float32) - first
        np.testing.assert_allclose(found[place], expected, rtol=1e-6)
        np.testing.assert_allclose(
            learned[place], ((table[item, :2] - first) ** 2).sum(), rtol=1e-5
        )
    same, nothing = without_own_user(jnp.asarray(table[ids]), jnp.asarray(ids), tables, None)
    np.testing.assert_array_equal(same, table[ids])  # in scoring
    assert not nothing.any()


@pytest.mark.parametrize("sums", [False, True])  # of padded histories, for the click network
def test_what_embeddings_learned_is_a_mean_over_candidates_and_histories(
    sums: bool, dataset: Dataset
) -> None:
    model = dataclasses.replace(MODEL, follow_authors=sums)
    train = TrainConfig(batch_size=8)
    batch = Loader(dataset, "train", train, folds=True).batch(0, 0)
    assert batch.fold is not None
    assert set(batch.fold[batch.weight > 0]) <= set(range(1, 1 + FOLDS))
    found = vectors_of(dataset)
    state = create_state(Config(model=model), dataset.schema, 1, seed=0)
    tables = feature_tables(dataset, model)._replace(vector_row=found[0], vectors=found[1])
    variables = {"params": state.params, "batch_stats": state.batch_stats}
    run = jax.jit(ClickModel(model, dataset.schema).apply)
    table = np.asarray(state.params["item_embeddings"]["item"])
    squares = ((table - found[1][0][found[0]].astype(np.float32)) ** 2).sum(1)
    live = np.arange(batch.history.shape[1]) < batch.lengths[:, None]
    of_history = (squares[batch.history] * live).sum(1) / np.maximum(batch.lengths, 1)
    expected = ((squares[batch.item] + of_history) * batch.weight).sum() / batch.weight.sum()
    np.testing.assert_allclose(run(variables, batch, tables).learned, expected, rtol=1e-5)
    beginning = started(state, OneDevice(dataset.schema), found)
    variables = {"params": beginning.params, "batch_stats": state.batch_stats}
    has_all = batch._replace(weight=batch.weight * (found[0][batch.item] > 0) * (batch.lengths < 1))
    assert run(variables, has_all, tables).learned == 0


@pytest.fixture(scope="module")
def trained(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose embeddings have moved from their vectors."""
    folder = tmp_path_factory.mktemp("runs") / "trained"
    fit(LIGHT, data=dataset, run_dir=folder)
    return folder


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Data with other users, four new items with vectors, and most of the others in other rows."""
    folder = Path(tmp_path_factory.mktemp("other"))
    return open_dataset(write_wide(folder / "data", seed=1, first=6))


def start_of(run_dir: Path, dataset: Dataset) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return rotation, vectors and embeddings of items at the start of a run from another."""
    source = load_source(run_dir, dataset, LIGHT)
    found = vectors_of(dataset)
    rotation = make_rotation(source, dataset, found)
    vectors = found.rotated(rotation)
    embeddings = grown(source, dataset, vectors).params["item_embeddings"]["item"]
    return rotation, vectors.of_items(), embeddings


def test_a_warm_start_on_the_same_data_has_the_vectors_of_its_run(
    dataset: Dataset, trained: Path
) -> None:
    rotation, vectors, embeddings = start_of(trained, dataset)
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(SIZE), atol=1e-5)
    before = vectors_of(dataset).of_items()
    params = np.asarray(load_run(trained).params["item_embeddings"]["item"])
    moved = np.abs(params - before)[before.any(1)]
    assert moved.max() > 0.01  # the run has learned
    assert moved.mean() < 0.05  # and is kept near its vectors
    np.testing.assert_allclose(vectors, before, atol=0.02)
    np.testing.assert_array_equal(embeddings, params)


def test_a_warm_start_turns_the_vectors_of_its_data_and_starts_new_items_from_them(
    other: Dataset, dataset: Dataset, trained: Path
) -> None:
    _, vectors, embeddings = start_of(trained, other)
    fresh = vectors_of(other).of_items()
    rows = trained_rows(dataset.vocabulary("item"), other.vocabulary("item"))
    params = np.asarray(load_run(trained).params["item_embeddings"]["item"])
    shared, new = rows != NEW, (rows == NEW) & vectors.any(1)
    np.testing.assert_array_equal(embeddings[shared], params[rows[shared]])
    assert new.sum() == 4
    np.testing.assert_array_equal(embeddings[new], vectors[new])

    def distance(vectors: np.ndarray) -> float:
        both = shared & vectors.any(1)
        return float(((vectors[both] - params[rows[both]]) ** 2).sum())

    assert distance(vectors) < 0.9 * distance(fresh)


def test_examples_after_the_training_of_a_run_need_no_vectors(
    other: Dataset, dataset: Dataset, trained: Path, tmp_path: Path
) -> None:
    """Neither vectors nor embeddings of the run know their events; those of later starts may."""

    def reads_vectors(train_from: int) -> bool:
        before = dataclasses.replace(dataset, meta=dataset.meta | {"split": {"valid_from": 8}})
        later = dataclasses.replace(other, meta=other.meta | {"split": {"train_from": train_from}})
        return warm_start_of(trained, source._replace(dataset=before), later, LIGHT)["vectors"]

    source = load_source(trained, other, LIGHT)
    assert not reads_vectors(8)
    assert reads_vectors(7)
    updated = shutil.copytree(trained, tmp_path / "updated")
    start = WarmStart(run=str(trained), step=1, vectors=False)
    dataclasses.replace(Run.load(updated), warm_start=start).restore(updated)
    assert warm_start_of(updated, load_source(updated, other, LIGHT), other, LIGHT)["vectors"]
    start["near_vectors"] = False  # of a run that began with random embeddings
    dataclasses.replace(Run.load(updated), warm_start=start).restore(updated)
    begun = warm_start_of(updated, load_source(updated, other, LIGHT), other, LIGHT)
    assert (begun["vectors"], begun["near_vectors"]) == (False, False)


def test_a_warm_start_is_resumed_without_its_run_but_not_without_its_rotation(
    other: Dataset, trained: Path, tmp_path: Path
) -> None:
    source, folders = tmp_path / "source", [tmp_path / name for name in ("whole", "stopped")]
    shutil.copytree(trained, source)
    fit(LIGHT, data=other, run_dir=folders[0], warm_start=source)
    calls = itertools.count()

    def stop_signal() -> int | None:
        return signal.SIGTERM if next(calls) == 3 else None

    with pytest.raises(Interrupted):
        fit(LIGHT, data=other, run_dir=folders[1], warm_start=source, stop_signal=stop_signal)
    shutil.rmtree(source)
    rotation = folders[1] / "rotation.npy"
    rotation.rename(tmp_path / "moved")
    with pytest.raises(UserError, match=r"rotation\.npy is missing"):
        resume(folders[1])
    (tmp_path / "moved").rename(rotation)
    resume(folders[1])
    whole, stopped = map(load_run, folders)
    jax.tree.map(np.testing.assert_array_equal, stopped.params, whole.params)


def test_a_warm_start_that_cannot_begin_leaves_no_folder(
    other: Dataset, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training_run, "Trainer", Mock(side_effect=UserError("too large")))
    with pytest.raises(UserError, match="too large"):
        fit(LIGHT, data=other, run_dir=tmp_path / "run", warm_start=trained)
    assert not (tmp_path / "run").exists()
