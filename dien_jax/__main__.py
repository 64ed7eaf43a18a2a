"""All commands by name: ``python -m dien_jax COMMAND ...``, and the script ``dien-jax``.

dien-jax                   lists the commands
dien-jax train --help      the same as python -m dien_jax.train --help
"""

import ast
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path

from dien_jax._version import __version__
from dien_jax.errors import suggestion
from dien_jax.utils.command import run_command
from dien_jax.utils.console import listed, print_result, say


def commands() -> dict[str, str]:
    """Return the first sentence of each command's docstring, without importing the command."""
    summaries = {}
    for file in sorted(Path(__file__).parent.glob("[a-z]*.py")):
        module = ast.parse(file.read_text(encoding="utf-8"))
        classes = [node for node in module.body if isinstance(node, ast.ClassDef)]
        of_flags = [ast.get_docstring(node) for node in classes if node.name == "Arguments"]
        text = (*of_flags, ast.get_docstring(module))[0] or ""
        sentence = " ".join(text.split("\n\n")[0].split()).partition(". ")[0]
        if file.stem != "errors":
            summaries[file.stem] = sentence.rstrip(".")
    return summaries


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return its exit status."""
    name, *rest = list(sys.argv[1:] if argv is None else argv) or ["--help"]
    known = commands()
    if name in ("--version", "-h", "--help"):
        text = __version__ if name == "--version" else _overview(known)
        return run_command(lambda: text, print_result, compiles=False)
    if name not in known:
        near = suggestion(name, known)
        say(f"error: no command {name!r}{near} (commands: {', '.join(known)})")
        return 2
    return importlib.import_module(f"dien_jax.{name}").main(rest)


def _overview(known: dict[str, str]) -> str:
    """Return the usage, with all commands and their summaries."""
    width = max(map(len, known))
    start = "usage: dien-jax COMMAND ...\n\ncommands (each has --help):"
    lines = [listed(command, width, summary) for command, summary in known.items()]
    end = "\nFirst steps: prepare, train, evaluate. Without data of your own: dien-jax train"
    return "\n".join([start, *lines, end])


if __name__ == "__main__":
    sys.exit(main())
