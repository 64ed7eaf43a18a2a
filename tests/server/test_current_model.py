"""The version of a model, by which the server notices that there is a newer one."""

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from dien_jax.runs import checkpoints

pytest.importorskip("httpx")
pytest.importorskip("starlette")

from support.http_server import save_step

from dien_jax.server.current_model import model_version

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


def test_the_version_of_an_exported_file_is_its_time(tmp_path) -> None:
    file = tmp_path / "model.dien"
    file.touch()
    before = model_version(file)
    os.utime(file, ns=(1, 1))
    assert model_version(file) != before
