"""Layers: batch normalisation with float32 statistics of live entries, Dice, PReLU and the MLP.

Inside ``shard_map``, a batch may be sharded over devices. Modules and losses then take ``axis``,
the name of the mesh axis of the batch. Statistics are those of the whole batch, and a loss is one
device's share: the shares of all devices sum to the loss of the whole batch.

Dimensions: R rows, B examples, D columns, H units.
"""

from collections.abc import Sequence
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

Axis = str | None
"""Name of a mesh axis; None for a batch on one device."""
BATCH_NORM_EPSILON = 1e-3
"""Added to the variance, as in the paper's program."""
BATCH_NORM_MOMENTUM = 0.99
"""Decay of running statistics."""
DICE_EPSILON = 1e-5
"""Added to the variance of Dice."""
TOTAL_WEIGHT = "total_weight"
"""Name of a variable of running statistics: the sum of the weights of all batches."""
CALIBRATION = "calibration"
"""Name of the :data:`LogitMap` among the variables of a model for ranking or export."""

LogitMap = dict[str, Float[Array, ""]]
"""Calibration in a scoring program: ``slope`` and ``offset`` of an increasing linear function."""
Moments = tuple[Float[Array, " D"], Float[Array, " D"]]
"""Mean and variance of columns."""


def total(value: jax.Array, axis: Axis) -> jax.Array:
    """Return the sum of a value over the devices of an axis."""
    return value if axis is None else jax.lax.psum(value, axis)


class BatchNorm(nn.Module):
    """Batch normalisation, returned as a scale and a shift of each column.

    The next layer can fold them into its weights; :func:`rescaled` applies them.

    >>> import jax, jax.numpy as jnp
    >>> from dien_jax.model import BatchNorm
    >>> norm, live = BatchNorm("frozen"), jnp.ones(3, bool)
    >>> (scale, shift), _ = norm.init_with_output(jax.random.key(0), jnp.ones((3, 2)), live,
    ...                                           train=False)
    >>> scale.shape, shift.shape
    ((2,), (2,))

    Attributes:
      kind: ``"running"`` is ``gamma (x - mean) / sqrt(variance + epsilon) + beta`` with the mean
        and variance of live entries in training, and their running means in evaluation, see
        :func:`moments_in_use` (a column that does not vary becomes beta);
        ``"frozen"`` is ``gamma x / sqrt(1 + epsilon) + beta``, the same with mean 0 and variance 1
        throughout.
      axis: mesh axis of the rows; statistics are over all devices.

    Source: Ioffe and Szegedy, 2015 (arXiv:1502.03167).
    """

    kind: Literal["running", "frozen"] = "running"
    axis: Axis = None

    @nn.compact
    def __call__(
        self, x: Float[Array, "*R D"], live: Bool[Array, "*R"], *, train: bool
    ) -> tuple[Float[Array, " D"], Float[Array, " D"]]:
        """Return scale and shift; ``live`` marks the rows that count in statistics."""
        width = x.shape[-1]
        gamma = self.param("scale", nn.initializers.ones, (width,))
        beta = self.param("bias", nn.initializers.zeros, (width,))
        if self.kind == "frozen":
            return gamma / jnp.sqrt(1 + BATCH_NORM_EPSILON), beta
        batch = None
        if train:
            values = x.astype(jnp.float32)
            mean = live_mean(values, live, self.axis)
            row = (1,) * (x.ndim - 1) + (-1,)
            batch = mean, live_mean((values - mean.reshape(row)) ** 2, live, self.axis)
        mean, variance = moments_in_use(self, width, batch, live, self.axis)
        scale = gamma * jax.lax.rsqrt(variance + BATCH_NORM_EPSILON)
        # In a constant column, such as one of a batch of one user, the deviation is rounding, up to
        # a millionth of the mean; the scale would amplify it into a gradient.
        scale = jnp.where(variance > 1e-12 * mean**2, scale, 0)
        return scale, beta - mean * scale


