"""The click model: from ids through embeddings and DIEN, or another network, to a click logit.

Data flow: ids -> embeddings -> :class:`dien_jax.model.DIEN` -> click network -> logit. The model
adds a learned multiple of the auxiliary network's score of the candidate to this logit and, with
statistics, the logit of its :class:`dien_jax.model.Tower`.
``encode_history`` does the work that does not depend on the candidate, ``score_candidates`` the
rest, for many candidates of one history.

Dimensions: B examples, N candidates of one history, T steps, S = T - 1, K auxiliary negatives per
step, D item embedding, U user embedding, C embedding of the other features, H interest state, E
final state, L terms of the tower.
"""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from dien_kernels.checks import refuse
from jaxtyping import Array, Bool, Float, Int

from dien_jax.config.settings import ModelConfig
from dien_jax.data.schema import GROUPS, FeatureValues, Schema
from dien_jax.data.tables import Batch, FeatureTables, is_live
from dien_jax.model.embeddings import (
    EMBEDDING_INITIAL,
    FeatureEmbeddings,
    gather,
    without_own_user,
)
from dien_jax.model.family import make_network
from dien_jax.model.layers import MLP, Axis, as_logit, total
from dien_jax.model.shapes import check_axes
from dien_jax.model.shared_history import EncodedHistory
from dien_jax.model.statistics import statistics_inputs
from dien_jax.model.tower import Tower

COLUMN_GROUPS: tuple[str, ...] = tuple(
    name for name, group in GROUPS.items() if group.axes == "B" and group.source != "id"
)
"""Groups whose embeddings are inputs of the click network as they are."""


class ModelOutput(NamedTuple):
    """Results of one forward pass.

    Without an extractor ``interest_states`` are embeddings, and H is D. ``final_state`` is that of
    interest evolution. ``auxiliary_loss`` is unweighted, and 0 without negatives. ``learned`` is
    the mean squared distance of item embeddings from their initial vectors; 0 outside training.
    """

    logits: Float[Array, " B"]
    auxiliary_loss: Float[Array, ""]
    attention: Float[Array, "B T"] | None
    interest_states: Float[Array, "B T H"]
    final_state: Float[Array, "B E"] | None
    learned: Float[Array, ""]


class RowInputs(NamedTuple):
    """Inputs of the click network other than the history and the final state.

    Attributes:
      candidate, user: embeddings.
      columns: embeddings of the features of the request, and of the candidate as of the request;
        empty for a schema without them.
      terms: terms of the :class:`Tower`; None for a model without ``statistics``.
      learned: squared distance of the candidate's embedding from its initial vector.
    """

    candidate: Float[Array, "B D"]
    user: Float[Array, "B U"]
    columns: tuple[Float[Array, "B C"], ...]
    terms: Float[Array, "B L"] | None
    learned: Float[Array, " B"]


