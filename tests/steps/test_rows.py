"""Rows that a batch looks up learn as in dense Adam; the others do not change a bit."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.sharded_steps import ITEMS, NEGATIVE, SCHEMA, SIZE, TABLES, USERS, batch_of, tables
from support.untrained_run import random_state

from dien_jax.config.presets import with_settings
from dien_jax.config.settings import Config, ModelConfig, OptimConfig, TrainConfig
from dien_jax.data.schema import Feature, MultiValued, Schema
from dien_jax.data.tables import Batch, FeatureTables
from dien_jax.steps.negatives import make_sampler
from dien_jax.steps.optimizer import make_optimizer
from dien_jax.steps.placement import OneDevice
from dien_jax.steps.rows import large_tables, table_of
from dien_jax.steps.state import Tables, TrainState, create_state
from dien_jax.steps.train import make_train_step

pytestmark = pytest.mark.long

CONFIG = Config(
    model=ModelConfig(  # little of it, to compile in little time
        embedding_size=3,
        extractor="none",
        evolution="none",
        activation="prelu",
        follow_authors=True,  # normalisation that only scales
        auxiliary_weight=0.0,
        layers=(6,),
        statistics=False,
        dropout=0.0,
    ),
    optim=OptimConfig(learning_rate=0.05),
    train=TrainConfig(unknown_users=0.0),
)


@functools.cache
def step_of(config: Config, dense_rows: int = 0) -> Any:
    return make_train_step(config, SCHEMA, 10, OneDevice(SCHEMA, dense_rows=dense_rows))


first_state = functools.cache(lambda: create_state(CONFIG, SCHEMA, 10, seed=0))


def fresh(config: Config) -> TrainState:
    """One that may be donated."""
    if config.model != CONFIG.model:
        return random_state(config, SCHEMA)
    state = jax.tree.map(lambda leaf: leaf.copy(), first_state())
    slots = make_optimizer(config, 10).init(state.params)
    return state._replace(optimizer_state={"network": slots})


def rows_looked_up(batch: Batch) -> dict[tuple[str, str], set[int]]:
    """By the schema, in NumPy."""
    items = {*batch.history.flat, *batch.item}
    users = set(batch.user)
    of_items, of_users, *_ = tables().features

    def of(column, rows) -> set[int]:
        values = np.asarray(column.values if isinstance(column, MultiValued) else column)
        return {int(value) for row in rows for value in np.ravel(values[int(row)])}

    every = range(SIZE)
    return {
        ("item", "item"): {int(item) for item in items},
        ("item", "category"): of(of_items["category"], items),
        ("item", "tags"): of(of_items["tags"], items),
        ("user", "user"): {int(user) for user in users},
        ("user", "city"): of(of_users["city"], users),
        ("user", "likes"): of(of_users["likes"], users),
        ("context", "device"): of(batch.columns["device"], every),
        ("context", "words"): of(batch.columns["words"], every),
    }


def with_update(update: str, **changes) -> Config:
    """The configuration with another update, and other settings by ``GROUP__NAME``."""
    changes = {name.replace("__", "."): value for name, value in changes.items()}
    return with_settings(CONFIG, {"optim.embedding_update": update} | changes)


def leaves(state) -> dict[tuple, np.ndarray]:
    """Parameters and the optimiser's state by path, copied off arrays that will be donated."""
    tree = (state.params, state.optimizer_state)
    return {path: np.array(leaf) for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]}


def after(config: Config, batches: list[Batch], dense_rows: int = 0):
    """Leaves before the last step, leaves after it, and its metrics."""
    step, state = step_of(config, dense_rows), fresh(config)
    for batch in batches:
        before = leaves(state)
        state, metrics = step(state, tables(), batch)
    return before, leaves(state), metrics


def test_tables_are_large_by_their_rows() -> None:
    assert large_tables(SCHEMA, 0).keys() == TABLES
    assert large_tables(SCHEMA, 39) == {("item", "item"): ITEMS, ("user", "user"): USERS}
    tags = Feature("tags", "multivalued", 50, max_values=3)
    item, user = Feature("item", "categorical", 20), Feature("user", "categorical", 9)
    few = Schema(item=(item, tags), user=(user,))
    assert large_tables(few, 39) == {("item", "item"): 20, ("item", "tags"): 50}


def test_rows_that_nothing_looks_up_keep_every_bit() -> None:
    batches = [batch_of(0), batch_of(1)]
    before, now, _ = after(with_update("lazy_adam"), batches)
    looked_up, found = rows_looked_up(batches[-1]), 0
    for path, leaf in now.items():
        name = table_of(path)
        if name not in looked_up:
            continue
        found += 1
        moved = (leaf != before[path]).reshape(len(leaf), -1).any(1)
        assert 0 < moved.sum() < len(moved)
        assert set(np.flatnonzero(moved)) <= looked_up[name]
        if name[1] in ("item", "user", "device"):  # no padding among them
            assert set(np.flatnonzero(moved)) >= looked_up[name] - {0}
    assert found == len(TABLES) * 3


