"""Candidates of one history in C++: against float64, and under transformations of JAX.

Dimensions: N candidates, T steps, H state.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from dien_kernels import candidate_attention, explain_network, last_states, network_agreement
from jax import export
from support.networks import SIZES, assert_near, candidate_operands, in_float64, oracle_attention
from support.recurrences import FORMS, operands

pytestmark = pytest.mark.long

NATIVE = functools.partial(candidate_attention, implementation="native")


def by_copies(query, states, layers, length):
    copies = jnp.broadcast_to(states, (len(query), *states.shape))
    return oracle_attention(query, copies, layers, jnp.broadcast_to(length, query.shape[:1]))


@pytest.mark.parametrize("share", [0, 0.5, 1])
@pytest.mark.parametrize("sizes", SIZES)
def test_attention_is_that_in_float64(sizes, share):
    rows, steps, _, _, hidden, widths = sizes
    given, length = candidate_operands(rows, steps, hidden, widths), jnp.int32(share * steps)
    found = jax.jit(lambda *arrays: NATIVE(*arrays, length=length))(*given)
    expected = in_float64(lambda *arrays: by_copies(*arrays, length), given)
    assert_near(found, expected, 2e-6)
    assert (np.asarray(found)[:, int(length) :] == 0).all()


@pytest.mark.parametrize("implementation", ["xla", "reference"])
def test_the_other_implementations_are_those_in_float64(implementation):
    given, length = candidate_operands(70, 9, 20, (17, 33, 15)), jnp.int32(6)
    found = candidate_attention(*given, length=length, implementation=implementation)
    assert_near(found, in_float64(lambda *arrays: by_copies(*arrays, length), given), 1e-5)


def test_a_nan_reaches_its_own_candidate_and_dead_steps_none():
    query, states, layers = candidate_operands(40, 7, 6, (9, 5))
    attention = NATIVE(query.at[17, 3].set(jnp.nan), states, layers, length=jnp.int32(5))
    assert np.isnan(attention).any(1).tolist() == [row == 17 for row in range(40)]
    dead = states.at[5:].set(jnp.nan)
    clean = NATIVE(query, states, layers, length=jnp.int32(5))
    np.testing.assert_array_equal(NATIVE(query, dead, layers, length=jnp.int32(5)), clean)
    assert np.isnan(NATIVE(query, dead, layers, length=jnp.int32(6))[:, :6]).all()


def augru_operands(rows=40):
    x, attention, weights, *_ = operands("augru", batch=rows)
    return x[0], attention, weights


@pytest.mark.parametrize("form", FORMS)
def test_a_nan_of_attention_reaches_its_own_last_state(form):
    states, attention, weights = augru_operands()
    bad = attention.at[17, 3].set(jnp.nan).at[:, 6].set(jnp.nan)  # the last step is dead
    run = functools.partial(last_states, "augru", form, states, implementation="native")
    last = run(bad, weights, jnp.int32(6))
    assert np.isnan(last).any(1).tolist() == [row == 17 for row in range(40)]
    everything = run(attention, weights, jnp.int32(7))
    np.testing.assert_array_equal(run(attention, weights, jnp.int32(99)), everything)
    assert (run(attention, weights, jnp.int32(-3)) == 0).all()


def both(query, states, layers, attention, weights, length, implementation="native"):
    """Attention of candidates and the last states under another one."""
    options = {"implementation": implementation}
    last = last_states("augru", "paper", states, attention, weights, length, **options)
    return candidate_attention(query, states, layers, length=length, **options), last


def both_operands():
    states, attention, weights = augru_operands()
    query, _, layers = candidate_operands(40, 7, 5, (9, 5))
    return query, states, layers, attention, weights, jnp.int32(5)


def test_vmap_over_users_is_one_call_after_another():
    query, states, layers, attention, weights, _ = both_operands()
    stacked = jnp.stack([states, 2 * states, -states]), jnp.array([7, 0, 3])
    axes = (None, 0, None, None, None, 0)
    found = jax.jit(jax.vmap(both, axes))(query, stacked[0], layers, attention, weights, stacked[1])
    expected = [
        both(query, own, layers, attention, weights, length, "xla")
        for own, length in zip(*stacked, strict=True)
    ]
    assert_near(found, jax.tree.map(lambda *parts: jnp.stack(parts), *expected), 1e-5)


def test_an_export_runs_by_xla_and_needs_no_library():
    given = both_operands()
    exported = export.export(jax.jit(both))(*given)
    assert "@dien_kernels_" not in exported.mlir_module()
    assert_near(exported.call(*given), both(*given), 1e-5)
    assert str(jax.jit(both).lower(*given).as_text()).count("@dien_kernels_") == 2


@pytest.mark.parametrize("mode", ["forward", "reverse"])
def test_derivatives_point_to_the_oracle(mode):
    query, *others = both_operands()
    differentiate = jax.jacfwd if mode == "forward" else jax.grad
    with pytest.raises(TypeError, match="implementation='reference'"):
        differentiate(lambda query: both(query, *others)[0].sum())(query)
    _, attention, weights = augru_operands()
    with pytest.raises(TypeError, match="implementation='reference'"):
        differentiate(
            lambda attention: both(query, *others[:2], attention, weights, others[-1])[1].sum()
        )(attention)
    slope = jax.grad(lambda query: both(query, *others, "reference")[0][:, 0].sum())(query)
    assert np.abs(slope).max() > 0


def test_bfloat16_is_computed_in_float32():
    query, states, layers = candidate_operands(5, 7, 6, (9, 5))
    half = query.astype(jnp.bfloat16), states.astype(jnp.bfloat16)
    exact = NATIVE(*(part.astype(jnp.float32) for part in half), layers, length=jnp.int32(7))
    np.testing.assert_array_equal(NATIVE(*half, layers, length=jnp.int32(7)), exact)


def test_auto_takes_them_once_they_agree_with_the_oracle(monkeypatch, tmp_path):
    network_agreement.library.instruction_set()  # compiled before
    monkeypatch.setenv("DIEN_KERNELS_CACHE", str(tmp_path))
    monkeypatch.setenv("DIEN_KERNELS_NATIVE", "1")
    network_agreement.outcome.cache_clear()
    assert explain_network("candidates", hidden_layers=2).implementation == "native"
    assert len([*tmp_path.glob("native-candidates-*.json")]) == 1
    network_agreement.outcome.cache_clear()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"states": jnp.ones((1, 7, 6))}, r"states: expected shape \[T, H\], got \(1, 7, 6\)"),
        ({"query": jnp.ones((3, 5))}, r"query: expected shape \(3, 6\), got \(3, 5\)"),
        ({"length": jnp.ones(2, jnp.int32)}, r"length: expected shape \(\), got \(2,\)"),
    ],
)
def test_mistakes_are_named(changes, message):
    query, states, layers = candidate_operands(3, 7, 6, (9, 5))
    arguments = {"query": query, "states": states, "layers": layers, "length": jnp.int32(7)}
    with pytest.raises(ValueError, match=message):
        candidate_attention(**(arguments | changes))