class ClickModel(nn.Module):
    """DIEN or another network of its family, from ids to a click logit.

    >>> import jax
    >>> from dien_jax import Feature, ClickModel, ModelConfig, Schema
    >>> from dien_jax.data import FeatureTables, example_batch
    >>> schema = Schema((Feature("item", "categorical", 9),), (Feature("user", "categorical", 3),))
    >>> inputs = example_batch(schema, batch_size=2), FeatureTables({}, {})
    >>> model = ClickModel(ModelConfig(statistics=False), schema)
    >>> output, variables = jax.jit(model.init_with_output)(jax.random.key(0), *inputs)
    >>> output.logits.shape, sorted(variables)
    ((2,), ['batch_stats', 'params'])

    Inside ``shard_map``, ``axis`` is the mesh axis of the batch. Batch statistics and the divisors
    of losses then cover all devices, and each loss is this device's share. ``initial`` initializes
    embedding tables.

    Source: Zhou et al., AAAI 2019 (arXiv:1809.03672).
    """

    config: ModelConfig
    schema: Schema
    axis: Axis = None
    initial: nn.initializers.Initializer = EMBEDDING_INITIAL

    def setup(self) -> None:
        config, schema = self.config, self.schema
        columns = 2 if config.follow_authors else 1  # of a softmax
        size, initial = config.embedding_size, self.initial
        of_item = config.item_embedding_size
        self.item_embeddings = FeatureEmbeddings(schema.item, size, initial, of_item)
        self.user_embeddings = FeatureEmbeddings(schema.user, size, initial)
        for group in COLUMN_GROUPS:
            if features := getattr(schema, group):
                module = FeatureEmbeddings(features, size, initial)
                setattr(self, f"{GROUPS[group].parameters}_embeddings", module)
        if schema.event:
            whole = (of_item or size) + size * (len(schema.item) - 1)
            self.event_embeddings = FeatureEmbeddings(schema.event, whole, initial)
        self.network = make_network(config, self.axis)
        options = config.activation, config.dropout, config.follow_authors
        # The click network's logit starts at 0, so the model's starts at that of the tower or of
        # the auxiliary network. The click network then learns the residual, and overfits later.
        # A tower's checkpoint has a fresh network, so beside a tower the authors' starts at 0 too.
        zeros, random = nn.initializers.zeros_init(), nn.initializers.lecun_normal()
        start = random if config.follow_authors and not config.statistics else zeros
        self.mlp = MLP(config.layers, *options, self.axis, start)
        self.reads_score = hasattr(self.network.auxiliary, "score") and not config.follow_authors
        if self.reads_score:
            weight = zeros if config.statistics else nn.initializers.ones_init()
            self.score_weight = nn.Dense(1, use_bias=False, kernel_init=weight)
        if config.wide:
            self.linear = nn.Dense(columns, kernel_init=start)
        if config.statistics:
            self.tower = Tower(schema, self.axis)

    def __call__(
        self,
        batch: Batch,
        tables: FeatureTables,
        negatives: Int[Array, "B S K"] | None = None,
        *,
        train: bool = False,
    ) -> ModelOutput:
        """Run one forward pass; ``init`` creates all parameters, with or without negatives.

        Args:
          batch: ids and numbers.
          tables: features of items and users, from :meth:`dien_jax.Dataset.feature_tables` or your
            own.
          negatives: sampled item ids for the behaviours 2 to T; without them the auxiliary loss is
            0.
          train: use batch statistics, and dropout, which needs its random key.

        Raises:
          ValueError: a shape does not fit, or a feature has no table; the message names it.
        """
        check_batch(self.schema, batch, tables, negatives)
        lengths, weights = jnp.asarray(batch.lengths), jnp.asarray(batch.weight)
        history, of_history = self._embed(batch, batch.history, tables)  # [B, T, D], [B, T]
        events = self.embed_events(batch.columns)
        if events is not None:
            history = history + events
        rows = self.row_inputs(batch, tables)
        sampled, is_negative = None, None
        if negatives is not None and self.config.auxiliary_weight:
            sampled, _ = self._embed(batch, negatives, tables)  # [B, S, K, D]
            sampled = jnp.moveaxis(sampled, 2, 0)
            if events is not None:  # of the true event: they must not tell it from a negative
                sampled = sampled + events[None, :, 1:]
            is_negative = jnp.moveaxis(negatives, -1, 0) != jnp.asarray(batch.history)[None, :, 1:]
        output = self.network(
            history,
            lengths,
            rows.candidate,
            sampled,
            is_negative=is_negative,
            weights=weights,
            train=train,
        )
        inputs = rows, self.pool(history, lengths), output.final_state, output.auxiliary_score
        logits = self.click_logits(*inputs, weights > 0, train=train)
        of_rows = mean_event(of_history[..., None], lengths)[:, 0]
        learned = ((rows.learned + of_rows) * weights).sum()
        learned = learned / jnp.maximum(total(weights.sum(), self.axis), 1)
        loss, attention = output.auxiliary_loss, output.attention
        return ModelOutput(logits, loss, attention, output.interests, output.final_state, learned)

    def embed_history(
        self, ids: Int[Array, "*R"], columns: dict[str, FeatureValues], tables: FeatureTables
    ) -> Float[Array, "*R D"]:
        """Return embedded events, of the rows of their items and the features of ``columns``.

        The features of an item are embedded and concatenated; those of its event are each embedded
        in as many dimensions, and added.
        """
        embedded = self.item_embeddings(gather(ids, tables.item, "item"))
        embedded, events = embedded.astype(self.config.compute), self.embed_events(columns)
        return embedded if events is None else embedded + events

    def embed_events(self, columns: dict[str, FeatureValues]) -> Float[Array, "*R D"] | None:
        """Return the sum of the embedded features of events; None for a schema without any."""
        if not self.schema.event:
            return None
        embedded = self.event_embeddings(columns)
        split = embedded.reshape(*embedded.shape[:-1], len(self.schema.event), -1)
        return split.sum(-2).astype(self.config.compute)

    def _embed(self, batch: Batch, ids: Any, tables: FeatureTables) -> tuple[jax.Array, jax.Array]:
        """Embed items ``[B, ...]`` of a batch; see :func:`without_own_user`."""
        ids, fold = jnp.asarray(ids), batch.fold
        if fold is not None:
            fold = jnp.asarray(fold).reshape(-1, *(1,) * (ids.ndim - 1))
        embedded = self.item_embeddings(gather(ids, tables.item, "item"))
        embedded, learned = without_own_user(embedded, ids, tables, fold)
        return embedded.astype(self.config.compute), learned

    def row_inputs(self, batch: Batch, tables: FeatureTables) -> RowInputs:
        """Return the inputs of a batch's rows other than the history, and the tower's terms.

        User and features of the request may have a single row for all candidates.
        """
        candidate, learned = self._embed(batch, batch.item, tables)
        compute = self.config.compute
        user = self.user_embeddings(gather(jnp.asarray(batch.user), tables.user, "user"))
        columns = tuple(
            getattr(self, f"{GROUPS[group].parameters}_embeddings")(batch.columns).astype(compute)
            for group in COLUMN_GROUPS
            if getattr(self.schema, group)
        )
        terms = self.tower_terms(batch, tables) if self.config.statistics else None
        return RowInputs(candidate, user.astype(compute), columns, terms, learned)

    def tower_terms(
        self, batch: Batch, tables: FeatureTables, *, train: bool = False
    ) -> Float[Array, "B L"]:
        """Return the terms of the tower, whose sum is its logit; see :class:`Tower`."""
        batch = with_statistics(self.config, self.schema, tables, batch)
        item = gather(jnp.asarray(batch.item), tables.item, "item")
        user = gather(jnp.asarray(batch.user), tables.user, "user")
        real = jnp.asarray(batch.weight) > 0
        statistics = jnp.asarray(batch.statistics)
        return self.tower(item, user, statistics, batch.columns, real, train=train)

    def encode_history(
        self,
        history: Float[Array, "B T D"],
        lengths: Int[Array, " B"],
        initial: tuple[Float[Array, "B _"], ...] | None = None,
    ) -> EncodedHistory:
        """Encode embedded behaviours; see :meth:`dien_jax.model.DIEN.encode`."""
        return self.network.encode(history, lengths, initial)

    def score_candidates(
        self,
        states: Float[Array, "T H"],
        last: tuple[Float[Array, "1 _"], ...],
        history: Float[Array, "T D"],
        length: Int[Array, ""],
        rows: RowInputs,
        real: Bool[Array, " N"],
    ) -> Float[Array, " N"]:
        """Score many candidates of one history; shared work is done once.

        ``states`` and ``last`` are those of :meth:`encode_history`. ``rows`` has a row for each
        candidate; user and features of the request may have a single row. ``real`` is False for
        filler rows.
        """
        candidates = rows.candidate

        def repeated(row: jax.Array) -> jax.Array:
            return jnp.broadcast_to(row, (candidates.shape[0], row.shape[1]))

        pooled = repeated(self.pool(history[None], length[None]))
        user, columns = jax.tree.map(repeated, (rows.user, rows.columns))
        final_state = self.network.evolve_candidates(states, length, candidates)
        score = self.network.auxiliary_score(last, length, candidates)
        rows = rows._replace(user=user, columns=columns)
        return self.click_logits(rows, pooled, final_state, score, real)

    def pool(
        self, history: Float[Array, "B T D"], lengths: Int[Array, " B"]
    ) -> Float[Array, "B D"]:
        """Return the mean embedded behaviour; with ``follow_authors`` the sum, padding included."""
        return history.sum(1) if self.config.follow_authors else mean_event(history, lengths)

    def click_logits(
        self,
        rows: RowInputs,
        pooled: Float[Array, "B D"],
        final_state: Float[Array, "B E"] | None,
        auxiliary_score: Float[Array, " B"] | None,
        real: Bool[Array, " B"],
        *,
        train: bool = False,
    ) -> Float[Array, " B"]:
        """Return click logits; ``real`` is False for filler rows.

        A logit is the sum of the click network's and, where the model has them, a learned multiple
        of the auxiliary score, the linear function of ``wide`` and the terms of the tower.
        """
        crossed = [rows.candidate, pooled, rows.candidate * pooled]
        parts = [rows.user, *crossed[: 3 if self.config.product else 2]]
        parts += [*([] if final_state is None else [final_state]), *rows.columns]
        logits = self.mlp(jnp.concatenate(parts, axis=-1), real, train=train)
        if self.reads_score:
            assert auxiliary_score is not None
            logits = logits + self.score_weight(auxiliary_score[:, None])[:, 0]
        if self.config.wide:
            wide = self.linear(jnp.concatenate(crossed, axis=-1).astype(jnp.float32))
            logits = logits + as_logit(wide)
        if rows.terms is not None:
            logits = logits + rows.terms.sum(1)
        return logits


