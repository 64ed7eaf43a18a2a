"""A look inside a trained model: the command ``python -m dien_jax.explain RUN``."""

import dataclasses
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from dien_jax.errors import UserError
from dien_jax.utils.command import make_main
from dien_jax.utils.console import print_result, say
from dien_jax.utils.plots import check_picture, save_picture


@dataclass(frozen=True)
class Arguments:
    """Show how the best checkpoint of a run reads an example, with attention and gates.

    Give `--example`, or `--user` with `--item`.
    """

    run_dir: tyro.conf.Positional[Path]
    """Run folder of dien_jax.train."""
    example: int | None = None
    """Number of an example of the split. Numbers count from 0, in the order of the predictions that
    dien_jax.evaluate writes."""
    user: str | None = None
    """Raw id of a user. The history is all of the user's events in the data folder."""
    item: str | None = None
    """Raw id of the candidate for --user."""
    request_features: Annotated[
        dict[str, str], tyro.conf.arg(metavar="NAME VALUE [NAME VALUE ...]")
    ] = field(default_factory=dict)
    """Features of the request for --user and --item, by name. Those without a value are missing."""
    split: Literal["valid", "test", "train"] = "valid"
    """Split of --example."""
    data: Path | None = None
    """Dataset folder, if it has moved. Default: the run's own."""
    out: Path | None = None
    """Figure to write, a .png file."""
    overwrite: tyro.conf.FlagCreatePairsOff[bool] = False
    """Replace the file of --out even if this command did not write it."""


def explain(arguments: Arguments) -> None:
    """Print the example that the flags ask for, and write the figure."""
    flags = {"--example": arguments.example, "--user": arguments.user, "--item": arguments.item}
    given = [flag for flag, value in flags.items() if value is not None]
    if given not in (["--example"], ["--user", "--item"]):
        found = " and ".join(given) or "none"
        raise UserError(f"expected --example, or --user and --item; found {found}")
    if arguments.request_features and arguments.example is not None:
        raise UserError("--request-features needs --user and --item; found --example")
    # Imported here: --help needs no JAX.
    from dien_jax.inspection.example_view import draw_example, example_lines, measure_lines
    from dien_jax.inspection.examples import Inspector, missing_measures, request
    from dien_jax.runs.trained import load_run

    if arguments.out is not None:
        inputs = (arguments.run_dir, arguments.data)
        check_picture(arguments.out, overwrite=arguments.overwrite, inputs=inputs)
    trained = load_run(arguments.run_dir, arguments.data)
    model, inspector = trained.run.config.model, Inspector(trained)
    if arguments.example is not None:
        [example] = inspector.examples(arguments.split, [arguments.example])
    else:
        user, item = arguments.user or "", arguments.item or ""
        requested = request(trained.dataset, user, item, arguments.request_features)
        [example] = inspector.examples("test", [0], requested)
        example = dataclasses.replace(example, split=None, label=None)
        if model.follow_authors and model.activation == "dice":
            say("note: with model.follow_authors the score depends on the other examples")
    feature, encoding = inspector.names.feature, sys.stdout.encoding or "utf-8"
    lines = [*example_lines(example, feature, encoding), "", *measure_lines(example.measures)]
    for line in lines + missing_measures(model):
        print_result(line.rstrip())
    if arguments.out is not None:
        save_picture(draw_example(example, feature), arguments.out)
        say(f"figure: {arguments.out}")


main = make_main("explain", tyro.cli, Arguments, explain)


if __name__ == "__main__":
    sys.exit(main())
