"""Tables in host memory, of which a call of a jitted function gets the rows that its ids look up.

    take -> the function, on tables with as many rows as the call can look up -> scores

Ids are renumbered in their order, and row 0 stays row 0. The rows that a call takes are as many as
its ids, however few are distinct: a function is compiled as often as for tables on the device.

Dimensions: G histories, T steps, N candidates of each history, V rows of a table, U rows taken of
it, P pairs of values.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, cast

import jax
import numpy as np

from dien_jax.config.settings import Config
from dien_jax.data.batch import Batch
from dien_jax.data.schema import (
    Feature,
    FeatureTables,
    FeatureValues,
    MultiValued,
    Schema,
    ValueStatistics,
    statistics_features,
)
from dien_jax.steps.embedding_rows import Table, large_tables, table_of
from dien_jax.steps.rank import Programs, make_programs

DEVICE_SHARE = 0.5
"""Share of a device's memory that a model may take before ``auto`` leaves tables on the host."""


class Ids(NamedTuple):
    """Rows that a call looks up: of items, int32 ``[G, T]`` and ``[G, N]``, users and context.

    Users and the values of context features may have any dimensions.
    """

    history: np.ndarray
    items: np.ndarray
    user: np.ndarray
    context: dict[str, FeatureValues]


class Taken(NamedTuple):
    """Compact tables, in the place of a model's, and the ids renumbered for them."""

    variables: Any
    features: FeatureTables
    ids: list[Ids]


class _Rows(NamedTuple):
    """Rows taken of a table, int32 ``[U]``: ``distinct`` rising ones from row 0, then filler."""

    read: np.ndarray
    distinct: int


def tables_for_host(schema: Schema) -> frozenset[Table]:
    """Return the tables that ``host`` leaves in host memory.

    They are the large ones, and with the items' table those of all features with statistics, whose
    pairs may be many more than their values.
    """
    tables = large_tables(schema)
    if ("item", schema.item[0].name) in tables:
        tables |= {("item", feature.name) for feature in statistics_features(schema)}
    return tables


def device_bytes() -> int | None:
    """Return the memory of the default device; None where it is the host's, or unknown."""
    device = jax.local_devices()[0]
    if device.platform == "cpu":
        return None
    return (device.memory_stats() or {}).get("bytes_limit")


def place_variables(variables: Any, tables: frozenset[Table]) -> Any:
    """Put parameters and statistics on the device, all but the given tables of NumPy arrays."""

    def place(path: tuple, leaf: Any) -> Any:
        return np.asarray(leaf) if table_of(path) in tables else jax.device_put(leaf)

    return jax.tree_util.tree_map_with_path(place, variables)


def place_features(features: FeatureTables, tables: frozenset[Table]) -> FeatureTables:
    """Put features on the device, all but what has a row for each value of the given tables."""
    placed = {
        group: columns if (group, group) in tables else jax.device_put(columns)
        for group, columns in (("item", features.item), ("user", features.user))
    }
    statistics = {
        name: counts if ("item", name) in tables else jax.device_put(counts)
        for name, counts in features.statistics.items()
    }
    factors = {
        name: of_values._replace(
            row=of_values.row if ("item", name) in tables else jax.device_put(of_values.row),
            vectors=jax.device_put(of_values.vectors),
            scale=jax.device_put(of_values.scale),
        )
        for name, of_values in features.factors.items()
    }
    return FeatureTables(**placed, statistics=statistics, factors=factors)


