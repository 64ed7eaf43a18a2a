"""Write the tables of figures in README.md and docs/ from rows in benchmarks/results/cpu.

    python docs/tools/tables.py [--check]

A page has ``<!-- table NAME -->`` and the two header lines above the rows of each table in
``TABLES``. ``--check`` writes nothing and fails if a table is stale.
"""

import csv
import functools
import json
import re
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tyro

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results" / "cpu"
MARKED = re.compile(r"(<!-- table (\w+) -->\n+\|.*\n\|.*\n)((?:\|.*\n)*)")
SYSTEMS = ("dien_jax, native", "dien_jax, xla", "deepctr-torch", "fuxictr")


@functools.cache
def read(name: str) -> list[dict[str, Any]]:
    """Return all rows of a file."""
    text = (RESULTS / name).read_text(encoding="utf-8")
    return json.loads(text) if name.endswith(".json") else [*csv.DictReader(text.splitlines())]


def rows(name: str, **where: object) -> list[dict[str, Any]]:
    """Return the rows of a file whose columns have the given values."""
    return [row for row in read(name) if all(row.get(key) == value for key, value in where.items())]


def mean(name: str, column: str, **where: object) -> float:
    """Return the mean of a column over the rows with the given values, e.g. over seeds."""
    return statistics.mean(float(row[column]) for row in rows(name, **where))


def ms(name: str, form: str = "{:.1f}", column: str = "median_ms", **where: object) -> str:
    """Format a column of the only row with the given values."""
    [row] = rows(name, **where)
    return form.format(row[column])


def auc(name: str, column: str = "test_auc", **where: object) -> str:
    """Format the mean over seeds and, if there are several, the standard deviation."""
    found = [float(row[column]) for row in rows(name, **where)]
    spread = f" ± {statistics.stdev(found):.4f}" if len(found) > 1 else ""
    return f"{statistics.mean(found):.4f}{spread}" if found else ""


def peer(system: str, data: str, form: str = ".4f") -> str:
    """Format the test AUC of a peer, with the settings of the best validation AUC."""
    found = rows("peer_accuracy.json", system=system, data=data)
    best = max(found, key=lambda row: row["valid_auc"], default=None)
    return f"{best['test_auc']:{form}}" if best else ""


def of(row: dict[str, Any], *columns: str) -> list[str]:
    """Format columns of a row; ``column:form`` gives a format."""
    pairs = (column.partition(":") for column in columns)
    return [f"{row[column]:{form}}" if form else str(row[column]) for column, _, form in pairs]


STEP, AUGRU = "train_step.json", "recurrence_native.json"
FULL = {"case": "B 128 T 100", "policy": "full length"}
RAGGED = {"case": "ragged", "cell": "augru", "mode": "forward + backward"}
RANK = {"candidates": 500, "history": 100}
EVERY, PARTS, WIDE, ALONE = "every.csv", "parts.csv", "wide.csv", "alone.csv"
FAMILY = ("base_model", "din", "gru_att", "aigru", "agru", "augru", "dien")
SETS = ("beauty", "toys", "sports")
LOGS = ("grocery", *SETS)
HELD_OUT = (*LOGS, "long")
PEERS = ("DeepCTR-Torch", "RecBole", "FuxiCTR")
WEEKS = "incremental.json"
RATES = "hr_10:.3f", "ndcg_10:.3f"
ON_ALL = "wide_dien, trained on all earlier events"
PART_NAMES = {"wide_augru": "no auxiliary loss", "dien": "no counts"}
QUALITY = ("test_auc", "test_auc_known", "test_gauc")
COUNTS_ALONE = "counts alone"
MODELS = (
    ("boosted trees", "boosted trees", "test_auc"),
    ("logistic regression", "logistic regression", "test_auc"),
    (COUNTS_ALONE, "wide_dien", "counts_alone_test_auc"),
    ("`wide_din`", "wide_din", "test_auc"),
    ("`wide_dien`", "wide_dien", "test_auc"),
)


def hits(name: str, case: str, logs: Sequence[str] = LOGS) -> str:
    """Format the HR@10 of the lists of each log."""
    return ", ".join(ms(name, "{:.3f}", "hr_10", case=case, data=log) for log in logs)


