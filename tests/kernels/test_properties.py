"""What holds for the recurrences at any operands. Needs hypothesis, so apart from the rest."""

import functools

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.recurrences import CELLS, FORMS, call, evaluate, operands

pytestmark = pytest.mark.long


@settings(max_examples=12, deadline=None, derandomize=True)
@given(
    cut=st.integers(1, 6),
    form=st.sampled_from(FORMS),
    cell=st.sampled_from(sorted(CELLS)),
    implementation=st.sampled_from(("xla", "native")),
    seed=st.integers(0, 3),
)
def test_two_calls_that_hand_over_the_state_equal_one(cut, form, cell, implementation, seed):
    x, attention, weights, lengths, initial = operands(cell, seed=seed)
    whole, last, _ = evaluate(cell, form, implementation)(x, attention, weights, lengths, initial)
    run = functools.partial(call, cell, form=form, implementation=implementation)
    first, middle = run(x[:, :cut], attention[:, :cut], weights, jnp.minimum(lengths, cut), initial)
    rest = jnp.maximum(lengths - cut, 0)
    second, end = run(x[:, cut:], attention[:, cut:], weights, rest, middle)
    np.testing.assert_allclose(jnp.concatenate([first, second], 1), whole, atol=1e-6)
    np.testing.assert_allclose(end, last, atol=1e-6)
