"""Attention and the auxiliary loss in C++: against float64, and under transformations of JAX.

Dimensions: B batch, T steps, H state.
"""

import json
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from dien_kernels import agreement, auxiliary_loss, choice, network_agreement
from dien_kernels import network_equations as equations
from dien_kernels.cache import cache_folder
from dien_kernels.native import build, networks
from jax import export
from support.networks import (
    LIVE,
    SIZES,
    assert_near,
    attention_by,
    attention_gradients,
    attention_operands,
    auxiliary_by,
    auxiliary_gradients,
    auxiliary_operands,
    in_float64,
    oracle_attention,
    oracle_loss,
)

pytestmark = pytest.mark.long

# Of the largest entry. Gradients of attention add up to 0 over a row's steps, so sums of them lose
# two more digits in every float32 program; XLA's deviate as far.
OF_LOSS, OF_ATTENTION = 1e-6, 6e-5
NATIVE_ATTENTION, NATIVE_LOSS = attention_by("native"), auxiliary_by("native")


@pytest.fixture
def operands():
    return auxiliary_operands(5, 7, 2, 4, 6, (9, 5))


@pytest.fixture
def few():
    """Operands of attention."""
    return attention_operands(5, 7, 6, (9, 5))


def check_attention(batch, steps, _count, _depth, hidden, widths, live):
    given = attention_operands(batch, steps, hidden, widths, live)
    found = attention_gradients(NATIVE_ATTENTION)(*given)
    assert_near(found, in_float64(attention_gradients(oracle_attention), given), OF_ATTENTION)


def check_auxiliary(batch, steps, count, depth, hidden, widths, live):
    given = auxiliary_operands(batch, steps, count, depth, hidden, widths, live)
    found = auxiliary_gradients(NATIVE_LOSS)(*given)
    assert_near(found, in_float64(auxiliary_gradients(oracle_loss), given), OF_LOSS)


CHECKS = [check_attention, check_auxiliary]


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("sizes", SIZES)
def test_values_and_gradients_are_those_in_float64(check, sizes):
    check(*sizes, "mixed")


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("live", LIVE[1:])
def test_full_and_empty_histories(check, live):
    check(*SIZES[4], live)


@pytest.mark.slow
@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("live", LIVE[1:])
@pytest.mark.parametrize("sizes", SIZES)
def test_every_size_with_full_and_empty_histories(check, sizes, live):
    check(*sizes, live)


@pytest.mark.parametrize("implementation", ["xla", "reference"])
def test_the_other_implementations_are_those_in_float64(implementation, operands, few):
    found = auxiliary_gradients(auxiliary_by(implementation))(*operands)
    assert_near(found, in_float64(auxiliary_gradients(oracle_loss), operands), OF_ATTENTION)
    found = attention_gradients(attention_by(implementation))(*few)
    assert_near(found, in_float64(attention_gradients(oracle_attention), few), OF_ATTENTION)


@pytest.mark.parametrize("implementation", ["native", "reference"])
def test_what_dead_steps_hold_changes_nothing(implementation, operands, few):
    query, states, layers, lengths = few
    dead = jnp.arange(7)[None] >= lengths[:, None]
    evaluate = attention_gradients(attention_by(implementation))
    clean = evaluate(query, states, layers, lengths)
    dirty = evaluate(query, jnp.where(dead[..., None], jnp.nan, states), layers, lengths)
    jax.tree.map(np.testing.assert_array_equal, clean, dirty)

    states, history, sampled, shares, layers = operands
    dead = jnp.pad((shares == 0).all(0), ((0, 0), (0, 1)), constant_values=True)[..., None]
    nans = jnp.where(dead, jnp.nan, states), jnp.where(jnp.roll(dead, 1, 1), jnp.nan, history)
    evaluate = auxiliary_gradients(auxiliary_by(implementation))
    clean = evaluate(*operands)
    dirty = evaluate(*nans, jnp.where(dead[None, :, :-1], jnp.inf, sampled), shares, layers)
    jax.tree.map(np.testing.assert_array_equal, clean, dirty)


def test_a_live_nan_reaches_its_own_row_of_attention_and_the_whole_loss(operands):
    query, states, layers, _ = attention_operands(40, 7, 6, (9, 5))
    lengths = jnp.full(40, 7, jnp.int32)
    attention = NATIVE_ATTENTION(query, states.at[17, 3].set(jnp.nan), layers, lengths)
    assert np.isnan(attention).any(1).tolist() == [row == 17 for row in range(40)]
    assert np.isnan(attention[17]).all()
    states, history, sampled, shares, layers = operands
    row, step = np.argwhere(np.asarray(shares[0]) > 0)[0]
    bad = history.at[row, step + 1, 0].set(jnp.nan)
    loss, (d_states, *_) = auxiliary_gradients(NATIVE_LOSS)(states, bad, sampled, shares, layers)
    assert np.isnan(loss)
    assert np.argwhere(np.isnan(d_states).any(-1)).tolist() == [[row, step]]


