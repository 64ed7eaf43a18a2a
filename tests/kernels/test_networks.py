"""Attention, the auxiliary loss and candidates of one history: against float64, and when C++ runs.

Dimensions: B batch, T steps, N sampled behaviours or candidates, D input, H hidden.
"""

import contextlib
import functools
import json
from unittest.mock import Mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from dien_kernels import (
    Device,
    agreement,
    attention_weights,
    auxiliary_loss,
    candidate_attention,
    choice,
    devices,
    explain,
    explain_network,
    interpreted,
    last_states,
    reference,
)
from dien_kernels.backends import native
from dien_kernels.native import build, networks
from support.networks import (
    NETWORK_SIZES,
    attention_by,
    attention_gradients,
    attention_operands,
    auxiliary_by,
    auxiliary_gradients,
    auxiliary_operands,
    candidate_operands,
    in_float64,
    layers_of,
    oracle_attention,
    oracle_loss,
)
from support.recurrences import FORMS, assert_agree, call, evaluate, operands

pytestmark = pytest.mark.long

# Of the largest entry. Gradients of attention add up to 0 over a row's steps, so sums of them lose
# two more digits in every float32 program; XLA's deviate as far.
OF_LOSS, OF_ATTENTION = 1e-6, 6e-5


@pytest.mark.parametrize(
    ("sizes", "live"),
    [*((sizes, "mixed") for sizes in NETWORK_SIZES), (NETWORK_SIZES[4], "full"),
     (NETWORK_SIZES[4], "empty")],
)  # fmt: skip
def test_networks_are_those_in_float64(sizes, live):
    batch, steps, count, depth, hidden, widths = sizes
    few = attention_operands(batch, steps, hidden, widths, live)
    operands = auxiliary_operands(batch, steps, count, depth, hidden, widths, live)
    attention = in_float64(attention_gradients(oracle_attention), few)
    loss = in_float64(auxiliary_gradients(oracle_loss), operands)
    assert_agree(attention_gradients(attention_by("native"))(*few), attention, OF_ATTENTION)
    assert_agree(auxiliary_gradients(auxiliary_by("native"))(*operands), loss, OF_LOSS)
    for name in ("xla", "reference") if (sizes, live) == (NETWORK_SIZES[2], "mixed") else ():
        assert_agree(attention_gradients(attention_by(name))(*few), attention, OF_ATTENTION)
        assert_agree(auxiliary_gradients(auxiliary_by(name))(*operands), loss, OF_ATTENTION)


@pytest.mark.parametrize("sizes", NETWORK_SIZES)
def test_attention_of_candidates_is_that_in_float64(sizes):
    rows, steps, _, _, hidden, widths = sizes
    given = candidate_operands(rows, steps, hidden, widths)

    @jax.jit
    def by_copies(query, states, layers, length):
        copies = jnp.broadcast_to(states, (len(query), *states.shape))
        return oracle_attention(query, copies, layers, jnp.broadcast_to(length, query.shape[:1]))

    @functools.partial(jax.jit, static_argnames="implementation")
    def found(*arrays, length, implementation):
        return candidate_attention(*arrays, length=length, implementation=implementation)

    for share in (0, 0.5, 1):
        length = jnp.int32(share * steps)
        expected = in_float64(by_copies, (*given, length))
        attention = found(*given, length=length, implementation="native")
        assert_agree(attention, expected, 2e-6)
        assert (np.asarray(attention)[:, int(length) :] == 0).all()
        for name in ("xla", "reference") if sizes == NETWORK_SIZES[6] else ():
            assert_agree(found(*given, length=length, implementation=name), expected, 1e-5)


def shared_case(cell, biased=False):
    """States of one history, attention of five candidates, weights."""
    x, _, weights, *_ = operands("agru" if cell == "agru" else "augru", batch=1, biased=biased)
    attention = np.random.default_rng(1).uniform(size=(5, 7)).astype(np.float32)
    attention[0] = 0
    return x[0], jnp.asarray(attention), weights


