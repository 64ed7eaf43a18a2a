"""Recurrences over one history under many attentions, against the oracle of each."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from dien_kernels import last_states
from support.recurrences import FORMS, call, operands

pytestmark = pytest.mark.long

CELLS = ("aigru", "agru", "augru")
CANDIDATES = 5


def case(cell, biased=False):
    x, _, weights, *_ = operands("agru" if cell == "agru" else "augru", batch=1, biased=biased)
    attention = np.random.default_rng(1).uniform(size=(CANDIDATES, 7)).astype(np.float32)
    attention[0] = 0
    return x[0], jnp.asarray(attention), weights


@pytest.mark.parametrize("length", [0, 1, 4, 7])
@pytest.mark.parametrize(("form", "biased"), [*((form, False) for form in FORMS), ("paper", True)])
@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("implementation", ["xla", "native", "reference"])
def test_last_states_are_those_of_the_oracle(implementation, cell, form, biased, length):
    states, attention, weights = case(cell, biased)
    x = jnp.broadcast_to(states, (CANDIDATES, *states.shape))
    if cell == "aigru":
        x = x * attention[..., None]
    lengths = jnp.full(CANDIDATES, length, jnp.int32)
    oracle = "gru" if cell == "aigru" else cell
    arguments = (x, attention, weights, lengths, None)
    _, expected = call(oracle, *arguments, form=form, implementation="reference")
    shared = jax.jit(last_states, static_argnums=(0, 1, 6, 7))
    arguments = (states, attention, weights, jnp.int32(length), "highest", implementation)
    last = shared(cell, form, *arguments)
    np.testing.assert_allclose(last, expected, atol=1e-6)
    assert length == 0 or np.ptp(np.asarray(last), axis=0).max() > 1e-2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cell": "gru"}, "cell: expected one of"),
        ({"form": "papr"}, "form: expected one of"),
        ({"precision": "exact"}, "precision: expected one of"),
        ({"implementation": "triton"}, "implementation: expected one of"),
        ({"states": jnp.ones((1, 7, 5))}, r"states: expected shape \[T, D\], got \(1, 7, 5\)"),
        ({"attention": jnp.ones((5, 6))}, r"attention: expected shape \(5, 7\), got \(5, 6\)"),
        ({"length": jnp.ones(2, jnp.int32)}, r"length: expected shape \(\), got \(2,\)"),
        ({"weights": case("agru")[2]}, r"weights\.input: expected shape \(5, 3, 8\)"),
        ({"weights": case("augru", True)[2], "form": "authors"}, "recurrent_bias: expected None"),
    ],
)
def test_mistakes_are_named(changes, message):
    states, attention, weights = case("augru")
    arguments = {
        "cell": "augru",
        "form": "paper",
        "states": states,
        "attention": attention,
        "weights": weights,
        "length": jnp.int32(3),
        "precision": "highest",
    }
    with pytest.raises(ValueError, match=message):
        last_states(**(arguments | changes))


def test_bfloat16_states_give_bfloat16():
    states, attention, weights = case("augru")
    arguments = (attention, weights, jnp.int32(7))
    last = last_states("augru", "paper", states.astype(jnp.bfloat16), *arguments)
    assert last.dtype == jnp.bfloat16
    expected = last_states("augru", "paper", states, *arguments)
    np.testing.assert_allclose(last.astype(jnp.float32), expected, atol=0.02)
