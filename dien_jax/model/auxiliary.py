"""The auxiliary loss: interest states learn to distinguish the next behaviour from sampled ones.

In training, :mod:`dien_kernels` computes the network and the loss.

Dimensions: B examples, T steps, S = T - 1 positions that have a next one, N sampled negatives,
K = 1 + N behaviours per position, D item embedding, H hidden.
"""

from collections.abc import Sequence
from typing import Any, Literal

import dien_kernels
import flax.linen as nn
import jax
import jax.numpy as jnp
from dien_kernels import Dense, NetworkImplementation
from jaxtyping import Array, Bool, Float, Int

from dien_jax.data.tables import is_live
from dien_jax.model.layers import Axis, BatchNorm, as_logit, rescaled, total

AUXILIARY_LAYERS = (100, 50)
"""Sizes of the hidden layers, as in the authors' program."""


def weighted_loss(
    params: Any,
    states: Float[Array, "B T H"],
    history: Float[Array, "B T D"],
    sampled: Float[Array, "N B S D"],
    weights: Float[Array, "K B S"],
    implementation: NetworkImplementation = "auto",
) -> Float[Array, ""]:
    """Return the weighted binary cross-entropy of next and sampled behaviours, in nats.

    With logits l of an :class:`AuxiliaryNetwork` with these parameters, it is the sum of
    ``weights[0] softplus(-l[0])`` and ``weights[k] softplus(l[k])``. The weights, those of
    :func:`auxiliary_weights`, are constants.
    """
    kernel = jnp.concatenate([params["state"]["kernel"], params["behaviour"]["kernel"]])
    hidden = [params[f"layer_{index}"] for index in range(1, len(params) - 2)]
    score, bias = params["score"]["kernel"], params["score"]["bias"]
    if score.shape[1] == 2:  # the logit of a softmax over two columns
        score, bias = score[:, :1] - score[:, 1:], bias[:1] - bias[1:]
    layers = (
        Dense(kernel, params["state"]["bias"]),
        *(Dense(layer["kernel"], layer["bias"]) for layer in hidden),
        Dense(score, bias),
    )
    arrays = states, history, sampled, weights
    return dien_kernels.auxiliary_loss(*arrays, layers, implementation=implementation)


def normalising(
    params: Any,
    state_affine: tuple[Float[Array, " H"], Float[Array, " H"]],
    behaviour_affine: tuple[Float[Array, " D"], Float[Array, " D"]],
) -> Any:
    """Return parameters of an :class:`AuxiliaryNetwork` that first scales and shifts its inputs.

    Scales and shifts are folded into the first layer, so that inputs are not copied.
    """
    state, behaviour = params["state"], params["behaviour"]
    shifted = state_affine[1] @ state["kernel"] + behaviour_affine[1] @ behaviour["kernel"]
    state_kernel = state_affine[0][:, None] * state["kernel"]
    behaviour_kernel = behaviour_affine[0][:, None] * behaviour["kernel"]
    scaled_state = {"kernel": state_kernel, "bias": state["bias"] + shifted}
    return {**params, "state": scaled_state, "behaviour": {"kernel": behaviour_kernel}}


class AuxiliaryNetwork(nn.Module):
    """Logit that a behaviour follows an interest state: an MLP of [state, behaviour].

    The first layer's product with the state is computed once for real and sampled behaviours.

    >>> import jax, jax.numpy as jnp
    >>> from dien_jax.model import AuxiliaryNetwork
    >>> states, behaviours = jnp.ones((4, 9, 6)), jnp.ones((2, 4, 9, 3))
    >>> run = jax.jit(AuxiliaryNetwork().init_with_output)
    >>> logits, _ = run(jax.random.key(0), states, behaviours)
    >>> logits.shape
    (2, 4, 9)

    The last layer has 1 column, or 2 for a softmax.
    """

    layers: Sequence[int] = AUXILIARY_LAYERS
    columns: int = 1

    @nn.compact
    def __call__(
        self, states: Float[Array, "*R H"], behaviours: Float[Array, "K *R D"]
    ) -> Float[Array, "K *R"]:
        """Return logits of K candidate behaviours for each state."""
        dtype = states.dtype
        state_layer = nn.Dense(self.layers[0], dtype=dtype, name="state")
        layer = nn.Dense(self.layers[0], use_bias=False, dtype=dtype, name="behaviour")
        value = jax.nn.sigmoid(state_layer(states)[None] + layer(behaviours))
        for index, size in enumerate(self.layers[1:], start=1):
            value = jax.nn.sigmoid(nn.Dense(size, dtype=dtype, name=f"layer_{index}")(value))
        scores = nn.Dense(self.columns, dtype=dtype, name="score")(value)
        return as_logit(scores.astype(jnp.float32))


