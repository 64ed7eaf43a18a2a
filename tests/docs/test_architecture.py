"""Pages name files and addresses that exist, pictures show the contract, and other lists."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import dien_jax
from dien_jax.__main__ import commands
from dien_jax.preparation.sources import alimama, movielens, taobao
from dien_jax.preparation.sources.amazon import SETS

pytestmark = [pytest.mark.fast, pytest.mark.repository]

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(("page", "least"), [("architecture.md", 50), ("promises.md", 20)])
def test_every_path_on_the_page_exists(page: str, least: int) -> None:
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    paths = re.findall(r"`([\w.-]+/[\w./-]*|\w+\.py)`", text)
    assert len(paths) > least
    places = (ROOT, ROOT / "dien_jax", ROOT / "kernels/dien_kernels")
    missing = [path for path in paths if not any((place / path).exists() for place in places)]
    assert not missing


@pytest.mark.parametrize("script", ["draw_architecture.py", "draw_model.py", "tables.py"])
def test_pictures_and_figures_are_as_their_sources(script: str) -> None:
    command = [sys.executable, str(ROOT / "docs/tools" / script), "--check"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_layer_and_every_command_has_a_page_of_the_site() -> None:
    layers = {path.parent.name for path in (ROOT / "dien_jax").glob("*/__init__.py")}
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    assert set(re.findall(r"api/(\w+)\.md", navigation)) == layers | {"index", "dien_kernels"}
    assert set(re.findall(r"commands/(\w+)\.md", navigation)) == {"index", *commands()}


def test_every_name_of_the_package_is_on_the_first_page_of_the_api_reference() -> None:
    page = (ROOT / "docs/api/index.md").read_text(encoding="utf-8")
    assert set(dien_jax.__all__) - set(re.findall(r"`(\w+)`", page)) == {"__version__"}


def test_the_citation_and_the_changelog_are_of_this_version() -> None:
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"\nversion: {dien_jax.__version__}\n" in citation
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    released = rf"^## {re.escape(dien_jax.__version__)} - "
    heading = r"^## Unreleased$" if ".dev" in dien_jax.__version__ else released
    assert re.search(heading, changelog, re.MULTILINE)


def test_the_page_on_data_has_every_address_of_the_code() -> None:
    text = (ROOT / "docs/data.md").read_text()
    addresses = [
        published.reviews.partition("{}")[0].rsplit("/", 2)[0] for published in SETS.values()
    ]
    for address in [*addresses, movielens.FOLDER, alimama.PAGE, taobao.PAGE]:
        assert address in text
    for published in SETS.values():
        assert published.terms.rpartition(" ")[2] in text
