"""The estimate of a step's memory, against the sizes that the arrays of a step have."""

import jax
import pytest
from support import tiny_run

from dien_jax.config.presets import PRESETS, with_settings
from dien_jax.config.settings import Config
from dien_jax.data.dataset import open_dataset
from dien_jax.data.loader import Loader
from dien_jax.data.schema import Feature, Schema
from dien_jax.errors import UserError
from dien_jax.steps.placement import OneDevice
from dien_jax.steps.state import create_state, require_step_memory, step_bytes, training_tables
from dien_jax.steps.train import make_train_step


def config_of(name: str, **changes: object) -> Config:
    return with_settings(PRESETS[name], {f"model.{key}": value for key, value in changes.items()})


def test_estimate_is_the_sum_of_embeddings_states_layers_and_ids():
    config = config_of("dien", auxiliary_negatives=3)
    # Embeddings 64 + 18 of the history, of the next and of 3 sampled behaviours; 2 x 36 states;
    # attention 80 + 40. Ids of 4 items. Then 280 units of the click network a row.
    floats = 82 * (1 + 4) + 72 + 120
    assert step_bytes(config, tiny_run.SCHEMA, 7, 50) == 7 * (50 * 4 * (floats + 4) + 4 * 280)
    config = config_of("base_model", compute="bfloat16")
    assert step_bytes(config, tiny_run.SCHEMA, 7, 50) == 7 * (50 * (2 * 82 + 4) + 2 * 280)


@pytest.mark.long
def test_a_compiled_step_takes_no_less_than_the_estimate(data):
    dataset, config = open_dataset(data), config_of("din", statistics=False)
    config = with_settings(config, {"train.batch_size": 512})
    batch = Loader(dataset, "train", config.train).batch(0, 0)
    shapes = jax.eval_shape(lambda: create_state(config, dataset.schema, 1, 0))
    step = make_train_step(config, dataset.schema, 1)
    compiled = step.lower(shapes, training_tables(dataset, config), batch).compile()
    rows, steps = batch.history.shape
    taken = compiled.memory_analysis().temp_size_in_bytes
    assert taken > step_bytes(config, dataset.schema, rows, steps)


@pytest.mark.parametrize(
    ("rows", "update", "tables"),
    [
        (30_000, "dense", 4),  # parameters, two slots and a gradient
        (30_000, "auto", 4),
        (30_000, "lazy_adam", 3),
        (70_000, "auto", 3),
    ],
)
def test_state_takes_as_many_tables_as_the_update_needs(rows, update, tables, monkeypatch):
    config = config_of("base_model", statistics=False, item_embedding_size=18)
    config = with_settings(config, {"optim.embedding_update": update})
    item, user = Feature("item", "categorical", rows), Feature("user", "categorical", 2)
    schema, table = Schema(item=(item,), user=(user,)), 4 * 18 * rows
    monkeypatch.setattr(OneDevice, "bytes_of_device", lambda _: int(tables * table))
    expected = "parameters and their optimizer state take at least .*; choose smaller model sizes$"
    with pytest.raises(UserError, match=expected):
        create_state(config, schema, 1, 0)
    networks = 2**20  # 56,000 numbers, with slots and a gradient of one matrix
    monkeypatch.setattr(OneDevice, "bytes_of_device", lambda _: int(tables * table) + networks)
    create_state(config, schema, 1, 0)


@pytest.mark.parametrize(
    ("rows", "steps", "advice"),
    [
        (10**9, 4, "smaller train.batch_size, train.max_history, model.auxiliary_negatives or"),
        (1, 10**9, "smaller train.max_history, model.auxiliary_negatives or model"),
    ],
)
def test_steps_beyond_the_memory_are_refused(rows, steps, advice):
    config, place = config_of("dien", auxiliary_negatives=9), OneDevice(tiny_run.SCHEMA)
    with pytest.raises(UserError, match=rf"{steps:,} events take at least .* GB, .*{advice}"):
        require_step_memory(config, place, rows, steps)
