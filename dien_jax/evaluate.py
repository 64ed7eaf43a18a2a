"""Score a split with a trained model: the command ``python -m dien_jax.evaluate RUN``."""

import json
import sys
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import tyro

from dien_jax.errors import writing
from dien_jax.inference.list_metrics import measure_lists
from dien_jax.runs.trained import is_predictions, load_run, score_split, write_predictions
from dien_jax.utils.command import make_main
from dien_jax.utils.console import print_result, say
from dien_jax.utils.files import atomic_file, check_out


@dataclass(frozen=True)
class Arguments:
    """Score a split with the best checkpoint of a run, and print its metrics as one JSON object."""

    run_dir: tyro.conf.Positional[Path]
    """Run folder that dien_jax.train made."""
    data: Path | None = None
    """Dataset folder. Default: the run's own."""
    split: Literal["train", "valid", "test"] = "test"
    """Split to score."""
    ranking: tyro.conf.FlagCreatePairsOff[bool] = False
    """Measure lists over all items too: HR@10, NDCG@10, MRR, coverage and mean popularity, of at
    most 2,000 clicks on items that are new to their user. Takes a fraction of a second for each."""
    predictions: Path | None = None
    """CSV file to write, with user, item, label and score of every example; ids are raw."""
    overwrite: tyro.conf.FlagCreatePairsOff[bool] = False
    """Replace --predictions even if this command did not write it."""


def evaluate(arguments: Arguments) -> None:
    """Print the metrics of a split, and write its predictions if a file is given."""
    file, split = arguments.predictions, arguments.split
    if file is not None:
        inputs = (arguments.run_dir, arguments.data)
        options: Any = {"overwrite": arguments.overwrite, "inputs": inputs}
        check_out(file, is_ours=is_predictions, **options)
    target = nullcontext() if file is None else atomic_file(file)
    with nullcontext() if file is None else writing(file, "--predictions"), target as stream:
        model = load_run(arguments.run_dir, arguments.data)
        scored = score_split(model, split)
        if stream is not None:
            write_predictions(stream, model.dataset, split, scored.scores)
    if file is not None:
        say(f"predictions: {file}")
    metrics = scored.metrics()
    if metrics["auc"] is None:
        say(f"warning: the {split} split has one label only, so no AUC")
    if arguments.ranking:
        metrics |= {"lists": measure_lists(model, split)}
    print_result(json.dumps(metrics, allow_nan=False), file)


main = make_main("evaluate", tyro.cli, Arguments, evaluate)


if __name__ == "__main__":
    sys.exit(main())
