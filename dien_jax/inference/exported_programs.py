"""A model's programs in the form of ``jax.export``: for CPU, CUDA and TPU, with symbolic sizes.

Every program takes the weights by name and its inputs, as plain dicts, lists and arrays.
``score_rows`` scores independent rows. The others do the parts of :class:`dien_jax.Ranker`:
``read_history`` returns the interests of a history, ``add_event`` extends them by one event,
``score_candidates`` scores up to ``CHUNK`` candidates against them, and ``score_many_candidates``
a larger multiple of ``CHUNK``.

A Pallas kernel is compiled for one kind of device, so the recurrences are the ``xla`` ones.

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
from dien_jax.data.batch import Batch, example_batch
from dien_jax.data.schema import FeatureTables, MultiValued, Schema
from dien_jax.errors import UserError
from dien_jax.model.interest import InterestModel, ModelOutput
from dien_jax.model.shared_history import CHUNK
from dien_jax.runs.trained import TrainedModel
from dien_jax.steps.rank import Interests, Programs, make_programs

PLATFORMS = ("cpu", "cuda", "tpu")
RECURRENCE: Implementation = "xla"
"""Implementation of the recurrences in every program."""
_TRAINING_ONLY = "auxiliary"
"""Prefix of training-only parameters, which are left out of exports."""
_INPUTS = {
    "read_history": ("history", "length"),
    "add_event": ("interests", "item", "length"),
    "score_candidates": ("interests", "history", "length", "user", "context", "items", "count"),
}
"""Inputs of the programs of ranking, in the order of :class:`Programs` and their arguments."""

Weights = dict[str, Any]
"""Parameters, running statistics and feature tables, by names such as ``params/mlp/logit/bias``."""


def named_leaves(tree: Any) -> dict[str, Any]:
    """Return the leaves of a tree by their paths, joined by ``/``."""
    paths, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in paths}


def plain(value: Any) -> Any:
    """Return a tree with dicts in place of named tuples, and lists in place of tuples."""
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        value = value._asdict()
    if isinstance(value, dict):
        return {name: plain(part) for name, part in value.items()}
    return [plain(part) for part in value] if isinstance(value, tuple) else value


def named_weights(
    trained: TrainedModel,
) -> tuple[dict[str, np.ndarray], Callable[[Weights], tuple[Any, FeatureTables]]]:
    """Return a model's weights, and a function from weights to its variables and tables."""
    dataset = trained.dataset
    tree = {
        "params": _scoring(trained.params),
        "batch_stats": _scoring(trained.batch_stats),
        "tables": dataset.feature_tables(),
    }
    arrays = {name: np.asarray(leaf) for name, leaf in named_leaves(tree).items()}
    structure = jax.tree.structure(tree)

    def rebuild(weights: Weights) -> tuple[Any, FeatureTables]:
        variables = jax.tree.unflatten(structure, [weights[name] for name in arrays])
        return variables, variables.pop("tables")

    return arrays, rebuild


def row_scores(
    trained: TrainedModel, recurrence: Implementation
) -> tuple[dict[str, np.ndarray], Callable[[Weights, dict[str, Any]], jax.Array]]:
    """Return the weights of a model, and ``score_rows(weights, inputs) -> [B]`` as a function."""
    weights, rebuild = named_weights(trained)
    model = InterestModel(_with_recurrence(trained, recurrence).model, trained.dataset.schema)

    def score_rows(weights: Weights, inputs: dict[str, Any]) -> jax.Array:
        variables, tables = rebuild(weights)
        ones = jnp.ones(inputs["lengths"].shape, jnp.float32)
        batch = Batch(**_structured(inputs), label=ones, weight=ones)
        output = cast(ModelOutput, model.apply(variables, batch, tables))
        return jax.nn.sigmoid(output.logits)

    return weights, score_rows


def row_arrays(batch: Batch) -> dict[str, Any]:
    """Return the inputs of ``score_rows`` for a batch."""
    names = ("history", "lengths", "item", "user", "context")
    return {name: plain(getattr(batch, name)) for name in names}


def row_inputs(schema: Schema, rows: Any, steps: Any) -> dict[str, Any]:
    """Return the shapes and dtypes of the inputs of ``score_rows``."""
    shapes = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct((rows, *leaf.shape[1:]), leaf.dtype),
        row_arrays(example_batch(schema)),
    )
    return shapes | {"history": _integers(rows, steps)}


