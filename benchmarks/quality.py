"""Test AUC on the authors' prepared files: the presets, mean and deviation over seeds.

    python -m benchmarks.quality FOLDER --out OUT [--seeds 3] [--json FILE]

FOLDER holds one folder a dataset, in the format of the DIEN authors' program. Every run selects
its epoch on training users set aside for validation and opens the test set once. A killed command
goes on where it was: finished runs are kept in OUT.

Rows: the authors' choices, with a fiftieth of the users set aside, as their program sets none
aside; our defaults on the same examples (a user's last event, and one sampled) and our defaults
on every event of the training users' histories (``--every-event``), with a tenth set aside.
"""

import argparse
import json
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks.common.report import print_rows, write_rows
from benchmarks.common.timing import surroundings
from dien_jax.preparation.sources import authors
from dien_jax.train import main as train


class Row(NamedTuple):
    """A preset, and how the training examples and the validation users are taken."""

    name: str
    preset: str
    every_event: bool = False
    valid_share: float = 0.1


ROWS = (
    Row("authors, as given", "authors", valid_share=0.02),
    Row("dien, as given", "dien"),
    Row("dien, every event", "dien", every_event=True),
)


def prepared(
    source: Path, out: Path, *, every_event: bool = False, valid_share: float = 0.1
) -> Path:
    """The dataset folder of one set, made where it is not there."""
    name = f"{source.name}{'-every-event' if every_event else ''}-{valid_share:g}"
    folder = out / "data" / name
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        authors.prepare(
            authors.AuthorsOptions(source, folder, every_event=every_event, valid_share=valid_share)
        )
    return folder


def finished(preset: str, data: Path, run: Path, seed: int, settings: Sequence[str] = ()) -> dict:
    """The result of one run, trained or continued where it is not there."""
    if not (run / "result.json").exists():
        if (run / "config.json").exists():
            status = train(["--resume", str(run)])
        else:
            flags = ["--data", str(data), "--run-dir", str(run), "--seed", str(seed)]
            status = train([preset, *flags, *settings])
        if status:
            sys.exit(status)
    return json.loads((run / "result.json").read_text())


def main() -> None:
    """Train what is missing, print the table, write what was asked for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("folder", type=Path, help="one folder a dataset, in the authors' format")
    parser.add_argument("--out", type=Path, required=True, help="dataset and run folders")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rows", nargs="*", default=[row.name for row in ROWS])
    parser.add_argument("--json", type=Path, help="write the rows here too")
    options = parser.parse_args()
    sets = sorted(path for path in options.folder.iterdir() if path.is_dir())
    table = []
    for name, preset, every_event, valid_share in ROWS:
        if name not in options.rows:
            continue
        for source in sets:
            data = prepared(source, options.out, every_event=every_event, valid_share=valid_share)
            runs = options.out / "runs" / name.replace(", ", "-").replace(" ", "-") / source.name
            results = [
                finished(preset, data, runs / str(seed), seed) for seed in range(options.seeds)
            ]
            row = {
                "row": name,
                "set": source.name,
                "valid_share": valid_share,
                "seeds": options.seeds,
            }
            for split in ("valid", "test"):
                scores = [result[split]["auc"] for result in results]
                row[f"{split}_auc"] = round(statistics.mean(scores), 4)
                deviation = statistics.stdev(scores) if len(scores) > 1 else None
                row[f"{split}_sd"] = None if deviation is None else round(deviation, 4)
            for metric in ("gauc", "logloss"):
                row[f"test_{metric}"] = round(
                    statistics.mean(result["test"][metric] for result in results), 4
                )
            row["epochs"] = [round(result["epochs"]) for result in results]
            row["samples_per_second"] = statistics.median(
                result["train_examples_per_second"] for result in results
            )
            table.append({**row, **surroundings()})
    columns = [key for key in table[0] if key not in ("device", "threads", "versions")]
    print_rows(table, columns)
    print(f"\n{table[0]['device']}, {table[0]['threads']} threads, {table[0]['versions']}")
    if options.json:
        write_rows(options.json, table)
        print(f"written to {options.json}")


if __name__ == "__main__":
    main()
