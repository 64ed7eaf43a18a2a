"""Raw Amazon files of three years: lines, categories, the five-core, and files by name."""

import json
from pathlib import Path

import numpy as np
import pytest
from support.source_samples import AMAZON, META, REVIEWS, review
from support.tiny_logs import events_of, values_of

from dien_jax.errors import UserError
from dien_jax.preparation.sources.amazon import SETS, AmazonOptions, remote_files

pytestmark = pytest.mark.long


def make(tmp_path: Path, reviews=REVIEWS, meta=META, **changes):
    files = {"reviews": "\n".join(reviews) + "\n", "meta": "\n".join(meta) + "\n"}
    return AMAZON._replace(files=files).make(tmp_path, **changes)


def test_the_category_is_the_last_of_the_first_path_or_the_default(tmp_path):
    dataset, summary = make(tmp_path)
    assert events_of(dataset)["u0"] == ["B0", "B1", "B2", "B3", "B4"]
    found = values_of(dataset, "items", "category")
    assert (found["B0"], found["B1"]) == ("Strings", "Music")
    assert {found[item] for item in ("B2", "B3", "B4", "B5")} == {"default_cat"}
    assert "Never reviewed" not in dataset.vocabulary("category")
    assert any("5 of 7 items have no category in meta" in line for line in summary)


def test_an_item_with_two_meta_lines_takes_the_first_category(tmp_path):
    meta = [
        r"{'asin': 'B0', 'title': '100\% \d'}",  # escapes that Python frowns on
        *META[:1],
        "{'asin': 'B0', 'categories': [['Later']]}",
    ]
    dataset, _ = make(tmp_path, meta=meta)
    assert values_of(dataset, "items", "category")["B0"] == "Strings"


def test_the_five_core_is_iterated_until_every_user_and_item_has_five(tmp_path):
    core = [review(f"u{user}", f"B{item}", item) for user in range(5) for item in range(5)]
    # three of the five reviews of B9 go, then B9 goes, and then u8 has four left
    chain = [review("u8", item, 1) for item in ("B0", "B1", "B2", "B3", "B9")]
    rare = [review(f"u{user}", "B9", 2) for user in (0, 5, 6, 7)]
    dataset, _ = make(tmp_path, core + chain + rare, five_core=True)
    assert sorted(dataset.groups()) == [f"u{user}" for user in range(5)]
    assert set().union(*events_of(dataset).values()) == {"", "B0", "B1", "B2"}
    assert (np.diff(dataset.event_offsets) == 5).all()


def test_nothing_left_of_the_five_core_is_told(tmp_path):
    with pytest.raises(UserError, match=r"reviews: nothing is left to prepare"):
        make(tmp_path, REVIEWS[:3], five_core=True)
    assert not (tmp_path / "data").exists()


def review_2023(user: str, item: str, time: int) -> str:
    review = {"user_id": user, "asin": "other", "parent_asin": item, "timestamp": time}
    return json.dumps({"rating": 5.0, "text": "Unicode: é", **review})


META_2018 = [
    {"asin": "B0", "category": ["Books", "Literature & Fiction", "Poetry"], "price": None},
    {"asin": "B1", "category": ["Books"]},
    {"asin": "B2", "category": []},
    {"asin": "B3"},
    {"asin": "B4", "category": "Books"},
]
META_2023 = [
    {"parent_asin": "B0", "main_category": "Books", "categories": ["Books", "Poetry"]},
    {"parent_asin": "B1", "main_category": "Books", "categories": []},
    {"parent_asin": "B2", "main_category": None, "categories": []},
    {"parent_asin": "B3"},
    {"asin": "B4", "main_category": "Books"},
]


@pytest.mark.parametrize(
    ("year", "reviews", "meta", "problem"),
    [
        (2018, REVIEWS, META_2018, "got 'str' - at '$.category'"),
        (
            2023,
            [review_2023(f"u{n}", f"B{(n + t) % 7}", 1_600_000_000_123 + t)
             for n in range(4) for t in range(5)],
            META_2023,
            "missing required field 'parent_asin'",
        ),
    ],
)  # fmt: skip
def test_later_years_have_json_products_with_one_path(tmp_path, year, reviews, meta, problem):
    dataset, summary = make(tmp_path, reviews, map(json.dumps, meta), year=year, max_bad_share=0.2)
    assert events_of(dataset)["u0"] == ["B0", "B1", "B2", "B3", "B4"]
    found = values_of(dataset, "items", "category")
    assert (found["B0"], found["B1"]) == ("Poetry", "Books")
    assert {found[item] for item in ("B2", "B3", "B4", "B5")} == {"default_cat"}
    (shown,) = [line for line in summary if f"{tmp_path}/log/meta:5: " in line]
    assert problem in shown
    assert dataset.meta["source"]["year"] == year
    unit = "milliseconds" if year == 2023 else "seconds"
    assert any(unit in line for line in summary)


@pytest.mark.parametrize(
    ("name", "year", "category"),
    [("books", 2014, "Books"), ("AMAZON_FASHION", 2018, "AMAZON_FASHION")],
)
def test_a_category_has_the_name_that_is_in_its_addresses(name, year, category):
    reviews, meta = remote_files(name, year)
    assert reviews.url == SETS[year].reviews.format(category)
    assert meta.url == SETS[year].meta.format(category)
    assert reviews.folder == meta.folder == f"amazon/{year}"


@pytest.mark.parametrize(
    ("given", "match"),
    [
        ({}, "give --name CATEGORY to download, or both --reviews and --meta"),
        ({"reviews": Path("r")}, "or both --reviews and --meta"),
        ({"name": "Toys & Games"}, r"such as Toys_and_Games, got 'Toys & Games'"),
        ({"name": "../x"}, r"--name: expected a category of https://.*, got '\.\./x'"),
        ({"name": "books", "meta": Path("m")}, "--name and --reviews with --meta exclude each"),
    ],
)
def test_files_are_either_downloaded_or_named(tmp_path, given, match):
    with pytest.raises(UserError, match=match):
        AmazonOptions(out=tmp_path, **given)
