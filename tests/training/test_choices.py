"""Settings that the data decides: what a run records, says and resumes with."""

import pytest
from support import tiny_run

import dien_jax
from dien_jax.config.presets import with_settings
from dien_jax.runs.folder import Run
from dien_jax.steps import rows as embedding_rows

EPOCH = "--train.epochs=1"


def fit(data, folder, *more: str) -> dien_jax.RunResult:
    return dien_jax.fit(tiny_run.light_config(EPOCH, *more), data=data, run_dir=folder)


@pytest.fixture
def large(monkeypatch) -> None:
    """Let the tables of the tiny data be large ones."""
    monkeypatch.setattr(embedding_rows, "DENSE_ROWS", 5)
    monkeypatch.setattr(embedding_rows, "LAZY_ROWS", tiny_run.ITEMS + tiny_run.USERS)


def test_rows_of_large_tables_decide(monkeypatch) -> None:
    monkeypatch.setattr(embedding_rows, "DENSE_ROWS", 4)
    rows = tiny_run.ITEMS + tiny_run.USERS + 1  # without 4 categories
    for most, update in ((rows, "dense"), (rows - 1, "lazy_adam")):
        monkeypatch.setattr(embedding_rows, "LAZY_ROWS", most)
        assert embedding_rows.automatic_update(tiny_run.SCHEMA) == update
        found = embedding_rows.tables_by_row("auto", tiny_run.SCHEMA)
        assert found == embedding_rows.tables_by_row(update, tiny_run.SCHEMA)


@pytest.mark.long
def test_small_tables_are_updated_densely_and_nothing_is_said(data, tmp_path, capfd):
    fit(data, tmp_path / "run")
    assert Run.load(tmp_path / "run").config.optim.embedding_update == "dense"
    assert "embedding_update" not in capfd.readouterr().err


@pytest.mark.long
@pytest.mark.usefixtures("large")
def test_large_tables_take_lazy_adam_and_say_so(data, tmp_path, capfd):
    automatic = fit(data, tmp_path / "auto")
    assert Run.load(tmp_path / "auto").config.optim.embedding_update == "lazy_adam"
    assert (
        "optim.embedding_update is lazy_adam: large embedding tables have more than 65,536 rows"
    ) in " ".join(capfd.readouterr().err.split())
    chosen = fit(data, tmp_path / "lazy", "--optim.embedding-update=lazy_adam")
    assert "embedding_update" not in capfd.readouterr().err
    dense = fit(data, tmp_path / "dense", "--optim.embedding-update=dense")
    assert "embedding_update" not in capfd.readouterr().err
    assert automatic.valid == chosen.valid != dense.valid


def test_a_run_of_data_that_counts_as_large_by_now_resumes_as_it_began(data, tmp_path, request):
    config = with_settings(dien_jax.preset("din"), {"train.epochs": 1})
    dataset = dien_jax.open_dataset(data)
    run = Run.create(preset="din", seed=0, dataset=dataset, config=config)
    run.save(tmp_path / "run")
    request.getfixturevalue("large")
    assert embedding_rows.automatic_update(dataset.schema) == "lazy_adam"
    assert Run.load(tmp_path / "run").config.optim.embedding_update == "dense"
