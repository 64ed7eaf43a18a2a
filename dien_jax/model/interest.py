"""The interest model: one class, assembled from parts by its configuration.

Data flow: ids -> embeddings -> interest extractor (GRU, taught by the auxiliary loss) ->
attention for the candidate -> interest evolution (AIGRU, AGRU or AUGRU) -> MLP -> click logit.
``encode_history`` does what no candidate decides; ``score`` does the rest for a candidate in each
row, ``score_candidates`` for many candidates of one history.

Dimensions: B examples, N candidates of one history, T steps, S = T - 1, K auxiliary negatives a
step, D item embedding, U user embedding, C context embedding, H state.
"""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from dien_jax.config.settings import ModelConfig, require_choice
from dien_jax.data.batch import Batch, is_live
from dien_jax.data.schema import Schema
from dien_jax.data.tables import FeatureTables
from dien_jax.model import shared_history
from dien_jax.model.activations import as_logit
from dien_jax.model.attention import ATTENTIONS
from dien_jax.model.auxiliary import (
    AuxiliaryNetwork,
    auxiliary_positions,
    auxiliary_weights,
    normalising,
    weighted_loss,
)
from dien_jax.model.batch_norm import BatchNorm
from dien_jax.model.click_network import MLP
from dien_jax.model.devices import Axis
from dien_jax.model.embeddings import EMBEDDING_INITIAL, FeatureEmbeddings, gather
from dien_jax.model.logistic_regression import LogisticRegression
from dien_jax.model.recurrence import EVOLUTIONS, GRU, make_recurrence
from dien_jax.model.statistics import inputs_of_values, statistics_inputs
from dien_jax.model.statistics_network import StatisticsNetwork


class ModelOutput(NamedTuple):
    """Results of one forward pass.

    Without an extractor ``interest_states`` are embeddings, and H is D. ``final_state`` is that of
    interest evolution. ``auxiliary_loss`` is unweighted, and 0 without negatives.
    """

    logits: Float[Array, " B"]
    auxiliary_loss: Float[Array, ""]
    attention: Float[Array, "B T"] | None
    interest_states: Float[Array, "B T H"]
    final_state: Float[Array, "B H"] | None


class EncodedHistory(NamedTuple):
    """Encoding of a history, independent of candidates.

    Attention weighs ``states``, those of the last recurrence that no candidate decides. ``last``
    has the last state of each such recurrence; a later call continues from them.
    """

    interests: Float[Array, "B T H"]
    states: Float[Array, "B T H"]
    last: tuple[Float[Array, "B H"], ...]


class RowInputs(NamedTuple):
    """Inputs of the click network other than the history and the final state.

    Attributes:
      candidate, user, context: embeddings; no context without such features.
      statistics: see :func:`dien_jax.model.statistics.statistics_inputs`.
      terms: of the logistic regression, the last with the logit of the statistics network.

    A model without ``statistics`` has None for both.
    """

    candidate: Float[Array, "B D"]
    user: Float[Array, "B U"]
    context: Float[Array, "B C"] | None
    statistics: Float[Array, "B F"] | None
    terms: Float[Array, "B L"] | None


