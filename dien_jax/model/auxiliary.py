"""The auxiliary loss with its network, evaluated and differentiated block by block.

The loss is a sum over positions whose weights are known beforehand, so a block of positions gives
its share of the loss and of every gradient at once, while its activations are in the processor's
cache. No activation is kept for a backward pass, which only scales the gradients.

Dimensions: B examples, S positions with a next one, N sampled negatives, K = 1 + N behaviours a
position, P = B S positions, D item embedding, H hidden.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from dien_jax.model.activations import as_logit, sigmoid

CPU_BLOCK = 1280
"""Positions of a block: some hundred kilobytes a layer."""

BLOCK = 65_536
"""On other devices: large enough for matmuls, small enough for long histories."""


class Network(NamedTuple):
    """The attributes of an :class:`AuxiliaryNetwork`."""

    layers: tuple[int, ...]
    columns: int


def weighted_loss(
    network: Network,
    params: Any,
    states: Float[Array, "B S H"],
    behaviours: Float[Array, "K B S D"],
    weights: Float[Array, "K B S"],
) -> Float[Array, ""]:
    """Cross-entropy of telling behaviours, the first real and the others sampled, in nats.

    With logits l of the network: the sum of ``weights[0] softplus(-l[0])`` and of
    ``weights[k] softplus(l[k])``. See :func:`dien_jax.model.auxiliary.auxiliary_weights`.

    Args:
      network: which network.
      params: its parameters.
      states: interest states.
      behaviours: what follows each state, then what was sampled instead.
      weights: of each position; gradients do not flow to them.
    """
    flat = (
        states.reshape(-1, states.shape[-1]),
        behaviours.reshape(behaviours.shape[0], -1, behaviours.shape[-1]),
        jax.lax.stop_gradient(weights.reshape(weights.shape[0], -1)),
    )
    return _loss(network, params, *flat)


def normalising(
    params: Any,
    of_state: tuple[Float[Array, " H"], Float[Array, " H"]],
    of_behaviour: tuple[Float[Array, " D"], Float[Array, " D"]],
) -> Any:
    """Parameters of a network that scales and shifts what it reads, then is as before.

    The first layer is linear in both, so no normalised copy of all positions is made.

    Args:
      params: of an :class:`AuxiliaryNetwork`.
      of_state: scale and shift of the columns of states.
      of_behaviour: scale and shift of the columns of behaviours.
    """
    state, behaviour = params["state"], params["behaviour"]
    shifted = of_state[1] @ state["kernel"] + of_behaviour[1] @ behaviour["kernel"]
    return {
        **params,
        "state": {
            "kernel": of_state[0][:, None] * state["kernel"],
            "bias": state["bias"] + shifted,
        },
        "behaviour": {"kernel": of_behaviour[0][:, None] * behaviour["kernel"]},
    }


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _loss(
    network: Network,
    params: Any,
    states: Float[Array, "P H"],
    behaviours: Float[Array, "K P D"],
    weights: Float[Array, "K P"],
) -> Float[Array, ""]:
    return _of_block(network, params, states, behaviours, weights)


def _of_block(
    network: Network, params: Any, states: jax.Array, behaviours: jax.Array, weights: jax.Array
) -> jax.Array:
    module = AuxiliaryNetwork(*network, parent=None)
    logits = module.apply({"params": params}, states, behaviours)
    assert isinstance(logits, jax.Array)
    real, sampled = jax.nn.softplus(-logits[0]), jax.nn.softplus(logits[1:])
    return (weights[0] * real).sum() + (weights[1:] * sampled).sum()


def _with_gradients(
    network: Network, block: int, params: Any, *arrays: jax.Array
) -> tuple[jax.Array, tuple]:
    """The loss and its gradients for parameters, states and behaviours."""
    both = functools.partial(_of_block, network)
    differentiated = jax.value_and_grad(both, argnums=(0, 1, 2))
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

    def one(totals: tuple, parts: tuple) -> tuple[tuple, tuple]:
        loss, (d_params, d_states, d_behaviours) = differentiated(params, *parts)
        return jax.tree.map(jnp.add, totals, (loss, d_params)), (d_states, d_behaviours)

    start = (jnp.zeros((), weights.dtype), jax.tree.map(jnp.zeros_like, params))
    parts = (split(states, 0), split(behaviours, 1), split(weights, 1))
    (loss, d_params), (d_states, d_behaviours) = jax.lax.scan(one, start, parts)
    d_states = d_states.reshape(-1, states.shape[-1])[:positions]
    joined = jnp.moveaxis(d_behaviours, 0, 1)
    d_behaviours = joined.reshape(len(behaviours), -1, behaviours.shape[-1])[:, :positions]
    return loss, (d_params, d_states, d_behaviours)


def _forward(network: Network, *arguments: Any) -> tuple[jax.Array, tuple]:
    by_platform: Callable[..., Any] = functools.partial(
        jax.lax.platform_dependent,
        cpu=functools.partial(_with_gradients, network, CPU_BLOCK),
        default=functools.partial(_with_gradients, network, BLOCK),
    )
    loss, gradients = by_platform(*arguments)
    return loss, (gradients, arguments[-1])


def _backward(network: Network, saved: tuple, d_loss: jax.Array) -> tuple[Any, ...]:
    gradients, weights = saved
    scaled = jax.tree.map(lambda array: d_loss.astype(array.dtype) * array, gradients)
    return (*scaled, jnp.zeros_like(weights))


_loss.defvjp(_forward, _backward)


class AuxiliaryNetwork(nn.Module):
    """Logit that a behaviour follows an interest state: an MLP of [state, behaviour].

    The state's share of the first layer is computed once and serves the real behaviour and all
    sampled ones.

    Attributes:
      layers: hidden layer sizes.
      columns: of the last layer: 1, or a softmax's 2.
    """

    layers: Sequence[int] = (100, 50)
    columns: int = 1

    @nn.compact
    def __call__(
        self, states: Float[Array, "*R H"], behaviours: Float[Array, "K *R D"]
    ) -> Float[Array, "K *R"]:
        """Logits of K candidate behaviours for each state."""
        dtype = states.dtype
        of_state = nn.Dense(self.layers[0], dtype=dtype, name="state")(states)
        of_behaviour = nn.Dense(self.layers[0], use_bias=False, dtype=dtype, name="behaviour")(
            behaviours
        )
        value = sigmoid(of_state[None] + of_behaviour)
        for index, size in enumerate(self.layers[1:], start=1):
            value = sigmoid(nn.Dense(size, dtype=dtype, name=f"layer_{index}")(value))
        scores = nn.Dense(self.columns, dtype=dtype, name="score")(value)
        return as_logit(scores.astype(jnp.float32))


def auxiliary_positions(
    lengths: Int[Array, " B"], weights: Float[Array, " B"], steps: int
) -> Bool[Array, "B S"]:
    """Positions t whose state has a real next behaviour to tell: ``t + 1 < length``."""
    following = jnp.arange(1, steps, dtype=lengths.dtype)
    return (following[None, :] < lengths[:, None]) & (weights[:, None] > 0)


def auxiliary_weights(
    positions: Bool[Array, "B S"],
    negative_is_valid: Bool[Array, "B S N"],
    *,
    mean: Literal["live", "all"] = "live",
    weights: Float[Array, " B"],
) -> tuple[Float[Array, "B S"], Float[Array, "B S N"]]:
    """What each real behaviour and each sampled one weighs in the auxiliary loss.

    Args:
      positions: live positions, see :func:`auxiliary_positions`; others weigh 0.
      negative_is_valid: False where a sample is the positive itself; such a one weighs 0.
      mean: ``"live"`` averages over live positions. ``"all"`` divides by all positions of real
        rows, padding included, as the paper's authors' program does, which makes the loss
        depend on how far a batch is padded.
      weights: 0 for filler rows.

    Returns:
      Two sets of weights, each of sum 1 (less with ``"all"``, 0 without a position).
    """
    one = positions.astype(weights.dtype)
    valid = one[..., None] * negative_is_valid.astype(weights.dtype)
    if mean == "all":
        everywhere = jnp.maximum(weights.sum(), 1) * max(positions.shape[1], 1)
        return one / everywhere, valid / (everywhere * valid.shape[2])
    return one / jnp.maximum(one.sum(), 1), valid / jnp.maximum(valid.sum(), 1)


def auxiliary_loss(
    positive_logits: Float[Array, "B S"],
    negative_logits: Float[Array, "B S N"],
    positions: Bool[Array, "B S"],
    negative_is_valid: Bool[Array, "B S N"],
    *,
    mean: Literal["live", "all"] = "live",
    weights: Float[Array, " B"],
) -> Float[Array, ""]:
    """How badly interest states tell the next behaviour from sampled ones, in nats.

    With p the logit of the next real behaviour and n_k those of N sampled ones::

        L = mean(softplus(-p)) + mean(softplus(n_k))

    Args:
      positive_logits: of behaviour t + 1 given state t.
      negative_logits: of the sampled behaviours given the same state.
      positions: which count, and for how much: these four see :func:`auxiliary_weights`.
      negative_is_valid: see there.
      mean: see there.
      weights: see there.

    Returns:
      The loss; 0 where there is no position at all.

    Source: Zhou et al., AAAI 2019, eq. 6 (arXiv:1809.03672).
    """
    of_real, of_sampled = auxiliary_weights(
        positions, negative_is_valid, mean=mean, weights=weights
    )
    real = of_real * jax.nn.softplus(-positive_logits)
    return real.sum() + (of_sampled * jax.nn.softplus(negative_logits)).sum()
