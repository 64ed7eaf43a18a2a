"""ONNX files score as the run they were exported from."""

import contextlib
import io
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from support import small_dataset, untrained_run

from dien_jax import UserError, export
from dien_jax.inference.onnx import add_version

pytest.importorskip("jax2onnx", reason="needs the extra 'onnx'")
onnxruntime = pytest.importorskip("onnxruntime", reason="needs the extra 'onnx'")


@pytest.fixture(
    scope="module", params=[(small_dataset.write, "dien"), (small_dataset.write_wide, "din")]
)
def exported(request, tmp_path_factory) -> tuple[Path, dict[str, Any]]:
    """Return a folder with an ONNX file and a Triton model, and what the command reported.

    The second dataset has factors.
    """
    write, model = request.param
    folder = tmp_path_factory.mktemp(model)
    data = write(folder / "data")
    run = untrained_run.write(folder / "run", data, model=model, buckets=())
    flags = ["--out", str(folder / "model.dien"), "--onnx", str(folder / "model.onnx")]
    with contextlib.redirect_stdout(io.StringIO()) as output:
        assert export.main([str(run), *flags, "--triton", str(folder / "clicks")]) == 0
    return folder, json.loads(output.getvalue())


def test_onnx_scores_are_those_of_the_run(exported) -> None:
    folder, report = exported
    assert report["onnx_bytes"] == (folder / "model.onnx").stat().st_size
    assert report["onnx_largest_difference"] < 1e-5


def test_a_triton_model_gets_the_file_as_its_next_version(exported, tmp_path) -> None:
    made, report = exported
    assert report["triton"] == str(made / "clicks" / "1")
    file, folder = made / "model.onnx", shutil.copytree(made / "clicks", tmp_path / "clicks")
    assert add_version(folder, file) == folder / "2"
    for version in ("1", "2"):
        assert (folder / version / "model.onnx").read_bytes() == file.read_bytes()
    assert sorted(path.name for path in folder.iterdir()) == ["1", "2", "config.pbtxt"]
    config = (folder / "config.pbtxt").read_text()
    assert config.startswith('name: "clicks"\nbackend: "onnxruntime"\nmax_batch_size: 0\n')
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(folder / "2" / "model.onnx"), options)
    for node in (*session.get_inputs(), *session.get_outputs()):
        kind = {"tensor(int32)": "TYPE_INT32", "tensor(float)": "TYPE_FP32"}[node.type]
        dims = [size if isinstance(size, int) else -1 for size in node.shape]
        assert f'name: "{node.name}" data_type: {kind} dims: {dims} ' in config

    (folder / "config.pbtxt").write_text(config.replace("FP32", "FP16"))
    with pytest.raises(UserError, match="describes another model, of other inputs or edited"):
        add_version(folder, file)
    assert not (folder / "3").exists()
