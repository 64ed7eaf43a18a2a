"""Steps on several devices are those of one, and initial values are its to the bit."""

from functools import partial

import jax
import numpy as np
from jax.sharding import PartitionSpec as P
from support.sharded_steps import (
    CONFIG,
    SCHEMA,
    TABLES,
    WITHOUT_DRAWS,
    batches,
    furthest,
    joined,
    on_host,
    place_of,
    reordered,
    run,
    with_update,
)

from dien_jax.devices import exchange
from dien_jax.devices.mesh import AXIS
from dien_jax.steps.state import create_state
from dien_jax.training.vectors import ItemVectors, started

TOLERANCE = 2e-3
"""Of parameters near 1; the first test has a bound that is measured."""
LAZY = with_update(WITHOUT_DRAWS, "lazy_adam")


def test_ten_steps_are_as_near_as_other_orders_of_a_batchs_rows(monkeypatch) -> None:
    """Only sums over a batch differ, as they do on one device when rows change places.

    One order may end four times as far as another, by chance: the furthest of several counts.
    Rounds hold two ids: users need no further one, items several, of which nothing is dropped. The
    tests below and ``cases_training.py`` have steps of one round.
    """
    ten, orders = batches(10, (4,)), [partial(reordered, seed=seed) for seed in range(4)]
    one = run(LAZY, 1, ten, one_item=True)
    others = [run(LAZY, 1, ten, one_item=True, change=order) for order in orders]
    noise = max(furthest(one.state, other.state) for other in others)
    assert 0 < noise < TOLERANCE
    monkeypatch.setattr(exchange, "capacity", lambda ids, devices: 2)
    eight = run(LAZY, 8, ten, one_item=True)
    assert eight.metrics[-1]["further_rounds"] > 1
    assert furthest(one.state, eight.state) < 4 * noise


def test_draws_and_sums_do_not_depend_on_the_devices() -> None:
    """A dropped unit, a negative or an unknown user more would change the loss at once.

    Items, users and tags are split, the other five tables on every device; the model has what is
    summed over a batch in other ways than the one of the tests above.
    """
    other = {"evolution": "agru", "attention": "bilinear", "auxiliary_negatives": 3}
    other |= {"follow_authors": True}
    config, steps = with_update(CONFIG, "dense", **other), batches(6)
    one, several = (run(config, devices, steps, dense_rows=28) for devices in (1, 4))
    for before, now in zip(one.metrics, several.metrics, strict=True):
        assert now.pop("further_rounds") == 0
        for name, value in before.items():
            np.testing.assert_allclose(now[name], value, rtol=1e-4, err_msg=name)
    assert furthest(one.state, several.state) < TOLERANCE


def test_initial_values_are_those_of_one_device_to_the_bit() -> None:
    placement = place_of(3)
    one = on_host(create_state(LAZY, SCHEMA, 10, 3), place_of(1))
    state = create_state(LAZY, SCHEMA, 10, 3, placement)
    jax.tree.map(np.testing.assert_array_equal, on_host(state, placement), one)
    for (group, name), layout in placement.layouts.items():
        table = state.params[f"{group}_embeddings"][name]
        assert table.sharding.spec == P(AXIS)
        assert {len(shard.data) for shard in table.addressable_shards} == {layout.owned}
    assert placement.layouts.keys() == TABLES
    again = placement.put(joined(state, placement), state)
    for now, before in zip(jax.tree.leaves(again), jax.tree.leaves(state), strict=True):
        assert now.sharding == before.sharding
    jax.tree.map(np.testing.assert_array_equal, on_host(again, placement), one)


def test_embeddings_that_start_from_vectors_are_those_of_one_device() -> None:
    size = SCHEMA.num_items
    row = np.arange(size, dtype=np.int32) % (size - 1)  # the last item has no vector
    vectors = np.random.default_rng(0).normal(size=(1, size - 1, 3)).astype(np.float16)
    placement = place_of(3)
    found = ItemVectors(row, vectors)
    one, several = (
        on_host(started(create_state(LAZY, SCHEMA, 10, 3, place), place, found), place)
        for place in (place_of(1), placement)
    )
    jax.tree.map(np.testing.assert_array_equal, several, one)
