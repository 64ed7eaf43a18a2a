"""Folders and files that released versions wrote are still read, and score as they did.

``make_release.py`` made each folder ``version_X_Y_Z`` when that version was released. Before the
first release there is none, and the tests run on a folder that they make. Arrays must be equal to
the last bit, scores to ``TOLERANCE``: they were computed with one processor and one release of JAX.
"""

import json
import runpy
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.json_files import edit_json
from support.small_dataset import contents

from dien_jax import load_run, resume
from dien_jax.runs.folder import read_evaluations
from dien_jax.runs.trained import score_split

pytestmark = [pytest.mark.long, pytest.mark.first]

HERE = Path(__file__).parent
NOW = "now"
RELEASES = sorted(folder.name for folder in HERE.glob("version_*")) or [NOW]
MAKE = runpy.run_path(str(HERE / "make_release.py"))
TOLERANCE = 2e-6
"""Largest difference of two probabilities: some tens of roundings of float32."""
TRAINED_TOLERANCE = 1e-4
"""The same, after the last steps of training are done again: each step rounds its update."""


@pytest.fixture(scope="module", params=RELEASES)
def release(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Path]:
    """A folder, which is afterwards what it was before."""
    folder = HERE / request.param
    if request.param == NOW:
        folder = tmp_path_factory.mktemp("releases") / NOW
        MAKE["make"](folder)
    before = contents(folder)
    yield folder
    assert contents(folder) == before


def read(file: Path) -> Any:
    return json.loads(file.read_text(encoding="utf-8"))


def test_arrays_are_read_bit_for_bit(release: Path) -> None:
    assert MAKE["opened"](release) == read(release / "arrays.json")


def test_scores_are_what_they_were(release: Path) -> None:
    found, expected = MAKE["scores"](release), read(release / "scores.json")
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=0, atol=TOLERANCE, err_msg=name)


def test_a_stopped_run_ends_as_one_that_was_not(release: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(release / "stopped", tmp_path / "run")
    edit_json(copy / "config.json", "data", value=str(release / "dataset"))
    expected = read(release / "run" / "result.json")
    result = resume(copy)
    assert (result.steps, result.best_step) == (expected["steps"], expected["best_step"])
    scores = score_split(load_run(copy), "test").scores
    recorded = read(release / "scores.json")["test"]
    np.testing.assert_allclose(scores, recorded, rtol=0, atol=TRAINED_TOLERANCE)
    last = [read_evaluations(folder)[-1]["valid"]["logloss"] for folder in (copy, release / "run")]
    assert last[0] == pytest.approx(last[1], abs=TRAINED_TOLERANCE)
