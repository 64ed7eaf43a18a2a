"""Taobao UserBehavior (Alibaba, Tianchi): lines ``user,item,category,behaviour,timestamp``.

An event is a behaviour. By default only views (``pv``) are events: they are the clicks that a click
model predicts, and ``cart``, ``fav`` and ``buy`` mostly repeat an item that was just viewed. The
log covers nine days, 2017-11-25 to 2017-12-03 in China; lines with other times are malformed.

The set requires a login, so nothing is downloaded. ``docs/data.md`` has the source of its format.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from dien_jax.errors import UserError
from dien_jax.preparation.logs import SourceLog, prepare_log
from dien_jax.preparation.options import Features, ImplicitOptions, LogColumn, LogForm, SplitPolicy
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
    """Taobao UserBehavior, downloaded by hand. Negatives are sampled."""

    source: Path
    """UserBehavior.csv, unpacked or gzip, from https://tianchi.aliyun.com/dataset/649 (login)."""
    behaviours: tuple[Behaviour, ...] = ("pv",)
    """Behaviours that count as events: pv (a view, which is a click), cart, fav, buy."""
    split: SplitPolicy = "by-time"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.behaviours:
            raise UserError(f"--behaviours must name at least one of {', '.join(BEHAVIOURS)}")


def prepare(options: TaobaoOptions) -> list[str]:
    """Make a dataset folder from behaviours."""
    return prepare_log(options, _read)


def _read(workspace: "Workspace", options: TaobaoOptions) -> SourceLog:
    file, report = options.source, list[str]()
    say(f"from {', '.join(options.behaviours)} of Taobao in {file}: {options.split} split")
    say(f"Taobao UserBehavior {ALIBABA_TERMS}: {PAGE}")
    wanted = {name: LogColumn(name, "--from") for name in COLUMNS}
    wanted[CATEGORY.alias] = wanted.pop(CATEGORY.name)
    files = {file.name: given(file).sha256}
    about = {"name": "taobao", "files": files, "behaviours": list(options.behaviours)}

    def narrow(clean: "Table") -> "Table":
        """Keep the chosen behaviours, and report what was left out."""
        sums = {name: (clean.behaviour == name).sum() for name in BEHAVIOURS}
        counts = workspace.numbers(clean.aggregate(**sums))
        others = [name for name in BEHAVIOURS if name not in options.behaviours]
        if others:
            unused = ", ".join(f"{counts[name]:,} {name}" for name in others)
            report.append(f"no events, by --behaviours: {unused}")
        return clean.filter(clean.behaviour.isin(options.behaviours))

    log = workspace.read_columns(file, LogForm(wanted, COLUMNS))
    return SourceLog(log, Features(item=(CATEGORY,)), about, report, narrow, _refuse)


def _refuse(rows: "Table", time: "Value") -> "Reasons":
    """Return reasons why rows are malformed: other behaviours, or times outside the nine days."""
    behaviour, shown = rows.behaviour.fill_null(""), rows.timestamp
    return [
        (~behaviour.isin(BEHAVIOURS), "the behaviour is '" + behaviour + "'"),
        ((time < FIRST_SECOND) | (time >= END), "timestamp " + shown + " is outside the nine days"),
    ]
