"""A small sample of each source of logs, with lines that are malformed in each of its files."""

import json
import pickle
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from dien_jax.data.dataset import Dataset
from dien_jax.preparation.sources import (
    alimama,
    amazon,
    authors,
    impressions,
    interactions,
    movielens,
    taobao,
)
from support.tiny_logs import LOG, opened

FIRST = taobao.FIRST_SECOND


class Sample(NamedTuple):
    """Files of a source, and how they are prepared.

    Attributes:
      options: make the options from the folder of the files and the fields to change.
      prepare: the source.
      files: contents by name.
      bad: malformed lines with their reasons, by file.
      archive: name of the zip archive that holds the files in a folder of its name, if one does.
    """

    options: Callable[..., Any]
    prepare: Callable[[Any], list[str]]
    files: dict[str, str | bytes]
    bad: dict[str, list[tuple[str, str]]]
    archive: str = ""

    def write(self, folder: Path, **added: list[str]) -> None:
        """Write the files, some with more lines."""
        folder.mkdir()
        contents = dict(self.files)
        for name, lines in added.items():
            contents[name] = "\n".join([str(contents[name]).rstrip("\n"), *lines, ""])
        if self.archive:
            file = folder / self.archive
            with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as packed:
                for name, content in contents.items():
                    packed.writestr(f"{file.stem}/{name}", str(content).encode("latin-1"))
            return
        for name, content in contents.items():
            data = content if isinstance(content, bytes) else content.encode()
            (folder / name).write_bytes(data)

    def make(
        self, folder: Path, added: Mapping[str, list[str]] = MappingProxyType({}), **changes: Any
    ) -> tuple[Dataset, list[str]]:
        """Write the files, some with more lines; return their dataset and the summary."""
        self.write(folder / "log", **added)
        return opened(self.prepare, self.options(folder / "log", out=folder / "data", **changes))

    def shown(self, folder: Path, name: str) -> str:
        """Return a file as messages name it."""
        inside = (self.archive, Path(self.archive).stem) if self.archive else ()
        return str(folder.joinpath(*inside, name))


def review(user: object, item: object, time: object) -> str:
    """A review of 2014 or 2018."""
    return json.dumps({"reviewerID": user, "asin": item, "overall": 5.0, "unixReviewTime": time})


REVIEWS = [
    review(f"u{user}", f"B{(user + time) % 7}", time) for user in range(4) for time in range(5)
]
META = [
    "{'asin': 'B0', 'title': \"it's\", 'categories': [['Music', 'Strings'], ['Gifts']]}",
    "{'asin': 'B1', 'categories': [['Music']], 'price': 1.5}",
    "{'asin': 'B2', 'categories': []}",
    "{'asin': 'B3'}",
    "{'asin': 'B9', 'categories': [['Never reviewed']]}",
]
NO_TEXT = "Expected 'int | float | str', got"
AMAZON = Sample(
    lambda folder, **changes: amazon.AmazonOptions(
        **{"reviews": folder / "reviews", "meta": folder / "meta", "split": "last-event"} | changes
    ),
    amazon.prepare,
    {"reviews": "\n".join(REVIEWS) + "\n", "meta": "\n".join(META) + "\n"},
    {
        "reviews": [
            ("{'asin': 'B0'}", "JSON is malformed"),
            ("[1, 2]", "Expected 'object', got 'array'"),
            ('{"asin": "B0", "unixReviewTime": 1}', "missing required field 'reviewerID'"),
            (review("u", None, 1), f"{NO_TEXT} 'null' - at '$.asin'"),
            (review(True, "B", 1), f"{NO_TEXT} 'bool' - at '$.reviewerID'"),
            (review(float("nan"), "B", 1), "JSON is malformed: invalid character"),
            (review("u\ud800", "B", 1), "surrogate"),
            (review("u", "B0", -3), "timestamp '-3' is negative"),
            (review("u", "B0", "soon"), "timestamp 'soon' is not a whole number"),
            (review("", "B0", 3), "the user is empty"),
        ],
        "meta": [
            ("__import__('os').mkdir('run')", "not a Python literal: \"__import__('os').mkdir"),
            ('{"asin": "B0", "price": null}', "not a Python literal"),
            ("[" * 5000, "not a Python literal"),
            ("{'title': 'no id'}", "missing required field 'asin'"),
            ("('asin', 'B0')", "Expected 'object', got 'array'"),
            ("{'asin': 'B0', 'categories': [['Music', None]]}", f"{NO_TEXT} 'null'"),
            ("{'asin': 'B0', 'categories': ['flat']}", "got 'str' - at '$.categories[0]'"),
        ],
    },
)

