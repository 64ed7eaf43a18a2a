"""Ali_Display_Ad_Click (Alibaba, Tianchi): real impressions of ads, with users and ads described.

The files, with a header each, unpacked or gzip:

    raw_sample.csv    user,time_stamp,adgroup_id,pid,nonclk,clk: an impression, and its label clk
    ad_feature.csv    adgroup_id,cate_id,campaign_id,customer,brand,price; NULL where unknown
    user_profile.csv  userid,cms_segid,cms_group_id,final_gender_code,age_level,pvalue_level,
                      shopping_level,occupation,new_user_class_level; empty where unknown

The item is the ad, ``pid`` (its place on the page) describes the request. A user's history is what
the user clicked before; ``behavior_log.csv`` is not read, as it has categories and brands but no
items. What follows is the same as for any log of :mod:`dien_jax.preparation.sources.impressions`.

The set is behind a login, so nothing is downloaded. Its page, https://tianchi.aliyun.com/dataset/56,
and its form were read on 2026-11-25 in datasets/Ali_Display_Ad_Click/readme.md of
PaddlePaddle/PaddleRec@1d41c8b; the page itself has not been tried yet.
"""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

from dien_jax.errors import UserError
from dien_jax.preparation.options import LogColumn, LogOptions, SplitPolicy
from dien_jax.preparation.reading.download import given
from dien_jax.preparation.sources import impressions
from dien_jax.preparation.sources.impressions import ImpressionsOptions
from dien_jax.utils.console import say
from dien_jax.utils.extras import require

if TYPE_CHECKING:
    from ibis.expr.types import Table

    from dien_jax.preparation.reading.log_files import Log
    from dien_jax.preparation.reading.workspace import Workspace

PAGE = "https://tianchi.aliyun.com/dataset/56"
TERMS = (
    "Ali_Display_Ad_Click by Alibaba, for research, under the terms that its page shows after the "
    f"login: {PAGE}"
)
SEVENTH_DAY, EIGHTH_DAY = "2017-05-12T00:00+08:00", "2017-05-13T00:00+08:00"
FILES = ("raw_sample.csv", "ad_feature.csv", "user_profile.csv")
AD_FEATURES = ("cate_id", "campaign_id", "customer", "brand", "price:numeric")
USER_FEATURES = (
    "cms_segid",
    "cms_group_id",
    "final_gender_code",
    "age_level",
    "pvalue_level",
    "shopping_level",
    "occupation",
    "new_user_class_level",
)


@dataclass(frozen=True, kw_only=True)
class AlimamaOptions(LogOptions):
    """Ali_Display_Ad_Click, got by hand: real impressions of ads, clicked or not."""

    source: Path
    """Folder with raw_sample.csv, ad_feature.csv and user_profile.csv, unpacked or gzip, from
    https://tianchi.aliyun.com/dataset/56 (login)."""
    split: SplitPolicy = "by-time"
    """What is held out: whole users, each user's last two requests, or the latest rows."""
    valid_from: str | None = SEVENTH_DAY
    """by-time: when validation starts; from the seventh of the eight days on, unless given."""
    test_from: str | None = EIGHTH_DAY
    """by-time: when the test starts; the eighth day, which is customary, unless given."""

    def __post_init__(self) -> None:
        if self.split != "by-time" and (self.valid_from, self.test_from) == (
            SEVENTH_DAY,
            EIGHTH_DAY,
        ):
            object.__setattr__(self, "valid_from", None)  # the default of another split
            object.__setattr__(self, "test_from", None)
        super().__post_init__()


def prepare(options: AlimamaOptions) -> list[str]:
    """Makes a dataset folder of impressions of ads.

    Returns:
      lines that say what was made.

    Raises:
      UserError: when the extra ``data`` is missing, a file is missing, cannot be read or is too
        malformed, nothing is left to train on, or the folder cannot be written.
    """
    require("data", "preparing logs")
    say(TERMS)
    samples, ads, profiles = (_file(options.source, name) for name in FILES)
    log = ImpressionsOptions(
        **{field.name: getattr(options, field.name) for field in fields(LogOptions)},
        file=samples,
        user="user",
        item="adgroup_id",
        timestamp="time_stamp",
        label="clk",
        item_features=AD_FEATURES,
        user_features=USER_FEATURES,
        context_features=("pid",),
    )
    hashes = {file.name: given(file).sha256 for file in (samples, ads, profiles)}
    report: list[str] = []

    def read(workspace: "Workspace", log: ImpressionsOptions, *, careful: bool) -> "Log":
        report.clear()  # it is read again where lines make no sense
        return _read(workspace, log, ads, profiles, report, careful=careful)

    written = impressions.prepare(log, read=read, source={"name": "alimama", "files": hashes})
    return [*report, *written]


def _file(folder: Path, name: str) -> Path:
    """The file of that name, or its gzip.

    Raises:
      UserError: when there is neither.
    """
    for file in (folder / name, folder / f"{name}.gz"):
        if file.is_file():
            return file
    packed = folder / f"{name}.tar.gz"
    hint = f"; unpack {packed.name} first" if packed.exists() else ""
    raise UserError(f"--from {folder}: expected a folder with {name} or {name}.gz{hint}")


def _read(
    workspace: "Workspace",
    log: ImpressionsOptions,
    ads: Path,
    profiles: Path,
    report: list[str],
    *,
    careful: bool,
) -> "Log":
    """The impressions with the features of their ads and users."""
    from dien_jax.preparation.pipeline.events import attach
    from dien_jax.preparation.reading.log_files import read_columns

    features = log.features()
    describing: dict[str, Table] = {}
    for key, column, file in (("item", "adgroup_id", ads), ("user", "userid", profiles)):
        wanted = {name: LogColumn(name, "--from") for name, _, _ in features[key]}
        found = read_columns(
            workspace, file, {key: LogColumn(column, "--from"), **wanted}, careful=False
        )
        report += found.bad.check(workspace.count(found.rows) + found.bad.count, log.max_bad_share)
        known = {name: found.rows[name].nullif("NULL") for name in wanted}
        describing[key] = workspace.store(f"described {key}s", found.rows.mutate(**known))
    wanted = {
        "user": LogColumn(log.user, "--from"),
        "item": LogColumn(log.item, "--from"),
        "timestamp": LogColumn(log.timestamp, "--from"),
        "label": LogColumn(log.label, "--from"),
        **{column.alias: LogColumn(column.name, "--from") for column in features["context"]},
    }
    samples = read_columns(workspace, log.file, wanted, careful=careful)
    rows = samples.rows
    for key, file in (("item", ads), ("user", profiles)):
        unknown = rows.anti_join(describing[key], key)
        count = workspace.numbers(unknown.aggregate(unknown=unknown[key].nunique()))["unknown"]
        report.append(f"{count:,} {key}s of the impressions are not in {file.name}")
        rows = attach(rows, key, describing[key], features[key])
    return samples._replace(rows=workspace.store("impressions", rows))