def test_lengths_beyond_the_steps_count_as_all_and_negative_ones_as_none(few):
    query, states, layers, _ = few
    odd, even = jnp.array([99, -5, 3, 7, 1]), jnp.array([7, 0, 3, 7, 1])
    found, expected = (
        attention_gradients(NATIVE_ATTENTION)(query, states, layers, lengths)
        for lengths in (odd, even)
    )
    jax.tree.map(np.testing.assert_array_equal, found, expected)


@pytest.mark.parametrize("size", [1e4, 1e30])
def test_saturated_layers_give_finite_results(few, operands, size):
    query, states, layers, lengths = few
    attention, *gradients = attention_gradients(NATIVE_ATTENTION)(
        query, size * states, layers, lengths
    )
    sums = jnp.where(lengths > 0, 1, 0)
    np.testing.assert_allclose(attention.sum(1), sums, atol=1e-6)
    states, *others, layers = operands
    layers = (*layers[:-1], layers[-1]._replace(bias=jnp.full(1, 200.0)))
    found = auxiliary_gradients(NATIVE_LOSS)(size * states, *others, layers)
    expected = auxiliary_gradients(auxiliary_by("reference"))(size * states, *others, layers)
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-5)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((gradients, found)))


def test_vmap_without_gradients_makes_rows_of_the_mapped_axis(few):
    _, _, layers, _ = few
    many = [attention_operands(5, 7, 6, (9, 5), seed=seed) for seed in range(3)]
    query, states, lengths = (jnp.stack([one[part] for one in many]) for part in (0, 1, 3))
    mapped = jax.jit(jax.vmap(NATIVE_ATTENTION, (0, 0, None, 0)))
    expected = [NATIVE_ATTENTION(one[0], one[1], layers, one[3]) for one in many]
    np.testing.assert_allclose(mapped(query, states, layers, lengths), expected, atol=1e-6)
    program = mapped.lower(query, states, layers, lengths).as_text()
    assert program.count("@dien_kernels_attention") == 1
    assert "tensor<15x7x6xf32>" in program


@pytest.mark.parametrize("name", ["attention", "auxiliary"])
def test_gradients_under_vmap_and_checkpoint_are_those_without(name, operands, few):
    gradients, function, (first, *others) = {
        "attention": (attention_gradients, NATIVE_ATTENTION, few),
        "auxiliary": (auxiliary_gradients, NATIVE_LOSS, operands),
    }[name]
    evaluate = gradients(function)
    plain = evaluate(first, *others)
    assert_near(gradients(jax.checkpoint(function))(first, *others), plain, OF_LOSS)
    mapped = jax.vmap(evaluate, (0, *[None] * len(others)))(jnp.stack([first, 2 * first]), *others)
    for index, expected in enumerate((plain, evaluate(2 * first, *others))):
        assert_near(jax.tree.map(lambda leaf, k=index: leaf[k], mapped), expected, OF_LOSS)


def test_an_export_runs_by_xla_and_needs_no_library(few, operands):
    for evaluate, given in (
        (attention_gradients(NATIVE_ATTENTION), few),
        (auxiliary_gradients(NATIVE_LOSS), operands),
    ):
        exported = export.export(evaluate)(*given)
        assert "@dien_kernels_" not in exported.mlir_module()
        assert_near(jax.jit(exported.call)(*given), evaluate(*given), OF_ATTENTION)


def test_attention_is_exported_for_any_number_of_rows_and_steps(few):
    query, states, layers, lengths = few
    rows, steps = export.symbolic_shape("b, t")
    shapes = ((rows, 6), (rows, steps, 6), None, (rows,))
    given = [
        part if shape is None else jax.ShapeDtypeStruct(shape, part.dtype)
        for part, shape in zip((query, states, layers, lengths), shapes, strict=True)
    ]
    exported = export.export(jax.jit(NATIVE_ATTENTION))(*given)
    assert_near(exported.call(*few), NATIVE_ATTENTION(*few), 1e-5)


def test_forward_mode_points_to_the_oracle(few, operands):
    query, states, layers, lengths = few
    with pytest.raises(TypeError, match="implementation='reference'"):
        jax.jvp(lambda q: NATIVE_ATTENTION(q, states, layers, lengths), (query,), (query,))
    states, *others = operands
    with pytest.raises(TypeError, match="implementation='reference'"):
        jax.jvp(lambda states: NATIVE_LOSS(states, *others), (states,), (states,))
    jax.jvp(lambda states: auxiliary_by("reference")(states, *others), (states,), (states,))


SHARDED = """
import sys; sys.path.insert(0, 'tests')
import functools
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import Mesh, PartitionSpec as P
from support.networks import *

mesh = Mesh(np.array(jax.devices()), ("data",))
split = functools.partial(jax.shard_map, mesh=mesh, check_vma=False)
few, operands = attention_operands(12, 6, 5, (7,)), auxiliary_operands(12, 6, 1, 4, 5, (7,))
rows = P("data")
attention = split(attention_by("native"), in_specs=(rows, rows, P(), rows), out_specs=rows)
assert_near(jax.jit(attention)(*few), attention_by("xla")(*few), 1e-5)

def share(*given):
    loss, gradients = auxiliary_gradients(auxiliary_by("native"))(*given)
    return jax.lax.psum(loss, "data"), gradients[0]

specs = (rows, rows, P(None, "data"), P(None, "data"), P())
loss, d_states = jax.jit(split(share, in_specs=specs, out_specs=(P(), rows)))(*operands)
expected, gradients = auxiliary_gradients(auxiliary_by("xla"))(*operands)
assert_near((loss, d_states), (expected, gradients[0]), 1e-5)
"""


