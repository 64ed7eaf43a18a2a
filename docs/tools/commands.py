"""MkDocs hook: generate a page for each command, with its help text and a link to its guide.

Pages are generated when the site is built; they are not in the repository. Each command needs an
entry in ``GUIDES`` and a line in ``nav`` of mkdocs.yml.
"""

import contextlib
import importlib
import io
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import tyro
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

sys.path[:0] = [str(Path(__file__).parents[2]), str(Path(__file__).parents[2] / "kernels")]

from dien_jax.__main__ import commands  # noqa: E402
from dien_jax.utils.command import description, join_help_lines  # noqa: E402

GUIDES = {
    "baselines": ("Simple models", "training.md#simple-models"),
    "compare": ("Several runs", "training.md#several-runs"),
    "evaluate": ("Train on your own log", "training.md"),
    "explain": ("Look inside", "inside.md"),
    "export": ("Export", "export.md"),
    "predict": ("Rank", "ranking.md"),
    "prepare": ("Train on your own log", "training.md#prepare"),
    "recommend": ("Recommend", "recommending.md"),
    "report": ("Look inside", "inside.md"),
    "reproduce": ("Results", "results.md"),
    "serve": ("Serve", "serving.md"),
    "train": ("Train on your own log", "training.md#train"),
}
"""Title and address of the guide to each command."""
OWN_LOGS, SETS = ("interactions", "impressions"), "prepare-sets"
"""Sources on the page of ``prepare``, and the page of all other sources."""
_RULE = re.compile(r"^ -+ *$\n", re.MULTILINE)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages."""
    rows = [f"| [`{name}`]({name}.md) | {summary} |" for name, summary in commands().items()]
    lines = [
        "# Commands",
        "",
        "`python -m dien_jax.COMMAND` and `dien-jax COMMAND` are the same. Results go to standard",
        "output, progress and messages to standard error. The exit status is 0 for success, 1 if",
        "training diverged, 2 for a mistake in flags or files, 130 after Ctrl-C, and 143 after",
        "SIGTERM.",
        "",
        "| command | |",
        "|---|---|",
        *rows,
        "",
    ]
    pages = {"index": "\n".join(lines), **dict(_pages())}
    for name, content in pages.items():
        files.append(File.generated(config, f"commands/{name}.md", content=content))
    return files


def _pages() -> Iterator[tuple[str, str]]:
    """Yield the name and the text of each command's page."""
    for name in commands():
        module = importlib.import_module(f"dien_jax.{name}")
        title, address = GUIDES[name]
        parts = [f"# {name}", f"Guide: [{title}](../{address})."]
        if name == "prepare":
            parts += [
                _block(module._overview()),
                f"Public logs and simulated users: [{SETS}]({SETS}.md).",
            ]
            sets = [f"# {SETS}", parts[1]]
            for source, (kind, _) in module.SOURCES.items():
                page = parts if source in OWN_LOGS else sets
                page += [f"## {name} {source}", _block(_help(kind, f"{module.COMMAND} {source}"))]
            yield SETS, "\n\n".join(sets) + "\n"
        else:
            parts += [_block(_help(module.Arguments, f"python -m dien_jax.{name}"))]
        yield name, "\n\n".join(parts) + "\n"


def _block(text: str) -> str:
    return f"```text\n{text.strip()}\n```"


def _help(arguments: Any, prog: str) -> str:
    """Return a help text in ASCII, in lines of 100 characters, which fit a page."""
    output = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    narrow = mock.patch.dict("os.environ", COLUMNS="100")
    with narrow, contextlib.redirect_stdout(output), contextlib.suppress(SystemExit):
        join_help_lines(arguments)
        tyro.cli(arguments, prog=prog, args=["--help"], description=description(arguments))
    output.flush()
    text = output.buffer.getvalue().decode("ascii")  # type: ignore[attr-defined]
    return "\n".join(line.rstrip() for line in _RULE.sub("", text).splitlines())
