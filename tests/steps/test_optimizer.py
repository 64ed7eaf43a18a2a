"""The optimizer of a step: optax's Adam, with its state and schedules."""

import functools

import jax
import numpy as np
import optax
import pytest
from support.tiny_run import LIGHT_CONFIG

from dien_jax.config.presets import with_settings
from dien_jax.steps.optimizer import learning_rate, make_optimizer


@pytest.mark.parametrize("part", ["network", "tower"])
def test_updates_and_slots_are_those_of_optax(part: str) -> None:
    config = with_settings(LIGHT_CONFIG, {"optim.schedule": "cosine"})
    theirs = optax.adam(learning_rate(config, 4, part))
    ours = make_optimizer(config, 4, part)
    rng, step = np.random.default_rng(0), jax.jit(ours.update)
    params = expected = {"a": np.ones((5, 3), np.float32), "b": np.ones(4, np.float32)}
    slots, their_slots = ours.init(params), theirs.init(params)
    for _ in range(6):
        gradients = jax.tree.map(lambda a: rng.normal(size=a.shape).astype(np.float32), params)
        params, slots, norm = step(params, slots, gradients)
        with jax.numpy_dtype_promotion("standard"):
            updates, their_slots = theirs.update(gradients, their_slots)
        expected = optax.apply_updates(expected, updates)
        np.testing.assert_allclose(norm, optax.tree.norm(gradients), rtol=1e-6)
    close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-7)
    jax.tree.map(close, (params, slots), (expected, their_slots))
