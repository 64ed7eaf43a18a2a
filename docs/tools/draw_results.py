"""Draw the published results for their page: ``docs/results-family.png`` and ``results-parts.png``.

    python docs/tools/draw_results.py

Each run is a dot, and each row has its mean and standard deviation.
"""

import math
import statistics
import sys
from pathlib import Path

from dien_jax.experiments.reproduction import paper_tables, read_results
from dien_jax.utils.plots import new_figure, save_picture

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results" / "cpu" / "present_defaults.csv"


def main() -> int:
    """Draw both pictures."""
    lines = read_results(RESULTS)
    earlier: set[str] = set()
    for table, (rows, _) in paper_tables().items():
        own, earlier = set(rows) - earlier, earlier | set(rows)
        names = list(dict.fromkeys(line["data"] for line in lines if line["row"] in own))
        width = min(len(names), 2)
        height = math.ceil(len(names) / width)
        size = 5.2 * width, (0.32 * len(rows) + 1.1) * height
        figure, panels = new_figure(*size, rows=height, columns=width)
        for axis in panels[len(names) :]:
            axis.set_visible(False)
        for axis, name in zip(panels, names, strict=False):
            values = {row: [] for row in rows}
            for line in lines:
                if line["data"] == name and line["row"] in values:
                    values[line["row"]].append(float(line["test_auc"]))
            present = {row: aucs for row, aucs in values.items() if aucs}
            for place, aucs in enumerate(present.values()):
                axis.plot(aucs, [place] * len(aucs), "o", color="tab:blue", alpha=0.35, ms=4)
                error = {"xerr": statistics.stdev(aucs) if len(aucs) > 1 else 0, "capsize": 3}
                mean = statistics.mean(aucs)
                axis.errorbar(mean, place, fmt="D", color="tab:blue", ms=5, **error)
            axis.set_yticks(range(len(present)), list(present))
            axis.invert_yaxis()
            axis.grid(visible=False, axis="y")
            axis.set(xlabel="test AUC", title=name)
        figure.suptitle(f"{table}: each run, mean and deviation")
        save_picture(figure, ROOT / "docs" / f"results-{table}.png")
    return 0


if __name__ == "__main__":
    sys.exit(main())
