"""Help texts of flags are wrapped at the width of the terminal, and nowhere else."""

import dataclasses
import itertools
from typing import Annotated

import pytest
import tyro

from dien_jax import export, predict, prepare, reproduce, train
from dien_jax.utils.command import description, join_help_lines
from dien_jax.utils.console import listed


def help_lines(capsys, main, *argv: str) -> list[str]:
    with pytest.raises(SystemExit):
        main([*argv, "--help"])
    return capsys.readouterr().out.splitlines()


@pytest.mark.parametrize(
    ("main", "argv"), [(train.main, ()), (prepare.main, ("impressions",))], ids=["train", "prepare"]
)
def test_no_line_ends_before_the_terminal_does(monkeypatch, capsys, main, argv):
    monkeypatch.setenv("COLUMNS", "80")
    lines = help_lines(capsys, main, *argv)
    texts = [line.strip("│|").rstrip() for line in lines]
    assert len(texts) > 40
    for line, after in itertools.pairwise(texts):
        indent = len(line) - len(line.lstrip())
        is_one_text = indent > 3 and after.startswith(" " * indent + after.lstrip()[:1])
        if is_one_text and after.strip() and not line.endswith(")"):
            assert len(f"{line} {after.split()[0]}") > 76, (line, after)


@pytest.mark.parametrize("main", [export.main, predict.main, train.main, reproduce.main])
@pytest.mark.parametrize("width", [60, 100])
def test_no_line_of_a_help_text_is_wider_than_the_terminal(monkeypatch, capsys, main, width):
    monkeypatch.setenv("COLUMNS", str(width))
    lines = help_lines(capsys, main)
    assert max(map(len, lines)) == width


def test_a_paragraph_of_a_description_starts_a_line(monkeypatch):
    monkeypatch.setenv("COLUMNS", "22")

    @dataclasses.dataclass
    class Flags:
        """Make a table of rows.

        `Rows-of` are
        cheap.
        """

    assert description(Flags) == "  Make a table of\n  rows.\n  `Rows-of` are cheap."


def test_fields_of_bases_and_of_fields_that_are_declared_again_have_their_texts(capsys):
    @dataclasses.dataclass
    class Base:
        """Flags."""

        file: str = ""
        """A file, the description of which
        takes two lines."""

    @dataclasses.dataclass
    class Flags(Base):
        """Flags."""

        file: Annotated[str, tyro.conf.arg(metavar="FILE")] = ""

    join_help_lines(Flags)
    with pytest.raises(SystemExit):
        tyro.cli(Flags, args=["--help"])
    assert "A file, the description of which takes two lines." in capsys.readouterr().out


def test_entries_of_a_list_are_wrapped_under_their_text(monkeypatch):
    monkeypatch.setenv("COLUMNS", "30")
    assert listed("train", 5, "Train a click model on a folder") == (
        "  train  Train a click model\n         on a folder"
    )