class BinaryAuxiliaryLoss(nn.Module):
    """The auxiliary loss of the paper: binary cross-entropy of a network on normalised inputs.

    >>> import jax, jax.numpy as jnp
    >>> from dien_jax.model import BinaryAuxiliaryLoss
    >>> states, history, sampled = jnp.ones((4, 9, 6)), jnp.ones((4, 9, 3)), jnp.ones((1, 4, 8, 3))
    >>> arrays = states, history, sampled, jnp.ones((4, 8), bool), jnp.ones((1, 4, 8), bool)
    >>> run = jax.jit(BinaryAuxiliaryLoss().init_with_output)
    >>> loss, variables = run(jax.random.key(0), *arrays, weights=jnp.ones(4))
    >>> loss.shape, sorted(variables["params"])
    ((), ['network', 'norm_behaviour', 'norm_state'])

    With ``follow_authors``, the mean counts padding, normalisation has constant statistics, and the
    network has two columns, for a softmax. With ``axis``, the mesh axis of the rows, the loss is
    this device's share.

    Source: Zhou et al., AAAI 2019, eq. 6 (arXiv:1809.03672).
    """

    follow_authors: bool = False
    implementation: NetworkImplementation = "auto"
    axis: Axis = None

    def setup(self) -> None:
        kind: Literal["frozen", "running"] = "frozen" if self.follow_authors else "running"
        self.network = AuxiliaryNetwork(columns=2 if self.follow_authors else 1)
        self.norm_state = BatchNorm(kind, self.axis)
        self.norm_behaviour = BatchNorm(kind, self.axis)

    def __call__(
        self,
        states: Float[Array, "B T H"],
        history: Float[Array, "B T D"],
        negatives: Float[Array, "N B S D"],
        positions: Bool[Array, "B S"],
        is_negative: Bool[Array, "N B S"],
        *,
        weights: Float[Array, " B"],
        log_q: Float[Array, "K B S"] | None = None,
        train: bool = False,
    ) -> Float[Array, ""]:
        """Return the loss in nats, before ``auxiliary_weight`` multiplies it.

        Args:
          states: interest states.
          history: embedded behaviours; state t predicts behaviour t + 1.
          negatives: embedded samples for each position.
          positions: positions that count, see :func:`auxiliary_positions`.
          is_negative: False where a sample equals the true behaviour; it does not count.
          weights: 0 for filler rows.
          log_q: ignored; :class:`SoftmaxAuxiliaryLoss` reads it.
          train: normalise by the batch, and update running statistics.
        """
        before, behaviours = states[:, :-1], jnp.concatenate([history[None, :, 1:], negatives])
        if self.is_initializing():
            self.network(before, behaviours)
        counted = jnp.concatenate([positions[None], is_negative & positions[None]])
        state_affine = self.norm_state(before, positions, train=train)
        behaviour_affine = self.norm_behaviour(behaviours, counted, train=train)
        params = normalising(self.network.variables["params"], state_affine, behaviour_affine)
        of_each = auxiliary_weights(counted, weights, self.follow_authors, self.axis)
        return weighted_loss(params, states, history, negatives, of_each, self.implementation)

    def score(
        self, states: Float[Array, "R H"], behaviours: Float[Array, "R D"]
    ) -> Float[Array, " R"]:
        """Return the logit that each behaviour follows its state, with running statistics."""
        live = jnp.ones(states.shape[:1], bool)
        states = rescaled(states, *self.norm_state(states, live, train=False))
        behaviours = rescaled(behaviours, *self.norm_behaviour(behaviours, live, train=False))
        return self.network(states, behaviours[None])[0]


