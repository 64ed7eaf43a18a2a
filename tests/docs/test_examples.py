"""The examples in the docstrings of public names and the code of pages run.

Functions and classes need an example. Records (named tuples and dataclasses) appear in the
examples of the functions that take or return them.
"""

import dataclasses
import doctest
import importlib
import inspect
import pkgutil
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import jax
import numpy as np
import pytest
from support import tiny_run

import dien_jax
from dien_jax import PRESETS, train
from dien_jax.model import EVOLUTIONS

pytestmark = [pytest.mark.long, pytest.mark.first]

ROOT = Path(__file__).parents[2]
PAGES = [
    "docs/own-loop.md",
    "docs/ranking.md",
    "docs/recommending.md",
    "docs/tutorial.md",
    "kernels/README.md",
]

PACKAGES = (
    "dien_jax",
    "dien_kernels",
    *(
        f"dien_jax.{package.name}"
        for package in pkgutil.iter_modules(dien_jax.__path__)
        if package.ispkg
    ),
)


def public(package: str) -> Iterator[tuple[str, Any]]:
    """Names and objects of the functions and classes in ``__all__``."""
    module = importlib.import_module(package)
    for name in module.__all__:
        item = getattr(module, name)
        if inspect.isclass(item) or inspect.isfunction(item):
            yield name, item


OF_LAYERS = {item for package in PACKAGES if package != "dien_jax" for _, item in public(package)}
"""What ``dien_jax`` takes from its layers, whose examples run with theirs."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a dataset folder ``data`` and a finished run ``runs/first``."""
    folder = tmp_path_factory.mktemp("examples")
    tiny_run.write_data(folder / "data")
    assert train.main(tiny_run.flags(folder / "data", folder / "runs" / "first")) == 0
    return folder


@pytest.mark.parametrize("package", PACKAGES)
def test_public_names_have_an_example_that_runs(
    package: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    finder, lacking, failed = doctest.DocTestFinder(recurse=True), [], []
    run_elsewhere = OF_LAYERS if package == "dien_jax" else set()
    for name, item in public(package):
        examples = [test for test in finder.find(item, name) if test.examples]
        is_record = dataclasses.is_dataclass(item) or hasattr(item, "_fields")
        if not examples and not is_record:
            lacking.append(name)
        for test in [] if item in run_elsewhere else examples:
            report: list[str] = []
            runner = doctest.DocTestRunner(verbose=False, optionflags=doctest.ELLIPSIS)
            runner.run(test, out=report.append)
            failed += report
    assert lacking == []
    assert failed == [], "\n".join(failed)


def blocks(page: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)


def run_page(page: str) -> dict[str, Any]:
    """Run the Python of a page, block after block, as a reader would paste it."""
    values: dict[str, Any] = {"__name__": page}
    with (
        jax.numpy_dtype_promotion("standard"),  # this and the next are the defaults of JAX
        jax.numpy_rank_promotion("allow"),
        mock.patch.dict(EVOLUTIONS),  # an entry that a page adds is gone for the tests after it
        mock.patch.dict(PRESETS, wide_dien=PRESETS["base_model"]),  # compiles in seconds
    ):
        for number, block in enumerate(blocks(page)):
            exec(compile(block, f"{page}[{number}]", "exec"), values)
    return values


@pytest.mark.repository
@pytest.mark.parametrize("page", PAGES)
def test_the_python_of_a_page_runs(page: str) -> None:
    assert blocks(page)
    run_page(page)


@pytest.mark.repository
def test_the_python_of_the_page_on_looking_inside_runs(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    values = run_page("docs/inside.md")
    batch, steps = values["batch"], values["batch"].history.shape[1]
    assert values["output"].attention.shape == (len(batch.label), steps)
    np.testing.assert_allclose(values["last"], values["output"].final_state, atol=1e-6)


@pytest.mark.repository
def test_the_python_of_the_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    foods = ["pear", "leek", "fig", "kale", "plum", "beet"]
    places = [(n * 5 + n // 18) % len(foods) for n in range(90)]  # histories of one padded length
    lines = [f"u{n % 18},{foods[place]},{n},{place % 2}" for n, place in enumerate(places)]
    Path("log.csv").write_text("\n".join(["user,item,timestamp,category", *lines]))
    values = run_page("README.md")
    assert values["last"].shape == (32, 36)
    assert 0 <= values["run"].test["auc"] <= 1
    assert {*values["ranking"].ids} == {*foods} - {"pear", "leek"}
    assert blocks("README.md")[0] in (ROOT / "docs/index.md").read_text()