BEHAVIOURS = ("pv", "cart", "pv", "pv", "fav", "buy", "pv", "pv")
VIEWS = "".join(
    f"{user},{user + time},{(user + time) % 3},{behaviour},{FIRST + 60 * time}\n"
    for user in range(4)
    for time, behaviour in enumerate(BEHAVIOURS)
)
TAOBAO = Sample(
    lambda folder, **changes: taobao.TaobaoOptions(source=folder / "log.csv", **changes),
    taobao.prepare,
    {"log.csv": VIEWS},
    {
        "log.csv": [
            ("1,2,0,pv", "expected 5 columns, found 4"),
            ("1,2,0,pv,-15", "timestamp '-15' is negative"),
            ("1,,0,pv,15", "the item is empty"),
            (f"1,2,0,pv,{FIRST - 1}", f"timestamp {FIRST - 1} is outside the nine days"),
            (f"1,2,0,pv,{taobao.END}", f"timestamp {taobao.END} is outside the nine days"),
            ("1,2,0,pv,18", "timestamp 18 is outside the nine days"),
            (f"1,2,0,look,{FIRST}", "the behaviour is 'look'"),
            (f"1,2,0,,{FIRST}", "the behaviour is ''"),
        ]
    },
)

DAY, MAY_6 = 86_400, 1_494_000_000
"""2017-05-06 00:00 in China."""
ADS = "adgroup_id,cate_id,campaign_id,customer,brand,price\n"
ADS += "10,6406,83237,1,95471,170.0\n11,6406,83237,1,NULL,30.0\n12,7,5,2,95471,100.0\n"
PROFILES = "userid,cms_segid,cms_group_id,final_gender_code,age_level,pvalue_level,shopping_level,"
PROFILES += "occupation,new_user_class_level \n1,0,5,2,5,,3,0,3\n2,6,1,1,4,2,1,1,\n"
ALIMAMA = Sample(
    lambda folder, **changes: alimama.AlimamaOptions(source=folder, **changes),
    alimama.prepare,
    {
        "raw_sample.csv": "user,time_stamp,adgroup_id,pid,nonclk,clk\n"
        + "".join(
            f"{user},{MAY_6 + DAY * day + user},{ad},430{ad % 2},{1 - clk},{clk}\n"
            for user in (1, 2, 3)
            for day in range(8)
            for ad, clk in ((10 + day % 3, 1), (20, 0))
        ),
        "ad_feature.csv": ADS,
        "user_profile.csv": PROFILES,
    },
    {
        "raw_sample.csv": [("1,1494000000,10,4300,0,2", "label '2' is not 0 or 1")],
        "ad_feature.csv": [("13,1", "expected 6 columns, found 2")],
        "user_profile.csv": [("9", "expected 9 columns, found 1")],
    },
)

RATINGS = [
    (user, 1 + (user + time) % 5, 1 + time % 5, 10 * time)
    for user in (1, 2, 3)
    for time in range(5)
]
"""User, movie, rating and time; user 1 rates movies 2, 3, 4, 5, 1 with 1, 2, 3, 4, 5."""
MOVIELENS = Sample(
    lambda folder, name="1m", **changes: movielens.MovielensOptions(
        **{"name": name, "source": folder / f"ml-{name}.zip"} | changes
    ),
    movielens.prepare,
    {
        "ratings.dat": "".join(f"{u}::{m}::{r}::{t}\n" for u, m, r, t in RATINGS),
        "movies.dat": "1::Toy::Story (1995)::Action|Comedy\n2::É (1996)::Drama\n3::C::Film-Noir\n"
        "4::D::Action\n",
        "users.dat": "1::M::1::10::48067\n2::F::50::16::70072\n3::M::18::20::55117\n",
    },
    {
        "ratings.dat": [
            ("1::2::3", "expected 4 values, found 3"),
            ("1::2::good::30", "the rating 'good' is not a number"),
            ("1::2::1_0::30", "the rating '1_0' is not a number"),
            ("1::2::nan::30", "the rating 'nan' is not a number"),
            ("1::2::3::soon", "timestamp 'soon' is not a whole number"),
        ],
        "movies.dat": [("9::A movie", "expected 3 values, found 2")],
        "users.dat": [("1::M::1", "expected 5 values, found 3")],
    },
    archive="ml-1m.zip",
)

