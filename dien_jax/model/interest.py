"""Recurrences and attention as Flax modules, which own parameters.

:mod:`dien_kernels` computes them. A recurrence runs over masked histories. Attention weighs the
states of a history for a candidate: one candidate per row, or many candidates of one history.

Dimensions: B rows, N candidates of one history, T steps, D input, H hidden, Q candidate embedding.
"""

from collections.abc import Sequence
from typing import Any, ClassVar

import dien_kernels
import flax.linen as nn
import jax
import jax.numpy as jnp
from dien_kernels import (
    Dense,
    Form,
    Implementation,
    NetworkImplementation,
    Precision,
    SharedCell,
    Weights,
    agru,
    augru,
    gru,
    masked_softmax,
)
from jaxtyping import Array, Float, Int

from dien_jax.config.settings import network_implementation
from dien_jax.model.layers import PReLU

States = tuple[Float[Array, "B T H"], Float[Array, "B H"]]
"""The states of every step, and the last one."""


def _gate_by_gate(initial: nn.initializers.Initializer) -> nn.initializers.Initializer:
    """Initialize each gate's matrix of ``[rows, gates, H]`` separately, in one program."""

    def make(key: jax.Array, shape: tuple, dtype: jnp.dtype = jnp.float32) -> jax.Array:
        draw = jax.vmap(lambda key: initial(key, (shape[0], shape[2]), dtype), out_axes=1)
        return draw(jax.random.split(key, shape[1]))

    return make


class Recurrence(nn.Module):
    """Parameters and options of a recurrence; with gates "authors", gate biases start at 1."""

    hidden_size: int
    gates: Form = "paper"
    implementation: Implementation = "auto"
    precision: Precision = "highest"

    def weights(self, depth: int, count: int = 3) -> Weights:
        gate_bias = 1.0 if self.gates == "authors" else 0.0

        def bias(key: jax.Array, shape: tuple, dtype: jnp.dtype = jnp.float32) -> jax.Array:
            return jnp.full(shape, gate_bias, dtype).at[-1].set(0)

        hidden = self.hidden_size
        glorot = _gate_by_gate(nn.initializers.glorot_uniform())
        orthogonal = _gate_by_gate(nn.initializers.orthogonal())
        return Weights(
            self.param("input", glorot, (depth, count, hidden)),
            self.param("recurrent", orthogonal, (hidden, count, hidden)),
            self.param("bias", bias, (count, hidden)),
        )

    def options(
        self, lengths: Int[Array, " B"], initial_state: Float[Array, "B H"] | None
    ) -> dict[str, Any]:
        return {
            "lengths": lengths,
            "initial_state": initial_state,
            "form": self.gates,
            "implementation": self.implementation,
            "precision": self.precision,
        }


class GRU(Recurrence):
    """A GRU over masked histories: :func:`dien_kernels.gru` with parameters.

    >>> import jax, jax.numpy as jnp
    >>> from dien_jax.model import GRU
    >>> x, lengths = jnp.ones((2, 5, 3)), jnp.array([5, 0])
    >>> (states, last), _ = jax.jit(GRU(4).init_with_output)(jax.random.key(0), x, lengths)
    >>> states.shape, last.shape
    ((2, 5, 4), (2, 4))
    """

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B T D"],
        lengths: Int[Array, " B"],
        initial_state: Float[Array, "B H"] | None = None,
    ) -> States:
        """Return the states of every step and the last one, from ``initial_state`` or zeros."""
        return gru(x, self.weights(x.shape[-1]), **self.options(lengths, initial_state))


class _Attentional(Recurrence):
    """Base of recurrences with attention; ``_cell`` names the kernel."""

    _cell: ClassVar[SharedCell]

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B T D"],
        attention: Float[Array, "B T"],
        lengths: Int[Array, " B"],
        initial_state: Float[Array, "B H"] | None = None,
    ) -> States:
        """Return the states of every step and the last one, from ``initial_state`` or zeros."""
        weights = self.weights(x.shape[-1], count=2 if self._cell == "agru" else 3)
        options = self.options(lengths, initial_state)
        if self._cell == "aigru":
            return gru(x * attention.astype(x.dtype)[..., None], weights, **options)
        return {"agru": agru, "augru": augru}[self._cell](x, attention, weights, **options)

    def _of_candidates(
        self, states: Float[Array, "T D"], attention: Float[Array, "N T"], length: Int[Array, ""]
    ) -> Float[Array, "N H"]:
        """Return the last state over one history for each candidate's attention.

        Each class binds it to ``last_states`` itself: a subclass may have another step, and must
        not inherit it.
        """
        operands = (states, attention, Weights(**self.variables["params"]), length)
        options = self.precision, network_implementation(self.implementation)
        return dien_kernels.last_states(self._cell, self.gates, *operands, *options)


class AGRU(_Attentional):
    """:class:`GRU` with attention in place of the update gate; see :func:`dien_kernels.agru`.

    It is called like :class:`AUGRU`.

    >>> from dien_jax.model import AGRU, DIEN
    >>> DIEN(evolution=AGRU(36)).evolution.hidden_size
    36
    """

    _cell, last_states = "agru", _Attentional._of_candidates


