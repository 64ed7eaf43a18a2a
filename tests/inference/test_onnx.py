"""ONNX files score as the run they were exported from."""

import json

import pytest
from support import many_items, small_dataset, untrained_run

from dien_jax import export

pytest.importorskip("jax2onnx", reason="needs the extra 'onnx'")


@pytest.mark.parametrize(
    ("write", "model", "ensemble"),
    [(small_dataset.write, "dien", 1), (many_items.write, "din", 2)],
)
def test_onnx_scores_are_those_of_the_run(write, model, ensemble, tmp_path, capsys) -> None:
    """The second dataset has factors."""
    data = write(tmp_path / "data")
    run = untrained_run.write(tmp_path / "run", data, model=model, buckets=(), ensemble=ensemble)
    file = tmp_path / "model.onnx"
    flags = ["--out", str(tmp_path / "model.dien"), "--onnx", str(file)]
    assert export.main([str(run), *flags]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["onnx_bytes"] == file.stat().st_size
    assert report["onnx_largest_difference"] < 1e-5
