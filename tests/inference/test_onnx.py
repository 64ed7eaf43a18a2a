"""ONNX files score as the run they were exported from."""

import json

import pytest
from support import small_dataset, untrained_run

from dien_jax import UserError, export
from dien_jax.inference.onnx import add_version

pytest.importorskip("jax2onnx", reason="needs the extra 'onnx'")
onnxruntime = pytest.importorskip("onnxruntime", reason="needs the extra 'onnx'")


@pytest.mark.parametrize(
    ("write", "model"), [(small_dataset.write, "dien"), (small_dataset.write_wide, "din")]
)
def test_onnx_scores_are_those_of_the_run(write, model, tmp_path, capsys) -> None:
    """The second dataset has factors."""
    data = write(tmp_path / "data")
    run = untrained_run.write(tmp_path / "run", data, model=model, buckets=())
    file = tmp_path / "model.onnx"
    flags = ["--out", str(tmp_path / "model.dien"), "--onnx", str(file)]
    assert export.main([str(run), *flags]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["onnx_bytes"] == file.stat().st_size
    assert report["onnx_largest_difference"] < 1e-5


def test_a_triton_model_gets_the_file_as_its_next_version(tmp_path, capsys) -> None:
    data = small_dataset.write(tmp_path / "data")
    run = untrained_run.write(tmp_path / "run", data, model="din", buckets=())
    file, folder = tmp_path / "model.onnx", tmp_path / "models" / "clicks"
    flags = [str(run), "--out", str(tmp_path / "model.dien"), "--onnx", str(file)]
    assert export.main([*flags, "--triton", str(folder)]) == 0
    assert json.loads(capsys.readouterr().out)["triton"] == str(folder / "1")
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
