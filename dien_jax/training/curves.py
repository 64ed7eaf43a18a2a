"""Pictures of a run's curves"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dien_jax.metrics.scores import METRICS
from dien_jax.runs.evaluations import _writing, read_evaluations
from dien_jax.utils.files import atomic_path

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CURVES_FILE = "curves.png"


def draw_curves(folder: Path) -> Path | None:
    """Draws losses and AUC over steps from ``metrics.jsonl`` to ``curves.png``.

    Returns:
      The picture; None where matplotlib is not installed or nothing was evaluated.

    Raises:
      UserError: when the picture cannot be written, or ``metrics.jsonl`` is damaged.
    """
    records = read_evaluations(folder)
    figure = curves_figure(records) if records else None
    if figure is None:
        return None
    file = folder / CURVES_FILE
    with _writing(file), atomic_path(file) as partial:
        figure.savefig(partial, format="png")
    return file


def curves_figure(records: Sequence[Mapping[str, Any]]) -> "Figure | None":
    """Losses and AUC over steps; None where matplotlib is not installed.

    Args:
      records: lines of ``metrics.jsonl``, at least one.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return None
    figure = Figure(figsize=(10, 4), layout="constrained")
    curves: dict[str, dict[str, tuple[str, str]]] = {
        "loss": {
            "training loss": ("train", "loss"),
            "training click loss": ("train", "click_loss"),
            "training auxiliary loss": ("train", "auxiliary_loss"),
        },
        "AUC": {},
    }
    for metric in METRICS.values():
        panel = curves["AUC" if metric.higher_is_better else "loss"]
        panel[f"validation {metric.label}"] = ("valid", metric.name)
    for axes, (title, lines) in zip(figure.subplots(1, 2), curves.items(), strict=True):
        for label, (group, name) in lines.items():
            points = [(record["step"], record.get(group, {}).get(name)) for record in records]
            points = [point for point in points if point[1] is not None]
            if points:
                axes.plot(*zip(*points, strict=True), marker=".", label=label)
        axes.set(xlabel="step", ylabel=title)
        axes.grid(alpha=0.3)
        if axes.lines:
            axes.legend()
    return figure
