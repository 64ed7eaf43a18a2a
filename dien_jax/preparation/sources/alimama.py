"""Ali_Display_Ad_Click (Alibaba, Tianchi): real ad impressions, with features of users and ads.

The files, each with a header, unpacked or gzip:

    raw_sample.csv    user,time_stamp,adgroup_id,pid,nonclk,clk: an impression, and its label clk
    ad_feature.csv    adgroup_id,cate_id,campaign_id,customer,brand,price; NULL where unknown
    user_profile.csv  userid,cms_segid,cms_group_id,final_gender_code,age_level,pvalue_level,
                      shopping_level,occupation,new_user_class_level; empty where unknown

The item is the ad; ``pid`` (its place on the page) describes the request. ``behavior_log.csv`` is
not read: it has categories and brands but no items.

The set requires a login, so nothing is downloaded. ``docs/data.md`` has the source of its format.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dien_jax.preparation.logs import SourceLog, prepare_log
from dien_jax.preparation.options import Features, LogForm, LogOptions, SplitPolicy, feature_columns
from dien_jax.preparation.reading.download import ALIBABA_TERMS, given
from dien_jax.utils.console import say
from dien_jax.utils.text_files import plain_or_gzip

if TYPE_CHECKING:
    from dien_jax.preparation.reading.log import Log
    from dien_jax.preparation.reading.workspace import Workspace

PAGE = "https://tianchi.aliyun.com/dataset/56"
SEVENTH_DAY, EIGHTH_DAY = "2017-05-12T00:00+08:00", "2017-05-13T00:00+08:00"
FILES = ("raw_sample.csv", "ad_feature.csv", "user_profile.csv")
_AD = "cate_id campaign_id customer brand price:numeric"
_PROFILE = (
    "cms_segid cms_group_id final_gender_code age_level pvalue_level shopping_level occupation "
    "new_user_class_level"
)
FEATURES = Features(
    item=feature_columns("--from", _AD.split()),
    user=feature_columns("--from", _PROFILE.split()),
    request=feature_columns("--from", ["pid"]),
)


@dataclass(frozen=True, kw_only=True)
class AlimamaOptions(LogOptions):
    """Ali_Display_Ad_Click, downloaded by hand: real impressions of ads, clicked or not."""

    source: Path
    """Folder with raw_sample.csv, ad_feature.csv and user_profile.csv, unpacked or gzip, from
    https://tianchi.aliyun.com/dataset/56 (login)."""
    split: SplitPolicy = "by-time"
    valid_from: str | None = SEVENTH_DAY
    """by-time: start of validation. The default is the seventh of the eight days."""
    test_from: str | None = EIGHTH_DAY
    """by-time: start of the test. The default is the eighth day, as is customary."""

    def __post_init__(self) -> None:
        times = (self.valid_from, self.test_from)
        if self.split != "by-time" and times == (SEVENTH_DAY, EIGHTH_DAY):
            object.__setattr__(self, "valid_from", None)  # defaults of by-time only
            object.__setattr__(self, "test_from", None)
        super().__post_init__()


def prepare(options: AlimamaOptions) -> list[str]:
    """Make a dataset folder from impressions of ads."""
    return prepare_log(options, _read)


def _read(workspace: "Workspace", options: AlimamaOptions) -> SourceLog:
    """Read the impressions with the features of their ads and users."""
    from dien_jax.preparation.reading.log import attach

    say(f"Ali_Display_Ad_Click {ALIBABA_TERMS}: {PAGE}")
    files = [plain_or_gzip(options.source, name) for name in FILES]
    about = {"name": "alimama", "files": {file.name: given(file).sha256 for file in files}}
    say(f"from impressions in {files[0]}: {options.split} split")

    def read(file: Path, names: dict[str, str]) -> "Log":
        columns = feature_columns("--from", names.values())
        return workspace.read_columns(file, LogForm(dict(zip(names, columns, strict=True))))

    report, descriptions = list[str](), {}
    for key, column, file in (("item", "adgroup_id", files[1]), ("user", "userid", files[2])):
        names = {feature.name: feature.name for feature in FEATURES.groups[key]}
        log = read(file, {key: column} | names)
        report += log.check(workspace, options.max_bad_share)
        values = {name: log.rows[name].nullif("NULL") for name in names}
        descriptions[key] = workspace.store(f"described {key}s", log.rows.mutate(**values))

    columns = {"user": "user", "item": "adgroup_id", "timestamp": "time_stamp", "label": "clk"}
    columns |= {column.alias: column.name for column in FEATURES.request}
    log = read(files[0], columns)
    rows = log.rows
    for key, file in zip(descriptions, files[1:], strict=True):
        rows = attach(rows, key, descriptions[key], FEATURES.groups[key])
        unknown = log.rows.anti_join(descriptions[key], key)
        count = workspace.numbers(unknown.aggregate(unknown=unknown[key].nunique()))["unknown"]
        report.append(f"{count:,} {key}s of the impressions are not in {file.name}")
    log = log._replace(rows=workspace.store("impressions", rows))
    return SourceLog(log, FEATURES, about, report)
