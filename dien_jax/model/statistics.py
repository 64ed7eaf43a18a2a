"""Inputs of the tower: counts of training events, similarities and matching attributes.

Counts say how many users chose a value, how many chose two values, and how many in which order.

Dimensions: B rows, T steps, F inputs, S features with statistics.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from dien_jax.data.schema import UNKNOWN, Feature, MultiValued, Schema
from dien_jax.data.tables import (
    OWN_PAIR,
    OWN_VALUE,
    FeatureTables,
    ValueStatistics,
    factor_features,
    statistics_features,
)
from dien_jax.model.factors import factor_names, recency_of, similarities

OF_VALUE = (
    "popularity",
    "repeat_share",
    "lift",
    "most_lift",
    "recent_lift",
    "last_lift",
    "order_lift",
    "most_order_lift",
    "recent_order_lift",
    "last_order_lift",
    "rules",
    "rules_by_root",
    "rules_by_users",
    "history_popularity",
)
"""Inputs of each feature with statistics; see :func:`_of_value`."""
RULE_EVENTS = 10
MATCH = "match"
"""Input of a schema with categorical or multi-valued item features; see :func:`_match`."""


def statistics_names(schema: Schema) -> tuple[str, ...]:
    """Return the names of the F inputs.

    >>> from dien_jax import open_dataset
    >>> from dien_jax.model import statistics_names
    >>> statistics_names(open_dataset("data").schema)[:3]
    ('length', 'item popularity', 'item repeat_share')
    """
    features = [feature.name for feature in statistics_features(schema)]
    match = (MATCH,) if _attributes(schema) else ()
    counts = [f"{feature} {name}" for feature in features for name in OF_VALUE]
    return ("length", *counts, *match, *factor_names(schema))


def statistics_inputs(
    schema: Schema,
    tables: FeatureTables,
    of_candidate: dict[str, Any],
    of_history: dict[str, Any],
    lengths: Int[Array, " H"],
    own: Int[Array, "B S"] | None = None,
    fold: Int[Array, " B"] | None = None,
) -> Float[Array, "B F"]:
    """Return the tower's inputs for each row's candidate and history.

    ``of_candidate`` and ``of_history`` are values of items from
    :func:`dien_jax.model.embeddings.gather`; all candidates may share one history. ``own`` has bits
    of training examples, which exclude an example's own event and its user's later ones from all
    counts. ``fold`` selects tables of factors that exclude the example's user.

    Raises:
      ValueError: the tables have no counts, or lack the factors of a feature.
    """
    if not tables.statistics or {*tables.factors} != {f.name for f in factor_features(schema)}:
        raise ValueError(
            "model.statistics needs the counts and factors of training events in the tables: make "
            "them with feature_tables, or choose ModelConfig(statistics=False)"
        )
    rows, is_shared = of_candidate["item"].shape[0], lengths.shape[0] == 1

    def of_each(name: str, function: Callable[[jax.Array], jax.Array]) -> jax.Array:
        """Apply ``function`` to candidates' values, or to all values if these are fewer."""
        values, size = of_candidate[name], tables.statistics[name].count.shape[0]
        if is_shared and own is None and isinstance(rows, int) and size < rows:
            return function(jnp.arange(size, dtype=values.dtype))[values]
        return function(values)

    def to_rows(values: jax.Array, rows: Any = rows) -> jax.Array:
        return jnp.broadcast_to(values, (rows, *values.shape[1:]))

    def counts(place: int, name: str, values: jax.Array) -> jax.Array:
        count = values.shape[0]
        bits = jnp.zeros_like(values) if own is None else own[:, place].astype(values.dtype)
        history = to_rows(of_history[name], count), to_rows(lengths, count)
        return jnp.stack(_of_value(tables.statistics[name], values, *history, bits), axis=-1)

    def similar(name: str, values: jax.Array) -> jax.Array:
        arrays, of_items = (of_history[name], lengths, fold), name == schema.item[0].name
        return similarities(tables.factors[name], values, *arrays, transitions=of_items)

    parts = [to_rows(jnp.log1p(lengths.astype(jnp.float32))[:, None])]
    names = [feature.name for feature in statistics_features(schema)]
    parts += [of_each(name, partial(counts, place, name)) for place, name in enumerate(names)]
    if attributes := _attributes(schema):
        histories = jax.tree.map(to_rows, of_history)
        parts.append(_match(attributes, of_candidate, histories, to_rows(lengths))[:, None])
    parts += [of_each(name, partial(similar, name)) for name in tables.factors]
    return jnp.concatenate(parts, axis=-1)


