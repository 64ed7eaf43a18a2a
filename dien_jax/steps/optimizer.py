"""Adam and its learning-rate schedules, through optax; the tower has its own schedule."""

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


def make_optimizer(
    config: Config, steps_per_epoch: int, part: Part = "network"
) -> optax.GradientTransformation:
    """Return Adam with the schedule of a part of the model."""
    adam = optax.adam(learning_rate(config, steps_per_epoch, part))
    # Optax computes powers of floats with an int32 exponent, which strict promotion refuses.
    lenient = jax.numpy_dtype_promotion("standard")(adam.update)
    return optax.GradientTransformation(adam.init, lenient)
