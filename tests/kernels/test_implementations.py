"""Every implementation of the recurrences against the oracle, and the oracle against NumPy.

Dimensions: B batch, T steps, D input, H hidden.
"""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from dien_kernels import Weights, augru, gru
from support.recurrences import (
    CASES,
    CELLS,
    FORMS,
    assert_agree,
    assert_padding_changes_nothing,
    call,
    evaluate,
    operands,
)

pytestmark = pytest.mark.optimised


def numpy_states(cell, form, x, attention, weights, lengths, initial):
    """The equations again, row by row in float64."""
    x, attention, initial = (np.asarray(v, np.float64) for v in (x, attention, initial))
    w, u, b = (np.asarray(part, np.float64) for part in weights[:3])
    extra = 0 if weights.recurrent_bias is None else np.asarray(weights.recurrent_bias)

    def sigma(value):
        return 1 / (1 + np.exp(-value))

    states = np.zeros((*x.shape[:2], u.shape[0]))
    for row, h in enumerate(initial):
        for step in range(x.shape[1]):
            if step < lengths[row]:
                v, a = x[row, step], attention[row, step]
                r = sigma(v @ w[:, 0] + h @ u[:, 0] + b[0])
                product = r * (h @ u[:, -1] + extra) if form == "paper" else (r * h) @ u[:, -1]
                c = np.tanh(v @ w[:, -1] + product + b[-1])
                if cell == "agru":
                    h = (1 - a) * h + a * c
                else:
                    z = sigma(v @ w[:, 1] + h @ u[:, 1] + b[1])
                    if form == "paper":
                        z = a * z if cell == "augru" else z
                        h = (1 - z) * h + z * c
                    else:
                        z = (1 - a) * z if cell == "augru" else z
                        h = z * h + (1 - z) * c
            states[row, step] = h
    return states


@pytest.mark.long
@pytest.mark.parametrize(("cell", "form", "biased"), CASES)
def test_oracle_follows_the_equations(cell, form, biased):
    arrays = operands(cell, biased=biased)
    states, last, _ = evaluate(cell, form, "reference")(*arrays)
    expected = numpy_states(cell, form, *arrays)
    np.testing.assert_allclose(states, expected, atol=1e-6)
    np.testing.assert_array_equal(last, states[:, -1])


@pytest.mark.parametrize(("cell", "form", "biased"), CASES)
def test_oracle_gradients_are_the_slopes(cell, form, biased):
    """Along random directions, by central differences of the float64 NumPy pass."""
    x, attention, weights, lengths, initial = operands(cell, biased=biased)
    places = (x, attention, weights, initial)
    *_, gradients = evaluate(cell, form, "reference")(*operands(cell, biased=biased))

    def value(places):
        x, attention, weights, initial = places
        states = numpy_states(cell, form, x, attention, weights, lengths, initial)
        return np.sin(3 * states).sum() + np.cos(2 * states[:, -1]).sum()

    rng = np.random.default_rng(5)
    wide = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), places)
    for _ in range(5):
        direction = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape), wide)
        ahead = jax.tree.map(lambda p, d: p + 1e-5 * d, wide, direction)
        behind = jax.tree.map(lambda p, d: p - 1e-5 * d, wide, direction)
        slope = (value(ahead) - value(behind)) / 2e-5
        products = jax.tree.map(lambda g, d: (np.asarray(g) * d).sum(), gradients, direction)
        np.testing.assert_allclose(sum(jax.tree.leaves(products)), slope, rtol=2e-4, atol=1e-4)


SHAPES = [(3, 7, 8), (1, 1, 36), (130, 7, 36), (3, 100, 8)]
"""B, T, H: the first with every case, the others in turn."""
AGREEMENTS = [(*case, SHAPES[0]) for case in CASES] + [
    (*case, SHAPES[1 + index % 3]) for index, case in enumerate(CASES)
]


@pytest.mark.parametrize(("cell", "form", "biased", "shape"), AGREEMENTS)
def test_implementations_agree_with_the_oracle(cell, form, biased, shape):
    batch, steps, hidden = shape
    arrays = operands(cell, batch=batch, steps=steps, hidden=hidden, biased=biased)
    expected = evaluate(cell, form, "reference")(*arrays)
    found = evaluate(cell, form, "xla")(*arrays)
    # float32 rounding grows with the steps that errors pass through and the terms of a sum.
    tolerance = 1e-6 * np.sqrt(max(batch * steps, hidden))
    assert_agree(found, expected, tolerance)


