"""Addresses and categories of the raw Amazon reviews of three years.

Each address was read in public material on 2026-11-25. None has been tried yet:

- 2014: http://snap.stanford.edu/data/amazon/productGraph/categoryFiles/reviews_Electronics.json.gz
  and meta_Electronics.json.gz, in prepare_data.sh of mouna99/dien@0328f8c, the program of DIEN's
  authors. Categories: the table in amazon/index.html of nijianmo/nijianmo.github.io@0702667.
- 2018: https://mcauleylab.ucsd.edu/public_datasets/data/amazon_v2/, in issue 542 of
  aws-samples/amazon-bedrock-samples (2025-03-30), whose author found the files gone from
  jmcauley.ucsd.edu and was led here by https://cseweb.ucsd.edu/~jmcauley/datasets.html. Folders:
  RecExplainer/README.md of microsoft/RecAI@3062cd4. Categories: the same page of nijianmo.
- 2023: https://mcauleylab.ucsd.edu/public_datasets/data/amazon_2023/, in issue 2 of YRYangang/RRec
  (2025-06-09). Folders and categories: _sources/main.md.txt of
  amazon-reviews-2023/amazon-reviews-2023.github.io@7a5bf29, which has the server before that one.
"""

import re
from typing import Literal, NamedTuple

from dien_jax.errors import UserError, suggestion
from dien_jax.preparation.reading.download import Remote

Year = Literal[2014, 2018, 2023]


class AmazonSet(NamedTuple):
    """The reviews of one year."""

    reviews: str  # address of a category's reviews
    meta: str  # address of a category's products
    page: str  # web page on which people find both
    terms: str
    categories: tuple[str, ...]  # as the addresses name them


_SNAP = "https://snap.stanford.edu/data/amazon/productGraph/categoryFiles"
_MCAULEY_LAB = "https://mcauleylab.ucsd.edu/public_datasets/data"
_ALL_YEARS = """Automotive Books CDs_and_Vinyl Cell_Phones_and_Accessories
Clothing_Shoes_and_Jewelry Digital_Music Electronics Grocery_and_Gourmet_Food Home_and_Kitchen
Kindle_Store Movies_and_TV Musical_Instruments Office_Products Patio_Lawn_and_Garden Pet_Supplies
Sports_and_Outdoors Tools_and_Home_Improvement Toys_and_Games Video_Games
"""
_SINCE_2018 = """All_Beauty Appliances Arts_Crafts_and_Sewing Gift_Cards Industrial_and_Scientific
Magazine_Subscriptions Software
"""
_ONLY_2014 = "Amazon_Instant_Video Apps_for_Android Baby Beauty Health_and_Personal_Care"
_ONLY_2018 = "AMAZON_FASHION Luxury_Beauty Prime_Pantry"
_ONLY_2023 = """Amazon_Fashion Baby_Products Beauty_and_Personal_Care Handmade_Products
Health_and_Household Health_and_Personal_Care Subscription_Boxes Unknown
"""

SETS: dict[Year, AmazonSet] = {
    2014: AmazonSet(
        reviews=_SNAP + "/reviews_{}.json.gz",
        meta=_SNAP + "/meta_{}.json.gz",
        page="https://cseweb.ucsd.edu/~jmcauley/datasets/amazon/links.html",
        terms="Amazon reviews of 1996 to 2014 by J. McAuley, UCSD, for research; the papers that "
        "the page names are to be cited: "
        "https://cseweb.ucsd.edu/~jmcauley/datasets/amazon/links.html",
        categories=tuple((_ALL_YEARS + _ONLY_2014).split()),
    ),
    2018: AmazonSet(
        reviews=_MCAULEY_LAB + "/amazon_v2/categoryFiles/{}.json.gz",
        meta=_MCAULEY_LAB + "/amazon_v2/metaFiles2/meta_{}.json.gz",
        page="https://cseweb.ucsd.edu/~jmcauley/datasets/amazon_v2/",
        terms="Amazon reviews of 1996 to 2018 by J. Ni and J. McAuley, UCSD, for research; no "
        "licence is named, the paper is to be cited, and users are asked to fill in a form: "
        "https://nijianmo.github.io/amazon/",
        categories=tuple((_ALL_YEARS + _SINCE_2018 + _ONLY_2018).split()),
    ),
    2023: AmazonSet(
        reviews=_MCAULEY_LAB + "/amazon_2023/raw/review_categories/{}.jsonl.gz",
        meta=_MCAULEY_LAB + "/amazon_2023/raw/meta_categories/meta_{}.jsonl.gz",
        page="https://amazon-reviews-2023.github.io/",
        terms="Amazon reviews of 1996 to 2023 by the McAuley Lab, UCSD, meant for research; the "
        "lab assigns no licence, and the paper is to be cited: "
        "https://amazon-reviews-2023.github.io/",
        categories=tuple((_ALL_YEARS + _SINCE_2018 + _ONLY_2023).split()),
    ),
}


def find_category(name: str, year: Year) -> str:
    """Return the category as its files name it; case, spaces and punctuation do not matter.

    An unknown one is a ``UserError`` that names the nearest one and lists all.
    """
    known = {_plain(category): category for category in SETS[year].categories}
    plain = _plain(name)
    if plain not in known:
        listed = f"{suggestion(plain, known)} (categories: {', '.join(sorted(known))})"
        raise UserError(f"--name {name}: the reviews of {year} have no such category{listed}")
    return known[plain]


def remote_files(name: str, year: Year) -> tuple[Remote, Remote]:
    """Return the published reviews and products of a category."""
    category, (reviews, meta, page, terms, _) = find_category(name, year), SETS[year]
    shared = (f"amazon/{year}", terms, page, "--reviews and --meta")
    return Remote(reviews.format(category), *shared), Remote(meta.format(category), *shared)


def _plain(name: str) -> str:
    """Return a name without case and punctuation: ``Toys & Games`` is ``toys_and_games``."""
    return re.sub(r"[^a-z0-9]+", "_", name.lower().replace("&", " and ")).strip("_")
