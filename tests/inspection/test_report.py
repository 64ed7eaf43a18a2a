"""The report on a run: one self-contained page with the right numbers."""

import base64
import json
import re
import shutil
import sys
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from support import tiny_run, untrained_run
from support.json_files import edit_json
from support.long_example import long_example

from dien_jax import report
from dien_jax.inspection.example_view import example_lines
from dien_jax.inspection.report import article, write_report
from dien_jax.metrics.scores import example_losses
from dien_jax.runs.folder import CONFIG_FILE, METRICS_FILE, RESULT_FILE
from dien_jax.runs.trained import load_run, score_split
from dien_jax.utils.files import write_json

pytestmark = pytest.mark.long

SCRIPT = "<script>alert('i')</script>&\"quote\""
VOID = {"meta", "img", "source"}


class Page(HTMLParser):
    """Elements with their attributes, texts, and whether every element is closed."""

    def __init__(self, content: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict]] = []
        self.text: list[str] = []
        self.open: list[str] = []
        self.feed(content)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)

    def all(self, tag: str) -> list[dict]:
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    data = tiny_run.write_data(folder / "data")
    items = (data / "vocab" / "item.txt").read_text().split("\n")
    items[2], items[5] = SCRIPT, f"{SCRIPT} 2"  # a vocabulary has a value once
    (data / "vocab" / "item.txt").write_text("\n".join(items))
    edit_json(data / "meta.json", "split", value={"negative_distribution": "popularity"})
    run = untrained_run.write(folder / "run", data, model="din", buckets=())
    metrics = {"auc": 0.75, "gauc": None, "logloss": 0.5, "examples": 24}
    records = [
        {
            "step": step,
            "epoch": step / 4,
            "part": "network",
            "train": {"loss": 1 / step},
            "valid": metrics,
        }
        for step in (1, 2)
    ]
    (run / METRICS_FILE).write_text("".join(f"{json.dumps(record)}\n" for record in records))
    result = {"best_step": 1, "valid": metrics, "test": metrics, "train_examples_per_second": 9.0}
    result["baselines"] = {"counts alone": 0.7312, "popularity": None}
    result["lists"] = {"targets": 900, "hr_10": 0.2, "ndcg_10": 0.1, "hr_10_interval": [0.1, 0.3]}
    result["lists"] |= dict.fromkeys(("mrr", "coverage", "mean_popularity"))
    result["lists"] |= {"hr_10_popularity": 0.05}
    write_json(run / RESULT_FILE, result)
    return run


@pytest.fixture(scope="module")
def content(run) -> str:
    file = write_report(run)
    assert file == run / "report.html"
    return file.read_text()


def test_page_is_complete_and_self_contained(content):
    page = Page(content)
    assert page.open == []
    for tag, attributes in page.elements:
        assert tag not in ("script", "link", "iframe", "object")
        for name in ("src", "srcset", "href"):
            assert attributes.get(name, "#").startswith(("data:", "#"))
    assert not re.search(r"https?://|@import|url\(", re.sub(r"base64,[^']*", "", content))
    [policy] = [meta for meta in page.all("meta") if "http-equiv" in meta]
    assert "default-src 'none'" in policy["content"]
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert [link["href"] for link in page.all("a")] == [f"#{name}" for name in ids]


def test_ids_are_escaped(content):
    assert "<script" not in content
    assert SCRIPT in "\n".join(Page(content).text)


def test_the_figure_has_a_description(content):
    pytest.importorskip("matplotlib")
    [image] = Page(content).all("img")
    assert len(image["alt"]) > 40
    drawn = base64.b64decode(image["src"].partition("base64,")[2])
    assert ET.fromstring(drawn).tag.endswith("svg")


def test_without_matplotlib_the_page_says_so(run, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    page = Page(write_report(run, out=tmp_path / "page.html").read_text())
    assert "matplotlib is not installed" in " ".join(page.text)
    assert not page.all("img")


def test_numbers_are_those_of_the_run(run, content):
    trained = load_run(run)
    scores = score_split(trained, "valid").scores
    labels = np.asarray(trained.dataset.splits["valid"].label)
    text = " ".join(Page(content).text)
    assert f"click probability is {scores.mean():.4f}, and {labels.mean():.4f}" in text
    worst = int(np.argmax(np.where(labels == 0, scores, -1)))
    loss = example_losses(labels[[worst]], scores[[worst]])[0]
    users = trained.dataset.groups()
    first = text.partition("Not clicked, at the highest probabilities")[2]
    assert first.index(f" {users[trained.dataset.splits['valid'].group[worst]]} ") < 200
    assert f"{scores[worst]:.4f}" in first[:300]
    assert f"{loss:.3f}" in first[:300]
    assert f"--split valid --example {worst}" in first
    assert "train.epochs" in text
    assert "counts alone 0.7312" in text
    assert (
        "HR@10 0.200 (0.100 to 0.300), NDCG@10 0.100; of the most popular items HR@10 0.05" in text
    )
    assert "Popularity alone may have an AUC below .5: negatives were drawn by popularity" in text


def test_unfinished_run_without_attention(tmp_path, capfd):
    data = tiny_run.write_data(tmp_path / "data", test=1)
    run = untrained_run.write(tmp_path / "run", data, model="wide_deep", buckets=())
    edit_json(run / CONFIG_FILE, "preset", value="any name of a run in Python")
    out = tmp_path / "page.html"
    assert report.main([str(run), "--split", "test", "--out", str(out)]) == 0
    assert capfd.readouterr().out == f"{out}\n"
    text = " ".join(Page(out.read_text()).text)
    assert "test split of" in text
    assert "The run is unfinished" in text
    assert "There is no evaluation yet" in text
    assert "wide_deep has no attention" in text
    assert "value of preset wide_dien, if different" in text
    assert "undefined" in text  # AUC of one label


def test_split_without_examples_is_refused(run, tmp_path, capfd):
    known = load_run(run).run.data
    sizes = {"train": tiny_run.SIZES["train"]}  # the same rows
    data = tiny_run.write_data(tmp_path / "data", sizes=sizes)
    shutil.copytree(f"{known}/vocab", data / "vocab", dirs_exist_ok=True)
    out = tmp_path / "page.html"
    assert report.main([str(run), "--data", str(data), "--out", str(out)]) == 2
    assert "has no valid examples to score" in capfd.readouterr().err
    assert not out.exists()


def test_an_example_is_shown_as_in_a_terminal():
    example = long_example(100)
    text = "".join(Page(article(example, "category", "look")).text)
    assert "\n".join(example_lines(example, "category", "utf-8")[1:]) in text
