"""``config.json`` of a run: versions, edited files, and data of other content."""

import dataclasses
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
from dien_kernels import instruction_set
from support import small_dataset
from support.json_files import REMOVED, edit_json

from dien_jax import UserError, open_dataset, preset
from dien_jax.config.presets import with_settings
from dien_jax.runs import folder
from dien_jax.runs.folder import Run

TABLES = {
    "items/category": "values.npy",
    "items/price": "values.npy",
    "items/tags": "offsets.npy",
    "statistics/category": "count.npy",
    "statistics/item": "count.npy",
}
"""Tables of the small dataset, and a file of each that is changed."""


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return small_dataset.write(tmp_path / "data")


def new_run(data: Path) -> Run:
    config = preset("wide_dien")
    return Run.create(preset="wide_dien", seed=3, dataset=open_dataset(data), config=config)


@pytest.mark.parametrize(("name", "file"), TABLES.items())
def test_data_with_another_table_does_not_fit(name: str, file: str, data: Path) -> None:
    run = new_run(data)
    assert set(run.tables) == {*TABLES, "users/words"}
    values = np.load(data / name / file)
    place = 1 if file == "offsets.npy" else 0
    values[place] += 1 if values[place] == 0 else -1
    np.save(data / name / file, values)
    with pytest.raises(UserError, match=f"does not fit the run: {name} has other values than in"):
        run.check_fits(open_dataset(data))


def test_data_of_another_schema_does_not_fit(data: Path) -> None:
    dataset = open_dataset(data)
    schema = dataclasses.replace(dataset.schema, item=dataset.schema.item[:1])
    with pytest.raises(UserError, match="the run: expected the item features item "):
        new_run(data).check_fits(dataclasses.replace(dataset, schema=schema))


def test_runs_that_begin_at_once_do_not_share_a_folder(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, path = new_run(data), data.parent / "run"
    run.save(path)
    looks = Mock(side_effect=[[], folder.content(path)])  # it was empty at the first look
    monkeypatch.setattr(folder, "content", looks)
    with pytest.raises(UserError, match="is not empty; choose another folder, or continue"):
        dataclasses.replace(run, seed=4).save(path)
    assert Run.load(path) == run


def test_versions_name_what_the_kernels_run_and_their_instruction_set(monkeypatch) -> None:
    monkeypatch.setenv("DIEN_KERNELS_NATIVE", "0")

    def recorded(implementation: str, name: str = "dien") -> dict[str, str]:
        config = with_settings(preset(name), {"model.implementation": implementation})
        return folder.versions(config)

    assert "recurrences" not in {*folder.versions(), *recorded("native", "pnn")}
    native = f"native {instruction_set()}"
    for name, expected in (("auto", "xla"), ("native", native), ("reference", "reference")):
        assert recorded(name)["recurrences"] == expected


@pytest.mark.parametrize(
    ("keys", "value", "message"),
    [
        (["format_version"], REMOVED, "expected format_version 1, found none; train the model"),
        (["warm_start"], {"run": "/a"}, r"required field 'step' - at '\$.warm_start'"),
        (["model", "dropout"], REMOVED, "expected the setting model.dropout, which is missing"),
        (["model", "dropout"], "0.5", "model.dropout must be a number, got '0.5'"),
        (["model", "droput"], 0.5, "unknown setting 'model.droput'; did you mean 'dropout'?"),
        (["later"], 0.5, "unknown setting 'later'"),
    ],
)
def test_edited_config_is_refused(keys: list[Any], value: Any, message: str, data: Path) -> None:
    path = data.parent / "run"
    run = new_run(data)
    run.save(path)
    assert Run.load(path) == run
    edit_json(path / "config.json", *keys, value=value)
    with pytest.raises(UserError, match=rf"config\.json.*{message}"):
        Run.load(path)
