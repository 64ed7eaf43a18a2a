"""A model of an NVIDIA Triton server: an ONNX file as a version, and its ``config.pbtxt``.

    REPOSITORY/MODEL/config.pbtxt    names, types and shapes of inputs and outputs
    REPOSITORY/MODEL/1/model.onnx    a version; Triton serves the latest

Source: Triton Inference Server, model repository and model configuration, user guide.
"""

import shutil
from pathlib import Path

from dien_jax.errors import UserError, reading, writing
from dien_jax.utils.files import partial_folder, write_text

CONFIG, MODEL = "config.pbtxt", "model.onnx"
_TYPES = {"FLOAT": "TYPE_FP32", "INT32": "TYPE_INT32", "INT64": "TYPE_INT64", "BOOL": "TYPE_BOOL"}


def triton_config(name: str, onnx: bytes) -> str:
    """Return the configuration of an ONNX model, whose rows are of any number in a request.

    Rows of a request are one batch: the server joins no requests, as ``max_batch_size`` 0 says.
    """
    from onnx import TensorProto, load_from_string

    graph = load_from_string(onnx).graph
    constants = {weight.name for weight in graph.initializer}
    parts = {
        "input": [value for value in graph.input if value.name not in constants],
        "output": list(graph.output),
    }
    lines = [f'name: "{name}"', 'backend: "onnxruntime"', "max_batch_size: 0"]
    for kind, values in parts.items():
        for value in values:
            tensor = value.type.tensor_type
            dims = [size.dim_value or -1 for size in tensor.shape.dim]
            dtype = _TYPES[TensorProto.DataType.Name(tensor.elem_type)]
            lines.append(f'{kind} [{{ name: "{value.name}" data_type: {dtype} dims: {dims} }}]')
    return "\n".join([*lines, ""])


def check_triton(folder: Path) -> None:
    """Refuse a folder that is no model of a Triton server, before anything is computed."""
    if folder.exists() and not folder.is_dir():
        raise UserError(f"--triton {folder}: expected a folder, found a file")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / CONFIG).is_file():
        problem = f"it has files but no {CONFIG}, so it is no model of a Triton server"
        raise UserError(f"--triton {folder}: {problem}; name another folder")


def add_version(folder: Path, onnx: Path) -> Path:
    """Add an ONNX file as the next version of a model, and return the version's folder.

    Args:
      folder: the model's folder in the repository; made if it does not exist.
      onnx: the file, which is copied.

    Raises:
      UserError: when the model there takes or returns something else, or cannot be written.
    """
    check_triton(folder)
    with reading(onnx):
        content = onnx.read_bytes()
    config, text = folder / CONFIG, triton_config(folder.absolute().name, content)
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
        numbers = [int(path.name) for path in folder.iterdir() if path.name.isdecimal()]
        version = folder / str(max(numbers, default=0) + 1)
        with partial_folder(version) as partial:
            shutil.copyfile(onnx, partial / MODEL)
            partial.rename(version)
        if not config.exists():
            write_text(config, text)
    return version
