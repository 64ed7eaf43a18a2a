"""Adam and its learning-rate schedules, those of optax; the tower has its own schedule."""

from collections.abc import Callable
from typing import Any, NamedTuple

import dien_kernels
import jax
import optax

from dien_jax.config.settings import LARGEST_INTEGER, Config
from dien_jax.errors import UserError
from dien_jax.model.tower import Part

TOWER_RATE = 3e-3
"""Learning rate of the tower at its first step; it falls to 0 along a cosine."""
TOWER_EPOCHS = 8
"""Epochs of the tower, at most ``train.epochs``."""


def learning_rate(settings: Config, steps_per_epoch: int, part: Part = "network") -> optax.Schedule:
    """Return the learning-rate schedule of a part of the model, over steps of its training."""
    config, steps = settings.optim, steps_of(settings, steps_per_epoch, part)
    if part == "tower":
        return optax.cosine_decay_schedule(TOWER_RATE, steps)
    if config.schedule == "halving":
        rate = config.learning_rate
        return optax.exponential_decay(rate, steps_per_epoch, 0.5, staircase=True)
    if config.schedule == "cosine":
        return optax.cosine_decay_schedule(config.learning_rate, steps)
    return optax.constant_schedule(config.learning_rate)


def epochs_of(config: Config, part: Part) -> int:
    """Return the maximum number of epochs of a part of the model."""
    epochs = config.train.epochs
    return min(TOWER_EPOCHS, epochs) if part == "tower" else epochs


def steps_of(config: Config, steps_per_epoch: int, part: Part) -> int:
    """Return the maximum number of training steps of a part of the model.

    More steps than an int32 can count are a UserError.
    """
    longest = LARGEST_INTEGER // steps_per_epoch
    if config.train.epochs > longest:
        raise UserError(
            f"train.epochs must be at most {longest:,} with {steps_per_epoch:,} steps an epoch, "
            f"got {config.train.epochs:,}"
        )
    return steps_per_epoch * epochs_of(config, part)


class Optimizer(NamedTuple):
    """Adam with the schedule of a part of the model.

    ``update(params, slots, gradients)`` returns new parameters and slots, and the norm of the
    gradients. Slots are those of ``optax.adam``.
    """

    init: Callable[[Any], Any]
    update: Callable[[Any, Any, Any], tuple[Any, Any, jax.Array]]


def make_optimizer(config: Config, steps_per_epoch: int, part: Part = "network") -> Optimizer:
    """Return Adam, by the kernel of :func:`dien_kernels.adam_update` where the model has those."""
    schedule = learning_rate(config, steps_per_epoch, part)
    # Schedules of optax mix floats with an int32, which strict promotion refuses.
    rate_at = jax.numpy_dtype_promotion("standard")(schedule)
    implementation = config.model.network_implementation

    def update(params: Any, slots: Any, gradients: Any) -> tuple[Any, Any, jax.Array]:
        adam, scheduled = slots
        count = optax.safe_increment(adam.count)
        found = dien_kernels.adam_update(
            params,
            adam.mu,
            adam.nu,
            gradients,
            rate=rate_at(scheduled.count),
            count=count,
            implementation=implementation,
        )
        adam = adam._replace(count=count, mu=found.means, nu=found.variances)
        # A count of its own: a warm start begins the schedule again, but not Adam.
        scheduled = scheduled._replace(count=optax.safe_increment(scheduled.count))
        return found.params, (adam, scheduled), found.norm

    return Optimizer(optax.adam(schedule).init, update)
