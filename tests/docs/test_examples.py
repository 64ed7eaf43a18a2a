"""The examples in the docstrings of public names run, and print what they say."""

import doctest
import importlib
import inspect
import pkgutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support import tiny_run

import dien_jax

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
    """Names and objects in ``__all__`` that have docstrings of their own."""
    module = importlib.import_module(package)
    for name in module.__all__:
        item = getattr(module, name)
        if inspect.isclass(item) or inspect.isfunction(item):
            yield name, item


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a dataset folder ``data`` and a finished run ``runs/first``."""
    folder = tmp_path_factory.mktemp("examples")
    tiny_run.write_data(folder / "data")
    tiny_run.train(folder / "data", folder / "runs" / "first")
    return folder


@pytest.mark.parametrize("package", PACKAGES)
def test_public_names_have_an_example_that_runs(
    package: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    finder, lacking, failed = doctest.DocTestFinder(recurse=True), [], []
    for name, item in public(package):
        examples = [test for test in finder.find(item, name) if test.examples]
        if not examples:
            lacking.append(name)
        for test in examples:
            report: list[str] = []
            runner = doctest.DocTestRunner(verbose=False, optionflags=doctest.ELLIPSIS)
            runner.run(test, out=report.append)
            failed += report
    assert lacking == []
    assert failed == [], "\n".join(failed)
