"""A model's programs, exported by ``jax.export`` for CPU, CUDA and TPU, with symbolic shapes.

Every program takes the weights by name and its inputs, as plain dicts, lists and arrays.
``score_rows`` scores independent rows. The others are those of :class:`dien_jax.Ranker`:
``score_candidates`` scores up to ``CHUNK`` candidates, ``score_many_candidates`` a larger multiple.

Dimensions: B (b) rows, T (t) steps, N (n) candidates.
"""

from collections.abc import Callable, Iterable
from typing import Any, cast, get_args

import jax
import jax.numpy as jnp
import numpy as np
from dien_kernels import Implementation
from dien_kernels.candidates import CHUNK
from jax import export

from dien_jax.config.presets import with_settings
from dien_jax.config.settings import Attention, Auxiliary, Evolution
from dien_jax.data.kinds import KINDS
from dien_jax.data.schema import Feature, MultiValued, Schema
from dien_jax.data.tables import Batch, FeatureTables, batch_features
from dien_jax.errors import failing, reason
from dien_jax.model.click_model import ClickModel, ModelOutput
from dien_jax.model.layers import CALIBRATION, click_probability
from dien_jax.runs.checkpoints import named_leaves
from dien_jax.runs.trained import TrainedModel
from dien_jax.steps.rank import Interests, Programs, make_programs
from dien_jax.utils.console import say

PLATFORMS = ("cpu", "cuda", "tpu")
RECURRENCE: Implementation = "xla"
"""Implementation of recurrences in every program; a Pallas kernel fits one kind of device only."""
_INPUTS = {
    "read_history": ("history", "length", "columns"),
    "add_event": ("interests", "item", "length", "columns"),
    "score_candidates": ("interests", "history", "length", "user", "columns", "items", "count"),
}
"""Ranking programs, in the order of :class:`Programs`, and their inputs in argument order."""

_COUNTS: dict[str, tuple[Any, tuple[str, ...]]] = {
    "score_rows": ("b", ()),
    "read_history": (1, ()),
    "add_event": (1, ()),
    "score_candidates": ("n", (f"n <= {CHUNK}",)),
    "score_many_candidates": (f"{CHUNK}*k", ("k >= 2",)),
}
"""Number of rows or candidates of each program, and its constraints."""
PROGRAMS = tuple(_COUNTS)
"""Names of all programs."""

Weights = dict[str, Any]
"""Parameters, running statistics and feature tables, by names such as ``params/mlp/logit/bias``."""


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
    reads = trained.run.config.model.statistics
    tree = {"tables": trained.dataset.feature_tables(statistics=reads), **trained.variables()}
    arrays = {name: np.asarray(leaf) for name, leaf in named_leaves(tree).items()}
    structure = jax.tree.structure(tree)

    def rebuild(weights: Weights) -> tuple[Any, FeatureTables]:
        variables = jax.tree.unflatten(structure, [weights[name] for name in arrays])
        return variables, variables.pop("tables")

    return arrays, rebuild


def row_scores(
    trained: TrainedModel, recurrence: Implementation, rebuild: Callable[[Weights], Any]
) -> Callable[[Weights, dict[str, Any]], jax.Array]:
    """Return ``score_rows(weights, inputs) -> [B]``; ``rebuild`` is from :func:`named_weights`."""
    config = with_settings(trained.run.config, {"model.implementation": recurrence})
    model = ClickModel(config.model, trained.dataset.schema)

    def score_rows(weights: Weights, inputs: dict[str, Any]) -> jax.Array:
        variables, tables = rebuild(weights)
        ones = jnp.ones(inputs["lengths"].shape, jnp.float32)
        batch = Batch(**_structured(inputs), label=ones, weight=ones)
        output = cast(ModelOutput, model.apply(variables, batch, tables))
        return click_probability(output.logits, variables.get(CALIBRATION))

    return score_rows


def row_arrays(batch: Batch) -> dict[str, Any]:
    """Return the inputs of ``score_rows`` for a batch."""
    names = ("history", "lengths", "item", "user", "columns")
    return {name: plain(getattr(batch, name)) for name in names}


def row_inputs(schema: Schema, rows: Any, steps: Any) -> dict[str, Any]:
    """Return the shapes and dtypes of the inputs of ``score_rows``."""
    return {
        "history": _integers(rows, steps),
        **{name: _integers(rows) for name in ("lengths", "item", "user")},
        "columns": _shapes(batch_features(schema, rows, steps)),
    }