class SoftmaxAuxiliaryLoss(nn.Module):
    """A sampled softmax as auxiliary loss: the next behaviour against N sampled ones.

    With the score ``f(h, x) = (W h + b) . x`` and sampling probabilities q, the loss is the mean
    over positions t of the cross-entropy of ``x_{t+1}`` in the softmax of ``f(h_t, x) - log q(x)``.
    With ``log_q``, f estimates ``log p(x | h) + constant``; without, ``log p(x | h) - log q(x)``.

    >>> import jax, jax.numpy as jnp
    >>> from dien_jax.model import DIEN, SoftmaxAuxiliaryLoss
    >>> network = DIEN(auxiliary=SoftmaxAuxiliaryLoss())
    >>> history, lengths, candidate = jnp.ones((2, 5, 8)), jnp.array([5, 0]), jnp.ones((2, 8))
    >>> inputs = history, lengths, candidate, jnp.ones((3, 2, 4, 8))
    >>> output, variables = jax.jit(network.init_with_output)(jax.random.key(0), *inputs)
    >>> round(float(output.auxiliary_loss), 4)  # log(1 + 3): draws equal to the behaviour
    1.3863

    Inside ``shard_map``, with ``axis`` the mesh axis of the rows, it is this device's share.

    Sources: Bengio and Senecal, 2008 (IEEE TNN 19(4)); Yi et al., RecSys 2019, for log q.
    """

    axis: Axis = None

    @nn.compact
    def query(self, states: Float[Array, "*R H"], size: int) -> Float[Array, "*R D"]:
        """Return ``W h + b``."""
        return nn.Dense(size, dtype=states.dtype, name="query")(states)

    def __call__(
        self,
        states: Float[Array, "B T H"],
        history: Float[Array, "B T D"],
        negatives: Float[Array, "N B S D"],
        positions: Bool[Array, "B S"],
        is_negative: Bool[Array, "N B S"],
        *,
        weights: Float[Array, " B"],
        log_q: Float[Array, "K B S"] | None = None,
        train: bool = False,
    ) -> Float[Array, ""]:
        """Return the loss in nats; arguments are those of :class:`BinaryAuxiliaryLoss`."""
        behaviours = jnp.concatenate([history[None, :, 1:], negatives])
        query = self.query(states[:, :-1], history.shape[-1])
        scores = jnp.einsum("bsd,kbsd->kbs", query, behaviours).astype(jnp.float32)
        if log_q is not None:
            scores = scores - log_q
        scores = scores.at[1:].set(jnp.where(is_negative, scores[1:], -jnp.inf))
        counted = positions.astype(jnp.float32)
        losses = jax.nn.logsumexp(scores, axis=0) - scores[0]
        return (losses * counted).sum() / jnp.maximum(total(counted.sum(), self.axis), 1)

    def score(
        self, states: Float[Array, "R H"], behaviours: Float[Array, "R D"]
    ) -> Float[Array, " R"]:
        """Return the score f of each row's state and behaviour."""
        query = self.query(states, behaviours.shape[-1])
        return (query * behaviours).sum(-1).astype(jnp.float32)


def auxiliary_positions(
    lengths: Int[Array, " B"], weights: Float[Array, " B"], steps: int
) -> Bool[Array, "B S"]:
    """Mark the positions t that have a next behaviour, ``t + 1 < length``, in rows with a weight.

    >>> import jax.numpy as jnp
    >>> from dien_jax.model import auxiliary_positions
    >>> auxiliary_positions(jnp.array([3, 1]), jnp.ones(2), steps=4).tolist()
    [[True, True, False], [False, False, False]]
    """
    return jnp.asarray(is_live(lengths, steps))[:, 1:] & (weights[:, None] > 0)


def auxiliary_weights(
    counted: Bool[Array, "K B S"],
    weights: Float[Array, " B"],
    follow_authors: bool = False,
    axis: Axis = None,
) -> Float[Array, "K B S"]:
    """Return the weights of behaviours in the auxiliary loss, the real ones first.

    The weights of real behaviours sum to 1, and so do those of sampled ones. With
    ``follow_authors`` the divisor is the number of all positions of real rows, padding included.

    Args:
      counted: False for behaviours of weight 0: those outside :func:`auxiliary_positions`, and
        samples that equal the true behaviour.
      weights: 0 for filler rows.
      follow_authors: divide as the program of the paper's authors does.
      axis: mesh axis of the rows; sums are over all devices.
    """
    numbers = counted.astype(weights.dtype)
    real_and_sampled = numbers[:1], numbers[1:]
    if follow_authors:
        everywhere = jnp.maximum(total(weights.sum(), axis), 1) * max(counted.shape[2], 1)
        sums = [everywhere * len(part) for part in real_and_sampled]
    else:
        sums = [jnp.maximum(total(part.sum(), axis), 1) for part in real_and_sampled]
    return jnp.concatenate([part / of for part, of in zip(real_and_sampled, sums, strict=True)])
