"""The recurrence in chunks of time: only those run in which a history is alive."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest
from dien_kernels import augru, chunks, fused
from dien_kernels.backends import xla
from dien_kernels.contract import Plan
from dien_kernels.reference import Inputs
from jax import export
from support.recurrences import (
    CASES,
    assert_agree,
    assert_padding_changes_nothing,
    evaluate,
    operands,
)

pytestmark = pytest.mark.long

fresh = evaluate.__wrapped__


@pytest.fixture(autouse=True)
def short_chunks(monkeypatch) -> None:
    """Seven steps are three chunks of three, the last one padded."""
    monkeypatch.setattr(chunks, "LONGEST_CHUNK", 3)


@pytest.mark.parametrize(
    ("cell", "form", "biased", "longest"),
    [(*case, 4) for case in CASES] + [("augru", "paper", True, longest) for longest in (0, 1, 7)],
)
def test_values_and_gradients_are_the_oracles(cell, form, biased, longest):
    x, attention, weights, lengths, initial = operands(cell, batch=5, biased=biased)
    arrays = (x, attention, weights, jnp.minimum(lengths, longest), initial)
    expected = evaluate(cell, form, "reference")(*arrays)
    assert_agree(fresh(cell, form, "xla")(*arrays), expected, 1e-5)


def test_dead_steps_change_nothing_to_the_bit(monkeypatch):
    monkeypatch.setattr("support.recurrences.evaluate", fresh)
    assert_padding_changes_nothing("augru", "xla")


@pytest.mark.parametrize(("longest", "expected"), [(0, 0), (1, 1), (3, 1), (4, 2), (7, 3)])
def test_only_chunks_with_live_steps_run(longest, expected):
    ran = {"forward": 0, "backward": 0}

    def counting(what):
        def count():
            ran[what] += 1

        def call(*arguments):
            jax.debug.callback(count)
            return getattr(xla, what)(*arguments)

        return call

    backend = dataclasses.replace(
        xla.BACKEND, forward=counting("forward"), backward=counting("backward")
    )
    x, attention, weights, lengths, initial = operands("augru", batch=5)
    lengths = jnp.minimum(lengths, longest)

    def loss(x):
        plan = Plan("augru", "paper", jax.lax.Precision.HIGHEST)
        inputs = Inputs(x, attention, weights, lengths, initial)
        return fused.run(backend, plan, inputs)[0].sum()

    jax.block_until_ready(jax.jit(jax.grad(loss))(x))
    jax.effects_barrier()
    assert ran == {"forward": expected, "backward": expected}


def taken(tree, number):
    return jax.tree.map(lambda leaf: leaf[number], tree)


@pytest.mark.parametrize(
    "axes", [(0, None, None, None, None), (0, 0, None, 0, 0), (0, None, 0, None, None)]
)
def test_vmap_is_a_loop(axes):
    """Over inputs, over whole batches with lengths of their own, and over weights too."""
    many = [operands("augru", batch=4, seed=seed) for seed in range(3)]
    many = [(*one[:3], jnp.minimum(one[3], 2 + number), one[4]) for number, one in enumerate(many)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *many)
    chosen = [
        part if axis == 0 else taken(part, 0) for part, axis in zip(stacked, axes, strict=True)
    ]
    run = fresh("augru", "paper", "xla")
    found = jax.vmap(run, in_axes=axes)(*chosen)
    for number in range(3):
        one = [
            taken(part, number) if axis == 0 else part
            for part, axis in zip(chosen, axes, strict=True)
        ]
        assert_agree(taken(found, number), run(*one), 2e-6)


def test_chunks_cover_all_steps():
    for steps in range(1, 50):
        count, size = chunks._cut(steps)
        assert size <= 3
        assert (count - 1) * size < steps <= count * size
        assert int(chunks._needed(jnp.full(2, steps), count, size)) == count


def test_steps_and_rows_may_be_symbolic():
    """As in an export: one program for any number of rows and of chunks."""
    x, attention, weights, lengths, _ = operands("augru", batch=5)

    def last(x, attention, lengths):
        return augru(x, attention, weights, lengths=lengths, implementation="xla")[1]

    rows, steps = export.symbolic_shape("b, t")
    shapes = [
        jax.ShapeDtypeStruct((rows, steps, x.shape[2]), x.dtype),
        jax.ShapeDtypeStruct((rows, steps), x.dtype),
        jax.ShapeDtypeStruct((rows,), lengths.dtype),
    ]
    exported = export.export(jax.jit(last))(*shapes)
    for size in (1, 3, 4, 7):
        arrays = (x[:, :size], attention[:, :size])
        shorter = jnp.minimum(lengths, size)
        _, expected = augru(*arrays, weights, lengths=shorter, implementation="reference")
        assert_agree(jax.jit(exported.call)(*arrays, shorter), expected, 1e-5)
