"""A look inside a trained model: the command ``python -m dien_jax.explain RUN``."""

import dataclasses
import functools
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from dien_jax.errors import UserError
from dien_jax.inspection import importance
from dien_jax.inspection.example_view import draw_example, example_lines, measure_lines
from dien_jax.inspection.examples import Inspector, missing_measures, request
from dien_jax.runs.trained import TrainedModel, load_run
from dien_jax.utils.command import make_main
from dien_jax.utils.console import print_result, say
from dien_jax.utils.plots import check_picture, save_picture

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Arguments:
    """Show what the best checkpoint of a run has learned.

    Give one of `--example`, `--user` with `--item`, and `--features`.
    """

    run_dir: tyro.conf.Positional[Path]
    """Run folder of dien_jax.train."""
    example: int | None = None
    """Number of an example of the split to show with attention and gates. Numbers count from 0, in
    the order of the predictions that dien_jax.evaluate writes."""
    user: str | None = None
    """Raw id of a user whose events in the data folder are shown, with the candidate of --item."""
    item: str | None = None
    """Raw id of the candidate."""
    context: Annotated[dict[str, str], tyro.conf.arg(metavar="NAME VALUE [NAME VALUE ...]")] = (
        field(default_factory=dict)
    )
    """Context features for --user and --item, by name. Features without a value are missing."""
    features: tyro.conf.FlagCreatePairsOff[bool] = False
    """Measure the permutation importance of every input: the AUC that is lost when the input is
    exchanged at random among the examples of the split."""
    permutations: int = 5
    """Number of random exchanges of each input for --features."""
    split: Literal["valid", "test", "train"] = "valid"
    """Split of --example and --features."""
    data: Path | None = None
    """Dataset folder, if it has moved. Default: the run's own."""
    out: Path | None = None
    """Figure to write, a .png file."""
    overwrite: tyro.conf.FlagCreatePairsOff[bool] = False
    """Replace the file of --out even if this command did not write it."""


def explain(arguments: Arguments) -> None:
    """Print the explanation that the flags ask for, and write the figure."""
    _check(arguments)
    if arguments.out is not None:
        inputs = (arguments.run_dir, arguments.data)
        check_picture(arguments.out, overwrite=arguments.overwrite, inputs=inputs)
    trained = load_run(arguments.run_dir, arguments.data)
    if arguments.features:
        figure = _explain_features(trained, arguments)
    else:
        figure = _explain_example(trained, arguments)
    if arguments.out is not None:
        save_picture(figure(), arguments.out)
        say(f"figure: {arguments.out}")


def _check(arguments: Arguments) -> None:
    is_request = arguments.user is not None or arguments.item is not None
    subjects = {
        "--example": arguments.example is not None,
        "--user and --item": is_request,
        "--features": arguments.features,
    }
    given = [name for name, is_given in subjects.items() if is_given]
    if len(given) != 1:
        flags = " with ".join(given) or "none"
        raise UserError(f"expected one of {', '.join(subjects)}; found {flags}")
    if is_request and (arguments.user is None or arguments.item is None):
        missing = "--user" if arguments.user is None else "--item"
        raise UserError(f"--user and --item must be given together; {missing} is missing")
    if arguments.context and not is_request:
        raise UserError(f"--context needs --user and --item; found {given[0]}")
    if arguments.permutations < 1:
        raise UserError(f"--permutations must be at least 1, got {arguments.permutations}")


def _explain_example(trained: TrainedModel, arguments: Arguments) -> Callable[[], "Figure"]:
    model, inspector = trained.run.config.model, Inspector(trained)
    if arguments.example is not None:
        [example] = inspector.examples(arguments.split, [arguments.example])
    else:
        user, item = arguments.user or "", arguments.item or ""
        requested = request(trained.dataset, user, item, arguments.context)
        [example] = inspector.examples("test", [0], requested)
        example = dataclasses.replace(example, split=None, label=None)
        if model.follow_authors and model.activation == "dice":
            say("note: with model.follow_authors the score depends on the other examples")
    feature, encoding = inspector.names.feature, sys.stdout.encoding or "utf-8"
    lines = [*example_lines(example, feature, encoding), "", *measure_lines(example)]
    for line in lines + missing_measures(model):
        print_result(line.rstrip())
    return functools.partial(draw_example, example, feature)


def _explain_features(trained: TrainedModel, arguments: Arguments) -> Callable[[], "Figure"]:
    split, permutations = arguments.split, arguments.permutations
    measured = importance.permutation_importance(trained, split, permutations)
    print_result(importance.importance_table(measured))
    return functools.partial(importance.draw_importance, measured)


main = make_main("explain", tyro.cli, Arguments, explain)


if __name__ == "__main__":
    sys.exit(main())
