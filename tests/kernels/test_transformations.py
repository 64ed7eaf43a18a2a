"""Implementations under transformations of JAX: vmap, checkpoint, export, sharding, derivatives.

Dimensions: B batch, T steps, N candidates, H state.
"""

import contextlib
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from dien_kernels import candidate_attention, last_states
from dien_kernels.checks import reverse_mode_only
from jax import export
from support.networks import (
    attention_by,
    attention_gradients,
    attention_operands,
    auxiliary_by,
    auxiliary_gradients,
    candidate_operands,
)
from support.programs import printed
from support.recurrences import (
    PALLAS,
    PRECISION,
    assert_agree,
    call,
    operands,
    operands_of_8_bits,
    running,
)

pytestmark = [pytest.mark.long, pytest.mark.newest]

NATIVE_ATTENTION, NATIVE_LOSS = attention_by("native"), auxiliary_by("native")


def value_of(implementation, x, attention, weights, lengths, initial):
    """A function of all results of an AUGRU."""
    precision = PRECISION.get(implementation, "highest")
    states, last = call(
        "augru", x, attention, weights, lengths, initial,
        implementation=implementation, precision=precision,
    )  # fmt: skip
    return jnp.sin(3 * states).sum() + jnp.cos(2 * last).sum()


def mapped_and_saved(implementation, checkpointed):
    """Gradients under vmap over rows and over weights, and rematerialised ones."""
    x, attention, weights, lengths, initial = operands("augru")

    def loss(x, weights):
        return value_of(implementation, x, attention, weights, lengths, initial)

    slopes = jax.grad(loss, (0, 1))
    doubled = jax.tree.map(lambda part: jnp.stack([part, 2 * part]), (x, weights))
    mapped = (
        jax.vmap(slopes, (0, None))(doubled[0], weights),
        jax.vmap(slopes, (None, 0))(x, doubled[1]),
    )
    if not checkpointed:
        return mapped
    return *mapped, jax.grad(jax.checkpoint(loss), (0, 1))(x, weights)


@pytest.mark.parametrize("implementation", ["xla", "native", *PALLAS])
def test_gradients_under_vmap_and_checkpoint_are_the_oracles(implementation):
    rounds = implementation == "mosaic_gpu"
    checkpointed = not rounds  # its interpreter has ordered effects, which remat refuses
    with running(implementation):
        found = jax.jit(lambda: mapped_and_saved(implementation, checkpointed))()
    with operands_of_8_bits() if rounds else contextlib.nullcontext():
        expected = jax.jit(lambda: mapped_and_saved("reference", checkpointed))()
    assert_agree(found, expected, 1e-6 * np.sqrt(6 * 7) + (2**-6 if rounds else 0))


@pytest.mark.parametrize("implementation", ["native", *PALLAS])
def test_forward_mode_points_to_the_oracle(implementation):
    arrays = operands("augru")
    with running(implementation), pytest.raises(TypeError, match="implementation='reference'"):
        jax.jvp(lambda x: value_of(implementation, x, *arrays[1:]), arrays[:1], arrays[:1])


def test_forward_mode_of_networks_points_to_the_oracle(few, auxiliary):
    for run, (first, *others) in ((NATIVE_ATTENTION, few), (NATIVE_LOSS, auxiliary)):
        with pytest.raises(TypeError, match="implementation='reference'"):
            jax.jvp(lambda first, r=run, o=others: r(first, *o), (first,), (first,))
    states, *others = auxiliary
    jax.jvp(lambda states: auxiliary_by("reference")(states, *others), (states,), (states,))


def test_another_type_error_stays_as_it_is():
    with pytest.raises(TypeError, match=r"^another$"), reverse_mode_only("native"):
        raise TypeError("another")


def test_second_derivatives_point_to_the_oracle():
    x, *others = operands("augru")

    def second(implementation):
        gradient = jax.grad(lambda x: value_of(implementation, x, *others))
        return jax.grad(lambda x: gradient(x).sum())(x)

    with pytest.raises(NotImplementedError, match="implementation='reference'"):
        second("native")
    assert jnp.isfinite(second("reference")).all()


@pytest.mark.parametrize("mode", ["forward", "reverse"])
def test_derivatives_of_candidates_point_to_the_oracle(mode):
    query, states, layers, attention, weights, length = both_operands()
    differentiate = jax.jacfwd if mode == "forward" else jax.grad
    with pytest.raises(NotImplementedError, match="implementation='reference'"):
        differentiate(lambda q: both(q, states, layers, attention, weights, length)[0].sum())(query)
    with pytest.raises(NotImplementedError, match="implementation='reference'"):
        differentiate(lambda a: both(query, states, layers, a, weights, length)[1].sum())(attention)
    given = states, layers, attention, weights, length
    slope = jax.grad(lambda q: both(q, *given, "reference")[0][:, 0].sum())(query)
    assert np.abs(slope).max() > 0


