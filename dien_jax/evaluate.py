"""Score a split with a trained model: the command ``python -m dien_jax.evaluate RUN``."""

import contextlib
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from dien_jax.errors import UserError, writing
from dien_jax.inference.request_tables import check_table, writing_scores
from dien_jax.utils.command import make_main
from dien_jax.utils.console import print_result, say

COLUMNS = ("user", "item", "label")
"""Columns of predictions, before the column of scores."""


@dataclass(frozen=True)
class Arguments:
    """Score a split with the best checkpoint of a run, and print its metrics as one JSON object."""

    run_dir: tyro.conf.Positional[Path]
    """Run folder written by dien_jax.train."""
    data: Path | None = None
    """Dataset folder. Default: the run's own."""
    split: Literal["train", "valid", "test"] = "test"
    """Split to score."""
    ranking: tyro.conf.FlagCreatePairsOff[bool] = False
    """Also measure lists over all items: HR@10, NDCG@10, MRR, coverage and mean popularity, on at
    most 2,000 clicks on items that are new to their user. Each takes a fraction of a second. For
    the run's own test split, the result is saved in RUN/lists.json, for compare and report. It
    replaces the result of train, which is of at most 1,000 clicks."""
    predictions: Path | None = None
    """CSV file to write, with user, item, label and score of every example. Ids are raw; items that
    training did not see are empty."""
    overwrite: tyro.conf.FlagCreatePairsOff[bool] = False
    """Replace --predictions even if this command did not write it."""


def evaluate(arguments: Arguments) -> None:
    """Print the metrics of a split, and write its predictions if a file is given."""
    # Imported here: --help needs no JAX.
    from dien_jax.inference.list_metrics import lists_and_ranks
    from dien_jax.runs.summary import save_lists
    from dien_jax.runs.trained import load_run, score_split

    file, split, run_dir = arguments.predictions, arguments.split, arguments.run_dir
    if file is not None:
        inputs = (run_dir, arguments.data)
        check_table(file, COLUMNS, overwrite=arguments.overwrite, inputs=inputs)
    with contextlib.ExitStack() as output:
        if file is not None:
            output.enter_context(writing(file, "--predictions"))
            write = output.enter_context(writing_scores(file, COLUMNS, None, flag="--predictions"))
        model = load_run(run_dir, arguments.data)
        scored = score_split(model, split)
        if file is not None:
            users, items = model.dataset.groups(), model.dataset.vocabulary("item")
            examples = model.dataset.splits[split]
            raw = ([users[k] for k in examples.group], [items[k] for k in examples.item])
            model.dataset.check_files()
            write([*raw, scored.labels], scored.scores)
    if file is not None:
        say(f"predictions: {file}")
    metrics = scored.metrics()
    if metrics["auc"] is None:
        say(f"warning: the {split} split has one label only, so no AUC")
    if arguments.ranking:
        metrics["lists"], ranks = lists_and_ranks(model, split)
        if split == "test" and arguments.data is None:
            try:
                save_lists(run_dir, model.step, metrics["lists"], ranks)
            except UserError as error:
                say(f"warning: {error}; so compare and report do not show the lists")
    print_result(json.dumps(metrics, allow_nan=False), file)


main = make_main("evaluate", tyro.cli, Arguments, evaluate)


if __name__ == "__main__":
    sys.exit(main())