def make_exports(trained: TrainedModel) -> tuple[dict[str, np.ndarray], dict[str, export.Exported]]:
    """Return the weights of a model, and its programs by name.

    An attention or evolution that users add may need a static number of steps. The programs then
    take histories padded to ``max_history``; a line on standard error says so.
    """
    schema = trained.dataset.schema
    arrays, rebuild = named_weights(trained)
    config = with_settings(trained.run.config, {"model.implementation": RECURRENCE})
    programs = make_programs(config, schema)

    def exportable(name: str, program: Callable) -> Callable[[Weights, dict[str, Any]], Any]:
        def call(weights: Weights, inputs: dict[str, Any]) -> Any:
            values = _structured(inputs)
            return plain(program(*rebuild(weights), *(values[part] for part in _INPUTS[name])))

        call.__name__ = name  # the program's name in StableHLO
        return call

    named = zip(_INPUTS, programs, strict=False)  # the others are only for speed
    functions = {name: exportable(name, program) for name, program in named}
    functions["score_many_candidates"] = functions["score_candidates"]
    functions["score_rows"] = row_scores(trained, RECURRENCE, rebuild)
    whole = {name: jax.ShapeDtypeStruct(a.shape, a.dtype) for name, a in arrays.items()}

    def inputs(name: str, steps: Any, count: Any = 1) -> dict[str, Any]:
        if name == "score_rows":
            return row_inputs(schema, count, steps)
        history: dict[str, Any] = {"history": _integers(steps), "length": _integers()}
        history["columns"] = _shapes((feature, (steps,)) for feature in schema.event)
        if name == "read_history":
            return history
        states = jax.eval_shape(functions["read_history"], whole, history)
        values = history | {"interests": states, "item": _integers(), "user": _integers(1)}
        values |= {"items": _integers(count), "count": _integers()}
        if name == "add_event":
            values["columns"] = _shapes((feature, ()) for feature in schema.event)
        else:
            values["columns"] |= _shapes((feature, (1,)) for feature in schema.request)
            values["columns"] |= _shapes((feature, (count,)) for feature in schema.candidate)
        return {part: values[part] for part in _INPUTS[name.replace("many_", "")]}

    def exports(steps: int | str) -> dict[str, export.Exported]:
        found = {}
        for name, (count, constraints) in _COUNTS.items():
            sizes = export.symbolic_shape(f"{steps}, {count}", constraints=constraints)
            program = export.export(jax.jit(functions[name]), platforms=PLATFORMS)
            found[name] = program(whole, inputs(name, *sizes))
        return found

    model, longest = trained.run.config.model, trained.run.config.train.max_history
    ours = {"attention": Attention, "evolution": Evolution, "auxiliary": Auxiliary}
    chosen = {part: getattr(model, part) for part in ours}
    own = [f"{part} {name!r}" for part, name in chosen.items() if name not in get_args(ours[part])]
    subject = f"a model with {', '.join(own)}"
    try:
        return arrays, exports("t")
    except Exception as error:  # a module that users add may raise anything
        if not own:
            raise
        say(f"{subject} is exported for histories padded to {longest}: {reason(error)}")
    with failing(f"{subject} cannot be exported"):
        return arrays, exports(longest)


def ranking_programs(exports: dict[str, export.Exported]) -> Programs:
    """Return the :class:`Programs` that a ranker calls; each takes the weights first.

    The programs of earlier versions took no columns of events, and called those of a request its
    ``context``.
    """

    def program(name: str) -> Callable:
        (_, taken), _ = jax.tree.unflatten(exports[name].in_tree, exports[name].in_avals)

        def call(weights: Weights, *arguments: Any) -> Any:
            inputs = dict(zip(_INPUTS[name], map(plain, arguments), strict=True))
            inputs["context"] = inputs["columns"]
            inputs = {part: inputs[part] for part in taken}
            is_large = name == "score_candidates" and len(inputs["items"]) > CHUNK
            result = exports["score_many_candidates" if is_large else name].call(weights, inputs)
            return _interests(result) if isinstance(result, dict) else result

        return jax.jit(call)

    return Programs(*map(program, _INPUTS))


def described(shapes: Any) -> Any:
    """Return JSON values: ``{"dtype": "int32", "shape": ["b", "t"]}`` for each leaf."""

    def describe(leaf: Any) -> dict[str, Any]:
        sizes = [size if isinstance(size, int) else str(size) for size in leaf.shape]
        return {"dtype": str(leaf.dtype), "shape": sizes}

    return jax.tree.map(describe, shapes)


def _structured(inputs: dict[str, Any]) -> dict[str, Any]:
    """Return a program's inputs in the types of the model; the inverse of :func:`plain`."""
    values = dict(inputs)
    if "interests" in inputs:
        values["interests"] = _interests(inputs["interests"])
    values["columns"] = {
        name: MultiValued(**value) if isinstance(value, dict) else value
        for name, value in inputs["columns"].items()
    }
    return values


def _interests(plain_interests: dict[str, Any]) -> Interests:
    return Interests(plain_interests["states"], tuple(plain_interests["last"]))


def _shapes(features: Iterable[tuple[Feature, tuple[Any, ...]]]) -> dict[str, Any]:
    """Return the shapes and dtypes of features with the leading dimensions ``axes``."""
    return {
        feature.name: jax.tree.map(
            lambda leaf, axes=axes: jax.ShapeDtypeStruct((*axes, *leaf.shape), leaf.dtype),
            plain(KINDS[feature.kind].blank(feature)),
        )
        for feature, axes in features
    }


def _integers(*shape: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, jnp.int32)
