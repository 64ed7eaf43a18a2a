"""Flax Linen modules that own weights: embeddings, recurrences, attention, auxiliary net, MLP.

Each works alone; see docs/modules.md for taking one into other code. Parameters are float32; a
module computes in the dtype of its input, softmax, statistics and logits in float32.

Dimensions: B batch, T steps, D width of an item's embedding, H hidden, Q width of the query.
"""

from collections.abc import Sequence
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from dien_kernels import Weights, agru, augru, gru
from dien_kernels.api import Implementation, Precision
from dien_kernels.reference import Form
from jaxtyping import Array, Bool, Float, Int

from dien_jax.normalisation import BatchNorm, Dice, rescaled
from dien_jax.schema import Feature, FeatureValues, MultiValued


@jax.custom_vjp
def sigmoid(value: jax.Array) -> jax.Array:
    """The logistic function, evaluated once and kept for its derivative.

    XLA's CPU fusion would evaluate the plain one again in every consumer. Reverse-mode
    derivatives only.
    """
    return jax.lax.optimization_barrier(0.5 * jnp.tanh(0.5 * value) + 0.5)


def _sigmoid_forward(value: jax.Array) -> tuple[jax.Array, jax.Array]:
    result = sigmoid(value)
    return result, result


def _sigmoid_backward(result: jax.Array, d_result: jax.Array) -> tuple[jax.Array]:
    return (jax.lax.optimization_barrier(d_result * result * (1 - result)),)


sigmoid.defvjp(_sigmoid_forward, _sigmoid_backward)


class FeatureEmbeddings(nn.Module):
    """Embeds the values of several features and concatenates them, in the order of the schema.

    A categorical value is a row of its table, a multi-valued one the mean of its live values'
    rows (zeros without any), a numeric one that number times a learned vector.

    Attributes:
      features: what to embed.
      size: columns of each embedding; the result has ``len(features) * size``.
    """

    features: tuple[Feature, ...]
    size: int

    @nn.compact
    def __call__(self, values: dict[str, FeatureValues]) -> Float[Array, "... D"]:
        """Embeddings of the values of every feature, whose leading dimensions agree."""
        return jnp.concatenate([self._embed(f, values[f.name]) for f in self.features], axis=-1)

    def _embed(self, feature: Feature, value: FeatureValues) -> Float[Array, "... E"]:
        # Deviation sqrt(2 / (rows + columns)), as in the paper's program: what few values share,
        # categories say, starts larger than what is rare.
        initial = nn.initializers.glorot_uniform()
        if feature.kind == "numeric":
            direction = self.param(feature.name, initial, (1, self.size))[0]
            number = jnp.asarray(value)[..., None]
            return number * direction.reshape((1,) * (number.ndim - 1) + (-1,))
        table = self.param(feature.name, initial, (feature.size, self.size))
        if not isinstance(value, MultiValued):
            return table[value]
        kept = value.values.shape[-1]
        count = jnp.asarray(value.count)[..., None]
        slots = jnp.arange(kept, dtype=count.dtype).reshape((1,) * (count.ndim - 1) + (-1,))
        live = (slots < count).astype(table.dtype)
        total = (table[value.values] * live[..., None]).sum(-2)
        return total / jnp.maximum(count, 1).astype(table.dtype)


def gather(ids: Int[Array, "..."], tables: dict[str, FeatureValues], name: str) -> dict:
    """Feature values of the rows ``ids``: the id itself under ``name``, the rest from tables."""
    rows = jax.tree.map(lambda table: jnp.asarray(table)[ids], tables)
    return {name: ids, **rows}


def _gate_by_gate(initial: nn.initializers.Initializer) -> nn.initializers.Initializer:
    """Draws each gate's matrix of ``[rows, gates, H]`` on its own."""

    def make(key: jax.Array, shape: tuple, dtype: jnp.dtype = jnp.float32) -> jax.Array:
        keys = jax.random.split(key, shape[1])
        parts = [initial(part, (shape[0], shape[2]), dtype) for part in keys]
        return jnp.stack(parts, axis=1)

    return make


class _Recurrence(nn.Module):
    """What the recurrent modules share.

    Attributes:
      hidden_size: H.
      form: ``"paper"`` or ``"authors"``; the latter's gate biases start at 1.
      implementation: of the recurrence.
      precision: of its matmuls.
    """

    hidden_size: int
    form: Form = "paper"
    implementation: Implementation = "auto"
    precision: Precision = "highest"

    def weights(self, depth: int, gates: int = 3) -> Weights:
        """The parameters, for inputs of ``depth`` columns."""
        gate_bias = 1.0 if self.form == "authors" else 0.0

        def bias(key: jax.Array, shape: tuple, dtype: jnp.dtype = jnp.float32) -> jax.Array:
            return jnp.full(shape, gate_bias, dtype).at[-1].set(0)

        hidden = self.hidden_size
        of_input = _gate_by_gate(nn.initializers.glorot_uniform())
        of_state = _gate_by_gate(nn.initializers.orthogonal())
        return Weights(
            self.param("input", of_input, (depth, gates, hidden)),
            self.param("recurrent", of_state, (hidden, gates, hidden)),
            self.param("bias", bias, (gates, hidden)),
        )

    def options(self, lengths: Int[Array, " B"]) -> dict:
        """Keyword arguments of every function of ``dien_kernels``."""
        return {
            "lengths": lengths,
            "form": self.form,
            "implementation": self.implementation,
            "precision": self.precision,
        }


