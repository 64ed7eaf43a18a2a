"""The code in the documentation runs, block after block, as a reader would paste it."""

import re
from pathlib import Path
from unittest import mock

import jax
import pytest

from dien_jax.model import EVOLUTIONS
from dien_jax.preparation.sources import alimama, movielens, taobao
from dien_jax.preparation.sources.amazon import SETS

pytestmark = [pytest.mark.long, pytest.mark.repository]

ROOT = Path(__file__).parents[2]
PAGES = [
    "docs/own-loop.md",
    "docs/ranking.md",
    "docs/recommending.md",
    "docs/tutorial.md",
    "kernels/README.md",
]


@pytest.mark.parametrize("page", PAGES)
def test_code_blocks_run(page: str) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)
    assert blocks
    namespace: dict = {"__name__": page}
    with (
        jax.numpy_dtype_promotion("standard"),  # this and the next are the defaults of JAX
        jax.numpy_rank_promotion("allow"),
        mock.patch.dict(EVOLUTIONS),  # an entry that a page adds is gone for the tests after it
    ):
        for number, block in enumerate(blocks):
            exec(compile(block, f"{page}[{number}]", "exec"), namespace)


def test_the_page_on_data_has_every_address_of_the_code() -> None:
    text = (ROOT / "docs/data.md").read_text()
    addresses = [
        published.reviews.partition("{}")[0].rsplit("/", 2)[0] for published in SETS.values()
    ]
    for address in [*addresses, movielens.FOLDER, alimama.PAGE, taobao.PAGE]:
        assert address in text
    for published in SETS.values():
        assert published.terms.rpartition(" ")[2] in text