def make_exports(
    trained: TrainedModel,
) -> tuple[dict[str, np.ndarray], dict[str, export.Exported]]:
    """Return the weights of a model, and its programs by name.

    An attention or evolution that users add may have to know the number of steps; the programs then
    read histories padded to ``max_history``.

    Raises:
      UserError: where such a module cannot be exported.
    """
    schema = trained.dataset.schema
    arrays, rebuild = named_weights(trained)
    programs = make_programs(_with_recurrence(trained, RECURRENCE), schema)

    def exportable(name: str, program: Callable) -> Callable[[Weights, dict[str, Any]], Any]:
        def call(weights: Weights, inputs: dict[str, Any]) -> Any:
            values = _structured(inputs)
            return plain(program(*rebuild(weights), *(values[part] for part in _INPUTS[name])))

        call.__name__ = name  # the program's name in StableHLO
        return call

    functions = {
        name: exportable(name, program)
        for name, program in zip(_INPUTS, programs[: len(_INPUTS)], strict=True)
    }
    functions["score_many_candidates"] = functions["score_candidates"]
    functions["score_rows"] = row_scores(trained, RECURRENCE)[1]
    weights = {name: jax.ShapeDtypeStruct(a.shape, a.dtype) for name, a in arrays.items()}

    def history(steps: Any) -> dict[str, Any]:
        return {"history": _integers(steps), "length": _integers()}

    def interests(steps: Any) -> dict[str, Any]:
        return jax.eval_shape(functions["read_history"], weights, history(steps))

    def candidates(steps: Any, count: Any) -> dict[str, Any]:
        row = row_inputs(schema, 1, steps)
        shared = {"user": row["user"], "context": row["context"], "interests": interests(steps)}
        return shared | history(steps) | {"items": _integers(count), "count": _integers()}

    def exports(steps: int | str) -> dict[str, export.Exported]:
        (alone,) = export.symbolic_shape(f"{steps}")
        few = export.symbolic_shape(f"{steps}, n", constraints=[f"n <= {CHUNK}"])
        many = export.symbolic_shape(f"{steps}, {CHUNK}*k", constraints=["k >= 2"])
        event = {"interests": interests(alone), "item": _integers(), "length": _integers()}
        inputs = {
            "score_rows": row_inputs(schema, *export.symbolic_shape(f"b, {steps}")),
            "read_history": history(alone),
            "add_event": event,
            "score_candidates": candidates(*few),
            "score_many_candidates": candidates(*many),
        }
        return {
            name: export.export(jax.jit(functions[name]), platforms=PLATFORMS)(weights, shapes)
            for name, shapes in inputs.items()
        }

    config = trained.run.config
    for steps in ("t", config.train.max_history):
        try:
            return arrays, exports(steps)
        except Exception as failure:  # a module may raise anything
            error = failure
    reason = next(iter(str(error).splitlines()), "") or type(error).__name__
    raise UserError(
        f"a model with attention {config.model.attention!r} and evolution "
        f"{config.model.evolution!r} cannot be exported: {reason}"
    ) from error


def ranking_programs(exports: dict[str, export.Exported]) -> Programs:
    """Return exported programs in the form that a ranker calls; each takes the weights first."""

    def program(name: str) -> Callable:
        def call(weights: Weights, *arguments: Any) -> Any:
            inputs = dict(zip(_INPUTS[name], map(plain, arguments), strict=True))
            for scalar in inputs.keys() & {"length", "count"}:
                inputs[scalar] = jnp.asarray(inputs[scalar], jnp.int32)
            is_large = name == "score_candidates" and len(inputs["items"]) > CHUNK
            result = exports["score_many_candidates" if is_large else name].call(weights, inputs)
            return _interests(result) if isinstance(result, dict) else result

        return jax.jit(call)

    return Programs(*map(program, _INPUTS))


def described(shapes: Any) -> Any:
    """Return shapes and dtypes for JSON: ``{"dtype": "int32", "shape": ["b", "t"]}`` a leaf."""
    return jax.tree.map(
        lambda leaf: {
            "dtype": str(leaf.dtype),
            "shape": [size if isinstance(size, int) else str(size) for size in leaf.shape],
        },
        shapes,
    )


def _structured(inputs: dict[str, Any]) -> dict[str, Any]:
    """Return a program's inputs as the model takes them; undoes :func:`plain`."""
    values = dict(inputs)
    if "interests" in inputs:
        values["interests"] = _interests(inputs["interests"])
    if "context" in inputs:
        values["context"] = {
            name: MultiValued(**value) if isinstance(value, dict) else value
            for name, value in inputs["context"].items()
        }
    return values


def _interests(plain_interests: dict[str, Any]) -> Interests:
    return Interests(plain_interests["states"], tuple(plain_interests["last"]))


def _scoring(variables: Any) -> dict[str, Any]:
    return {name: value for name, value in variables.items() if not name.startswith(_TRAINING_ONLY)}


def _with_recurrence(trained: TrainedModel, recurrence: Implementation) -> Config:
    config = trained.run.config
    model = dataclasses.replace(config.model, recurrence=recurrence)
    return dataclasses.replace(config, model=model)


def _integers(*shape: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, jnp.int32)
