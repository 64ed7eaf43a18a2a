"""Figures of a report, as images within the page: in light and in dark, for either background."""

import base64
import io
from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from dien_jax.metrics.diagnostics import Calibration, PartAuc
from dien_jax.training.curves import curves_figure
from dien_jax.utils.plots import drawing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FEWEST = 10
"""Of either label: an AUC of fewer says nothing, and its normal interval less."""

_COMMON: dict[str, Any] = {
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
    "legend.framealpha": 0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "svg.hashsalt": "dien_jax",
}
_INKS = {"light": "#222222", "dark": "#dddddd"}
_INKED = ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color")


def image(draw: Callable[[], "Figure"], alternative: str) -> str:
    """A figure as HTML: one image for a light background, one for a dark one.

    Args:
      draw: draws the figure.
      alternative: what it shows, in words.

    Returns:
      The element; a paragraph that says what is missing where matplotlib is not installed.
    """
    try:
        import matplotlib
    except ImportError:
        return "<p class='note'>No picture: matplotlib is not installed (the extra 'plot').</p>"
    addresses = {}
    for theme, ink in _INKS.items():
        colours: Any = _COMMON | dict.fromkeys(_INKED, ink)
        stream = io.BytesIO()
        with matplotlib.rc_context(colours), drawing():
            draw().savefig(stream, format="svg", metadata={"Date": None, "Creator": None})
        encoded = base64.b64encode(stream.getvalue()).decode()
        addresses[theme] = f"data:image/svg+xml;base64,{encoded}"
    return (
        "<picture>"
        f"<source media='screen and (prefers-color-scheme: dark)' srcset='{addresses['dark']}'>"
        f"<img src='{addresses['light']}' alt='{escape(alternative)}'>"
        "</picture>"
    )


def curves(records: Sequence[Mapping[str, Any]]) -> "Figure":
    """Losses and AUC over steps, as ``curves.png`` has them."""
    figure = curves_figure(records)
    assert figure is not None
    return figure


def reliability(found: Calibration) -> "Figure":
    """Share of clicks over mean score, and below it how many examples there are."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.6, 5.2), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    filled = [part for part in found.bins if part.examples]
    above.plot([0, 1], [0, 1], ls="--", lw=1, color="0.5", label="perfectly calibrated")
    above.plot(
        [part.score for part in filled],
        [part.clicks for part in filled],
        marker="o",
        label="model",
        clip_on=False,
    )
    above.set(ylabel="share clicked", xlim=(0, 1), ylim=(0, 1))
    above.legend(loc="upper left", fontsize="small")
    width = found.bins[0].high - found.bins[0].low
    bars = below.bar(
        [part.low + width / 2 for part in found.bins],
        [part.examples for part in found.bins],
        width=width * 0.9,
    )
    below.bar_label(bars, [f"{part.examples:,}" for part in found.bins], fontsize="x-small")
    below.margins(y=0.25)
    below.set(xlabel="click probability", ylabel="examples")
    for axes in (above, below):
        axes.grid(alpha=0.3)
    return figure


def auc_by_part(parts: Sequence[PartAuc], title: str) -> "Figure":
    """AUC of each part with 1.96 standard errors either way, and how many examples it has."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.6, 3.6), layout="constrained")
    axes = figure.subplots()
    shown = [part for part in parts if min(part.clicks, part.examples - part.clicks) >= FEWEST]
    for place, part in enumerate(shown):
        assert part.auc is not None
        margin = 1.96 * (part.standard_error or 0)
        axes.errorbar(place, part.auc, yerr=margin, fmt="o", capsize=3, color="C0")
    axes.axhline(0.5, color="0.5", lw=1, ls="--")
    few = len(shown) <= 8
    axes.set_xticks(
        range(len(shown)),
        [f"{part.name}\nn = {part.examples:,}" for part in shown],
        fontsize="x-small",
        rotation=0 if few else 45,
    )
    axes.set_xlim(-0.5, max(len(shown), 1) - 0.5)
    low, high = axes.get_ylim()
    axes.set_ylim(max(low, 0), min(high, 1.02))
    axes.set(xlabel=title, ylabel="AUC")
    axes.grid(axis="y", alpha=0.3)
    return figure
