"""The jitted parts of :class:`dien_jax.ranker.Ranker`.

Dimensions: U users, N candidates, T steps, H state.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from dien_jax.candidates import evolve
from dien_jax.config import Config
from dien_jax.models import InterestModel
from dien_jax.schema import FeatureTables, FeatureValues, Schema
from dien_jax.user_batches import read_many, score_many


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
    ``score_many`` are those of :mod:`dien_jax.user_batches`.
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
