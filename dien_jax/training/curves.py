"""Learning curves of a run: losses and metrics by step, drawn with matplotlib."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dien_jax.metrics.scores import METRICS
from dien_jax.runs.folder import read_evaluations
from dien_jax.utils.plots import new_figure, save_picture

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CURVES_FILE = "curves.png"


def _validation(*names: str) -> dict[str, tuple[str, str]]:
    return {f"validation {METRICS[name].label}": ("valid", name) for name in names}


_CURVES = {
    "loss": {
        "training loss": ("train", "loss"),
        "training click loss": ("train", "click_loss"),
        "training auxiliary loss": ("train", "auxiliary_loss"),
        **_validation("logloss"),
    },
    "AUC": _validation("auc", "gauc"),
}


def draw_curves(folder: Path) -> Path | None:
    """Draw ``curves.png`` of a run from its ``metrics.jsonl``, and return the file.

    None where matplotlib is not installed or nothing was evaluated.
    """
    records = read_evaluations(folder)
    figure = curves_figure(records) if records else None
    if figure is None:
        return None
    save_picture(figure, folder / CURVES_FILE)
    return folder / CURVES_FILE


def curves_figure(records: Sequence[Mapping[str, Any]]) -> "Figure | None":
    """Draw losses and AUC by step from evaluations; None where matplotlib is not installed."""
    try:
        figure, panels = new_figure(10.0, 4.0, columns=2)
    except ImportError:
        return None
    for axes, (title, lines) in zip(panels, _CURVES.items(), strict=True):
        for label, (group, name) in lines.items():
            points = [(record["step"], record.get(group, {}).get(name)) for record in records]
            points = [point for point in points if point[1] is not None]
            if points:
                axes.plot(*zip(*points, strict=True), marker=".", label=label)
        axes.set(xlabel="step", ylabel=title)
        if axes.lines:
            axes.legend()
    return figure
