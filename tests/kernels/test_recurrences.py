"""Every implementation of the recurrences for a CPU; XLA's runs in chunks of time.

The oracle is compared with the equations in NumPy, XLA's and the C++ kernels with the oracle.
Dimensions: B batch, T steps, D input, H hidden.
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from dien_kernels import Weights, augru, gru
from dien_kernels.backends import xla
from support.recurrences import (
    CASES,
    CELLS,
    FORMS,
    assert_agree,
    assert_padding_changes_nothing,
    evaluate,
    numpy_recurrence,
    operands,
)

pytestmark = pytest.mark.long

# B, T, D, H and lengths near panels of 32 rows, chunks of 16 steps, 4 to 16 lanes, tiles of 6 and
# 12 columns; more panels than sums of weight gradients. Cases of cell, form and bias take turns.
# XLA has the first ones, of one chunk of steps and several, some not full, one for each case.
SIZES = [
    (1, 1, 1, 1, "mixed"),
    (2, 15, 3, 5, "full"),
    (31, 16, 15, 11, "mixed"),
    (32, 17, 16, 12, "empty"),
    (33, 33, 17, 13, "mixed"),
    (65, 7, 40, 16, "mixed"),
    (130, 5, 36, 17, "full"),
    (3, 100, 18, 36, "mixed"),
    (33, 41, 4, 6, "mixed"),
    (40, 9, 5, 50, "empty"),
    (600, 3, 8, 8, "mixed"),
    (5, 6, 130, 129, "mixed"),
]
RECURRENCES = [
    pytest.param((*case, *size), names, marks=pytest.mark.optimised if case[0] == "augru" else ())
    for case, size, names in zip(
        itertools.cycle(CASES),
        SIZES,
        itertools.chain([("native", "xla")] * len(CASES), itertools.repeat(("native",))),
        strict=False,
    )
]


@pytest.mark.parametrize(("cell", "form", "biased"), CASES)
def test_the_oracle_follows_the_equations_and_its_gradients_their_slopes(cell, form, biased):
    """Slopes along random directions, by central differences of the float64 NumPy pass."""
    x, attention, weights, lengths, initial = operands(cell, biased=biased)
    states, last, gradients = evaluate(cell, form, "reference")(
        x, attention, weights, lengths, initial
    )
    expected, *_ = numpy_recurrence(cell, form, x, attention, weights, lengths, initial)
    np.testing.assert_allclose(states, expected, atol=1e-6)
    np.testing.assert_array_equal(last, states[:, -1])

    def value(places):
        x, attention, weights, initial = places
        states, *_ = numpy_recurrence(cell, form, x, attention, weights, lengths, initial)
        return np.sin(3 * states).sum() + np.cos(2 * states[:, -1]).sum()

    rng = np.random.default_rng(5)
    places = x, attention, weights, initial
    wide = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), places)
    for _ in range(5):
        direction = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape), wide)
        ahead = jax.tree.map(lambda p, d: p + 1e-5 * d, wide, direction)
        behind = jax.tree.map(lambda p, d: p - 1e-5 * d, wide, direction)
        slope = (value(ahead) - value(behind)) / 2e-5
        products = jax.tree.map(lambda g, d: (np.asarray(g) * d).sum(), gradients, direction)
        np.testing.assert_allclose(sum(jax.tree.leaves(products)), slope, rtol=2e-4, atol=1e-4)


@pytest.mark.parametrize(("case", "names"), RECURRENCES)
def test_values_and_gradients_are_the_oracles(case, names):
    cell, form, biased, batch, steps, depth, hidden, live = case
    arrays = operands(
        cell, batch=batch, steps=steps, depth=depth, hidden=hidden, biased=biased, live=live,
        seed=1,  # with 0, the objective has nearly no slope at the one entry of the smallest case
        scale=min(0.5, 2 * hidden**-0.5),  # a larger one makes a chaotic recurrence of a wide one
    )  # fmt: skip
    expected = evaluate(cell, form, "reference")(*arrays)
    for name in names:
        # float32 rounding grows with the steps that errors pass through and the terms of a sum. In
        # C++ a gradient of one step multiplies some six factors of the gates, accurate to 3e-7.
        tolerance = 1e-6 * np.sqrt(max(batch * steps, hidden, 4 if name == "native" else 1))
        assert_agree(evaluate(cell, form, name)(*arrays), expected, tolerance)


@pytest.mark.parametrize("where", ["x", "attention", "initial"])
def test_a_live_nan_reaches_its_own_row_of_a_recurrence(where):
    x, attention, weights, _, initial = operands("augru", batch=40)
    arrays = {"x": x, "attention": attention, "initial": initial}
    place = (17, 3) if where != "initial" else (17,)
    arrays[where] = arrays[where].at[place].set(jnp.nan)
    states, *_ = evaluate("augru", "paper", "native")(
        arrays["x"], arrays["attention"], weights, jnp.full(40, 7, jnp.int32), arrays["initial"]
    )
    assert np.isnan(states).any((1, 2)).tolist() == [row == 17 for row in range(40)]
    assert np.isnan(states[17, -1]).all()


@pytest.mark.parametrize("value", [1e30, -1e30, jnp.inf])
def test_saturated_gates_are_zero_or_one(value):
    x, attention, weights, lengths, initial = operands("gru", live="full")
    weights = weights._replace(bias=weights.bias.at[1].set(value))
    arrays = x, attention, weights, lengths, initial
    found, expected = (evaluate("gru", "paper", name)(*arrays) for name in ("native", "reference"))
    assert_agree(found, expected, 1e-6 * np.sqrt(21))


@pytest.mark.parametrize("implementation", ["xla", "reference"])
def test_lengths_of_numpy_need_no_64_bits(implementation):
    x, _, weights, lengths, _ = operands("gru")
    of_numpy = np.asarray(lengths, np.int64)  # its default; a warning would be an error here
    found = gru(x, weights, lengths=of_numpy, implementation=implementation)[1]
    np.testing.assert_array_equal(
        found, gru(x, weights, lengths=lengths, implementation=implementation)[1]
    )


def test_every_precision_of_native_is_float32():
    x, _, weights, lengths, _ = operands("gru")
    found = [
        gru(x, weights, lengths=lengths, implementation="native", precision=precision)[0]
        for precision in ("default", "high", "highest")
    ]
    np.testing.assert_array_equal(found[0], found[2])
    np.testing.assert_array_equal(found[1], found[2])


@pytest.mark.parametrize("form", FORMS)
def test_attention_of_zero_and_one(form):
    x, attention, weights, lengths, initial = operands("augru")
    zero, one = jnp.zeros_like(attention), jnp.ones_like(attention)
    without_update = Weights(*(part[..., ::2, :] for part in weights[:3]))

    def states(cell, attention, weights):
        return evaluate(cell, form, "reference")(x, attention, weights, lengths, initial)[0]

    plain = states("gru", one, weights)
    frozen = jnp.broadcast_to(initial[:, None], plain.shape)
    at_zero, at_one = states("augru", zero, weights), states("augru", one, weights)
    candidates, agru_at_zero = (states("agru", a, without_update) for a in (one, zero))
    np.testing.assert_array_equal(agru_at_zero, frozen)
    np.testing.assert_allclose(at_zero, frozen if form == "paper" else plain, atol=1e-6)
    np.testing.assert_allclose(at_one, plain if form == "paper" else candidates, atol=1e-6)


@pytest.mark.parametrize("implementation", ["reference", "xla", "native"])
def test_bfloat16_inputs_keep_a_float32_state(implementation):
    """Rounding inputs and results to 8 bits is all that happens: 2^-8 of a state within 1."""
    x, attention, weights, lengths, initial = operands("augru", steps=100)
    half = x.astype(jnp.bfloat16)
    options = {"lengths": lengths, "initial_state": initial, "implementation": implementation}
    states, last = augru(half, attention, weights, **options)
    assert states.dtype == last.dtype == jnp.bfloat16
    exact, _ = augru(half.astype(jnp.float32), attention, weights, **options)
    np.testing.assert_array_equal(states, exact.astype(jnp.bfloat16))


THREE_CHUNKS = 47
"""Steps that are three chunks of 16, the last one padded."""


@pytest.mark.parametrize(("cell", "form", "biased"), [CASES[1], CASES[5], CASES[6]])
def test_chunks_up_to_the_longest_history_are_the_oracle(cell, form, biased):
    given = operands(cell, batch=5, steps=THREE_CHUNKS, biased=biased)
    x, attention, weights, lengths, initial = given
    for longest in (0, 1, 17, 47):
        arrays = (x, attention, weights, jnp.minimum(lengths, longest), initial)
        found, expected = (evaluate(cell, form, name)(*arrays) for name in ("xla", "reference"))
        assert_agree(found, expected, 1e-5)


@pytest.mark.parametrize(
    ("cell", "implementation", "steps"),
    [
        *itertools.product(CELLS, ("reference", "xla", "native"), (7,)),
        ("augru", "xla", THREE_CHUNKS),
    ],
)
def test_what_dead_steps_hold_changes_nothing_to_the_bit(cell, implementation, steps):
    assert_padding_changes_nothing(cell, implementation, steps=steps)


@pytest.mark.parametrize(("longest", "expected"), [(0, 0), (1, 1), (16, 1), (17, 2), (47, 3)])
def test_only_chunks_with_live_steps_run(longest, expected, monkeypatch):
    ran = {"scan_forward": 0, "scan_backward": 0}

    def counting(what, scan):
        def count():
            ran[what] += 1

        def call(*arguments):
            jax.debug.callback(count)
            return scan(*arguments)

        return call

    for what in ran:
        monkeypatch.setattr(xla, what, counting(what, getattr(xla, what)))
    x, attention, weights, lengths, initial = operands("augru", batch=5, steps=THREE_CHUNKS)
    arrays = x, attention, weights, jnp.minimum(lengths, longest), initial
    jax.block_until_ready(evaluate.__wrapped__("augru", "paper", "xla")(*arrays))
    jax.effects_barrier()
    assert ran == dict.fromkeys(ran, expected)


def test_a_batch_without_rows_has_no_states_and_gradients_of_zero():
    states, last, gradients = evaluate("augru", "paper", "xla")(*operands("augru", batch=0))
    assert (states.shape, last.shape) == ((0, 7, 8), (0, 8))
    assert not any(leaf.any() for leaf in jax.tree.leaves(gradients))


def test_vmap_of_whole_batches_is_a_loop():
    """Lengths and weights of their own too."""
    many = [operands("augru", batch=4, steps=THREE_CHUNKS, seed=seed) for seed in range(3)]
    many = [(*one[:3], jnp.minimum(one[3], 15 + number), one[4]) for number, one in enumerate(many)]
    run = evaluate("augru", "paper", "xla")
    found = jax.vmap(run)(*jax.tree.map(lambda *leaves: jnp.stack(leaves), *many))
    for number, one in enumerate(many):
        of_one = jax.tree.map(lambda leaf, k=number: leaf[k], found)
        assert_agree(of_one, run(*one), 2e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": jnp.zeros((3, 5))}, r"x: expected shape \[B, T, D\]"),
        ({"x": jnp.zeros((3, 0, 5))}, r"x: expected shape \[B, T, D\]"),
        ({"x": jnp.zeros((3, 7, 5), jnp.int32)}, "x: expected float32 or bfloat16, got int32"),
        ({"attention": jnp.zeros((3, 6))}, r"attention: expected shape \(3, 7\), got \(3, 6\)"),
        ({"attention": None}, r"attention: expected an array of shape \(3, 7\), got a NoneType"),
        ({"lengths": jnp.zeros(2, jnp.int32)}, r"lengths: expected shape \(3,\)"),
        ({"lengths": jnp.zeros(3)}, "lengths: expected integers, got float32"),
        ({"lengths": [1, 2, 3]}, r"lengths: expected an array of shape \(3,\), got a list"),
        ({"initial_state": jnp.zeros((3, 9))}, r"initial_state: expected shape \(3, 8\)"),
        ({"form": "book"}, "form: expected one of"),
        ({"implementation": "cudnn"}, "implementation: expected one of"),
        ({"implementation": "mosaic_gpus"}, r"did you mean 'mosaic_gpu'\?"),
        ({"weights": operands("augru", hidden=0)[2], "implementation": "native"},
         r"weights.recurrent: expected shape \[H, G, H\] with H >= 1, got \(0, 3, 0\)"),
        ({"weights": tuple(operands("augru")[2])}, "weights: expected dien_kernels.Weights"),
        ({"weights": operands("agru")[2]}, r"weights.input: expected shape \(5, 3, 8\)"),
        ({"weights": operands("augru", biased=True)[2], "form": "authors"},
         r"weights.recurrent_bias: expected None"),
    ],
)  # fmt: skip
def test_a_wrong_argument_is_named(change, message):
    names = ("x", "attention", "weights", "lengths", "initial_state")
    with pytest.raises(ValueError, match=message):
        augru(**(dict(zip(names, operands("augru"), strict=True)) | change))
