"""The auxiliary loss, also in blocks, and the click losses against their definitions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from dien_kernels import xla_networks

from dien_jax.model.auxiliary import (
    AuxiliaryNetwork,
    auxiliary_positions,
    auxiliary_weights,
    weighted_loss,
)
from dien_jax.steps import click_loss, halved_click_loss


def sigma(value):
    return 1 / (1 + np.exp(-np.asarray(value, np.float64)))


def test_click_loss_is_the_weighted_cross_entropy() -> None:
    logits, labels = jnp.array([0.5, -2.0, 3.0]), jnp.array([1.0, 0.0, 0.0])
    weights = jnp.array([1.0, 1.0, 0.0])
    p = sigma(logits)
    expected = -(np.log(p[0]) + np.log(1 - p[1])) / 2
    np.testing.assert_allclose(click_loss(logits, labels, weights), expected, rtol=1e-6)
    np.testing.assert_allclose(halved_click_loss(logits, labels, weights), expected / 2, rtol=1e-5)


def test_click_losses_are_finite_for_logits_that_saturate_and_0_for_filler_alone() -> None:
    logits, labels = jnp.array([1e4, -1e4]), jnp.array([0.0, 1.0])
    ones, zeros = jnp.ones(2), jnp.zeros(2)
    assert click_loss(logits, labels, ones) == 1e4
    assert np.isfinite(jax.grad(click_loss)(logits, labels, ones)).all()
    assert np.isfinite(halved_click_loss(logits, labels, ones))
    assert click_loss(ones, zeros, zeros) == halved_click_loss(ones, zeros, zeros) == 0


def test_lengths_of_8_bits_mark_the_positions_of_longer_histories() -> None:
    lengths = jnp.array([5, 100], jnp.int8)
    assert auxiliary_positions(lengths, jnp.ones(2), steps=300).sum(1).tolist() == [4, 99]


def loss_of(logits, counted, weights, *options):
    """The auxiliary loss of logits ``[K, B, S]``, the real behaviours' first."""
    signs = jnp.ones(len(logits)).at[0].set(-1)[:, None, None]
    return (auxiliary_weights(counted, weights, *options) * jax.nn.softplus(signs * logits)).sum()


def test_auxiliary_loss_is_the_mean_over_what_counts() -> None:
    positive = [[0.3, -1.0], [2.0, 50.0]]
    negative = [[[0.1, 1.0], [-3.0, 60.0]], [[-0.2, 7.0], [0.0, 70.0]]]
    counted = jnp.array([[[1, 1], [1, 0]], [[1, 1], [1, 0]], [[1, 0], [1, 0]]], bool)
    filler = ((0, 0), (0, 1), (0, 0))
    logits, counted = (
        jnp.pad(each, filler) for each in (jnp.array([positive, *negative]), counted)
    )
    weights = jnp.array([1.0, 1.0, 0.0])
    p = sigma([0.3, -1.0, 2.0])
    n = sigma([0.1, -0.2, 1.0, -3.0, 0.0])
    live = -np.log(p).mean() - np.log(1 - n).mean()
    np.testing.assert_allclose(loss_of(logits, counted, weights), live, rtol=1e-6)
    everywhere = -np.log(p).sum() / 4 - np.log(1 - n).sum() / 2 / 4
    np.testing.assert_allclose(loss_of(logits, counted, weights, True), everywhere, rtol=1e-6)


@pytest.mark.parametrize("positions", [0, 2])
@pytest.mark.parametrize("follow_authors", [False, True])
def test_without_a_position_nothing_weighs(positions: int, follow_authors: bool) -> None:
    nowhere = jnp.zeros((2, 1, positions), bool)
    assert not auxiliary_weights(nowhere, jnp.ones(1), follow_authors).any()


S, H, D, N = 6, 4, 3, 2


@pytest.mark.long
@pytest.mark.parametrize(
    ("implementation", "batch", "columns"),
    [("xla", 350, 1), ("xla", 640, 2), ("xla", 5, 2), ("native", 5, 1), ("native", 5, 2)],
)
def test_value_and_gradients_do_not_depend_on_blocks(implementation, batch, columns):
    """Blocks of 1280 that do not divide the positions, that do, and a single one."""
    rng = np.random.default_rng(0)
    states = jnp.asarray(rng.normal(size=(batch, S + 1, H)), jnp.float32)
    history = jnp.asarray(rng.normal(size=(batch, S + 1, D)), jnp.float32)
    sampled = jnp.asarray(rng.normal(size=(N, batch, S, D)), jnp.float32)
    counted, rows = jnp.asarray(rng.random((1 + N, batch, S)) < 0.7), jnp.ones(batch)
    network = AuxiliaryNetwork((8, 5), columns)
    params = jax.jit(network.init)(jax.random.key(0), states[:, :-1], sampled)["params"]

    def plain(params, states, history, sampled):
        behaviours = jnp.concatenate([history[None, :, 1:], sampled])
        logits = network.apply({"params": params}, states[:, :-1], behaviours)
        return 3 * loss_of(logits, counted, rows)

    def blocked(params, states, history, sampled):
        weights = auxiliary_weights(counted, rows)
        return 3 * weighted_loss(params, states, history, sampled, weights, implementation)

    arguments = (params, states, history, sampled)
    expected = jax.jit(jax.value_and_grad(plain, (0, 1, 2, 3)))(*arguments)
    found = jax.jit(jax.value_and_grad(blocked, (0, 1, 2, 3)))(*arguments)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6, rtol=1e-5),
                 found, expected)  # fmt: skip
    np.testing.assert_allclose(jax.jit(blocked)(*arguments), expected[0], rtol=1e-5)


def test_no_activation_of_all_positions_is_kept():
    """The compiled program has room for one block's activations, not for everyone's."""
    positions, width = 20 * xla_networks.CPU_BLOCK, 100
    network = AuxiliaryNetwork((width, 50), 1)
    shapes = (1, positions + 1, 8), (1, positions + 1, 2), (1, 1, positions, 2), (2, 1, positions)
    states, history, sampled, weights = (jnp.zeros(shape) for shape in shapes)
    made = jax.jit(network.init)(jax.random.key(0), states[:, :1], sampled[:, :, :1])
    params = made["params"]
    step = jax.jit(jax.grad(lambda *a: weighted_loss(*a, weights, "xla"), (0, 1, 2, 3)))
    memory = step.lower(params, states, history, sampled).compile().memory_analysis()
    assert memory.temp_size_in_bytes < 2 * positions * width * 4