class HostTables:
    """Tables that stay in host memory, of a model with this schema."""

    def __init__(self, schema: Schema, tables: frozenset[Table]) -> None:
        self._schema, self._tables = schema, tables
        self._places: dict[Any, list[tuple[int, Table]]] = {}

    def take(self, variables: Any, features: FeatureTables, calls: Sequence[Ids]) -> Taken:
        """Take the rows that calls look up, of one function that they share.

        Arrays are those of :func:`place_variables` and :func:`place_features`. Statistics keep the
        pairs of each candidate with the events of its own history.
        """
        rows: dict[Table, _Rows] = {}

        def take(group: str, feature: Feature, ids: list[Any]) -> list[Any]:
            if (group, feature.name) not in self._tables:
                return ids
            arrays = [np.asarray(part) for part in ids]
            rows[group, feature.name], placed = _distinct(arrays, cast(int, feature.size))
            return placed

        def take_values(group: str, feature: Feature, values: list[Any]) -> list[Any]:
            if not isinstance(values[0], MultiValued):
                return values if feature.size is None else take(group, feature, values)
            placed = take(group, feature, [value.values for value in values])
            return [value._replace(values=part) for value, part in zip(values, placed, strict=True)]

        def take_group(
            group: str, members: tuple[Feature, ...], columns: Any, ids: list[Any]
        ) -> tuple[Any, list[Any]]:
            placed = take(group, members[0], ids)
            taken = rows.get((group, members[0].name))
            if taken is None:
                return columns, placed
            values = jax.tree.map(lambda column: column[taken.read], columns)
            return {f.name: take_values(group, f, [values[f.name]])[0] for f in members[1:]}, placed

        history, items = [call.history for call in calls], [call.items for call in calls]
        columns, placed = take_group("item", self._schema.item, features.item, history + items)
        users = [call.user for call in calls]
        of_users, users = take_group("user", self._schema.user, features.user, users)
        context: list[dict[str, Any]] = [{} for _ in calls]
        for feature in self._schema.context if calls[0].context else ():
            values = [call.context[feature.name] for call in calls]
            for of_call, value in zip(
                context, take_values("context", feature, values), strict=True
            ):
                of_call[feature.name] = value

        statistics, factors = dict(features.statistics), dict(features.factors)
        for name in {*statistics, *factors}:
            if (taken := rows.get(("item", name))) is None:
                continue
            if name in factors:
                factors[name] = factors[name]._replace(
                    row=np.asarray(factors[name].row)[taken.read]
                )
            if name in statistics:
                column = None if name == "item" else features.item[name]
                pairs = [
                    ids if column is None else (column[ids[0]], column[ids[1]])
                    for ids in zip(items, history, strict=True)
                ]
                statistics[name] = _take_statistics(statistics[name], taken, pairs)
        return Taken(
            self._take_variables(variables, rows),
            FeatureTables(columns, of_users, statistics, factors),
            [Ids(*parts) for parts in zip(
                placed[: len(calls)], placed[len(calls) :], users, context, strict=True
            )],
        )  # fmt: skip

    def _take_variables(self, variables: Any, rows: dict[Table, _Rows]) -> Any:
        leaves, structure = jax.tree.flatten(variables)
        if structure not in self._places:
            paths = jax.tree_util.tree_flatten_with_path(variables)[0]
            named = [table_of(path) for path, _ in paths]
            self._places[structure] = [
                (place, table) for place, table in enumerate(named) if table in self._tables
            ]
        for place, table in self._places[structure]:
            # A function that looks nothing up in a table never reads it.
            read = rows[table].read if table in rows else np.zeros(1, np.int32)
            leaves[place] = np.take(leaves[place], read, axis=-2)
        return jax.tree.unflatten(structure, leaves)


def with_host_tables(
    make_step: Callable[[Config, Schema], Callable[..., Any]],
    config: Config,
    schema: Schema,
    tables: frozenset[Table],
) -> Callable[..., Any]:
    """Return ``step(params, batch_stats, features, batch, ...)`` for tables in host memory.

    ``make_step(config, schema)`` makes it for tables on the device. Each :class:`Batch` among the
    further arguments looks up rows.
    """
    compiled = make_step(config, schema)
    if not tables:
        return compiled
    host = HostTables(schema, tables)

    def step(params: Any, batch_stats: Any, features: Any, *inputs: Any, **named: Any) -> Any:
        batches = [part for part in inputs if isinstance(part, Batch)]
        calls = [
            Ids(np.asarray(b.history), np.asarray(b.item)[:, None], np.asarray(b.user), b.context)
            for b in batches
        ]
        taken = host.take(params, features, calls)
        renumbered = iter([
            batch._replace(
                history=ids.history, item=ids.items[:, 0], user=ids.user, context=ids.context
            )
            for batch, ids in zip(batches, taken.ids, strict=True)
        ])  # fmt: skip
        inputs = tuple(next(renumbered) if isinstance(part, Batch) else part for part in inputs)
        return compiled(taken.variables, batch_stats, taken.features, *inputs, **named)

    return step


def make_host_programs(config: Config, schema: Schema, tables: frozenset[Table]) -> Programs:
    """Return the programs of :func:`make_programs` for a model with tables in host memory."""
    programs = make_programs(config, schema)
    host = HostTables(schema, tables)
    return programs_of_rows(host, programs, lambda taken: (taken.variables, taken.features))