@pytest.mark.parametrize(("form", "biased"), [*((form, False) for form in FORMS), ("paper", True)])
@pytest.mark.parametrize("cell", ["aigru", "agru", "augru"])
def test_last_states_of_a_shared_history_are_those_of_copies(cell, form, biased):
    states, attention, weights = shared_case(cell, biased)
    x = jnp.broadcast_to(states, (5, *states.shape))
    x, oracle = (x * attention[..., None], "gru") if cell == "aigru" else (x, cell)

    @jax.jit
    def by_copies(lengths):
        arrays = x, attention, weights, lengths, None
        return call(oracle, *arrays, form=form, implementation="reference")[1]

    shared = jax.jit(last_states, static_argnums=(0, 1, 6, 7))
    for name in ("xla", "native", "reference"):
        for length in (0, 1, 4, 7):
            given = states, attention, weights, jnp.int32(length), "highest", name
            last, expected = shared(cell, form, *given), by_copies(jnp.full(5, length, jnp.int32))
            np.testing.assert_allclose(last, expected, atol=1e-6)
            assert length == 0 or np.ptp(np.asarray(last), axis=0).max() > 1e-2


@pytest.mark.parametrize("implementation", ["native", "reference"])
def test_what_dead_steps_hold_changes_nothing_in_networks(implementation, few, auxiliary):
    query, states, layers, lengths = few
    dead = jnp.arange(7)[None] >= lengths[:, None]
    run = attention_gradients(attention_by(implementation))
    dirty = run(query, jnp.where(dead[..., None], jnp.nan, states), layers, lengths)
    jax.tree.map(np.testing.assert_array_equal, run(*few), dirty)

    states, history, sampled, shares, layers = auxiliary
    dead = jnp.pad((shares == 0).all(0), ((0, 0), (0, 1)), constant_values=True)[..., None]
    nans = jnp.where(dead, jnp.nan, states), jnp.where(jnp.roll(dead, 1, 1), jnp.nan, history)
    nans = *nans, jnp.where(dead[None, :, :-1], jnp.inf, sampled), shares, layers
    for name in (implementation, "xla"):
        run = auxiliary_gradients(auxiliary_by(name))
        jax.tree.map(np.testing.assert_array_equal, run(*auxiliary), run(*nans))


@pytest.mark.parametrize("cell", ["aigru", "agru", "augru"])
def test_what_dead_steps_hold_changes_nothing_in_last_states(cell):
    states, attention, weights = shared_case(cell)
    dirty = states.at[4:].set(jnp.nan), attention.at[:, 4:].set(jnp.nan), weights
    run = functools.partial(last_states, cell, "paper", length=jnp.int32(4))
    runs = [functools.partial(run, implementation=name) for name in ("xla", "native", "reference")]
    slopes = jax.grad(lambda *arrays: (runs[-1](*arrays) ** 2).sum(), (0, 1, 2))
    for run in map(jax.jit, (*runs, slopes)):
        clean = run(states, attention, weights)
        jax.tree.map(np.testing.assert_array_equal, clean, run(*dirty))


def test_no_candidates_have_no_attention():
    query, states, layers = candidate_operands(5, 7, 3, (4,))
    run = functools.partial(candidate_attention, layers=layers, length=jnp.int32(4))
    assert run(query[:0], states, implementation="xla").shape == (0, 7)


@pytest.mark.parametrize("implementation", ["xla", "reference"])
def test_lengths_of_eight_bits_count_in_histories_of_more_steps(implementation):
    rng, short, whole = np.random.default_rng(3), jnp.uint8(7), jnp.int32(7)
    states, attention = (jnp.asarray(rng.random(s), jnp.float32) for s in ((300, 4), (2, 300)))
    weights, layers = operands("augru", depth=4)[2], layers_of(rng, 16, (5,))
    kind = {"implementation": implementation}
    runs = [
        lambda n: candidate_attention(states[:2], states, layers, length=n, **kind),
        lambda n: attention_by(implementation)(states[:1], states[None], layers, n[None]),
        lambda n: last_states("augru", "paper", states, attention, weights, n, **kind),
        lambda n: call("augru", states[None], attention[:1], weights, n[None], None, **kind),
    ]
    for run in runs:
        jax.tree.map(np.testing.assert_array_equal, run(short), run(whole))