@pytest.mark.parametrize("reads", ["states", "last"])
def test_gradients_where_one_result_alone_is_read(reads):
    x, attention, weights, lengths, initial = operands("augru", batch=40)

    def gradients(implementation):
        def function(x, weights, initial):
            states, last = call(
                "augru", x, attention, weights, lengths, initial, implementation=implementation
            )
            return jnp.sin(states if reads == "states" else last).sum()

        return jax.jit(jax.grad(function, (0, 1, 2)))(x, weights, initial)

    assert_agree(gradients("native"), gradients("reference"), 1e-6 * np.sqrt(40 * 7))


@pytest.mark.parametrize("disabled", [False, True])
def test_results_of_eager_calls_are_those_of_jit(disabled):
    arguments = ("augru", *operands("augru"))
    with jax.disable_jit(disabled):
        eager = call(*arguments, implementation="native")
    jitted = jax.jit(lambda: call(*arguments, implementation="native"))()
    jax.tree.map(np.testing.assert_array_equal, eager, jitted)


def test_vmap_without_gradients_makes_rows_of_the_mapped_axis(few):
    many = [operands("augru", batch=5, seed=seed) for seed in range(3)]
    x, attention, lengths = (jnp.stack([one[part] for one in many]) for part in (0, 1, 3))
    weights, initial = many[0][2], many[0][4]

    def states(x, attention, lengths, implementation="native"):
        return call("augru", x, attention, weights, lengths, initial, implementation=implementation)

    mapped = jax.jit(jax.vmap(states))
    alone = [states(*one, "xla") for one in zip(x, attention, lengths, strict=True)]
    assert_agree(mapped(x, attention, lengths), jax.tree.map(lambda *v: jnp.stack(v), *alone), 2e-6)
    program = mapped.lower(x, attention, lengths).as_text()
    assert program.count("@dien_kernels_forward") == 1
    assert "tensor<15x7x5xf32>" in program

    many = [attention_operands(5, 7, 6, (9, 5), seed=seed) for seed in range(3)]
    query, states, lengths = (jnp.stack([one[part] for one in many]) for part in (0, 1, 3))
    mapped = jax.jit(jax.vmap(NATIVE_ATTENTION, (0, 0, None, 0)))
    expected = [NATIVE_ATTENTION(one[0], one[1], few[2], one[3]) for one in many]
    np.testing.assert_allclose(mapped(query, states, few[2], lengths), expected, atol=1e-6)
    program = mapped.lower(query, states, few[2], lengths).as_text()
    assert program.count("@dien_kernels_attention") == 1
    assert "tensor<15x7x6xf32>" in program


@pytest.mark.parametrize("name", ["attention", "auxiliary"])
def test_gradients_of_networks_under_vmap_and_checkpoint_are_those_without(name, few, auxiliary):
    gradients, function, (first, *others) = {
        "attention": (attention_gradients, NATIVE_ATTENTION, few),
        "auxiliary": (auxiliary_gradients, NATIVE_LOSS, auxiliary),
    }[name]
    evaluate = gradients(function)
    plain = evaluate(first, *others)
    assert_agree(gradients(jax.checkpoint(function))(first, *others), plain, 1e-6)
    mapped = jax.vmap(evaluate, (0, *[None] * len(others)))(jnp.stack([first, 2 * first]), *others)
    for index, expected in enumerate((plain, evaluate(2 * first, *others))):
        assert_agree(jax.tree.map(lambda leaf, k=index: leaf[k], mapped), expected, 1e-6)


def both(query, states, layers, attention, weights, length, implementation="native"):
    """Attention of candidates and the last states under another one."""
    options = {"implementation": implementation}
    last = last_states("augru", "paper", states, attention, weights, length, **options)
    return candidate_attention(query, states, layers, length=length, **options), last


def both_operands():
    x, attention, weights, *_ = operands("augru", batch=40)
    query, _, layers = candidate_operands(40, 7, 5, (9, 5))
    return query, x[0], layers, attention, weights, jnp.int32(5)


def test_vmap_of_candidates_over_users_is_one_call_after_another():
    query, states, layers, attention, weights, _ = both_operands()
    stacked = jnp.stack([states, 2 * states, -states]), jnp.array([7, 0, 3])
    axes = (None, 0, None, None, None, 0)
    found = jax.jit(jax.vmap(both, axes))(query, stacked[0], layers, attention, weights, stacked[1])
    expected = [
        both(query, own, layers, attention, weights, length, "xla")
        for own, length in zip(*stacked, strict=True)
    ]
    assert_agree(found, jax.tree.map(lambda *parts: jnp.stack(parts), *expected), 1e-5)


