"""Factors in exported files."""

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
from support import many_items, untrained_run

from dien_jax import Ranker, UserError
from dien_jax.inference import export_run

ROW = "weights/tables/factors/item/row.npy"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("factors")
    data = many_items.write(folder / "data")
    return untrained_run.write(folder / "run", data, model="base_model", buckets=())


@pytest.fixture(scope="module")
def exported(run: Path) -> Path:
    file = run.parent / "model.dien"
    export_run(run, file)
    return file


@pytest.mark.long
def test_an_exported_file_ranks_like_its_run_and_has_one_table(run: Path, exported: Path) -> None:
    history, candidates = ["i3", "i5", "i8"], ["i1", "i40", "not an item", "i6"]
    rankings = [Ranker(model).rank(history, candidates) for model in (run, exported)]
    assert rankings[0].ids == rankings[1].ids
    np.testing.assert_allclose(rankings[0].scores, rankings[1].scores, atol=1e-6)
    with zipfile.ZipFile(exported) as archive:
        vectors = np.load(io.BytesIO(archive.read(ROW.replace("row", "vectors"))))
    assert vectors.shape[0] == 1
    assert vectors.dtype == np.float16


def test_a_row_out_of_range_is_refused(exported: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(exported) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    row, content = np.load(io.BytesIO(entries[ROW])), io.BytesIO()
    row[1] = 60
    np.save(content, row)
    file = tmp_path / "model.dien"
    with zipfile.ZipFile(file, "w") as archive:
        for name, data in (entries | {ROW: content.getvalue()}).items():
            archive.writestr(name, data)
    with pytest.raises(UserError, match=r"entry 1 of tables/factors/item/row should be 0 to 58"):
        Ranker(file)
