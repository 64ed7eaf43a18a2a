"""Attention of a candidate over interest states"""

import functools
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from dien_jax.config.settings import ModelConfig
from dien_jax.model.activations import PReLU, sigmoid

CHUNK = 32
"""Candidates whose attention is computed together: more would leave the processor's cache."""


def masked_softmax(scores: Float[Array, "B T"], lengths: Int[Array, " B"]) -> Float[Array, "B T"]:
    """Softmax over live steps; dead steps, and whole rows of length 0, are exactly 0."""
    steps = jnp.arange(scores.shape[1], dtype=lengths.dtype)
    live = steps[None, :] < lengths[:, None]
    highest = jnp.where(live, scores, -jnp.inf).max(-1, keepdims=True)
    highest = jax.lax.stop_gradient(jnp.where(jnp.isfinite(highest), highest, 0))
    powers = jnp.where(live, jnp.exp(jnp.where(live, scores - highest, 0)), 0)
    return powers / jnp.maximum(powers.sum(-1, keepdims=True), jnp.finfo(scores.dtype).tiny)


class MLPAttention(nn.Module):
    """Attention weights of every interest state for a candidate, scored by an MLP.

    With q = PReLU(Dense(candidate)) the score of state h is an MLP of [q, h, q - h, q o h] with
    sigmoid activations and a linear end; weights are the softmax over live steps. The first
    layer is evaluated as ``q (W_q + W_d) + h (W_h - W_d) + (q o h) W_p``: its share in q is
    computed once a row, not once a step.

    Attributes:
      layers: hidden layer sizes.
      projects_query: False, as in DIN, takes the candidate itself for q; it is then as wide as a
        state.

    Source: the paper's authors' program; Zhou et al., KDD 2018 (arXiv:1706.06978).
    """

    layers: Sequence[int] = (80, 40)
    projects_query: bool = True

    @nn.compact
    def __call__(
        self,
        candidate: Float[Array, "B Q"],
        states: Float[Array, "B T H"],
        lengths: Int[Array, " B"],
    ) -> Float[Array, "B T"]:
        """Weights that sum to 1 over the live steps of each row, or are all 0 at length 0."""
        hidden = states.shape[-1]
        query = candidate
        if self.projects_query:
            projected = nn.Dense(hidden, dtype=candidate.dtype, name="query")(candidate)
            query = PReLU(name="query_activation")(projected)
        first = self.layers[0]
        kernel = self.param("kernel", nn.initializers.glorot_uniform(), (4 * hidden, first))
        bias = self.param("bias", nn.initializers.zeros, (first,))
        of_query, of_state, of_difference, of_product = jnp.split(kernel.astype(states.dtype), 4)
        per_row = query @ (of_query + of_difference) + bias.astype(states.dtype)[None, :]
        per_step = states @ (of_state - of_difference) + (states * query[:, None]) @ of_product
        value = sigmoid(per_step + per_row[:, None])
        for index, size in enumerate(self.layers[1:], start=1):
            value = sigmoid(nn.Dense(size, dtype=value.dtype, name=f"layer_{index}")(value))
        scores = nn.Dense(1, dtype=value.dtype, name="score")(value)[..., 0]
        return masked_softmax(scores.astype(jnp.float32), lengths)


class BilinearAttention(nn.Module):
    """Attention weights by a bilinear form: the softmax of ``h_t W q`` over live steps.

    Source: Zhou et al., AAAI 2019, eq. 8 (arXiv:1809.03672).
    """

    @nn.compact
    def __call__(
        self,
        candidate: Float[Array, "B Q"],
        states: Float[Array, "B T H"],
        lengths: Int[Array, " B"],
    ) -> Float[Array, "B T"]:
        """Weights that sum to 1 over the live steps of each row, or are all 0 at length 0."""
        turned = nn.Dense(states.shape[-1], use_bias=False, dtype=candidate.dtype, name="form")(
            candidate
        )
        scores = jnp.einsum("bth,bh->bt", states, turned)
        return masked_softmax(scores.astype(jnp.float32), lengths)


def attention_scores(
    config: ModelConfig, params: Any, candidates: Float[Array, "N Q"], states: Float[Array, "T H"]
) -> Float[Array, "N T"]:
    """Scores of all states for each candidate, up to a constant that the softmax removes."""
    if config.attention == "bilinear":
        return (candidates @ params["form"]["kernel"]) @ states.T
    query = candidates
    if config.extractor == "gru":  # as wide as a state otherwise
        query = query @ params["query"]["kernel"] + params["query"]["bias"][None]
        alpha = params["query_activation"]["alpha"][None]
        query = jnp.where(query > 0, query, alpha * query)
    score = functools.partial(_mlp_scores, params, _with_ones(states))
    rows = query.shape[0]
    if rows <= CHUNK:
        return score(query)
    scores = jax.lax.map(score, query.reshape(-1, CHUNK, query.shape[1]))
    return scores.reshape(rows, -1)


def _mlp_scores(
    params: Any, states: Float[Array, "T G"], query: Float[Array, "N H"]
) -> Float[Array, "N T"]:
    steps, rows = states.shape[0], query.shape[0]
    of_query, of_state, of_difference, of_product = jnp.split(params["kernel"], 4)
    per_row = query @ (of_query + of_difference) + params["bias"][None]
    # [N, G, K]: the first layer as the states see it, a matrix for each candidate.
    seen = (of_state - of_difference)[None] + query[:, :, None] * of_product[None]
    first = 0.5 * jnp.concatenate([seen, per_row[:, None]], axis=1)
    matrix = first.swapaxes(0, 1).reshape(first.shape[1], -1)
    value = jnp.tanh((states @ matrix).reshape(steps * rows, -1))
    names = sorted((name for name in params if name.startswith("layer_")), key=_number)
    for name in names:
        kernel, bias = params[name]["kernel"], params[name]["bias"]
        value = jnp.tanh(value @ (0.25 * kernel) + (0.25 * kernel.sum(0) + 0.5 * bias)[None])
    scores = (value * (0.5 * params["score"]["kernel"][:, 0])[None]).sum(-1)
    return scores.reshape(steps, rows).T


def _number(name: str) -> int:
    return int(name.removeprefix("layer_"))


def _with_ones(rows: Float[Array, "T H"]) -> Float[Array, "T G"]:
    return jnp.concatenate([rows, jnp.ones_like(rows[:, :1])], axis=1)
