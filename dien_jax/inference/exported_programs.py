"""A model's programs as ``jax.export`` has them: one text for CPU, CUDA and TPU, sizes left open.

Every program takes two arguments of plain dicts, lists and arrays: the weights, by name, and its
inputs. ``score_rows`` scores examples one by one. The others rank as :class:`~dien_jax.Ranker`
does: ``read_history`` gives what is known of a history without a candidate, ``add_event`` adds an
event to that, ``score_candidates`` scores candidates against it, up to ``CHUNK`` of them, and
``score_many_candidates`` a larger multiple of ``CHUNK``.

A Pallas kernel is compiled for one kind of device, so the recurrences are XLA's here.

Dimensions: B (b) rows, T (t) steps, N (n) candidates.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from dien_kernels import Implementation
from jax import export

from dien_jax.config.settings import Config
from dien_jax.data.batch import Batch
from dien_jax.data.schema import Feature, FeatureTables, FeatureValues, MultiValued, Schema
from dien_jax.model.interest import InterestModel, ModelOutput
from dien_jax.model.shared_history import CHUNK
from dien_jax.runs.trained import TrainedModel
from dien_jax.steps.rank import Interests, Programs, make_programs

PLATFORMS = ("cpu", "cuda", "tpu")
RECURRENCE: Implementation = "xla"
"""Implementation of the recurrences in every program."""
_TRAINING_ONLY = "auxiliary"
"""What the names of parts begin with that no score needs."""

Weights = dict[str, Any]
"""Parameters, running statistics and feature tables, by names such as ``params/mlp/logit/bias``."""


def named_weights(
    trained: TrainedModel,
) -> tuple[dict[str, np.ndarray], Callable[[Weights], tuple[Any, FeatureTables]]]:
    """All that a model's scores depend on, by name.

    Returns:
      The arrays, on the host; and what makes the model's variables and tables of such a dict.
    """
    dataset = trained.dataset
    tree = {
        "params": _scoring(trained.params),
        "batch_stats": _scoring(trained.batch_stats),
        "tables": dataset.feature_tables(),
    }
    paths, structure = jax.tree_util.tree_flatten_with_path(tree)
    arrays = {
        jax.tree_util.keystr(path, simple=True, separator="/"): np.asarray(leaf)
        for path, leaf in paths
    }
    names = list(arrays)

    def rebuild(weights: Weights) -> tuple[Any, FeatureTables]:
        parts = jax.tree.unflatten(structure, [weights[name] for name in names])
        tables = parts.pop("tables")
        return parts, tables

    return arrays, rebuild


def row_scores(
    trained: TrainedModel, recurrence: Implementation
) -> tuple[dict[str, np.ndarray], Callable[[Weights, dict[str, Any]], jax.Array]]:
    """The weights of a model, and ``score_rows(weights, inputs) -> [B]`` as a function.

    Args:
      trained: the model.
      recurrence: implementation of its recurrences.
    """
    weights, rebuild = named_weights(trained)
    schema = trained.dataset.schema
    model = InterestModel(_with_recurrence(trained, recurrence).model, schema)

    def score_rows(weights: Weights, inputs: dict[str, Any]) -> jax.Array:
        variables, tables = rebuild(weights)
        one = jnp.ones(inputs["lengths"].shape, jnp.float32)
        batch = Batch(
            history=inputs["history"],
            lengths=inputs["lengths"],
            item=inputs["item"],
            user=inputs["user"],
            label=one,
            weight=one,
            context=structured(inputs["context"]),
        )
        output = cast(ModelOutput, model.apply(variables, batch, tables))
        return jax.nn.sigmoid(output.logits)

    return weights, score_rows


def row_inputs(schema: Schema, rows: Any, steps: Any) -> dict[str, Any]:
    """Shapes and dtypes of what ``score_rows`` reads."""
    return {
        "history": _integers(rows, steps),
        "lengths": _integers(rows),
        "item": _integers(rows),
        "user": _integers(rows),
        "context": _context(schema, rows),
    }


def make_exports(trained: TrainedModel) -> tuple[dict[str, np.ndarray], dict[str, export.Exported]]:
    """The weights of a model, and its programs by name."""
    schema = trained.dataset.schema
    arrays, rebuild = named_weights(trained)
    _, score_rows = row_scores(trained, RECURRENCE)
    programs = make_programs(_with_recurrence(trained, RECURRENCE), schema)

    def read_history(weights: Weights, inputs: dict[str, Any]) -> dict[str, Any]:
        return _plain(programs.read(*rebuild(weights), inputs["history"], inputs["length"]))

    def add_event(weights: Weights, inputs: dict[str, Any]) -> dict[str, Any]:
        interests = _interests(inputs["interests"])
        model = rebuild(weights)
        return _plain(programs.extend(*model, interests, inputs["item"], inputs["length"]))

    def score_candidates(weights: Weights, inputs: dict[str, Any]) -> jax.Array:
        return programs.score(
            *rebuild(weights),
            _interests(inputs["interests"]),
            inputs["history"],
            inputs["length"],
            inputs["user"],
            structured(inputs["context"]),
            inputs["items"],
            inputs["count"],
        )

    shapes = {name: jax.ShapeDtypeStruct(a.shape, a.dtype) for name, a in arrays.items()}

    def history(steps: Any) -> dict[str, Any]:
        return {"history": _integers(steps), "length": _integers()}

    def interests(steps: Any) -> dict[str, Any]:
        return jax.eval_shape(read_history, shapes, history(steps))

    def candidates(steps: Any, count: Any) -> dict[str, Any]:
        return {
            "interests": interests(steps),
            **history(steps),
            "user": _integers(1),
            "context": _context(schema, 1),
            "items": _integers(count),
            "count": _integers(),
        }

    rows, steps = export.symbolic_shape("b, t")
    (alone,) = export.symbolic_shape("t")
    few = export.symbolic_shape("t, n", constraints=[f"n <= {CHUNK}"])
    many = export.symbolic_shape(f"t, {CHUNK}*k", constraints=["k >= 2"])
    event = {"interests": interests(alone), "item": _integers(), "length": _integers()}
    made: dict[str, tuple[Callable, dict[str, Any]]] = {
        "score_rows": (score_rows, row_inputs(schema, rows, steps)),
        "read_history": (read_history, history(alone)),
        "add_event": (add_event, event),
        "score_candidates": (score_candidates, candidates(*few)),
        "score_many_candidates": (score_candidates, candidates(*many)),
    }
    return arrays, {
        name: export.export(jax.jit(program), platforms=PLATFORMS)(shapes, inputs)
        for name, (program, inputs) in made.items()
    }


def ranking_programs(exports: dict[str, export.Exported]) -> Programs:
    """Exported programs as a ranker calls them; each takes the weights first."""
    call = {name: exported.call for name, exported in exports.items()}

    def read(weights: Weights, history: jax.Array, length: jax.Array) -> Interests:
        inputs = {"history": history, "length": jnp.asarray(length, jnp.int32)}
        return _interests(call["read_history"](weights, inputs))

    def extend(
        weights: Weights, interests: Interests, item: jax.Array, length: jax.Array
    ) -> Interests:
        inputs = {
            "interests": _plain(interests),
            "item": item,
            "length": jnp.asarray(length, jnp.int32),
        }
        return _interests(call["add_event"](weights, inputs))

    def score(
        weights: Weights,
        interests: Interests,
        history: jax.Array,
        length: jax.Array,
        user: jax.Array,
        context: dict[str, FeatureValues],
        items: jax.Array,
        count: jax.Array,
    ) -> jax.Array:
        inputs = {
            "interests": _plain(interests),
            "history": history,
            "length": jnp.asarray(length, jnp.int32),
            "user": user,
            "context": plain_context(context),
            "items": items,
            "count": jnp.asarray(count, jnp.int32),
        }
        name = "score_candidates" if len(items) <= CHUNK else "score_many_candidates"
        return call[name](weights, inputs)

    return Programs(jax.jit(read), jax.jit(extend), jax.jit(score))


def described(shapes: Any) -> Any:
    """Shapes and dtypes as JSON has them: ``{"dtype": "int32", "shape": ["b", "t"]}`` a leaf."""
    return jax.tree.map(
        lambda leaf: {
            "dtype": str(leaf.dtype),
            "shape": [size if isinstance(size, int) else str(size) for size in leaf.shape],
        },
        shapes,
    )


def plain_context(context: dict[str, FeatureValues]) -> dict[str, Any]:
    """Context features as programs take them."""
    return {
        name: value._asdict() if isinstance(value, MultiValued) else value
        for name, value in context.items()
    }


def structured(context: dict[str, Any]) -> dict[str, FeatureValues]:
    """Context features as the model takes them; undoes :func:`plain_context`."""
    return {
        name: MultiValued(**value) if isinstance(value, dict) else value
        for name, value in context.items()
    }


def _scoring(variables: Any) -> dict[str, Any]:
    return {name: value for name, value in variables.items() if not name.startswith(_TRAINING_ONLY)}


def _with_recurrence(trained: TrainedModel, recurrence: Implementation) -> Config:
    config = trained.run.config
    model = dataclasses.replace(config.model, recurrence=recurrence)
    return dataclasses.replace(config, model=model)


def _integers(*shape: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, jnp.int32)


def _context(schema: Schema, rows: Any) -> dict[str, Any]:
    def values(feature: Feature) -> Any:
        if feature.kind == "numeric":
            return jax.ShapeDtypeStruct((rows,), jnp.float32)
        if feature.kind == "categorical":
            return _integers(rows)
        return {"values": _integers(rows, feature.max_values), "count": _integers(rows)}

    return {feature.name: values(feature) for feature in schema.context}


def _plain(interests: Interests) -> dict[str, Any]:
    return {"states": interests.states, "last": list(interests.last)}


def _interests(plain: dict[str, Any]) -> Interests:
    return Interests(plain["states"], tuple(plain["last"]))
