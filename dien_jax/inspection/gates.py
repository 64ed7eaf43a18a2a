"""Attention and gates of a model, recorded while it scores.

The model has no inspection hooks: Flax's ``capture_intermediates`` records what modules return, and
gates are recomputed from the inputs and states of a recurrence, whichever implementation it ran:

    u_t = sigmoid(W_u x_t + U_u h_{t-1} + b_u)

Dimensions: B examples, T steps, D input, H hidden.
"""

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
from dien_jax.data.schema import Schema
from dien_jax.data.tables import FeatureTables
from dien_jax.model.interest import InterestModel
from dien_jax.model.logit_map import LogitMap, click_probability


class Measure(NamedTuple):
    """A number from 0 to 1 for each behaviour of a history."""

    title: str
    explanation: str
    is_relative: bool = False
    """True for bars relative to the largest, as all numbers of a long history are small."""


MEASURES = {
    "extractor_gate": Measure(
        "extractor gate", "share of the interest extractor's state that a behaviour replaces"
    ),
    "attention": Measure(
        "attention", "weight of a behaviour for this candidate; the weights sum to 1", True
    ),
    "update_gate": Measure(
        "update gate",
        "share of the interest evolution's state that a behaviour would replace without attention",
    ),
    "update": Measure(
        "update",
        "share of the interest evolution's state that a behaviour replaces under attention",
        True,
    ),
}
"""The measures by name, in the order in which a model computes them."""


class Internals(NamedTuple):
    """Click probabilities of a batch, ``[B]``, and its measures by name, ``[B, T]`` each.

    Gates are means over the H units. A measure that the model lacks is left out.
    """

    probability: Array
    measures: dict[str, Array]


def update_gates(
    weights: Weights, x: Float[Array, "B T D"], states: Float[Array, "B T H"], gates: Form
) -> Float[Array, "B T H"]:
    """Return the share of each unit of the state that a GRU's step replaces, without attention.

    It is u in the paper's form and 1 - u in the authors' form, whose gate is the share that is
    kept. An AUGRU replaces this share at attention 1 in the paper's form, at 0 in the authors'.
    ``states`` are those after each step on ``x``, from an initial state of zeros.
    """
    before = jnp.pad(states, ((0, 0), (1, 0), (0, 0)))[:, :-1]
    from_input = jnp.einsum("btd,dh->bth", x, weights.input[:, 1], precision="highest")
    from_state = jnp.einsum("btg,gh->bth", before, weights.recurrent[:, 1], precision="highest")
    u = jax.nn.sigmoid(from_input + from_state + weights.bias[None, None, 1])
    return u if gates == "paper" else 1 - u


def make_internals_step(config: Config, schema: Schema) -> Callable[..., Internals]:
    """Return the jitted ``internals(params, batch_stats, features, batch, logit_map)``."""
    model_config = config.model
    model = InterestModel(model_config, schema)

    def is_captured(module: nn.Module, method: str) -> bool:
        return method == "__call__" and module.name in ("extractor", "evolution")

    def measured(variables: Any, features: FeatureTables, batch: Batch) -> tuple[Any, dict]:
        params = variables["params"]
        output, captured = model.apply(
            variables, batch, features, capture_intermediates=is_captured, mutable=["intermediates"]
        )
        returned = captured.get("intermediates", {})

        def mean_gate(name: str, x: jax.Array) -> jax.Array:
            ((states, _),) = returned[name]["__call__"]
            return update_gates(Weights(**params[name]), x, states, model_config.gates).mean(-1)

        attention: Any = output.attention
        measures = {} if attention is None else {"attention": attention}
        if model_config.extractor == "gru":
            items = jnp.asarray(batch.history)
            history: Any = model.apply(variables, items, features, method="embed_items")
            measures["extractor_gate"] = mean_gate("extractor", history)
        if model_config.evolution in ("gru_attention", "augru"):
            measures["update_gate"] = gate = mean_gate("evolution", output.interest_states)
        elif model_config.evolution == "aigru":
            inputs = output.interest_states * attention[..., None]
            measures["update_gate"] = mean_gate("evolution", inputs)
        if model_config.evolution == "augru":
            is_paper = model_config.gates == "paper"
            measures["update"] = attention * gate if is_paper else 1 - (1 - attention) * (1 - gate)
        return output.logits, measures

    def internals(
        params: Any,
        stats: Any,
        features: FeatureTables,
        batch: Batch,
        logit_map: LogitMap | None = None,
    ) -> Internals:
        variables = {"params": params, "batch_stats": stats}
        logits, measures = measured(variables, features, batch)
        return Internals(click_probability(logits, logit_map), measures)

    return jax.jit(internals)


def available_measures(model: ModelConfig) -> list[str]:
    """Return the names of the :data:`MEASURES` that a model has."""
    evolution = model.evolution
    gates = evolution in ("gru_attention", "aigru", "augru")
    present = (model.extractor == "gru", evolution != "none", gates, evolution == "augru")
    return [name for name, is_present in zip(MEASURES, present, strict=True) if is_present]


def missing_measures(model: ModelConfig) -> list[str]:
    """Return sentences that say why a model lacks attention or an update gate."""
    name = member_name(model).replace("custom", "this model")
    if model.evolution == "none":
        pooling = "sum" if model.follow_authors else "mean"
        lines = [f"{name} has no attention; it uses the {pooling} of the history's embeddings"]
        if model.extractor == "none":
            lines.append(f"{name} has no recurrence, so no gates; it ignores the order of items")
        return lines
    if model.evolution == "attention":
        place = "" if model.extractor == "none" else " in interest evolution"
        return [f"{name} has attention but no recurrence{place}, so it has no update gate"]
    if model.evolution == "agru":
        return [f"{name} has no update gate: attention is the share of the state that is replaced"]
    if "update_gate" not in available_measures(model):
        return [f"the gates of the evolution {model.evolution!r} are not known"]
    return []
