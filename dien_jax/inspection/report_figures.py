"""Figures of a report as inline images, on white paper."""

import base64
import io
from collections.abc import Callable, Sequence
from html import escape
from typing import TYPE_CHECKING

import numpy as np

from dien_jax.metrics.diagnostics import Calibration, PartAuc
from dien_jax.utils.plots import drawing, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FEWEST = 10
"""Minimum number of examples of either label for an AUC to be drawn."""


def image(draw: Callable[[], "Figure | None"], alternative: str) -> str:
    """Return a figure as an ``img``, or a paragraph that says that matplotlib is missing.

    ``alternative`` describes the figure in words.
    """
    try:
        import matplotlib
    except ImportError:
        return "<p class='note'>No figure: matplotlib is not installed (the extra 'plot').</p>"
    stream = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "dien_jax"}), drawing():
        figure = draw()
        assert figure is not None
        figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None})
    encoded = base64.b64encode(stream.getvalue()).decode()
    return f"<img src='data:image/svg+xml;base64,{encoded}' alt='{escape(alternative)}'>"


def reliability(calibration: Calibration) -> "Figure":
    """Draw the share of clicks over the mean score, above the number of examples."""
    figure, [above, below] = new_figure(5.6, 5.2, rows=2, sharex=True, height_ratios=(3, 1))
    points = [part[-2:] for part in calibration.bins if part.examples]
    above.plot([0, 1], [0, 1], ls="--", lw=1, color="0.5", label="perfectly calibrated")
    above.plot(*np.array(points, float).T, marker="o", label="model", clip_on=False)
    above.set(ylabel="share clicked", xlim=(0, 1), ylim=(0, 1))
    above.legend(loc="upper left", fontsize="small")
    counts = [part.examples for part in calibration.bins]
    centres = [(part.low + part.high) / 2 for part in calibration.bins]
    bars = below.bar(centres, counts, width=0.9 / len(counts))
    below.bar_label(bars, [f"{count:,}" for count in counts], fontsize="x-small")
    below.margins(y=0.25)
    below.set(xlabel="click probability", ylabel="examples")
    return figure


def auc_by_part(parts: Sequence[PartAuc], title: str) -> "Figure":
    """Draw the AUC of each part with error bars of 1.96 standard errors."""
    figure, [axes] = new_figure(5.6, 3.6)
    shown = [part for part in parts if min(part.clicks, part.examples - part.clicks) >= FEWEST]
    for place, part in enumerate(shown):
        assert part.auc is not None
        margin = 1.96 * (part.standard_error or 0)
        axes.errorbar(place, part.auc, yerr=margin, fmt="o", capsize=3, color="C0")
    axes.axhline(0.5, color="0.5", lw=1, ls="--")
    labels = [f"{part.name}\nn = {part.examples:,}" for part in shown]
    rotation = 0 if len(shown) <= 8 else 45
    axes.set_xticks(range(len(shown)), labels, fontsize="x-small", rotation=rotation)
    axes.set_xlim(-0.5, max(len(shown), 1) - 0.5)
    low, high = axes.get_ylim()
    axes.set_ylim(max(low, 0), min(high, 1.02))
    axes.set(xlabel=title, ylabel="AUC")
    axes.grid(visible=False, axis="x")
    return figure
