"""Simulated users: what is known about them holds, and order matters."""

import doctest
import functools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.small_dataset import PART

import dien_jax.preparation
from dien_jax.data.dataset import Dataset, open_dataset
from dien_jax.data.schema import MultiValued
from dien_jax.errors import UserError
from dien_jax.metrics.scores import auc, logloss
from dien_jax.preparation.sources import synthetic
from dien_jax.preparation.sources.synthetic import (
    JUMP,
    NOISE,
    SKIP,
    Simulated,
    SyntheticOptions,
    World,
    make_world,
    prepare,
    simulate,
)

pytestmark = pytest.mark.fast


def make(out: Path, **options: Any) -> Dataset:
    prepare(SyntheticOptions(out, **({"users": 2000} | options)))
    return open_dataset(out)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return make(tmp_path_factory.mktemp("synthetic") / "data")


@pytest.fixture(scope="module")
def world() -> World:
    return make_world(400, 20, np.random.default_rng(0))


@pytest.fixture(scope="module")
def simulated(world: World) -> Simulated:
    return simulate(world, 1500, 4, np.random.default_rng(1))


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(file.relative_to(folder)): file.read_bytes()
        for file in folder.rglob("*")
        if file.is_file()
    }


def test_seed_alone_decides_the_folder(tmp_path: Path) -> None:
    first = contents(make(tmp_path / "a", users=200).path)
    assert first == contents(make(tmp_path / "b", users=200).path)
    other = contents(make(tmp_path / "c", users=200, seed=1).path)
    for name in ("events/item/values.npy", "examples/train/label/values.npy"):
        assert first[f"{PART}/{name}"] != other[f"{PART}/{name}"]


def test_sizes_are_those_asked_for(tmp_path: Path) -> None:
    data = make(tmp_path / "a", users=150, items=77, categories=5, examples_per_user=3)
    assert data.schema.num_items == 78
    assert data.schema.item[1].size == 6
    assert [len(rows.label) for rows in data.splits.values()] == [360, 45, 45]
    assert len(data.event_offsets) == 151


def test_users_are_simulated_in_parts(tmp_path: Path) -> None:
    prepare(SyntheticOptions(tmp_path / "a", users=150), chunk_users=64)
    data = open_dataset(tmp_path / "a")
    groups = np.concatenate([rows.group for rows in data.splits.values()])
    assert np.bincount(groups).tolist() == [8] * 150


def test_best_possible_scores_are_those_of_the_true_probabilities(data: Dataset) -> None:
    for split in ("valid", "test"):
        rows = data.splits[split]
        assert rows.probability is not None
        best = data.meta["best_possible"][split]
        assert best["auc"] == auc(rows.label, rows.probability)
        assert best["logloss"] == logloss(rows.label, rows.probability)
        assert 0.85 < best["auc"] < 0.94


def test_labels_are_drawn_from_the_true_probabilities(simulated: Simulated) -> None:
    order = np.argsort(simulated.probability)
    for part in np.array_split(order, 10):
        chance = simulated.probability[part].astype(np.float64)
        spread = np.sqrt((chance * (1 - chance)).sum())
        assert abs(simulated.label[part].sum() - chance.sum()) < 4 * spread


def test_popularity_is_heavy_tailed_and_counts_training_users_only(data: Dataset) -> None:
    users = np.unique(data.splits["train"].sequence)
    counts = np.zeros(data.schema.num_items, np.int64)
    for user in users:
        events = data.event_item[data.event_offsets[user] : data.event_offsets[user + 1]]
        counts += np.bincount(events, minlength=len(counts))
    assert data.popularity.tolist() == counts.tolist()
    ranked = np.sort(counts)[::-1]
    assert ranked[:40].sum() > 0.33 * counts.sum()
    assert ranked[0] > 10 * np.median(counts)


def test_users_are_split_whole_and_held_out_ones_have_no_row(data: Dataset) -> None:
    groups = {split: set(rows.group.tolist()) for split, rows in data.splits.items()}
    assert [len(groups[split]) for split in ("train", "valid", "test")] == [1600, 200, 200]
    assert not groups["train"] & groups["valid"]
    assert not groups["train"] & groups["test"]
    assert not groups["valid"] & groups["test"]
    for split in ("valid", "test"):
        assert not data.splits[split].user.any()