@pytest.mark.parametrize("implementation", ["native", "xla", "reference"])
def test_lengths_beyond_the_steps_count_as_all_and_negative_ones_as_none(implementation, few):
    x, attention, weights, _, initial = operands("augru")
    odd, even = jnp.array([99, -5, 3], jnp.int32), jnp.array([7, 0, 3], jnp.int32)
    run = evaluate("augru", "paper", implementation)
    pairs = [[run(x, attention, weights, lengths, initial) for lengths in (odd, even)]]
    few = jax.tree.map(lambda leaf: leaf[:3] if leaf.shape[:1] == (5,) else leaf, few[:2]), few[2]
    run = attention_gradients(attention_by(implementation))
    pairs += [[run(*few[0], few[1], lengths) for lengths in (odd, even)]]
    states, attention, weights = shared_case("augru")
    for form in FORMS:
        run = functools.partial(last_states, "augru", form, states, attention, weights)
        pairs += [[run(jnp.int32(n), implementation=implementation) for n in some]
                  for some in ((99, 7), (-3, 0))]  # fmt: skip
    for found, expected in pairs:
        jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_a_live_nan_reaches_its_own_row_of_attention_and_the_whole_loss(auxiliary):
    query, states, layers, _ = attention_operands(40, 7, 6, (9, 5))
    lengths, of_17 = jnp.full(40, 7, jnp.int32), [row == 17 for row in range(40)]
    attention = attention_by("native")(query, states.at[17, 3].set(jnp.nan), layers, lengths)
    assert np.isnan(attention).any(1).tolist() == of_17
    assert np.isnan(attention[17]).all()

    run = functools.partial(candidate_attention, length=jnp.int32(5), implementation="native")
    found = run(query.at[17, 3].set(jnp.nan), states[0], layers)
    assert np.isnan(found).any(1).tolist() == of_17
    dead, live = (states[0].at[step].set(jnp.nan) for step in (5, 4))
    np.testing.assert_array_equal(run(query, dead, layers), run(query, states[0], layers))
    assert np.isnan(run(query, live, layers)[:, :5]).all()

    x, attention, weights, *_ = operands("augru", batch=40)
    bad = attention.at[17, 3].set(jnp.nan).at[:, 6].set(jnp.nan)  # the last step is dead
    for form in FORMS:
        last = last_states("augru", form, x[0], bad, weights, jnp.int32(6), implementation="native")
        assert np.isnan(last).any(1).tolist() == of_17

    states, history, sampled, shares, layers = auxiliary
    row, step = np.argwhere(np.asarray(shares[0]) > 0)[0]
    bad = history.at[row, step + 1, 0].set(jnp.nan)
    run = auxiliary_gradients(auxiliary_by("native"))
    loss, (d_states, *_) = run(states, bad, sampled, shares, layers)
    assert np.isnan(loss)
    assert np.argwhere(np.isnan(d_states).any(-1)).tolist() == [[row, step]]


@pytest.mark.parametrize("size", [1e4, 1e30])
def test_saturated_layers_give_finite_results(few, auxiliary, size):
    query, states, layers, lengths = few
    run = attention_gradients(attention_by("native"))
    attention, *gradients = run(query, size * states, layers, lengths)
    np.testing.assert_allclose(attention.sum(1), jnp.where(lengths > 0, 1, 0), atol=1e-6)
    states, *others, layers = auxiliary
    given = size * states, *others, (*layers[:-1], layers[-1]._replace(bias=jnp.full(1, 200.0)))
    found, expected = (
        auxiliary_gradients(auxiliary_by(name))(*given) for name in ("native", "reference")
    )
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-5)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((gradients, found)))