class GRU(_Recurrence):
    """A GRU over masked histories; :func:`dien_kernels.gru` with weights of its own."""

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B T D"],
        lengths: Int[Array, " B"],
        initial_state: Float[Array, "B H"] | None = None,
    ) -> tuple[Float[Array, "B T H"], Float[Array, "B H"]]:
        """States of every step and the last one, from ``initial_state`` or zeros on."""
        options = self.options(lengths)
        return gru(x, self.weights(x.shape[-1]), initial_state=initial_state, **options)


class AGRU(_Recurrence):
    """A GRU with attention in place of the update gate; see :func:`dien_kernels.agru`."""

    @nn.compact
    def __call__(
        self, x: Float[Array, "B T D"], attention: Float[Array, "B T"], lengths: Int[Array, " B"]
    ) -> tuple[Float[Array, "B T H"], Float[Array, "B H"]]:
        """States of every step and the last one."""
        return agru(x, attention, self.weights(x.shape[-1], gates=2), **self.options(lengths))


class AUGRU(_Recurrence):
    """A GRU whose update gate is scaled by attention; see :func:`dien_kernels.augru`."""

    @nn.compact
    def __call__(
        self, x: Float[Array, "B T D"], attention: Float[Array, "B T"], lengths: Int[Array, " B"]
    ) -> tuple[Float[Array, "B T H"], Float[Array, "B H"]]:
        """States of every step and the last one."""
        return augru(x, attention, self.weights(x.shape[-1]), **self.options(lengths))


class AIGRU(_Recurrence):
    """A GRU over inputs scaled by attention: ``gru(a_t x_t)``."""

    @nn.compact
    def __call__(
        self, x: Float[Array, "B T D"], attention: Float[Array, "B T"], lengths: Int[Array, " B"]
    ) -> tuple[Float[Array, "B T H"], Float[Array, "B H"]]:
        """States of every step and the last one."""
        weights = self.weights(x.shape[-1])
        scaled = x * attention.astype(x.dtype)[..., None]
        return gru(scaled, weights, **self.options(lengths))


def masked_softmax(scores: Float[Array, "B T"], lengths: Int[Array, " B"]) -> Float[Array, "B T"]:
    """Softmax over live steps; dead steps, and whole rows of length 0, are exactly 0."""
    steps = jnp.arange(scores.shape[1], dtype=lengths.dtype)
    live = steps[None, :] < lengths[:, None]
    highest = jnp.where(live, scores, -jnp.inf).max(-1, keepdims=True)
    highest = jax.lax.stop_gradient(jnp.where(jnp.isfinite(highest), highest, 0))
    powers = jnp.where(live, jnp.exp(jnp.where(live, scores - highest, 0)), 0)
    return powers / jnp.maximum(powers.sum(-1, keepdims=True), jnp.finfo(scores.dtype).tiny)


class PReLU(nn.Module):
    """``x`` where it is positive, ``alpha x`` elsewhere, one alpha a unit, 0.1 at first."""

    @nn.compact
    def __call__(self, x: Float[Array, "B H"]) -> Float[Array, "B H"]:
        """Element-wise."""
        alpha = self.param("alpha", nn.initializers.constant(0.1), (x.shape[-1],))
        return jnp.where(x > 0, x, alpha.astype(x.dtype)[None, :] * x)


class MLPAttention(nn.Module):
    """Attention weights of every interest state for a candidate, scored by an MLP.

    With q = PReLU(Dense(candidate)) the score of state h is an MLP of [q, h, q - h, q o h] with
    sigmoid activations and a linear end; weights are the softmax over live steps. The first
    layer is evaluated as ``q (W_q + W_d) + h (W_h - W_d) + (q o h) W_p``: its share in q is
    computed once a row, not once a step.

    Attributes:
      layers: hidden layer sizes.
      projects_query: False, as in DIN, takes the candidate itself for q; it is then as wide as a
        state.

    Source: the paper's authors' program; Zhou et al., KDD 2018 (arXiv:1706.06978).
    """

    layers: Sequence[int] = (80, 40)
    projects_query: bool = True

    @nn.compact
    def __call__(
        self,
        candidate: Float[Array, "B Q"],
        states: Float[Array, "B T H"],
        lengths: Int[Array, " B"],
    ) -> Float[Array, "B T"]:
        """Weights that sum to 1 over the live steps of each row, or are all 0 at length 0."""
        hidden = states.shape[-1]
        query = candidate
        if self.projects_query:
            projected = nn.Dense(hidden, dtype=candidate.dtype, name="query")(candidate)
            query = PReLU(name="query_activation")(projected)
        first = self.layers[0]
        kernel = self.param("kernel", nn.initializers.glorot_uniform(), (4 * hidden, first))
        bias = self.param("bias", nn.initializers.zeros, (first,))
        of_query, of_state, of_difference, of_product = jnp.split(kernel.astype(states.dtype), 4)
        per_row = query @ (of_query + of_difference) + bias.astype(states.dtype)[None, :]
        per_step = states @ (of_state - of_difference) + (states * query[:, None]) @ of_product
        value = sigmoid(per_step + per_row[:, None])
        for index, size in enumerate(self.layers[1:], start=1):
            value = sigmoid(nn.Dense(size, dtype=value.dtype, name=f"layer_{index}")(value))
        scores = nn.Dense(1, dtype=value.dtype, name="score")(value)[..., 0]
        return masked_softmax(scores.astype(jnp.float32), lengths)


