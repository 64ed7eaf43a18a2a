"""A look inside a trained model: the command line ``python -m dien_jax.explain``.

    python -m dien_jax.explain RUN --example K [--split valid] [--out FILE.png]
    python -m dien_jax.explain RUN --user ID --item ID [--context NAME VALUE ...] [--out FILE.png]
    python -m dien_jax.explain RUN --features [--split valid] [--out FILE.png]
    python -m dien_jax.explain RUN --embedding-map --out FILE.png

An example is a history beside its candidate: how much attention each behaviour gets and how far
it moves the gates. ``--features`` measures what AUC each input is worth, ``--embedding-map`` draws
the items as the model knows them. Standard output carries text; ``--out`` gets the picture.
Exit status: 0, or 2 for a mistake in flags or files.
"""

import dataclasses
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from dien_jax.errors import UserError, writing
from dien_jax.inspection.example_view import as_text, draw_example, explained
from dien_jax.inspection.examples import Example, Inspector
from dien_jax.inspection.gates import lacking
from dien_jax.inspection.importance import as_table, draw_importance, importance, write_importance
from dien_jax.inspection.item_map import describe_map, draw_map, embedding_map
from dien_jax.inspection.requests import request
from dien_jax.runs.trained import TrainedModel, load_run
from dien_jax.utils.command import run_command
from dien_jax.utils.console import say
from dien_jax.utils.plots import check_picture, save_picture


@dataclass(frozen=True)
class Arguments:
    """Look inside the best checkpoint of a run.

    Give one of `--example`, `--user` with `--item`, `--features` and `--embedding-map`.
    """

    run_dir: tyro.conf.Positional[Path]
    """Run folder that dien_jax.train made."""
    example: int | None = None
    """Show the history of an example of the split beside attention and gates; they count from 0,
    in the order of the predictions that dien_jax.evaluate writes."""
    user: str | None = None
    """Show all events of a user in the data folder, beside the candidate that --item names."""
    item: str | None = None
    """Raw id of the candidate."""
    context: Annotated[dict[str, str], tyro.conf.arg(metavar="NAME VALUE [NAME VALUE ...]")] = (
        field(default_factory=dict)
    )
    """Context features of --user and --item, by name; those left out count as missing."""
    features: tyro.conf.FlagCreatePairsOff[bool] = False
    """Measure how much AUC every input is worth: what is lost when it is exchanged at random
    among the examples of the split."""
    permutations: int = 5
    """How often --features exchanges each input."""
    embedding_map: tyro.conf.FlagCreatePairsOff[bool] = False
    """Draw the most frequent items by their embeddings' first two principal components."""
    split: Literal["valid", "test", "train"] = "valid"
    """Whose examples."""
    data: Path | None = None
    """Dataset folder, where it has moved; the run's own when not given."""
    out: Path | None = None
    """Picture to write, a .png file; --features writes its figures beside it, as .json."""


def explain(arguments: Arguments) -> None:
    """Prints what was asked for, and writes the picture.

    Raises:
      UserError: when the flags, the run, its checkpoint or the data is at fault, an id or a number
        does not exist, or a file cannot be written.
    """
    _check(arguments)
    if arguments.out is not None:
        check_picture(arguments.out)
    trained = load_run(arguments.run_dir, arguments.data)
    if arguments.features:
        _explain_features(trained, arguments)
    elif arguments.embedding_map:
        _explain_embeddings(trained, arguments)
    else:
        _explain_example(trained, arguments)


def _check(arguments: Arguments) -> None:
    request = arguments.user is not None or arguments.item is not None
    asked = {
        "--example": arguments.example is not None,
        "--user and --item": request,
        "--features": arguments.features,
        "--embedding-map": arguments.embedding_map,
    }
    given = [name for name, is_given in asked.items() if is_given]
    if len(given) != 1:
        raise UserError(
            f"give one of {', '.join(asked)}; found {' with '.join(given) if given else 'none'}"
        )
    if request and (arguments.user is None or arguments.item is None):
        missing = "--user" if arguments.user is None else "--item"
        raise UserError(f"--user and --item belong together; {missing} is missing")
    if arguments.context and not request:
        raise UserError(f"--context goes with --user and --item, not with {given[0]}")
    if arguments.permutations < 1:
        raise UserError(f"--permutations must be at least 1, got {arguments.permutations}")
    if arguments.embedding_map and arguments.out is None:
        raise UserError("--embedding-map draws a picture; say where to with --out FILE.png")


def _explain_example(trained: TrainedModel, arguments: Arguments) -> None:
    dataset, config = trained.dataset, trained.run.config
    if arguments.example is not None:
        count = len(dataset.splits[arguments.split].label)
        if not 0 <= arguments.example < count:
            exist = f"examples 0 to {count - 1}" if count else "no examples"
            raise UserError(
                f"--example {arguments.example} does not exist: the {arguments.split} split of "
                f"{dataset.path} has {exist}"
            )
        inspector = Inspector(trained)
        [example] = inspector.examples(arguments.split, [arguments.example])
    else:
        requested = request(dataset, arguments.user or "", arguments.item or "", arguments.context)
        inspector = Inspector(trained)
        [found] = inspector.examples("test", [0], requested)
        example = dataclasses.replace(found, split=None, label=None)
        if config.model.dice_statistics == "batch":
            say("note: model.dice_statistics is 'batch', so in a batch it would score otherwise")
    _print_example(example, inspector.names.feature, trained)
    if arguments.out is not None:
        save_picture(draw_example(example, inspector.names.feature), arguments.out)
        say(f"picture: {arguments.out}")


def _print_example(example: Example, feature: str | None, trained: TrainedModel) -> None:
    encoding = sys.stdout.encoding or "utf-8"
    lines = [*as_text(example, feature, encoding), ""]
    lines += explained(example) + lacking(trained.run.config.model)
    for line in lines:
        print(line.encode(encoding, "backslashreplace").decode(encoding).rstrip())


def _explain_features(trained: TrainedModel, arguments: Arguments) -> None:
    found = importance(trained, arguments.split, arguments.permutations)
    print(as_table(found))
    if arguments.out is not None:
        file = arguments.out.with_suffix(".json")
        with writing(file, "--out"):
            write_importance(found, trained, file)
        save_picture(draw_importance(found), arguments.out)
        say(f"figures: {file}\npicture: {arguments.out}")


def _explain_embeddings(trained: TrainedModel, arguments: Arguments) -> None:
    assert arguments.out is not None
    found = embedding_map(trained)
    for line in describe_map(found):
        print(line)
    save_picture(draw_map(found), arguments.out)
    say(f"picture: {arguments.out}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    return run_command(
        lambda: tyro.cli(Arguments, args=argv, prog="python -m dien_jax.explain"), explain
    )


if __name__ == "__main__":
    sys.exit(main())
