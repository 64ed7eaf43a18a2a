"""Conversion of the program ``score_rows`` to an ONNX model, by jax2onnx, and to a Triton model.

Inputs are those of ``score_rows``, with names such as ``columns/query/values`` for the parts of a
feature. The file contains the weights. The number of rows is dynamic; histories are padded to the
run's ``max_history``. A model of an NVIDIA Triton server is a folder in its model repository:

    REPOSITORY/MODEL/config.pbtxt    names, types and shapes of inputs and outputs
    REPOSITORY/MODEL/1/model.onnx    a version; Triton serves the latest

Source: Triton Inference Server, model repository and model configuration, user guide.
"""

import importlib.metadata
import logging
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dien_jax.errors import UserError, failing, reading, require, writing
from dien_jax.inference.exported_programs import named_weights, row_inputs, row_scores
from dien_jax.runs.checkpoints import named_leaves
from dien_jax.runs.trained import TrainedModel
from dien_jax.utils.files import check_out, partial_folder, write_text

PRODUCER = "dien_jax"
"""Producer name of a model, which is near the start of its protobuf message."""


def check_onnx(file: Path, **options: Any) -> None:
    """Check that a model can be converted and written; ``options`` are those of ``check_out``."""
    check_out(file, is_ours=PRODUCER.encode(), **options)
    with _quiet():
        require("onnx", "--onnx")


def onnx_model(trained: TrainedModel) -> bytes:
    """Return a serialized ONNX model that takes rows and returns ``score``, float32 ``[B]``."""
    import jax2onnx

    weights, rebuild = named_weights(trained)
    score_rows = row_scores(trained, "reference", rebuild)
    size = sum(array.nbytes for array in weights.values())
    if size >= 2**31:
        raise UserError(f"--onnx: an ONNX file holds at most 2 GiB, the weights are {size:,} bytes")
    inputs = row_inputs(trained.dataset.schema, "B", trained.run.config.train.max_history)
    leaves, structure = jax.tree.flatten(inputs)
    weights = jax.tree.map(jnp.asarray, weights)

    def score(*arrays: jax.Array) -> jax.Array:
        return score_rows(weights, jax.tree.unflatten(structure, arrays))

    version = importlib.metadata.version("jax2onnx")
    problem = f"jax2onnx {version} with JAX {jax.__version__} cannot convert this model"
    with failing(f"--onnx: {problem}"), _quiet():
        names = {"input_names": list(named_leaves(inputs)), "output_names": ["score"]}
        model = jax2onnx.to_onnx(score, leaves, model_name=PRODUCER, **names)
        model.producer_name = PRODUCER
        return model.SerializeToString()


def onnx_scores(file: Path, inputs: dict[str, Any]) -> np.ndarray:
    """Score inputs of ``score_rows`` with an ONNX file, by onnxruntime on the CPU."""
    session, arrays = _session(file), named_leaves(inputs)
    with failing("--onnx: onnxruntime cannot run the model"):
        feed = {node.name: arrays[node.name] for node in session.get_inputs()}
        (scores,) = session.run(["score"], feed)
    return np.asarray(scores)


def _session(file: Path) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors only: warnings report every unused constant
    with failing(f"--onnx: onnxruntime {onnxruntime.__version__} cannot read {file}"):
        return onnxruntime.InferenceSession(str(file), options, ["CPUExecutionProvider"])


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the converter's logging and relax JAX's strict dtype and rank checks inside it."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    dtypes, ranks = jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow")
    try:
        with warnings.catch_warnings(action="ignore"), dtypes, ranks:
            yield
    finally:
        logging.disable(level)


CONFIG, MODEL = "config.pbtxt", "model.onnx"
_TYPES = {"tensor(float)": "TYPE_FP32", "tensor(int32)": "TYPE_INT32"}


def triton_config(name: str, onnx: Path) -> str:
    """Return the ``config.pbtxt`` of an ONNX model; all rows of a request are one batch."""
    session = _session(onnx)
    lines = [f'name: "{name}"', 'backend: "onnxruntime"', "max_batch_size: 0"]
    for kind, nodes in (("input", session.get_inputs()), ("output", session.get_outputs())):
        for node in nodes:
            dims = [size if isinstance(size, int) else -1 for size in node.shape]
            about = f"data_type: {_TYPES[node.type]} dims: {dims}"
            lines.append(f'{kind} [{{ name: "{node.name}" {about} }}]')
    return "\n".join([*lines, ""])


def check_triton(folder: Path) -> None:
    """Refuse a folder that cannot be a Triton model, before anything is computed."""
    if folder.exists() and not folder.is_dir():
        raise UserError(f"--triton {folder}: expected a folder, found a file")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / CONFIG).is_file():
        problem = f"it has files but no {CONFIG}, so it is no model of a Triton server"
        raise UserError(f"--triton {folder}: {problem}; name another folder")


def add_version(folder: Path, onnx: Path) -> Path:
    """Add an ONNX file as the next version of a new or existing model; return its folder."""
    check_triton(folder)
    config, text = folder / CONFIG, triton_config(folder.absolute().name, onnx)
    if config.exists():
        with reading(config):
            found = config.read_text(encoding="utf-8", errors="replace")
        if found != text:
            raise UserError(
                f"--triton {folder}: {CONFIG} describes another model, of other inputs or edited; "
                "name another folder"
            )
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        if not config.exists():  # first: a version without it would be refused
            write_text(config, text)
        numbers = [int(path.name) for path in folder.iterdir() if path.name.isdecimal()]
        version = folder / str(max(numbers, default=0) + 1)
        with partial_folder(version) as new:
            shutil.copyfile(onnx, new / MODEL)
            new.rename(version)
    return version
