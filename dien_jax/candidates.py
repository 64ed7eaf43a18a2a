"""Many candidates that share one history: attention and interest evolution, without copies of it.

The modules of :mod:`dien_jax.layers` take a history for every candidate. Here the states are
there once, and whatever depends on them alone is computed once: their share of attention's first
layer, and their projections into the gates. The same parameters give the same figures, to
float32 rounding; tests hold each member of the family to it. Sizes may be symbolic, as in
:mod:`dien_jax.export`.

Attention's MLP is where most of the time goes: T N rows pass its layers. With ``sigmoid(x) =
(tanh(x / 2) + 1) / 2`` the halves and the ones go into the next layer's weights, as does a bias
into a matmul with a column of ones, so that nothing but matmuls and tanh touches those rows.

Dimensions: N candidates, T steps, H state, G = H + 1, Q width of the query, K hidden units.
"""

import functools
from typing import Any, Literal

import jax
import jax.numpy as jnp
from dien_kernels import Weights
from jaxtyping import Array, Float, Int

from dien_jax.config import ModelConfig
from dien_jax.layers import masked_softmax

CHUNK = 32
"""Candidates whose attention is computed together: more would leave the processor's cache."""


def evolve(
    config: ModelConfig,
    params: Any,
    candidates: Float[Array, "N Q"],
    states: Float[Array, "T H"],
    length: Int[Array, ""],
) -> Float[Array, "N H"] | None:
    """What the interests become for each candidate; None where the model does not use them.

    Args:
      config: of the model.
      params: of the model, all of them.
      candidates: embedded.
      states: what attention weighs, as ``InterestModel.read`` gives it.
      length: live steps.
    """
    if config.evolution == "none":
        return None
    scores = attention_scores(config, params["attention"], candidates, states)
    lengths = jnp.broadcast_to(length, candidates.shape[:1])
    attention = masked_softmax(scores, lengths)
    if config.evolution in ("attention", "gru_attention"):
        return attention @ states
    weights = Weights(**params["evolution"])
    return last_states(config, weights, states, attention, length)


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


def last_states(
    config: ModelConfig,
    weights: Weights,
    states: Float[Array, "T H"],
    attention: Float[Array, "N T"],
    length: Int[Array, ""],
) -> Float[Array, "N H"]:
    """Last state of AIGRU, AGRU or AUGRU over the states, under each candidate's attention.

    The recurrences are those of :mod:`dien_kernels`, in the coefficients of
    :mod:`dien_kernels.contract`, with columns for candidates. Steps past ``length`` are not run.
    """
    precision = jax.lax.Precision[config.recurrence_precision.upper()]
    dot = functools.partial(jnp.dot, precision=precision)
    cell: Literal["aigru", "agru", "augru"] = config.evolution  # type: ignore[assignment]
    authors = config.form == "authors"
    projected = jnp.einsum("td,dgh->tgh", states, weights.input, precision=precision)
    recurrent = weights.recurrent.transpose(1, 2, 0)  # [G, H, H], rows are the next state's
    bias = weights.bias[:, :, None]
    by_time = attention.T

    def step(time: Any, h: jax.Array) -> jax.Array:
        a = by_time[time][None]
        inputs = projected[time][:, :, None]
        inputs = (inputs * a[None] if cell == "aigru" else inputs) + bias
        r = _sigmoid(inputs[0] + dot(recurrent[0], h))
        if authors:
            c = jnp.tanh(inputs[-1] + dot(recurrent[-1], r * h))
        else:
            c = jnp.tanh(inputs[-1] + r * dot(recurrent[-1], h))
        if cell == "agru":
            return h + a * (c - h)
        u = _sigmoid(inputs[1] + dot(recurrent[1], h))
        if cell == "augru":
            strength = 1 - (1 - a) * u if authors else a * u
        else:
            strength = 1 - u if authors else u
        return h + strength * (c - h)

    start = jnp.zeros((config.hidden_size, attention.shape[0]), states.dtype)
    return jax.lax.fori_loop(0, length, step, start).T


def _sigmoid(value: jax.Array) -> jax.Array:
    # One tanh: XLA's CPU backend evaluates its logistic function more slowly.
    return 0.5 * jnp.tanh(0.5 * value) + 0.5