class DiceNorm(nn.Module):
    """``(x - mean) / sqrt(variance + epsilon)``, the normalisation within Dice.

    The variance of a batch is the mean of squares minus the square of the mean.
    """

    axis: Axis = None

    @nn.compact
    def __call__(
        self, x: Float[Array, "B D"], live: Bool[Array, " B"], *, train: bool
    ) -> Float[Array, "B D"]:
        """Return normalised rows; ``live`` marks those that count in statistics."""
        batch = None
        if train:
            mean, square = (live_mean(terms, live, self.axis) for terms in (x, jnp.square(x)))
            batch = mean, jnp.maximum(0.0, square - jnp.square(mean))
        mean, variance = moments_in_use(self, x.shape[-1], batch, live, self.axis)
        return (x - mean[None, :]) * jax.lax.rsqrt(variance[None, :] + DICE_EPSILON)


def moments_in_use(
    module: nn.Module,
    width: int,
    batch: Moments | None,
    live: Bool[Array, "*R"],
    axis: Axis = None,
) -> Moments:
    """Return the moments to normalise with, and update a module's running statistics.

    In training these are the ``batch`` moments, which also update the running ones:

        m(n) = .99 m(n - 1) + .01 batch moment(n),  m(0) = 0
        w(n) = .99 w(n - 1) + .01,                  w(0) = 0

    In evaluation, with ``batch`` None, they are m / w: a mean over all batches, with weights that
    sum to 1 and decay by .99 per batch. A batch without a live row changes nothing. Before the
    first batch, the mean is 0 and the variance 1.

    Source: Kingma and Ba, 2015 (arXiv:1412.6980), section 3, for m / w.
    """
    kept = [module.variable("batch_stats", name, jnp.zeros, width) for name in ("mean", "var")]
    weight = module.variable("batch_stats", TOTAL_WEIGHT, jnp.zeros, ())
    if batch is not None:
        if not module.is_initializing():
            is_live = total(live.any().astype(jnp.int32), axis) > 0
            for variable, value in zip((*kept, weight), (*batch, jnp.ones(())), strict=True):
                new = BATCH_NORM_MOMENTUM * variable.value + (1 - BATCH_NORM_MOMENTUM) * value
                variable.value = jnp.where(is_live, new, variable.value)
        return batch
    mean, variance = (variable.value for variable in kept)
    divisor = jnp.where(weight.value > 0, weight.value, 1)
    return mean / divisor, jnp.where(weight.value > 0, variance / divisor, 1)


def live_mean(
    terms: Float[Array, "*R D"], live: Bool[Array, "*R"], axis: Axis = None
) -> Float[Array, " D"]:
    """Return the mean of each column over live rows; 0 without any."""
    axes = tuple(range(terms.ndim - 1))
    weight = live.astype(terms.dtype)[..., None]
    summed = total((weight * terms).sum(axes), axis)
    return summed / jnp.maximum(total(weight.sum(), axis), 1)


def rescaled(
    x: Float[Array, "*R D"], scale: Float[Array, " D"], shift: Float[Array, " D"]
) -> Float[Array, "*R D"]:
    """Return ``scale x + shift`` by columns."""
    row = (1,) * (x.ndim - 1) + (-1,)
    return (x.astype(jnp.float32) * scale.reshape(row) + shift.reshape(row)).astype(x.dtype)