def test_rows_that_are_split_over_devices_run_there(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_force_host_platform_device_count=4")
    done = subprocess.run([sys.executable, "-c", SHARDED], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]


def test_bfloat16_is_computed_in_float32(few, operands):
    half = [jnp.asarray(part, jnp.bfloat16) for part in few[:2]]
    exact = NATIVE_ATTENTION(*(part.astype(jnp.float32) for part in half), *few[2:])
    np.testing.assert_array_equal(NATIVE_ATTENTION(*half, *few[2:]), exact)
    half = [jnp.asarray(part, jnp.bfloat16) for part in operands[:3]]
    loss, gradients = auxiliary_gradients(NATIVE_LOSS)(*half, *operands[3:])
    assert loss.dtype == jnp.float32
    assert [part.dtype for part in gradients[:3]] == [jnp.bfloat16] * 3


@pytest.fixture
def fresh(monkeypatch, tmp_path):
    """No outcome is known, and auto may take the kernels; they are compiled before."""
    network_agreement.library.instruction_set()
    monkeypatch.setenv("DIEN_KERNELS_CACHE", str(tmp_path))
    monkeypatch.setenv("DIEN_KERNELS_NATIVE", "1")
    monkeypatch.setattr(choice, "_warned", set())
    network_agreement.outcome.cache_clear()
    yield
    network_agreement.outcome.cache_clear()


def calls_native(operands):
    lowered = jax.jit(lambda *given: auxiliary_loss(*given)).lower(*operands)
    return "@dien_kernels_auxiliary" in lowered.as_text()


def test_auto_takes_it_once_it_agrees_with_the_oracle(fresh, monkeypatch, operands):
    assert calls_native(operands)
    (file,) = cache_folder().glob("native-auxiliary-*.json")
    assert 0 < json.loads(file.read_text())["deviation"] < 1e-5
    monkeypatch.setenv("DIEN_KERNELS_NATIVE", "0")
    assert not calls_native(operands)


def test_auto_leaves_a_kernel_that_deviates(fresh, monkeypatch, operands):
    def wrong(*arguments):
        return 1.001 * equations.reference_loss(*arguments)

    monkeypatch.setattr(networks, "auxiliary_loss", wrong)
    with pytest.warns(RuntimeWarning, match=r"the auxiliary loss by XLA .* it deviates .* delete"):
        assert not calls_native(operands)


def test_networks_of_more_layers_are_xlas_or_refused(fresh, caplog):
    operands = auxiliary_operands(2, 3, 1, 2, 2, (2,) * 9)
    assert not calls_native(operands)
    (record,) = caplog.records
    assert "for networks of 1 to 8 hidden layers, this one has 9" in record.getMessage()
    with pytest.raises(NotImplementedError, match="8 hidden layers, this one has 9"):
        NATIVE_LOSS(*operands)
    header = (build.SOURCES / "arguments.h").read_text()
    assert f"constexpr Index kMostLayers = {networks.MOST_LAYERS};" in header


def test_a_named_kernel_is_refused_where_it_cannot_run(monkeypatch, operands):
    def no_library():
        raise build.BuildError("there is no C++ compiler")

    monkeypatch.setattr("dien_kernels.networks.library.instruction_set", no_library)
    with pytest.raises(NotImplementedError, match=r"there is no C\+\+ compiler"):
        NATIVE_LOSS(*operands)
    with pytest.raises(ValueError, match="implementation: expected one of"):
        auxiliary_loss(*operands, implementation="triton")


@pytest.mark.parametrize(
    ("place", "message"),
    [
        (0, r"states, history, sampled: expected \[B, T, H\]"),
        (1, r"states, history, sampled: expected \[B, T, H\]"),
        (3, r"shares: expected shape \(3, 5, 6\), got \(2, 5, 6\)"),
        (4, r"layers\[0\]\.kernel: expected shape \(10, 5\), got \(9, 5\)"),
    ],
)
def test_mistakes_are_named(operands, place, message):
    broken = list(operands)
    broken[place] = operands[place][1:] if place > 1 else operands[place][0]
    with pytest.raises(ValueError, match=message):
        auxiliary_loss(*broken)


def test_the_check_compares_every_gradient():
    for results in (network_agreement.attention_results, network_agreement.auxiliary_results):
        found, expected = results()
        assert len(jax.tree.leaves(found)) == len(jax.tree.leaves(expected)) >= 8
        assert all(np.abs(leaf).max() > 1e-4 for leaf in jax.tree.leaves(expected))
        assert agreement.compare(results, 1e-4).agrees
