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

    :class:`Dice` and :class:`BatchNorm` describe their kinds of statistics. The last layer has 1
    column, or 2 for a softmax.
    """

    layers: Sequence[int] = (200, 80)
    activation: Literal["prelu", "dice"] = "dice"
    dice_statistics: Literal["running", "batch"] = "running"
    batch_norm: Literal["none", "running", "frozen"] = "none"
    dropout: float = 0.0
    columns: int = 1
    axis: Axis = None

    @nn.compact
    def __call__(
        self, x: Float[Array, "B D"], live: Bool[Array, " B"], *, train: bool
    ) -> Float[Array, " B"]:
        """Return logits; ``live`` marks real rows. Training with dropout needs its key."""
        if self.batch_norm != "none":
            norm = BatchNorm(self.batch_norm, self.axis, name="norm")
            x = rescaled(x, *norm(x, live, train=train))
        for index, size in enumerate(self.layers):
            x = nn.Dense(size, dtype=x.dtype, name=f"layer_{index}")(x)
            if self.activation == "dice":
                dice = Dice(self.dice_statistics, self.axis, name=f"activation_{index}")
                x = dice(x, live, train=train)
            else:
                x = PReLU(name=f"activation_{index}")(x)
            if self.dropout and train and self.axis is not None:
                x = Dropout(self.dropout, self.axis, name=f"Dropout_{index}")(x)
            elif self.dropout:
                x = nn.Dropout(self.dropout, deterministic=not train)(x)
        return as_logit(nn.Dense(self.columns, dtype=x.dtype, name="logit")(x).astype(jnp.float32))
