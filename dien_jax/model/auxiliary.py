"""The auxiliary loss with its network, evaluated and differentiated block by block.

A block of positions gives its share of the loss and of every gradient while its activations are
in the processor's cache. No activation is kept for the backward pass, which scales the gradients.

Dimensions: B examples, S positions with a next one, N sampled negatives, K = 1 + N behaviours a
position, P = B S positions, D item embedding, H hidden.
"""

import functools
from collections.abc import Sequence
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from dien_jax.model.activations import as_logit, sigmoid

CPU_BLOCK = 1280
"""Positions of a block on a CPU: some hundred kilobytes a layer."""
BLOCK = 65_536
"""Positions of a block elsewhere: enough for matmuls, few enough for long histories."""


def weighted_loss(
    network: "AuxiliaryNetwork",
    params: Any,
    states: Float[Array, "B S H"],
    behaviours: Float[Array, "K B S D"],
    weights: Float[Array, "K B S"],
) -> Float[Array, ""]:
    """Return the cross-entropy of telling behaviours, the first real, the others sampled, in nats.

    With logits l of the network (which has no parent): the sum of ``weights[0] softplus(-l[0])``
    and ``weights[k] softplus(l[k])``, with constant weights of :func:`auxiliary_weights`.
    """
    flat_states = states.reshape(-1, states.shape[-1])
    flat_behaviours = behaviours.reshape(behaviours.shape[0], -1, behaviours.shape[-1])
    constant = jax.lax.stop_gradient(weights.reshape(weights.shape[0], -1))
    return _loss(network, params, flat_states, flat_behaviours, constant)


def normalising(
    params: Any,
    state_affine: tuple[Float[Array, " H"], Float[Array, " H"]],
    behaviour_affine: tuple[Float[Array, " D"], Float[Array, " D"]],
) -> Any:
    """Return parameters of an :class:`AuxiliaryNetwork` that first scales and shifts its inputs.

    The first layer takes in the two pairs of scale and shift, so no normalised copy is made.
    """
    state, behaviour = params["state"], params["behaviour"]
    shifted = state_affine[1] @ state["kernel"] + behaviour_affine[1] @ behaviour["kernel"]
    state_kernel = state_affine[0][:, None] * state["kernel"]
    behaviour_kernel = behaviour_affine[0][:, None] * behaviour["kernel"]
    scaled_state = {"kernel": state_kernel, "bias": state["bias"] + shifted}
    return {**params, "state": scaled_state, "behaviour": {"kernel": behaviour_kernel}}


def _block_loss(network: "AuxiliaryNetwork", params: Any, *arrays: jax.Array) -> jax.Array:
    states, behaviours, weights = arrays
    logits: Any = network.apply({"params": params}, states, behaviours)
    real, sampled = jax.nn.softplus(-logits[0]), jax.nn.softplus(logits[1:])
    return (weights[0] * real).sum() + (weights[1:] * sampled).sum()


_loss = jax.custom_vjp(_block_loss, nondiff_argnums=(0,))


