"""Rules of the code that a linter does not know: sizes, and how docstrings begin."""

import ast
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.fast, pytest.mark.repository]

ROOT = Path(__file__).parents[2]
FOLDERS = ("dien_jax", "kernels", "benchmarks", "tests", "docs")
FILES = sorted(file for folder in FOLDERS for file in (ROOT / folder).rglob("*.py"))
PACKAGES = [file for file in FILES if file.is_relative_to(ROOT / "dien_jax")] + [
    file for file in FILES if file.is_relative_to(ROOT / "kernels")
]
LONGEST_FILE = 400
LONGEST_FUNCTION = 80
"""Lines of code, docstring not counted."""
MOST_PARAMETERS = 8
NOT_A_BEGINNING = ("What", "Of", "Who", "As", "By", "Whether", "Where", "How")
NOT_A_VARIABLE = ("told", "each")
"""Names that do not say what they hold. What an error says was found may be called so."""
KERNEL_BODIES = ("_kernel", "_body")
"""Endings of the names of functions that run on the device, one reference an argument."""
ONE_BY_ONE = ("gru", "agru", "augru", "fit")
"""Public functions that take operands and options one by one, as functions of JAX do."""

Function = ast.FunctionDef | ast.AsyncFunctionDef


@functools.cache
def every_node(file: Path) -> list[ast.AST]:
    return list(ast.walk(ast.parse(file.read_text())))


def nodes(files: list[Path], kinds: Any = ast.AST) -> Iterator[tuple[Path, Any]]:
    for file in files:
        for node in every_node(file):
            if isinstance(node, kinds):
                yield file, node


def place(file: Path, node: ast.AST) -> str:
    name = getattr(node, "name", "module")
    return f"{file.relative_to(ROOT)}:{getattr(node, 'lineno', 1)} {name}"


def code_lines(function: Function) -> int:
    docstring = ast.get_docstring(function, clean=False)
    lines = (function.end_lineno or 0) - function.lineno + 1
    return lines - (docstring.count("\n") + 1 if docstring else 0)


def parameters(function: Function) -> int:
    arguments = function.args
    names = [a.arg for a in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]
    return len(names) - (names[:1] in (["self"], ["cls"]))


def test_files_are_short() -> None:
    lengths = {str(file.relative_to(ROOT)): len(file.read_text().splitlines()) for file in FILES}
    assert len(lengths) > 200
    assert {file: n for file, n in lengths.items() if n > LONGEST_FILE} == {}


def test_functions_are_short_and_take_few_parameters() -> None:
    too_large = []
    for file, node in nodes(PACKAGES, Function):
        exempt = node.name in ("__call__", *ONE_BY_ONE)
        few = exempt or parameters(node) <= MOST_PARAMETERS
        is_body = node.name.endswith(KERNEL_BODIES)
        if not is_body and (code_lines(node) > LONGEST_FUNCTION or not few):
            too_large.append(place(file, node))
    assert too_large == []


def descriptions(node: Any) -> Iterator[str]:
    """The docstring of a node; of a class also those of its fields, the help texts of flags."""
    statements = node.body if isinstance(node, ast.ClassDef) else node.body[:1]
    for statement in statements:
        if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
            yield str(statement.value.value)


@pytest.mark.parametrize("folder", ["dien_jax", "kernels", "benchmarks"])
def test_docstrings_begin_with_an_imperative_or_a_noun_phrase(folder: str) -> None:
    files = [file for file in FILES if file.is_relative_to(ROOT / folder)]
    wrong = [
        f"{place(file, node)}: {text.splitlines()[0]}"
        for file, node in nodes(files, Function | ast.ClassDef | ast.Module)
        for text in descriptions(node)
        if text.split(maxsplit=1)[0].strip(",.:;") in NOT_A_BEGINNING
    ]
    assert wrong == []


def test_variables_are_called_by_what_they_hold() -> None:
    wrong = []
    for file, node in nodes(PACKAGES):
        stored = isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
        name = node.id if stored else getattr(node, "arg", None)  # a parameter, or a keyword
        if name in NOT_A_VARIABLE:
            wrong.append(f"{place(file, node)} {name}")
    assert wrong == []
