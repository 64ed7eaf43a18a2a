"""The jitted parts of :class:`dien_jax.inference.ranker.Ranker`.

Dimensions: U users, N candidates, T steps, H state.
"""

import functools
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from dien_kernels import Weights
from jaxtyping import Array, Float, Int

from dien_jax.config.settings import Config, ModelConfig
from dien_jax.data.schema import FeatureTables, FeatureValues, Schema
from dien_jax.model.attention import attention_scores, masked_softmax
from dien_jax.model.interest import InterestModel


class Interests(NamedTuple):
    """What is known of a history without a candidate.

    Attributes:
      states: ``[T, H]``, what attention weighs.
      last: ``[1, H]`` each, last states of the recurrences over the history.
    """

    states: jax.Array
    last: tuple[jax.Array, ...]


class Programs(NamedTuple):
    """The jitted parts of ranking; each takes the variables and tables first.

    The last two are of several users, who have calls of their own where there are none.
    """

    read: Any
    extend: Any
    score: Any
    read_many: Any = None
    score_many: Any = None


@functools.lru_cache(maxsize=8)
def make_programs(config: Config, schema: Schema) -> Programs:
    """The programs of a model; the same ones, compiled once, for all checkpoints of a model.

    ``read(variables, tables, history [T], length) -> Interests``,
    ``extend(variables, tables, interests, item, length) -> Interests`` and
    ``score(variables, tables, interests, history [T], length, user [1], context, items [N],
    count) -> [N]``, click probabilities of the first ``count`` items. ``read_many`` and
    ``score_many`` are those of :mod:`dien_jax.inference.requests`.
    """
    model = InterestModel(config.model, schema)

    def apply(variables: Any, method: str, *arguments: Any) -> Any:
        return model.apply(variables, *arguments, method=method)

    def read(
        variables: Any, tables: FeatureTables, history: jax.Array, length: jax.Array
    ) -> Interests:
        embedded = apply(variables, "embed_items", jnp.asarray(history)[None], tables)
        states, last = apply(variables, "read", embedded, jnp.asarray(length, jnp.int32)[None])
        return Interests(states[0], last)

    def extend(
        variables: Any,
        tables: FeatureTables,
        interests: Interests,
        item: jax.Array,
        length: jax.Array,
    ) -> Interests:
        embedded = apply(variables, "embed_items", jnp.asarray(item)[None, None], tables)
        one = jnp.ones(1, jnp.int32)
        state, last = apply(variables, "read", embedded, one, interests.last)
        states = jax.lax.dynamic_update_slice_in_dim(interests.states, state[0], length, 0)
        return Interests(states, last)

    def score(
        variables: Any,
        tables: FeatureTables,
        interests: Interests,
        history: jax.Array,
        length: jax.Array,
        user: jax.Array,
        context: dict[str, FeatureValues],
        items: jax.Array,
        count: jax.Array,
    ) -> jax.Array:
        length = jnp.asarray(length, jnp.int32)
        size, steps = items.shape[0], history.shape[0]
        embedded = apply(variables, "embed_items", jnp.asarray(history)[None], tables)
        live = (jnp.arange(steps, dtype=jnp.int32) < length)[None, :, None]
        pooled = apply(variables, "pool", embedded, live, length[None])
        candidates = apply(variables, "embed_items", jnp.asarray(items), tables)
        final = evolve(config.model, variables["params"], candidates, interests.states, length)

        def repeated(row: jax.Array) -> jax.Array:
            return jnp.broadcast_to(row, (size, row.shape[1]))

        of_context = None
        if schema.context:
            of_context = repeated(apply(variables, "embed_context", context))
        logits = apply(
            variables,
            "click_logits",
            repeated(apply(variables, "embed_users", jnp.asarray(user), tables)),
            candidates,
            repeated(pooled),
            final,
            of_context,
            jnp.arange(size) < count,
        )
        return jax.nn.sigmoid(logits)

    return Programs(
        jax.jit(read),
        jax.jit(extend),
        jax.jit(score),
        jax.jit(read_many(read)),
        jax.jit(score_many(score)),
    )


def read_many(read: Callable[..., Any]) -> Callable[..., Any]:
    """``read`` of several users: ``(variables, tables, history [U, T], length [U]) -> U results``.

    The results are apart, as each may be kept for its user.
    """

    def many(variables: Any, tables: Any, history: jax.Array, length: jax.Array) -> tuple:
        found = jax.vmap(read, in_axes=(None, None, 0, 0))(variables, tables, history, length)
        return tuple(
            jax.tree.map(lambda leaf, place=place: leaf[place], found)
            for place in range(len(history))
        )

    return many


def score_many(score: Callable[..., Any]) -> Callable[..., Any]:
    """``score`` of several users: a tuple of U interests, all else stacked; ``[U, N]``."""

    def many(variables: Any, tables: Any, interests: tuple, *others: Any) -> jax.Array:
        together = jax.tree.map(lambda *leaves: jnp.stack(leaves), *interests)
        axes = (None, None, 0, *(0 for _ in others))
        return jax.vmap(score, in_axes=axes)(variables, tables, together, *others)

    return many


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
