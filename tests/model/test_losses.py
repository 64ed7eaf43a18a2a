"""The losses against their definitions, written out."""

import jax
import jax.numpy as jnp
import numpy as np

from dien_jax.model.auxiliary import auxiliary_loss, auxiliary_positions
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