class BilinearAttention(nn.Module):
    """Attention weights by a bilinear form: the softmax of ``h_t W q`` over live steps.

    Source: Zhou et al., AAAI 2019, eq. 8 (arXiv:1809.03672).
    """

    @nn.compact
    def __call__(
        self,
        candidate: Float[Array, "B Q"],
        states: Float[Array, "B T H"],
        lengths: Int[Array, " B"],
    ) -> Float[Array, "B T"]:
        """Weights that sum to 1 over the live steps of each row, or are all 0 at length 0."""
        turned = nn.Dense(states.shape[-1], use_bias=False, dtype=candidate.dtype, name="form")(
            candidate
        )
        scores = jnp.einsum("bth,bh->bt", states, turned)
        return masked_softmax(scores.astype(jnp.float32), lengths)


def as_logit(scores: Float[Array, "*R C"]) -> Float[Array, "*R"]:
    """One linear column, or the difference of a softmax's two."""
    return scores[..., 0] if scores.shape[-1] == 1 else scores[..., 0] - scores[..., 1]


class AuxiliaryNetwork(nn.Module):
    """Logit that a behaviour follows an interest state: an MLP of [state, behaviour].

    The state's share of the first layer is computed once and serves the real behaviour and all
    sampled ones.

    Attributes:
      layers: hidden layer sizes.
      columns: of the last layer: 1, or a softmax's 2.
    """

    layers: Sequence[int] = (100, 50)
    columns: int = 1

    @nn.compact
    def __call__(
        self, states: Float[Array, "*R H"], behaviours: Float[Array, "K *R D"]
    ) -> Float[Array, "K *R"]:
        """Logits of K candidate behaviours for each state."""
        dtype = states.dtype
        of_state = nn.Dense(self.layers[0], dtype=dtype, name="state")(states)
        of_behaviour = nn.Dense(self.layers[0], use_bias=False, dtype=dtype, name="behaviour")(
            behaviours
        )
        value = sigmoid(of_state[None] + of_behaviour)
        for index, size in enumerate(self.layers[1:], start=1):
            value = sigmoid(nn.Dense(size, dtype=dtype, name=f"layer_{index}")(value))
        scores = nn.Dense(self.columns, dtype=dtype, name="score")(value)
        return as_logit(scores.astype(jnp.float32))


class MLP(nn.Module):
    """The click network: normalisation, hidden layers with PReLU or Dice, one logit.

    Attributes:
      layers: hidden layer sizes.
      activation: ``"prelu"`` or ``"dice"``.
      dice_statistics: see :class:`Dice`.
      batch_norm: of the input, see :class:`BatchNorm`.
      dropout: share of hidden units dropped in training.
      columns: of the last layer: 1, or a softmax's 2.
    """

    layers: Sequence[int] = (200, 80)
    activation: Literal["prelu", "dice"] = "dice"
    dice_statistics: Literal["running", "batch"] = "running"
    batch_norm: Literal["none", "running", "frozen"] = "none"
    dropout: float = 0.0
    columns: int = 1

    @nn.compact
    def __call__(
        self, x: Float[Array, "B D"], live: Bool[Array, " B"], *, train: bool
    ) -> Float[Array, " B"]:
        """Logits; ``live`` says which rows are real. Training with dropout needs its key."""
        if self.batch_norm != "none":
            x = rescaled(x, *BatchNorm(self.batch_norm, name="norm")(x, live, train=train))
        for index, size in enumerate(self.layers):
            x = nn.Dense(size, dtype=x.dtype, name=f"layer_{index}")(x)
            if self.activation == "dice":
                x = Dice(self.dice_statistics, name=f"activation_{index}")(x, live, train=train)
            else:
                x = PReLU(name=f"activation_{index}")(x)
            if self.dropout:
                x = nn.Dropout(self.dropout, deterministic=not train)(x)
        return as_logit(nn.Dense(self.columns, dtype=x.dtype, name="logit")(x).astype(jnp.float32))
