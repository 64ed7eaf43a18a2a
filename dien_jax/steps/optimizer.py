"""Adam and its learning-rate schedules, through optax."""

from typing import Any

import jax
import optax

from dien_jax.config.settings import Config, OptimConfig


def learning_rate(config: OptimConfig, steps_per_epoch: int, epochs: int) -> optax.Schedule:
    """Return the learning rate of each step."""
    if config.schedule == "halving":
        rate = config.learning_rate
        return optax.exponential_decay(rate, steps_per_epoch, 0.5, staircase=True)
    if config.schedule == "cosine":
        return optax.cosine_decay_schedule(config.learning_rate, steps_per_epoch * epochs)
    return optax.constant_schedule(config.learning_rate)


def make_optimizer(config: Config, steps_per_epoch: int) -> optax.GradientTransformation:
    """Return Adam with the configured schedule."""
    adam = optax.adam(learning_rate(config.optim, steps_per_epoch, config.train.epochs))

    def lenient(gradients: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        # Optax raises floats to an int32 count, which strict dtype promotion refuses.
        with jax.numpy_dtype_promotion("standard"):
            return adam.update(gradients, state, params)

    return optax.GradientTransformation(adam.init, lenient)
