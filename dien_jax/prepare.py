"""Make a dataset folder from a log or a published data set.

The summary goes to standard output, and progress to standard error. Exit status: 0 if the folder
was made, 2 for a mistake in flags or files, 130 after Ctrl-C and 143 after SIGTERM. A stopped
command leaves no files behind.
"""

import dataclasses
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro

from dien_jax.errors import UserError, suggestion
from dien_jax.preparation.sources import (
    alimama,
    amazon,
    authors,
    impressions,
    interactions,
    movielens,
    synthetic,
    taobao,
)
from dien_jax.utils.command import parse_flags, run_command
from dien_jax.utils.console import listed, print_result, say, stage

COMMAND = "python -m dien_jax.prepare"
File = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FILE")]
Folder = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FOLDER")]
Source = Annotated[Path, tyro.conf.arg(name="from")]
Archive = Annotated[Path | None, tyro.conf.arg(name="from")]


def _flags(options: type, **kinds: Any) -> type:
    """Return the options of a source, with the field annotations that the command line needs."""
    fields = [(n, kind, getattr(options, n, dataclasses.MISSING)) for n, kind in kinds.items()]
    how: Any = {"frozen": True, "kw_only": True, "namespace": {"__doc__": options.__doc__}}
    return dataclasses.make_dataclass(options.__name__, fields, bases=(options,), **how)


SOURCES: dict[str, tuple[type, Callable[[Any], list[str]]]] = {
    "interactions": (_flags(interactions.InteractionsOptions, file=File), interactions.prepare),
    "impressions": (_flags(impressions.ImpressionsOptions, file=File), impressions.prepare),
    "amazon": (amazon.AmazonOptions, amazon.prepare),
    "movielens": (_flags(movielens.MovielensOptions, source=Archive), movielens.prepare),
    "taobao": (_flags(taobao.TaobaoOptions, source=Source), taobao.prepare),
    "alimama": (_flags(alimama.AlimamaOptions, source=Source), alimama.prepare),
    "authors": (
        _flags(authors.AuthorsOptions, folder=Folder),
        stage("reading and writing")(authors.prepare),
    ),
    "synthetic": (synthetic.SyntheticOptions, stage("simulating")(synthetic.prepare)),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    name, *flags = (sys.argv[1:] if argv is None else argv) or [""]
    if name in ("-h", "--help"):
        return run_command(_overview, print_result, compiles=False)

    def parse() -> tuple[Any, Any]:
        if not name:
            raise UserError(f"which source?\n{_overview()}")
        if name not in SOURCES:
            near = suggestion(name, SOURCES)
            raise UserError(f"unknown source {name!r}{near} (sources: {', '.join(SOURCES)})")
        kind, prepare = SOURCES[name]
        return prepare, parse_flags(tyro.cli, kind, flags, f"prepare {name}")

    def run(parsed: tuple[Any, Any]) -> None:
        prepare, options = parsed
        say(f"preparing the dataset folder {options.out} from {name}")
        for line in prepare(options):
            print_result(line)
        print_result(f"dataset folder: {options.out}")

    interrupted = "interrupted; nothing was written"
    return run_command(parse, run, compiles=False, when_interrupted=interrupted)


def _overview() -> str:
    """Return the help text of the command without a source."""
    sources = [listed(name, 12, str(kind.__doc__)) for name, (kind, _) in SOURCES.items()]
    usage = f"usage: {COMMAND} SOURCE [...] --out DIR"
    work = "Make a dataset folder for python -m dien_jax.train. Sources:"
    return "\n".join([usage, "", work, *sources, "", f"Flags of a source: {COMMAND} SOURCE --help"])


if __name__ == "__main__":
    sys.exit(main())
