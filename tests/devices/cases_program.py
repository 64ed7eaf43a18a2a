"""The compiled step holds nothing whole and sends what its batch needs, whatever the rows."""

import functools
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp

from benchmarks.common.compiled_text import Collective, collectives, shapes
from dien_jax.config.settings import Config, ModelConfig, OptimConfig, TrainConfig
from dien_jax.data.schema import Feature, Schema
from dien_jax.data.tables import FeatureTables, example_batch
from dien_jax.devices import Placement
from dien_jax.steps.negatives import Sampler
from dien_jax.steps.placement import Layout
from dien_jax.steps.score import make_predict_step
from dien_jax.steps.state import Tables, create_state
from dien_jax.steps.train import make_train_step

DEVICES, BATCH, STEPS = 8, 48, 21
SMALL, LARGE = 10_008, 1_000_008

WHOLE = [rows for n in (LARGE, LARGE // 2) for rows in (n, Layout(n).used)]
CONFIG = Config(
    model=ModelConfig(embedding_size=5, hidden_size=6, layers=(9,), statistics=False),
    optim=OptimConfig(embedding_update="lazy_adam"),
    train=TrainConfig(batch_size=BATCH, max_history=STEPS),
)


def schema_of(rows: int) -> Schema:
    item = (Feature("item", "categorical", rows), Feature("category", "categorical", 11))
    return Schema(item, (Feature("user", "categorical", rows // 2),))


class Program(NamedTuple):
    text: str
    sent: list[Collective]
    memory: Any


@functools.cache
def compiled(rows: int, *, predicts: bool = False) -> Program:
    """The program of the step, or of scoring, of tables that are never made."""
    config, schema = CONFIG, schema_of(rows)
    placement = Placement(DEVICES, schema)
    state = jax.eval_shape(lambda: create_state(config, schema, 10, 0, placement))
    rows = placement.layouts["item", "item"].owned * DEVICES
    of_items = jax.ShapeDtypeStruct((rows,), jnp.int32)
    tables = Tables(
        FeatureTables({"category": of_items}, {}),
        Sampler(jax.ShapeDtypeStruct((rows,), jnp.float32), of_items),
    )
    batch = jax.eval_shape(lambda: example_batch(schema, batch_size=BATCH, steps=STEPS))
    if predicts:
        predict = cast(Any, make_predict_step(config, schema, placement))
        lowered = predict.lower(state.params, state.batch_stats, tables.features, batch)
    else:
        step = cast(Any, make_train_step(config, schema, 10, placement))
        state = jax.tree.map(
            lambda leaf, on: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=on),
            state,
            placement.shardings(state),
        )
        lowered = step.lower(state, tables, batch)
    program = lowered.compile()
    text = program.as_text()
    return Program(text, collectives(text, DEVICES), program.memory_analysis())


def test_a_step_sends_and_holds_what_its_batch_needs_whatever_the_rows() -> None:
    small, large = compiled(SMALL), compiled(LARGE)
    assert sorted(small.sent) == sorted(large.sent)
    assert {one.kind for one in large.sent} == {"all-to-all", "all-reduce"}
    assert large.memory.temp_size_in_bytes < 1.1 * small.memory.temp_size_in_bytes
    assert large.memory.alias_size_in_bytes > 0.8 * large.memory.output_size_in_bytes


def test_no_array_has_all_rows_or_all_histories() -> None:
    """But for the random numbers, which are draws of the whole batch split by rows."""
    program = compiled(LARGE)
    found = shapes(program.text)
    owned = Layout(LARGE, DEVICES).owned
    assert any(owned in shape for shape in found)
    assert not [shape for shape in found if any(rows in shape for rows in WHOLE)]
    # Rows that devices exchange may be as many as the batch, with a dimension of 1 in between.
    full = [[size for size in shape if size > 1] for shape in found if BATCH in shape]
    assert not [shape for shape in full if len(shape) > 2]
    sent = {shape for one in program.sent for shape in one.shapes}
    assert not [shape for shape in sent if f"[{BATCH}," in shape]


def test_scoring_fetches_rows_and_sums_nothing() -> None:
    program = compiled(LARGE, predicts=True)
    assert {"all-to-all"} <= {one.kind for one in program.sent} <= {"all-to-all", "all-reduce"}
    reduced = [one for one in program.sent if one.kind == "all-reduce"]
    assert all(one.sent < 256 for one in reduced)  # the places of rounds
    assert not [shape for shape in shapes(program.text) if any(rows in shape for rows in WHOLE)]


def test_no_device_draws_more_of_the_state_than_its_rows() -> None:
    placement, tree = Placement(DEVICES, schema_of(LARGE)), jax.ShapeDtypeStruct((1, 5), float)
    shapes_of = {"item_embeddings": {"item": tree}}

    def draw(key: Any) -> Any:
        return placement.split({"item_embeddings": {"item": placement.initial(key, (LARGE, 5))}})

    lowered = jax.jit(draw, out_shardings=placement.shardings(shapes_of)).lower(jax.random.key(0))
    text = lowered.compile().as_text()
    assert not [shape for shape in shapes(text) if any(rows in shape for rows in WHOLE)]
    assert collectives(text, DEVICES) == []