TABLES: dict[str, list[Sequence[str]]] = {
    "lists": [
        (
            case,
            *(
                " / ".join(
                    text for row in rows(name, case=case, data=log) for text in of(row, *RATES)
                )
                for log in (*LOGS, "long")
            ),
        )
        for name in ("recommend.json", "recbole.json")
        for case in dict.fromkeys(row["case"] for row in read(name) if row["hr_10"])
    ],
    "list_times": [
        (
            row["case"],
            "" if row["users_per_second"] else f"{row['median_ms']:.0f} ms",
            f"{row['users_per_second']:.1f}" if row["users_per_second"] else "",
            f"{row['share_found']:.3f}" if row["share_found"] else "",
        )
        for row in rows("recommend.json", targets="", data="grocery")
        if "20 events" not in row["case"]
    ],
    "readme": [
        (
            "test AUC of DIEN alone on Amazon's Toys",
            f"**{mean(ALONE, 'test_auc', data='toys', row='dien'):.3f}**, "
            f"`wide_dien` **{mean(WIDE, 'test_auc', data='toys', row='wide_dien'):.3f}**",
            ", ".join(f"{name}'s DIEN {peer(name.lower(), 'toys', '.3f')}" for name in PEERS)
            + f"; boosted trees on counts "
            f"{mean(WIDE, 'test_auc', data='toys', row='boosted trees'):.3f}",
        ),
        (
            "the same for users with 30 events or more, in five Amazon domains",
            f"**{mean(ALONE, 'test_auc', data='long', row='dien'):.3f}**, "
            f"`wide_dien` **{mean(WIDE, 'test_auc', data='long', row='wide_dien'):.3f}**",
            f"DIN {mean(ALONE, 'test_auc', data='long', row='din'):.3f}, "
            f"boosted trees {mean(WIDE, 'test_auc', data='long', row='boosted trees'):.3f}",
        ),
        (
            "HR@10 of lists: Amazon's Grocery, Beauty, Toys, Sports, and long histories",
            f"**{hits('recommend.json', 'wide_dien', HELD_OUT)}**",
            f"RecBole's SASRec {hits('recbole.json', 'RecBole SASRec', HELD_OUT)}",
        ),
        (
            "the same, trained on the last event but one of each user too; the first four logs",
            f"**{hits('recommend.json', ON_ALL)}**",
            f"RecBole's EASE {hits('recbole.json', 'RecBole EASE')}",
        ),
        (
            "a whole training step of DIEN: 128 histories of 100 events",
            ms(STEP, "**{:.0f} ms**", system=SYSTEMS[0], **FULL),
            ms(STEP, "FuxiCTR {:.0f} ms, ", system=SYSTEMS[3], **FULL)
            + ms(STEP, "DeepCTR-Torch {:.0f} ms", system=SYSTEMS[2], **FULL),
        ),
        (
            "AUGRU, forward and backward: 128 histories of different lengths",
            ms(AUGRU, "**{:.1f} ms**", implementation="native", **RAGGED),
            ms(AUGRU, "`lax.scan` {:.0f} ms, ", implementation="reference", **RAGGED)
            + ms(AUGRU, "TorchScript {:.0f} ms", implementation="torch script", **RAGGED),
        ),
        (
            "ranking 500 candidates for a history of 100 events",
            ms("ranking_native.json", "**{:.0f} ms**", policy="ranker", **RANK),
            ms("ranking_native.json", "one row a candidate {:.0f} ms", policy="rows", **RANK),
        ),
    ],
    "step": [
        (label, *(ms(name, case=case, policy=policy, system=system) for system in SYSTEMS))
        for label, name, case, policy in (
            ("every history 100 long", STEP, *FULL.values()),
            ("the same, one thread", "train_step_one_thread.json", *FULL.values()),
            ("beauty, length buckets", STEP, "beauty", "buckets (4, 8, 16, 100)"),
            ("beauty, padded to 100", STEP, "beauty", "padded"),
        )
    ],
    "throughput": [
        (
            label,
            ms(name, "{:,.0f}", "samples_per_second", mode="train"),
            ms(name, "{:.1%}", "loader_share", mode="train"),
            ms(name, "{:,.0f}", "samples_per_second", mode="score"),
        )
        for label, name in (
            ("native", "train_throughput.json"),
            ("XLA", "train_throughput_xla.json"),
        )
    ],
    "preparation": [
        of(
            row,
            "case",
            "system",
            "seconds:.1f",
            "peak_mb:,.0f",
            "disk_mb:,.0f",
            "peak_disk_mb:,.0f",
        )
        for row in [*read("preparation.json"), *read("preparation_1e8.json")]
    ],
    "scoring": [
        of(row, "system", "case", "seconds:.1f", "samples_per_second:,.0f", "peak_mb:,.0f")
        for row in read("scoring.json")
    ],
    "embeddings": [
        (
            *(str(steps), f"`{policy}`"),
            *(of(row, "median_ms:.1f")[0] for row in found),
            of(found[-1], "peak_mb:,.0f")[0],
        )
        for steps in (16, 100)
        for policy in ("dense", "lazy_adam")
        for found in [rows("embedding_rows.json", steps=steps, policy=policy)]
    ],
    "ranking": [
        (
            *(f"{candidates:,}", str(history)),
            *(
                ms(f"ranking_{kind}.json", column=column, policy="ranker", **where)
                for kind in ("native", "xla")
                for column in ("median_ms", "p99_ms")
            ),
        )
        for history in (10, 100)
        for candidates in (500, 2000)
        for where in [{"candidates": candidates, "history": history}]
    ],
    "serving": [
        of(row, "policy", "connections", "requests_per_second:.0f", "refused:,", "median_ms:.1f")
        + of(row, "p99_ms:.1f", "batch_size:.1f")
        for row in read("serving.json")
        if row["connections"] != 4
    ],
    "models": [
        *((f"DIEN of {name}", *(peer(name.lower(), data) for data in SETS)) for name in PEERS),
        *(
            (label, *(auc(name, column, data=data, row=row) for data in SETS))
            for name, label, row, column in (
                (ALONE, "`din`", "din", "test_auc"),
                (ALONE, "`dien`", "dien", "test_auc"),
                (WIDE, *MODELS[0]),
                (WIDE, *MODELS[1]),
                (WIDE, *MODELS[2]),
                (WIDE, *MODELS[4]),
            )
        ),
    ],
    "every": [
        (label, *(auc(EVERY, column, data=data, row=row) for data in (*SETS, "grocery")))
        for label, row, column in (
            ("`din`", "din", "test_auc"),
            ("`dien`", "dien", "test_auc"),
            *(model for model in MODELS if model[1] != "wide_din"),
        )
    ],
    "parts": [
        (
            PART_NAMES.get(name, name),
            auc(PARTS, row=name, data="toys"),
            f"{mean(PARTS, 'test_auc', row=name, data='toys') - whole:+.4f}",
        )
        for whole in [mean(PARTS, "test_auc", row="wide_dien", data="toys")]
        for name in (row["row"] for row in rows(PARTS, data="toys"))
    ],
    "inputs": [
        (
            group,
            str(found[0]["inputs"]),
            *(auc("inputs.json", "valid_auc", data=data, without=group) for data in SETS[:2]),
        )
        for group in dict.fromkeys(row["without"] for row in read("inputs.json"))
        for found in [rows("inputs.json", without=group)]
    ],
    "long": [
        (label, *(auc(name, column, data="long", row=row) for column in shown))
        for name, label, row, _ in (
            *((ALONE, f"`{row}`", row, "") for row in FAMILY),
            *((WIDE, *model) for model in MODELS if model[0] != COUNTS_ALONE),
        )
        for shown in [QUALITY]
    ],
    "weeks": [
        (
            warm["day"],
            ms(WEEKS, "{:.3f}", "auc", day=warm["day"], policy="never updated"),
            f"{warm['auc']:.3f}",
            "".join(
                of(row, "auc:.3f")[0] for row in rows(WEEKS, day=warm["day"], policy="from scratch")
            ),
            f"{warm['item_rows'] + warm['user_rows']:,}",
        )
        for warm in rows(WEEKS, policy="warm start")
    ],
}
"""Cells of each row below the header, by table."""


def main(*, check: bool = False) -> int:
    """Write or check the tables; return the exit status."""
    found, stale = set(), []
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
        text = page.read_text(encoding="utf-8")
        new = MARKED.sub(lambda match: match[1] + _lines(match[2]), text)
        found |= {match[2] for match in MARKED.finditer(text)}
        if new != text and not check:
            page.write_text(new, encoding="utf-8")
        elif new != text:
            stale.append(f"{page.relative_to(ROOT)} is stale: python docs/tools/tables.py")
    stale += [f"the table {name} is on no page" for name in sorted(TABLES.keys() - found)]
    print("\n".join(stale))
    return len(stale) > 0


def _lines(name: str) -> str:
    return "".join("| " + " | ".join(cells) + " |\n" for cells in TABLES[name])


if __name__ == "__main__":
    sys.exit(tyro.cli(main))
