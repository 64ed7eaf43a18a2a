"""Curves of several runs in one plot; matplotlib is imported when it is drawn."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dien_jax.metrics.scores import METRICS, SELECTION
from dien_jax.runs.summary import SeedGroup
from dien_jax.utils.files import atomic_path

PLOT_FILE = "compare.png"

_PANELS = {
    "training click loss": ("train", "click_loss"),
    **{f"validation {METRICS[name].label}": ("valid", name) for name in SELECTION},
}
_STYLES = ("-", "--", ":", "-.")
_COLOURS = 10
_RING: dict[str, Any] = {"marker": "o", "ms": 9, "mfc": "none", "mew": 1.5, "linestyle": "none"}


def draw_comparison(groups: Sequence[SeedGroup], folder: Path) -> Path | None:
    """Draw training loss, validation AUC and log loss of every run over epochs.

    Runs that differ by seed only share a colour. A ring marks the best checkpoint. Return the
    file; None without matplotlib or before the first evaluation.
    """
    try:
        from matplotlib.figure import Figure
        from matplotlib.ticker import MaxNLocator
    except ImportError:
        return None
    if not any(member.evaluations for group in groups for member in group.members):
        return None
    figure = Figure(figsize=(14, 4.8), layout="constrained")
    panels = figure.subplots(1, len(_PANELS))
    named: set[str] = set()
    for number, group in enumerate(groups):
        style = _STYLES[number // _COLOURS % len(_STYLES)]
        several = len(group.members) > 1
        label = f"{group.name} ({len(group.members)} runs)" if several else group.name
        width, alpha = (1.2, 0.7) if several else (1.8, 1.0)
        for member in group.members:
            for axes, (split, metric) in zip(panels, _PANELS.values(), strict=True):
                points = [
                    (record["epoch"], record[split][metric], record["step"])
                    for record in member.evaluations
                    if "epoch" in record and record.get(split, {}).get(metric) is not None
                ]
                if not points:
                    continue
                epochs, values, steps = zip(*points, strict=True)
                [line] = axes.plot(epochs, values, style, color=f"C{number % _COLOURS}",
                                   marker=".", linewidth=width, alpha=alpha)  # fmt: skip
                if label not in named:
                    line.set_label(label)
                    named.add(label)
                if split == "valid" and member.best_step in steps:
                    best = steps.index(member.best_step)
                    axes.plot(epochs[best], values[best], color=line.get_color(), **_RING)
    panels[0].plot([], [], color="0.4", label="best checkpoint", **_RING)
    for axes, title in zip(panels, _PANELS, strict=True):
        axes.set_title(title, fontsize="medium")
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=min(5, len(named) + 1), fontsize="small")
    with atomic_path(folder / PLOT_FILE) as partial:
        figure.savefig(partial, format="png", dpi=120)
    return folder / PLOT_FILE
