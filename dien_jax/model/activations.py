"""Activations of the click network and of attention: PReLU and Dice."""

from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from dien_jax.model.batch_norm import DiceNorm
from dien_jax.model.devices import Axis, total


class Dice(nn.Module):
    """``(alpha (1 - p) + p) x`` with p the sigmoid of the normalised x, one alpha for each unit.

    >>> import jax, jax.numpy as jnp
    >>> from dien_jax.model import Dice
    >>> x, live = jnp.ones((3, 2)), jnp.ones(3, bool)
    >>> Dice().init_with_output(jax.random.key(0), x, live, train=False)[0].shape
    (3, 2)

    Moments ``"running"`` are those of live rows in training and running ones when scoring, so that
    a score never depends on its batch; ``"batch"`` are always the batch's own, as in the paper's
    authors' program.

    Source: Zhou et al., KDD 2018 (arXiv:1706.06978).
    """

    moments: Literal["running", "batch"] = "running"
    axis: Axis = None

    @nn.compact
    def __call__(
        self, x: Float[Array, "B H"], live: Bool[Array, " B"], *, train: bool
    ) -> Float[Array, "B H"]:
        """Apply element-wise; ``live`` marks the rows that statistics may see."""
        alpha = self.param("alpha", nn.initializers.zeros, (x.shape[-1],)).astype(x.dtype)
        if self.moments == "running":
            norm = DiceNorm(self.axis, name="BatchNorm_0")  # the path in checkpoints
            normed = norm(x.astype(jnp.float32), live, train=train).astype(x.dtype)
        else:
            weight = live.astype(x.dtype)[:, None]
            rows = jnp.maximum(total(weight.sum(), self.axis), 1)
            centred = x - total((x * weight).sum(0, keepdims=True), self.axis) / rows
            squares = (centred * centred * weight).sum(0, keepdims=True)
            variance = total(squares, self.axis) / rows
            normed = centred / (jnp.sqrt(variance + 1e-9) + 1e-9)
        p = jax.nn.sigmoid(normed)
        return (alpha[None, :] * (1 - p) + p) * x


class PReLU(nn.Module):
    """``x`` where it is positive, ``alpha x`` elsewhere, one alpha for each unit, initially 0.1.

    >>> import jax, jax.numpy as jnp
    >>> from dien_jax.model import PReLU
    >>> PReLU().init_with_output(jax.random.key(0), jnp.array([[2.0, -2.0]]))[0].tolist()[0][0]
    2.0
    """

    @nn.compact
    def __call__(self, x: Float[Array, "B H"]) -> Float[Array, "B H"]:
        alpha = self.param("alpha", nn.initializers.constant(0.1), (x.shape[-1],))
        return jnp.where(x > 0, x, alpha.astype(x.dtype)[None, :] * x)


def as_logit(scores: Float[Array, "*R C"]) -> Float[Array, "*R"]:
    """Return one linear column as a logit, or the difference of a softmax's two."""
    return scores[..., 0] if scores.shape[-1] == 1 else scores[..., 0] - scores[..., 1]
