"""Attention and update gates of a model, recorded while it scores"""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from dien_kernels import Weights
from dien_kernels.reference import Form
from jaxtyping import Array, Float

from dien_jax.config.presets import member_name
from dien_jax.config.settings import Config, ModelConfig
from dien_jax.data.batch import Batch
from dien_jax.data.schema import FeatureTables, Schema
from dien_jax.model.interest import InterestModel

MEASURES = {
    "extractor_gate": "extractor gate",
    "attention": "attention",
    "update_gate": "update gate",
    "update": "update",
}
"""Short names of what there is for each behaviour, in the order of the computation."""
EXPLANATIONS = {
    "extractor_gate": "share of the interest extractor's state that a behaviour replaces",
    "attention": "weight of a behaviour for this candidate; the weights sum to 1",
    "update_gate": "share of the state of interest evolution that a behaviour would replace if "
    "attention had no say",
    "update": "share of that state that it does replace, with attention in the gate",
}
RELATIVE = frozenset({"attention", "update"})
"""Measures that are small in a long history: their bars are relative to the largest."""


class Glimpse(NamedTuple):
    """What the model made of a batch; gates are means over the H units.

    Attributes:
      probability: ``[B]``, of a click.
      extractor_gate: ``[B, T]``; None without an extractor.
      attention: ``[B, T]``; None without attention.
      update_gate: ``[B, T]``; None where interest evolution has none.
      update: ``[B, T]``; None where attention does not scale the gate.
    """

    probability: Array
    extractor_gate: Array | None
    attention: Array | None
    update_gate: Array | None
    update: Array | None


def update_gates(
    weights: Weights, x: Float[Array, "B T D"], states: Float[Array, "B T H"], form: Form
) -> Float[Array, "B T H"]:
    """Share of each unit of the state that a GRU's step replaces, before any attention.

    That is u in the paper's form and 1 - u in the authors', whose gate says what is kept. AUGRU
    has it at attention 1 in the paper's form, and at 0 in the authors'.

    Args:
      weights: of a recurrence with three gates.
      x: its inputs.
      states: its states, which began at zero.
      form: of its gates.
    """
    before = jnp.pad(states, ((0, 0), (1, 0), (0, 0)))[:, :-1]
    of_input = jnp.einsum("btd,dh->bth", x, weights.input[:, 1], precision="highest")
    of_state = jnp.einsum("btg,gh->bth", before, weights.recurrent[:, 1], precision="highest")
    u = jax.nn.sigmoid(of_input + of_state + weights.bias[None, None, 1])
    return u if form == "paper" else 1 - u


def make_look_step(
    config: Config, schema: Schema
) -> Callable[[Any, Any, FeatureTables, Batch], Glimpse]:
    """Jitted ``look(params, batch_stats, features, batch)``."""
    settings = config.model
    model = InterestModel(settings, schema)

    def is_captured(module: nn.Module, method: str) -> bool:
        return method == "__call__" and module.name in ("extractor", "evolution")

    def look(params: Any, batch_stats: Any, features: FeatureTables, batch: Batch) -> Glimpse:
        variables = {"params": params, "batch_stats": batch_stats}
        output, captured = model.apply(
            variables,
            batch,
            features,
            capture_intermediates=is_captured,
            mutable=["intermediates"],
        )
        returned = captured.get("intermediates", {})

        def gates(name: str, x: jax.Array) -> jax.Array:
            ((states, _),) = returned[name]["__call__"]
            return update_gates(Weights(**params[name]), x, states, settings.form)

        attention, extractor, evolution, update = output.attention, None, None, None
        interests = output.interest_states
        if settings.extractor == "gru":
            items = jnp.asarray(batch.history)
            history: Any = model.apply(variables, items, features, method="embed_items")
            extractor = gates("extractor", history).mean(-1)
        if settings.evolution == "gru_attention":
            evolution = gates("evolution", interests).mean(-1)
        elif settings.evolution == "aigru":
            evolution = gates("evolution", interests * attention[..., None]).mean(-1)
        elif settings.evolution == "augru":
            unscaled = gates("evolution", interests)
            evolution = unscaled.mean(-1)
            update = attention * evolution
            if settings.form == "authors":  # 1 - (1 - a) u
                update = 1 - (1 - attention) * (1 - evolution)
        return Glimpse(jax.nn.sigmoid(output.logits), extractor, attention, evolution, update)

    return jax.jit(look)


def measures_of(model: ModelConfig) -> list[str]:
    """Which of :data:`MEASURES` a model has."""
    gated = ("gru_attention", "aigru", "augru")
    has = {
        "extractor_gate": model.extractor == "gru",
        "attention": model.evolution != "none",
        "update_gate": model.evolution in gated,
        "update": model.evolution == "augru",
    }
    return [name for name in MEASURES if has[name]]


def lacking(model: ModelConfig) -> list[str]:
    """What a model does not have of what could be looked at, one sentence each."""
    name = member_name(model)
    name = "this model" if name == "custom" else name
    if model.evolution == "none":
        pooled = "mean" if model.pooling == "mean" else "sum"
        found = [f"{name} has no attention: the {pooled} of the history's embeddings stands for it"]
        if model.extractor == "none":
            found.append(f"{name} has no recurrence, so no gates: the order does not matter to it")
        return found
    if model.evolution == "attention":
        has = "" if model.extractor == "none" else " in interest evolution"
        return [f"{name} has attention but no recurrence{has}, so no update gate"]
    if model.evolution == "agru":
        return [
            "AGRU has attention in place of an update gate: its state is replaced by that share"
        ]
    return []
