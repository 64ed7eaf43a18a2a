"""DIEN on embeddings: interest extractor, attention, interest evolution and auxiliary loss.

The module does not depend on ids, tables, datasets or settings. :class:`dien_jax.model.ClickModel`
embeds ids, calls it, and computes click logits from its final state and auxiliary score.

Dimensions: B rows, N candidates of one history, T steps, S = T - 1, K negatives, D embedding,
H interest state, E final state.
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from dien_jax.data.tables import is_live
from dien_jax.model.auxiliary import BinaryAuxiliaryLoss, auxiliary_positions
from dien_jax.model.interest import AUGRU, GRU, MLPAttention
from dien_jax.model.shapes import check_inputs, check_parts, checked_attention, checked_states
from dien_jax.model.shared_history import EncodedHistory, for_candidates


class DIENOutput(NamedTuple):
    """Results of :class:`DIEN`; None for a part that the network does not have.

    Attributes:
      interests: h_t of every step; without an extractor, the embedded history.
      attention: a_t of every step, which sums to 1 over live steps; zeros for an empty history.
      final_state: s_T.
      auxiliary_loss: L in nats, before it is weighted; 0 without negatives.
      auxiliary_score: f(h_T, c), the logit that the candidate comes next; 0 for an empty history;
        None without an extractor.
    """

    interests: Float[Array, "B T H"]
    attention: Float[Array, "B T"] | None
    final_state: Float[Array, "B E"] | None
    auxiliary_loss: Float[Array, ""]
    auxiliary_score: Float[Array, " B"] | None


class DIEN(nn.Module):
    """Deep Interest Evolution Network, from embeddings to the final state.

    For a history x_1 ... x_T, a candidate c and sampled negatives n:

        h_t = GRU(x_t, h_{t-1})                         interest extractor
        a_t = softmax_t(score(h_t, c))                  attention, over live steps
        s_t = AUGRU(h_t, a_t, s_{t-1})                  interest evolution: update gate a_t u_t
        L   = mean of softplus(-f(h_t, x_{t+1}))        auxiliary loss
            + mean of softplus(f(h_t, n_t))

    The result is ``s_T``. Steps at or past a row's length repeat the last live ``h_t`` and ``s_t``.

    >>> import jax, jax.numpy as jnp
    >>> from dien_jax.model import DIEN, GRU, AUGRU
    >>> history, lengths, candidate = jnp.ones((2, 5, 8)), jnp.array([5, 0]), jnp.ones((2, 8))
    >>> network = DIEN(extractor=GRU(16), evolution=AUGRU(16))
    >>> variables = jax.jit(network.init)(jax.random.key(0), history, lengths, candidate)
    >>> output = jax.jit(network.apply)(variables, history, lengths, candidate)
    >>> output.interests.shape, output.attention.shape, output.final_state.shape
    ((2, 5, 16), (2, 5), (2, 16))

    Other models of the paper have other parts: DIN is ``DIEN(None,
    MLPAttention(projects_query=False), None, None)``, and three use the evolutions ``AIGRU``,
    ``AGRU`` and ``GRU``. If ``evolution`` is None or a ``GRU``, which does not read attention, the
    final state is the sum of states weighted by attention. Without attention there is none.

    Attributes:
      extractor: a module called like :class:`GRU`; None passes the embeddings on.
      attention: a module called like :class:`MLPAttention`; None for no final state.
      evolution: a module called like :class:`AUGRU`, or a :class:`GRU`.
      auxiliary: called like :class:`BinaryAuxiliaryLoss`; a plain function gives no score.

    Source: Zhou et al., AAAI 2019 (arXiv:1809.03672).
    """

    extractor: nn.Module | None = dataclasses.field(default_factory=lambda: GRU(36, parent=None))
    attention: nn.Module | None = dataclasses.field(
        default_factory=lambda: MLPAttention(parent=None)
    )
    evolution: nn.Module | None = dataclasses.field(default_factory=lambda: AUGRU(36, parent=None))
    auxiliary: nn.Module | Callable[..., jax.Array] | None = dataclasses.field(
        default_factory=lambda: BinaryAuxiliaryLoss(parent=None)
    )

    def __call__(
        self,
        history: Float[Array, "B T D"],
        lengths: Int[Array, " B"],
        candidate: Float[Array, "B D"],
        negatives: Float[Array, "K B S D"] | None = None,
        *,
        is_negative: Bool[Array, "K B S"] | None = None,
        log_q: Float[Array, "K_1 B S"] | None = None,
        weights: Float[Array, " B"] | None = None,
        train: bool = False,
    ) -> DIENOutput:
        """Run one forward pass; ``init`` creates all parameters, with or without negatives.

        Args:
          history: embedded behaviours, oldest first.
          lengths: live steps of each row, 0 to T.
          candidate: embedded candidates.
          negatives: embeddings of K sampled items for each of the behaviours 2 to T.
          is_negative: False where a sample equals the true behaviour; the loss ignores it.
          log_q: log sampling probabilities, of the true behaviour and then of each negative.
          weights: 0 for filler rows, which the auxiliary loss ignores; ones by default.
          train: normalise inputs of the auxiliary network by the batch; update running statistics.

        Raises:
          ValueError: an argument, or the result of a part, does not fit; the message names it.
        """
        check_parts(self)
        check_inputs(history, lengths, candidate, negatives, is_negative, log_q, weights)
        lengths = jnp.asarray(lengths)  # int32, where NumPy has int64
        encoded = self.encode(history, lengths)
        final_state, attention = self.evolve(encoded.states, lengths, candidate)
        loss = jnp.zeros((), jnp.float32)
        if negatives is None and self.is_initializing():
            negatives, is_negative, log_q = history[None, :, 1:], None, None
        if self.auxiliary is not None and negatives is not None:
            weights = jnp.ones(lengths.shape, jnp.float32) if weights is None else weights
            positions = auxiliary_positions(lengths, weights, history.shape[1])
            counted = jnp.ones(negatives.shape[:3], bool) if is_negative is None else is_negative
            arrays = encoded.interests, history, negatives, positions, counted
            loss = self.auxiliary(*arrays, weights=weights, log_q=log_q, train=train)
        score = self.auxiliary_score(encoded.last, lengths, candidate)
        return DIENOutput(encoded.interests, attention, final_state, loss, score)

    def encode(
        self,
        history: Float[Array, "B T D"],
        lengths: Int[Array, " B"],
        initial: tuple[Float[Array, "B _"], ...] | None = None,
    ) -> EncodedHistory:
        """Run the recurrences that do not depend on the candidate.

        ``initial`` is ``last`` of a call with the preceding behaviours; None starts from zeros.
        """
        interests, last, earlier = history, [], initial or (None,)
        if self.extractor is not None:
            result = self.extractor(history, lengths, earlier[0])
            interests, final = checked_states("extractor", self.extractor, result, history)
            last.append(final)
        states = interests
        if isinstance(self.evolution, GRU):
            states, final = self.evolution(states, lengths, earlier[-1])
            last.append(final)
        return EncodedHistory(interests, states, tuple(last))

    def evolve(
        self,
        states: Float[Array, "B T H"],
        lengths: Int[Array, " B"],
        candidate: Float[Array, "B D"],
    ) -> tuple[Float[Array, "B E"] | None, Float[Array, "B T"] | None]:
        """Return the final state and the attention of each row's candidate."""
        if self.attention is None:
            return None, None
        weights = self.attention(candidate, states, lengths)
        attention = checked_attention(self.attention, weights, states)
        if self.evolution is None or isinstance(self.evolution, GRU):
            attention = jnp.where(is_live(lengths, states.shape[1]), attention, 0)
            return (attention.astype(states.dtype)[..., None] * states).sum(1), attention
        result = self.evolution(states, attention, lengths)
        return checked_states("evolution", self.evolution, result, states)[1], attention

    def evolve_candidates(
        self, states: Float[Array, "T H"], length: Int[Array, ""], candidates: Float[Array, "N D"]
    ) -> Float[Array, "N E"] | None:
        """Return the final state of one history for each candidate; shared work is done once."""
        if self.attention is None:
            return None
        attention = for_candidates(self.attention, "attention", candidates, states, length)
        if self.evolution is None or isinstance(self.evolution, GRU):
            attention = jnp.where(is_live(length[None], states.shape[0]), attention, 0)
            return attention.astype(states.dtype) @ states
        return for_candidates(self.evolution, "evolution", attention, states, length)

    def auxiliary_score(
        self,
        last: tuple[Float[Array, "#B _"], ...],
        lengths: Int[Array, " #B"] | Int[Array, ""],
        candidate: Float[Array, "B D"],
    ) -> Float[Array, " B"] | None:
        """Return the logit that each candidate comes next, after its own or the shared history."""
        score = getattr(self.auxiliary, "score", None)
        if score is None or self.extractor is None:
            return None
        states = jnp.broadcast_to(last[0], (candidate.shape[0], last[0].shape[1]))
        return jnp.where(lengths > 0, score(states, candidate), 0.0)