def mean_event(history: Float[Array, "B T D"], lengths: Int[Array, " B"]) -> Float[Array, "B D"]:
    """Return the mean over live steps, zeros without any."""
    live = is_live(lengths, history.shape[1])[..., None]
    summed = jnp.where(live, history, 0).sum(1)
    return summed / jnp.maximum(live.sum(1), 1).astype(summed.dtype)


def with_statistics(
    config: ModelConfig,
    schema: Schema,
    tables: FeatureTables,
    batch: Batch,
    values: tuple[dict[str, Any], dict[str, Any]] | None = None,
) -> Batch:
    """Return a batch with the statistics of its rows, if the model reads them.

    ``values`` are the feature values of candidates and of behaviours, ids included. Pass them if
    ``tables`` do not hold the features of all items.
    """
    if batch.statistics is not None or not config.statistics:
        return batch
    own, fold = jax.tree.map(jnp.asarray, (batch.own, batch.fold))
    if values is None:
        item, history = map(jnp.asarray, (batch.item, batch.history))
        values = gather(item, tables.item, "item"), gather(history, tables.item, "item")
    statistics = statistics_inputs(schema, tables, *values, jnp.asarray(batch.lengths), own, fold)
    return batch._replace(statistics=statistics, own=None)


def check_batch(
    schema: Schema, batch: Batch, tables: FeatureTables, negatives: jax.Array | None
) -> None:
    """Refuse wrong shapes and features without values, with a ValueError that names them."""
    check_axes("batch.history", batch.history, {"B": None, "T": None})
    rows, steps = batch.history.shape
    for name in ("lengths", "item", "user", "label", "weight"):
        check_axes(f"batch.{name}", getattr(batch, name), {"B": rows})
    check_axes("negatives", negatives, {"B": rows, "T - 1": steps - 1, "K": None})
    for name in ("history", "lengths", "item", "user"):
        if not jnp.issubdtype((dtype := getattr(batch, name).dtype), jnp.integer):
            refuse(f"batch.{name}", "integers", dtype)
    columns = [f for group, of in schema.groups() if GROUPS[group].source != "id" for f in of]
    groups: dict[str, tuple[Any, dict[str, Any]]] = {
        "tables.item": (schema.item[1:], tables.item),
        "tables.user": (schema.user[1:], tables.user),
        "batch.columns": (columns, batch.columns),
    }
    for name, (features, values) in groups.items():
        wanted = {feature.name for feature in features}
        if not wanted <= {*values}:
            found = ", ".join(sorted(values)) or "none"
            refuse(name, f"the features {', '.join(sorted(wanted))} of the schema", found)
