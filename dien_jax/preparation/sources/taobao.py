"""Taobao UserBehavior (Alibaba, Tianchi): lines ``user,item,category,behaviour,timestamp``.

An event is a behaviour: ``pv`` (the page of an item was viewed, so it was clicked), ``cart``,
``fav`` or ``buy``. By default only views are events: they are the clicks that a click model
predicts, and the other three mostly repeat an item that was just viewed. The log covers nine days,
2017-11-25 to 2017-12-03 in China. Lines with other times are malformed. The rest is as for any log
of interactions.

The set requires a login, so nothing is downloaded. Its page, https://tianchi.aliyun.com/dataset/649,
and its format were read on 2026-11-25 in datasets/Taobao/readme.md of
PaddlePaddle/PaddleRec@949e772 and in descriptions that repeat the page; the page itself has not
been tried yet.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from dien_jax.errors import UserError
from dien_jax.preparation.options import Features, ImplicitOptions, LogColumn, SplitPolicy
from dien_jax.preparation.reading.download import given
from dien_jax.utils.console import say
from dien_jax.utils.extras import require
from dien_jax.utils.text_files import EXAMPLES, BadLines

if TYPE_CHECKING:
    from ibis.expr.types import Table

    from dien_jax.preparation.reading.workspace import Workspace

Behaviour = Literal["pv", "cart", "fav", "buy"]
BEHAVIOURS: tuple[Behaviour, ...] = ("pv", "cart", "fav", "buy")
PAGE = "https://tianchi.aliyun.com/dataset/649"
TERMS = (
    "Taobao UserBehavior by Alibaba, for research, under the terms that its page shows after the "
    f"login: {PAGE}"
)
FIRST_SECOND = 1511539200
"""2017-11-25 00:00 in China (UTC+8)."""
END = 1512316800
"""2017-12-04 00:00 there."""
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
    """Make a dataset folder from behaviours, and return lines that summarise it.

    Raises:
      UserError: when the extra ``data`` or a file is missing, a file is too malformed, nothing is
        left to train on, or the folder cannot be written.
    """
    require("data", "preparing logs")
    from dien_jax.preparation.pipeline.events import load_events
    from dien_jax.preparation.pipeline.from_interactions import write_interactions
    from dien_jax.preparation.reading.log_files import read_columns
    from dien_jax.preparation.reading.workspace import open_workspace

    file = options.source
    say(f"from {', '.join(options.behaviours)} of Taobao in {file}: {options.describe()}")
    say(TERMS)
    wanted = {name: LogColumn(name, "--from") for name in COLUMNS if name != CATEGORY.name}
    wanted[CATEGORY.alias] = CATEGORY
    report: list[str] = []
    with open_workspace(options.out, options.memory_limit) as workspace:
        digest = given(file).sha256
        events = load_events(
            workspace,
            read_columns(workspace, file, wanted, columns=COLUMNS),
            Features(item=(CATEGORY,)),
            max_bad_share=options.max_bad_share,
            narrow=lambda clean: _narrow(workspace, options, clean, report),
        )
        source = {
            "name": "taobao",
            "files": {file.name: digest},
            "behaviours": list(options.behaviours),
        }
        return report + write_interactions(workspace, options, events, source)


def _narrow(
    workspace: "Workspace", options: TaobaoOptions, clean: "Table", report: list[str]
) -> "Table":
    """Keep the chosen behaviours of the nine days, and add what was left out to ``report``."""
    import ibis

    file, time = options.source, clean.time
    behaviour = clean.behaviour.fill_null("")
    row = ibis.literal("user ") + clean.user + ", item " + clean.item + ": "
    reason = ibis.cases(
        (~behaviour.isin(BEHAVIOURS), row + "the behaviour is '" + behaviour + "'"),
        (
            (time < FIRST_SECOND) | (time >= END),
            row + "the timestamp " + time.cast("string") + " lies outside the nine days",
        ),
        else_=ibis.null("string"),
    )
    checked = clean.mutate(reason=reason)
    wrong, good = checked.filter(checked.reason.notnull()), checked.filter(checked.reason.isnull())
    bad = BadLines()
    bad.count = workspace.count(wrong)
    first = wrong.order_by("line").limit(EXAMPLES)
    bad.examples = [f"{file}: {text}" for text in workspace.strings(first, "reason")]
    report += bad.check(workspace.count(clean), options.max_bad_share)
    counts = workspace.numbers(
        good.aggregate(**{name: (good.behaviour == name).sum() for name in BEHAVIOURS})
    )
    unused = [f"{counts[name]:,} {name}" for name in BEHAVIOURS if name not in options.behaviours]
    if unused:
        report.append(f"no events, by --behaviours: {', '.join(unused)}")
    return good.filter(good.behaviour.isin(options.behaviours)).select(*clean.columns)