def _with_gradients(
    network: "AuxiliaryNetwork", block: int, params: Any, *arrays: jax.Array
) -> tuple[jax.Array, tuple]:
    differentiated = jax.value_and_grad(functools.partial(_block_loss, network), argnums=(0, 1, 2))
    states, behaviours, weights = arrays
    positions = len(states)
    count = -(-positions // block)
    if count <= 1:
        return differentiated(params, *arrays)
    size = -(-positions // count)

    def split(array: jax.Array, axis: int) -> jax.Array:
        widths = [(0, 0)] * array.ndim
        widths[axis] = (0, count * size - positions)
        whole = jnp.pad(array, widths)
        shape = (*array.shape[:axis], count, size, *array.shape[axis + 1 :])
        return jnp.moveaxis(whole.reshape(shape), axis, 0)

    def add_block(totals: tuple, parts: tuple) -> tuple[tuple, tuple]:
        loss, (d_params, d_states, d_behaviours) = differentiated(params, *parts)
        return jax.tree.map(jnp.add, totals, (loss, d_params)), (d_states, d_behaviours)

    start = (jnp.zeros((), weights.dtype), jax.tree.map(jnp.zeros_like, params))
    parts = (split(states, 0), split(behaviours, 1), split(weights, 1))
    (loss, d_params), (d_states, d_behaviours) = jax.lax.scan(add_block, start, parts)
    d_states = d_states.reshape(-1, states.shape[-1])[:positions]
    joined = jnp.moveaxis(d_behaviours, 0, 1)
    d_behaviours = joined.reshape(len(behaviours), -1, behaviours.shape[-1])[:, :positions]
    return loss, (d_params, d_states, d_behaviours)


def _forward(network: "AuxiliaryNetwork", *arguments: Any) -> tuple[jax.Array, tuple]:
    cpu, default = (functools.partial(_with_gradients, network, n) for n in (CPU_BLOCK, BLOCK))
    loss, gradients = jax.lax.platform_dependent(*arguments, cpu=cpu, default=default)
    return loss, (gradients, arguments[-1])


def _backward(network: "AuxiliaryNetwork", saved: tuple, d_loss: jax.Array) -> tuple[Any, ...]:
    gradients, weights = saved
    scaled = jax.tree.map(lambda array: d_loss.astype(array.dtype) * array, gradients)
    return (*scaled, jnp.zeros_like(weights))


_loss.defvjp(_forward, _backward)


class AuxiliaryNetwork(nn.Module):
    """Logit that a behaviour follows an interest state: an MLP of [state, behaviour].

    The state's share of the first layer is computed once for the real and all sampled behaviours.

    >>> import jax, jax.numpy as jnp
    >>> from dien_jax.model import AuxiliaryNetwork
    >>> states, behaviours = jnp.ones((4, 9, 6)), jnp.ones((2, 4, 9, 3))
    >>> logits, _ = AuxiliaryNetwork().init_with_output(jax.random.key(0), states, behaviours)
    >>> logits.shape
    (2, 4, 9)

    The last layer has 1 column, or 2 for a softmax.
    """

    layers: Sequence[int] = (100, 50)
    columns: int = 1

    @nn.compact
    def __call__(
        self, states: Float[Array, "*R H"], behaviours: Float[Array, "K *R D"]
    ) -> Float[Array, "K *R"]:
        """Return logits of K candidate behaviours for each state."""
        dtype = states.dtype
        state_layer = nn.Dense(self.layers[0], dtype=dtype, name="state")
        layer = nn.Dense(self.layers[0], use_bias=False, dtype=dtype, name="behaviour")
        value = sigmoid(state_layer(states)[None] + layer(behaviours))
        for index, size in enumerate(self.layers[1:], start=1):
            value = sigmoid(nn.Dense(size, dtype=dtype, name=f"layer_{index}")(value))
        scores = nn.Dense(self.columns, dtype=dtype, name="score")(value)
        return as_logit(scores.astype(jnp.float32))


def auxiliary_positions(
    lengths: Int[Array, " B"], weights: Float[Array, " B"], steps: int
) -> Bool[Array, "B S"]:
    """Return the positions t whose state has a real next behaviour to tell: ``t + 1 < length``.

    >>> import jax.numpy as jnp
    >>> from dien_jax.model import auxiliary_positions
    >>> auxiliary_positions(jnp.array([3, 1]), jnp.ones(2), steps=4).tolist()
    [[True, True, False], [False, False, False]]
    """
    following = jnp.arange(1, steps, dtype=lengths.dtype)
    return (following[None, :] < lengths[:, None]) & (weights[:, None] > 0)


def auxiliary_weights(
    positions: Bool[Array, "B S"],
    negative_is_valid: Bool[Array, "B S N"],
    *,
    mean: Literal["live", "all"] = "live",
    weights: Float[Array, " B"],
) -> tuple[Float[Array, "B S"], Float[Array, "B S N"]]:
    """Return the weights of real and of sampled behaviours in the auxiliary loss.

    Args:
      positions: live positions, see :func:`auxiliary_positions`; others weigh 0.
      negative_is_valid: False where a sample is the positive itself; it weighs 0.
      mean: ``"live"`` gives each set the sum 1. ``"all"`` divides by all positions of real rows,
        padding included, as the paper's authors' program does.
      weights: 0 for filler rows.
    """
    counted = positions.astype(weights.dtype)
    valid = counted[..., None] * negative_is_valid.astype(weights.dtype)
    if mean == "all":
        everywhere = jnp.maximum(weights.sum(), 1) * max(positions.shape[1], 1)
        return counted / everywhere, valid / (everywhere * valid.shape[2])
    return counted / jnp.maximum(counted.sum(), 1), valid / jnp.maximum(valid.sum(), 1)


def auxiliary_loss(
    positive_logits: Float[Array, "B S"],
    negative_logits: Float[Array, "B S N"],
    positions: Bool[Array, "B S"],
    negative_is_valid: Bool[Array, "B S N"],
    *,
    mean: Literal["live", "all"] = "live",
    weights: Float[Array, " B"],
) -> Float[Array, ""]:
    """Return ``mean(softplus(-p)) + mean(softplus(n_k))``, in nats; 0 without a position.

    p is the logit of the next real behaviour given an interest state, n_k are those of N sampled
    ones. :func:`auxiliary_weights` describes the other arguments.

    >>> import jax.numpy as jnp
    >>> from dien_jax.model import auxiliary_loss, auxiliary_positions
    >>> positions = auxiliary_positions(jnp.array([3]), jnp.ones(1), steps=3)
    >>> valid = jnp.ones((1, 2, 1), bool)
    >>> loss = auxiliary_loss(jnp.zeros((1, 2)), jnp.zeros((1, 2, 1)), positions, valid,
    ...                       weights=jnp.ones(1))
    >>> round(float(loss), 4)  # 2 log 2
    1.3863

    Source: Zhou et al., AAAI 2019, eq. 6 (arXiv:1809.03672).
    """
    real, sampled = auxiliary_weights(positions, negative_is_valid, mean=mean, weights=weights)
    loss = (real * jax.nn.softplus(-positive_logits)).sum()
    return loss + (sampled * jax.nn.softplus(negative_logits)).sum()
