"""Taobao UserBehavior (Alibaba, Tianchi): lines ``user,item,category,behaviour,timestamp``.

An event is a behaviour. By default only views (``pv``) are events: they are the clicks that a click
model predicts, and ``cart``, ``fav`` and ``buy`` mostly repeat an item that was just viewed. The
log covers nine days, 2017-11-25 to 2017-12-03 in China; lines with other times are malformed.

The set requires a login, so nothing is downloaded. ``docs/data.md`` says where its format was read.
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from dien_jax.errors import UserError, require
from dien_jax.preparation.options import Features, ImplicitOptions, LogColumn, SplitPolicy
from dien_jax.preparation.reading.download import ALIBABA_TERMS, given
from dien_jax.utils.console import say

if TYPE_CHECKING:
    from ibis.expr.types import Table, Value

    from dien_jax.preparation.pipeline.events import Reasons
    from dien_jax.preparation.reading.workspace import Workspace

Behaviour = Literal["pv", "cart", "fav", "buy"]
BEHAVIOURS: tuple[Behaviour, ...] = get_args(Behaviour)
PAGE = "https://tianchi.aliyun.com/dataset/649"
FIRST_SECOND, END = 1511539200, 1512316800  # 2017-11-25 and 12-04, 00:00 in China (UTC+8)
COLUMNS = ("user", "item", "category", "behaviour", "timestamp")
CATEGORY = LogColumn("category", "--from")


@dataclass(frozen=True, kw_only=True)
class TaobaoOptions(ImplicitOptions):
    """Taobao UserBehavior, downloaded by hand. Negatives are drawn."""

    source: Path
    """UserBehavior.csv, unpacked or gzip, from https://tianchi.aliyun.com/dataset/649 (login)."""
    behaviours: tuple[Behaviour, ...] = ("pv",)
    """Behaviours that count as events: pv (a view, that is a click), cart, fav, buy."""
    split: SplitPolicy = "by-time"
    """Held out: whole users (by-user), each user's last two events (last-event), or the latest
    events (by-time)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.behaviours:
            raise UserError(f"--behaviours must name at least one of {', '.join(BEHAVIOURS)}")


def prepare(options: TaobaoOptions) -> list[str]:
    """Make a dataset folder from behaviours."""
    require("data", "preparing logs")
    from dien_jax.preparation.pipeline.events import load_events
    from dien_jax.preparation.pipeline.from_interactions import write_interactions
    from dien_jax.preparation.reading.engines import open_workspace, read_columns
    from dien_jax.preparation.reading.log import LogForm

    file = options.source
    say(f"from {', '.join(options.behaviours)} of Taobao in {file}: {options.split} split")
    say(f"Taobao UserBehavior {ALIBABA_TERMS}: {PAGE}")
    wanted = {name: LogColumn(name, "--from") for name in COLUMNS}
    wanted[CATEGORY.alias] = wanted.pop(CATEGORY.name)
    report: list[str] = []
    with open_workspace(options) as workspace:
        digest = given(file).sha256
        log = read_columns(workspace, file, LogForm(wanted, COLUMNS))
        narrow = partial(_narrow, workspace, options, report)
        features = Features(item=(CATEGORY,))
        events = load_events(workspace, log, features, options.max_bad_share, narrow, _refuse)
        made_of = {"files": {file.name: digest}, "behaviours": list(options.behaviours)}
        source = {"name": "taobao", **made_of}
        return report + write_interactions(workspace, options, events, source)


def _refuse(rows: "Table", time: "Value") -> "Reasons":
    """Return why rows are not of the log: another behaviour, or a time outside the nine days."""
    behaviour, shown = rows.behaviour.fill_null(""), rows.timestamp
    return [
        (~behaviour.isin(BEHAVIOURS), "the behaviour is '" + behaviour + "'"),
        ((time < FIRST_SECOND) | (time >= END), "timestamp " + shown + " is outside the nine days"),
    ]


def _narrow(
    workspace: "Workspace", options: TaobaoOptions, report: list[str], clean: "Table"
) -> "Table":
    """Keep the chosen behaviours, and add what was left out to ``report``."""
    sums = {name: (clean.behaviour == name).sum() for name in BEHAVIOURS}
    counts = workspace.numbers(clean.aggregate(**sums))
    unused = [f"{counts[name]:,} {name}" for name in BEHAVIOURS if name not in options.behaviours]
    if unused:
        report.append(f"no events, by --behaviours: {', '.join(unused)}")
    return clean.filter(clean.behaviour.isin(options.behaviours))