def test_networks_of_bfloat16_are_computed_in_float32(few, auxiliary):
    half = [jnp.asarray(part, jnp.bfloat16) for part in few[:2]]
    wide = [part.astype(jnp.float32) for part in half]
    run = attention_by("native")
    np.testing.assert_array_equal(run(*half, *few[2:]), run(*wide, *few[2:]))
    run = functools.partial(candidate_attention, length=jnp.int32(7), implementation="native")
    np.testing.assert_array_equal(
        run(half[0], half[1][0], few[2]), run(wide[0], wide[1][0], few[2])
    )
    half = [jnp.asarray(part, jnp.bfloat16) for part in auxiliary[:3]]
    loss, gradients = auxiliary_gradients(auxiliary_by("native"))(*half, *auxiliary[3:])
    assert loss.dtype == jnp.float32
    assert [part.dtype for part in gradients[:3]] == [jnp.bfloat16] * 3
    states, attention, weights = shared_case("augru")
    last = last_states(
        "augru", "paper", states.astype("bfloat16"), attention, weights, jnp.int32(7)
    )
    expected = last_states("augru", "paper", states, attention, weights, jnp.int32(7))
    assert last.dtype == jnp.bfloat16
    np.testing.assert_allclose(last.astype(jnp.float32), expected, atol=0.02)


def test_auto_leaves_a_network_that_deviates(fresh, monkeypatch, auxiliary):
    def wrong(*arguments):
        return 1.001 * reference.reference_loss(*arguments)

    monkeypatch.setattr(networks, "auxiliary_loss", wrong)
    with pytest.warns(RuntimeWarning, match=r"the auxiliary loss by XLA .* it deviates .* delete"):
        lowered = jax.jit(lambda *given: auxiliary_loss(*given)).lower(*auxiliary)
    assert "@dien_kernels_auxiliary" not in lowered.as_text()


def test_the_check_of_networks_compares_every_gradient():
    for results in (agreement.attention_results, agreement.auxiliary_results):
        found, expected = results()
        assert len(jax.tree.leaves(found)) == len(jax.tree.leaves(expected)) >= 8
        assert all(np.abs(leaf).max() > 1e-4 for leaf in jax.tree.leaves(expected))


def test_networks_of_more_layers_are_xlas_or_refused(fresh, caplog):
    operands = auxiliary_operands(2, 3, 1, 2, 2, (2,) * 9)
    assert jnp.isfinite(auxiliary_loss(*operands))
    (record,) = caplog.records
    assert "for networks of 1 to 8 hidden layers, this one has 9" in record.getMessage()
    with pytest.raises(NotImplementedError, match="8 hidden layers, this one has 9"):
        auxiliary_loss(*operands, implementation="native")


def test_limits_of_the_kernels_are_those_of_their_sources():
    header = (build.SOURCES / "arguments.h").read_text()
    assert f"constexpr Index kPanel = {native.PANEL};" in header
    assert f"constexpr Index kMostLayers = {networks.MOST_LAYERS};" in header


def test_auto_takes_kernels_once_they_agree_with_the_oracle(fresh, monkeypatch):
    shape = {"batch": 128, "steps": 100, "hidden": 36}
    names = "attention", "auxiliary", "candidates", "adam"

    def found():
        networks = [explain_network(name, hidden_layers=2).implementation for name in names]
        return [explain("gru", **shape).implementation, *networks]

    assert found() == ["native"] * 5
    assert explain("gru", **shape).reason == "it agrees with the oracle on this cpu"
    for name in ("gru-paper-highest", *names):
        (file,) = fresh.glob(f"native-{name}-*.json")
        assert 0 < json.loads(file.read_text())["deviation"] < 1e-5
    monkeypatch.setenv("DIEN_KERNELS_NATIVE", "0")
    assert found() == ["xla"] * 5


