"""The scoring of rows as ONNX, through jax2onnx.

Inputs are those of ``score_rows`` (:mod:`dien_jax.inference.exported_programs`), a feature's parts
joined by ``/``: ``context/query/values``. Weights are inside. The batch is of any size, histories
are padded to the run's ``max_history``.
"""

import importlib
import importlib.metadata
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dien_jax.errors import UserError
from dien_jax.inference.exported_programs import row_inputs, row_scores
from dien_jax.runs.trained import TrainedModel
from dien_jax.utils.extras import require

MOST_BYTES = 2**31 - 1
"""Of one ONNX message."""
_ERRORS_ONLY = 3
"""Of onnxruntime's levels: it warns of every constant that goes unused."""


def require_onnx() -> None:
    """Checks that the extra ``onnx`` is there.

    Raises:
      UserError: naming what is missing, and what to install.
    """
    with _quiet():
        require("onnx", "--onnx")


def onnx_model(trained: TrainedModel) -> bytes:
    """A model that takes rows and gives ``score``, float32 ``[B]``.

    Raises:
      UserError: when the converter cannot, or the model is too large for ONNX.
    """
    import jax2onnx

    weights, score_rows = row_scores(trained, "reference")
    size = sum(array.nbytes for array in weights.values())
    if size > MOST_BYTES:
        raise UserError(f"--onnx: an ONNX file holds at most 2 GiB, the weights are {size:,} bytes")
    inputs = row_inputs(trained.dataset.schema, "B", trained.run.config.train.max_history)
    leaves, structure = jax.tree.flatten(inputs)
    weights = jax.tree.map(jnp.asarray, weights)

    def score(*arrays: jax.Array) -> jax.Array:
        return score_rows(weights, jax.tree.unflatten(structure, arrays))

    try:
        with _quiet():
            model = jax2onnx.to_onnx(
                score,
                leaves,
                model_name="dien_jax",
                input_names=list(_named(inputs)),
                output_names=["score"],
            )
            return model.SerializeToString()
    except Exception as error:  # a converter raises whatever it did not foresee
        reason = next(iter(str(error).splitlines()), "") or type(error).__name__
        raise UserError(
            f"--onnx: jax2onnx {importlib.metadata.version('jax2onnx')} with JAX "
            f"{jax.__version__} cannot convert this model: {reason}"
        ) from error


def onnx_scores(file: Path, inputs: dict[str, Any]) -> np.ndarray:
    """What an ONNX file makes of inputs of ``score_rows``, by onnxruntime on the CPU.

    Raises:
      UserError: when onnxruntime cannot load or run it.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = _ERRORS_ONLY
    try:
        session = onnxruntime.InferenceSession(
            str(file), options, providers=["CPUExecutionProvider"]
        )
        wanted = {one.name for one in session.get_inputs()}
        feed = {name: array for name, array in _named(inputs).items() if name in wanted}
        (scores,) = session.run(["score"], feed)
    except Exception as error:  # its exceptions have no common base
        reason = next(iter(str(error).splitlines()), "") or type(error).__name__
        raise UserError(
            f"--onnx: onnxruntime {onnxruntime.__version__} cannot run the model: {reason}"
        ) from error
    return np.asarray(scores)


def _named(inputs: Any) -> dict[str, Any]:
    paths, _ = jax.tree_util.tree_flatten_with_path(inputs)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in paths}


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what the converter and its libraries say of themselves, nor strict types in them."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with (
            warnings.catch_warnings(),
            jax.numpy_dtype_promotion("standard"),
            jax.numpy_rank_promotion("allow"),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
