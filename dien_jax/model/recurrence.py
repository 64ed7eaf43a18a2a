"""Recurrences as Flax modules that own weights; :mod:`dien_kernels` computes them.

Dimensions: B rows, N candidates of one history, T steps, D input, H hidden.
"""

import functools
from collections.abc import Callable

import dien_kernels
import flax.linen as nn
import jax
import jax.numpy as jnp
from dien_kernels import Form, Implementation, Precision, Weights, agru, augru, gru
from jaxtyping import Array, Float, Int

from dien_jax.config.settings import ADDED_CHOICES, ModelConfig


def _gate_by_gate(initial: nn.initializers.Initializer) -> nn.initializers.Initializer:
    """Draw each gate's matrix of ``[rows, gates, H]`` on its own."""

    def make(key: jax.Array, shape: tuple, dtype: jnp.dtype = jnp.float32) -> jax.Array:
        keys = jax.random.split(key, shape[1])
        parts = [initial(part, (shape[0], shape[2]), dtype) for part in keys]
        return jnp.stack(parts, axis=1)

    return make


class _Recurrence(nn.Module):
    """Parameters and options that the recurrent modules share.

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
        """Return the parameters for inputs of ``depth`` columns."""
        gate_bias = 1.0 if self.form == "authors" else 0.0

        def bias(key: jax.Array, shape: tuple, dtype: jnp.dtype = jnp.float32) -> jax.Array:
            return jnp.full(shape, gate_bias, dtype).at[-1].set(0)

        hidden = self.hidden_size
        glorot = _gate_by_gate(nn.initializers.glorot_uniform())
        orthogonal = _gate_by_gate(nn.initializers.orthogonal())
        return Weights(
            self.param("input", glorot, (depth, gates, hidden)),
            self.param("recurrent", orthogonal, (hidden, gates, hidden)),
            self.param("bias", bias, (gates, hidden)),
        )

    def options(self, lengths: Int[Array, " B"]) -> dict:
        """Return the keyword arguments that every function of ``dien_kernels`` takes."""
        return {
            "lengths": lengths,
            "form": self.form,
            "implementation": self.implementation,
            "precision": self.precision,
        }

    def _last_states(
        self,
        cell: dien_kernels.SharedCell,
        states: Float[Array, "T D"],
        attention: Float[Array, "N T"],
        length: Int[Array, ""],
    ) -> Float[Array, "N H"]:
        weights = Weights(**self.variables["params"])
        return dien_kernels.last_states(
            cell, self.form, states, attention, weights, length, self.precision
        )


class GRU(_Recurrence):
    """A GRU over masked histories; :func:`dien_kernels.gru` with weights of its own."""

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


class AGRU(_Recurrence):
    """A GRU with attention in place of the update gate; see :func:`dien_kernels.agru`."""

    @nn.compact
    def __call__(
        self, x: Float[Array, "B T D"], attention: Float[Array, "B T"], lengths: Int[Array, " B"]
    ) -> tuple[Float[Array, "B T H"], Float[Array, "B H"]]:
        """Return the states of every step and the last one."""
        return agru(x, attention, self.weights(x.shape[-1], gates=2), **self.options(lengths))

    def last_states(
        self, states: Float[Array, "T D"], attention: Float[Array, "N T"], length: Int[Array, ""]
    ) -> Float[Array, "N H"]:
        """Return the last state over one history under each candidate's attention."""
        return self._last_states("agru", states, attention, length)


class AUGRU(_Recurrence):
    """A GRU whose update gate is scaled by attention; see :func:`dien_kernels.augru`."""

    @nn.compact
    def __call__(
        self, x: Float[Array, "B T D"], attention: Float[Array, "B T"], lengths: Int[Array, " B"]
    ) -> tuple[Float[Array, "B T H"], Float[Array, "B H"]]:
        """Return the states of every step and the last one."""
        return augru(x, attention, self.weights(x.shape[-1]), **self.options(lengths))

    def last_states(
        self, states: Float[Array, "T D"], attention: Float[Array, "N T"], length: Int[Array, ""]
    ) -> Float[Array, "N H"]:
        """Return the last state over one history under each candidate's attention."""
        return self._last_states("augru", states, attention, length)


class AIGRU(_Recurrence):
    """A GRU over inputs scaled by attention: ``gru(a_t x_t)``."""

    @nn.compact
    def __call__(
        self, x: Float[Array, "B T D"], attention: Float[Array, "B T"], lengths: Int[Array, " B"]
    ) -> tuple[Float[Array, "B T H"], Float[Array, "B H"]]:
        """Return the states of every step and the last one."""
        weights = self.weights(x.shape[-1])
        scaled = x * attention.astype(x.dtype)[..., None]
        return gru(scaled, weights, **self.options(lengths))

    def last_states(
        self, states: Float[Array, "T D"], attention: Float[Array, "N T"], length: Int[Array, ""]
    ) -> Float[Array, "N H"]:
        """Return the last state over one history under each candidate's attention."""
        return self._last_states("aigru", states, attention, length)


def make_recurrence(cell: type[_Recurrence], config: ModelConfig) -> nn.Module:
    """Return a recurrence of ``dien_kernels`` with the options of the configuration."""
    return cell(config.hidden_size, config.form, config.recurrence, config.recurrence_precision)


EVOLUTIONS: dict[str, Callable[[ModelConfig], nn.Module]] = {
    "gru_attention": functools.partial(make_recurrence, GRU),
    "aigru": functools.partial(make_recurrence, AIGRU),
    "agru": functools.partial(make_recurrence, AGRU),
    "augru": functools.partial(make_recurrence, AUGRU),
}
"""The recurrence of each ``config.evolution`` that has one. Add a cell of your own under a new
name: a module that is called as :class:`AUGRU`. docs/tutorial.md does."""
ADDED_CHOICES["evolution"] = EVOLUTIONS