INTERACTIONS = Sample(
    lambda folder, **changes: interactions.InteractionsOptions(
        file=folder / "log.csv", item_features=("category",), **changes
    ),
    interactions.prepare,
    {"log.csv": LOG},
    {
        "log.csv": [
            ("x,i,c,-5", "timestamp '-5' is negative"),
            ("x,i,c,1e15", "timestamp '1e15' is beyond the year 9999 in seconds"),
            ("x,i,c,inf", "timestamp 'inf' is beyond the year 9999"),
            ("x,i,c,nan", "timestamp 'nan' is not a whole number"),
            *((f"x,i,c,{time}", f"timestamp '{time}' is ") for time in ("-nan", "-inf", "1e400")),
            *((f"x,i,c,{time}", f"timestamp '{time}' is beyond") for time in (2**63, "9" * 20)),
            ("x,i,c,7.5", "timestamp '7.5' is not a whole number"),
            ("x,i,c,2014-02-28", "timestamp '2014-02-28' is not a whole number"),
            ("x,i,c,soon", "timestamp 'soon' is not a whole number"),
            ("x,i,c,", "the timestamp is empty"),
            (",i,c,5", "the user is empty"),
            ("x,,c,5", "the item is empty"),
            ('x,"",c,5', "the item is empty"),
            ("x,i,5", "expected 4 columns, found 3"),
            ("x,i,c,5,6", "expected 4 columns, found 5"),
            ('x,"i"j,c,5', "wrong quotes"),
            ('x,"i,c,5', "a quote is not closed"),
        ]
    },
)

SHOWN = "user,item,label,slot,timestamp\n" + "".join(
    f"{user},i{(3 * time + place) % 8},{int(place == time % 3)},s{place},{time}\n"
    for user in ("ann", "bob", "cat")
    for time in range(5)
    for place in range(3)
)
IMPRESSIONS = Sample(
    lambda folder, **changes: impressions.ImpressionsOptions(
        **{"file": folder / "log.csv", "request_features": ("slot",)} | changes
    ),
    impressions.prepare,
    {"log.csv": SHOWN},
    {
        "log.csv": [
            *((f"ann,i1,{label},s0,2", f"label '{label}' is not 0 or 1") for label in ("2", "0.5")),
            *((f"ann,i1,{label},s0,2", f"label '{label}' is not 0 or 1") for label in ("yes", "")),
        ]
    },
)

VOCABULARIES = {
    "uid": {"Ann": 0, "Bob": 1, "Cid": 2, "Dan": 3},
    "mid": {"default_mid": 0, "pear": 1, "fig": 2, "saw": 3},
    "cat": {"default_cat": 0, "fruit": 1, "tool": 2},
}
AUTHORS_TRAIN = [
    (1, "Ann", "fig", ["pear", "saw"]),
    (0, "Ann", "saw", ["pear", "saw"]),
    (1, "Bob", "pear", ["saw"]),
    (0, "Bob", "kiwi", ["saw"]),
    (1, "Cid", "saw", ["kiwi", "fig", "fig"]),
    (0, "Cid", "fig", ["kiwi", "fig", "fig"]),
    (1, "Dan", "pear", []),
    (0, "Dan", "fig", []),
]
AUTHORS_TEST = [(1, "Eve", "saw", ["pear", "fig"]), (0, "Eve", "pear", ["pear", "fig"])]
"""Examples: label, user, item and history."""


def authors_line(label: int, user: str, item: str, history: list[str]) -> str:
    category = {"pear": "fruit", "fig": "fruit", "saw": "tool", "kiwi": "nuts"}
    kinds = [category[event] for event in history]
    fields = [str(label), user, item, category[item], "\x02".join(history), "\x02".join(kinds)]
    return "\t".join(fields) + "\n"


AUTHORS = Sample(
    lambda folder, **changes: authors.AuthorsOptions(
        folder=folder, **{"valid_share": 0.0} | changes
    ),
    authors.prepare,
    {
        "local_train_splitByUser": "".join(authors_line(*row) for row in AUTHORS_TRAIN),
        "local_test_splitByUser": "".join(authors_line(*row) for row in AUTHORS_TEST),
        "item-info": "pear\ttool\nfig\tfruit\nplum\tfruit\nsaw\ttool\npear\tfruit\n",
        **{f"{name}_voc.pkl": pickle.dumps(v, protocol=2) for name, v in VOCABULARIES.items()},
    },
    {
        "local_train_splitByUser": [
            ("1\tAnn\tfig", "expected 6 fields, found 3"),
            ("yes\tAnn\tfig\tc\tpear\tc", "expected the label 0 or 1, found 'yes'"),
            ("1\tAnn\tfig\tc\tpear\x02saw\tc", "history of 2 items but 1 categories"),
        ],
        "item-info": [("pear fruit", "expected 2 fields, found 1")],
    },
)

SAMPLES = {
    "alimama": ALIMAMA,
    "amazon": AMAZON,
    "authors": AUTHORS,
    "impressions": IMPRESSIONS,
    "interactions": INTERACTIONS,
    "movielens": MOVIELENS,
    "taobao": TAOBAO,
}
