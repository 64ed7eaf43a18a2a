"""The auxiliary loss in blocks is the auxiliary loss, gradients included."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from dien_kernels import xla_networks

from dien_jax.model.auxiliary import (
    AuxiliaryNetwork,
    auxiliary_loss,
    auxiliary_weights,
    weighted_loss,
)

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
