"""From a CSV of who chose what, and when, to a ranked list.

    python examples/rank_own_log.py [LOG.csv] [--out FOLDER] [--preset NAME]

LOG.csv has the columns user, item, category and timestamp. Without one, a log is made up.
"""

import argparse
import dataclasses
import tempfile
from pathlib import Path

from made_log import write_log

import dien_jax
from dien_jax.preparation.sources import interactions


def prepare(log: Path, out: Path) -> dien_jax.Dataset:
    """Make a dataset folder: vocabularies, histories, drawn negatives, a split by time of users."""
    options = interactions.InteractionsOptions(file=log, out=out, item_features=("category",))
    for line in interactions.prepare(options):
        print(line)
    return dien_jax.open_dataset(out)


def train(dataset: dien_jax.Dataset, run_dir: Path, preset: str, epochs: int) -> dien_jax.RunResult:
    """Train a model; the epoch that is best on validation is kept."""
    config = dien_jax.preset(preset)
    config = dataclasses.replace(config, train=dataclasses.replace(config.train, epochs=epochs))
    result = dien_jax.fit(config, data=dataset, run_dir=run_dir)
    simple = ", ".join(f"{name} {auc:.4f}" for name, auc in result.baselines.items() if auc)
    print(f"test AUC {result.test['auc']:.4f}; simple models: {simple}")
    return result


def recommend(run_dir: Path, dataset: dien_jax.Dataset) -> list[tuple[str, float]]:
    """Rank all items for a user who chose two of them before; return the five likeliest."""
    items = dataset.vocabulary("item")[1:]  # the first is that of unknown items
    history = [items[3], items[8]]
    ranking = dien_jax.Ranker(run_dir).rank(
        history, [item for item in items if item not in history]
    )
    print(f"after {history}, the likeliest clicks are")
    best = list(zip(ranking.ids, map(float, ranking.scores), strict=True))[:5]
    for item, probability in best:
        print(f"  {probability:.3f}  {item}")
    return best


def main(arguments: list[str] | None = None) -> None:
    """Prepare, train and rank."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("log", type=Path, nargs="?")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--preset", default="wide_dien", choices=dien_jax.PRESETS)
    parser.add_argument("--epochs", type=int, default=2)
    options = parser.parse_args(arguments)
    out = options.out or Path(tempfile.mkdtemp())
    out.mkdir(parents=True, exist_ok=True)
    dataset = prepare(options.log or write_log(out / "log.csv", days=20), out / "data")
    train(dataset, out / "run", options.preset, options.epochs)
    recommend(out / "run", dataset)
    print(f"the dataset folder and the run are in {out}")


if __name__ == "__main__":
    main()
