"""The scripts and the notebook of ``examples/`` run to their end, most in this process."""

import contextlib
import importlib
import io
import json
import os
import re
import runpy
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import pytest

from dien_jax.config.presets import read_preset_file
from dien_jax.utils.files import read_json

pytestmark = [pytest.mark.long, pytest.mark.first, pytest.mark.repository]

EXAMPLES = Path(__file__).parents[2] / "examples"
CHEAP = ("--preset", "base_model")
"""A model that compiles in seconds."""


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Run a script in this process, which has imported what takes seconds; return its output."""

    def run(name: str, *arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", [name, *arguments])
        with (
            jax.numpy_dtype_promotion("standard"),
            jax.numpy_rank_promotion("allow"),
            contextlib.redirect_stdout(io.StringIO()) as output,
        ):
            runpy.run_path(str(EXAMPLES / name), run_name="__main__")
        return output.getvalue()

    def command(line: list[str], **options: Any) -> subprocess.CompletedProcess:
        python, is_module, module, *arguments = line
        if (python, is_module) != (sys.executable, "-m"):  # matplotlib looks for fonts
            return started(line, **options)
        return subprocess.CompletedProcess(line, importlib.import_module(module).main(arguments))

    started = subprocess.run
    monkeypatch.setattr(subprocess, "run", command)
    monkeypatch.syspath_prepend(EXAMPLES)
    return run


def test_a_log_becomes_lists_of_next_items(run, tmp_path: Path) -> None:
    output = run("rank_own_log.py", "--out", str(tmp_path), "--epochs", "1", *CHEAP)
    found = re.search(r"test AUC ([\d.]+); simple models: popularity ([\d.]+)", output)
    assert found is not None
    assert float(found[1]) > float(found[2])
    next_items = re.findall(r"^ *(user \d+) +(\d) +(item \d+) +(-?[\d.]+)$", output, re.MULTILINE)
    assert [place for _, place, *_ in next_items] == [*"12345"] * 3
    assert len({user for user, *_ in next_items}) == 3
    scores = [float(score) for *_, score in next_items]
    assert [scores[k : k + 5] for k in (0, 5, 10)] == [
        sorted(scores[k : k + 5], reverse=True) for k in (0, 5, 10)
    ]


def test_losses_fall_in_a_loop_of_ones_own(run) -> None:
    output = run("own_loop.py")
    losses = re.findall(r"click loss ([\d.]+), auxiliary loss ([\d.]+)", output)
    assert len(losses) == 3
    assert all(float(last) < float(first) / 3 for first, last in zip(*losses[::2], strict=True))
    found = re.search(r"AUC on fresh users: ([\d.]+)", output)
    assert found is not None
    assert float(found[1]) > 0.95


def test_a_search_goes_on_and_its_best_settings_are_a_preset_file(
    run, data: Path, tmp_path: Path
) -> None:
    pytest.importorskip("optuna")
    search = ("tune.py", str(data), "--out", str(tmp_path), *CHEAP, "--trials", "1")
    for trials in (1, 2):
        output = run(*search)
        assert len(read_json(tmp_path / "best.json", dict)["model"]) > 1
        with contextlib.closing(sqlite3.connect(tmp_path / "study.db")) as study:
            assert study.execute("SELECT count(*) FROM trials").fetchall() == [(trials,)]
    best = re.search(r"validation AUC ([\d.]+)", output)
    assert best is not None
    settings = read_preset_file(tmp_path / "best.json")[1]
    assert f"'optim.learning_rate': {settings.optim.learning_rate}" in output


@pytest.mark.parametrize("line", ["rank_own_log.py nowhere.csv", "tune.py nowhere --out out"])
def test_a_path_that_does_not_exist_is_one_line(run, line, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match=r"^error: .*nowhere"):
        run(*line.split())


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("rank_own_log.py empty.csv --out out", "No columns to parse from file"),
        ("tune.py {data} --out out --trials 0", "out/study.db: no trial is complete"),
    ],
)
def test_a_log_or_a_search_without_content_is_one_line(
    run, line, problem, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("empty.csv").touch()
    with pytest.raises(SystemExit, match=f"^error: {problem}"):
        run(*line.format(data=data).split())


def test_a_daily_job_ends_as_a_command_that_fails(run, tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as ending:
        run("daily_job.py", "--out", str(tmp_path), "--preset", "nothing")
    assert ending.value.code == 2


def test_a_daily_job_goes_on_from_yesterday_while_the_server_answers(run, tmp_path: Path) -> None:
    """Its commands run here, its server in a process of its own."""
    output = run("daily_job.py", "--out", str(tmp_path), "--days", "2", "--epochs", "1", *CHEAP)
    answers = re.findall(r"^day (\d): (.*)$", output, re.MULTILINE)
    assert [day for day, _ in answers] == ["0", "1"]
    assert answers[0][1] != answers[1][1]
    run_of_today = json.loads((tmp_path / "run-1" / "config.json").read_text())
    assert run_of_today["warm_start"]["run"] == str(tmp_path / "run-0")
    assert (tmp_path / "run-1" / "model_card.md").exists()


def test_the_notebook_runs_in_jupyter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a real kernel: progress lines, figures and DuckDB find out that they are in a notebook."""
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    for variable in ("IPYTHONDIR", "JUPYTER_RUNTIME_DIR", "TMPDIR"):
        monkeypatch.setenv(variable, str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))
    notebook = nbformat.read(EXAMPLES / "dien.ipynb", as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert not any(cell.outputs for cell in code), "outputs are not committed"
    where = {"metadata": {"path": str(EXAMPLES)}}
    nbclient.NotebookClient(notebook, timeout=300, resources=where).execute()
    figures = [
        output for cell in code for output in cell.outputs if "image/png" in output.get("data", {})
    ]
    assert len(figures) == 2
    (shown,) = (output["data"] for output in code[-1].outputs if "data" in output)
    places = re.findall(r"^\d+ +user \d+ +(\d) +item \d+", shown["text/plain"], re.MULTILINE)
    assert places == [*"12345"] * 3
