"""Test AUC of the models of docs/tutorial.md, on more users and seeds.

    python -m benchmarks.tutorial [--users N] [--epochs E] [--seeds S] [--json FILE]

Runs the code blocks of the page, so that the page's own code is measured, then trains each of its
models with each seed on simulated users.
"""

import re
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.common.report import make_parser, parse, report
from benchmarks.common.timing import surroundings
from dien_jax.data.dataset import open_dataset
from dien_jax.metrics.intervals import paired_seeds
from dien_jax.preparation.sources import synthetic
from dien_jax.utils.compile_cache import enable_compile_cache

PAGE = Path(__file__).parent.parent / "docs" / "tutorial.md"
BASELINE = "dien"
COLUMNS = ("policy", "test_auc", "test_sd", "seeds", "less_dien", "less_dien_interval",
           "best_epochs", "parameters", "seconds_an_epoch")  # fmt: skip


def run_page() -> dict[str, Any]:
    """Run the code blocks of the page and return their namespace."""
    namespace: dict[str, Any] = {"__name__": "docs/tutorial.md"}
    for number, block in enumerate(re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)):
        exec(compile(block, f"{PAGE.name}[{number}]", "exec"), namespace)
    return namespace


def measure(page: dict[str, Any], *, users: int, epochs: int, seeds: int) -> list[dict[str, Any]]:
    """Return a row for each model of the page."""
    results_of: dict[str, list[dict[str, Any]]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "data"
        synthetic.prepare(synthetic.SyntheticOptions(out=folder, users=users))
        dataset = open_dataset(folder)
        best_possible = dataset.meta["best_possible"]["test"]["auc"]
        for seed in range(seeds):
            for name, model in page["models"].items():
                result = page["trained"](model, dataset, epochs=epochs, seed=seed)
                results_of.setdefault(name, []).append(result)
                print(f"{name}, seed {seed}: {result}", file=sys.stderr, flush=True)
    rows = []
    for name, results in results_of.items():
        scores = [result["test_auc"] for result in results]
        baseline = [result["test_auc"] for result in results_of[BASELINE]]
        less = paired_seeds(scores, baseline)
        rows.append(
            {
                "benchmark": "tutorial",
                "case": f"{users:,} simulated users",
                "system": "dien_jax",
                "policy": name,
                "seeds": seeds,
                "epochs": epochs,
                "valid_auc": statistics.mean(result["valid_auc"] for result in results),
                "test_auc": statistics.mean(scores),
                "test_sd": statistics.stdev(scores) if seeds > 1 else None,
                "less_dien": None if less is None else less.value,
                "less_dien_interval": None if less is None else [less.low, less.high],
                "best_possible": best_possible,
                "best_epochs": [result["best_epoch"] for result in results],
                "parameters": results[0]["parameters"],
                "seconds_an_epoch": statistics.median(
                    result["seconds_an_epoch"] for result in results
                ),
                **surroundings(),
            }
        )
    return rows


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the page, train, print and write the rows."""
    parser = make_parser(__doc__)
    parser.add_argument("--users", type=int, default=2000, help="simulated users")
    parser.add_argument("--epochs", type=int, default=6, help="epochs of each training")
    parser.add_argument("--seeds", type=int, default=3, help="trainings of each model")
    options = parse(parser, arguments, epochs=1, seeds=1, users=20)
    enable_compile_cache()
    rows = measure(run_page(), users=options.users, epochs=options.epochs, seeds=options.seeds)
    report(options, rows, COLUMNS)
    print(f"best possible test AUC {rows[0]['best_possible']:.4f}")


if __name__ == "__main__":
    main()