def programs_of_rows(
    host: HostTables, programs: Programs, first: Callable[[Taken], tuple[Any, ...]]
) -> Programs:
    """Return programs that take rows of ``(variables, features)``, their first arguments.

    ``first`` returns the first arguments of the jitted ``programs`` for the rows taken.
    """
    nobody = np.zeros(0, np.int32)

    def of_history(variables: Any, features: FeatureTables, history: np.ndarray) -> Any:
        items = np.zeros((len(history), 0), np.int32)
        taken = host.take(variables, features, [Ids(history, items, nobody, {})])
        return first(taken), taken.ids[0].history

    def read(variables: Any, features: FeatureTables, history: Any, length: Any) -> Any:
        arguments, rows = of_history(variables, features, np.asarray(history)[None])
        return programs.read(*arguments, rows[0], length)

    def read_many(variables: Any, features: FeatureTables, history: Any, lengths: Any) -> Any:
        arguments, rows = of_history(variables, features, np.asarray(history))
        return programs.read_many(*arguments, rows, lengths)

    def extend(
        variables: Any, features: FeatureTables, interests: Any, item: Any, length: Any
    ) -> Any:
        history = np.full((1, 1), item, np.int32)
        arguments, rows = of_history(variables, features, history)
        return programs.extend(*arguments, interests, rows[0, 0], length)

    def score(variables: Any, features: FeatureTables, interests: Any, *request: Any) -> Any:
        history, length, user, context, items, count = request
        ids = Ids(np.asarray(history)[None], np.asarray(items)[None], user, context)
        taken = host.take(variables, features, [ids])
        [ids] = taken.ids
        request = ids.history[0], length, ids.user, ids.context, ids.items[0], count
        return programs.score(*first(taken), interests, *request)

    def score_many(variables: Any, features: FeatureTables, interests: Any, *requests: Any) -> Any:
        history, lengths, user, context, items, counts = requests
        taken = host.take(variables, features, [Ids(history, items, user, context)])
        [ids] = taken.ids
        requests = ids.history, lengths, ids.user, ids.context, ids.items, counts
        return programs.score_many(*first(taken), interests, *requests)

    if programs.score_many is None:
        return Programs(read, extend, score)
    return Programs(read, extend, score, read_many, score_many)


def _distinct(arrays: list[np.ndarray], size: int) -> tuple[_Rows, list[np.ndarray]]:
    """Return the rows that ids look up in a table, and the place of each id among them.

    They are as many as the ids, at most the whole table.
    """
    ids = np.concatenate([np.zeros(1, np.int32), *(part.reshape(-1) for part in arrays)])
    found, places = np.unique(ids, return_inverse=True)
    read = np.zeros(min(len(ids), size), np.int32)
    read[: len(found)] = found
    parts = np.split(places[1:].astype(np.int32), np.cumsum([part.size for part in arrays])[:-1])
    placed = [part.reshape(ids.shape) for part, ids in zip(parts, arrays, strict=True)]
    return _Rows(read, len(found)), placed


def _take_statistics(
    statistics: ValueStatistics, taken: _Rows, pairs: list[tuple[Any, Any]]
) -> ValueStatistics:
    """Return the counts of the rows taken, and of the pairs of candidates with their events.

    ``pairs`` are values of candidates ``[G, N]`` and of events ``[G, T]``.
    """
    stored = len(statistics.other)
    room = sum(candidates.size * events.shape[1] for candidates, events in pairs)
    kept = np.unique(np.concatenate([_find_pairs(statistics, *values) for values in pairs]))
    distinct = taken.read[: taken.distinct]
    value = np.searchsorted(statistics.offsets, kept, side="right") - 1
    filler = (0, max(min(room, stored), 1) - len(kept))

    def of_pairs(counts: np.ndarray) -> np.ndarray:
        return np.pad(counts[kept], filler)

    return replace(
        statistics,
        count=np.asarray(statistics.count)[taken.read],
        offsets=np.searchsorted(
            np.searchsorted(distinct, value), np.arange(len(taken.read) + 1)
        ).astype(np.int32),
        other=np.pad(np.searchsorted(distinct, statistics.other[kept]).astype(np.int32), filler),
        together=of_pairs(statistics.together),
        before=of_pairs(statistics.before),
        following=of_pairs(statistics.following),
    )


def _find_pairs(
    statistics: ValueStatistics, candidates: np.ndarray, events: np.ndarray
) -> np.ndarray:
    """Return the places of all pairs that are stored, by binary search in the candidates' rows."""
    if not len(statistics.other) or not candidates.size or not events.size:
        return np.zeros(0, np.int64)
    groups, count = candidates.shape
    shape, last = (groups, count, events.shape[1]), len(statistics.other) - 1
    low = np.broadcast_to(statistics.offsets[candidates][..., None], shape)
    end = np.broadcast_to(statistics.offsets[candidates + 1][..., None], shape)
    other, high = np.broadcast_to(events[:, None], shape), end
    for _ in range(int((end - low).max()).bit_length()):
        middle = (low + high) >> 1
        is_below = (low < high) & (statistics.other[np.minimum(middle, last)] < other)
        low, high = np.where(is_below, middle + 1, low), np.where(is_below, high, middle)
    is_found = (low < end) & (statistics.other[np.minimum(low, last)] == other)
    return low[is_found]