def test_rows_that_are_looked_up_take_the_first_steps_of_dense_adam() -> None:
    """So the gradients of an id that occurs more than once are summed.

    The sums are the same; what XLA fuses them with is not, hence the last bits.
    """
    optim = {"optim__schedule": "cosine"}
    batch = batch_of(0)
    _, dense, dense_metrics = after(with_update("dense", **optim), [batch, batch])
    _, lazy, metrics = after(with_update("lazy_adam", **optim), [batch, batch])
    for name, value in dense_metrics.items():
        np.testing.assert_allclose(metrics[name], value, rtol=1e-5)
    looked_up = rows_looked_up(batch)
    assert lazy.keys() == dense.keys()
    for path, leaf in lazy.items():
        expected = dense[path]
        rows = sorted(looked_up.get(table_of(path), ()))
        rows = rows if rows else ...
        np.testing.assert_allclose(leaf[rows], expected[rows], rtol=2e-4, atol=1e-6)


def everything(seed: int) -> Batch:
    """Looks up every row of every table."""
    batch = batch_of(seed, ITEMS)
    order = np.random.default_rng(seed).permutation(ITEMS).astype(np.int32)
    words = np.arange(ITEMS * 4).reshape(ITEMS, 4).astype(np.int32) % 25
    return batch._replace(
        item=order,
        user=order % USERS,
        columns=batch.columns
        | {"device": order % 7, "words": MultiValued(words, np.full(ITEMS, 4, np.int32))},
    )


def test_a_step_that_looks_up_every_row_is_dense_adams() -> None:
    """Several steps, as moments of all rows then decay alike.

    The operations are the same in the same order; XLA may fuse a product and a sum into one
    rounding in one program and not in the other, which was at most 3e-8 in what is below 1. No
    normalisation, which makes more of such differences in the gradients from step to step.
    """
    batches = [everything(seed) for seed in range(3)]
    _, dense, _ = after(with_update("dense"), batches)
    _, lazy, _ = after(with_update("lazy_adam"), batches)
    assert lazy.keys() == dense.keys()
    for path, leaf in lazy.items():
        np.testing.assert_allclose(leaf, dense[path], rtol=1e-6, atol=1e-7, err_msg=str(path))


def test_small_tables_keep_the_optimiser_of_everything_else() -> None:
    batches = [batch_of(0), batch_of(1)]
    before, now, _ = after(with_update("lazy_adam"), batches, dense_rows=50)  # less than item ids
    slots = [path for path in now if table_of(path) == ("user", "user")]
    assert len(slots) == 3
    other = sorted(set(batches[0].user) - set(batches[1].user) - {0})
    for path in slots:  # moments decay, and rows move by them
        assert (now[path][other] != before[path][other]).all()


def test_auxiliary_negatives_are_looked_up() -> None:
    auxiliary = {"model__extractor": "gru", "model__auxiliary_weight": 8.0}
    config = with_update("lazy_adam", model__hidden_size=4, **auxiliary)
    before, now, _ = after(config, [batch_of(0)])
    [path] = [path for path in now if table_of(path)[1] == "item" and path[0].idx == 0]
    moved = (now[path] != before[path]).any(1)
    assert set(np.flatnonzero(moved[ITEMS // 2 :]) + ITEMS // 2) == {NEGATIVE}


ROWS, WIDTH = 300_000, 4
TABLE_BYTES = ROWS * WIDTH * 4


def compiled_for_many_rows(update: str) -> jax.stages.Compiled:
    """The step on a table of ``ROWS`` items, from shapes alone."""
    item = (Feature("item", "categorical", ROWS), Feature("tags", "multivalued", 9, max_values=2))
    schema = Schema(item=item, user=(Feature("user", "categorical", 5),))
    config = with_update(update, model__embedding_size=WIDTH)
    state = jax.eval_shape(lambda: create_state(config, schema, 10, seed=0))
    tags = MultiValued(
        jax.ShapeDtypeStruct((ROWS, 2), jnp.int32), jax.ShapeDtypeStruct((ROWS,), jnp.int32)
    )
    sampler = jax.eval_shape(lambda: make_sampler(np.ones(4)))
    sampler = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((ROWS,), leaf.dtype), sampler)
    arrays = Tables(FeatureTables({"tags": tags}, {}), sampler)
    step = make_train_step(config, schema, 10)
    return step.lower(state, arrays, batch_of(0)._replace(columns={})).compile()


@pytest.mark.parametrize("update", ["dense", "lazy_adam"])
def test_a_step_makes_nothing_of_the_size_of_a_table(update) -> None:
    """Tables and slots are updated in place; dense Adam shows what the figure is otherwise."""
    memory = compiled_for_many_rows(update).memory_analysis()
    assert memory.alias_size_in_bytes > TABLE_BYTES
    if update == "dense":
        assert memory.temp_size_in_bytes > TABLE_BYTES
    else:
        assert memory.temp_size_in_bytes < TABLE_BYTES / 20


def test_one_compilation_whatever_is_looked_up() -> None:
    config, place = with_update("lazy_adam"), OneDevice(SCHEMA, dense_rows=0)
    step, state = make_train_step(config, SCHEMA, 10, place), fresh(config)
    same = jax.tree.map(np.zeros_like, batch_of(0))._replace(weight=np.ones(SIZE, np.float32))
    for batch in (batch_of(0), same, batch_of(1)):
        state, metrics = step(state, tables(), batch)
        assert np.isfinite(metrics["loss"])
    assert step._cache_size() == 1