class InterestModel(nn.Module):
    """DIEN and its relatives.

    >>> import jax
    >>> from dien_jax import Feature, InterestModel, ModelConfig, Schema
    >>> from dien_jax.data import FeatureTables, example_batch
    >>> schema = Schema((Feature("item", "categorical", 9),), (Feature("user", "categorical", 3),))
    >>> inputs = example_batch(schema, batch_size=2), FeatureTables({}, {})
    >>> model = InterestModel(ModelConfig(statistics=False), schema)
    >>> output, variables = jax.jit(model.init_with_output)(jax.random.key(0), *inputs)
    >>> output.logits.shape, sorted(variables)
    ((2,), ['batch_stats', 'params'])

    Inside ``shard_map``, ``axis`` is the mesh axis of the batch. Statistics and the numbers that
    losses are divided by are then those of all devices, and losses are this device's shares.
    ``initial`` draws embedding tables.

    Source: Zhou et al., AAAI 2019 (arXiv:1809.03672).
    """

    config: ModelConfig
    schema: Schema
    axis: Axis = None
    initial: nn.initializers.Initializer = EMBEDDING_INITIAL

    def setup(self) -> None:
        config, schema = self.config, self.schema
        check_modules(config)
        columns = 2 if config.follow_authors else 1  # of a softmax
        size, initial = config.embedding_size, self.initial
        self.item_embeddings = FeatureEmbeddings(schema.item, size, initial)
        self.user_embeddings = FeatureEmbeddings(schema.user, size, initial)
        if schema.context:
            self.context_embeddings = FeatureEmbeddings(schema.context, size, initial)
        if config.extractor == "gru":
            self.extractor = make_recurrence(GRU, config)
        if config.evolution != "none":
            self.attention = ATTENTIONS[config.attention](config)
        if config.evolution not in ("none", "attention"):
            self.evolution = EVOLUTIONS[config.evolution](config)
        if config.auxiliary_weight:

            def norm() -> BatchNorm:
                return BatchNorm("frozen" if config.follow_authors else "running", self.axis)

            self.auxiliary = AuxiliaryNetwork(columns=columns)
            self.auxiliary_norm_state, self.auxiliary_norm_behaviour = norm(), norm()
        options = config.activation, config.dropout, config.follow_authors
        self.mlp = MLP(config.layers, *options, self.axis)
        if config.wide:
            self.linear = nn.Dense(columns)
        if config.statistics:
            self.logistic_regression = LogisticRegression(schema)
            self.statistics_network = StatisticsNetwork()

    def __call__(
        self,
        batch: Batch,
        tables: FeatureTables,
        negatives: Int[Array, "B S K"] | None = None,
        *,
        train: bool = False,
    ) -> ModelOutput:
        """Run one forward pass.

        ``negatives`` are sampled item ids for behaviours 1 to T - 1; without them there is no
        auxiliary loss. ``train`` uses the batch's statistics and dropout, which needs its key.
        """
        lengths = jnp.asarray(batch.lengths)
        real = jnp.asarray(batch.weight) > 0
        history = self.embed_items(jnp.asarray(batch.history), tables)  # [B, T, D]
        rows = self.row_inputs(batch, tables)

        encoded = self.encode_history(history, lengths)
        logits, attention, final_state = self.score(
            encoded.states, history, lengths, rows, real, train=train
        )

        auxiliary = jnp.zeros((), logits.dtype)
        if negatives is not None and self.config.auxiliary_weight and history.shape[1] > 1:
            states = encoded.interests
            auxiliary = self._auxiliary_loss(batch, tables, history, states, negatives, train)

        return ModelOutput(logits, auxiliary, attention, encoded.interests, final_state)

    def embed_items(self, ids: Int[Array, "*R"], tables: FeatureTables) -> Float[Array, "*R D"]:
        """Return the features of items, embedded and concatenated."""
        return self._cast(self.item_embeddings(gather(ids, tables.item, "item")))

    def row_inputs(self, batch: Batch, tables: FeatureTables) -> RowInputs:
        """Return the inputs of a batch's candidates, users and context, and its statistics.

        User and context may have a single row for all candidates.
        """
        batch = with_statistics(self.config, self.schema, tables, batch)
        item = gather(jnp.asarray(batch.item), tables.item, "item")
        user = gather(jnp.asarray(batch.user), tables.user, "user")
        context = batch.context
        statistics = None if batch.statistics is None else jnp.asarray(batch.statistics)
        terms = None
        if statistics is not None:
            terms = self.logistic_regression(item, user, statistics, context)
            of_network = self.statistics_network(statistics)[:, None]
            terms = jnp.concatenate([terms[:, :-1], terms[:, -1:] + of_network], axis=1)
        return RowInputs(
            self._cast(self.item_embeddings(item)),
            self._cast(self.user_embeddings(user)),
            self._cast(self.context_embeddings(context)) if self.schema.context else None,
            statistics,
            terms,
        )

    def _cast(self, embedded: jax.Array) -> jax.Array:
        return embedded.astype(self.config.compute)

    def encode_history(
        self,
        history: Float[Array, "B T D"],
        lengths: Int[Array, " B"],
        initial: tuple[Float[Array, "B H"], ...] | None = None,
    ) -> EncodedHistory:
        """Run the recurrences that no candidate decides over embedded behaviours.

        ``initial`` is ``last`` of an earlier call, whose behaviours these follow; zeros if None.
        """
        interests, last, earlier = history, [], initial or (None,)
        if self.config.extractor == "gru":
            interests, final = self.extractor(history, lengths, earlier[0])
            last.append(final)
        states = interests
        if self.config.evolution == "gru_attention":
            states, final = self.evolution(states, lengths, earlier[-1])
            last.append(final)
        return EncodedHistory(interests, states, tuple(last))

    def score(
        self,
        states: Float[Array, "B T H"],
        history: Float[Array, "B T D"],
        lengths: Int[Array, " B"],
        rows: RowInputs,
        real: Bool[Array, " B"],
        *,
        train: bool = False,
    ) -> tuple[jax.Array, jax.Array | None, jax.Array | None]:
        """Return logits, attention and final state of each row's candidate and own history.

        ``states`` are those of :meth:`encode_history`; ``real`` is False for filler rows, which
        no statistics may see.
        """
        attention, final_state = None, None
        if self.config.evolution != "none":
            attention = self.attention(rows.candidate, states, lengths)
            if self.config.evolution in ("attention", "gru_attention"):
                final_state = (attention.astype(states.dtype)[..., None] * states).sum(1)
            else:
                _, final_state = self.evolution(states, attention, lengths)
        pooled = self.pool(history, lengths)
        logits = self.click_logits(rows, pooled, final_state, real, train=train)
        return logits, attention, final_state

    def score_candidates(
        self,
        states: Float[Array, "T H"],
        history: Float[Array, "T D"],
        length: Int[Array, ""],
        rows: RowInputs,
        real: Bool[Array, " N"],
    ) -> Float[Array, " N"]:
        """Score many candidates of one history: logits of :meth:`score`, to rounding.

        ``rows`` has a row for each candidate; its user and context may have a single one.
        """
        candidates = rows.candidate
        count = candidates.shape[0]

        def repeated(row: jax.Array) -> jax.Array:
            return jnp.broadcast_to(row, (count, row.shape[1]))

        pooled = repeated(self.pool(history[None], length[None]))
        context = None if rows.context is None else repeated(rows.context)
        final_state = self.evolve_candidates(candidates, states, length)
        rows = rows._replace(user=repeated(rows.user), context=context)
        return self.click_logits(rows, pooled, final_state, real)

    def evolve_candidates(
        self, candidates: Float[Array, "N D"], states: Float[Array, "T H"], length: Int[Array, ""]
    ) -> Float[Array, "N H"] | None:
        """Return the final state of one history for each candidate; None without evolution."""
        if self.config.evolution == "none":
            return None
        attention = shared_history.attention_weights(self.attention, candidates, states, length)
        if self.config.evolution in ("attention", "gru_attention"):
            return attention.astype(states.dtype) @ states
        return shared_history.last_states(self.evolution, states, attention, length)

    def pool(
        self, history: Float[Array, "B T D"], lengths: Int[Array, " B"]
    ) -> Float[Array, "B D"]:
        """Return the mean of raw behaviours; the sum, with padding, if it follows the authors."""
        if self.config.follow_authors:
            return history.sum(1)
        live = is_live(lengths, history.shape[1])[..., None]
        total = jnp.where(live, history, 0).sum(1)
        return total / jnp.maximum(lengths, 1).astype(total.dtype)[:, None]

    def click_logits(
        self,
        rows: RowInputs,
        pooled: Float[Array, "B D"],
        final_state: Float[Array, "B H"] | None,
        real: Bool[Array, " B"],
        *,
        train: bool = False,
    ) -> Float[Array, " B"]:
        """Return the click network's logits; ``real`` tells rows from filler."""
        crossed = [rows.candidate, pooled, rows.candidate * pooled]
        parts = [rows.user, *crossed[: 3 if self.config.product else 2]]
        parts += [part for part in (final_state, rows.context) if part is not None]
        if rows.statistics is not None:
            parts.append(rows.statistics.astype(pooled.dtype))
        logits = self.mlp(jnp.concatenate(parts, axis=-1), real, train=train)
        if self.config.wide:
            wide = self.linear(jnp.concatenate(crossed, axis=-1).astype(jnp.float32))
            logits = logits + as_logit(wide)
        if rows.terms is not None:
            logits = logits + rows.terms.sum(1)
        return logits

    def _auxiliary_loss(
        self,
        batch: Batch,
        tables: FeatureTables,
        history: Float[Array, "B T D"],
        states: Float[Array, "B T H"],
        negatives: Int[Array, "B S K"],
        train: bool,
    ) -> Float[Array, ""]:
        weights = jnp.asarray(batch.weight)
        following = jnp.asarray(batch.history)[:, 1:]
        positions = auxiliary_positions(jnp.asarray(batch.lengths), weights, batch.history.shape[1])
        sampled = self.embed_items(jnp.moveaxis(negatives, -1, 0), tables)
        behaviours = jnp.concatenate([history[None, :, 1:], sampled])
        valid = negatives != following[..., None]
        counted = jnp.concatenate([jnp.ones_like(valid[..., :1]), valid], -1) & positions[..., None]
        before = states[:, :-1]
        if self.is_initializing():
            self.auxiliary(before, behaviours)
        params = self.auxiliary.variables["params"]
        state_affine = self.auxiliary_norm_state(before, positions, train=train)
        live = jnp.moveaxis(counted, -1, 0)
        behaviour_affine = self.auxiliary_norm_behaviour(behaviours, live, train=train)
        params = normalising(params, state_affine, behaviour_affine)
        of_real, of_sampled = auxiliary_weights(
            positions,
            valid,
            mean="all" if self.config.follow_authors else "live",
            weights=weights,
            axis=self.axis,
        )
        of_behaviours = jnp.concatenate([of_real[None], jnp.moveaxis(of_sampled, -1, 0)])
        implementation = self.config.network_implementation
        return weighted_loss(params, states, history, sampled, of_behaviours, implementation)


