"""The command of commands."""

import pytest
from support.programs import printed

from dien_jax import __main__, __version__

COMMANDS = (
    "train evaluate predict recommend prepare compare baselines reproduce explain report export "
    "serve"
)


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"]])
def test_commands_are_listed_with_a_sentence_each(arguments, capsys):
    assert __main__.main(arguments) == 0
    usage, commands, first_steps = capsys.readouterr().out.split("\n\n")
    assert usage.startswith("usage: ")
    assert first_steps.startswith("First steps: prepare, train, evaluate.")
    listed = {}
    for line in commands.splitlines()[1:]:
        assert len(line) <= 80
        if line.startswith("   "):  # it goes on
            listed[name] += f" {line.strip()}"
        else:
            name, summary = line.split(maxsplit=1)
            listed[name] = summary
    assert [*listed] == sorted(COMMANDS.split())
    assert listed["train"].startswith("Train a click model")
    for name, summary in listed.items():
        assert 15 < len(summary) < 90, name
        assert "``" not in summary, name


def test_list_imports_no_command():
    code = (
        "from dien_jax import __main__; import sys; __main__.main([]); "
        "print(sorted({'jax', 'tyro', 'numpy', 'dien_jax.train'} & set(sys.modules)))"
    )
    assert printed(code).splitlines()[-1] == "[]"


HELP = """
import contextlib, importlib, sys
for name in sys.argv[1:]:
    with contextlib.suppress(SystemExit):
        importlib.import_module(f"dien_jax.{name}").main(["--help"])
    assert "jax" not in sys.modules, name
"""


def test_help_needs_no_jax():
    printed(HELP, *set(COMMANDS.split()) - {"prepare"})


def test_misspelt_command_is_refused_with_the_nearest(capsys):
    assert __main__.main(["trian", "--seed", "1"]) == 2
    output = capsys.readouterr()
    assert "error: no command 'trian'; did you mean 'train'?" in output.err
    assert output.out == ""


def test_version(capsys):
    assert __main__.main(["--version"]) == 0
    assert capsys.readouterr().out == f"{__version__}\n"
