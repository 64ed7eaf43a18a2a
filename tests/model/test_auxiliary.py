"""The auxiliary loss in blocks is the auxiliary loss, gradients included."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dien_jax.model import auxiliary
from dien_jax.model.auxiliary import (
    AuxiliaryNetwork,
    auxiliary_loss,
    auxiliary_weights,
    weighted_loss,
)

B, S, H, D, N = 5, 6, 4, 3, 2


@pytest.mark.parametrize("block", [7, 10, 1000])
@pytest.mark.parametrize("columns", [1, 2])
@pytest.mark.parametrize("mean", ["live", "all"])
def test_value_and_gradients_do_not_depend_on_blocks(monkeypatch, block, columns, mean):
    """Blocks that divide the thirty positions, that do not, and a single one."""
    monkeypatch.setattr(auxiliary, "CPU_BLOCK", block)
    rng = np.random.default_rng(0)
    states = jnp.asarray(rng.normal(size=(B, S, H)), jnp.float32)
    behaviours = jnp.asarray(rng.normal(size=(1 + N, B, S, D)), jnp.float32)
    positions = jnp.asarray(rng.random((B, S)) < 0.7)
    valid = jnp.asarray(rng.random((B, S, N)) < 0.8)
    rows = jnp.array([1.0, 1, 1, 0, 1])
    positions = positions & (rows > 0)[:, None]
    network = AuxiliaryNetwork((8, 5), columns)
    params = network.init(jax.random.key(0), states, behaviours)["params"]

    def plain(params, states, behaviours):
        logits = network.apply({"params": params}, states, behaviours)
        sampled = jnp.moveaxis(logits[1:], 0, -1)
        return 3 * auxiliary_loss(logits[0], sampled, positions, valid, mean=mean, weights=rows)

    def blocked(params, states, behaviours):
        of_real, of_sampled = auxiliary_weights(positions, valid, mean=mean, weights=rows)
        weights = jnp.concatenate([of_real[None], jnp.moveaxis(of_sampled, -1, 0)])
        return 3 * weighted_loss(network, params, states, behaviours, weights)

    expected = jax.jit(jax.value_and_grad(plain, (0, 1, 2)))(params, states, behaviours)
    found = jax.jit(jax.value_and_grad(blocked, (0, 1, 2)))(params, states, behaviours)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6, rtol=1e-5),
                 found, expected)  # fmt: skip
    np.testing.assert_allclose(blocked(params, states, behaviours), expected[0], rtol=1e-5)


def test_no_activation_of_all_positions_is_kept():
    """The compiled program has room for one block's activations, not for everyone's."""
    positions, width = 20 * auxiliary.CPU_BLOCK, 100
    network = AuxiliaryNetwork((width, 50), 1)
    shapes = ((1, positions, 8), (2, 1, positions, 8), (2, 1, positions))
    states, behaviours, weights = (jnp.zeros(shape) for shape in shapes)
    params = network.init(jax.random.key(0), states[:, :1], behaviours[:, :, :1])["params"]
    step = jax.jit(jax.grad(lambda *a: weighted_loss(network, *a, weights), (0, 1, 2)))
    memory = step.lower(params, states, behaviours).compile().memory_analysis()
    assert memory.temp_size_in_bytes < 2 * positions * width * 4
