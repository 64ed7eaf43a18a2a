"""Batch normalisation and the statistics of Dice."""

from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dien_jax.model.layers import (
    BATCH_NORM_EPSILON,
    DICE_EPSILON,
    BatchNorm,
    Dice,
    DiceNorm,
    rescaled,
)

KINDS = pytest.mark.parametrize("module", [BatchNorm("running"), DiceNorm()], ids=["layer", "Dice"])
LIVE = jnp.array([True] * 6 + [False] * 2)


def batches(count: int) -> list[jax.Array]:
    """Batches with the small values of young embeddings, and two rows that do not count."""
    rng = np.random.default_rng(3)
    rows = rng.normal(0.002, 0.003, (count, 8, 3)).astype(np.float32)
    rows[:, 6:] = 50
    return list(map(jnp.asarray, rows))


def normed(module: nn.Module, variables: Any, x: jax.Array) -> jax.Array:
    """Rows as they are in evaluation."""
    result: Any = module.apply(variables, x, LIVE, train=False)
    return rescaled(x, *result) if isinstance(module, BatchNorm) else result


def trained(module: nn.Module, variables: Any, x: jax.Array, live: jax.Array) -> Any:
    """Variables after one step of training."""
    _, changed = module.apply(variables, x, live, train=True, mutable=["batch_stats"])
    return {**variables, **changed}


@KINDS
def test_evaluation_uses_the_mean_of_all_batches_and_nothing_of_the_start(module) -> None:
    """Weights fall by .99 a batch and add up to 1, also after a few steps."""
    steps = batches(4)
    variables: Any = module.init(jax.random.key(0), steps[0], LIVE, train=True)
    for x in steps:
        variables = trained(module, variables, x, LIVE)
    weights = 0.99 ** np.arange(3, -1, -1)
    live = np.stack(steps)[:, :6].astype(np.float64)
    mean = np.average(live.mean(1), axis=0, weights=weights)
    variance = np.average(live.var(1), axis=0, weights=weights)
    epsilon = BATCH_NORM_EPSILON if isinstance(module, BatchNorm) else DICE_EPSILON
    expected = (np.asarray(steps[0], np.float64) - mean) / np.sqrt(variance + epsilon)
    # float32, after a sum of four terms and a difference of numbers of one size
    np.testing.assert_allclose(normed(module, variables, steps[0]), expected, rtol=1e-5, atol=1e-6)


@KINDS
def test_without_a_batch_the_mean_is_0_and_the_variance_1(module: nn.Module) -> None:
    x = batches(1)[0]
    variables = module.init(jax.random.key(0), x, LIVE, train=True)
    np.testing.assert_allclose(normed(module, variables, x), x, rtol=1e-3)  # the epsilons


@KINDS
def test_a_batch_without_live_rows_changes_nothing(module: nn.Module) -> None:
    first, second = batches(2)
    variables: Any = module.init(jax.random.key(0), first, LIVE, train=True)
    variables = trained(module, variables, first, LIVE)
    after = trained(module, variables, second, jnp.zeros(8, bool))
    assert len(jax.tree.leaves(after["batch_stats"])) == 3
    jax.tree.map(np.testing.assert_array_equal, after, variables)
    result = module.apply(
        variables, second, jnp.zeros(8, bool), train=True, mutable=["batch_stats"]
    )
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(result))


def test_a_column_that_is_the_same_in_all_rows_has_no_gradient() -> None:
    """As of one user: rounding must not be taken for variance."""
    norm, live = BatchNorm("running"), jnp.ones(64, bool)
    varied = jnp.linspace(-1, 1, 64)
    variables = norm.init(jax.random.key(0), jnp.ones((64, 2)), live, train=True)

    def loss(same: jax.Array, other: jax.Array) -> jax.Array:
        x = jnp.stack([jnp.broadcast_to(same, 64), other], axis=1)
        affine, _ = norm.apply(variables, x, live, train=True, mutable=["batch_stats"])
        normed = rescaled(x, *affine)
        return 1000 * (normed * (varied + 0.3)[:, None]).sum()

    of_same, of_other = jax.jit(jax.grad(loss, (0, 1)))(jnp.float32(0.7), varied**3)
    assert of_same == 0
    assert np.abs(of_other).max() > 1


@pytest.mark.parametrize("moments", ["running", "batch"])
def test_statistics_of_bfloat16_rows_are_float32(moments: Literal["running", "batch"]) -> None:
    """With a mean of 20, whose rounding in bfloat16 is a fifth of the deviation."""
    x = batches(1)[0].at[:6].multiply(100).at[:6].add(20.06).astype(jnp.bfloat16)
    dice = Dice(moments)
    variables = dice.init(jax.random.key(0), x, LIVE, train=True)
    half, whole = (
        dice.apply(variables, rows, LIVE, train=True, mutable=["batch_stats"])[0][:6]
        for rows in (x, x.astype(jnp.float32))
    )
    # roundings by 2^-9 of normalised rows and of the result, which is at most 21
    np.testing.assert_allclose(half.astype(jnp.float32), whole, atol=0.2)
