"""The auxiliary loss, also in blocks, and the click losses against their definitions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from dien_kernels import xla_networks

from dien_jax.model.auxiliary import (
    AuxiliaryNetwork,
    auxiliary_loss,
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


def test_losses_stay_finite_for_logits_that_saturate() -> None:
    logits, labels = jnp.array([1e4, -1e4]), jnp.array([0.0, 1.0])
    ones = jnp.ones(2)
    assert click_loss(logits, labels, ones) == 1e4
    assert np.isfinite(jax.grad(click_loss)(logits, labels, ones)).all()
    assert np.isfinite(halved_click_loss(logits, labels, ones))


def test_a_batch_of_filler_loses_nothing() -> None:
    zero = jnp.zeros(2)
    assert click_loss(jnp.ones(2), zero, zero) == 0
    assert halved_click_loss(jnp.ones(2), zero, zero) == 0


def test_positions_are_those_with_a_real_next_behaviour() -> None:
    found = auxiliary_positions(jnp.array([4, 2, 1, 0, 4]), jnp.array([1.0, 1, 1, 1, 0]), 4)
    expected = [[1, 1, 1], [1, 0, 0], [0, 0, 0], [0, 0, 0], [0, 0, 0]]
    np.testing.assert_array_equal(found, np.array(expected, bool))


def test_auxiliary_loss_counts_live_positions_and_valid_negatives_only() -> None:
    positive = jnp.array([[0.3, -1.0], [2.0, 50.0]])
    negative = jnp.array([[[0.1, -0.2], [1.0, 7.0]], [[-3.0, 0.0], [60.0, 70.0]]])
    positions = jnp.array([[True, True], [True, False]])
    valid = jnp.array([[[True, True], [True, False]], [[True, True], [True, True]]])
    weights = jnp.ones(2)
    p = sigma([0.3, -1.0, 2.0])
    n = sigma([0.1, -0.2, 1.0, -3.0, 0.0])
    live = -np.log(p).mean() - np.log(1 - n).mean()
    found = auxiliary_loss(positive, negative, positions, valid, weights=weights)
    np.testing.assert_allclose(found, live, rtol=1e-6)
    everywhere = -np.log(p).sum() / 4 - np.log(1 - n).sum() / 2 / 4
    found = auxiliary_loss(positive, negative, positions, valid, mean="all", weights=weights)
    np.testing.assert_allclose(found, everywhere, rtol=1e-6)


def test_auxiliary_loss_without_positions_is_zero_and_flat() -> None:
    nowhere = jnp.zeros((1, 2), bool)

    def loss(positive):
        return auxiliary_loss(
            positive, positive[..., None], nowhere, nowhere[..., None], weights=jnp.ones(1)
        )

    value, gradient = jax.value_and_grad(loss)(jnp.ones((1, 2)))
    assert value == 0
    np.testing.assert_array_equal(gradient, 0)
    empty = jnp.zeros((1, 0))
    assert auxiliary_loss(empty, empty[..., None], empty > 0, empty[..., None] > 0,
                          weights=jnp.ones(1)) == 0  # fmt: skip


B, S, H, D, N = 5, 6, 4, 3, 2


@pytest.mark.long
@pytest.mark.parametrize(
    ("implementation", "block", "columns", "mean"),
    [
        ("xla", 7, 1, "live"),
        ("xla", 10, 2, "all"),
        ("xla", 1000, 2, "live"),
        ("native", 1, 1, "all"),
        ("native", 1, 2, "live"),
    ],
)
def test_value_and_gradients_do_not_depend_on_blocks(
    monkeypatch, implementation, block, columns, mean
):
    """Blocks that divide the thirty positions, that do not, and a single one."""
    monkeypatch.setattr(xla_networks, "CPU_BLOCK", block)
    rng = np.random.default_rng(0)
    states = jnp.asarray(rng.normal(size=(B, S + 1, H)), jnp.float32)
    history = jnp.asarray(rng.normal(size=(B, S + 1, D)), jnp.float32)
    sampled = jnp.asarray(rng.normal(size=(N, B, S, D)), jnp.float32)
    positions = jnp.asarray(rng.random((B, S)) < 0.7)
    valid = jnp.asarray(rng.random((B, S, N)) < 0.8)
    rows = jnp.array([1.0, 1, 1, 0, 1])
    positions = positions & (rows > 0)[:, None]
    network = AuxiliaryNetwork((8, 5), columns)
    params = network.init(jax.random.key(0), states[:, :-1], sampled)["params"]

    def plain(params, states, history, sampled):
        behaviours = jnp.concatenate([history[None, :, 1:], sampled])
        logits = network.apply({"params": params}, states[:, :-1], behaviours)
        sampled = jnp.moveaxis(logits[1:], 0, -1)
        return 3 * auxiliary_loss(logits[0], sampled, positions, valid, mean=mean, weights=rows)

    def blocked(params, states, history, sampled):
        of_real, of_sampled = auxiliary_weights(positions, valid, mean=mean, weights=rows)
        weights = jnp.concatenate([of_real[None], jnp.moveaxis(of_sampled, -1, 0)])
        return 3 * weighted_loss(params, states, history, sampled, weights, implementation)

    arguments = (params, states, history, sampled)
    expected = jax.jit(jax.value_and_grad(plain, (0, 1, 2, 3)))(*arguments)
    found = jax.jit(jax.value_and_grad(blocked, (0, 1, 2, 3)))(*arguments)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6, rtol=1e-5),
                 found, expected)  # fmt: skip
    np.testing.assert_allclose(blocked(*arguments), expected[0], rtol=1e-5)


def test_no_activation_of_all_positions_is_kept():
    """The compiled program has room for one block's activations, not for everyone's."""
    positions, width = 20 * xla_networks.CPU_BLOCK, 100
    network = AuxiliaryNetwork((width, 50), 1)
    shapes = (1, positions + 1, 8), (1, positions + 1, 2), (1, 1, positions, 2), (2, 1, positions)
    states, history, sampled, weights = (jnp.zeros(shape) for shape in shapes)
    params = network.init(jax.random.key(0), states[:, :1], sampled[:, :, :1])["params"]
    step = jax.jit(jax.grad(lambda *a: weighted_loss(*a, weights, "xla"), (0, 1, 2, 3)))
    memory = step.lower(params, states, history, sampled).compile().memory_analysis()
    assert memory.temp_size_in_bytes < 2 * positions * width * 4
