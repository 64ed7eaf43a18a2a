"""The functions that train and score each part of a model."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from dien_jax.config.settings import LARGEST_INTEGER, Config
from dien_jax.errors import UserError
from dien_jax.model.tower import Part, of_part
from dien_jax.steps.optimizer import epochs_of, learning_rate
from dien_jax.steps.placement import OneDevice
from dien_jax.steps.score import make_predict_step
from dien_jax.steps.state import TrainState, parts
from dien_jax.steps.train import make_train_step


class PartSteps(NamedTuple):
    """The functions of one part of a model, and the maximum number of its training steps.

    ``train`` donates the state. ``predict`` returns the scores of the tower alone or, for the
    network part, of the whole model.
    """

    steps: int
    learning_rate: optax.Schedule
    train: Callable[..., Any]
    predict: Callable[..., jax.Array]


def part_steps(config: Config, place: OneDevice, steps_per_epoch: int) -> dict[Part, PartSteps]:
    """Return the functions of each part of a model, in the order of training.

    More steps than an int32 can count are a UserError.
    """
    schema, longest = place.schema, LARGEST_INTEGER // steps_per_epoch
    if config.train.epochs > longest:
        raise UserError(
            f"train.epochs must be at most {longest:,} with {steps_per_epoch:,} steps an epoch, "
            f"got {config.train.epochs:,}"
        )

    def compiled(program: Callable, donated: tuple[int, ...] = ()) -> Callable:
        if not config.train.deterministic:
            return program
        # XLA reads its flags once, and may have read them before the settings were known.
        options = {"xla_gpu_deterministic_ops": True}
        return jax.jit(program, donate_argnums=donated, compiler_options=options)

    return {
        part: PartSteps(
            steps_per_epoch * epochs_of(config, part),
            learning_rate(config, steps_per_epoch, part),
            compiled(make_train_step(config, schema, steps_per_epoch, place, part), (0,)),
            compiled(make_predict_step(config, schema, place, part)),
        )
        for part in parts(config.model)
    }


def tower_of(state: TrainState) -> tuple[Any, Any]:
    """Return a copy of the parameters and the running statistics of a state's tower."""
    tower = of_part(state.params, "tower"), of_part(state.batch_stats, "tower")
    return jax.tree.map(jnp.copy, tower)  # a step donates the state