def _of_value(
    statistics: ValueStatistics,
    candidate: Int[Array, " B"],
    history: Int[Array, "B T"],
    lengths: Int[Array, " B"],
    own: Int[Array, " B"],
) -> list[Float[Array, " B"]]:
    """Return the inputs ``OF_VALUE`` of one feature.

    n(v) users chose the value v, n(v, w) both values, and m(v, w) v first, of S users. For the
    candidate c and the values h of the history: log(1 + n(c)); the share of h = c; the lift
    log(1 + S n(h, c) / ((1 + n(h)) (1 + n(c)))): its mean, maximum, mean by recency, and that of
    the last event; the same of m(h, c) in place of n(h, c); log(1 + r), log(1 + r (S / (1 +
    n(c)))^(1/2)) and log(1 + r S / (1 + n(c))), where r is the sum over the last ``RULE_EVENTS``
    events of m(h, c) / (1 + n(h))^(1/2), weighted by recency; the mean of log(1 + n(h)). Recency is
    1 for the last event, 1/2 for the one before and so on.

    Source of r: sequential rules, Ludewig and Jannach, UMUAI 2018 (arXiv:1803.09587).
    """
    if not statistics.other.shape[0]:  # a gather needs an entry
        none = np.zeros(1, np.int32)
        statistics = replace(statistics, other=none, together=none, before=none)
    statistics = jax.tree.map(jnp.asarray, statistics)

    def bit(mask: int) -> Float[Array, " B"]:
        return ((own & mask) > 0).astype(jnp.float32)

    age, recency = recency_of(lengths, history.shape[1])
    live = age >= 0
    length = jnp.maximum(lengths, 1).astype(jnp.float32)

    users = statistics.count[candidate].astype(jnp.float32) - bit(OWN_VALUE)
    users_of = jnp.where(live, statistics.count[history].astype(jnp.float32), 0)
    same = (live & (history == candidate[:, None]) & (candidate > 0)[:, None]).astype(jnp.float32)

    place, stored = _find_pairs(statistics, candidate, history)
    together, before = (
        counts[place].astype(jnp.float32) - bit(OWN_PAIR)[:, None]
        for counts in (statistics.together, statistics.before)
    )
    stored &= live & (together >= statistics.least)
    together, before = (jnp.where(stored, counts, 0) for counts in (together, before))
    expected = (users_of + 1) * (users + 1)[:, None]
    recent = jnp.where(age < RULE_EVENTS, recency, 0)
    rules = (before * recent / jnp.sqrt(users_of + 1)).sum(1)
    share = statistics.sequences / (users + 1)

    def lifts(counts: jax.Array) -> list[jax.Array]:
        lift = jnp.log1p(counts * statistics.sequences / expected)
        return [
            lift.sum(1) / length,
            lift.max(1, initial=0),
            (lift * recency).sum(1) / jnp.maximum(recency.sum(1), 1),
            jnp.where(age == 0, lift, 0).sum(1),
        ]

    return [
        jnp.log1p(users),
        same.sum(1) / length,
        *lifts(together),
        *lifts(before),
        *(jnp.log1p(rules * scale) for scale in (1.0, jnp.sqrt(share), share)),
        jnp.log1p(users_of).sum(1) / length,
    ]


def _find_pairs(
    statistics: ValueStatistics, value: Int[Array, " B"], other: Int[Array, "B T"]
) -> tuple[Int[Array, "B T"], Bool[Array, "B T"]]:
    """Return indices of pairs, and whether they exist, by binary search in the value's row."""
    low = jnp.broadcast_to(statistics.offsets[value][:, None], other.shape)
    end = jnp.broadcast_to(statistics.offsets[value + 1][:, None], other.shape)
    last = statistics.other.shape[0] - 1
    select = jax.lax.select

    # A loop compiles in a fraction of the time of unrolled steps. jax2onnx 0.17 converts neither
    # a fori_loop of JAX 0.12 nor, inside a loop, the jitted functions `//` and `jnp.where`.
    def halve(bounds: tuple[jax.Array, jax.Array], _: None) -> tuple[Any, None]:
        low, high = bounds
        middle = (low + high) >> 1
        is_below = (low < high) & (statistics.other[jnp.minimum(middle, last)] < other)
        low, high = select(is_below, middle + 1, low), select(is_below, high, middle)
        return (low, high), None

    (low, _), _ = jax.lax.scan(halve, (low, end), length=statistics.longest.bit_length())
    place = jnp.minimum(low, last)
    return place, (low < end) & (statistics.other[place] == other)


def _attributes(schema: Schema) -> list[Feature]:
    return [feature for feature in schema.item[1:] if feature.size is not None]


def _match(
    attributes: list[Feature],
    candidate: dict[str, Any],
    history: dict[str, Any],
    lengths: Int[Array, " B"],
) -> Float[Array, " B"]:
    """Return the share of the history with the candidate's attributes, weighted by recency.

    It is the mean over attributes of sum_t r_t m_t / sum_t r_t: m_t is the share of the candidate's
    values that event t has, and r_t is 1 for the last event, 1/2 for the one before and so on.
    Unknown values match nothing; for an empty history the result is 0.
    """
    steps = history["item"].shape[1]
    _, weight = recency_of(lengths, steps)
    total = jnp.maximum(weight.sum(1), 1)
    shares = []
    for feature in attributes:
        ours, theirs = candidate[feature.name], history[feature.name]
        if isinstance(ours, MultiValued):
            slots = jnp.arange(ours.values.shape[-1], dtype=jnp.int32)
            has = slots[None, None, :] < jnp.asarray(theirs.count)[..., None]
            matches = jnp.zeros(weight.shape, jnp.float32)
            for slot in range(ours.values.shape[-1]):
                value = jnp.asarray(ours.values)[:, slot]
                known = (slot < jnp.asarray(ours.count)) & (value != UNKNOWN)
                same = (has & (theirs.values == value[:, None, None])).any(-1)
                matches += (same & known[:, None]).astype(jnp.float32)
            matches /= jnp.maximum(jnp.asarray(ours.count), 1).astype(jnp.float32)[:, None]
        else:
            matches = ((theirs == ours[:, None]) & (ours != UNKNOWN)[:, None]).astype(jnp.float32)
        shares.append((matches * weight).sum(1) / total)
    return jnp.stack(shares).mean(0)
