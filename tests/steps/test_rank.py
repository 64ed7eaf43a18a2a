"""Sharing a history between candidates changes no figure."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from dien_kernels.candidates import CHUNK
from support.untrained_run import random_variables

from dien_jax.config.presets import member
from dien_jax.config.settings import ModelConfig
from dien_jax.data.schema import Feature, Schema
from dien_jax.errors import UserError
from dien_jax.model.click_model import ClickModel
from dien_jax.model.family import ATTENTIONS, EVOLUTIONS, make_recurrence
from dien_jax.model.interest import AUGRU, MLPAttention

pytestmark = pytest.mark.long

SCHEMA = Schema(
    item=(Feature("item", "categorical", 9), Feature("category", "categorical", 4)),
    user=(Feature("user", "categorical", 3),),
)
STEPS = 7
SMALL = ModelConfig(embedding_size=3, hidden_size=6, layers=(4,), statistics=False)


def evolve_candidates(model: ClickModel, states, length, candidates):
    return model.network.evolve_candidates(states, length, candidates)


def assert_shared_as_rows(config: ModelConfig, sizes=((3, 5), (3, 0), (2 * CHUNK, STEPS))) -> None:
    """Final states of one history for its candidates, and of as many rows with a copy each."""
    model, variables = ClickModel(config, SCHEMA), random_variables(config, SCHEMA)
    rng = np.random.default_rng(0)

    @jax.jit
    def by_rows(candidates, states, length):
        count = len(candidates)

        def evolve(model):
            copies = jnp.broadcast_to(states, (count, *states.shape))
            attention = model.network.attention(
                candidates, copies, jnp.full(count, length, jnp.int32)
            )
            if config.evolution in ("attention", "gru_attention"):
                return (attention[..., None] * copies).sum(1)
            return model.network.evolution(copies, attention, jnp.full(count, length, jnp.int32))[1]

        return model.apply(variables, method=evolve)

    @jax.jit
    def shared(candidates, states, length):
        return model.apply(variables, states, length, candidates, method=evolve_candidates)

    for rows, length in sizes:
        states = jnp.asarray(rng.normal(size=(STEPS, 6)), jnp.float32)
        candidates = jnp.asarray(rng.normal(size=(rows, 6)), jnp.float32)
        expected = by_rows(candidates, states, jnp.int32(length))
        got = shared(candidates, states, jnp.int32(length))
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=2e-6)
        if length:
            assert np.ptp(np.asarray(got), axis=0).max() > 1e-4


WITH_GATES = ("aigru", "agru", "augru")


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        *((name, {}) for name in ("din", "gru_att", *WITH_GATES)),
        *((name, {"gates": "authors"}) for name in WITH_GATES),
        *((name, {"attention": "bilinear"}) for name in ("din", "augru")),
        *((name, {"implementation": "native"}) for name in ("din", *WITH_GATES)),
    ],
)
def test_interests_are_those_of_a_history_for_every_candidate(name, changes) -> None:
    assert_shared_as_rows(member(name, dataclasses.replace(SMALL, **changes)))


def test_without_evolution_there_is_no_final_state() -> None:
    config = member("pnn", SMALL)
    arguments = jnp.ones((STEPS, 6)), jnp.int32(3), jnp.ones((2, 6))
    model = ClickModel(config, SCHEMA)
    variables = random_variables(config, SCHEMA)
    assert model.apply(variables, *arguments, method=evolve_candidates) is None


class Reversed(AUGRU):
    """Parameters named as AUGRU's, another recurrence: a method inherited would be wrong."""

    @nn.compact
    def __call__(self, x, attention, lengths):
        kept = self.weights(x.shape[-1])
        states = jnp.tanh(jnp.einsum("btd,dh->bth", x, kept.input[:, 0]))
        live = jnp.arange(x.shape[1], dtype=lengths.dtype)[None] < lengths[:, None]
        states = states * jnp.where(live, attention, 0)[..., None]
        return states, jnp.cumsum(states, axis=1)[:, -1]


class Doubled(MLPAttention):
    """Parameters named as MLPAttention's, other weights."""

    @nn.compact
    def __call__(self, candidate, states, lengths):
        bias = self.param("bias", nn.initializers.ones, (states.shape[-1],))
        scores = jnp.einsum("bth,bh->bt", states * bias[None, None], candidate)
        live = jnp.arange(states.shape[1], dtype=lengths.dtype)[None] < lengths[:, None]
        return jnp.where(live, jax.nn.sigmoid(scores), 0)


class Fixed(nn.Module):
    """It takes one number of rows only."""

    @nn.compact
    def __call__(self, x, attention, lengths):
        return x, (x * attention[..., None]).sum(1).reshape(16, -1)


SIZES = ((3, 5), (3, 0), (CHUNK + 8, STEPS))


@pytest.mark.parametrize("shared", [{"evolution": "own"}, {"attention": "own"}])
def test_modules_of_ones_own_rank_as_their_rows(shared, monkeypatch) -> None:
    monkeypatch.setitem(EVOLUTIONS, "own", lambda config: make_recurrence(Reversed, config))
    monkeypatch.setitem(ATTENTIONS, "own", lambda config: Doubled())
    assert_shared_as_rows(ModelConfig(**(vars(SMALL) | shared)), SIZES)


def test_a_module_that_cannot_be_called_for_candidates_is_refused_by_name(monkeypatch) -> None:
    monkeypatch.setitem(EVOLUTIONS, "own", lambda config: Fixed())
    config = ModelConfig(**(vars(SMALL) | {"evolution": "own"}))
    model, arguments = (
        ClickModel(config, SCHEMA),
        (jnp.ones((STEPS, 6)), jnp.int32(2), jnp.ones((3, 6))),
    )
    params = {"params": random_variables(SMALL, SCHEMA)["params"]}
    with pytest.raises(UserError, match=r"Fixed \(model\.evolution\) cannot .* last_states"):
        model.apply(params, *arguments, method=evolve_candidates)
