"""Every command line of the documentation is one that the command takes."""

import importlib
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import tyro

from dien_jax.__main__ import commands

pytestmark = [pytest.mark.fast, pytest.mark.repository]

ROOT = Path(__file__).parents[2]
PAGES = ("README.md", "examples/README.md", "kernels/README.md", "SECURITY.md")
COMMAND = re.compile(r"(?:python3? -m dien_jax\.|dien-jax )(\w+)((?: .*)?)$")


def command_lines(page: Path) -> Iterator[tuple[str, list[str]]]:
    """Yield the name and the words of each command in the shell blocks of a page."""
    for block in re.findall(r"```sh\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            match = COMMAND.search(line)
            if match:
                words = shlex.split(match[2], comments=True)
                ends = [n for n, word in enumerate(words) if word in ("&", "&&", "|", ">", ";")]
                words = words[: min(ends, default=None)]
                yield match[1], [word for word in words if word != "..."]


def pages() -> list[str]:
    files = [ROOT / page for page in PAGES] + sorted((ROOT / "docs").glob("*.md"))
    return [str(file.relative_to(ROOT)) for file in files if any(command_lines(file))]


@pytest.mark.parametrize("page", pages())
def test_commands_of_a_page_are_parsed(page: str, capsys: pytest.CaptureFixture[str]) -> None:
    for name, words in command_lines(ROOT / page):
        assert exit_status(name, words) == 0, f"{name} {words}: {capsys.readouterr()}"


def exit_status(name: str, words: list[str]) -> object:
    module = importlib.import_module(f"dien_jax.{name}")
    if name == "prepare":
        source, *words = words
        kind = module.SOURCES[source][0]
    else:
        kind = module.Arguments
    try:
        tyro.cli(kind, args=words)
    except SystemExit as end:
        return end.code
    return 0


def test_commands_to_try_and_to_test_stand_alone() -> None:
    """``.ci/run`` runs the one block below "Run the tests"."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for heading, end in (("Try it", "dien-jax train"), ("Run the tests", "pytest -n 2")):
        section = text.split(f"\n## {heading}\n")[1].split("\n## ")[0]
        [block] = re.findall(r"```\w*\n(.*?)```", section, re.DOTALL)
        assert block.count("\n") == 1
        assert block.endswith(f"{end}\n")
        assert len(block) <= 98  # GitHub shows no more without scrolling


def test_pages_have_every_command() -> None:
    named = {name for page in pages() for name, _ in command_lines(ROOT / page)}
    assert named == set(commands())
