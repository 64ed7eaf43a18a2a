"""The version of a model, by which the server notices a newer one, and reading it meanwhile."""

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from support.http_server import save_step

from dien_jax.inference.ranker import Ranker
from dien_jax.runs import checkpoints
from dien_jax.runs.calibration import Calibration
from dien_jax.server import current_model
from dien_jax.server.current_model import model_version
from dien_jax.server.run import ServerOptions

pytestmark = pytest.mark.long


@pytest.mark.parametrize("mark_is_read", [False, True])
def test_a_checkpoint_may_be_replaced_while_its_version_is_read(
    mark_is_read, run, tmp_path, monkeypatch
) -> None:
    copy, new, read = shutil.copytree(run, tmp_path / "run"), iter([2]), checkpoints._host

    def replaced(path: Path) -> Any:
        mark = read(path) if mark_is_read else None
        for step in new:
            save_step(copy, step)
        return mark or read(path)

    monkeypatch.setattr(checkpoints, "_host", replaced)
    assert model_version(copy).name == "2"


def test_a_run_that_is_replaced_while_it_is_loaded_is_loaded_again(
    run, tmp_path, monkeypatch
) -> None:
    copy, new, loaded = shutil.copytree(run, tmp_path / "run"), iter([0.25]), []

    def load(*given: Any, **options: Any) -> Ranker:
        loaded.append(Ranker(*given, **options))
        for slope in new:
            Calibration(slope, offset=0.0, step=1).save(copy)
        return loaded[-1]

    monkeypatch.setattr(current_model, "Ranker", load)
    served = current_model.CurrentModel(ServerOptions(copy), current_model.Metrics()).served
    assert len(loaded) == 2
    assert served.ranker is loaded[-1]
    assert served.version == model_version(copy)


def test_the_version_of_an_exported_file_is_its_time(tmp_path) -> None:
    file = tmp_path / "model.dien"
    file.touch()
    before = model_version(file)
    os.utime(file, ns=(1, 1))
    assert model_version(file) != before
