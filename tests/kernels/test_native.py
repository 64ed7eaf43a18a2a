"""The C++ kernels against the oracle, and under the transformations of JAX.

Dimensions: B batch, T steps, D input, H hidden.
"""

import json
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from dien_kernels import agreement, augru, explain, gru, interpreted
from dien_kernels.backends import native
from dien_kernels.choice import require
from jax import export
from support.recurrences import (
    CASES,
    assert_agree,
    assert_padding_changes_nothing,
    call,
    evaluate,
    operands,
)

# B, T, D, H near panels of 32 rows, chunks of 16 steps, 4 to 16 lanes, tiles of 6 and 12 columns.
SIZES = [
    (1, 1, 1, 1),
    (2, 15, 3, 5),
    (31, 16, 15, 11),
    (32, 17, 16, 12),
    (33, 33, 17, 13),
    (65, 7, 40, 16),
    (130, 5, 36, 17),
    (3, 100, 18, 36),
    (40, 9, 5, 50),
    (600, 3, 8, 8),  # more panels than sums of weight gradients
    (5, 6, 130, 129),
]
LIVE = ("mixed", "full", "empty")
AGREEMENTS = [
    (*CASES[index % len(CASES)], *sizes, LIVE[0 if index % 4 else index // 4 % 3])
    for index, sizes in enumerate(SIZES)
] + [
    (*case, *SIZES[(4 + 3 * index) % len(SIZES)], LIVE[index % 3])
    for index, case in enumerate(CASES)
]


def tolerance(batch, steps, hidden):
    # float32 rounding grows with the steps that errors pass through and the terms of a sum. A
    # gradient of one step multiplies some six factors of the gates, each accurate to 3e-7 in both
    # programs.
    return max(2e-6, 1e-6 * np.sqrt(max(batch * steps, hidden)))


def check(cell, form, biased, batch, steps, depth, hidden, live):
    scale = min(0.5, 2 * hidden**-0.5)  # a larger one makes a chaotic recurrence of a wide one
    arrays = operands(
        cell, batch=batch, steps=steps, depth=depth, hidden=hidden, biased=biased, live=live,
        scale=scale,
    )  # fmt: skip
    expected = evaluate(cell, form, "reference")(*arrays)
    assert_agree(evaluate(cell, form, "native")(*arrays), expected, tolerance(batch, steps, hidden))


@pytest.mark.parametrize("case", AGREEMENTS, ids=lambda case: "-".join(map(str, case)))
def test_values_and_gradients_are_the_oracles(case):
    check(*case)


@pytest.mark.slow
@pytest.mark.parametrize("live", LIVE)
@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("case", CASES)
def test_every_case_at_every_size(case, sizes, live):
    check(*case, *sizes, live)


@pytest.mark.parametrize("cell", ["gru", "agru", "augru"])
def test_padding_changes_nothing(cell):
    assert_padding_changes_nothing(cell, "native")


def test_lengths_beyond_the_steps_count_as_all_and_negative_ones_as_none():
    x, attention, weights, _, initial = operands("augru")
    run = evaluate("augru", "paper", "native")
    odd = run(x, attention, weights, jnp.array([99, -5, 3], jnp.int32), initial)
    even = run(x, attention, weights, jnp.array([7, 0, 3], jnp.int32), initial)
    for got, want in zip(jax.tree.leaves(odd), jax.tree.leaves(even), strict=True):
        np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("where", ["x", "attention", "initial"])
def test_a_live_nan_reaches_its_own_row_alone(where):
    x, attention, weights, _, initial = operands("augru", batch=40)
    arrays = {"x": x, "attention": attention, "initial": initial}
    lengths = jnp.full(40, 7, jnp.int32)
    place = (17, 3) if where != "initial" else (17,)
    arrays[where] = arrays[where].at[place].set(jnp.nan)
    states, *_ = evaluate("augru", "paper", "native")(
        arrays["x"], arrays["attention"], weights, lengths, arrays["initial"]
    )
    bad = np.isnan(states).any((1, 2))
    assert bad.tolist() == [row == 17 for row in range(40)]
    assert np.isnan(states[17, -1]).all()


@pytest.mark.parametrize("value", [1e30, -1e30, jnp.inf])
def test_saturated_gates_are_zero_or_one(value):
    x, attention, weights, lengths, initial = operands("gru", live="full")
    weights = weights._replace(bias=weights.bias.at[1].set(value))
    found = evaluate("gru", "paper", "native")(x, attention, weights, lengths, initial)
    expected = evaluate("gru", "paper", "reference")(x, attention, weights, lengths, initial)
    assert_agree(found, expected, tolerance(3, 7, 8))


@pytest.mark.parametrize("reads", ["states", "last"])
def test_gradients_where_one_result_alone_is_read(reads):
    x, attention, weights, lengths, initial = operands("augru", batch=40)

    def loss(implementation):
        def function(x, weights, initial):
            states, last = call(
                "augru", x, attention, weights, lengths, initial, implementation=implementation
            )
            return jnp.sin(states if reads == "states" else last).sum()

        return jax.jit(jax.grad(function, (0, 1, 2)))(x, weights, initial)

    assert_agree(loss("native"), loss("reference"), tolerance(40, 7, 8))


def test_vmap_makes_rows_of_the_mapped_axis():
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


def test_gradients_under_vmap_and_checkpoint_are_the_oracles():
    x, attention, weights, lengths, initial = operands("augru")

    def gradients(implementation):
        def loss(x, weights):
            states, last = call(
                "augru", x, attention, weights, lengths, initial, implementation=implementation
            )
            return jnp.sin(3 * states).sum() + jnp.cos(2 * last).sum()

        slopes = jax.grad(loss, (0, 1))
        doubled = jax.tree.map(lambda part: jnp.stack([part, 2 * part]), (x, weights))
        return (
            jax.vmap(slopes, (0, None))(doubled[0], weights),
            jax.vmap(slopes, (None, 0))(x, doubled[1]),
            jax.grad(jax.checkpoint(loss), (0, 1))(x, weights),
        )

    found, expected = (jax.jit(lambda n=name: gradients(n))() for name in ("native", "reference"))
    assert_agree(found, expected, tolerance(6, 7, 8))


def as_export(function, *arrays):
    exported = export.export(jax.jit(function))(*arrays)
    assert "dien_kernels_forward" not in exported.mlir_module()
    return jax.jit(exported.call)


def test_an_export_runs_by_xla_and_needs_no_library():
    """Gradients too, and with any number of rows and steps."""
    x, attention, weights, lengths, initial = operands("augru", batch=5)

    def value(x, attention, weights, lengths, initial):
        states, last = call(
            "augru", x, attention, weights, lengths, initial, implementation="native"
        )
        return jnp.sin(states).sum() + last.sum()

    arrays = (x, attention, weights, lengths, initial)
    gradients = jax.value_and_grad(value, (0, 1, 2, 4))
    assert_agree(as_export(gradients, *arrays)(*arrays), jax.jit(gradients)(*arrays), 1e-5)

    rows, steps = export.symbolic_shape("b, t")
    sizes = ((rows, steps, 5), (rows, steps), None, (rows,), (rows, 8))

    def shape(leaf, size):
        return jax.ShapeDtypeStruct(leaf.shape if size is None else size, leaf.dtype)

    shapes = [
        jax.tree.map(lambda leaf, size=size: shape(leaf, size), part)
        for part, size in zip(arrays, sizes, strict=True)
    ]
    assert_agree(as_export(value, *shapes)(*arrays), value(*arrays), 1e-5)


def test_forward_mode_points_to_the_oracle():
    x, attention, weights, lengths, initial = operands("augru")

    def last(x):
        return call("augru", x, attention, weights, lengths, initial, implementation="native")[1]

    with pytest.raises(TypeError, match="implementation='reference'"):
        jax.jvp(last, (x,), (x,))


def test_second_derivatives_point_to_the_oracle():
    x, attention, weights, lengths, initial = operands("augru")

    def gradient(x, implementation):
        given = (attention, weights, lengths, initial)
        return jax.grad(lambda x: call("augru", x, *given, implementation=implementation)[1].sum())(
            x
        )

    with pytest.raises(NotImplementedError, match="implementation='reference'"):
        jax.grad(lambda x: gradient(x, "native").sum())(x)
    assert jnp.isfinite(jax.grad(lambda x: gradient(x, "reference").sum())(x)).all()


def test_auto_takes_it_once_it_agrees_with_the_oracle(monkeypatch, tmp_path):
    native.library.instruction_set()  # loaded from the cache of all tests
    monkeypatch.setenv("DIEN_KERNELS_NATIVE", "1")
    monkeypatch.setenv("DIEN_KERNELS_CACHE", str(tmp_path))
    agreement.outcome.cache_clear()
    found = explain("gru", batch=128, steps=100, hidden=36)
    assert found.implementation == "native"
    assert found.reason == "it agrees with the oracle on this cpu"
    (file,) = tmp_path.glob("native-gru-paper-highest-*.json")
    assert 0 < json.loads(file.read_text())["deviation"] < 1e-5
    monkeypatch.setenv("DIEN_KERNELS_NATIVE", "0")
    assert explain("gru", batch=128, steps=100, hidden=36).implementation == "xla"
    agreement.outcome.cache_clear()


def test_results_of_eager_calls_are_those_of_jit():
    x, attention, weights, lengths, initial = operands("augru")
    arguments = ("augru", x, attention, weights, lengths, initial)
    states, last = call(*arguments, implementation="native")
    jitted = jax.jit(lambda: call(*arguments, implementation="native"))()
    np.testing.assert_array_equal(states, jitted[0])
    np.testing.assert_array_equal(last, jitted[1])


def test_a_device_that_is_no_cpu_is_refused_interpreted_or_not(monkeypatch):
    from dien_kernels import Device, devices

    monkeypatch.setattr(devices, "current", lambda: Device("gpu", "NVIDIA H100", (9, 0)))
    with pytest.raises(NotImplementedError, match="'native' needs a CPU"):
        require("native")
    with interpreted(), pytest.raises(NotImplementedError, match="'native' needs a CPU"):
        require("native")


def test_panels_have_the_rows_that_the_kernels_have():
    header = native.library.build.SOURCES / "arguments.h"
    assert f"constexpr Index kPanel = {native.PANEL};" in header.read_text()


SHARDED = """
import sys; sys.path.insert(0, 'tests')
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
from support.recurrences import assert_agree, call, operands

mesh = Mesh(np.array(jax.devices()), ("data",))
rows = NamedSharding(mesh, P("data"))
x, attention, weights, lengths, initial = operands("augru", batch=12, steps=6)
arrays = jax.device_put((x, attention, initial, lengths), rows)

def run(implementation, sharding, x, attention, initial, lengths):
    def loss(differentiable):
        x, attention, weights, initial = differentiable
        states, last = call(
            "augru", x, attention, weights, lengths, initial,
            implementation=implementation, batch_sharding=sharding,
        )
        return jnp.sin(3 * states).sum() + jnp.cos(2 * last).sum(), (states, last)
    return jax.grad(loss, has_aux=True)((x, attention, weights, initial))

split = jax.jit(lambda *a: run("native", rows, *a)).lower(*arrays).compile()
text = split.as_text()
assert "all-gather" not in text, text
assert "f32[3,6,5]" in text, text  # each device has its own rows
expected = jax.jit(lambda *a: run("reference", None, *a))(x, attention, initial, lengths)
assert_agree(split(*arrays), expected, 1e-5)
mapped = jax.jit(jax.shard_map(
    lambda x, attention, lengths, initial: call(
        "augru", x, attention, weights, lengths, initial, implementation="native")[1],
    mesh=mesh, in_specs=(P("data"),) * 4, out_specs=P("data"), check_vma=False))
assert_agree(mapped(arrays[0], arrays[1], arrays[3], arrays[2]), expected[1][1], 1e-5)
"""


def test_rows_that_are_split_over_devices_stay_there(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_force_host_platform_device_count=4")
    done = subprocess.run([sys.executable, "-c", SHARDED], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]


def test_bfloat16_inputs_and_results_with_a_float32_state():
    x, attention, weights, lengths, initial = operands("augru")
    half = x.astype(jnp.bfloat16)
    options = {"lengths": lengths, "initial_state": initial, "implementation": "native"}
    states, last = augru(half, attention, weights, **options)
    exact, _ = augru(half.astype(jnp.float32), attention, weights, **options)
    assert states.dtype == last.dtype == jnp.bfloat16
    np.testing.assert_array_equal(states, exact.astype(jnp.bfloat16))


def test_every_precision_is_float32():
    x, _, weights, lengths, _ = operands("gru")
    found = [
        gru(x, weights, lengths=lengths, implementation="native", precision=precision)[0]
        for precision in ("default", "high", "highest")
    ]
    np.testing.assert_array_equal(found[0], found[2])
    np.testing.assert_array_equal(found[1], found[2])
