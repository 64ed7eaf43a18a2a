"""Sharing a history between candidates changes no figure."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dien_jax.config.presets import member
from dien_jax.config.settings import ModelConfig
from dien_jax.data.batch import example_batch
from dien_jax.data.schema import Feature, FeatureTables, Schema
from dien_jax.model.interest import InterestModel
from dien_jax.model.shared_history import CHUNK

SCHEMA = Schema(
    item=(Feature("item", "categorical", 9), Feature("category", "categorical", 4)),
    user=(Feature("user", "categorical", 3),),
)
STEPS = 7


@pytest.mark.parametrize("attention", ["mlp", "bilinear"])
@pytest.mark.parametrize("form", ["paper", "authors"])
@pytest.mark.parametrize("name", ["pnn", "din", "gru_att", "aigru", "agru", "augru"])
def test_interests_are_those_of_a_history_for_every_candidate(name, form, attention) -> None:
    if attention == "bilinear" and name not in ("din", "augru"):
        pytest.skip("attention is the same for all")
    small = ModelConfig(
        embedding_size=3,
        hidden_size=6,
        attention_layers=(5, 4, 3),
        layers=(4,),
        form=form,
        attention=attention,
    )
    config = member(name, small)
    model = InterestModel(config, SCHEMA)
    tables = FeatureTables({"category": jnp.arange(9, dtype=jnp.int32) % 4}, {})
    shapes = jax.eval_shape(model.init, jax.random.key(0), example_batch(SCHEMA), tables)
    rng = np.random.default_rng(0)
    variables = jax.tree.map(
        lambda leaf: jnp.asarray(1.5 * rng.normal(size=leaf.shape), jnp.float32), shapes
    )

    @jax.jit
    def of_model(candidates, states, length):
        lengths = jnp.full(len(candidates), length, jnp.int32)
        copies = jnp.broadcast_to(states, (len(candidates), *states.shape))
        return model.apply(variables, candidates, copies, lengths, method="evolve")[1]

    @jax.jit
    def shared(candidates, states, length):
        if name == "gru_att":  # the model's method reads the states by its second GRU
            second = lambda m: m.evolution(states[None], length[None])[0][0]  # noqa: E731
            states = model.apply(variables, method=second)
        return evolve(config, variables["params"], candidates, states, length)

    for rows, length in ((3, 5), (3, 0), (2 * CHUNK, STEPS)):
        states = jnp.asarray(rng.normal(size=(STEPS, 6)), jnp.float32)
        candidates = jnp.asarray(rng.normal(size=(rows, 6)), jnp.float32)
        expected = of_model(candidates, states, jnp.int32(length))
        found = shared(candidates, states, jnp.int32(length))
        if expected is None:
            assert found is None
            continue
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=2e-6)
        if length:
            assert np.ptp(np.asarray(found), axis=0).max() > 1e-4
