"""From a DataFrame of users, items and times to the next items of some users.

    python examples/rank_own_log.py [LOG.csv] [--out FOLDER] [--preset NAME]

LOG.csv has the columns user, item, category and timestamp. Without it, a synthetic log is used.
"""

import argparse
import dataclasses
import sys
import tempfile
from pathlib import Path

import pandas as pd
from made_log import write_log

import dien_jax


def train(dataset: dien_jax.Dataset, run_dir: Path, preset: str, epochs: int) -> dien_jax.RunResult:
    """Train a model; the epoch with the best validation AUC is kept."""
    config = dien_jax.preset(preset)
    config = dataclasses.replace(config, train=dataclasses.replace(config.train, epochs=epochs))
    result = dien_jax.fit(config, data=dataset, run_dir=run_dir)
    simple = ", ".join(f"{name} {auc:.4f}" for name, auc in result.baselines.items() if auc)
    print(f"test AUC {result.test['auc']:.4f}; simple models: {simple}")
    return result


def recommend(run_dir: Path, log: pd.DataFrame, users: int) -> pd.DataFrame:
    """Return the five most likely new items of the first users."""
    histories = log.sort_values("timestamp").groupby("user")["item"].agg(list)[:users]
    ranker = dien_jax.Ranker(run_dir)
    rankings = ranker.recommend_many(histories.tolist(), 5, users=histories.index.tolist())
    tables = [ranking.to_pandas() for ranking in rankings]
    return pd.concat(tables, keys=histories.index, names=["user"]).reset_index("user")


def main(arguments: list[str] | None = None) -> None:
    """Make a dataset, train and recommend."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("log", type=Path, nargs="?")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--preset", default="wide_dien", choices=dien_jax.PRESETS)
    parser.add_argument("--epochs", type=int, default=2)
    options = parser.parse_args(arguments)
    out = options.out or Path(tempfile.mkdtemp())
    out.mkdir(parents=True, exist_ok=True)
    log = pd.read_csv(options.log or write_log(out / "log.csv", days=10))
    repeats = bool(log.duplicated(["user", "item"]).any())  # negatives may then be repeats too
    how = {"item_features": ["category"], "allow_own_negatives": repeats}
    dataset = dien_jax.make_dataset(log, out / "data", **how)
    train(dataset, out / "run", options.preset, options.epochs)
    print(recommend(out / "run", log, users=3).to_string(index=False))
    print(f"the dataset folder and the run are in {out}")


if __name__ == "__main__":
    try:
        main()
    except (OSError, ValueError) as error:  # such as a UserError, or pandas' errors
        sys.exit(f"error: {error}")
