"""The interest model: one class, assembled from parts by its configuration.

Data flow: ids -> embeddings -> interest extractor (GRU, taught by the auxiliary loss) ->
attention for the candidate -> interest evolution (AIGRU, AGRU or AUGRU) -> MLP -> click logit.
The models that the paper compares DIEN with leave parts out or put simpler ones in their place.

Dimensions: B examples, T steps, S = T - 1, N auxiliary negatives a step, D item embedding,
H hidden.
"""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from dien_jax.config.settings import ModelConfig
from dien_jax.data.batch import Batch
from dien_jax.data.schema import FeatureTables, FeatureValues, Schema
from dien_jax.model.activations import as_logit
from dien_jax.model.attention import BilinearAttention, MLPAttention
from dien_jax.model.auxiliary import (
    AuxiliaryNetwork,
    Network,
    auxiliary_positions,
    auxiliary_weights,
    normalising,
    weighted_loss,
)
from dien_jax.model.batch_norm import BatchNorm
from dien_jax.model.click_network import MLP
from dien_jax.model.embeddings import FeatureEmbeddings, gather
from dien_jax.model.recurrence import EVOLUTIONS, GRU, _of_kernels


class ModelOutput(NamedTuple):
    """What one forward pass gives.

    Attributes:
      logits: ``[B]``; a click's probability is their sigmoid.
      auxiliary_loss: scalar, unweighted; 0 where the pass had no negatives.
      attention: ``[B, T]``, summing to 1 over live steps; None without attention.
      interest_states: ``[B, T, H]``, of the extractor, or ``[B, T, D]`` without one.
      final_state: ``[B, H]`` (``[B, D]``), what the interests became for the candidate; None
        where they are not used.
      embedding_norm: scalar, mean squared norm of the item and user rows that were looked up.
    """

    logits: Float[Array, " B"]
    auxiliary_loss: Float[Array, ""]
    attention: Float[Array, "B T"] | None
    interest_states: Float[Array, "B T H"]
    final_state: Float[Array, "B H"] | None
    embedding_norm: Float[Array, ""]


