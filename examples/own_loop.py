"""DIEN in your own training loop: arrays of ids and optax, without dataset folder or settings.

    python examples/own_loop.py

Users are synthetic: each cycles through the items of a taste and changes taste now and then, so the
order of a history predicts the next item. docs/own-loop.md explains the parts and shows variants.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from dien_jax.metrics import auc
from dien_jax.model import DIEN
from dien_jax.steps import click_loss

ITEMS, TASTES, STEPS, ROWS = 200, 20, 20, 64


def make_batch(key: jax.Array) -> dict[str, jax.Array]:
    """Return histories, lengths, candidates, labels and auxiliary negatives ``[K, B, T - 1]``."""
    keys = jax.random.split(key, 6)
    taste = jax.random.randint(keys[0], (ROWS, 1), 0, TASTES)
    changes = jax.random.bernoulli(keys[1], 0.1, (ROWS, STEPS + 1)).cumsum(1)
    place = jax.random.randint(keys[2], (ROWS, 1), 0, 10) + jnp.arange(STEPS + 1)
    items = (taste + 7 * changes) % TASTES * 10 + place % 10
    label = jax.random.bernoulli(keys[3], 0.5, (ROWS,)).astype(jnp.float32)
    candidate = jnp.where(label > 0, items[:, -1], jax.random.randint(keys[4], (ROWS,), 0, ITEMS))
    negatives = jax.random.randint(keys[5], (3, ROWS, STEPS - 1), 0, ITEMS)
    return {
        "history": items[:, :-1],
        "lengths": jnp.full(ROWS, STEPS),  # live steps; later entries are ignored
        "candidate": candidate,
        "label": label,
        "negatives": negatives,
    }


class Model(nn.Module):
    """Embeddings, DIEN and a small MLP: returns click logits and the auxiliary loss."""

    network: nn.Module

    @nn.compact
    def __call__(self, batch: dict, train: bool = False) -> tuple[jax.Array, jax.Array]:
        embed = nn.Embed(ITEMS, 16)
        history, candidate = embed(batch["history"]), embed(batch["candidate"])
        is_negative = batch["negatives"] != batch["history"][None, :, 1:]
        inputs = history, batch["lengths"], candidate, embed(batch["negatives"])
        output = self.network(*inputs, is_negative=is_negative, train=train)
        features = [output.final_state, candidate, output.auxiliary_score[:, None]]
        hidden = nn.relu(nn.Dense(64)(jnp.concatenate(features, axis=-1)))
        return nn.Dense(1)(hidden)[:, 0], output.auxiliary_loss


def train(network: nn.Module, steps: int = 100) -> None:
    """Train, then print both losses and the AUC on new users."""
    model, optimizer, key = Model(network), optax.adam(1e-2), jax.random.key(0)
    variables = jax.jit(model.init)(key, make_batch(key))
    params, stats = variables["params"], variables.get("batch_stats", {})

    def loss(params: dict, stats: dict, batch: dict) -> tuple[jax.Array, tuple]:
        variables = {"params": params, "batch_stats": stats}
        (logits, auxiliary), changed = model.apply(variables, batch, True, mutable=["batch_stats"])
        click = click_loss(logits, batch["label"], jnp.ones(ROWS))
        return click + auxiliary, (changed.get("batch_stats", {}), click, auxiliary)

    @jax.jit
    def step(params: dict, stats: dict, slots: tuple, key: jax.Array) -> tuple:
        gradients, (stats, *losses) = jax.grad(loss, has_aux=True)(params, stats, make_batch(key))
        updates, slots = optimizer.update(gradients, slots)
        return optax.apply_updates(params, updates), stats, slots, losses

    slots = optimizer.init(params)
    for number in range(steps + 1):
        key = jax.random.fold_in(jax.random.key(1), number)
        params, stats, slots, (click, auxiliary) = step(params, stats, slots, key)
        if number % 50 == 0:
            print(f"step {number:3}: click loss {click:.3f}, auxiliary loss {auxiliary:.3f}")
    fresh = make_batch(jax.random.key(2))
    logits, _ = jax.jit(model.apply)({"params": params, "batch_stats": stats}, fresh)
    labels, scores = jax.device_get((fresh["label"], jax.nn.sigmoid(logits)))
    print(f"AUC on fresh users: {auc(labels, scores):.3f}")


if __name__ == "__main__":
    train(DIEN())