class AUGRU(_Attentional):
    """:class:`GRU` with the update gate scaled by attention; see :func:`dien_kernels.augru`.

    >>> import jax, jax.numpy as jnp
    >>> from dien_jax.model import AUGRU
    >>> x, attention, lengths = jnp.ones((2, 5, 3)), jnp.ones((2, 5)), jnp.array([5, 0])
    >>> run = jax.jit(AUGRU(4).init_with_output)
    >>> (states, last), _ = run(jax.random.key(0), x, attention, lengths)
    >>> states.shape, last.shape
    ((2, 5, 4), (2, 4))
    """

    _cell, last_states = "augru", _Attentional._of_candidates


class AIGRU(_Attentional):
    """:class:`GRU` over inputs scaled by attention: ``gru(a_t x_t)``.

    It is called like :class:`AUGRU`.

    >>> from dien_jax.model import AIGRU, DIEN
    >>> DIEN(evolution=AIGRU(36)).evolution.hidden_size
    36
    """

    _cell, last_states = "aigru", _Attentional._of_candidates


ATTENTION_LAYERS = (80, 40)
"""Sizes of the hidden layers, as in the authors' program."""


class _DenseParameters(nn.Module):
    """The parameters of ``nn.Dense``."""

    inputs: int
    columns: int

    @nn.compact
    def __call__(self) -> Dense:
        kernel = self.param("kernel", nn.initializers.lecun_normal(), (self.inputs, self.columns))
        return Dense(kernel, self.param("bias", nn.initializers.zeros, (self.columns,)))


def _of_one_history(
    self: Any, candidates: Float[Array, "N Q"], states: Float[Array, "T H"], length: Int[Array, ""]
) -> Float[Array, "N T"]:
    """Return the weights of one history's states for each candidate."""
    return self(candidates, states, length)


class MLPAttention(nn.Module):
    """Attention weights of every interest state for a candidate, scored by an MLP.

    With q = PReLU(Dense(candidate)), the score of state h is an MLP of [q, h, q - h, q o h] with
    sigmoid activations and a linear output. Weights are the softmax of scores over live steps.
    :func:`dien_kernels.attention_weights` computes them.

    >>> import jax, jax.numpy as jnp
    >>> from dien_jax.model import MLPAttention
    >>> candidate, states, lengths = jnp.ones((2, 3)), jnp.ones((2, 4, 6)), jnp.array([2, 0])
    >>> run = jax.jit(MLPAttention(layers=(8,)).init_with_output)
    >>> run(jax.random.key(0), candidate, states, lengths)[0].tolist()
    [[0.5, 0.5, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]]

    Without ``projects_query``, as in DIN, q is the candidate itself, as wide as a state.

    Source: the paper's authors' program; Zhou et al., KDD 2018 (arXiv:1706.06978).
    """

    layers: Sequence[int] = ATTENTION_LAYERS
    projects_query: bool = True
    implementation: NetworkImplementation = "auto"

    @nn.compact
    def __call__(
        self,
        candidate: Float[Array, "B Q"],
        states: Float[Array, "B T H"] | Float[Array, "T H"],
        lengths: Int[Array, " B"] | Int[Array, ""],
    ) -> Float[Array, "B T"]:
        """Return weights that sum to 1 over the live steps of each row; zeros without any.

        With states ``[T, H]``, all candidates share one history.
        """
        hidden = states.shape[-1]
        query = candidate
        if self.projects_query:
            projected = nn.Dense(hidden, dtype=candidate.dtype, name="query")(candidate)
            query = PReLU(name="query_activation")(projected)
        first, *others = self.layers
        kernel = self.param("kernel", nn.initializers.glorot_uniform(), (4 * hidden, first))
        layers = [Dense(kernel, self.param("bias", nn.initializers.zeros, (first,)))]
        for index, columns in enumerate([*others, 1], start=1):
            name = f"layer_{index}" if index < len(self.layers) else "score"
            layers.append(_DenseParameters(layers[-1].kernel.shape[1], columns, name=name)())
        arrays, choice = (query, states, layers), self.implementation
        if states.ndim == 2:
            return dien_kernels.candidate_attention(*arrays, length=lengths, implementation=choice)
        return dien_kernels.attention_weights(*arrays, lengths=lengths, implementation=choice)

    weights_for_candidates = _of_one_history


class BilinearAttention(nn.Module):
    """Attention weights by a bilinear form: the softmax of ``h_t W q`` over live steps.

    >>> import jax, jax.numpy as jnp
    >>> from dien_jax.model import BilinearAttention
    >>> candidate, states, lengths = jnp.ones((1, 3)), jnp.ones((1, 4, 6)), jnp.array([2])
    >>> run = jax.jit(BilinearAttention().init_with_output)
    >>> run(jax.random.key(0), candidate, states, lengths)[0].tolist()
    [[0.5, 0.5, 0.0, 0.0]]

    Source: Zhou et al., AAAI 2019, eq. 8 (arXiv:1809.03672).
    """

    @nn.compact
    def __call__(
        self,
        candidate: Float[Array, "B Q"],
        states: Float[Array, "B T H"] | Float[Array, "T H"],
        lengths: Int[Array, " B"] | Int[Array, ""],
    ) -> Float[Array, "B T"]:
        """Return weights as :meth:`MLPAttention.__call__` does."""
        project = nn.Dense(states.shape[-1], use_bias=False, dtype=candidate.dtype, name="query")
        of_states = "th" if states.ndim == 2 else "bth"
        scores = jnp.einsum(f"{of_states},bh->bt", states, project(candidate))
        lengths = jnp.broadcast_to(lengths, scores.shape[:1])
        return masked_softmax(scores.astype(jnp.float32), lengths)

    weights_for_candidates = _of_one_history