@pytest.mark.parametrize("implementation", ["reference", "xla", "native"])
@pytest.mark.parametrize("form", FORMS)
def test_attention_of_zero_and_one(form, implementation):
    x, attention, weights, lengths, initial = operands("augru")
    zero, one = jnp.zeros_like(attention), jnp.ones_like(attention)
    without_update = Weights(*(part[..., ::2, :] for part in weights[:3]))

    def states(cell, attention, weights):
        return evaluate(cell, form, implementation)(x, attention, weights, lengths, initial)[0]

    plain = states("gru", one, weights)
    frozen = jnp.broadcast_to(initial[:, None], plain.shape)
    at_zero, at_one = states("augru", zero, weights), states("augru", one, weights)
    candidates, agru_at_zero = (states("agru", a, without_update) for a in (one, zero))

    np.testing.assert_array_equal(agru_at_zero, frozen)
    np.testing.assert_allclose(at_zero, frozen if form == "paper" else plain, atol=1e-6)
    np.testing.assert_allclose(at_one, plain if form == "paper" else candidates, atol=1e-6)


@pytest.mark.parametrize("implementation", ["reference", "xla", "native"])
@pytest.mark.parametrize("cell", CELLS)
def test_padding_changes_nothing(cell, implementation):
    assert_padding_changes_nothing(cell, implementation)


@pytest.mark.parametrize("implementation", ["reference", "xla", "native"])
def test_bfloat16_inputs_keep_a_float32_state(implementation):
    """Rounding inputs and results to 8 bits is all that happens: 2^-8 of a state within 1."""
    x, attention, weights, lengths, initial = operands("augru", steps=100)
    half = x.astype(jnp.bfloat16)
    states, last = call(
        "augru", half, attention, weights, lengths, initial, implementation=implementation
    )
    assert states.dtype == last.dtype == jnp.bfloat16
    exact, _ = call("augru", half.astype(jnp.float32), attention, weights, lengths, initial)
    np.testing.assert_allclose(states.astype(jnp.float32), exact, atol=2**-8)


def test_composes_with_vmap_and_checkpoint():
    x, attention, weights, lengths, initial = operands("augru")
    *_, (plain, *_) = evaluate("augru", "paper", "xla")(x, attention, weights, lengths, initial)

    def loss(x):
        states, last = augru(x, attention, weights, lengths=lengths, initial_state=initial)
        return jnp.sin(3 * states).sum() + jnp.cos(2 * last).sum()

    saved = jax.jit(jax.grad(jax.checkpoint(loss)))(x)
    np.testing.assert_allclose(saved, plain, atol=1e-6)
    stacked = jax.jit(jax.vmap(jax.grad(loss)))(jnp.stack([x, 2 * x]))
    np.testing.assert_allclose(stacked[0], plain, atol=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": jnp.zeros((3, 5))}, r"x: expected shape \[B, T, D\]"),
        ({"x": jnp.zeros((3, 0, 5))}, r"x: expected shape \[B, T, D\]"),
        ({"x": jnp.zeros((3, 7, 5), jnp.int32)}, "x: expected float32 or bfloat16, got int32"),
        ({"attention": jnp.zeros((3, 6))}, r"attention: expected shape \(3, 7\), got \(3, 6\)"),
        ({"lengths": jnp.zeros(2, jnp.int32)}, r"lengths: expected shape \(3,\)"),
        ({"lengths": jnp.zeros(3)}, "lengths: expected integers, got float32"),
        ({"initial_state": jnp.zeros((3, 9))}, r"initial_state: expected shape \(3, 8\)"),
        ({"form": "book"}, "form: expected one of"),
        ({"implementation": "cudnn"}, "implementation: expected one of"),
        ({"implementation": "mosaic_gpus"}, r"did you mean 'mosaic_gpu'\?"),
    ],
)
def test_a_wrong_argument_is_named(change, message):
    x, attention, weights, lengths, initial = operands("augru")
    arguments = {"x": x, "attention": attention, "weights": weights}
    keywords = {"lengths": lengths, "initial_state": initial}
    for name, value in change.items():
        (arguments if name in arguments else keywords)[name] = value
    with pytest.raises(ValueError, match=message):
        augru(*arguments.values(), **keywords)


def test_wrong_weights_are_named():
    x, attention, weights, lengths, _ = operands("agru")
    with pytest.raises(ValueError, match=r"weights.input: expected shape \(5, 3, 8\)"):
        augru(x, attention, weights, lengths=lengths)
    x, _, weights, lengths, _ = operands("gru", biased=True)
    with pytest.raises(ValueError, match=r"weights.recurrent_bias: expected None"):
        gru(x, weights, lengths=lengths, form="authors")


def test_the_package_imports_jax_and_nothing_else():
    code = (
        "import sys, jax; before = set(sys.modules); import dien_kernels; "
        "print(*{m.split('.')[0] for m in set(sys.modules) - before})"
    )
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    assert not {"dien_jax", "flax", "optax", "orbax", "jaxtyping"} & set(loaded)


def test_the_name_kernels_stays_free():
    """Another project on the registries has the import name ``kernels``."""
    code = "import importlib.util as u; s = u.find_spec('kernels'); print(s and s.origin)"
    found = subprocess.run(
        [sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True
    ).stdout.strip()
    assert found == "None"
