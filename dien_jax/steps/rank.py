"""Jitted programs of ranking: read a history, add an event to it, score candidates against it.

Dimensions: U users, N candidates, T steps, H state.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from dien_jax.config.settings import Config
from dien_jax.data.schema import FeatureValues, Schema
from dien_jax.data.tables import Batch, FeatureTables
from dien_jax.model.click_model import ClickModel
from dien_jax.model.family import cached_by_modules
from dien_jax.model.layers import CALIBRATION, click_probability
from dien_jax.model.shared_history import EncodedHistory

Columns = dict[str, FeatureValues]


class Interests(NamedTuple):
    """States of one history of an :class:`EncodedHistory`."""

    states: Float[Array, "T H"]
    last: tuple[Float[Array, "1 H"], ...]


class Programs(NamedTuple):
    """The jitted programs of ranking. Those of the tower and of several users are None if the model
    has no tower or is exported.
    """

    read: Any
    extend: Any
    score: Any
    tower: Any = None
    tower_of_users: Any = None
    score_of_users: Any = None


@cached_by_modules
def make_programs(config: Config, schema: Schema) -> Programs:
    """Return the programs of a model. They serve all its checkpoints.

    ``read(variables, tables, history [T], length, columns) -> Interests``,
    ``extend(variables, tables, interests, item, length, columns) -> Interests`` and
    ``score(variables, tables, interests, history [T], length, user [1], columns, items [N],
    count) -> [N]``, click probabilities of the first ``count`` items. ``columns`` are features by
    name: those of events with leading dimension T (none for ``extend``) and, for ``score``, those
    of the request with 1 and those of candidates with N. ``variables`` may have a map of logits
    under ``CALIBRATION``. ``tower`` takes the arguments of ``score`` except the interests, and
    returns the tower's logits, which ``score`` accepts as the keyword ``tower``.

    ``tower_of_users`` and ``score_of_users`` do the same for U users, from their histories: they
    take the number of real users, then the other arguments with a leading axis U, and return
    ``[U, N]``.
    """
    model = ClickModel(config.model, schema)

    def of_events(columns: Columns, axes: tuple[None, ...] = ()) -> Columns:
        """Return the features of events, with new leading axes."""
        own = {feature.name: columns[feature.name] for feature in schema.event}
        return jax.tree.map(lambda values: jnp.asarray(values)[axes or ...], own)

    def encode(
        variables: Any,
        tables: FeatureTables,
        items: Array,
        length: Array,
        columns: Columns,
        initial: Any = None,
    ) -> EncodedHistory:
        def method(model: ClickModel) -> EncodedHistory:
            history = model.embed_history(jnp.asarray(items), columns, tables)
            return model.encode_history(history, jnp.asarray(length, jnp.int32), initial)

        return model.apply(variables, method=method)  # type: ignore[return-value]

    def read(
        variables: Any, tables: FeatureTables, history: Array, length: Array, columns: Columns
    ) -> Interests:
        rows = jnp.asarray(history)[None], jnp.asarray(length)[None], of_events(columns, (None,))
        encoded = encode(variables, tables, *rows)
        return Interests(encoded.states[0], encoded.last)

    def extend(
        variables: Any,
        tables: FeatureTables,
        interests: Interests,
        item: Array,
        length: Array,
        columns: Columns,
    ) -> Interests:
        event = jnp.asarray(item)[None, None], jnp.ones(1, jnp.int32)
        of_event = of_events(columns, (None, None))
        encoded = encode(variables, tables, *event, of_event, interests.last)
        states = jax.lax.dynamic_update_slice_in_dim(interests.states, encoded.states[0], length, 0)
        return Interests(states, encoded.last)

    def score(
        variables: Any,
        tables: FeatureTables,
        interests: Interests,
        *request: Any,
        tower: Any = None,
    ) -> Array:
        history, length, _, columns, *_ = request
        batch, real = requested(*request, of_events=of_events)

        def method(model: ClickModel) -> Array:
            rows = model.row_inputs(batch, tables)
            if tower is not None:  # the compiler then drops the model's own terms
                rows = rows._replace(terms=tower[:, None])
            embedded = model.embed_history(jnp.asarray(history), of_events(columns), tables)
            steps = jnp.asarray(length, jnp.int32)
            return model.score_candidates(*interests, embedded, steps, rows, real)

        logits: Any = model.apply(variables, method=method)
        return click_probability(logits, variables.get(CALIBRATION))

    def tower(variables: Any, tables: FeatureTables, *request: Any) -> Array:
        batch, _ = requested(*request, of_events=of_events)
        terms: Any = model.apply(variables, batch, tables, method="tower_terms")
        return terms.sum(1)

    def score_of_users(variables: Any, tables: Any, users: Any, *rows: Any, **known: Any) -> Any:
        history, lengths, _, columns, *_ = rows
        states, last = encode(variables, tables, history, lengths, of_events(columns))[1:]
        interests = Interests(states, tuple(of_users[:, None] for of_users in last))
        return for_each_user(score)(variables, tables, users, interests, *rows, **known)

    programs: Any = [read, extend, score]
    if config.model.statistics:
        programs += [tower, for_each_user(tower), score_of_users]
    return Programs(*map(jax.jit, programs))


def for_each_user(program: Any) -> Any:
    """Return a program for the first of several users, one after another in a single call."""

    def of_users(variables: Any, tables: Any, users: Any, *requests: Any, **known: Any) -> Any:
        def add(place: Array, results: Array) -> Array:
            request, more = jax.tree.map(lambda rows: jnp.asarray(rows)[place], (requests, known))
            return results.at[place].set(program(variables, tables, *request, **more))

        return jax.lax.fori_loop(0, users, add, jnp.zeros(requests[-2].shape))  # of the items

    return of_users


def requested(
    history: Array,
    length: Array,
    user: Array,
    columns: Columns,
    items: Array,
    count: Array,
    *,
    of_events: Callable[..., Columns],
) -> tuple[Batch, Array]:
    """Return a batch of one history and many items, and which of these are real."""
    history, items = jnp.asarray(history), jnp.asarray(items)
    length = jnp.asarray(length, jnp.int32)
    real = jnp.arange(items.shape[0]) < count
    weight = real.astype(jnp.float32)
    columns = {**columns, **of_events(columns, (None,))}
    ids = history[None], length[None], items, jnp.asarray(user)
    return Batch(*ids, weight, weight, columns), real
