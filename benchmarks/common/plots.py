"""Figures of benchmark rows; matplotlib is imported when something is drawn."""

from collections.abc import Sequence
from pathlib import Path

Panels = dict[str, dict[str, dict[str, float]]]
"""Values by panel, group of bars and bar."""

Curves = dict[str, dict[str, tuple[Sequence[float], Sequence[float]]]]
"""x and y by panel (named after its y axis) and line."""

LOG_FROM = 30
"""Ratio of the longest to the shortest bar of a panel from which the axis is logarithmic."""


def grouped_bars(file: Path, panels: Panels, title: str, *, unit: str = "ms") -> None:
    """Draw bars in groups, one panel under the other, each bar labelled with its value."""
    from matplotlib.figure import Figure

    names = list(
        dict.fromkeys(n for groups in panels.values() for bars in groups.values() for n in bars)
    )
    colours = {name: f"C{number}" for number, name in enumerate(names)}
    widest = max(sum(len(bars) + 1 for bars in groups.values()) for groups in panels.values())
    size = (max(7.0, 0.42 * widest + 1), 3.2 * len(panels) + 0.8)
    figure = Figure(figsize=size, layout="constrained")
    figure.suptitle(title, fontsize="medium")
    every = figure.subplots(len(panels), 1, squeeze=False)[:, 0]
    labelled: set[str] = set()
    for axes, (panel, groups) in zip(every, panels.items(), strict=True):
        place, centres = 0.0, []
        for bars in groups.values():
            centres.append(place + (len(bars) - 1) / 2)
            for name, value in bars.items():
                label = "" if name in labelled else name
                labelled.add(name)
                drawn = axes.bar(place, value, width=0.9, color=colours[name], label=label)
                axes.bar_label(drawn, fmt=_short, fontsize="x-small")
                place += 1
            place += 1
        values = [value for bars in groups.values() for value in bars.values()]
        if max(values) > LOG_FROM * min(values):
            axes.set_yscale("log")
            axes.set_ylim(min(values) / 2, 2 * max(values))
        else:
            axes.margins(y=0.12)
        axes.set_xticks(centres, list(groups), fontsize="small")
        axes.set_ylabel(unit)
        axes.set_title(panel, fontsize="medium")
        axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=min(6, len(names)), fontsize="small")
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, format="png", dpi=150)


def curves(file: Path, panels: Curves, *, x: str, title: str, logarithmic: bool = True) -> None:
    """Draw lines with a mark at each value, panels side by side, axes of one kind."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.8 * len(panels), 3.8), layout="constrained")
    figure.suptitle(title, fontsize="medium")
    every = figure.subplots(1, len(panels), squeeze=False)[0]
    names = dict.fromkeys(name for lines in panels.values() for name in lines)
    colours = {name: f"C{number}" for number, name in enumerate(names)}
    for axes, (panel, lines) in zip(every, panels.items(), strict=True):
        for name, (places, values) in lines.items():
            axes.plot(places, values, marker="o", label=name, color=colours[name])
            for place, value in zip(places, values, strict=True):
                axes.annotate(_short(value), (place, value), textcoords="offset points",
                              xytext=(0, 6), ha="center", fontsize="x-small")  # fmt: skip
        if logarithmic:
            axes.set_xscale("log")
            axes.set_yscale("log")
        axes.margins(y=0.15)
        axes.set_xlabel(x)
        axes.set_ylabel(panel)
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        if len(lines) > 1:
            axes.legend(fontsize="small")
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, format="png", dpi=150)


def _short(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"
