"""Recurrences as Flax modules that own weights; :mod:`dien_kernels` computes them.

Dimensions: B rows, N candidates of one history, T steps, D input, H hidden.
"""

from collections.abc import Callable

import dien_kernels
import flax.linen as nn
import jax
import jax.numpy as jnp
from dien_kernels import Form, Implementation, Precision, SharedCell, Weights, agru, augru, gru
from jaxtyping import Array, Float, Int

from dien_jax.config.settings import network_implementation


def _gate_by_gate(initial: nn.initializers.Initializer) -> nn.initializers.Initializer:
    """Draw each gate's matrix of ``[rows, gates, H]`` on its own."""

    def make(key: jax.Array, shape: tuple, dtype: jnp.dtype = jnp.float32) -> jax.Array:
        keys = jax.random.split(key, shape[1])
        parts = [initial(part, (shape[0], shape[2]), dtype) for part in keys]
        return jnp.stack(parts, axis=1)

    return make


class Recurrence(nn.Module):
    """Parameters and options of a recurrence; the gates "authors" have initial biases of 1."""

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

    def options(self, lengths: Int[Array, " B"]) -> dict:
        options = {"implementation": self.implementation, "precision": self.precision}
        return {"lengths": lengths, "form": self.gates, **options}


def _last_states(cell: SharedCell) -> Callable[..., jax.Array]:
    def last_states(
        self: Recurrence,
        states: Float[Array, "T D"],
        attention: Float[Array, "N T"],
        length: Int[Array, ""],
    ) -> Float[Array, "N H"]:
        """Return the last state over one history under each candidate's attention."""
        weights = Weights(**self.variables["params"])
        operands = (states, attention, weights, length)
        implementation = network_implementation(self.implementation)
        return dien_kernels.last_states(cell, self.gates, *operands, self.precision, implementation)

    return last_states


class GRU(Recurrence):
    """A GRU over masked histories; :func:`dien_kernels.gru` with weights of its own.

    >>> import jax, jax.numpy as jnp
    >>> from dien_jax.model import GRU
    >>> x, lengths = jnp.ones((2, 5, 3)), jnp.array([5, 0])
    >>> (states, last), _ = GRU(4).init_with_output(jax.random.key(0), x, lengths)
    >>> states.shape, last.shape
    ((2, 5, 4), (2, 4))
    """

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B T D"],
        lengths: Int[Array, " B"],
        initial_state: Float[Array, "B H"] | None = None,
    ) -> tuple[Float[Array, "B T H"], Float[Array, "B H"]]:
        """Return the states of every step and the last one, from ``initial_state`` or zeros on."""
        options = self.options(lengths)
        return gru(x, self.weights(x.shape[-1]), initial_state=initial_state, **options)


class AGRU(Recurrence):
    """:class:`GRU` with attention in place of the update gate; see :func:`dien_kernels.agru`.

    >>> import jax, jax.numpy as jnp
    >>> from dien_jax.model import AGRU
    >>> x, attention, lengths = jnp.ones((2, 5, 3)), jnp.ones((2, 5)), jnp.array([5, 0])
    >>> (states, last), _ = AGRU(4).init_with_output(jax.random.key(0), x, attention, lengths)
    >>> states.shape, last.shape
    ((2, 5, 4), (2, 4))
    """

    @nn.compact
    def __call__(
        self, x: Float[Array, "B T D"], attention: Float[Array, "B T"], lengths: Int[Array, " B"]
    ) -> tuple[Float[Array, "B T H"], Float[Array, "B H"]]:
        return agru(x, attention, self.weights(x.shape[-1], count=2), **self.options(lengths))

    last_states = _last_states("agru")


class AUGRU(Recurrence):
    """:class:`GRU` with the update gate scaled by attention; see :func:`dien_kernels.augru`.

    >>> import jax, jax.numpy as jnp
    >>> from dien_jax.model import AUGRU
    >>> x, attention, lengths = jnp.ones((2, 5, 3)), jnp.ones((2, 5)), jnp.array([5, 0])
    >>> (states, last), _ = AUGRU(4).init_with_output(jax.random.key(0), x, attention, lengths)
    >>> states.shape, last.shape
    ((2, 5, 4), (2, 4))
    """

    @nn.compact
    def __call__(
        self, x: Float[Array, "B T D"], attention: Float[Array, "B T"], lengths: Int[Array, " B"]
    ) -> tuple[Float[Array, "B T H"], Float[Array, "B H"]]:
        return augru(x, attention, self.weights(x.shape[-1]), **self.options(lengths))

    last_states = _last_states("augru")


class AIGRU(Recurrence):
    """:class:`GRU` over inputs scaled by attention: ``gru(a_t x_t)``.

    >>> import jax, jax.numpy as jnp
    >>> from dien_jax.model import AIGRU
    >>> x, attention, lengths = jnp.ones((2, 5, 3)), jnp.ones((2, 5)), jnp.array([5, 0])
    >>> (states, last), _ = AIGRU(4).init_with_output(jax.random.key(0), x, attention, lengths)
    >>> states.shape, last.shape
    ((2, 5, 4), (2, 4))
    """

    @nn.compact
    def __call__(
        self, x: Float[Array, "B T D"], attention: Float[Array, "B T"], lengths: Int[Array, " B"]
    ) -> tuple[Float[Array, "B T H"], Float[Array, "B H"]]:
        weights = self.weights(x.shape[-1])
        scaled = x * attention.astype(x.dtype)[..., None]
        return gru(scaled, weights, **self.options(lengths))

    last_states = _last_states("aigru")
