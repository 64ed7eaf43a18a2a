"""A run records what its digits depend on, and says when a resumed one runs otherwise."""

import dataclasses
import signal
from pathlib import Path
from unittest.mock import Mock

import pytest
from dien_kernels import instruction_set
from support.tiny_run import write_data

from dien_jax.config.presets import preset, with_settings
from dien_jax.config.settings import Config
from dien_jax.data.dataset import open_dataset
from dien_jax.errors import Interrupted
from dien_jax.runs.folder import Run, versions
from dien_jax.training import run as training


def config_with(recurrence: str, name: str = "dien") -> Config:
    return with_settings(preset(name), {"model.implementation": recurrence})


def test_versions_name_what_the_kernels_run_and_their_instruction_set(monkeypatch) -> None:
    monkeypatch.setenv("DIEN_KERNELS_NATIVE", "0")
    assert "recurrences" not in {*versions(), *versions(config_with("native", "pnn"))}
    native = f"native {instruction_set()}"
    for name, expected in (("auto", "xla"), ("native", native), ("reference", "reference")):
        assert versions(config_with(name))["recurrences"] == expected


@pytest.mark.parametrize("before", ["native avx512", "xla"])
def test_resuming_on_other_recurrences_says_that_digits_may_differ(
    before: str, tmp_path: Path, monkeypatch, capsys
) -> None:
    dataset = open_dataset(write_data(tmp_path / "data"))
    config = config_with("xla")
    run = Run.create(preset="dien", seed=0, dataset=dataset, config=config)
    kept = run.versions | {"recurrences": before}
    dataclasses.replace(run, versions=kept).save(tmp_path / "run")

    monkeypatch.setattr(training, "_train", Mock(side_effect=Interrupted(signal.SIGTERM)))
    with pytest.raises(Interrupted):
        training.resume(tmp_path / "run")
    differs = f"warning: the run began with recurrences {before}, this is xla; the last digit"
    assert (differs in capsys.readouterr().err) == (before != "xla")