def test_every_kind_of_feature_is_there(data: Dataset) -> None:
    schema = data.schema
    names = [feature.name for feature in (*schema.item, *schema.user, *schema.context)]
    assert names == ["item", "category", "tags", "price", "user", "segment", "slot"]
    tables = data.feature_tables().item
    tags = tables["tags"]
    assert isinstance(tags, MultiValued)
    assert set(np.asarray(tags.count).tolist()) == {0, 1, 2, 3}
    for values, count in zip(np.asarray(tags.values), np.asarray(tags.count), strict=True):
        assert len(set(values[:count].tolist())) == count, "tags of an item differ"
    price = np.asarray(tables["price"])
    assert price[0] == 0
    known = price[price != 0]
    assert 2 < len(price) - len(known) < 25
    assert abs(known.mean()) < 1e-5
    assert abs(known.std() - 1) < 1e-3
    assert set(np.unique(data.users["segment"].values[1:]).tolist()) == {1, 2, 3}
    slots = np.asarray(data.context_rows("test", np.arange(100))["slot"])
    assert set(slots.tolist()) == {1, 2, 3}


def sequences(simulated: Simulated) -> list[np.ndarray]:
    return np.split(simulated.event_item, np.cumsum(simulated.length)[:-1])


def test_interests_stay_and_evolve_along_their_paths(world: World, simulated: Simulated) -> None:
    stayed, strides = [], []
    for events in sequences(simulated):
        category, place = world.category[events], world.place[events]
        same = category[1:] == category[:-1]
        stayed.append(same)
        step = (place[1:] - place[:-1])[same] % world.places[category[1:][same]]
        strides.append(step)
    share = np.concatenate(stayed).mean()
    assert abs(share - (1 - JUMP) * (1 - NOISE) ** 2) < 0.03
    stride = np.bincount(np.concatenate(strides))
    assert stride[1] / stride.sum() == pytest.approx(1 - SKIP, abs=0.03)
    assert stride[2] / stride.sum() == pytest.approx(SKIP, abs=0.03)


def read_in_order(world: World, simulated: Simulated, row: int, events: np.ndarray) -> float:
    """Scores a candidate by the last event of its category: is it just ahead, and is that now?"""
    item = simulated.item[row]
    same = events[world.category[events] == world.category[item]]
    if not len(same):
        return -2.0
    ahead = (world.place[item] - world.place[same[-1]]) % world.places[world.category[item]]
    return float((same[-1] == events[-1]) + 1.5 * (ahead in (1, 2)))


def test_order_of_the_history_matters(world: World, simulated: Simulated) -> None:
    rng = np.random.default_rng(0)
    past = sequences(simulated)
    rows = range(len(simulated.label))
    histories = [past[simulated.user[row]][: simulated.history[row]] for row in rows]
    ordered = auc(
        simulated.label, np.array([read_in_order(world, simulated, r, histories[r]) for r in rows])
    )
    shuffled = auc(
        simulated.label,
        np.array([read_in_order(world, simulated, r, rng.permutation(histories[r])) for r in rows]),
    )
    assert ordered is not None
    assert shuffled is not None
    assert ordered > 0.8
    assert ordered > shuffled + 0.08


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"users": 19}, "--users must be from 20 to 10000000, got 19"),
        ({"categories": 3}, "--categories must be from 4 to 10000, got 3"),
        ({"items": 100}, "--items must be at least 240, 12 for each of the --categories, 20; got"),
        ({"users": 2**63}, "--users must be from 20 to 10000000, got 92"),
        ({"examples_per_user": 0}, "--examples-per-user must be from 1 to 10000, got 0"),
        ({"seed": -1}, "--seed must be at least 0, got -1"),
    ],
)
def test_sizes_that_make_no_world_are_refused(
    tmp_path: Path, options: dict[str, int], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        SyntheticOptions(tmp_path / "a", **options)


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    """The cache folder, in which little is simulated."""
    options = functools.partial(SyntheticOptions, users=80, items=60, categories=4)
    monkeypatch.setattr(synthetic, "SyntheticOptions", options)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "dien_jax"


def test_built_in_data_is_simulated_once(cache, monkeypatch):
    folder = synthetic.built_in_data()
    assert folder.is_relative_to(cache)
    assert len(open_dataset(folder).groups()) == 80
    monkeypatch.setattr(synthetic, "prepare", lambda options: pytest.fail("simulated again"))
    assert synthetic.built_in_data() == folder


@pytest.mark.parametrize("layer", ["data", "metrics", "preparation/pipeline", "statistics"])
def test_data_of_other_code_is_not_used(layer, tmp_path):
    digest = synthetic.code_digest(tmp_path)
    (tmp_path / layer).mkdir(parents=True)
    (tmp_path / layer / "module.py").write_text("x = 1")
    assert synthetic.code_digest(tmp_path) != digest
    assert synthetic.code_digest() != synthetic.code_digest(tmp_path)


def test_the_example_of_the_package_runs():
    assert doctest.testmod(dien_jax.preparation).failed == 0
