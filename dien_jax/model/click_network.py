"""The click network."""

from collections.abc import Sequence
from typing import Literal

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from dien_jax.model.activations import Dice, PReLU, as_logit
from dien_jax.model.batch_norm import BatchNorm, rescaled
from dien_jax.model.devices import Axis, Dropout


class MLP(nn.Module):
    """The click network: normalisation, hidden layers with PReLU or Dice, one logit.

    >>> import jax, jax.numpy as jnp
    >>> from dien_jax.model import MLP
    >>> x, live = jnp.ones((3, 5)), jnp.ones(3, bool)
    >>> MLP((8, 4)).init_with_output(jax.random.key(0), x, live, train=False)[0].shape
    (3,)

    With ``follow_authors``, :class:`BatchNorm` is ``"frozen"``, :class:`Dice` has the moments
    ``"batch"``, and the last layer has two columns, for a softmax.
    """

    layers: Sequence[int] = (200, 80)
    activation: Literal["prelu", "dice"] = "dice"
    dropout: float = 0.0
    follow_authors: bool = False
    axis: Axis = None

    @nn.compact
    def __call__(
        self, x: Float[Array, "B D"], live: Bool[Array, " B"], *, train: bool
    ) -> Float[Array, " B"]:
        """Return logits; ``live`` marks real rows. Training with dropout needs its key."""
        theirs = self.follow_authors
        norm = BatchNorm("frozen" if theirs else "running", self.axis, name="norm")
        x = rescaled(x, *norm(x, live, train=train))
        for index, size in enumerate(self.layers):
            x = nn.Dense(size, dtype=x.dtype, name=f"layer_{index}")(x)
            if self.activation == "dice":
                dice = Dice("batch" if theirs else "running", self.axis, name=f"activation_{index}")
                x = dice(x, live, train=train)
            else:
                x = PReLU(name=f"activation_{index}")(x)
            if self.dropout and train and self.axis is not None:
                x = Dropout(self.dropout, self.axis, name=f"Dropout_{index}")(x)
            elif self.dropout:
                x = nn.Dropout(self.dropout, deterministic=not train)(x)
        logit = nn.Dense(2 if theirs else 1, dtype=x.dtype, name="logit")
        return as_logit(logit(x).astype(jnp.float32))
