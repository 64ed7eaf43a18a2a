"""Settings that the data decides: what a run records, says and resumes with."""

import pytest
from support import tiny_run

import dien_jax
from dien_jax.data.schema import Feature, Schema
from dien_jax.runs.folder import Run
from dien_jax.steps.placement import OneDevice
from dien_jax.steps.rows import automatic_update

EPOCH = "--train.epochs=1"


def fit(data, folder, *more: str) -> dien_jax.RunResult:
    return dien_jax.fit(tiny_run.light_config(EPOCH, *more), data=data, run_dir=folder)


@pytest.mark.parametrize(("users", "update"), [(35_536, "dense"), (35_537, "lazy_adam")])
def test_rows_of_large_tables_decide(users, update) -> None:
    sizes = {"item": 30_000, "category": 4096, "user": users}  # categories are a small table
    item, category, user = (Feature(name, "categorical", size) for name, size in sizes.items())
    schema = Schema((item, category), (user,))
    assert automatic_update(schema) == update
    place = OneDevice(schema)
    assert place.tables_by_row("auto") == place.tables_by_row(update)


@pytest.mark.long
def test_large_tables_take_lazy_adam_and_say_so(large_data, tmp_path, capfd):
    automatic = fit(large_data, tmp_path / "auto")
    assert Run.load(tmp_path / "auto").config.optim.embedding_update == "lazy_adam"
    assert (
        "optim.embedding_update is lazy_adam: large embedding tables have more than 65,536 rows"
    ) in " ".join(capfd.readouterr().err.split())
    chosen = fit(large_data, tmp_path / "lazy", "--optim.embedding-update=lazy_adam")
    assert "embedding_update" not in capfd.readouterr().err
    assert automatic.valid == chosen.valid