class Dice(nn.Module):
    """``(alpha (1 - p) + p) x`` with p the sigmoid of the normalised x, one alpha for each unit.

    >>> import jax, jax.numpy as jnp
    >>> from dien_jax.model import Dice
    >>> x, live = jnp.ones((3, 2)), jnp.ones(3, bool)
    >>> run = jax.jit(Dice().init_with_output, static_argnames="train")
    >>> run(jax.random.key(0), x, live, train=False)[0].shape
    (3, 2)

    With moments ``"running"``, training uses those of the batch's live rows and scoring the running
    ones, so a score never depends on its batch. With ``"batch"``, both use those of the batch, as
    in the authors' program.

    Source: Zhou et al., KDD 2018 (arXiv:1706.06978).
    """

    moments: Literal["running", "batch"] = "running"
    axis: Axis = None

    @nn.compact
    def __call__(
        self, x: Float[Array, "B H"], live: Bool[Array, " B"], *, train: bool
    ) -> Float[Array, "B H"]:
        """Apply element-wise; ``live`` marks the rows that count in statistics."""
        alpha = self.param("alpha", nn.initializers.zeros, (x.shape[-1],)).astype(x.dtype)
        values = x.astype(jnp.float32)
        if self.moments == "running":
            norm = DiceNorm(self.axis, name="BatchNorm_0")  # the path in checkpoints
            normed = norm(values, live, train=train)
        else:
            centred = values - live_mean(values, live, self.axis)[None, :]
            variance = live_mean(jnp.square(centred), live, self.axis)[None, :]
            normed = centred / (jnp.sqrt(variance + 1e-9) + 1e-9)
        p = jax.nn.sigmoid(normed.astype(x.dtype))
        return (alpha[None, :] * (1 - p) + p) * x


class Dropout(nn.Module):
    """``flax.linen.Dropout``; several devices use the mask that one draws for the whole batch."""

    rate: float
    axis: Axis = None

    @nn.compact
    def __call__(self, x: Float[Array, "B H"], *, train: bool) -> Float[Array, "B H"]:
        """Drop units of this device's rows in training."""
        if not self.rate or not train:
            return x
        rows, keep = x.shape[0], 1.0 - self.rate
        devices = 1 if self.axis is None else jax.lax.axis_size(self.axis)
        shape = (devices * rows, *x.shape[1:])
        mask = jax.random.bernoulli(self.make_rng("dropout"), p=keep, shape=shape)
        if self.axis is not None:
            start = jax.lax.axis_index(self.axis) * rows
            mask = jax.lax.dynamic_slice_in_dim(mask, start, rows)
        return jax.lax.select(mask, x / keep, jnp.zeros_like(x))


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
    """Return a single column as a logit, or the difference of the two columns of a softmax."""
    return scores[..., 0] if scores.shape[-1] == 1 else scores[..., 0] - scores[..., 1]


class MLP(nn.Module):
    """The click network: normalisation, hidden layers with PReLU or Dice, one logit.

    >>> import jax, jax.numpy as jnp
    >>> from dien_jax.model import MLP
    >>> x, live = jnp.ones((3, 5)), jnp.ones(3, bool)
    >>> run = jax.jit(MLP((8, 4)).init_with_output, static_argnames="train")
    >>> run(jax.random.key(0), x, live, train=False)[0].shape
    (3,)

    With ``follow_authors``, :class:`BatchNorm` is ``"frozen"``, :class:`Dice` has the moments
    ``"batch"``, and the last layer has two columns, for a softmax. ``initial`` initializes the
    weights of that layer.
    """

    layers: Sequence[int] = (200, 80)
    activation: Literal["prelu", "dice"] = "dice"
    dropout: float = 0.0
    follow_authors: bool = False
    axis: Axis = None
    initial: nn.initializers.Initializer = nn.initializers.lecun_normal()

    @nn.compact
    def __call__(
        self, x: Float[Array, "B D"], live: Bool[Array, " B"], *, train: bool
    ) -> Float[Array, " B"]:
        """Return logits; ``live`` marks real rows. Training with dropout needs its random key."""
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
            x = Dropout(self.dropout, self.axis)(x, train=train)
        columns = 2 if theirs else 1
        logit = nn.Dense(columns, dtype=x.dtype, kernel_init=self.initial, name="logit")
        return as_logit(logit(x).astype(jnp.float32))


def click_probability(
    logits: Float[Array, " B"], logit_map: LogitMap | None = None
) -> Float[Array, " B"]:
    """Return the sigmoid of logits, or of ``slope * logits + offset``.

    Slope 1 and offset 0 give the same bits as no map.
    """
    if logit_map is not None:
        logits = logit_map["slope"] * logits + logit_map["offset"]
    return jax.nn.sigmoid(logits)