def test_an_export_runs_by_xla_and_needs_no_library(few, auxiliary):
    arrays = operands("augru", batch=5)
    recurrence = jax.value_and_grad(lambda *given: value_of("native", *given), (0, 1, 2, 4))
    for function, given, tolerance in (
        (recurrence, arrays, 1e-5),
        (attention_gradients(NATIVE_ATTENTION), few, 6e-5),
        (auxiliary_gradients(NATIVE_LOSS), auxiliary, 6e-5),
        (both, both_operands(), 1e-5),
    ):
        here = jax.jit(function)
        exported = export.export(here)(*given)
        assert "@dien_kernels_" not in exported.mlir_module()
        assert "@dien_kernels_" in here.lower(*given).as_text()
        assert_agree(jax.jit(exported.call)(*given), here(*given), tolerance)


def test_an_export_has_any_number_of_rows_and_steps(few):
    """One program, whatever the number of the chunks of 16 steps in which XLA computes states."""
    rows, steps = export.symbolic_shape("b, t")
    x, attention, weights, lengths, initial = operands("augru", batch=5, steps=47)
    cut = [
        (x[:, :size], attention[:, :size], weights, jnp.minimum(lengths, size), initial)
        for size in (1, 20, 21, 47)
    ]
    for function, several, shapes in (
        (functools.partial(call, "augru", implementation="native"), cut,
         ((rows, steps, 5), (rows, steps), None, (rows,), (rows, 8))),
        (NATIVE_ATTENTION, [few], ((rows, 6), (rows, steps, 6), None, (rows,))),
    ):  # fmt: skip
        symbolic = [
            part if shape is None else jax.ShapeDtypeStruct(shape, part.dtype)
            for part, shape in zip(several[0], shapes, strict=True)
        ]
        exported = export.export(jax.jit(function))(*symbolic)
        for given in several:
            assert_agree(jax.jit(exported.call)(*given), function(*given), 1e-5)


SHARDED = """
import functools, re
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
from dien_kernels import interpreted
from support.networks import *
from support.recurrences import assert_agree, call, operands

mesh = Mesh(np.array(jax.devices()), ("data",))
split = functools.partial(jax.shard_map, mesh=mesh, check_vma=False)
rows = P("data")
x, attention, weights, lengths, initial = operands("augru", batch=12, biased=True)

def states_of(name):
    def run(x, attention, weights, initial, lengths):
        return call("augru", x, attention, weights, lengths, initial, implementation=name)

    return run

def gradients(run):
    def loss(*arrays):
        states, last = run(*arrays)
        return jnp.sin(3 * states).sum() + last.sum(), (states, last)

    return jax.jit(jax.grad(loss, (0, 1, 2, 3), has_aux=True))

plain, specs = (x, attention, weights, initial, lengths), (rows, rows, P(), rows, rows)
placed = jax.device_put(plain, tuple(NamedSharding(mesh, spec) for spec in specs))
expected = gradients(states_of("reference"))(*plain)
for name in ("xla", "native", "mosaic_tpu", "triton"):
    with interpreted():
        run = gradients(split(states_of(name), in_specs=specs, out_specs=rows))
        compiled = run.lower(*placed).compile()
    (d_x, d_attention, d_weights, d_initial), (states, last) = compiled.output_shardings
    for sharding in (d_x, d_attention, d_initial, states, last):
        assert sharding.spec[0] == "data", (name, sharding)
    program = compiled.as_text()
    gathered = re.findall(r"= (\\S+) all-gather", program)
    assert not [g for g in gathered if g.count(",") >= 2], (name, gathered)
    assert "all-reduce" in program, name
    assert_agree(compiled(*placed), expected, 1e-5 if name == "native" else 1e-4)

few, operands = attention_operands(12, 6, 5, (7,)), auxiliary_operands(12, 6, 1, 4, 5, (7,))
attention = split(attention_by("native"), in_specs=(rows, rows, P(), rows), out_specs=rows)
assert_agree(jax.jit(attention)(*few), attention_by("xla")(*few), 1e-5)

def share(*given):
    loss, gradients = auxiliary_gradients(auxiliary_by("native"))(*given)
    return jax.lax.psum(loss, "data"), gradients[0]

specs = (rows, rows, P(None, "data"), P(None, "data"), P())
loss, d_states = jax.jit(split(share, in_specs=specs, out_specs=(P(), rows)))(*operands)
expected, gradients = auxiliary_gradients(auxiliary_by("xla"))(*operands)
assert_agree((loss, d_states), (expected, gradients[0]), 1e-5)
print("sharded", jax.device_count())
"""


def test_rows_that_are_split_over_devices_stay_there():
    """Four devices: results keep the rows' sharding, nothing of [B, T, .] is gathered, weight
    gradients are summed. (The interpreter of mosaic_gpu has one device only.)
    """
    flags = "--xla_force_host_platform_device_count=4"
    assert printed(SHARDED, XLA_FLAGS=flags) == "sharded 4\n"