class InterestModel(nn.Module):
    """DIEN and its relatives.

    Attributes:
      config: which parts, how large.
      schema: the features of items, users and requests.

    Source: Zhou et al., AAAI 2019 (arXiv:1809.03672).
    """

    config: ModelConfig
    schema: Schema

    def setup(self) -> None:
        """Create the parts."""
        config, schema = self.config, self.schema
        columns = 2 if config.classifier == "softmax" else 1
        self.item_embeddings = FeatureEmbeddings(schema.item, config.embedding_size)
        self.user_embeddings = FeatureEmbeddings(schema.user, config.embedding_size)
        if schema.context:
            self.context_embeddings = FeatureEmbeddings(schema.context, config.embedding_size)
        if config.extractor == "gru":
            self.extractor = _of_kernels(GRU)(config)
        if config.evolution != "none":
            # Embeddings are as wide as the candidate, which then needs no projection.
            self.attention: nn.Module = (
                MLPAttention(config.attention_layers, projects_query=config.extractor == "gru")
                if config.attention == "mlp"
                else BilinearAttention()
            )
        if config.evolution in EVOLUTIONS:
            self.evolution = EVOLUTIONS[config.evolution](config)
        if config.auxiliary_weight:
            self.auxiliary = AuxiliaryNetwork(config.auxiliary_layers, columns)
            self.auxiliary_norm_state = BatchNorm(config.batch_norm)
            self.auxiliary_norm_behaviour = BatchNorm(config.batch_norm)
        self.mlp = MLP(
            config.layers,
            config.activation,
            config.dice_statistics,
            config.batch_norm,
            config.dropout,
            columns,
        )
        if config.wide:
            self.linear = nn.Dense(columns)

    def __call__(
        self,
        batch: Batch,
        tables: FeatureTables,
        negatives: Int[Array, "B S N"] | None = None,
        *,
        train: bool = False,
    ) -> ModelOutput:
        """One forward pass.

        Args:
          batch: see :class:`Batch`.
          tables: values of every item and user feature.
          negatives: item ids that behaviours 1 to T - 1 are told from; None, as when scoring,
            leaves the auxiliary loss out.
          train: whether statistics are the batch's own and dropout is on (needs its key).
        """
        steps = batch.history.shape[1]
        lengths = jnp.asarray(batch.lengths)
        real = jnp.asarray(batch.weight) > 0
        live = (jnp.arange(steps, dtype=lengths.dtype)[None, :] < lengths[:, None])[..., None]

        history = self.embed_items(jnp.asarray(batch.history), tables)  # [B, T, D]
        candidate = self.embed_items(jnp.asarray(batch.item), tables)  # [B, D]
        user = self.embed_users(jnp.asarray(batch.user), tables)
        context = self.embed_context(batch.context) if self.schema.context else None

        states = history
        if self.config.extractor == "gru":
            states, _ = self.extractor(history, lengths)
        attention, final_state = self.evolve(candidate, states, lengths)
        pooled = self.pool(history, live, lengths)

        logits = self.click_logits(user, candidate, pooled, final_state, context, real, train=train)

        auxiliary = jnp.zeros((), logits.dtype)
        if negatives is not None and self.config.auxiliary_weight and steps > 1:
            auxiliary = self._auxiliary_loss(batch, tables, history, states, negatives, train)

        looked_up = (jnp.where(live, history, 0), candidate, user)
        rows = jnp.maximum(lengths.sum() + 2 * lengths.shape[0], 1).astype(logits.dtype)
        squares = sum((part.astype(logits.dtype) ** 2).sum() for part in looked_up)
        return ModelOutput(logits, auxiliary, attention, states, final_state, squares / rows)

    def evolve(
        self,
        candidate: Float[Array, "B D"],
        states: Float[Array, "B T H"],
        lengths: Int[Array, " B"],
    ) -> tuple[Float[Array, "B T"] | None, Float[Array, "B H"] | None]:
        """Attention for the candidate, and what the interests become under it."""
        if self.config.evolution == "none":
            return None, None
        if self.config.evolution == "gru_attention":
            states, _ = self.evolution(states, lengths)
        attention = self.attention(candidate, states, lengths)
        if self.config.evolution in ("attention", "gru_attention"):
            weighted = attention.astype(states.dtype)[..., None] * states
            return attention, weighted.sum(1)
        _, final_state = self.evolution(states, attention, lengths)
        return attention, final_state

    def embed_items(self, ids: Int[Array, "*R"], tables: FeatureTables) -> Float[Array, "*R D"]:
        """The features of items, embedded and concatenated."""
        return self._cast(self.item_embeddings(gather(ids, tables.item, "item")))

    def embed_users(self, ids: Int[Array, " B"], tables: FeatureTables) -> Float[Array, "B U"]:
        """The features of users, embedded and concatenated."""
        return self._cast(self.user_embeddings(gather(ids, tables.user, "user")))

    def embed_context(self, values: dict[str, FeatureValues]) -> Float[Array, "B C"]:
        """The context features, embedded and concatenated; the schema must have some."""
        return self._cast(self.context_embeddings(values))

    def _cast(self, embedded: jax.Array) -> jax.Array:
        return embedded.astype(self.config.compute)

    def click_logits(
        self,
        user: Float[Array, "B U"],
        candidate: Float[Array, "B D"],
        pooled: Float[Array, "B D"],
        final_state: Float[Array, "B H"] | None,
        context: Float[Array, "B C"] | None,
        real: Bool[Array, " B"],
        *,
        train: bool = False,
    ) -> Float[Array, " B"]:
        """What the click network makes of its inputs; ``real`` tells rows from filler."""
        crossed = [candidate, pooled, candidate * pooled]
        parts = [user, *crossed[: 3 if self.config.product else 2]]
        parts += [part for part in (final_state, context) if part is not None]
        logits = self.mlp(jnp.concatenate(parts, axis=-1), real, train=train)
        if self.config.wide:
            wide = self.linear(jnp.concatenate(crossed, axis=-1).astype(jnp.float32))
            logits = logits + as_logit(wide)
        return logits

    def read(
        self,
        history: Float[Array, "B T D"],
        lengths: Int[Array, " B"],
        before: tuple[Float[Array, "B H"], ...] | None = None,
    ) -> tuple[Float[Array, "B T H"], tuple[Float[Array, "B H"], ...]]:
        """What attention weighs, and all of it that no candidate decides.

        Args:
          history: embedded behaviours.
          lengths: live ones.
          before: last states of an earlier call, which this one goes on from.

        Returns:
          The states of the last recurrence that does not depend on the candidate (embeddings
          without one), and the last state of each such recurrence.
        """
        layers: list[nn.Module] = [self.extractor] if self.config.extractor == "gru" else []
        if self.config.evolution == "gru_attention":
            layers.append(self.evolution)
        states, last = history, []
        for index, layer in enumerate(layers):
            initial = None if before is None else before[index]
            states, final = layer(states, lengths, initial)
            last.append(final)
        return states, tuple(last)

    def pool(
        self,
        history: Float[Array, "B T D"],
        live: Bool[Array, "B T 1"],
        lengths: Int[Array, " B"],
    ) -> Float[Array, "B D"]:
        """Raw behaviours pooled over time, as ``config.pooling`` says; 0 at length 0."""
        if self.config.pooling == "padded_sum":
            return history.sum(1)
        total = jnp.where(live, history, 0).sum(1)
        if self.config.pooling == "sum":
            return total
        return total / jnp.maximum(lengths, 1).astype(total.dtype)[:, None]

    def _auxiliary_loss(
        self,
        batch: Batch,
        tables: FeatureTables,
        history: Float[Array, "B T D"],
        states: Float[Array, "B T H"],
        negatives: Int[Array, "B S N"],
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
        if self.config.batch_norm != "none":
            params = normalising(
                params,
                self.auxiliary_norm_state(before, positions, train=train),
                self.auxiliary_norm_behaviour(
                    behaviours, jnp.moveaxis(counted, -1, 0), train=train
                ),
            )
        of_real, of_sampled = auxiliary_weights(
            positions, valid, mean=self.config.auxiliary_mean, weights=weights
        )
        network = Network(*(getattr(self.auxiliary, name) for name in Network._fields))
        return weighted_loss(
            network,
            params,
            before,
            behaviours,
            jnp.concatenate([of_real[None], jnp.moveaxis(of_sampled, -1, 0)]),
        )