def test_a_named_kernel_is_refused_where_it_cannot_run(auxiliary, monkeypatch):
    no_library = Mock(side_effect=build.BuildError("there is no C++ compiler"))
    monkeypatch.setattr("dien_kernels.networks.library.instruction_set", no_library)
    with pytest.raises(NotImplementedError, match=r"there is no C\+\+ compiler"):
        auxiliary_loss(*auxiliary, implementation="native")
    monkeypatch.setattr(devices, "current", lambda: Device("gpu", "NVIDIA H100", (9, 0)))
    for context in (contextlib.nullcontext(), interpreted()):
        with context, pytest.raises(NotImplementedError, match="'native' needs a CPU"):
            choice.require("native")


STATES, HISTORY, SAMPLED, SHARES, LAYERS = auxiliary_operands(5, 7, 2, 4, 6, (9, 5))
QUERY, OF_QUERY, SCORES = candidate_operands(3, 7, 6, (9, 5))
SHARED = dict(zip(("states", "attention", "weights"), shared_case("augru"), strict=True))
RIGHT = {
    auxiliary_loss: {"states": STATES, "history": HISTORY, "sampled": SAMPLED, "shares": SHARES,
                     "layers": LAYERS},
    attention_weights: {"query": QUERY, "layers": SCORES, "lengths": jnp.full(3, 7)},
    candidate_attention: {"query": QUERY, "states": OF_QUERY, "layers": SCORES,
                          "length": jnp.int32(7)},
    last_states: {"cell": "augru", "form": "paper", "length": jnp.int32(3), **SHARED},
}  # fmt: skip


@pytest.mark.parametrize(
    ("function", "changes", "message"),
    [
        (auxiliary_loss, {"states": STATES[0]}, r"states, history, sampled: expected \[B, T"),
        (auxiliary_loss, {"history": HISTORY[0]}, r"states, history, sampled: expected \[B, T"),
        (auxiliary_loss, {"shares": SHARES[1:]},
         r"shares: expected shape \(3, 5, 6\), got \(2, 5, 6\)"),
        (auxiliary_loss, {"layers": LAYERS[1:]},
         r"layers\[0\]\.kernel: expected shape \(10, 5\), got \(9, 5\)"),
        (auxiliary_loss, {"implementation": "triton"}, "implementation: expected one of"),
        (attention_weights, {"states": jnp.ones((3, 0, 6))},
         r"states: expected shape \[B, T, H\] with T >= 1, got \(3, 0, 6\)"),
        (candidate_attention, {"states": OF_QUERY[:0]},
         r"states: expected shape \[T, H\] with T >= 1, got \(0, 6\)"),
        (last_states, {"states": SHARED["states"][:0]},
         r"states: expected shape \[T, D\] with T >= 1, got \(0, 5\)"),
        (candidate_attention, {"states": jnp.ones((1, 7, 6))},
         r"states: expected shape \[T, H\] with T >= 1, got \(1, 7, 6\)"),
        (candidate_attention, {"query": jnp.ones((3, 5))},
         r"query: expected shape \(3, 6\), got \(3, 5\)"),
        (candidate_attention, {"length": jnp.ones(2, jnp.int32)},
         r"length: expected shape \(\), got \(2,\)"),
        (last_states, {"cell": "gru"}, "cell: expected one of"),
        (last_states, {"form": "papr"}, "form: expected one of"),
        (last_states, {"precision": "exact"}, "precision: expected one of"),
        (last_states, {"implementation": "triton"}, "implementation: expected one of"),
        (last_states, {"states": jnp.ones((1, 7, 5))},
         r"states: expected shape \[T, D\] with T >= 1, got \(1, 7, 5\)"),
        (last_states, {"attention": jnp.ones((5, 6))},
         r"attention: expected shape \(5, 7\), got \(5, 6\)"),
        (last_states, {"length": jnp.ones(2, jnp.int32)}, r"length: expected shape \(\), got"),
        (last_states, {"weights": shared_case("agru")[2]},
         r"weights\.input: expected shape \(5, 3, 8\)"),
        (last_states, {"weights": shared_case("augru", True)[2], "form": "authors"},
         "recurrent_bias: expected None"),
    ],
)  # fmt: skip
def test_mistakes_are_named(function, changes, message):
    with pytest.raises(ValueError, match=message):
        function(**(RIGHT[function] | changes))
