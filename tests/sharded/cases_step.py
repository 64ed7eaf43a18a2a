"""Steps on eight devices are those of one, whatever the update; rows are in the order of ids."""

from functools import partial

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P
from support.every_kind import SCHEMA, TABLES
from support.sharded_steps import (
    CONFIG,
    WITHOUT_DRAWS,
    Ended,
    batches,
    furthest,
    on_host,
    reordered,
    run,
    with_update,
)

from dien_jax.config import Config
from dien_jax.data.batch import Batch
from dien_jax.steps import embedding_rows, exchange
from dien_jax.steps.sharding import AXIS, Placement
from dien_jax.steps.state import create_state

SLOW = pytest.mark.slow
TOLERANCE = 2e-3
"""Of parameters near 1; the first test has a bound that is measured."""


@pytest.fixture(autouse=True)
def some_tables_are_large(monkeypatch) -> None:
    """Split items, users and tags; the other five tables are on every device."""
    monkeypatch.setattr(embedding_rows, "DENSE_ROWS", 28)


@pytest.fixture
def every_table_is_large(monkeypatch, some_tables_are_large) -> None:
    monkeypatch.setattr(embedding_rows, "DENSE_ROWS", 0)


def noise_of_orders(config: Config, steps: list[Batch], one: Ended) -> float:
    """Return how far one device ends from ``one`` where the rows of every batch change places.

    One order may end four times as far as another, by chance: the furthest of several counts.
    """
    orders = [partial(reordered, seed=seed) for seed in range(4)]
    others = [run(config, 1, steps, one_item=True, change=order) for order in orders]
    return max(furthest(one.state, other.state) for other in others)


@pytest.mark.usefixtures("every_table_is_large")
@pytest.mark.parametrize(
    ("update", "lengths"),
    [
        ("lazy_adam", (6,)),
        *(
            pytest.param(name, (6, 4, 4), marks=SLOW)
            for name in ("lazy_adam", "dense", "rowwise_adagrad")
        ),
    ],
)
def test_twenty_steps_are_as_near_as_other_orders_of_a_batchs_rows(
    update: str, lengths: tuple[int, ...]
) -> None:
    """Only sums over a batch differ, as they do on one device when rows change places."""
    config, steps = with_update(WITHOUT_DRAWS, update), batches(20, lengths)
    one = run(config, 1, steps, one_item=True)
    eight = run(config, 8, steps, one_item=True)
    noise = noise_of_orders(config, steps, one)
    print(update, "noise", noise, "eight", furthest(one.state, eight.state))
    assert 0 < noise < TOLERANCE
    assert furthest(one.state, eight.state) < 4 * noise


@pytest.mark.parametrize(
    ("update", "devices"),
    [
        pytest.param("dense", 2, marks=SLOW),
        pytest.param("lazy_adam", 8, marks=SLOW),
        ("rowwise_adagrad", 4),
    ],
)
def test_draws_do_not_depend_on_the_devices(update: str, devices: int) -> None:
    """A dropped unit, a negative or an unknown user more would change the loss at once."""
    config, steps = with_update(CONFIG, update), batches(6)
    one, several = run(config, 1, steps), run(config, devices, steps)
    for before, now in zip(one.metrics, several.metrics, strict=True):
        assert now.pop("further_rounds") == 0
        for name, value in before.items():
            np.testing.assert_allclose(now[name], value, rtol=1e-4, err_msg=name)
    assert furthest(one.state, several.state) < TOLERANCE


@pytest.mark.parametrize("update", ["dense", pytest.param("lazy_adam", marks=SLOW)])
def test_more_ids_than_a_round_holds_take_further_rounds(update: str, monkeypatch) -> None:
    """Nothing is dropped: what differs is of the size of rounding, as in the first test.

    The sums of each row are the same; XLA compiles the update of rows of further rounds by itself.
    """
    config, steps = with_update(WITHOUT_DRAWS, update), batches(5, (6,))
    one = run(config, 1, steps, one_item=True)
    noise = noise_of_orders(config, steps, one)
    enough = run(config, 8, steps, one_item=True)
    monkeypatch.setattr(exchange, "capacity", lambda ids, devices: 1)
    little = run(config, 8, steps, one_item=True)
    assert enough.metrics[-1]["further_rounds"] == 0
    assert little.metrics[-1]["further_rounds"] > 5
    difference = furthest(enough.state, little.state)
    print(update, "noise", noise, "further rounds", difference)
    assert difference < 4 * noise < TOLERANCE


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param(
            {"dice_statistics": "batch", "batch_norm": "frozen", "auxiliary_mean": "all"},
            marks=SLOW,
        ),
        pytest.param(
            {
                "evolution": "agru",
                "attention": "bilinear",
                "auxiliary_negatives": 3,
                "classifier": "softmax",
            },
            marks=SLOW,
        ),
    ],
)
def test_other_models(changes: dict) -> None:
    config, steps = with_update(CONFIG, "lazy_adam", **changes), batches(4)
    one, eight = run(config, 1, steps), run(config, 8, steps)
    assert furthest(one.state, eight.state) < TOLERANCE
    np.testing.assert_allclose(eight.metrics[-1]["loss"], one.metrics[-1]["loss"], rtol=1e-5)


@pytest.mark.usefixtures("every_table_is_large")
@pytest.mark.parametrize("devices", [3, *(pytest.param(n, marks=SLOW) for n in (2, 8))])
def test_initial_values_are_those_of_one_device_to_the_bit(devices: int) -> None:
    config = with_update(CONFIG, "rowwise_adagrad")
    placement = Placement(devices, SCHEMA)
    one = on_host(create_state(config, SCHEMA, 10, 3), None)
    state = create_state(config, SCHEMA, 10, 3, placement)
    jax.tree.map(np.testing.assert_array_equal, on_host(state, placement), one)
    for (group, name), layout in placement.layouts.items():
        table = state.params[f"{group}_embeddings"][name]
        assert table.sharding.spec == P(AXIS)
        rows = {len(shard.data) for shard in table.addressable_shards}
        assert rows == {layout.owned}
    assert placement.layouts.keys() == TABLES


@pytest.mark.usefixtures("every_table_is_large")
def test_saved_rows_are_split_as_they_were() -> None:
    config = with_update(CONFIG, "lazy_adam")
    placement = Placement(8, SCHEMA)
    state = create_state(config, SCHEMA, 10, 0, placement)
    again = placement.put(placement.joined(state))
    pairs = zip(jax.tree.leaves(again), jax.tree.leaves(state), strict=True)
    for now, before in pairs:
        assert now.sharding == before.sharding
    jax.tree.map(np.testing.assert_array_equal, on_host(again, None), on_host(state, None))