def check_modules(config: ModelConfig) -> None:
    """Refuse an attention or evolution that has no module, by a UserError with the nearest name.

    Names are those of :data:`ATTENTIONS` and :data:`EVOLUTIONS`, to which users add modules.
    """
    require_choice("model.attention", config.attention, ATTENTIONS)
    require_choice("model.evolution", config.evolution, ("none", "attention", *EVOLUTIONS))


def with_statistics(
    config: ModelConfig,
    schema: Schema,
    tables: FeatureTables,
    batch: Batch,
    values: tuple[dict[str, Any], dict[str, Any]] | None = None,
) -> Batch:
    """Return a batch with the statistics of its rows, if the model reads them.

    ``values`` are those of candidates and of behaviours by feature, the ids included, where the
    features in ``tables`` are not of all items.
    """
    if batch.statistics is not None or not config.statistics:
        return batch
    history, lengths, item = map(jnp.asarray, (batch.history, batch.lengths, batch.item))
    own = None if batch.own is None else jnp.asarray(batch.own)
    fold = None if batch.fold is None else jnp.asarray(batch.fold)
    if values is None:
        statistics = statistics_inputs(schema, tables, history, lengths, item, own, fold)
    else:
        statistics = inputs_of_values(schema, tables, *values, lengths, own, fold)
    return batch._replace(statistics=statistics, own=None, fold=None)
